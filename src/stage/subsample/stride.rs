//! Keeps every k-th step of every trajectory.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, UInt64Array};
use arrow::compute::{cast, take, take_record_batch};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};

use super::{Fold, Subsample};
use crate::dataset::Block;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::stage::{Bound, Changes, Context, Misfit, Tally, Transform};

/// Keeps every `every`-th step and merges the rewards and flags of those in between.
struct Stride {
    every: usize,
    reward: Fold,
    steps: SchemaRef,
}

pub(super) fn bind(given: &Subsample, stride: u32, context: &Context) -> Result<Bound, Misfit> {
    let others = [
        ("fraction", given.fraction.is_some()),
        ("per_group", given.per_group.is_some()),
        ("count", given.count.is_some()),
        ("max_steps", given.max_steps.is_some()),
        ("top", given.top.is_some()),
        ("stratify", given.stratify.is_some()),
        ("where", given.among.is_some()),
        ("nulls", given.nulls.is_some()),
        ("weight", given.weight.is_some()),
        ("replacement", given.replacement),
    ];
    if let Some((key, _)) = others.into_iter().find(|(_, given)| *given) {
        return Err(Misfit::new(format!(
            "`{key}` is an option for selecting trajectories, but `stride` selects steps"
        ))
        .help("use two `subsample` stages")
        .at(key));
    }
    if stride == 0 {
        return Err(Misfit::new("`stride` must be at least 1, not 0").at("stride"));
    }
    let reward = given.reward.unwrap_or(Fold::Sum);
    let fold_sums = reward == Fold::Sum
        && context
            .steps
            .field_with_name(step::REWARD)
            .is_ok_and(|field| !field.data_type().is_numeric());
    if fold_sums {
        return Err(Misfit::new("rewards are not numbers, so they have no sum")
            .help("keep the last reward with `reward: last`")
            .at("reward"));
    }
    let every = usize::try_from(stride).unwrap_or(usize::MAX);
    Bound::transform(Stride {
        every,
        reward,
        steps: Arc::new(context.steps.clone()),
    })
}

