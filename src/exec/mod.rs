//! Runs a phase: one task per output shard, on rayon threads.
//!
//! A task reads its trajectories in blocks, sends each block through the transforms and writes one shard. Tasks share
//! nothing but the models' sessions, so decoding, inference and encoding of different tasks overlap, and memory is that
//! of the tasks in flight: their number is bounded by the threads and by the memory budget, never by the corpus. What a
//! task writes depends on the task alone, so the bytes do not depend on threads, timing, or a resume.

mod blocks;
mod clock;
mod selection;
mod shard;
mod tasks;
mod train;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::datatypes::Schema;
use rayon::prelude::*;

use crate::commit::{Finished, Journal};
use crate::dataset::{Dataset, ShardEntry, schema, store};
use crate::error::{Error, Result, caught};
use crate::plan::Phase;

pub use blocks::Readers;
pub use clock::Clock;
pub use selection::{Flow, SelectionTable, select};
pub use tasks::{Piece, Task, cut};
pub use train::learn;

/// What a phase runs with.
pub struct Setting<'a> {
    /// Worker threads.
    pub threads: usize,
    /// Bytes that the tasks in flight may use together; `None` for as many tasks as threads.
    pub memory: Option<usize>,
    /// Set where the user wants the run to stop.
    pub interrupted: &'a AtomicBool,
    /// Told of rows as they are done.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Where the workers' time is noted.
    pub clock: &'a Clock,
}

/// What a phase did.
pub struct Outcome {
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
    /// Rows and trajectories through each transform, in order.
    pub flow: Vec<Flow>,
    /// How many tasks an earlier run had finished.
    pub resumed: usize,
    /// How many tasks there were.
    pub tasks: usize,
}

/// Tasks in flight: as many as threads, fewer where the budget does not hold them. A task holds a block as read, the
/// same block transformed, and the row group being encoded. What is read may be wider than what is written: frames of videos.
pub fn concurrency<'a>(
    threads: usize,
    memory: Option<usize>,
    phase: &Phase,
    sources: impl Iterator<Item = &'a Dataset>,
) -> usize {
    let bytes = |steps: &Schema, rows: usize| rows * schema::row_bytes(steps);
    let read = |source: &Dataset| {
        let fields = source
            .steps
            .fields()
            .iter()
            .filter(|field| phase.reads.contains(field.name()))
            .cloned();
        bytes(
            &Schema::new(fields.collect::<Vec<_>>()),
            schema::block_rows(&source.steps),
        )
    };
    let block = sources.map(read).fold(
        bytes(&phase.steps, schema::block_rows(&phase.steps)),
        usize::max,
    );
    let fits = memory.map_or(threads, |memory| memory / (block * 4).max(1));
    threads.min(fits).max(1)
}

/// Gets the transforms of `phase` ready for so many workers: models are loaded, and what cannot run is an error.
///
/// # Errors
/// Where a transform cannot get ready; the message names the stage.
pub fn prepare(phase: &Phase, workers: usize) -> Result<()> {
    for placed in &phase.transforms {
        placed
            .part
            .prepare(workers)
            .map_err(|error| error.at(format!("stage `{}`", placed.name)))?;
    }
    Ok(())
}

/// Runs the tasks of `phase` that `journal` does not know as finished, writing into `dataset`.
///
/// # Errors
/// The first failure of a task, after the tasks in flight have ended; what is finished is in the journal.
pub fn run(
    phase: &Phase,
    sources: &[Dataset],
    table: &SelectionTable,
    tasks: &[Task],
    dataset: &Path,
    mut journal: Journal,
    setting: &Setting,
) -> Result<Outcome> {
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
    (setting.progress)(done);
    let workers = concurrency(setting.threads, setting.memory, phase, sources.iter());
    if !pending.is_empty() {
        prepare(phase, workers)?;
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(workers)
        .build()
        .map_err(|error| Error::failed(format!("cannot start {workers} threads: {error}")))?;
    let readers = Readers::new(sources);
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
        // Syncing waits for the disk. One worker does it itself, so that its effects keep one order; several leave it to a
        // thread that does nothing else, and go on.
        let sealer = (workers > 1).then(|| scope.spawn(|| unsealed.into_iter().for_each(seal)));
        // Workers take tasks in order from one counter, so that a stopped run has finished a prefix, or nearly so.
        pool.install(|| {
            (0..workers).into_par_iter().with_max_len(1).for_each(|_| {
                while !stop.load(Ordering::Relaxed) && !setting.interrupted.load(Ordering::Relaxed)
                {
                    let index =
                        usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(task) = pending.get(index) else {
                        return;
                    };
                    match caught(format_args!("shard {} of the result", task.index), || {
                        shard::run(task, phase, table, &readers, dataset, setting)
                    }) {
                        Ok(done) if sealer.is_none() => seal(done),
                        // The sealer takes all there is before it ends, so sending does not fail.
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
    if setting.interrupted.load(Ordering::Relaxed) {
        let message = format!(
            "interrupted with {} of {} tasks finished",
            journal.finished.len(),
            tasks.len()
        );
        return Err(
            Error::interrupted(message).hint("run the same command again to go on from there")
        );
    }
    outcome(phase, tasks, &journal, resumed)
}

fn task_rows(task: &Task) -> u64 {
    task.pieces.iter().map(|piece| piece.rows).sum()
}

fn outcome(phase: &Phase, tasks: &[Task], journal: &Journal, resumed: usize) -> Result<Outcome> {
    let mut flow: Vec<Flow> = phase
        .transforms
        .iter()
        .map(|placed| Flow {
            stage: placed.name.clone(),
            index: placed.index,
            ..Flow::default()
        })
        .collect();
    let mut shards = Vec::with_capacity(tasks.len());
    for task in tasks {
        let finished: &Finished = journal
            .finished
            .get(&task.index)
            .ok_or_else(|| Error::failed(format!("task {} did not finish", task.index)))?;
        let own: Vec<Flow> = serde_json::from_value(finished.flow.clone())
            .map_err(|error| Error::failed(format!("damaged journal: {error}")))?;
        flow.iter_mut()
            .zip(&own)
            .for_each(|(total, own)| total.add(own));
        shards.push(finished.shard.clone());
    }
    Ok(Outcome {
        shards,
        flow,
        resumed,
        tasks: tasks.len(),
    })
}
