//! `hide_actions`: the semi-supervised split, in which only some trajectories keep their actions.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::support::columns::refuse_taken;
use super::support::rank;
use super::{
    Bound, Changes, Context, Misfit, Operator, Selected, Selection, Stage, Tally, Transform,
    options,
};
use crate::dataset::Block;
use crate::dataset::block::with_field;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::expr::Expression;

/// The columns of steps that say something of actions.
const OF_ACTIONS: [&str; 4] = [
    step::ACTION,
    step::ACTION_SOURCE,
    step::ACTION_STD,
    step::ACTION_MODEL,
];

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "hide_actions",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<HideActions>(),
    bind,
    sample: "{keep: 0.1, from: {lowest: 0.5, by: return}, seed: 7, as: true_action}",
};

/// Column of trajectories that says to which part of the split each belongs.
pub(super) const SPLIT: &str = "split";
const LABELLED: &str = "labelled";

/// Keeps the actions of some trajectories and sets those of all others to null: the coupled split
/// of SS-ORL (Zheng et al., ICML 2023).
///
/// All n trajectories are ranked by (`by`, id) in ascending order, nulls last. The pool is the
/// share of the ranking that `from` names, at its lowest or its highest end. From the pool,
/// ⌊keep·n⌋ trajectories (or the whole pool, if it is smaller) are drawn without replacement, by a
/// seeded hash of their ids. The new column `split` of `trajectories` is `labelled` for those,
/// `in_dist` for the rest of the pool, and `out_dist` for all others. No trajectory is dropped.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HideActions {
    /// Share of all trajectories that keep their actions, from 0 to 1, such as `0.1`.
    #[schemars(range(min = 0, max = 1))]
    keep: f64,
    /// Pool that these trajectories are drawn from, such as `{lowest: 0.5, by: return}`. Default:
    /// all trajectories.
    #[serde(default)]
    from: Ranking,
    /// Seed of the random draw. Default: 0.
    #[serde(default)]
    seed: u64,
    /// Name of a new column that holds the actions as they were, for evaluation, such as
    /// `true_action`. Default: hidden actions are not kept.
    #[serde(default, rename = "as")]
    hidden: Option<String>,
}

/// A share of the ranking, at one of its ends.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ranking {
    /// Share of all trajectories, from 0 to 1, counted from the lowest. Give either `lowest` or
    /// `highest`.
    #[schemars(range(min = 0, max = 1))]
    lowest: Option<f64>,
    /// Share of all trajectories, from 0 to 1, counted from the highest. Give either `lowest` or
    /// `highest`.
    #[schemars(range(min = 0, max = 1))]
    highest: Option<f64>,
    /// Column of `trajectories`, or SQL expression over its columns, that trajectories are ranked
    /// by. Default: `return`.
    #[serde(default = "by_return")]
    by: String,
    /// Number of lowest trajectories to leave out of the ranking and of all shares. Their actions
    /// are hidden, and their `split` is `skipped`. The reference implementation of SS-ORL leaves
    /// out one. Default: 0.
    #[serde(default)]
    skip_lowest: usize,
}

fn by_return() -> String {
    trajectory::RETURN.to_owned()
}

impl Default for Ranking {
    fn default() -> Ranking {
        Ranking {
            lowest: Some(1.0),
            highest: None,
            by: by_return(),
            skip_lowest: 0,
        }
    }
}

/// Splits the table of trajectories.
struct Split {
    keep: f64,
    pool: Pool,
    key: Expression,
    skip_lowest: usize,
    seed: u64,
}

enum Pool {
    Lowest(f64),
    Highest(f64),
}

/// Hides the actions of steps.
struct Hide {
    steps: SchemaRef,
    hidden: Option<String>,
}

