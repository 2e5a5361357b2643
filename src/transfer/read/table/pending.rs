//! A trajectory of which more rows may follow.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::Float64Type;

use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// The trajectory that is not complete yet.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) slices: Vec<RecordBatch>,
    pub(super) key: Option<String>,
    pub(super) last_step: Option<f64>,
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
    /// Verifies that the step numbers increase within `rows`, and from the row before them. Sets
    /// `counts` to false if they do not count from 0.
    pub(super) fn verify_order(
        &mut self,
        name: &str,
        numbers: &ArrayRef,
        rows: Range<usize>,
        place: &dyn Fn(usize) -> String,
        counts: &mut bool,
    ) -> Result<()> {
        let numbers = numbers.as_primitive::<Float64Type>();
        for row in rows {
            let number = if numbers.is_valid(row) {
                numbers.value(row)
            } else {
                f64::NAN
            };
            let increases = self.last_step.is_none_or(|last| number > last);
            if !increases || number.is_nan() {
                let before = self
                    .last_step
                    .map(|last| format!(", after {last} in the row before"))
                    .unwrap_or_default();
                return Err(Error::failed(format!(
                    "column `{name}` is {number} at {}{before}: \
                     step numbers must increase within a trajectory",
                    place(row)
                ))
                .hint("sort the source by trajectory and step"));
            }
            *counts &= number == self.last_step.map_or(0.0, |last| last + 1.0);
            self.last_step = Some(number);
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
