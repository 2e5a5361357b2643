//! A few whole trajectories in memory: the unit that transforms work on.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch};
use arrow::datatypes::{Field, Int64Type, Schema};

use super::Origin;
use super::frames::Frames;
use super::schema::{step, trajectory};
use crate::error::{Error, Result};

/// Whole trajectories: their steps, in order, and one row of metadata for each.
///
/// The rows `rows(i)` of `steps` belong to trajectory `i`. The metadata lacks the columns that are
/// computed from the steps, which `schema::trajectory::COMPUTED` lists.
#[derive(Debug, Clone)]
pub struct Block {
    /// One row per observation.
    pub steps: RecordBatch,
    /// One row per trajectory.
    pub trajectories: RecordBatch,
    /// The first row of each trajectory in `steps`, and at the end the number of rows.
    pub offsets: Vec<usize>,
    /// The row group that the block was read as, where it is one whole.
    pub origin: Option<Arc<Origin>>,
    /// What gives the frames of videos that its columns refer to.
    pub frames: Option<Arc<dyn Frames>>,
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
            frames: None,
        }
    }

    /// Returns the number of trajectories.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Returns whether there are no trajectories.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rows of trajectory `index` in `steps`.
    pub fn rows(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }

    /// Returns the rows of each trajectory, in order.
    pub fn spans(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|ends| ends[0]..ends[1])
    }

    /// Returns a range of the trajectories, without copying their data.
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
        let steps = self.steps.slice(start, end - start);
        let metadata = self
            .trajectories
            .slice(trajectories.start, trajectories.len());
        Block {
            frames: self.frames.clone(),
            ..Block::new(steps, metadata, offsets)
        }
    }

    /// Returns a range of the rows of its only trajectory, without copying their data.
    #[must_use]
    pub(crate) fn part(&self, rows: Range<usize>) -> Block {
        let steps = self.steps.slice(rows.start, rows.len());
        Block {
            frames: self.frames.clone(),
            ..Block::new(steps, self.trajectories.clone(), vec![0, rows.len()])
        }
    }

    /// Returns the ids of the trajectories.
    ///
    /// # Errors
    /// Returns an error if the metadata has no int64 column `trajectory_id`.
    pub fn ids(&self) -> Result<&[i64]> {
        let column = self.trajectories.column_by_name(trajectory::TRAJECTORY_ID);
        let ids = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
        ids.map(|ids| ids.values().as_ref())
            .ok_or_else(|| Error::failed("there is no column `trajectory_id` of type int64"))
    }

    /// Returns for each row whether it holds nothing but the observation after the last action.
    ///
    /// # Errors
    /// Returns an error if the steps have no boolean column `is_final`.
    pub fn is_final(&self) -> Result<&arrow::array::BooleanArray> {
        let column = self
            .steps
            .column_by_name(step::IS_FINAL)
            .and_then(|column| column.as_boolean_opt());
        column.ok_or_else(|| Error::failed("there is no column `is_final` of type bool"))
    }

    /// Replaces the column of steps with this name, or appends it.
    ///
    /// # Errors
    /// Returns an error if the column's length is not the number of rows.
    pub fn with_step_column(
        mut self,
        field: Field,
        column: arrow::array::ArrayRef,
    ) -> Result<Block> {
        self.steps = with_column(&self.steps, field, column)?;
        Ok(self)
    }

    /// Replaces the column of the metadata with this name, or appends it.
    ///
    /// # Errors
    /// Returns an error if the column's length is not the number of trajectories.
    pub fn with_trajectory_column(
        mut self,
        field: Field,
        column: arrow::array::ArrayRef,
    ) -> Result<Block> {
        self.trajectories = with_column(&self.trajectories, field, column)?;
        Ok(self)
    }
}

/// Returns `batch` with the column replaced in place or appended.
///
/// # Errors
/// Returns an error if the column's length or type does not match.
pub(crate) fn with_column(
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

/// Returns `schema` with the field replaced in place or appended, and the field.
pub(crate) fn with_field(schema: &Schema, field: Field) -> (Schema, Arc<Field>) {
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

/// Returns the elements of all vectors, one after the other.
pub(crate) fn elements(vectors: &FixedSizeListArray) -> ArrayRef {
    let width = vectors.value_length() as usize;
    let start = vectors.value_offset(0) as usize;
    vectors.values().slice(start, vectors.len() * width)
}

/// Returns the elements of a column of vectors, or a column of single values as it is, and the
/// number of elements in a row.
pub(crate) fn flattened(column: &ArrayRef) -> (ArrayRef, usize) {
    match column.as_fixed_size_list_opt() {
        Some(vectors) => (elements(vectors), vectors.value_length() as usize),
        None => (Arc::clone(column), 1),
    }
}
