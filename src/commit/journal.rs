//! The journal: a durable list of the tasks that a run has finished.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::{FileEntry, ShardEntry, files, store};
use crate::error::{Error, Result};

/// A finished task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finished {
    /// Index of the task and of its shard.
    pub task: usize,
    /// The shard that it wrote.
    pub shard: ShardEntry,
    /// Rows and trajectories through each transform, for the summary.
    pub flow: serde_json::Value,
    /// The paths of the videos that its rows refer to.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub videos: BTreeSet<String>,
}

/// The journal of a result: one line per finished task, each with its own checksum.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// The finished tasks, by index. Those of an earlier run are listed only if their files are
    /// there and whole.
    pub finished: BTreeMap<usize, Finished>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    blake3: String,
    finished: Finished,
}

fn checksum(finished: &Finished) -> Result<String> {
    let text = serde_json::to_string(finished)
        .map_err(|error| Error::failed(format!("cannot write the journal: {error}")))?;
    Ok(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned())
}

impl Journal {
    /// Opens the journal at `path`, which lists the finished shards of the directory `dataset`.
    pub(super) fn open(path: &Path, dataset: &Path) -> Result<Journal> {
        // A line that a crash cut off may not be valid text. It does not parse, and so does not
        // count.
        let bytes = files::read_if_present(path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut file = store::append(path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            // A crash cut off the last line: end it, so that the next one stands alone.
            store::append_line(&mut file, path, "")?;
        }
        let mut finished = BTreeMap::new();
        for line in text.lines() {
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            if checksum(&line.finished)? == line.blake3 && whole(dataset, &line.finished.shard) {
                finished.insert(line.finished.task, line.finished);
            }
        }
        Ok(Journal {
            path: path.to_owned(),
            file,
            finished,
        })
    }

    /// Records a finished task, whose files must be durable.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be written.
    pub(crate) fn record(&mut self, finished: Finished) -> Result<()> {
        let line = Line {
            blake3: checksum(&finished)?,
            finished,
        };
        let text = serde_json::to_string(&line)
            .map_err(|error| Error::failed(format!("cannot write the journal: {error}")))?;
        store::append_line(&mut self.file, &self.path, &text)?;
        self.finished.insert(line.finished.task, line.finished);
        Ok(())
    }
}

/// Whether the files of a shard have the lengths and hashes that the journal records.
fn whole(dataset: &Path, shard: &ShardEntry) -> bool {
    let same = |file: &FileEntry| {
        store::digest(&dataset.join(&file.path))
            .is_ok_and(|found| found.bytes == file.bytes && found.blake3 == file.blake3)
    };
    same(&shard.steps) && same(&shard.trajectories)
}
