//! `filter`: keeps the trajectories, and the runs of steps, for which a condition holds, or by their rank.

mod quantile;

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::quantile::Quantile;
use super::{
    Bound, Changes, Context, Dropped, Half, Misfit, Selected, Selection, Stage, Tally, Transform,
    cut, options, rank,
};
use crate::dataset::Chunk;
use crate::error::{Error, Result};
use crate::expr::{Edge, Expression};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "filter",
    schema: |generator| generator.subschema_for::<Filter>(),
    bind,
    sample: r#"{trajectories: "length >= 1", steps: "step >= 0"}"#,
};

/// Keeps the trajectories for which an SQL condition on their columns holds; where it is null, it does not hold.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Filter {
    /// A condition on columns of trajectories.
    Trajectories(String),
    /// Conditions on trajectories and on steps.
    Both(Conditions),
}

/// Conditions on trajectories and on steps; the first is applied first.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Conditions {
    /// Keeps the trajectories for which it holds.
    #[serde(default)]
    trajectories: Option<String>,
    /// Keeps the longest runs of steps for which it holds, each a trajectory of its own: `parent_id` is the trajectory it was
    /// cut from, and `parent_step` the step it began at there. The final observation stays with the step before it. A run
    /// that ends before its trajectory did is truncated.
    #[serde(default)]
    steps: Option<String>,
    /// Keeps by rank, after both conditions.
    #[serde(default)]
    quantile: Option<Quantile>,
}

struct Keep(Expression);

struct Cut {
    condition: Expression,
    steps: SchemaRef,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let conditions = match options::<Filter>(value)? {
        Filter::Trajectories(sql) => {
            let keep = Expression::predicate(&sql, context.trajectories, None)
                .map_err(|misfit| on_steps(&sql, context.steps, misfit))?;
            return Bound::selection(Keep(keep));
        }
        Filter::Both(conditions) => conditions,
    };
    if conditions.trajectories.is_none()
        && conditions.steps.is_none()
        && conditions.quantile.is_none()
    {
        return Err(
            Misfit::new("`filter` has no condition").help("such as {steps: \"abs(reward) < 100\"}")
        );
    }
    let keep = conditions
        .trajectories
        .map(|sql| Expression::predicate(&sql, context.trajectories, None));
    let keep = keep
        .transpose()
        .map_err(|misfit| Misfit::from(misfit).at("trajectories"))?;
    let condition = conditions
        .steps
        .map(|sql| Expression::predicate(&sql, context.steps, Some(Edge::Null)));
    let condition = condition
        .transpose()
        .map_err(|misfit| Misfit::from(misfit).at("steps"))?;
    let steps = Arc::new(context.steps.clone());
    let keep = keep.map(|keep| Half::selection(Keep(keep)));
    let cut = condition.map(|condition| Half::transform(Cut { condition, steps }));
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

/// A condition that does not fit trajectories may well fit steps: then the misfit says how to write that.
fn on_steps(sql: &str, steps: &Schema, misfit: crate::expr::Misfit) -> Misfit {
    let misfit = Misfit::from(misfit);
    match Expression::predicate(sql, steps, Some(Edge::Null)) {
        Ok(_) => Misfit {
            help: Some(format!(
                "it fits the columns of steps: write `filter: {{steps: \"{}\"}}`",
                sql.trim()
            )),
            ..misfit
        },
        Err(_) => misfit,
    }
}

impl Selection for Keep {
    fn reads(&self) -> Vec<String> {
        rank::reads(&[&self.0], &[])
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let holds = self.0.evaluate(table, &[])?;
        let holds = holds
            .as_boolean_opt()
            .ok_or_else(|| Error::failed("the filter is not a condition"))?;
        let (mut rows, mut false_rows, mut null_rows) = (Vec::new(), Vec::new(), Vec::new());
        for (holds, row) in holds.iter().zip(0..) {
            match holds {
                Some(true) => rows.push(row),
                Some(false) => false_rows.push(row),
                None => null_rows.push(row),
            }
        }
        let reasons = [
            ("predicate is false", false_rows),
            ("predicate is null", null_rows),
        ];
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
        Some(rank::reads(&[&self.condition], &cut::READS))
    }

