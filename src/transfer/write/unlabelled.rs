//! Handles steps without an action in an export: cuts trajectories off before them, or makes their
//! filler.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch, new_null_array};
use arrow::datatypes::DataType;

use crate::dataset::block::with_column;
use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result};

/// Cuts `run` off after `length` steps: the step at row `length` becomes the final observation.
///
/// # Errors
/// Returns an error if a column cannot be replaced.
pub(crate) fn cut_off(run: &RecordBatch, length: usize) -> Result<RecordBatch> {
    let mut cut = run.clone();
    let at = |row: usize| {
        Some(BooleanArray::from_iter(
            (0..run.num_rows()).map(|index| Some(index == row)),
        ))
    };
    for (name, values) in [
        (step::IS_FINAL, at(length)),
        (step::TRUNCATED, length.checked_sub(1).and_then(at)),
        (step::TERMINATED, at(usize::MAX)),
    ] {
        if let (Ok(field), Some(values)) = (run.schema().field_with_name(name), values) {
            cut = with_column(&cut, field.clone(), Arc::new(values))?;
        }
    }
    // A final observation has none of the values that belong to a step.
    for name in step::NULL_IN_FINAL_ROWS {
        let schema = cut.schema();
        if let (Ok(field), Some(column)) = (schema.field_with_name(name), cut.column_by_name(name))
        {
            let null = new_null_array(field.data_type(), 1);
            let column =
                arrow::compute::concat(&[column.slice(0, length).as_ref(), null.as_ref()])?;
            cut = with_column(&cut, field.clone(), column)?;
        }
    }
    Ok(cut)
}

/// Returns one action of type `action` whose every dimension is `value`.
///
/// # Errors
/// Returns an error if the type cannot hold the value.
pub(crate) fn filler(action: &DataType, value: f64) -> Result<ArrayRef> {
    let cannot = || {
        Error::failed(format!(
            "an action of type {} cannot be filled with {value}",
            type_name(action)
        ))
        .hint("choose another value with `fill`, or use `unlabelled: drop`")
    };
    let numbers = |element: &DataType, count: usize| -> Result<ArrayRef> {
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![value; count]));
        let options = arrow::compute::CastOptions {
            safe: false,
            ..Default::default()
        };
        arrow::compute::cast_with_options(&numbers, element, &options).map_err(|_| cannot())
    };
    match action {
        DataType::FixedSizeList(child, width) => {
            let values = numbers(child.data_type(), usize::try_from(*width).unwrap_or(0))?;
            Ok(Arc::new(arrow::array::FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                values,
                None,
            )?))
        }
        other if other.is_numeric() => numbers(other, 1),
        _ => Err(cannot()),
    }
}
