//! Functions along a trajectory: values that depend on the rows before or after, never on another trajectory's.
//!
//! Rows after the last action (`is_final`) are known rows for `next` and `prev`; every other function works on the
//! steps alone, without them.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float64Array, StructArray, UInt64Array, make_comparator, new_null_array,
};
use arrow::compute::{SortOptions, cast, interleave, take};
use arrow::datatypes::{DataType, Float64Type, Int8Type};

use crate::error::{Error, Result};

/// What stands for a value before the first and after the last known row of a trajectory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Null.
    Null,
    /// The nearest known value of the trajectory.
    Repeat,
    /// Zero in every coordinate.
    Zero,
}

/// A function along a trajectory, its constants bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Function {
    Next(Edge),
    Prev(Edge),
    /// Discounted by the given factor per step.
    ReturnsToGo(f64),
    Cumulative,
    First,
    Last,
    Mean,
    Min,
    Max,
    Sum,
}

/// Names, in the order of the manual, and how many arguments each takes.
pub(super) static FUNCTIONS: [(&str, usize); 10] = [
    ("next", 1),
    ("prev", 1),
    ("returns_to_go", 2),
    ("cumulative", 1),
    ("first", 1),
    ("last", 1),
    ("mean_over", 1),
    ("min_over", 1),
    ("max_over", 1),
    ("sum_over", 1),
];

impl Function {
    /// The function called `name`; `gamma` is the discount of `returns_to_go`, which the others do not read.
    pub(super) fn named(name: &str, edge: Edge, gamma: f64) -> Option<Function> {
        Some(match name {
            "next" => Function::Next(edge),
            "prev" => Function::Prev(edge),
            "returns_to_go" => Function::ReturnsToGo(gamma),
            "cumulative" => Function::Cumulative,
            "first" => Function::First,
            "last" => Function::Last,
            "mean_over" => Function::Mean,
            "min_over" => Function::Min,
            "max_over" => Function::Max,
            "sum_over" => Function::Sum,
            _ => return None,
        })
    }

    /// Whether the argument must be a number.
    pub(super) fn needs_number(self) -> bool {
        matches!(self, Function::ReturnsToGo(_) | Function::Cumulative | Function::Mean | Function::Sum)
    }

    /// Whether the argument must have an order.
    pub(super) fn needs_order(self) -> bool {
        matches!(self, Function::Min | Function::Max)
    }

    /// Type of the value for an argument of type `argument`.
    pub(super) fn data_type(self, argument: &DataType) -> DataType {
        if self.needs_number() { DataType::Float64 } else { argument.clone() }
    }

    /// The value on every row. `offsets` are where trajectories start, as in `dataset::Chunk`; `is_final` marks the rows
    /// that are no steps.
    ///
    /// # Errors
    /// Where the argument's type is not one that the function takes.
    pub(super) fn evaluate(self, argument: &ArrayRef, offsets: &[usize], is_final: Option<&BooleanArray>) -> Result<ArrayRef> {
        let spans = || offsets.windows(2).map(|ends| ends[0]..ends[1]);
        let step = |row: &usize| is_final.is_none_or(|flags| !flags.value(*row));
        match self {
            Function::Next(edge) => shift(argument, spans(), edge, |row, span| (row + 1 < span.end).then_some(row + 1)),
            Function::Prev(edge) => shift(argument, spans(), edge, |row, span| (row > span.start).then(|| row - 1)),
            Function::First => broadcast(argument, spans(), |mut span| span.find(step)),
            Function::Last => broadcast(argument, spans(), |span| span.rev().find(step)),
            Function::Min => extremum(argument, spans(), step, Ordering::Less),
            Function::Max => extremum(argument, spans(), step, Ordering::Greater),
            Function::ReturnsToGo(gamma) => scan(argument, spans().map(Iterator::rev), step, |sum, reward| reward + gamma * sum),
            Function::Cumulative => scan(argument, spans(), step, |sum, value| sum + value),
            Function::Mean => total(argument, spans(), step, |sum, count| (count > 0).then(|| sum / count as f64)),
            Function::Sum => total(argument, spans(), step, |sum, count| (count > 0).then_some(sum)),
        }
    }
}

