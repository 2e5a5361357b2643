//! `normalise`: columns of steps less their mean, in units of their standard deviation.
//!
//! TD3+BC (Fujimoto and Gu, NeurIPS 2021) made it the custom for observations; moments of parts are joined as Chan, Golub and
//! LeVeque (1979) do, so that one pass is enough and nothing cancels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeListArray, Float64Builder, ListBuilder,
    PrimitiveArray, RecordBatch,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::support::columns::{changed, fits, refuse_fixed};
use super::support::rank;
use super::{
    Bound, Changes, Context, Half, Misfit, Selected, Selection, Stage, Tally, Transform, options,
};
use crate::dataset::Chunk;
use crate::dataset::chunk::with_field;
use crate::dataset::schema::{step, trajectory, vector, width};
use crate::error::{Error, Result, nearest};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "normalise",
    schema: |generator| generator.subschema_for::<Normalise>(),
    bind,
    sample: "{columns: [observation]}",
};

/// Column of trajectories with the moments of a trajectory, on their way to those of all.
const MOMENTS: &str = "__moments";
/// What the lineage calls the statistics.
const STATISTICS: &str = "statistics";

/// Columns as (x - mean) / (std + eps), coordinate by coordinate, std being the population's. The statistics are kept in the
/// result's lineage (`stages` in `dataset.json`), from where another pipeline can take them. float32 stays float32, all
/// other numbers become float64; nulls stay null, and have no part in the statistics.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Normalise {
    /// Columns of numbers or vectors of numbers, as a list; or each with the name that the result gets.
    columns: Columns,
    /// Whose statistics: `selection` for all rows of the trajectories that are left here, final observations included;
    /// `recorded` for the steps whose action was recorded; or a file: a dataset that was normalised before, or JSON as in
    /// `{"observation": {"mean": [0.5], "std": [2]}}`.
    #[serde(default = "selection")]
    by: String,
    /// What is added to the standard deviation.
    #[serde(default = "eps")]
    eps: f64,
}

fn selection() -> String {
    "selection".to_owned()
}

fn eps() -> f64 {
    1e-6
}

/// Which columns.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Columns {
    /// Each is replaced.
    Replaced(Vec<String>),
    /// Each is left, and the result gets the name beside it.
    Named(BTreeMap<String, String>),
}

/// Mean and standard deviation of a column, one of each per coordinate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Statistics {
    #[serde(default)]
    count: u64,
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// Number of values, their mean and the sum of squares of their distances from it.
#[derive(Debug, Clone, PartialEq)]
struct Moments {
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    fn none(width: usize) -> Moments {
        Moments {
            count: 0.0,
            mean: vec![0.0; width],
            squares: vec![0.0; width],
        }
    }

    /// The moments of `rows` of a column: means first, distances from them after.
    fn of(values: &[f64], width: usize, rows: &[usize]) -> Moments {
        let mut own = Moments {
            count: rows.len() as f64,
            ..Moments::none(width)
        };
        let vectors = || {
            rows.iter()
                .map(|row| &values[row * width..(row + 1) * width])
        };
        for vector in vectors() {
            own.mean
                .iter_mut()
                .zip(vector)
                .for_each(|(sum, value)| *sum += value);
        }
        own.mean
            .iter_mut()
            .for_each(|sum| *sum /= own.count.max(1.0));
        for vector in vectors() {
            let distances = own
                .mean
                .iter()
                .zip(vector)
                .map(|(mean, value)| value - mean);
            own.squares
                .iter_mut()
                .zip(distances)
                .for_each(|(sum, distance)| *sum += distance * distance);
        }
        own
    }

    /// Adds the moments of other values (Chan, Golub and LeVeque, 1979).
    fn add(&mut self, count: f64, mean: &[f64], squares: &[f64]) {
        let total = self.count + count;
        if count == 0.0 {
            return;
        }
        let own = self.mean.iter_mut().zip(&mut self.squares);
        for ((mean, squares), (other, more)) in own.zip(mean.iter().zip(squares)) {
            let distance = other - *mean;
            *mean += distance * (count / total);
            *squares += more + distance * distance * (self.count * count / total);
        }
        self.count = total;
    }

