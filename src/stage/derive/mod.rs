//! `derive`: columns of steps, computed by SQL expressions.

mod actions;
mod facts;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::{Field, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::support::columns::{changed, fits, refuse_fixed};
use super::{Bound, Changes, Context, Misfit, Stage, Tally, Transform, options};
use crate::dataset::Block;
use crate::dataset::block::with_field;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::expr::{Edge, Expression};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "derive",
    role: super::Role::Operate,
    schema: |generator| generator.subschema_for::<Derive>(),
    bind,
    sample: r#"{return_to_go: "returns_to_go(reward, 0.99)"}"#,
};

/// Adds or replaces columns of `steps`, such as `{return_to_go: "returns_to_go(reward, 0.99)"}`.
/// Each column is an SQL expression over the columns of `steps`, those listed before it, and the
/// columns of `trajectories` that do not follow from the steps, such as `source`. Besides SQL,
/// these functions work along a trajectory and never read beyond its ends:
///
/// - `next(x)`, `prev(x)`: the value one row later or earlier; null beyond the ends;
/// - `returns_to_go(r, gamma)`: G_t = r_t + gamma G_{t+1}; with a list of discounts, a vector with
///   one element per discount;
/// - `prefix_sum(x, gamma)`: s_t = x_t + gamma s_{t-1}; `cumulative(x)` is the same with gamma = 1;
/// - `prefix_product(x)`, `prefix_min(x)`, `prefix_max(x)`: over the steps up to and including this
///   one; `suffix_product(x)`, `suffix_min(x)`, `suffix_max(x)`: over this step and all later ones;
///   nulls are skipped;
/// - `stock(r, gamma, start)`: c_0 = start, c_{t+1} = (c_t + r_t) / gamma (stock augmentation);
/// - `categorical(x, low, high, atoms)`: x projected onto evenly spaced atoms from `low` to `high`,
///   as in C51; a vector of probabilities;
/// - `first(x)`, `last(x)`, `mean_over(x)`, `min_over(x)`, `max_over(x)`, `sum_over(x)`: over all
///   steps of the trajectory.
///
/// Arithmetic, `abs`, `round`, `least`, `greatest`, … work on whole vectors, coordinate by
/// coordinate: `action - observation[1:7]`. `v[2:4]` is a slice, whose ends count from 1 and are
/// included; `array_concat(a, b)` and `a || b` join vectors. A null makes the whole vector null.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Derive {
    /// Allows that the column `action` is replaced: `true`, or the name of a new column that keeps
    /// the actions as they were, such as `recorded_action`. The new actions have the
    /// `action_source` `derived`; those of steps whose action a model predicted stay `proxy`.
    /// Default: `false`.
    #[serde(default)]
    replace_actions: Replace,
    #[serde(flatten)]
    #[schemars(with = "BTreeMap<String, String>")]
    columns: Map<String, Value>,
}

/// Whether actions may be replaced.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Replace {
    /// Whether they may.
    May(bool),
    /// They may, and this column keeps what they were.
    Keep(String),
}

impl Default for Replace {
    fn default() -> Replace {
        Replace::May(false)
    }
}

