//! How good a model is on trajectories that it has not seen.

use serde::Serialize;

use super::data::{Examples, Row, Stream};
use super::head::most_probable;
use super::model::{Model, Predictions};
use super::options::Head;
use super::random::Random;
use crate::error::Result;

/// Points of a scatter plot, at most.
const POINTS: usize = 2000;
/// Windows whose predictions the report holds.
const PROBES: usize = 16;
/// Share of a Normal within so many standard deviations of its mean.
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
pub struct HeldOut {
    /// Steps.
    pub steps: u64,
    /// One entry per dimension of a continuous action.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<Dimension>,
    /// How often the most probable class was the right one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
    /// Windows and what the model says of them, so that the file can be held against it.
    pub probe: Probe,
    /// True and predicted actions of some steps, for the scatter plot.
    #[serde(skip)]
    pub scatter: Vec<(Vec<f32>, Vec<f32>)>,
}

/// Errors in one dimension.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Dimension {
    /// Mean squared error.
    pub mse: f64,
    /// Mean absolute error.
    pub mae: f64,
    /// Mean squared error of predicting the mean of the training share.
    pub mse_of_mean: f64,
    /// Share of the latter that the model explains.
    pub r2: f64,
    /// Mean standard deviation that the model gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_std: Option<f64>,
    /// How often the truth lies as close to the prediction as a Normal of that standard deviation would have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<Level>,
}

/// One point of a calibration curve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Level {
    /// Share that should lie within.
    pub expected: f64,
    /// Share that does.
    pub observed: f64,
}

/// Errors of a discrete action.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Classes {
    /// Share of steps at which the most probable class is the true one.
    pub accuracy: f64,
    /// The same for always naming the most frequent class of the training share.
    pub accuracy_of_most_frequent: f64,
    /// For each class, the share of its steps at which it was named; `null` where it did not come.
    pub recall: Vec<Option<f64>>,
}

/// Some held-out windows and what the model says of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Probe {
    /// Windows, as they go into the file's `observation`.
    pub observation: Vec<Vec<f32>>,
    /// What comes out of its `action`.
    pub action: Vec<Vec<f32>>,
    /// What comes out of its `std`; empty where it has none.
    pub std: Vec<Vec<f32>>,
}

impl HeldOut {
    /// One number for all: the mean of the dimensions' squared errors, or the share of wrong classes.
    pub fn error(&self) -> f64 {
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

    /// The same number for a prediction that looks at nothing.
    pub fn error_of_mean(&self) -> f64 {
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

/// Measures `model` on the examples of `validation`; `mean` is what one would predict without looking.
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

/// Keeps a sample of all rows seen, each with the same chance (Vitter's algorithm R).
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

/// Sums over the steps of one dimension.
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