    fn apply(&self, chunk: Chunk, tally: &mut Tally) -> Result<Chunk> {
        let holds = self.condition.mask(&chunk.steps, &chunk.offsets)?;
        cut::cut(chunk, &holds, "step predicate does not hold", tally)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::datatypes::{Float32Type, Int32Type, Int64Type};
    use proptest::prelude::*;

    use super::super::fixture::{self, float};
    use super::*;

    #[test]
    fn false_and_null_drop_for_their_own_reasons() {
        let table = fixture::table(
            &[3, 4, 5],
            &[60, 10, 60],
            vec![float("return", &[Some(600.0), Some(700.0), None])],
        );
        let selection = fixture::selection(&STAGE, "\"return > 500 and length >= 50\"", &table);
        assert_eq!(selection.reads(), ["length", "return"]);
        let selected = selection.select(&table).unwrap();
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
                    ("predicate is false", &[1][..]),
                    ("predicate is null", &[2][..])
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
            Some("it fits the columns of steps: write `filter: {steps: \"next(reward) > 0\"}`")
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
    fn reference(chunk: &Chunk, holds: &[bool]) -> (Vec<Vec<Row>>, u64) {
        let reward = chunk
            .steps
            .column_by_name("reward")
            .unwrap()
            .as_primitive::<Float32Type>();
        let (is_final, terminated) = (
            chunk.is_final().unwrap(),
            chunk
                .steps
                .column_by_name("terminated")
                .unwrap()
                .as_boolean(),
        );
        let (mut runs, mut empty): (Vec<Vec<Row>>, u64) = (vec![], 0);
        for (index, span) in chunk.spans().enumerate() {
            let (id, begin, before) = (chunk.ids().unwrap()[index], span.start, runs.len());
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
        ) {
            let trajectories: Vec<_> = lengths.iter().enumerate().map(|(id, (length, known))| (id as i64 + 10, *length, *known)).collect();
            let chunk = fixture::chunk(&trajectories);
            let holds: Vec<bool> = (0..chunk.steps.num_rows()).map(|row| pattern[row % pattern.len()]).collect();
            let kept: Vec<String> = holds.iter().enumerate().filter(|(_, holds)| **holds).map(|(row, _)| row.to_string()).collect();
            let sql = format!("observation[1] in ({})", if kept.is_empty() { "-1".to_owned() } else { kept.join(",") });
            let cut = fixture::transform(&STAGE, &serde_json::json!({ "steps": sql }).to_string());
            let mut tally = Tally::default();
            let after = cut.apply(chunk.clone(), &mut tally).unwrap();

            let (wanted, empty) = reference(&chunk, &holds);
            prop_assert_eq!(after.len(), wanted.len());
            prop_assert_eq!(after.steps.schema(), cut.steps());
            let column = |name: &str| after.steps.column_by_name(name).unwrap();
            let (step, reward) = (column("step").as_primitive::<Int32Type>(), column("reward").as_primitive::<Float32Type>());
            let (truncated, is_final) = (column("truncated").as_boolean(), column("is_final").as_boolean());
            let own = |name: &str| after.trajectories.column_by_name(name).unwrap();
            let (parent, first) = (own("parent_id").as_primitive::<Int64Type>(), own("parent_step").as_primitive::<Int32Type>());
            for (index, wanted) in wanted.iter().enumerate() {
                let rows: Vec<Row> = after.rows(index).map(|row| {
                    let reward = reward.is_valid(row).then(|| reward.value(row));
                    (parent.value(index), first.value(index), step.value(row), reward, truncated.value(row), is_final.value(row))
                }).collect();
                prop_assert_eq!(&rows, wanted);
            }
            let copies = own("__copy").as_primitive::<Int32Type>().values();
            let ids: std::collections::BTreeSet<_> = after.ids().unwrap().iter().zip(copies.iter()).collect();
            prop_assert_eq!(ids.len(), after.len());
            prop_assert_eq!(tally.dropped_trajectories.values().sum::<u64>(), empty);
            let dropped = tally.dropped_rows.values().sum::<u64>();
            prop_assert_eq!(after.steps.num_rows() as u64 + dropped, chunk.steps.num_rows() as u64);
        }
    }
}
