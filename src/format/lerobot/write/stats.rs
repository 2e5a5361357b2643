//! Statistics of features, over one episode and over all episodes.

use super::quantiles::{QUANTILES, between, interpolate};

/// The statistics of a feature, for each value of a frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    /// The number of frames.
    pub(crate) count: u64,
    pub(crate) min: Vec<f64>,
    pub(crate) max: Vec<f64>,
    pub(crate) mean: Vec<f64>,
    /// The standard deviation of the population.
    pub(crate) std: Vec<f64>,
    /// One entry for each of [`QUANTILES`]; none if they are not known.
    pub(crate) quantiles: Vec<Vec<f64>>,
}

/// Returns the names of the statistics, in LeRobot's order.
pub(crate) fn statistics() -> impl Iterator<Item = &'static str> {
    ["min", "max", "mean", "std", "count"]
        .into_iter()
        .chain(QUANTILES.map(|(name, _)| name))
}

/// Returns the statistic `name`, for each value of a frame.
pub(crate) fn statistic_of<'a>(summary: &'a Summary, name: &str) -> &'a [f64] {
    match name {
        "min" => &summary.min,
        "max" => &summary.max,
        "mean" => &summary.mean,
        "std" => &summary.std,
        _ => QUANTILES
            .iter()
            .position(|(quantile, _)| *quantile == name)
            .and_then(|at| summary.quantiles.get(at))
            .map_or(&[], Vec::as_slice),
    }
}

/// Summarises a feature with `width` values in a frame, laid out frame by frame. NaN is left out;
/// if there is nothing else, all statistics are 0.
pub(crate) fn summary(values: &[f64], width: usize) -> Summary {
    let count = (values.len() / width.max(1)) as u64;
    let mut summary = Summary {
        count,
        min: Vec::with_capacity(width),
        max: Vec::with_capacity(width),
        mean: Vec::with_capacity(width),
        std: Vec::with_capacity(width),
        quantiles: vec![Vec::with_capacity(width); QUANTILES.len()],
    };
    let mut column = Vec::with_capacity(count as usize);
    for at in 0..width {
        column.clear();
        column.extend(
            values
                .iter()
                .skip(at)
                .step_by(width)
                .filter(|value| !value.is_nan()),
        );
        if column.is_empty() {
            column.push(0.0);
        }
        let held = column.len() as f64;
        let mean = column.iter().sum::<f64>() / held;
        let variance = column
            .iter()
            .map(|value| (value - mean) * (value - mean))
            .sum::<f64>()
            / held;
        column.sort_unstable_by(f64::total_cmp);
        summary.min.push(column[0]);
        summary.max.push(column[column.len() - 1]);
        summary.mean.push(mean);
        summary.std.push(variance.sqrt());
        for ((_, quantile), into) in QUANTILES.iter().zip(&mut summary.quantiles) {
            let (low, high, part) = between(column.len() as u64, *quantile);
            into.push(interpolate(
                column[low as usize],
                column[high as usize],
                part,
            ));
        }
    }
    summary
}

/// Combines the summaries of parts into that of the whole, except for quantiles.
#[derive(Debug, Default)]
pub(crate) struct RunningSummary {
    summary: Option<Summary>,
}

impl RunningSummary {
    /// Adds a part, by the parallel formula for mean and variance (Chan, Golub, LeVeque 1979).
    pub(crate) fn add(&mut self, part: &Summary) {
        let Some(total) = &mut self.summary else {
            self.summary = Some(part.clone());
            return;
        };
        let (n, m) = (total.count as f64, part.count as f64);
        for at in 0..total.mean.len() {
            let delta = part.mean[at] - total.mean[at];
            let squares = total.std[at].powi(2) * n
                + part.std[at].powi(2) * m
                + delta * delta * n * m / (n + m);
            total.mean[at] += delta * m / (n + m);
            total.std[at] = (squares / (n + m)).max(0.0).sqrt();
            total.min[at] = total.min[at].min(part.min[at]);
            total.max[at] = total.max[at].max(part.max[at]);
        }
        total.count += part.count;
    }

    /// Returns the summary with the given quantiles; `None` if nothing was added.
    pub(crate) fn finish(self, quantiles: Vec<Vec<f64>>) -> Option<Summary> {
        self.summary.map(|summary| Summary {
            quantiles,
            ..summary
        })
    }
}
