//! `pairs`: pairs of segments, for preference learning.
//!
//! A selection draws segments ([`draw`]), a transform cuts and scores them ([`segments`]), and
//! another selection keeps the pairs on which an ensemble disagrees most, if asked to, and lets a
//! synthetic teacher judge the pairs ([`teacher`]).

mod draw;
mod segments;
mod teacher;

use std::sync::Arc;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::draw::Draw;
use self::segments::Segments;
use self::teacher::{Judge, Teacher};
use super::support::rank;
use super::{Bound, Context, Misfit, Operator, Stage, options};
use crate::dataset::schema::{step, type_name};
use crate::expr::{Edge, Expression};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "pairs",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Pairs>(),
    bind,
    sample: "{length: 1, count: 10, seed: 7}",
};

/// Columns of trajectories that the stage writes.
const PAIR: &str = "pair";
const SIDE: &str = "side";
const SCORE: &str = "score";
/// Columns of trajectories that the stage passes on to itself: the step at which a segment begins,
/// the trajectory that it lies in, what the teacher feels for it, and the sums that the models of
/// an ensemble give it.
const START: &str = "__start";
const ORIGIN: &str = "__origin";
const FELT: &str = "__felt";
const MEMBERS: &str = "__members";

/// Draws pairs of segments of trajectories, and lets a synthetic teacher say which segment of a
/// pair it prefers. Every segment of `length` steps is equally likely, and the two segments of a
/// pair differ.
///
/// Each segment becomes a trajectory of its own, without a final row. It is cut from the trajectory
/// `parent_id` at step `parent_step`, so `length` and `return` are those of the segment. A segment
/// is truncated if its trajectory goes on after it. The two segments of a pair follow each other.
/// `pair` numbers the pairs, and `side` is 1 or 2. `score` is what the teacher compares, and
/// `margin` is the score minus that of the other segment. `preference` is 1 for the preferred
/// segment and 0 for the other, or 0.5 for both if they are equal. With `disagreement`, `strength`
/// and `spread` are the mean and the standard deviation, over the models of the ensemble, of the
/// reward of this segment minus that of the other.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pairs {
    /// Number of steps in a segment, such as `50`.
    #[schemars(range(min = 1))]
    length: u32,
    /// Number of pairs to draw. The result has fewer if the teacher skips pairs, or cannot judge
    /// them because a reward or value is null.
    count: u32,
    /// Seed of the random draw. Default: 0.
    #[serde(default)]
    seed: u64,
    /// Column of `trajectories`, or SQL expression over its columns, such as `task`. Both segments
    /// of a pair come from trajectories with an equal value. Default: segments of any two
    /// trajectories form a pair.
    #[serde(default)]
    group: Option<String>,
    /// Column of `steps`, or SQL expression over its columns, that is summed over a segment.
    /// Default: `reward`.
    #[serde(default = "reward")]
    reward: String,
    /// Score that the teacher compares. Default: `return`.
    #[serde(default)]
    by: By,
    /// Value of an observation under the best policy: a column of `steps`, or an SQL expression
    /// over its columns. `by: regret` needs it; other scores do not use it.
    #[serde(default)]
    value: Option<String>,
    /// How the teacher errs, such as `{mistake: 0.1}`. Default: the teacher is always right.
    #[serde(default)]
    teacher: Teacher,
    /// Draws more pairs than `count` and keeps those on which an ensemble of reward models
    /// disagrees most, such as `{by: rewards, candidates: 10}`. Default: all pairs that are drawn
    /// are kept.
    #[serde(default)]
    disagreement: Option<Disagreement>,
}

fn reward() -> String {
    step::REWARD.to_owned()
}

/// Score that a teacher compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum By {
    /// The partial return: the sum of the segment's rewards.
    #[default]
    Return,
    /// The negated regret of Knox et al. (2024) in its deterministic form: the sum of the segment's
    /// rewards, plus the value of the observation after it (0 after a terminal state), minus the
    /// value of its first observation.
    Regret,
    /// No score: the pairs are left for people to judge.
    Nothing,
}

