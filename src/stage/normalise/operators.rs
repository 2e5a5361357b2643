//! The operators of `normalise`: one or two find the statistics, the last one scales.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, FixedSizeListArray, Float64Builder, ListBuilder,
    PrimitiveArray, RecordBatch,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, SchemaRef};
use serde::Deserialize;
use serde_json::json;

use super::moments::{Moments, Statistics};
use crate::dataset::Block;
use crate::dataset::block::flattened;
use crate::dataset::schema::{action_source, step, trajectory};
use crate::error::{Error, Result};
use crate::stage::support::columns::changed;
use crate::stage::support::rank;
use crate::stage::{Changes, Facts, Selected, Selection, Tally, Transform};

/// The private column of trajectories with the moments of each trajectory.
const MOMENTS: &str = "__moments";
/// The name of the statistics in the lineage.
const STATISTICS: &str = "statistics";

/// A column to normalise.
#[derive(Debug, Clone)]
pub(super) struct Normalised {
    /// Its name.
    pub(super) name: String,
    /// The number of values in a row.
    pub(super) width: usize,
    /// The column that the result is written to.
    pub(super) result: Field,
}

/// Returns the statistics of `columns` as facts.
fn facts(columns: &[Normalised], statistics: &[Statistics]) -> Result<Facts> {
    ensure_finite(columns, statistics)?;
    let names = columns.iter().map(|column| column.name.as_str());
    let named: BTreeMap<&str, &Statistics> = names.zip(statistics).collect();
    Ok(Facts::from([(STATISTICS.to_owned(), json!(named))]))
}

/// Returns an error if a mean or standard deviation is not finite.
pub(super) fn ensure_finite(columns: &[Normalised], statistics: &[Statistics]) -> Result<()> {
    for (column, own) in columns.iter().zip(statistics) {
        let mut values = own.mean.iter().chain(&own.std);
        if values.any(|value| !value.is_finite()) {
            return Err(Error::failed(format!(
                "the mean or standard deviation of `{}` is not finite",
                column.name
            ))
            .hint("the column has values that are not finite: `filter: {steps: …}` drops them"));
        }
    }
    Ok(())
}

/// Returns all rows of `table`, and the same rows in the order of their ids. Sums in that order do
/// not depend on the order of the table.
fn rows(table: &RecordBatch) -> Result<(Vec<u32>, Vec<u32>)> {
    let all = rank::groups(table, None)?.remove(0);
    let ids = rank::ids(table)?;
    let mut order = all.clone();
    order.sort_by_key(|row| ids.value(*row as usize));
    Ok((all, order))
}

/// Finds the statistics of observations from the sums in the metadata.
pub(super) struct Sums {
    pub(super) columns: Vec<Normalised>,
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
        let facts = facts(&self.columns, &own.collect::<Vec<_>>())?;
        Ok(Selected {
            rows: all,
            facts,
            ..Selected::default()
        })
    }
}

/// Returns the values of a column as float64, with vectors flattened, and the rows that are null.
fn flat(block: &Block, column: &Normalised) -> Result<(ArrayRef, Option<NullBuffer>)> {
    let array = block
        .steps
        .column_by_name(&column.name)
        .ok_or_else(|| Error::failed(format!("column `{}` is missing", column.name)))?;
    let (values, _) = flattened(array);
    Ok((cast(&values, &DataType::Float64)?, array.nulls().cloned()))
}

/// Adds the moments of each trajectory to its metadata: for each column the count, the means and
/// the sums of squares.
pub(super) struct Collect {
    pub(super) columns: Vec<Normalised>,
    /// Whether only steps with a recorded action count.
    pub(super) recorded: bool,
    pub(super) steps: SchemaRef,
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

    fn apply(&self, block: Block, _tally: &mut Tally) -> Result<Block> {
        let action = block.steps.column_by_name(step::ACTION);
        let source = block
            .steps
            .column_by_name(step::ACTION_SOURCE)
            .and_then(|column| column.as_string_opt::<i32>());
        let other = |row: usize| {
            source.is_some_and(|source| {
                source.is_valid(row) && source.value(row) != action_source::RECORDED
            })
        };
        let counts = |row: usize| {
            !self.recorded || (action.is_some_and(|action| action.is_valid(row)) && !other(row))
        };
        let element = Field::new("element", DataType::Float64, false);
        let mut lists = ListBuilder::new(Float64Builder::new()).with_field(element);
        let flat = self
            .columns
            .iter()
            .map(|column| flat(&block, column))
            .collect::<Result<Vec<_>>>()?;
        for span in block.spans() {
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
        block.with_trajectory_column(field, Arc::new(lists.finish()))
    }
}

/// Joins the moments of all trajectories.
pub(super) struct Merge {
    pub(super) columns: Vec<Normalised>,
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
        let lists =
            lists.ok_or_else(|| Error::failed("the moments of trajectories are missing"))?;
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
                "`{}` has no value to compute statistics from",
                column.name
            ))
            .hint("look at what the preceding stages keep; `by: selection` counts every row"));
        }
        let statistics: Vec<Statistics> = moments.iter().map(Moments::statistics).collect();
        let facts = facts(&self.columns, &statistics)?;
        Ok(Selected {
            rows: all,
            facts,
            ..Selected::default()
        })
    }
}

/// Scales columns by their statistics.
#[derive(Clone)]
pub(super) struct Scale {
    pub(super) columns: Vec<Normalised>,
    pub(super) eps: f64,
    /// The statistics of each column; `None` until a selection has found them.
    pub(super) statistics: Option<Vec<Statistics>>,
    pub(super) steps: SchemaRef,
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

impl Transform for Scale {
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

    fn with_facts(&self, facts: &Facts) -> Result<Option<Arc<dyn Transform>>> {
        if self.statistics.is_some() {
            return Ok(None);
        }
        let own = |column: &Normalised| {
            let own = facts.get(STATISTICS)?.get(&column.name)?;
            Statistics::deserialize(own).ok()
        };
        let statistics: Option<Vec<Statistics>> = self.columns.iter().map(own).collect();
        let statistics = statistics.ok_or_else(|| Error::failed("the statistics are missing"))?;
        Ok(Some(Arc::new(Scale {
            statistics: Some(statistics),
            ..self.clone()
        })))
    }

    fn depends(&self) -> BTreeMap<String, String> {
        // Statistics that a selection finds follow from the data.
        self.statistics
            .iter()
            .map(|statistics| (STATISTICS.to_owned(), json!(statistics).to_string()))
            .collect()
    }

    fn apply(&self, mut block: Block, _tally: &mut Tally) -> Result<Block> {
        let statistics = self.statistics.as_ref();
        let statistics = statistics.ok_or_else(|| Error::failed("the statistics are missing"))?;
        let mut results = Vec::with_capacity(self.columns.len());
        for (column, own) in self.columns.iter().zip(statistics) {
            if let Some(constant) = own.std.iter().position(|std| std + self.eps == 0.0) {
                return Err(Error::failed(format!(
                    "`{}[{}]` is constant, which `eps: 0` cannot scale",
                    column.name,
                    constant + 1
                ))
                .hint("leave `eps` out, or set it to a small number"));
            }
            let (values, nulls) = flat(&block, column)?;
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
            block = block.with_step_column(column.result.clone(), result)?;
        }
        Ok(block)
    }
}
