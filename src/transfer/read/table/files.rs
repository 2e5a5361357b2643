//! Finds the files of a table of text.

use std::path::{Path, PathBuf};

use crate::dataset::files;
use crate::error::{Error, Result};
use crate::transfer::read::pattern::natural;

/// The endings of names of compressed text files.
const COMPRESSED: [&str; 2] = [".gz", ".zst"];

/// Whether the name of the file at `path` has one of the extensions `kinds`, before the ending of a
/// compressed file if there is one.
fn is_named(path: &Path, kinds: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_lowercase();
    let name = COMPRESSED
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    name.rsplit_once('.')
        .is_some_and(|(_, extension)| kinds.contains(&extension))
}

/// Whether `path` is a file whose name has one of the extensions `kinds`, or a folder of nothing
/// but such files. Names that begin with a dot or an underscore are ignored.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn is_text_table(path: &Path, kinds: &[&str]) -> Result<bool> {
    if !files::is_dir(path)? {
        return Ok(is_named(path, kinds) && files::is_file(path)?);
    }
    let entries = visible(path)?;
    for entry in &entries {
        if !is_named(entry, kinds) || files::is_dir(entry)? {
            return Ok(false);
        }
    }
    Ok(!entries.is_empty())
}

/// Returns the files of the table at `path`: the file itself, or the files of the folder whose
/// names have one of the extensions `kinds`, in natural order.
///
/// # Errors
/// Returns an error if there is no such file, or if the folder holds anything else, which the
/// import would leave out.
pub(crate) fn text_files(path: &Path, kinds: &[&str]) -> Result<Vec<PathBuf>> {
    if !files::is_dir(path)? {
        return Ok(vec![path.to_owned()]);
    }
    let entries = visible(path)?;
    let listed = kinds.join(", ");
    for entry in &entries {
        if !is_named(entry, kinds) || files::is_dir(entry)? {
            return Err(Error::failed(format!(
                "{} is not a file of this format",
                entry.display()
            ))
            .hint(format!(
                "a folder is read as one table, so it may hold only files with the extensions \
                 {listed}: move other files elsewhere, or import one file"
            )));
        }
    }
    if entries.is_empty() {
        return Err(
            Error::failed(format!("there is no file in {}", path.display())).hint(format!(
                "files are found by the extensions {listed}; \
                 names that begin with `.` or `_` are ignored"
            )),
        );
    }
    Ok(entries)
}

/// Returns what is in `folder` in natural order, except names that begin with a dot or an
/// underscore.
fn visible(folder: &Path) -> Result<Vec<PathBuf>> {
    let name = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut entries = files::list(folder).map_err(|error| files::unreadable(folder, &error))?;
    entries.retain(|entry| !name(entry).starts_with(['.', '_']));
    entries.sort_by(|a, b| natural(&name(a), &name(b)));
    Ok(entries)
}
