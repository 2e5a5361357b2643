//! The statistics of an episode's frames: those that the source states, or those of a sample of
//! frames that LeRobot takes.

use serde_json::Value;

use super::pixels::PixelCounts;
use super::quantiles::QUANTILES;
use super::stats::Summary;
use crate::dataset::schema::trajectory;
use crate::format::lerobot::video_statistics::{FRAMES, VIDEO_STATISTICS};
use crate::transfer::write::OutgoingTrajectory;

/// What the source of a trajectory states about the frames of a camera.
pub(crate) struct Stated {
    /// The number of frames of the whole episode.
    pub(crate) frames: u64,
    /// Its statistics, if the source states them.
    pub(crate) summary: Option<Summary>,
}

impl Stated {
    /// Returns what the source states about the frames of a camera, by the names of its feature
    /// and its column; `None` if it states nothing.
    pub(crate) fn of(trajectory: &OutgoingTrajectory, names: [&str; 2]) -> Option<Stated> {
        let text = trajectory.text(VIDEO_STATISTICS)?;
        let all: Value = serde_json::from_str(text).ok()?;
        let stated = names.iter().find_map(|name| all.get(name))?;
        Some(Stated {
            frames: stated.get(FRAMES)?.as_u64()?,
            summary: summary(stated),
        })
    }
}

/// Returns the statistics that LeRobot's JSON states, if they are complete up to the quantiles.
fn summary(stated: &Value) -> Option<Summary> {
    let numbers = |name: &str| {
        let mut numbers = Vec::new();
        flatten(stated.get(name)?, &mut numbers)?;
        Some(numbers)
    };
    let mean = numbers("mean")?;
    let complete = |name: &str| numbers(name).filter(|found| found.len() == mean.len());
    let quantiles: Option<Vec<_>> = QUANTILES.iter().map(|(name, _)| complete(name)).collect();
    Some(Summary {
        count: numbers("count")?.first().copied()? as u64,
        min: complete("min")?,
        max: complete("max")?,
        std: complete("std")?,
        quantiles: quantiles.unwrap_or_default(),
        mean,
    })
}

fn flatten(value: &Value, into: &mut Vec<f64>) -> Option<()> {
    match value {
        Value::Array(values) => values.iter().try_for_each(|value| flatten(value, into)),
        number => {
            into.push(number.as_f64()?);
            Some(())
        }
    }
}

/// The sample of frames of an episode that LeRobot computes statistics from.
pub(crate) struct Sample {
    /// The numbers of the frames, in order; the next one last.
    rest: Vec<usize>,
    /// Every n-th row and column of a frame is taken.
    step: usize,
    /// Height and width of a frame.
    size: [usize; 2],
    counts: PixelCounts,
    taken: Vec<u8>,
}

impl Sample {
    /// Begins the sample of an episode of `length` frames with the given height and width.
    pub(crate) fn new(length: usize, size: [usize; 2]) -> Sample {
        let mut rest = indices(length);
        rest.reverse();
        Sample {
            rest,
            step: step(size),
            size,
            counts: PixelCounts::new(3),
            taken: Vec::new(),
        }
    }

    /// The number of the next frame that belongs to the sample.
    pub(crate) fn next(&self) -> Option<usize> {
        self.rest.last().copied()
    }

    /// Adds the frame with the number `index`, if it belongs to the sample.
    pub(crate) fn add(&mut self, index: usize, rgb: &[u8]) {
        while self.rest.last() == Some(&index) {
            self.rest.pop();
            self.taken.clear();
            let [_, width] = self.size;
            for row in rgb.chunks_exact(3 * width).step_by(self.step) {
                let pixels = row.chunks_exact(3).step_by(self.step);
                self.taken.extend(pixels.flatten());
            }
            self.counts.add(1, &self.taken);
        }
    }

    /// Returns the statistics.
    pub(crate) fn summary(&self) -> Summary {
        self.counts.summary()
    }
}

/// Returns the frames of an episode that LeRobot samples: its `sample_indices`.
fn indices(length: usize) -> Vec<usize> {
    let samples = ((length as f64).powf(0.75) as usize)
        .min(10_000)
        .max(length.min(100));
    let last = length.saturating_sub(1) as f64;
    (0..samples)
        .map(|at| {
            let place = if at + 1 == samples && at > 0 {
                last
            } else {
                at as f64 * (last / samples.saturating_sub(1).max(1) as f64)
            };
            place.round_ties_even() as usize
        })
        .collect()
}

/// Returns the step by which LeRobot thins out the pixels of large frames: its
/// `auto_downsample_height_width`.
fn step([height, width]: [usize; 2]) -> usize {
    if height.max(width) < 300 {
        1
    } else {
        height.max(width) / 150
    }
}

/// The names of trajectory columns that the table of episodes does not keep, because they are
/// computed or written elsewhere.
pub(crate) const NOT_KEPT: [&str; 2] = [trajectory::TRAJECTORY_ID, VIDEO_STATISTICS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_lerobot() {
        // sample_indices of lerobot 0.4.4.
        assert_eq!(indices(1), [0]);
        assert_eq!(indices(5), [0, 1, 2, 3, 4]);
        assert_eq!(indices(120)[..8], [0, 1, 2, 4, 5, 6, 7, 8]);
        assert_eq!(indices(120).len(), 100);
        assert_eq!(indices(5000).len(), 594);
        assert_eq!(indices(5000).last(), Some(&4999));
        assert_eq!(indices(1_000_000).len(), 10_000);
        assert_eq!(
            [step([256, 256]), step([480, 640]), step([300, 20])],
            [1, 4, 2]
        );
    }
}
