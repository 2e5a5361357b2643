//! `summarise`: columns of trajectories, aggregated from their steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Bound, Changes, Context, Misfit, Stage, Tally, Transform, options};
use crate::dataset::Block;
use crate::dataset::schema::trajectory;
use crate::error::Result;
use crate::expr::Aggregate;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "summarise",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Summarise>(),
    bind,
    sample: r#"{mean_reward: avg(reward)}"#,
};

/// Adds columns to `trajectories`, such as `{mean_reward: avg(reward)}`. Each column is an SQL
/// aggregate over the steps of a trajectory, final observation excluded. Aggregates can use the
/// functions along a trajectory that `derive` lists, such as `max(abs(reward - prev(reward)))`. For
/// a trajectory without steps, counts are 0 and other aggregates are null.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Summarise(#[schemars(with = "BTreeMap<String, String>")] Map<String, Value>);

struct Summaries {
    columns: Vec<(Field, Aggregate)>,
    steps: SchemaRef,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let Summarise(given) = options(value)?;
    if given.is_empty() {
        return Err(Misfit::new("`summarise` lists no column")
            .help("list at least one, such as {mean_reward: avg(reward)}"));
    }
    let mut columns = Vec::new();
    for (name, sql) in &given {
        let sql = sql
            .as_str()
            .ok_or_else(|| Misfit::new("an aggregate must be text").at(name))?;
        let fixed = [
            trajectory::TRAJECTORY_ID,
            trajectory::UID,
            trajectory::SOURCE,
            trajectory::SOURCE_KEY,
        ];
        if trajectory::COMPUTED.contains(&name.as_str()) || fixed.contains(&name.as_str()) {
            return Err(Misfit::new(format!("trajmill maintains `{name}`"))
                .help("choose another name for the new column")
                .at(name));
        }
        let aggregate =
            Aggregate::bind(sql, context.steps).map_err(|misfit| Misfit::from(misfit).at(name))?;
        columns.push((
            Field::new(name, aggregate.data_type().clone(), true),
            aggregate,
        ));
    }
    Bound::transform(Summaries {
        columns,
        steps: Arc::new(context.steps.clone()),
    })
}

impl Transform for Summaries {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn trajectories(&self) -> Vec<Field> {
        self.columns
            .iter()
            .map(|(field, _)| field.clone())
            .collect()
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: self
                .columns
                .iter()
                .map(|(field, _)| field.name().clone())
                .collect(),
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let mut reads = Vec::<String>::new();
        for column in self
            .columns
            .iter()
            .flat_map(|(_, aggregate)| aggregate.columns())
        {
            if !reads.contains(column) {
                reads.push(column.clone());
            }
        }
        Some(reads)
    }

    fn apply(&self, mut block: Block, _tally: &mut Tally) -> Result<Block> {
        for (field, aggregate) in &self.columns {
            let values = aggregate.evaluate(&block)?;
            block = block.with_trajectory_column(field.clone(), values)?;
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float64Type, Int64Type};

    use super::super::support::fixture;
    use super::*;

    #[test]
    fn one_value_per_trajectory_of_its_steps_alone() {
        let summaries =
            fixture::transform(&STAGE, r#"{"mean_reward": "avg(reward)", "n": "count(*)"}"#);
        assert_eq!(summaries.changes().trajectories, ["mean_reward", "n"]);
        let after = summaries
            .apply(
                fixture::block(&[(4, 2, true), (5, 0, true), (6, 1, false)]),
                &mut Tally::default(),
            )
            .unwrap();
        let means: Vec<Option<f64>> = after
            .trajectories
            .column_by_name("mean_reward")
            .unwrap()
            .as_primitive::<Float64Type>()
            .iter()
            .collect();
        assert_eq!(means, [Some(0.5), None, Some(4.0)]);
        assert_eq!(
            after
                .trajectories
                .column_by_name("n")
                .unwrap()
                .as_primitive::<Int64Type>()
                .values()
                .as_ref(),
            [2, 0, 1]
        );
        assert_eq!(
            after.trajectories.schema().fields()[1..]
                .iter()
                .map(|field| field.as_ref().clone())
                .collect::<Vec<_>>(),
            summaries.trajectories()
        );
    }

    #[test]
    fn names_with_a_meaning_are_refused() {
        for name in ["return", "length", "uid", "trajectory_id"] {
            let misfit = fixture::misfit(
                &STAGE,
                &format!(r#"{{"{name}": "count(*)"}}"#),
                None,
                &fixture::trajectories_schema(),
            );
            assert_eq!(
                (misfit.path, misfit.help.as_deref()),
                (
                    vec![name.to_owned()],
                    Some("choose another name for the new column")
                )
            );
        }
    }
}
