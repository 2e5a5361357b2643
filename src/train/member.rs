//! Learns one member of an ensemble: updates, looks at the validation loss, and the best checkpoint.

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

/// Updates between two looks at the validation loss, at most.
const BETWEEN_LOOKS: u64 = 250;
/// Looks that even a short training has.
const LOOKS: u64 = 50;
/// A training loss so many times the first one has diverged.
const DIVERGED: f64 = 1e3;
/// Rows of a batch of validation.
const VALIDATION_BATCH: usize = 4096;

/// What all members share.
pub(super) struct Lesson<'a> {
    /// What is learnt.
    pub(super) task: &'a Task,
    /// How.
    pub(super) options: &'a Options,
    /// What windows go through first.
    pub(super) inputs: &'a Scaling,
    /// Where actions lie.
    pub(super) centre: &'a [f32],
    /// See `centre`.
    pub(super) scale: &'a [f32],
    /// What is learnt from.
    pub(super) training: &'a Stream<'a>,
    /// What is looked at.
    pub(super) validation: &'a Stream<'a>,
    /// Examples of both.
    pub(super) counts: [u64; 2],
    /// Told of progress.
    pub(super) watch: &'a dyn Watch,
    /// Where networks learn.
    pub(super) device: &'a candle_core::Device,
}

/// A look at the losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Look {
    /// Updates done.
    pub update: u64,
    /// Mean training loss since the look before.
    pub training: f64,
    /// Validation loss.
    pub validation: f64,
}

/// What a member learnt.
#[derive(Debug)]
pub(super) struct Learnt {
    /// Parameters of its networks at the best look.
    pub(super) networks: Vec<Vec<Values>>,
    /// All looks.
    pub(super) looks: Vec<Look>,
    /// The best of them.
    pub(super) best: Look,
}

