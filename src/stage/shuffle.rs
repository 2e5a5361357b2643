//! `shuffle`: puts trajectories in a random order.

use arrow::array::RecordBatch;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::support::rank;
use super::{Bound, Context, Misfit, Selected, Selection, Stage, options};
use crate::error::Result;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "shuffle",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Shuffle>(),
    bind,
    sample: "{seed: 7}",
};

/// Puts trajectories in a random order. The order depends on their ids and the seed alone.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Shuffle {
    /// Seed of the random order. Default: 0.
    seed: u64,
}

fn bind(value: &Value, _context: &Context) -> Result<Bound, Misfit> {
    Bound::selection(if value.is_null() {
        Shuffle::default()
    } else {
        options(value)?
    })
}

impl Selection for Shuffle {
    fn reads(&self) -> Vec<String> {
        Vec::new()
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        Ok(Selected {
            rows: rank::shuffled(table, "shuffle", self.seed)?,
            ..Selected::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::fixture;
    use super::*;

    #[test]
    fn the_order_is_the_seeds_and_not_the_tables() {
        let ids: Vec<i64> = (0..200).collect();
        let backwards: Vec<i64> = ids.iter().rev().copied().collect();
        let order = |ids: &[i64], options: &str| {
            let table = fixture::table(ids, &vec![1; ids.len()], Vec::new());
            fixture::selected_ids(&table, &*fixture::selection(&STAGE, options, &table))
        };
        let seven = order(&ids, r#"{"seed": 7}"#);
        assert_eq!(seven, order(&backwards, r#"{"seed": 7}"#));
        assert_ne!(seven, order(&ids, r#"{"seed": 8}"#));
        assert_eq!(order(&ids, "null"), order(&ids, r#"{"seed": 0}"#));
        let mut sorted = seven.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, ids);
        assert_ne!(seven, ids);
    }
}
