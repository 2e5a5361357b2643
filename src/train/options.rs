//! What to train and how: the values that a caller passes to [`fit`](super::fit()).
//!
//! The types that a pipeline spells out are the option types of `train_idm` as well: their doc
//! comments become descriptions in the JSON Schema.

use schemars::JsonSchema;
use serde::Deserialize;

/// Shapes and bounds of the function that a model is trained for.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Number of observations in a window before the step's own.
    pub past: usize,
    /// Number of observations in a window after the step's own.
    pub future: usize,
    /// Number of values in an observation.
    pub width: usize,
    /// Number of dimensions of an action, or number of classes of a discrete action.
    pub actions: usize,
    /// Lowest and highest action, one per dimension. Required for a Gaussian head, whose tanh is
    /// scaled to this box.
    pub bounds: Option<[Vec<f64>; 2]>,
}

impl Task {
    /// Number of values in a window.
    pub fn cells(&self) -> usize {
        (self.past + 1 + self.future) * self.width
    }
}

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// The action itself, trained with the squared error.
    Deterministic,
    /// A tanh-squashed normal distribution within `clip`, with one network for the mean and one for
    /// the log standard deviation, trained with the negative log-likelihood (Zheng et al., ICML
    /// 2023). `label` then adds `action_std` too.
    Gaussian,
    /// One logit for each of `classes` discrete actions, trained with the cross-entropy.
    Categorical,
}

impl Head {
    /// Returns whether a model with this head and this many members tells how certain it is: by its
    /// head, or by how much its members differ.
    pub(super) fn has_std(self, members: usize) -> bool {
        self == Head::Gaussian || (self == Head::Deterministic && members > 1)
    }
}

/// Steps whose observations determine how inputs are normalised: `(x - mean) / (std + 1e-6)`, with
/// the population standard deviation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Statistics {
    /// The steps that the model is trained on.
    #[default]
    Recorded,
    /// All steps of the selection, with or without a recorded action, but no final observations.
    /// The reference implementation of SS-ORL does this. Costs one more pass over the data.
    Selection,
}

/// Activation function of the hidden layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `max(0, x)`.
    #[default]
    Relu,
    /// `tanh(x)`.
    Tanh,
    /// `x` where `x` is above 0, `exp(x) - 1` elsewhere (Clevert et al., ICLR 2016).
    Elu,
}

/// Decay rates of Adam's two moments: the defaults of Kingma and Ba (2015, Algorithm 1) and of
/// PyTorch.
pub(super) const BETAS: [f64; 2] = [0.9, 0.999];
/// The constant that Adam adds to the root of the second moment, with the same sources.
pub(super) const EPSILON: f64 = 1e-8;

/// Options of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Whether weight decay is applied to the parameters, as in AdamW, and not to the gradient.
    pub decoupled: bool,
    /// Maximum norm of the gradient over all parameters of a member. A longer gradient is scaled
    /// down to it (Pascanu et al., 2013).
    pub clip_norm: Option<f64>,
}

impl Adam {
    /// Returns the factor that scales a gradient whose squares have this sum, as PyTorch's
    /// `clip_grad_norm_` computes it.
    pub(super) fn shrink(&self, squares: f64) -> f64 {
        self.clip_norm
            .map_or(1.0, |longest| (longest / (squares.sqrt() + 1e-6)).min(1.0))
    }
}

/// Maximum length of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Number of updates of each member.
    Updates(u64),
    /// Number of passes over the examples.
    Epochs(u64),
}

/// Rounds in which the model labels the unlabelled steps and is trained again with the labels it is
/// most certain of.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelfTraining {
    /// Number of rounds after the first one, which uses recorded actions only. The model of the
    /// round with the lowest validation loss is written. Example: `rounds: 2`.
    #[schemars(range(min = 1))]
    pub rounds: usize,
    /// Fraction of the unlabelled steps to add to the training data, the most certain labels first.
    /// Above 0, at most 1. Example: `keep: 0.5`.
    pub keep: f64,
}

/// How to train a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What the model predicts.
    pub head: Head,
    /// Sizes of the hidden layers.
    pub hidden: Vec<usize>,
    /// Activation function of the hidden layers.
    pub activation: Activation,
    /// Steps whose observations determine how inputs are normalised.
    pub statistics: Statistics,
    /// Dropout probability after the last hidden layer.
    pub dropout: f64,
    /// Number of ensemble members.
    pub members: usize,
    /// Whether each member is trained on its own bootstrap sample of the trajectories.
    pub bootstrap: bool,
    /// Number of examples per update.
    pub batch: usize,
    /// Options of the optimiser.
    pub adam: Adam,
    /// Maximum length of the training.
    pub budget: Budget,
    /// Number of evaluations without a lower validation loss after which a member stops.
    pub patience: u64,
    /// Number of examples in the shuffle buffer.
    pub buffer: usize,
    /// Seed of all random draws.
    pub seed: u64,
    /// Rounds of self-training, if any.
    pub self_training: Option<SelfTraining>,
}

impl Options {
    /// Returns whether the model tells how certain it is.
    pub fn has_std(&self) -> bool {
        self.head.has_std(self.members)
    }
}
