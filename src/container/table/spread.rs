//! A column of lists of structs, which is read as a list for each field of the structs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray};
use arrow::compute::{cast, is_null, nullif};
use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::error::Result;

/// Returns the fields of the structs in the lists of the column `field`; `None` if it holds
/// anything else.
fn parts(field: &Field) -> Option<&Fields> {
    match field.data_type() {
        DataType::List(child) | DataType::LargeList(child) => match child.data_type() {
            DataType::Struct(fields) => Some(fields),
            _ => None,
        },
        _ => None,
    }
}

/// Returns `schema` with a list for each field of the structs in column `at`; `None` if the column
/// holds anything else, or if two columns would have one name.
pub(super) fn schema(schema: &Schema, at: usize) -> Option<Schema> {
    let parts = parts(schema.field(at))?;
    let others = schema.fields().iter().enumerate();
    let others = others.filter(|(index, _)| *index != at);
    let mut fields: Vec<Field> = others.map(|(_, field)| field.as_ref().clone()).collect();
    for part in parts {
        if fields.iter().any(|field| field.name() == part.name()) {
            return None;
        }
        let child = Field::new_list_field(part.data_type().clone(), true);
        fields.push(Field::new_list(part.name(), child, true));
    }
    Some(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Returns a list for each field of the structs in `column`. A field is null where its struct is.
///
/// # Errors
/// Returns an error if the lists have too many elements.
pub(super) fn columns(column: &ArrayRef) -> Result<Vec<ArrayRef>> {
    let column = match column.data_type() {
        DataType::LargeList(child) => cast(column, &DataType::List(Arc::clone(child)))?,
        _ => Arc::clone(column),
    };
    let lists = column.as_list::<i32>();
    let structs = lists.values().as_struct();
    let missing = is_null(structs)?;
    let list = |part: &ArrayRef| -> Result<ArrayRef> {
        let part = match structs.null_count() {
            0 => Arc::clone(part),
            _ => nullif(part, &missing)?,
        };
        let child = Arc::new(Field::new_list_field(part.data_type().clone(), true));
        let (offsets, valid) = (lists.offsets().clone(), lists.nulls().cloned());
        Ok(Arc::new(ListArray::try_new(child, offsets, part, valid)?))
    };
    structs.columns().iter().map(list).collect()
}
