//! Passes the trajectories of a dataset to the writer of a format.

mod absent_frames;
pub(crate) mod arrays;
mod dataset;
mod export;
mod null_parts;
pub(crate) mod nulls;
mod options;
mod pass;
pub(crate) mod sources;
mod unlabelled;

use std::path::Path;

use arrow::datatypes::Field;

use crate::error::Result;

pub use dataset::OutgoingDataset;
pub(crate) use export::export;
pub(crate) use options::Unlabelled;
pub use options::WriteOptions;
pub(crate) use pass::{OutgoingTrajectory, Pass};

/// The column that says which actions the dataset has; all others are filler.
pub(crate) const ACTION_VALID: &str = "action_valid";

/// The column that says which rewards the dataset has, if some are missing and the format has no
/// nulls.
pub(crate) const REWARD_VALID: &str = "reward_valid";

/// The writer of a format.
pub struct Writer {
    /// Whether the format has null actions. If so, steps without an action are written unchanged.
    pub nulls: bool,
    /// Whether the format holds a column, or a part of one, if all parts of a value must be null
    /// together, such as the fields of a struct; `None` if a part alone may be null.
    pub whole: Option<fn(&Field) -> bool>,
    /// Whether the format has text in steps. If not, `action_model` is written as codes.
    pub text: bool,
    /// The names of the [`WriteOptions`] that the format takes, besides `unlabelled` and `fill`.
    pub takes: &'static [&'static str],
    /// Writes the dataset to a path that does not exist, as a file or a directory. The path is in a
    /// staging directory, and the caller publishes the output with one rename. Every file is
    /// created through `dataset::store`.
    pub write: fn(&OutgoingDataset, &Path, &WriteOptions) -> Result<Written>,
    /// Reads [`WriteOptions::note`] from a file of the format. `None` if the format is a directory:
    /// the caller writes the note to a file in it.
    pub note: Option<ReadNote>,
}

/// A function that reads the note of origin in a file. Returns `None` if there is none, and an
/// error if it cannot be read.
pub(crate) type ReadNote = fn(&Path) -> Result<Option<serde_json::Value>>;

/// The report of a writer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// What the format cannot hold, and where it is stored instead, or why it is left out:
    /// ("`action_source`", "`infos/action_is_proxy`").
    pub not_held: Vec<(String, String)>,
}

impl Written {
    /// Reports that the format cannot hold `what`, and `instead` where it is stored, or why it is
    /// left out.
    pub fn cannot_hold(&mut self, what: impl Into<String>, instead: impl Into<String>) {
        self.not_held.push((what.into(), instead.into()));
    }
}

/// Observes the passes through a dataset. It receives `None` when a pass begins, and then the
/// number of rows of each block that was read. Its error ends the pass.
pub(crate) type Watch<'w> = &'w dyn Fn(Option<u64>) -> Result<()>;
