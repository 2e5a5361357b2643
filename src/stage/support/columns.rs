//! The columns of steps that a stage may write, and the columns of trajectories that change with
//! them.

use arrow::datatypes::{DataType, Schema};

use crate::dataset::schema::{step, trajectory};
use crate::stage::Misfit;

/// Columns that no stage may write, with a hint for each: those that identify a row, and recorded
/// actions.
pub(in crate::stage) const FIXED: [(&str, &str); 6] = [
    (
        step::TRAJECTORY_ID,
        "trajmill maintains `trajectory_id`; choose another name",
    ),
    (step::STEP, "trajmill maintains `step`; choose another name"),
    (
        step::IS_FINAL,
        "trajmill maintains `is_final`; choose another name",
    ),
    (
        step::ACTION,
        "recorded actions never change; choose another name, such as `my_action`",
    ),
    (
        step::ACTION_SOURCE,
        "trajmill maintains `action_source`; choose another name",
    ),
    (
        step::ACTION_MODEL,
        "trajmill maintains `action_model`; choose another name",
    ),
];

/// Returns an error if no stage may write the column `name`. `done` is what the stage does, such as
/// `derived`.
pub(in crate::stage) fn refuse_fixed(name: &str, done: &str) -> Result<(), Misfit> {
    match FIXED.iter().find(|(fixed, _)| *fixed == name) {
        Some((_, why)) => Err(Misfit::new(format!("`{name}` cannot be {done}")).help(*why)),
        None => Ok(()),
    }
}

/// Returns an error if a stage cannot keep the original actions in a new column `name` of `steps`.
pub(in crate::stage) fn refuse_taken(name: &str, steps: &Schema) -> Result<(), Misfit> {
    let fixed = step::CANONICAL
        .iter()
        .chain(&[step::ACTION_MODEL, step::TASK]);
    let message = if name.is_empty() {
        "a column cannot have an empty name".to_owned()
    } else if steps.index_of(name).is_ok() {
        format!("`steps` already has a column `{name}`")
    } else if fixed.into_iter().any(|fixed| *fixed == name) {
        format!("`{name}` has a fixed meaning, which is not that of original actions")
    } else {
        return Ok(());
    };
    let help = "choose another name for the column with the original actions";
    Err(Misfit::new(message).help(help))
}

/// Whether the column `name` may have this type: rewards are numbers, flags are booleans, other
/// columns are free.
pub(in crate::stage) fn fits(name: &str, data_type: &DataType) -> bool {
    let flag = [step::TERMINATED, step::TRUNCATED].contains(&name);
    match data_type {
        DataType::Boolean => name != step::REWARD,
        other => !flag && (name != step::REWARD || other.is_numeric()),
    }
}

/// Returns the columns of trajectories that change with these columns of steps.
pub(in crate::stage) fn changed<'a>(columns: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut changed = vec![trajectory::CONTENT_HASH.to_owned()];
    for name in columns {
        let of_column: &[&str] = match name {
            step::REWARD => &[trajectory::RETURN],
            step::TERMINATED => &[trajectory::TERMINATED],
            step::TRUNCATED => &[trajectory::TRUNCATED],
            step::OBSERVATION => &[trajectory::OBSERVATION_SUM, trajectory::OBSERVATION_SUM_SQ],
            step::ACTION => &[
                trajectory::LABELLED,
                trajectory::HAS_ACTIONS,
                trajectory::RECORDED_ACTIONS,
                trajectory::ACTION_SUM,
                trajectory::ACTION_SUM_SQ,
            ],
            step::TASK => &[trajectory::TASK],
            _ => &[],
        };
        changed.extend(of_column.iter().map(|name| (*name).to_owned()));
    }
    changed
}

/// Returns `more` and every column that is computed from steps: those that change if rows do.
pub(in crate::stage) fn everything(more: &[&str]) -> Vec<String> {
    trajectory::COMPUTED
        .iter()
        .chain([&trajectory::TASK])
        .chain(more)
        .map(|name| (*name).to_owned())
        .collect()
}

/// Returns `schema` with those of these columns that it has made nullable.
pub(in crate::stage) fn nullable(schema: &Schema, names: &[&str]) -> Schema {
    let field = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        if names.contains(&field.name().as_str()) {
            field.as_ref().clone().with_nullable(true).into()
        } else {
            field.clone()
        }
    };
    Schema::new_with_metadata(
        schema.fields().iter().map(field).collect::<Vec<_>>(),
        schema.metadata().clone(),
    )
}
