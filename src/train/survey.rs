//! A survey of the training data before the training: counts, means and standard deviations.

use super::data::Examples;
use super::model::Scaling;
use super::options::{Head, Task};
use crate::error::{Error, Result};

/// Counts and moments of the training data.
pub(super) struct Survey<'a> {
    task: &'a Task,
    /// Number of examples to train on.
    pub(super) count: u64,
    /// Mean and sum of squared deviations of their actions, or for classes, the count of each.
    actions: Vec<[f64; 2]>,
    /// Number of observations that determine the normalisation of inputs.
    seen: u64,
    /// Mean and sum of squared deviations of these observations.
    observations: Vec<[f64; 2]>,
    discrete: bool,
}

/// Updates moments by the `count`-th vector (Welford, 1962). There is no cancellation, however far
/// from zero the values lie.
fn add(moments: &mut [[f64; 2]], values: &[f32], count: u64) {
    for ([mean, squares], value) in moments.iter_mut().zip(values) {
        let apart = f64::from(*value) - *mean;
        *mean += apart / count as f64;
        *squares += apart * (f64::from(*value) - *mean);
    }
}

/// Returns the standard deviation of `count` values whose squared deviations have this sum.
fn std(squares: f64, count: u64) -> f64 {
    (squares / count.max(1) as f64).sqrt()
}

impl<'a> Survey<'a> {
    /// Returns an empty survey.
    pub(super) fn new(task: &'a Task, head: Head) -> Survey<'a> {
        let zeros = |n: usize| vec![[0.0; 2]; n];
        Survey {
            task,
            count: 0,
            actions: zeros(task.actions),
            seen: 0,
            observations: zeros(task.width),
            discrete: head == Head::Categorical,
        }
    }

    /// Adds the actions of examples to train on.
    pub(super) fn add_examples(&mut self, examples: &Examples) {
        let per_action = if self.discrete { 1 } else { self.task.actions };
        for action in examples.targets.chunks_exact(per_action) {
            self.count += 1;
            if self.discrete {
                if let Some([count, _]) = action
                    .first()
                    .and_then(|class| self.actions.get_mut(*class as usize))
                {
                    *count += 1.0;
                }
            } else {
                add(&mut self.actions, action, self.count);
            }
        }
    }

    /// Adds observations. Each slice begins with one; the rest of the slice is ignored.
    pub(super) fn add_observations<'b>(&mut self, observations: impl Iterator<Item = &'b [f32]>) {
        for observation in observations {
            self.seen += 1;
            add(&mut self.observations, observation, self.seen);
        }
    }

    /// Returns the normalisation of windows, and the constant dimensions, which it sets to 0.
    ///
    /// # Errors
    /// Returns an error if every dimension is constant.
    pub(super) fn input_scaling(&self) -> Result<(Scaling, Vec<usize>)> {
        let constant: Vec<usize> = (0..self.task.width)
            .filter(|dimension| {
                let [mean, squares] = self.observations[*dimension];
                // Less than float32 resolves around the mean.
                std(squares, self.seen) <= 1e-7 * mean.abs()
            })
            .collect();
        if constant.len() == self.task.width {
            return Err(Error::failed(format!(
                "observations are constant at all {} steps, so no action can be predicted from \
                 them",
                self.seen
            ))
            .hint(
                "train on trajectories whose observations change, or check how they were imported",
            ));
        }
        let length = self.task.past + 1 + self.task.future;
        let one: Vec<(f32, f32)> = (0..self.task.width)
            .map(|dimension| {
                let [mean, squares] = self.observations[dimension];
                let factor = if constant.contains(&dimension) {
                    0.0
                } else {
                    1.0 / (std(squares, self.seen) + 1e-6)
                };
                (mean as f32, factor as f32)
            })
            .collect();
        let (mean, factor) = one.iter().copied().cycle().take(length * one.len()).unzip();
        Ok((Scaling { mean, factor }, constant))
    }

    /// Returns the centre and scale of actions: of the box for a Gaussian head, mean and standard
    /// deviation for a deterministic one, and 0 and 1 for logits.
    pub(super) fn action_scaling(&self, head: Head) -> (Vec<f32>, Vec<f32>) {
        match (head, &self.task.bounds) {
            (Head::Gaussian, Some([low, high])) => {
                let sides = || low.iter().zip(high);
                (
                    sides()
                        .map(|(low, high)| ((low + high) / 2.0) as f32)
                        .collect(),
                    sides()
                        .map(|(low, high)| ((high - low) / 2.0) as f32)
                        .collect(),
                )
            }
            (Head::Categorical, _) => (vec![0.0; self.task.actions], vec![1.0; self.task.actions]),
            _ => self
                .actions
                .iter()
                .map(|[mean, squares]| (*mean as f32, std(*squares, self.count) as f32))
                .unzip(),
        }
    }

    /// Returns the mean action, or the share of each class: the prediction of the baseline.
    pub(super) fn baseline(&self) -> Vec<f64> {
        let share = if self.discrete {
            self.count.max(1) as f64
        } else {
            1.0
        };
        self.actions.iter().map(|[mean, _]| mean / share).collect()
    }
}
