//! Training of one member of an ensemble: updates, evaluations on the validation examples, and the
//! best checkpoint.

use serde::Serialize;

use super::data::{Examples, Row, Stream};
use super::head::{loss, unsquash};
use super::model::Scaling;
use super::network::{Network, Values};
use super::options::{Budget, Head, Options, Task};
use super::random::Random;
use super::trainable::{Gradients, TrainableNetwork};
use super::watch::{Watch, stop_if_interrupted};
use crate::error::{Error, Result};

/// Largest number of updates between two evaluations, unless evaluations take too much time.
const EVALUATION_INTERVAL: u64 = 250;
/// Number of evaluations that even a short training has.
const EVALUATIONS: u64 = 50;
/// A training loss of this many times the first one has diverged.
const DIVERGED: f64 = 1e3;
/// Number of rows in a batch of the validation pass.
const VALIDATION_BATCH: usize = 4096;

/// The inputs of a training that all members share.
pub(super) struct Trainer<'a> {
    /// Shapes and bounds to train for.
    pub(super) task: &'a Task,
    /// Options of the training.
    pub(super) options: &'a Options,
    /// Normalisation of windows.
    pub(super) inputs: &'a Scaling,
    /// An action is `centre + scale · output`.
    pub(super) centre: &'a [f32],
    /// See `centre`.
    pub(super) scale: &'a [f32],
    /// Examples to train on.
    pub(super) training: &'a Stream<'a>,
    /// Held-out examples.
    pub(super) validation: &'a Stream<'a>,
    /// Number of training and of validation examples.
    pub(super) counts: [u64; 2],
    /// Observer of the progress.
    pub(super) watch: &'a dyn Watch,
    /// Device to train on.
    pub(super) device: &'a candle_core::Device,
}

/// The losses at one point of a training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Evaluation {
    /// Number of updates done.
    pub update: u64,
    /// Mean training loss since the previous evaluation.
    pub training: f64,
    /// Validation loss.
    pub validation: f64,
}

/// A trained member.
#[derive(Debug)]
pub(super) struct TrainedMember {
    /// Parameters of its networks at the best evaluation.
    pub(super) networks: Vec<Vec<Values>>,
    /// All evaluations, in order.
    pub(super) evaluations: Vec<Evaluation>,
    /// The evaluation with the lowest validation loss.
    pub(super) best: Evaluation,
}

