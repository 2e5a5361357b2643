//! `normalise`: subtracts the mean of columns and divides by their standard deviation.
//!
//! TD3+BC (Fujimoto and Gu, NeurIPS 2021) made it customary for observations.

mod moments;
mod operators;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::moments::Statistics;
use self::operators::{Collect, Merge, Normalised, Scale, Sums, ensure_finite};
use super::support::columns::{fits, refuse_fixed};
use super::{Bound, Context, Misfit, Operator, Role, Stage, options};
use crate::dataset::block::with_field;
use crate::dataset::schema::{step, trajectory, vector, width};
use crate::error::nearest;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "normalise",
    role: Role::Operate,
    schema: |generator| generator.subschema_for::<Normalise>(),
    bind,
    sample: "{columns: [observation]}",
};

/// Replaces columns by (x - mean) / (std + eps).
///
/// Each dimension has its own mean and population standard deviation. The lineage of the result
/// (`stages` in `dataset.json`) keeps them, and another pipeline can use them. float32 stays
/// float32; all other numbers become float64. Nulls stay null and do not count in the statistics.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Normalise {
    /// Columns to normalise. They hold numbers or vectors of numbers. A list such as
    /// `[observation]` replaces them; a mapping such as `{observation: scaled}` keeps them and adds
    /// the results under new names.
    columns: Columns,
    /// Where the statistics come from. `selection` counts all rows of the selected trajectories,
    /// final observations included. `recorded` counts the steps whose action was recorded. Anything
    /// else is a path: a dataset that `normalise` wrote, or a JSON file such as
    /// `{"observation": {"mean": [0.5], "std": [2]}}`. Default: `selection`.
    #[serde(default = "selection")]
    #[schemars(extend("format" = "path"))]
    by: String,
    /// Number that is added to the standard deviation. Default: 1e-6.
    #[serde(default = "eps")]
    eps: f64,
}

fn selection() -> String {
    "selection".to_owned()
}

fn eps() -> f64 {
    1e-6
}

/// The columns to normalise.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Columns {
    /// Columns that are replaced.
    Replaced(Vec<String>),
    /// Columns that stay, each with the name of its result.
    Named(BTreeMap<String, String>),
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Normalise = options(value)?;
    let columns = columns(&given.columns, context.steps)?;
    if !(given.eps >= 0.0 && given.eps.is_finite()) {
        let message = format!("`eps` must be 0 or a positive number, not {}", given.eps);
        return Err(Misfit::new(message).at("eps"));
    }
    let mut steps = context.steps.clone();
    for column in &columns {
        steps = with_field(&steps, column.result.clone()).0;
    }
    let scale = |statistics| Scale {
        columns: columns.clone(),
        eps: given.eps,
        statistics,
        steps: Arc::new(steps),
    };
    // The metadata has the sums of observations.
    let has_sums = |column: &Normalised| {
        let field = context.steps.field_with_name(&column.name);
        column.name == step::OBSERVATION
            && field.is_ok_and(|field| !field.is_nullable())
            && context
                .trajectories
                .field_with_name(trajectory::OBSERVATION_SUM)
                .is_ok()
    };
    match given.by.as_str() {
        "selection" if columns.iter().all(has_sums) => {
            let columns = columns.clone();
            Ok(Bound::Work(vec![
                Operator::selection(Sums { columns }),
                Operator::transform(scale(None)),
            ]))
        }
        by @ ("selection" | "recorded") => {
            if by == "recorded" && context.steps.field_with_name(step::ACTION).is_err() {
                let message = "no action was recorded: steps have no column `action`";
                return Err(Misfit::new(message).at("by"));
            }
            let collect = Collect {
                columns: columns.clone(),
                recorded: by == "recorded",
                steps: Arc::new(context.steps.clone()),
            };
            let columns = columns.clone();
            Ok(Bound::Work(vec![
                Operator::transform(collect),
                Operator::selection(Merge { columns }),
                Operator::transform(scale(None)),
            ]))
        }
        file => {
            let text = context
                .models
                .text(file)
                .map_err(|error| Misfit::from(error).at("by"))?;
            let statistics = parse(&text, &columns).map_err(|misfit| misfit.at("by"))?;
            ensure_finite(&columns, &statistics)?;
            Bound::transform(scale(Some(statistics)))
        }
    }
}

