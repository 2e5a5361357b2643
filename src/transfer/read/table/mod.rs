//! Tables with a row a step, in one file or several.
//!
//! Rows are read in batches through all files in order; a trajectory may span batches, row groups and files.

mod convert;
mod cut;
mod roles;
mod values;
mod widths;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value};

use self::convert::Table;
use self::cut::Cutter;
use self::roles::Roles;
use self::widths::widths;
use super::{IncomingTrajectory, Options, Source};
use crate::container::record_batches::{Batches, TableFile, damaged};
use crate::dataset::schema;
use crate::error::{Error, Result};

pub(crate) use self::values::{flags, vector};

/// The options of reading that mean something to tables.
pub(crate) const TAKES: &[&str] = &["map", "trajectory", "step", "max_steps"];

/// Bytes of steps that a batch aims at.
const BATCH_BYTES: usize = 8 << 20;

/// Opens tables of steps in `files`, which `path` names.
///
/// # Errors
/// Where they cannot be read, do not fit one another or do not say where trajectories end.
pub(crate) fn tables(
    path: &Path,
    files: Vec<PathBuf>,
    kind: TableFile,
    options: &Options,
) -> Result<Box<dyn Source>> {
    let Some(first) = files.first() else {
        return Err(Error::failed(format!(
            "{} holds no Parquet file",
            path.display()
        )));
    };
    let (table, _) = kind.look(first)?;
    let mut rows = Some(0);
    for file in &files {
        let (own, count) = kind.look(file)?;
        rows = rows.zip(count).map(|(rows, count)| rows + count);
        for field in table.fields() {
            match own.field_with_name(field.name()) {
                Ok(own) if own.data_type() == field.data_type() => {}
                Ok(own) => {
                    let message = format!(
                        "{}: column `{}` is {} where {} has {}",
                        file.display(),
                        field.name(),
                        own.data_type(),
                        first.display(),
                        field.data_type()
                    );
                    return Err(Error::failed(message)
                        .hint("all files of a folder must have the same columns"));
                }
                Err(_) => {
                    let message = format!(
                        "{}: there is no column `{}`, which {} has",
                        file.display(),
                        field.name(),
                        first.display()
                    );
                    return Err(Error::failed(message)
                        .hint("all files of a folder must have the same columns"));
                }
            }
        }
    }
    if rows == Some(0) {
        return Err(Error::failed(format!("{} holds no rows", path.display()))
            .hint("there is nothing to import"));
    }
    let roles = Roles::find(&table, options).map_err(|error| error.at(path.display()))?;
    if roles.trajectory.is_none() && !roles.has_ends() && options.max_steps.is_none() {
        return Err(Error::failed(format!(
            "{}: no trajectory boundaries: there is neither a column of trajectory ids nor one of end flags",
            path.display()
        ))
        .hint("name one with --map trajectory_id=COLUMN, or --map terminated=COLUMN,truncated=COLUMN"));
    }
    let widths = widths(kind, &files, &table, &roles)?;
    let width = |name: &str| {
        widths
            .iter()
            .find(|(column, _)| column == name)
            .and_then(|(_, width)| *width)
    };
    let max_steps = options.max_steps.filter(|_| !roles.has_cuts());
    let table = Table::new(&table, roles, width).map_err(|error| error.at(path.display()))?;
    let batch_rows = (BATCH_BYTES / schema::row_bytes(&table.schema)).clamp(16, 8192);
    Ok(Box::new(TableSource {
        cutter: Cutter::new(table, max_steps),
        files: files.into(),
        kind,
        batch_rows,
        reader: None,
        rows,
        one: false,
    }))
}

/// Where a file that is being read is in its rows.
struct Open {
    path: PathBuf,
    batches: Batches,
    /// Rows read.
    row: usize,
}

/// Tables of steps in one file or several.
struct TableSource {
    cutter: Cutter,
    /// Files not yet opened.
    files: VecDeque<PathBuf>,
    kind: TableFile,
    batch_rows: usize,
    reader: Option<Open>,
    rows: Option<u64>,
    /// Whether the last error is of one trajectory, so that those behind it can be read.
    one: bool,
}

impl TableSource {
    /// The next batch of the table, and where it begins.
    fn batch(&mut self) -> Result<Option<(RecordBatch, PathBuf, usize)>> {
        loop {
            if self.reader.is_none() {
                let Some(path) = self.files.pop_front() else {
                    return Ok(None);
                };
                let batches = self.kind.batches(&path, self.batch_rows, None)?;
                self.reader = Some(Open {
                    path,
                    batches,
                    row: 0,
                });
            }
            if let Some(open) = &mut self.reader {
                match open.batches.next() {
                    Some(Ok(batch)) if batch.num_rows() == 0 => {}
                    Some(Ok(batch)) => {
                        let first = open.row;
                        open.row += batch.num_rows();
                        return Ok(Some((batch, open.path.clone(), first)));
                    }
                    Some(Err(error)) => return Err(damaged(&open.path, error)),
                    None => self.reader = None,
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

    fn metadata(&self) -> Map<String, Value> {
        Map::new()
    }

    fn lost(&self) -> Option<u64> {
        self.one.then_some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        loop {
            if let Some(ready) = self.cutter.next() {
                self.one = ready.is_err();
                return ready.map(Some);
            }
            self.one = false;
            match self.batch()? {
                Some((batch, path, first)) => self.cutter.split(&batch, &|row| {
                    format!("row {} of {}", first + row, path.display())
                })?,
                None if self.cutter.has_pending() => self.cutter.finish()?,
                None => return Ok(None),
            }
        }
    }
}