impl Lesson<'_> {
    /// Examples of an update: no more than there are.
    fn batch(&self) -> usize {
        self.options
            .batch
            .min(usize::try_from(self.counts[0]).unwrap_or(usize::MAX))
            .max(1)
    }

    /// Updates of a member at most.
    pub(super) fn updates(&self) -> u64 {
        match self.options.budget {
            Budget::Updates(updates) => updates.max(1),
            Budget::Epochs(epochs) => epochs
                .saturating_mul(self.counts[0].div_ceil(self.batch() as u64))
                .max(1),
        }
    }

    /// Updates between two looks. An update goes three times through an example where a look goes once; all looks together take
    /// no more than a tenth of the time.
    fn between_looks(&self) -> u64 {
        let cheap = (10 * self.counts[1]).div_ceil(3 * self.batch() as u64);
        BETWEEN_LOOKS
            .min(self.updates().div_ceil(LOOKS))
            .max(cheap)
            .max(1)
    }

    /// Learns member `index`.
    pub(super) fn learn(&self, index: u64) -> Result<Learnt> {
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
        let mut pupil = Pupil {
            lesson: self,
            index,
            networks: (0..parts).map(network).collect::<Result<_>>()?,
            batch: Examples::default(),
            size: self.batch(),
            updates: self.updates(),
            between: self.between_looks(),
            update: 0,
            since: (0.0, 0),
            first: None,
            looks: Vec::new(),
            best: None,
        };
        let drawn = self.draw(index)?;
        for epoch in 0.. {
            let mut random = Random::new(seed, &[index, 2, epoch]);
            self.training.shuffled(&mut random, |row| {
                for _ in 0..drawn.as_ref().map_or(1, |draw| draw(row.trajectory)) {
                    if !pupil.take(row)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
            if pupil.is_done() {
                break;
            }
        }
        let (best, networks) = pupil
            .best
            .ok_or_else(|| Error::failed("nothing was learnt"))?;
        Ok(Learnt {
            networks,
            looks: pupil.looks,
            best,
        })
    }

    /// How often each trajectory is drawn for member `index`: a Poisson draw of mean 1 each, which is what drawing with
    /// replacement comes to (Oza and Russell, 2001) and needs no list of them. `None` where nothing is drawn.
    fn draw(&self, index: u64) -> Result<Option<impl Fn(i64) -> usize>> {
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
        // Of very few trajectories it may be that none is drawn: then the member learns from all.
        Ok(any.then_some(draw))
    }

    /// Actions as the networks are to put them out.
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

    /// Mean loss over the validation examples.
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

/// A member that is learning.
struct Pupil<'a> {
    lesson: &'a Lesson<'a>,
    index: u64,
    networks: Vec<TrainableNetwork>,
    /// The batch that is being put together.
    batch: Examples,
    size: usize,
    updates: u64,
    between: u64,
    update: u64,
    /// Sum and number of training losses since the last look.
    since: (f64, u64),
    first: Option<f64>,
    looks: Vec<Look>,
    best: Option<(Look, Vec<Vec<Values>>)>,
}

impl Pupil<'_> {
    /// Whether the budget is spent, or patience.
    fn is_done(&self) -> bool {
        let idle = self.best.as_ref().map_or(0, |(best, _)| {
            self.looks
                .iter()
                .filter(|look| look.update > best.update)
                .count() as u64
        });
        self.update >= self.updates || idle >= self.lesson.options.patience
    }

    /// Adds an example to the batch, and learns from it when it is full; `false` where there is nothing more to do.
    fn take(&mut self, row: Row) -> Result<bool> {
        self.batch.push(row);
        if self.batch.len() == self.size {
            self.learn()?;
            self.batch.clear();
        }
        Ok(!self.is_done())
    }

    /// One update, and a look where it is time for one.
    fn learn(&mut self) -> Result<()> {
        let lesson = self.lesson;
        stop_if_interrupted(lesson.watch)?;
        self.update += 1;
        let inputs = lesson.inputs.apply(&self.batch.inputs)?;
        let targets = lesson.targets(&self.batch.targets);
        let mut passes = Vec::with_capacity(self.networks.len());
        let mut outputs = Vec::with_capacity(self.networks.len());
        for (part, network) in self.networks.iter().enumerate() {
            let noise = Random::new(
                lesson.options.seed,
                &[self.index, 4, self.update, part as u64],
            )
            .bits();
            let (output, pass) = network.forward(&inputs, Some(noise))?;
            outputs.push(output);
            passes.push(pass);
        }
        let (loss, gradients) = lesson.loss(&outputs, &targets);
        let first = *self.first.get_or_insert(loss);
        if !loss.is_finite() || loss > DIVERGED * first.abs().max(1.0) {
            let message = format!(
                "the loss diverged: it is {loss:.3e} at update {}, and was {first:.3e} at the first",
                self.update
            );
            return Err(Error::failed(message).hint(format!(
                "learn in smaller steps: `lr` is {}",
                lesson.options.adam.learning_rate
            )));
        }
        let adam = &lesson.options.adam;
        let backward = self.networks.iter().zip(&passes).zip(gradients);
        let gradients = backward
            .map(|((network, pass), gradient)| {
                network.backward(pass, gradient, lesson.task.actions)
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
            network.step(adam, self.update, gradients, shrink)?;
        }
        self.since = (self.since.0 + loss, self.since.1 + 1);
        if self.update.is_multiple_of(self.between) || self.update == self.updates {
            self.look()?;
        } else {
            lesson.watch.advance(1, None);
        }
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        let validation = self.lesson.validate(&self.networks)?;
        let look = Look {
            update: self.update,
            training: self.since.0 / self.since.1.max(1) as f64,
            validation,
        };
        self.since = (0.0, 0);
        if !validation.is_finite() {
            let message = format!(
                "the loss diverged: on held-out trajectories it is not finite at update {}",
                self.update
            );
            return Err(Error::failed(message).hint(format!(
                "learn in smaller steps: `lr` is {}",
                self.lesson.options.adam.learning_rate
            )));
        }
        self.looks.push(look);
        if self
            .best
            .as_ref()
            .is_none_or(|(best, _)| validation < best.validation)
        {
            self.best = Some((
                look,
                self.networks
                    .iter()
                    .map(TrainableNetwork::values)
                    .collect::<Result<_>>()?,
            ));
        }
        self.lesson
            .watch
            .advance(1, Some((look.training, validation)));
        Ok(())
    }
}
