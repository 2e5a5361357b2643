//! Verifies a dataset of trajmill: the work behind `trajmill validate` and `trajmill info
//! --verify`.

use std::path::Path;

use rayon::prelude::*;

use crate::dataset::{Dataset, FileEntry};
use crate::error::{Error, Result};
use crate::inspect::{Findings, Steps};
use crate::transfer::write::{OutgoingDataset, WriteOptions};

/// Every file of `dataset`, with the error if its length or hash is not the one in the manifest.
pub fn files(dataset: &Dataset) -> Vec<(&FileEntry, Result<()>)> {
    let files: Vec<&FileEntry> = dataset
        .manifest
        .shards
        .iter()
        .flat_map(|shard| [&shard.steps, &shard.trajectories])
        .collect();
    files
        .into_par_iter()
        .map(|file| (file, dataset.verify_file(file)))
        .collect()
}

/// Verifies every file of the dataset at `path` against its hash, and then every step against the
/// rules that all loaders share.
///
/// # Errors
/// Returns an error if a file whose hash is right cannot be read.
pub fn dataset(path: &Path) -> Result<Findings> {
    let mut findings = Findings::default();
    let dataset = match Dataset::open(path) {
        Ok(dataset) => dataset,
        Err(error) => {
            findings.error("unreadable", path.display().to_string(), error.to_string());
            return Ok(findings);
        }
    };
    for (file, verified) in files(&dataset) {
        if let Err(Error { message, .. }) = verified {
            findings.error("checksum", &file.path, message);
        }
    }
    if findings.errors > 0 {
        return Ok(findings);
    }
    let mut steps = Steps::default();
    let outgoing = OutgoingDataset::new(dataset, true, &WriteOptions::default())?;
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        findings.trajectories += 1;
        findings.rows += leaving.steps.num_rows() as u64;
        steps.add(
            &format!("trajectory {}", leaving.index),
            &leaving.steps,
            &mut findings,
        )?;
    }
    steps.finish(&mut findings);
    Ok(findings)
}
