//! Selects the trajectories of a phase: the table of all trajectories goes through every selection,
//! from metadata alone.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array,
};
use arrow::compute::{concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type};
use serde::{Deserialize, Serialize};

use super::Flow;
use crate::dataset::block::with_column;
use crate::dataset::schema::trajectory;
use crate::dataset::{Dataset, old_columns};
use crate::error::{Error, Result};
use crate::plan::Phase;

/// Columns that say where a trajectory lies. No column of a user has such a name.
const SOURCE: &str = "__source";
const SHARD: &str = "__shard";
const ROW: &str = "__row";
const FIRST_ROW: &str = "__first_row";

/// The table of trajectories: those that a phase keeps, in output order, once its selections ran.
pub(crate) struct SelectionTable {
    /// Where each trajectory lies, and the columns that selections read.
    batch: RecordBatch,
    /// The columns that selections computed for the result, with one row for each trajectory.
    pub computed: RecordBatch,
    /// The distance between the ids of the trajectories that one trajectory becomes.
    pub stride: i64,
    /// Whether ids ascend.
    pub sorted: bool,
    /// What each selection did, in order.
    pub flow: Vec<Flow>,
}

/// A selected trajectory, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Piece {
    /// The index of the dataset.
    pub source: u32,
    /// The index of the shard in the dataset.
    pub shard: u32,
    /// The first row in the shard's steps.
    pub first_row: u64,
    /// The number of rows in the shard's steps.
    pub rows: u64,
    /// The row in the shard's trajectories.
    pub row: u64,
    /// The id that the trajectory gets in the result.
    pub id: i64,
}

fn int64(batch: &RecordBatch, name: &str) -> Result<Int64Array> {
    let column = batch
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<Int64Type>());
    column
        .cloned()
        .ok_or_else(|| Error::failed(format!("`trajectories` has no int64 column `{name}`")))
}

/// Reads the columns of trajectories that the selections of `phase` need and those that are `also`
/// asked for, and runs the selections.
///
/// # Errors
/// Returns an error if a file is damaged or a selection fails on a row.
pub(crate) fn select(phase: &Phase, sources: &[Dataset], also: &[&str]) -> Result<SelectionTable> {
    let mut wanted = names(phase);
    wanted.extend(also.iter().map(|name| (*name).to_owned()));
    let mut batch = read(wanted, sources)?;
    let ids = int64(&batch, trajectory::TRAJECTORY_ID)?;
    let stride = ids
        .values()
        .iter()
        .copied()
        .max()
        .unwrap_or(0)
        .checked_add(1)
        .filter(|_| ids.values().iter().all(|id| *id >= 0));
    let stride =
        stride.ok_or_else(|| Error::failed("trajectory ids must be between 0 and 2^63 - 2"))?;
    let mut computed: Vec<String> = Vec::new();
    let mut flow = Vec::new();
    for planned in &phase.selections {
        let rows = int64(&batch, trajectory::ROWS)?;
        let sum = |kept: &[u32]| {
            kept.iter()
                .map(|row| rows.value(*row as usize) as u64)
                .sum::<u64>()
        };
        let selected = planned
            .part
            .select(&batch)
            .map_err(|error| planned.failed(error))?;
        let mut entry = Flow::through(planned);
        entry.rows_in = rows.values().iter().map(|rows| *rows as u64).sum();
        entry.trajectories_in = batch.num_rows() as u64;
        entry.rows_out = sum(&selected.rows);
        entry.trajectories_out = selected.rows.len() as u64;
        for dropped in &selected.dropped {
            entry.tally.drop_rows(&dropped.reason, sum(&dropped.rows));
            entry
                .tally
                .drop_trajectories(&dropped.reason, dropped.rows.len() as u64);
        }
        entry.tally.added_rows = (entry.rows_out + entry.tally.dropped_rows.values().sum::<u64>())
            .saturating_sub(entry.rows_in);
        for (name, n) in &selected.counts {
            entry.tally.count(name, *n);
        }
        entry.facts = selected.facts;
        flow.push(entry);
        let indices = UInt32Array::from(selected.rows);
        batch = take_record_batch(&batch, &indices)?;
        for (field, column) in planned.part.writes().into_iter().zip(selected.columns) {
            computed.retain(|name| name != field.name());
            computed.push(field.name().clone());
            batch = with_column(&batch, field, column)?;
        }
        if planned.part.repeats() {
            batch = renumber(&batch, stride)?;
        }
    }
    let sorted = int64(&batch, trajectory::TRAJECTORY_ID)?
        .values()
        .windows(2)
        .all(|pair| pair[0] < pair[1]);
    // The names of several sources are in the result. The writer computes intrinsic columns anew.
    if sources.len() > 1 {
        computed.push(trajectory::SOURCE.to_owned());
        batch = with_column(
            &batch,
            Field::new(trajectory::SOURCE, DataType::Utf8, true),
            source_names(&batch, sources)?,
        )?;
    }
    computed.retain(|name| !trajectory::COMPUTED.contains(&name.as_str()));
    let indices = computed
        .iter()
        .map(|name| batch.schema().index_of(name))
        .collect::<Result<Vec<_>, _>>()?;
    let schema = Arc::new(batch.schema().project(&indices)?);
    let columns = indices
        .iter()
        .map(|index| Arc::clone(batch.column(*index)))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let computed = RecordBatch::try_new_with_options(schema, columns, &options)?;
    Ok(SelectionTable {
        batch,
        computed,
        stride,
        sorted,
        flow,
    })
}

