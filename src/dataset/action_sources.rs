//! Where the actions of a block come from.

use arrow::array::{Array, AsArray, StringArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::kernels::cmp::eq;

use super::Block;
use super::schema::{action_source, step};
use crate::error::Result;

/// A bit for each row that has an action from a source other than the data.
pub(super) struct ActionSources {
    pub(super) proxy: BooleanBuffer,
    pub(super) derived: BooleanBuffer,
    pub(super) patched: BooleanBuffer,
}

impl ActionSources {
    /// Returns `None` if every action of the block was recorded.
    pub(super) fn of(block: &Block) -> Result<Option<ActionSources>> {
        let source = block
            .steps
            .column_by_name(step::ACTION_SOURCE)
            .and_then(|column| column.as_string_opt::<i32>());
        let (Some(source), Some(action)) = (source, block.steps.column_by_name(step::ACTION))
        else {
            return Ok(None);
        };
        let there = NullBuffer::union(source.nulls(), action.nulls());
        let is = |word: &str| -> Result<BooleanBuffer> {
            let said = eq(source, &StringArray::new_scalar(word))?;
            Ok(there.as_ref().map_or_else(
                || said.values().clone(),
                |there| said.values() & there.inner(),
            ))
        };
        let proxy = is(action_source::PROXY)?;
        let others = match &there {
            Some(there) => there.inner() & &!&proxy,
            None => !&proxy,
        };
        // Nearly always all other actions were recorded, which one comparison each tells.
        if others
            .set_indices()
            .all(|row| source.value(row) == action_source::RECORDED)
        {
            let none = BooleanBuffer::new_unset(source.len());
            return Ok(Some(ActionSources {
                proxy,
                derived: none.clone(),
                patched: none,
            }));
        }
        Ok(Some(ActionSources {
            proxy,
            derived: is(action_source::DERIVED)?,
            patched: is(action_source::PATCHED)?,
        }))
    }
}
