//! What it means to write a column of steps: which may be written, and what changes of trajectories with it.

use arrow::datatypes::{DataType, Schema};

use crate::dataset::schema::{step, trajectory};
use crate::stage::Misfit;

/// The columns that say which row is which, and recorded actions, which never change.
pub(in crate::stage) const FIXED: [(&str, &str); 5] = [
    (
        step::TRAJECTORY_ID,
        "rows keep the trajectory they belong to",
    ),
    (step::STEP, "steps keep their place"),
    (step::IS_FINAL, "the final observation stays what it is"),
    (
        step::ACTION,
        "recorded actions never change: give the result another name, such as `my_action`",
    ),
    (
        step::ACTION_SOURCE,
        "where an action comes from is not a matter of opinion: give the result another name",
    ),
];

/// Refuses a name that cannot be written, `done` being what was to be done, such as `derived`.
pub(in crate::stage) fn refuse_fixed(name: &str, done: &str) -> Result<(), Misfit> {
    match FIXED.iter().find(|(fixed, _)| *fixed == name) {
        Some((_, why)) => Err(Misfit::new(format!("`{name}` cannot be {done}")).help(*why)),
        None => Ok(()),
    }
}

/// Whether the column `name` may hold values of `data_type`: a reward is a number, flags are true or false.
pub(in crate::stage) fn fits(name: &str, data_type: &DataType) -> bool {
    let flag = [step::TERMINATED, step::TRUNCATED].contains(&name);
    match data_type {
        DataType::Boolean => name != step::REWARD,
        other => !flag && (name != step::REWARD || other.is_numeric()),
    }
}

/// Columns of trajectories whose values change with these columns of steps.
pub(in crate::stage) fn changed<'a>(columns: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut changed = vec![trajectory::CONTENT_HASH.to_owned()];
    for name in columns {
        let of_column: &[&str] = match name {
            step::REWARD => &[trajectory::RETURN],
            step::TERMINATED => &[trajectory::TERMINATED],
            step::TRUNCATED => &[trajectory::TRUNCATED],
            step::OBSERVATION => &[trajectory::OBSERVATION_SUM, trajectory::OBSERVATION_SUM_SQ],
            _ => &[],
        };
        changed.extend(of_column.iter().map(|name| (*name).to_owned()));
    }
    changed
}

/// Every column that is computed from steps, and `more`: what changes with the rows themselves.
pub(in crate::stage) fn everything(more: &[&str]) -> Vec<String> {
    trajectory::INTRINSIC
        .iter()
        .chain(more)
        .map(|name| (*name).to_owned())
        .collect()
}

/// `schema` with these columns nullable, where it has them.
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
