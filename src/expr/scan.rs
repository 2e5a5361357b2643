//! Running values and totals along the steps of trajectories, and projections onto atoms.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use crate::dataset::schema::vector;
use crate::error::{Error, Result};

/// The support of a categorical distribution: `count` evenly spaced values from `low` to `high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Atoms {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) count: usize,
}

/// Returns vectors of `width` values. A row is null where `known` is false.
fn vectors(values: Vec<f64>, width: usize, known: NullBuffer) -> Result<ArrayRef> {
    let width = i32::try_from(width).map_err(|_| Error::failed("the vectors are too wide"))?;
    let DataType::FixedSizeList(child, width) = vector(DataType::Float64, width) else {
        return Err(Error::failed("this is not a vector"));
    };
    Ok(Arc::new(FixedSizeListArray::try_new(
        child,
        width,
        Arc::new(Float64Array::from(values)),
        Some(known),
    )?))
}

/// Computes returns to go for several discounts at once, one coordinate each.
///
/// The return to go is `G_t = r_t + gamma G_{t+1}`. It is null on final rows, and a null reward
/// counts as 0.
pub(super) fn discounted(
    values: &Float64Array,
    spans: impl Iterator<Item = Range<usize>>,
    step: impl Fn(&usize) -> bool,
    gammas: &[f64],
) -> Result<ArrayRef> {
    let width = gammas.len();
    let (mut out, mut known) = (vec![0.0; values.len() * width], vec![false; values.len()]);
    let mut sums = vec![0.0; width];
    for span in spans {
        sums.fill(0.0);
        for row in span.rev().filter(&step) {
            let value = if values.is_valid(row) {
                values.value(row)
            } else {
                0.0
            };
            sums.iter_mut()
                .zip(gammas)
                .for_each(|(sum, gamma)| *sum = value + gamma * *sum);
            out[row * width..(row + 1) * width].copy_from_slice(&sums);
            known[row] = true;
        }
    }
    vectors(out, width, NullBuffer::from(known))
}

/// Computes a running value over the steps of each trajectory, in the order of `spans`. It skips
/// nulls, and is null before the first value and on final rows.
pub(super) fn running<R: Iterator<Item = usize>>(
    values: &Float64Array,
    spans: impl Iterator<Item = R>,
    step: impl Fn(&usize) -> bool,
    fold: impl Fn(f64, f64) -> f64,
) -> ArrayRef {
    let mut out = vec![None; values.len()];
    for span in spans {
        let mut state: Option<f64> = None;
        for row in span.filter(&step) {
            if values.is_valid(row) {
                let value = values.value(row);
                state = Some(state.map_or(value, |state| fold(state, value)));
            }
            out[row] = state;
        }
    }
    Arc::new(Float64Array::from(out))
}

/// Computes the stock of Pires et al., "Optimizing Return Distributions with Distributional Dynamic
/// Programming" (2025): `c_0 = start`, `c_{t+1} = (c_t + r_t) / gamma`.
///
/// Except for the discount, `c_t + G_t` is the same for all t: `c_0 + G_0 = gamma^t (c_t + G_t)`.
/// Final rows have a value too, and a null reward counts as 0.
pub(super) fn stock(
    values: &Float64Array,
    spans: impl Iterator<Item = Range<usize>>,
    step: impl Fn(&usize) -> bool,
    gamma: f64,
    start: f64,
) -> ArrayRef {
    let mut out = Vec::with_capacity(values.len());
    for span in spans {
        let mut stock = start;
        for row in span {
            out.push(stock);
            if step(&row) {
                stock = (stock
                    + if values.is_valid(row) {
                        values.value(row)
                    } else {
                        0.0
                    })
                    / gamma;
            }
        }
    }
    Arc::new(Float64Array::from(out))
}