/// The value on another row of the same trajectory, which `of` names, or what stands for it.
fn shift(
    argument: &ArrayRef,
    spans: impl Iterator<Item = Range<usize>>,
    edge: Edge,
    of: impl Fn(usize, &Range<usize>) -> Option<usize>,
) -> Result<ArrayRef> {
    if edge == Edge::Zero {
        let zero = zero_row(argument.data_type())?;
        let rows: Vec<(usize, usize)> =
            spans.flat_map(|span| span.clone().map(|row| of(row, &span).map_or((1, 0), |row| (0, row))).collect::<Vec<_>>()).collect();
        return Ok(interleave(&[argument.as_ref(), zero.as_ref()], &rows)?);
    }
    let mut rows = Vec::with_capacity(argument.len());
    for span in spans {
        let nearest = |row: usize| (edge == Edge::Repeat).then_some(row);
        rows.extend(span.clone().map(|row| of(row, &span).or_else(|| nearest(row)).map(|row| row as u64)));
    }
    Ok(take(argument, &UInt64Array::from(rows), None)?)
}

/// One row of zeros: what stands outside a trajectory where its model wants numbers.
fn zero_row(data_type: &DataType) -> Result<ArrayRef> {
    match data_type {
        DataType::FixedSizeList(child, width) => {
            let zero = zero_row(child.data_type())?;
            let zeros = take(&zero, &UInt64Array::from(vec![0; usize::try_from(*width).unwrap_or(0)]), None)?;
            Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(child), *width, zeros, None)?))
        }
        DataType::Struct(fields) => {
            let zeros = fields.iter().map(|field| zero_row(field.data_type())).collect::<Result<Vec<_>>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), zeros, None)?))
        }
        DataType::Boolean => Ok(Arc::new(BooleanArray::from(vec![false]))),
        number if number.is_numeric() => Ok(cast(&arrow::array::PrimitiveArray::<Int8Type>::from(vec![0]), number)?),
        other => Ok(new_null_array(other, 1)),
    }
}

/// On every row of a trajectory the value on the one row that `of` chooses.
fn broadcast(
    argument: &ArrayRef,
    spans: impl Iterator<Item = Range<usize>>,
    of: impl Fn(Range<usize>) -> Option<usize>,
) -> Result<ArrayRef> {
    let mut rows: Vec<Option<u64>> = Vec::with_capacity(argument.len());
    for span in spans {
        let chosen = of(span.clone()).map(|row| row as u64);
        rows.extend(span.map(|_| chosen));
    }
    Ok(take(argument, &UInt64Array::from(rows), None)?)
}

/// On every row the smallest or largest known value of the trajectory's steps.
fn extremum(
    argument: &ArrayRef,
    spans: impl Iterator<Item = Range<usize>>,
    step: impl Fn(&usize) -> bool,
    better: Ordering,
) -> Result<ArrayRef> {
    let compare = make_comparator(argument.as_ref(), argument.as_ref(), SortOptions::default())?;
    broadcast(argument, spans, |span| {
        span.filter(|row| step(row) && argument.is_valid(*row)).reduce(|best, row| if compare(row, best) == better { row } else { best })
    })
}

fn numbers(argument: &ArrayRef) -> Result<Float64Array> {
    let numbers = cast(argument, &DataType::Float64)?;
    numbers.as_primitive_opt::<Float64Type>().cloned().ok_or_else(|| Error::failed("not a number"))
}

/// A running value over the steps of each trajectory in the order of `spans`; null on final rows, a null counts as 0.
fn scan<R: Iterator<Item = usize>>(
    argument: &ArrayRef,
    spans: impl Iterator<Item = R>,
    step: impl Fn(&usize) -> bool,
    add: impl Fn(f64, f64) -> f64,
) -> Result<ArrayRef> {
    let values = numbers(argument)?;
    let mut out = vec![None; values.len()];
    for span in spans {
        let mut sum = 0.0;
        for row in span.filter(&step) {
            sum = add(sum, if values.is_valid(row) { values.value(row) } else { 0.0 });
            out[row] = Some(sum);
        }
    }
    Ok(Arc::new(Float64Array::from(out)))
}

/// On every row one value of the whole trajectory, from the sum and the number of its known values.
fn total(
    argument: &ArrayRef,
    spans: impl Iterator<Item = Range<usize>>,
    step: impl Fn(&usize) -> bool,
    value: impl Fn(f64, usize) -> Option<f64>,
) -> Result<ArrayRef> {
    let values = numbers(argument)?;
    let mut out = Vec::with_capacity(values.len());
    for span in spans {
        let known = span.clone().filter(|row| step(row) && values.is_valid(*row));
        let (sum, count) = known.fold((0.0, 0), |(sum, count), row| (sum + values.value(row), count + 1));
        let value = value(sum, count);
        out.extend(span.map(|_| value));
    }
    Ok(Arc::new(Float64Array::from(out)))
}
