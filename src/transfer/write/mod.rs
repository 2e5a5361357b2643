//! Writing: the trajectories of a dataset, for the writer of any format.

pub(crate) mod arrays;
mod dataset;
mod export;
mod options;
mod pass;
mod unlabelled;

use std::path::Path;

use crate::error::Result;

pub use dataset::OutgoingDataset;
pub use export::export;
pub use options::{Unlabelled, WriteOptions};
pub use pass::{OutgoingTrajectory, Pass};

/// The column that says which actions were there, beside actions that were filled in.
pub const ACTION_VALID: &str = "action_valid";

/// The column that says which rewards were there, where some were not and the format has no null.
pub const REWARD_VALID: &str = "reward_valid";

/// How a format is written.
pub struct Writer {
    /// Whether a null action can be written as one: then unlabelled steps leave as they are.
    pub nulls: bool,
    /// Names of the [`WriteOptions`] that mean something to the format, besides `unlabelled` and `fill`.
    pub takes: &'static [&'static str],
    /// Writes the dataset to the path, which does not exist and is made: a file or a directory, in a staging place that
    /// the caller publishes by one rename. Every file is made through `dataset::store`.
    pub write: fn(&OutgoingDataset, &Path, &WriteOptions) -> Result<Written>,
    /// For formats of one file: reads back what [`WriteOptions::note`] said. Directories get the note as a file of
    /// their own from the caller, and need nothing here.
    pub note: Option<ReadNote>,
}

/// Reads the note of origin in a file; `None` if there is none, an error if it cannot be read.
pub type ReadNote = fn(&Path) -> Result<Option<serde_json::Value>>;

/// What a writer did beside writing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// What the format cannot hold and where it is instead, a line each: ("rewards", "the extra array `rewards`").
    pub elsewhere: Vec<(String, String)>,
}

impl Written {
    /// Says that the format cannot hold `what`, which is now at `place`.
    pub fn moved(&mut self, what: impl Into<String>, place: impl Into<String>) {
        self.elsewhere.push((what.into(), place.into()));
    }
}

/// Told of the passages through a dataset: `None` where one begins, then of so many rows more that are read. An error of it
/// ends the passage.
pub type Watch<'w> = &'w dyn Fn(Option<u64>) -> Result<()>;
