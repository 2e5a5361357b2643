//! `filter`: keeps the trajectories, and the runs of steps, for which a condition holds.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Bound, Changes, Context, Dropped, Misfit, Selected, Selection, Stage, Tally, Transform, options, rank};
use crate::dataset::Chunk;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::expr::{Edge, Expression};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "filter",
    schema: |generator| generator.subschema_for::<Filter>(),
    bind,
    sample: r#"{trajectories: "length >= 1", steps: "step >= 0"}"#,
};

/// Column of a split chunk's trajectories, int32: which piece of its trajectory each is, 0 for the first.
const COPY: &str = "__copy";
const PARENT_ID: &str = "parent_id";
const PARENT_STEP: &str = "parent_step";

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
}

struct Keep(Expression);

struct Cut {
    condition: Expression,
    steps: SchemaRef,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let conditions = match options::<Filter>(value)? {
        Filter::Trajectories(sql) => {
            let keep = Expression::predicate(&sql, context.trajectories, None).map_err(|misfit| on_steps(&sql, context.steps, misfit))?;
            return Bound::selection(Keep(keep));
        }
        Filter::Both(conditions) => conditions,
    };
    if conditions.trajectories.is_none() && conditions.steps.is_none() {
        return Err(Misfit::new("`filter` has no condition").help("such as {steps: \"abs(reward) < 100\"}"));
    }
    let keep = conditions.trajectories.map(|sql| Expression::predicate(&sql, context.trajectories, None));
    let keep = keep.transpose().map_err(|misfit| Misfit::from(misfit).at("trajectories"))?;
    let condition = conditions.steps.map(|sql| Expression::predicate(&sql, context.steps, Some(Edge::Null)));
    let condition = condition.transpose().map_err(|misfit| Misfit::from(misfit).at("steps"))?;
    let steps = Arc::new(context.steps.clone());
    Ok(Bound::Work {
        selection: keep.map(|keep| Box::new(Keep(keep)) as Box<dyn Selection>),
        transform: condition.map(|condition| Arc::new(Cut { condition, steps }) as Arc<dyn Transform>),
    })
}

/// A condition that does not fit trajectories may well fit steps: then the misfit says how to write that.
fn on_steps(sql: &str, steps: &Schema, misfit: crate::expr::Misfit) -> Misfit {
    let misfit = Misfit::from(misfit);
    match Expression::predicate(sql, steps, Some(Edge::Null)) {
        Ok(_) => Misfit { help: Some(format!("it fits the columns of steps: write `filter: {{steps: \"{}\"}}`", sql.trim())), ..misfit },
        Err(_) => misfit,
    }
}

impl Selection for Keep {
    fn reads(&self) -> Vec<String> {
        rank::reads(&[&self.0], &[])
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let holds = self.0.evaluate(table, &[])?;
        let holds = holds.as_boolean_opt().ok_or_else(|| Error::failed("the filter is not a condition"))?;
        let (mut rows, mut false_rows, mut null_rows) = (Vec::new(), Vec::new(), Vec::new());
        for (holds, row) in holds.iter().zip(0..) {
            match holds {
                Some(true) => rows.push(row),
                Some(false) => false_rows.push(row),
                None => null_rows.push(row),
            }
        }
        let reasons = [("predicate is false", false_rows), ("predicate is null", null_rows)];
        let dropped = reasons.into_iter().filter(|(_, rows)| !rows.is_empty());
        let dropped = dropped.map(|(reason, rows)| Dropped { reason: reason.to_owned(), rows }).collect();
        Ok(Selected { rows, columns: Vec::new(), dropped })
    }
}

/// A run of kept rows.
struct Run {
    /// Index of the trajectory in the chunk.
    parent: usize,
    /// Which run of that trajectory, from 0.
    copy: i32,
    start: usize,
    /// One past the last row, final observation included.
    end: usize,
    /// The last step of the run, where its trajectory goes on behind it.
    cut_after: Option<usize>,
}

