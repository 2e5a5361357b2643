//! The files of a LeRobot dataset that hold rows.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, make_array};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};

use super::FINALS;
use super::meta::{self, Episode, Layout};
use crate::dataset::files;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};

/// Rows that are read at once.
const BATCH_ROWS: usize = 4096;

/// A data file, read forwards where episodes come in its order.
pub(crate) struct DataFile {
    pub(crate) path: PathBuf,
    rows: usize,
    /// Rows of each episode in a file of several.
    spans: Option<HashMap<u64, Range<usize>>>,
    reader: Option<ParquetRecordBatchReader>,
    /// What was read beyond the last episode, and its first row.
    left: Option<RecordBatch>,
    next: usize,
}

impl DataFile {
    fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
        let file = files::open(path).map_err(|error| {
            Error::failed(format!("cannot open {}: {error}", path.display()))
                .hint("the dataset is not whole: fetch it again")
        })?;
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| {
            Error::failed(format!(
                "{}: not a readable Parquet file: {error}",
                path.display()
            ))
            .hint("the file may be cut short: fetch it again")
        })
    }

    pub(crate) fn open(path: &Path) -> Result<DataFile> {
        let rows = DataFile::builder(path)?
            .metadata()
            .file_metadata()
            .num_rows();
        let rows = usize::try_from(rows)
            .map_err(|_| Error::failed(format!("{} declares {rows} rows", path.display())))?;
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

    /// The rows of an episode in this file.
    pub(crate) fn locate(&mut self, layout: Layout, episode: &Episode) -> Result<Range<usize>> {
        let found = match layout {
            Layout::PerEpisode => 0..self.rows,
            Layout::Shared => {
                if self.spans.is_none() {
                    self.spans = Some(self.scan()?);
                }
                let spans = self.spans.as_ref();
                spans.and_then(|spans| spans.get(&episode.index)).cloned().ok_or_else(|| {
                    Error::failed(format!("{}: the metadata places the episode here, but the file has no row of it", self.path.display()))
                        .hint(
                            "metadata and data contradict each other: fetch the dataset again, or write it again with LeRobot's own tools",
                        )
                })?
            }
        };
        if found.len() as u64 != episode.length {
            return Err(Error::failed(format!(
                "{}: the file has {} rows of it, the metadata says {}",
                self.path.display(),
                found.len(),
                episode.length
            ))
            .hint(
                "the file may be cut short, or from another version of the dataset: fetch it again",
            ));
        }
        Ok(found)
    }

    /// The rows of each episode.
    pub(crate) fn scan(&self) -> Result<HashMap<u64, Range<usize>>> {
        let mut spans: HashMap<u64, Range<usize>> = HashMap::new();
        let mut row = 0;
        for batch in meta::table(&self.path, &|name| name == "episode_index")? {
            let batch = batch?;
            let indices = meta::integers(&batch, "episode_index").ok_or_else(|| {
                self.damaged("there is no column `episode_index` of whole numbers")
            })?;
            for index in indices.values() {
                let index = u64::try_from(*index).map_err(|_| {
                    self.damaged(format!("`episode_index` is {index} in row {row}"))
                })?;
                let span = spans.entry(index).or_insert(row..row);
                if span.end != row {
                    return Err(
                        self.damaged(format!("the rows of episode {index} are not together: row {row} comes after another episode's"))
                    );
                }
                span.end += 1;
                row += 1;
            }
        }
        Ok(spans)
    }

    /// The rows `wanted`, which are whole episodes.
    pub(crate) fn rows(&mut self, wanted: Range<usize>) -> Result<RecordBatch> {
        if self.reader.is_none() || wanted.start < self.next {
            let builder = DataFile::builder(&self.path)?;
            let selection = RowSelection::from(vec![
                RowSelector::skip(wanted.start),
                RowSelector::select(self.rows - wanted.start),
            ]);
            let reader = builder
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
                        .map_err(|error| self.damaged(format!("cannot read its rows: {error}")))?,
                    None => {
                        return Err(
                            self.damaged(format!("it ends at row {} of {}", self.next, self.rows))
                        );
                    }
                },
                (None, None) => return Err(self.damaged("it is not open")),
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
                    .hint("remove it with LeRobot's own tools"),
            ),
            [one] => Ok(one.clone()),
            [first, ..] => Ok(concat_batches(&first.schema(), &parts)?),
        }
    }
}

/// Final observations that this tool has kept beside the data, in order of their trajectories.
pub(crate) struct Finals {
    batches: Box<dyn Iterator<Item = Result<RecordBatch>>>,
    batch: RecordBatch,
    row: usize,
    /// Type of the dataset's observations, the same but for what is said of its parts.
    observation: DataType,
}

impl Finals {
    /// Those of the dataset at `root`, if there are any and they are of the type of its observations.
    pub(crate) fn open(root: &Path, observation: &DataType) -> Result<Option<Finals>> {
        let path = root.join(FINALS);
        if !files::is_file(&path)? {
            return Ok(None);
        }
        let mut batches = meta::table(&path, &|_| true)?;
        let Some(batch) = batches.next().transpose()? else {
            return Ok(None);
        };
        let same = batch
            .column_by_name(step::OBSERVATION)
            .is_some_and(|column| column.data_type().equals_datatype(observation));
        Ok(same.then(|| Finals {
            batches: Box::new(batches),
            batch,
            row: 0,
            observation: observation.clone(),
        }))
    }

    /// The observation after the last action of trajectory `uid`.
    pub(crate) fn take(&mut self, uid: &str) -> Result<Option<ArrayRef>> {
        if self.row == self.batch.num_rows() {
            let Some(batch) = self.batches.next().transpose()? else {
                return Ok(None);
            };
            (self.batch, self.row) = (batch, 0);
        }
        let own = self
            .batch
            .column_by_name(trajectory::UID)
            .and_then(|uids| uids.as_string_opt::<i32>());
        if own.is_none_or(|own| own.value(self.row) != uid) {
            return Ok(None);
        }
        self.row += 1;
        let column = self
            .batch
            .column_by_name(step::OBSERVATION)
            .map(|column| column.slice(self.row - 1, 1));
        column
            .map(|column| {
                Ok(make_array(
                    column
                        .to_data()
                        .into_builder()
                        .data_type(self.observation.clone())
                        .build()?,
                ))
            })
            .transpose()
    }
}
