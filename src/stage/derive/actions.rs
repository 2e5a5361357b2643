//! Replaces actions by computed ones, which say so in their rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray, new_null_array};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Map, Value};

use crate::dataset::Block;
use crate::dataset::schema::{action_source, step, type_name};
use crate::error::Result;
use crate::stage::support::columns::refuse_taken;
use crate::stage::{Misfit, Tally};

/// The columns of steps that [`replaced`] reads, where they exist.
pub(super) const READS: [&str; 5] = [
    step::ACTION,
    step::ACTION_SOURCE,
    step::ACTION_STD,
    step::ACTION_MODEL,
    step::IS_FINAL,
];

/// Returns the column `name` that keeps the actions that are replaced.
pub(super) fn kept(
    name: &str,
    derived: &Map<String, Value>,
    steps: &Schema,
) -> Result<Field, Misfit> {
    let Ok(action) = steps.field_with_name(step::ACTION) else {
        return Err(Misfit::new(
            "there are no actions to keep: `steps` has no column `action`",
        ));
    };
    refuse_taken(name, steps)?;
    if derived.contains_key(name) {
        return Err(Misfit::new(format!("the stage derives `{name}` too"))
            .help("choose another name for the column with the original actions"));
    }
    Ok(action.clone().with_name(name).with_nullable(true))
}

/// Returns an error if actions cannot have this type.
pub(super) fn ensure_type(sql: &str, data_type: &DataType) -> Result<(), Misfit> {
    let fits = match data_type {
        DataType::FixedSizeList(child, _) => child.data_type().is_numeric(),
        other => other.is_integer(),
    };
    if fits {
        return Ok(());
    }
    Err(Misfit::new(format!(
        "`action` must be a vector or a whole number, but `{sql}` is {}",
        type_name(data_type)
    ))
    .help(
        "arithmetic on vectors, slices and array_concat(…) keep the width: \
         array_concat(action[1:3] - observation[1:3], action[4:4])",
    ))
}

/// Returns the column that says where actions come from.
pub(super) fn source() -> Field {
    Field::new(step::ACTION_SOURCE, DataType::Utf8, true)
}

/// Returns `block` with the actions `new`, which are the column `field`. Final rows get none.
pub(super) fn replaced(
    block: Block,
    field: &Field,
    new: &ArrayRef,
    tally: &mut Tally,
) -> Result<Block> {
    let new = nullif(new, block.is_final()?)?;
    let column = |name: &str| block.steps.column_by_name(name);
    let old = column(step::ACTION);
    let said = column(step::ACTION_SOURCE).and_then(|column| column.as_string_opt::<i32>());
    let predicted = |row: usize| {
        said.is_some_and(|said| said.is_valid(row) && said.value(row) == action_source::PROXY)
            && old.is_some_and(|old| old.is_valid(row))
    };
    let word = |row: usize| match (new.is_valid(row), predicted(row)) {
        (false, _) => None,
        // What is computed from a prediction is a prediction.
        (true, true) => Some(action_source::PROXY),
        (true, false) => Some(action_source::DERIVED),
    };
    let words: StringArray = (0..new.len()).map(word).collect();
    let steps = |holds: &dyn Fn(usize) -> bool| (0..new.len()).filter(|row| holds(*row)).count();
    let lost = steps(&|row| new.is_null(row) && old.is_some_and(|old| old.is_valid(row)));
    tally.count("actions derived", (new.len() - new.null_count()) as u64);
    tally.count("actions that became null", lost as u64);
    // The standard deviation is that of the old action.
    let std = block
        .steps
        .schema()
        .field_with_name(step::ACTION_STD)
        .ok()
        .cloned();
    let rows = block.steps.num_rows();
    let model = block
        .steps
        .schema()
        .field_with_name(step::ACTION_MODEL)
        .ok()
        .cloned();
    let model = model.zip(column(step::ACTION_MODEL).cloned());
    let named = words.iter().map(|word| word == Some(action_source::PROXY));
    let unnamed: BooleanArray = named.map(|named| Some(!named)).collect();
    let mut block = block.with_step_column(field.clone(), new)?;
    if let Some((model, ids)) = model {
        block = block.with_step_column(model.with_nullable(true), nullif(&ids, &unnamed)?)?;
    }
    block = block.with_step_column(source(), Arc::new(words))?;
    if let Some(std) = std {
        let none = new_null_array(std.data_type(), rows);
        block = block.with_step_column(std.with_nullable(true), none)?;
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Float32Type;

    use crate::stage::derive::STAGE;
    use crate::stage::support::fixture;

    #[test]
    fn replaced_actions_say_so_and_predictions_stay_predictions() {
        let block = fixture::block(&[(1, 3, true)]);
        let words = StringArray::from(vec![Some("recorded"), Some("proxy"), None, None]);
        let block = block.with_step_column(source(), Arc::new(words)).unwrap();
        let steps = block.steps.schema();
        let options = r#"{
            "action": "observation[1:1] + 1", "replace_actions": "recorded_action"
        }"#;
        let trajectories = fixture::trajectories_schema();
        let derived = fixture::work(&STAGE, options, &steps, &trajectories)
            .1
            .unwrap();
        assert!(
            derived
                .changes()
                .trajectories
                .contains(&"labelled".to_owned())
        );
        let mut tally = Tally::default();
        let before = block.steps.column_by_name("action").unwrap().clone();
        let after = derived.apply(block, &mut tally).unwrap();
        assert_eq!(after.steps.schema(), derived.steps());
        let column = |name: &str| after.steps.column_by_name(name).unwrap();
        assert_eq!(column("recorded_action"), &before);
        let action = column("action").as_fixed_size_list();
        assert_eq!(
            action.values().as_primitive::<Float32Type>().values()[..3],
            [1.0, 2.0, 3.0]
        );
        let said: Vec<Option<&str>> = column("action_source").as_string::<i32>().iter().collect();
        assert_eq!(said[0], Some("derived"));
        assert_eq!(
            said[1],
            if before.is_valid(1) {
                Some("proxy")
            } else {
                Some("derived")
            }
        );
        assert_eq!((said[3], action.is_null(3)), (None, true));
        assert_eq!(tally.counts["actions derived"], 3);
    }

    #[test]
    fn actions_are_replaced_only_where_the_pipeline_says_so() {
        let misfit = |options: &str| {
            let misfit = fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
            (misfit.path, misfit.message)
        };
        for (options, path, message) in [
            (
                r#"{"action": "observation"}"#,
                "action",
                "`action` cannot be derived",
            ),
            (
                r#"{"action": "observation", "replace_actions": false}"#,
                "action",
                "`action` cannot be derived",
            ),
            (
                r#"{"x": "observation", "replace_actions": true}"#,
                "replace_actions",
                "`replace_actions` needs a new `action` in the same `derive`",
            ),
            (
                r#"{"action": "observation", "replace_actions": "reward"}"#,
                "replace_actions",
                "`steps` already has a column `reward`",
            ),
            (
                r#"{"action": "observation", "replace_actions": "action_source"}"#,
                "replace_actions",
                "`action_source` has a fixed meaning, which is not that of original actions",
            ),
            (
                r#"{"action": "reward", "replace_actions": true}"#,
                "action",
                "`action` must be a vector or a whole number, but `reward` is float32",
            ),
        ] {
            assert_eq!(misfit(options), (vec![path.to_owned()], message.to_owned()));
        }
    }
}
