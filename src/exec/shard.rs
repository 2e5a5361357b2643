//! Runs one task: its trajectories go through the transforms into one shard.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef};

use super::lazy::{Decoder, Lazy, Piece};
use super::{Clock, Flow, Readers, SelectionTable, Task, Watcher};
use crate::commit::Finished;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::videos::refers;
use crate::dataset::write::{ClosedShard, ShardWriter};
use crate::dataset::{Block, layout, store};
use crate::error::{Error, Result};
use crate::plan::{Phase, Planned};
use crate::stage::{COPY, Tally, Transform};

/// A task whose shard is written but not yet durable.
pub(super) struct Done {
    task: usize,
    shard: ClosedShard,
    flow: Vec<Flow>,
    videos: BTreeSet<String>,
}

impl Done {
    /// Makes the shard durable, and returns what the journal may then list.
    pub(super) fn sync(self) -> Result<Finished> {
        let shard = self.shard.sync()?;
        let flow = serde_json::to_value(self.flow)
            .map_err(|error| Error::failed(format!("cannot write the counts: {error}")))?;
        Ok(Finished {
            task: self.task,
            shard,
            flow,
            videos: self.videos,
        })
    }
}

/// What all tasks of a phase share.
pub(super) struct Writer<'a> {
    pub(super) phase: &'a Phase,
    /// The columns of steps that are written.
    pub(super) steps: &'a SchemaRef,
    pub(super) table: &'a SelectionTable,
    /// The transforms of the phase, completed with facts.
    pub(super) transforms: &'a [Planned<Arc<dyn Transform>>],
    pub(super) readers: Readers<'a>,
    /// The columns that are decoded where their values are needed.
    pub(super) lazy: &'a Lazy,
    /// The directory of the result.
    pub(super) dataset: &'a Path,
}

impl Writer<'_> {
    /// Runs `task` and writes its shard.
    pub(super) fn write(&self, task: &Task, watcher: &Watcher) -> Result<Done> {
        // A killed run may have left files of this shard that the journal does not list.
        store::remove(&self.dataset.join(layout::steps(task.index)))?;
        store::remove(&self.dataset.join(layout::trajectories(task.index)))?;
        let mut splits = self.transforms.iter();
        let splits = splits.any(|planned| planned.part.changes().splits);
        let (steps, carried) = (self.steps, &self.phase.carried);
        let sorted = self.table.sorted && !splits;
        let mut writer = ShardWriter::create(self.dataset, task.index, steps, carried, sorted)?;
        let mut flow: Vec<Flow> = self.transforms.iter().map(Flow::through).collect();
        let clock = watcher.clock;
        let written = self.lazy.read(&self.phase.steps, self.phase);
        let mut blocks = self.readers.blocks(task, &self.phase.reads, &written);
        let mut decoder = self.lazy.decoder(self.readers.sources());
        let is_written = |name: &String| {
            let field = steps.field_with_name(name);
            field.is_ok_and(|field| !refers(field))
        };
        while let Some(block) = clock.time("read", || blocks.next()) {
            store::pause();
            let block = block?;
            let rows = block.steps.num_rows() as u64;
            let block = self.transform(block, &mut decoder, &mut flow, clock)?;
            for piece in self.lazy.pieces(block, steps) {
                let mut decoded = |block| clock.time("read", || decoder.decoded(block, is_written));
                match piece {
                    Piece::Whole(block) if block.is_empty() => (),
                    Piece::Whole(block) => {
                        let block = decoded(block)?;
                        clock.time("write", || writer.write(&block))?;
                    }
                    Piece::Long(block) => {
                        let part = |rows| Ok(decoded(block.part(rows))?.steps);
                        clock.time("write", || writer.write_in_parts(&block, part))?;
                    }
                }
            }
            (watcher.progress)(rows);
        }
        store::pause();
        let videos = writer.videos().clone();
        let shard = clock.time("write", || writer.close())?;
        Ok(Done {
            task: task.index,
            shard,
            flow,
            videos,
        })
    }

    fn transform(
        &self,
        mut block: Block,
        decoder: &mut Decoder,
        flow: &mut [Flow],
        clock: &Clock,
    ) -> Result<Block> {
        for (planned, flow) in self.transforms.iter().zip(flow) {
            let mut tally = Tally::default();
            let (rows, trajectories) = (block.steps.num_rows() as u64, block.len() as u64);
            if !self.lazy.is_empty() {
                let (reads, pulls) = (planned.part.reads(), planned.part.pulls());
                let wanted = |name: &String| {
                    !pulls.contains(name) && reads.as_ref().is_none_or(|reads| reads.contains(name))
                };
                block = clock.time("read", || decoder.decoded(block, wanted))?;
            }
            block.frames = self.readers.frames();
            block = clock
                .time(&planned.name, || planned.part.apply(block, &mut tally))
                .map_err(|error| error.at(format!("stage `{}`", planned.name)))?;
            if planned.part.changes().splits {
                block = renumber(block, self.table.stride)?;
            }
            flow.add(&Flow {
                rows_in: rows,
                rows_out: block.steps.num_rows() as u64,
                trajectories_in: trajectories,
                trajectories_out: block.len() as u64,
                tally,
                ..Flow::default()
            });
        }
        Ok(block)
    }
}

/// Gives each piece of a trajectory that a transform cut an id of its own.
fn renumber(block: Block, stride: i64) -> Result<Block> {
    let Some(copies) = block
        .trajectories
        .column_by_name(COPY)
        .and_then(|column| column.as_primitive_opt::<Int32Type>())
    else {
        return Ok(block);
    };
    let id = |(id, copy): (&i64, &i32)| {
        let new = i64::from(*copy)
            .checked_mul(stride)
            .and_then(|offset| offset.checked_add(*id));
        new.ok_or_else(|| {
            Error::failed(format!(
                "trajectory {id} is cut too often: its pieces run out of ids"
            ))
        })
    };
    let ids = block
        .ids()?
        .iter()
        .zip(copies.values())
        .map(id)
        .collect::<Result<Vec<_>>>()?;
    let mut trajectories = block.trajectories.clone();
    trajectories.remove_column(trajectories.schema().index_of(COPY)?);
    let block = Block {
        trajectories,
        ..block
    };
    let rows: Int64Array = block
        .spans()
        .zip(&ids)
        .flat_map(|(span, id)| std::iter::repeat_n(*id, span.len()))
        .collect();
    block
        .with_step_column(
            Field::new(step::TRAJECTORY_ID, DataType::Int64, false),
            Arc::new(rows),
        )?
        .with_trajectory_column(
            Field::new(trajectory::TRAJECTORY_ID, DataType::Int64, false),
            Arc::new(Int64Array::from(ids)),
        )
}
