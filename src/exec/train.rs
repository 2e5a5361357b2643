//! Trains a model: the shards of a dataset are the corpus that [`crate::train`] reads.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use super::{Clock, Readers, Task, selection, tasks};
use crate::dataset::Dataset;
use crate::error::{Error, Result, caught};
use crate::plan::{Planned, Training};
use crate::stage::TrainIdm;
use crate::train::{Corpus, Examples, Fitted, Part, Watch, fit};

/// Shards as the pieces of a corpus.
struct Shards<'a> {
    readers: Readers<'a>,
    training: &'a TrainIdm,
    /// The tasks of each part: for training, held out, to be labelled, and all of them.
    parts: [Vec<Task>; 4],
    columns: Vec<String>,
    /// All columns of steps, which decide the size of a block.
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

/// Trains a model on all trajectories of `sources`. The number of threads changes no byte of it.
///
/// # Errors
/// Returns an error if the data cannot be read, no model can be trained on them, or the user stops
/// the run.
pub(crate) fn train(
    planned: &Planned<Training>,
    sources: &[Dataset],
    threads: usize,
    clock: &Clock,
    watch: &dyn Watch,
) -> Result<Fitted> {
    let training = &planned.part.stage;
    let table = selection::whole(TrainIdm::PARTED_BY, sources)?;
    let [recorded, held_out, unlabelled] = training.split(table.columns())?;
    let every: Vec<u32> = (0..).take(table.columns().num_rows()).collect();
    let by_shard = |rows: &Vec<u32>| tasks::by_shard(&table, rows);
    let parts = [
        by_shard(&recorded)?,
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
    clock.time(&planned.name, || {
        pool.install(|| {
            caught("training", || {
                fit(
                    &corpus,
                    &training.task,
                    &training.options,
                    planned.part.device,
                    watch,
                )
            })
        })
    })
}
