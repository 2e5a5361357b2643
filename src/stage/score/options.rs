//! The options of `score`, as the pipeline file has them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::stage::support::infer::bind::{Files, Precision};
use crate::stage::support::infer::described;
use crate::stage::support::infer::pixels::FrameOptions;
use crate::stage::support::infer::state::Carried;

/// Adds or replaces columns of `steps` with the outputs of any ONNX model: rewards, values,
/// densities, embeddings. A column is y_t = f(x_t), where SQL computes x_t from row t and the rows
/// around it; for an ensemble, it is the mean of f_1(x_t) … f_M(x_t), or another reduction. Final
/// rows are scored too if the inputs are known there, as for the value of the last observation. A
/// column is null in rows where an input is null.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Score {
    /// ONNX file, such as `reward.onnx`, or a list of them: an ensemble, which `reduce` reduces to
    /// one value. Paths are relative to the pipeline file's folder.
    pub(super) model: Files,
    /// What feeds each input of the model, by name: an SQL expression over steps, such as
    /// `{s: observation, a: action}`, or a window of one, such as
    /// `{x: {of: observation, past: 1, future: 1}}`. Default, for a model with one input:
    /// `observation`.
    #[serde(default)]
    pub(super) inputs: Option<BTreeMap<String, Fed>>,
    #[serde(default)]
    #[schemars(description = described::FRAMES)]
    pub(super) frames: Option<FrameOptions>,
    #[serde(default)]
    #[schemars(description = described::STATE)]
    pub(super) state: BTreeMap<String, Carried>,
    #[serde(default)]
    #[schemars(description = described::PRECISION)]
    pub(super) precision: Precision,
    #[serde(default)]
    #[schemars(description = described::ALLOW_RANDOM)]
    pub(super) allow_random: bool,
    /// What stands for values beyond the ends of a trajectory, in windows and in `next` and `prev`.
    /// Default: `skip`.
    #[serde(default)]
    pub(super) edge: Edge,
    /// Columns to write, each from an output of the model, such as `{value: output}`, or from an
    /// output and a reduction, such as `{spread: {output: value, reduce: std}}`. Outputs with one
    /// value per row become numbers, others vectors. Default: every output under its own name.
    #[serde(default)]
    pub(super) outputs: Option<BTreeMap<String, Chosen>>,
    /// How the values of an ensemble become one, unless `outputs` says otherwise. Default: `mean`.
    #[serde(default)]
    pub(super) reduce: Reduce,
    #[serde(default)]
    #[schemars(description = described::BATCH, range(min = 1))]
    pub(super) batch: Option<usize>,
    /// What to do with a score that is not finite. Default: `error`.
    #[serde(default, deserialize_with = "non_finite")]
    #[schemars(with = "Option<NonFinite>")]
    pub(super) non_finite: NonFinite,
}

/// What feeds an input of the model.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Fed {
    /// An SQL expression over steps, at the row itself.
    Row(String),
    /// An expression at several rows around it, flattened, oldest first.
    Window(FedWindow),
}

/// A window: an expression at several rows.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FedWindow {
    /// Column of `steps`, or SQL expression over its columns.
    pub(super) of: String,
    /// Number of rows before the row's own. Default: 0.
    #[serde(default)]
    pub(super) past: usize,
    /// Number of rows after the row's own. Default: 0.
    #[serde(default)]
    pub(super) future: usize,
}

/// What stands for values beyond the ends of a trajectory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Edge {
    /// Nothing: these rows are not scored, and are counted.
    #[default]
    Skip,
    /// The nearest value of the trajectory.
    Repeat,
    /// Zeros, fed to the model as they are.
    Zero,
}

/// What a column is written from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Chosen {
    /// An output of the model.
    Output(String),
    /// An output of the model with a reduction of its own.
    Reduced(ReducedOutput),
}

impl Chosen {
    /// Returns the name of the output.
    pub(super) fn output(&self) -> &String {
        match self {
            Chosen::Output(output) => output,
            Chosen::Reduced(reduced) => &reduced.output,
        }
    }
}

/// An output of the model and its reduction.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReducedOutput {
    /// Name of the output.
    pub(super) output: String,
    /// How the values of an ensemble become one.
    pub(super) reduce: Reduce,
}

/// How the values of an ensemble become one, element by element, in float64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reduce {
    /// Their mean.
    #[default]
    Mean,
    /// Their population standard deviation.
    Std,
    /// The smallest value; NaN if one of them is NaN.
    Min,
    /// The largest value; NaN if one of them is NaN.
    Max,
    /// All values, model after model, as one vector.
    All,
}

/// What to do with a score that is not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum NonFinite {
    /// Fails, and names the trajectory and the step.
    #[default]
    Error,
    /// Leaves the score null, and counts it.
    Null,
    /// Writes the score as it is.
    Keep,
}

/// Reads YAML's null as the word `null` of this option.
fn non_finite<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<NonFinite, D::Error> {
    Ok(Option::<NonFinite>::deserialize(deserializer)?.unwrap_or(NonFinite::Null))
}
