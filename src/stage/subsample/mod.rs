//! `subsample`: a part of the trajectories, or of each trajectory's steps.

mod draw;
mod stride;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Bound, Context, Misfit, Stage, options};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "subsample",
    schema: |generator| generator.subschema_for::<Subsample>(),
    bind,
    sample: "{fraction: 0.25, stratify: labelled, seed: 7}",
};

/// Keeps a part of the trajectories: exactly one of `fraction`, `count`, `per_group` and `max_steps` says how many. Which
/// ones depends on the seed and their ids alone, and those kept stay in their order. A weighted draw without replacement
/// takes those with the smallest -ln(u) / weight, u being uniform (Efraimidis and Spirakis, 2006). With `stride` instead,
/// keeps a part of every trajectory's steps.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Subsample {
    /// Keeps ⌊fraction·n⌋ of n trajectories.
    #[serde(default)]
    #[schemars(range(min = 0))]
    fraction: Option<f64>,
    /// Keeps so many trajectories, or all where there are fewer.
    #[serde(default)]
    count: Option<u64>,
    /// Keeps so many of every group of `stratify`, or all where there are fewer: with `top`, the best of each.
    #[serde(default)]
    per_group: Option<u64>,
    /// Takes trajectories in the drawn order while they have no more steps together, and stops at the first that does not
    /// fit.
    #[serde(default)]
    max_steps: Option<u64>,
    /// Keeps the best trajectories instead of random ones: with the highest value of a column.
    #[serde(default)]
    top: Option<Top>,
    /// Keeps the same share in every group of trajectories with an equal value of this column or SQL expression. What
    /// rounding leaves over goes to the groups that lost most by it.
    #[serde(default)]
    stratify: Option<String>,
    /// Takes part in this alone of the trajectories for which an SQL predicate holds; the others stay.
    #[serde(default, rename = "where")]
    among: Option<String>,
    /// Draws with chances in proportion to this column or SQL expression over trajectories. Null and 0 are never drawn.
    #[serde(default)]
    weight: Option<String>,
    /// Whether a trajectory may be drawn more than once; the copies get ids of their own.
    #[serde(default)]
    replacement: bool,
    /// Which random draw.
    #[serde(default)]
    seed: u64,
    /// Keeps every so many-th step of a trajectory, its first among them, and the final observation.
    #[serde(default)]
    #[schemars(range(min = 1))]
    stride: Option<u32>,
    /// What becomes of the rewards of the steps that `stride` leaves out; `sum` where not given.
    #[serde(default)]
    reward: Option<Fold>,
}

/// What ranks trajectories.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Top {
    /// A column of trajectories, or an SQL expression over them; the highest values are kept, nulls last.
    by: String,
}

/// How the rewards of several steps become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Fold {
    /// Their sum; nulls count nothing, and nothing but nulls is null.
    Sum,
    /// The last of them.
    Last,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Subsample = options(value)?;
    match given.stride {
        Some(stride) => stride::bind(&given, stride, context),
        None => draw::bind(given, context),
    }
}
