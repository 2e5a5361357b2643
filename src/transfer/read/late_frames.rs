//! Frames that an import stores, and decodes while it writes.

use super::{IncomingTrajectory, OnError};
use crate::dataset::late_frames::LateFrames;
use crate::error::Result;

/// Returns `trajectory` with its frames, or as it is if they are too many to be decoded at once. If
/// bad trajectories are set aside, the frames of a long one are decoded once without being kept,
/// because rows that are written cannot be taken back.
///
/// # Errors
/// Returns an error that names trajectory and column if a frame cannot be decoded.
pub(super) fn decoded(
    frames: &mut LateFrames,
    trajectory: IncomingTrajectory,
    on_error: OnError,
) -> Result<IncomingTrajectory> {
    let (rows, place) = (trajectory.steps.num_rows(), place(&trajectory));
    if !frames.are_many(rows) {
        let steps = frames.rows(&trajectory.steps, &place)?;
        return Ok(IncomingTrajectory {
            steps,
            ..trajectory
        });
    }
    if on_error == OnError::Quarantine {
        for from in (0..rows).step_by(frames.at_once) {
            let part = trajectory
                .steps
                .slice(from, frames.at_once.min(rows - from));
            frames.rows(&part, &place)?;
        }
    }
    Ok(trajectory)
}

/// Returns the name of a trajectory in errors.
pub(super) fn place(trajectory: &IncomingTrajectory) -> String {
    format!("trajectory `{}`", trajectory.key)
}
