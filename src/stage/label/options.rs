//! The options of `label`, as the pipeline file has them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::reduce::Reduce;
use crate::stage::support::infer::bind::Files;
use crate::stage::support::infer::windows::WindowOptions;
use crate::stage::support::limit::Limit;

/// Fills the actions that were not recorded with the predictions of a model, an inverse dynamics model as a rule.
/// Recorded actions stay bit for bit; `action_source` says of every action whether it is `recorded` or `proxy`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Label {
    /// An ONNX file, or a list of them: an ensemble, whose mean is the label and whose spread is `action_std`.
    pub(super) model: Files,
    /// The observations that the model sees; what is not given is taken from the model's metadata (`trajmill.past`,
    /// `trajmill.future`, `trajmill.edge`) or, where it follows from it, from the width of the model's input.
    #[serde(default)]
    pub(super) window: Option<WindowOptions>,
    /// For models with several inputs, an SQL expression for each, by name, such as
    /// `{s: observation, s_next: next(observation)}`. `next` and `prev` follow the window's `edge`.
    #[serde(default)]
    pub(super) inputs: Option<BTreeMap<String, String>>,
    /// Which of the model's outputs are meant.
    #[serde(default)]
    pub(super) outputs: Outputs,
    /// Lowest and highest label, each one number or one per dimension; from the model's metadata (`trajmill.clip`) where
    /// not given.
    #[serde(default)]
    pub(super) clip: Option<[Limit; 2]>,
    /// For models that predict several actions at each step.
    #[serde(default)]
    pub(super) horizon: Option<HorizonOptions>,
    /// A new column for the labels; `action` and `action_source` are then left as they are.
    #[serde(default)]
    pub(super) into: Option<String>,
    /// Rows of a batch; a constant of the device where not given. The last bits of labels may depend on it.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) batch: Option<usize>,
    /// What becomes of labels that are not finite.
    #[serde(default, deserialize_with = "non_finite")]
    #[schemars(with = "Option<NonFinite>")]
    pub(super) non_finite: NonFinite,
}

/// Which outputs of a model are meant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Outputs {
    /// The action, or the logits of a discrete one; the output named `action`, or else the first, where not given.
    pub(super) action: Option<String>,
    /// The action's standard deviation; the output named `std`, where there is one, where not given.
    pub(super) std: Option<String>,
}

/// A model that predicts the actions of several steps at once.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HorizonOptions {
    /// Actions that the model predicts at each step, the step's own first.
    #[schemars(range(min = 1))]
    pub(super) length: usize,
    /// What becomes of the predictions that several steps make for one.
    #[serde(default)]
    pub(super) reduce: Reduce,
}

/// What becomes of labels that are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum NonFinite {
    /// The run fails and names trajectory and step.
    #[default]
    Error,
    /// The action stays null.
    Null,
    /// The whole trajectory is dropped.
    Drop,
}

/// `null` is a word of this option and YAML's null at once.
fn non_finite<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<NonFinite, D::Error> {
    Ok(Option::<NonFinite>::deserialize(deserializer)?.unwrap_or(NonFinite::Null))
}
