//! Cuts trajectories into pieces. Each piece is a trajectory of its own, with the id and the step
//! that it was cut from.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt64Array,
};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};

use super::columns::everything;
use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::stage::{Changes, Tally};

/// Column of a block's trajectories, int32: the number of a piece within its trajectory, from 0.
pub(crate) const COPY: &str = "__copy";
/// Column of trajectories: the id of the trajectory that a piece was cut from.
pub(in crate::stage) const PARENT_ID: &str = "parent_id";
/// Column of trajectories: the step at which a piece begins in that trajectory.
pub(in crate::stage) const PARENT_STEP: &str = "parent_step";

/// Columns of steps that cutting reads.
pub(in crate::stage) const READS: [&str; 4] = [
    step::STEP,
    step::TERMINATED,
    step::TRUNCATED,
    step::IS_FINAL,
];

/// Returns the columns that cutting adds to trajectories.
pub(in crate::stage) fn fields() -> [Field; 2] {
    [
        Field::new(PARENT_ID, DataType::Int64, false),
        Field::new(PARENT_STEP, DataType::Int32, false),
    ]
}

/// Returns what cutting changes.
pub(in crate::stage) fn changes() -> Changes {
    Changes {
        trajectories: everything(&[PARENT_ID, PARENT_STEP]),
        rows: true,
        splits: true,
    }
}

/// A run of kept rows.
pub(in crate::stage) struct Run {
    /// Index of the trajectory in the block.
    pub(in crate::stage) parent: usize,
    /// Number of the run within that trajectory, from 0.
    pub(in crate::stage) copy: i32,
    /// First row.
    pub(in crate::stage) start: usize,
    /// One past the last row, which may be the final observation.
    pub(in crate::stage) end: usize,
    /// The last step of the run, if its trajectory goes on after it.
    pub(in crate::stage) cut_after: Option<usize>,
}

fn runs(block: &Block, holds: &BooleanArray) -> Result<Vec<Run>> {
    let is_final = block.is_final()?;
    let mut runs = Vec::new();
    for (parent, span) in block.spans().enumerate() {
        let steps = span.clone().filter(|row| !is_final.value(*row)).count();
        let last = span.start + steps;
        let (mut row, mut copy) = (span.start, 0);
        while row < last {
            if !holds.value(row) {
                row += 1;
                continue;
            }
            let start = row;
            while row < last && holds.value(row) {
                row += 1;
            }
            let whole = row == last;
            runs.push(Run {
                parent,
                copy,
                start,
                end: if whole { span.end } else { row },
                cut_after: (!whole).then(|| row - 1),
            });
            copy += 1;
        }
    }
    Ok(runs)
}

/// Returns the runs of steps for which `holds` is true, each as a trajectory of its own. Of the
/// other rows, each of `others` names a reason and the number of steps that are dropped for it; the
/// rest is dropped for `reason`.
pub(in crate::stage) fn cut(
    block: Block,
    holds: &BooleanArray,
    others: &[(&str, u64)],
    reason: &str,
    tally: &mut Tally,
) -> Result<Block> {
    let runs = runs(&block, holds)?;
    let kept: usize = runs.iter().map(|run| run.end - run.start).sum();
    let survivors = runs.iter().filter(|run| run.copy == 0).count();
    let dropped = (block.steps.num_rows() - kept) as u64;
    let known: u64 = others.iter().map(|(_, rows)| *rows).sum();
    others
        .iter()
        .for_each(|(reason, rows)| tally.drop_rows(reason, *rows));
    tally.drop_rows(reason, dropped.saturating_sub(known));
    tally.drop_trajectories("no step is left", (block.len() - survivors) as u64);
    tally.count(
        "trajectories cut out of others",
        (runs.len() - survivors) as u64,
    );
    pieces(&block, &runs)
}

