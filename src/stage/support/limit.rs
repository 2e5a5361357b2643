//! Bounds of actions, as the `clip` options give them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage::Misfit;

/// A bound of actions.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum Limit {
    /// The same for every dimension.
    All(f64),
    /// One per dimension.
    Each(Vec<f64>),
}

impl Limit {
    /// The bounds of an action of `wide` dimensions.
    pub(in crate::stage) fn each(&self, wide: usize) -> Result<Vec<f64>, Misfit> {
        match self {
            Limit::All(limit) => Ok(vec![*limit; wide]),
            Limit::Each(limits) if limits.len() == wide => Ok(limits.clone()),
            Limit::Each(limits) => Err(Misfit::new(format!(
                "`clip` has {} values, and an action has {wide}",
                limits.len()
            ))
            .help("one number, or one per dimension")),
        }
    }
}
