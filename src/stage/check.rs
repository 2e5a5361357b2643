//! `check`: aggregate predicates that a result must satisfy before it is published.

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

/// Predicates over the next result, each one SQL aggregate such as `count(*) > 0`. Where one is false, nothing is
/// published and the exit code is 4; with `warn: true` it is said, and the result is published all the same.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Check {
    /// Predicates over the rows of `steps`.
    Steps(Vec<String>),
    /// Predicates over `steps` and over `trajectories`.
    Both(CheckOptions),
}

/// Predicates over either table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckOptions {
    /// Predicates over the rows of `steps`.
    #[serde(default)]
    steps: Vec<String>,
    /// Predicates over the rows of `trajectories`.
    #[serde(default)]
    trajectories: Vec<String>,
    /// Say it, and publish all the same.
    #[serde(default)]
    warn: bool,
}

impl Check {
    /// Predicates with the table that each is over.
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

    /// Whether a false predicate is only said.
    pub fn warns(&self) -> bool {
        matches!(self, Check::Both(CheckOptions { warn: true, .. }))
    }
}

fn bind(value: &Value, _context: &Context) -> Result<Bound, Misfit> {
    let check: Check = options(value)?;
    if check.predicates().is_empty() {
        return Err(Misfit::new("`check` has no predicate")
            .help("give at least one, such as \"count(*) > 0\""));
    }
    Ok(Bound::Check(check))
}
