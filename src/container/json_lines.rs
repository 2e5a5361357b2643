//! Tables in text files with a JSON object in each line.
//!
//! Nothing in the file says what type a column has, so all lines of all files are read before the
//! first row is returned. A key that a line lacks is null in its row.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::inferred::{Inferred, LARGEST_EXACT};
use super::{Batches, inferred, text};
use crate::error::wording::printable;
use crate::error::{Error, Result};

/// The longest line that is read.
const MOST_BYTES: u64 = 512 << 20;

/// Finds out the columns of `files`.
///
/// # Errors
/// Returns an error if a file cannot be read, if a line is no object, or if the types of a column
/// contradict each other.
pub(crate) fn infer(files: &[PathBuf]) -> Result<Inferred> {
    let mut columns: Vec<(String, Kind)> = Vec::new();
    let mut counts = Vec::new();
    for path in files {
        let mut lines = Lines::open(path)?;
        let mut rows = 0;
        while let Some(Row(row)) = lines.next()? {
            rows += 1;
            for (name, value) in &row {
                let place = inferred::place(&mut columns, name);
                columns[place].1.join(value).map_err(|what| {
                    lines.wrong(&format!("`{}` {what}", printable(name))).hint(
                        "all values of a column need one type: correct the line, or convert the \
                         column in the source",
                    )
                })?;
            }
        }
        counts.push((path.clone(), rows));
    }
    let mut empty = Vec::new();
    Ok(Inferred {
        schema: Arc::new(Schema::new(fields(columns, "", &mut empty))),
        empty,
        rows: counts,
    })
}

/// Returns the rows of the file at `path` in batches of `rows`, with the columns of `schema` whose
/// names are in `columns`; with all if `None`.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn batches(
    path: &Path,
    rows: usize,
    schema: &SchemaRef,
    columns: Option<&[String]>,
) -> Result<Batches> {
    let schema = inferred::chosen(schema, columns);
    Ok(Box::new(Rows {
        lines: Lines::open(path)?,
        decoder: ReaderBuilder::new(Arc::clone(&schema))
            .with_batch_size(rows)
            .build_decoder()?,
        schema,
        rows,
    }))
}

/// The rows of a file.
struct Rows {
    lines: Lines,
    decoder: Decoder,
    schema: SchemaRef,
    rows: usize,
}

impl Rows {
    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut read = 0;
        while read < self.rows
            && let Some(Row(mut row)) = self.lines.next()?
        {
            read += 1;
            row.retain(|name, _| self.schema.index_of(name).is_ok());
            self.decoder.serialize(&[row])?;
        }
        if self.schema.fields().is_empty() || read == 0 {
            return Ok(None);
        }
        Ok(self.decoder.flush()?)
    }
}

impl Iterator for Rows {
    type Item = std::result::Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batch()
            .map_err(|error| ArrowError::ExternalError(Box::new(error)))
            .transpose()
    }
}

/// The lines of a file, each an object.
struct Lines {
    path: PathBuf,
    text: Box<dyn BufRead>,
    bytes: Vec<u8>,
    line: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines> {
        Ok(Lines {
            path: path.to_owned(),
            text: text::open(path)?,
            bytes: Vec::new(),
            line: 0,
        })
    }

    /// Returns the object in the next line that is not empty; `None` after the last.
    fn next(&mut self) -> Result<Option<Row>> {
        loop {
            self.bytes.clear();
            let read = (&mut self.text)
                .take(MOST_BYTES)
                .read_until(b'\n', &mut self.bytes)
                .map_err(|error| text::unreadable(&self.path, &error.to_string()))?;
            self.line += 1;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == MOST_BYTES {
                return Err(self
                    .wrong("the line is longer than 512 MiB")
                    .hint("in this format, each row is an object in a line of its own"));
            }
            if self.bytes.trim_ascii().is_empty() {
                continue;
            }
            return serde_json::from_slice(&self.bytes)
                .map(Some)
                .map_err(|error| {
                    // The line of the message is that of the text that was parsed.
                    let what = error.to_string();
                    let what = what.split(" at line ").next().unwrap_or(&what);
                    self.wrong(&format!("{what}, at character {}", error.column()))
                        .hint(
                            "each line must be a JSON object such as \
                     {\"episode\": 0, \"observation\": [0.5, 1.0], \"action\": [0.1]}; \
                     a number that is missing is null, not NaN",
                        )
                });
        }
    }

    /// Returns the error about the current line.
    fn wrong(&self, what: &str) -> Error {
        Error::failed(format!(
            "{}: line {}: {what}",
            self.path.display(),
            self.line
        ))
    }
}

/// A row: an object in which no object, itself included, has a key twice.
struct Row(Map<String, Value>);

impl<'a> Deserialize<'a> for Row {
    fn deserialize<D: Deserializer<'a>>(from: D) -> std::result::Result<Row, D::Error> {
        struct Keys;
        impl<'a> Visitor<'a> for Keys {
            type Value = Row;

            fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'a>>(self, from: A) -> std::result::Result<Row, A::Error> {
                object(from).map(Row)
            }
        }
        from.deserialize_map(Keys)
    }
}

