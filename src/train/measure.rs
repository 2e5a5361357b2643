//! Errors and calibration of a model on held-out trajectories.

use serde::Serialize;

use super::data::{Examples, Row, Stream};
use super::head::most_probable;
use super::model::{Model, Predictions};
use super::options::Head;
use super::random::Random;
use crate::error::Result;

/// Maximum number of points in a scatter plot.
const POINTS: usize = 2000;
/// Number of windows whose predictions the report holds.
const PROBES: usize = 16;
/// Probabilities, each with the number of standard deviations around the mean within which a normal
/// variable lies with that probability.
const LEVELS: [(f64, f64); 9] = [
    (0.1, 0.125_661),
    (0.2, 0.253_347),
    (0.3, 0.385_320),
    (0.4, 0.524_401),
    (0.5, 0.674_490),
    (0.6, 0.841_621),
    (0.7, 1.036_433),
    (0.8, 1.281_552),
    (0.9, 1.644_854),
];

/// Errors on the held-out steps.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct HeldOut {
    /// Number of held-out steps.
    pub steps: u64,
    /// Errors by dimension of a continuous action.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<Dimension>,
    /// Errors of a discrete action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
    /// Windows and their predictions, for comparing the ONNX file with this model.
    pub probe: Probe,
    /// True and predicted actions of a sample of steps, for the scatter plot.
    #[serde(skip)]
    pub scatter: Vec<(Vec<f32>, Vec<f32>)>,
}

/// Errors in one dimension.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Dimension {
    /// Mean squared error.
    pub mse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Mean squared error of the baseline that predicts the mean training action.
    pub mse_of_mean: f64,
    /// Coefficient of determination, `1 - mse / mse_of_mean`.
    pub r2: f64,
    /// Mean of the predicted standard deviations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_std: Option<f64>,
    /// Calibration of the predicted standard deviations, against a normal distribution.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<Level>,
}

/// One point of a calibration curve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Level {
    /// Probability that the true action lies within the interval.
    pub expected: f64,
    /// Fraction of steps at which it does.
    pub observed: f64,
}

/// Errors of a discrete action.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Classes {
    /// Fraction of steps at which the most probable class is the true one.
    pub accuracy: f64,
    /// Accuracy of the baseline that predicts the most frequent training class.
    pub accuracy_of_most_frequent: f64,
    /// For each class, the fraction of its steps at which it was predicted. `null` for a class
    /// without held-out steps.
    pub recall: Vec<Option<f64>>,
}

/// Held-out windows and their predictions.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Probe {
    /// Windows, the values of the file's input `observation`.
    pub observation: Vec<Vec<f32>>,
    /// Values of the file's output `action`.
    pub action: Vec<Vec<f32>>,
    /// Values of the file's output `std`. Empty if it has none.
    pub std: Vec<Vec<f32>>,
}

impl HeldOut {
    /// Returns the error as one number: the mean of the dimensions' squared errors, or the fraction
    /// of wrong classes.
    pub(crate) fn error(&self) -> f64 {
        match &self.classes {
            Some(classes) => 1.0 - classes.accuracy,
            None => {
                self.dimensions
                    .iter()
                    .map(|dimension| dimension.mse)
                    .sum::<f64>()
                    / self.dimensions.len().max(1) as f64
            }
        }
    }

    /// Returns the same number for the baseline that predicts the mean or the most frequent class.
    pub(crate) fn error_of_mean(&self) -> f64 {
        match &self.classes {
            Some(classes) => 1.0 - classes.accuracy_of_most_frequent,
            None => {
                self.dimensions
                    .iter()
                    .map(|dimension| dimension.mse_of_mean)
                    .sum::<f64>()
                    / self.dimensions.len().max(1) as f64
            }
        }
    }
}

