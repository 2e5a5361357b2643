//! Reads rows of a shard's files, and only the pages that hold them.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;

use super::Dataset;
use super::files;
use super::frames::FrameReader;
use super::row_group::Origin;
use super::schema;
use super::vector_reader::{Part, Vector};
use super::verified::DatasetFile;
use crate::error::{Error, Result, caught, engine, wording};

/// Decodes stored columns when they are read: references to videos into frames, for example.
pub trait Decode: std::fmt::Debug + Send + Sync {
    /// Returns the field that the column `stored` is decoded to; `None` if it is read as it is
    /// stored.
    fn field(&self, stored: &Field) -> Option<Field>;

    /// Returns what decodes columns.
    fn columns(&self) -> Box<dyn DecodeColumns>;

    /// Returns a reader of single frames, which decodes with `threads` threads.
    ///
    /// # Errors
    /// Returns an error if the column does not refer to frames.
    fn reader(&self, threads: usize) -> Result<Box<dyn FrameReader>> {
        let _ = threads;
        Err(Error::failed("there are no frames to decode"))
    }

    /// Returns the same decoder for `dataset`, which was made from the decoder's own; `None` if it
    /// decodes its own only.
    fn of(&self, dataset: &Dataset) -> Option<Arc<dyn Decode>> {
        let _ = dataset;
        None
    }

    /// Returns everything besides the stored values that the decoded values depend on, for
    /// fingerprints.
    fn depends(&self) -> &str;
}

/// Decodes stored columns, part by part. Files stay open from one part of a column to the next.
pub trait DecodeColumns: Send {
    /// Decodes values of the column `name`. The result has one row for each row of `stored`.
    /// `place` says in errors what a row of `stored` belongs to.
    ///
    /// # Errors
    /// Returns an error that names the place and the column if a value cannot be decoded.
    fn column(
        &mut self,
        name: &str,
        stored: &ArrayRef,
        place: &dyn Fn(usize) -> String,
    ) -> Result<ArrayRef>;
}

/// An open Parquet file whose footer has been read.
#[derive(Debug, Clone)]
pub struct ShardReader {
    file: DatasetFile,
    metadata: ArrowReaderMetadata,
    logical: SchemaRef,
    decode: Option<Arc<dyn Decode>>,
}

fn footer(file: &File, path: &Path) -> Result<ArrowReaderMetadata> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let unreadable = |error: ParquetError| {
        Error::failed(format!(
            "{} is not a readable Parquet file: {}",
            path.display(),
            engine::plain_words(&error.to_string())
        ))
        .hint("the file is damaged or incomplete: restore it from a copy, or import it again")
    };
    caught(path.display(), || {
        ArrowReaderMetadata::load(file, options).map_err(unreadable)
    })
}

/// Returns the Arrow schema of a Parquet file. The file is not verified: before values are read,
/// [`ShardReader::open`] compares the schema with that of the verified file.
///
/// # Errors
/// Returns an error if the file cannot be read or its footer is damaged.
pub(crate) fn file_schema(path: &Path) -> Result<SchemaRef> {
    let file = files::open(path)
        .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(Arc::clone(footer(&file, path)?.schema()))
}

impl ShardReader {
    /// Opens `file`, whose rows have the schema `logical` in memory.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, its bytes are not those that the manifest
    /// lists, its footer is damaged, or its columns differ from `logical`.
    pub fn open(file: DatasetFile, logical: &SchemaRef) -> Result<ShardReader> {
        let metadata = file.read(|open| footer(open, file.path()))?;
        let names = |schema: &Schema| {
            schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect::<Vec<_>>()
        };
        if names(metadata.schema()) != names(logical) {
            return Err(Error::failed(format!(
                "{} has the columns {}, and the dataset has {}",
                file.path().display(),
                names(metadata.schema()).join(", "),
                names(logical).join(", ")
            )));
        }
        Ok(ShardReader {
            file,
            metadata,
            logical: Arc::clone(logical),
            decode: None,
        })
    }

    /// Returns the reader with columns decoded by `by`.
    pub fn decoding(self, by: &Arc<dyn Decode>) -> ShardReader {
        ShardReader {
            decode: Some(Arc::clone(by)),
            ..self
        }
    }

