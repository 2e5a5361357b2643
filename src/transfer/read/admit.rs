//! The types that columns of a dataset have. Whatever has none is left out, with the reason.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};

use crate::container::types::{child, is_decimal};

/// Returns the type that a dataset has for a column of the type `data_type`, of which there is only
/// one of its kind: decimals become float64, and all other types stay.
///
/// # Errors
/// Returns the reason if a dataset cannot have the column.
pub(crate) fn admitted(data_type: &DataType) -> Result<DataType, String> {
    let field = |field: &FieldRef| -> Result<FieldRef, String> {
        let data_type = admitted(field.data_type())?;
        Ok(Arc::new(field.as_ref().clone().with_data_type(data_type)))
    };
    Ok(match data_type {
        DataType::Null => return Err("all its values are null".to_owned()),
        DataType::Interval(_) => {
            return Err("a dataset has no intervals of months and days".to_owned());
        }
        DataType::Union(..) => return Err("a dataset has no unions of types".to_owned()),
        decimal if is_decimal(decimal) => DataType::Float64,
        DataType::Struct(fields) => {
            let within = |child: &FieldRef| {
                field(child).map_err(|reason| format!("in field `{}`, {reason}", child.name()))
            };
            DataType::Struct(fields.iter().map(within).collect::<Result<_, _>>()?)
        }
        DataType::FixedSizeList(child, width) => DataType::FixedSizeList(field(child)?, *width),
        other => match child(other) {
            Some(child) => DataType::List(field(child)?),
            None => other.clone(),
        },
    })
}
