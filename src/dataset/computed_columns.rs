//! The columns of `trajectories` that are computed from steps: length, return, flags, sums, hash.
//!
//! They are computed whenever steps are written, so they always agree with the steps.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, FixedSizeListArray, Float64Array,
    Float64Builder, Int64Array, ListBuilder, PrimitiveArray, RecordBatch, StringArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{
    DataType, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema,
};

use super::Block;
use super::action_sources::ActionSources;
use super::manifest::{Returns, Statistics};
use super::schema::{step, trajectory, type_name};
use super::trajectory_hash::{Digests, hash_with};
use crate::error::{Error, Result};

/// Width of the widest vectors with per-dimension sums. Wider ones are images or embeddings.
const WIDEST_SUMS: i32 = 4096;

/// The computed columns of a block's trajectories, and the block's totals.
pub(crate) struct ComputedColumns {
    /// The columns, in the order of [`fields`]. The writer adds `shard`, `first_row` and `rows`.
    pub columns: Vec<(Field, ArrayRef)>,
    /// Totals over the block.
    pub statistics: Statistics,
}

fn boolean<'a>(block: &'a Block, name: &str) -> Result<&'a BooleanArray> {
    let column = block
        .steps
        .column_by_name(name)
        .and_then(|column| column.as_boolean_opt());
    column.ok_or_else(|| Error::failed(format!("the steps have no column `{name}` of type bool")))
}

/// Returns the rewards as float64, whatever their type.
fn rewards(block: &Block) -> Result<Option<Float64Array>> {
    let Some(column) = block.steps.column_by_name(step::REWARD) else {
        return Ok(None);
    };
    let column = arrow::compute::cast(column, &DataType::Float64)?;
    Ok(column.as_primitive_opt::<Float64Type>().cloned())
}

/// Computes the columns of a block's trajectories.
///
/// # Errors
/// Returns an error if a required column is missing or has the wrong type.
pub(crate) fn compute(block: &Block) -> Result<ComputedColumns> {
    compute_with(block, &Digests::new())
}

/// Computes the columns of a block's trajectories. The columns of steps that `digests` names hold
/// something else than what is written; their values have these digests.
///
/// # Errors
/// Returns an error if a required column is missing or has the wrong type.
pub(crate) fn compute_with(block: &Block, digests: &Digests) -> Result<ComputedColumns> {
    let is_final = boolean(block, step::IS_FINAL)?;
    let (terminated, truncated) = (
        boolean(block, step::TERMINATED)?,
        boolean(block, step::TRUNCATED)?,
    );
    let rewards = rewards(block)?;
    let action = block.steps.column_by_name(step::ACTION);
    let sources = ActionSources::of(block)?;

    let mut statistics = Statistics {
        rows: block.steps.num_rows() as u64,
        trajectories: block.len() as u64,
        ..Statistics::default()
    };
    let n = block.len();
    let (mut lengths, mut returns, mut recorded) = (
        Vec::with_capacity(n),
        Vec::with_capacity(n),
        Vec::with_capacity(n),
    );
    let (mut ends, mut cuts) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let mut has_actions: Vec<bool> = Vec::with_capacity(n);
    for span in block.spans() {
        let set = |flags: &BooleanBuffer| flags.slice(span.start, span.len()).count_set_bits();
        let length = (span.len() - set(is_final.values())) as i64;
        let valid = |row: &usize| {
            rewards
                .as_ref()
                .is_some_and(|rewards| rewards.is_valid(*row))
        };
        let mut received = span.clone().filter(valid).peekable();
        let total = received.peek().is_some().then(|| {
            received
                .map(|row| rewards.as_ref().map_or(0.0, |rewards| rewards.value(row)))
                .sum::<f64>()
        });
        let filled = action.map_or(0, |action| {
            action
                .nulls()
                .map_or(span.len(), |nulls| valid_in(nulls, &span))
        });
        let [proxies, derived, patched] = match &sources {
            Some(sources) => [&sources.proxy, &sources.derived, &sources.patched].map(set),
            None => [0; 3],
        };
        let own = filled - proxies - derived - patched;
        lengths.push(length);
        returns.push(total);
        recorded.push(own as i64);
        has_actions.push(filled as i64 == length);
        ends.push(set(terminated.values()) > 0);
        cuts.push(set(truncated.values()) > 0);
        statistics.steps += length as u64;
        statistics.recorded_actions += own as u64;
        statistics.proxy_actions += proxies as u64;
        statistics.derived_actions += derived as u64;
        statistics.patched_actions += patched as u64;
        if let Some(total) = total {
            let own = Statistics {
                returns: Some(Returns {
                    count: 1,
                    min: total,
                    sum: total,
                    max: total,
                }),
                ..Statistics::default()
            };
            statistics.add(&own);
        }
    }
    let labelled: Vec<bool> = lengths
        .iter()
        .zip(&recorded)
        .map(|(length, recorded)| length == recorded)
        .collect();
    let count = |flags: &[bool]| flags.iter().filter(|flag| **flag).count() as u64;
    (
        statistics.labelled,
        statistics.terminated,
        statistics.truncated,
    ) = (count(&labelled), count(&ends), count(&cuts));
    statistics.has_actions = Some(count(&has_actions));

    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(lengths)),
        Arc::new(Float64Array::from(returns)),
        Arc::new(BooleanArray::from(ends)),
        Arc::new(BooleanArray::from(cuts)),
        Arc::new(BooleanArray::from(labelled)),
        Arc::new(BooleanArray::from(has_actions)),
        Arc::new(Int64Array::from(recorded)),
        Arc::new(StringArray::from_iter_values(block.spans().map(|span| {
            let steps = block.steps.slice(span.start, span.len());
            hash_with(&steps, digests)
        }))),
    ];
    for name in [step::OBSERVATION, step::ACTION] {
        if let Some(column) = block
            .steps
            .column_by_name(name)
            .filter(|column| has_sums(column.data_type()))
        {
            let (sums, squares) = sums(block, column)?;
            columns.extend([sums, squares]);
        }
    }
    let mut columns: Vec<(Field, ArrayRef)> = fields(&block.steps.schema())
        .into_iter()
        .zip(columns)
        .collect();
    columns.extend(tasks(block)?);
    Ok(ComputedColumns {
        columns,
        statistics,
    })
}

