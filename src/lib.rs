//! trajmill: pipelines over trajectory datasets for semi-supervised offline reinforcement learning.
//!
//! A few trajectories have actions, and most do not. A pipeline file says which trajectories to
//! keep, labels the missing actions with an inverse dynamics model, and writes a dataset that a
//! training script loads. The command `trajmill` is the usual way to run one; this library does
//! the same from Rust:
//!
//! - [`run`] runs a pipeline file and returns a [`Report`]. [`RunOptions`] sets threads, memory and
//!   devices, and has a [`Watch`] for the progress.
//! - [`Dataset`] opens a dataset, and its [`Manifest`](manifest::Manifest) describes it.
//! - [`Session`] runs SQL over open datasets and returns Arrow batches.
//! - [`Error`] is the error of all of them: a message that names the place, with remedies.
//!
//! # Example
//!
//! ```
//! use trajmill::arrow::array::AsArray;
//! use trajmill::arrow::datatypes::Int64Type;
//! use trajmill::{Dataset, RunOptions, Session, SessionOptions};
//!
//! # fn main() -> trajmill::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! # let hopper = std::env::current_dir()?.join("data/hopper");
//! # let hopper = hopper.display();
//! // Relative paths in a pipeline start at the folder of its file.
//! let pipeline = folder.join("long.yaml");
//! let text = format!(
//!     "trajmill: 1
//! source: {hopper}
//! stages:
//!   - filter: length >= 200
//!   - materialise: {{ path: long }}
//! "
//! );
//! std::fs::write(&pipeline, text)?;
//!
//! let report = trajmill::run(&pipeline, &RunOptions::default())?;
//! let output = &report.outputs[0];
//! println!("{}: {} steps", output.path.display(), output.statistics.steps);
//!
//! let long = Dataset::open(&output.path)?;
//! let session = Session::open(&[("long".to_owned(), long)], &SessionOptions::default())?;
//! let (_, batches) = session.query("select min(length) from trajectories")?;
//! let shortest = batches[0].column(0).as_primitive::<Int64Type>().value(0);
//! assert!(shortest >= 200);
//! # Ok(())
//! # }
//! ```
//!
//! The folder `examples` of the repository has two programs: `run_pipeline` prints the progress of
//! a run, and `trajectories` prints a table of the longest trajectories of a dataset.
//!
//! # The four steps of a run
//!
//! ```text
//!  pipelines/*.yaml
//!       │  1. config   parses the file, keeps the place of every word, reports all faults at once
//!       ▼
//!  PipelineFile ──► 2. plan     binds stages to columns and cuts them into phases
//!                        ▼
//!                      Plan ──► 3. exec     selects trajectories from metadata alone, then reads,
//!                                   │       transforms and writes on one thread per task
//!                                   ▼
//!                           sealed dataset ──► 4. commit   one rename makes the result visible
//! ```
//!
//! Each step is a folder of `src/`, and `src/run/mod.rs` composes them. `ARCHITECTURE.md` describes
//! the other folders. All modules are private: the names on this page are the whole interface.

// What is `pub` for `internals` alone is out of reach without it.
#![cfg_attr(not(feature = "faults"), allow(unreachable_pub))]

mod cli;
mod commit;
mod config;
mod container;
mod dataset;
mod error;
mod exec;
mod expr;
mod format;
mod inspect;
mod model;
mod plan;
mod query;
mod run;
mod stage;
mod train;
mod transfer;
mod video;

#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod internals;

pub use arrow;
pub use cli::main;
pub use dataset::Dataset;
pub use error::{Error, ErrorKind, Fault, Result};
pub use exec::Flow;
pub use model::{Device, ModelOptions};
pub use query::print::{ResultFormat, print_result, save_result};
pub use query::{Session, SessionOptions};
pub use run::{ModelReport, Observer, OutputReport, Report, RunOptions, Watch, run};
pub use stage::Tally;

/// The content of a dataset's `dataset.json`, as plain values.
pub mod manifest {
    pub use crate::dataset::account::{Account, LeftOut, Rows};
    pub use crate::dataset::manifest::{
        Column, FileEntry, Lineage, Manifest, Returns, ShardEntry, Statistics,
    };
}
