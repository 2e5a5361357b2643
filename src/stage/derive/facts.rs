//! Columns of trajectories in the expressions of `derive`: a step has the value of its trajectory.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::Schema;

use super::Context;
use crate::dataset::Block;
use crate::dataset::block::{with_column, with_field};
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};

/// Returns `steps` and the columns of trajectories that an expression may read beside them. Those
/// that follow from the steps are not among them, because the stages before may have changed steps.
pub(super) fn beside(steps: &Schema, context: &Context) -> Schema {
    let fields = context.trajectories.fields().iter();
    fields
        .filter(|field| {
            let name = field.name().as_str();
            steps.index_of(name).is_err()
                && !name.starts_with("__")
                && !trajectory::COMPUTED.contains(&name)
        })
        .fold(steps.clone(), |all, field| {
            with_field(&all, field.as_ref().clone()).0
        })
}

/// Returns the steps of `block`, with those of the columns `names` that only its trajectories have.
///
/// # Errors
/// Returns an error if neither has a column.
pub(super) fn joined(block: &Block, names: &[String]) -> Result<RecordBatch> {
    let mut steps = block.steps.clone();
    let missing = names
        .iter()
        .filter(|name| block.steps.column_by_name(name).is_none());
    for name in missing {
        let schema = block.trajectories.schema();
        let (Ok(field), Some(column)) = (
            schema.field_with_name(name),
            block.trajectories.column_by_name(name),
        ) else {
            return Err(Error::failed(format!("there is no column `{name}`")));
        };
        let spans = block.spans().enumerate();
        let rows: UInt32Array = spans
            .flat_map(|(index, span)| std::iter::repeat_n(index as u32, span.len()))
            .collect();
        let column = take(column, &rows, None)?;
        steps = with_column(&steps, field.clone(), column)?;
    }
    Ok(steps)
}
