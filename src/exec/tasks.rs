//! Cuts a selection into tasks, one per output shard.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use super::SelectionTable;
use crate::error::Result;

/// The work for one output shard: which trajectories, and where they lie. Running it needs this value and the files it
/// names, nothing else.
#[derive(Debug, Clone)]
pub struct Task {
    /// Index of the output shard.
    pub index: usize,
    /// The trajectories, in output order.
    pub pieces: Vec<Piece>,
    /// Columns that selections computed, one row per piece.
    pub planned: RecordBatch,
}

/// One trajectory of a task and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Piece {
    /// Index of the dataset.
    pub source: u32,
    /// Index of the shard in it.
    pub shard: u32,
    /// First row in the shard's steps.
    pub first_row: u64,
    /// Rows in the shard's steps.
    pub rows: u64,
    /// Row in the shard's trajectories.
    pub row: u64,
    /// Id that the trajectory has in the result.
    pub id: i64,
}

/// One task for each shard that holds any of the `rows` of `table`, in the shard's order.
///
/// # Errors
/// Where the table is not one that [`select`] or [`whole`] made.
pub fn by_shard(table: &SelectionTable, rows: &[u32]) -> Result<Vec<Task>> {
    let pieces = table.pieces()?;
    let mut chosen: Vec<Piece> = rows
        .iter()
        .filter_map(|row| pieces.get(*row as usize).copied())
        .collect();
    chosen.sort_unstable();
    let planned = RecordBatch::new_empty(Arc::new(Schema::empty()));
    let shards =
        chosen.chunk_by(|one, other| (one.source, one.shard) == (other.source, other.shard));
    Ok(shards
        .enumerate()
        .map(|(index, pieces)| Task {
            index,
            pieces: pieces.to_vec(),
            planned: planned.clone(),
        })
        .collect())
}

/// Tasks for `table`, each closing at the first trajectory end at or after `shard_rows` rows; at least one, so that an
/// empty result is a dataset too.
///
/// # Errors
/// Where the table is not one that [`select`] made.
pub fn cut(table: &SelectionTable, shard_rows: u64) -> Result<Vec<Task>> {
    let pieces = table.pieces()?;
    let mut tasks = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (index, piece) in pieces.iter().enumerate() {
        rows += piece.rows;
        if rows >= shard_rows || index + 1 == pieces.len() {
            let planned = table.planned.slice(start, index + 1 - start);
            tasks.push(Task {
                index: tasks.len(),
                pieces: pieces[start..=index].to_vec(),
                planned,
            });
            (start, rows) = (index + 1, 0);
        }
    }
    if tasks.is_empty() {
        tasks.push(Task {
            index: 0,
            pieces: Vec::new(),
            planned: table.planned.slice(0, 0),
        });
    }
    Ok(tasks)
}
