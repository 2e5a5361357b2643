//! LeRobot datasets: v2.0, v2.1 and v3.0.
//!
//! ```text
//! ROOT/meta/info.json                                versions, features, totals, path templates
//! ROOT/meta/{tasks,episodes}.jsonl                   v2: one line each; v2.1 has episodes_stats.jsonl, v2.0 stats.json
//! ROOT/meta/tasks.parquet, meta/episodes/*/*.parquet v3: the same, and where the rows of each episode are
//! ROOT/data/chunk-000/episode_000000.parquet         v2: one episode a file
//! ROOT/data/chunk-000/file-000.parquet               v3: many
//! ```
//!
//! An episode has T rows: the observation after the last action has no place. Frames of videos are not decoded: a video
//! feature becomes a reference, file and seconds in it.

mod checked;
mod features;
mod meta;
mod read;
mod stats;
mod validate;
mod write;

use std::path::Path;

use super::{Format, Writer};

/// Where final observations are, for which LeRobot has no place; its own tools leave the file alone.
const FINALS: &str = "meta/trajmill/final_observations.parquet";

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V21,
    V30,
}

/// What of the options means something here.
const TAKES: &[&str] = &["fps", "robot", "task", "env"];

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "lerobot",
    about: "LeRobot v2.0, v2.1 and v3.0: Parquet with meta/info.json, videos as references",
    detect,
    read: Some(read::read),
    write: Some(Writer { nulls: false, takes: TAKES, write: write::v30, note: None }),
    validate: Some(validate::validate),
};

/// The registry entry of the older version, which many trainers still want.
pub(super) const FORMAT_V21: Format = Format {
    name: "lerobot-v2.1",
    about: "LeRobot v2.1, to be written: one Parquet file an episode; `lerobot` reads it",
    detect: |_| false,
    read: None,
    write: Some(Writer { nulls: false, takes: TAKES, write: write::v21, note: None }),
    validate: None,
};

fn detect(path: &Path) -> bool {
    path.join("meta/info.json").is_file()
}
