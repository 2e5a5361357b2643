//! A trajectory of which more rows may follow.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::make_comparator;
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::row::OwnedRow;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::order::Numbers;
use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// The trajectory that is not complete yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) slices: Vec<RecordBatch>,
    pub(super) key: Option<String>,
    /// The environment of its rows, if a column seems to have it.
    pub(super) environment: Option<String>,
    /// The key and the text of the last step number.
    pub(super) last_step: Option<(OwnedRow, String)>,
    /// Whether its last row so far holds a final observation.
    pub(super) has_final: bool,
    /// The observation after its last row so far, if the source has it in a column.
    pub(super) next_observation: Option<ArrayRef>,
    /// The place of its last row so far.
    pub(super) last_place: String,
    /// Whether a flag marks its last row so far as its end.
    pub(super) ended: bool,
    /// The number of parts that were cut off at gaps before it.
    pub(super) parts: usize,
    /// The first gap in it, and the number of gaps.
    pub(super) gaps: Option<(Gap, usize)>,
    /// Whether an error was reported for it. Its other rows are skipped.
    pub(super) bad: bool,
}

/// A row whose next observation is not that of the row after it.
pub(super) struct Gap {
    pub(super) next: ArrayRef,
    pub(super) place: String,
    pub(super) following: ArrayRef,
    pub(super) following_place: String,
}

impl Pending {
    /// Verifies that `column`, which seems to have the environment of each step, has one value
    /// within `rows` and in the row before them.
    pub(super) fn verify_environment(
        &mut self,
        name: &str,
        column: &ArrayRef,
        rows: Range<usize>,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let options = FormatOptions::new();
        let texts = ArrayFormatter::try_new(column, &options)?;
        let compare = make_comparator(column, column, SortOptions::default())?;
        for row in rows.clone() {
            if row > rows.start && compare(row - 1, row).is_eq() {
                continue;
            }
            let text = texts.value(row).to_string();
            let before = self.environment.get_or_insert_with(|| text.clone());
            if *before != text {
                return Err(Error::failed(format!(
                    "column `{name}` changes from {before} to {text} at {}, but no flag marks an \
                     end in front of that row",
                    place(row)
                ))
                .hint(format!(
                    "if the rows interleave several environments, tell them apart with \
                     `--environment {name} --sort`; otherwise leave the column out with `--skip \
                     {name}`"
                )));
            }
        }
        Ok(())
    }

    /// Verifies that the step numbers increase within `rows`, and from the row before them.
    pub(super) fn verify_order(
        &mut self,
        numbers: &Numbers,
        rows: Range<usize>,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let name = &numbers.name;
        for row in rows.clone() {
            if let Some(what) = numbers.missing(row) {
                if !numbers.is_stated {
                    continue;
                }
                return Err(Error::failed(format!(
                    "column `{name}` is {what} at {}, so the place of the row in its trajectory is \
                     unknown",
                    place(row)
                ))
                .hint("drop the row, or give it the number of its step"));
            }
            let key = numbers.keys.row(row);
            let last = match &self.last_step {
                _ if row > rows.start => Some(numbers.keys.row(row - 1)),
                Some((last, _)) => Some(last.row()),
                None => None,
            };
            let is_next = |last| key > last || numbers.may_repeat && key == last;
            if last.is_none_or(is_next) {
                continue;
            }
            let text = numbers.text(row)?;
            let other = match numbers.is_stated {
                true => String::new(),
                false => format!("; if the column does not order steps, `--skip {name}`"),
            };
            if last == Some(key) {
                return Err(Error::failed(format!(
                    "column `{name}` is {text} at {}, as in the row before: each step of a \
                     trajectory needs a number of its own",
                    place(row)
                ))
                .hint(format!(
                    "drop one of the two rows, or choose another column with `--step COLUMN`; if \
                     the rows interleave several trajectories, name the column that \
                     tells them apart with `--trajectory` or `--environment`, and sort with \
                     `--sort`{other}"
                )));
            }
            let before = match &self.last_step {
                Some((_, before)) if row == rows.start => before.clone(),
                _ => numbers.text(row - 1)?,
            };
            return Err(Error::failed(format!(
                "column `{name}` is {text} at {}, after {before} in the row before: the rows of \
                 the trajectory are not in order",
                place(row)
            ))
            .hint(format!("{}{other}", numbers.remedy)));
        }
        if let Some(last) = rows.last() {
            self.last_step = Some((numbers.keys.row(last).owned(), numbers.text(last)?));
        }
        Ok(())
    }

    /// Verifies that no row follows a final observation, in the next rows, whose flags are
    /// `finals`.
    pub(super) fn verify_final(
        &mut self,
        finals: &[bool],
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let after = if self.has_final {
            Some(0)
        } else {
            (1..finals.len()).find(|row| finals[row - 1])
        };
        self.has_final = finals.last() == Some(&true);
        let Some(row) = after else { return Ok(()) };
        Err(Error::failed(format!(
            "it continues after its final observation, at {}",
            place(row)
        ))
        .hint(
            "`is_final` marks the observation after the last action: \
             set it on the last row of a trajectory only",
        ))
    }
}

/// Returns `steps` with `truncated` set on the last row, unless it is terminated.
pub(super) fn cut_off(steps: &RecordBatch) -> Result<RecordBatch> {
    let schema = steps.schema();
    let mut columns = steps.columns().to_vec();
    let flags = |name: &str| {
        steps
            .column_by_name(name)
            .and_then(|column| column.as_boolean_opt())
    };
    if let (Some(terminated), Some(truncated)) = (flags(step::TERMINATED), flags(step::TRUNCATED)) {
        let last = steps.num_rows().saturating_sub(1);
        let cut = (0..steps.num_rows())
            .map(|row| Some(truncated.value(row) || row == last && !terminated.value(row)));
        columns[schema.index_of(step::TRUNCATED)?] = Arc::new(BooleanArray::from_iter(cut));
    }
    Ok(RecordBatch::try_new(schema, columns)?)
}
