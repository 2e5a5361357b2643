//! The types of HDF5 arrays and single values.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::DataType;
use hdf5_pure::{AttrValue, Datatype, DatatypeByteOrder};
use serde_json::Value;

use super::super::arrays::ArrayLayout;
use super::Dataset;
use crate::error::{Error, Result};

/// Whether the type is text.
pub(super) fn is_text(datatype: &Datatype) -> bool {
    matches!(
        datatype,
        Datatype::String { .. }
            | Datatype::VariableLength {
                is_string: true,
                ..
            }
    )
}

/// Returns the elements of an array of strings of fixed length as bytes, without the zeros that pad
/// them; `None` if all are texts.
pub(super) fn byte_strings(
    dataset: &Dataset,
    datatype: &Datatype,
) -> Result<Option<ArrayRef>, hdf5_pure::Error> {
    let Datatype::String { size, .. } = datatype else {
        return Ok(None);
    };
    let bytes = dataset.read_raw()?;
    let unpadded = |string: &'_ [u8]| {
        let padding = string.iter().rev().take_while(|byte| **byte == 0).count();
        string.len() - padding
    };
    let strings = bytes.chunks_exact((*size as usize).max(1));
    let strings = strings.map(|string| &string[..unpadded(string)]);
    if strings
        .clone()
        .all(|string| std::str::from_utf8(string).is_ok())
    {
        return Ok(None);
    }
    Ok(Some(Arc::new(BinaryArray::from_iter_values(strings))))
}

/// Returns an attribute as JSON; `None` if JSON cannot hold it. Arrays become lists of all their
/// values.
pub(super) fn attribute(value: &AttrValue, datatype: &Datatype) -> Option<Value> {
    let flags = matches!(datatype, Datatype::Enumeration { size: 1, members, .. }
        if members.len() <= 2);
    // JSON has no number for infinity and for what is not a number.
    let float = |value: f64| match Value::from(value) {
        Value::Null => Value::from(value.to_string()),
        number => number,
    };
    let single = value
        .as_str()
        .map(Value::from)
        .or_else(|| {
            value
                .as_i64()
                .filter(|_| flags)
                .map(|flag| Value::from(flag != 0))
        })
        .or_else(|| value.as_i64().map(Value::from))
        .or_else(|| value.as_u64().map(Value::from))
        .or_else(|| value.as_f64().map(float));
    single.or_else(|| {
        let texts = value.as_strings().map(<[String]>::to_vec).map(Value::from);
        let flagged = |values: Vec<i64>| {
            let flags = values.into_iter().map(|flag| Value::from(flag != 0));
            flags.collect()
        };
        texts
            .or_else(|| value.to_i64s().filter(|_| flags).map(flagged))
            .or_else(|| value.to_i64s().map(Value::from))
            .or_else(|| value.to_u64s().map(Value::from))
            .or_else(|| Some(value.to_f64s()?.into_iter().map(float).collect()))
    })
}

pub(super) fn layout(
    name: &str,
    datatype: &Datatype,
    rows: u64,
    row: &[u64],
) -> Result<ArrayLayout> {
    let (element, order) = element(datatype);
    let row = row
        .iter()
        .map(|axis| usize::try_from(*axis).ok())
        .collect::<Option<Vec<_>>>();
    let bytes = |row: &Vec<usize>| {
        row.iter()
            .try_fold(8_usize, |bytes, axis| bytes.checked_mul(*axis))
    };
    let row = row
        .filter(|row| bytes(row).is_some())
        .ok_or_else(|| Error::failed(format!("a row of `{name}` is too large for this machine")))?;
    let swap = if cfg!(target_endian = "big") {
        order == DatatypeByteOrder::LittleEndian
    } else {
        order == DatatypeByteOrder::BigEndian
    };
    let kind = if element == DataType::Null {
        class(datatype).to_owned()
    } else {
        element.to_string().to_lowercase()
    };
    Ok(ArrayLayout {
        name: name.to_owned(),
        element,
        kind,
        swap,
        rows,
        row,
        names: Vec::new(),
    })
}

/// Returns the type of column for a type of the file, and its byte order; `Null` if there is none.
fn element(datatype: &Datatype) -> (DataType, DatatypeByteOrder) {
    match datatype {
        Datatype::FixedPoint {
            size,
            byte_order,
            layout,
        } if u32::from(layout.bit_precision) == size * 8 => {
            let element = match (size, layout.signed) {
                (1, true) => DataType::Int8,
                (2, true) => DataType::Int16,
                (4, true) => DataType::Int32,
                (8, true) => DataType::Int64,
                (1, false) => DataType::UInt8,
                (2, false) => DataType::UInt16,
                (4, false) => DataType::UInt32,
                (8, false) => DataType::UInt64,
                _ => DataType::Null,
            };
            (element, *byte_order)
        }
        Datatype::FloatingPoint {
            size,
            byte_order,
            layout,
        } if *byte_order != DatatypeByteOrder::Vax => {
            let element = match (size, layout.exponent_size) {
                (2, 5) => DataType::Float16,
                (4, 8) => DataType::Float32,
                (8, 11) => DataType::Float64,
                _ => DataType::Null,
            };
            (element, *byte_order)
        }
        // Booleans are written as an enumeration of bytes, or as a bit field of one byte.
        Datatype::Enumeration {
            size: 1, members, ..
        } if members.len() <= 2 => (DataType::Boolean, DatatypeByteOrder::LittleEndian),
        Datatype::BitField { size: 1, .. } => (DataType::Boolean, DatatypeByteOrder::LittleEndian),
        Datatype::Enumeration { base_type, .. } => element(base_type),
        _ => (DataType::Null, DatatypeByteOrder::LittleEndian),
    }
}

pub(super) fn class(datatype: &Datatype) -> &'static str {
    match datatype {
        Datatype::String { .. }
        | Datatype::VariableLength {
            is_string: true, ..
        } => "text",
        Datatype::VariableLength { .. } => "sequences of varying length",
        Datatype::Compound { .. } => "compound values",
        Datatype::Reference { .. } => "references",
        Datatype::Array { .. } => "arrays",
        Datatype::Opaque { .. } => "opaque bytes",
        _ => "numbers of an unusual format",
    }
}

/// Returns a single value as JSON.
pub(super) fn scalar(dataset: &Dataset, datatype: &Datatype) -> Result<Value, hdf5_pure::Error> {
    let first = match datatype {
        Datatype::String { .. }
        | Datatype::VariableLength {
            is_string: true, ..
        } => dataset.read_string()?.into_iter().next().map(Value::from),
        Datatype::FixedPoint { .. } => dataset.read_i64()?.first().map(|value| Value::from(*value)),
        Datatype::FloatingPoint { .. } => {
            dataset.read_f64()?.first().map(|value| Value::from(*value))
        }
        Datatype::Enumeration { size: 1, .. } => dataset
            .read_raw()?
            .first()
            .map(|value| Value::from(*value != 0)),
        other => Some(Value::from(format!("not imported: {}", class(other)))),
    };
    Ok(first.unwrap_or(Value::Null))
}
