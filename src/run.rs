//! The engine on one screen: config → plan → exec → commit, output by output.

mod report;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::commit::{Existing, Staging, existing, existing_model, publish_model};
use crate::config::PipelineFile;
use crate::dataset::manifest::{Lineage, Manifest, Statistics, VERSION};
use crate::dataset::{Dataset, layout, schema, store};
use crate::error::{Error, Kind, Result};
use crate::exec::{self, Clock, Setting};
use crate::plan::table::{self, Flow};
use crate::plan::{self, Foreign, Lesson, Phase, Placed, Plan, Sink, tasks};
use crate::query::Session;
use crate::stage::Materialise;
use crate::transfer::read::import;
use crate::transfer::read::quarantine::{self, SetAside};
use crate::transfer::write::{self, WriteOptions, Written};
use crate::{commit, config, model, train};

pub use report::{Model, Output, Quarantined, Report};

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
    /// A pass over the data begins: its name and the rows it will read, 0 where that is not known.
    fn begin(&self, name: &str, rows: u64);
    /// So many more rows are done.
    fn advance(&self, rows: u64);
    /// A model is being learnt: its name and the updates that lie ahead.
    fn learn(&self, name: &str, updates: u64);
    /// Losses of training and validation at the last look.
    fn losses(&self, training: f64, validation: f64);
    /// The pass, or the learning, is over.
    fn end(&self);
    /// Something that a person should know.
    fn say(&self, line: &str);
}

/// A dataset to read, and how it comes to be where it is not there yet.
type Input<'a> = (Dataset, Option<&'a Foreign>);

/// Datasets to read, and which of them were imported for it.
struct Claimed {
    sources: Vec<Dataset>,
    imported: Vec<Dataset>,
}

