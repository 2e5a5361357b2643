//! Bounds of actions, as the `clip` options give them.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage::Misfit;

/// A bound of actions.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum Limit {
    /// The same bound for every dimension.
    All(f64),
    /// One bound per dimension.
    Each(Vec<f64>),
}

impl Limit {
    /// Returns the bounds of an action with `wide` dimensions.
    pub(in crate::stage) fn each(&self, wide: usize) -> Result<Vec<f64>, Misfit> {
        match self {
            Limit::All(limit) => Ok(vec![*limit; wide]),
            Limit::Each(limits) if limits.len() == wide => Ok(limits.clone()),
            Limit::Each(limits) => Err(Misfit::new(format!(
                "a bound in `clip` must be one number or a list of length {wide}, not a list of \
                 length {}",
                limits.len()
            ))
            .help("list one number per dimension of the action")),
        }
    }
}
