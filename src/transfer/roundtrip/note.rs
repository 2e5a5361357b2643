//! The note of origin in a directory of another format.

use std::path::Path;

use serde_json::Value;

use crate::dataset::{files, store};
use crate::error::{Error, Result};

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
///
/// # Errors
/// Returns an error if the file exists and cannot be read, or is not JSON.
pub(crate) fn of_directory(folder: &Path) -> Result<Option<Value>> {
    let path = folder.join(NOTE);
    let Some(text) = files::read_if_present(&path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::failed(format!("{} is damaged: {error}", path.display())).hint(
            "write the output again; without the file, it is read as the work of another program",
        )
    })
}
