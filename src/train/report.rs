//! What is to be said of a trained model, as JSON.

use serde::Serialize;
use serde_json::{Value, json};

use super::device::Device;
use super::measure::{Dimension, HeldOut};
use super::member::Look;
use super::options::{Budget, Head, Options, Task};

/// How a model was learnt and how good it is on trajectories that it has not seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Head, sizes and seeds.
    pub training: Value,
    /// What was learnt from.
    pub data: Data,
    /// Errors on held-out steps.
    pub held_out: HeldOut,
    /// Errors by round of self-training; one round without it.
    pub rounds: Vec<Round>,
    /// The round whose model was written: that of the lowest validation loss.
    pub chosen_round: usize,
    /// Losses of every member in every round.
    pub curves: Vec<Curve>,
}

/// What was learnt from.
#[derive(Debug, Clone, Serialize)]
pub struct Data {
    /// Steps with a recorded action.
    pub training_steps: u64,
    /// Steps held out.
    pub held_out_steps: u64,
    /// Dimensions of the observation, from 0, that never change where it was learnt, and are left out.
    pub constant_observations: Vec<usize>,
}

/// A round of self-training; the first learns from recorded actions alone.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Counted from 0.
    pub round: usize,
    /// Steps that it learnt from.
    pub steps: u64,
    /// The uncertainty of the least certain label among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertainty_limit: Option<f32>,
    /// Mean of the members' best validation losses.
    pub validation: f64,
    /// Error of the ensemble on held-out steps: mean squared error over dimensions, or share of wrong classes.
    pub error: f64,
}

/// Losses of a member.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    /// The round.
    pub round: usize,
    /// The member, from 0.
    pub member: u64,
    /// The checkpoint that was kept.
    pub best: Look,
    /// Every look.
    pub looks: Vec<Look>,
}

impl Report {
    pub(super) fn new(
        (options, task, device): (&Options, &Task, Device),
        data: Data,
        held_out: HeldOut,
        rounds: Vec<Round>,
        chosen_round: usize,
        curves: Vec<Curve>,
    ) -> Report {
        let head = match options.head {
            Head::Deterministic => "deterministic",
            Head::Gaussian => "gaussian",
            Head::Categorical => "categorical",
        };
        let loss = match options.head {
            Head::Deterministic => "mean squared error of actions in units of their spread",
            Head::Gaussian => "negative log-likelihood in a box from -1 to 1",
            Head::Categorical => "cross-entropy",
        };
        let budget = match options.budget {
            Budget::Updates(updates) => json!({"steps": updates}),
            Budget::Epochs(epochs) => json!({"epochs": epochs}),
        };
        let training = json!({
            "head": head, "loss": loss, "hidden": options.hidden, "members": options.members, "batch": options.batch, "budget": budget, "seed": options.seed,
            "device": device.to_string(),
            "window": {"past": task.past, "future": task.future}, "observation_width": task.width, "action_width": task.actions,
        });
        Report {
            training,
            data,
            held_out,
            rounds,
            chosen_round,
            curves,
        }
    }

    /// The report as text, with `more` at its head.
    pub fn to_json(&self, more: &serde_json::Map<String, Value>) -> String {
        let mut whole = more.clone();
        if let Ok(Value::Object(own)) = serde_json::to_value(self) {
            whole.extend(own);
        }
        serde_json::to_string_pretty(&Value::Object(whole)).unwrap_or_default() + "\n"
    }

    /// One line for a person: the held-out error beside that of predicting the mean.
    pub fn summary(&self) -> String {
        let held_out = &self.held_out;
        let steps = held_out.steps;
        let errors = match &held_out.classes {
            Some(classes) => format!(
                "right class at {:.1} % of {steps} held-out steps (the most frequent class: {:.1} %)",
                classes.accuracy * 100.0,
                classes.accuracy_of_most_frequent * 100.0
            ),
            None => {
                let share = held_out.error() / held_out.error_of_mean().max(f64::MIN_POSITIVE);
                let each = |dimension: &Dimension| format!("{:.2}", dimension.r2);
                let r2: Vec<String> = held_out.dimensions.iter().take(8).map(each).collect();
                format!(
                    "mean squared error {:.4} on {steps} held-out steps, {:.1} % of that of predicting the mean (R² by dimension: {})",
                    held_out.error(),
                    share * 100.0,
                    r2.join(", ")
                )
            }
        };
        match self.data.constant_observations.as_slice() {
            [] => errors,
            constant => format!(
                "{errors}; dimensions {constant:?} of the observation never change and were left out"
            ),
        }
    }
}
