//! Statistics of images, as LeRobot computes them: for each channel, over all pixels, with values
//! from 0 to 1. LeRobot takes a sample of the frames; here, every frame counts.

use super::quantiles::{QUANTILES, between, interpolate};
use super::stats::Summary;

/// The number of values of a pixel's channel.
const VALUES: usize = 256;

/// How often each value occurs in each channel.
#[derive(Clone)]
pub(crate) struct PixelCounts {
    frames: u64,
    counts: Vec<[u64; VALUES]>,
}

impl PixelCounts {
    pub(crate) fn new(channels: usize) -> PixelCounts {
        PixelCounts {
            frames: 0,
            counts: vec![[0; VALUES]; channels],
        }
    }

    /// Adds `frames` images, whose channels alternate.
    pub(crate) fn add(&mut self, frames: u64, pixels: &[u8]) {
        self.frames += frames;
        for pixel in pixels.chunks_exact(self.counts.len()) {
            for (counts, value) in self.counts.iter_mut().zip(pixel) {
                counts[usize::from(*value)] += 1;
            }
        }
    }

    /// Adds the counts of other images.
    pub(crate) fn merge(&mut self, other: &PixelCounts) {
        self.frames += other.frames;
        for (counts, more) in self.counts.iter_mut().zip(&other.counts) {
            for (count, more) in counts.iter_mut().zip(more) {
                *count += more;
            }
        }
    }

    /// Returns the statistics, with one value for each channel.
    pub(crate) fn summary(&self) -> Summary {
        let mut summary = Summary {
            count: self.frames,
            min: Vec::new(),
            max: Vec::new(),
            mean: Vec::new(),
            std: Vec::new(),
            quantiles: vec![Vec::new(); QUANTILES.len()],
        };
        for counts in &self.counts {
            let total: u64 = counts.iter().sum();
            let used = || (0..VALUES).filter(|value| counts[*value] > 0);
            let scaled = |value: usize| value as f64 / 255.0;
            let weigh = |of: &dyn Fn(f64) -> f64| {
                let sum: f64 = used()
                    .map(|value| of(scaled(value)) * counts[value] as f64)
                    .sum();
                sum / total.max(1) as f64
            };
            let mean = weigh(&|value| value);
            let variance = weigh(&|value| (value - mean) * (value - mean));
            summary.min.push(scaled(used().next().unwrap_or(0)));
            summary.max.push(scaled(used().next_back().unwrap_or(0)));
            summary.mean.push(mean);
            summary.std.push(variance.sqrt());
            // The value of the pixel with this rank in ascending order.
            let ranked = |rank: u64| {
                let mut below = 0;
                let value = used().find(|value| {
                    below += counts[*value];
                    below > rank
                });
                scaled(value.unwrap_or(0))
            };
            for ((_, quantile), into) in QUANTILES.iter().zip(&mut summary.quantiles) {
                let (low, high, part) = between(total.max(1), *quantile);
                into.push(interpolate(ranked(low), ranked(high), part));
            }
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::super::stats::summary;
    use super::*;

    #[test]
    fn counts_give_the_statistics_of_the_values() {
        let pixels: Vec<u8> = (0..3 * 500_u32).map(|at| (at * at % 251) as u8).collect();
        let (first, second) = pixels.split_at(3 * 200);
        let mut counts = PixelCounts::new(3);
        counts.add(2, first);
        let mut more = PixelCounts::new(3);
        more.add(3, second);
        counts.merge(&more);
        let found = counts.summary();
        let values: Vec<f64> = pixels
            .iter()
            .map(|value| f64::from(*value) / 255.0)
            .collect();
        let expected = summary(&values, 3);
        assert_eq!(found.count, 5);
        assert_eq!((&found.min, &found.max), (&expected.min, &expected.max));
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(close(&found.mean, &expected.mean) && close(&found.std, &expected.std));
        for (found, expected) in found.quantiles.iter().zip(&expected.quantiles) {
            assert!(close(found, expected), "{found:?} {expected:?}");
        }
    }
}