fn runs(chunk: &Chunk, holds: &BooleanArray) -> Result<Vec<Run>> {
    let is_final = chunk.is_final()?;
    let mut runs = Vec::new();
    for (parent, span) in chunk.spans().enumerate() {
        let steps = span.clone().filter(|row| !is_final.value(*row)).count();
        let last = span.start + steps;
        let (mut row, mut copy) = (span.start, 0);
        while row < last {
            if !holds.value(row) {
                row += 1;
                continue;
            }
            let start = row;
            while row < last && holds.value(row) {
                row += 1;
            }
            let whole = row == last;
            runs.push(Run { parent, copy, start, end: if whole { span.end } else { row }, cut_after: (!whole).then(|| row - 1) });
            copy += 1;
        }
    }
    Ok(runs)
}

impl Transform for Cut {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn trajectories(&self) -> Vec<Field> {
        vec![Field::new(PARENT_ID, DataType::Int64, false), Field::new(PARENT_STEP, DataType::Int32, false)]
    }

    fn changes(&self) -> Changes {
        let changed = trajectory::INTRINSIC.into_iter().chain([PARENT_ID, PARENT_STEP]).map(str::to_owned);
        Changes { trajectories: changed.collect(), rows: true, splits: true }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let own = [step::STEP, step::TERMINATED, step::TRUNCATED, step::IS_FINAL];
        Some(rank::reads(&[&self.condition], &own))
    }