    fn statistics(&self) -> Statistics {
        let std = self
            .squares
            .iter()
            .map(|squares| (squares.max(0.0) / self.count.max(1.0)).sqrt())
            .collect();
        Statistics {
            count: self.count as u64,
            mean: self.mean.clone(),
            std,
        }
    }
}

/// A column that is normalised.
#[derive(Debug, Clone)]
struct Normalised {
    name: String,
    width: usize,
    result: Field,
}

/// What the selection found, for the transform to use.
type Found = Arc<Mutex<Option<Arc<Vec<Statistics>>>>>;

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Normalise = options(value)?;
    let columns = columns(&given.columns, context.steps)?;
    if !(given.eps >= 0.0 && given.eps.is_finite()) {
        return Err(Misfit::new(format!(
            "`eps` is a number that is not negative, not {}",
            given.eps
        ))
        .at("eps"));
    }
    let mut steps = context.steps.clone();
    for column in &columns {
        steps = with_field(&steps, column.result.clone()).0;
    }
    let found = Found::default();
    let apply = |depends| Apply {
        columns: columns.clone(),
        eps: given.eps,
        found: Arc::clone(&found),
        depends,
        steps: Arc::new(steps),
    };
    let whole = |column: &Normalised| {
        let field = context.steps.field_with_name(&column.name);
        column.name == step::OBSERVATION
            && field.is_ok_and(|field| !field.is_nullable())
            && context
                .trajectories
                .field_with_name(trajectory::OBSERVATION_SUM)
                .is_ok()
    };
    match given.by.as_str() {
        "selection" if columns.iter().all(whole) => {
            let sums = Sums {
                columns: columns.clone(),
                found: Arc::clone(&found),
            };
            Ok(Bound::Work(vec![
                Half::selection(sums),
                Half::transform(apply(None)),
            ]))
        }
        by @ ("selection" | "recorded") => {
            if by == "recorded" && context.steps.field_with_name(step::ACTION).is_err() {
                return Err(
                    Misfit::new("no action was recorded: steps have no column `action`").at("by"),
                );
            }
            let steps = Arc::new(context.steps.clone());
            let collect = Collect {
                columns: columns.clone(),
                recorded: by == "recorded",
                steps,
            };
            let merge = Merge {
                columns: columns.clone(),
                found: Arc::clone(&found),
            };
            Ok(Bound::Work(vec![
                Half::transform(collect),
                Half::selection(merge),
                Half::transform(apply(None)),
            ]))
        }
        file => {
            let text = context
                .models
                .text(file)
                .map_err(|error| Misfit::from(error).at("by"))?;
            let statistics = parse(&text, &columns).map_err(|misfit| misfit.at("by"))?;
            let depends = json!(statistics).to_string();
            set(&found, statistics, &columns)?;
            Bound::transform(apply(Some(depends)))
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
            .help("such as [observation]")
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
            return Err(at(Misfit::new(format!("`{name}` holds no numbers"))));
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
                "`{result}` cannot hold what `{name}` becomes"
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

/// The statistics of `columns` in a file: a manifest's last ones, or JSON with a mean and a std for each.
fn parse(text: &str, columns: &[Normalised]) -> Result<Vec<Statistics>, Misfit> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| Misfit::new(format!("not JSON: {error}")))?;
    let stages = value.pointer("/lineage/stages").and_then(Value::as_array);
    let kept = stages
        .into_iter()
        .flatten()
        .rev()
        .find_map(|stage| stage.pointer("/facts/statistics"));
    if stages.is_some() && kept.is_none() {
        return Err(Misfit::new(
            "that dataset was not normalised: its lineage holds no statistics",
        )
        .help("take a dataset that a pipeline with `normalise` wrote"));
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

/// Checks what was found and hands it to the transform.
fn set(
    found: &Found,
    statistics: Vec<Statistics>,
    columns: &[Normalised],
) -> Result<BTreeMap<String, Value>> {
    for (column, own) in columns.iter().zip(&statistics) {
        if own
            .mean
            .iter()
            .chain(&own.std)
            .any(|value| !value.is_finite())
        {
            return Err(Error::failed(format!(
                "the mean or standard deviation of `{}` is not finite",
                column.name
            ))
            .hint("look for values that are not finite: `filter: {steps: …}` drops them"));
        }
    }
    let named: BTreeMap<&str, &Statistics> = columns
        .iter()
        .map(|column| column.name.as_str())
        .zip(&statistics)
        .collect();
    let facts = BTreeMap::from([(STATISTICS.to_owned(), json!(named))]);
    let mut found = found
        .lock()
        .map_err(|_| Error::failed("the statistics were lost"))?;
    *found = Some(Arc::new(statistics));
    Ok(facts)
}

/// All rows of `table`, and the order of their ids: sums come out the same whatever the order of trajectories.
fn rows(table: &RecordBatch) -> Result<(Vec<u32>, Vec<u32>)> {
    let all = rank::groups(table, None)?.remove(0);
    let ids = rank::ids(table)?;
    let mut order = all.clone();
    order.sort_by_key(|row| ids.value(*row as usize));
    Ok((all, order))
}

/// Statistics of observations from the sums in the metadata.
struct Sums {
    columns: Vec<Normalised>,
    found: Found,
}

impl Selection for Sums {
    fn reads(&self) -> Vec<String> {
        [
            trajectory::ROWS,
            trajectory::OBSERVATION_SUM,
            trajectory::OBSERVATION_SUM_SQ,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let (all, order) = rows(table)?;
        let counts = rank::integers(table, trajectory::ROWS)?;
        let list = |name: &str| {
            let list = table
                .column_by_name(name)
                .and_then(|column| column.as_list_opt::<i32>());
            list.ok_or_else(|| {
                Error::failed(format!("`{name}` is not a list column of trajectories"))
            })
        };
        let (sums, squares) = (
            list(trajectory::OBSERVATION_SUM)?,
            list(trajectory::OBSERVATION_SUM_SQ)?,
        );
        let own = self.columns.iter().map(|column| {
            let mut moments = Moments::none(column.width);
            for row in &order {
                let row = *row as usize;
                let count = counts[row] as f64;
                let (sum, square) = (sums.value(row), squares.value(row));
                let (sum, square) = (
                    sum.as_primitive::<Float64Type>().values(),
                    square.as_primitive::<Float64Type>().values(),
                );
                let mean: Vec<f64> = sum.iter().map(|sum| sum / count.max(1.0)).collect();
                let apart: Vec<f64> = square
                    .iter()
                    .zip(sum)
                    .zip(&mean)
                    .map(|((square, sum), mean)| (square - sum * mean).max(0.0))
                    .collect();
                moments.add(count, &mean, &apart);
            }
            moments.statistics()
        });
        let facts = set(&self.found, own.collect(), &self.columns)?;
        Ok(Selected {
            rows: all,
            facts,
            ..Selected::default()
        })
    }
}

/// Values of a column as float64, vectors flattened, and which rows have none.
fn flat(chunk: &Chunk, column: &Normalised) -> Result<(ArrayRef, Option<NullBuffer>)> {
    let array = chunk
        .steps
        .column_by_name(&column.name)
        .ok_or_else(|| Error::failed(format!("column `{}` is missing", column.name)))?;
    let values = match array.data_type() {
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            list.values().slice(
                list.value_offset(0).unsigned_abs() as usize,
                list.len() * column.width,
            )
        }
        _ => Arc::clone(array),
    };
    Ok((cast(&values, &DataType::Float64)?, array.nulls().cloned()))
}

/// Brings each trajectory's moments into its metadata: for each column count, means, squares.
struct Collect {
    columns: Vec<Normalised>,
    recorded: bool,
    steps: SchemaRef,
}

impl Transform for Collect {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn trajectories(&self) -> Vec<Field> {
        vec![Field::new_list(
            MOMENTS,
            Field::new("element", DataType::Float64, false),
            false,
        )]
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: vec![MOMENTS.to_owned()],
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        let own = self.columns.iter().map(|column| column.name.as_str());
        let recorded = [step::ACTION, step::ACTION_SOURCE]
            .into_iter()
            .filter(|_| self.recorded);
        Some(own.chain(recorded).map(str::to_owned).collect())
    }

    fn apply(&self, chunk: Chunk, _tally: &mut Tally) -> Result<Chunk> {
        let action = chunk.steps.column_by_name(step::ACTION);
        let source = chunk
            .steps
            .column_by_name(step::ACTION_SOURCE)
            .and_then(|column| column.as_string_opt::<i32>());
        let proxy = |row: usize| {
            source.is_some_and(|source| source.is_valid(row) && source.value(row) == "proxy")
        };
        let counts = |row: usize| {
            !self.recorded || (action.is_some_and(|action| action.is_valid(row)) && !proxy(row))
        };
        let element = Field::new("element", DataType::Float64, false);
        let mut lists = ListBuilder::new(Float64Builder::new()).with_field(element);
        let flat = self
            .columns
            .iter()
            .map(|column| flat(&chunk, column))
            .collect::<Result<Vec<_>>>()?;
        for span in chunk.spans() {
            for (column, (values, nulls)) in self.columns.iter().zip(&flat) {
                let known = |row: &usize| {
                    counts(*row) && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row))
                };
                let rows: Vec<usize> = span.clone().filter(known).collect();
                let own = Moments::of(
                    values.as_primitive::<Float64Type>().values(),
                    column.width,
                    &rows,
                );
                lists.values().append_value(own.count);
                lists.values().append_slice(&own.mean);
                lists.values().append_slice(&own.squares);
            }
            lists.append(true);
        }
        let field = self.trajectories().remove(0);
        chunk.with_trajectory_column(field, Arc::new(lists.finish()))
    }
}

