//! A trained ensemble with all that stands around its networks, computed here as in the file that [`super::onnx`] writes.

use candle_core::Tensor;
use rayon::prelude::*;

use super::head::{log_std, points};
use super::network::{Network, Values};
use super::options::{Activation, Head, Task};
use super::random::Random;
use super::tensor::{matrix, read};
use crate::error::{Error, Result};

/// Rows that are predicted at a time.
const BATCH: usize = 4096;

/// What is subtracted from values, and what they are then multiplied with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scaling {
    /// Subtracted.
    pub(super) mean: Vec<f32>,
    /// Multiplied with; 0 for what is always the same, and carries nothing.
    pub(super) factor: Vec<f32>,
}

/// A trained model.
#[derive(Debug, Clone)]
pub struct Model {
    /// What it was trained for.
    pub(super) task: Task,
    /// What it predicts.
    pub(super) head: Head,
    /// What follows hidden layers.
    pub(super) activation: Activation,
    /// What windows go through before the networks.
    pub(super) inputs: Scaling,
    /// Where actions lie: `centre + scale · output`. For a Gaussian head the box, else mean and spread of what was learnt from.
    pub(super) centre: Vec<f32>,
    /// See `centre`.
    pub(super) scale: Vec<f32>,
    /// Members of the ensemble; each has one network, or two for mean and log-std.
    pub(super) members: Vec<Vec<Vec<Values>>>,
}

/// What a model says of some windows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    /// Actions, or the logits of a discrete one, row by row.
    pub actions: Vec<f32>,
    /// Standard deviations of the same; empty where the model has none.
    pub stds: Vec<f32>,
}

impl Model {
    /// Values of one prediction.
    pub fn outputs(&self) -> usize {
        self.task.actions
    }

    /// Whether it says how certain it is.
    pub fn has_std(&self) -> bool {
        self.head.has_std(self.members.len())
    }

    /// The networks, ready to run.
    pub(super) fn predictor(&self) -> Result<Predictor<'_>> {
        let members = self.members.iter().map(|member| {
            member
                .iter()
                .map(|values| self.network(values))
                .collect::<Result<Vec<_>>>()
        });
        Ok(Predictor {
            model: self,
            members: members.collect::<Result<_>>()?,
            points: points(),
        })
    }

    fn network(&self, values: &[Values]) -> Result<Network> {
        let sizes: Vec<usize> = values
            .iter()
            .map(|layer| layer.inputs)
            .chain(values.last().map(|layer| layer.outputs))
            .collect();
        let mut network = Network::new(&sizes, self.activation, 0.0, &mut Random::new(0, &[]))?;
        network.set(values)?;
        Ok(network)
    }
}

impl Scaling {
    /// Values of `inputs` as the networks take them, as a matrix.
    pub(super) fn apply(&self, inputs: &[f32]) -> Result<Tensor> {
        let cells = self.mean.len();
        let mut values = inputs.to_vec();
        values.par_chunks_mut(cells * 64).for_each(|block| {
            for row in block.chunks_exact_mut(cells) {
                row.iter_mut()
                    .zip(&self.mean)
                    .zip(&self.factor)
                    .for_each(|((value, mean), factor)| *value = (*value - mean) * factor);
            }
        });
        matrix(values, inputs.len() / cells.max(1), cells)
    }
}

/// A model that is ready to run.
pub(super) struct Predictor<'a> {
    model: &'a Model,
    members: Vec<Vec<Network>>,
    points: (Vec<f32>, Vec<f32>),
}

impl Predictor<'_> {
    /// Predicts for rows of windows.
    pub(super) fn predict(&self, inputs: &[f32]) -> Result<Predictions> {
        let mut predictions = Predictions::default();
        for inputs in inputs.chunks(BATCH * self.model.task.cells().max(1)) {
            self.batch(&self.model.inputs.apply(inputs)?, &mut predictions)?;
        }
        Ok(predictions)
    }

    fn batch(&self, inputs: &Tensor, into: &mut Predictions) -> Result<()> {
        let mut members = Vec::with_capacity(self.members.len());
        for networks in &self.members {
            let outputs = networks.iter().map(|network| {
                network
                    .forward(inputs, None)
                    .and_then(|(outputs, _)| read(&outputs, <[f32]>::to_vec))
            });
            members.push(self.member(&outputs.collect::<Result<Vec<_>>>()?)?);
        }
        let share = 1.0 / members.len() as f32;
        let n = members.first().map_or(0, |member| member.actions.len());
        let means: Vec<f32> = (0..n)
            .map(|place| {
                members
                    .iter()
                    .map(|member| member.actions[place])
                    .sum::<f32>()
                    * share
            })
            .collect();
        if self.model.has_std() {
            let variance = |place: usize| {
                let own =
                    |member: &Predictions| member.stds.get(place).map_or(0.0, |std| std * std);
                let apart = |member: &Predictions| {
                    (member.actions[place] - means[place]) * (member.actions[place] - means[place])
                };
                members
                    .iter()
                    .map(|member| own(member) + apart(member))
                    .sum::<f32>()
                    * share
            };
            // One member's own standard deviation goes through no square.
            match members.as_slice() {
                [one] => into.stds.extend_from_slice(&one.stds),
                _ => into.stds.extend((0..n).map(|place| variance(place).sqrt())),
            }
        }
        into.actions.extend(means);
        Ok(())
    }

    /// What one member says, given what its networks put out.
    fn member(&self, outputs: &[Vec<f32>]) -> Result<Predictions> {
        let (centre, scale) = (&self.model.centre, &self.model.scale);
        match (self.model.head, outputs) {
            (Head::Categorical, [logits]) => Ok(Predictions {
                actions: logits.clone(),
                stds: Vec::new(),
            }),
            (Head::Deterministic, [outputs]) => {
                let bounds = self.model.task.bounds.as_ref();
                let action = |(place, output): (usize, &f32)| {
                    let dimension = place % centre.len();
                    let action = output * scale[dimension] + centre[dimension];
                    bounds.map_or(action, |[low, high]| {
                        action
                            .max(low[dimension] as f32)
                            .min(high[dimension] as f32)
                    })
                };
                Ok(Predictions {
                    actions: outputs.iter().enumerate().map(action).collect(),
                    stds: Vec::new(),
                })
            }
            (Head::Gaussian, [means, log_stds]) => {
                let (points, weights) = &self.points;
                let one = |(place, (mean, output)): (usize, (&f32, &f32))| {
                    let dimension = place % centre.len();
                    let std = log_std(*output).exp();
                    let squashed = |point: &f32| (mean + std * point).tanh();
                    let middle: f32 = points
                        .iter()
                        .zip(weights)
                        .map(|(point, weight)| squashed(point) * weight)
                        .sum();
                    let apart =
                        |point: &f32| (squashed(point) - middle) * (squashed(point) - middle);
                    let variance: f32 = points
                        .iter()
                        .zip(weights)
                        .map(|(point, weight)| apart(point) * weight)
                        .sum();
                    (
                        mean.tanh() * scale[dimension] + centre[dimension],
                        variance.sqrt() * scale[dimension],
                    )
                };
                let pairs: Vec<(&f32, &f32)> = means.iter().zip(log_stds).collect();
                let (actions, stds) = pairs.into_par_iter().enumerate().map(one).unzip();
                Ok(Predictions { actions, stds })
            }
            _ => Err(Error::failed(
                "a model has not the networks that its head needs",
            )),
        }
    }
}
