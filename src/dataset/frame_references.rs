//! The references to frames in a block's column.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, Int32Array, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Float64Type;

use super::Block;
use super::frames::Place;
use super::videos::{refers, tolerance};
use crate::error::Result;

/// The column of a block's trajectories with the index of the source that their references belong
/// to, where a phase has several sources. It is never written.
pub(crate) const SOURCE: &str = "__frame_source";

/// The references of a block's column.
#[derive(Debug)]
pub(crate) struct References {
    paths: StringArray,
    seconds: Float64Array,
    nulls: Option<NullBuffer>,
    tolerance: f64,
    ids: Vec<i64>,
    sources: Option<Int32Array>,
}

impl References {
    /// Returns the references in the column `name` of `block`; `None` if it holds none.
    ///
    /// # Errors
    /// Returns an error if the trajectories have no ids.
    pub(crate) fn of(block: &Block, name: &str) -> Result<Option<References>> {
        let schema = block.steps.schema_ref();
        let Some((index, field)) = schema
            .column_with_name(name)
            .filter(|(_, field)| refers(field))
        else {
            return Ok(None);
        };
        let column = block.steps.column(index).as_struct();
        let sources = block.trajectories.column_by_name(SOURCE);
        Ok(Some(References {
            paths: column.column(0).as_string::<i32>().clone(),
            seconds: column.column(1).as_primitive::<Float64Type>().clone(),
            nulls: column.nulls().cloned(),
            tolerance: tolerance(field)?,
            ids: block.ids()?.to_vec(),
            sources: sources.and_then(|sources| sources.as_primitive_opt().cloned()),
        }))
    }

    /// Returns the rows without a reference.
    pub(crate) fn nulls(&self) -> Option<&NullBuffer> {
        self.nulls.as_ref()
    }

    /// Returns the places of the frames of `rows`, each a row and the index of its trajectory.
    pub(crate) fn places(&self, rows: impl Iterator<Item = (usize, usize)>) -> Vec<Place> {
        let mut known: Option<Arc<str>> = None;
        let place = |(row, trajectory): (usize, usize)| {
            let path = self.paths.value(row);
            let path = match known.take().filter(|known| **known == *path) {
                Some(known) => known,
                None => Arc::from(path),
            };
            known = Some(Arc::clone(&path));
            let source = self
                .sources
                .as_ref()
                .map_or(0, |sources| sources.value(trajectory));
            Place {
                path,
                seconds: self.seconds.value(row),
                tolerance: self.tolerance,
                source: usize::try_from(source).unwrap_or(usize::MAX),
                trajectory: self.ids[trajectory],
            }
        };
        rows.map(place).collect()
    }
}
