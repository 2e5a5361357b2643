//! `pairs`: segment pairs for preference learning.
//!
//! Segments are drawn in a selection, cut and scored in a transform, and judged by a synthetic teacher in another selection
//! ([`teacher`]), after the pairs on which an ensemble disagrees most were chosen, where that is asked for.

mod teacher;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, Int32Array, Int64Array, ListBuilder,
    RecordBatch,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::teacher::{Judge, Teacher};
use super::support::columns::everything;
use super::support::cut::{Run, pieces};
use super::support::{cut, rank};
use super::{
    Bound, Changes, Context, Half, Misfit, Selected, Selection, Stage, Tally, Transform, options,
};
use crate::dataset::Chunk;
use crate::dataset::schema::{step, trajectory, width};
use crate::error::{Error, Result};
use crate::expr::{Edge, Expression};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "pairs",
    schema: |generator| generator.subschema_for::<Pairs>(),
    bind,
    sample: "{length: 1, count: 10, seed: 7}",
};

const SALT: &str = "pairs";
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

/// Draws segments.
struct Draw {
    length: i64,
    /// Pairs.
    count: i64,
    seed: u64,
    group: Option<Expression>,
}

impl Draw {
    /// A whole number below `bound`, the draw `number` of all.
    fn below(&self, bound: i64, number: i64) -> i64 {
        let point = rank::uniform(rank::chance(SALT, self.seed, number)) * bound as f64;
        (point as i64).clamp(0, bound - 1)
    }
}

impl Selection for Draw {
    fn reads(&self) -> Vec<String> {
        let expressions: Vec<&Expression> = self.group.iter().collect();
        rank::reads(&expressions, &[trajectory::LENGTH])
    }

    fn writes(&self) -> Vec<Field> {
        let field = |name: &str, data_type| Field::new(name, data_type, false);
        vec![
            field(PAIR, DataType::Int64),
            field(SIDE, DataType::Int32),
            field(START, DataType::Int32),
            field(ORIGIN, DataType::Int64),
        ]
    }

    fn orders(&self) -> bool {
        true
    }

    fn repeats(&self) -> bool {
        true
    }

    fn stays(&self) -> bool {
        true
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let ids = rank::ids(table)?;
        // The segments, numbered group by group and in the order of ids: `sums` has one past the last one of each trajectory.
        let (mut line, mut sums, mut ends) = (
            Vec::<u32>::new(),
            Vec::<i64>::new(),
            Vec::<(i64, i64)>::new(),
        );
        let mut total = 0;
        for mut group in rank::groups(table, self.group.as_ref())? {
            group.sort_by_key(|row| ids.value(*row as usize));
            let first = total;
            for row in group {
                total += (lengths[row as usize] - self.length + 1).max(0);
                line.push(row);
                sums.push(total);
            }
            // A segment alone in its group has no other to be paired with.
            if total - first >= 2 {
                ends.push((first, total));
            }
        }
        let upto: Vec<i64> = ends
            .iter()
            .scan(0, |sum, (first, end)| {
                *sum += end - first;
                Some(*sum)
            })
            .collect();
        let usable = upto.last().copied().unwrap_or(0);
        if usable == 0 && self.count > 0 {
            return Err(Error::failed(format!("no two segments of {} steps can be drawn", self.length))
                .hint("the trajectories that are left are too short or too few: a smaller `length` may do"));
        }
        let place = |segment: i64| {
            let index = sums.partition_point(|end| *end <= segment);
            let before = index.checked_sub(1).map_or(0, |before| sums[before]);
            (
                line[index],
                i32::try_from(segment - before).unwrap_or(i32::MAX),
            )
        };
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for pair in 0..self.count {
            let first = self.below(usable, 2 * pair);
            let group = upto.partition_point(|end| *end <= first);
            let (begin, end) = ends[group];
            let first = first - (upto[group] - (end - begin));
            let other = self.below(end - begin - 1, 2 * pair + 1);
            let other = if other >= first { other + 1 } else { other };
            for segment in [begin + first, begin + other] {
                let (row, start) = place(segment);
                rows.push(row);
                starts.push(start);
            }
        }
        let mut drawn = vec![false; table.num_rows()];
        rows.iter().for_each(|row| drawn[*row as usize] = true);
        let rest: Vec<u32> = drawn
            .iter()
            .zip(0..)
            .filter(|(drawn, _)| !**drawn)
            .map(|(_, row)| row)
            .collect();
        let dropped = (!rest.is_empty()).then(|| super::Dropped {
            reason: "no segment of it was drawn".to_owned(),
            rows: rest,
        });
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(
                (0..self.count).flat_map(|pair| [pair, pair]),
            )),
            Arc::new(Int32Array::from_iter_values(
                (0..self.count).flat_map(|_| [1, 2]),
            )),
            Arc::new(Int32Array::from(starts)),
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| ids.value(*row as usize)),
            )),
        ];
        Ok(Selected {
            rows,
            columns,
            dropped: dropped.into_iter().collect(),
            ..Selected::default()
        })
    }
}

