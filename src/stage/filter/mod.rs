//! `filter`: keeps trajectories and runs of steps by a condition or by their rank.

mod quantile;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::quantile::Quantile;
use super::support::condition::{self, Condition, Nulls};
use super::support::{cut, rank};
use super::{
    Bound, Changes, Context, Dropped, Misfit, Operator, Selected, Selection, Stage, Tally,
    Transform, options,
};
use crate::dataset::Block;
use crate::error::Result;
use crate::expr::{Edge, Expression};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "filter",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Filter>(),
    bind,
    sample: r#"{trajectories: "length >= 1", steps: "step >= 0"}"#,
};

/// Keeps the trajectories for which an SQL condition on their columns holds, such as
/// `filter: return > 500`. If the condition is null for a trajectory, the run ends with an error,
/// unless `nulls` says what to do with such trajectories.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Filter {
    /// A condition on trajectory columns.
    Trajectories(String),
    /// Conditions on trajectories and steps.
    Both(Conditions),
}

/// Conditions on trajectories and steps, applied in this order: `trajectories`, `steps`,
/// `quantile`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Conditions {
    /// Keeps the trajectories for which this SQL condition on their columns holds, such as
    /// `length >= 50`.
    #[serde(default)]
    trajectories: Option<String>,
    /// Keeps the longest runs of steps for which this SQL condition holds, such as
    /// `abs(reward) < 100`. Each run becomes a trajectory: `parent_id` is the trajectory it was cut
    /// from, and `parent_step` the step there at which it begins. The final observation stays with
    /// the step before it. A run that ends before its trajectory did is truncated.
    #[serde(default)]
    steps: Option<String>,
    /// Keeps trajectories or steps by their rank.
    #[serde(default)]
    quantile: Option<Quantile>,
    /// What to do with trajectories and steps for which the condition is null, as a comparison with
    /// a missing value is: `error`, `drop` or `keep`. With `error`, the run ends and names the
    /// first of them. Final observations are never judged. Default: `error`.
    #[serde(default)]
    nulls: Nulls,
}

/// Keeps trajectories by a condition.
struct Keep(Condition);

/// Keeps runs of steps by a condition.
struct Cut {
    condition: Condition,
    steps: SchemaRef,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let conditions = match options::<Filter>(value)? {
        Filter::Trajectories(sql) => {
            let keep = on_trajectories(&sql, context, Nulls::Error)
                .map_err(|misfit| on_steps(&sql, context.steps, misfit))?;
            return Bound::selection(Keep(keep));
        }
        Filter::Both(conditions) => conditions,
    };
    if conditions.trajectories.is_none()
        && conditions.steps.is_none()
        && conditions.quantile.is_none()
    {
        return Err(Misfit::new("`filter` has no condition")
            .help("write one, as in {steps: \"abs(reward) < 100\"}"));
    }
    let keep = conditions
        .trajectories
        .map(|sql| on_trajectories(&sql, context, conditions.nulls));
    let keep = keep
        .transpose()
        .map_err(|misfit| Misfit::from(misfit).at("trajectories"))?;
    let condition = conditions.steps.map(|sql| {
        let nulls = conditions.nulls;
        Condition::bind(&sql, context.steps, Some(Edge::Null), nulls, |sql| {
            remedy("steps", sql)
        })
    });
    let condition = condition
        .transpose()
        .map_err(|misfit| Misfit::from(misfit).at("steps"))?;
    let steps = Arc::new(context.steps.clone());
    let keep = keep.map(|keep| Operator::selection(Keep(keep)));
    let cut = condition.map(|condition| Operator::transform(Cut { condition, steps }));
    let quantile = conditions
        .quantile
        .map(|quantile| quantile::bind(&quantile, context))
        .transpose();
    let quantile = quantile
        .map_err(|misfit| misfit.at("quantile"))?
        .unwrap_or_default();
    Ok(Bound::Work(
        keep.into_iter().chain(cut).chain(quantile).collect(),
    ))
}

