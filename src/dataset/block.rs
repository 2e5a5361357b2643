//! A handful of whole trajectories in memory: the unit that stages work on.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Field, Int64Type, Schema};

use super::Origin;
use super::schema::{step, trajectory};
use crate::error::{Error, Result};

/// Whole trajectories: their steps, in order, and one row of metadata for each.
///
/// `steps` and `trajectories` agree: trajectory i owns the rows `rows(i)` of `steps`. Of a trajectory's metadata only
/// the columns that cannot be computed from its steps are here (`schema::trajectory::INTRINSIC` lists the others).
#[derive(Debug, Clone)]
pub struct Block {
    /// One row per observation.
    pub steps: RecordBatch,
    /// One row per trajectory.
    pub trajectories: RecordBatch,
    /// Where each trajectory starts in `steps`, and the end of the last: one more than there are trajectories.
    pub offsets: Vec<usize>,
    /// The row group that the block was read as, where it is one whole.
    pub origin: Option<Arc<Origin>>,
}

impl Block {
    /// A block of `steps` whose trajectories start at `offsets`.
    pub fn new(steps: RecordBatch, trajectories: RecordBatch, offsets: Vec<usize>) -> Block {
        debug_assert_eq!(offsets.len(), trajectories.num_rows() + 1);
        debug_assert_eq!(offsets.last().copied(), Some(steps.num_rows()));
        Block {
            steps,
            trajectories,
            offsets,
            origin: None,
        }
    }

    /// Number of trajectories.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no trajectory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of trajectory `index` in `steps`.
    pub fn rows(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }

    /// Rows of each trajectory in turn.
    pub fn spans(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// Some of the trajectories; nothing is copied.
    #[must_use]
    pub fn slice(&self, trajectories: Range<usize>) -> Block {
        let (start, end) = (
            self.offsets[trajectories.start],
            self.offsets[trajectories.end],
        );
        let offsets = self.offsets[trajectories.start..=trajectories.end]
            .iter()
            .map(|offset| offset - start)
            .collect();
        Block::new(
            self.steps.slice(start, end - start),
            self.trajectories
                .slice(trajectories.start, trajectories.len()),
            offsets,
        )
    }

    /// Ids of the trajectories.
    ///
    /// # Errors
    /// Where the metadata has no int64 column `trajectory_id`.
    pub fn ids(&self) -> Result<&[i64]> {
        let column = self.trajectories.column_by_name(trajectory::TRAJECTORY_ID);
        let ids = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
        ids.map(|ids| ids.values().as_ref())
            .ok_or_else(|| Error::failed("`trajectory_id` is not an int64 column"))
    }

    /// Whether each row holds only the observation after the last action.
    ///
    /// # Errors
    /// Where the steps have no boolean column `is_final`.
    pub fn is_final(&self) -> Result<&arrow::array::BooleanArray> {
        let column = self
            .steps
            .column_by_name(step::IS_FINAL)
            .and_then(|column| column.as_boolean_opt());
        column.ok_or_else(|| Error::failed("`is_final` is not a boolean column"))
    }

    /// Replaces or, where there is none of that name, appends a column of steps.
    ///
    /// # Errors
    /// Where the column's length is not the block's.
    pub fn with_step_column(
        mut self,
        field: Field,
        column: arrow::array::ArrayRef,
    ) -> Result<Block> {
        self.steps = with_column(&self.steps, field, column)?;
        Ok(self)
    }

    /// Replaces or appends a column of the metadata.
    ///
    /// # Errors
    /// Where the column's length is not the number of trajectories.
    pub fn with_trajectory_column(
        mut self,
        field: Field,
        column: arrow::array::ArrayRef,
    ) -> Result<Block> {
        self.trajectories = with_column(&self.trajectories, field, column)?;
        Ok(self)
    }
}

/// `batch` with a column replaced in place or appended.
///
/// # Errors
/// Where the column's length or type is not what it should be.
pub fn with_column(
    batch: &RecordBatch,
    field: Field,
    column: arrow::array::ArrayRef,
) -> Result<RecordBatch> {
    let schema = with_field(&batch.schema(), field);
    let mut columns = batch.columns().to_vec();
    match batch.schema().index_of(schema.1.name()) {
        Ok(index) => columns[index] = column,
        Err(_) => columns.push(column),
    }
    Ok(RecordBatch::try_new(Arc::new(schema.0), columns)?)
}

/// `schema` with a field replaced in place or appended, and that field.
pub fn with_field(schema: &Schema, field: Field) -> (Schema, Arc<Field>) {
    let field = Arc::new(field);
    let mut fields = schema.fields().to_vec();
    match schema.index_of(field.name()) {
        Ok(index) => fields[index] = Arc::clone(&field),
        Err(_) => fields.push(Arc::clone(&field)),
    }
    (
        Schema::new_with_metadata(fields, schema.metadata().clone()),
        field,
    )
}
