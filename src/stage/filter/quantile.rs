//! `filter: {quantile: …}`: keeps trajectories or steps by their rank among all of them, or among
//! those of a group.
//!
//! Value-Guided Data Filtering (Xu et al., NeurIPS 2023) keeps the transitions whose likelihood is
//! above the 0.75 quantile of a batch. Here the quantile is that of the whole selection.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Float64Builder, ListBuilder, RecordBatch,
};
use arrow::datatypes::{DataType, Field, Float64Type, SchemaRef};
use arrow::util::display::array_value_to_string;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::expr::{Edge, Expression};
use crate::stage::support::condition::{self, Nulls};
use crate::stage::support::{cut, rank};
use crate::stage::{
    Changes, Context, Dropped, Facts, Misfit, Operator, Selected, Selection, Tally, Transform,
};

/// The private column of trajectories with the values of a trajectory's steps.
const VALUES: &str = "__values";
/// The private columns of trajectories with the thresholds for each of them.
const ABOVE: &str = "__above";
const BELOW: &str = "__below";
/// Reasons for which trajectories and steps are dropped.
const OUTSIDE: &str = "outside the quantiles";
const IS_NULL: &str = "value is null";
const IS_NAN: &str = "value is not a number";
/// The number of groups up to which the lineage lists thresholds.
const MOST_LISTED: usize = 100;

/// Keeps by rank. Give `above`, `below` or both.
///
/// The q-quantile of n values is the ⌈q·n⌉-th smallest (numpy's `inverted_cdf`). The values up to
/// it are below the quantile, ties included, and the others are above it, so `above: q` and `below:
/// q` divide the values. Values are compared as float64; null and not-a-number have no rank.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Quantile {
    /// What to rank by: a column or an SQL expression.
    by: String,
    /// Keeps the values above this quantile, a number from 0 to 1.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    above: Option<f64>,
    /// Keeps the values below this quantile, a number from 0 to 1.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    below: Option<f64>,
    /// What to rank: `trajectories` or `steps`. Steps that are dropped cut their trajectory, as
    /// with the option `steps`. Ranking steps takes 8 bytes of memory for each step of the
    /// selection. Default: `trajectories`.
    #[serde(default)]
    of: Of,
    /// Ranks each group of trajectories separately. A group has equal values of this column or SQL
    /// expression.
    #[serde(default)]
    group: Option<String>,
    /// What to do with values that have no rank because they are null or not a number: `error`,
    /// `drop` or `keep`. With `error`, the run ends and names the first of them. Default: `error`.
    #[serde(default)]
    unknown: Nulls,
}

/// What is ranked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Of {
    /// Trajectories, by their columns.
    #[default]
    Trajectories,
    /// Steps, by the columns of steps. Final observations have no rank.
    Steps,
}

/// Returns the operators of the stage.
pub(super) fn bind(given: &Quantile, context: &Context) -> Result<Vec<Operator>, Misfit> {
    for (key, share) in [("above", given.above), ("below", given.below)] {
        if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err(Misfit::new(format!(
                "`{key}` must be a number from 0 to 1, not {}",
                share.unwrap_or_default()
            ))
            .at(key));
        }
    }
    if given.above.is_none() && given.below.is_none() {
        return Err(Misfit::new("`quantile` needs `above`, `below` or both")
            .help("as in {by: return, above: 0.75}"));
    }
    let group = rank::bind_group(given.group.as_deref(), context.trajectories)?;
    let shares = Shares {
        above: given.above,
        below: given.below,
    };
    let unknown = given.unknown;
    let key = |schema, along| {
        let key = Expression::bind(&given.by, schema, along)
            .map_err(|misfit| Misfit::from(misfit).at("by"))?;
        match key.data_type() {
            DataType::Boolean => Ok(key),
            other if other.is_numeric() => Ok(key),
            _ => Err(Misfit::new(format!(
                "a quantile ranks numbers, and `{}` is not a number",
                given.by
            ))
            .at("by")),
        }
    };
    if given.of == Of::Trajectories {
        let by = key(context.trajectories, None).map_err(|misfit| {
            match key(context.steps, Some(Edge::Null)) {
                Ok(_) => misfit
                    .help("it is a column of steps or an expression over them: add `of: steps`"),
                Err(_) => misfit,
            }
        })?;
        return Ok(vec![Operator::selection(Ranked {
            by,
            shares,
            group,
            unknown,
        })]);
    }
    let by = || key(context.steps, Some(Edge::Null));
    let steps = Arc::new(context.steps.clone());
    Ok(vec![
        Operator::transform(Collect {
            by: by()?,
            unknown,
            steps: Arc::clone(&steps),
        }),
        Operator::selection(Thresholds { shares, group }),
        Operator::transform(Between {
            by: by()?,
            keep: unknown == Nulls::Keep,
            steps,
        }),
    ])
}