/// Returns the field of the trajectories' tasks, if they are computed from steps of the schema
/// `steps`: both columns must be text.
pub(crate) fn task_field(steps: &Schema, carried: &Schema) -> Option<Field> {
    let is_text = |schema: &Schema, name: &str| {
        let field = schema.field_with_name(name).ok()?;
        Some(*field.data_type() == DataType::Utf8)
    };
    let computed = is_text(steps, step::TASK) == Some(true)
        && is_text(carried, trajectory::TASK) != Some(false);
    computed.then(|| Field::new(trajectory::TASK, DataType::Utf8, true))
}

/// Returns the task of each trajectory: that of the first step that has one, or the one that the
/// trajectory carries along.
fn tasks(block: &Block) -> Result<Option<(Field, ArrayRef)>> {
    let Some(field) = task_field(&block.steps.schema(), &block.trajectories.schema()) else {
        return Ok(None);
    };
    let texts = |batch: &RecordBatch, name: &str| {
        let column = batch.column_by_name(name)?;
        column.as_string_opt::<i32>().cloned()
    };
    let own = texts(&block.steps, step::TASK)
        .ok_or_else(|| Error::failed(format!("the column `{}` is missing", step::TASK)))?;
    let carried = texts(&block.trajectories, trajectory::TASK);
    let task = |(at, mut span): (usize, Range<usize>)| {
        let first = span
            .find(|row| own.is_valid(*row))
            .map(|row| own.value(row));
        let carried = carried.as_ref().filter(|carried| carried.is_valid(at));
        first
            .or_else(|| carried.map(|carried| carried.value(at)))
            .map(str::to_owned)
    };
    let tasks: StringArray = block.spans().enumerate().map(task).collect();
    Ok(Some((field, Arc::new(tasks))))
}

/// Returns the number of rows of `span` that are not null.
fn valid_in(nulls: &NullBuffer, span: &Range<usize>) -> usize {
    span.len() - nulls.slice(span.start, span.len()).null_count()
}

