//! What is trained, and how: the values that a caller hands to [`super::fit()`].

use schemars::JsonSchema;
use serde::Deserialize;

/// What is to be learnt: shapes and bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Observations of a window before the step's own.
    pub past: usize,
    /// Observations after it.
    pub future: usize,
    /// Values of one observation.
    pub width: usize,
    /// Dimensions of an action, or classes of a discrete one.
    pub actions: usize,
    /// Lowest and highest action, one per dimension. A Gaussian head needs it: its tanh is scaled to this box.
    pub bounds: Option<[Vec<f64>; 2]>,
}

impl Task {
    /// Values of a window.
    pub fn cells(&self) -> usize {
        (self.past + 1 + self.future) * self.width
    }
}

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// The action, learnt by squared error.
    Deterministic,
    /// A tanh-squashed Normal in the box `clip`, with a network for its mean and one for its log-std, learnt by likelihood
    /// (Zheng et al., 2022); gives `action_std` too.
    Gaussian,
    /// A logit for each of `classes` discrete actions, learnt by cross-entropy.
    Categorical,
}

impl Head {
    /// Whether a model says how certain it is: by its head, or by what its members differ in.
    pub(super) fn has_std(self, members: usize) -> bool {
        self == Head::Gaussian || (self == Head::Deterministic && members > 1)
    }
}

/// Whose observations inputs are scaled by: (x - mean) / (std + 1e-6), std being the population's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Statistics {
    /// Those at the steps that are learnt from.
    #[default]
    Recorded,
    /// Those at all steps of the selection, labelled or not, final observations excluded: the reference implementation of
    /// SS-ORL does so. One more pass over the data.
    Selection,
}

/// What follows a hidden layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// max(0, x).
    #[default]
    Relu,
    /// tanh x.
    Tanh,
    /// x above 0, exp(x) - 1 below.
    Elu,
}

/// How much of the moments of Adam an update leaves: Kingma and Ba's own choice (2015), and PyTorch's.
pub(super) const BETAS: [f64; 2] = [0.9, 0.999];
/// What Adam adds to the root of the second moment.
pub(super) const EPSILON: f64 = 1e-8;

/// Options of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Size of a step.
    pub learning_rate: f64,
    /// Share of the parameters that is added to their gradient, or taken off them.
    pub weight_decay: f64,
    /// Whether decay is apart from the gradient, as in AdamW.
    pub decoupled: bool,
    /// Longest gradient of an update, over all parameters of a member; a longer one is scaled down to it (Pascanu et al., 2013).
    pub clip_norm: Option<f64>,
}

impl Adam {
    /// What a gradient with this sum of squares is scaled by, as PyTorch's `clip_grad_norm_` does it.
    pub(super) fn shrink(&self, squares: f64) -> f64 {
        self.clip_norm
            .map_or(1.0, |longest| (longest / (squares.sqrt() + 1e-6)).min(1.0))
    }
}

/// How long is learnt at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// So many updates of each member.
    Updates(u64),
    /// So often as many examples as there are.
    Epochs(u64),
}

/// Rounds of label, keep the most certain, learn again.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelfTraining {
    /// Rounds after the first, which has recorded actions alone. The round of the lowest validation loss is written.
    #[schemars(range(min = 1))]
    pub rounds: usize,
    /// Share of the unlabelled steps that is learnt from, from the most certain on.
    pub keep: f64,
}

/// How it is learnt.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What the model predicts.
    pub head: Head,
    /// Sizes of the hidden layers.
    pub hidden: Vec<usize>,
    /// What follows them.
    pub activation: Activation,
    /// Whose observations inputs are scaled by.
    pub statistics: Statistics,
    /// Share of the last hidden layer's outputs that an update leaves out.
    pub dropout: f64,
    /// Members of the ensemble.
    pub members: usize,
    /// Whether each member learns from its own draw of trajectories.
    pub bootstrap: bool,
    /// Examples of an update.
    pub batch: usize,
    /// The optimiser.
    pub adam: Adam,
    /// When it ends.
    pub budget: Budget,
    /// Looks at the validation loss without a better one after which a member stops.
    pub patience: u64,
    /// Examples that the shuffle buffer holds.
    pub buffer: usize,
    /// Which random draws.
    pub seed: u64,
    /// Whether and how the model learns from its own labels.
    pub self_training: Option<SelfTraining>,
}

impl Options {
    /// Whether the model says how certain it is.
    pub fn has_std(&self) -> bool {
        self.head.has_std(self.members)
    }
}
