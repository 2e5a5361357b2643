//! Runs a phase: one task for each output shard, on rayon threads.
//!
//! A task reads its trajectories in blocks, sends each block through the transforms and writes one
//! shard. Tasks share nothing but the sessions of models, so reading, inference and writing of
//! different tasks overlap. Memory is that of the tasks in flight, whose number is bounded by the
//! threads and by the memory budget, not by the corpus. What a task writes depends on the task
//! alone, so the bytes do not depend on threads, timing, or a resume.

mod blocks;
mod clock;
mod flow;
mod lazy;
mod pull;
mod runs;
mod selection;
mod shard;
mod tasks;
mod train;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::datatypes::{Schema, SchemaRef};
use rayon::prelude::*;

use crate::commit::{Finished, Journal};
use crate::dataset::{Dataset, ShardEntry, schema, store};
use crate::error::{Error, Result, caught};
use crate::plan::{Phase, Planned};
use crate::stage::{Facts, Transform};

use lazy::Lazy;
use pull::Pull;

pub use blocks::Readers;
pub(crate) use clock::Clock;
pub use flow::Flow;
pub(crate) use lazy::with_frames;
pub use selection::Piece;
pub(crate) use selection::{SelectionTable, select};
pub use tasks::Task;
pub(crate) use tasks::cut;
pub(crate) use train::train;

/// The resources that a phase may use. They change no byte of its result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The number of worker threads.
    pub threads: usize,
    /// The bytes that the tasks in flight may use together; `None` for as many tasks as threads.
    pub memory: Option<usize>,
}

/// Watches a running phase and stops it. A watcher changes no byte of the result.
pub(crate) struct Watcher<'a> {
    /// Set when the user wants the run to stop.
    pub interrupted: &'a AtomicBool,
    /// Called with the number of rows that a task has finished since the last call.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Measures what the workers spend their time on.
    pub clock: &'a Clock,
}

/// The tasks of a phase and everything that they depend on, as plain data.
pub(crate) struct PhaseTasks<'a> {
    /// The phase.
    pub phase: &'a Phase,
    /// The datasets that it reads.
    pub sources: &'a [Dataset],
    /// The trajectories that it keeps.
    pub table: &'a SelectionTable,
    /// All its tasks.
    pub tasks: &'a [Task],
}

/// What a phase did.
pub(crate) struct Outcome {
    /// The columns of steps that were written.
    pub steps: SchemaRef,
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
    /// The paths of the videos that rows refer to.
    pub videos: BTreeSet<String>,
    /// The rows and trajectories that went through each transform, in order.
    pub flow: Vec<Flow>,
    /// The number of tasks that an earlier run had finished.
    pub resumed: usize,
    /// The number of tasks.
    pub tasks: usize,
}

/// Returns the number of tasks in flight: the number of threads, or fewer if the memory budget
/// holds fewer.
///
/// A task holds a block as it was read, the same block transformed, and the row group that is being
/// encoded. What is read may be wider than what is written, such as the frames of videos. A phase
/// that shows frames to models has one task in flight, which uses all threads itself.
fn concurrency(limits: Limits, phase: &Phase, sources: &[Dataset]) -> usize {
    if shows_frames(phase) {
        return 1;
    }
    let lazy = Lazy::of(sources.iter());
    let bytes = |steps: &Schema, rows: usize| rows * schema::row_bytes(steps);
    let read = |source: &Dataset| {
        let steps = lazy.read(&source.steps, phase);
        let fields = steps.fields().iter();
        let fields = fields.filter(|field| phase.reads.contains(field.name()));
        let columns = Schema::new(fields.cloned().collect::<Vec<_>>());
        bytes(&columns, schema::block_rows(&steps))
    };
    let written = bytes(&phase.steps, schema::block_rows(&phase.steps));
    let block = sources.iter().map(read).fold(written, usize::max);
    let fits = limits
        .memory
        .map_or(limits.threads, |memory| memory / (block * 4).max(1));
    limits.threads.min(fits).max(1)
}

/// Whether a transform of `phase` asks for frames.
fn shows_frames(phase: &Phase) -> bool {
    phase
        .transforms
        .iter()
        .any(|planned| !planned.part.pulls().is_empty())
}

/// Returns the number of threads that run the models of `phase` at once.
pub(crate) fn workers(limits: Limits, phase: &Phase, sources: &[Dataset]) -> usize {
    if shows_frames(phase) {
        limits.threads
    } else {
        concurrency(limits, phase, sources)
    }
}

/// Prepares the transforms of `phase` for `workers` threads: loads models, and fails if one cannot
/// run.
///
/// # Errors
/// Returns an error that names the stage if a transform cannot be prepared.
pub(crate) fn prepare(phase: &Phase, workers: usize) -> Result<()> {
    for planned in &phase.transforms {
        planned
            .part
            .prepare(workers)
            .map_err(|error| error.at(format!("stage `{}`", planned.name)))?;
    }
    Ok(())
}

/// Completes the transforms of `phase` with the facts that the selections of their stages found.
fn with_facts(phase: &Phase, table: &SelectionTable) -> Result<Vec<Planned<Arc<dyn Transform>>>> {
    let complete = |planned: &Planned<Arc<dyn Transform>>| {
        let own = table.flow.iter().filter(|flow| flow.index == planned.index);
        let facts: Facts = own.flat_map(|flow| flow.facts.clone()).collect();
        let part = planned
            .part
            .with_facts(&facts)
            .map_err(|error| error.at(format!("stage `{}`", planned.name)))?;
        Ok(Planned {
            index: planned.index,
            name: planned.name.clone(),
            ahead_of: planned.ahead_of.clone(),
            part: part.unwrap_or_else(|| Arc::clone(&planned.part)),
        })
    };
    phase.transforms.iter().map(complete).collect()
}

