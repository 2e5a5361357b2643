//! Breaks between steps: places where the observation after a step is not that of the next step.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use crate::dataset::block::flattened;
use crate::error::wording::count;
use crate::error::{Error, Result};

/// Returns the rows of `next`, the observations after the steps, that differ from the row of
/// `observation` that follows. Both have the same type. NaN equals NaN, and a null says nothing.
///
/// # Errors
/// Returns an error if the values cannot be compared.
pub(crate) fn gaps(observation: &ArrayRef, next: &ArrayRef) -> Result<Vec<usize>> {
    let pairs = observation.len().min(next.len() + 1).saturating_sub(1);
    let (next, following) = (next.slice(0, pairs), observation.slice(1, pairs));
    if next.to_data() == following.to_data() {
        return Ok(Vec::new());
    }
    let differs = |row: &usize| differ(&next.slice(*row, 1), &following.slice(*row, 1));
    let rows = (0..pairs).map(|row| differs(&row).map(|differs| differs.then_some(row)));
    rows.filter_map(Result::transpose).collect()
}

/// Whether the observation after a step is not that of the next step.
///
/// # Errors
/// Returns an error if the values cannot be compared.
pub(crate) fn differ(next: &ArrayRef, following: &ArrayRef) -> Result<bool> {
    Ok(
        next.is_valid(0)
            && next.to_data() != following.to_data()
            && !same_numbers(next, following)?,
    )
}

/// Whether two values hold the same numbers, where NaN equals NaN.
fn same_numbers(a: &ArrayRef, b: &ArrayRef) -> Result<bool> {
    if let (Some(a), Some(b)) = (a.as_struct_opt(), b.as_struct_opt()) {
        for (a, b) in a.columns().iter().zip(b.columns()) {
            if !same_numbers(a, b)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let (a, b) = (flattened(a).0, flattened(b).0);
    if !a.data_type().is_floating() {
        return Ok(a.to_data() == b.to_data());
    }
    let (a, b) = (cast(&a, &DataType::Float64)?, cast(&b, &DataType::Float64)?);
    let (a, b) = (
        a.as_primitive::<Float64Type>(),
        b.as_primitive::<Float64Type>(),
    );
    let same = |(a, b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan();
    Ok(a.len() == b.len() && a.values().iter().zip(b.values()).all(same))
}

/// Verifies that there is no break in a trajectory that is stored by itself, whose observations and
/// next observations are the arrays or columns of the names `own` and `following`.
///
/// # Errors
/// Returns an error that names the first break, and the number of breaks.
pub(crate) fn verify(
    observation: &ArrayRef,
    next: &ArrayRef,
    own: &str,
    following: &str,
) -> Result<()> {
    let breaks = gaps(observation, next)?;
    let Some(row) = breaks.first().copied() else {
        return Ok(());
    };
    Err(Error::failed(format!(
        "`{following}` is {} at step {row}, but `{own}` is {} at step {} ({} in all)",
        brief(&next.slice(row, 1)),
        brief(&observation.slice(row + 1, 1)),
        row + 1,
        count(breaks.len(), "such place")
    ))
    .hint(format!(
        "the trajectory may be joined from several: correct it in the source, or read it as one \
         without its next observations, with `--skip '{following}'`"
    )))
}

/// Returns the error for breaks that the source does not mark, the first of them between the two
/// values. Each value comes with its name and its place.
pub(crate) fn unmarked(
    next: (&str, &str, &ArrayRef),
    following: (&str, &str, &ArrayRef),
    breaks: usize,
) -> Error {
    let shown = |(name, place, value): (&str, &str, &ArrayRef)| {
        format!("`{name}` is {} at {place}", brief(value))
    };
    Error::failed(format!(
        "{}, but {}, and no flag marks an end between them ({} in all)",
        shown(next),
        shown(following),
        count(breaks, "such place")
    ))
    .hint(
        "a trajectory that was cut off may end there without a flag: cut it there with \
         `--split-on-gaps` (`split_on_gaps: true`), or correct the flags in the source",
    )
}

/// Returns the first numbers of a value.
fn brief(value: &ArrayRef) -> String {
    let first = value.as_struct_opt().map(|parts| parts.column(0));
    let (numbers, _) = flattened(first.unwrap_or(value));
    let Some(numbers) = cast(&numbers, &DataType::Float64).ok() else {
        return "one value".to_owned();
    };
    let shown: Vec<String> = numbers
        .as_primitive::<Float64Type>()
        .iter()
        .take(4)
        .map(|number| number.map_or_else(|| "null".to_owned(), |number| number.to_string()))
        .collect();
    let more = if numbers.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    format!("[{}{more}]", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{FixedSizeListArray, Float32Array};
    use arrow::datatypes::Field;

    use super::*;

    fn vectors(values: &[f32]) -> ArrayRef {
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        let values = Arc::new(Float32Array::from(values.to_vec()));
        Arc::new(FixedSizeListArray::try_new(child, 2, values, None).unwrap())
    }

    #[test]
    fn only_differences_are_gaps() {
        let other_nan = f32::from_bits(f32::NAN.to_bits() | 1);
        let observation = vectors(&[0.0, 0.0, 1.0, f32::NAN, 0.0, 2.0, 3.0, 3.0]);
        let next = vectors(&[1.0, other_nan, -0.0, 2.0, 3.0, 4.0, 9.0, 9.0]);
        assert_eq!(gaps(&observation, &next).unwrap(), [2]);
        assert!(
            gaps(&observation, &observation.slice(1, 3))
                .unwrap()
                .is_empty()
        );
        let error = unmarked(
            ("next", "row 2", &next.slice(2, 1)),
            ("obs", "row 3", &observation.slice(3, 1)),
            1,
        );
        assert_eq!(
            error.message,
            "`next` is [3, 4] at row 2, but `obs` is [3, 3] at row 3, and no flag marks an end \
             between them (1 such place in all)"
        );
    }
}
