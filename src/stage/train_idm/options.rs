//! The options of `train_idm`, as the pipeline file has them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage::infer::assemble::WindowOptions;
use crate::stage::label::Limit;
use crate::train::{Activation, Head, SelfTraining, Statistics};

/// Learns an inverse dynamics model, which predicts an action from the observations around it, and writes it as ONNX with a
/// report and pictures beside it.
///
/// Learnt from are the steps of the selection with a recorded action. `label: {model: …}` needs nothing more for a model
/// written here: its metadata holds window, edge and bounds. The checkpoint of the lowest validation loss is the one that is
/// written. Steps go on unchanged.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainIdm {
    /// The ONNX file, relative to the pipeline file's folder. The report stands beside it: `NAME.report.json`, `NAME.*.svg`.
    pub(super) out: String,
    /// The observations that the model sees: one before and one after the step's own where not given.
    #[serde(default)]
    pub(super) window: WindowOptions,
    /// Sizes of the hidden layers.
    #[serde(default = "hidden")]
    pub(super) hidden: Vec<usize>,
    /// What follows each hidden layer.
    #[serde(default)]
    pub(super) activation: Activation,
    /// Whose observations give the mean and standard deviation that inputs are scaled by, inside the model.
    #[serde(default)]
    pub(super) statistics: Statistics,
    /// Share of the last hidden layer's outputs that each update leaves out.
    #[serde(default)]
    pub(super) dropout: f64,
    /// What the model predicts; `categorical` for integer actions and `deterministic` for others where not given.
    #[serde(default)]
    pub(super) head: Option<Head>,
    /// How many discrete actions there are, counted from 0.
    #[serde(default)]
    pub(super) classes: Option<usize>,
    /// Lowest and highest action, each one number or one per dimension: the box of a Gaussian head, -1 to 1 where not given,
    /// and the bounds of labels.
    #[serde(default)]
    pub(super) clip: Option<[Limit; 2]>,
    /// Most passes over the data of each member; instead of `steps`.
    #[serde(default)]
    pub(super) epochs: Option<u64>,
    /// Most updates of each member; 10000 where neither this nor `epochs` is given.
    #[serde(default)]
    pub(super) steps: Option<u64>,
    /// Examples of an update.
    #[serde(default = "batch")]
    #[schemars(range(min = 1))]
    pub(super) batch: usize,
    /// Size of Adam's steps.
    #[serde(default = "lr")]
    pub(super) lr: f64,
    /// Weight decay, added to the gradient as in PyTorch's Adam.
    #[serde(default)]
    pub(super) weight_decay: f64,
    /// Takes the weight decay off the parameters instead, as in AdamW.
    #[serde(default)]
    pub(super) decoupled: bool,
    /// Longest gradient of an update, over all parameters; a longer one is scaled down to it (Pascanu et al., 2013). Where not
    /// given 100 for a Gaussian head, whose likelihood has gradients without bound and a log-std that they push to where it
    /// learns nothing more, and none for the others; 0 for none.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub(super) clip_norm: Option<f64>,
    /// Share of the labelled trajectories that is held out, rounded up.
    #[serde(default = "validation")]
    pub(super) validation: f64,
    /// Ends a member's training after so many looks at the validation loss, of which there are at least fifty and one every 250
    /// updates as a rule, without a better one.
    #[serde(default = "patience")]
    #[schemars(range(min = 1))]
    pub(super) patience: u64,
    /// Members of the ensemble, learnt apart; one file holds them all.
    #[serde(default = "members")]
    #[schemars(range(min = 1))]
    pub(super) members: usize,
    /// Whether each member learns from its own draw of trajectories.
    #[serde(default)]
    pub(super) bootstrap: bool,
    /// Examples that the shuffle buffer holds; 256 MiB of them where not given. What fits in it is read once.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) buffer: Option<usize>,
    /// Learns again from its own most certain labels.
    #[serde(default)]
    pub(super) self_training: Option<SelfTraining>,
    /// Which random draws.
    #[serde(default)]
    pub(super) seed: u64,
    /// Whether a model at the same path that was learnt otherwise is replaced.
    #[serde(default)]
    pub(super) overwrite: bool,
}

fn hidden() -> Vec<usize> {
    vec![256, 256]
}

fn batch() -> usize {
    256
}

fn lr() -> f64 {
    1e-3
}

fn validation() -> f64 {
    0.1
}

fn patience() -> u64 {
    10
}

fn members() -> usize {
    1
}
