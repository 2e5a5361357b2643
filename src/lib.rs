//! trajmill: pipelines over trajectory datasets, for semi-supervised offline reinforcement learning.
//!
//! A few trajectories carry actions, most do not. A pipeline file says which to keep, labels the missing actions with
//! an inverse dynamics model, and writes a dataset that a trainer loads:
//!
//! ```text
//!  pipelines/*.yaml
//!       │  config   what the user wrote, with the place of every word
//!       ▼
//!  PipelineFile ──► plan     stages bound to columns, and cut into phases
//!                     ▼
//!                   Plan ──► exec     the selection, from metadata alone; one task per output shard:
//!                                     read → stages → write, on rayon
//!                              ▼
//!                      sealed dataset ──► commit   one rename makes it visible
//! ```
//!
//! The modules, in the order in which data meets them: [`config`], [`plan`], [`exec`], [`commit`], composed by
//! [`run`]; [`stage`] holds what a pipeline can do, [`format`] what can be imported, [`model`] the inference runtimes, [`train`] learning,
//! [`expr`] the expression language, [`query`] SQL, [`dataset`] the nouns, [`cli`] the commands. Imports point one way:
//! `cli → run → (query | commit | exec) → plan → config → stage → (model | format | expr | train) → dataset`.
//!
//! ```no_run
//! # fn main() -> Result<(), trajmill::error::Error> {
//! let dataset = trajmill::dataset::Dataset::open("data/hopper".as_ref())?;
//! println!("{} trajectories, {} rows", dataset.trajectory_count(), dataset.rows());
//! # Ok(())
//! # }
//! ```

pub mod cli;
pub mod commit;
pub mod config;
pub(crate) mod container;
pub mod dataset;
pub mod error;
pub mod exec;
pub mod expr;
pub mod format;
pub mod inspect;
pub mod model;
pub mod plan;
pub mod query;
pub mod run;
pub mod stage;
pub mod train;
pub mod transfer;
pub mod video;