/// A value of which no object has a key twice.
struct Distinct(Value);

impl<'a> Deserialize<'a> for Distinct {
    fn deserialize<D: Deserializer<'a>>(from: D) -> std::result::Result<Distinct, D::Error> {
        struct Values;
        impl<'a> Visitor<'a> for Values {
            type Value = Distinct;

            fn expecting(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
                to.write_str("a value")
            }

            fn visit_unit<E>(self) -> std::result::Result<Distinct, E> {
                Ok(Distinct(Value::Null))
            }

            fn visit_bool<E>(self, flag: bool) -> std::result::Result<Distinct, E> {
                Ok(Distinct(Value::Bool(flag)))
            }

            fn visit_i64<E>(self, number: i64) -> std::result::Result<Distinct, E> {
                Ok(Distinct(Value::from(number)))
            }

            fn visit_u64<E>(self, number: u64) -> std::result::Result<Distinct, E> {
                Ok(Distinct(Value::from(number)))
            }

            fn visit_f64<E>(self, number: f64) -> std::result::Result<Distinct, E> {
                Ok(Distinct(Value::from(number)))
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Distinct, E> {
                Ok(Distinct(Value::from(text)))
            }

            fn visit_string<E>(self, text: String) -> std::result::Result<Distinct, E> {
                Ok(Distinct(Value::String(text)))
            }

            fn visit_seq<A: SeqAccess<'a>>(
                self,
                mut from: A,
            ) -> std::result::Result<Distinct, A::Error> {
                let mut values = Vec::new();
                while let Some(Distinct(value)) = from.next_element()? {
                    values.push(value);
                }
                Ok(Distinct(Value::Array(values)))
            }

            fn visit_map<A: MapAccess<'a>>(
                self,
                from: A,
            ) -> std::result::Result<Distinct, A::Error> {
                object(from).map(|object| Distinct(Value::Object(object)))
            }
        }
        from.deserialize_any(Values)
    }
}

/// Returns the object with the entries of `from`.
///
/// # Errors
/// Returns an error if a key appears twice.
fn object<'a, A: MapAccess<'a>>(mut from: A) -> std::result::Result<Map<String, Value>, A::Error> {
    let mut object = Map::new();
    while let Some((name, Distinct(value))) = from.next_entry::<String, Distinct>()? {
        if object.contains_key(&name) {
            return Err(A::Error::custom(format!(
                "the key `{}` appears twice",
                printable(&name)
            )));
        }
        object.insert(name, value);
    }
    Ok(object)
}

/// The kind of the values of a column.
#[derive(Default)]
enum Kind {
    #[default]
    Null,
    Flag,
    /// Whole numbers; the flags say whether one may have no float64, and whether one is beyond
    /// the range of int64.
    Whole {
        large: bool,
        unsigned: bool,
    },
    Float,
    Text,
    List(Box<Kind>),
    Object(Vec<(String, Kind)>),
}

impl Kind {
    fn of(value: &Value) -> Kind {
        match value {
            Value::Null => Kind::Null,
            Value::Bool(_) => Kind::Flag,
            Value::String(_) => Kind::Text,
            Value::Number(number) if number.is_f64() => Kind::Float,
            Value::Number(number) => Kind::Whole {
                large: number
                    .as_i64()
                    .is_none_or(|whole| whole.unsigned_abs() > LARGEST_EXACT),
                unsigned: number.as_i64().is_none(),
            },
            Value::Array(_) => Kind::List(Box::new(Kind::Null)),
            Value::Object(_) => Kind::Object(Vec::new()),
        }
    }

