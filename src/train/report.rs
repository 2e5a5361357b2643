//! The report on a trained model, as JSON and as one line of text.

use serde::Serialize;
use serde_json::{Value, json};

use super::device::Device;
use super::measure::{Dimension, HeldOut};
use super::member::Evaluation;
use super::options::{Budget, Head, Options, Task};

/// How a model was trained, and its errors on held-out trajectories.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Head, loss, sizes, budget and seed.
    pub training: Value,
    /// Sizes of the data.
    pub data: Data,
    /// Errors on held-out steps.
    pub held_out: HeldOut,
    /// Rounds of self-training. Without self-training, there is one.
    pub rounds: Vec<Round>,
    /// The round whose model was written: the one with the lowest validation loss.
    pub chosen_round: usize,
    /// Losses of every member in every round.
    pub curves: Vec<Curve>,
}

/// Sizes of the data that a model was trained and measured on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Data {
    /// Number of steps with a recorded action that the model was trained on.
    pub training_steps: u64,
    /// Number of held-out steps.
    pub held_out_steps: u64,
    /// Dimensions of the observation, counted from 0, that are constant in the training data. The
    /// model ignores them.
    pub constant_observations: Vec<usize>,
}

/// A round of self-training. The first round uses recorded actions only.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    /// Number of the round, counted from 0.
    pub round: usize,
    /// Number of steps that the model was trained on.
    pub steps: u64,
    /// Uncertainty of the least certain label among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncertainty_limit: Option<f32>,
    /// Mean of the members' best validation losses.
    pub validation: f64,
    /// Error of the ensemble on held-out steps: the mean squared error over dimensions, or the
    /// fraction of wrong classes.
    pub error: f64,
}

/// Losses of a member over its training.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Curve {
    /// Number of the round.
    pub round: usize,
    /// Number of the member, counted from 0.
    pub member: u64,
    /// The checkpoint that was kept.
    pub best: Evaluation,
    /// All evaluations, in order.
    #[serde(rename = "looks")]
    pub evaluations: Vec<Evaluation>,
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
            Head::Deterministic => {
                "mean squared error of actions in units of their standard deviation"
            }
            Head::Gaussian => "negative log-likelihood of actions scaled to [-1, 1]",
            Head::Categorical => "cross-entropy",
        };
        let budget = match options.budget {
            Budget::Updates(updates) => json!({"steps": updates}),
            Budget::Epochs(epochs) => json!({"epochs": epochs}),
        };
        let training = json!({
            "head": head,
            "loss": loss,
            "hidden": options.hidden,
            "members": options.members,
            "batch": options.batch,
            "budget": budget,
            "seed": options.seed,
            "device": device.to_string(),
            "window": {"past": task.past, "future": task.future},
            "observation_width": task.width,
            "action_width": task.actions,
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

    /// Returns the report as JSON text, with the entries of `more` before its own.
    pub(crate) fn to_json(&self, more: &serde_json::Map<String, Value>) -> String {
        let mut whole = more.clone();
        if let Ok(Value::Object(own)) = serde_json::to_value(self) {
            whole.extend(own);
        }
        serde_json::to_string_pretty(&Value::Object(whole)).unwrap_or_default() + "\n"
    }

    /// Returns one line of text: the held-out error next to that of the baseline.
    pub(crate) fn summary(&self) -> String {
        let held_out = &self.held_out;
        let steps = held_out.steps;
        let errors = match &held_out.classes {
            Some(classes) => format!(
                "right class at {:.1} % of {steps} held-out steps \
                 (baseline, the most frequent class: {:.1} %)",
                classes.accuracy * 100.0,
                classes.accuracy_of_most_frequent * 100.0
            ),
            None => {
                let share = held_out.error() / held_out.error_of_mean().max(f64::MIN_POSITIVE);
                let each = |dimension: &Dimension| format!("{:.2}", dimension.r2);
                let r2: Vec<String> = held_out.dimensions.iter().take(8).map(each).collect();
                format!(
                    "mean squared error {:.4} on {steps} held-out steps, {:.1} % of the \
                     predict-the-mean baseline (R² by dimension: {})",
                    held_out.error(),
                    share * 100.0,
                    r2.join(", ")
                )
            }
        };
        // Messages count dimensions from 1, as SQL does.
        let constant = self.data.constant_observations.iter();
        let constant: Vec<String> = constant
            .map(|dimension| format!("`observation[{}]`", dimension + 1))
            .collect();
        match constant.as_slice() {
            [] => errors,
            [one] => format!("{errors}; {one} is constant and was left out"),
            several => format!(
                "{errors}; {} are constant and were left out",
                several.join(", ")
            ),
        }
    }
}
