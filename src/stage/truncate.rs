//! `truncate`: ends trajectories at the first step for which a condition holds.
//!
//! MOREC (Luo et al., ICLR 2024) ends a rollout as soon as the reward of its dynamics falls below a
//! threshold.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, UInt64Array};
use arrow::compute::{filter_record_batch, nullif, take_record_batch};
use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::support::columns::{everything, nullable};
use super::support::condition::{Condition, Nulls};
use super::support::rank;
use super::{Bound, Changes, Context, Misfit, Stage, Tally, Transform, options};
use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::expr::Edge;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "truncate",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Truncate>(),
    bind,
    sample: r#"{where: "reward > 1e9"}"#,
};

/// Ends every trajectory before the first step for which a condition holds. The observation of that
/// step becomes the final observation, and the step before it is marked as truncated unless it is
/// terminal. A trajectory for which the condition holds at the first step is dropped, because no
/// step is left. If the condition is null before it first holds, the run ends with an error, unless
/// `nulls` says what to do.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Truncate {
    /// SQL condition over the columns of `steps`, such as `reward < -100`.
    #[serde(rename = "where")]
    condition: String,
    /// Which step ends a trajectory, of those for which the condition holds. Default: `first`.
    #[serde(default)]
    #[expect(dead_code, reason = "there is one choice")]
    at: At,
    /// Keeps that step, as the last one of its trajectory. Default: false.
    #[serde(default)]
    keep: bool,
    /// What to do with a step for which the condition is null, as a comparison with a missing value
    /// is: `error`; `drop` to end the trajectory there, as if the condition held; `keep` to go on,
    /// as if it did not. With `error`, the run ends and names the first of them. Default: `error`.
    #[serde(default)]
    nulls: Nulls,
}

/// The step that ends a trajectory.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum At {
    /// The first step for which the condition holds.
    #[default]
    First,
}

struct Truncated {
    condition: Condition,
    keep: bool,
    steps: SchemaRef,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Truncate = options(value)?;
    let (sql, along) = (&given.condition, Some(Edge::Null));
    let condition = Condition::bind(sql, context.steps, along, given.nulls, |_| {
        "decide what happens there: `nulls: drop` ends the trajectory, and `nulls: keep` goes on"
            .to_owned()
    });
    let condition = condition.map_err(|misfit| Misfit::from(misfit).at("where"))?;
    Bound::transform(Truncated {
        condition,
        keep: given.keep,
        steps: Arc::new(nullable(context.steps, &step::NULL_IN_FINAL_ROWS)),
    })
}

impl Transform for Truncated {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: everything(&[]),
            rows: true,
            splits: false,
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(rank::reads(
            &[&self.condition.expression],
            &[step::TERMINATED, step::TRUNCATED, step::IS_FINAL],
        ))
    }

    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block> {
        let verdicts = self.condition.over(&block)?;
        let holds = verdicts.mask(self.condition.nulls == Nulls::Drop);
        let is_final = block.is_final()?;
        let (mut rows, mut offsets, mut kept) =
            (Vec::<u64>::new(), vec![0], Vec::with_capacity(block.len()));
        // Rows of the result: steps that become the last of their trajectory, and rows that become
        // final.
        let (mut last, mut turned) = (Vec::new(), Vec::new());
        let (mut dropped, mut ended) = (0, 0);
        let mut passed = vec![false; block.steps.num_rows()];
        let (mut skipped, mut unknown) = (0, 0);
        for span in block.spans() {
            let first = span
                .clone()
                .find(|row| !is_final.value(*row) && holds.value(*row));
            for row in
                (span.start..first.unwrap_or(span.end)).filter(|row| verdicts.is_unknown(*row))
            {
                passed[row] = true;
                skipped += 1;
            }
            unknown += u64::from(first.is_some_and(|row| verdicts.is_unknown(row)));
            let end = first.map(|row| row + usize::from(self.keep));
            kept.push(end != Some(span.start));
            match end {
                Some(end) if end == span.start => dropped += span.len(),
                Some(end) => {
                    ended += 1;
                    last.push(rows.len() + end - span.start - 1);
                    let whole = span.end.min(end + 1);
                    if whole > end {
                        turned.push(rows.len() + end - span.start);
                    }
                    dropped += span.end - whole;
                    rows.extend(span.start as u64..whole as u64);
                }
                None => rows.extend(span.start as u64..span.end as u64),
            }
            if kept.last() == Some(&true) {
                offsets.push(rows.len());
            }
        }
        if skipped > 0 && self.condition.nulls == Nulls::Error {
            return Err(self.condition.refusal(&block, &passed.into())?);
        }
        tally.count("steps passed though the condition was null", skipped);
        tally.count("trajectories ended where the condition was null", unknown);
        tally.drop_rows("after the end of their trajectory", dropped as u64);
        tally.drop_trajectories(
            "the condition holds at the first step",
            kept.iter().filter(|kept| !**kept).count() as u64,
        );
        tally.count("trajectories ended early", ended);
        let steps = take_record_batch(&block.steps, &UInt64Array::from(rows))?;
        let trajectories = filter_record_batch(&block.trajectories, &BooleanArray::from(kept))?;
        self.flagged(Block::new(steps, trajectories, offsets), &last, &turned)
    }
}

