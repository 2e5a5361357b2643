//! Every path and file name of a dataset and of the staging directory beside it.
//!
//! ```text
//! out/NAME/                the dataset
//! out/.NAME.staging/       the work of one run, on the same file system; removed when it is done
//!                          (`.START~HASH.staging` if `.NAME.staging` is too long for a name)
//!   lock                   held while a run works here; names the holder
//!   KEY/journal.jsonl      one line per finished task, written after its files are durable
//!   KEY/output             the result in a foreign format, if the output is one
//!   KEY/dataset/           becomes out/NAME in one rename, or is read by the next phase
//! ```
//!
//! KEY is the beginning of the result's fingerprint.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Returns the path of a dataset's manifest.
pub fn manifest(dataset: &Path) -> PathBuf {
    dataset.join("dataset.json")
}

/// Returns the path of a shard's file of steps, relative to the dataset.
pub(crate) fn steps(shard: usize) -> String {
    format!("steps/{shard:05}.parquet")
}

/// Returns the path of a shard's file of trajectories, relative to the dataset.
pub(crate) fn trajectories(shard: usize) -> String {
    format!("trajectories/{shard:05}.parquet")
}

/// Returns the path of a video, relative to the dataset. Files with the same content and the same
/// extension have the same path. `blake3` is the hash of the content in hexadecimal.
pub(crate) fn video(blake3: &str, extension: &str) -> String {
    let name = &blake3[..blake3.len().min(32)];
    if extension.is_empty() {
        format!("{VIDEOS}/{name}")
    } else {
        format!("{VIDEOS}/{name}.{extension}")
    }
}

/// The directory of a dataset's videos, relative to the dataset.
pub(crate) const VIDEOS: &str = "videos";

/// The most bytes that common file systems accept in a name.
pub(crate) const LONGEST_NAME: usize = 255;

/// Returns the staging directory of the output `path`: a hidden sibling, on the same file system.
pub(crate) fn staging(path: &Path) -> PathBuf {
    hidden(path, ".staging")
}

/// Returns the hidden sibling `.NAME` + `ending` of the file or directory NAME at `path`. If that
/// name is too long, it is `.START~HASH` + `ending`, with the start and the hash of NAME.
pub(crate) fn hidden(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    let room = LONGEST_NAME - ".".len() - ending.len();
    let mut hidden = OsString::from(".");
    if name.len() <= room {
        hidden.push(name);
    } else {
        let hash = &blake3::hash(name.as_encoded_bytes()).to_hex()[..16];
        let text = name.to_string_lossy();
        let start = text.floor_char_boundary(room - "~".len() - hash.len());
        hidden.push(format!("{}~{hash}", &text[..start]));
    }
    hidden.push(ending);
    path.with_file_name(hidden)
}

/// Returns the directory in `staging` that holds the work towards the result with the fingerprint
/// `key`.
pub(crate) fn work(staging: &Path, key: &str) -> PathBuf {
    staging.join(&key[..key.len().min(16)])
}

/// Returns the folder that contains `path`.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_hidden_name_is_never_too_long() {
        let hidden = |name: &str| {
            let hidden = hidden(&Path::new("out").join(name), ".staging");
            hidden.strip_prefix("out").unwrap().to_owned()
        };
        assert_eq!(hidden("hopper"), Path::new(".hopper.staging"));
        let mut seen = HashSet::new();
        for bytes in 1..=LONGEST_NAME {
            let hidden = hidden(&"n".repeat(bytes));
            let length = hidden.as_os_str().len();
            assert!(length == bytes + 9 || bytes > 246 && length == LONGEST_NAME);
            assert!(seen.insert(hidden));
        }
        for bytes in 120..=127 {
            assert!(hidden(&"\u{fc}".repeat(bytes)).as_os_str().len() <= LONGEST_NAME);
        }
        let other = |last: &str| hidden(&("n".repeat(250) + last));
        assert_ne!(other("a"), other("b"));
    }
}
