//! Compares the times of rows with the rate that the metadata states.

use arrow::array::RecordBatch;

use super::convert::timestamps;
use crate::error::{Error, Result};
use crate::format::lerobot::files::integers;
use crate::format::lerobot::info::{INFO, Info};
use crate::format::lerobot::stated_rate::other_rate;
use crate::video::TOLERANCE;

/// Verifies that the column `timestamp` of an episode, if there is one, does not state another rate
/// than `fps`. Jitter and pauses state no other rate.
///
/// # Errors
/// Returns an error that names both rates, and the first row that shows it.
pub(crate) fn verify_rate(info: &Info, table: &RecordBatch) -> Result<()> {
    if table.column_by_name("timestamp").is_none() {
        return Ok(());
    }
    let Ok(times) = timestamps(info, table) else {
        return Ok(());
    };
    let frames: Vec<f64> = match integers(table, "frame_index") {
        Some(frames) => frames.values().iter().map(|frame| *frame as f64).collect(),
        None => (0..times.len()).map(|row| row as f64).collect(),
    };
    let times = times.values();
    let Some(stated) = other_rate(times, &frames, info.fps) else {
        return Ok(());
    };
    let expected = |row: usize| times[0] + (frames[row] - frames[0]) / info.fps;
    let row = (0..times.len()).find(|row| (times[*row] - expected(*row)).abs() > TOLERANCE);
    let row = row.unwrap_or_default();
    Err(Error::failed(format!(
        "`timestamp` contradicts `fps`: the times of the episode are those of {} frames per \
         second, but `fps` in {INFO} is {}; frame {row} is at {:.4} s, and should be at {:.4} s",
        (stated * 1000.0).round() / 1000.0,
        info.fps,
        times[row],
        expected(row)
    ))
    .hint(format!(
        "correct `fps` in {INFO}; if it is right, `--skip timestamp` (`skip: [timestamp]` in a \
         pipeline) leaves out the times"
    )))
}
