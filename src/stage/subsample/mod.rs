//! `subsample`: a part of the trajectories, or of each trajectory's steps.

mod draw;
mod stride;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::support::condition::Nulls;
use super::{Bound, Context, Misfit, Stage, options};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "subsample",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Subsample>(),
    bind,
    sample: "{fraction: 0.25, stratify: labelled, seed: 7}",
};

/// Keeps a part of the trajectories or, with `stride`, a part of the steps of each. Exactly one of
/// `fraction`, `count`, `per_group`, `max_steps` and `stride` is needed, such as
/// `{fraction: 0.25, seed: 7}`. A random draw depends on the seed and the ids of trajectories
/// alone. Trajectories that are kept stay in their order.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Subsample {
    /// Share of the trajectories to keep, from 0 to 1, such as `0.25`: ⌊fraction·n⌋ of n. With
    /// `replacement`, it can be above 1.
    #[serde(default)]
    #[schemars(range(min = 0))]
    fraction: Option<f64>,
    /// Number of trajectories to keep; all, if there are fewer.
    #[serde(default)]
    count: Option<u64>,
    /// Number of trajectories to keep in each group of `stratify`; all, if the group has fewer.
    /// With `top`, the best of each group.
    #[serde(default)]
    per_group: Option<u64>,
    /// Largest total number of steps to keep. Trajectories are taken in the drawn order, up to the
    /// first that does not fit.
    #[serde(default)]
    max_steps: Option<u64>,
    /// Keeps the trajectories with the highest values instead of random ones, such as
    /// `{by: return}`.
    #[serde(default)]
    top: Option<Top>,
    /// Column of `trajectories`, or SQL expression over its columns, such as `task`. The same share
    /// is kept in every group of trajectories with an equal value. Trajectories that rounding
    /// leaves over go to the groups that lost most by rounding.
    #[serde(default)]
    stratify: Option<String>,
    /// SQL condition over the columns of `trajectories`, such as `length > 100`. Trajectories for
    /// which it does not hold are all kept, and do not count.
    #[serde(default, rename = "where")]
    among: Option<String>,
    /// What to do with trajectories for which the condition in `where` is null: `error`; `drop`;
    /// or `keep`, as if it did not hold. With `error`, the run ends and names the first of them.
    /// Default: `error`.
    #[serde(default)]
    nulls: Option<Nulls>,
    /// Column of `trajectories`, or SQL expression over its columns, that chances are proportional
    /// to. Trajectories of weight 0 or null are never drawn. Without `replacement`, the
    /// trajectories with the smallest -ln(u) / weight are drawn, where u is uniform (Efraimidis and
    /// Spirakis, 2006). Default: equal chances.
    #[serde(default)]
    weight: Option<String>,
    /// Draws a trajectory any number of times. Copies get ids of their own. Default: false.
    #[serde(default)]
    replacement: bool,
    /// Seed of the random draw. Default: 0.
    #[serde(default)]
    seed: u64,
    /// Distance between the steps to keep: with `3`, every third step of each trajectory, starting
    /// with its first. The final observation is kept too.
    #[serde(default)]
    #[schemars(range(min = 1))]
    stride: Option<u32>,
    /// How the rewards of a kept step and of the dropped steps after it become one. Default: `sum`.
    #[serde(default)]
    reward: Option<Fold>,
}

/// A ranking of trajectories.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Top {
    /// Column of `trajectories`, or SQL expression over its columns, whose highest values are kept.
    /// Nulls rank last.
    by: String,
}

/// How the rewards of several steps become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Fold {
    /// Their sum without nulls; null if all of them are null.
    Sum,
    /// The last reward.
    Last,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Subsample = options(value)?;
    match given.stride {
        Some(stride) => stride::bind(&given, stride, context),
        None => draw::bind(given, context),
    }
}