/// Cuts segments out of their trajectories and scores them.
struct Segments {
    length: usize,
    reward: Option<Expression>,
    value: Option<Expression>,
    members: Option<Expression>,
    /// Discount of earlier steps that a myopic teacher feels.
    gamma: f64,
    steps: SchemaRef,
}

impl Segments {
    /// Score of each segment, and what a myopic teacher feels of it: null where a reward or value is not known.
    fn scores(&self, chunk: &Chunk, runs: &[Run]) -> Result<[Float64Array; 2]> {
        let numbers = |expression: &Option<Expression>| {
            expression
                .as_ref()
                .map(|expression| {
                    rank::float64(&expression.evaluate(&chunk.steps, &chunk.offsets)?)
                })
                .transpose()
        };
        let (reward, value) = (numbers(&self.reward)?, numbers(&self.value)?);
        let terminated = chunk
            .steps
            .column_by_name(step::TERMINATED)
            .and_then(|column| column.as_boolean_opt());
        let terminated = terminated
            .ok_or_else(|| Error::failed("`terminated` is not a boolean column of steps"))?;
        let known =
            |values: &Float64Array, row: usize| values.is_valid(row).then(|| values.value(row));
        let score = |run: &Run| {
            let reward = reward.as_ref()?;
            let rewards = (run.start..run.end)
                .map(|row| known(reward, row))
                .collect::<Option<Vec<f64>>>()?;
            let gained = match &value {
                None => 0.0,
                Some(value) if terminated.value(run.end - 1) => -known(value, run.start)?,
                Some(value) if run.end < chunk.rows(run.parent).end => {
                    known(value, run.end)? - known(value, run.start)?
                }
                Some(_) => return None,
            };
            let felt = rewards
                .iter()
                .fold(0.0, |sum, reward| self.gamma * sum + reward);
            Some((rewards.iter().sum::<f64>() + gained, felt + gained))
        };
        let scores: Vec<Option<(f64, f64)>> = runs.iter().map(score).collect();
        Ok([
            scores
                .iter()
                .map(|score| score.map(|score| score.0))
                .collect(),
            scores
                .iter()
                .map(|score| score.map(|score| score.1))
                .collect(),
        ])
    }

    /// Sums of what each member of the ensemble gives, one list per segment.
    fn sums(&self, chunk: &Chunk, runs: &[Run], members: &Expression) -> Result<ArrayRef> {
        let vectors = members.evaluate(&chunk.steps, &chunk.offsets)?;
        let size = width(vectors.data_type()).map_or(0, |size| usize::try_from(size).unwrap_or(0));
        let list = vectors.as_fixed_size_list();
        let flat = rank::float64(&list.values().slice(
            list.value_offset(0).unsigned_abs() as usize,
            list.len() * size,
        ))?;
        let mut sums = ListBuilder::new(Float64Builder::new()).with_field(Field::new(
            "element",
            DataType::Float64,
            false,
        ));
        for run in runs {
            let known = (run.start..run.end).all(|row| vectors.is_valid(row));
            if known {
                (0..size).for_each(|member| {
                    sums.values().append_value(
                        (run.start..run.end)
                            .map(|row| flat.value(row * size + member))
                            .sum(),
                    );
                });
            }
            sums.append(known);
        }
        Ok(Arc::new(sums.finish()))
    }
}