/// Runs the pipeline file at `path`.
///
/// # Errors
/// See [`Kind`] for what each kind of failure means.
pub fn run(path: &Path, options: &Options) -> Result<Report> {
    let started = Instant::now();
    let pipeline: PipelineFile = config::load(path, &options.overrides)?;
    options.watch.begin("looking at the sources", 0);
    let plan = plan::resolve(&pipeline, &options.model);
    options.watch.end();
    let plan = plan?;
    let mut told = 0;
    tell(&plan, &mut told, options.watch);
    let mut report = Report::default();
    let mut sources: Vec<Input> = plan
        .sources
        .iter()
        .cloned()
        .zip(plan.foreign.iter().map(Option::as_ref))
        .collect();
    let mut first = 0;
    while let Some((last, path)) = plan.output_of(first) {
        let phases = &plan.phases[first..=last];
        match plan.phases[last].sink {
            Sink::Model { .. } => only_models(&plan, phases, path, &sources, options, &mut report)?,
            _ => {
                let output = produce(&plan, phases, &sources, options, &mut report)?;
                report.outputs.push(output);
            }
        }
        tell(&plan, &mut told, options.watch);
        if last + 1 < plan.phases.len() {
            sources = vec![(Dataset::open(path)?, None)];
        }
        first = last + 1;
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Says what there is to say of the runtime that was not `told` before: a model that is opened may add to it.
fn tell(plan: &Plan, told: &mut usize, watch: &dyn Watch) {
    let notes = plan
        .runtime
        .as_ref()
        .map(|runtime| runtime.notes())
        .unwrap_or_default();
    notes.iter().skip(*told).for_each(|note| watch.say(note));
    *told = notes.len();
}

/// Produces one output: its staged phases and the one that is published.
fn produce(
    plan: &Plan,
    phases: &[Phase],
    sources: &[Input],
    options: &Options,
    report: &mut Report,
) -> Result<Output> {
    let Some(Phase {
        sink: Sink::Output {
            path,
            options: wanted,
        },
        fingerprint,
        ..
    }) = phases.last()
    else {
        return Err(Error::failed("the plan has no output"));
    };
    if replaces(path, wanted, phases, options)?.is_none() {
        report.models.extend(lessons(phases).map(Model::found));
        return reused(plan, path, wanted, fingerprint);
    }
    for lesson in lessons(phases) {
        missing(lesson, options)?;
    }
    // A model that cannot run is said before a row is read, whichever phase it is in. One that is yet to be learnt has to wait.
    if lessons(phases).next().is_none() {
        for phase in phases {
            let workers = exec::concurrency(
                options.threads,
                options.memory,
                phase,
                sources.iter().map(|(source, _)| source),
            );
            exec::prepare(phase, workers)?;
        }
    }
    let staging = claim(path, phases, sources, options)?;
    // Another run may have written it since.
    let Some(replace) = replaces(path, wanted, phases, options)? else {
        staging.discard()?;
        report.models.extend(lessons(phases).map(Model::found));
        return reused(plan, path, wanted, fingerprint);
    };
    let claimed = bring(sources, &staging, options, report)?;
    let work = carry_out(plan, phases, &claimed, &staging, options, report)?;
    let (Some(result), Some(phase)) = (work.datasets.last(), phases.last()) else {
        return Err(Error::failed("the plan has no phase"));
    };
    let warnings = match check(phase, result, options) {
        Ok(warnings) => warnings,
        // Published nothing, and nothing to go on from: the work itself is done.
        Err(error) if error.kind == Kind::Checks => {
            staging.discard()?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let foreign = wanted.foreign()?;
    let (sealed, written) = match foreign {
        None => (result.path.clone(), Written::default()),
        Some(format) => {
            let (name, rows) = (
                format!("{} as {}", path.display(), format.name),
                result.rows(),
            );
            options.watch.say(&format!("writing {name}"));
            let watch = |read: Option<u64>| {
                match read {
                    None => options.watch.begin(&name, rows),
                    Some(rows) => options.watch.advance(rows),
                }
                let go_on = !options.interrupted.load(Ordering::Relaxed);
                let again = "run the same command again: what there is to write is done";
                if go_on {
                    Ok(())
                } else {
                    Err(Error::interrupted(format!("interrupted while writing {name}")).hint(again))
                }
            };
            let to = staging.foreign(&fingerprint.key())?;
            let note = commit::note(fingerprint, &result.manifest)?;
            let written = write::export(
                format.writes(&wanted.with)?,
                result.clone(),
                &to,
                &WriteOptions {
                    note,
                    ..wanted.with.clone()
                },
                &watch,
            );
            options.watch.end();
            (to, written.map_err(|error| error.at(path.display()))?)
        }
    };
    staging.publish(&sealed, replace)?;
    Ok(Output {
        path: path.clone(),
        reused: false,
        manifest: foreign.is_none().then(|| result.hash.clone()),
        statistics: result.manifest.statistics.clone(),
        written,
        flow: work.flow,
        tasks: work.tasks,
        inputs: fingerprint.inputs.clone(),
        time: work.clock.shares(),
        runtime: runtime(plan),
        warnings,
    })
}

/// Whether what stands at the output's path may be replaced; `None` where it is the very result and all is there.
fn replaces(
    path: &Path,
    wanted: &Materialise,
    phases: &[Phase],
    options: &Options,
) -> Result<Option<bool>> {
    let Some(Phase { fingerprint, .. }) = phases.last() else {
        return Err(Error::failed("the plan has no output"));
    };
    let key = fingerprint.key();
    match existing(path)? {
        Existing::Nothing => Ok(Some(wanted.overwrite)),
        Existing::Result { key: found, .. }
            if found == key
                && !options.fresh
                && lessons(phases).all(|lesson| lesson.path.exists()) =>
        {
            Ok(None)
        }
        // `--fresh`, or a model that is gone, makes the same result again: nothing is lost with the one that is there.
        Existing::Result { key: found, .. } if wanted.overwrite || found == key => Ok(Some(true)),
        Existing::Result { inputs, .. } => {
            let changes = fingerprint.changes_since(&inputs);
            let message = format!(
                "{} exists and was made otherwise:\n    {}",
                path.display(),
                changes.join("\n    ")
            );
            Err(Error::failed(message).hint("remove it, write to another path, or give `materialise` the option `overwrite: true`"))
        }
        Existing::Foreign => Err(Error::failed(format!(
            "{} exists and is not a result of trajmill",
            path.display()
        ))
        .hint("write to another path, or remove it yourself")),
    }
}

/// Takes the staging directory of the output at `path`, with what an earlier run has done there.
fn claim(path: &Path, phases: &[Phase], sources: &[Input], options: &Options) -> Result<Staging> {
    let imports = sources
        .iter()
        .filter_map(|(_, foreign)| *foreign)
        .map(|foreign| foreign.fingerprint.key());
    let keys: Vec<String> = phases
        .iter()
        .map(|phase| phase.fingerprint.key())
        .chain(imports)
        .collect();
    Staging::claim(path, if options.fresh { &[] } else { &keys })
}

/// The sources, of which those that are not there yet are imported into the staging directory.
fn bring(
    sources: &[Input],
    staging: &Staging,
    options: &Options,
    report: &mut Report,
) -> Result<Claimed> {
    let mut claimed = Claimed {
        sources: Vec::new(),
        imported: Vec::new(),
    };
    for (source, foreign) in sources {
        let Some(foreign) = foreign else {
            claimed.sources.push(source.clone());
            continue;
        };
        let dataset = stage(foreign, &source.name, staging, options)?;
        let aside = SetAside::read(&dataset.path)?;
        if aside.trajectories > 0 {
            report.quarantined.push(Quarantined {
                source: foreign.path.clone(),
                aside,
                allowed: foreign.allowed,
            });
        }
        claimed.imported.push(dataset.clone());
        claimed.sources.push(dataset);
    }
    Ok(claimed)
}

/// Imports a source into the staging directory, where an earlier run has not done it.
fn stage(foreign: &Foreign, name: &str, staging: &Staging, options: &Options) -> Result<Dataset> {
    let key = foreign.fingerprint.key();
    let root = staging.dataset(&key);
    if !layout::manifest(&root).exists() {
        // An import that was killed starts over.
        store::remove(&root)?;
        foreign.read(|source| {
            options
                .watch
                .begin(&format!("import {name}"), source.rows().unwrap_or(0));
            let content = foreign
                .fingerprint
                .inputs
                .get("source")
                .cloned()
                .unwrap_or_default();
            let imported = import::import(
                source,
                name,
                &content,
                &root,
                STAGED_SHARD_ROWS,
                foreign.on_error(),
                &|rows| {
                    options.watch.advance(rows);
                    let go_on = !options.interrupted.load(Ordering::Relaxed);
                    if go_on {
                        Ok(())
                    } else {
                        Err(Error::interrupted(format!(
                            "interrupted while importing {name}"
                        )))
                    }
                },
            );
            options.watch.end();
            let imported = imported?;
            let lineage = Lineage {
                by: format!("import {}", foreign.format()),
                inputs: foreign.fingerprint.inputs.clone(),
                source_metadata: source.metadata(),
                set_aside: imported.aside.trajectories,
                ..Lineage::default()
            };
            staging
                .seal(&key, &imported.manifest(&key, lineage))
                .map(|_| ())
        })?;
    }
    let dataset = Dataset::open(&root)?;
    Ok(Dataset {
        name: name.to_owned(),
        ..dataset
    })
}

/// What phases made in a staging directory.
struct Work {
    /// What each of them wrote.
    datasets: Vec<Dataset>,
    flow: Vec<Flow>,
    /// Tasks, and how many of them an earlier run had finished.
    tasks: (usize, usize),
    clock: Clock,
}

/// Runs phases in `staging`, each after the models that are learnt from what it reads.
fn carry_out(
    plan: &Plan,
    phases: &[Phase],
    claimed: &Claimed,
    staging: &Staging,
    options: &Options,
    report: &mut Report,
) -> Result<Work> {
    let names = |phase: &'_ Phase| {
        let transforms = phase.transforms.iter().map(|placed| placed.name.clone());
        phase
            .lessons
            .iter()
            .map(|placed| placed.name.clone())
            .chain(transforms)
            .collect::<Vec<_>>()
    };
    let names: Vec<String> = phases.iter().flat_map(names).collect();
    let clock = Clock::new(names.iter().map(String::as_str));
    let mut flow: Vec<Flow> = Vec::new();
    let mut staged: Vec<Dataset> = Vec::new();
    let mut done = (0, 0);
    for (index, phase) in phases.iter().enumerate() {
        let input = staged
            .last()
            .map_or(claimed.sources.as_slice(), std::slice::from_ref);
        for placed in &phase.lessons {
            report.models.push(
                learn(placed, input, options, &clock)
                    .map_err(|error| error.at(format!("stage `{}`", placed.name)))?,
            );
        }
        let table = table::select(phase, input)?;
        let (name, shard_rows) = match &phase.sink {
            Sink::Staged { .. } => (format!("phase {}", index + 1), STAGED_SHARD_ROWS),
            Sink::Output { options, .. } => (options.path.clone(), options.shard_rows),
            Sink::Model { .. } => break,
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
        let outcome = exec::run(
            phase,
            input,
            &table,
            &tasks,
            &staging.dataset(&key),
            journal,
            &setting,
        );
        options.watch.end();
        let outcome = outcome?;
        flow.extend(table.flow);
        flow.extend(outcome.flow);
        done = (done.0 + outcome.tasks, done.1 + outcome.resumed);
        let mut manifest = manifest(plan, phase, input, outcome.shards, &flow)?;
        if let Sink::Output { .. } = phase.sink {
            let imported: Vec<(&str, &Path)> = claimed
                .imported
                .iter()
                .map(|source| (source.name.as_str(), source.path.as_path()))
                .collect();
            manifest.lineage.set_aside = quarantine::carry(&staging.dataset(&key), &imported)?;
        }
        staged.push(Dataset::open(&staging.seal(&key, &manifest)?)?);
    }
    Ok(Work {
        datasets: staged,
        flow,
        tasks: done,
        clock,
    })
}

/// Learns the models that a pipeline ends with; what the stages before have changed is staged beside the last of them.
fn only_models(
    plan: &Plan,
    phases: &[Phase],
    path: &Path,
    sources: &[Input],
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let mut any = false;
    for lesson in lessons(phases) {
        any |= missing(lesson, options)?;
    }
    if !any {
        report.models.extend(lessons(phases).map(Model::found));
        return Ok(());
    }
    let staging = claim(path, phases, sources, options)?;
    let claimed = bring(sources, &staging, options, report)?;
    carry_out(plan, phases, &claimed, &staging, options, report)?;
    staging.discard()
}

fn lessons(phases: &[Phase]) -> impl Iterator<Item = &Lesson> {
    phases
        .iter()
        .flat_map(|phase| &phase.lessons)
        .map(|placed| &placed.part)
}

/// Whether the model is still to be learnt.
fn missing(lesson: &Lesson, options: &Options) -> Result<bool> {
    let path = lesson.path.display();
    match existing_model(&lesson.path)? {
        Existing::Nothing => Ok(true),
        Existing::Result { key, .. } if key == lesson.fingerprint.key() => Ok(options.fresh),
        Existing::Result { .. } if lesson.training.overwrite => Ok(true),
        Existing::Result { inputs, .. } => {
            let changes = lesson.fingerprint.changes_since(&inputs);
            let message = format!(
                "{path} exists and was learnt otherwise:\n    {}",
                changes.join("\n    ")
            );
            Err(Error::failed(message).hint("remove it, write to another path, or give `train_idm` the option `overwrite: true`"))
        }
        Existing::Foreign => Err(Error::failed(format!(
            "{path} exists and was not learnt by `train_idm`"
        ))
        .hint("write to another path, or remove it yourself")),
    }
}

/// Learns a model, or finds it where it was learnt.
fn learn(
    placed: &Placed<Lesson>,
    sources: &[Dataset],
    options: &Options,
    clock: &Clock,
) -> Result<Model> {
    let lesson = &placed.part;
    if !missing(lesson, options)? {
        return Ok(Model::found(lesson));
    }
    let fitted = exec::learn(
        placed,
        sources,
        options.threads,
        clock,
        &Learning { lesson, options },
    );
    options.watch.end();
    let fitted = fitted?;
    publish_model(lesson, &fitted)?;
    let summary = match lesson.device {
        train::Device::Cpu => fitted.report.summary(),
        device => format!("{}; learnt on {device}", fitted.report.summary()),
    };
    Ok(Model {
        path: lesson.path.clone(),
        reused: false,
        summary,
    })
}

/// Tells the run's watch of the learning.
struct Learning<'a> {
    lesson: &'a Lesson,
    options: &'a Options<'a>,
}

impl train::Watch for Learning<'_> {
    fn begin(&self, updates: u64) {
        self.options.watch.learn(&self.lesson.training.out, updates);
    }

    fn advance(&self, updates: u64, losses: Option<(f64, f64)>) {
        self.options.watch.advance(updates);
        if let Some((training, validation)) = losses {
            self.options.watch.losses(training, validation);
        }
    }

    fn interrupted(&self) -> bool {
        self.options.interrupted.load(Ordering::Relaxed)
    }
}

/// What the sources said of themselves: of one verbatim, of several under their names.
fn said(sources: &[Dataset]) -> serde_json::Map<String, Value> {
    let said = |source: &Dataset| source.manifest.lineage.source_metadata.clone();
    match sources {
        [one] => said(one),
        several => {
            let named = several
                .iter()
                .map(|source| (source.name.clone(), Value::Object(said(source))));
            named
                .filter(|(_, said)| said.as_object().is_some_and(|said| !said.is_empty()))
                .collect()
        }
    }
}

fn reused(
    plan: &Plan,
    path: &Path,
    wanted: &Materialise,
    fingerprint: &plan::Fingerprint,
) -> Result<Output> {
    // A run that was killed between publishing and tidying up left its staging directory.
    if layout::staging(path).exists()
        && let Ok(staging) = Staging::claim(path, &[])
    {
        staging.discard()?;
    }
    let dataset = wanted
        .foreign()?
        .is_none()
        .then(|| Dataset::open(path))
        .transpose()?;
    if let Some(dataset) = &dataset {
        dataset.check_lengths().map_err(|error| {
            Error {
                hints: Vec::new(),
                ..error
            }
            .hint("run with --fresh to make it again")
        })?;
    }
    Ok(Output {
        path: path.to_owned(),
        reused: true,
        manifest: dataset.as_ref().map(|dataset| dataset.hash.clone()),
        statistics: dataset
            .as_ref()
            .map(|dataset| dataset.manifest.statistics.clone())
            .unwrap_or_default(),
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

fn manifest(
    plan: &Plan,
    phase: &Phase,
    input: &[Dataset],
    shards: Vec<crate::dataset::ShardEntry>,
    flow: &[Flow],
) -> Result<Manifest> {
    let mut statistics = Statistics::default();
    shards
        .iter()
        .for_each(|shard| statistics.add(&shard.statistics));
    let stages = flow
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<_>, _>>();
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
            stages: stages
                .map_err(|error| Error::failed(format!("cannot keep the counts: {error}")))?,
            runtime: runtime(plan),
            source_metadata: said(input),
            set_aside: 0,
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
        &crate::query::Options {
            threads: options.threads,
            memory: options.memory,
            ..Default::default()
        },
    )?;
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    for check in &phase.checks {
        for (table, predicate) in check.predicates() {
            if !session.check(table, predicate)? {
                let list = if check.warns() {
                    &mut warnings
                } else {
                    &mut failures
                };
                list.push(format!("{table}: {predicate}"));
            }
        }
    }
    if failures.is_empty() {
        return Ok(warnings);
    }
    let message = format!(
        "{} of the checks did not hold, and nothing was published:\n    {}",
        failures.len(),
        failures.join("\n    ")
    );
    Err(Error {
        kind: Kind::Checks,
        ..Error::failed(message)
    })
}
