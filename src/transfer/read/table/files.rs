//! Finds the files of a table.

use std::path::{Path, PathBuf};

use crate::container::table::is_key;
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

/// The files of a table, and what else is in its folder.
pub(crate) struct Found {
    /// The files of the table, in natural order.
    pub(crate) files: Vec<PathBuf>,
    /// All other files, relative to the folder. They are left out.
    pub(crate) others: Vec<PathBuf>,
}

impl From<Vec<PathBuf>> for Found {
    fn from(files: Vec<PathBuf>) -> Found {
        Found {
            files,
            others: Vec::new(),
        }
    }
}

impl Found {
    /// Finds the files of the table at `path`: the file itself, or the files in the folder and its
    /// folders that `is_data` accepts. Names that begin with a dot or an underscore are ignored,
    /// unless a key of the table begins with the underscore.
    ///
    /// # Errors
    /// Returns an error if a folder cannot be read, or if the table has a log that says which of
    /// its files count.
    pub(crate) fn at(path: &Path, is_data: impl Fn(&Path) -> bool) -> Result<Found> {
        if !files::is_dir(path)? {
            return Ok(vec![path.to_owned()].into());
        }
        let mut found = Found::from(Vec::new());
        // The next folder or file last.
        let mut open = vec![path.to_owned()];
        while let Some(next) = open.pop() {
            if files::is_dir(&next)? {
                refuse_log(&next)?;
                open.extend(visible(&next)?.into_iter().rev());
            } else if is_data(&next) {
                found.files.push(next);
            } else {
                let relative = next.strip_prefix(path).unwrap_or(&next);
                found.others.push(relative.to_owned());
            }
        }
        Ok(found)
    }
}

/// Whether `path` is a folder of nothing but files that `is_data` accepts, and keys with such
/// folders.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn is_folder_of(path: &Path, is_data: impl Fn(&Path) -> bool) -> Result<bool> {
    let (mut open, mut any) = (vec![path.to_owned()], false);
    while let Some(folder) = open.pop() {
        if !files::is_dir(&folder)? {
            return Ok(false);
        }
        for entry in visible(&folder)? {
            if is_key(&name(&entry)) && files::is_dir(&entry)? {
                open.push(entry);
            } else if is_data(&entry) && files::is_file(&entry)? {
                any = true;
            } else {
                return Ok(false);
            }
        }
    }
    Ok(any)
}

/// Refuses `folder` if it is a table of another kind, whose log says which of its files count.
fn refuse_log(folder: &Path) -> Result<()> {
    let has = |name: &str| files::exists(&folder.join(name));
    let metadata = folder.join("metadata");
    let is_iceberg = || -> Result<bool> {
        let listed = match files::is_dir(&metadata)? {
            true => files::list(&metadata).map_err(|error| files::unreadable(&metadata, &error))?,
            false => Vec::new(),
        };
        Ok(listed
            .iter()
            .any(|path| name(path).ends_with(".metadata.json")))
    };
    let kind = if has("_delta_log")? {
        "a Delta Lake table"
    } else if has(".hoodie")? {
        "a Hudi table"
    } else if is_iceberg()? {
        "an Iceberg table"
    } else {
        return Ok(());
    };
    Err(Error::failed(format!(
        "{} is {kind}, and only its log says which of its files count",
        folder.display()
    ))
    .hint("write its current rows as plain Parquet files, and import these"))
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Returns what is in `folder` in natural order, except names that begin with a dot, or with an
/// underscore and are no keys.
fn visible(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = files::list(folder).map_err(|error| files::unreadable(folder, &error))?;
    entries.retain(|entry| {
        let name = name(entry);
        !name.starts_with('.') && (!name.starts_with('_') || is_key(&name))
    });
    entries.sort_by(|a, b| natural(&name(a), &name(b)));
    Ok(entries)
}