struct Derived {
    columns: Vec<(Field, Expression)>,
    steps: SchemaRef,
    /// The column that keeps the actions that are replaced.
    kept: Option<Field>,
    /// The columns of trajectories that the expressions read.
    facts: Vec<String>,
    /// The columns that the replacement of actions reads.
    replaced: Vec<&'static str>,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let Derive {
        replace_actions,
        columns: given,
    } = options(value)?;
    if given.is_empty() {
        return Err(Misfit::new("`derive` lists no column")
            .help("list at least one, such as {return_to_go: \"returns_to_go(reward, 0.99)\"}"));
    }
    let replaces = given.contains_key(step::ACTION);
    let kept = match replace_actions {
        Replace::May(false) => None,
        _ if !replaces => {
            return Err(
                Misfit::new("`replace_actions` needs a new `action` in the same `derive`")
                    .help("as in {action: \"action - observation[1:7]\", replace_actions: true}")
                    .at("replace_actions"),
            );
        }
        Replace::May(true) => None,
        Replace::Keep(ref name) => Some(
            actions::kept(name, &given, context.steps)
                .map_err(|misfit| misfit.at("replace_actions"))?,
        ),
    };
    let may_replace = !matches!(replace_actions, Replace::May(false));
    let (mut steps, mut columns, mut facts) = (context.steps.clone(), Vec::new(), Vec::new());
    if let Some(kept) = &kept {
        steps = with_field(&steps, kept.clone()).0;
    }
    for (name, sql) in &given {
        let sql = sql
            .as_str()
            .ok_or_else(|| Misfit::new("an expression must be text").at(name))?;
        match name.as_str() {
            step::ACTION if may_replace => {}
            step::ACTION => {
                let help = "recorded actions change only where the same `derive` says \
                            `replace_actions: true`; or choose another name, such as `my_action`";
                return Err(Misfit::new("`action` cannot be derived")
                    .help(help)
                    .at(name));
            }
            name => refuse_fixed(name, "derived").map_err(|misfit| misfit.at(name))?,
        }
        let expression = Expression::bind(sql, &facts::beside(&steps, context), Some(Edge::Null))
            .map_err(|misfit| Misfit::from(misfit).at(name))?;
        let read = expression.columns().iter();
        facts.extend(read.filter(|name| steps.index_of(name).is_err()).cloned());
        let flag = [step::TERMINATED, step::TRUNCATED].contains(&name.as_str());
        if !fits(name, expression.data_type()) {
            let wanted = if flag { "true or false" } else { "a number" };
            return Err(
                Misfit::new(format!("`{name}` must be {wanted}, but `{sql}` is not")).at(name),
            );
        }
        if name == step::ACTION {
            actions::ensure_type(sql, expression.data_type()).map_err(|misfit| misfit.at(name))?;
            steps = with_field(&steps, actions::source()).0;
            if let Ok(std) = steps.field_with_name(step::ACTION_STD) {
                steps = with_field(&steps, std.clone().with_nullable(true)).0;
            }
        }
        let field = Field::new(name, expression.data_type().clone(), !flag);
        steps = with_field(&steps, field.clone()).0;
        columns.push((field, expression));
    }
    let replaced = actions::READS
        .into_iter()
        .filter(|name| replaces && context.steps.index_of(name).is_ok())
        .collect();
    Bound::transform(Derived {
        columns,
        steps: Arc::new(steps),
        kept,
        facts,
        replaced,
    })
}

