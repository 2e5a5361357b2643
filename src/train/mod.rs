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
//! a million elements. Here candle multiplies matrices; the rest is fused by hand (`fused`), one pass per layer and direction.
//! On a GPU an operator is one kernel, and autograd it is (`autograd`).
//!
//! Bytes do not depend on the number of threads: `gemm` splits rows and columns and never sums, elementwise work is cut
//! into fixed blocks, and sums run in a fixed order.

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
pub use model::{Model, Predictions};
pub use onnx::{metadata, write};
pub use options::{Activation, Adam, Budget, Head, Options, SelfTraining, Statistics, Task};
pub use plot::pictures;
pub use report::Report;
pub use watch::Watch;
