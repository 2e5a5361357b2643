//! Values of which only a part is null, such as one field of a struct, for formats that have no
//! place for them.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Field, Int64Type};

use crate::dataset::block::elements;
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};

/// Refuses values of which only a part is null, such as one field of a struct: the format has no
/// place to say which.
pub(super) fn refuse(
    about: &RecordBatch,
    steps: &RecordBatch,
    is_written: fn(&Field) -> bool,
) -> Result<()> {
    for (field, column) in steps.schema().fields().iter().zip(steps.columns()) {
        let Some((part, row)) = null_part(column, field, is_written) else {
            continue;
        };
        let id = about
            .column_by_name(trajectory::TRAJECTORY_ID)
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .map(|ids| ids.value(0));
        let whole = field.name();
        let error = Error::failed(format!(
            "trajectory {}: `{part}` is null in step {row}, but other parts of `{whole}` are not, \
             and the format has no place for that",
            id.unwrap_or_default()
        ));
        let error = match part.strip_prefix(&format!("{whole}/")) {
            Some(parts) => {
                let parts = parts.split('/').map(|part| format!("['{part}']"));
                let name = part.replace('/', "_");
                error.hint(format!(
                    "make the part a column with `derive: {{ {name}: \"{whole}{}\" }}`, whose \
                     nulls the format can mark, and leave `{whole}` out with \
                     `materialise: {{columns: …}}`",
                    parts.collect::<String>()
                ))
            }
            None => error.hint(format!(
                "leave `{whole}` out with `materialise: {{columns: …}}`, or replace its nulls with \
                 `derive`"
            )),
        };
        return Err(error);
    }
    Ok(())
}

/// Returns the name and the row of the first part of the column `field` that is null where the
/// whole is not: a field of a struct, as `NAME/FIELD`, or an element of a vector. Parts that
/// `is_written` rejects do not count.
fn null_part(
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{FixedSizeListArray, Float32Array, Int32Array, StructArray};
    use arrow::datatypes::{DataType, Fields};

    use super::*;

    fn found(column: &ArrayRef, name: &str) -> Option<(String, usize)> {
        let field = Field::new(name, column.data_type().clone(), true);
        null_part(column, &field, |_| true)
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
