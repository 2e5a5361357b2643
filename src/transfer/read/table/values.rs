//! The values of a table's columns as columns of steps: lists as vectors, single columns joined, flags.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};

use crate::dataset::schema;
use crate::error::{Error, Result};

pub(super) fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _)
    )
}

/// The element of a list that can be a vector.
pub(super) fn element(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Some(child.data_type())
                .filter(|element| element.is_numeric() || **element == DataType::Boolean)
        }
        _ => None,
    }
}

/// Width of every list in `column` that is not null; `None` where they differ, hold nulls or are no numbers, and
/// `Some(None)` where there is none.
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

/// Any kind of list as a list with 32-bit offsets.
fn as_list(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::LargeList(child) | DataType::FixedSizeList(child, _) => {
            Ok(cast(column, &DataType::List(Arc::clone(child)))?)
        }
        _ => Ok(Arc::clone(column)),
    }
}

/// The values of one column of steps, made of the columns `sources`.
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
            vector(name, column, child, *width, place)
        }
        DataType::FixedSizeList(_, _) => joined(sources, field, place),
        single if is_list(column.data_type()) && single.is_numeric() => {
            let child = Arc::new(Field::new("element", single.clone(), false));
            let vector = vector(name, column, &child, 1, place)?;
            let vector = vector.as_fixed_size_list();
            let values = vector
                .values()
                .to_data()
                .into_builder()
                .nulls(vector.nulls().cloned());
            Ok(arrow::array::make_array(values.build()?))
        }
        other if other == column.data_type() => Ok(Arc::clone(column)),
        other => Ok(cast(column, other)?),
    }
}

/// Lists of one length as vectors.
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
                "column `{name}` holds {} values at {} where the first vector has {width}",
                list.value_length(row),
                place(row)
            ))
            .hint("the vectors of a column must all have one length"));
        }
        if has_nulls && list.value(row).null_count() > 0 {
            return Err(Error::failed(format!(
                "column `{name}` holds a null inside its vector at {}",
                place(row)
            ))
            .hint("fill it, or make the whole vector null"));
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

/// One column for each coordinate as vectors: null where all of them are.
fn joined(
    sources: &[(&str, &ArrayRef)],
    field: &Field,
    place: &dyn Fn(usize) -> String,
) -> Result<ArrayRef> {
    let DataType::FixedSizeList(child, width) = field.data_type() else {
        return Err(Error::failed(format!("`{}` is no vector", field.name())));
    };
    let rows = sources.first().map_or(0, |(_, column)| column.len());
    let is_null = |row: usize| {
        sources
            .iter()
            .filter(|(_, column)| column.is_null(row))
            .count()
    };
    let any_null = sources.iter().any(|(_, column)| column.null_count() > 0);
    let mut nulls = None;
    if any_null {
        if let Some(row) = (0..rows).find(|row| ![0, sources.len()].contains(&is_null(*row))) {
            let name = sources
                .iter()
                .find(|(_, column)| column.is_null(row))
                .map_or("", |(name, _)| name);
            return Err(Error::failed(format!(
                "column `{name}` is null at {} where other coordinates of `{}` are not",
                place(row),
                field.name()
            )));
        }
        nulls = Some(arrow::buffer::NullBuffer::from_iter(
            (0..rows).map(|row| is_null(row) == 0),
        ));
    }
    let columns: Vec<&dyn Array> = sources.iter().map(|(_, column)| column.as_ref()).collect();
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

/// A column of flags; on final rows they are false, whatever the source says.
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
                "column `{name}` is {what} at {}: a flag is true or false, 1 or 0",
                place(row)
            ))
            .hint("correct the flags in the source: they say where trajectories end")
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