/// Returns each run as a trajectory, with steps numbered from 0. The last step is truncated if the
/// run's trajectory goes on after it. `parent_id` and `parent_step` refer to the trajectory as it
/// was before any cut.
pub(in crate::stage) fn pieces(block: &Block, runs: &[Run]) -> Result<Block> {
    let kept: usize = runs.iter().map(|run| run.end - run.start).sum();
    let rows =
        UInt64Array::from_iter_values(runs.iter().flat_map(|run| run.start as u64..run.end as u64));
    let whole = kept == block.steps.num_rows() && runs.is_sorted_by_key(|run| run.start);
    let steps = if whole {
        block.steps.clone()
    } else {
        take_record_batch(&block.steps, &rows)?
    };
    let number = block
        .steps
        .column_by_name(step::STEP)
        .and_then(|column| column.as_primitive_opt::<Int32Type>());
    let number = number.ok_or_else(|| Error::failed("`step` is not an int32 column"))?;
    let first: Vec<i32> = runs.iter().map(|run| number.value(run.start)).collect();
    let renumbered = runs
        .iter()
        .zip(&first)
        .flat_map(|(run, first)| (run.start..run.end).map(move |row| number.value(row) - first));
    let renumbered: ArrayRef = Arc::new(Int32Array::from_iter_values(renumbered));

    let flag = |name: &str| {
        let column = block
            .steps
            .column_by_name(name)
            .and_then(|column| column.as_boolean_opt());
        column.ok_or_else(|| Error::failed(format!("`{name}` is not a boolean column of steps")))
    };
    let (terminated, truncated) = (flag(step::TERMINATED)?, flag(step::TRUNCATED)?);
    let ends = |row: usize, run: &Run| {
        truncated.value(row) || (run.cut_after == Some(row) && !terminated.value(row))
    };
    let truncated: Vec<bool> = runs
        .iter()
        .flat_map(|run| (run.start..run.end).map(move |row| ends(row, run)))
        .collect();

    // A piece of a piece refers to the trajectory that was first cut.
    let parents = UInt64Array::from_iter_values(runs.iter().map(|run| run.parent as u64));
    let carried = block
        .trajectories
        .column_by_name(PARENT_ID)
        .and_then(|column| column.as_primitive_opt::<Int64Type>());
    let began = block
        .trajectories
        .column_by_name(PARENT_STEP)
        .and_then(|column| column.as_primitive_opt::<Int32Type>());
    let ids = block.ids()?;
    let parent = |index: usize| match (carried, began) {
        (Some(ids), Some(began)) if ids.is_valid(index) && began.is_valid(index) => {
            (ids.value(index), began.value(index))
        }
        _ => (ids[index], 0),
    };
    let parent_id = Int64Array::from_iter_values(runs.iter().map(|run| parent(run.parent).0));
    let parent_step = Int32Array::from_iter_values(
        runs.iter()
            .zip(&first)
            .map(|(run, first)| parent(run.parent).1 + first),
    );
    let copy = Int32Array::from_iter_values(runs.iter().map(|run| run.copy));
    let columns = block
        .trajectories
        .columns()
        .iter()
        .map(|column| take(column, &parents, None))
        .collect::<Result<Vec<_>, _>>()?;
    let trajectories = RecordBatch::try_new(block.trajectories.schema(), columns)?;

    let offsets = runs.iter().scan(0, |end, run| {
        *end += run.end - run.start;
        Some(*end)
    });
    let mut cut = Block::new(
        steps,
        trajectories,
        std::iter::once(0).chain(offsets).collect(),
    );
    let field = |name: &str| block.steps.schema().field_with_name(name).cloned();
    cut = cut.with_step_column(field(step::STEP)?, renumbered)?;
    cut = cut.with_step_column(
        field(step::TRUNCATED)?,
        Arc::new(BooleanArray::from(truncated)),
    )?;
    cut = cut.with_trajectory_column(
        Field::new(PARENT_ID, DataType::Int64, false),
        Arc::new(parent_id),
    )?;
    cut = cut.with_trajectory_column(
        Field::new(PARENT_STEP, DataType::Int32, false),
        Arc::new(parent_step),
    )?;
    cut.with_trajectory_column(Field::new(COPY, DataType::Int32, false), Arc::new(copy))
}