impl Truncated {
    /// Sets the flags of last steps and of final rows, and removes the actions and rewards of final
    /// rows.
    fn flagged(&self, mut block: Block, last: &[usize], turned: &[usize]) -> Result<Block> {
        let rows = block.steps.num_rows();
        let marked = |places: &[usize]| {
            let mut marks = vec![false; rows];
            places.iter().for_each(|row| marks[*row] = true);
            marks
        };
        let (last, turned) = (marked(last), marked(turned));
        let flags = |name: &str| {
            let column = block
                .steps
                .column_by_name(name)
                .and_then(|column| column.as_boolean_opt());
            column
                .cloned()
                .ok_or_else(|| Error::failed(format!("`{name}` is not a boolean column of steps")))
        };
        let (terminated, truncated, is_final) = (
            flags(step::TERMINATED)?,
            flags(step::TRUNCATED)?,
            flags(step::IS_FINAL)?,
        );
        let build = |of: &dyn Fn(usize) -> bool| -> ArrayRef {
            Arc::new((0..rows).map(|row| Some(of(row))).collect::<BooleanArray>())
        };
        let columns = [
            (
                step::TRUNCATED,
                build(&|row| {
                    !turned[row] && (truncated.value(row) || (last[row] && !terminated.value(row)))
                }),
            ),
            (
                step::TERMINATED,
                build(&|row| !turned[row] && terminated.value(row)),
            ),
            (
                step::IS_FINAL,
                build(&|row| turned[row] || is_final.value(row)),
            ),
        ];
        for (name, column) in columns {
            block = block.with_step_column(self.steps.field_with_name(name)?.clone(), column)?;
        }
        let turned = BooleanArray::from(turned);
        for name in step::NULL_IN_FINAL_ROWS {
            if let Some(column) = block.steps.column_by_name(name) {
                let column = nullif(column, &turned)?;
                block =
                    block.with_step_column(self.steps.field_with_name(name)?.clone(), column)?;
            }
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::datatypes::{Float32Type, Int32Type};
    use proptest::prelude::*;

    use super::super::support::fixture;
    use super::*;

    /// A row of the result: step, first value of the observation, reward, truncated, final, has an
    /// action.
    type Row = (i32, f32, Option<f32>, bool, bool, bool);

    fn rows(block: &Block) -> Vec<Vec<Row>> {
        let column = |name: &str| block.steps.column_by_name(name).unwrap();
        let row = |row: usize| {
            let reward = column("reward").as_primitive::<Float32Type>();
            let observation = column("observation")
                .as_fixed_size_list()
                .values()
                .as_primitive::<Float32Type>()
                .value(2 * row);
            let flag = |name: &str| column(name).as_boolean().value(row);
            (
                column("step").as_primitive::<Int32Type>().value(row),
                observation,
                reward.is_valid(row).then(|| reward.value(row)),
                flag("truncated"),
                flag("is_final"),
                column("action").is_valid(row),
            )
        };
        block.spans().map(|span| span.map(row).collect()).collect()
    }

    proptest! {
        #[test]
        fn trajectories_end_where_the_definition_says(
            lengths in prop::collection::vec((0usize..6, any::<bool>()), 0..6),
            pattern in prop::collection::vec(prop::bool::weighted(0.2), 48),
            nulls in prop::collection::vec(prop::bool::weighted(0.1), 48),
            ends in any::<bool>(),
            keep in any::<bool>(),
        ) {
            let trajectories: Vec<_> = lengths
                .iter()
                .enumerate()
                .map(|(id, (length, known))| (id as i64, *length, *known))
                .collect();
            let block = fixture::block(&trajectories);
            let rows_where = |of: &[bool]| -> Vec<usize> {
                (0..block.steps.num_rows()).filter(|row| of[row % of.len()]).collect()
            };
            let list = |rows: &[usize]| {
                let rows = rows.iter().map(usize::to_string);
                rows.chain(["-1".to_owned()]).collect::<Vec<_>>().join(",")
            };
            let (mut bad, null) = (rows_where(&pattern), rows_where(&nulls));
            let condition = format!(
                "case when observation[1] in ({}) then null else observation[1] in ({}) end",
                list(&null),
                list(&bad)
            );
            let stage = |nulls: &str| {
                let options = serde_json::json!({
                    "where": condition, "keep": keep, "nulls": nulls
                });
                fixture::transform(&STAGE, &options.to_string())
            };
            bad.retain(|row| !null.contains(row));
            let refused = stage("error").apply(block.clone(), &mut Tally::default()).is_err();
            let met = block.spans().zip(&lengths).any(|(span, (length, _))| {
                let mut steps = span.start..span.start + length;
                steps.find(|row| bad.contains(row) || null.contains(row))
                    .is_some_and(|row| null.contains(&row))
            });
            prop_assert_eq!(refused, met);
            let stage = stage(if ends { "drop" } else { "keep" });
            if ends {
                bad.extend(&null);
            }
            let (before, mut tally) = (rows(&block), Tally::default());
            let all = block.steps.num_rows();
            let starts = block.offsets.clone();
            let after = stage.apply(block, &mut tally).unwrap();
            prop_assert_eq!(after.steps.schema(), stage.steps());
            let mut expected = Vec::new();
            for (index, (length, _)) in lengths.iter().enumerate() {
                let own = &before[index];
                let Some(first) = (0..*length).find(|step| bad.contains(&(starts[index] + step)))
                else {
                    expected.push(own.clone());
                    continue;
                };
                let steps = first + usize::from(keep);
                if steps == 0 {
                    continue;
                }
                let mut cut = own[..own.len().min(steps + 1)].to_vec();
                cut[steps - 1].3 = !(steps == *length && index % 2 == 0);
                if let Some(last) = cut.get_mut(steps) {
                    (last.2, last.3, last.4, last.5) = (None, false, true, false);
                }
                expected.push(cut);
            }
            prop_assert_eq!(rows(&after), expected);
            prop_assert_eq!(
                after.steps.num_rows() + tally.dropped_rows.values().sum::<u64>() as usize,
                all
            );
            prop_assert_eq!(
                after.len() + tally.dropped_trajectories.values().sum::<u64>() as usize,
                lengths.len()
            );
        }
    }
}