/// Returns the fields of the columns that are computed from steps of `schema`, except those that
/// the writer adds.
pub(crate) fn fields(schema: &Schema) -> Vec<Field> {
    let mut fields = vec![
        Field::new(trajectory::LENGTH, DataType::Int64, false),
        Field::new(trajectory::RETURN, DataType::Float64, true),
        Field::new(trajectory::TERMINATED, DataType::Boolean, false),
        Field::new(trajectory::TRUNCATED, DataType::Boolean, false),
        Field::new(trajectory::LABELLED, DataType::Boolean, false),
        Field::new(trajectory::HAS_ACTIONS, DataType::Boolean, false),
        Field::new(trajectory::RECORDED_ACTIONS, DataType::Int64, false),
        Field::new(trajectory::CONTENT_HASH, DataType::Utf8, false),
    ];
    let sums = [
        (
            step::OBSERVATION,
            trajectory::OBSERVATION_SUM,
            trajectory::OBSERVATION_SUM_SQ,
        ),
        (
            step::ACTION,
            trajectory::ACTION_SUM,
            trajectory::ACTION_SUM_SQ,
        ),
    ];
    for (column, sum, squares) in sums {
        if schema
            .field_with_name(column)
            .is_ok_and(|field| has_sums(field.data_type()))
        {
            let list = DataType::List(Arc::new(Field::new("element", DataType::Float64, false)));
            fields.extend([
                Field::new(sum, list.clone(), false),
                Field::new(squares, list, false),
            ]);
        }
    }
    fields
}

fn has_sums(data_type: &DataType) -> bool {
    let numeric = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Float32
                | DataType::Float64
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
        )
    };
    match data_type {
        DataType::FixedSizeList(child, width) => {
            *width <= WIDEST_SUMS && numeric(child.data_type())
        }
        other => numeric(other),
    }
}

fn sums(block: &Block, column: &ArrayRef) -> Result<(ArrayRef, ArrayRef)> {
    let (values, width, nulls) = match column.data_type() {
        DataType::FixedSizeList(_, width) => {
            let list: &FixedSizeListArray = column.as_fixed_size_list();
            let start = list.value_offset(0) as usize;
            (
                list.values().slice(start, list.len() * *width as usize),
                *width as usize,
                list.nulls(),
            )
        }
        _ => (Arc::clone(column), 1, column.nulls()),
    };
    let valid = |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
    match values.data_type() {
        DataType::Float32 => Ok(sums_of(
            block,
            values.as_primitive::<Float32Type>(),
            width,
            valid,
            f64::from,
        )),
        DataType::Float64 => Ok(sums_of(
            block,
            values.as_primitive::<Float64Type>(),
            width,
            valid,
            |value| value,
        )),
        DataType::Int16 => Ok(sums_of(
            block,
            values.as_primitive::<Int16Type>(),
            width,
            valid,
            f64::from,
        )),
        DataType::Int32 => Ok(sums_of(
            block,
            values.as_primitive::<Int32Type>(),
            width,
            valid,
            f64::from,
        )),
        DataType::Int64 => Ok(sums_of(
            block,
            values.as_primitive::<Int64Type>(),
            width,
            valid,
            |value| value as f64,
        )),
        other => Err(Error::failed(format!(
            "cannot sum values of type {}",
            type_name(other)
        ))),
    }
}

fn sums_of<T: ArrowPrimitiveType>(
    block: &Block,
    values: &PrimitiveArray<T>,
    width: usize,
    valid: impl Fn(usize) -> bool,
    to_f64: impl Fn(T::Native) -> f64,
) -> (ArrayRef, ArrayRef) {
    let element = Arc::new(Field::new("element", DataType::Float64, false));
    let builder = || {
        ListBuilder::with_capacity(
            Float64Builder::with_capacity(block.len() * width),
            block.len(),
        )
        .with_field(Arc::clone(&element))
    };
    let (mut sums, mut squares) = (builder(), builder());
    let (mut sum, mut square) = (vec![0.0; width], vec![0.0; width]);
    for span in block.spans() {
        sum.fill(0.0);
        square.fill(0.0);
        let rows = values.values()[span.start * width..span.end * width].chunks_exact(width.max(1));
        for (row, vector) in span.zip(rows) {
            if valid(row) {
                for ((sum, square), value) in sum.iter_mut().zip(&mut square).zip(vector) {
                    let value = to_f64(*value);
                    *sum += value;
                    *square += value * value;
                }
            }
        }
        sums.values().append_slice(&sum);
        sums.append(true);
        squares.values().append_slice(&square);
        squares.append(true);
    }
    (Arc::new(sums.finish()), Arc::new(squares.finish()))
}
