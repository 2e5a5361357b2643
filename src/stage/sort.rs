//! `sort`: orders trajectories by a column or an expression.

use arrow::array::RecordBatch;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::support::rank;
use super::{Bound, Context, Misfit, Selected, Selection, Stage, options};
use crate::error::Result;
use crate::expr::Expression;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "sort",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Sort>(),
    bind,
    sample: "{by: return, descending: true}",
};

/// Orders trajectories by a column, such as `return` or `{by: return, descending: true}`. Ties are
/// ordered by id. Nulls come last in either direction.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Sort {
    /// A column of `trajectories`, or an SQL expression over its columns, in ascending order.
    By(String),
    /// A key and its direction.
    Options(SortOptions),
}

/// A key and its direction.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SortOptions {
    /// Column of `trajectories`, or SQL expression over its columns, such as `return / length`.
    by: String,
    /// Puts the largest value first. Default: false.
    #[serde(default)]
    descending: bool,
}

struct Sorted {
    key: Expression,
    descending: bool,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let (by, descending, path) = match options::<Sort>(value)? {
        Sort::By(by) => (by, false, None),
        Sort::Options(options) => (options.by, options.descending, Some("by")),
    };
    let key = rank::bind_key(&by, context.trajectories);
    let key = key.map_err(|misfit| path.into_iter().fold(misfit, |misfit, key| misfit.at(key)))?;
    Bound::selection(Sorted { key, descending })
}

impl Selection for Sorted {
    fn reads(&self) -> Vec<String> {
        rank::reads(&[&self.key], &[])
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let key = self.key.evaluate(table, &[])?;
        Ok(Selected {
            rows: rank::order(table, key, self.descending)?,
            ..Selected::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::fixture::{self, float};
    use super::*;

    #[test]
    fn nulls_come_last_and_ties_stand_by_id() {
        let returns = float(
            "return",
            &[Some(2.0), None, Some(f64::NAN), Some(2.0), Some(-1.0)],
        );
        let table = fixture::table(&[9, 1, 2, 3, 4], &[1; 5], vec![returns]);
        let ids = |options: &str| {
            fixture::selected_ids(&table, &*fixture::selection(&STAGE, options, &table))
        };
        assert_eq!(ids("\"return\""), [4, 3, 9, 2, 1]);
        assert_eq!(
            ids(r#"{"by": "return", "descending": true}"#),
            [2, 3, 9, 4, 1]
        );
        assert_eq!(ids(r#"{"by": "-trajectory_id"}"#), [9, 4, 3, 2, 1]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let table = fixture::table(&[1], &[1], vec![float("return", &[None])]);
        let misfit = fixture::misfit(&STAGE, r#"{"by": "retrun"}"#, None, &table.schema());
        assert_eq!(
            (misfit.path.join("."), misfit.word.as_deref()),
            ("by".to_owned(), Some("retrun"))
        );
        assert_eq!(
            (misfit.message.as_str(), misfit.help.as_deref()),
            ("unknown column `retrun`", Some("did you mean `return`?"))
        );
    }
}
