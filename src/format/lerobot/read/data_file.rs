//! The files under `data/`, which hold the rows of episodes.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};

use crate::dataset;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::format::lerobot::episodes::Episode;
use crate::format::lerobot::files;
use crate::format::lerobot::info::Layout;

/// The number of rows in a batch.
const BATCH_ROWS: usize = 4096;

/// A data file, which is read forwards as long as episodes come in its order.
pub(crate) struct DataFile {
    pub(crate) path: PathBuf,
    rows: usize,
    /// The rows of each episode, in a file of several episodes.
    spans: Option<HashMap<u64, Range<usize>>>,
    reader: Option<ParquetRecordBatchReader>,
    /// Rows that were read beyond the last episode.
    left: Option<RecordBatch>,
    /// The row that is read next.
    next: usize,
}

impl DataFile {
    fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
        let file = dataset::files::open(path).map_err(|error| {
            Error::failed(format!("cannot open {}: {error}", path.display()))
                .hint("the dataset is incomplete: fetch it again")
        })?;
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| {
            Error::failed(format!(
                "{}: not a readable Parquet file: {error}",
                path.display()
            ))
            .hint("the file may be cut short: fetch it again")
        })
    }

    /// Returns the columns of the file at `path`.
    pub(crate) fn schema(path: &Path) -> Result<SchemaRef> {
        Ok(SchemaRef::clone(DataFile::builder(path)?.schema()))
    }

    pub(crate) fn open(path: &Path) -> Result<DataFile> {
        let rows = DataFile::builder(path)?
            .metadata()
            .file_metadata()
            .num_rows();
        let rows = usize::try_from(rows).map_err(|_| {
            Error::failed(format!(
                "{} declares {rows} rows, which is not a possible number",
                path.display()
            ))
        })?;
        Ok(DataFile {
            path: path.to_owned(),
            rows,
            spans: None,
            reader: None,
            left: None,
            next: 0,
        })
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        Error::failed(format!("{}: {what}", self.path.display()))
            .hint("the file may be damaged: fetch the dataset again")
    }

    /// Returns the rows of an episode in this file.
    pub(crate) fn locate(&mut self, layout: Layout, episode: &Episode) -> Result<Range<usize>> {
        let found = match layout {
            Layout::PerEpisode => 0..self.rows,
            Layout::Shared => {
                if self.spans.is_none() {
                    self.spans = Some(self.scan()?);
                }
                let spans = self.spans.as_ref();
                spans
                    .and_then(|spans| spans.get(&episode.index))
                    .cloned()
                    .ok_or_else(|| {
                        Error::failed(format!(
                            "{}: the metadata says that the episode is in this file, but the file \
                             has no row of it",
                            self.path.display()
                        ))
                        .hint(
                            "metadata and data contradict each other: fetch the dataset again, or \
                             write it again with LeRobot's own tools",
                        )
                    })?
            }
        };
        if found.len() as u64 != episode.length {
            return Err(Error::failed(format!(
                "{}: the file has {} of the episode, but the metadata says {}",
                self.path.display(),
                count(found.len(), "row"),
                number(episode.length)
            ))
            .hint(
                "the file may be cut short or belong to another version of the dataset: fetch it \
                 again",
            ));
        }
        Ok(found)
    }

    /// Finds the rows of each episode in the column `episode_index`.
    pub(crate) fn scan(&self) -> Result<HashMap<u64, Range<usize>>> {
        let mut spans: HashMap<u64, Range<usize>> = HashMap::new();
        let mut row = 0;
        for batch in files::table(&self.path, &|name| name == "episode_index")? {
            let batch = batch?;
            let indices = files::integers(&batch, "episode_index").ok_or_else(|| {
                self.damaged("the column `episode_index` is missing or does not hold integers")
            })?;
            for index in indices.values() {
                let index = u64::try_from(*index).map_err(|_| {
                    self.damaged(format!("`episode_index` is negative in row {row}: {index}"))
                })?;
                let span = spans.entry(index).or_insert(row..row);
                if span.end != row {
                    return Err(self.damaged(format!(
                        "the rows of episode {index} are not together: row {row} follows a row of \
                         another episode"
                    )));
                }
                span.end += 1;
                row += 1;
            }
        }
        Ok(spans)
    }

    /// Reads the rows of one episode, with the columns that `reads` accepts.
    pub(crate) fn rows(
        &mut self,
        wanted: Range<usize>,
        reads: &dyn Fn(&str) -> bool,
    ) -> Result<RecordBatch> {
        if self.reader.is_none() || wanted.start < self.next {
            let builder = DataFile::builder(&self.path)?;
            let selection = RowSelection::from(vec![
                RowSelector::skip(wanted.start),
                RowSelector::select(self.rows - wanted.start),
            ]);
            let columns = builder.schema().fields().iter().enumerate();
            let columns = columns.filter(|(_, field)| reads(field.name()));
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.map(|(at, _)| at));
            let reader = builder
                .with_projection(mask)
                .with_row_selection(selection)
                .with_batch_size(BATCH_ROWS)
                .build();
            self.reader = Some(reader.map_err(|error| self.damaged(error))?);
            (self.left, self.next) = (None, wanted.start);
        }
        let mut parts = Vec::new();
        while self.next < wanted.end {
            let batch = match (self.left.take(), &mut self.reader) {
                (Some(left), _) => left,
                (None, Some(reader)) => match reader.next() {
                    Some(batch) => batch
                        .map_err(|error| self.damaged(format!("cannot read a row: {error}")))?,
                    None => {
                        return Err(self.damaged(format!(
                            "the file ends at row {} of {}",
                            self.next, self.rows
                        )));
                    }
                },
                (None, None) => return Err(self.damaged("the file is not open")),
            };
            let skip = wanted.start.saturating_sub(self.next).min(batch.num_rows());
            let take = (wanted.end - self.next).min(batch.num_rows());
            if take > skip {
                parts.push(batch.slice(skip, take - skip));
            }
            if take < batch.num_rows() {
                self.left = Some(batch.slice(take, batch.num_rows() - take));
            }
            self.next += take;
        }
        match parts.as_slice() {
            [] => Err(
                Error::failed(format!("{}: the episode has no rows", self.path.display()))
                    .hint("remove the episode with LeRobot's own tools"),
            ),
            [one] => Ok(one.clone()),
            [first, ..] => Ok(concat_batches(&first.schema(), &parts)?),
        }
    }
}

