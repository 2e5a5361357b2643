//! Reads tables with one row per step, from one file or several.
//!
//! Rows are read in batches through all files, in order. A trajectory may span batches, row groups
//! and files.

mod convert;
mod cut;
mod roles;
mod values;
mod widths;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};

use self::convert::Table;
use self::cut::Cutter;
use self::roles::Roles;
use self::widths::widths;
use super::{Choice, IncomingTrajectory, Options, Source};
use crate::container::record_batches::{Batches, TableFile, damaged};
use crate::dataset::Account;
use crate::dataset::schema::{self, type_name};
use crate::error::{Error, Result};

pub(crate) use self::values::{flags, vector};

/// The names of the options that a reader of tables takes.
pub(crate) const OPTIONS: &[&str] = &["map", "trajectory", "step", "max_steps"];

/// The target size of a batch of steps, in bytes.
const BATCH_BYTES: usize = 8 << 20;

/// Opens `files`, all files of the source `path`, as one table of steps.
///
/// # Errors
/// Returns an error if a file cannot be read, if the columns of the files differ, or if no column
/// shows where trajectories end.
pub(crate) fn open(
    path: &Path,
    files: Vec<PathBuf>,
    kind: TableFile,
    options: &Options,
) -> Result<Box<dyn Source>> {
    let Some(first) = files.first() else {
        return Err(
            Error::failed(format!("there is no Parquet file in {}", path.display())).hint(
                "files are found by the extensions parquet, parq and pq; \
             names that begin with `.` or `_` are ignored",
            ),
        );
    };
    let (table, _) = kind.look(first)?;
    let choice = Choice::new(options, roles::is_marker);
    let columns = table.fields().iter().enumerate();
    let columns: Vec<usize> = columns
        .filter(|(_, field)| choice.reads(field.name()))
        .map(|(at, _)| at)
        .collect();
    let table = SchemaRef::new(table.project(&columns)?);
    choice.verify().map_err(|error| error.at(path.display()))?;
    let mut rows = Some(0);
    for file in &files {
        let (columns, count) = kind.look(file)?;
        rows = rows.zip(count).map(|(rows, count)| rows + count);
        same_columns(&table, first, &columns, file)?;
    }
    if rows == Some(0) {
        return Err(Error::failed(format!("{} holds no rows", path.display()))
            .hint("there is nothing to import"));
    }
    let roles = Roles::find(&table, options).map_err(|error| error.at(path.display()))?;
    if roles.trajectory.is_none() && !roles.has_ends() && options.max_steps.is_none() {
        return Err(Error::failed(format!(
            "{}: no trajectory boundaries: there is neither a column of trajectory ids nor a \
             column of end flags",
            path.display()
        ))
        .hint(
            "choose columns with `--map trajectory_id=COLUMN` or \
             `--map terminated=COLUMN,truncated=COLUMN`",
        ));
    }
    let widths = widths(kind, &files, &table, &roles)?;
    let width = |name: &str| {
        widths
            .iter()
            .find(|(column, _)| column == name)
            .and_then(|(_, width)| *width)
    };
    let max_steps = options.max_steps.filter(|_| !roles.has_cuts());
    let source = table;
    let table = Table::new(&source, roles, width).map_err(|error| error.at(path.display()))?;
    let columns = source.fields().iter().map(|field| field.name().clone());
    let columns = columns.collect();
    let batch_rows = (BATCH_BYTES / schema::row_bytes(&table.schema)).clamp(16, 8192);
    Ok(Box::new(TableSource {
        cutter: Cutter::new(table, max_steps),
        files: files.into(),
        kind,
        columns,
        choice,
        batch_rows,
        open: None,
        rows,
        resumable: false,
    }))
}

/// Verifies that the table in `file` has every column of the table in the file `first`.
///
/// # Errors
/// Returns an error if a column is missing or has another type.
fn same_columns(table: &Schema, first: &Path, columns: &Schema, file: &Path) -> Result<()> {
    for field in table.fields() {
        let message = match columns.field_with_name(field.name()) {
            Ok(found) if found.data_type() == field.data_type() => continue,
            Ok(found) => format!(
                "{}: column `{}` is {}, but in {} it is {}",
                file.display(),
                field.name(),
                type_name(found.data_type()),
                first.display(),
                type_name(field.data_type())
            ),
            Err(_) => format!(
                "{}: there is no column `{}`, which {} has",
                file.display(),
                field.name(),
                first.display()
            ),
        };
        return Err(Error::failed(message).hint("all files of a folder must have the same columns"));
    }
    Ok(())
}

/// A file that is being read.
struct OpenFile {
    path: PathBuf,
    batches: Batches,
    /// The number of rows that were read.
    row: usize,
}

/// A table of steps in one file or several.
struct TableSource {
    cutter: Cutter,
    /// The files that are not opened yet.
    files: VecDeque<PathBuf>,
    kind: TableFile,
    /// The columns that are read.
    columns: Vec<String>,
    choice: Choice,
    batch_rows: usize,
    open: Option<OpenFile>,
    rows: Option<u64>,
    /// Whether the last error affects one trajectory only, so that the next one can be read.
    resumable: bool,
}

impl TableSource {
    /// Returns the next batch of the table, its file, and its first row in the file; `None` after
    /// the last.
    fn batch(&mut self) -> Result<Option<(RecordBatch, PathBuf, usize)>> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.files.pop_front() else {
                    return Ok(None);
                };
                let batches = self
                    .kind
                    .batches(&path, self.batch_rows, Some(&self.columns))?;
                self.open = Some(OpenFile {
                    path,
                    batches,
                    row: 0,
                });
            }
            if let Some(open) = &mut self.open {
                match open.batches.next() {
                    Some(Ok(batch)) if batch.num_rows() == 0 => {}
                    Some(Ok(batch)) => {
                        let first = open.row;
                        open.row += batch.num_rows();
                        return Ok(Some((batch, open.path.clone(), first)));
                    }
                    Some(Err(error)) => return Err(damaged(&open.path, error)),
                    None => self.open = None,
                }
            }
        }
    }
}

impl Source for TableSource {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(self.cutter.schema())
    }

    fn rows(&self) -> Option<u64> {
        self.rows
    }

    fn account(&self) -> Account {
        self.choice.account(self.cutter.account())
    }

    fn lost(&self) -> Option<u64> {
        self.resumable.then_some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        loop {
            if let Some(ready) = self.cutter.next() {
                self.resumable = ready.is_err();
                return ready.map(Some);
            }
            self.resumable = false;
            match self.batch()? {
                Some((batch, path, first)) => self.cutter.add(&batch, &|row| {
                    format!("row {} of {}", first + row, path.display())
                })?,
                None if self.cutter.has_pending() => self.cutter.finish()?,
                None => return Ok(None),
            }
        }
    }
}
