//! Tables in Parquet, Arrow and text files, read in record batches.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::inferred::Inferred;
use super::{arrow_ipc, arrow_stream, csv, json_lines};
use crate::dataset::files;
use crate::error::{Error, Result};

/// The kind of a file that holds a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TableFile {
    Parquet,
    /// An Arrow IPC file or stream.
    Arrow,
    Csv(Arc<Inferred>),
    JsonLines(Arc<Inferred>),
}

/// The batches of a file, in order.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>;

/// Returns the indices of the columns whose rows have values. Parquet's decoder mistakes vectors of
/// no values for damage, so they are left out.
fn holding(schema: &Schema) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields
        .filter(|(_, field)| !matches!(field.data_type(), DataType::FixedSizeList(_, 0)))
        .map(|(place, _)| place)
        .collect()
}

impl TableFile {
    /// Returns the columns of the file at `path` whose rows have values, and the number of rows if
    /// it is known without reading them.
    pub(crate) fn look(&self, path: &Path) -> Result<(SchemaRef, Option<u64>)> {
        let (schema, rows) = match self {
            TableFile::Parquet => {
                let builder = open(path)?;
                let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
                (SchemaRef::clone(builder.schema()), Some(rows))
            }
            TableFile::Arrow if arrow_stream::is_stream(path)? => {
                let (reader, rows) = arrow_stream::open(path, None)?;
                (reader.schema(), Some(rows))
            }
            TableFile::Csv(table) | TableFile::JsonLines(table) => {
                (SchemaRef::clone(&table.schema), table.rows_of(path))
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

    /// Returns the batches of the file at `path`, of about `rows` rows if the file does not define
    /// its own batches, with the columns named; with all columns that have values if `None`.
    pub(crate) fn batches(
        &self,
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
            TableFile::Arrow if arrow_stream::is_stream(path)? => {
                let columns = index(&arrow_stream::open(path, None)?.0.schema())?;
                Ok(Box::new(arrow_stream::open(path, Some(columns))?.0))
            }
            TableFile::Csv(table) => csv::batches(path, rows, &table.schema, columns),
            TableFile::JsonLines(table) => json_lines::batches(path, rows, &table.schema, columns),
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

/// Returns the error for a file whose rows cannot be read.
pub(crate) fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::failed(format!(
        "{}: cannot read a batch of rows: {error}",
        path.display()
    ))
    .hint("the file may be damaged: fetch or write it again")
}