/// Verifies that the rows are those of the episode, in order.
pub(crate) fn verify_rows(table: &RecordBatch, layout: Layout, episode: &Episode) -> Result<()> {
    let wrong = |name: &str, row: usize, found: i64, expected: String| {
        Error::failed(format!(
            "`{name}` is {found} at frame {row}, but {expected}"
        ))
        .hint(
            "metadata and data contradict each other: fetch the dataset again, or write it again \
             with LeRobot's own tools",
        )
    };
    let values = |name: &str| files::integers(table, name);
    if let Some(indices) = values("episode_index")
        && let Some(row) =
            (0..indices.len()).find(|row| indices.value(*row) != episode.index as i64)
    {
        return Err(wrong(
            "episode_index",
            row,
            indices.value(row),
            format!(
                "the metadata says that the row belongs to episode {}",
                episode.index
            ),
        ));
    }
    if let (Some(indices), Some(first), Layout::Shared) = (values("index"), episode.first, layout) {
        let expected = |row: usize| first as i64 + row as i64;
        if let Some(row) = (0..indices.len()).find(|row| indices.value(*row) != expected(*row)) {
            return Err(wrong(
                "index",
                row,
                indices.value(row),
                format!("it is {} by `dataset_from_index`", expected(row)),
            ));
        }
    }
    if let Some(frames) = values("frame_index")
        && let Some(row) = (1..frames.len()).find(|row| frames.value(*row) <= frames.value(row - 1))
    {
        return Err(wrong(
            "frame_index",
            row,
            frames.value(row),
            format!("the frame before it has {}", frames.value(row - 1)),
        ));
    }
    if let (Some(first), Some(end)) = (episode.first, episode.end)
        && end.checked_sub(first) != Some(episode.length)
    {
        return Err(Error::failed(format!(
            "meta/episodes gives the episode {}, but the rows from {first} to {end}",
            count(episode.length, "frame")
        ))
        .hint(
            "the metadata contradicts itself: write the dataset again with LeRobot's own tools",
        ));
    }
    Ok(())
}