/// Runs the tasks of a phase that `journal` does not list as finished, and writes their shards into
/// the directory `dataset`.
///
/// # Errors
/// Returns the first failure of a task, after the tasks in flight have ended. The journal lists
/// what is finished.
pub(crate) fn run(
    phase_tasks: &PhaseTasks,
    dataset: &Path,
    mut journal: Journal,
    limits: Limits,
    watcher: &Watcher,
) -> Result<Outcome> {
    let PhaseTasks { phase, tasks, .. } = *phase_tasks;
    let pending: Vec<&Task> = tasks
        .iter()
        .filter(|task| !journal.finished.contains_key(&task.index))
        .collect();
    let resumed = tasks.len() - pending.len();
    let done: u64 = tasks
        .iter()
        .filter(|task| journal.finished.contains_key(&task.index))
        .map(task_rows)
        .sum();
    (watcher.progress)(done);
    let sources = phase_tasks.sources;
    let tasks_at_once = concurrency(limits, phase, sources);
    if !pending.is_empty() {
        prepare(phase, workers(limits, phase, sources))?;
    }
    let workers = tasks_at_once;
    let transforms = with_facts(phase, phase_tasks.table)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(workers)
        .build()
        .map_err(|error| Error::failed(format!("cannot start {workers} threads: {error}")))?;
    let lazy = Lazy::of(sources.iter());
    let mut readers = Readers::new(sources);
    if let Some(first) = sources
        .first()
        .filter(|_| !lazy.is_empty() || shows_frames(phase))
    {
        let pull = Pull::new(sources, limits.threads, limits.memory);
        readers = readers.with_frames(lazy.read(&first.steps, phase), Arc::new(pull));
    }
    let steps = lazy.written(phase, sources);
    let writer = shard::Writer {
        phase,
        steps: &steps,
        table: phase_tasks.table,
        transforms: &transforms,
        readers,
        lazy: &lazy,
        dataset,
    };
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    let shared = Mutex::new((&mut journal, None::<Error>));
    let fail = |error: Error| {
        stop.store(true, Ordering::Relaxed);
        if let Ok(mut shared) = shared.lock() {
            shared.1.get_or_insert(error);
        }
    };
    let seal = |done: shard::Done| {
        store::pause();
        let recorded = done.sync().and_then(|finished| {
            shared
                .lock()
                .map_or(Ok(()), |mut shared| shared.0.record(finished))
        });
        recorded.unwrap_or_else(fail);
    };
    std::thread::scope(|scope| {
        let (written, unsealed) = crossbeam_channel::bounded(workers);
        // Syncing waits for the disk. A single worker does it itself, so that its effects keep one
        // order. Several workers leave it to a thread that does nothing else, and go on.
        let sealer = (workers > 1).then(|| scope.spawn(|| unsealed.into_iter().for_each(seal)));
        // Workers take tasks in order from one counter, so that a run that stops has finished the
        // first tasks, or nearly so.
        pool.install(|| {
            (0..workers).into_par_iter().with_max_len(1).for_each(|_| {
                while !stop.load(Ordering::Relaxed) && !watcher.interrupted.load(Ordering::Relaxed)
                {
                    let index =
                        usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(task) = pending.get(index) else {
                        return;
                    };
                    match caught(format_args!("shard {} of the result", task.index), || {
                        writer.write(task, watcher)
                    }) {
                        Ok(done) if sealer.is_none() => seal(done),
                        // The sealer ends after the last sender, so sending does not fail.
                        Ok(done) => drop(written.send(done)),
                        Err(error) => fail(error),
                    }
                }
            });
        });
        drop(written);
    });
    if let Some(error) = shared.into_inner().ok().and_then(|(_, error)| error) {
        return Err(error);
    }
    if watcher.interrupted.load(Ordering::Relaxed) {
        let message = format!(
            "interrupted with {} of {} tasks finished",
            journal.finished.len(),
            tasks.len()
        );
        return Err(Error::interrupted(message).hint("run the same command again to continue"));
    }
    outcome((phase, steps), tasks, &journal, resumed)
}

fn task_rows(task: &Task) -> u64 {
    task.pieces.iter().map(|piece| piece.rows).sum()
}

fn outcome(
    (phase, steps): (&Phase, SchemaRef),
    tasks: &[Task],
    journal: &Journal,
    resumed: usize,
) -> Result<Outcome> {
    let mut flow: Vec<Flow> = phase.transforms.iter().map(Flow::through).collect();
    let mut shards = Vec::with_capacity(tasks.len());
    let mut videos = BTreeSet::new();
    for task in tasks {
        let finished: &Finished = journal
            .finished
            .get(&task.index)
            .ok_or_else(|| Error::failed(format!("task {} did not finish", task.index)))?;
        let own: Vec<Flow> = serde_json::from_value(finished.flow.clone())
            .map_err(|error| Error::failed(format!("the journal is damaged: {error}")))?;
        flow.iter_mut()
            .zip(&own)
            .for_each(|(total, own)| total.add(own));
        shards.push(finished.shard.clone());
        videos.extend(finished.videos.iter().cloned());
    }
    Ok(Outcome {
        steps,
        shards,
        videos,
        flow,
        resumed,
        tasks: tasks.len(),
    })
}
