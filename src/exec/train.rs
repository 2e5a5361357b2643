//! Learns a model: the shards of a dataset as the corpus that [`crate::train`] reads.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use super::{Clock, Readers, Task, selection, tasks};
use crate::dataset::Dataset;
use crate::error::{Error, Result, caught};
use crate::plan::{Lesson, Placed};
use crate::stage::Training;
use crate::train::{Corpus, Examples, Fitted, Part, Watch, fit};

/// Shards as pieces of a corpus.
struct Shards<'a> {
    readers: Readers<'a>,
    training: &'a Training,
    /// Tasks of each part: to learn from, to hold out, to label, and of all together.
    parts: [Vec<Task>; 4],
    columns: Vec<String>,
    /// All columns of steps, for the size of a block.
    steps: SchemaRef,
}

impl Shards<'_> {
    fn part(&self, part: Part) -> &[Task] {
        let [training, validation, unlabelled, every] = &self.parts;
        match part {
            Part::Training => training,
            Part::Validation => validation,
            Part::Unlabelled => unlabelled,
            Part::Every => every,
        }
    }
}

impl Corpus for Shards<'_> {
    fn pieces(&self, part: Part) -> usize {
        self.part(part).len()
    }

    fn read(
        &self,
        part: Part,
        piece: usize,
        take: &mut dyn FnMut(Examples) -> Result<bool>,
    ) -> Result<()> {
        let Some(task) = self.part(part).get(piece) else {
            return Ok(());
        };
        for block in self.readers.blocks(task, &self.columns, &self.steps) {
            if !take(self.training.examples(&block?, part)?)? {
                break;
            }
        }
        Ok(())
    }
}

/// Learns a model from all trajectories of `sources`, on so many threads. Their number changes no byte.
///
/// # Errors
/// Where the data cannot be read or nothing can be learnt from them, or the user wants it to stop.
pub fn learn(
    placed: &Placed<Lesson>,
    sources: &[Dataset],
    threads: usize,
    clock: &Clock,
    watch: &dyn Watch,
) -> Result<Fitted> {
    let training = &placed.part.training;
    let table = selection::whole(Training::PARTED_BY, sources)?;
    let [learnt, held_out, unlabelled] = training.split(table.columns())?;
    let every: Vec<u32> = (0..).take(table.columns().num_rows()).collect();
    let by_shard = |rows: &Vec<u32>| tasks::by_shard(&table, rows);
    let parts = [
        by_shard(&learnt)?,
        by_shard(&held_out)?,
        by_shard(&unlabelled)?,
        by_shard(&every)?,
    ];
    let known = |name: &&str| {
        sources
            .first()
            .is_some_and(|source| source.steps.index_of(name).is_ok())
    };
    let columns = training
        .reads()
        .into_iter()
        .filter(known)
        .map(str::to_owned)
        .collect();
    let steps = sources.first().map_or_else(
        || Arc::new(Schema::empty()),
        |source| Arc::clone(&source.steps),
    );
    let corpus = Shards {
        readers: Readers::new(sources),
        training,
        parts,
        columns,
        steps,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool =
        pool.map_err(|error| Error::failed(format!("cannot start {threads} threads: {error}")))?;
    clock.time(&placed.name, || {
        pool.install(|| {
            caught("learning", || {
                fit(
                    &corpus,
                    &training.task,
                    &training.options,
                    placed.part.device,
                    watch,
                )
            })
        })
    })
}