/// Returns the error that values have no rank, the first of them in `row` of `rows`.
fn no_rank(by: &Expression, many: &str, first: &str, rows: &RecordBatch, row: usize) -> Error {
    let empty = condition::empty_columns(by, rows, row);
    Error::failed(format!(
        "`{}` is null or not a number for {many}, the first at {first}{empty}",
        by.written()
    ))
    .hint(
        "a value without a rank is neither above nor below a quantile: add `unknown: drop` or \
         `unknown: keep` to `quantile`",
    )
}

/// The quantiles to compute, as shares.
#[derive(Debug, Clone, Copy)]
struct Shares {
    above: Option<f64>,
    below: Option<f64>,
}

/// The values to keep: those greater than `above` and not greater than `below`. A bound that is not
/// a number does not apply.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    above: f64,
    below: f64,
}

impl Shares {
    /// Returns the bounds among `values`, all of which are numbers. Reorders them.
    fn bounds(self, values: &mut [f64]) -> Bounds {
        let mut of =
            |share: Option<f64>, none: f64| share.map_or(none, |share| quantile(values, share));
        Bounds {
            above: of(self.above, f64::NAN),
            below: of(self.below, f64::NAN),
        }
    }
}

impl Bounds {
    /// Returns whether to keep a value.
    fn hold(self, value: f64) -> bool {
        (self.above.is_nan() || value > self.above) && (self.below.is_nan() || value <= self.below)
    }

    fn fact(self) -> Value {
        let bound = |bound: f64| Some(bound).filter(|bound| !bound.is_nan());
        json!({"above": bound(self.above), "below": bound(self.below)})
    }
}

/// Returns the ⌈share·n⌉-th smallest value, or minus infinity if that is the 0th.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    // A share such as 0.29 means the decimal, not the double just above it.
    let rank = ((share * values.len() as f64 - 1e-9).ceil().max(0.0) as usize).min(values.len());
    match rank.checked_sub(1) {
        Some(index) => *values.select_nth_unstable_by(index, f64::total_cmp).1,
        None => f64::NEG_INFINITY,
    }
}

/// Returns the bounds as facts, by group if there are groups.
fn facts(
    table: &RecordBatch,
    group: Option<&Expression>,
    groups: &[Vec<u32>],
    bounds: &[Bounds],
) -> Result<Facts> {
    let mut facts = Facts::new();
    let Some(group) = group else {
        facts.extend(
            bounds
                .first()
                .map(|bounds| ("quantiles".to_owned(), bounds.fact())),
        );
        return Ok(facts);
    };
    facts.insert("groups".to_owned(), json!(groups.len()));
    if groups.len() <= MOST_LISTED {
        let keys = group.evaluate(table, &[])?;
        let name = |rows: &Vec<u32>| array_value_to_string(&keys, rows[0] as usize);
        let named = groups
            .iter()
            .zip(bounds)
            .map(|(rows, bounds)| Ok((name(rows)?, bounds.fact())));
        facts.insert(
            "quantiles".to_owned(),
            json!(named.collect::<Result<BTreeMap<_, _>>>()?),
        );
    }
    Ok(facts)
}

/// Keeps trajectories by rank.
struct Ranked {
    by: Expression,
    shares: Shares,
    group: Option<Expression>,
    unknown: Nulls,
}

