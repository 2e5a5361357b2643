//! `win_rate`: how often a trajectory beats the others of its group.
//!
//! Self-Play Preference Optimization (Swamy et al., "A Minimaximalist Approach to Reinforcement
//! Learning from Human Feedback", ICML 2024) rewards a trajectory with the share of the other
//! trajectories of the same context that it is preferred to.

use std::sync::Arc;

use arrow::array::{Array, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::support::rank;
use super::{Bound, Context, Misfit, Selected, Selection, Stage, options};
use crate::dataset::schema::trajectory;
use crate::error::Result;
use crate::expr::Expression;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "win_rate",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<WinRate>(),
    bind,
    sample: "{by: return, group: labelled}",
};

/// Adds a column to `trajectories`: the mean probability that a trajectory is preferred to another
/// one of its group. That probability is 1 for the higher score, 0 for the lower score and 0.5 for
/// equal scores or, with `beta`, that of Bradley and Terry: 1 / (1 + exp(-beta (own - other))). The
/// column is null if the trajectory has no score, or no other trajectory of its group has one. No
/// trajectory is dropped.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WinRate {
    /// Score: a column of `trajectories`, or an SQL expression over its columns, such as `return`.
    by: String,
    /// Column of `trajectories`, or SQL expression over its columns, such as `task`. Only
    /// trajectories with an equal value are compared. Default: all trajectories are compared.
    #[serde(default)]
    group: Option<String>,
    /// How sharply scores decide, such as `0.01`. With this option, the cost is quadratic in the
    /// size of a group; without it, nearly linear. Default: the higher score always wins.
    #[serde(default)]
    #[schemars(range(min = 0))]
    beta: Option<f64>,
    /// Name of the new column. Default: `win_rate`.
    #[serde(default = "win_rate", rename = "as")]
    name: String,
}

fn win_rate() -> String {
    "win_rate".to_owned()
}

struct Compare {
    by: Expression,
    group: Option<Expression>,
    beta: Option<f64>,
    name: String,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: WinRate = options(value)?;
    let by = rank::bind_key(&given.by, context.trajectories).map_err(|misfit| misfit.at("by"))?;
    if *by.data_type() == DataType::Utf8 {
        return Err(Misfit::new(format!(
            "a score must be a number, but `{}` is text",
            given.by
        ))
        .at("by"));
    }
    let group = rank::bind_group(given.group.as_deref(), context.trajectories)?;
    let fixed = [
        trajectory::TRAJECTORY_ID,
        trajectory::UID,
        trajectory::SOURCE,
        trajectory::SOURCE_KEY,
    ];
    let name = given.name.as_str();
    if name.is_empty() || trajectory::COMPUTED.contains(&name) || fixed.contains(&name) {
        return Err(Misfit::new(match name {
            "" => "`as` is empty".to_owned(),
            name => format!("trajmill maintains `{name}`"),
        })
        .help("choose another name for the new column")
        .at("as"));
    }
    Bound::selection(Compare {
        by,
        group,
        beta: given.beta,
        name: given.name,
    })
}

impl Compare {
    /// Returns the win rates of trajectories with these scores among one another.
    fn rates(&self, scores: &[f64]) -> Vec<f64> {
        let others = scores.len() as f64 - 1.0;
        if let Some(beta) = self.beta {
            // The sum includes the trajectory itself, which adds one half.
            let rate = |own: &f64| {
                (scores
                    .iter()
                    .map(|other| 1.0 / (1.0 + (-beta * (own - other)).exp()))
                    .sum::<f64>()
                    - 0.5)
                    / others
            };
            return scores.iter().map(rate).collect();
        }
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let rate = |own: &f64| {
            let (below, upto) = (
                sorted.partition_point(|other| other < own),
                sorted.partition_point(|other| other <= own),
            );
            (below as f64 + 0.5 * (upto - below - 1) as f64) / others
        };
        scores.iter().map(rate).collect()
    }
}