    /// Returns the names of the file's columns, in order.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.logical.fields().iter().map(|field| field.name())
    }

    /// Returns the number of rows in the file.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Returns the row group that consists of exactly the rows `rows`, which were read as `steps`.
    pub fn origin(&self, rows: &Range<u64>, steps: &RecordBatch) -> Option<Origin> {
        let groups = self.metadata.metadata().row_groups().iter().enumerate();
        let mut start = 0;
        for (group, own) in groups {
            let end = start + u64::try_from(own.num_rows()).unwrap_or(0);
            if (start, end) == (rows.start, rows.end) {
                // A decoded column differs from the file's.
                let stored = |name: &str| {
                    self.logical
                        .field_with_name(name)
                        .is_ok_and(|field| self.made(field).is_none())
                };
                let fields = steps.schema_ref().fields().iter().enumerate();
                let keep: Vec<usize> = fields
                    .filter(|(_, field)| stored(field.name()))
                    .map(|(at, _)| at)
                    .collect();
                let steps = steps.project(&keep).ok()?;
                return Some(Origin {
                    file: self.file.clone(),
                    metadata: self.metadata.clone(),
                    group,
                    steps,
                });
            }
            start = end;
        }
        None
    }

    /// Returns the field that a column of the file is decoded to, if it is decoded.
    fn made(&self, stored: &Field) -> Option<Field> {
        self.decode.as_ref()?.field(stored)
    }

    /// Reads the rows of `ranges`, which ascend and do not overlap. Reads the columns named, in
    /// file order; all columns if `None`.
    ///
    /// # Errors
    /// Returns an error that names the file if it cannot be read or is damaged.
    pub fn read(&self, ranges: &[Range<u64>], columns: Option<&[String]>) -> Result<RecordBatch> {
        self.file.read(|file| {
            self.try_read(file, ranges, columns)
                .map_err(|error| error.at(self.file.path().display()))
        })
    }

    fn try_read(
        &self,
        file: &Arc<File>,
        ranges: &[Range<u64>],
        columns: Option<&[String]>,
    ) -> Result<RecordBatch> {
        let keep: Vec<usize> = match columns {
            None => (0..self.logical.fields().len()).collect(),
            Some(names) => {
                let mut keep = names
                    .iter()
                    .map(|name| self.logical.index_of(name))
                    .collect::<Result<Vec<_>, _>>()?;
                keep.sort_unstable();
                keep
            }
        };
        let logical = Arc::new(self.logical.project(&keep)?);
        let parts = self.parts(ranges);
        let rows: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let rows =
            usize::try_from(rows).map_err(|_| Error::failed("the rows do not fit in memory"))?;
        let there: usize = parts
            .iter()
            .flat_map(|(_, selectors)| selectors)
            .filter(|s| !s.skip)
            .map(|s| s.row_count)
            .sum();
        if there != rows {
            return Err(Error::failed(format!(
                "the file has {} of the {} that the manifest lists",
                wording::number(there),
                wording::count(rows, "row")
            )));
        }
        let vector =
            |index: &usize| Vector::of(self.metadata.metadata(), self.metadata.schema(), *index);
        let others: Vec<usize> = keep
            .iter()
            .copied()
            .filter(|index| vector(index).is_none())
            .collect();
        let mut read = self
            .others(file.try_clone()?, &parts, &others, rows)?
            .columns()
            .to_vec()
            .into_iter();
        let column = |index: &usize| match vector(index) {
            Some(vector) => vector.read(file, &parts, rows),
            None => read
                .next()
                .ok_or_else(|| Error::failed("a column is missing")),
        };
        let mut columns = keep.iter().map(column).collect::<Result<Vec<_>>>()?;
        let mut fields = logical.fields().to_vec();
        if let Some(decode) = &self.decode {
            for (field, column) in fields.iter_mut().zip(&mut columns) {
                if let Some(made) = decode.field(field) {
                    let all = || ranges.iter().cloned().flatten();
                    let place = |row| format!("row {}", all().nth(row).unwrap_or(0));
                    *column = decode.columns().column(field.name(), column, &place)?;
                    *field = Arc::new(made);
                }
            }
        }
        let logical = Arc::new(Schema::new_with_metadata(
            fields,
            logical.metadata().clone(),
        ));
        Ok(RecordBatch::try_new_with_options(
            logical,
            columns,
            &RecordBatchOptions::new().with_row_count(Some(rows)),
        )?)
    }

    /// Reads the columns that [`Vector`] cannot read, with Arrow's reader.
    fn others(
        &self,
        file: File,
        parts: &[Part],
        keep: &[usize],
        rows: usize,
    ) -> Result<RecordBatch> {
        let logical = Arc::new(self.logical.project(keep)?);
        if keep.is_empty() {
            return Ok(RecordBatch::try_new_with_options(
                logical,
                Vec::new(),
                &RecordBatchOptions::new().with_row_count(Some(rows)),
            )?);
        }
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), keep.iter().copied());
        let reader = builder
            .with_projection(mask)
            .with_row_groups(parts.iter().map(|(group, _)| *group).collect())
            .with_row_selection(RowSelection::from(
                parts
                    .iter()
                    .flat_map(|(_, selectors)| selectors)
                    .copied()
                    .collect::<Vec<_>>(),
            ))
            .with_batch_size(rows.max(1))
            .build()?;
        let batches = reader
            .map(|batch| schema::convert(&batch?, &logical))
            .collect::<Result<Vec<_>>>()?;
        match batches.as_slice() {
            [batch] => Ok(batch.clone()),
            batches => Ok(concat_batches(&logical, batches)?),
        }
    }

    /// Returns the row groups that hold `ranges`, and which of their rows to read.
    fn parts(&self, ranges: &[Range<u64>]) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut start = 0;
        let mut pending = ranges.iter().cloned().peekable();
        for (index, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let end = start + u64::try_from(group.num_rows()).unwrap_or(0);
            let (mut at, mut selectors) = (start, Vec::new());
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
                selectors.push(RowSelector::skip((end - at) as usize));
                parts.push((index, selectors));
            }
            start = end;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::compute::kernels::numeric::neg;
    use arrow::datatypes::{DataType, Int64Type};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::dataset::store::HashingFile;
    use crate::dataset::{FileEntry, Ledger};

    /// Decodes `x` to `-x`.
    #[derive(Debug)]
    struct Negated;

    impl Decode for Negated {
        fn field(&self, stored: &Field) -> Option<Field> {
            (stored.name() == "x").then(|| stored.clone())
        }

        fn columns(&self) -> Box<dyn DecodeColumns> {
            Box::new(Negated)
        }

        fn depends(&self) -> &str {
            "negated"
        }
    }

    impl DecodeColumns for Negated {
        fn column(
            &mut self,
            _: &str,
            stored: &ArrayRef,
            _: &dyn Fn(usize) -> String,
        ) -> Result<ArrayRef> {
            Ok(neg(stored)?)
        }
    }

    #[test]
    fn a_decoded_column_is_never_copied_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shard.parquet");
        let fields = ["x", "y"].map(|name| Field::new(name, DataType::Int64, false));
        let schema: SchemaRef = Arc::new(Schema::new(fields.to_vec()));
        let column = || Arc::new(Int64Array::from_iter_values(0..10)) as ArrayRef;
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![column(), column()]).unwrap();
        let mut writer = ArrowWriter::try_new(
            HashingFile::create(&path).unwrap(),
            Arc::clone(&schema),
            None,
        )
        .unwrap();
        writer.write(&batch).unwrap();
        let written = writer.into_inner().unwrap().finish().unwrap();
        let entry = FileEntry {
            path: "shard.parquet".to_owned(),
            rows: 10,
            bytes: written.bytes,
            blake3: written.blake3,
        };
        let file = Ledger::default().file(folder.path(), "", &entry);

        let by: Arc<dyn Decode> = Arc::new(Negated);
        let reader = ShardReader::open(file, &schema).unwrap().decoding(&by);
        let rows = 0..10;
        let read = reader.read(std::slice::from_ref(&rows), None).unwrap();
        assert_eq!(read.column(0).as_primitive::<Int64Type>().value(9), -9);
        assert_eq!(read.column(1), batch.column(1));
        let origin = reader.origin(&rows, &read).unwrap();
        assert!(!origin.has("x", read.column(0)) && origin.has("y", read.column(1)));
    }
}