impl Selection for Ranked {
    fn reads(&self) -> Vec<String> {
        let expressions: Vec<&Expression> = std::iter::once(&self.by).chain(&self.group).collect();
        rank::reads(&expressions, &[])
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let values = rank::float64(&self.by.evaluate(table, &[])?)?;
        let known =
            |row: &u32| values.is_valid(*row as usize) && !values.value(*row as usize).is_nan();
        if self.unknown == Nulls::Error {
            let ids = rank::ids(table)?;
            let without = (0..table.num_rows()).filter(|row| !known(&(*row as u32)));
            let first = without.clone().min_by_key(|row| ids.value(*row));
            if let Some(first) = first {
                let many = count(without.count() as u64, "trajectory");
                let place = format!("trajectory {}", ids.value(first));
                return Err(no_rank(&self.by, &many, &place, table, first));
            }
        }
        let groups = rank::groups(table, self.group.as_ref())?;
        let (mut rows, mut outside, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
        let (mut null, mut nan) = (Vec::new(), Vec::new());
        for group in &groups {
            let mut own: Vec<f64> = group
                .iter()
                .filter(|row| known(row))
                .map(|row| values.value(*row as usize))
                .collect();
            let between = self.shares.bounds(&mut own);
            bounds.push(between);
            for row in group {
                match known(row) {
                    true if between.hold(values.value(*row as usize)) => rows.push(*row),
                    true => outside.push(*row),
                    false if self.unknown == Nulls::Keep => rows.push(*row),
                    false if values.is_null(*row as usize) => null.push(*row),
                    false => nan.push(*row),
                }
            }
        }
        rows.sort_unstable();
        let reasons = [(OUTSIDE, outside), (IS_NULL, null), (IS_NAN, nan)];
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
            facts: facts(table, self.group.as_ref(), &groups, &bounds)?,
            ..Selected::default()
        })
    }
}

/// Adds the values of a trajectory's steps to its metadata.
struct Collect {
    by: Expression,
    unknown: Nulls,
    steps: SchemaRef,
}

impl Transform for Collect {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn trajectories(&self) -> Vec<Field> {
        vec![Field::new_list(
            VALUES,
            Field::new("element", DataType::Float64, false),
            false,
        )]
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: vec![VALUES.to_owned()],
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(rank::reads(&[&self.by], &[step::IS_FINAL]))
    }

    fn apply(&self, block: Block, _tally: &mut Tally) -> Result<Block> {
        let values = rank::float64(&self.by.evaluate(&block.steps, &block.offsets)?)?;
        let is_final = block.is_final()?;
        if self.unknown == Nulls::Error {
            let mut without = (0..values.len()).filter(|row| {
                !is_final.value(*row) && (values.is_null(*row) || values.value(*row).is_nan())
            });
            if let Some(first) = without.next() {
                let many = format!("at least {}", count(1 + without.count() as u64, "step"));
                let place = condition::place(&block, first)?;
                return Err(no_rank(&self.by, &many, &place, &block.steps, first));
            }
        }
        let element = Field::new("element", DataType::Float64, false);
        let mut lists =
            ListBuilder::with_capacity(Float64Builder::with_capacity(values.len()), block.len())
                .with_field(element);
        for span in block.spans() {
            let ranked = span.filter(|row| {
                !is_final.value(*row) && values.is_valid(*row) && !values.value(*row).is_nan()
            });
            ranked.for_each(|row| lists.values().append_value(values.value(row)));
            lists.append(true);
        }
        let field = self.trajectories().remove(0);
        block.with_trajectory_column(field, Arc::new(lists.finish()))
    }
}

/// Finds the thresholds among the values of all steps.
struct Thresholds {
    shares: Shares,
    group: Option<Expression>,
}

impl Selection for Thresholds {
    fn reads(&self) -> Vec<String> {
        let expressions: Vec<&Expression> = self.group.iter().collect();
        rank::reads(&expressions, &[VALUES])
    }