fn share(value: f64, key: &str) -> Result<f64, Misfit> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => {
            Err(Misfit::new(format!("`{key}` must be a share from 0 to 1, not {value}")).at(key))
        }
    }
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let options: HideActions = options(value)?;
    let keep = share(options.keep, "keep")?;
    let pool = match (options.from.lowest, options.from.highest) {
        (Some(lowest), None) => {
            Pool::Lowest(share(lowest, "lowest").map_err(|misfit| misfit.at("from"))?)
        }
        (None, Some(highest)) => {
            Pool::Highest(share(highest, "highest").map_err(|misfit| misfit.at("from"))?)
        }
        _ => {
            return Err(
                Misfit::new("`from` needs exactly one of `lowest` and `highest`")
                    .help("give one of them, such as {lowest: 0.5, by: return}")
                    .at("from"),
            );
        }
    };
    let key = rank::bind_key(&options.from.by, context.trajectories)
        .map_err(|misfit| misfit.at("by").at("from"))?;
    let Ok(action) = context.steps.field_with_name(step::ACTION) else {
        return Err(Misfit::new(
            "there are no actions to hide: `steps` has no column `action`",
        ));
    };
    let nullable = |field: &Field| field.clone().with_nullable(true);
    let mut steps = context.steps.clone();
    for name in OF_ACTIONS {
        if let Ok(field) = context.steps.field_with_name(name) {
            steps = with_field(&steps, nullable(field)).0;
        }
    }
    if let Some(name) = &options.hidden {
        refuse_taken(name, context.steps).map_err(|misfit| misfit.at("as"))?;
        steps = with_field(&steps, nullable(action).with_name(name)).0;
    }
    let split = Operator::selection(Split {
        keep,
        pool,
        key,
        skip_lowest: options.from.skip_lowest,
        seed: options.seed,
    });
    Ok(Bound::Work(vec![
        split,
        Operator::transform(Hide {
            steps: Arc::new(steps),
            hidden: options.hidden,
        }),
    ]))
}

impl Selection for Split {
    fn reads(&self) -> Vec<String> {
        rank::reads(
            &[&self.key],
            &[trajectory::RECORDED_ACTIONS, trajectory::LABELLED],
        )
    }

    fn writes(&self) -> Vec<Field> {
        vec![
            Field::new(SPLIT, DataType::Utf8, false),
            Field::new(trajectory::LABELLED, DataType::Boolean, false),
            Field::new(trajectory::RECORDED_ACTIONS, DataType::Int64, false),
        ]
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let ranked = rank::order(table, self.key.evaluate(table, &[])?, false)?;
        let (skipped, ranked) = ranked.split_at(self.skip_lowest.min(ranked.len()));
        let n = ranked.len();
        let pool = match self.pool {
            Pool::Lowest(share) => &ranked[..rank::share_of(share, n)],
            Pool::Highest(share) => &ranked[n - rank::share_of(share, n)..],
        };
        let mut split = vec!["out_dist"; table.num_rows()];
        skipped
            .iter()
            .for_each(|row| split[*row as usize] = "skipped");
        pool.iter().for_each(|row| split[*row as usize] = "in_dist");
        let drawn = rank::shuffled(table, "hide_actions", self.seed)?
            .into_iter()
            .filter(|row| split[*row as usize] == "in_dist");
        for row in drawn.take(rank::share_of(self.keep, n)).collect::<Vec<_>>() {
            split[row as usize] = LABELLED;
        }

        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let recorded = rank::integers(table, trajectory::RECORDED_ACTIONS)?;
        let recorded = recorded
            .iter()
            .zip(&split)
            .map(|(recorded, split)| if *split == LABELLED { *recorded } else { 0 });
        let recorded = Int64Array::from_iter_values(recorded);
        let labelled: Vec<bool> = lengths
            .iter()
            .zip(recorded.values())
            .map(|(length, recorded)| length == recorded)
            .collect();
        let rows = (0..table.num_rows()).map(|row| {
            u32::try_from(row).map_err(|_| Error::failed("there are more than 2³² trajectories"))
        });
        Ok(Selected {
            rows: rows.collect::<Result<_>>()?,
            columns: vec![
                Arc::new(StringArray::from_iter_values(split)),
                Arc::new(BooleanArray::from(labelled)),
                Arc::new(recorded),
            ],
            ..Selected::default()
        })
    }
}

impl Transform for Hide {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        let changed = [
            trajectory::CONTENT_HASH,
            trajectory::HAS_ACTIONS,
            trajectory::ACTION_SUM,
            trajectory::ACTION_SUM_SQ,
        ];
        Changes {
            trajectories: changed.map(str::to_owned).to_vec(),
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(
            OF_ACTIONS
                .into_iter()
                .chain([step::IS_FINAL])
                .filter(|name| self.steps.index_of(name).is_ok())
                .map(str::to_owned)
                .collect(),
        )
    }

