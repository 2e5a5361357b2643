//! Reads the rows of a table through all of its files, in order.

use std::collections::VecDeque;
use std::path::PathBuf;

use arrow::array::RecordBatch;

use crate::container::record_batches::{Batches, TableFile, damaged};
use crate::error::Result;

/// The rows of a table in one file or several.
pub(super) struct FileRows {
    /// The files that are not opened yet.
    files: VecDeque<PathBuf>,
    kind: TableFile,
    batch_rows: usize,
    /// The columns that are read.
    columns: Vec<String>,
    open: Option<OpenFile>,
}

/// A file that is being read.
struct OpenFile {
    path: PathBuf,
    batches: Batches,
    /// The number of rows that were read.
    row: usize,
}

impl FileRows {
    /// Reads the columns `columns` of `files` in batches of about `batch_rows` rows.
    pub(super) fn new(
        files: Vec<PathBuf>,
        kind: TableFile,
        batch_rows: usize,
        columns: Vec<String>,
    ) -> FileRows {
        FileRows {
            files: files.into(),
            kind,
            batch_rows,
            columns,
            open: None,
        }
    }

    /// Returns the next batch of the table, its file, and its first row in the file; `None` after
    /// the last.
    pub(super) fn next(&mut self) -> Result<Option<(RecordBatch, PathBuf, usize)>> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.files.pop_front() else {
                    return Ok(None);
                };
                let batches = self
                    .kind
                    .batches(&path, self.batch_rows, Some(&self.columns))?;
                self.open = Some(OpenFile {
                    path,
                    batches,
                    row: 0,
                });
            }
            if let Some(open) = &mut self.open {
                match open.batches.next() {
                    Some(Ok(batch)) if batch.num_rows() == 0 => {}
                    Some(Ok(batch)) => {
                        let first = open.row;
                        open.row += batch.num_rows();
                        return Ok(Some((batch, open.path.clone(), first)));
                    }
                    Some(Err(error)) => return Err(damaged(&open.path, error)),
                    None => self.open = None,
                }
            }
        }
    }
}