fn on_trajectories(
    sql: &str,
    context: &Context,
    nulls: Nulls,
) -> Result<Condition, crate::expr::Misfit> {
    Condition::bind(sql, context.trajectories, None, nulls, |sql| {
        remedy("trajectories", sql)
    })
}

/// Says how to write the condition `sql` on `what` with a decision on its nulls.
fn remedy(what: &str, sql: &str) -> String {
    format!(
        "choose what to do with these {what}: `{{{what}: \"{sql}\", nulls: drop}}` drops them, and \
         `nulls: keep` keeps them"
    )
}

/// Adds to a misfit of a condition on trajectories how to write it as a condition on steps, if it
/// is one.
fn on_steps(sql: &str, steps: &Schema, misfit: crate::expr::Misfit) -> Misfit {
    let misfit = Misfit::from(misfit);
    match Expression::predicate(sql, steps, Some(Edge::Null)) {
        Ok(_) => Misfit {
            help: Some(format!(
                "it is a condition on steps: write `filter: {{steps: \"{}\"}}`",
                sql.trim()
            )),
            ..misfit
        },
        Err(_) => misfit,
    }
}

impl Selection for Keep {
    fn reads(&self) -> Vec<String> {
        rank::reads(&[&self.0.expression], &[])
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let verdicts = self.0.trajectories(table)?;
        let keep = self.0.nulls == Nulls::Keep;
        let (mut rows, mut false_rows, mut null_rows) = (Vec::new(), Vec::new(), Vec::new());
        for (holds, row) in verdicts.holds.iter().zip(0..) {
            match (holds, verdicts.is_unknown(row as usize)) {
                (true, _) => rows.push(row),
                (_, true) if keep => rows.push(row),
                (_, true) => null_rows.push(row),
                _ => false_rows.push(row),
            }
        }
        let reasons = [(condition::FALSE, false_rows), (condition::NULL, null_rows)];
        let dropped = reasons.into_iter().filter(|(_, rows)| !rows.is_empty());
        let dropped = dropped
            .map(|(reason, rows)| Dropped {
                reason: reason.to_owned(),
                rows,
            })
            .collect();
        Ok(Selected {
            rows,
            dropped,
            counts: condition::kept("trajectories", keep, &verdicts),
            ..Selected::default()
        })
    }
}

impl Transform for Cut {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn trajectories(&self) -> Vec<Field> {
        cut::fields().to_vec()
    }

    fn changes(&self) -> Changes {
        cut::changes()
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(rank::reads(&[&self.condition.expression], &cut::READS))
    }

    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block> {
        let verdicts = self.condition.steps(&block)?;
        let keep = self.condition.nulls == Nulls::Keep;
        for (name, n) in condition::kept("steps", keep, &verdicts) {
            tally.count(&name, n);
        }
        let null = if keep { 0 } else { verdicts.unknown() };
        let holds = verdicts.mask(keep);
        cut::cut(
            block,
            &holds,
            &[(condition::NULL, null)],
            condition::FALSE,
            tally,
        )
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float32Type, Int32Type, Int64Type};
    use proptest::prelude::*;

    use super::super::support::fixture::{self, float};
    use super::*;

    #[test]
    fn false_and_null_drop_for_their_own_reasons() {
        let table = fixture::table(
            &[3, 4, 5],
            &[60, 10, 60],
            vec![float("return", &[Some(600.0), Some(700.0), None])],
        );
        let select = |nulls: &str| {
            let options = format!(
                r#"{{"trajectories": "return > 500 and length >= 50", "nulls": "{nulls}"}}"#
            );
            fixture::selection(&STAGE, &options, &table)
        };
        assert_eq!(select("drop").reads(), ["length", "return"]);
        let error = select("error").select(&table).err().unwrap();
        assert_eq!(
            error.message,
            "the condition `return > 500 and length >= 50` is null for 1 trajectory, the first at \
             trajectory 5, where `return` is null"
        );
        let kept = select("keep").select(&table).unwrap();
        assert_eq!(kept.rows, [0, 2]);
        assert_eq!(
            kept.counts.into_iter().collect::<Vec<_>>(),
            [(
                "trajectories kept though the condition was null".to_owned(),
                1
            )]
        );
        let selected = select("drop").select(&table).unwrap();
        let reasons: Vec<(&str, &[u32])> = selected
            .dropped
            .iter()
            .map(|dropped| (dropped.reason.as_str(), &dropped.rows[..]))
            .collect();
        assert_eq!(
            (selected.rows, reasons),
            (
                vec![0],
                vec![
                    ("the condition was false", &[1][..]),
                    ("the condition was null", &[2][..])
                ]
            )
        );
    }