    fn apply(&self, mut block: Block, tally: &mut Tally) -> Result<Block> {
        let split = block
            .trajectories
            .column_by_name(SPLIT)
            .and_then(|column| column.as_string_opt::<i32>());
        let split = split.ok_or_else(|| {
            Error::failed(format!("`{SPLIT}` is not a text column of trajectories"))
        })?;
        let hide = block
            .spans()
            .zip(split)
            .flat_map(|(span, split)| std::iter::repeat_n(split != Some(LABELLED), span.len()));
        let hide = BooleanArray::from(hide.collect::<Vec<_>>());
        let nullable = |schema: &Schema, name: &str| {
            schema
                .field_with_name(name)
                .ok()
                .map(|field| field.clone().with_nullable(true))
        };
        let schema = block.steps.schema();
        for name in OF_ACTIONS {
            let (Some(field), Some(column)) = (
                nullable(&schema, name),
                block.steps.column_by_name(name).cloned(),
            ) else {
                continue;
            };
            let shown = nullif(&column, &hide)?;
            if name == step::ACTION {
                tally.count(
                    "actions hidden",
                    (shown.null_count() - column.null_count()) as u64,
                );
                if let Some(name) = &self.hidden {
                    block = block.with_step_column(field.clone().with_name(name), column)?;
                }
            }
            block = block.with_step_column(field, shown)?;
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::ArrayRef;

    use super::super::support::fixture::{self, float};
    use super::*;

    fn split(ids: &[i64], returns: &[Option<f64>], options: &str) -> Vec<(i64, String, bool, i64)> {
        let n = ids.len();
        let recorded = (
            Field::new("recorded_actions", DataType::Int64, false),
            Arc::new(Int64Array::from(vec![3; n])) as ArrayRef,
        );
        let labelled = (
            Field::new("labelled", DataType::Boolean, false),
            Arc::new(BooleanArray::from(vec![true; n])) as ArrayRef,
        );
        let table = fixture::table(
            ids,
            &vec![3; n],
            vec![float("return", returns), recorded, labelled],
        );
        let (selection, _) =
            fixture::work(&STAGE, options, &fixture::steps_schema(), &table.schema());
        let selected = selection.unwrap().select(&table).unwrap();
        assert_eq!(selected.rows.len(), n);
        let (names, flags) = (
            selected.columns[0].as_string::<i32>(),
            selected.columns[1].as_boolean(),
        );
        let recorded = selected.columns[2].as_primitive::<arrow::datatypes::Int64Type>();
        let mut rows: Vec<_> = (0..n)
            .map(|row| {
                (
                    ids[row],
                    names.value(row).to_owned(),
                    flags.value(row),
                    recorded.value(row),
                )
            })
            .collect();
        rows.sort();
        rows
    }

    #[test]
    fn the_share_is_of_all_and_the_pool_from_the_named_end() {
        // Ranked by (return, id), nulls last: 5, 1, 2, 0, 4, 6, 7, 8, 9, 3.
        let ids: Vec<i64> = (0..10).collect();
        let returns = [
            Some(1.0),
            Some(0.0),
            Some(0.0),
            None,
            Some(1.0),
            Some(-1.0),
            Some(2.0),
            Some(3.0),
            Some(4.0),
            Some(5.0),
        ];
        let of = |rows: &[(i64, String, bool, i64)], name: &str| -> Vec<i64> {
            rows.iter()
                .filter(|row| row.1 == name)
                .map(|row| row.0)
                .collect()
        };

        let low = split(
            &ids,
            &returns,
            r#"{"keep": 0.2, "from": {"lowest": 0.5, "by": "return"}, "seed": 7}"#,
        );
        let pool: Vec<i64> = [of(&low, "labelled"), of(&low, "in_dist")].concat();
        assert_eq!((of(&low, "labelled").len(), pool.len()), (2, 5));
        assert!([0, 1, 2, 4, 5].iter().all(|id| pool.contains(id)));
        assert!(
            low.iter()
                .all(|(_, split, labelled, recorded)| (*labelled, *recorded)
                    == if split == "labelled" {
                        (true, 3)
                    } else {
                        (false, 0)
                    })
        );
        let mut draws: Vec<u64> = pool
            .iter()
            .map(|id| rank::chance("hide_actions", 7, *id))
            .collect();
        draws.sort_unstable();
        assert!(
            of(&low, "labelled")
                .iter()
                .all(|id| draws[..2].contains(&rank::chance("hide_actions", 7, *id)))
        );

        let high = split(&ids, &returns, r#"{"keep": 0.9, "from": {"highest": 0.3}}"#);
        assert_eq!(
            (of(&high, "labelled"), of(&high, "in_dist")),
            (vec![3, 8, 9], vec![])
        );
        // Without the two lowest, 5 and 1, there are eight: a half of them is the pool, a quarter
        // keeps its actions.
        let fewer = split(
            &ids,
            &returns,
            r#"{"keep": 0.25, "from": {"lowest": 0.5, "skip_lowest": 2}, "seed": 7}"#,
        );
        assert_eq!(
            (of(&fewer, "skipped"), of(&fewer, "out_dist")),
            (vec![1, 5], vec![3, 7, 8, 9])
        );
        assert_eq!(
            (of(&fewer, "labelled").len(), of(&fewer, "in_dist").len()),
            (2, 2)
        );
        assert!(
            fewer
                .iter()
                .all(|(_, split, labelled, recorded)| (*labelled, *recorded > 0)
                    == (split == "labelled", split == "labelled"))
        );
        assert!(
            split(
                &ids,
                &returns,
                r#"{"keep": 1, "from": {"lowest": 1.0, "skip_lowest": 99}}"#
            )
            .iter()
            .all(|row| row.1 == "skipped")
        );

        assert!(
            split(&ids, &returns, r#"{"keep": 0}"#)
                .iter()
                .all(|row| row.1 == "in_dist")
        );
        assert!(
            split(&ids, &returns, r#"{"keep": 1}"#)
                .iter()
                .all(|row| row.1 == "labelled")
        );

        let backwards: Vec<i64> = ids.iter().rev().copied().collect();
        let turned: Vec<Option<f64>> = returns.iter().rev().copied().collect();
        assert_eq!(
            split(
                &backwards,
                &turned,
                r#"{"keep": 0.2, "from": {"lowest": 0.5}, "seed": 7}"#
            ),
            low
        );
    }

    #[test]
    fn actions_outside_the_split_become_null_and_are_kept_under_another_name() {
        let block = fixture::block(&[(10, 2, true), (11, 1, false), (12, 2, true)]);
        let names = StringArray::from(vec!["in_dist", "labelled", "out_dist"]);
        let block = block
            .with_trajectory_column(Field::new("split", DataType::Utf8, false), Arc::new(names))
            .unwrap();
        let (_, transform) = fixture::work(
            &STAGE,
            r#"{"keep": 0.3, "as": "truth"}"#,
            &block.steps.schema(),
            &fixture::trajectories_schema(),
        );
        let (transform, mut tally) = (transform.unwrap(), Tally::default());
        let before = block.steps.column_by_name("action").unwrap().clone();
        let after = transform.apply(block, &mut tally).unwrap();
        assert_eq!(after.steps.schema(), transform.steps());
        let action = after.steps.column_by_name("action").unwrap();
        let valid: Vec<bool> = (0..action.len()).map(|row| action.is_valid(row)).collect();
        assert_eq!(valid, [false, false, false, true, false, false, false]);
        assert_eq!(action.slice(3, 1).as_ref(), before.slice(3, 1).as_ref());
        assert_eq!(
            after.steps.column_by_name("truth").unwrap().as_ref(),
            before.as_ref()
        );
        assert_eq!(tally.counts["actions hidden"], 4);
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        let steps = fixture::steps_schema();
        let misfit = |options: &str| {
            fixture::misfit(
                &STAGE,
                options,
                Some(&steps),
                &fixture::trajectories_schema(),
            )
        };
        assert_eq!(misfit(r#"{"keep": 2}"#).path, ["keep"]);
        assert_eq!(
            misfit(r#"{"keep": 0.1, "from": {"by": "return"}}"#).message,
            "`from` needs exactly one of `lowest` and `highest`"
        );
        assert_eq!(
            misfit(r#"{"keep": 0.1, "as": "reward"}"#).message,
            "`steps` already has a column `reward`"
        );
        assert_eq!(
            misfit(r#"{"keep": 0.1, "as": "action_source"}"#).message,
            "`action_source` has a fixed meaning, which is not that of original actions"
        );
        let without = Schema::new(
            steps
                .fields()
                .iter()
                .filter(|field| field.name() != "action")
                .cloned()
                .collect::<Vec<_>>(),
        );
        let misfit = fixture::misfit(
            &STAGE,
            r#"{"keep": 0.1}"#,
            Some(&without),
            &fixture::trajectories_schema(),
        );
        assert!(
            misfit.message.contains("no column `action`"),
            "{}",
            misfit.message
        );
    }
}