impl Selection for Compare {
    fn reads(&self) -> Vec<String> {
        let expressions: Vec<&Expression> = std::iter::once(&self.by).chain(&self.group).collect();
        rank::reads(&expressions, &[])
    }

    fn writes(&self) -> Vec<Field> {
        vec![Field::new(&self.name, DataType::Float64, true)]
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let scores = rank::float64(&self.by.evaluate(table, &[])?)?;
        let mut rates = vec![None; table.num_rows()];
        for mut group in rank::groups(table, self.group.as_ref())? {
            group.retain(|row| {
                scores.is_valid(*row as usize) && !scores.value(*row as usize).is_nan()
            });
            if group.len() < 2 {
                continue;
            }
            // The order of ids makes sums independent of the order of the table.
            let ids = rank::ids(table)?;
            group.sort_by_key(|row| ids.value(*row as usize));
            let own: Vec<f64> = group
                .iter()
                .map(|row| scores.value(*row as usize))
                .collect();
            group
                .iter()
                .zip(self.rates(&own))
                .for_each(|(row, rate)| rates[*row as usize] = Some(rate));
        }
        let rows = rank::groups(table, None)?.remove(0);
        Ok(Selected {
            rows,
            columns: vec![Arc::new(Float64Array::from(rates))],
            ..Selected::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;
    use proptest::prelude::*;

    use super::super::support::fixture::{self, float};
    use super::*;

    fn rates(scores: &[Option<f64>], options: &str) -> Vec<Option<f64>> {
        let ids: Vec<i64> = (0..scores.len() as i64).collect();
        let table = fixture::table(&ids, &vec![1; scores.len()], vec![float("score", scores)]);
        let selected = fixture::selection(&STAGE, options, &table)
            .select(&table)
            .unwrap();
        assert_eq!(selected.rows.len(), scores.len());
        selected.columns[0]
            .as_primitive::<Float64Type>()
            .iter()
            .collect()
    }

    proptest! {
        #[test]
        fn rates_are_means_over_all_pairs(
            scores in prop::collection::vec(
                prop_oneof![
                    Just(None),
                    Just(Some(f64::NAN)),
                    (-3i32..3).prop_map(|score| Some(f64::from(score)))
                ],
                1..12,
            ),
            groups in 1i64..4,
            beta in prop::option::of(0.1f64..3.0),
        ) {
            let beta_option = beta
                .map(|beta| format!(r#", "beta": {beta}"#))
                .unwrap_or_default();
            let found = rates(
                &scores,
                &format!(r#"{{"by": "score", "group": "trajectory_id % {groups}"{beta_option}}}"#),
            );
            let known = |index: usize| scores[index].filter(|score| !score.is_nan());
            for (index, found) in found.into_iter().enumerate() {
                let others: Vec<f64> = (0..scores.len())
                    .filter(|other| *other != index && (*other as i64 - index as i64) % groups == 0)
                    .filter_map(known)
                    .collect();
                let wins = |own: f64| {
                    others.iter().map(move |other| match beta {
                        Some(beta) => 1.0 / (1.0 + (-beta * (own - other)).exp()),
                        None if own == *other => 0.5,
                        None => f64::from(u8::from(own > *other)),
                    })
                };
                let wanted = known(index)
                    .filter(|_| !others.is_empty())
                    .map(|own| wins(own).sum::<f64>() / others.len() as f64);
                prop_assert_eq!(found.is_some(), wanted.is_some());
                prop_assert!((found.unwrap_or(0.0) - wanted.unwrap_or(0.0)).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn names_and_scores_that_cannot_be_are_refused() {
        let misfit =
            |options: &str| fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
        assert_eq!(misfit(r#"{"by": "return", "as": "length"}"#).path, ["as"]);
        assert_eq!(
            misfit(r#"{"by": "uid"}"#).message,
            "a score must be a number, but `uid` is text"
        );
    }
}
