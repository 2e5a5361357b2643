//! `check`: conditions that a result must satisfy before it is published.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Bound, Context, Misfit, Stage, options};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "check",
    role: super::Role::Check,
    schema: |generator| generator.subschema_for::<Check>(),
    bind,
    sample: r#"["count(*) > 0", "count(*) filter (where action is null and not is_final) = 0"]"#,
};

/// Conditions that the next result must satisfy before it is published. Each is an SQL aggregate,
/// such as `count(*) > 0`. If a condition is false or null, nothing is published and the exit code
/// is 4; with `warn: true`, the condition is reported and the result is published anyway. The same
/// applies if the condition of a `filter (where …)`, `bool_and` or `bool_or` in it is null for some
/// steps or trajectories, unless `nulls` is `ignore`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Check {
    /// Conditions on the rows of `steps`.
    Steps(Vec<String>),
    /// Conditions on the rows of `steps` and of `trajectories`.
    Both(CheckOptions),
}

/// Conditions on either table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckOptions {
    /// Conditions on the rows of `steps`, such as `min(reward) >= 0`.
    #[serde(default)]
    steps: Vec<String>,
    /// Conditions on the rows of `trajectories`, such as `avg(length) > 100`.
    #[serde(default)]
    trajectories: Vec<String>,
    /// Reports conditions that do not hold, and publishes the result anyway. Default: false.
    #[serde(default)]
    warn: bool,
    /// What to do with steps and trajectories for which the condition of a `filter (where …)`,
    /// `bool_and` or `bool_or` is null, as a comparison with a missing value is: with `error`, the
    /// check fails; with `ignore`, they do not count, as in SQL. Final observations never count as
    /// null. Default: `error`.
    #[serde(default)]
    nulls: Nulls,
}

/// What to do with rows on which a condition within an aggregate is null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Nulls {
    /// The check fails.
    #[default]
    Error,
    /// They do not count.
    Ignore,
}

impl Check {
    /// Returns the conditions, each with the table that it is about.
    pub fn predicates(&self) -> Vec<(&'static str, &str)> {
        let over = |table: &'static str, predicates| -> Vec<(&'static str, &str)> {
            let predicates: &Vec<String> = predicates;
            predicates
                .iter()
                .map(|predicate| (table, predicate.as_str()))
                .collect()
        };
        match self {
            Check::Steps(steps) => over("steps", steps),
            Check::Both(both) => [
                over("steps", &both.steps),
                over("trajectories", &both.trajectories),
            ]
            .concat(),
        }
    }

    /// Whether rows on which a condition within an aggregate is null are ignored.
    pub fn ignores_nulls(&self) -> bool {
        let Check::Both(both) = self else {
            return false;
        };
        both.nulls == Nulls::Ignore
    }

    /// Whether a condition that does not hold is only reported.
    pub fn warns(&self) -> bool {
        matches!(self, Check::Both(CheckOptions { warn: true, .. }))
    }
}

fn bind(value: &Value, _context: &Context) -> Result<Bound, Misfit> {
    let check: Check = options(value)?;
    if check.predicates().is_empty() {
        return Err(Misfit::new("`check` lists no condition")
            .help("give at least one, such as \"count(*) > 0\""));
    }
    Ok(Bound::Check(check))
}