    fn writes(&self) -> Vec<Field> {
        [ABOVE, BELOW]
            .map(|name| Field::new(name, DataType::Float64, false))
            .to_vec()
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let lists = table
            .column_by_name(VALUES)
            .and_then(|column| column.as_list_opt::<i32>());
        let lists = lists.ok_or_else(|| Error::failed("the values to rank are missing"))?;
        let values = lists.values().as_primitive::<Float64Type>();
        let groups = rank::groups(table, self.group.as_ref())?;
        let mut bounds = Vec::with_capacity(groups.len());
        let mut own = vec![
            Bounds {
                above: f64::NAN,
                below: f64::NAN
            };
            table.num_rows()
        ];
        let mut ranked = Vec::new();
        for group in &groups {
            ranked.clear();
            for row in group {
                let ends = &lists.value_offsets()[*row as usize..];
                ranked.extend_from_slice(&values.values()[ends[0] as usize..ends[1] as usize]);
            }
            let between = self.shares.bounds(&mut ranked);
            bounds.push(between);
            group.iter().for_each(|row| own[*row as usize] = between);
        }
        let column = |of: fn(&Bounds) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(own.iter().map(of)))
        };
        let rows = (0..table.num_rows())
            .map(|row| u32::try_from(row).map_err(|_| Error::failed("more than 2³² trajectories")));
        Ok(Selected {
            rows: rows.collect::<Result<_>>()?,
            columns: vec![column(|bounds| bounds.above), column(|bounds| bounds.below)],
            facts: facts(table, self.group.as_ref(), &groups, &bounds)?,
            ..Selected::default()
        })
    }
}

/// Keeps the steps between the thresholds.
struct Between {
    by: Expression,
    keep: bool,
    steps: SchemaRef,
}

