//! Minari: a directory with `data/metadata.json`, and either one HDF5 file with a group for each
//! episode, or a folder for each episode with Arrow or Parquet files. There is one more observation
//! than actions.
//!
//! Only the HDF5 backend is written. If the observation after the last action is not known, the
//! last known one stands in its place. The attribute `trajmill` of each episode says so, and
//! identifies the trajectory.

mod episode_tables;
mod read;
mod spaces;
mod validate;
mod values;
mod write;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::dataset::files;
use crate::error::{Error, Result};
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;
use crate::transfer::write::Writer;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "minari",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| Ok(metadata_folder(path)?.is_some()),
    }),
    read: Some(Reader {
        takes: &[],
        open: read::read,
    }),
    write: Some(Writer {
        nulls: false,
        whole: Some(write::is_plain),
        text: true,
        takes: &["name", "env"],
        write: write::write,
        note: None,
    }),
    validate: Some(validate::validate),
};

/// The file that describes the dataset and, in some backends, each episode.
const METADATA: &str = "metadata.json";

/// The file of the HDF5 backend.
const MAIN_FILE: &str = "main_data.hdf5";

/// The key in metadata and attributes under which trajmill keeps what Minari has no place for.
const TRAJMILL: &str = "trajmill";

/// Returns the folders that may hold the metadata: `data` in the dataset, or that folder itself.
fn metadata_folders(path: &Path) -> [PathBuf; 2] {
    [path.join("data"), path.to_owned()]
}

/// Returns the folder with the metadata of a Minari dataset; `None` if `path` is no such dataset.
fn metadata_folder(path: &Path) -> Result<Option<PathBuf>> {
    for folder in metadata_folders(path) {
        let text = files::read_if_present(&folder.join(METADATA))?.unwrap_or_default();
        let metadata = spaces::parse(&String::from_utf8_lossy(&text));
        if metadata.is_ok_and(|metadata| {
            metadata.get("data_format").is_some() || metadata.get("total_episodes").is_some()
        }) {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

/// Reads the JSON object in the file at `path`.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let damaged = |what: String| {
        Error::failed(what).hint("the dataset is incomplete or damaged: download or write it again")
    };
    let text = files::read_to_string(path)
        .map_err(|error| damaged(format!("cannot read {}: {error}", path.display())))?;
    match spaces::parse(&text)
        .map_err(|error| damaged(format!("{}: {}", path.display(), error.message)))?
    {
        Value::Object(object) => Ok(object),
        _ => Err(damaged(format!("{}: not a JSON object", path.display()))),
    }
}
