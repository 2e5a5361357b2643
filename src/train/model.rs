//! A trained ensemble with its input and output scaling, computed exactly as in the file that
//! [`super::onnx`] writes.

use candle_core::Tensor;
use rayon::prelude::*;

use super::head::{log_std, points};
use super::network::{Network, Values};
use super::options::{Activation, Head, Task};
use super::random::Random;
use super::tensor::{matrix, read};
use crate::error::{Error, Result};

/// Number of rows in a batch of predictions.
const BATCH: usize = 4096;

/// Normalisation of inputs: `(x - mean) · factor`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scaling {
    /// The mean, which is subtracted.
    pub(super) mean: Vec<f32>,
    /// The factor. 0 for constant values, which carry no information.
    pub(super) factor: Vec<f32>,
}

/// A trained model.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// The shapes and bounds that it was trained for.
    pub(super) task: Task,
    /// What it predicts.
    pub(super) head: Head,
    /// Activation function of the hidden layers.
    pub(super) activation: Activation,
    /// Normalisation of windows.
    pub(super) inputs: Scaling,
    /// An action is `centre + scale · output`. Centre and half the width of the box for a Gaussian
    /// head, mean and standard deviation of the training actions for a deterministic one.
    pub(super) centre: Vec<f32>,
    /// See `centre`.
    pub(super) scale: Vec<f32>,
    /// Members of the ensemble. Each has one network, or two for the mean and log standard
    /// deviation.
    pub(super) members: Vec<Vec<Vec<Values>>>,
}

/// Predictions for a set of windows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Predictions {
    /// Actions, or logits of discrete actions, row by row.
    pub actions: Vec<f32>,
    /// Standard deviations of the actions. Empty if the model has none.
    pub stds: Vec<f32>,
}

impl Model {
    /// Returns the number of values in a prediction.
    pub(crate) fn outputs(&self) -> usize {
        self.task.actions
    }

    /// Returns whether the model tells how certain it is.
    pub(crate) fn has_std(&self) -> bool {
        self.head.has_std(self.members.len())
    }

    /// Returns the model ready to run.
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
    /// Returns the normalised `inputs` as a matrix.
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

/// A model ready to run.
pub(super) struct Predictor<'a> {
    model: &'a Model,
    members: Vec<Vec<Network>>,
    points: (Vec<f32>, Vec<f32>),
}

impl Predictor<'_> {
    /// Predicts the actions for rows of windows.
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
            // With one member, squaring and taking the root would only round.
            match members.as_slice() {
                [one] => into.stds.extend_from_slice(&one.stds),
                _ => into.stds.extend((0..n).map(|place| variance(place).sqrt())),
            }
        }
        into.actions.extend(means);
        Ok(())
    }

    /// Returns the predictions of one member from the outputs of its networks.
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
                "the model lacks a network that its head needs",
            )),
        }
    }
}