impl Transform for Stride {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        let unchanged = [trajectory::TERMINATED, trajectory::TRUNCATED];
        let changed = trajectory::COMPUTED
            .iter()
            .filter(|name| !unchanged.contains(name))
            .map(|name| (*name).to_owned());
        Changes {
            trajectories: changed.collect(),
            rows: true,
            splits: false,
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let own = [
            step::STEP,
            step::REWARD,
            step::TERMINATED,
            step::TRUNCATED,
            step::IS_FINAL,
        ];
        Some(
            own.into_iter()
                .filter(|name| self.steps.index_of(name).is_ok())
                .map(str::to_owned)
                .collect(),
        )
    }

    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block> {
        let is_final = block.is_final()?;
        let (mut groups, mut numbers, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for span in block.spans() {
            let end = span.end;
            let steps = span.start + span.clone().filter(|row| !is_final.value(*row)).count();
            groups.extend(
                (span.start..steps)
                    .step_by(self.every)
                    .map(|row| row..steps.min(row.saturating_add(self.every))),
            );
            groups.extend((steps..end).map(|row| row..row + 1));
            let rows = groups.len() - offsets[offsets.len() - 1];
            numbers.extend((0..).take(rows).collect::<Vec<i32>>());
            offsets.push(groups.len());
        }
        tally.drop_rows(
            "left out by `stride`",
            (block.steps.num_rows() - groups.len()) as u64,
        );

        let firsts = UInt64Array::from_iter_values(groups.iter().map(|group| group.start as u64));
        let steps = take_record_batch(&block.steps, &firsts)?;
        let mut strided = Block::new(steps, block.trajectories.clone(), offsets);
        let field = |name: &str| block.steps.schema().field_with_name(name).cloned();
        strided =
            strided.with_step_column(field(step::STEP)?, Arc::new(Int32Array::from(numbers)))?;
        for name in [step::TERMINATED, step::TRUNCATED] {
            let flags = block
                .steps
                .column_by_name(name)
                .and_then(|column| column.as_boolean_opt());
            let flags = flags.ok_or_else(|| {
                Error::failed(format!("`{name}` is not a boolean column of steps"))
            })?;
            let any = groups
                .iter()
                .map(|group| Some(group.clone().any(|row| flags.value(row))));
            strided =
                strided.with_step_column(field(name)?, Arc::new(any.collect::<BooleanArray>()))?;
        }
        if let Some(reward) = block.steps.column_by_name(step::REWARD) {
            let folded: ArrayRef = match self.reward {
                Fold::Last => take(
                    reward,
                    &UInt64Array::from_iter_values(groups.iter().map(|group| group.end as u64 - 1)),
                    None,
                )?,
                Fold::Sum => {
                    let rewards = cast(reward, &DataType::Float64)?;
                    let rewards = rewards.as_primitive::<Float64Type>();
                    let sum = |group: &std::ops::Range<usize>| {
                        let known = group
                            .clone()
                            .filter(|row| rewards.is_valid(*row))
                            .map(|row| rewards.value(row));
                        known.fold(None, |sum: Option<f64>, reward| {
                            Some(sum.unwrap_or(0.0) + reward)
                        })
                    };
                    cast(
                        &groups.iter().map(sum).collect::<Float64Array>(),
                        reward.data_type(),
                    )?
                }
            };
            strided = strided.with_step_column(field(step::REWARD)?, folded)?;
        }
        Ok(strided)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Float32Type, Int32Type};

    use super::super::STAGE;
    use super::*;
    use crate::stage::support::fixture;

    #[test]
    fn a_stride_keeps_first_steps_flags_and_the_final_observation() {
        let block = fixture::block(&[(2, 5, true), (3, 2, false), (4, 0, true)]);
        let run = |options: &str| {
            let mut tally = Tally::default();
            let after = fixture::transform(&STAGE, options)
                .apply(block.clone(), &mut tally)
                .unwrap();
            let column = |name: &str| after.steps.column_by_name(name).unwrap().clone();
            let steps = column("step").as_primitive::<Int32Type>().values().to_vec();
            let rewards: Vec<Option<f32>> = column("reward")
                .as_primitive::<Float32Type>()
                .iter()
                .collect();
            let first = column("observation")
                .as_fixed_size_list()
                .values()
                .as_primitive::<Float32Type>()
                .values()
                .iter()
                .step_by(2)
                .copied()
                .collect::<Vec<_>>();
            let terminated: Vec<bool> = column("terminated").as_boolean().values().iter().collect();
            (
                steps,
                rewards,
                first,
                terminated,
                after.offsets,
                tally.dropped_rows,
            )
        };
        // Rows 0–4 are steps of trajectory 2, row 5 its final observation, 6 and 7 trajectory 3, 8
        // the final row of 4.
        let (steps, rewards, first, terminated, offsets, dropped) = run(r#"{"stride": 2}"#);
        assert_eq!(steps, [0, 1, 2, 3, 0, 0]);
        assert_eq!(
            rewards,
            [Some(1.0), Some(5.0), Some(4.0), None, Some(13.0), None]
        );
        assert_eq!(first, [0.0, 2.0, 4.0, 5.0, 6.0, 8.0]);
        assert_eq!(terminated, [false, false, true, false, false, false]);
        assert_eq!(
            (offsets, dropped["left out by `stride`"]),
            (vec![0, 4, 5, 6], 3)
        );
        let (_, rewards, _, terminated, ..) = run(r#"{"stride": 3, "reward": "last"}"#);
        assert_eq!(rewards, [Some(2.0), Some(4.0), None, Some(7.0), None]);
        assert_eq!(terminated, [false, true, false, false, false]);
    }
}
