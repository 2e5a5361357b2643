//! Hive keys: folders such as `task=kettle/episode=3` that give every row in them a value.

use std::path::{Component, Path};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, Scalar, StringArray};
use arrow::datatypes::DataType;

use crate::error::{Error, Result};

/// The value that stands for null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Float64 holds every whole number below this one.
const EXACT: f64 = (1_u64 << 53) as f64;

/// A key and its value; `None` is null.
pub(crate) type Key = (String, Option<String>);

/// Returns whether `name`, the name of a folder, is a key and its value.
pub(crate) fn is_key(name: &str) -> bool {
    name.split_once('=').is_some_and(|(key, _)| !key.is_empty())
}

/// Returns the keys of the folders between `root` and `file`, from the outermost inwards.
///
/// # Errors
/// Returns an error if a key has two values.
pub(crate) fn keys(root: &Path, file: &Path) -> Result<Vec<Key>> {
    let folders = file
        .strip_prefix(root)
        .ok()
        .and_then(Path::parent)
        .unwrap_or(Path::new(""));
    let mut keys: Vec<Key> = Vec::new();
    for folder in folders.components() {
        let Component::Normal(name) = folder else {
            continue;
        };
        let name = name.to_string_lossy();
        let Some((key, value)) = name.split_once('=').filter(|_| is_key(&name)) else {
            continue;
        };
        let (key, value) = (decoded(key), decoded(value));
        let value = Some(value).filter(|value| value != NULL);
        match keys.iter().find(|(known, _)| *known == key) {
            Some((_, known)) if *known == value => {}
            Some(_) => {
                return Err(Error::failed(format!(
                    "{}: the folders give `{key}` two values",
                    file.display()
                ))
                .hint("rename one of the folders"));
            }
            None => keys.push((key, value)),
        }
    }
    Ok(keys)
}

/// Returns `text` with its URL escapes, such as `%20`, decoded. What is no escape of a character
/// stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escape {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Returns the type of a key that has `values`. It is a number only if every value is one, written
/// as numbers are written: `3` is, `03`, `+3` and `3.10` are not.
pub(crate) fn data_type<'a>(values: impl Iterator<Item = &'a str> + Clone) -> DataType {
    let integer = |text: &str| text.parse::<i64>().is_ok_and(|n| n.to_string() == text);
    let float = |text: &str| {
        text.parse::<f64>().is_ok_and(|n| {
            n.abs() < EXACT && [format!("{n}"), format!("{n:?}")].iter().any(|n| n == text)
        })
    };
    match values.clone().next() {
        Some(_) if values.clone().all(integer) => DataType::Int64,
        Some(_) if values.clone().all(float) => DataType::Float64,
        _ => DataType::Utf8,
    }
}

/// Returns the column of one row that `value` is, with a type that [`data_type`] returned.
pub(crate) fn column(value: Option<&str>, data_type: &DataType) -> ArrayRef {
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::from(vec![value.and_then(|n| n.parse().ok())])),
        DataType::Float64 => Arc::new(Float64Array::from(vec![value.and_then(|n| n.parse().ok())])),
        _ => text(value),
    }
}

/// Returns the column of text of one row that `value` is.
fn text(value: Option<&str>) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

/// Returns the first row of `column` that differs from `value`.
pub(super) fn differs(column: &ArrayRef, value: Option<&str>) -> Option<usize> {
    use arrow::array::{Array, Datum};
    let expected = arrow::compute::cast(&text(value), column.data_type()).ok();
    let expected = expected.filter(|expected| expected.is_null(0) == value.is_none());
    let differ = expected.and_then(|expected| {
        let expected = Scalar::new(expected);
        arrow::compute::kernels::cmp::distinct(column as &dyn Datum, &expected).ok()
    });
    match differ {
        Some(differ) => (0..differ.len()).find(|row| differ.value(*row)),
        // The column has no values that a key can have.
        None => (!column.is_empty()).then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Vec<Key> {
        keys(Path::new("in"), &Path::new("in").join(path)).unwrap()
    }

    fn key(key: &str, value: &str) -> Key {
        (key.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn folders_are_keys_and_their_escapes_are_decoded() {
        assert_eq!(
            found("task=make%20tea/x/episode=3/part-0.parquet"),
            [key("task", "make tea"), key("episode", "3")]
        );
        assert_eq!(
            found("a=b=c/=d/e%3d=%f/g=1.parquet"),
            [key("a", "b=c"), key("e=", "%f")]
        );
        assert_eq!(
            found(&format!("task={NULL}/part.parquet")),
            [("task".to_owned(), None)]
        );
        assert_eq!(found("a=%C3%A9/a=é/x"), [key("a", "é")]);
        assert!(keys(Path::new("in"), Path::new("in/a=1/a=2/x")).is_err());
        assert!(
            keys(Path::new("in/task=a/x"), Path::new("in/task=a/x"))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn only_numbers_written_as_such_are_numbers() {
        let of = |values: &[&str]| data_type(values.iter().copied());
        assert_eq!(of(&["3", "-10", "0"]), DataType::Int64);
        for text in [
            "01001", "+3", "3.10", "2A001", "", "-0x1", "1_000", "NaN", "inf", "1e3",
        ] {
            assert_eq!(of(&["3", text]), DataType::Utf8, "{text}");
        }
        assert_eq!(of(&["0.5", "1", "2.0", "-3"]), DataType::Float64);
        assert_eq!(of(&["9223372036854775808"]), DataType::Utf8);
        assert_eq!(of(&[]), DataType::Utf8);
    }

    #[test]
    fn a_column_is_compared_with_the_key() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![3, 3, 4]));
        assert_eq!(differs(&numbers, Some("3")), Some(2));
        assert_eq!(differs(&numbers.slice(0, 2), Some("3")), None);
        assert_eq!(differs(&numbers, Some("a")), Some(0));
        assert_eq!(differs(&numbers, None), Some(0));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
        assert_eq!(differs(&texts, Some("a")), Some(1));
        assert_eq!(differs(&texts.slice(1, 1), None), None);
    }
}
