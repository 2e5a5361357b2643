//! Functions along a trajectory: their value on a row depends on other rows of the same trajectory.
//!
//! `next` and `prev` also see the row after the last action (`is_final`). All other functions work
//! only on the steps.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, StructArray, UInt64Array, make_comparator,
    new_null_array,
};
use arrow::compute::{SortOptions, cast, interleave, take};
use arrow::datatypes::{DataType, Int8Type};

use super::scan::{self, Atoms, numbers, total};
use crate::dataset::schema::vector;
use crate::error::Result;

/// The value before the first row and after the last row of a trajectory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Null.
    Null,
    /// The nearest value of the trajectory.
    Repeat,
    /// Zero in every coordinate.
    Zero,
}

/// A function along a trajectory with its constants.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Function {
    Next(Edge),
    Prev(Edge),
    /// Discounted by the given factor per step. Several factors make a vector with one coordinate
    /// each.
    ReturnsToGo(Constant),
    Cumulative,
    /// The sum up to the step, in which earlier values are discounted by the given factor per step.
    PrefixSum(f64),
    /// An operation over the steps up to this one.
    Prefix(Fold),
    /// An operation over the steps from this one on.
    Suffix(Fold),
    /// The stock for a discount factor and an initial value: see [`scan::stock`].
    Stock(f64, f64),
    /// The projection of a value onto atoms: see [`scan::categorical`].
    Categorical(Atoms),
    First,
    Last,
    Mean,
    Min,
    Max,
    Sum,
}

/// A constant argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    Number(f64),
    Numbers(Vec<f64>),
}

/// An operation that a running value repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    Product,
    Min,
    Max,
}

impl Fold {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Fold::Product => a * b,
            _ if a.is_nan() || b.is_nan() => f64::NAN,
            Fold::Min => a.min(b),
            Fold::Max => a.max(b),
        }
    }
}

/// The name of a function, example arguments for messages, and the number of arguments.
pub(super) struct Form {
    pub(super) name: &'static str,
    pub(super) arguments: &'static str,
    pub(super) count: usize,
}

const fn form(name: &'static str, arguments: &'static str, count: usize) -> Form {
    Form {
        name,
        arguments,
        count,
    }
}

/// All functions, in the order of the manual.
pub(super) static FUNCTIONS: [Form; 19] = [
    form("next", "reward", 1),
    form("prev", "reward", 1),
    form("returns_to_go", "reward, 0.99", 2),
    form("cumulative", "reward", 1),
    form("prefix_sum", "reward, 0.99", 2),
    form("prefix_product", "reward", 1),
    form("prefix_min", "reward", 1),
    form("prefix_max", "reward", 1),
    form("suffix_product", "reward", 1),
    form("suffix_min", "reward", 1),
    form("suffix_max", "reward", 1),
    form("stock", "reward, 0.99, 0", 3),
    form("categorical", "returns_to_go(reward, 0.99), 0, 100, 51", 4),
    form("first", "reward", 1),
    form("last", "reward", 1),
    form("mean_over", "reward", 1),
    form("min_over", "reward", 1),
    form("max_over", "reward", 1),
    form("sum_over", "reward", 1),
];

