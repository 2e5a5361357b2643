//! Reads a source of any format and writes it as shards.
//!
//! The reader of a format provides a [`Source`]: whole trajectories with canonical columns, one at
//! a time. [`import`] numbers them and writes shards. Sources have one of three shapes, and each
//! shape has a module of its own: arrays that hold all trajectories end to end ([`concatenated`]),
//! a group of arrays for each trajectory ([`per_trajectory`]), and tables with one row per step
//! ([`table`]). Nothing in a file is ever executed.

pub(crate) mod admit;
pub(crate) mod align;
pub(crate) mod arrays;
mod choice;
pub(crate) mod concatenated;
pub(crate) mod environments;
pub(crate) mod gaps;
pub(crate) mod groups;
pub(crate) mod import;
mod late_frames;
mod options;
pub(crate) mod parts;
pub(crate) mod pattern;
pub(crate) mod per_trajectory;
pub(crate) mod quarantine;
pub(crate) mod renamed;
mod source;
pub(crate) mod table;
pub(crate) mod task;
pub(crate) mod videos;

pub(crate) use choice::Choice;
pub(crate) use options::NonFinite;
pub(crate) use options::{Alignment, Axes, FinalAction};
pub(crate) use options::{FrameOptions, FramesAt};
pub use options::{OnError, Options};
pub(crate) use source::Guarded;
pub(crate) use source::{IncomingTrajectory, Reader, Source};

pub(crate) use crate::dataset::videos::SourceVideo;

use crate::dataset::schema::{step, trajectory};
use crate::error::Error;

/// Returns the error for the option `name`, which has no effect on a source for a `reason`.
pub(crate) fn no_effect(name: &str, reason: &str) -> Error {
    Error::usage(format!("`{name}` has no effect: {reason}")).hint("leave the option out")
}

/// The key in the metadata of a source with a list of what is left out, with the reason.
pub(crate) const LEFT_OUT: &str = "not_imported";

/// Returns the name of a column without a fixed meaning: `name`, or `source_NAME` if a column of
/// steps with a fixed meaning has that name.
pub(crate) fn free_name(name: &str) -> String {
    if step::CANONICAL.contains(&name) {
        format!("source_{name}")
    } else {
        name.to_owned()
    }
}

/// Returns the name of a fact about trajectories: `name`, or `source_NAME` if a column of
/// trajectories with a fixed meaning has that name.
pub(crate) fn free_fact(name: &str) -> String {
    let own = [
        trajectory::TRAJECTORY_ID,
        trajectory::UID,
        trajectory::SOURCE_KEY,
        trajectory::SOURCE,
    ];
    if own.contains(&name) || trajectory::COMPUTED.contains(&name) {
        format!("source_{name}")
    } else {
        name.to_owned()
    }
}
