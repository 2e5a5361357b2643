//! The options of `score`, as the pipeline file has them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::stage::support::infer::bind::Files;

/// Columns of steps from any ONNX model: rewards, values, densities, embeddings. y_t = f(x_t), where x_t is what SQL makes of
/// row t and of the rows around it; of an ensemble the mean of f_1(x_t) … f_M(x_t), or how they are reduced otherwise. Final
/// rows are scored too, where the model's inputs are known there, as a value of the last observation is. A row with an input
/// that is null gets null.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Score {
    /// An ONNX file, or a list of them: an ensemble, whose members `reduce` makes one.
    pub(super) model: Files,
    /// What each of the model's inputs is fed with, by name: an SQL expression over steps, or a window of one. A model with
    /// one input is fed with `observation` where nothing is given.
    #[serde(default)]
    pub(super) inputs: Option<BTreeMap<String, Fed>>,
    /// What stands for values before the first and after the last row of a trajectory, in windows and in `next` and `prev`.
    #[serde(default)]
    pub(super) edge: Edge,
    /// The columns to write, and for each an output of the model, or an output and how members are reduced. Every output
    /// under its own name where nothing is given. Outputs of one value a row become numbers, others vectors.
    #[serde(default)]
    pub(super) outputs: Option<BTreeMap<String, Chosen>>,
    /// How the values of an ensemble's members become one, where `outputs` does not say it.
    #[serde(default)]
    pub(super) reduce: Reduce,
    /// Rows of a batch; a constant of the device where not given. The last bits of scores may depend on it.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) batch: Option<usize>,
    /// What becomes of scores that are not finite.
    #[serde(default, deserialize_with = "non_finite")]
    #[schemars(with = "Option<NonFinite>")]
    pub(super) non_finite: NonFinite,
}

/// What feeds an input.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Fed {
    /// An expression at the row itself.
    Row(String),
    /// An expression at the rows around it, flattened, oldest first.
    Window(FedWindow),
}

/// An expression at several rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FedWindow {
    /// A column, or an SQL expression over steps.
    pub(super) of: String,
    /// Rows before the row's own.
    #[serde(default)]
    pub(super) past: usize,
    /// Rows after it.
    #[serde(default)]
    pub(super) future: usize,
}

/// What stands for values that a trajectory does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Edge {
    /// Nothing: such rows are not scored, and are counted.
    #[default]
    Skip,
    /// The nearest value of the trajectory.
    Repeat,
    /// Zeros, in the model's input as they are.
    Zero,
}

/// What a column is written from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Chosen {
    /// An output.
    Output(String),
    /// An output, reduced in its own way.
    Reduced(ReducedOutput),
}

/// An output and how members are reduced.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReducedOutput {
    /// Name of the output.
    pub(super) output: String,
    /// How its members' values become one.
    pub(super) reduce: Reduce,
}

/// How the values of an ensemble's members become one, coordinate by coordinate, in float64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reduce {
    /// Their mean.
    #[default]
    Mean,
    /// Their standard deviation: the root of the mean square distance from their mean.
    Std,
    /// The smallest; not a number where one is not.
    Min,
    /// The largest; not a number where one is not.
    Max,
    /// All of them, member after member, as one vector.
    All,
}

/// What becomes of scores that are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum NonFinite {
    /// The run fails and names trajectory and step.
    #[default]
    Error,
    /// The score is null, and counted.
    Null,
    /// They are written as they are.
    Keep,
}

/// `null` is a word of this option and YAML's null at once.
fn non_finite<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<NonFinite, D::Error> {
    Ok(Option::<NonFinite>::deserialize(deserializer)?.unwrap_or(NonFinite::Null))
}
