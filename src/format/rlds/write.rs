//! Writes RLDS datasets: a directory that `tfds.builder_from_directory` loads, one record per
//! episode.
//!
//! The last step holds the final observation, if it is known, with zeros for action and reward. For
//! each step, `is_final` says whether it is such a step and `action_valid` whether it has an
//! action.

use std::path::Path;

use serde_json::json;

use super::encode::record;
use super::features::{LeafFeature, document};
use super::step_features::{Gaps, episode_features, step_features};
use crate::container::tfrecord::{self};
use crate::dataset::schema::{self, trajectory};
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, WriteOptions, Written};

/// The size of the steps in a file, measured in memory, that is aimed at.
const SHARD_BYTES: u64 = 256 << 20;

/// The version of the dataset, which TFDS requires.
const VERSION: &str = "1.0.0";

/// The name of the only split.
const SPLIT: &str = "train";

/// Writes an RLDS dataset to `path`.
pub(crate) fn write(
    outgoing: &OutgoingDataset,
    path: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    let mut written = Written::default();
    let gaps = Gaps::find(outgoing)?;
    let features = step_features(outgoing, &gaps, &mut written)?;
    let about = episode_features(outgoing, &gaps, &mut written)?;
    let name = match (&options.name, outgoing.pass(Some(&[]))?.next().transpose()?) {
        (Some(name), _) => name.clone(),
        (None, Some(first)) => first
            .text(trajectory::SOURCE)
            .unwrap_or("dataset")
            .to_owned(),
        (None, None) => {
            return Err(Error::failed("there is no trajectory to write")
                .hint("loosen the filters: a split of TFDS cannot be empty"));
        }
    };
    let name = identifier(&name);
    store::create_dir(path)?;
    let bytes = outgoing
        .rows()
        .saturating_mul(schema::row_bytes(outgoing.steps()) as u64);
    let shards = (bytes.div_ceil(SHARD_BYTES)).clamp(1, outgoing.trajectories().max(1));
    let mut lengths = vec![0_u64; shards as usize];
    let mut total = 0;
    let mut open: Option<(u64, HashingFile)> = None;
    for trajectory in outgoing.pass(None)? {
        let trajectory = trajectory?;
        let shard = (u128::from(trajectory.index) * u128::from(shards)
            / u128::from(outgoing.trajectories().max(1))) as u64;
        if open.as_ref().is_none_or(|(at, _)| *at != shard) {
            if let Some((_, file)) = open.take() {
                file.finish()?;
            }
            let file = path.join(format!("{name}-{SPLIT}.tfrecord-{shard:05}-of-{shards:05}"));
            open = Some((shard, HashingFile::create(&file)?));
        }
        let record = record(&trajectory, &features, &about);
        let record = record.map_err(|error| {
            error.at(format!(
                "trajectory {}",
                trajectory
                    .text(trajectory::SOURCE_KEY)
                    .unwrap_or("without a key")
            ))
        })?;
        if let Some((_, file)) = &mut open {
            total +=
                tfrecord::write(file, &record).map_err(|error| Error::failed(error.to_string()))?;
        }
        lengths[shard as usize] += 1;
    }
    if let Some((_, file)) = open {
        file.finish()?;
    }
    let leaves: Vec<LeafFeature> = features
        .iter()
        .map(|feature| feature.leaf.clone())
        .collect();
    let about: Vec<LeafFeature> = about.iter().map(|feature| feature.leaf.clone()).collect();
    let info = json!({
        "name": name,
        "version": VERSION,
        "fileFormat": "tfrecord",
        "moduleName": "trajmill",
        "releaseNotes": {VERSION: "Written by trajmill."},
        "description": "Episodes as steps (RLDS). `is_final` marks a step that holds only the \
                 observation after the last action; `action_valid` a step whose action is known.",
        "splits": [{
            "name": SPLIT,
            "numBytes": total.to_string(),
            "shardLengths": lengths.iter().map(u64::to_string).collect::<Vec<_>>(),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }],
    });
    for (file, value) in [
        ("features.json", document(&leaves, &about)),
        ("dataset_info.json", info),
    ] {
        let mut bytes = serde_json::to_vec_pretty(&value)
            .map_err(|error| Error::failed(format!("cannot write {file}: {error}")))?;
        bytes.push(b'\n');
        store::write(&path.join(file), &bytes)?;
    }
    Ok(written)
}

/// Returns a name as TFDS accepts it: lower-case letters, digits and underscores, a letter first.
fn identifier(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect();
    if name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name
    } else {
        format!("d_{name}")
    }
}
