//! Joins the parts of an action or an observation, as `map` names them, into one vector.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, new_empty_array};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field};

use super::align::wider;
use super::pattern::{glob, natural};
use super::{Options, per_trajectory};
use crate::container::arrays::ArrayColumns;
use crate::dataset::block::flattened;
use crate::dataset::schema::{self, step, type_name};
use crate::error::{Error, Result, nearest};

/// Verifies that `map` has only targets that are in `targets`.
///
/// # Errors
/// Returns an error that names the first other target.
pub(crate) fn verify_targets(options: &Options, targets: &[&str]) -> Result<()> {
    let other = options
        .map
        .iter()
        .find(|(target, _)| !targets.contains(&target.as_str()));
    match other {
        Some((target, _)) => Err(Error::usage(format!("nothing can be mapped to `{target}`"))
            .hint(format!("`map` takes {}", targets.join(", ")))),
        None => Ok(()),
    }
}

/// Returns the names that the user maps to `target`; `None` if there is no such mapping.
///
/// The mapping is a name, or names and patterns with commas between them. A pattern stands for all
/// names that it matches, in the order of `known`.
///
/// # Errors
/// Returns an error if there is no such name.
pub(crate) fn mapped<'a>(
    options: &Options,
    target: &str,
    known: &[&'a str],
) -> Result<Option<Vec<&'a str>>> {
    let Some((_, source)) = options.map.iter().find(|(name, _)| name == target) else {
        return Ok(None);
    };
    if let Some(name) = known.iter().find(|name| *name == source) {
        return Ok(Some(vec![*name]));
    }
    let mut names = Vec::new();
    for pattern in source.split(',').map(str::trim) {
        let before = names.len();
        for name in known {
            if glob(pattern.as_bytes(), name.as_bytes()) && !names.contains(name) {
                names.push(*name);
            }
        }
        if names.len() == before {
            let hint = nearest(pattern, known.iter().copied()).map_or_else(
                || {
                    let known = known.iter().map(|name| format!("`{name}`"));
                    format!("the source has {}", known.collect::<Vec<_>>().join(", "))
                },
                |meant| format!("did you mean `{meant}`?"),
            );
            return Err(Error::failed(format!(
                "the source has no `{pattern}` to map to `{target}`"
            ))
            .hint(hint));
        }
    }
    Ok(Some(names))
}

/// Removes what the user maps to `target` from `arrays` and returns it: an array, a group as a
/// struct, or several arrays joined into a vector. Returns `None` if there is no such mapping.
///
/// # Errors
/// Returns an error if there are no such arrays, or if they cannot be joined.
pub(crate) fn take(
    arrays: &mut ArrayColumns,
    options: &Options,
    target: &str,
) -> Result<Option<(Field, ArrayRef)>> {
    if let Some((_, source)) = options.map.iter().find(|(name, _)| name == target)
        && let Some(found) = per_trajectory::take(arrays, source)?
    {
        return Ok(Some(found));
    }
    let mut keys: Vec<String> = arrays.keys().cloned().collect();
    keys.sort_by(|a, b| natural(a, b));
    let known: Vec<&str> = keys.iter().map(String::as_str).collect();
    let Some(names) = mapped(options, target, &known)? else {
        return Ok(None);
    };
    let mut parts = Vec::new();
    for name in names {
        parts.extend(
            arrays
                .remove(name)
                .map(|(field, values)| (field.with_name(name), values)),
        );
    }
    joined(target, parts).map(Some)
}

/// Returns a type that holds the numbers of both types; `None` if there is none.
pub(crate) type Common = fn(&DataType, &DataType) -> Option<DataType>;