/// Measures `model` on the examples of `validation`. `mean` is the mean training action, or the
/// share of each class.
pub(super) fn held_out(
    model: &Model,
    validation: &Stream,
    mean: &[f64],
    seed: u64,
) -> Result<HeldOut> {
    let predictor = model.predictor()?;
    let width = model.outputs();
    let mut held_out = HeldOut::default();
    let mut sums = vec![Sums::default(); width];
    let mut hits: Vec<[u64; 2]> = vec![[0; 2]; width];
    let mut random = Random::new(seed, &[5]);
    let mut sample = Examples::default();
    validation.in_order(|examples| {
        let predictions = predictor.predict(&examples.inputs)?;
        for index in 0..examples.len() {
            let row = examples.row(index);
            let predicted = &predictions.actions[index * width..(index + 1) * width];
            held_out.steps += 1;
            if model.head == Head::Categorical {
                let truth = row.target.first().map_or(0, |class| *class as usize);
                if let Some([all, right]) = hits.get_mut(truth) {
                    *all += 1;
                    *right += u64::from(most_probable(predicted).0 == truth);
                }
            } else {
                let stds = predictions.stds.get(index * width..(index + 1) * width);
                for (dimension, sums) in sums.iter_mut().enumerate() {
                    sums.add(
                        row.target[dimension],
                        predicted[dimension],
                        stds.map(|stds| stds[dimension]),
                        mean[dimension],
                    );
                }
            }
            keep(&mut sample, row, held_out.steps, &mut random);
        }
        Ok(true)
    })?;
    let n = held_out.steps.max(1) as f64;
    if model.head == Head::Categorical {
        held_out.classes = Some(classes(&hits, mean, n));
    } else {
        held_out.dimensions = sums
            .iter()
            .map(|sums| sums.finish(n, model.has_std()))
            .collect();
    }
    let predictions = predictor.predict(&sample.inputs)?;
    held_out.probe = probe(&sample, &predictions, width);
    if model.head != Head::Categorical {
        let rows = |values: &[f32]| {
            values
                .chunks_exact(width)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
        };
        held_out.scatter = rows(&sample.targets)
            .into_iter()
            .zip(rows(&predictions.actions))
            .collect();
    }
    Ok(held_out)
}

/// Keeps a uniform sample of the rows seen so far (algorithm R, Vitter, 1985).
fn keep(sample: &mut Examples, row: Row, seen: u64, random: &mut Random) {
    if sample.len() < POINTS {
        sample.push(row);
    } else {
        let place = random.below(usize::try_from(seen).unwrap_or(usize::MAX));
        if place < POINTS {
            sample.replace(place, row);
        }
    }
}

fn probe(sample: &Examples, predictions: &Predictions, width: usize) -> Probe {
    let rows = |values: &[f32], width: usize| {
        values
            .chunks_exact(width.max(1))
            .take(PROBES)
            .map(<[f32]>::to_vec)
            .collect()
    };
    Probe {
        observation: rows(&sample.inputs, sample.inputs.len() / sample.len().max(1)),
        action: rows(&predictions.actions, width),
        std: rows(&predictions.stds, width),
    }
}

fn classes(hits: &[[u64; 2]], shares: &[f64], n: f64) -> Classes {
    let frequent = shares
        .iter()
        .enumerate()
        .fold((0, f64::NEG_INFINITY), |best, (class, share)| {
            if *share > best.1 {
                (class, *share)
            } else {
                best
            }
        })
        .0;
    Classes {
        accuracy: hits.iter().map(|[_, right]| *right).sum::<u64>() as f64 / n,
        accuracy_of_most_frequent: hits.get(frequent).map_or(0.0, |[all, _]| *all as f64 / n),
        recall: hits
            .iter()
            .map(|[all, right]| (*all > 0).then(|| *right as f64 / *all as f64))
            .collect(),
    }
}

/// Sums over steps for one dimension.
#[derive(Debug, Clone, Default)]
struct Sums {
    squared: f64,
    absolute: f64,
    of_mean: f64,
    std: f64,
    within: [u64; LEVELS.len()],
}

impl Sums {
    fn add(&mut self, truth: f32, predicted: f32, std: Option<f32>, mean: f64) {
        let error = (f64::from(predicted) - f64::from(truth)).abs();
        self.squared += error * error;
        self.absolute += error;
        self.of_mean += (mean - f64::from(truth)).powi(2);
        if let Some(std) = std.map(f64::from) {
            self.std += std;
            for (within, (_, reach)) in self.within.iter_mut().zip(LEVELS) {
                *within += u64::from(error <= reach * std);
            }
        }
    }

    fn finish(&self, n: f64, has_std: bool) -> Dimension {
        let level = |((expected, _), within): ((f64, f64), &u64)| Level {
            expected,
            observed: *within as f64 / n,
        };
        Dimension {
            mse: self.squared / n,
            mae: self.absolute / n,
            mse_of_mean: self.of_mean / n,
            r2: if self.of_mean > 0.0 {
                1.0 - self.squared / self.of_mean
            } else {
                0.0
            },
            mean_std: has_std.then_some(self.std / n),
            calibration: if has_std {
                LEVELS.into_iter().zip(&self.within).map(level).collect()
            } else {
                Vec::new()
            },
        }
    }
}