/// Brings the moments of all trajectories together.
struct Merge {
    columns: Vec<Normalised>,
    found: Found,
}

impl Selection for Merge {
    fn reads(&self) -> Vec<String> {
        vec![MOMENTS.to_owned()]
    }

    fn select(&self, table: &RecordBatch) -> Result<Selected> {
        let (all, order) = rows(table)?;
        let lists = table
            .column_by_name(MOMENTS)
            .and_then(|column| column.as_list_opt::<i32>());
        let lists = lists.ok_or_else(|| Error::failed("the moments of trajectories were lost"))?;
        let values = lists.values().as_primitive::<Float64Type>().values();
        let mut moments: Vec<Moments> = self
            .columns
            .iter()
            .map(|column| Moments::none(column.width))
            .collect();
        for row in order {
            let mut rest = &values[lists.value_offsets()[row as usize] as usize..];
            for (column, moments) in self.columns.iter().zip(&mut moments) {
                let (own, after) = rest.split_at(1 + 2 * column.width);
                moments.add(own[0], &own[1..=column.width], &own[1 + column.width..]);
                rest = after;
            }
        }
        if let Some((column, _)) = self
            .columns
            .iter()
            .zip(&moments)
            .find(|(_, moments)| moments.count == 0.0 && table.num_rows() > 0)
        {
            return Err(Error::failed(format!(
                "`{}` has no value to take statistics of",
                column.name
            ))
            .hint(
                "`by: selection` takes all rows that are left; look at what the stages before keep",
            ));
        }
        let facts = set(
            &self.found,
            moments.iter().map(Moments::statistics).collect(),
            &self.columns,
        )?;
        Ok(Selected {
            rows: all,
            facts,
            ..Selected::default()
        })
    }
}

