//! trajmill: pipelines over trajectory datasets for semi-supervised offline reinforcement learning.
//!
//! ```text
//! config ──► plan ──► exec ──► commit
//! ```

pub mod dataset;
pub mod error;
pub mod expr;
pub mod format;
pub mod model;
pub mod stage;
