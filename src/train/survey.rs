//! What is known of a corpus before anything is trained on it: counts, means and spreads.

use super::data::Examples;
use super::model::Scaling;
use super::options::{Head, Task};
use crate::error::{Error, Result};

/// What is to be known before anything is learnt.
pub(super) struct Survey<'a> {
    task: &'a Task,
    /// Examples to learn from.
    pub(super) count: u64,
    /// Mean and sum of squared deviations of their actions; for classes, how often each came.
    actions: Vec<[f64; 2]>,
    /// Steps whose observations inputs are scaled by.
    seen: u64,
    /// Mean and sum of squared deviations of these observations.
    observations: Vec<[f64; 2]>,
    discrete: bool,
}

/// Welford's update by the `count`-th of some vectors: no cancellation however far from zero the values lie.
fn update(moments: &mut [[f64; 2]], values: &[f32], count: u64) {
    for ([mean, squares], value) in moments.iter_mut().zip(values) {
        let apart = f64::from(*value) - *mean;
        *mean += apart / count as f64;
        *squares += apart * (f64::from(*value) - *mean);
    }
}

/// The standard deviation of `count` values whose squared deviations have this sum.
fn std(squares: f64, count: u64) -> f64 {
    (squares / count.max(1) as f64).sqrt()
}

impl<'a> Survey<'a> {
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

    /// Counts the actions of examples to learn from.
    pub(super) fn learn_from(&mut self, examples: &Examples) {
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
                update(&mut self.actions, action, self.count);
            }
        }
    }

    /// Counts observations; of each slice its first values are one.
    pub(super) fn look_at<'b>(&mut self, observations: impl Iterator<Item = &'b [f32]>) {
        for observation in observations {
            self.seen += 1;
            update(&mut self.observations, observation, self.seen);
        }
    }

    /// What windows go through before the networks, and the dimensions that never change, which are left out.
    pub(super) fn inputs(&self) -> Result<(Scaling, Vec<usize>)> {
        let constant: Vec<usize> = (0..self.task.width)
            .filter(|dimension| {
                let [mean, squares] = self.observations[*dimension];
                // Below what float32 resolves around the mean.
                std(squares, self.seen) <= 1e-7 * mean.abs()
            })
            .collect();
        if constant.len() == self.task.width {
            return Err(Error::failed(format!(
                "observations are constant at all {} steps: nothing follows from them",
                self.seen
            ))
            .hint(
                "learn from trajectories that move, or check how the observations were imported",
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

    /// Centre and scale of actions: the box of a Gaussian head, mean and spread for squared errors, nothing for logits.
    pub(super) fn actions(&self, head: Head) -> (Vec<f32>, Vec<f32>) {
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

    /// What one would predict without looking: the mean action, or the share of each class.
    pub(super) fn mean_action(&self) -> Vec<f64> {
        let share = if self.discrete {
            self.count.max(1) as f64
        } else {
            1.0
        };
        self.actions.iter().map(|[mean, _]| mean / share).collect()
    }
}
