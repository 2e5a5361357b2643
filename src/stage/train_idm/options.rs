//! The options of `train_idm`, as the pipeline file spells them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage::support::infer::windows::WindowOptions;
use crate::stage::support::limit::Limit;
use crate::train::{Activation, Head, SelfTraining, Statistics};

/// Trains an inverse dynamics model, which predicts an action from the observations around it, and
/// writes it as an ONNX file with a report and pictures beside it.
///
/// The model is trained on the steps of the selection that have a recorded action. The checkpoint
/// with the lowest validation loss is written. Steps pass through unchanged. A `label` stage needs
/// nothing but the path of the model: window, edge and bounds are in the file's metadata.
///
/// Example: `train_idm: {out: ../out/idm.onnx, head: gaussian, clip: [-1, 1]}`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TrainIdm")]
pub(super) struct TrainIdmOptions {
    /// Path of the ONNX file to write, relative to the pipeline file. The report and its pictures
    /// are written beside it: `out: ../out/idm.onnx` also writes `idm.report.json` and `idm.*.svg`.
    #[schemars(extend("format" = "path"))]
    pub(super) out: String,
    /// Window of observations that the model sees at each step. Default: one observation before the
    /// step's own, the step's own, and one after it, as in `window: {past: 1, future: 1}`.
    #[serde(default)]
    pub(super) window: WindowOptions,
    /// Sizes of the hidden layers, first to last. Default `[256, 256]`.
    #[serde(default = "hidden")]
    pub(super) hidden: Vec<usize>,
    /// Activation function of the hidden layers. Default `relu`.
    #[serde(default)]
    pub(super) activation: Activation,
    /// Steps whose observations determine the mean and standard deviation that inputs are
    /// normalised with. The model itself does the normalisation. Default `recorded`.
    #[serde(default)]
    pub(super) statistics: Statistics,
    /// Probability that an update drops an output of the last hidden layer (dropout). At least 0,
    /// below 1. Default 0. Example: `dropout: 0.1`.
    #[serde(default)]
    pub(super) dropout: f64,
    /// What the model predicts. Default: `categorical` for integer actions, `deterministic` for all
    /// others.
    #[serde(default)]
    pub(super) head: Option<Head>,
    /// Number of discrete actions. Required for integer actions, which then lie between 0 and
    /// `classes` - 1. Example: `classes: 4`.
    #[serde(default)]
    pub(super) classes: Option<usize>,
    /// Lowest and highest action, each one number or a list with one number per dimension. Recorded
    /// actions must lie within these bounds, and predictions are limited to them. Default `[-1, 1]`
    /// for a Gaussian head, no bounds for the others. Example: `clip: [-1, [1, 2, 2]]`.
    #[serde(default)]
    pub(super) clip: Option<[Limit; 2]>,
    /// Maximum number of passes over the training data for each member. Replaces `steps`.
    #[serde(default)]
    pub(super) epochs: Option<u64>,
    /// Maximum number of updates for each member. Default 10000, unless `epochs` is given.
    #[serde(default)]
    pub(super) steps: Option<u64>,
    /// Number of examples per update. Default 256.
    #[serde(default = "batch")]
    #[schemars(range(min = 1))]
    pub(super) batch: usize,
    /// Learning rate of Adam. Above 0. Default 0.001.
    #[serde(default = "lr")]
    pub(super) lr: f64,
    /// Weight decay, added to the gradient as in PyTorch's `Adam`. Default 0.
    #[serde(default)]
    pub(super) weight_decay: f64,
    /// Applies weight decay to the parameters, as in `AdamW`, and not to the gradient. Default
    /// false.
    #[serde(default)]
    pub(super) decoupled: bool,
    /// Maximum norm of an update's gradient over all parameters of a member. A longer gradient is
    /// scaled down to it (Pascanu et al., 2013). 0 means no maximum. Default 100 for a Gaussian
    /// head, 0 for the others: the gradients of the Gaussian likelihood are unbounded and can push
    /// the log standard deviation into a flat region where training stalls.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub(super) clip_norm: Option<f64>,
    /// Share of the trajectories with recorded actions that is held out for validation, rounded up
    /// to whole trajectories. Above 0, below 1. Default 0.1.
    #[serde(default = "validation")]
    pub(super) validation: f64,
    /// Number of evaluations without a lower validation loss after which a member stops training.
    /// Default 10. A member is usually evaluated every 250 updates, in a short training more often,
    /// for at least 50 evaluations in all.
    #[serde(default = "patience")]
    #[schemars(range(min = 1))]
    pub(super) patience: u64,
    /// Number of ensemble members, trained independently and written to one file. Default 1.
    #[serde(default = "members")]
    #[schemars(range(min = 1))]
    pub(super) members: usize,
    /// Trains each member on its own bootstrap sample of the trajectories. Default false.
    #[serde(default)]
    pub(super) bootstrap: bool,
    /// Number of examples in the shuffle buffer. If all training examples fit, they are read only
    /// once. Default: as many as fit in 256 MiB.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(super) buffer: Option<usize>,
    /// Trains the model again with its own most certain labels. Default: no self-training. Example:
    /// `self_training: {rounds: 2, keep: 0.5}`.
    #[serde(default)]
    pub(super) self_training: Option<SelfTraining>,
    /// Seed of all random draws: held-out trajectories, initial parameters, shuffling, dropout.
    /// Default 0.
    #[serde(default)]
    pub(super) seed: u64,
    /// Replaces a model at `out` that was trained with other options or data. Without it, the run
    /// stops with an error. A file that `train_idm` did not write is never replaced. Default false.
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
