//! Columns of `trajectories` that datasets of older versions lack, computed when they are read.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};

use super::block::with_column;
use super::schema::{step, trajectory};
use super::{Dataset, ShardEntry};
use crate::error::{Error, Result};

/// The columns of `trajectories` that [`with_has_actions`] reads.
const READS: [&str; 4] = [
    trajectory::LENGTH,
    trajectory::LABELLED,
    trajectory::FIRST_ROW,
    trajectory::ROWS,
];

/// Number of rows of steps that are read at once.
const ROWS_AT_ONCE: u64 = 1 << 16;

/// Returns whether the trajectories of `dataset` lack the column `has_actions`.
pub(crate) fn lacks_has_actions(dataset: &Dataset) -> bool {
    dataset
        .trajectories
        .index_of(trajectory::HAS_ACTIONS)
        .is_err()
}

/// Returns the column `has_actions` without its values.
pub(crate) fn has_actions() -> Field {
    Field::new(trajectory::HAS_ACTIONS, DataType::Boolean, false)
}

/// Returns the columns of the trajectories of a shard that `names` names, as far as there are such
/// columns. `has_actions` is among them, even if an older version wrote the shard.
///
/// # Errors
/// Returns an error if a file is damaged.
pub(crate) fn trajectories(
    dataset: &Dataset,
    entry: &ShardEntry,
    names: &[String],
) -> Result<RecordBatch> {
    let reader = dataset.open_trajectories(entry)?;
    let present: Vec<String> = names
        .iter()
        .filter(|name| dataset.trajectories.index_of(name).is_ok())
        .cloned()
        .collect();
    let table =
        |columns: &[String]| reader.read(std::slice::from_ref(&(0..reader.rows())), Some(columns));
    let asked = names.iter().any(|name| name == trajectory::HAS_ACTIONS);
    if !asked || !lacks_has_actions(dataset) {
        return table(&present);
    }
    let mut more = present.clone();
    let needed = READS.map(str::to_owned);
    more.extend(needed.into_iter().filter(|name| !present.contains(name)));
    let table = with_has_actions(dataset, entry, &table(&more)?)?;
    let kept = names
        .iter()
        .filter_map(|name| table.schema().index_of(name).ok());
    Ok(table.project(&kept.collect::<Vec<_>>())?)
}

/// Returns the trajectories of a shard, which has no column `has_actions`, with that column. It
/// reads actions only if the totals of the shard do not tell.
///
/// # Errors
/// Returns an error if a file is damaged.
fn with_has_actions(
    dataset: &Dataset,
    entry: &ShardEntry,
    table: &RecordBatch,
) -> Result<RecordBatch> {
    let missing = |name: &str| Error::failed(format!("`trajectories` has no column `{name}`"));
    let total = &entry.statistics;
    let whole: ArrayRef = if total.missing_actions() == 0 {
        Arc::new(BooleanArray::from(vec![true; table.num_rows()]))
    } else if total.actions() == total.recorded_actions {
        let labelled = table.column_by_name(trajectory::LABELLED);
        Arc::clone(labelled.ok_or_else(|| missing(trajectory::LABELLED))?)
    } else {
        let column = |name: &str| {
            let column = table.column_by_name(name);
            column
                .and_then(|column| column.as_primitive_opt::<Int64Type>())
                .ok_or_else(|| missing(name))
        };
        let lengths = column(trajectory::LENGTH)?.values();
        let rows = column(trajectory::ROWS)?.values();
        let spans = column(trajectory::FIRST_ROW)?.values().iter().zip(rows);
        let spans = spans.map(|(first, rows)| first.unsigned_abs()..(first + rows).unsigned_abs());
        let counts = actions(dataset, entry, &spans.collect::<Vec<_>>())?;
        let whole = counts.iter().zip(lengths);
        Arc::new(BooleanArray::from_iter(whole.map(|(actions, length)| {
            Some(*actions == length.unsigned_abs())
        })))
    };
    with_column(table, has_actions(), whole)
}

/// Returns the number of actions in each range of rows.
fn actions(dataset: &Dataset, entry: &ShardEntry, spans: &[Range<u64>]) -> Result<Vec<u64>> {
    let reader = dataset.open_steps(entry)?;
    let column = [step::ACTION.to_owned()];
    let count = |span: &Range<u64>| {
        let mut actions = 0;
        for start in (span.start..span.end).step_by(ROWS_AT_ONCE as usize) {
            let part = start..span.end.min(start + ROWS_AT_ONCE);
            let steps = reader.read(std::slice::from_ref(&part), Some(&column))?;
            let action = steps.column(0);
            actions += (action.len() - action.null_count()) as u64;
        }
        Ok(actions)
    };
    spans.iter().map(count).collect()
}