fn columns(given: &Columns, steps: &Schema) -> Result<Vec<Normalised>, Misfit> {
    let (pairs, list): (Vec<(&String, &String)>, bool) = match given {
        Columns::Replaced(names) => (names.iter().map(|name| (name, name)).collect(), true),
        Columns::Named(names) => (names.iter().collect(), false),
    };
    if pairs.is_empty() {
        return Err(Misfit::new("`columns` names no column")
            .help("name at least one, as in `columns: [observation]`")
            .at("columns"));
    }
    let column = |(index, (name, result)): (usize, &(&String, &String))| {
        let at = |misfit: Misfit| {
            misfit
                .at(if list {
                    index.to_string()
                } else {
                    (*name).clone()
                })
                .at("columns")
        };
        let Ok(field) = steps.field_with_name(name) else {
            let near = nearest(
                name,
                steps.fields().iter().map(|field| field.name().as_str()),
            );
            let help = near.map(|near| format!("did you mean `{near}`?"));
            return Err(at(Misfit {
                word: Some((*name).clone()),
                help,
                ..Misfit::new(format!("unknown column `{name}`"))
            }));
        };
        refuse_fixed(result, "normalised").map_err(at)?;
        let element = match field.data_type() {
            DataType::FixedSizeList(child, _) => child.data_type(),
            other => other,
        };
        if !element.is_numeric() && *element != DataType::Boolean {
            return Err(at(Misfit::new(format!(
                "`{name}` is not a column of numbers"
            ))));
        }
        let element = if *element == DataType::Float32 {
            DataType::Float32
        } else {
            DataType::Float64
        };
        let data_type =
            width(field.data_type()).map_or(element.clone(), |width| vector(element, width));
        if !fits(result, &data_type) {
            return Err(at(Misfit::new(format!(
                "`{result}` cannot hold the normalised `{name}`"
            ))));
        }
        let width = width(field.data_type()).map_or(1, |width| usize::try_from(width).unwrap_or(0));
        Ok(Normalised {
            name: (*name).clone(),
            width,
            result: Field::new(*result, data_type, field.is_nullable()),
        })
    };
    pairs.iter().enumerate().map(column).collect()
}

