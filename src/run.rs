//! The engine on one screen: config → plan → exec → commit, output by output.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Value, json};

use crate::commit::{Existing, Staging, existing};
use crate::config::PipelineFile;
use crate::dataset::manifest::{Lineage, Manifest, Statistics, VERSION};
use crate::dataset::{Dataset, layout, schema, store};
use crate::error::{Error, Kind, Result};
use crate::exec::{self, Clock, Setting};
use crate::format::{WriteOptions, Written, export, import};
use crate::plan::table::{self, Flow};
use crate::plan::{self, Foreign, Phase, Plan, Sink, tasks};
use crate::query::Session;
use crate::stage::Materialise;
use crate::{commit, config, model};

/// Shards of a dataset that only the next phase reads aim at this many rows.
const STAGED_SHARD_ROWS: u64 = 250_000;

/// What the user asked of a run.
pub struct Options<'a> {
    /// Parameters to override, as `(key, value)`.
    pub overrides: Vec<(String, String)>,
    /// Worker threads.
    pub threads: usize,
    /// Bytes that the tasks in flight may use together.
    pub memory: Option<usize>,
    /// What the model runtime is to be.
    pub model: model::Options,
    /// Whether what an interrupted run left is thrown away.
    pub fresh: bool,
    /// Set where the user wants the run to stop.
    pub interrupted: &'a AtomicBool,
    /// Watches the run.
    pub watch: &'a dyn Watch,
}

