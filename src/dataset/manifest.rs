//! `dataset.json`: the content of a dataset and its origin.
//!
//! Its bytes depend only on the inputs, the pipeline and the tool. It contains no time, host name
//! or path of a machine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::account::Account;
use super::ancestry::{Ancestor, Ancestry};
use crate::error::wording::number;
use crate::error::{Error, Result};

/// The version of the dataset format that this build writes. It also reads older versions.
pub const VERSION: u32 = 1;

/// The name and version of this tool.
pub(crate) const TOOL: &str = concat!("trajmill ", env!("CARGO_PKG_VERSION"));

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
    /// The videos in the dataset's directory, in the order of their paths: exactly those that rows
    /// refer to. References to other files are relative to the source. Older versions had no
    /// videos of their own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub videos: Vec<VideoEntry>,
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
    /// Steps with an action that an expression computed.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub derived_actions: u64,
    /// Steps with an action that a correction set.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub patched_actions: u64,
    /// Trajectories whose actions are all recorded.
    pub labelled: u64,
    /// Trajectories in which every step has an action. Older versions did not record it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub has_actions: Option<u64>,
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
    /// Returns the number of steps with an action.
    pub fn actions(&self) -> u64 {
        self.recorded_actions + self.proxy_actions + self.derived_actions + self.patched_actions
    }

    /// Returns the number of steps without an action.
    pub fn missing_actions(&self) -> u64 {
        self.steps.saturating_sub(self.actions())
    }

    /// Returns the number of trajectories in which every step has an action, which older versions
    /// recorded only in special cases: `None` in any other.
    pub fn with_actions(&self) -> Option<u64> {
        let all = (self.missing_actions() == 0).then_some(self.trajectories);
        let recorded = (self.actions() == self.recorded_actions).then_some(self.labelled);
        self.has_actions.or(all).or(recorded)
    }

    /// Says how many actions there are from each source: `3 recorded, 2 proxy`. Sources that are
    /// rare are named only where there are some.
    pub(crate) fn sources(&self) -> String {
        let rare = [
            (self.derived_actions, "derived"),
            (self.patched_actions, "patched"),
        ];
        let rare = rare.into_iter().filter(|(n, _)| *n > 0);
        [
            (self.recorded_actions, "recorded"),
            (self.proxy_actions, "proxy"),
        ]
        .into_iter()
        .chain(rare)
        .map(|(n, source)| format!("{} {source}", number(n)))
        .collect::<Vec<_>>()
        .join(", ")
    }

    /// Adds the totals of another shard.
    pub fn add(&mut self, other: &Statistics) {
        self.has_actions = match (self.has_actions, other.has_actions) {
            (Some(a), Some(b)) => Some(a + b),
            (None, of_other) if self.trajectories == 0 => of_other,
            (own, None) if other.trajectories == 0 => own,
            _ => None,
        };
        self.rows += other.rows;
        self.trajectories += other.trajectories;
        self.steps += other.steps;
        self.recorded_actions += other.recorded_actions;
        self.proxy_actions += other.proxy_actions;
        self.derived_actions += other.derived_actions;
        self.patched_actions += other.patched_actions;
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

/// A video of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VideoEntry {
    /// Path relative to the dataset: see [`layout::video`](super::layout::video).
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// The blake3 hash of the file, in hexadecimal.
    pub blake3: String,
}

impl VideoEntry {
    /// Returns the video as a file without rows.
    pub(crate) fn file(&self) -> FileEntry {
        FileEntry {
            path: self.path.clone(),
            rows: 0,
            bytes: self.bytes,
            blake3: self.blake3.clone(),
        }
    }
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
    /// The datasets that the dataset was made from. Older versions did not record them.
    #[serde(skip_serializing_if = "Ancestry::is_empty", default)]
    pub ancestry: Ancestry,
    /// The source's own metadata, verbatim.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", default)]
    pub source_metadata: serde_json::Map<String, serde_json::Value>,
    /// What became of the rows, columns and files of the foreign sources.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub imports: Vec<Account>,
    /// Number of bad trajectories of the sources that are not in the dataset. `quarantine.jsonl`
    /// beside the manifest lists them with reasons.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub set_aside: u64,
    /// The blake3 hash of `quarantine.jsonl`, in hexadecimal. Older versions did not record it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quarantine: Option<String>,
}