/// A constant argument that a function cannot use: its index, counted from 0 after the first
/// argument, and what it must be.
pub(super) type Unfit = (usize, &'static str);

const DISCOUNT: &str = "a constant from 0 to 1";

impl Function {
    /// Returns the function called `name` with its constants; `None` if no function has that name.
    pub(super) fn named(
        name: &str,
        edge: Edge,
        constants: &[Constant],
    ) -> Result<Option<Function>, Unfit> {
        let number = |index: usize, wanted: &'static str| match constants.get(index) {
            Some(Constant::Number(value)) => Ok(*value),
            _ => Err((index, wanted)),
        };
        let discount = |value: f64| (0.0..=1.0).contains(&value);
        Ok(Some(match name {
            "next" => Function::Next(edge),
            "prev" => Function::Prev(edge),
            "returns_to_go" => match constants.first() {
                Some(Constant::Number(gamma)) if discount(*gamma) => {
                    Function::ReturnsToGo(Constant::Number(*gamma))
                }
                Some(Constant::Numbers(gammas))
                    if !gammas.is_empty() && gammas.iter().all(|gamma| discount(*gamma)) =>
                {
                    Function::ReturnsToGo(Constant::Numbers(gammas.clone()))
                }
                _ => return Err((0, DISCOUNT)),
            },
            "cumulative" => Function::Cumulative,
            "prefix_sum" => Function::PrefixSum(number(0, DISCOUNT).and_then(|gamma| {
                if discount(gamma) {
                    Ok(gamma)
                } else {
                    Err((0, DISCOUNT))
                }
            })?),
            "prefix_product" => Function::Prefix(Fold::Product),
            "prefix_min" => Function::Prefix(Fold::Min),
            "prefix_max" => Function::Prefix(Fold::Max),
            "suffix_product" => Function::Suffix(Fold::Product),
            "suffix_min" => Function::Suffix(Fold::Min),
            "suffix_max" => Function::Suffix(Fold::Max),
            "stock" => {
                const ABOVE: &str = "a constant above 0, at most 1";
                let gamma = number(0, ABOVE)?;
                if !(gamma > 0.0 && gamma <= 1.0) {
                    return Err((0, ABOVE));
                }
                Function::Stock(gamma, number(1, "a constant number")?)
            }
            "categorical" => {
                let (low, high) = (
                    number(0, "a constant number")?,
                    number(1, "a constant number")?,
                );
                if !(low < high && (high - low).is_finite()) {
                    return Err((1, "a constant above the lowest atom"));
                }
                const COUNT: &str = "a constant whole number from 2 to 4096";
                let count = number(2, COUNT)?;
                if count.fract() != 0.0 || !(2.0..=4096.0).contains(&count) {
                    return Err((2, COUNT));
                }
                Function::Categorical(Atoms {
                    low,
                    high,
                    count: count as usize,
                })
            }
            "first" => Function::First,
            "last" => Function::Last,
            "mean_over" => Function::Mean,
            "min_over" => Function::Min,
            "max_over" => Function::Max,
            "sum_over" => Function::Sum,
            _ => return Ok(None),
        }))
    }

    /// Returns whether the argument must be a number.
    pub(super) fn needs_number(&self) -> bool {
        use Function::{
            Categorical, Cumulative, Mean, Prefix, PrefixSum, ReturnsToGo, Stock, Suffix, Sum,
        };
        matches!(
            self,
            ReturnsToGo(_)
                | Cumulative
                | PrefixSum(_)
                | Prefix(_)
                | Suffix(_)
                | Stock(..)
                | Categorical(_)
                | Mean
                | Sum
        )
    }

    /// Returns whether the argument must have an order.
    pub(super) fn needs_order(&self) -> bool {
        matches!(self, Function::Min | Function::Max)
    }

    /// Returns the type of the value for an argument of the type `argument`.
    pub(super) fn data_type(&self, argument: &DataType) -> DataType {
        let wide =
            |count: usize| vector(DataType::Float64, i32::try_from(count).unwrap_or(i32::MAX));
        match self {
            Function::ReturnsToGo(Constant::Numbers(gammas)) => wide(gammas.len()),
            Function::Categorical(atoms) => wide(atoms.count),
            other if other.needs_number() => DataType::Float64,
            _ => argument.clone(),
        }
    }

    /// Computes the value on every row. `offsets` says where trajectories start, and `is_final`
    /// marks the rows that are not steps.
    ///
    /// # Errors
    /// Returns an error if the function does not take the argument's type.
    pub(super) fn evaluate(
        &self,
        argument: &ArrayRef,
        offsets: &[usize],
        is_final: Option<&BooleanArray>,
    ) -> Result<ArrayRef> {
        let spans = || offsets.windows(2).map(|ends| ends[0]..ends[1]);
        let step = |row: &usize| is_final.is_none_or(|flags| !flags.value(*row));
        match self {
            Function::Next(edge) => shift(argument, spans(), *edge, |row, span| {
                (row + 1 < span.end).then_some(row + 1)
            }),
            Function::Prev(edge) => shift(argument, spans(), *edge, |row, span| {
                (row > span.start).then(|| row - 1)
            }),
            Function::First => broadcast(argument, spans(), |mut span| span.find(step)),
            Function::Last => broadcast(argument, spans(), |span| span.rev().find(step)),
            Function::Min => extremum(argument, spans(), step, Ordering::Less),
            Function::Max => extremum(argument, spans(), step, Ordering::Greater),
            Function::ReturnsToGo(Constant::Number(gamma)) => {
                scan::accumulated(argument, spans().map(Iterator::rev), step, |sum, reward| {
                    reward + gamma * sum
                })
            }
            Function::ReturnsToGo(Constant::Numbers(gammas)) => {
                scan::discounted(&numbers(argument)?, spans(), step, gammas)
            }
            Function::PrefixSum(gamma) => {
                scan::accumulated(argument, spans(), step, |sum, value| value + gamma * sum)
            }
            Function::Prefix(fold) => {
                Ok(scan::running(&numbers(argument)?, spans(), step, |a, b| {
                    fold.of(a, b)
                }))
            }
            Function::Suffix(fold) => Ok(scan::running(
                &numbers(argument)?,
                spans().map(Iterator::rev),
                step,
                |a, b| fold.of(a, b),
            )),
            Function::Stock(gamma, start) => Ok(scan::stock(
                &numbers(argument)?,
                spans(),
                step,
                *gamma,
                *start,
            )),
            Function::Categorical(atoms) => scan::categorical(&numbers(argument)?, *atoms),
            Function::Cumulative => {
                scan::accumulated(argument, spans(), step, |sum, value| sum + value)
            }
            Function::Mean => total(argument, spans(), step, |sum, count| {
                (count > 0).then(|| sum / count as f64)
            }),
            Function::Sum => total(argument, spans(), step, |sum, count| {
                (count > 0).then_some(sum)
            }),
        }
    }
}

