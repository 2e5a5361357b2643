//! Learning inverse dynamics models: arrays in, an ONNX file and a report out.
//!
//! [`fit`] reads windows of observations and the actions recorded at them from a [`Corpus`], learns an ensemble of
//! multilayer perceptrons and says how good it is on trajectories that it has not seen. Nothing here knows of plans, paths
//! or columns.
//!
//! ```text
//! Corpus ─ data: shuffle buffer ─► batches ─ member: forward, loss, backward, Adam ─► best checkpoint
//!                                                       ▲ network, head, fused           │
//!            measure: held-out error, calibration ◄─ model: the ensemble as one graph ◄──┘
//!                                 │                        └─► onnx: the same graph as a file
//!                                 └─► report (JSON), plot (SVG)
//! ```
//!
//! Why not candle's autograd: it records each operator, and its operators on the CPU run on one thread and allocate their
//! result. Three of them follow each product (bias, activation, dropout) and a dozen make one step of Adam, over matrices of
//! a million elements. Here candle multiplies matrices; the rest is fused by hand ([`fused`]), one pass per layer and direction.
//! On a GPU an operator is one kernel, and autograd it is ([`device`]).
//!
//! Bytes do not depend on the number of threads: `gemm` splits rows and columns and never sums, elementwise work is cut
//! into fixed blocks, and sums run in a fixed order.

mod data;
mod device;
mod fit;
mod fused;
mod head;
mod measure;
mod member;
mod model;
mod network;
mod onnx;
mod plot;
mod random;
mod report;
mod teach;
mod tensor;

pub use data::{Corpus, Examples, Part};
pub use fit::{Fitted, fit};
pub use model::{Model, Predictions};
pub use onnx::{metadata, write};
pub use plot::pictures;
pub use report::Report;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// The action itself, learnt by squared error.
    Deterministic,
    /// A tanh-squashed Normal with a network for its mean and one for its log-std, learnt by likelihood.
    Gaussian,
    /// A logit for every class, learnt by cross-entropy.
    Categorical,
}

/// Whose observations give mean and standard deviation that inputs are scaled by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// Those at the steps that are learnt from.
    Recorded,
    /// Those at all steps that there are.
    Selection,
}

/// What follows the sums of a hidden layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// tanh x.
    Tanh,
    /// x above 0, eˣ - 1 below (Clevert et al., 2016).
    Elu,
}

/// How much of the moments of Adam an update leaves: Kingma and Ba's own choice (2015), and PyTorch's.
const BETAS: [f64; 2] = [0.9, 0.999];
/// What Adam adds to the root of the second moment.
const EPSILON: f64 = 1e-8;

/// Where networks learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The CUDA device of this index, where the feature `cuda` was built in.
    Cuda(usize),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

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
    fn shrink(&self, squares: f64) -> f64 {
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

/// Rounds in which the model labels what is not labelled and learns from its most certain labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelfTraining {
    /// Rounds after the first, which has recorded actions alone.
    pub rounds: usize,
    /// Share of the unlabelled steps whose labels are learnt from, from the most certain on.
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
        model::has_std(self.head, self.members)
    }
}

/// Told of the learning's progress, and asked whether it is to stop.
pub trait Watch: Sync {
    /// So many updates lie ahead.
    fn begin(&self, updates: u64);

    /// So many are done since, with the mean loss of training and validation.
    fn advance(&self, updates: u64, losses: Option<(f64, f64)>);

    /// Whether the user wants it to stop.
    fn interrupted(&self) -> bool;
}
