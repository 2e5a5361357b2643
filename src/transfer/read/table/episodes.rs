//! Reads tables with one row per trajectory, whose columns are lists of its steps.
//!
//! A row becomes a table of its steps, which is converted like the rows of a table with one row per
//! step. If there is one observation more than actions, the last is the final observation. Values
//! that are no lists of steps are facts about the trajectory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::compute::{cast, concat, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::convert::{Flags, Table};
use super::cut::hash;
use super::layout::{BATCH_ROWS, Layout};
use super::rows::FileRows;
use super::values::flags;
use crate::container::table::FileTable;
use crate::dataset::Account;
use crate::dataset::account::LeftOut;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::transfer::read::{IncomingTrajectory, Source, gaps};

/// A table with one row per trajectory.
pub(super) struct Episodes {
    rows: FileRows,
    layout: Layout,
    table: Table,
    about: SchemaRef,
    /// The batch that is being read, its file, its first row in the file, and the next row.
    batch: Option<(RecordBatch, PathBuf, usize, usize)>,
    /// The number of trajectories so far.
    count: u64,
    /// The hashes of all trajectory ids so far.
    seen: HashSet<[u8; 16]>,
    total: Option<u64>,
    /// The columns and files that are not read.
    left_out: Vec<LeftOut>,
    resumable: bool,
}

impl Episodes {
    /// Reads `files`, whose columns `layout` describes. `left_out` are the columns and files that
    /// are not read.
    ///
    /// # Errors
    /// Returns an error if the type of a column does not suit its meaning.
    pub(super) fn new(
        files: Arc<FileTable>,
        layout: Layout,
        left_out: Vec<LeftOut>,
    ) -> Result<Episodes> {
        let table = layout.table()?;
        let about = layout.facts.iter().map(|fact| {
            let data_type = match is_plain(fact.data_type()) {
                true => fact.data_type().clone(),
                false => DataType::Utf8,
            };
            Field::new(layout.fact_name(fact.name()), data_type, true)
        });
        Ok(Episodes {
            about: Arc::new(Schema::new(about.collect::<Vec<_>>())),
            rows: FileRows::new(files, BATCH_ROWS),
            total: layout.rows,
            left_out,
            layout,
            table,
            batch: None,
            count: 0,
            seen: HashSet::new(),
            resumable: false,
        })
    }