/// Returns for every row the value on the row of the same trajectory that `of` names. `edge` says
/// what to return where there is no such row.
fn shift(
    argument: &ArrayRef,
    spans: impl Iterator<Item = Range<usize>>,
    edge: Edge,
    of: impl Fn(usize, &Range<usize>) -> Option<usize>,
) -> Result<ArrayRef> {
    if edge == Edge::Zero {
        let zero = zero_row(argument.data_type())?;
        let rows: Vec<(usize, usize)> = spans
            .flat_map(|span| {
                span.clone()
                    .map(|row| of(row, &span).map_or((1, 0), |row| (0, row)))
                    .collect::<Vec<_>>()
            })
            .collect();
        return Ok(interleave(&[argument.as_ref(), zero.as_ref()], &rows)?);
    }
    let mut rows = Vec::with_capacity(argument.len());
    for span in spans {
        let nearest = |row: usize| (edge == Edge::Repeat).then_some(row);
        rows.extend(span.clone().map(|row| {
            of(row, &span)
                .or_else(|| nearest(row))
                .map(|row| row as u64)
        }));
    }
    Ok(take(argument, &UInt64Array::from(rows), None)?)
}

/// Returns one row of zeros; null for types without a zero.
fn zero_row(data_type: &DataType) -> Result<ArrayRef> {
    match data_type {
        DataType::FixedSizeList(child, width) => {
            let zero = zero_row(child.data_type())?;
            let zeros = take(
                &zero,
                &UInt64Array::from(vec![0; usize::try_from(*width).unwrap_or(0)]),
                None,
            )?;
            Ok(Arc::new(FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                zeros,
                None,
            )?))
        }
        DataType::Struct(fields) => {
            let zeros = fields
                .iter()
                .map(|field| zero_row(field.data_type()))
                .collect::<Result<Vec<_>>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), zeros, None)?))
        }
        DataType::Boolean => Ok(Arc::new(BooleanArray::from(vec![false]))),
        number if number.is_numeric() => Ok(cast(
            &arrow::array::PrimitiveArray::<Int8Type>::from(vec![0]),
            number,
        )?),
        other => Ok(new_null_array(other, 1)),
    }
}

/// Returns on every row of a trajectory the value on the row that `of` chooses.
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

/// Returns on every row the smallest or the largest value of the trajectory's steps.
fn extremum(
    argument: &ArrayRef,
    spans: impl Iterator<Item = Range<usize>>,
    step: impl Fn(&usize) -> bool,
    better: Ordering,
) -> Result<ArrayRef> {
    let compare = make_comparator(argument.as_ref(), argument.as_ref(), SortOptions::default())?;
    broadcast(argument, spans, |span| {
        span.filter(|row| step(row) && argument.is_valid(*row))
            .reduce(|best, row| {
                if compare(row, best) == better {
                    row
                } else {
                    best
                }
            })
    })
}
