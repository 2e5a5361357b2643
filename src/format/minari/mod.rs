//! Minari: a directory with `data/metadata.json` and either one HDF5 file with a group per episode, or a folder per
//! episode with an Arrow or Parquet file. Observations have one row more than actions.
//!
//! Written as HDF5. Where the observation after the last action is not known, the last one stands there; what is lost by
//! it, and the identity of trajectories, is in the attribute `trajmill` of each episode.

mod episode_tables;
mod read;
mod spaces;
mod validate;
mod write;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::Reader;
use crate::transfer::write::Writer;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "minari",
    about: "Minari: a directory with data/metadata.json; HDF5, Arrow or Parquet inside; written as HDF5",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| data(path).is_some(),
    }),
    read: Some(Reader {
        takes: &[],
        open: read::read,
    }),
    write: Some(Writer {
        nulls: false,
        takes: &["name", "env"],
        write: write::write,
        note: None,
    }),
    validate: Some(validate::validate),
};

/// What the dataset and, in some backends, each episode says of itself.
const METADATA: &str = "metadata.json";

/// The file of the HDF5 backend, and what our own files keep in metadata and attributes.
const MAIN: &str = "main_data.hdf5";

const OURS: &str = "trajmill";

/// Where the metadata may be: in the dataset's `data`, or in the directory that is itself called so.
fn folders_of(path: &Path) -> [PathBuf; 2] {
    [path.join("data"), path.to_owned()]
}

/// The folder with the metadata of a Minari dataset.
fn data(path: &Path) -> Option<PathBuf> {
    folders_of(path).into_iter().find(|folder| {
        let metadata = std::fs::read_to_string(folder.join(METADATA)).ok();
        let metadata = metadata.and_then(|text| spaces::parse(&text).ok());
        metadata.is_some_and(|metadata| {
            metadata.get("data_format").is_some() || metadata.get("total_episodes").is_some()
        })
    })
}

/// The JSON object in the file at `path`.
fn object(path: &Path) -> Result<Map<String, Value>> {
    let damaged = |what: String| {
        Error::failed(what).hint("the dataset is not whole: download or write it again")
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| damaged(format!("cannot read {}: {error}", path.display())))?;
    match spaces::parse(&text)
        .map_err(|error| damaged(format!("{}: {}", path.display(), error.message)))?
    {
        Value::Object(object) => Ok(object),
        _ => Err(damaged(format!("{} is not a JSON object", path.display()))),
    }
}