/// Projects values onto evenly spaced atoms, as in C51 (Bellemare, Dabney and Munos, 2017).
///
/// With b = (clip(x, low, high) - low) / spacing, the atom below b gets the probability ⌈b⌉ - b and
/// the atom above b the probability b - ⌊b⌋. If b is an integer, its atom gets the probability 1. A
/// row is null if its value is null or NaN.
pub(super) fn categorical(values: &Float64Array, atoms: Atoms) -> Result<ArrayRef> {
    let width = atoms.count;
    let mut out = vec![0.0; values.len() * width];
    let known: Vec<bool> = (0..values.len())
        .map(|row| values.is_valid(row) && !values.value(row).is_nan())
        .collect();
    let spacing = (atoms.high - atoms.low) / (width - 1) as f64;
    for (row, own) in out
        .chunks_exact_mut(width)
        .enumerate()
        .filter(|(row, _)| known[*row])
    {
        let place = ((values.value(row).clamp(atoms.low, atoms.high) - atoms.low) / spacing)
            .clamp(0.0, (width - 1) as f64);
        let below = place.floor();
        own[below as usize] = 1.0 - (place - below);
        if place > below {
            own[below as usize + 1] = place - below;
        }
    }
    vectors(out, width, NullBuffer::from(known))
}

/// Converts `argument` to float64.
pub(super) fn numbers(argument: &ArrayRef) -> Result<Float64Array> {
    let numbers = cast(argument, &DataType::Float64)?;
    numbers
        .as_primitive_opt::<Float64Type>()
        .cloned()
        .ok_or_else(|| Error::failed("this is not a number"))
}

/// Computes a running value over the steps of each trajectory, in the order of `spans`. It is null
/// on final rows, and a null counts as 0.
pub(super) fn accumulated<R: Iterator<Item = usize>>(
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
            sum = add(
                sum,
                if values.is_valid(row) {
                    values.value(row)
                } else {
                    0.0
                },
            );
            out[row] = Some(sum);
        }
    }
    Ok(Arc::new(Float64Array::from(out)))
}

/// Returns on every row one value of the whole trajectory, computed from the sum and the number of
/// its values.
pub(super) fn total(
    argument: &ArrayRef,
    spans: impl Iterator<Item = Range<usize>>,
    step: impl Fn(&usize) -> bool,
    value: impl Fn(f64, usize) -> Option<f64>,
) -> Result<ArrayRef> {
    let values = numbers(argument)?;
    let mut out = Vec::with_capacity(values.len());
    for span in spans {
        let known = span
            .clone()
            .filter(|row| step(row) && values.is_valid(*row));
        let (sum, count) = known.fold((0.0, 0), |(sum, count), row| {
            (sum + values.value(row), count + 1)
        });
        let value = value(sum, count);
        out.extend(span.map(|_| value));
    }
    Ok(Arc::new(Float64Array::from(out)))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Float64Type;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_stock_and_the_return_to_go_add_up_to_the_same(
            rewards in prop::collection::vec(-2.0f64..2.0, 1..12),
            gamma in 0.5f64..1.0,
            start in -3.0f64..3.0,
        ) {
            let n = rewards.len();
            let values = Float64Array::from(rewards);
            let stock = stock(&values, std::iter::once(0..n), |_| true, gamma, start);
            let stock = stock.as_primitive::<Float64Type>();
            let spans = std::iter::once(0..n);
            let to_go = discounted(&values, spans, |_| true, &[1.0, gamma]).unwrap();
            let to_go = to_go.as_fixed_size_list().values();
            let to_go = to_go.as_primitive::<Float64Type>().clone();
            let whole = start + to_go.value(1);
            for t in 0..n {
                let own = gamma.powi(t as i32) * (stock.value(t) + to_go.value(2 * t + 1));
                let tolerance = 1e-9 * (1.0 + whole.abs()) / gamma.powi(n as i32);
                prop_assert!((own - whole).abs() < tolerance);
            }
        }

        #[test]
        fn a_projection_keeps_the_mean_and_sums_to_one(
            value in -15.0f64..15.0,
            count in 2usize..60,
        ) {
            let atoms = Atoms { low: -10.0, high: 10.0, count };
            let made = categorical(&Float64Array::from(vec![value]), atoms).unwrap();
            let own = made.as_fixed_size_list().values();
            let own = own.as_primitive::<Float64Type>().values().to_vec();
            let spacing = 20.0 / (count - 1) as f64;
            let atoms = own.iter().enumerate();
            let mean: f64 = atoms
                .map(|(index, share)| share * (-10.0 + index as f64 * spacing))
                .sum();
            prop_assert!((own.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!((mean - value.clamp(-10.0, 10.0)).abs() < 1e-9);
            prop_assert!(own.iter().filter(|share| **share > 0.0).count() <= 2);
        }
    }
}
