//! The two kinds of files that hold tables of steps: Parquet and Arrow IPC, read in batches.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{Error, Result};
use crate::format::arrow as ipc;

/// Which kind of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::format) enum Kind {
    Parquet,
    Arrow,
}

/// Batches of a file, in order.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

/// Places of the columns whose rows hold anything: vectors of no values are left out, which Parquet's decoder takes for damage.
fn holding(schema: &Schema) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields
        .filter(|(_, field)| !matches!(field.data_type(), DataType::FixedSizeList(_, 0)))
        .map(|(place, _)| place)
        .collect()
}

impl Kind {
    /// Columns of the file at `path` whose rows hold anything, and how many rows it has, where that can be told without reading them.
    pub(super) fn look(self, path: &Path) -> Result<(SchemaRef, Option<u64>)> {
        let (schema, rows) = match self {
            Kind::Parquet => {
                let builder = open(path)?;
                let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
                (SchemaRef::clone(builder.schema()), Some(rows))
            }
            Kind::Arrow => {
                let reader = ipc::open(path, None)?;
                (
                    reader.schema(),
                    if reader.num_batches() == 0 {
                        Some(0)
                    } else {
                        None
                    },
                )
            }
        };
        Ok((SchemaRef::new(schema.project(&holding(&schema))?), rows))
    }

    /// The batches of the file at `path`: of about `rows` rows, where the file does not have batches of its own; of the
    /// columns named, all that hold anything where `None`.
    pub(super) fn batches(
        self,
        path: &Path,
        rows: usize,
        columns: Option<&[String]>,
    ) -> Result<Batches> {
        let index = |schema: &SchemaRef| -> Result<Vec<usize>> {
            let Some(columns) = columns else {
                return Ok(holding(schema));
            };
            let mut found = columns
                .iter()
                .map(|name| schema.index_of(name))
                .collect::<Result<Vec<_>, _>>()?;
            found.sort_unstable();
            Ok(found)
        };
        match self {
            Kind::Parquet => {
                let builder = open(path)?.with_batch_size(rows);
                let roots = index(&SchemaRef::clone(builder.schema()))?;
                let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
                let builder = builder.with_projection(mask);
                Ok(Box::new(
                    builder.build().map_err(|error| damaged(path, error))?,
                ))
            }
            Kind::Arrow => {
                let columns = index(&ipc::open(path, None)?.schema())?;
                Ok(Box::new(ipc::open(path, Some(columns))?))
            }
        }
    }
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path)
        .map_err(|error| Error::failed(format!("cannot open {}: {error}", path.display())))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| {
        Error::failed(format!(
            "{}: not a readable Parquet file: {error}",
            path.display()
        ))
        .hint("the file may be cut short: fetch or write it again")
    })
}

/// A file whose rows cannot be read.
pub(super) fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::failed(format!(
        "{}: cannot read a batch of rows: {error}",
        path.display()
    ))
    .hint("the file may be damaged: fetch or write it again")
}

/// Where a file that is being read is in its rows.
pub(super) struct Open {
    pub(super) path: PathBuf,
    pub(super) batches: Batches,
    /// Rows read.
    pub(super) row: usize,
}
