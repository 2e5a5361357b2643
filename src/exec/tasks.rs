//! Cuts the table of selected trajectories into tasks, one for each output shard.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use super::selection::{Piece, SelectionTable};
use crate::error::Result;

/// The work for one output shard: which trajectories it holds, and where they lie. A task is plain
/// data.
#[derive(Debug, Clone)]
pub struct Task {
    /// The index of the output shard.
    pub index: usize,
    /// The trajectories, in output order.
    pub pieces: Vec<Piece>,
    /// The columns that selections computed, with one row for each trajectory.
    pub computed: RecordBatch,
}

/// Returns a task for each shard that holds any of the `rows` of `table`, in the order of the
/// shards.
///
/// # Errors
/// Returns an error if the table does not say where its trajectories lie.
pub(super) fn by_shard(table: &SelectionTable, rows: &[u32]) -> Result<Vec<Task>> {
    let pieces = table.pieces()?;
    let mut chosen: Vec<Piece> = rows
        .iter()
        .filter_map(|row| pieces.get(*row as usize).copied())
        .collect();
    chosen.sort_unstable();
    let computed = RecordBatch::new_empty(Arc::new(Schema::empty()));
    let shards =
        chosen.chunk_by(|one, other| (one.source, one.shard) == (other.source, other.shard));
    Ok(shards
        .enumerate()
        .map(|(index, pieces)| Task {
            index,
            pieces: pieces.to_vec(),
            computed: computed.clone(),
        })
        .collect())
}

/// Cuts `table` into tasks. Each closes at the first end of a trajectory at or after `shard_rows`
/// rows. An empty table makes one task, so that an empty result is a dataset too.
///
/// # Errors
/// Returns an error if the table does not say where its trajectories lie.
pub(crate) fn cut(table: &SelectionTable, shard_rows: u64) -> Result<Vec<Task>> {
    let pieces = table.pieces()?;
    let mut tasks = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (index, piece) in pieces.iter().enumerate() {
        rows += piece.rows;
        if rows >= shard_rows || index + 1 == pieces.len() {
            let computed = table.computed.slice(start, index + 1 - start);
            tasks.push(Task {
                index: tasks.len(),
                pieces: pieces[start..=index].to_vec(),
                computed,
            });
            (start, rows) = (index + 1, 0);
        }
    }
    if tasks.is_empty() {
        tasks.push(Task {
            index: 0,
            pieces: Vec::new(),
            computed: table.computed.slice(0, 0),
        });
    }
    Ok(tasks)
}
