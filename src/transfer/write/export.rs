//! Writes a dataset in another format.

use std::path::{Path, PathBuf};

use super::{REWARD_VALID, Watch};
use crate::dataset::{Dataset, files, store};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::note;
use crate::transfer::write::{OutgoingDataset, WriteOptions, Writer, Written};

/// Writes `dataset` to the path `to`, a place where nothing is and from which the caller publishes it by a rename;
/// what it says of its origin (`options.note`) goes into the file, or into a hidden file of the directory. `watch` is told of
/// every passage through the dataset.
///
/// # Errors
/// Where the format cannot hold the dataset, the dataset cannot be read, files cannot be written or `watch` wants it to end.
pub fn export(
    writer: &Writer,
    dataset: Dataset,
    to: &Path,
    options: &WriteOptions,
    watch: Watch,
) -> Result<Written> {
    let place = dataset.path.display().to_string();
    let outgoing = OutgoingDataset::watched(dataset, writer.nulls, options, watch)
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
    if files::is_dir(to)? {
        note::write(to, &options.note)?;
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
    for path in files::list(folder).map_err(failed)? {
        if files::is_dir(&path)? {
            found.push(path);
        }
    }
    Ok(found)
}
