//! `meta/info.json`: version, features, totals and path templates of a LeRobot dataset.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::files::{damaged, json};
use crate::error::{Error, Result};

/// The file, relative to the dataset.
pub(crate) const INFO: &str = "meta/info.json";

/// The key in a feature's `info` that says that its images were arrays of pixels.
pub(crate) const PIXELS: &str = "trajmill.pixels";

/// The split of all episodes that an export writes, because LeRobot's loader wants one.
pub(crate) const WRITTEN_SPLIT: &str = "train";

/// How episodes are distributed over data files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// v2.0 and v2.1: one file for each episode.
    PerEpisode,
    /// v3: several episodes in a file; `meta/episodes` says where each one is.
    Shared,
}

/// One feature of a frame, as `info.json` declares it.
#[derive(Debug, Clone)]
pub(crate) struct Feature {
    pub(crate) name: String,
    /// A numpy name, `string`, `image` or `video`.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Whether it is a depth video, whose pixels have more than 8 bits.
    pub(crate) depth: bool,
    /// Whether its images were arrays of pixels before trajmill encoded them.
    pub(crate) pixels: bool,
}

/// The contents of `meta/info.json`.
pub(crate) struct Info {
    pub(crate) root: PathBuf,
    pub(crate) version: String,
    pub(crate) layout: Layout,
    pub(crate) fps: f64,
    pub(crate) features: Vec<Feature>,
    pub(crate) total_episodes: u64,
    pub(crate) total_frames: u64,
    pub(crate) total_tasks: Option<u64>,
    pub(crate) chunks_size: u64,
    pub(crate) data_path: String,
    pub(crate) video_path: Option<String>,
    /// The name and the episodes of each split.
    pub(crate) splits: Vec<(String, std::ops::Range<u64>)>,
    /// The whole document.
    pub(crate) verbatim: Map<String, Value>,
}

impl Info {
    /// Reads `meta/info.json` of the dataset at `root`.
    pub(crate) fn open(root: &Path) -> Result<Info> {
        let path = root.join(INFO);
        let Value::Object(verbatim) = json(&path)? else {
            return Err(damaged(&path, "not a JSON object"));
        };
        Info::from(root, verbatim).map_err(|error| error.at(path.display()))
    }

    fn from(root: &Path, verbatim: Map<String, Value>) -> Result<Info> {
        let text = |key: &str| verbatim.get(key).and_then(Value::as_str).map(str::to_owned);
        let missing = |key: &str| {
            Error::failed(format!("`{key}` is missing or has the wrong type"))
                .hint("every LeRobot dataset has this key: fetch the dataset again")
        };
        let count = |key: &str| {
            verbatim
                .get(key)
                .and_then(Value::as_u64)
                .ok_or_else(|| missing(key))
        };
        let version = text("codebase_version").ok_or_else(|| missing("codebase_version"))?;
        let numbers: Vec<Option<u32>> = version
            .trim_start_matches('v')
            .split('.')
            .map(|part| part.parse().ok())
            .collect();
        let layout = match numbers.as_slice() {
            [Some(2), Some(0 | 1), ..] => Layout::PerEpisode,
            [Some(3), ..] => Layout::Shared,
            _ => {
                return Err(Error::failed(format!(
                    "`codebase_version` is {version}, but only v2.0, v2.1 and v3.0 are read"
                ))
                .hint("convert the dataset with LeRobot's own tools"));
            }
        };
        let fps = verbatim
            .get("fps")
            .and_then(Value::as_f64)
            .filter(|fps| *fps > 0.0)
            .ok_or_else(|| missing("fps"))?;
        let entries = verbatim
            .get("features")
            .and_then(Value::as_object)
            .ok_or_else(|| missing("features"))?;
        let features = entries
            .iter()
            .map(|(name, entry)| feature(name, entry))
            .collect::<Result<Vec<_>>>()?;
        let data_path = text("data_path").unwrap_or_else(|| match layout {
            Layout::PerEpisode => {
                "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet".to_owned()
            }
            Layout::Shared => {
                "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet".to_owned()
            }
        });
        let splits = verbatim
            .get("splits")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        Ok(Info {
            root: root.to_owned(),
            layout,
            fps,
            features,
            total_episodes: count("total_episodes")?,
            total_frames: count("total_frames")?,
            total_tasks: verbatim.get("total_tasks").and_then(Value::as_u64),
            chunks_size: verbatim
                .get("chunks_size")
                .and_then(Value::as_u64)
                .filter(|size| *size > 0)
                .unwrap_or(1000),
            data_path,
            video_path: text("video_path"),
            splits: splits
                .map(|(name, range)| split(name, range))
                .collect::<Result<_>>()?,
            version,
            verbatim,
        })
    }

    /// Returns the features that are videos.
    pub(crate) fn videos(&self) -> impl Iterator<Item = &Feature> {
        self.features
            .iter()
            .filter(|feature| feature.dtype == "video")
    }

    /// Whether the splits are those that an export writes.
    pub(crate) fn has_written_splits(&self) -> bool {
        let [(name, episodes)] = self.splits.as_slice() else {
            return false;
        };
        name == WRITTEN_SPLIT && *episodes == (0..self.total_episodes)
    }

    /// Returns the name of the split that an episode belongs to.
    pub(crate) fn split(&self, episode: u64) -> Option<&str> {
        self.splits
            .iter()
            .find(|(_, range)| range.contains(&episode))
            .map(|(name, _)| name.as_str())
    }
}

fn feature(name: &str, entry: &Value) -> Result<Feature> {
    let wrong = |what: &str| {
        Error::failed(format!("feature `{name}`: {what}"))
            .hint(format!("correct `features` in {INFO}"))
    };
    let dtype = entry
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("`dtype` is missing"))?;
    let shape = match entry.get("shape") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(axes)) => {
            let axis = |axis: &Value| {
                axis.as_u64()
                    .and_then(|axis| usize::try_from(axis).ok())
                    .filter(|axis| *axis < 1 << 31)
            };
            axes.iter()
                .map(axis)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| wrong("`shape` is not a list of sizes"))?
        }
        Some(_) => return Err(wrong("`shape` is not a list of sizes")),
    };
    let values = shape
        .iter()
        .try_fold(1_usize, |values, axis| values.checked_mul(*axis))
        .filter(|values| *values < 1 << 31);
    values.ok_or_else(|| wrong("`shape` has more values than a row can hold"))?;
    // Versions of LeRobot put the marker in different places, under different names.
    let places = [Some(entry), entry.get("info"), entry.get("video_info")];
    let depth = places.into_iter().flatten().any(|place| {
        ["is_depth_map", "video.is_depth_map", "is_depth"]
            .iter()
            .any(|key| place.get(key).and_then(Value::as_bool) == Some(true))
    });
    Ok(Feature {
        name: name.to_owned(),
        dtype: dtype.to_owned(),
        shape,
        depth,
        pixels: entry.get("info").and_then(|info| info.get(PIXELS)) == Some(&Value::Bool(true)),
    })
}

fn split(name: &str, range: &Value) -> Result<(String, std::ops::Range<u64>)> {
    let ends = range.as_str().and_then(|range| range.split_once(':'));
    let ends =
        ends.and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
    let (from, to): (u64, u64) = ends.ok_or_else(|| {
        Error::failed(format!(
            "split `{name}` is {range}, which is not a range of episodes such as \"0:50\""
        ))
        .hint("correct `splits` in meta/info.json")
    })?;
    Ok((name.to_owned(), from..to))
}
