//! The values of a step's record.

use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, BooleanArray, FixedSizeListArray, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field};

use crate::container::tfrecord::{Feature, Kind};
use crate::error::Result;

/// A value of a step, as it is stored and as the column that it becomes.
pub(crate) struct Column {
    pub(crate) key: String,
    pub(crate) element: DataType,
    /// The bytes of one step's value. Numbers in lists have four bytes (floats) or eight
    /// (integers).
    pub(crate) bytes: usize,
    /// Whether it is filler beside a final observation.
    pub(crate) of_action: bool,
}

/// Returns the bytes of a feature, whatever kind of list holds them.
pub(crate) fn bytes(feature: &Feature) -> Vec<u8> {
    match &feature.kind {
        None => Vec::new(),
        Some(Kind::Bytes(list)) => list.value.concat(),
        Some(Kind::Floats(list)) => list
            .value
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        Some(Kind::Whole(list)) => list
            .value
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
}

/// Returns the values of one or several steps, which `bytes` holds, as the column `field`.
pub(crate) fn column_of(column: &Column, field: &Field, bytes: Vec<u8>) -> Result<ArrayRef> {
    let values: ArrayRef = if column.element == DataType::Boolean {
        Arc::new(BooleanArray::from_iter(
            bytes.iter().map(|byte| Some(*byte != 0)),
        ))
    } else {
        let size = column.element.primitive_width().unwrap_or(1);
        make_array(
            ArrayData::builder(column.element.clone())
                .len(bytes.len() / size)
                .add_buffer(Buffer::from_vec(bytes))
                .align_buffers(true)
                .build()?,
        )
    };
    match field.data_type() {
        DataType::FixedSizeList(child, width) => Ok(Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *width,
            values,
            None,
        )?)),
        _ => Ok(values),
    }
}