impl Transform for Segments {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn trajectories(&self) -> Vec<Field> {
        let mut fields = cut::fields().to_vec();
        if self.reward.is_some() {
            fields.extend([SCORE, FELT].map(|name| Field::new(name, DataType::Float64, true)));
        }
        if self.members.is_some() {
            fields.push(Field::new_list(
                MEMBERS,
                Field::new("element", DataType::Float64, false),
                true,
            ));
        }
        fields
    }

    fn changes(&self) -> Changes {
        let own = self.trajectories();
        let names: Vec<&str> = own.iter().map(|field| field.name().as_str()).collect();
        Changes {
            trajectories: everything(&names),
            rows: true,
            splits: false,
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let expressions: Vec<&Expression> = [&self.reward, &self.value, &self.members]
            .into_iter()
            .flatten()
            .collect();
        Some(rank::reads(&expressions, &cut::READS))
    }

    fn apply(&self, chunk: Chunk, tally: &mut Tally) -> Result<Chunk> {
        let integer = |name: &str| {
            chunk
                .trajectories
                .column_by_name(name)
                .ok_or_else(|| Error::failed("the draw of segments was lost"))
        };
        let starts = integer(START)?.as_primitive::<Int32Type>().clone();
        let origin = integer(ORIGIN)?.as_primitive::<Int64Type>().clone();
        let is_final = chunk.is_final()?;
        let run = |(parent, span): (usize, std::ops::Range<usize>)| {
            let start = span.start + usize::try_from(starts.value(parent)).unwrap_or(0);
            let end = start + self.length;
            if end > span.end || is_final.value(end - 1) {
                return Err(Error::failed(format!(
                    "trajectory {} is shorter than its metadata says",
                    origin.value(parent)
                )));
            }
            let goes_on = end < span.end && !is_final.value(end);
            Ok(Run {
                parent,
                copy: 0,
                start,
                end,
                cut_after: goes_on.then(|| end - 1),
            })
        };
        let runs = chunk
            .spans()
            .enumerate()
            .map(run)
            .collect::<Result<Vec<_>>>()?;
        tally.drop_rows(
            "outside the segment",
            (chunk.steps.num_rows() - runs.len() * self.length) as u64,
        );
        let scores = self.scores(&chunk, &runs)?;
        let members = self
            .members
            .as_ref()
            .map(|members| self.sums(&chunk, &runs, members))
            .transpose()?;
        let mut cut = pieces(&with_origin(chunk, &origin)?, &runs)?;
        cut.trajectories
            .remove_column(cut.trajectories.schema().index_of(cut::COPY)?);
        if self.reward.is_some() {
            for (name, column) in [SCORE, FELT].into_iter().zip(scores) {
                cut = cut.with_trajectory_column(
                    Field::new(name, DataType::Float64, true),
                    Arc::new(column),
                )?;
            }
        }
        match members {
            Some(members) => {
                let field = Field::new_list(
                    MEMBERS,
                    Field::new("element", DataType::Float64, false),
                    true,
                );
                cut.with_trajectory_column(field, members)
            }
            None => Ok(cut),
        }
    }
}

/// The chunk whose trajectories say that they are whole, from the trajectories `origin`, where they say nothing yet.
fn with_origin(chunk: Chunk, origin: &Int64Array) -> Result<Chunk> {
    if chunk.trajectories.column_by_name(cut::PARENT_ID).is_some() {
        return Ok(chunk);
    }
    let [id, first] = cut::fields();
    let zeros = Int32Array::from(vec![0; chunk.len()]);
    chunk
        .with_trajectory_column(id, Arc::new(origin.clone()))?
        .with_trajectory_column(first, Arc::new(zeros))
}

#[cfg(test)]
mod tests;
