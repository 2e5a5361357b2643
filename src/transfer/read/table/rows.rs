//! Reads the rows of a table through all of its files, in order.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::container::table::{FileBatches, FileTable};
use crate::error::Result;

/// The rows of a table in one file or several.
pub(super) struct FileRows {
    table: Arc<FileTable>,
    /// The number of the next file.
    next: usize,
    batch_rows: usize,
    open: Option<FileBatches>,
}

impl FileRows {
    /// Reads `table` in batches of about `batch_rows` rows.
    pub(super) fn new(table: Arc<FileTable>, batch_rows: usize) -> FileRows {
        FileRows {
            table,
            next: 0,
            batch_rows,
            open: None,
        }
    }

    /// Returns the next batch of the table, its file, and its first row in the file; `None` after
    /// the last.
    pub(super) fn next(&mut self) -> Result<Option<(RecordBatch, PathBuf, usize)>> {
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                None if self.next == self.table.file_count() => return Ok(None),
                none => {
                    let batches = self.table.batches(self.next, self.batch_rows, None)?;
                    self.next += 1;
                    none.insert(batches)
                }
            };
            match open.next()? {
                Some((batch, _)) if batch.num_rows() == 0 => {}
                Some((batch, first)) => return Ok(Some((batch, open.path().to_owned(), first))),
                None => self.open = None,
            }
        }
    }
}
