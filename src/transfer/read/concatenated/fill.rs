//! How far the arrays of a replay buffer are filled.

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde_json::{Map, Value};

use crate::container::arrays::{StoredArray, whole_column};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};

/// Names of the number of rows that are filled.
const SIZE: [&str; 4] = ["size", "_size", "len", "_len"];

/// Names of the row that is written next.
const CURSOR: [&str; 6] = ["ptr", "pos", "position", "cursor", "_cursor", "idx"];

/// Names of the number of rows that there are.
const CAPACITY: [&str; 4] = ["capacity", "max_size", "buffer_size", "max_len"];

/// Whether all rows are filled.
const FULL: &str = "full";

/// Whether a value of this name says how far arrays are filled.
pub(super) fn is_fill(name: &str) -> bool {
    SIZE.iter()
        .chain(&CURSOR)
        .chain(&CAPACITY)
        .chain(&[FULL])
        .any(|known| *known == name)
}

/// Rows that hold nothing.
pub(super) struct Trimmed {
    /// What they are called.
    pub(super) name: String,
    /// Why they are left out.
    pub(super) reason: String,
}

/// Moves arrays with one value that says how far the others are filled to `metadata`.
fn take_values(arrays: &mut Vec<StoredArray>, metadata: &mut Map<String, Value>) -> Result<()> {
    let is_value = |array: &mut StoredArray| {
        let layout = &array.layout;
        let one = layout.rows == 1 && layout.width() == 1 && layout.element != DataType::Null;
        one && is_fill(&layout.name)
    };
    for mut array in arrays.extract_if(.., is_value) {
        let bytes = array.reader.read(1)?;
        array.layout.row.clear();
        let (_, column) = whole_column(&array.layout.name, &array.layout, bytes)?;
        let value = cast(&column, &DataType::Float64)?;
        let value = value.as_primitive::<Float64Type>().value(0);
        let value = match value.fract() == 0.0 && value.abs() < 9e15 {
            true => Value::from(value as i64),
            false => Value::from(value),
        };
        metadata.insert(array.layout.name, value);
    }
    Ok(())
}

/// Cuts `arrays` to the rows that are filled, if single values say how many: a size with a cursor,
/// a capacity or `full`, or a cursor with `full`.
///
/// # Errors
/// Returns an error if the values contradict each other, if the oldest row is not the first, or if
/// a size or a cursor alone leaves open how many rows are filled.
pub(super) fn trim(
    arrays: &mut Vec<StoredArray>,
    metadata: &mut Map<String, Value>,
) -> Result<Option<Trimmed>> {
    if arrays.iter().any(|array| array.layout.rows > 1) {
        take_values(arrays, metadata)?;
    }
    let found = |names: &[&'static str]| {
        let whole = |value: &Value| match value {
            Value::Bool(flag) => Some(u64::from(*flag)),
            Value::Number(number) => number.as_u64().or_else(|| {
                number
                    .as_f64()
                    .filter(|n| n.fract() == 0.0 && *n >= 0.0)
                    .map(|n| n as u64)
            }),
            _ => None,
        };
        names
            .iter()
            .find_map(|name| Some((*name, metadata.get(*name).and_then(whole)?)))
    };
    let (size, cursor) = (found(&SIZE), found(&CURSOR));
    let (capacity, full) = (found(&CAPACITY), found(&[FULL]));
    let Some(rows) = arrays.iter().map(|array| array.layout.rows).max() else {
        return Ok(None);
    };
    let (name, filled) = match (size, cursor, full, capacity) {
        (Some(size), Some(_), _, _) | (Some(size), _, Some(_), _) | (Some(size), _, _, Some(_)) => {
            size
        }
        (None, Some(_), Some((name, 1)), _) => (name, rows),
        (None, Some(cursor), Some((_, 0)), _) => cursor,
        (Some((name, filled)), ..) | (_, Some((name, filled)), ..)
            if filled > 0 && filled < rows =>
        {
            return Err(Error::failed(format!(
                "`{name}` is {}, but the arrays have {}, and nothing else says how many of them \
                 are filled",
                number(filled),
                count(rows, "row")
            ))
            .hint(format!(
                "if all rows are filled, leave the value out with `--skip {name}`; otherwise cut \
                 the arrays to the filled rows, or store the number of rows as `capacity` and the \
                 number of filled rows as `size`"
            )));
        }
        _ => return Ok(None),
    };
    let contradiction = |what: String| {
        Error::failed(what).hint(
            "the file declares how far its arrays are filled, and contradicts itself: write it \
             again, or leave out the wrong value with `--skip`",
        )
    };
    if filled > rows {
        return Err(contradiction(format!(
            "`{name}` is {}, but the arrays have {}",
            number(filled),
            count(rows, "row")
        )));
    }
    if let Some((other, cursor)) = cursor {
        if filled == rows && cursor % rows.max(1) != 0 {
            return Err(Error::failed(format!(
                "the buffer is full, and `{other}` is {}: its oldest row is not the first",
                number(cursor)
            ))
            .hint("roll the arrays by this number of rows before they are saved, oldest first"));
        }
        if filled < rows && cursor != filled {
            return Err(contradiction(format!(
                "`{name}` is {}, but `{other}` is {}",
                number(filled),
                number(cursor)
            )));
        }
    }
    if filled == rows {
        return Ok(None);
    }
    for array in arrays.iter_mut().filter(|array| array.layout.rows == rows) {
        array.layout.rows = filled;
    }
    Ok(Some(Trimmed {
        name: format!("rows {filled} to {}", rows - 1),
        reason: format!("`{name}` says that {} are filled", count(filled, "row")),
    }))
}