impl Trainer<'_> {
    /// Returns the number of examples per update, at most as many as there are.
    fn batch_size(&self) -> usize {
        self.options
            .batch
            .min(usize::try_from(self.counts[0]).unwrap_or(usize::MAX))
            .max(1)
    }

    /// Returns the maximum number of updates of a member.
    pub(super) fn max_updates(&self) -> u64 {
        match self.options.budget {
            Budget::Updates(updates) => updates.max(1),
            Budget::Epochs(epochs) => epochs
                .saturating_mul(self.counts[0].div_ceil(self.batch_size() as u64))
                .max(1),
        }
    }

    /// Returns the number of updates between two evaluations.
    ///
    /// An update passes through each example about three times, an evaluation once. The interval is
    /// long enough that evaluations take at most a tenth of the time of the updates.
    fn evaluation_interval(&self) -> u64 {
        let shortest = (10 * self.counts[1]).div_ceil(3 * self.batch_size() as u64);
        EVALUATION_INTERVAL
            .min(self.max_updates().div_ceil(EVALUATIONS))
            .max(shortest)
            .max(1)
    }

    /// Trains member `index`.
    pub(super) fn train(&self, index: u64) -> Result<TrainedMember> {
        let seed = self.options.seed;
        let parts = if self.options.head == Head::Gaussian {
            2
        } else {
            1
        };
        let sizes: Vec<usize> = std::iter::once(self.task.cells())
            .chain(self.options.hidden.iter().copied())
            .chain([self.task.actions])
            .collect();
        let network = |part: u64| {
            let mut random = Random::new(seed, &[index, 1, part]);
            let (activation, dropout) = (self.options.activation, self.options.dropout as f32);
            TrainableNetwork::on(
                self.device,
                Network::new(&sizes, activation, dropout, &mut random)?,
                activation,
                dropout,
            )
        };
        let mut state = TrainingState {
            trainer: self,
            index,
            networks: (0..parts).map(network).collect::<Result<_>>()?,
            batch: Examples::default(),
            batch_size: self.batch_size(),
            max_updates: self.max_updates(),
            interval: self.evaluation_interval(),
            updates_done: 0,
            losses: (0.0, 0),
            first_loss: None,
            evaluations: Vec::new(),
            best: None,
        };
        let drawn = self.bootstrap(index)?;
        for epoch in 0.. {
            let mut random = Random::new(seed, &[index, 2, epoch]);
            self.training.shuffled(&mut random, |row| {
                for _ in 0..drawn.as_ref().map_or(1, |draw| draw(row.trajectory)) {
                    if !state.take(row)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
            if state.is_done() {
                break;
            }
        }
        let (best, networks) = state
            .best
            .ok_or_else(|| Error::failed("the training ended without an update"))?;
        Ok(TrainedMember {
            networks,
            evaluations: state.evaluations,
            best,
        })
    }

    /// Returns how often member `index` uses each trajectory, or `None` without a bootstrap.
    ///
    /// The count is a Poisson draw with mean 1, the limit of drawing with replacement (Oza and
    /// Russell, 2001), which needs no list of the trajectories.
    fn bootstrap(&self, index: u64) -> Result<Option<impl Fn(i64) -> usize>> {
        if !self.options.bootstrap {
            return Ok(None);
        }
        let seed = self.options.seed;
        let draw = move |trajectory: i64| {
            Random::new(seed, &[index, 3, trajectory.cast_unsigned()]).poisson()
        };
        let mut any = false;
        self.training.in_order(|examples| {
            any |= examples
                .trajectories
                .iter()
                .any(|trajectory| draw(*trajectory) > 0);
            Ok(!any)
        })?;
        // With very few trajectories, all counts may be 0. The member is then trained on all of
        // them.
        Ok(any.then_some(draw))
    }

    /// Returns the network outputs that stand for `actions`.
    pub(super) fn targets(&self, actions: &[f32]) -> Vec<f32> {
        let width = self.centre.len().max(1);
        let place = |(index, action): (usize, &f32)| {
            let dimension = index % width;
            let (centre, scale) = (
                f64::from(self.centre[dimension]),
                f64::from(self.scale[dimension]),
            );
            let place = (f64::from(*action) - centre) / if scale == 0.0 { 1.0 } else { scale };
            (if self.options.head == Head::Gaussian {
                unsquash(place)
            } else {
                place
            }) as f32
        };
        match self.options.head {
            Head::Categorical => actions.to_vec(),
            _ => actions.iter().enumerate().map(place).collect(),
        }
    }

    fn loss(&self, outputs: &[Vec<f32>], targets: &[f32]) -> (f64, Vec<Vec<f32>>) {
        let slices: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
        loss(self.options.head, &slices, targets, self.task.actions)
    }

    /// Returns the mean loss over the validation examples.
    fn validate(&self, networks: &[TrainableNetwork]) -> Result<f64> {
        let (mut total, mut count) = (0.0, 0);
        let (cells, width) = (self.task.cells(), self.target_width());
        self.validation.in_order(|examples| {
            for (inputs, targets) in examples
                .inputs
                .chunks(VALIDATION_BATCH * cells)
                .zip(examples.targets.chunks(VALIDATION_BATCH * width))
            {
                let inputs = self.inputs.apply(inputs)?;
                let outputs = networks
                    .iter()
                    .map(|network| Ok(network.forward(&inputs, None)?.0))
                    .collect::<Result<Vec<_>>>()?;
                let rows = targets.len() / width;
                total += self.loss(&outputs, &self.targets(targets)).0 * rows as f64;
                count += rows;
            }
            Ok(true)
        })?;
        Ok(total / count.max(1) as f64)
    }

    fn target_width(&self) -> usize {
        if self.options.head == Head::Categorical {
            1
        } else {
            self.task.actions.max(1)
        }
    }
}

/// A member in training.
struct TrainingState<'a> {
    trainer: &'a Trainer<'a>,
    index: u64,
    networks: Vec<TrainableNetwork>,
    /// The batch under construction.
    batch: Examples,
    batch_size: usize,
    max_updates: u64,
    interval: u64,
    updates_done: u64,
    /// Sum and number of training losses since the last evaluation.
    losses: (f64, u64),
    first_loss: Option<f64>,
    evaluations: Vec<Evaluation>,
    best: Option<(Evaluation, Vec<Vec<Values>>)>,
}

impl TrainingState<'_> {
    /// Returns whether the budget or the patience is exhausted.
    fn is_done(&self) -> bool {
        let idle = self.best.as_ref().map_or(0, |(best, _)| {
            self.evaluations
                .iter()
                .filter(|evaluation| evaluation.update > best.update)
                .count() as u64
        });
        self.updates_done >= self.max_updates || idle >= self.trainer.options.patience
    }

    /// Adds an example to the batch and makes an update when the batch is full. Returns `false`
    /// when the training is done.
    fn take(&mut self, row: Row) -> Result<bool> {
        self.batch.push(row);
        if self.batch.len() == self.batch_size {
            self.update()?;
            self.batch.clear();
        }
        Ok(!self.is_done())
    }

    /// Makes one update, and an evaluation when one is due.
    fn update(&mut self) -> Result<()> {
        let trainer = self.trainer;
        stop_if_interrupted(trainer.watch)?;
        self.updates_done += 1;
        let inputs = trainer.inputs.apply(&self.batch.inputs)?;
        let targets = trainer.targets(&self.batch.targets);
        let mut passes = Vec::with_capacity(self.networks.len());
        let mut outputs = Vec::with_capacity(self.networks.len());
        for (part, network) in self.networks.iter().enumerate() {
            let noise = Random::new(
                trainer.options.seed,
                &[self.index, 4, self.updates_done, part as u64],
            )
            .bits();
            let (output, pass) = network.forward(&inputs, Some(noise))?;
            outputs.push(output);
            passes.push(pass);
        }
        let (loss, gradients) = trainer.loss(&outputs, &targets);
        let first = *self.first_loss.get_or_insert(loss);
        if !loss.is_finite() || loss > DIVERGED * first.abs().max(1.0) {
            return Err(self.diverged(format!(
                "it was {first:.3e} at the first update and is {loss:.3e} at update {}",
                self.updates_done
            )));
        }
        let adam = &trainer.options.adam;
        let backward = self.networks.iter().zip(&passes).zip(gradients);
        let gradients = backward
            .map(|((network, pass), gradient)| {
                network.backward(pass, gradient, trainer.task.actions)
            })
            .collect::<Result<Vec<_>>>()?;
        let shrink = match adam.clip_norm {
            Some(_) => adam.shrink(
                gradients
                    .iter()
                    .map(Gradients::squares)
                    .sum::<Result<f64>>()?,
            ),
            None => 1.0,
        };
        for (network, gradients) in self.networks.iter_mut().zip(&gradients) {
            network.step(adam, self.updates_done, gradients, shrink)?;
        }
        self.losses = (self.losses.0 + loss, self.losses.1 + 1);
        if self.updates_done.is_multiple_of(self.interval) || self.updates_done == self.max_updates
        {
            self.evaluate()?;
        } else {
            trainer.watch.advance(1, None);
        }
        Ok(())
    }

    fn diverged(&self, what: String) -> Error {
        Error::failed(format!("the loss diverged: {what}")).hint(format!(
            "lower the learning rate: `lr` is {}",
            self.trainer.options.adam.learning_rate
        ))
    }

    /// Evaluates the member, and keeps its parameters if the validation loss is the lowest so far.
    fn evaluate(&mut self) -> Result<()> {
        let validation = self.trainer.validate(&self.networks)?;
        let evaluation = Evaluation {
            update: self.updates_done,
            training: self.losses.0 / self.losses.1.max(1) as f64,
            validation,
        };
        self.losses = (0.0, 0);
        if !validation.is_finite() {
            return Err(self.diverged(format!(
                "it is not finite on the held-out trajectories at update {}",
                self.updates_done
            )));
        }
        self.evaluations.push(evaluation);
        if self
            .best
            .as_ref()
            .is_none_or(|(best, _)| validation < best.validation)
        {
            self.best = Some((
                evaluation,
                self.networks
                    .iter()
                    .map(TrainableNetwork::values)
                    .collect::<Result<_>>()?,
            ));
        }
        self.trainer
            .watch
            .advance(1, Some((evaluation.training, validation)));
        Ok(())
    }
}
