//! Where the actions of windows come from.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use crate::dataset::schema::{action_source, step};
use crate::error::{Error, Result};

/// The sources of actions. A window of several has the first of them.
const STRONGEST: [&str; 4] = [
    action_source::PROXY,
    action_source::PATCHED,
    action_source::DERIVED,
    action_source::RECORDED,
];

/// The slots of windows, in order.
pub(super) struct Slots<'a> {
    /// The row of steps that each slot shows.
    pub(super) rows: &'a [u64],
    /// Whether each slot is padding.
    pub(super) padded: &'a [bool],
    /// The number of slots of a window.
    pub(super) length: usize,
}

/// Returns the columns of `steps` that say where actions come from, or none if windows have no
/// actions.
pub(super) fn names(steps: &Schema, has_actions: bool) -> Vec<&'static str> {
    let is_text = |name: &&str| {
        let field = steps.field_with_name(name);
        field.is_ok_and(|field| *field.data_type() == DataType::Utf8)
    };
    let names = [step::ACTION_SOURCE, step::ACTION_MODEL];
    names
        .into_iter()
        .filter(|name| has_actions && is_text(name))
        .collect()
}

/// Returns the column `name` without its values.
pub(super) fn field(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

/// Returns the column `name`, which says where actions come from, of windows.
pub(super) fn column(name: &str, steps: &RecordBatch, slots: &Slots) -> Result<ArrayRef> {
    let column = |name: &str| {
        let column = steps.column_by_name(name);
        column.ok_or_else(|| Error::failed(format!("the column `{name}` is missing")))
    };
    let text = column(name)?.as_string_opt::<i32>();
    let text = text.ok_or_else(|| Error::failed(format!("`{name}` is not a text column")))?;
    let action = column(step::ACTION)?;
    let said = |(rows, padded): (&[u64], &[bool])| -> Option<String> {
        let real = rows.iter().zip(padded).filter(|(_, padded)| !**padded);
        let real: Vec<usize> = real.map(|(row, _)| *row as usize).collect();
        if real.iter().any(|row| action.is_null(*row)) {
            return None;
        }
        let known = real.iter().filter(|row| text.is_valid(**row));
        let known: BTreeSet<&str> = known.map(|row| text.value(*row)).collect();
        if name == step::ACTION_SOURCE {
            // An action of which nothing is said was recorded.
            let strongest = STRONGEST.into_iter().find(|word| known.contains(word));
            return Some(strongest.unwrap_or(action_source::RECORDED).to_owned());
        }
        let ids: BTreeSet<&str> = known.into_iter().flat_map(|id| id.split('+')).collect();
        (!ids.is_empty()).then(|| Vec::from_iter(ids).join("+"))
    };
    let rows = slots.rows.chunks_exact(slots.length);
    let windows = rows.zip(slots.padded.chunks_exact(slots.length));
    Ok(Arc::new(windows.map(said).collect::<StringArray>()))
}
