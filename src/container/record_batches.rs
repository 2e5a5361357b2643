//! Tables in Parquet, Arrow and text files, read in record batches.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use super::inferred::Inferred;
use super::int96::{self, Units};
use super::{Batches, arrow_ipc, arrow_stream, csv, json_lines};
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

impl TableFile {
    /// Returns the columns of the file at `path`, and the number of rows if it is known without
    /// reading them.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub(crate) fn look(&self, path: &Path) -> Result<(SchemaRef, Option<u64>)> {
        match self {
            TableFile::Parquet => {
                let builder = open(path)?;
                let rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
                Ok((SchemaRef::clone(builder.schema()), Some(rows)))
            }
            TableFile::Arrow if arrow_stream::is_stream(path)? => {
                let (reader, rows) = arrow_stream::open(path, None)?;
                Ok((reader.schema(), Some(rows)))
            }
            TableFile::Csv(table) | TableFile::JsonLines(table) => {
                Ok((SchemaRef::clone(&table.schema), table.rows_of(path)))
            }
            TableFile::Arrow => {
                let reader = arrow_ipc::open(path, None)?;
                let rows = (reader.num_batches() == 0).then_some(0);
                Ok((reader.schema(), rows))
            }
        }
    }

    /// Returns the columns and parts of columns that the kind leaves out because they hold nothing.
    pub(crate) fn empty(&self) -> &[String] {
        match self {
            TableFile::Csv(table) | TableFile::JsonLines(table) => &table.empty,
            TableFile::Parquet | TableFile::Arrow => &[],
        }
    }

    /// Returns the columns of the file at `path`, with the schema `schema`, that hold timestamps of
    /// the old kind.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub(crate) fn int96(&self, path: &Path, schema: &Schema) -> Result<Vec<String>> {
        // The name of a type has those of the types within.
        let may_be = |field: &Arc<Field>| field.data_type().to_string().contains("Timestamp(");
        match self {
            TableFile::Parquet if schema.fields().iter().any(may_be) => {
                Ok(int96::columns(open(path)?.parquet_schema()))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the columns of the file at `path`, with timestamps of the old kind in `units`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub(crate) fn with_units(&self, path: &Path, units: &Units) -> Result<SchemaRef> {
        match self {
            TableFile::Parquet => Ok(SchemaRef::clone(open_with(path, units)?.schema())),
            _ => Ok(self.look(path)?.0),
        }
    }

    /// Returns the batches of the file at `path`, of about `rows` rows if the file does not define
    /// its own batches, with the columns named; with all columns if `None`. Timestamps of the old
    /// kind are read in `units`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or if it lacks a column.
    pub(crate) fn batches(
        &self,
        path: &Path,
        rows: usize,
        columns: Option<&[String]>,
        units: &Units,
    ) -> Result<Batches> {
        let index = |schema: &SchemaRef| -> Result<Vec<usize>> {
            let Some(columns) = columns else {
                return Ok((0..schema.fields().len()).collect());
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
                let builder = open_with(path, units)?.with_batch_size(rows);
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
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(path, &error))
}

/// Opens the Parquet file at `path`; timestamps of the old kind are read in `units`.
fn open_with(path: &Path, units: &Units) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let builder = open(path)?;
    if units.is_empty() {
        return Ok(builder);
    }
    let schema = int96::hinted(builder.schema(), builder.parquet_schema(), units);
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(builder.metadata()), options)
        .map_err(|error| unreadable(path, &error))?;
    let file = files::open(path)
        .map_err(|error| Error::failed(format!("cannot open {}: {error}", path.display())))?;
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(
        file, metadata,
    ))
}

fn unreadable(path: &Path, error: &ParquetError) -> Error {
    Error::failed(format!(
        "{}: not a readable Parquet file: {error}",
        path.display()
    ))
    .hint("the file may be cut short: fetch or write it again")
}

/// Returns the error for a file whose rows cannot be read.
pub(crate) fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::failed(format!(
        "{}: cannot read a batch of rows: {error}",
        path.display()
    ))
    .hint("the file may be damaged: fetch or write it again")
}