/// Choice of pairs by disagreement (Christiano et al., 2017; Lee et al., PEBBLE, 2021).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Disagreement {
    /// Vector column of `steps` with the reward that each model of an ensemble gives, as `score`
    /// with `reduce: all` writes it.
    by: String,
    /// Number of pairs to draw for each one that is kept. Default: 10.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    candidates: u32,
}

fn ten() -> u32 {
    10
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Pairs = options(value)?;
    if given.length == 0 {
        return Err(Misfit::new("`length` must be at least 1, not 0").at("length"));
    }
    let teacher = given
        .teacher
        .checked()
        .map_err(|misfit| misfit.at("teacher"))?;
    let taken = [
        PAIR,
        SIDE,
        SCORE,
        teacher::PREFERENCE,
        teacher::MARGIN,
        teacher::STRENGTH,
        teacher::SPREAD,
    ]
    .into_iter()
    .find(|name| context.trajectories.index_of(name).is_ok());
    if let Some(name) = taken {
        return Err(
            Misfit::new(format!("`trajectories` already has a column `{name}`")).help(
                "`pairs` writes this column itself, so a pipeline can have only one `pairs` stage",
            ),
        );
    }
    let group = rank::bind_group(given.group.as_deref(), context.trajectories)?;
    let number = |sql: &str, key: &str| {
        let expression = Expression::bind(sql, context.steps, Some(Edge::Null))
            .map_err(|misfit| Misfit::from(misfit).at(key))?;
        match expression.data_type() {
            kind if kind.is_numeric() => Ok(expression),
            DataType::Boolean => Ok(expression),
            _ => Err(Misfit::new(format!(
                "`{sql}` must be a number, not {}",
                type_name(expression.data_type())
            ))
            .at(key)),
        }
    };
    let judged = given.by != By::Nothing;
    let value = match (&given.value, given.by) {
        (Some(sql), By::Regret) => Some(number(sql, "value")?),
        (None, By::Regret) => {
            return Err(
                Misfit::new("`by: regret` needs `value`, the value of observations")
                    .help(
                        "write a column with `score` and a value model, and name it with \
                         `value: COLUMN`",
                    )
                    .at("by"),
            );
        }
        (Some(_), _) => {
            return Err(Misfit::new("`value` needs `by: regret`")
                .help("set `by: regret`, or remove `value`")
                .at("value"));
        }
        (None, _) => None,
    };
    let members = given.disagreement.as_ref().map(|disagreement| {
        let at = |misfit: Misfit| misfit.at("by").at("disagreement");
        let members = Expression::bind(&disagreement.by, context.steps, Some(Edge::Null))
            .map_err(|misfit| at(misfit.into()))?;
        let element = match members.data_type() {
            DataType::FixedSizeList(child, size) if *size >= 2 => child.data_type().is_numeric(),
            _ => false,
        };
        if !element {
            let message = format!(
                "`{}` must be a vector with one number for each of at least two models, not {}",
                disagreement.by,
                type_name(members.data_type())
            );
            return Err(at(
                Misfit::new(message).help("write such a column with `score` and `reduce: all`")
            ));
        }
        Ok(members)
    });
    let members = members.transpose()?;
    let candidates = given
        .disagreement
        .as_ref()
        .map_or(1, |disagreement| i64::from(disagreement.candidates.max(1)));
    let draw = Draw {
        length: i64::from(given.length),
        count: i64::from(given.count) * candidates,
        seed: given.seed,
        group,
    };
    let score = judged
        .then(|| number(&given.reward, "reward"))
        .transpose()?;
    let steps = Arc::new(context.steps.clone());
    let cut = Segments {
        length: given.length as usize,
        reward: score,
        value,
        members,
        gamma: teacher.gamma(),
        steps,
    };
    let judge = Judge {
        teacher,
        count: given.count as usize,
        seed: given.seed,
        judged,
        members: cut.members.is_some(),
    };
    Ok(Bound::Work(vec![
        Operator::selection(draw),
        Operator::transform(cut),
        Operator::selection(judge),
    ]))
}

#[cfg(test)]
mod tests;
