//! Gymnasium's spaces as Minari writes them: JSON that may contain bare `Infinity` and `NaN`, which
//! JSON does not allow.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray};
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value, json};

use crate::container::dtype;
use crate::dataset::block::elements;
use crate::dataset::schema::{axes, type_name};
use crate::error::{Error, Result};

/// Reads JSON in which numbers may be `Infinity`, `-Infinity` and `NaN`, which become strings.
///
/// # Errors
///
/// Returns an error if the text is not JSON.
pub(crate) fn parse(text: &str) -> Result<Value> {
    let mut strict = String::with_capacity(text.len());
    let mut rest = text;
    let mut quoted = false;
    while let Some(next) = rest.chars().next() {
        let word = (!quoted)
            .then(|| {
                ["-Infinity", "Infinity", "NaN"]
                    .into_iter()
                    .find(|word| rest.starts_with(word))
            })
            .flatten();
        let length = match word {
            Some(word) => {
                strict.push_str(&format!("\"{word}\""));
                word.len()
            }
            // A quote behind a backslash does not end a string.
            None if quoted && next == '\\' => {
                let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                strict.push_str(&rest[..length]);
                length
            }
            None => {
                quoted ^= next == '"';
                strict.push(next);
                next.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    serde_json::from_str(&strict).map_err(|error| Error::failed(format!("not JSON: {error}")))
}

/// Writes JSON as Minari does: the strings that [`parse`] made of numbers are numbers again.
pub(crate) fn text(value: &Value) -> String {
    let mut text = value.to_string();
    for word in ["-Infinity", "Infinity", "NaN"] {
        text = text.replace(&format!("\"{word}\""), word);
    }
    text
}

/// Returns the lengths of the axes of a `Box`; none if the space has no shape.
fn shape(space: &Value) -> Vec<u64> {
    let axes = space["shape"].as_array().into_iter().flatten();
    axes.filter_map(Value::as_u64).collect()
}

/// Whether the space holds images, which Minari encodes if the metadata says so.
pub(crate) fn is_image(space: &Value) -> bool {
    let shape = shape(space);
    space["type"] == "Box"
        && space["dtype"] == "uint8"
        && (2..=3).contains(&shape.len())
        && shape[..2].iter().all(|side| *side >= 32)
        && all(&space["low"], 0.0)
        && all(&space["high"], 255.0)
}

/// Whether all numbers in nested arrays are `expected`.
fn all(value: &Value, expected: f64) -> bool {
    match value {
        Value::Array(values) => values.iter().all(|value| all(value, expected)),
        other => other.as_f64() == Some(expected),
    }
}

/// Returns the part `name` of a dict or tuple space.
pub(crate) fn inside<'a>(space: &'a Value, name: &str) -> Option<&'a Value> {
    match &space["subspaces"] {
        Value::Object(parts) => parts.get(name),
        Value::Array(parts) => parts.get(
            name.strip_prefix("_index_")
                .unwrap_or(name)
                .parse::<usize>()
                .ok()?,
        ),
        _ => None,
    }
}

/// Returns the space of the values of `field`. For a column of single integers, `range` holds its
/// least and its greatest value.
///
/// # Errors
///
/// Returns an error if no space can hold such values.
pub(crate) fn of(field: &Field, range: Option<(i64, i64)>) -> Result<Value> {
    let wrong = || {
        Error::failed(format!(
            "Minari has no space for `{}`, which has the type {}",
            field.name(),
            type_name(field.data_type())
        ))
    };
    let boxed = |element: &DataType, shape: &[u64]| -> Result<Value> {
        let dtype = dtype::name(element).ok_or_else(wrong)?;
        let (low, high) = bounds(element);
        Ok(json!({
            "type": "Box",
            "dtype": dtype,
            "shape": shape,
            "low": filled(shape, &low),
            "high": filled(shape, &high),
        }))
    };
    match field.data_type() {
        DataType::FixedSizeList(child, width) => {
            let axes = axes(field, *width).into_iter().map(|axis| axis as u64);
            boxed(child.data_type(), &axes.collect::<Vec<_>>())
        }
        DataType::Struct(fields) if tuple(fields.iter().map(|field| field.name().as_str())) => {
            let parts = fields
                .iter()
                .map(|field| of(field, None))
                .collect::<Result<Vec<_>>>()?;
            Ok(json!({"type": "Tuple", "subspaces": parts}))
        }
        DataType::Struct(fields) => {
            let mut spaces = Map::new();
            for field in fields {
                // A slash in a name separates a group from what is in it.
                insert(&mut spaces, field.name(), of(field, None)?);
            }
            Ok(json!({"type": "Dict", "subspaces": spaces}))
        }
        DataType::Utf8 => {
            Ok(json!({"type": "Text", "max_length": 1_000_000, "min_length": 0, "charset": " "}))
        }
        element if element.is_integer() => match range {
            Some((low, high)) => {
                let start = low.min(0);
                let n = high - start + 1;
                Ok(json!({"type": "Discrete", "dtype": "int64", "start": start, "n": n}))
            }
            None => boxed(element, &[]),
        },
        element => boxed(element, &[]),
    }
}

/// Adds a space under `name`; a slash in the name leads into a nested dict space.
fn insert(spaces: &mut Map<String, Value>, name: &str, space: Value) {
    match name.split_once('/') {
        None => drop(spaces.insert(name.to_owned(), space)),
        Some((outer, inner)) => {
            let entry = spaces
                .entry(outer)
                .or_insert_with(|| json!({"type": "Dict", "subspaces": {}}));
            if let Some(inside) = entry["subspaces"].as_object_mut() {
                insert(inside, inner, space);
            }
        }
    }
}

/// Whether these are the names of the parts of a tuple.
pub(crate) fn tuple<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let mut count = 0;
    names.into_iter().all(|name| {
        count += 1;
        name.strip_prefix("_index_").unwrap_or(name) == (count - 1).to_string()
    }) && count > 0
}

