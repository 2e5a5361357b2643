//! What a run did, for people and programs.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::dataset::manifest::Statistics;
use crate::error::{Error, Kind, Result};
use crate::plan::Lesson;
use crate::plan::table::Flow;
use crate::transfer::read::quarantine::SetAside;
use crate::transfer::write::Written;

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Its outputs, in order.
    pub outputs: Vec<Output>,
    /// The models that it learnt or found, in order.
    pub models: Vec<Model>,
    /// Foreign sources of which something was set aside.
    pub quarantined: Vec<Quarantined>,
    /// Wall time.
    pub seconds: f64,
}

/// A foreign source with bad trajectories.
#[derive(Debug)]
pub struct Quarantined {
    /// The file or directory.
    pub source: PathBuf,
    /// What was set aside.
    pub aside: SetAside,
    /// How many of its trajectories may be.
    pub allowed: u64,
}

/// A model that a run learnt or found.
#[derive(Debug)]
pub struct Model {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was there already, learnt from the same things in the same way.
    pub reused: bool,
    /// How good it is, in a sentence; empty where it was there.
    pub summary: String,
}

/// One output of a run.
#[derive(Debug)]
pub struct Output {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was there already, made of the same things.
    pub reused: bool,
    /// blake3 of its manifest; `None` for plain Parquet.
    pub manifest: Option<String>,
    /// Totals over it.
    pub statistics: Statistics,
    /// What a foreign format cannot hold, and where it is instead.
    pub written: Written,
    /// Rows and trajectories through each stage since the output before.
    pub flow: Vec<Flow>,
    /// Tasks, and how many of them an earlier run had finished.
    pub tasks: (usize, usize),
    /// What it depends on, by name.
    pub inputs: std::collections::BTreeMap<String, String>,
    /// Share of the workers' time by what they did.
    pub time: Vec<(String, f64)>,
    /// Runtime, version and devices, where a model ran.
    pub runtime: Option<Value>,
    /// Predicates that did not hold and were only to be said.
    pub warnings: Vec<String>,
}

impl Model {
    /// One that was there.
    pub(super) fn found(lesson: &Lesson) -> Model {
        Model {
            path: lesson.path.clone(),
            reused: true,
            summary: String::new(),
        }
    }
}

impl Report {
    /// An error where more trajectories of a source were set aside than may be.
    ///
    /// # Errors
    /// As it says: of the kind of failed checks.
    pub fn within_allowance(&self) -> Result<()> {
        let Some(over) = self
            .quarantined
            .iter()
            .find(|source| source.aside.trajectories > source.allowed)
        else {
            return Ok(());
        };
        let (source, aside, allowed) =
            (over.source.display(), over.aside.trajectories, over.allowed);
        let message =
            format!("{source}: {aside} trajectories were set aside, and {allowed} are allowed");
        let hint = "the result is made of the others; `allowed: N` beside `on_error` says how many may be bad";
        Err(Error {
            kind: Kind::Checks,
            ..Error::failed(message).hint(hint)
        })
    }

    /// The report as one JSON object, for programs.
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
        let outputs = self.outputs.iter().map(|output| {
            json!({
                "path": output.path, "reused": output.reused, "manifest": output.manifest, "statistics": output.statistics, "stages": output.flow,
                "tasks": output.tasks.0, "tasks_resumed": output.tasks.1, "inputs": output.inputs, "runtime": output.runtime,
                "time": output.time.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(), "warnings": output.warnings, "elsewhere": output.written.not_held,
            })
        });
        let models = self.models.iter().map(
            |model| json!({"path": model.path, "reused": model.reused, "summary": model.summary}),
        );
        let quarantined = self.quarantined.iter().map(|quarantined| {
            let Quarantined { source, aside, allowed } = quarantined;
            json!({"source": source, "trajectories": aside.trajectories, "allowed": allowed, "first": aside.first})
        });
        let reused = self
            .outputs
            .iter()
            .map(|output| output.reused)
            .chain(self.models.iter().map(|model| model.reused));
        json!({
            "reused": !(self.outputs.is_empty() && self.models.is_empty()) && reused.into_iter().all(|reused| reused),
            "seconds": self.seconds,
            "rows_read": read,
            "steps_written": steps,
            "steps_per_second": steps as f64 / self.seconds.max(1e-9),
            "runtime": self.outputs.iter().find_map(|output| output.runtime.clone()),
            "outputs": outputs.collect::<Vec<_>>(),
            "models": models.collect::<Vec<_>>(),
            "quarantined": quarantined.collect::<Vec<_>>(),
        })
    }
}
