//! Reads tables with one row per step, or with one row per trajectory, from one file or several.
//!
//! Rows are read in batches through all files, in order. A trajectory with a row per step may span
//! batches, row groups and files.

mod convert;
mod cut;
mod episodes;
mod files;
mod layout;
mod pending;
mod roles;
mod rows;
mod values;
mod widths;

use std::path::{Path, PathBuf};

use arrow::datatypes::{Schema, SchemaRef};

use self::convert::Table;
use self::cut::Cutter;
use self::episodes::Episodes;
use self::layout::Layout;
use self::roles::Roles;
use self::rows::FileRows;
use self::widths::widths;
use super::{Choice, IncomingTrajectory, Options, Source, no_effect};
use crate::container::record_batches::TableFile;
use crate::dataset::Account;
use crate::dataset::schema::{self, type_name};
use crate::error::{Error, Result};

pub(crate) use self::files::{is_text_table, text_files};
pub(crate) use self::values::{flags, vector};

/// The names of the options that a reader of tables takes.
pub(crate) const OPTIONS: &[&str] = &["map", "trajectory", "step", "max_steps", "split_on_gaps"];

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
    let columns: Vec<String> = table
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
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
    let layout = Layout::find(&kind, &files, &table, &roles, options)
        .map_err(|error| error.at(path.display()))?;
    if let Some(layout) = layout {
        episodes::refuse(path, options.max_steps.map(|_| "--max-steps"))?;
        let episodes = Episodes::new(files, kind, layout, columns, choice);
        return Ok(Box::new(
            episodes.map_err(|error| error.at(path.display()))?,
        ));
    }
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
    let widths = widths(&kind, &files, &table, &roles)?;
    let width = |name: &str| {
        widths
            .iter()
            .find(|(column, _)| column == name)
            .and_then(|(_, width)| *width)
    };
    verify_options(&roles, options).map_err(|error| error.at(path.display()))?;
    let table = Table::new(&table, roles, width).map_err(|error| error.at(path.display()))?;
    let batch_rows = (BATCH_BYTES / schema::row_bytes(&table.schema)).clamp(16, 8192);
    Ok(Box::new(TableSource {
        cutter: Cutter::new(table, options.max_steps, options.split_on_gaps),
        rows: FileRows::new(files, kind, batch_rows, columns),
        total: rows,
        choice,
        resumable: false,
    }))
}

/// Verifies that every option has an effect.
///
/// # Errors
/// Returns an error that names an option without one.
fn verify_options(roles: &Roles, options: &Options) -> Result<()> {
    let ends = roles.trajectory.as_ref().or(roles.truncated.as_ref());
    if let Some(ends) = ends.filter(|_| options.max_steps.is_some()) {
        let reason = format!("column `{ends}` tells where trajectories end");
        return Err(no_effect("max_steps", &reason));
    }
    if options.split_on_gaps && roles.next_observation.is_none() {
        let reason = "there is no column of next observations, such as `next_observation`";
        return Err(no_effect("split_on_gaps", reason));
    }
    Ok(())
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

/// A table of steps in one file or several.
struct TableSource {
    cutter: Cutter,
    rows: FileRows,
    total: Option<u64>,
    choice: Choice,
    /// Whether the last error affects one trajectory only, so that the next one can be read.
    resumable: bool,
}

impl Source for TableSource {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(self.cutter.schema())
    }

    fn rows(&self) -> Option<u64> {
        self.total
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
            match self.rows.next()? {
                Some((batch, path, first)) => self.cutter.add(&batch, &|row| {
                    format!("row {} of {}", first + row, path.display())
                })?,
                None if self.cutter.has_pending() => self.cutter.finish()?,
                None => return Ok(None),
            }
        }
    }
}
