//! Every path and file name of a dataset, and of what a run leaves beside it until it is done.
//!
//! ```text
//! out/NAME/                    the dataset
//! out/.NAME.staging/           one run's work, on the same file system; gone when the run is done
//!   lock                       held while a run works here; says who
//!   KEY/journal.jsonl          one line per finished task, written after the task's files are durable
//!   KEY/output                 the dataset in a foreign format, where that is what is wanted
//!   KEY/dataset/               becomes out/NAME in one rename, or is read by the next phase; KEY is the fingerprint's
//! ```

use std::path::{Path, PathBuf};

/// The manifest's path in a dataset.
pub fn manifest(dataset: &Path) -> PathBuf {
    dataset.join("dataset.json")
}

/// Name of a shard of steps, relative to the dataset.
pub fn steps(shard: usize) -> String {
    format!("steps/{shard:05}.parquet")
}

/// Name of a shard of trajectories, relative to the dataset.
pub fn trajectories(shard: usize) -> String {
    format!("trajectories/{shard:05}.parquet")
}

/// The staging directory of the output `path`: a hidden sibling, on the same file system.
pub fn staging(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.staging"))
}

/// Where work towards the result with the fingerprint `key` is kept in a staging directory.
pub fn work(staging: &Path, key: &str) -> PathBuf {
    staging.join(&key[..key.len().min(16)])
}

/// The folder that `path` is in.
pub fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
