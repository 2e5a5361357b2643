//! Converts the values of a table's columns to columns of steps: lists to vectors, one column per
//! coordinate to vectors, and flags to booleans.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};

use crate::container::types::convert;
use crate::dataset::schema;
use crate::error::wording::count;
use crate::error::{Error, Result};

pub(super) fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _)
    )
}

/// Returns the type of the elements of a list whose rows can be vectors; `None` for any other type.
pub(super) fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Some(child.data_type())
                .filter(|element| element.is_numeric() || **element == DataType::Boolean)
        }
        _ => None,
    }
}

/// Returns the common width of all lists in `column` that are not null; `Some(None)` if all are
/// null. Returns `None` if the widths differ, a list contains a null, or the elements are not
/// numbers.
pub(crate) fn common_width(column: &ArrayRef) -> Option<Option<i32>> {
    element(column.data_type())?;
    let list = as_list(column).ok()?;
    let list = list.as_list::<i32>();
    let mut width = None;
    for row in (0..list.len()).filter(|row| list.is_valid(*row)) {
        let values = list.value_length(row);
        if *width.get_or_insert(values) != values || values == 0 {
            return None;
        }
    }
    if list.values().null_count() > 0
        && (0..list.len()).any(|row| list.is_valid(row) && list.value(row).null_count() > 0)
    {
        return None;
    }
    Some(width)
}

/// Converts a list of any kind to a list with 32-bit offsets.
pub(super) fn as_list(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Ok(cast(column, &DataType::List(Arc::clone(child)))?)
        }
        _ => Ok(Arc::clone(column)),
    }
}

/// Converts the columns `sources`, each with its name, to the column `field` of steps; `place`
/// names a row in messages.
pub(super) fn values(
    sources: &[(&str, &ArrayRef)],
    field: &Arc<Field>,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    let Some((name, column)) = sources.first() else {
        return Err(Error::failed(format!("no column for `{}`", field.name())));
    };
    match field.data_type() {
        DataType::FixedSizeList(child, width) if is_list(column.data_type()) => {
            let elements = Field::new("element", child.data_type().clone(), true);
            let lists = converted(name, column, &DataType::List(Arc::new(elements)), place)?;
            vector(name, &lists, child, *width, place)
        }
        DataType::FixedSizeList(child, _) => {
            let columns = sources
                .iter()
                .map(|(name, column)| converted(name, column, child.data_type(), place))
                .collect::<Result<Vec<_>>>()?;
            let names = sources.iter().map(|(name, _)| *name);
            joined(&names.zip(&columns).collect::<Vec<_>>(), field, place)
        }
        single if is_list(column.data_type()) && single.is_numeric() => {
            let child = Arc::new(Field::new("element", single.clone(), false));
            let elements = Field::new("element", single.clone(), true);
            let lists = converted(name, column, &DataType::List(Arc::new(elements)), place)?;
            let vector = vector(name, &lists, &child, 1, place)?;
            let vector = vector.as_fixed_size_list();
            let values = vector
                .values()
                .to_data()
                .into_builder()
                .nulls(vector.nulls().cloned());
            Ok(arrow::array::make_array(values.build()?))
        }
        other => converted(name, column, other, place),
    }
}

/// Converts the column `name` to the type `to`.
fn converted(
    name: &str,
    column: &ArrayRef,
    to: &DataType,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    convert(column, to, place).map_err(|error| error.at(format!("column `{name}`")))
}

/// Converts lists to vectors of `width` elements; `place` names a row in messages.
///
/// # Errors
/// Returns an error if a list has another length or contains a null.
pub(crate) fn vector(
    name: &str,
    column: &ArrayRef,
    child: &Arc<Field>,
    width: i32,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    let column = as_list(column)?;
    let list = column.as_list::<i32>();
    let has_nulls = list.values().null_count() > 0;
    for row in (0..list.len()).filter(|row| list.is_valid(*row)) {
        if list.value_length(row) != width {
            return Err(Error::failed(format!(
                "column `{name}` holds {} at {}, but its first vector holds {width}",
                count(list.value_length(row), "value"),
                place(row)
            ))
            .hint("all vectors of a column must have the same length"));
        }
        if has_nulls && list.value(row).null_count() > 0 {
            return Err(Error::failed(format!(
                "column `{name}` holds a vector with a null in it at {}",
                place(row)
            ))
            .hint("replace the null with a number, or make the whole vector null"));
        }
    }
    let nullable =
        |data_type: DataType| Arc::new(Schema::new(vec![Field::new(name, data_type, true)]));
    let batch = RecordBatch::try_new(
        nullable(column.data_type().clone()),
        vec![Arc::clone(&column)],
    )?;
    Ok(Arc::clone(
        schema::convert(
            &batch,
            &nullable(DataType::FixedSizeList(Arc::clone(child), width)),
        )?
        .column(0),
    ))
}

