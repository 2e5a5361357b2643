//! The types that columns of a dataset have. Whatever has none is left out, with the reason.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields};

use crate::container::types::{child, is_decimal};
use crate::dataset::Account;

/// Returns the type that a dataset has for the column `name` of the type `data_type`, of which
/// there is only one of its kind: decimals become float64, and all other types stay. The fields of
/// structs that a dataset cannot have are added to `account`.
///
/// # Errors
/// Returns the reason if a dataset cannot have the column.
pub(crate) fn admitted(
    name: &str,
    data_type: &DataType,
    account: &mut Account,
) -> Result<DataType, String> {
    let list = |child: &FieldRef, account: &mut Account| -> Result<FieldRef, String> {
        if *child.data_type() == DataType::Null {
            return Err("its lists hold no values".to_owned());
        }
        let data_type = admitted(name, child.data_type(), account)?;
        Ok(Arc::new(child.as_ref().clone().with_data_type(data_type)))
    };
    Ok(match data_type {
        DataType::Null => return Err("all its values are null".to_owned()),
        DataType::Interval(_) => {
            return Err("a dataset has no intervals of months and days".to_owned());
        }
        DataType::Union(..) => return Err("a dataset has no unions of types".to_owned()),
        decimal if is_decimal(decimal) => DataType::Float64,
        DataType::Struct(fields) => DataType::Struct(parts(name, fields, account)?),
        DataType::FixedSizeList(child, width) => {
            DataType::FixedSizeList(list(child, account)?, *width)
        }
        other => match child(other) {
            Some(child) => DataType::List(list(child, account)?),
            None => other.clone(),
        },
    })
}

/// Returns the fields that a dataset has for the struct `name`.
fn parts(name: &str, fields: &Fields, account: &mut Account) -> Result<Fields, String> {
    let (mut kept, mut left_out) = (Vec::new(), Account::default());
    for field in fields {
        let part = format!("{name}/{}", field.name());
        match admitted(&part, field.data_type(), &mut left_out) {
            Ok(data_type) => {
                kept.push(Arc::new(field.as_ref().clone().with_data_type(data_type)));
            }
            Err(reason) => left_out.leave_out(part, reason),
        }
    }
    if let (true, Some(first)) = (kept.is_empty(), left_out.left_out.first()) {
        let reason = &first.reason;
        return Err(format!("of `{}`, {reason}", first.name));
    }
    account.left_out.extend(left_out.left_out);
    Ok(kept.into())
}