    /// Converts the row `row` of `batch`, the trajectory `key`.
    fn trajectory(
        &self,
        batch: &RecordBatch,
        row: usize,
        key: &str,
        place: &str,
    ) -> Result<IncomingTrajectory> {
        let lists = self.layout.lists(batch, row)?;
        let (steps, known_final) = self.layout.length(&lists)?;
        let rows = steps + usize::from(known_final);
        let columns = lists.iter().enumerate().map(|(index, list)| {
            let field = &self.layout.steps[index];
            let Some(values) = list else {
                return Ok(new_null_array(field.data_type(), rows));
            };
            // What belongs to an action has no value beside the final observation.
            let may_be_longer = !self.layout.counted.contains(&index);
            match values.len() {
                found if found == rows && (may_be_longer || rows == steps) => {
                    Ok(Arc::clone(values))
                }
                found if found == steps => Ok(concat(&[
                    values.as_ref(),
                    new_null_array(values.data_type(), 1).as_ref(),
                ])?),
                found => Err(self
                    .layout
                    .disagrees(field.name(), found, steps, known_final)),
            }
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let exploded = RecordBatch::try_new(Arc::clone(&self.layout.exploded), columns)?;
        let place = |step: usize| format!("step {step} of {place}");
        let flags = self.flags(batch, row, &exploded, known_final, steps, &place)?;
        let is_final = flags.is_final.last() == Some(&true);
        let mut converted = self.table.steps(&exploded, flags, &place)?;
        let next = self.table.following(&exploded, &place)?;
        if let Some(next) = &next {
            let (following, own) = self.table.observation_names();
            let narrow = self.table.narrow.as_ref();
            gaps::verify(converted.column(0), next, &own, &following, narrow)?;
        }
        let last = next.and_then(|next| Some(next.slice(rows.checked_sub(1)?, 1)));
        if let Some(last) = last.filter(|last| !is_final && last.is_valid(0)) {
            let final_row = self.table.final_row(&last)?;
            converted = concat_batches(&self.table.schema, [&converted, &final_row])?;
        }
        let about = match self.about.fields().is_empty() {
            true => None,
            false => Some(self.about(batch, row)?),
        };
        Ok(IncomingTrajectory {
            key: key.to_owned(),
            steps: converted,
            about,
        })
    }

    /// Returns the flags of the steps in `exploded`. A flag of the whole trajectory is that of its
    /// last step.
    fn flags(
        &self,
        batch: &RecordBatch,
        row: usize,
        exploded: &RecordBatch,
        known_final: bool,
        steps: usize,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Flags> {
        let rows = exploded.num_rows();
        let mut is_final = vec![false; rows];
        if known_final && let Some(last) = is_final.last_mut() {
            *last = true;
        }
        let mut found = match known_final {
            // The flags of the padded row are null.
            true => {
                let inner = self.table.flags(&exploded.slice(0, steps), place)?;
                let padded = |mut flags: Vec<bool>| {
                    flags.push(false);
                    flags
                };
                Flags {
                    terminated: padded(inner.terminated),
                    truncated: padded(inner.truncated),
                    is_final,
                }
            }
            false => self.table.flags(exploded, place)?,
        };
        let last = found
            .is_final
            .iter()
            .rposition(|is_final| !is_final)
            .unwrap_or(0);
        for (name, own) in [
            (&self.layout.terminated, &mut found.terminated),
            (&self.layout.truncated, &mut found.truncated),
        ] {
            if let Some(name) = name {
                let column = batch.column_by_name(name).ok_or_else(|| missing(name))?;
                let flag = flags(name, &column.slice(row, 1), &[], &|_| place(last))?;
                if let (Some(own), Some(flag)) = (own.get_mut(last), flag.first()) {
                    *own = *flag;
                }
            }
        }
        let ends = |step: &usize| found.terminated[*step] || found.truncated[*step];
        if let Some(step) = (0..last).find(ends) {
            return Err(Error::failed(format!(
                "a flag says that it ends at step {step}, but it has {}",
                count(last + 1, "step")
            ))
            .hint(
                "a row holds one trajectory, which ends with its last step: correct the flags, or \
                 write a row for each trajectory",
            ));
        }
        Ok(found)
    }

    /// Returns the facts about the trajectory in the row `row` of `batch`.
    fn about(&self, batch: &RecordBatch, row: usize) -> Result<RecordBatch> {
        let columns = self.layout.facts.iter().map(|fact| -> Result<ArrayRef> {
            let column = batch
                .column_by_name(fact.name())
                .ok_or_else(|| missing(fact.name()))?
                .slice(row, 1);
            if is_plain(fact.data_type()) {
                return Ok(column);
            }
            if let DataType::Dictionary(..) | DataType::Utf8View | DataType::LargeUtf8 =
                fact.data_type()
            {
                return Ok(cast(&column, &DataType::Utf8)?);
            }
            let text = match column.is_valid(0) {
                true => Some(as_text(&column)?),
                false => None,
            };
            Ok(Arc::new(StringArray::from(vec![text])))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.about), columns)?)
    }

    /// Returns the id of the trajectory in the row `row` of `batch`.
    fn key(&mut self, batch: &RecordBatch, row: usize) -> Result<String> {
        let Some(name) = &self.layout.id else {
            return Ok(self.count.to_string());
        };
        let column = batch.column_by_name(name).ok_or_else(|| missing(name))?;
        let column = match column.data_type() {
            DataType::Dictionary(_, values) => cast(&column.slice(row, 1), values)?,
            _ => column.slice(row, 1),
        };
        if column.is_null(0) {
            return Err(Error::failed(format!("column `{name}` is null"))
                .hint("give every trajectory an id, or none by removing the column"));
        }
        let options = FormatOptions::new();
        let key = ArrayFormatter::try_new(&column, &options)?
            .value(0)
            .to_string();
        if !self.seen.insert(hash(&key)) {
            return Err(
                Error::failed(format!("column `{name}` is `{key}`, as in an earlier row")).hint(
                    "each row holds a whole trajectory with an id of its own: correct the ids, or \
                 choose another column with `--trajectory COLUMN`",
                ),
            );
        }
        Ok(key)
    }
}

impl Source for Episodes {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        self.total
    }

    fn account(&self) -> Account {
        let mut account = self.table.account(true);
        self.layout.account(&mut account);
        account.left_out.extend(self.left_out.iter().cloned());
        account
    }

    fn lost(&self) -> Option<u64> {
        self.resumable.then_some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.resumable = false;
        let (batch, path, first, row) = loop {
            match &mut self.batch {
                Some((batch, path, first, next)) if *next < batch.num_rows() => {
                    let row = *next;
                    *next += 1;
                    break (batch.clone(), path.clone(), *first, row);
                }
                _ => match self.rows.next()? {
                    Some((batch, path, first)) => self.batch = Some((batch, path, first, 0)),
                    None => return Ok(None),
                },
            }
        };
        self.resumable = true;
        let place = format!("row {} of {}", first + row, path.display());
        let key = self.key(&batch, row).map_err(|error| error.at(&place));
        self.count += 1;
        let key = key?;
        self.trajectory(&batch, row, &key, &place)
            .map_err(|error| error.at(format!("trajectory `{key}` ({place})")))
            .map(Some)
    }
}

/// Returns the values of a fact about trajectories as a column of `trajectories` holds them: as
/// they are, or as text, which is JSON if they are lists or structs.
///
/// # Errors
/// Returns an error if a value cannot be written as text.
pub(crate) fn fact(values: &ArrayRef) -> Result<ArrayRef> {
    if is_plain(values.data_type()) {
        return Ok(ArrayRef::clone(values));
    }
    let texts = (0..values.len()).map(|row| match values.is_null(row) {
        true => Ok(None),
        false => as_text(&values.slice(row, 1)).map(Some),
    });
    let texts = texts.collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(StringArray::from(texts)))
}

