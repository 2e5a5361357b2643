//! Writes the row groups of a file of steps, and copies columns that did not change.
//!
//! If a row group is written whole, a column that did not change is copied as it is in the input
//! file, without encoding it again; it was decoded only for its hash. The arrays themselves show
//! which columns these are: an array that is the very array that was read holds the values that
//! were read.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use super::store::HashingFile;
use super::verified::DatasetFile;
use crate::error::{Error, Result};

/// The row group that a block was read from, if the block is the whole row group.
#[derive(Debug, Clone)]
pub struct Origin {
    pub(super) file: DatasetFile,
    pub(super) metadata: ArrowReaderMetadata,
    /// Index of the row group in the file.
    pub(super) group: usize,
    /// The columns, as they were read.
    pub(super) steps: RecordBatch,
}

impl Origin {
    /// Returns whether `column` is the very array that was read from the column `name`.
    pub(super) fn has(&self, name: &str, column: &ArrayRef) -> bool {
        self.steps
            .column_by_name(name)
            .is_some_and(|read| Arc::ptr_eq(read, column))
    }

    /// Returns the footer's description of each leaf of the column `name`, in the form that a
    /// writer takes.
    fn closed(&self, name: &str) -> Vec<ColumnCloseResult> {
        let metadata = self.metadata.metadata();
        let (schema, group) = (
            metadata.file_metadata().schema_descr(),
            metadata.row_group(self.group),
        );
        let close = |leaf: usize| {
            let chunk = group.column(leaf);
            let column_index = metadata
                .column_index()
                .and_then(|groups| groups.get(self.group)?.get(leaf))
                .cloned();
            ColumnCloseResult {
                bytes_written: chunk.compressed_size().unsigned_abs(),
                rows_written: group.num_rows().unsigned_abs(),
                metadata: chunk.clone(),
                bloom_filter: None,
                column_index: column_index
                    .filter(|index| !matches!(index, ColumnIndexMetaData::NONE)),
                offset_index: metadata
                    .offset_index()
                    .and_then(|groups| groups.get(self.group)?.get(leaf))
                    .cloned(),
            }
        };
        leaves(schema, name).map(close).collect()
    }
}

/// Returns the indices of the leaves of the column `name`.
fn leaves(schema: &SchemaDescriptor, name: &str) -> impl Iterator<Item = usize> {
    (0..schema.num_columns()).filter(move |leaf| schema.get_column_root(*leaf).name() == name)
}

/// Writes the row groups of a file.
pub(super) struct GroupWriter {
    file: SerializedFileWriter<HashingFile>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// Encoders of the row group in progress.
    columns: Vec<ArrowColumnWriter>,
    /// Rows of the row group in progress.
    rows: usize,
}

impl GroupWriter {
    pub(super) fn new(
        file: HashingFile,
        schema: &SchemaRef,
        properties: WriterProperties,
    ) -> Result<GroupWriter> {
        let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties))?;
        let (file, factory) = writer.into_serialized_writer()?;
        Ok(GroupWriter {
            file,
            factory,
            schema: Arc::clone(schema),
            columns: Vec::new(),
            rows: 0,
        })
    }

    /// Returns the number of rows in the row group in progress.
    pub(super) fn in_progress_rows(&self) -> usize {
        self.rows
    }

    /// Appends rows to the row group in progress.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encode(batch, |_| false)
    }

    /// Ends the row group in progress.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.end(|_| Vec::new())
    }

    /// Writes a whole row group. `parts` are its rows, in order; the columns in `copied` are copied
    /// from `origin`.
    pub(super) fn splice(
        &mut self,
        parts: impl Iterator<Item = RecordBatch>,
        origin: &Origin,
        copied: &[String],
    ) -> Result<()> {
        let is_copied = |name: &str| copied.iter().any(|copied| copied == name);
        for part in parts {
            self.encode(&part, is_copied)?;
        }
        let open = origin.file.open()?;
        let file = open.file().as_ref();
        self.end(|name| {
            if is_copied(name) {
                origin
                    .closed(name)
                    .into_iter()
                    .map(|closed| (file, closed))
                    .collect()
            } else {
                Vec::new()
            }
        })?;
        open.finish()
    }

    /// Returns whether the column `name` of `origin` has the encoding of this file's schema.
    pub(super) fn takes(&self, origin: &Origin, name: &str) -> bool {
        let (own, closed) = (self.file.schema_descr(), origin.closed(name));
        let same = |(leaf, closed): (usize, &ColumnCloseResult)| {
            own.column(leaf).as_ref() == closed.metadata.column_descr()
        };
        !closed.is_empty()
            && leaves(own, name).count() == closed.len()
            && leaves(own, name).zip(&closed).all(same)
    }

    fn encode(&mut self, batch: &RecordBatch, copied: impl Fn(&str) -> bool) -> Result<()> {
        if self.columns.is_empty() {
            self.columns = self
                .factory
                .create_column_writers(self.file.flushed_row_groups().len())?;
        }
        let mut columns = self.columns.iter_mut();
        for (field, array) in self.schema.fields().iter().zip(batch.columns()) {
            if copied(field.name()) {
                columns
                    .by_ref()
                    .take(leaves(self.file.schema_descr(), field.name()).count())
                    .for_each(drop);
                continue;
            }
            for leaf in compute_leaves(field, array)? {
                columns
                    .next()
                    .ok_or_else(|| Error::failed("a column has no encoder"))?
                    .write(&leaf)?;
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// Ends the row group. A column for which `instead` returns column chunks of other files
    /// consists of these.
    fn end<'a>(
        &mut self,
        instead: impl Fn(&str) -> Vec<(&'a File, ColumnCloseResult)>,
    ) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let schema = self.file.schema_descr();
        let roots: Vec<String> = (0..schema.num_columns())
            .map(|leaf| schema.get_column_root(leaf).name().to_owned())
            .collect();
        let mut group = self.file.next_row_group()?;
        let mut columns = std::mem::take(&mut self.columns).into_iter();
        let mut at = 0;
        while at < roots.len() {
            let chunks = instead(&roots[at]);
            if chunks.is_empty() {
                let column = columns
                    .next()
                    .ok_or_else(|| Error::failed("a column has no encoder"))?;
                column.close()?.append_to_row_group(&mut group)?;
                at += 1;
            } else {
                at += chunks.len();
                columns.by_ref().take(chunks.len()).for_each(drop);
                for (file, closed) in chunks {
                    group.append_column(file, closed)?;
                }
            }
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    /// Ends the file and returns it.
    pub(super) fn into_inner(mut self) -> Result<HashingFile> {
        self.flush()?;
        Ok(self.file.into_inner()?)
    }
}