/// Normalises.
struct Apply {
    columns: Vec<Normalised>,
    eps: f64,
    found: Found,
    /// The statistics, where they came from a file.
    depends: Option<String>,
    steps: SchemaRef,
}

fn scaled<T: ArrowPrimitiveType>(
    values: &[f64],
    own: &Statistics,
    eps: f64,
    from: impl Fn(f64) -> T::Native,
) -> PrimitiveArray<T> {
    let width = own.mean.len().max(1);
    let value = |(index, value): (usize, &f64)| {
        from((value - own.mean[index % width]) / (own.std[index % width] + eps))
    };
    PrimitiveArray::from_iter_values(values.iter().enumerate().map(value))
}

impl Transform for Apply {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        Changes {
            trajectories: changed(
                self.columns
                    .iter()
                    .map(|column| column.result.name().as_str()),
            ),
            ..Changes::default()
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(
            self.columns
                .iter()
                .map(|column| column.name.clone())
                .collect(),
        )
    }

    fn depends(&self) -> BTreeMap<String, String> {
        self.depends
            .iter()
            .map(|statistics| (STATISTICS.to_owned(), statistics.clone()))
            .collect()
    }

    fn apply(&self, mut chunk: Chunk, _tally: &mut Tally) -> Result<Chunk> {
        let found = self.found.lock().ok().and_then(|found| found.clone());
        let found = found.ok_or_else(|| Error::failed("the statistics were not computed"))?;
        let mut results = Vec::with_capacity(self.columns.len());
        for (column, own) in self.columns.iter().zip(found.iter()) {
            if let Some(constant) = own.std.iter().position(|std| std + self.eps == 0.0) {
                return Err(Error::failed(format!(
                    "`{}` is constant in dimension {constant}, and `eps` is 0",
                    column.name
                ))
                .hint("leave `eps` out, or give a small number"));
            }
            let (values, nulls) = flat(&chunk, column)?;
            let values = values.as_primitive::<Float64Type>().values();
            let (element, list) = match column.result.data_type() {
                DataType::FixedSizeList(child, size) => (child.data_type(), Some((child, *size))),
                other => (other, None),
            };
            let own_nulls = if list.is_some() { None } else { nulls.clone() };
            let with = |array: ArrayRef| -> Result<ArrayRef> {
                Ok(arrow::array::make_array(
                    array.to_data().into_builder().nulls(own_nulls).build()?,
                ))
            };
            let scaled: ArrayRef = match element {
                DataType::Float32 => with(Arc::new(scaled::<Float32Type>(
                    values,
                    own,
                    self.eps,
                    |value| value as f32,
                )))?,
                _ => with(Arc::new(scaled::<Float64Type>(
                    values,
                    own,
                    self.eps,
                    |value| value,
                )))?,
            };
            results.push(match list {
                Some((child, size)) => Arc::new(FixedSizeListArray::try_new(
                    Arc::clone(child),
                    size,
                    scaled,
                    nulls,
                )?),
                None => scaled,
            });
        }
        for (column, result) in self.columns.iter().zip(results) {
            chunk = chunk.with_step_column(column.result.clone(), result)?;
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::support::fixture;
    use super::*;

    proptest! {
        #[test]
        fn moments_of_parts_are_those_of_the_whole(
            values in prop::collection::vec(-1e3f64..1e3, 2..60), cut in 0usize..60, offset in prop_oneof![Just(0.0), Just(1e6)],
        ) {
            let values: Vec<f64> = values.iter().map(|value| value + offset).collect();
            let n = values.len() / 2;
            let cut = cut % (n + 1);
            let mut merged = Moments::none(2);
            for rows in [0..cut, cut..n] {
                let own = Moments::of(&values, 2, &rows.collect::<Vec<_>>());
                merged.add(own.count, &own.mean, &own.squares);
            }
            let statistics = merged.statistics();
            for d in 0..2 {
                let own: Vec<f64> = (0..n).map(|row| values[row * 2 + d]).collect();
                let mean = own.iter().sum::<f64>() / n as f64;
                let variance = own.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n as f64;
                prop_assert!((statistics.mean[d] - mean).abs() <= 1e-9 * mean.abs().max(1.0));
                prop_assert!((statistics.std[d].powi(2) - variance).abs() <= 1e-6 * variance.max(1.0));
            }
        }
    }

    #[test]
    fn a_collected_column_is_normalised_by_all_its_rows_and_nulls_stay() {
        let options = r#"{"columns": {"reward": "scaled"}, "eps": 0}"#;
        let mut halves = fixture::halves(
            &STAGE,
            options,
            &fixture::steps_schema(),
            &fixture::trajectories_schema(),
        )
        .into_iter();
        let (
            Some(Half::Transform(collect)),
            Some(Half::Selection(merge)),
            Some(Half::Transform(apply)),
        ) = (halves.next(), halves.next(), halves.next())
        else {
            panic!("three halves")
        };
        let mut tally = Tally::default();
        let chunk = collect
            .apply(fixture::chunk(&[(7, 2, true), (8, 2, false)]), &mut tally)
            .unwrap();
        let selected = merge.select(&chunk.trajectories).unwrap();
        // Rewards 0, 1, null, 3, 4: mean 2, squares 4 + 1 + 1 + 4 over 4.
        assert_eq!(
            selected.facts["statistics"],
            json!({"reward": {"count": 4, "mean": [2.0], "std": [2.5_f64.sqrt()]}})
        );
        let after = apply.apply(chunk, &mut tally).unwrap();
        assert_eq!(after.steps.schema(), apply.steps());
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
                r#"{"lineage": {"stages": [{"facts": {"statistics": {"x": {"mean": [1, 2], "std": [3, 4]}}}}]}}"#
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
