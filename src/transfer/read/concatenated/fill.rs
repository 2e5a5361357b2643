//! How far the arrays of a replay buffer are filled.

use serde_json::{Map, Value};

use crate::container::arrays::StoredArray;
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

/// Cuts `arrays` to the rows that are filled, if single values in `metadata` say how many: a size
/// with a cursor or a capacity, or a cursor with `full`. One of these names alone says nothing.
///
/// # Errors
/// Returns an error if the values contradict each other, or if the oldest row is not the first.
pub(super) fn trim(
    arrays: &mut [StoredArray],
    metadata: &Map<String, Value>,
) -> Result<Option<Trimmed>> {
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
        (Some(size), Some(_), _, _) | (Some(size), _, _, Some(_)) => size,
        (None, Some(_), Some((name, 1)), _) => (name, rows),
        (None, Some(cursor), Some((_, 0)), _) => cursor,
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
