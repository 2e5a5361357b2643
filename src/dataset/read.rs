//! Reads rows of a shard's files, and no more of the file than the pages that hold them.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::file::metadata::PageIndexPolicy;

use super::schema;
use crate::error::{Error, Result};

/// An open Parquet file whose footer has been read.
#[derive(Debug, Clone)]
pub struct ShardReader {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    logical: SchemaRef,
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))
}

fn footer(path: &Path) -> Result<ArrowReaderMetadata> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    ArrowReaderMetadata::load(&open(path)?, options).map_err(|error| {
        Error::failed(format!("{} is not a readable Parquet file: {error}", path.display()))
            .hint("the file is damaged or truncated: restore it from a copy, or import it again")
    })
}

/// The Arrow schema of a Parquet file.
///
/// # Errors
/// Where the file cannot be read or its footer is damaged.
pub fn file_schema(path: &Path) -> Result<SchemaRef> {
    Ok(Arc::clone(footer(path)?.schema()))
}

impl ShardReader {
    /// Opens the file at `path`, whose rows have the schema `logical` in memory.
    ///
    /// # Errors
    /// Where the file cannot be read, its footer is damaged, or its columns are not those of `logical`.
    pub fn open(path: &Path, logical: &SchemaRef) -> Result<ShardReader> {
        let metadata = footer(path)?;
        let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        if names(metadata.schema()) != names(logical) {
            return Err(Error::failed(format!(
                "{}: columns are {}, the dataset has {}",
                path.display(),
                names(metadata.schema()).join(", "),
                names(logical).join(", ")
            )));
        }
        Ok(ShardReader { path: path.to_owned(), metadata, logical: Arc::clone(logical) })
    }

    /// Names of the file's columns, in order.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.logical.fields().iter().map(|field| field.name())
    }

    /// Number of rows in the file.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Reads the rows of `ranges`, which ascend and do not overlap, of the columns named (all where `None`), in file order.
    ///
    /// # Errors
    /// Where the file cannot be read or is damaged; the message names the file.
    pub fn read(&self, ranges: &[Range<u64>], columns: Option<&[String]>) -> Result<RecordBatch> {
        self.try_read(ranges, columns).map_err(|error| error.at(self.path.display()))
    }

    fn try_read(&self, ranges: &[Range<u64>], columns: Option<&[String]>) -> Result<RecordBatch> {
        let keep: Vec<usize> = match columns {
            None => (0..self.logical.fields().len()).collect(),
            Some(names) => {
                let mut keep = names.iter().map(|name| self.logical.index_of(name)).collect::<Result<Vec<_>, _>>()?;
                keep.sort_unstable();
                keep
            }
        };
        let logical = Arc::new(self.logical.project(&keep)?);
        let (row_groups, selection) = self.pages(ranges);
        let rows: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(open(&self.path)?, self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), keep);
        let reader = builder
            .with_projection(mask)
            .with_row_groups(row_groups)
            .with_row_selection(selection)
            .with_batch_size(usize::try_from(rows).unwrap_or(usize::MAX).max(1))
            .build()?;
        let batches = reader.map(|batch| schema::convert(&batch?, &logical)).collect::<Result<Vec<_>>>()?;
        let batch = match batches.as_slice() {
            [batch] => batch.clone(),
            batches => concat_batches(&logical, batches)?,
        };
        if batch.num_rows() as u64 != rows {
            return Err(Error::failed(format!("has {} of the {rows} rows that the manifest lists", batch.num_rows())));
        }
        Ok(batch)
    }

    /// The row groups that hold `ranges`, and which of their rows those are.
    fn pages(&self, ranges: &[Range<u64>]) -> (Vec<usize>, RowSelection) {
        let (mut groups, mut selectors) = (Vec::new(), Vec::new());
        let mut start = 0;
        let mut pending = ranges.iter().cloned().peekable();
        for (index, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let end = start + u64::try_from(group.num_rows()).unwrap_or(0);
            let mut at = start;
            while let Some(range) = pending.peek_mut() {
                if range.start >= end {
                    break;
                }
                let stop = range.end.min(end);
                selectors.push(RowSelector::skip((range.start - at) as usize));
                selectors.push(RowSelector::select((stop - range.start) as usize));
                at = stop;
                if range.end > end {
                    range.start = end;
                    break;
                }
                pending.next();
            }
            if at > start {
                groups.push(index);
                selectors.push(RowSelector::skip((end - at) as usize));
            }
            start = end;
        }
        (groups, RowSelection::from(selectors))
    }
}
