//! Finds and replaces nulls, for formats that have none.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, FixedSizeListArray, Int64Array, StringArray, new_null_array,
};
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Field};

use crate::error::Result;
use crate::transfer::write::OutgoingDataset;
use crate::transfer::write::arrays::plain_arrays;

/// Returns the names of the columns with a null on some row, among the columns that `is_written`
/// accepts. The rows of final observations count only in the columns that `has_final` accepts.
///
/// # Errors
/// Returns an error if the dataset cannot be read.
pub(crate) fn columns_with_nulls(
    outgoing: &OutgoingDataset,
    is_written: impl Fn(&str) -> bool,
    has_final: impl Fn(&str) -> bool,
) -> Result<HashSet<String>> {
    let nullable = outgoing.steps().fields().iter();
    let nullable = nullable.filter(|field| field.is_nullable() && is_written(field.name()));
    let nullable: Vec<&str> = nullable.map(|field| field.name().as_str()).collect();
    let mut found = HashSet::new();
    for trajectory in outgoing.pass(Some(&nullable))? {
        let trajectory = trajectory?;
        for name in &nullable {
            if found.contains(*name) {
                continue;
            }
            let column = if has_final(name) {
                trajectory.steps.column_by_name(name).cloned()
            } else {
                trajectory.column(name)
            };
            if column.is_some_and(|column| column.null_count() > 0) {
                found.insert((*name).to_owned());
            }
        }
    }
    Ok(found)
}

/// Whether plain arrays hold a column.
pub(crate) fn is_plain(field: &Field) -> bool {
    plain_arrays(field, field.name()).is_some()
}

/// Whether a column, or a field of a struct column, holds numbers, text or bytes.
pub(crate) fn has_plain_part(field: &Field) -> bool {
    match field.data_type() {
        DataType::Struct(fields) => fields.iter().any(|field| has_plain_part(field)),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary => true,
        _ => is_plain(field),
    }
}

/// Replaces nulls by zeros, by the text `empty`, or by empty byte strings. A list stays null.
///
/// # Errors
/// Returns an error if a value cannot be replaced.
pub(crate) fn filled(column: &ArrayRef, empty: &str) -> Result<ArrayRef> {
    if column.null_count() == 0 {
        return Ok(Arc::clone(column));
    }
    let zeros = |data_type: &DataType, count: usize| {
        cast(
            &(Arc::new(Int64Array::from(vec![0; count])) as ArrayRef),
            data_type,
        )
    };
    let filler: ArrayRef = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => cast(
            &(Arc::new(StringArray::from(vec![empty])) as ArrayRef),
            column.data_type(),
        )?,
        DataType::Binary => Arc::new(BinaryArray::from(vec![b"".as_slice()])),
        DataType::FixedSizeList(child, width) => {
            let values = zeros(child.data_type(), *width as usize)?;
            Arc::new(FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                values,
                None,
            )?)
        }
        other if other.is_numeric() || *other == DataType::Boolean => zeros(other, 1)?,
        other => new_null_array(other, 1),
    };
    let order: Vec<(usize, usize)> = (0..column.len())
        .map(|row| {
            if column.is_null(row) {
                (1, 0)
            } else {
                (0, row)
            }
        })
        .collect();
    Ok(interleave(&[column.as_ref(), filler.as_ref()], &order)?)
}