/// Told of a run's progress.
pub trait Watch: Sync {
    /// A pass over the data begins: its name and the rows it will read.
    fn begin(&self, name: &str, rows: u64);
    /// So many more rows are done.
    fn advance(&self, rows: u64);
    /// The pass is over.
    fn end(&self);
    /// Something that a person should know.
    fn say(&self, line: &str);
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Its outputs, in order.
    pub outputs: Vec<Output>,
    /// Wall time.
    pub seconds: f64,
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

/// Runs the pipeline file at `path`.
///
/// # Errors
/// See [`Kind`] for what each kind of failure means.
pub fn run(path: &Path, options: &Options) -> Result<Report> {
    let started = Instant::now();
    let pipeline: PipelineFile = config::load(path, &options.overrides)?;
    let plan = plan::resolve(&pipeline, &options.model)?;
    if let Some(note) = plan.runtime.as_ref().and_then(|runtime| runtime.note()) {
        options.watch.say(&note);
    }
    let mut report = Report::default();
    let mut sources = plan.sources.clone();
    let mut first = 0;
    while let Some((last, path, _)) = plan.output_of(first) {
        let foreign = if first == 0 { plan.foreign.as_slice() } else { &[] };
        let output = produce(&plan, first..last + 1, &sources, foreign, options)?;
        if last + 1 < plan.phases.len() {
            sources = vec![Dataset::open(path)?];
        }
        report.outputs.push(output);
        first = last + 1;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Produces one output: its staged phases and the one that is published.
fn produce(
    plan: &Plan,
    phases: std::ops::Range<usize>,
    sources: &[Dataset],
    foreign: &[Option<Foreign>],
    options: &Options,
) -> Result<Output> {
    let phases = &plan.phases[phases];
    let Some(Phase { sink: Sink::Output { path, options: wanted }, fingerprint, .. }) = phases.last() else {
        return Err(Error::failed("the plan has no output"));
    };
    let key = fingerprint.key();
    let replace = match existing(path)? {
        Existing::Nothing => wanted.overwrite,
        Existing::Result { key: found, .. } if found == key && !options.fresh => return reused(plan, path, wanted, fingerprint),
        // `--fresh` makes the same result again: nothing is lost with the one that is there.
        Existing::Result { key: found, .. } if wanted.overwrite || found == key => true,
        Existing::Result { inputs, .. } => {
            let changes = fingerprint.changes_since(&inputs);
            let message = format!("{} exists and was made otherwise:\n    {}", path.display(), changes.join("\n    "));
            return Err(Error::failed(message).hint("remove it, write to another path, or give `materialise` the option `overwrite: true`"));
        }
        Existing::Foreign => {
            return Err(Error::failed(format!("{} exists and is not a result of trajmill", path.display()))
                .hint("write to another path, or remove it yourself"));
        }
    };
    let imports = foreign.iter().flatten().map(|foreign| foreign.fingerprint.key());
    let keys: Vec<String> = phases.iter().map(|phase| phase.fingerprint.key()).chain(imports).collect();
    let staging = Staging::claim(path, if options.fresh { &[] } else { &keys })?;
    let imported = sources.iter().enumerate().map(|(index, source)| match foreign.get(index).and_then(Option::as_ref) {
        Some(foreign) => stage(foreign, &source.name, &staging, options),
        None => Ok(source.clone()),
    });
    let imported = imported.collect::<Result<Vec<_>>>()?;
    let sources = imported.as_slice();
    let clock = Clock::new(phases.iter().flat_map(|phase| phase.transforms.iter().map(|placed| placed.name.as_str())));
    let mut flow: Vec<Flow> = Vec::new();
    let mut staged: Vec<Dataset> = Vec::new();
    let mut done = (0, 0);
    for (index, phase) in phases.iter().enumerate() {
        let input = staged.last().map_or(sources, std::slice::from_ref);
        let table = table::select(phase, input)?;
        let (name, shard_rows) = match &phase.sink {
            Sink::Staged { .. } => (format!("phase {}", index + 1), STAGED_SHARD_ROWS),
            Sink::Output { options, .. } => (options.path.clone(), options.shard_rows),
        };
        let tasks = tasks::cut(&table, shard_rows)?;
        let key = phase.fingerprint.key();
        let journal = staging.journal(&key)?;
        options.watch.begin(&name, table.rows()?);
        let setting = Setting {
            threads: options.threads,
            memory: options.memory,
            interrupted: options.interrupted,
            progress: &|rows| options.watch.advance(rows),
            clock: &clock,
        };
        let outcome = exec::run(phase, input, &table, &tasks, &staging.dataset(&key), journal, &setting);
        options.watch.end();
        let outcome = outcome?;
        flow.extend(table.flow);
        flow.extend(outcome.flow);
        done = (done.0 + outcome.tasks, done.1 + outcome.resumed);
        let manifest = manifest(plan, phase, input, outcome.shards, &flow)?;
        staged.push(Dataset::open(&staging.seal(&key, &manifest)?)?);
    }
    let (Some(result), Some(phase)) = (staged.pop(), phases.last()) else { return Err(Error::failed("the plan has no phase")) };
    let warnings = match check(phase, &result, options) {
        Ok(warnings) => warnings,
        // Published nothing, and nothing to go on from: the work itself is done.
        Err(error) if error.kind == Kind::Checks => {
            staging.discard()?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let (statistics, hash) = (result.manifest.statistics.clone(), result.hash.clone());
    let foreign = wanted.foreign()?;
    let (sealed, written) = match foreign {
        None => (result.path, Written::default()),
        Some(format) => {
            options.watch.say(&format!("writing {} as {}", path.display(), format.name));
            let to = staging.foreign(&key)?;
            let note = commit::note(fingerprint, &result.manifest)?;
            let written = export::export(format, result, &to, &WriteOptions { note, ..wanted.with.clone() })?;
            (to, written)
        }
    };
    staging.publish(&sealed, replace)?;
    Ok(Output {
        path: path.clone(),
        reused: false,
        manifest: foreign.is_none().then_some(hash),
        statistics,
        written,
        flow,
        tasks: done,
        inputs: fingerprint.inputs.clone(),
        time: clock.shares(),
        runtime: runtime(plan),
        warnings,
    })
}

/// Imports a source into the staging directory, where an earlier run has not done it.
fn stage(foreign: &Foreign, name: &str, staging: &Staging, options: &Options) -> Result<Dataset> {
    let key = foreign.fingerprint.key();
    let root = staging.dataset(&key);
    if !layout::manifest(&root).exists() {
        // An import that was killed starts over.
        store::remove(&root)?;
        foreign.read(|source| {
            options.watch.begin(&format!("import {name}"), source.rows().unwrap_or(0));
            let content = foreign.fingerprint.inputs.get("source").cloned().unwrap_or_default();
            let imported = import::import(source, name, &content, &root, STAGED_SHARD_ROWS, None, &|rows| {
                options.watch.advance(rows);
            });
            options.watch.end();
            let by = foreign.format.map_or("trajmill", |format| format.name);
            let lineage = Lineage {
                by: format!("import {by}"),
                inputs: foreign.fingerprint.inputs.clone(),
                source_metadata: source.metadata(),
                ..Lineage::default()
            };
            staging.seal(&key, &imported?.manifest(&key, lineage)).map(|_| ())
        })?;
    }
    let dataset = Dataset::open(&root)?;
    Ok(Dataset { name: name.to_owned(), ..dataset })
}

/// What the sources said of themselves: of one verbatim, of several under their names.
fn said(sources: &[Dataset]) -> serde_json::Map<String, Value> {
    let said = |source: &Dataset| source.manifest.lineage.source_metadata.clone();
    match sources {
        [one] => said(one),
        several => {
            let named = several.iter().map(|source| (source.name.clone(), Value::Object(said(source))));
            named.filter(|(_, said)| said.as_object().is_some_and(|said| !said.is_empty())).collect()
        }
    }
}

fn reused(plan: &Plan, path: &Path, wanted: &Materialise, fingerprint: &plan::Fingerprint) -> Result<Output> {
    // A run that was killed between publishing and tidying up left its staging directory.
    if layout::staging(path).exists()
        && let Ok(staging) = Staging::claim(path, &[])
    {
        staging.discard()?;
    }
    let dataset = wanted.foreign()?.is_none().then(|| Dataset::open(path)).transpose()?;
    Ok(Output {
        path: path.to_owned(),
        reused: true,
        manifest: dataset.as_ref().map(|dataset| dataset.hash.clone()),
        statistics: dataset.as_ref().map(|dataset| dataset.manifest.statistics.clone()).unwrap_or_default(),
        written: Written::default(),
        flow: Vec::new(),
        tasks: (0, 0),
        inputs: fingerprint.inputs.clone(),
        time: Vec::new(),
        runtime: runtime(plan),
        warnings: Vec::new(),
    })
}

fn runtime(plan: &Plan) -> Option<Value> {
    plan.runtime.as_ref().map(|runtime| json!({"name": runtime.name(), "version": runtime.version(), "devices": runtime.devices()}))
}

fn manifest(plan: &Plan, phase: &Phase, input: &[Dataset], shards: Vec<crate::dataset::ShardEntry>, flow: &[Flow]) -> Result<Manifest> {
    let mut statistics = Statistics::default();
    shards.iter().for_each(|shard| statistics.add(&shard.statistics));
    let stages = flow.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
    Ok(Manifest {
        trajmill: VERSION,
        tool: concat!("trajmill ", env!("CARGO_PKG_VERSION")).to_owned(),
        fingerprint: phase.fingerprint.key(),
        columns: schema::describe(&phase.steps),
        statistics,
        shards,
        lineage: Lineage {
            by: "run".to_owned(),
            pipeline: Some(plan.text.clone()),
            params: plan.params.clone(),
            inputs: phase.fingerprint.inputs.clone(),
            stages: stages.map_err(|error| Error::failed(format!("cannot keep the counts: {error}")))?,
            runtime: runtime(plan),
            source_metadata: said(input),
        },
    })
}

/// Holds the sealed result against its predicates; those that only warn come back as text.
fn check(phase: &Phase, result: &Dataset, options: &Options) -> Result<Vec<String>> {
    if phase.checks.is_empty() {
        return Ok(Vec::new());
    }
    let session = Session::open(
        &[("result".to_owned(), result.clone())],
        &crate::query::Options { threads: options.threads, memory: options.memory, ..Default::default() },
    )?;
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    for check in &phase.checks {
        for (table, predicate) in check.predicates() {
            if !session.check(table, predicate)? {
                let list = if check.warns() { &mut warnings } else { &mut failures };
                list.push(format!("{table}: {predicate}"));
            }
        }
    }
    if failures.is_empty() {
        return Ok(warnings);
    }
    let message = format!("{} of the checks did not hold, and nothing was published:\n    {}", failures.len(), failures.join("\n    "));
    Err(Error { kind: Kind::Checks, ..Error::failed(message) })
}

impl Report {
    /// The report as one JSON object, for programs.
    pub fn to_json(&self) -> Value {
        let steps: u64 = self.outputs.iter().filter(|output| !output.reused).map(|output| output.statistics.steps).sum();
        let read: u64 = self.outputs.iter().filter_map(|output| output.flow.first()).map(|flow| flow.rows_in).sum();
        let outputs = self.outputs.iter().map(|output| {
            json!({
                "path": output.path, "reused": output.reused, "manifest": output.manifest, "statistics": output.statistics, "stages": output.flow,
                "tasks": output.tasks.0, "tasks_resumed": output.tasks.1, "inputs": output.inputs, "runtime": output.runtime,
                "time": output.time.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(), "warnings": output.warnings, "elsewhere": output.written.elsewhere,
            })
        });
        json!({
            "reused": !self.outputs.is_empty() && self.outputs.iter().all(|output| output.reused),
            "seconds": self.seconds,
            "rows_read": read,
            "steps_written": steps,
            "steps_per_second": steps as f64 / self.seconds.max(1e-9),
            "runtime": self.outputs.iter().find_map(|output| output.runtime.clone()),
            "outputs": outputs.collect::<Vec<_>>(),
        })
    }
}
