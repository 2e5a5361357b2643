//! The options of `label`, as the pipeline file has them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::reduce::Reduce;
use crate::stage::support::infer::bind::{Files, Precision};
use crate::stage::support::infer::described;
use crate::stage::support::infer::pixels::FrameOptions;
use crate::stage::support::infer::state::Carried;
use crate::stage::support::infer::windows::WindowOptions;
use crate::stage::support::limit::Limit;

/// Fills actions that were not recorded with the predictions of a model, usually an inverse
/// dynamics model. Recorded actions do not change, unless `relabel` says so. `action_source` says
/// for each action whether it is `recorded` or `proxy`, and `action_model` which model predicted
/// it: the first 16 digits of the model's hash.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Label {
    /// ONNX file, such as `idm.onnx`, or a list of them: an ensemble, whose mean is the label and
    /// whose standard deviation is `action_std`. Paths are relative to the pipeline file's folder.
    pub(super) model: Files,
    /// Window of observations that the model sees, such as `{past: 1, future: 1, edge: repeat}`.
    /// What is not given comes from the model's metadata (`trajmill.past`, `trajmill.future`,
    /// `trajmill.edge`), else from the width of the model's input, if that determines it.
    #[serde(default)]
    pub(super) window: Option<WindowOptions>,
    /// SQL expression over steps for each input of the model, by name, such as
    /// `{s: observation, s_next: next(observation)}`. A model with several inputs needs it. Beyond
    /// the ends of a trajectory, `next` and `prev` follow `window: {edge: …}`.
    #[serde(default)]
    pub(super) inputs: Option<BTreeMap<String, String>>,
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
    /// Outputs of the model that are read, such as `{action: mean, std: std}`.
    #[serde(default)]
    pub(super) outputs: Outputs,
    /// Lowest and highest label, such as `[-1, 1]`. Each bound is one number, or a list with one
    /// number per dimension. Default: the bounds in the model's metadata (`trajmill.clip`), if any.
    #[serde(default)]
    pub(super) clip: Option<[Limit; 2]>,
    /// For a model that predicts the actions of several steps at once, such as
    /// `{length: 8, reduce: mean}`. Default: one action per step.
    #[serde(default)]
    pub(super) horizon: Option<HorizonOptions>,
    /// Name of a new column for the labels; `action` and `action_source` then stay as they are.
    /// Default: labels fill `action`.
    #[serde(default)]
    pub(super) into: Option<String>,
    /// Whether labels also replace actions that were recorded. `action_recorded` then keeps what
    /// was recorded. With `into`, no action changes: every step gets a label. Default: false.
    #[serde(default)]
    pub(super) relabel: bool,
    #[serde(default)]
    #[schemars(description = described::BATCH, range(min = 1))]
    pub(super) batch: Option<usize>,
    /// What to do with a label that is not finite. Default: `error`.
    #[serde(default, deserialize_with = "non_finite")]
    #[schemars(with = "Option<NonFinite>")]
    pub(super) non_finite: NonFinite,
}

/// Outputs of the model that are read.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Outputs {
    /// Output with the action or, for a discrete action, its logits. Default: the output named
    /// `action`, else the first output.
    pub(super) action: Option<String>,
    /// Output with the standard deviation of the action. Default: the output named `std`, if there
    /// is one.
    pub(super) std: Option<String>,
}

/// A model that predicts the actions of several steps at once.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HorizonOptions {
    /// Number of actions that the model predicts at each step, the first of them for the step
    /// itself.
    #[schemars(range(min = 1))]
    pub(super) length: usize,
    /// How overlapping predictions for one step become its label. Default: `mean`.
    #[serde(default)]
    pub(super) reduce: Reduce,
}

/// What to do with a label that is not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum NonFinite {
    /// Fails, and names the trajectory and the step.
    #[default]
    Error,
    /// Leaves the action null, and counts it.
    Null,
    /// Drops the whole trajectory.
    Drop,
}

/// Reads YAML's null as the word `null` of this option.
fn non_finite<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<NonFinite, D::Error> {
    Ok(Option::<NonFinite>::deserialize(deserializer)?.unwrap_or(NonFinite::Null))
}
