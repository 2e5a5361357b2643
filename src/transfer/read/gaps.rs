//! Breaks between steps: places where the observation after a step is not that of the next step.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float64Type, Schema};

use crate::dataset::block::flattened;
use crate::dataset::schema::{step, type_name};
use crate::error::wording::count;
use crate::error::{Error, Result};

/// Returns the rows of `next`, the observations after the steps, that differ from the row of
/// `observation` that follows. Both have the same type; if the source had another for one of them,
/// `narrow` is the type of fewer digits, to which both are rounded. NaN equals NaN, and a null says
/// nothing.
///
/// # Errors
/// Returns an error if the values cannot be compared.
pub(crate) fn gaps(
    observation: &ArrayRef,
    next: &ArrayRef,
    narrow: Option<&DataType>,
) -> Result<Vec<usize>> {
    let pairs = observation.len().min(next.len() + 1).saturating_sub(1);
    let (next, following) = (next.slice(0, pairs), observation.slice(1, pairs));
    if next.to_data() == following.to_data() {
        return Ok(Vec::new());
    }
    let differs = |row: &usize| differ(&next.slice(*row, 1), &following.slice(*row, 1), narrow);
    let rows = (0..pairs).map(|row| differs(&row).map(|differs| differs.then_some(row)));
    rows.filter_map(Result::transpose).collect()
}

/// Returns the type of fewer digits, if `a` and `b` are floats, or vectors of them, of different
/// types.
pub(crate) fn narrower(a: &DataType, b: &DataType) -> Option<DataType> {
    let element = |data_type: &DataType| match data_type {
        DataType::FixedSizeList(child, _) => child.data_type().clone(),
        other => other.clone(),
    };
    let (a, b) = (element(a), element(b));
    if !a.is_floating() || !b.is_floating() || a == b {
        return None;
    }
    Some(if a.primitive_width() < b.primitive_width() {
        a
    } else {
        b
    })
}

/// Whether the observation after a step is not that of the next step; `narrow` as in [`gaps`].
///
/// # Errors
/// Returns an error if the values cannot be compared.
pub(crate) fn differ(
    next: &ArrayRef,
    following: &ArrayRef,
    narrow: Option<&DataType>,
) -> Result<bool> {
    Ok(next.is_valid(0)
        && following.is_valid(0)
        && next.to_data() != following.to_data()
        && !same_numbers(next, following, narrow)?)
}