    #[test]
    fn a_condition_on_steps_says_where_it_belongs() {
        let misfit = fixture::misfit(
            &STAGE,
            "\"next(reward) > 0\"",
            None,
            &fixture::trajectories_schema(),
        );
        assert_eq!(
            misfit.help.as_deref(),
            Some("it is a condition on steps: write `filter: {steps: \"next(reward) > 0\"}`")
        );
        let misfit = fixture::misfit(
            &STAGE,
            "\"lenght > 0\"",
            None,
            &fixture::trajectories_schema(),
        );
        assert_eq!(misfit.help.as_deref(), Some("did you mean `length`?"));
        let misfit = fixture::misfit(
            &STAGE,
            r#"{"steps": "reward"}"#,
            None,
            &fixture::trajectories_schema(),
        );
        assert_eq!(
            (misfit.path, misfit.message),
            (
                vec!["steps".to_owned()],
                "a condition must be true or false, but `reward` is a number".to_owned()
            )
        );
    }

    /// One row as the reference sees it: parent, first step, step, reward, truncated, final.
    type Row = (i64, i32, i32, Option<f32>, bool, bool);

    /// The definition, step by step.
    fn reference(block: &Block, holds: &[bool]) -> (Vec<Vec<Row>>, u64) {
        let reward = block
            .steps
            .column_by_name("reward")
            .unwrap()
            .as_primitive::<Float32Type>();
        let (is_final, terminated) = (
            block.is_final().unwrap(),
            block
                .steps
                .column_by_name("terminated")
                .unwrap()
                .as_boolean(),
        );
        let (mut runs, mut empty): (Vec<Vec<Row>>, u64) = (vec![], 0);
        for (index, span) in block.spans().enumerate() {
            let (id, begin, before) = (block.ids().unwrap()[index], span.start, runs.len());
            let mut open = false;
            for row in span.clone() {
                let keep = if is_final.value(row) {
                    open
                } else {
                    holds[row]
                };
                if keep && !open {
                    runs.push(vec![]);
                }
                if !keep && open {
                    let last = runs.last_mut().unwrap().last_mut().unwrap();
                    last.4 = !terminated.value(row - 1);
                }
                if keep {
                    let run = runs.last_mut().unwrap();
                    let first = run
                        .first()
                        .map_or((row - begin) as i32, |first: &Row| first.1);
                    run.push((
                        id,
                        first,
                        run.len() as i32,
                        reward.is_valid(row).then(|| reward.value(row)),
                        false,
                        is_final.value(row),
                    ));
                }
                open = keep;
            }
            empty += u64::from(runs.len() == before);
        }
        (runs, empty)
    }

