//! Every path and file name of a dataset and of the staging directory beside it.
//!
//! ```text
//! out/NAME/                the dataset
//! out/.NAME.staging/       the work of one run, on the same file system; removed when it is done
//!   lock                   held while a run works here; names the holder
//!   KEY/journal.jsonl      one line per finished task, written after its files are durable
//!   KEY/output             the result in a foreign format, if the output is one
//!   KEY/dataset/           becomes out/NAME in one rename, or is read by the next phase
//! ```
//!
//! KEY is the beginning of the result's fingerprint.

use std::path::{Path, PathBuf};

/// Returns the path of a dataset's manifest.
pub fn manifest(dataset: &Path) -> PathBuf {
    dataset.join("dataset.json")
}

/// Returns the path of a shard's file of steps, relative to the dataset.
pub fn steps(shard: usize) -> String {
    format!("steps/{shard:05}.parquet")
}

/// Returns the path of a shard's file of trajectories, relative to the dataset.
pub fn trajectories(shard: usize) -> String {
    format!("trajectories/{shard:05}.parquet")
}

/// Returns the staging directory of the output `path`: a hidden sibling, on the same file system.
pub fn staging(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.staging"))
}

/// Returns the directory in `staging` that holds the work towards the result with the fingerprint
/// `key`.
pub fn work(staging: &Path, key: &str) -> PathBuf {
    staging.join(&key[..key.len().min(16)])
}

/// Returns the folder that contains `path`.
pub fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
