//! Finds and replaces nulls, for formats that have none.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, FixedSizeListArray, Int64Array, StringArray,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Field};

use crate::dataset::block::elements;
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

/// Returns the name and the row of the first part of the column `field` that is null where the
/// whole is not: a field of a struct, as `NAME/FIELD`, or an element of a vector. Parts that
/// `is_written` rejects do not count.
pub(crate) fn null_part(
    column: &ArrayRef,
    field: &Field,
    is_written: fn(&Field) -> bool,
) -> Option<(String, usize)> {
    part(column, field, field.name(), None, is_written)
}

/// Does the same for the part `name` of a column, on the rows that `outer` accepts.
fn part(
    column: &ArrayRef,
    field: &Field,
    name: &str,
    outer: Option<&NullBuffer>,
    is_written: fn(&Field) -> bool,
) -> Option<(String, usize)> {
    if !is_written(field) {
        return None;
    }
    let valid = NullBuffer::union(outer, column.nulls());
    let counts = |row: &usize| valid.as_ref().is_none_or(|valid| valid.is_valid(*row));
    if let Some(structs) = column.as_struct_opt() {
        let parts = structs.fields().iter().zip(structs.columns());
        return parts
            .filter(|(field, _)| is_written(field))
            .find_map(|(field, child)| {
                let name = format!("{name}/{}", field.name());
                let own = (0..child.len()).find(|row| child.is_null(*row) && counts(row));
                match own {
                    Some(row) => Some((name, row)),
                    None => part(child, field, &name, valid.as_ref(), is_written),
                }
            });
    }
    let vectors = column.as_fixed_size_list_opt()?;
    let (values, width) = (elements(vectors), vectors.value_length() as usize);
    let nulls = values.nulls().filter(|nulls| nulls.null_count() > 0)?;
    let has_null = |row: &usize| (row * width..(row + 1) * width).any(|at| nulls.is_null(at));
    let row = (0..vectors.len()).find(|row| counts(row) && has_null(row))?;
    Some((name.to_owned(), row))
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

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Int32Array, StructArray};
    use arrow::datatypes::Fields;

    use super::*;

    fn found(column: &ArrayRef, name: &str) -> Option<(String, usize)> {
        let field = Field::new(name, column.data_type().clone(), true);
        null_part(column, &field, is_plain)
    }

    fn of_fields(columns: Vec<(&str, ArrayRef)>, valid: Vec<bool>) -> ArrayRef {
        let fields = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
        let fields: Fields = fields.collect();
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        Arc::new(StructArray::new(
            fields,
            columns,
            Some(NullBuffer::from(valid)),
        ))
    }

    #[test]
    fn a_part_is_null_only_where_the_whole_is_not() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, None]));
        let only = |valid| of_fields(vec![("a", Arc::clone(&numbers))], valid);
        assert_eq!(found(&numbers, "x"), None);
        assert_eq!(found(&only(vec![true, false, false]), "x"), None);
        assert_eq!(
            found(&only(vec![true, false, true]), "x"),
            Some(("x/a".to_owned(), 2))
        );
        // A struct in a struct: the inner one is null on row 1, and so is the outer one.
        let nested = of_fields(
            vec![("y", only(vec![true, false, true]))],
            vec![true, false, true],
        );
        assert_eq!(found(&nested, "x"), Some(("x/y/a".to_owned(), 2)));
        assert_eq!(found(&nested.slice(0, 2), "x"), None);
    }

    #[test]
    fn elements_of_null_vectors_do_not_count() {
        let values = Float32Array::from(vec![Some(1.0), Some(2.0), None, None, Some(3.0), None]);
        let vectors = |valid: Vec<bool>| -> ArrayRef {
            Arc::new(FixedSizeListArray::new(
                Arc::new(Field::new("element", DataType::Float32, true)),
                2,
                Arc::new(values.clone()),
                Some(NullBuffer::from(valid)),
            ))
        };
        assert_eq!(found(&vectors(vec![true, false, false]), "v"), None);
        let last = vectors(vec![true, false, true]);
        assert_eq!(found(&last, "v"), Some(("v".to_owned(), 2)));
        assert_eq!(found(&last.slice(1, 2), "v"), Some(("v".to_owned(), 1)));
    }
}