/// Whether a column of `trajectories` holds values of this type as they are.
fn is_plain(data_type: &DataType) -> bool {
    data_type.is_numeric()
        && !matches!(
            data_type,
            DataType::Decimal128(..) | DataType::Decimal256(..)
        )
        || matches!(data_type, DataType::Boolean | DataType::Utf8)
}

/// Returns the only value of `column` as text: JSON if it is a list or a struct.
fn as_text(column: &ArrayRef) -> Result<String> {
    if !column.data_type().is_nested() {
        let options = FormatOptions::new();
        return Ok(ArrayFormatter::try_new(column, &options)?
            .value(0)
            .to_string());
    }
    let batch = RecordBatch::try_from_iter([("value", Arc::clone(column))])?;
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    let line: serde_json::Value = serde_json::from_slice(&writer.into_inner())
        .map_err(|error| Error::failed(error.to_string()))?;
    Ok(line["value"].to_string())
}

fn missing(name: &str) -> Error {
    Error::failed(format!("column `{name}` is missing"))
}

/// Verifies that `path` has rows that options about rows would change.
///
/// # Errors
/// Returns an error that names the option without an effect.
pub(super) fn refuse(path: &Path, option: Option<&str>) -> Result<()> {
    match option {
        None => Ok(()),
        Some(option) => Err(Error::usage(format!(
            "{}: `{option}` has no effect, because each row holds a whole trajectory",
            path.display()
        ))
        .hint(format!("leave `{option}` out"))),
    }
}
