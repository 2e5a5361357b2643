//! Writes a dataset in another format.

use std::path::{Path, PathBuf};

use super::{REWARD_VALID, Watch, absent_frames};
use crate::dataset::schema::step;
use crate::dataset::{Dataset, files, store};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::models::CODES;
use crate::transfer::roundtrip::note;
use crate::transfer::write::{OutgoingDataset, WriteOptions, Writer, Written};

/// Writes `dataset` to the path `to`, which does not exist, and from which the caller publishes the
/// output with a rename. The note of origin (`options.note`) is stored in the file, or in a hidden
/// file of the directory. `watch` observes every pass through the dataset.
///
/// # Errors
/// Returns an error if the format cannot hold the dataset, if the dataset cannot be read, if files
/// cannot be written, or if `watch` returns one. The caller adds the name of the output.
pub(crate) fn export(
    writer: &Writer,
    dataset: Dataset,
    to: &Path,
    options: &WriteOptions,
    watch: Watch,
) -> Result<Written> {
    let outgoing = OutgoingDataset::watched(dataset, writer.nulls, options, watch)?;
    let mut outgoing = outgoing.whole(writer.whole);
    if !writer.text {
        outgoing = outgoing.coded()?;
    }
    if outgoing.trajectories() == 0 {
        return Err(Error::failed("there is no trajectory to write")
            .hint("the dataset is empty, or no step has an action: check how it was made"));
    }
    let mut written = (writer.write)(&outgoing, to, options)?;
    if writer.whole.is_some() {
        absent_frames::report(&outgoing, &mut written)?;
    }
    if outgoing.steps().column_with_name(REWARD_VALID).is_some() {
        written.cannot_hold(
            "missing rewards",
            format!("NaN or zero, with `{REWARD_VALID}` false"),
        );
    }
    if outgoing.models().is_some() {
        written.cannot_hold(
            format!("`{}`", step::ACTION_MODEL),
            format!("numbers in `{CODES}`, which count the `models` of the envelope from 1"),
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
