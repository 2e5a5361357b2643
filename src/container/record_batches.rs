//! Tables in Parquet and Arrow IPC files, read in record batches.

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::arrow_ipc;
use crate::dataset::files;
use crate::error::{Error, Result};

/// The kind of a file that holds a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableFile {
    Parquet,
    Arrow,
}

/// Batches of a file, in order.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

/// Places of the columns whose rows hold anything: vectors of no values are left out, which Parquet's decoder takes for damage.
fn holding(schema: &Schema) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields
        .filter(|(_, field)| !matches!(field.data_type(), DataType::FixedSizeList(_, 0)))
        .map(|(place, _)| place)
        .collect()
}

impl TableFile {
    /// Columns of the file at `path` whose rows hold anything, and how many rows it has, where that can be told without reading them.
    pub(crate) fn look(self, path: &Path) -> Result<(SchemaRef, Option<u64>)> {
        let (schema, rows) = match self {
            TableFile::Parquet => {
                let builder = open(path)?;
                let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
                (SchemaRef::clone(builder.schema()), Some(rows))
            }
            TableFile::Arrow => {
                let reader = arrow_ipc::open(path, None)?;
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
    pub(crate) fn batches(
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
            TableFile::Parquet => {
                let builder = open(path)?.with_batch_size(rows);
                let roots = index(&SchemaRef::clone(builder.schema()))?;
                let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
                let builder = builder.with_projection(mask);
                Ok(Box::new(
                    builder.build().map_err(|error| damaged(path, error))?,
                ))
            }
            TableFile::Arrow => {
                let columns = index(&arrow_ipc::open(path, None)?.schema())?;
                Ok(Box::new(arrow_ipc::open(path, Some(columns))?))
            }
        }
    }
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = files::open(path)
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
pub(crate) fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::failed(format!(
        "{}: cannot read a batch of rows: {error}",
        path.display()
    ))
    .hint("the file may be damaged: fetch or write it again")
}
