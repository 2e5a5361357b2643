//! Gymnasium's spaces as Minari writes them: JSON that may contain bare `Infinity` and `NaN`, which
//! JSON does not allow.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray};
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value, json};

use super::values::Values;
use crate::container::dtype;
use crate::dataset::block::elements;
use crate::dataset::schema::{axes, type_name};
use crate::error::{Error, Result};
use crate::transfer::read::per_trajectory::squeezed;

/// The prefix of the names of a tuple's members in HDF5. Their numbers follow.
const MEMBER: &str = "_index_";

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

/// The kinds of spaces that Minari can store.
const KINDS: [&str; 7] = [
    "Box",
    "Dict",
    "Discrete",
    "MultiBinary",
    "MultiDiscrete",
    "Text",
    "Tuple",
];

/// Verifies that trajmill knows the space, and all spaces in it.
///
/// # Errors
///
/// Returns an error that names the first space that is unknown.
pub(crate) fn verify(space: &Value) -> Result<()> {
    let kind = space["type"].as_str().unwrap_or("without a type");
    if !KINDS.contains(&kind) {
        return Err(Error::failed(format!(
            "a space is `{kind}`, but trajmill reads only {}",
            KINDS.join(", ")
        ))
        .hint("write the dataset again without that space, for example as a part of `infos`"));
    }
    match &space["subspaces"] {
        Value::Object(parts) => parts.values().try_for_each(verify),
        Value::Array(parts) => parts.iter().try_for_each(verify),
        _ => Ok(()),
    }
}

/// Returns the lengths of the axes of a space of numbers; none if its values are single numbers.
fn shape(space: &Value) -> Vec<u64> {
    match space["type"].as_str() {
        Some("MultiDiscrete") => nesting(&space["nvec"]),
        Some("MultiBinary") => match &space["n"] {
            Value::Array(axes) => axes.iter().filter_map(Value::as_u64).collect(),
            n => n.as_u64().into_iter().collect(),
        },
        _ => {
            let axes = space["shape"].as_array().into_iter().flatten();
            axes.filter_map(Value::as_u64).collect()
        }
    }
}

/// Returns the lengths of the axes of nested arrays.
fn nesting(value: &Value) -> Vec<u64> {
    let mut axes = Vec::new();
    let mut value = value;
    while let Value::Array(values) = value {
        axes.push(values.len() as u64);
        value = values.first().unwrap_or(&Value::Null);
    }
    axes
}

/// Returns the whole numbers in nested arrays, from first to last.
fn numbers(value: &Value) -> Vec<i64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        other => other.as_i64().into_iter().collect(),
    }
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

/// Returns the part `name` of a dict or tuple space; a slash in the name leads into a nested space.
pub(crate) fn inside<'a>(space: &'a Value, name: &str) -> Option<&'a Value> {
    let part = match &space["subspaces"] {
        Value::Object(parts) => parts.get(name),
        Value::Array(parts) => name
            .strip_prefix(MEMBER)
            .unwrap_or(name)
            .parse()
            .ok()
            .and_then(|index: usize| parts.get(index)),
        _ => None,
    };
    part.or_else(|| {
        let (outer, inner) = name.split_once('/')?;
        inside(inside(space, outer)?, inner)
    })
}

/// Returns the space of the values of `field`, which are like `values`. The space `known` is kept
/// where it still holds them, since it may say more than types do. Single integers are `Discrete`
/// if `discrete`.
///
/// # Errors
///
/// Returns an error if no space can hold such values.
pub(crate) fn of(
    field: &Field,
    values: &Values,
    known: Option<&Value>,
    discrete: bool,
) -> Result<Value> {
    let space = of_parts(field, values, known, discrete)?;
    Ok(arranged(space, known))
}