impl Transform for Between {
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
        Some(rank::reads(&[&self.by], &cut::READS))
    }

    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block> {
        let values = rank::float64(&self.by.evaluate(&block.steps, &block.offsets)?)?;
        let bound = |name: &str| {
            let column = block
                .trajectories
                .column_by_name(name)
                .and_then(|column| column.as_primitive_opt::<Float64Type>());
            column.ok_or_else(|| Error::failed("the thresholds are missing"))
        };
        let (above, below) = (bound(ABOVE)?, bound(BELOW)?);
        let is_final = block.is_final()?;
        let (mut null, mut nan) = (0, 0);
        let mut holds = Vec::with_capacity(values.len());
        for (index, span) in block.spans().enumerate() {
            let between = Bounds {
                above: above.value(index),
                below: below.value(index),
            };
            let known = |row: usize| values.is_valid(row) && !values.value(row).is_nan();
            holds.extend(span.map(|row| {
                if known(row) {
                    return between.hold(values.value(row));
                }
                if !self.keep && !is_final.value(row) {
                    *(if values.is_null(row) {
                        &mut null
                    } else {
                        &mut nan
                    }) += 1;
                }
                self.keep
            }));
        }
        cut::cut(
            block,
            &BooleanArray::from(holds),
            &[(IS_NULL, null), (IS_NAN, nan)],
            OUTSIDE,
            tally,
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::STAGE;
    use super::*;
    use crate::stage::support::fixture::{self, float};

    proptest! {
        #[test]
        fn above_and_below_part_the_values_at_an_exact_rank(
            values in prop::collection::vec(
                prop_oneof![
                    (-3i32..3).prop_map(f64::from),
                    Just(f64::INFINITY),
                    Just(f64::NEG_INFINITY),
                ],
                0..30,
            ),
            percent in 0usize..=100,
        ) {
            let share = percent as f64 / 100.0;
            let threshold = quantile(&mut values.clone(), share);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = (percent * values.len()).div_ceil(100);
            let below = sorted.iter().filter(|value| **value <= threshold).count();
            // At least `rank` values are below, and more only because of ties.
            prop_assert!(below >= rank);
            prop_assert!(rank == 0 || sorted[rank - 1] == threshold);
            let least = sorted.iter().filter(|value| **value == f64::NEG_INFINITY);
            prop_assert!(rank > 0 || below == least.count());
            let bounds = |above, below| Shares { above, below }.bounds(&mut values.clone());
            for value in &values {
                let above = bounds(Some(share), None).hold(*value);
                let below = bounds(None, Some(share)).hold(*value);
                prop_assert!(above != below);
            }
        }
    }

    #[test]
    fn trajectories_are_ranked_in_their_groups_and_what_has_no_rank_is_said() {
        let values = [
            Some(5.0),
            Some(1.0),
            None,
            Some(f64::NAN),
            Some(5.0),
            Some(3.0),
            Some(2.0),
        ];
        let groups = float(
            "task",
            &[
                Some(1.0),
                Some(1.0),
                Some(1.0),
                Some(1.0),
                Some(1.0),
                Some(2.0),
                Some(2.0),
            ],
        );
        let table = fixture::table(
            &[0, 1, 2, 3, 4, 5, 6],
            &[1; 7],
            vec![float("return", &values), groups],
        );
        let ids = |options: &str| {
            let options = match options.contains("unknown") {
                true => options.to_owned(),
                false => options.replace("}}", r#", "unknown": "drop"}}"#),
            };
            fixture::selected_ids(&table, &*fixture::selection(&STAGE, &options, &table))
        };
        let undecided = r#"{"quantile": {"by": "return", "above": 0.5}}"#;
        let error = fixture::selection(&STAGE, undecided, &table).select(&table);
        assert_eq!(
            error.err().unwrap().message,
            "`return` is null or not a number for 2 trajectories, the first at trajectory 2, where \
             `return` is null"
        );
        assert_eq!(
            ids(r#"{"quantile": {"by": "return", "above": 0.5}}"#),
            [0, 4]
        );
        assert_eq!(
            ids(r#"{"quantile": {"by": "return", "below": 0.5}}"#),
            [1, 5, 6]
        );
        assert_eq!(
            ids(r#"{"quantile": {"by": "return", "above": 0.5, "unknown": "keep"}}"#),
            [0, 2, 3, 4]
        );
        assert_eq!(
            ids(r#"{"quantile": {"by": "return", "above": 0.34, "group": "task"}}"#),
            [5]
        );
        assert_eq!(
            ids(r#"{"quantile": {"by": "return", "above": 0.3, "group": "task"}}"#),
            [0, 4, 5]
        );
        assert_eq!(
            ids(r#"{"quantile": {"by": "return", "above": 0.2, "below": 0.6}}"#),
            [5, 6]
        );
        let selected = fixture::selection(
            &STAGE,
            r#"{"quantile": {"by": "return", "above": 0.5, "unknown": "drop"}}"#,
            &table,
        )
        .select(&table)
        .unwrap();
        let reasons: Vec<(&str, usize)> = selected
            .dropped
            .iter()
            .map(|dropped| (dropped.reason.as_str(), dropped.rows.len()))
            .collect();
        assert_eq!(
            reasons,
            [
                ("outside the quantiles", 3),
                ("value is null", 1),
                ("value is not a number", 1)
            ]
        );
        assert_eq!(
            selected.facts["quantiles"],
            json!({"above": 3.0, "below": null})
        );
    }

    #[test]
    fn steps_are_ranked_over_all_trajectories() {
        let block = fixture::block(&[(1, 3, true), (2, 4, false)]);
        let options = r#"{"quantile": {"by": "reward", "of": "steps", "above": 0.5}}"#;
        let mut operators = fixture::operators(
            &STAGE,
            options,
            &fixture::steps_schema(),
            &fixture::trajectories_schema(),
        )
        .into_iter();
        let (
            Some(Operator::Transform(collect)),
            Some(Operator::Selection(threshold)),
            Some(Operator::Transform(between)),
        ) = (operators.next(), operators.next(), operators.next())
        else {
            panic!("three operators")
        };
        let mut tally = Tally::default();
        let collected = collect.apply(block, &mut tally).unwrap();
        // Rewards are 0, 1, 2 and 4, 5, 6, 7: four of seven are not above the median.
        let selected = threshold.select(&collected.trajectories).unwrap();
        assert_eq!(
            selected.columns[0]
                .as_primitive::<Float64Type>()
                .values()
                .as_ref(),
            [4.0, 4.0]
        );
        let mut block = collected;
        for (field, column) in threshold.writes().into_iter().zip(selected.columns) {
            block = block.with_trajectory_column(field, column).unwrap();
        }
        let after = between.apply(block, &mut tally).unwrap();
        let rewards = after
            .steps
            .column_by_name("reward")
            .unwrap()
            .as_primitive::<arrow::datatypes::Float32Type>();
        assert_eq!(
            (rewards.values().as_ref(), after.offsets.as_slice()),
            ([5.0, 6.0, 7.0].as_slice(), [0, 3].as_slice())
        );
    }
}
