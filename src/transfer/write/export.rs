//! Writes a dataset in a foreign format, and finds again what a written one says of its origin.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::outgoing::{REWARD_VALID, Watch};
use super::{FORMATS, Format, Outgoing, WriteOptions, Written};
use crate::dataset::{Dataset, store};
use crate::error::{Error, Result, nearest};

/// What a directory of a foreign format says of its origin; hidden, so that loaders that list files pass over it.
const NOTE: &str = ".trajmill.json";

/// The format `name` that can be written.
///
/// # Errors
/// Where there is none; the hint names those that there are.
pub fn writable(name: &str) -> Result<&'static Format> {
    let known: Vec<&str> = FORMATS
        .iter()
        .filter(|format| format.write.is_some())
        .map(|format| format.name)
        .collect();
    FORMATS
        .iter()
        .find(|format| format.name == name && format.write.is_some())
        .ok_or_else(|| {
            let hint = nearest(name, known.iter().copied()).map_or_else(
                || format!("one of {}", known.join(", ")),
                |meant| format!("did you mean `{meant}`?"),
            );
            Error::usage(format!("`{name}` is not a format that can be written")).hint(hint)
        })
}

/// An option that is given and means nothing to the format.
///
/// # Errors
/// Where there is one.
pub fn check(format: &Format, options: &WriteOptions) -> Result<()> {
    let takes = format.write.as_ref().map_or(&[][..], |writer| writer.takes);
    let given = [
        ("name", options.name.is_some()),
        ("env", options.env.is_some()),
        ("fps", options.fps.is_some()),
        ("robot", options.robot.is_some()),
        ("task", options.task.is_some()),
    ];
    format.takes(
        takes,
        given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(name, _)| *name),
    )
}

/// Writes `dataset` to the path `to`, a place where nothing is and from which the caller publishes it by a rename;
/// what it says of its origin (`options.note`) goes into the file, or into a hidden file of the directory. `watch` is told of
/// every passage through the dataset.
///
/// # Errors
/// Where the format cannot hold the dataset, the dataset cannot be read, files cannot be written or `watch` wants it to end.
pub fn export(
    format: &Format,
    dataset: Dataset,
    to: &Path,
    options: &WriteOptions,
    watch: Watch,
) -> Result<Written> {
    check(format, options)?;
    let writer = format
        .write
        .as_ref()
        .ok_or_else(|| Error::usage(format!("`{}` is a format that is only read", format.name)))?;
    let place = dataset.path.display().to_string();
    let outgoing = Outgoing::watched(dataset, writer.nulls, options, watch)
        .map_err(|error| error.at(&place))?;
    if outgoing.trajectories() == 0 {
        return Err(
            Error::failed(format!("{place}: there is no trajectory to write"))
                .hint("a loader has no use for an empty dataset"),
        );
    }
    let mut written = (writer.write)(&outgoing, to, options).map_err(|error| error.at(&place))?;
    if outgoing.steps().column_with_name(REWARD_VALID).is_some() {
        written.moved(
            "which rewards are missing",
            format!("`{REWARD_VALID}`; NaN or zero stands in their place"),
        );
    }
    if to.is_dir() {
        store::write(&to.join(NOTE), options.note.as_bytes())?;
        let mut folders = vec![to.to_owned()];
        while let Some(folder) = folders.pop() {
            store::sync_dir(&folder)?;
            folders.extend(subfolders(&folder)?);
        }
    }
    Ok(written)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// What the output at `path` says of its origin; `None` where it is not one of ours.
pub fn note(path: &Path) -> Option<Value> {
    if path.is_dir() {
        return serde_json::from_slice(&std::fs::read(path.join(NOTE)).ok()?).ok();
    }
    let text = FORMATS
        .iter()
        .filter_map(|format| format.write.as_ref()?.note)
        .find_map(|note| note(path))?;
    serde_json::from_str(&text).ok()
}