/// Returns the space of `field`, in which every group of values is a dict space.
fn of_parts(
    field: &Field,
    values: &Values,
    known: Option<&Value>,
    discrete: bool,
) -> Result<Value> {
    if let Some(known) = known.filter(|known| holds(known, field, values)) {
        return Ok(known.clone());
    }
    match (field.data_type(), values) {
        (DataType::Struct(fields), Values::Parts(parts)) => {
            let mut spaces = Map::new();
            for (field, values) in fields.iter().zip(parts) {
                let known = known.and_then(|known| inside(known, field.name()));
                // A slash in a name separates a group from its parts.
                let space = of_parts(field, values, known, false)?;
                insert(&mut spaces, field.name(), space);
            }
            Ok(json!({"type": "Dict", "subspaces": spaces}))
        }
        (DataType::Utf8, Values::Texts(texts)) => Ok(texts.space()),
        (_, Values::Integers(ranges)) if discrete => {
            let (low, high) = ranges.first().copied().flatten().unwrap_or((0, 0));
            let start = low.min(0);
            let n = high - start + 1;
            Ok(json!({"type": "Discrete", "dtype": "int64", "start": start, "n": n}))
        }
        _ => boxed(field),
    }
}

/// Returns the box of all values that the type of `field` has.
fn boxed(field: &Field) -> Result<Value> {
    let wrong = || {
        Error::failed(format!(
            "Minari has no space for `{}`, which has the type {}",
            field.name(),
            type_name(field.data_type())
        ))
    };
    let (element, shape) = array_of(field);
    let dtype = dtype::name(&element).ok_or_else(wrong)?;
    let (low, high) = bounds(&element);
    Ok(json!({
        "type": "Box",
        "dtype": dtype,
        "low": filled(&shape, &low),
        "high": filled(&shape, &high),
        "shape": shape,
    }))
}

/// Returns the type of the elements of a column, and the lengths of the axes of its values.
fn array_of(field: &Field) -> (DataType, Vec<u64>) {
    match field.data_type() {
        DataType::FixedSizeList(child, width) => {
            let axes = axes(field, *width).into_iter().map(|axis| axis as u64);
            (child.data_type().clone(), axes.collect())
        }
        element => (element.clone(), Vec::new()),
    }
}

