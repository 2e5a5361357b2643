//! `dataset.json`: the content of a dataset and its origin.
//!
//! Its bytes depend only on the inputs, the pipeline and the tool. It contains no time, host name
//! or path of a machine.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the dataset format that this build writes. It also reads older versions.
pub const VERSION: u32 = 1;

/// The name and version of this tool.
pub const TOOL: &str = concat!("trajmill ", env!("CARGO_PKG_VERSION"));

/// The content of `dataset.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the dataset format.
    pub trajmill: u32,
    /// Name and version of the tool that wrote the dataset.
    pub tool: String,
    /// Hash of everything that the dataset depends on.
    pub fingerprint: String,
    /// Columns of `steps`, in order.
    pub columns: Vec<Column>,
    /// Totals over the dataset.
    pub statistics: Statistics,
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
    /// The origin of the dataset.
    pub lineage: Lineage,
}

/// One column of `steps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Type in memory, in Arrow's notation.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Number of elements of a vector column. The file does not tell it where vectors are nullable,
    /// because they are plain lists there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub width: Option<i32>,
    /// Whether values may be null.
    pub nullable: bool,
}

/// Totals over a dataset or a shard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Rows of `steps`, final observations included.
    pub rows: u64,
    /// Rows of `trajectories`.
    pub trajectories: u64,
    /// Steps, that is, rows that are not final observations.
    pub steps: u64,
    /// Steps with a recorded action.
    pub recorded_actions: u64,
    /// Steps with an action that a model predicted.
    pub proxy_actions: u64,
    /// Trajectories whose actions are all recorded.
    pub labelled: u64,
    /// Trajectories that ended in a terminal state.
    pub terminated: u64,
    /// Trajectories that were cut off.
    pub truncated: u64,
    /// Undiscounted returns; `None` if no trajectory has a reward.
    pub returns: Option<Returns>,
}

/// Summary of the trajectories' undiscounted returns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Returns {
    /// Trajectories with a return.
    pub count: u64,
    /// Smallest return.
    #[serde(with = "any_number")]
    pub min: f64,
    /// Sum of returns.
    #[serde(with = "any_number")]
    pub sum: f64,
    /// Largest return.
    #[serde(with = "any_number")]
    pub max: f64,
}

/// Numbers that may not be finite. JSON cannot express these, so they are written as texts: `NaN`,
/// `inf` and `-inf`.
mod any_number {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if number.is_finite() {
            serializer.serialize_f64(*number)
        } else {
            serializer.collect_str(number)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(number),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

impl Statistics {
    /// Adds the totals of another shard.
    pub fn add(&mut self, other: &Statistics) {
        self.rows += other.rows;
        self.trajectories += other.trajectories;
        self.steps += other.steps;
        self.recorded_actions += other.recorded_actions;
        self.proxy_actions += other.proxy_actions;
        self.labelled += other.labelled;
        self.terminated += other.terminated;
        self.truncated += other.truncated;
        self.returns = match (self.returns, other.returns) {
            (Some(a), Some(b)) => Some(Returns {
                count: a.count + b.count,
                min: a.min.min(b.min),
                sum: a.sum + b.sum,
                max: a.max.max(b.max),
            }),
            (a, b) => a.or(b),
        };
    }
}

/// A shard: a file of steps and the file of their trajectories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// The file of steps.
    pub steps: FileEntry,
    /// The file of trajectories.
    pub trajectories: FileEntry,
    /// Totals over the shard.
    pub statistics: Statistics,
}

/// A file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the dataset.
    pub path: String,
    /// Number of rows.
    pub rows: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// The blake3 hash of the file, in hexadecimal.
    pub blake3: String,
}

/// The origin of a dataset.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// The command that created the dataset: `run` or `import`.
    pub by: String,
    /// The text of the pipeline file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pipeline: Option<String>,
    /// The parameters of the run.
    #[serde(default)]
    pub params: serde_json::Map<String, serde_json::Value>,
    /// Everything that the fingerprint covers, by name: sources, stages, models, runtime.
    pub inputs: BTreeMap<String, String>,
    /// Rows and trajectories before and after each stage.
    #[serde(default)]
    pub stages: Vec<serde_json::Value>,
    /// The model runtime, its version and its devices, if a model ran.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub runtime: Option<serde_json::Value>,
    /// The source's own metadata, verbatim.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", default)]
    pub source_metadata: serde_json::Map<String, serde_json::Value>,
    /// Number of bad trajectories of the sources that are not in the dataset. `quarantine.jsonl`
    /// beside the manifest lists them with reasons.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub set_aside: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// # Errors
    /// Returns an error if `bytes` is not a manifest, or if its format is newer than this build.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Versioned {
            trajmill: u32,
        }
        let versioned: Versioned = serde_json::from_slice(bytes)
            .map_err(|error| Error::failed(format!("this is not a dataset manifest: {error}")))?;
        if versioned.trajmill > VERSION {
            return Err(Error::failed(format!(
                "the dataset's format is version {}, and this build reads versions up to {VERSION}",
                versioned.trajmill
            ))
            .hint("update trajmill"));
        }
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|error| Error::failed(format!("the manifest is damaged: {error}")))?;
        manifest.verify_paths()?;
        Ok(manifest)
    }

    /// Verifies that the manifest, which may come from anywhere, lists only files of its
    /// own dataset, each once.
    fn verify_paths(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for file in self
            .shards
            .iter()
            .flat_map(|shard| [&shard.steps, &shard.trajectories])
        {
            let within = Path::new(&file.path)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if file.path.is_empty() || !within {
                return Err(Error::failed(format!(
                    "the manifest lists `{}`, which lies outside the dataset",
                    file.path
                ))
                .hint("correct `path` to a file in the dataset's directory, or import the files"));
            }
            if !seen.insert(&file.path) {
                return Err(
                    Error::failed(format!("the manifest lists `{}` twice", file.path))
                        .hint("remove the second entry"),
                );
            }
        }
        Ok(())
    }

    /// Returns the text of `dataset.json`.
    ///
    /// # Errors
    /// Returns an error if a field cannot be written as JSON, which does not happen in practice.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::failed(format!("cannot write the manifest: {error}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
