//! One task: its trajectories through the transforms into one shard.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int32Type};

use super::{Clock, Flow, Readers, SelectionTable, Setting, Task};
use crate::commit::Finished;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::write::{ClosedShard, ShardWriter};
use crate::dataset::{Block, layout, store};
use crate::error::{Error, Result};
use crate::plan::{COPY, Phase};
use crate::stage::Tally;

/// A task whose shard is written, though not durable yet.
pub(super) struct Done {
    task: usize,
    shard: ClosedShard,
    flow: Vec<Flow>,
}

impl Done {
    /// Makes the shard durable: what the journal may then say.
    pub(super) fn sync(self) -> Result<Finished> {
        let shard = self.shard.sync()?;
        let flow = serde_json::to_value(self.flow)
            .map_err(|error| Error::failed(format!("cannot keep the counts: {error}")))?;
        Ok(Finished {
            task: self.task,
            shard,
            flow,
        })
    }
}

/// Runs `task` and writes its shard into `dataset`.
pub(super) fn run(
    task: &Task,
    phase: &Phase,
    table: &SelectionTable,
    readers: &Readers,
    dataset: &Path,
    setting: &Setting,
) -> Result<Done> {
    // What a killed run left of this shard is not in the journal.
    store::remove(&dataset.join(layout::steps(task.index)))?;
    store::remove(&dataset.join(layout::trajectories(task.index)))?;
    let splits = phase
        .transforms
        .iter()
        .any(|placed| placed.part.changes().splits);
    let sorted = table.sorted && !splits;
    let mut writer =
        ShardWriter::create(dataset, task.index, &phase.steps, &phase.carried, sorted)?;
    let mut flow: Vec<Flow> = phase
        .transforms
        .iter()
        .map(|placed| Flow {
            stage: placed.name.clone(),
            index: placed.index,
            ..Flow::default()
        })
        .collect();
    let clock = setting.clock;
    let mut blocks = readers.blocks(task, &phase.reads, &phase.steps);
    while let Some(block) = clock.time("read", || blocks.next()) {
        store::pause();
        let block = block?;
        let rows = block.steps.num_rows() as u64;
        let block = transform(block, phase, table.stride, &mut flow, clock)?;
        if !block.is_empty() {
            clock.time("write", || writer.write(&block))?;
        }
        (setting.progress)(rows);
    }
    store::pause();
    let shard = clock.time("write", || writer.close())?;
    Ok(Done {
        task: task.index,
        shard,
        flow,
    })
}

fn transform(
    mut block: Block,
    phase: &Phase,
    stride: i64,
    flow: &mut [Flow],
    clock: &Clock,
) -> Result<Block> {
    for (placed, flow) in phase.transforms.iter().zip(flow) {
        let mut tally = Tally::default();
        let (rows, trajectories) = (block.steps.num_rows() as u64, block.len() as u64);
        block = clock
            .time(&placed.name, || placed.part.apply(block, &mut tally))
            .map_err(|error| error.at(format!("stage `{}`", placed.name)))?;
        if placed.part.changes().splits {
            block = renumber(block, stride)?;
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

/// Gives the trajectories that a transform cut from one another ids of their own.
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
                "trajectory {id} was cut into so many that they run out of ids"
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