    /// Widens the kind so that it holds `value` too.
    ///
    /// # Errors
    /// Returns what is wrong if no kind holds both.
    fn join(&mut self, value: &Value) -> std::result::Result<(), String> {
        let other = Kind::of(value);
        match (&mut *self, other) {
            (_, Kind::Null)
            | (Kind::Flag, Kind::Flag)
            | (Kind::Float, Kind::Float)
            | (Kind::Text, Kind::Text) => {}
            (
                Kind::Whole { large, unsigned },
                Kind::Whole {
                    large: a,
                    unsigned: b,
                },
            ) => {
                *large |= a;
                *unsigned |= b;
            }
            (Kind::Whole { large: false, .. }, Kind::Float) => *self = Kind::Float,
            (Kind::Float, Kind::Whole { large: false, .. }) => {}
            (Kind::Whole { .. }, Kind::Float) | (Kind::Float, Kind::Whole { .. }) => {
                return Err("mixes fractions with whole numbers that float64 cannot hold".into());
            }
            (Kind::List(_), Kind::List(_)) | (Kind::Object(_), Kind::Object(_)) => {}
            (Kind::Null, other) => *self = other,
            (known, other) => {
                return Err(format!("is {}, but {} before", other.name(), known.name()));
            }
        }
        match (&mut *self, value) {
            (Kind::List(element), Value::Array(values)) => {
                values.iter().try_for_each(|value| element.join(value))
            }
            (Kind::Object(fields), Value::Object(values)) => {
                for (name, value) in values {
                    let place = inferred::place(fields, name);
                    fields[place].1.join(value)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Flag => "true or false",
            Kind::Whole { .. } | Kind::Float => "a number",
            Kind::Text => "text",
            Kind::List(_) => "a list",
            Kind::Object(_) => "an object",
        }
    }

    /// Returns the type of the column `name`; `None` if its objects have no keys, so it holds
    /// nothing. Parts that hold nothing are added to `empty`.
    fn data_type(self, name: &str, empty: &mut Vec<String>) -> Option<DataType> {
        Some(match self {
            Kind::Null => DataType::Null,
            Kind::Flag => DataType::Boolean,
            Kind::Whole { unsigned: true, .. } => DataType::UInt64,
            Kind::Whole { .. } => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Text => DataType::Utf8,
            Kind::List(element) => {
                let element = element.data_type(name, empty)?;
                DataType::List(Arc::new(Field::new("item", element, true)))
            }
            Kind::Object(own) => {
                let own = fields(own, &format!("{name}/"), empty);
                if own.is_empty() {
                    return None;
                }
                DataType::Struct(Fields::from(own))
            }
        })
    }
}

/// Returns the columns of these kinds, without those that hold nothing, which are added to `empty`.
/// Their names there begin with `prefix`.
fn fields(columns: Vec<(String, Kind)>, prefix: &str, empty: &mut Vec<String>) -> Vec<Field> {
    let field = |(name, kind): (String, Kind)| {
        let whole = format!("{prefix}{name}");
        let Some(data_type) = kind.data_type(&whole, empty) else {
            // The name of the whole stands for its parts.
            empty.retain(|part| !part.starts_with(&format!("{whole}/")));
            empty.push(whole);
            return None;
        };
        Some(Field::new(name, data_type, true))
    };
    columns.into_iter().filter_map(field).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float64Type, Int64Type};

    use super::*;
    use crate::dataset::store;

    fn read(text: &str) -> std::result::Result<RecordBatch, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        store::write(&path, text.as_bytes()).unwrap();
        let inferred = infer(std::slice::from_ref(&path)).map_err(|error| error.message)?;
        let batches: Vec<RecordBatch> = batches(&path, 2, &inferred.schema, None)
            .unwrap()
            .map(|batch| batch.unwrap())
            .collect();
        let whole = arrow::compute::concat_batches(&inferred.schema, &batches).unwrap();
        assert_eq!(inferred.rows_of(&path), Some(whole.num_rows() as u64));
        Ok(whole)
    }

    #[test]
    fn values_keep_their_types() {
        let rows = read(concat!(
            "{\"id\": \"01001\", \"n\": 9007199254740993, \"x\": 1, \"v\": [1, 0.1]}\n\n",
            "{\"id\": \"2\", \"x\": null, \"v\": [], \"more\": {\"a\": true}}\r\n",
            "{\"x\": 0.30000000000000004, \"v\": null, \"n\": -1, \"info\": {\"a\": {}}}",
        ))
        .unwrap();
        assert_eq!(rows["id"].as_string::<i32>().value(0), "01001");
        assert_eq!(
            rows["n"].as_primitive::<Int64Type>().value(0),
            9_007_199_254_740_993
        );
        let x = rows["x"].as_primitive::<Float64Type>();
        assert_eq!(
            (x.value(0), x.is_null(1), x.value(2)),
            (1.0, true, 0.30000000000000004)
        );
        let v = rows["v"].as_list::<i32>();
        assert_eq!(
            (v.value_length(0), v.value_length(1), v.is_null(2)),
            (2, 0, true)
        );
        assert!(rows["more"].as_struct()["a"].as_boolean().value(1));
        assert_eq!(rows["more"].null_count(), 2);
        assert!(rows.column_by_name("info").is_none());
    }

    #[test]
    fn lines_that_are_wrong_are_named() {
        let ends = |text: &str, what: &str| {
            let message = read(text).unwrap_err();
            assert!(message.contains(what), "{message}");
        };
        ends(
            "{\"a\": 1}\n{\"a\": ",
            "a.jsonl: line 2: EOF while parsing a value",
        );
        ends(
            "{\"a\": 1}\n\n[1]\n",
            "line 3: invalid type: sequence, expected an object",
        );
        ends("{\"a\": NaN}\n", "line 1: expected value");
        ends(
            "{\"a\": 1, \"a\": 2}\n",
            "line 1: the key `a` appears twice",
        );
        for nested in [
            "{\"x\": 1, \"x\": 2}",
            "[{\"x\": 1}, {\"x\": 2, \"y\": 0, \"x\": 3}]",
        ] {
            ends(
                &format!("{{\"a\": null}}\n{{\"a\": {nested}}}\n"),
                "line 2: the key `x` appears twice",
            );
        }
        ends(
            "{\"a\": 1}\n{\"a\": \"x\"}\n",
            "line 2: `a` is text, but a number before",
        );
        ends(
            "{\"a\": [1]}\n{\"a\": [[1]]}\n",
            "line 2: `a` is a list, but a number before",
        );
        ends(
            "{\"a\": 9007199254740993}\n{\"a\": 0.5}\n",
            "line 2: `a` mixes fractions",
        );
    }
}
