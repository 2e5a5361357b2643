//! What was found out about a table in text files by reading all of them.

use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;

/// The columns of a table in text files, and the number of rows of each file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inferred {
    /// The columns of all files, in the order in which they first appear. A column that a file
    /// lacks is null there.
    pub(crate) schema: SchemaRef,
    /// The files with their numbers of rows.
    pub(crate) rows: Vec<(PathBuf, u64)>,
}

impl Inferred {
    /// Returns the number of rows of the file at `path`.
    pub(super) fn rows_of(&self, path: &Path) -> Option<u64> {
        let file = self.rows.iter().find(|(file, _)| file == path);
        file.map(|(_, rows)| *rows)
    }
}