/// Whether two values hold the same numbers, where NaN equals NaN.
fn same_numbers(a: &ArrayRef, b: &ArrayRef, narrow: Option<&DataType>) -> Result<bool> {
    if let (Some(a), Some(b)) = (a.as_struct_opt(), b.as_struct_opt()) {
        // A part that one of them lacks says nothing.
        for (a, name) in a.columns().iter().zip(a.column_names()) {
            if let Some(b) = b.column_by_name(name)
                && !same_numbers(a, b, narrow)?
            {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let (a, b) = (flattened(a).0, flattened(b).0);
    if a.data_type() == b.data_type() && !a.data_type().is_floating() {
        return Ok(a.to_data() == b.to_data());
    }
    let own = narrower(a.data_type(), b.data_type());
    let narrow = own.as_ref().or(narrow);
    let digits = |numbers: &ArrayRef| -> Result<ArrayRef> {
        let rounded = match narrow {
            Some(narrow) => cast(numbers, narrow)?,
            None => ArrayRef::clone(numbers),
        };
        Ok(cast(&rounded, &DataType::Float64)?)
    };
    let (a, b) = (digits(&a)?, digits(&b)?);
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
    narrow: Option<&DataType>,
) -> Result<()> {
    let breaks = gaps(observation, next, narrow)?;
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

/// The names that formats give to the observation itself, without those of the groups around it.
const OBSERVATIONS: [&str; 6] = [
    "observation",
    "observations",
    "obs",
    "state",
    "environment_state",
    "proprio",
];

/// The columns of a source that has next observations among its columns: the name of each with
/// that of the column whose next values it holds.
pub(crate) struct Following(Vec<(String, String)>);

impl Following {
    /// Finds the columns in `schema`. `names` has the name in the source of each column that was
    /// renamed, and its name in the schema.
    pub(crate) fn find(schema: &Schema, names: &BTreeMap<String, String>) -> Following {
        let is_numbers = |name: &str| {
            schema.field_with_name(name).is_ok_and(|field| {
                field.data_type().is_numeric()
                    || matches!(
                        field.data_type(),
                        DataType::FixedSizeList(..) | DataType::Struct(_)
                    )
            })
        };
        let pair = |field: &FieldRef| {
            let renamed = names.iter().find(|(_, own)| *own == field.name());
            let source = renamed.map_or(field.name(), |(source, _)| source);
            let of = ["next.", "next/", "next_"]
                .iter()
                .find_map(|prefix| source.strip_prefix(prefix))?;
            // Formats name the column that is the observation itself.
            let last = of.rsplit(['.', '/']).next().unwrap_or(of);
            let is_own = OBSERVATIONS.contains(&last) && schema.fields().find(of).is_none();
            let column = match names.get(of) {
                Some(column) => column.as_str(),
                None if is_own => step::OBSERVATION,
                None => of,
            };
            let is_observation = column.starts_with(step::OBSERVATION) || of.starts_with("obs");
            (is_observation && is_numbers(column) && is_numbers(field.name()))
                .then(|| (field.name().clone(), column.to_owned()))
        };
        Following(schema.fields().iter().filter_map(pair).collect())
    }

    /// Verifies that there is no break in the trajectory `steps`, whose final observation may be
    /// in its last row.
    ///
    /// # Errors
    /// Returns an error that names the first break.
    pub(crate) fn verify(&self, steps: &RecordBatch) -> Result<()> {
        for (next, own) in &self.0 {
            let columns = (steps.column_by_name(own), steps.column_by_name(next));
            let (Some(observation), Some(following)) = columns else {
                continue;
            };
            let width = |column: &ArrayRef| match column.data_type() {
                DataType::FixedSizeList(_, width) => *width,
                _ => 1,
            };
            if width(observation) == width(following) {
                verify(observation, following, own, next, None)?;
            }
        }
        Ok(())
    }
}

/// Returns `next`, the observations after the steps, in the type of the observations, `own`.
///
/// # Errors
/// Returns an error that names the part and the row, if a value would change or a part is missing.
pub(crate) fn in_type(next: &ArrayRef, own: &DataType, name: &str) -> Result<ArrayRef> {
    let remedy = format!(
        "`--skip '{name}'` reads the file without it, and so without the final \
                          observations"
    );
    if next.data_type() == own {
        return Ok(ArrayRef::clone(next));
    }
    if let (Some(parts), DataType::Struct(fields)) = (next.as_struct_opt(), own) {
        let columns = fields.iter().map(|field| {
            let part = parts.column_by_name(field.name()).ok_or_else(|| {
                Error::failed(format!("`{name}` has no part `{}`", field.name()))
                    .hint(remedy.clone())
            })?;
            in_type(part, field.data_type(), &format!("{name}/{}", field.name()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        return Ok(Arc::new(StructArray::try_new(
            fields.clone(),
            columns,
            parts.nulls().cloned(),
        )?));
    }
    let wrong = || {
        Error::failed(format!(
            "`{name}` is {}, and its last value cannot be {}, the type of the observations, \
             without a change",
            type_name(next.data_type()),
            type_name(own)
        ))
        .hint(remedy.clone())
    };
    let converted = cast(next, own).map_err(|_| wrong())?;
    let back = cast(&converted, next.data_type()).map_err(|_| wrong())?;
    match same_numbers(&back, next, None)? {
        true => Ok(converted),
        false => Err(wrong()),
    }
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
        assert_eq!(gaps(&observation, &next, None).unwrap(), [2]);
        assert!(
            gaps(&observation, &observation.slice(1, 3), None)
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