/// Returns the least and the greatest number of a type.
fn bounds(element: &DataType) -> (Value, Value) {
    match element {
        DataType::Int8 => (json!(i8::MIN), json!(i8::MAX)),
        DataType::Int16 => (json!(i16::MIN), json!(i16::MAX)),
        DataType::Int32 => (json!(i32::MIN), json!(i32::MAX)),
        DataType::Int64 => (json!(i64::MIN), json!(i64::MAX)),
        DataType::UInt8 => (json!(0), json!(u8::MAX)),
        DataType::UInt16 => (json!(0), json!(u16::MAX)),
        DataType::UInt32 => (json!(0), json!(u32::MAX)),
        DataType::UInt64 => (json!(0), json!(u64::MAX)),
        DataType::Boolean => (json!(false), json!(true)),
        _ => (json!("-Infinity"), json!("Infinity")),
    }
}

/// Returns nested arrays of the given shape that hold `value` everywhere.
fn filled(shape: &[u64], value: &Value) -> Value {
    match shape.split_first() {
        None => value.clone(),
        Some((count, rest)) => Value::Array((0..*count).map(|_| filled(rest, value)).collect()),
    }
}

/// Gives a column the form that its space describes: encoded images become bytes, vectors get a
/// shape, and the parts of a tuple get the names that they have in HDF5.
pub(crate) fn fit_to_space(
    column: (Field, ArrayRef),
    space: Option<&Value>,
    encoded: bool,
) -> Result<(Field, ArrayRef)> {
    let Some(space) = space else {
        return Ok(column);
    };
    let (field, values) = column;
    if let Some(vectors) = values.as_fixed_size_list_opt() {
        let width = vectors.value_length() as usize;
        if encoded && is_image(space) && vectors.value_type() == DataType::UInt8 {
            let bytes = elements(vectors);
            let bytes = bytes
                .as_primitive::<arrow::datatypes::UInt8Type>()
                .values()
                .to_vec();
            let frames: BinaryArray = bytes.chunks_exact(width.max(1)).map(Some).collect();
            return Ok((
                Field::new(field.name(), DataType::Binary, field.is_nullable()),
                Arc::new(frames),
            ));
        }
        let shape = shape(space);
        let fits = shape.len() > 1 && shape.iter().product::<u64>() == width as u64;
        let shape = shape
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(",");
        return Ok((
            if fits {
                field.with_metadata([("shape".to_owned(), shape)].into())
            } else {
                field
            },
            values,
        ));
    }
    let Some(parts) = values.as_struct_opt() else {
        return Ok((field, values));
    };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (part, values) in parts.fields().iter().zip(parts.columns()) {
        let member =
            space["type"] == "Tuple" && part.name().bytes().all(|digit| digit.is_ascii_digit());
        let name = if member {
            format!("_index_{}", part.name())
        } else {
            part.name().clone()
        };
        let inside = inside(space, part.name());
        let (part, values) = fit_to_space(
            (part.as_ref().clone().with_name(name), Arc::clone(values)),
            inside,
            encoded,
        )?;
        fields.push(part);
        columns.push(values);
    }
    let parts =
        arrow::array::StructArray::try_new(fields.into(), columns, values.nulls().cloned())?;
    Ok((
        Field::new(field.name(), parts.data_type().clone(), field.is_nullable()),
        Arc::new(parts),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_numbers_are_read_outside_of_texts_only() {
        let read = parse(
            r#"{"low": [-Infinity, 1], "high": Infinity, "say": "Infinity \" NaN", "x": NaN}"#,
        )
        .unwrap();
        assert_eq!(read["low"][0], "-Infinity");
        assert_eq!(read["say"], "Infinity \" NaN");
        assert_eq!(
            text(&json!({"a": ["-Infinity", "Infinity", 1]})),
            r#"{"a":[-Infinity,Infinity,1]}"#
        );
        assert!(parse("{\"a\": Infinit}").is_err());
    }

    #[test]
    fn spaces_of_columns() {
        let vector = Field::new(
            "observation",
            crate::dataset::schema::vector(DataType::Float32, 2),
            false,
        );
        assert_eq!(
            text(&of(&vector, None).unwrap()),
            concat!(
                r#"{"type":"Box","dtype":"float32","shape":[2],"#,
                r#""low":[-Infinity,-Infinity],"high":[Infinity,Infinity]}"#
            )
        );
        let discrete = Field::new("action", DataType::Int64, true);
        assert_eq!(
            of(&discrete, Some((0, 3))).unwrap(),
            json!({"type": "Discrete", "dtype": "int64", "start": 0, "n": 4})
        );
        assert!(
            tuple(["_index_0", "_index_1"].into_iter())
                && !tuple(["a"].into_iter())
                && !tuple(["_index_1"].into_iter())
        );
    }
}