fn source_names(batch: &RecordBatch, sources: &[Dataset]) -> Result<ArrayRef> {
    let names: StringArray = sources
        .iter()
        .map(|source| Some(source.name.as_str()))
        .collect();
    let column = batch
        .column_by_name(SOURCE)
        .ok_or_else(|| Error::failed("the selection lost the places of its trajectories"))?;
    Ok(take(&names, column, None)?)
}

/// Gives each copy of a trajectory that was kept more than once an id of its own.
fn renumber(batch: &RecordBatch, stride: i64) -> Result<RecordBatch> {
    let mut seen: HashMap<i64, i64> = HashMap::new();
    let ids = int64(batch, trajectory::TRAJECTORY_ID)?;
    let renumbered = ids.values().iter().map(|id| {
        let copy = seen.entry(*id).or_default();
        let new = copy
            .checked_mul(stride)
            .and_then(|offset| offset.checked_add(*id));
        *copy += 1;
        new.ok_or_else(|| {
            Error::failed(format!(
                "trajectory {id} is drawn too often: its copies run out of ids"
            ))
        })
    });
    let renumbered: Int64Array = renumbered.collect::<Result<Vec<_>>>()?.into();
    with_column(
        batch,
        Field::new(trajectory::TRAJECTORY_ID, DataType::Int64, false),
        Arc::new(renumbered),
    )
}

/// Returns the table of all trajectories, with the column `name`.
///
/// # Errors
/// Returns an error if a file is damaged.
pub(super) fn whole(name: &str, sources: &[Dataset]) -> Result<SelectionTable> {
    let batch = read(vec![name.to_owned()], sources)?;
    let computed = RecordBatch::new_empty(Arc::new(Schema::empty()));
    Ok(SelectionTable {
        batch,
        computed,
        stride: 1,
        sorted: false,
        flow: Vec::new(),
    })
}

/// The columns that the selections of a phase read and do not compute.
fn names(phase: &Phase) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut written: Vec<String> = Vec::new();
    for planned in &phase.selections {
        names.extend(
            planned
                .part
                .reads()
                .into_iter()
                .filter(|name| !written.contains(name)),
        );
        written.extend(
            planned
                .part
                .writes()
                .iter()
                .map(|field| field.name().clone()),
        );
    }
    names
}

