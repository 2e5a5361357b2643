//! The videos of a camera: where the frames of each episode are, and their statistics.

use super::stats::{RunningSummary, Summary};

/// The videos of a camera.
pub(crate) struct CameraVideos {
    /// The places of the episodes' frames, in their order.
    pub(crate) episodes: Vec<EpisodeVideo>,
    /// The number of episodes whose frames were encoded.
    pub(crate) encoded: usize,
    /// Height and width of a frame, if a file was opened.
    pub(crate) size: Option<[usize; 2]>,
    /// Frames per second of the first file that was not encoded, if no source states the rate.
    pub(crate) rate: Option<f64>,
}

/// Where the frames of an episode are.
pub(crate) struct EpisodeVideo {
    /// Chunk and file, of v3.0.
    pub(crate) file: (u64, u64),
    /// The time of the first frame, and the end of the last, in seconds.
    pub(crate) span: (f64, f64),
    pub(crate) summary: Option<Summary>,
}

impl CameraVideos {
    /// The number of channels of the statistics; `None` if an episode has none.
    pub(crate) fn channels(&self) -> Option<usize> {
        let mut all = self.episodes.iter().map(|episode| episode.summary.as_ref());
        let first = all.next()??.mean.len();
        all.all(|summary| summary.is_some_and(|summary| summary.mean.len() == first))
            .then_some(first)
    }

    /// Whether the statistics of all episodes have quantiles.
    pub(crate) fn has_quantiles(&self) -> bool {
        let summaries = self
            .episodes
            .iter()
            .filter_map(|episode| episode.summary.as_ref());
        summaries
            .into_iter()
            .all(|summary| !summary.quantiles.is_empty())
    }

    /// Returns the statistics of all episodes together, as LeRobot combines them: a quantile is
    /// the mean of the episodes' quantiles, by their numbers of frames.
    pub(crate) fn total(&self) -> Option<Summary> {
        self.channels()?;
        let mut total = RunningSummary::default();
        let mut quantiles: Vec<Vec<f64>> = Vec::new();
        let mut count = 0.0;
        for summary in self
            .episodes
            .iter()
            .filter_map(|episode| episode.summary.as_ref())
        {
            total.add(summary);
            let weight = summary.count as f64;
            count += weight;
            quantiles.resize(summary.quantiles.len().max(quantiles.len()), Vec::new());
            for (sums, values) in quantiles.iter_mut().zip(&summary.quantiles) {
                sums.resize(values.len(), 0.0);
                sums.iter_mut()
                    .zip(values)
                    .for_each(|(sum, value)| *sum += value * weight);
            }
        }
        if !self.has_quantiles() {
            quantiles.clear();
        }
        quantiles.iter_mut().flatten().for_each(|sum| *sum /= count);
        total.finish(quantiles)
    }
}