/// Joins one column per coordinate to vectors. A vector is null if all its coordinates are.
///
/// # Errors
/// Returns an error if only some coordinates of a vector are null.
fn joined(
    sources: &[(&str, &ArrayRef)],
    field: &Field,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    let DataType::FixedSizeList(child, width) = field.data_type() else {
        return Err(Error::failed(format!("`{}` is not a vector", field.name())));
    };
    let rows = sources.first().map_or(0, |(_, column)| column.len());
    let null_count = |row: usize| {
        sources
            .iter()
            .filter(|(_, column)| column.is_null(row))
            .count()
    };
    let any_null = sources.iter().any(|(_, column)| column.null_count() > 0);
    let mut nulls = None;
    if any_null {
        if let Some(row) = (0..rows).find(|row| ![0, sources.len()].contains(&null_count(*row))) {
            let name = sources
                .iter()
                .find(|(_, column)| column.is_null(row))
                .map_or("", |(name, _)| name);
            return Err(Error::failed(format!(
                "column `{name}` is null at {}, but other coordinates of `{}` are not",
                place(row),
                field.name()
            ))
            .hint("fill in the value, or make all coordinates in the row null"));
        }
        nulls = Some(arrow::buffer::NullBuffer::from_iter(
            (0..rows).map(|row| null_count(row) == 0),
        ));
    }
    let converted = sources
        .iter()
        .map(|(name, column)| exact(name, column, child.data_type(), place))
        .collect::<Result<Vec<_>>>()?;
    let columns: Vec<&dyn Array> = converted.iter().map(AsRef::as_ref).collect();
    let order: Vec<(usize, usize)> = (0..rows)
        .flat_map(|row| (0..columns.len()).map(move |column| (column, row)))
        .collect();
    let values = interleave(&columns, &order)?;
    let values = arrow::array::make_array(values.to_data().into_builder().nulls(None).build()?);
    Ok(Arc::new(arrow::array::FixedSizeListArray::try_new(
        Arc::clone(child),
        *width,
        values,
        nulls,
    )?))
}

/// Converts numbers to the type `to`; `place` names a row in messages.
///
/// # Errors
/// Returns an error if the type does not hold a number exactly.
fn exact(
    name: &str,
    column: &ArrayRef,
    to: &DataType,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    let converted = cast(column, to)?;
    if column.data_type().is_integer() && to.is_floating() {
        let back = cast(&converted, column.data_type())?;
        let same = arrow::compute::kernels::cmp::not_distinct(&back, column)?;
        if let Some(row) = (0..same.len()).find(|row| !same.value(*row)) {
            return Err(Error::failed(format!(
                "column `{name}` holds a whole number at {} that {to} cannot hold, which the \
                 other coordinates need",
                place(row)
            ))
            .hint("give all columns of a vector one type in the source"));
        }
    }
    Ok(converted)
}

/// Converts a column of flags to booleans. The flags of final rows are false, whatever the source
/// says. `place` names a row in messages.
///
/// # Errors
/// Returns an error if a flag is not true or false, 1 or 0.
pub(crate) fn flags(
    name: &str,
    column: &ArrayRef,
    is_final: &[bool],
    place: &dyn Fn(usize) -> String,
) -> Result<Vec<bool>> {
    let values = cast(column, &DataType::Float64)?;
    let values = values.as_primitive::<Float64Type>();
    let flag = |row: usize| {
        if is_final.get(row) == Some(&true) {
            return Ok(false);
        }
        let wrong = |what: String| {
            Error::failed(format!(
                "column `{name}` is {what} at {}, but a flag is true or false, 1 or 0",
                place(row)
            ))
            .hint("correct the flags in the source: they mark where trajectories end")
        };
        match (values.is_valid(row), values.value(row)) {
            (false, _) => Err(wrong("null".to_owned())),
            (_, 0.0) => Ok(false),
            (_, 1.0) => Ok(true),
            (_, other) => Err(wrong(other.to_string())),
        }
    };
    (0..values.len()).map(flag).collect()
}
