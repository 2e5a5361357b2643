//! What a run did, for people and programs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::dataset::Account;
use crate::dataset::manifest::Statistics;
use crate::error::wording::{count, number};
use crate::error::{Error, ErrorKind, Result};
use crate::exec::Flow;
use crate::plan::Training;
use crate::transfer::read::quarantine::SetAside;
use crate::transfer::write::Written;

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// The outputs, in the order of the pipeline.
    pub outputs: Vec<OutputReport>,
    /// The models that were trained or found up to date, in the order of the pipeline.
    pub models: Vec<ModelReport>,
    /// The sources of which trajectories were set aside.
    pub(crate) quarantined: Vec<Quarantined>,
    /// What became of the rows, columns and files of the foreign sources.
    pub(crate) imports: Vec<Account>,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// A source with bad trajectories, which were set aside.
#[derive(Debug)]
pub(crate) struct Quarantined {
    /// The file or directory.
    pub source: PathBuf,
    /// The trajectories that were set aside.
    pub aside: SetAside,
    /// The number of bad trajectories that the pipeline allows.
    pub allowed: u64,
}

/// A model of a run.
#[derive(Debug)]
pub struct ModelReport {
    /// The model file.
    pub path: PathBuf,
    /// Whether the model was up to date, so that it was not trained.
    pub reused: bool,
    /// A sentence about the model's accuracy; empty if it was not trained.
    pub summary: String,
}

/// An output of a run.
#[derive(Debug)]
pub struct OutputReport {
    /// The file or directory.
    pub path: PathBuf,
    /// Whether the output was up to date, so that it was not made.
    pub reused: bool,
    /// blake3 of the manifest; `None` for an output in a foreign format.
    pub manifest: Option<String>,
    /// Totals over the output.
    pub statistics: Statistics,
    /// What a foreign format cannot hold, and where it is instead.
    pub(crate) written: Written,
    /// Rows and trajectories through each stage since the output before this one.
    pub flow: Vec<Flow>,
    /// Number of tasks, and number of those that an earlier run had finished.
    pub tasks: (usize, usize),
    /// Everything that the output depends on, by name.
    pub inputs: BTreeMap<String, String>,
    /// Shares of the workers' time, by what they did.
    pub time: Vec<(String, f64)>,
    /// Name, version and devices of the model runtime; `None` if no stage uses a model.
    pub runtime: Option<Value>,
    /// What a user should know about the result, such as checks that failed but only warn.
    pub warnings: Vec<String>,
    /// Totals over the result that the output replaced; `None` if it replaced none.
    pub replaced: Option<Statistics>,
    /// Wall time in seconds that the output took.
    pub seconds: f64,
}

impl ModelReport {
    /// Reports a model that is up to date.
    pub(super) fn reused(model: &Training) -> ModelReport {
        ModelReport {
            path: model.path.clone(),
            reused: true,
            summary: String::new(),
        }
    }
}

impl Report {
    /// Verifies that no more trajectories of a source were set aside than the pipeline allows.
    ///
    /// # Errors
    /// Returns an error of the kind [`ErrorKind::Checks`] if more were set aside.
    pub fn within_allowance(&self) -> Result<()> {
        match self
            .quarantined
            .iter()
            .find(|source| source.aside.trajectories > source.allowed)
        {
            None => Ok(()),
            Some(over) => Err(too_many(over.aside.trajectories, over.allowed)
                .at(over.source.display())
                .hint(
                    "the result holds all others; set `allowed` beside `on_error` to accept more",
                )),
        }
    }

    /// Returns the report as one JSON object, for programs.
    pub fn to_json(&self) -> Value {
        let steps: u64 = self
            .outputs
            .iter()
            .filter(|output| !output.reused)
            .map(|output| output.statistics.steps)
            .sum();
        let read: u64 = self
            .outputs
            .iter()
            .filter_map(|output| output.flow.first())
            .map(|flow| flow.rows_in)
            .sum();
        let mut reused = self
            .outputs
            .iter()
            .map(|output| output.reused)
            .chain(self.models.iter().map(|model| model.reused))
            .peekable();
        json!({
            "reused": reused.peek().is_some() && reused.all(|reused| reused),
            "seconds": self.seconds,
            "rows_read": read,
            "steps_written": steps,
            "steps_per_second": steps as f64 / self.seconds.max(1e-9),
            "runtime": self.outputs.iter().find_map(|output| output.runtime.clone()),
            "outputs": self.outputs.iter().map(OutputReport::to_json).collect::<Vec<_>>(),
            "models": self.models.iter().map(ModelReport::to_json).collect::<Vec<_>>(),
            "imports": self.imports,
            "quarantined": self.quarantined.iter().map(Quarantined::to_json).collect::<Vec<_>>(),
        })
    }
}

impl OutputReport {
    fn to_json(&self) -> Value {
        json!({
            "path": self.path,
            "reused": self.reused,
            "manifest": self.manifest,
            "statistics": self.statistics,
            "stages": self.flow,
            "tasks": self.tasks.0,
            "tasks_resumed": self.tasks.1,
            "inputs": self.inputs,
            "runtime": self.runtime,
            "time": self.time.iter().cloned().collect::<BTreeMap<_, _>>(),
            "warnings": self.warnings,
            "replaced": self.replaced,
            "seconds": self.seconds,
            "elsewhere": self.written.not_held,
        })
    }
}

impl ModelReport {
    fn to_json(&self) -> Value {
        json!({"path": self.path, "reused": self.reused, "summary": self.summary})
    }
}

impl Quarantined {
    fn to_json(&self) -> Value {
        json!({
            "source": self.source,
            "trajectories": self.aside.trajectories,
            "allowed": self.allowed,
            "first": self.aside.first,
        })
    }
}

/// Returns the error for more bad trajectories than are allowed.
pub(super) fn too_many(aside: u64, allowed: u64) -> Error {
    let were = if aside == 1 { "was" } else { "were" };
    let message = format!(
        "{} {were} set aside, but {} {} allowed",
        count(aside, "trajectory"),
        number(allowed),
        if allowed == 1 { "is" } else { "are" },
    );
    Error {
        kind: ErrorKind::Checks,
        ..Error::failed(message)
    }
}
