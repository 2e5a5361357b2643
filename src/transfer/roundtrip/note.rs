//! The note of origin in a directory of another format.

use std::path::Path;

use serde_json::Value;

use crate::dataset::store;
use crate::error::Result;

/// The file that holds the note. It is hidden, so that loaders that list files ignore it.
const NOTE: &str = ".trajmill.json";

/// Writes `note` into the directory `folder`.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub(crate) fn write(folder: &Path, note: &str) -> Result<()> {
    store::write(&folder.join(NOTE), note.as_bytes())
}

/// Returns the note in the directory `folder`; `None` if there is none.
pub(crate) fn of_directory(folder: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(folder.join(NOTE)).ok()?).ok()
}
