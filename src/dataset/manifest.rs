//! `dataset.json`: what the dataset holds and where it comes from.
//!
//! Its bytes depend on the inputs, the pipeline and the tool alone: no clock, host or path of a machine is in it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the dataset format that this build writes; it reads this one and older ones.
pub const VERSION: u32 = 1;

/// Name and version of this tool.
pub const TOOL: &str = concat!("trajmill ", env!("CARGO_PKG_VERSION"));

/// What `dataset.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the dataset format.
    pub trajmill: u32,
    /// Name and version of the tool that wrote the dataset.
    pub tool: String,
    /// Content key of all that the dataset depends on.
    pub fingerprint: String,
    /// Columns of `steps`, in order.
    pub columns: Vec<Column>,
    /// Totals over the dataset.
    pub statistics: Statistics,
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
    /// Where the dataset comes from.
    pub lineage: Lineage,
}

/// One column of `steps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Arrow type in memory, as Arrow prints it.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Number of elements of a vector column: nullable vectors are plain lists in the file, so their width is kept here.
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
    /// Steps: rows that are not final observations.
    pub steps: u64,
    /// Steps whose action came with the data.
    pub recorded_actions: u64,
    /// Steps whose action a model predicted.
    pub proxy_actions: u64,
    /// Trajectories whose every action was recorded.
    pub labelled: u64,
    /// Trajectories that ended in a terminal state.
    pub terminated: u64,
    /// Trajectories that were cut off.
    pub truncated: u64,
    /// Smallest, summed and largest undiscounted return; `None` where no trajectory has a reward.
    pub returns: Option<Returns>,
}

/// The spread of trajectories' returns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Returns {
    /// Trajectories that have a return.
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

/// Numbers that may be what JSON has no numbers for, as rewards may be: these are texts, `NaN`, `inf` and `-inf`.
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
    /// Adds another shard's totals.
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

/// One shard: a file of steps and the file of its trajectories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// The file of steps.
    pub steps: FileEntry,
    /// The file of trajectories.
    pub trajectories: FileEntry,
    /// Totals over the shard.
    pub statistics: Statistics,
}

/// One file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the dataset.
    pub path: String,
    /// Rows.
    pub rows: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// blake3 of the file, in hexadecimal.
    pub blake3: String,
}

/// Where a dataset comes from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// What made the dataset: `run` or `import`.
    pub by: String,
    /// Text of the pipeline file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pipeline: Option<String>,
    /// Parameters the pipeline ran with.
    #[serde(default)]
    pub params: serde_json::Map<String, serde_json::Value>,
    /// Everything the fingerprint covers, by name: sources, stages, models, runtime.
    pub inputs: BTreeMap<String, String>,
    /// Rows and trajectories through each stage.
    #[serde(default)]
    pub stages: Vec<serde_json::Value>,
    /// Model runtime, its version and the device, where a model ran.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub runtime: Option<serde_json::Value>,
    /// What the source said of itself, verbatim.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", default)]
    pub source_metadata: serde_json::Map<String, serde_json::Value>,
    /// Trajectories of the sources that were bad and are not in the dataset; `quarantine.jsonl` beside the manifest says why.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub set_aside: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Where the text is not a manifest, or of a format newer than [`VERSION`].
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Versioned {
            trajmill: u32,
        }
        let versioned: Versioned = serde_json::from_slice(bytes)
            .map_err(|error| Error::failed(format!("not a dataset manifest: {error}")))?;
        if versioned.trajmill > VERSION {
            return Err(Error::failed(format!(
                "dataset format {} is newer than this build's {VERSION}",
                versioned.trajmill
            ))
            .hint("update trajmill to read it"));
        }
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|error| Error::failed(format!("damaged dataset manifest: {error}")))?;
        manifest.check_files()?;
        Ok(manifest)
    }

    /// A manifest, which may come from anywhere, names files of its own dataset alone, each once.
    fn check_files(&self) -> Result<()> {
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
                return Err(Error::failed(format!("the manifest lists `{}`, which is not in the dataset", file.path))
                    .hint("a dataset's files lie in its own directory: correct `path`, or import the files"));
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

    /// The text of `dataset.json`.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::failed(format!("cannot write the manifest: {error}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
