//! Cuts segments out of their trajectories and scores them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, Int32Array, Int64Array, ListBuilder,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, SchemaRef};

use super::{FELT, MEMBERS, ORIGIN, SCORE, START};
use crate::dataset::Block;
use crate::dataset::block::elements;
use crate::dataset::schema::{step, width};
use crate::error::{Error, Result};
use crate::expr::Expression;
use crate::stage::support::columns::everything;
use crate::stage::support::cut::{self, Run, pieces};
use crate::stage::support::rank;
use crate::stage::{Changes, Tally, Transform};

/// Cuts segments out of their trajectories and scores them.
pub(super) struct Segments {
    pub(super) length: usize,
    pub(super) reward: Option<Expression>,
    pub(super) value: Option<Expression>,
    pub(super) members: Option<Expression>,
    /// Discount of earlier steps in what a myopic teacher feels.
    pub(super) gamma: f64,
    pub(super) steps: SchemaRef,
}

impl Segments {
    /// Returns the score of each segment, and what a myopic teacher feels for it; null if a reward
    /// or value is null.
    fn scores(&self, block: &Block, runs: &[Run]) -> Result<[Float64Array; 2]> {
        let numbers = |expression: &Option<Expression>| {
            expression
                .as_ref()
                .map(|expression| {
                    rank::float64(&expression.evaluate(&block.steps, &block.offsets)?)
                })
                .transpose()
        };
        let (reward, value) = (numbers(&self.reward)?, numbers(&self.value)?);
        let terminated = block
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
                Some(value) if run.end < block.rows(run.parent).end => {
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

    /// Returns the sum of rewards that each model of the ensemble gives, one list per segment.
    fn sums(&self, block: &Block, runs: &[Run], members: &Expression) -> Result<ArrayRef> {
        let vectors = members.evaluate(&block.steps, &block.offsets)?;
        let size = width(vectors.data_type()).map_or(0, |size| usize::try_from(size).unwrap_or(0));
        let flat = rank::float64(&elements(vectors.as_fixed_size_list()))?;
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

    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block> {
        let integer = |name: &str| {
            block
                .trajectories
                .column_by_name(name)
                .ok_or_else(|| Error::failed(format!("`trajectories` has no column `{name}`")))
        };
        let starts = integer(START)?.as_primitive::<Int32Type>().clone();
        let origin = integer(ORIGIN)?.as_primitive::<Int64Type>().clone();
        let is_final = block.is_final()?;
        let run = |(parent, span): (usize, std::ops::Range<usize>)| {
            let start = span.start + usize::try_from(starts.value(parent)).unwrap_or(0);
            let end = start + self.length;
            if end > span.end || is_final.value(end - 1) {
                return Err(Error::failed(format!(
                    "trajectory {} has fewer steps than its `length` says",
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
        let runs = block
            .spans()
            .enumerate()
            .map(run)
            .collect::<Result<Vec<_>>>()?;
        tally.drop_rows(
            "outside the segment",
            (block.steps.num_rows() - runs.len() * self.length) as u64,
        );
        let scores = self.scores(&block, &runs)?;
        let members = self
            .members
            .as_ref()
            .map(|members| self.sums(&block, &runs, members))
            .transpose()?;
        let mut cut = pieces(&with_origin(block, &origin)?, &runs)?;
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

/// Adds `parent_id`, which is `origin`, and `parent_step`, which is 0, to the trajectories of a
/// block that lack them.
fn with_origin(block: Block, origin: &Int64Array) -> Result<Block> {
    if block.trajectories.column_by_name(cut::PARENT_ID).is_some() {
        return Ok(block);
    }
    let [id, first] = cut::fields();
    let zeros = Int32Array::from(vec![0; block.len()]);
    block
        .with_trajectory_column(id, Arc::new(origin.clone()))?
        .with_trajectory_column(first, Arc::new(zeros))
}