/// Whether the space `known` of numbers or texts holds values of the type of `field` that are like
/// `values`.
fn holds(known: &Value, field: &Field, values: &Values) -> bool {
    let (element, axes) = array_of(field);
    let same_type = || dtype::name(&element).is_some_and(|name| known["dtype"] == name);
    let within = |low: &[i64], count: &[i64]| match values {
        Values::Integers(ranges) => ranges.iter().enumerate().all(|(at, range)| {
            let start = low.get(at).copied().unwrap_or(0);
            let end = start.saturating_add(count.get(at).copied().unwrap_or(0));
            range.is_none_or(|(least, most)| start <= least && most < end)
        }),
        _ => false,
    };
    match known["type"].as_str() {
        Some("Box") => same_type() && shape(known) == axes,
        Some("Discrete") => {
            axes.is_empty() && within(&numbers(&known["start"]), &numbers(&known["n"]))
        }
        Some("MultiDiscrete") => {
            same_type()
                && shape(known) == axes
                && within(&numbers(&known["start"]), &numbers(&known["nvec"]))
        }
        Some("MultiBinary") => {
            let width = axes.iter().product::<u64>() as usize;
            element == DataType::Int8 && shape(known) == axes && within(&[], &vec![2; width])
        }
        Some("Text") => matches!(values, Values::Texts(texts) if texts.within(known)),
        _ => false,
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

/// Turns dict spaces into tuple spaces, where `known` is one or the names are those of members.
fn arranged(space: Value, known: Option<&Value>) -> Value {
    if space["type"] != "Dict" {
        return space;
    }
    let Value::Object(parts) = &space["subspaces"] else {
        return space;
    };
    let part = |name: &str, part: &Value| {
        let known = known.and_then(|known| inside(known, name));
        arranged(part.clone(), known)
    };
    let members = members(parts.keys().map(String::as_str));
    match members.filter(|_| known.is_none_or(|known| known["type"] != "Dict")) {
        Some(members) => {
            let parts = members.iter().map(|name| part(name, &parts[*name]));
            json!({"type": "Tuple", "subspaces": parts.collect::<Vec<_>>()})
        }
        None => {
            let parts = parts
                .iter()
                .map(|(name, value)| (name.clone(), part(name, value)));
            json!({"type": "Dict", "subspaces": parts.collect::<Map<_, _>>()})
        }
    }
}

/// Returns `names` in the order of their numbers, if they are the names of the members of a tuple.
fn members<'a>(names: impl Iterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let number =
        |name: &&str| -> Option<usize> { name.strip_prefix(MEMBER).unwrap_or(name).parse().ok() };
    let mut names: Vec<&str> = names.collect();
    names.sort_by_key(number);
    let numbered = names
        .iter()
        .enumerate()
        .all(|(at, name)| number(name) == Some(at));
    (numbered && !names.is_empty()).then_some(names)
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
        let is_single = ["Box", "Discrete"]
            .iter()
            .any(|kind| space["type"] == *kind);
        if is_single && shape.is_empty() && width == 1 {
            return Ok(squeezed((field, values)));
        }
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
            format!("{MEMBER}{}", part.name())
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
    use arrow::array::Int64Array;

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
        let any = |field: &Field| of(field, &Values::of(field), None, true);
        assert_eq!(
            text(&any(&vector).unwrap()),
            concat!(
                r#"{"type":"Box","dtype":"float32","low":[-Infinity,-Infinity],"#,
                r#""high":[Infinity,Infinity],"shape":[2]}"#
            )
        );
        let discrete = Field::new("action", DataType::Int64, true);
        let mut values = Values::of(&discrete);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None, Some(1)]));
        values.add(&numbers).unwrap();
        assert_eq!(
            of(&discrete, &values, None, true).unwrap(),
            json!({"type": "Discrete", "dtype": "int64", "start": 0, "n": 4})
        );
        let wide = json!({"type": "Discrete", "dtype": "int64", "start": 1, "n": 9});
        assert_eq!(of(&discrete, &values, Some(&wide), true).unwrap(), wide);
        let narrow = json!({"type": "Discrete", "dtype": "int64", "start": 1, "n": 2});
        assert_ne!(of(&discrete, &values, Some(&narrow), true).unwrap(), narrow);
    }

    #[test]
    fn names_of_members_make_a_tuple() {
        let names = |names: &[&str]| members(names.iter().copied()).map(|names| names.join(" "));
        assert_eq!(
            names(&["_index_1", "_index_0"]).as_deref(),
            Some("_index_0 _index_1")
        );
        assert_eq!(names(&["a"]), None);
        assert_eq!(names(&["_index_1"]), None);
        let part = |name: &str| Field::new(name, DataType::Float64, false);
        let fields = vec![part("b/_index_0"), part("b/_index_1"), part("c/0")];
        let field = Field::new("observation", DataType::Struct(fields.into()), false);
        let known = json!({"type": "Dict", "subspaces": {"c": {"type": "Dict", "subspaces": {}}}});
        let space = of(&field, &Values::of(&field), Some(&known), false).unwrap();
        assert_eq!(space["type"], "Dict");
        assert_eq!(space["subspaces"]["b"]["type"], "Tuple");
        assert_eq!(space["subspaces"]["c"]["type"], "Dict");
    }

    #[test]
    fn spaces_that_minari_cannot_store_are_named() {
        let space = json!({"type": "Dict", "subspaces": {"g": {"type": "Graph"}}});
        let error = verify(&space).unwrap_err();
        assert!(error.message.contains("`Graph`"), "{}", error.message);
        verify(&json!({"type": "Tuple", "subspaces": [{"type": "Text"}]})).unwrap();
    }
}
