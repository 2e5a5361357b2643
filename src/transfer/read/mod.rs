//! Reading: from a source of any format to shards.
//!
//! A format's reader gives a [`Source`]: whole trajectories with canonical columns, one at a time. [`import`] numbers them
//! and writes shards. Three shapes of sources share their machinery: trajectories end to end in arrays
//! ([`concatenated`]), a group of arrays for each trajectory ([`per_trajectory`]), and tables with a row a step
//! ([`table`]). Nothing in a file is ever executed.

pub mod align;
pub(crate) mod arrays;
pub(crate) mod concatenated;
pub mod import;
mod options;
pub(crate) mod pattern;
pub(crate) mod per_trajectory;
pub mod quarantine;
mod source;
pub(crate) mod table;

pub use options::{Alignment, FinalAction, OnError, Options};
pub(crate) use source::Guarded;
pub use source::{IncomingTrajectory, Reader, Source};

use crate::dataset::schema::step;

/// The name of a column that has no fixed meaning: its own, unless a column of steps with a fixed meaning is called so.
pub(crate) fn free_name(name: &str) -> String {
    let fixed = [
        step::TRAJECTORY_ID,
        step::STEP,
        step::OBSERVATION,
        step::ACTION,
        step::REWARD,
        step::TERMINATED,
        step::TRUNCATED,
        step::IS_FINAL,
        step::ACTION_SOURCE,
        step::ACTION_STD,
    ];
    if fixed.contains(&name) {
        format!("source_{name}")
    } else {
        name.to_owned()
    }
}
