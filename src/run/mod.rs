//! The engine on one screen: config → plan → exec → commit, output by output.
//!
//! ```text
//! mod.rs        the steps of a run
//! output.rs     one output: claimed, executed, verified and published
//! sources.rs    the datasets that an output reads, imported first if necessary
//! phases.rs     the phases that lead to an output
//! models.rs     the models that are trained on the way
//! manifest.rs   the manifest of a dataset that a run writes
//! checks.rs     the pipeline's checks over a sealed result
//! report.rs     what a run did, for people and programs
//! preview.rs    what a run would do: the work behind `trajmill plan`
//! import.rs     the work behind `trajmill import`, and behind a source in a foreign format
//! export.rs     the work behind `trajmill export`, and behind an output in a foreign format
//! lineage.rs    the work behind `trajmill lineage`
//! verify.rs     the work behind `trajmill validate`, `trajmill info --verify` and `run --verify`
//! observer.rs   progress, and the user's wish to stop
//! ```

mod checks;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod lineage;
mod manifest;
mod models;
mod observer;
mod output;
mod phases;
pub(crate) mod preview;
mod report;
mod sources;
pub(crate) mod verify;

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use crate::config;
use crate::error::Result;
use crate::exec::Limits;
use crate::model::ModelOptions;
use crate::plan::{self, Plan};

use output::Output;

pub use observer::{Observer, Watch};
pub use report::{ModelReport, OutputReport, Report};

/// Rows that a shard of an imported source or of an intermediate aims at.
const INTERMEDIATE_SHARD_ROWS: u64 = 250_000;

/// Options of a run.
pub struct RunOptions<'a> {
    /// Parameters of the pipeline to override, as `(key, value)`.
    pub overrides: Vec<(String, String)>,
    /// Number of worker threads.
    pub threads: usize,
    /// Bytes of memory that the tasks in flight may use together; `None` for no limit.
    pub memory: Option<usize>,
    /// How to choose the model runtime.
    pub model: ModelOptions,
    /// Whether to start over, without earlier results and earlier work towards them.
    pub fresh: bool,
    /// Whether to verify the bytes of results that are up to date.
    pub verify: bool,
    /// Receives the progress, and knows whether the user wants the run to stop.
    pub observer: Observer<'a>,
}

impl Default for RunOptions<'_> {
    /// Returns the options of a run with one thread per core, no limit on memory and no overrides,
    /// which reuses earlier work, chooses devices by itself and shows nothing.
    fn default() -> Self {
        RunOptions {
            overrides: Vec::new(),
            threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            memory: None,
            model: ModelOptions::default(),
            fresh: false,
            verify: false,
            observer: Observer::default(),
        }
    }
}

impl RunOptions<'_> {
    /// Returns the resources that a phase may use.
    fn limits(&self) -> Limits {
        Limits {
            threads: self.threads,
            memory: self.memory,
        }
    }
}

/// Runs the pipeline file at `path`.
///
/// # Errors
/// Returns an error if the pipeline file is wrong, a source cannot be read, a result cannot be
/// written, a check fails, or the user wants to stop. [`ErrorKind`](crate::error::ErrorKind) tells
/// these apart.
pub fn run(path: &Path, options: &RunOptions) -> Result<Report> {
    let started = Instant::now();
    let watch = options.observer.watch;
    let mut report = Report::default();

    // 1. Config: parse the pipeline file and find all of its faults.
    let pipeline = config::load(path, &options.overrides)?;

    // 2. Plan: bind the stages to columns, and cut the chain of stages into phases.
    watch.begin("reading the sources", 0);
    let plan = plan::resolve(&pipeline, &options.model);
    watch.end();
    let plan = plan?;
    let mut notes = say_notes(&plan, 0, watch);

    // Planning belongs to the first output.
    let mut since = started;
    for output in Output::all(&plan, options)? {
        let sources = output.sources()?;
        // 3. Claim: skip an output that is up to date, hold the staging directory of any other.
        if let Some(staging) = output.claim(&sources, &mut report)? {
            // 4. Exec: import sources, train models and run the phases in the staging directory.
            let made = output.execute(&sources, &staging, &mut report)?;
            // 5. Commit: verify the checks, export to a foreign format if wanted, publish.
            output.commit(made, staging, since, &mut report)?;
        }
        since = Instant::now();
        notes = say_notes(&plan, notes, watch);
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Shows the notes of the model runtime but the first `said`, and returns the number of notes so
/// far. Opening a model may add notes.
fn say_notes(plan: &Plan, said: usize, watch: &dyn Watch) -> usize {
    let notes = plan
        .runtime
        .as_ref()
        .map(|runtime| runtime.notes())
        .unwrap_or_default();
    notes.iter().skip(said).for_each(|note| watch.say(note));
    notes.len()
}
