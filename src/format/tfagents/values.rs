//! The values of a step's record.

use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, BooleanArray, FixedSizeListArray, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field};

use crate::container::tfrecord::{Feature, Kind};
use crate::error::Result;

/// One value of a step.
pub(crate) struct Column {
    pub(crate) key: String,
    pub(crate) element: DataType,
    /// Bytes of a step's value; of floats or whole numbers in lists, four or eight each.
    pub(crate) bytes: usize,
    /// Whether it is no value beside a final observation.
    pub(crate) of_action: bool,
}

/// The bytes of a feature, whatever list they are in.
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
