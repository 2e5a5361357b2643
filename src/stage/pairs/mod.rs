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
use super::{Bound, Context, Half, Misfit, Stage, options};
use crate::dataset::schema::step;
use crate::expr::{Edge, Expression};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "pairs",
    schema: |generator| generator.subschema_for::<Pairs>(),
    bind,
    sample: "{length: 1, count: 10, seed: 7}",
};

/// Columns of trajectories that come out.
const PAIR: &str = "pair";
const SIDE: &str = "side";
const SCORE: &str = "score";
/// Columns of trajectories between the halves: where a segment begins and in which trajectory, what the teacher feels of it,
/// what the members of an ensemble give it.
const START: &str = "__start";
const ORIGIN: &str = "__origin";
const FELT: &str = "__felt";
const MEMBERS: &str = "__members";

/// Pairs of segments of trajectories, and which of the two a synthetic teacher prefers. Every segment of `length` steps is as
/// likely as any other, and the two of a pair differ.
///
/// A segment becomes a trajectory of its own, without a final row, cut from the trajectory `parent_id` at its step
/// `parent_step`; so `length` and `return` are those of the segment, and a segment that its trajectory goes on behind is
/// truncated. The two of a pair follow each other: `pair` numbers pairs, `side` is 1 or 2, `score` is what the teacher
/// compares, `margin` how much higher it is than the other's, and `preference` is 1 for the preferred segment, 0 for the
/// other, 0.5 for both where they are equal. With `disagreement`, `strength` and `spread` are the mean and the standard
/// deviation over the members of how much more they give this segment than the other.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pairs {
    /// Steps of a segment.
    #[schemars(range(min = 1))]
    length: u32,
    /// How many pairs; those that the teacher skips are fewer in the end.
    count: u32,
    /// Which random draw.
    #[serde(default)]
    seed: u64,
    /// Both segments of a pair come from trajectories with an equal value of this column or SQL expression.
    #[serde(default)]
    group: Option<String>,
    /// What is summed over a segment: a column of steps, or an SQL expression over them.
    #[serde(default = "reward")]
    reward: String,
    /// What the teacher compares.
    #[serde(default)]
    by: By,
    /// For `by: regret`, the value of an observation under the best policy: a column of steps, or an SQL expression.
    #[serde(default)]
    value: Option<String>,
    /// How the teacher errs.
    #[serde(default)]
    teacher: Teacher,
    /// Draws more pairs than `count`, and keeps those on which an ensemble of reward models disagrees most.
    #[serde(default)]
    disagreement: Option<Disagreement>,
}

fn reward() -> String {
    step::REWARD.to_owned()
}

/// What a teacher compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum By {
    /// The partial return: the sum of the segment's rewards.
    #[default]
    Return,
    /// Less the regret of Knox et al. (2024), in its deterministic form: the sum of the segment's rewards, plus the value of
    /// the observation after it (0 where the environment ended), less the value of its first.
    Regret,
    /// Nothing: the pairs are left for people to judge.
    Nothing,
}

/// Sampling by disagreement (Christiano et al., 2017; Lee et al., PEBBLE, 2021).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Disagreement {
    /// A vector column of steps: the reward that each member of an ensemble gives, as `score` with `reduce: all` writes it.
    by: String,
    /// How many times `count` pairs are drawn to choose from.
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
        return Err(Misfit::new("`length` is 0").help("at least 1").at("length"));
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
            Misfit::new(format!("trajectories have a column `{name}` already"))
                .help("`pairs` writes its own: one `pairs` to a pipeline"),
        );
    }
    let group = given
        .group
        .as_ref()
        .map(|sql| rank::bind_key(sql, context.trajectories))
        .transpose();
    let group = group.map_err(|misfit| misfit.at("group"))?;
    let number = |sql: &str, key: &str| {
        let expression = Expression::bind(sql, context.steps, Some(Edge::Null))
            .map_err(|misfit| Misfit::from(misfit).at(key))?;
        match expression.data_type() {
            kind if kind.is_numeric() => Ok(expression),
            DataType::Boolean => Ok(expression),
            _ => Err(Misfit::new(format!("`{sql}` is not a number")).at(key)),
        }
    };
    let judged = given.by != By::Nothing;
    let value = match (&given.value, given.by) {
        (Some(sql), By::Regret) => Some(number(sql, "value")?),
        (None, By::Regret) => {
            return Err(Misfit::new("`by: regret` needs the value of observations")
                .help("`score` writes a column from a value model: then `value: COLUMN`")
                .at("by"));
        }
        (Some(_), _) => return Err(Misfit::new("`value` goes with `by: regret`").at("value")),
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
                "`{}` is no vector with a number for each of two members or more",
                disagreement.by
            );
            return Err(at(
                Misfit::new(message).help("`score` writes one with `reduce: all`")
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
        Half::selection(draw),
        Half::transform(cut),
        Half::selection(judge),
    ]))
}

#[cfg(test)]
mod tests;
