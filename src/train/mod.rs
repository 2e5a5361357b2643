//! Training of inverse dynamics models: arrays in, an ONNX file and a report out.
//!
//! [`fit`] reads windows of observations and the actions recorded at them from a [`Corpus`], trains
//! an ensemble of multilayer perceptrons, and measures it on held-out trajectories. Nothing here
//! knows of plans, paths or columns.
//!
//! ```text
//! Corpus ─ data: shuffle buffer ─► batches ─ member: forward, loss, backward, Adam ─► checkpoint
//!                                                    ▲ network, head, fused             │
//!          measure: held-out error, calibration ◄─ model: the ensemble as one graph ◄──┘
//!                               │                        └─► onnx: the same graph as a file
//!                               └─► report (JSON), plot (SVG)
//! ```
//!
//! A file imports only from files to the left of it:
//!
//! ```text
//! options, watch, random, device, tensor → data, head, fused → network → autograd → trainable
//!   → model → onnx, survey, member, self_training → measure → report → plot, fit
//! ```
//!
//! Why the CPU path does not use candle's autograd: it records every operator, and candle's CPU
//! operators run on one thread and allocate their result. A matrix product is followed by three
//! operators (bias, activation, dropout), and one step of Adam takes a dozen, over matrices of a
//! million elements. On the CPU, candle therefore multiplies matrices only; the rest is fused by
//! hand, with one pass over memory per layer and direction (`fused`). On a GPU, an operator is one
//! kernel and fusing saves little, so `autograd` uses candle's operators.
//!
//! The bytes of a model do not depend on the number of threads: `gemm` splits rows and columns but
//! never sums, elementwise work is cut into fixed blocks, and sums run in a fixed order.

mod autograd;
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
mod options;
mod plot;
mod random;
mod report;
mod self_training;
mod survey;
mod tensor;
mod trainable;
mod watch;

pub use data::{Corpus, Examples, Part};
pub use device::Device;
pub use fit::{Fitted, fit};
pub use onnx::metadata;
pub(crate) use onnx::write;
pub use options::{Activation, Adam, Budget, Head, Options, SelfTraining, Statistics, Task};
pub use plot::pictures;
pub use watch::Watch;