    fn apply(&self, chunk: Chunk, tally: &mut Tally) -> Result<Chunk> {
        let holds = self.condition.mask(&chunk.steps, &chunk.offsets)?;
        let runs = runs(&chunk, &holds)?;
        let kept: usize = runs.iter().map(|run| run.end - run.start).sum();
        let survivors = runs.iter().filter(|run| run.copy == 0).count();
        tally.drop_rows("step predicate does not hold", (chunk.steps.num_rows() - kept) as u64);
        tally.drop_trajectories("no step is left", (chunk.len() - survivors) as u64);
        tally.count("trajectories cut out of others", (runs.len() - survivors) as u64);

        let rows = UInt64Array::from_iter_values(runs.iter().flat_map(|run| run.start as u64..run.end as u64));
        let steps = if kept == chunk.steps.num_rows() { chunk.steps.clone() } else { take_record_batch(&chunk.steps, &rows)? };
        let number = chunk.steps.column_by_name(step::STEP).and_then(|column| column.as_primitive_opt::<Int32Type>());
        let number = number.ok_or_else(|| Error::failed("`step` is not an int32 column"))?;
        let first: Vec<i32> = runs.iter().map(|run| number.value(run.start)).collect();
        let renumbered = runs.iter().zip(&first).flat_map(|(run, first)| (run.start..run.end).map(move |row| number.value(row) - first));
        let renumbered: ArrayRef = Arc::new(Int32Array::from_iter_values(renumbered));

        let flag = |name: &str| {
            let column = chunk.steps.column_by_name(name).and_then(|column| column.as_boolean_opt());
            column.ok_or_else(|| Error::failed(format!("`{name}` is not a boolean column of steps")))
        };
        let (terminated, truncated) = (flag(step::TERMINATED)?, flag(step::TRUNCATED)?);
        let ends = |row: usize, run: &Run| truncated.value(row) || (run.cut_after == Some(row) && !terminated.value(row));
        let truncated: Vec<bool> = runs.iter().flat_map(|run| (run.start..run.end).map(move |row| ends(row, run))).collect();

        // A piece of a piece is a piece of the first whole.
        let parents = UInt64Array::from_iter_values(runs.iter().map(|run| run.parent as u64));
        let carried = chunk.trajectories.column_by_name(PARENT_ID).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let began = chunk.trajectories.column_by_name(PARENT_STEP).and_then(|column| column.as_primitive_opt::<Int32Type>());
        let ids = chunk.ids()?;
        let parent = |index: usize| match (carried, began) {
            (Some(ids), Some(began)) if ids.is_valid(index) && began.is_valid(index) => (ids.value(index), began.value(index)),
            _ => (ids[index], 0),
        };
        let parent_id = Int64Array::from_iter_values(runs.iter().map(|run| parent(run.parent).0));
        let parent_step = Int32Array::from_iter_values(runs.iter().zip(&first).map(|(run, first)| parent(run.parent).1 + first));
        let copy = Int32Array::from_iter_values(runs.iter().map(|run| run.copy));
        let columns = chunk.trajectories.columns().iter().map(|column| take(column, &parents, None)).collect::<Result<Vec<_>, _>>()?;
        let trajectories = RecordBatch::try_new(chunk.trajectories.schema(), columns)?;

        let offsets = runs.iter().scan(0, |end, run| {
            *end += run.end - run.start;
            Some(*end)
        });
        let mut cut = Chunk::new(steps, trajectories, std::iter::once(0).chain(offsets).collect());
        let field = |name: &str| chunk.steps.schema().field_with_name(name).cloned();
        cut = cut.with_step_column(field(step::STEP)?, renumbered)?;
        cut = cut.with_step_column(field(step::TRUNCATED)?, Arc::new(BooleanArray::from(truncated)))?;
        cut = cut.with_trajectory_column(Field::new(PARENT_ID, DataType::Int64, false), Arc::new(parent_id))?;
        cut = cut.with_trajectory_column(Field::new(PARENT_STEP, DataType::Int32, false), Arc::new(parent_step))?;
        cut.with_trajectory_column(Field::new(COPY, DataType::Int32, false), Arc::new(copy))
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Float32Type;
    use proptest::prelude::*;

    use super::super::fixture::{self, float};
    use super::*;

    #[test]
    fn false_and_null_drop_for_their_own_reasons() {
        let table = fixture::table(&[3, 4, 5], &[60, 10, 60], vec![float("return", &[Some(600.0), Some(700.0), None])]);
        let selection = fixture::selection(&STAGE, "\"return > 500 and length >= 50\"", &table);
        assert_eq!(selection.reads(), ["length", "return"]);
        let selected = selection.select(&table).unwrap();
        let reasons: Vec<(&str, &[u32])> = selected.dropped.iter().map(|dropped| (dropped.reason.as_str(), &dropped.rows[..])).collect();
        assert_eq!((selected.rows, reasons), (vec![0], vec![("predicate is false", &[1][..]), ("predicate is null", &[2][..])]));
    }

    #[test]
    fn a_condition_on_steps_says_where_it_belongs() {
        let misfit = fixture::misfit(&STAGE, "\"next(reward) > 0\"", None, &fixture::trajectories_schema());
        assert_eq!(misfit.help.as_deref(), Some("it fits the columns of steps: write `filter: {steps: \"next(reward) > 0\"}`"));
        let misfit = fixture::misfit(&STAGE, "\"lenght > 0\"", None, &fixture::trajectories_schema());
        assert_eq!(misfit.help.as_deref(), Some("did you mean `length`?"));
        let misfit = fixture::misfit(&STAGE, r#"{"steps": "reward"}"#, None, &fixture::trajectories_schema());
        assert_eq!(
            (misfit.path, misfit.message),
            (vec!["steps".to_owned()], "a condition is true or false, and `reward` is a number".to_owned())
        );
    }

    /// One row as the reference sees it: parent, first step, step, reward, truncated, final.
    type Row = (i64, i32, i32, Option<f32>, bool, bool);

    /// The definition, step by step.
    fn reference(chunk: &Chunk, holds: &[bool]) -> (Vec<Vec<Row>>, u64) {
        let reward = chunk.steps.column_by_name("reward").unwrap().as_primitive::<Float32Type>();
        let (is_final, terminated) = (chunk.is_final().unwrap(), chunk.steps.column_by_name("terminated").unwrap().as_boolean());
        let (mut runs, mut empty): (Vec<Vec<Row>>, u64) = (vec![], 0);
        for (index, span) in chunk.spans().enumerate() {
            let (id, begin, before) = (chunk.ids().unwrap()[index], span.start, runs.len());
            let mut open = false;
            for row in span.clone() {
                let keep = if is_final.value(row) { open } else { holds[row] };
                if keep && !open {
                    runs.push(vec![]);
                }
                if !keep && open {
                    let last = runs.last_mut().unwrap().last_mut().unwrap();
                    last.4 = !terminated.value(row - 1);
                }
                if keep {
                    let run = runs.last_mut().unwrap();
                    let first = run.first().map_or((row - begin) as i32, |first: &Row| first.1);
                    run.push((id, first, run.len() as i32, reward.is_valid(row).then(|| reward.value(row)), false, is_final.value(row)));
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