/// Returns the statistics of `columns` in the text of a file: a manifest, whose last statistics
/// count, or JSON with a mean and a std for each column.
fn parse(text: &str, columns: &[Normalised]) -> Result<Vec<Statistics>, Misfit> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Misfit::new(format!("the file is not valid JSON: {error}")))?;
    let stages = value.pointer("/lineage/stages").and_then(Value::as_array);
    let kept = stages
        .into_iter()
        .flatten()
        .rev()
        .find_map(|stage| stage.pointer("/facts/statistics"));
    if stages.is_some() && kept.is_none() {
        return Err(
            Misfit::new("that dataset was not normalised: its lineage has no statistics")
                .help("choose a dataset that a pipeline with `normalise` wrote"),
        );
    }
    let all = kept.unwrap_or(&value);
    let column = |column: &Normalised| {
        let name = &column.name;
        let own = all
            .get(name)
            .ok_or_else(|| Misfit::new(format!("the file has no statistics of `{name}`")))?;
        let own = Statistics::deserialize(own)
            .map_err(|error| Misfit::new(format!("the file's statistics of `{name}`: {error}")))?;
        if own.mean.len() != column.width || own.std.len() != column.width {
            let found = own.mean.len();
            return Err(Misfit::new(format!(
                "the file's statistics of `{name}` have {found} values, and the column {}",
                column.width
            )));
        }
        Ok(own)
    };
    columns.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;
    use serde_json::json;

    use super::super::Tally;
    use super::super::support::fixture;
    use super::*;

    #[test]
    fn a_collected_column_is_normalised_by_all_its_rows_and_nulls_stay() {
        let options = r#"{"columns": {"reward": "scaled"}, "eps": 0}"#;
        let mut operators = fixture::operators(
            &STAGE,
            options,
            &fixture::steps_schema(),
            &fixture::trajectories_schema(),
        )
        .into_iter();
        let (
            Some(Operator::Transform(collect)),
            Some(Operator::Selection(merge)),
            Some(Operator::Transform(scale)),
        ) = (operators.next(), operators.next(), operators.next())
        else {
            panic!("three operators")
        };
        let mut tally = Tally::default();
        let block = collect
            .apply(fixture::block(&[(7, 2, true), (8, 2, false)]), &mut tally)
            .unwrap();
        let selected = merge.select(&block.trajectories).unwrap();
        // Rewards 0, 1, null, 3, 4: mean 2, squares 4 + 1 + 1 + 4 over 4.
        assert_eq!(
            selected.facts["statistics"],
            json!({"reward": {"count": 4, "mean": [2.0], "std": [2.5_f64.sqrt()]}})
        );
        assert!(scale.apply(block.clone(), &mut tally).is_err());
        let scale = scale.with_facts(&selected.facts).unwrap().unwrap();
        let after = scale.apply(block, &mut tally).unwrap();
        assert_eq!(after.steps.schema(), scale.steps());
        let scaled: Vec<Option<f32>> = after
            .steps
            .column_by_name("scaled")
            .unwrap()
            .as_primitive::<Float32Type>()
            .iter()
            .collect();
        let unit = |value: f64| Some((value / 2.5_f64.sqrt()) as f32);
        assert_eq!(scaled, [unit(-2.0), unit(-1.0), None, unit(1.0), unit(2.0)]);
    }

    #[test]
    fn what_cannot_be_normalised_is_refused() {
        let misfit =
            |options: &str| fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
        assert_eq!(
            misfit(r#"{"columns": []}"#).message,
            "`columns` names no column"
        );
        assert_eq!(
            misfit(r#"{"columns": ["action"]}"#).message,
            "`action` cannot be normalised"
        );
        assert_eq!(
            misfit(r#"{"columns": ["obsevation"]}"#).help.as_deref(),
            Some("did you mean `observation`?")
        );
        assert_eq!(
            misfit(r#"{"columns": ["observation"], "by": "nowhere.json"}"#).path,
            ["by"]
        );
        assert_eq!(
            misfit(r#"{"columns": ["observation"], "eps": -1}"#).path,
            ["eps"]
        );
    }

    #[test]
    fn statistics_of_a_file_are_checked() {
        let columns = [Normalised {
            name: "x".to_owned(),
            width: 2,
            result: Field::new("x", vector(DataType::Float32, 2), false),
        }];
        let found = |text: &str| parse(text, &columns).map_err(|misfit| misfit.message);
        let good = Statistics {
            count: 0,
            mean: vec![1.0, 2.0],
            std: vec![3.0, 4.0],
        };
        assert_eq!(
            found(r#"{"x": {"mean": [1, 2], "std": [3, 4]}}"#),
            Ok(vec![good.clone()])
        );
        assert_eq!(
            found(
                r#"{"lineage": {"stages": [
                    {"facts": {"statistics": {"x": {"mean": [1, 2], "std": [3, 4]}}}}
                ]}}"#
            ),
            Ok(vec![good])
        );
        assert_eq!(
            found(r#"{"x": {"mean": [1], "std": [3]}}"#),
            Err("the file's statistics of `x` have 1 values, and the column 2".to_owned())
        );
        assert_eq!(
            found(r#"{"y": {}}"#),
            Err("the file has no statistics of `x`".to_owned())
        );
        assert!(
            found(r#"{"lineage": {"stages": []}}"#)
                .unwrap_err()
                .contains("was not normalised")
        );
    }
}