/// Reads the table before any selection: one row for each trajectory, in the order of the sources.
fn read(mut names: Vec<String>, sources: &[Dataset]) -> Result<RecordBatch> {
    names.extend(
        [
            trajectory::TRAJECTORY_ID,
            trajectory::LENGTH,
            trajectory::ROWS,
            trajectory::FIRST_ROW,
        ]
        .map(str::to_owned),
    );
    names.sort_unstable();
    names.dedup();
    if let [_, _, ..] = sources {
        names.retain(|name| name != trajectory::SOURCE);
    }
    let mut batches = Vec::new();
    let mut next_id = 0;
    for (source, dataset) in sources.iter().enumerate() {
        for (shard, entry) in dataset.manifest.shards.iter().enumerate() {
            let batch = old_columns::trajectories(dataset, entry, &names)?;
            let rows = batch.num_rows();
            let first_row = int64(&batch, trajectory::FIRST_ROW)?;
            let mut batch = with_column(
                &batch,
                Field::new(FIRST_ROW, DataType::Int64, false),
                Arc::new(first_row),
            )?;
            let places: [(&str, ArrayRef); 2] = [
                (
                    SOURCE,
                    Arc::new(UInt32Array::from(vec![source as u32; rows])),
                ),
                (SHARD, Arc::new(UInt32Array::from(vec![shard as u32; rows]))),
            ];
            for (name, column) in places {
                batch = with_column(&batch, Field::new(name, DataType::UInt32, false), column)?;
            }
            batch = with_column(
                &batch,
                Field::new(ROW, DataType::UInt32, false),
                Arc::new(UInt32Array::from_iter_values(0..rows as u32)),
            )?;
            if sources.len() > 1 {
                let ids: Int64Array = (next_id..next_id + rows as i64).collect();
                batch = with_column(
                    &batch,
                    Field::new(trajectory::TRAJECTORY_ID, DataType::Int64, false),
                    Arc::new(ids),
                )?;
            }
            next_id += rows as i64;
            batches.push(batch);
        }
    }
    let schema = batches
        .first()
        .map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    let mut batch = concat_batches(&schema, &batches)?;
    if sources.len() > 1 {
        batch = with_column(
            &batch,
            Field::new(trajectory::SOURCE, DataType::Utf8, true),
            source_names(&batch, sources)?,
        )?;
    }
    Ok(batch)
}

impl SelectionTable {
    /// Whether every trajectory has an action at every step; `None` if the column was not read.
    pub(crate) fn has_all_actions(&self) -> Option<bool> {
        let column = self.batch.column_by_name(trajectory::HAS_ACTIONS)?;
        let whole = column.as_boolean_opt()?;
        Some(whole.true_count() == whole.len())
    }

    /// Returns the number of trajectories.
    pub(crate) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Returns the columns that were read, with one row for each trajectory.
    pub(crate) fn columns(&self) -> &RecordBatch {
        &self.batch
    }

    /// Returns the number of rows of steps of all trajectories.
    ///
    /// # Errors
    /// Returns an error if the table has no column `rows`.
    pub(crate) fn rows(&self) -> Result<u64> {
        Ok(int64(&self.batch, trajectory::ROWS)?
            .values()
            .iter()
            .map(|rows| *rows as u64)
            .sum())
    }

    /// Returns where each trajectory lies, in output order.
    pub(super) fn pieces(&self) -> Result<Vec<Piece>> {
        let place = |name: &str| {
            let column = self
                .batch
                .column_by_name(name)
                .and_then(|column| column.as_primitive_opt::<UInt32Type>());
            column.ok_or_else(|| Error::failed("the selection lost the places of its trajectories"))
        };
        let (source, shard, row) = (place(SOURCE)?, place(SHARD)?, place(ROW)?);
        let (first_row, rows, ids) = (
            int64(&self.batch, FIRST_ROW)?,
            int64(&self.batch, trajectory::ROWS)?,
            int64(&self.batch, trajectory::TRAJECTORY_ID)?,
        );
        let piece = |index: usize| Piece {
            source: source.value(index),
            shard: shard.value(index),
            first_row: first_row.value(index) as u64,
            rows: rows.value(index) as u64,
            row: u64::from(row.value(index)),
            id: ids.value(index),
        };
        Ok((0..self.len()).map(piece).collect())
    }
}