/// Returns the vector that `fields` become, with the names of its dimensions. A single field stays
/// as it is. `common` finds the type of the elements.
///
/// # Errors
/// Returns an error if a field does not hold numbers, or if no type holds the numbers of all.
pub(crate) fn joined_field(target: &str, fields: &[&Field], common: Common) -> Result<Field> {
    if let [one] = fields {
        return Ok((*one).clone());
    }
    let mut element: Option<DataType> = None;
    let mut names = Vec::new();
    for field in fields {
        let (own, width) = match field.data_type() {
            DataType::FixedSizeList(child, width) => (child.data_type(), Some(*width)),
            other => (other, None),
        };
        if !own.is_numeric() && *own != DataType::Boolean {
            return Err(Error::failed(format!(
                "`{}` is {}, which cannot be a part of the vector `{target}`",
                field.name(),
                type_name(own)
            ))
            .hint(format!(
                "name the parts that hold numbers, for example `{target}=a,b`"
            )));
        }
        let known = element.take().unwrap_or_else(|| own.clone());
        // A flag beside numbers is a number.
        let number = |data_type: &DataType| match data_type {
            DataType::Boolean if known != *own => DataType::UInt8,
            other => other.clone(),
        };
        let both = (number(&known), number(own));
        element = Some(common(&both.0, &both.1).ok_or_else(|| {
            Error::failed(format!(
                "`{}` is {}, and no type holds its numbers and those of `{}`, which is {}",
                field.name(),
                type_name(own),
                fields[0].name(),
                type_name(&known)
            ))
            .hint("map one part, and derive the vector from the others with an expression")
        })?);
        let part = field.name().rsplit('/').next().unwrap_or(field.name());
        match width {
            None => names.push(part.to_owned()),
            Some(width) => names.extend((0..width).map(|at| format!("{part}_{at}"))),
        }
    }
    let width = i32::try_from(names.len()).unwrap_or(i32::MAX);
    let element = element.unwrap_or(DataType::Null);
    let field = Field::new(target, schema::vector(element, width), true);
    Ok(schema::with_names(field, &names))
}

/// Joins columns of numbers and vectors into one column of vectors.
///
/// # Errors
/// Returns the errors of [`joined_field`], and an error if the columns differ in length.
pub(crate) fn joined(target: &str, parts: Vec<(Field, ArrayRef)>) -> Result<(Field, ArrayRef)> {
    let fields: Vec<&Field> = parts.iter().map(|(field, _)| field).collect();
    let field = joined_field(target, &fields, wider)?;
    let DataType::FixedSizeList(element, _) = field.data_type() else {
        let values = parts.into_iter().next().map(|(_, values)| values);
        let values = values.unwrap_or_else(|| new_empty_array(field.data_type()));
        return Ok((field, values));
    };
    if parts.len() == 1 {
        let values = parts.into_iter().next().map(|(_, values)| values);
        let values = values.unwrap_or_else(|| new_empty_array(field.data_type()));
        return Ok((field, values));
    }
    let columns: Vec<ArrayRef> = parts.iter().map(|(_, values)| Arc::clone(values)).collect();
    let values = interleaved(&columns, element, target)?;
    Ok((field, values))
}

/// Joins the rows of `columns` into rows of vectors with elements like `element`.
///
/// # Errors
/// Returns an error if the columns differ in length.
pub(crate) fn interleaved(
    columns: &[ArrayRef],
    element: &Arc<Field>,
    target: &str,
) -> Result<ArrayRef> {
    let rows = columns.first().map_or(0, |column| column.len());
    if let Some(other) = columns.iter().find(|column| column.len() != rows) {
        return Err(Error::failed(format!(
            "the parts of `{target}` have {rows} and {} rows",
            other.len()
        )));
    }
    let mut parts = Vec::with_capacity(columns.len());
    let mut widths = Vec::with_capacity(columns.len());
    for column in columns {
        let (values, width) = flattened(column);
        parts.push(cast(&values, element.data_type())?);
        widths.push(width.max(1));
    }
    // All parts end to end, and the place of each element of each row in them.
    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
    let starts: Vec<usize> = parts
        .iter()
        .scan(0, |start, part| {
            let own = *start;
            *start += part.len();
            Some(own)
        })
        .collect();
    let places = (0..rows).flat_map(|row| {
        widths.iter().zip(&starts).flat_map(move |(width, start)| {
            (0..*width).map(move |at| (start + row * width + at) as u64)
        })
    });
    let places: arrow::array::UInt64Array = places.collect();
    let values = arrow::compute::take(&concat(&parts)?, &places, None)?;
    let width = i32::try_from(widths.iter().sum::<usize>()).unwrap_or(i32::MAX);
    Ok(Arc::new(FixedSizeListArray::try_new(
        Arc::clone(element),
        width,
        values,
        None,
    )?))
}

/// The columns that `map` sets where each trajectory is a group of arrays.
pub(crate) const TARGETS: [&str; 3] = [step::OBSERVATION, step::ACTION, step::REWARD];