impl Lineage {
    /// Returns what the lineage tells the datasets that are made from this one. `tool` is the name
    /// and version of the tool that wrote this one.
    pub(crate) fn ancestor(&self, tool: &str) -> Ancestor {
        Ancestor {
            tool: tool.to_owned(),
            by: self.by.clone(),
            inputs: self.inputs.clone(),
            sources: self.ancestry.sources.clone(),
        }
    }
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
        verify_checksum(bytes)?;
        Ok(manifest)
    }

    /// Returns whether the bytes are a manifest. A damaged manifest counts.
    pub fn is_one(bytes: &[u8]) -> bool {
        keys(bytes).is_ok_and(|keys| keys.contains_key("trajmill"))
    }

    /// Returns whether the text of a manifest has a checksum. Older versions did not write one.
    pub fn has_checksum(bytes: &[u8]) -> bool {
        keys(bytes).is_ok_and(|keys| keys.contains_key(CHECKSUM))
    }

    /// Verifies that the manifest, which may come from anywhere, lists only files of its
    /// own dataset, each once.
    fn verify_paths(&self) -> Result<()> {
        let mut seen = HashSet::new();
        let tables = self
            .shards
            .iter()
            .flat_map(|shard| [&shard.steps.path, &shard.trajectories.path]);
        for path in tables.chain(self.videos.iter().map(|video| &video.path)) {
            let parts: Vec<&str> = Path::new(path)
                .components()
                .filter_map(|part| match part {
                    Component::Normal(name) => name.to_str(),
                    _ => None,
                })
                .collect();
            // A path has one spelling, so that no file is listed under two names.
            let within = parts.join("/") == *path;
            if path.is_empty() || !within {
                return Err(Error::failed(format!(
                    "the manifest lists `{path}`, which lies outside the dataset"
                ))
                .hint("correct `path` to a file in the dataset's directory, or import the files"));
            }
            if !seen.insert(path) {
                return Err(Error::failed(format!("the manifest lists `{path}` twice"))
                    .hint("remove the second entry"));
            }
        }
        if !self.videos.is_sorted_by_key(|video| &video.path) {
            return Err(Error::failed(
                "the manifest lists the videos in another order than that of their paths",
            )
            .hint("sort `videos` by `path`"));
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
        bytes.truncate(bytes.len() - END.len());
        let end = end(&bytes);
        bytes.extend(end.into_bytes());
        Ok(bytes)
    }
}

/// The key of the checksum, the last key of the manifest. Older versions ignore it.
const CHECKSUM: &str = "checksum";
/// The end of a manifest without a checksum.
const END: &str = "\n}";

/// Returns the end of the manifest that begins with `start`: the checksum of `start`.
fn end(start: &[u8]) -> String {
    format!(
        ",\n  \"{CHECKSUM}\": \"{}\"\n}}\n",
        blake3::hash(start).to_hex()
    )
}

/// Returns the top-level keys of a manifest.
fn keys(bytes: &[u8]) -> Result<HashMap<String, IgnoredAny>> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::failed(format!("this is not a dataset manifest: {error}")))
}

/// Verifies the text of a manifest against its checksum, if it has one.
fn verify_checksum(bytes: &[u8]) -> Result<()> {
    /// The keys of manifests without a checksum.
    const OLD: [&str; 7] = [
        "trajmill",
        "tool",
        "fingerprint",
        "columns",
        "statistics",
        "shards",
        "lineage",
    ];
    let keys = keys(bytes)?;
    let is_right = if keys.contains_key(CHECKSUM) {
        let start = bytes.len().saturating_sub(end(&[]).len());
        bytes[start..] == *end(&bytes[..start]).as_bytes()
    } else {
        // An unknown key is a damaged `checksum`: versions that know more keys write a checksum.
        keys.keys().all(|key| OLD.contains(&key.as_str()))
    };
    if is_right {
        return Ok(());
    }
    Err(
        Error::failed("the manifest is damaged: its bytes do not match its checksum")
            .hint("restore dataset.json from a copy, or make the dataset again")
            .hint(format!(
                "if you changed it on purpose, remove the key `{CHECKSUM}` at its end"
            )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            trajmill: VERSION,
            tool: TOOL.to_owned(),
            fingerprint: "f".to_owned(),
            columns: Vec::new(),
            statistics: Statistics::default(),
            shards: Vec::new(),
            videos: Vec::new(),
            lineage: Lineage::default(),
        }
    }

    #[test]
    fn every_flipped_bit_of_a_manifest_is_an_error() {
        let bytes = manifest().to_bytes().unwrap();
        Manifest::parse(&bytes).unwrap();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(Manifest::parse(&flipped).is_err(), "bit {at}");
        }
        for length in 0..bytes.len() {
            assert!(Manifest::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_manifest_without_a_checksum_is_an_old_one() {
        let mut old = serde_json::to_vec_pretty(&manifest()).unwrap();
        old.push(b'\n');
        Manifest::parse(&old).unwrap();
        assert!(!Manifest::has_checksum(&old));
        assert!(Manifest::has_checksum(&manifest().to_bytes().unwrap()));
    }

    #[test]
    fn a_path_has_one_spelling() {
        let entry = |path: &str| FileEntry {
            path: path.to_owned(),
            rows: 0,
            bytes: 0,
            blake3: String::new(),
        };
        for (path, is_right) in [
            ("steps/00000.parquet", true),
            ("steps//00000.parquet", false),
            ("./steps/00000.parquet", false),
            ("steps/./00000.parquet", false),
            ("steps/../steps/00000.parquet", false),
            ("steps/00000.parquet/", false),
            ("/steps/00000.parquet", false),
            ("", false),
        ] {
            let mut manifest = manifest();
            manifest.shards.push(ShardEntry {
                steps: entry(path),
                trajectories: entry("trajectories/00000.parquet"),
                statistics: Statistics::default(),
            });
            let bytes = manifest.to_bytes().unwrap();
            assert_eq!(Manifest::parse(&bytes).is_ok(), is_right, "{path:?}");
        }
    }
}