    proptest! {
        #[test]
        fn runs_are_those_of_the_definition(
            lengths in prop::collection::vec((0usize..6, any::<bool>()), 0..6),
            pattern in prop::collection::vec(any::<bool>(), 48),
            nulls in prop::collection::vec(prop::bool::weighted(0.2), 48),
            keep in any::<bool>(),
        ) {
            let trajectory = |(id, (length, known)): (usize, &(usize, bool))| {
                (id as i64 + 10, *length, *known)
            };
            let trajectories: Vec<_> = lengths.iter().enumerate().map(trajectory).collect();
            let block = fixture::block(&trajectories);
            let rows = 0..block.steps.num_rows();
            let at = |list: &[bool], row: usize| list[row % list.len()];
            let is_true: Vec<bool> = rows.clone().map(|row| at(&pattern, row)).collect();
            let is_null: Vec<bool> = rows.clone().map(|row| at(&nulls, row)).collect();
            let holds: Vec<bool> = rows
                .map(|row| if is_null[row] { keep } else { is_true[row] })
                .collect();
            let list = |of: &[bool]| {
                let set = of.iter().enumerate().filter(|(_, set)| **set);
                let set: Vec<String> = set.map(|(row, _)| row.to_string()).collect();
                // A list must not be empty, and no row is -1.
                [set, vec!["-1".to_owned()]].concat().join(",")
            };
            let sql = format!(
                "case when observation[1] in ({}) then null else observation[1] in ({}) end",
                list(&is_null),
                list(&is_true)
            );
            let stage = |nulls: &str| {
                let options = serde_json::json!({ "steps": sql, "nulls": nulls });
                fixture::transform(&STAGE, &options.to_string())
            };
            let is_final = block.is_final().unwrap();
            let judged = |row: &usize| is_null[*row] && !is_final.value(*row);
            let unknown = (0..is_null.len()).filter(judged).count();
            let refused = stage("error").apply(block.clone(), &mut Tally::default());
            prop_assert_eq!(refused.is_err(), unknown > 0);
            if let Err(error) = refused {
                let first = (0..is_null.len()).find(judged).unwrap();
                let index = block.offsets.partition_point(|start| *start <= first) - 1;
                let place = format!(
                    "null for at least {}, the first at trajectory {}, step {}",
                    crate::error::wording::count(unknown, "step"),
                    block.ids().unwrap()[index],
                    first - block.offsets[index]
                );
                prop_assert!(error.message.contains(&place), "{} / {}", error.message, place);
            }
            let cut = stage(if keep { "keep" } else { "drop" });
            let mut tally = Tally::default();
            let after = cut.apply(block.clone(), &mut tally).unwrap();

            let (wanted, empty) = reference(&block, &holds);
            prop_assert_eq!(after.len(), wanted.len());
            prop_assert_eq!(after.steps.schema(), cut.steps());
            let column = |name: &str| after.steps.column_by_name(name).unwrap();
            let step = column("step").as_primitive::<Int32Type>();
            let reward = column("reward").as_primitive::<Float32Type>();
            let truncated = column("truncated").as_boolean();
            let is_final = column("is_final").as_boolean();
            let own = |name: &str| after.trajectories.column_by_name(name).unwrap();
            let parent = own("parent_id").as_primitive::<Int64Type>();
            let first = own("parent_step").as_primitive::<Int32Type>();
            for (index, wanted) in wanted.iter().enumerate() {
                let row = |row: usize| (
                    parent.value(index),
                    first.value(index),
                    step.value(row),
                    reward.is_valid(row).then(|| reward.value(row)),
                    truncated.value(row),
                    is_final.value(row),
                );
                let rows: Vec<Row> = after.rows(index).map(row).collect();
                prop_assert_eq!(&rows, wanted);
            }
            let copies = own("__copy").as_primitive::<Int32Type>().values();
            let ids = after.ids().unwrap().iter().zip(copies.iter());
            let ids: std::collections::BTreeSet<_> = ids.collect();
            prop_assert_eq!(ids.len(), after.len());
            prop_assert_eq!(tally.dropped_trajectories.values().sum::<u64>(), empty);
            let counted = if keep {
                tally.counts.get("steps kept though the condition was null")
            } else {
                tally.dropped_rows.get(condition::NULL)
            };
            prop_assert_eq!(counted.copied().unwrap_or(0), unknown as u64);
            let dropped = tally.dropped_rows.values().sum::<u64>();
            prop_assert_eq!(after.steps.num_rows() as u64 + dropped, block.steps.num_rows() as u64);
        }
    }
}
