//! What was found out about a table in text files by reading all of them.

use std::path::{Path, PathBuf};

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

/// Whole numbers beyond this one may have no float64.
pub(super) const LARGEST_EXACT: u64 = 1 << 53;

/// Returns the place of the column `name` in `columns`, to which it is added if it is new.
pub(super) fn place<T: Default>(columns: &mut Vec<(String, T)>, name: &str) -> usize {
    let known = columns.iter().position(|(known, _)| known == name);
    known.unwrap_or_else(|| {
        columns.push((name.to_owned(), T::default()));
        columns.len() - 1
    })
}

/// Returns `schema` with the columns whose names are in `columns` only; with all if `None`.
pub(super) fn chosen(schema: &SchemaRef, columns: Option<&[String]>) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields = fields.filter(|field| columns.is_none_or(|names| names.contains(field.name())));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// The columns of a table in text files, and the number of rows of each file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inferred {
    /// The columns of all files, in the order in which they first appear. A column that a file
    /// lacks is null there.
    pub(crate) schema: SchemaRef,
    /// The columns, and parts of columns, that are left out because they hold nothing.
    pub(crate) empty: Vec<String>,
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