impl Transform for Derived {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: changed(self.columns.iter().map(|(field, _)| field.name().as_str())),
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let (mut reads, mut made) = (Vec::<String>::new(), Vec::<&str>::new());
        reads.extend(self.replaced.iter().map(|name| (*name).to_owned()));
        for (field, expression) in &self.columns {
            let new = expression
                .columns()
                .iter()
                .filter(|column| !made.contains(&column.as_str()));
            let new: Vec<String> = new
                .filter(|column| !reads.contains(column) && !self.facts.contains(column))
                .cloned()
                .collect();
            reads.extend(new);
            made.push(field.name());
        }
        Some(reads)
    }

    fn apply(&self, mut block: Block, tally: &mut Tally) -> Result<Block> {
        if let (Some(kept), Some(action)) = (&self.kept, block.steps.column_by_name(step::ACTION)) {
            let action = Arc::clone(action);
            block = block.with_step_column(kept.clone(), action)?;
        }
        for (field, expression) in &self.columns {
            let steps = facts::joined(&block, expression.columns())?;
            let column = expression.evaluate(&steps, &block.offsets)?;
            if field.name() == step::ACTION {
                block = actions::replaced(block, field, &column, tally)?;
                continue;
            }
            if let Some(row) =
                (0..column.len()).find(|row| !field.is_nullable() && column.is_null(*row))
            {
                let trajectory = block.offsets.partition_point(|start| *start <= row) - 1;
                let (name, id, step) = (
                    field.name(),
                    block.ids()?[trajectory],
                    row - block.offsets[trajectory],
                );
                return Err(Error::failed(format!(
                    "trajectory {id}, step {step}: `{name}` is null, but it must be true or false"
                ))
                .hint("replace nulls, such as with coalesce(…, false)"));
            }
            block = block.with_step_column(field.clone(), column)?;
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::{DataType, Float64Type};

    use super::super::support::columns::FIXED;
    use super::super::support::fixture;
    use super::*;

    #[test]
    fn later_columns_see_earlier_ones_and_only_sources_are_read() {
        let derived = fixture::transform(
            &STAGE,
            r#"{"double": "2.0 * observation[1]", "more": "double + next(double)"}"#,
        );
        assert_eq!(derived.reads(), Some(vec!["observation".to_owned()]));
        let after = derived
            .apply(
                fixture::block(&[(1, 2, true), (2, 1, false)]),
                &mut Tally::default(),
            )
            .unwrap();
        assert_eq!(after.steps.schema(), derived.steps());
        let more: Vec<Option<f64>> = after
            .steps
            .column_by_name("more")
            .unwrap()
            .as_primitive::<Float64Type>()
            .iter()
            .collect();
        assert_eq!(more, [Some(2.0), Some(6.0), None, None]);
    }

    #[test]
    fn every_step_has_the_facts_about_its_trajectory() {
        let derived = fixture::transform(&STAGE, r#"{"from": "concat(uid, '/', step)"}"#);
        assert_eq!(derived.reads(), Some(vec!["step".to_owned()]));
        let block = fixture::block(&[(1, 1, true), (2, 2, false)]);
        let uids = Arc::new(StringArray::from(vec!["a", "b"]));
        let block = block
            .with_trajectory_column(Field::new("uid", DataType::Utf8, true), uids)
            .unwrap();
        let expected = ["a/0", "a/1", "b/0", "b/1"];
        let after = derived.apply(block, &mut Tally::default()).unwrap();
        assert_eq!(after.steps.schema(), derived.steps());
        let from = after.steps.column_by_name("from").unwrap();
        let from: Vec<&str> = from.as_string::<i32>().iter().flatten().collect();
        assert_eq!(from, expected);
        // The stages before may have changed steps, and with them what follows from the steps.
        let misfit = fixture::misfit(
            &STAGE,
            r#"{"x": "length"}"#,
            None,
            &fixture::trajectories_schema(),
        );
        assert_eq!(misfit.message, "unknown column `length`");
    }

    #[test]
    fn what_identifies_a_row_or_was_recorded_cannot_be_replaced() {
        for (name, _) in FIXED {
            let misfit = fixture::misfit(
                &STAGE,
                &format!(r#"{{"{name}": "1"}}"#),
                None,
                &fixture::trajectories_schema(),
            );
            assert_eq!(
                (misfit.path, misfit.message),
                (vec![name.to_owned()], format!("`{name}` cannot be derived"))
            );
        }
        let misfit = |options: &str| {
            fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema()).message
        };
        assert_eq!(
            misfit(r#"{"reward": "'a'"}"#),
            "`reward` must be a number, but `'a'` is not"
        );
        assert_eq!(
            misfit(r#"{"terminated": "reward"}"#),
            "`terminated` must be true or false, but `reward` is not"
        );
    }

    #[test]
    fn a_flag_that_would_be_null_is_an_error_with_its_place() {
        let derived = fixture::transform(&STAGE, r#"{"truncated": "reward > 1"}"#);
        assert_eq!(
            derived.changes().trajectories,
            ["content_hash", "truncated"]
        );
        let error = derived
            .apply(fixture::block(&[(1, 2, true)]), &mut Tally::default())
            .unwrap_err();
        assert_eq!(
            error.message,
            "trajectory 1, step 2: `truncated` is null, but it must be true or false"
        );
    }
}
