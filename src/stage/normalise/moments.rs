//! Moments of columns: number, mean and spread of values, and how those of parts are joined.
//!
//! The moments of parts are joined as in Chan, Golub and LeVeque (1979), so that one pass is enough
//! and no digits cancel.

use serde::{Deserialize, Serialize};

/// The mean and standard deviation of a column, with one value for each dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Statistics {
    /// The number of values.
    #[serde(default)]
    pub(super) count: u64,
    /// The means.
    pub(super) mean: Vec<f64>,
    /// The population standard deviations.
    pub(super) std: Vec<f64>,
}

/// The number of values, their mean and the sum of their squared distances from it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    pub(super) count: f64,
    pub(super) mean: Vec<f64>,
    pub(super) squares: Vec<f64>,
}

impl Moments {
    /// Returns the moments of no values.
    pub(super) fn none(width: usize) -> Moments {
        Moments {
            count: 0.0,
            mean: vec![0.0; width],
            squares: vec![0.0; width],
        }
    }

    /// Returns the moments of `rows` of a column. The means come first, then the distances from
    /// them.
    pub(super) fn of(values: &[f64], width: usize, rows: &[usize]) -> Moments {
        let mut own = Moments {
            count: rows.len() as f64,
            ..Moments::none(width)
        };
        let vectors = || {
            rows.iter()
                .map(|row| &values[row * width..(row + 1) * width])
        };
        for vector in vectors() {
            own.mean
                .iter_mut()
                .zip(vector)
                .for_each(|(sum, value)| *sum += value);
        }
        own.mean
            .iter_mut()
            .for_each(|sum| *sum /= own.count.max(1.0));
        for vector in vectors() {
            let distances = own
                .mean
                .iter()
                .zip(vector)
                .map(|(mean, value)| value - mean);
            own.squares
                .iter_mut()
                .zip(distances)
                .for_each(|(sum, distance)| *sum += distance * distance);
        }
        own
    }

    /// Adds the moments of other values.
    pub(super) fn add(&mut self, count: f64, mean: &[f64], squares: &[f64]) {
        let total = self.count + count;
        if count == 0.0 {
            return;
        }
        let own = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), (other, more)) in own.zip(mean.iter().zip(squares)) {
            let distance = other - *mean;
            *mean += distance * (count / total);
            *squares += more + distance * distance * (self.count * count / total);
        }
        self.count = total;
    }

    /// Returns mean and standard deviation.
    pub(super) fn statistics(&self) -> Statistics {
        let std = self
            .squares
            .iter()
            .map(|squares| (squares.max(0.0) / self.count.max(1.0)).sqrt())
            .collect();
        Statistics {
            count: self.count as u64,
            mean: self.mean.clone(),
            std,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn moments_of_parts_are_those_of_the_whole(
            values in prop::collection::vec(-1e3f64..1e3, 2..60),
            cut in 0usize..60,
            offset in prop_oneof![Just(0.0), Just(1e6)],
        ) {
            let values: Vec<f64> = values.iter().map(|value| value + offset).collect();
            let n = values.len() / 2;
            let cut = cut % (n + 1);
            let mut merged = Moments::none(2);
            for rows in [0..cut, cut..n] {
                let own = Moments::of(&values, 2, &rows.collect::<Vec<_>>());
                merged.add(own.count, &own.mean, &own.squares);
            }
            let statistics = merged.statistics();
            for d in 0..2 {
                let own: Vec<f64> = (0..n).map(|row| values[row * 2 + d]).collect();
                let mean = own.iter().sum::<f64>() / n as f64;
                let squares = own.iter().map(|value| (value - mean).powi(2));
                let variance = squares.sum::<f64>() / n as f64;
                let (found, found_variance) = (statistics.mean[d], statistics.std[d].powi(2));
                prop_assert!((found - mean).abs() <= 1e-9 * mean.abs().max(1.0));
                prop_assert!((found_variance - variance).abs() <= 1e-6 * variance.max(1.0));
            }
        }
    }
}
