//! Columns of lists, in one another too, whose rows all have the same shape.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field};

use crate::dataset::block::elements;
use crate::dataset::schema;
use crate::error::{Error, Result};
use crate::transfer::write::OutgoingDataset;
use crate::transfer::write::nulls::filled;

/// The shape of the lists of a column.
enum Shape {
    /// All rows are null.
    Unknown,
    /// The lengths of the lists, from the outermost to the innermost.
    Known(Vec<usize>),
    /// The lists differ in length, or contain nulls.
    Ragged,
}

/// Returns the columns of lists of numbers whose rows all have the same shape, each with the field
/// of vectors that it becomes.
pub(crate) fn nested_vectors(outgoing: &OutgoingDataset) -> Result<HashMap<String, Field>> {
    let mut shapes: HashMap<&str, Shape> = outgoing
        .steps()
        .fields()
        .iter()
        .filter(|field| matches!(field.data_type(), DataType::List(_)))
        .filter(|field| leaf(field.data_type()).is_some())
        .map(|field| (field.name().as_str(), Shape::Unknown))
        .collect();
    if shapes.is_empty() {
        return Ok(HashMap::new());
    }
    let columns: Vec<&str> = shapes.keys().copied().collect();
    for trajectory in outgoing.pass(Some(&columns))? {
        let trajectory = trajectory?;
        for (name, shape) in &mut shapes {
            let Some(column) = trajectory.column(name) else {
                continue;
            };
            *shape = match (&*shape, shape_of(&column, true)) {
                (Shape::Unknown, found) => found,
                (_, Shape::Unknown) => continue,
                (Shape::Known(known), Shape::Known(found)) if *known == found => continue,
                _ => Shape::Ragged,
            };
        }
    }
    let vector = |(name, shape): (&str, Shape)| {
        let Shape::Known(shape) = shape else {
            return None;
        };
        let width = i32::try_from(shape.iter().product::<usize>()).ok()?;
        let field = outgoing.steps().field_with_name(name).ok()?;
        let element = leaf(field.data_type())?;
        let axes: Vec<String> = shape.iter().map(usize::to_string).collect();
        let vector = Field::new(name, schema::vector(element.clone(), width), true)
            .with_metadata([("shape".to_owned(), axes.join(","))].into());
        Some((name.to_owned(), vector))
    };
    Ok(shapes.into_iter().filter_map(vector).collect())
}

/// Returns the type of the elements of the innermost lists, if they are numbers or booleans.
fn leaf(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(child) | DataType::FixedSizeList(child, _) => leaf(child.data_type()),
        other => Some(other).filter(|one| one.is_numeric() || **one == DataType::Boolean),
    }
}

/// Returns the shape of the rows of `values` that are not null. Only rows, which are `outermost`,
/// may be null.
fn shape_of(values: &ArrayRef, outermost: bool) -> Shape {
    if values.null_count() > 0 && !outermost {
        return Shape::Ragged;
    }
    let (width, inner) = match values.data_type() {
        DataType::List(_) => {
            let list = values.as_list::<i32>();
            let lengths: Vec<(usize, bool)> = list
                .offsets()
                .lengths()
                .enumerate()
                .map(|(row, length)| (length, list.is_valid(row)))
                .collect();
            let Some((width, _)) = lengths.iter().find(|(_, is_valid)| *is_valid).copied() else {
                return Shape::Unknown;
            };
            let fits = |(length, is_valid)| length == if is_valid { width } else { 0 };
            if width == 0 || !lengths.into_iter().all(fits) {
                return Shape::Ragged;
            }
            (width, inner(values))
        }
        DataType::FixedSizeList(_, width) => (*width as usize, inner(values)),
        _ => return Shape::Known(Vec::new()),
    };
    match shape_of(&inner, false) {
        Shape::Known(mut shape) => {
            shape.insert(0, width);
            Shape::Known(shape)
        }
        other => other,
    }
}

/// Returns the elements of lists.
fn inner(values: &ArrayRef) -> ArrayRef {
    match values.as_list_opt::<i32>() {
        Some(list) => {
            let offsets = list.value_offsets();
            let ends = [offsets.first(), offsets.last()].map(|end| *end.unwrap_or(&0) as usize);
            list.values().slice(ends[0], ends[1] - ends[0])
        }
        None => elements(values.as_fixed_size_list()),
    }
}

/// Converts lists of one shape, with `width` elements in all, to vectors.
pub(crate) fn vectors(lists: &ArrayRef, width: usize) -> Result<ArrayRef> {
    let mut values = Arc::clone(lists);
    while matches!(
        values.data_type(),
        DataType::List(_) | DataType::FixedSizeList(..)
    ) {
        values = inner(&values);
    }
    // A null row has no elements.
    let mut next = 0..values.len() as u64;
    let places: UInt64Array = (0..lists.len())
        .flat_map(|row| std::iter::repeat_n(lists.is_valid(row), width))
        .map(|is_valid| is_valid.then(|| next.next()).flatten())
        .collect();
    let values = filled(&take(&values, &places, None)?, "")?;
    let width = i32::try_from(width)
        .map_err(|_| Error::failed(format!("a vector of {width} numbers is too wide")))?;
    let DataType::FixedSizeList(element, _) = schema::vector(values.data_type().clone(), width)
    else {
        return Ok(values);
    };
    let nulls = lists.nulls().cloned();
    Ok(Arc::new(FixedSizeListArray::try_new(
        element, width, values, nulls,
    )?))
}
