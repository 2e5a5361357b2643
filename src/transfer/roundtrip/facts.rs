//! The facts about trajectories as JSON, for formats that have no columns for them. They come back
//! with the same types and values.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use serde_json::{Map, Value};

use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};

/// A column of facts: name, Arrow type, and whether it may be null.
pub(crate) type StoredField = (String, String, bool);

/// Returns `field` as it is stored; `None` if its type has no text that can be parsed again.
pub(crate) fn stored(field: &Field) -> Option<StoredField> {
    let text = field.data_type().to_string();
    let parsed = text.parse::<DataType>();
    parsed
        .is_ok_and(|parsed| parsed == *field.data_type())
        .then(|| (field.name().clone(), text, field.is_nullable()))
}

/// Returns the schema of the columns that `fields` describe.
///
/// # Errors
/// Returns an error if the text of a type cannot be parsed.
pub(crate) fn schema(fields: &[StoredField]) -> Result<SchemaRef> {
    let field = |(name, text, nullable): &StoredField| {
        let data_type = text.parse::<DataType>();
        data_type
            .map(|data_type| Field::new(name, data_type, *nullable))
            .map_err(|error| Error::failed(error.to_string()))
    };
    Ok(Arc::new(Schema::new(
        fields.iter().map(field).collect::<Result<Vec<_>>>()?,
    )))
}

/// Returns the identity of a trajectory and all other facts about it, which are the row `about`.
/// Null facts are absent, numbers that JSON does not have are the texts `NaN`, `inf` and `-inf`,
/// and durations are whole numbers of their unit.
///
/// # Errors
/// Returns an error if a value has no JSON form.
pub(crate) fn to_json(about: &RecordBatch) -> Result<Map<String, Value>> {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write(about)?;
    writer.finish()?;
    let rows: Vec<Map<String, Value>> =
        serde_json::from_slice(&writer.into_inner()).map_err(|error| {
            Error::failed(format!(
                "cannot write the facts about a trajectory as JSON: {error}"
            ))
        })?;
    let mut facts = rows.into_iter().next().unwrap_or_default();
    facts.remove(trajectory::TRAJECTORY_ID);
    for (field, column) in about.schema().fields().iter().zip(about.columns()) {
        if let Some(fact) = facts.get_mut(field.name()) {
            spell(fact, column, 0)?;
        }
    }
    Ok(facts)
}

/// Replaces what would not come back in `value`, which is that of the row `row` of `column`.
fn spell(value: &mut Value, column: &ArrayRef, row: usize) -> Result<()> {
    if column.is_null(row) {
        return Ok(());
    }
    let items = match column.data_type() {
        float if float.is_floating() => {
            let number = cast(&column.slice(row, 1), &DataType::Float64)?;
            let number = number.as_primitive::<Float64Type>().value(0);
            if !number.is_finite() {
                *value = Value::from(number.to_string());
            }
            return Ok(());
        }
        DataType::Duration(_) => {
            let number = cast(&column.slice(row, 1), &DataType::Int64)?;
            *value = Value::from(number.as_primitive::<Int64Type>().value(0));
            return Ok(());
        }
        DataType::Struct(fields) => {
            for (field, column) in fields.iter().zip(column.as_struct().columns()) {
                if let Some(value) = value.get_mut(field.name()) {
                    spell(value, column, row)?;
                }
            }
            return Ok(());
        }
        DataType::List(_) => column.as_list::<i32>().value(row),
        DataType::LargeList(_) => column.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => column.as_fixed_size_list().value(row),
        _ => return Ok(()),
    };
    let values = value.as_array_mut().into_iter().flatten();
    values
        .enumerate()
        .try_for_each(|(at, value)| spell(value, &items, at))
}

/// Returns the rows of `lines`, which [`to_json`] wrote, with the columns of `schema`.
///
/// # Errors
/// Returns an error if a value does not have the type of its column.
pub(crate) fn from_json<'a>(
    schema: &SchemaRef,
    lines: impl Iterator<Item = &'a Map<String, Value>>,
) -> Result<RecordBatch> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line).map_err(|error| Error::failed(error.to_string()))?;
        text.push(b'\n');
    }
    let reader = arrow::json::ReaderBuilder::new(Arc::clone(schema)).build(Cursor::new(text))?;
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(concat_batches(schema, &batches)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, DurationNanosecondArray, FixedSizeListArray,
        Float32Array, Float64Array, Int64Array, LargeStringArray, ListArray, StringArray,
        StructArray, Time64MicrosecondArray, TimestampNanosecondArray, UInt64Array,
    };
    use arrow::compute::take_record_batch;
    use arrow::datatypes::{Fields, Float32Type};

    use super::*;

    #[test]
    fn facts_of_every_type_come_back() {
        let child = Arc::new(Field::new("item", DataType::Float64, true));
        let vectors = FixedSizeListArray::new(
            child,
            2,
            Arc::new(Float64Array::from(vec![0.1, f64::NAN, -0.0, f64::INFINITY])),
            None,
        );
        let fields = Fields::from(vec![
            Field::new("x", DataType::Float32, true),
            Field::new("n", DataType::Int64, true),
        ]);
        let structs = StructArray::new(
            fields,
            vec![
                Arc::new(Float32Array::from(vec![f32::NEG_INFINITY, 2.5])),
                Arc::new(Int64Array::from(vec![None, Some(3)])),
            ],
            Some(vec![true, true].into()),
        );
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "float",
                Arc::new(Float64Array::from(vec![Some(f64::NAN), None])),
            ),
            (
                "small",
                Arc::new(Float32Array::from(vec![f32::MIN_POSITIVE, 0.1])),
            ),
            (
                "whole",
                Arc::new(Int64Array::from(vec![i64::MIN, (1 << 53) + 1])),
            ),
            ("large", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            (
                "text",
                Arc::new(StringArray::from(vec![Some("NaN \"ä\"\n"), None])),
            ),
            ("long", Arc::new(LargeStringArray::from(vec!["", "null"]))),
            (
                "bytes",
                Arc::new(BinaryArray::from(vec![b"\x00\xff".as_slice(), b""])),
            ),
            ("day", Arc::new(Date32Array::from(vec![-1, 2_932_896]))),
            (
                "time",
                Arc::new(Time64MicrosecondArray::from(vec![1, 86_399_999_999])),
            ),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![1, -1]))),
            (
                "took",
                Arc::new(DurationNanosecondArray::from(vec![1, 90_000_000_000])),
            ),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>([
                    Some(vec![Some(f32::NAN), None, Some(1e-45)]),
                    Some(vec![]),
                ])),
            ),
            (
                "indices",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                    None,
                    Some(vec![Some(i64::MAX)]),
                ])),
            ),
            ("vector", Arc::new(vectors)),
            ("struct", Arc::new(structs)),
        ];
        let columns = columns
            .into_iter()
            .map(|(name, column)| (name, column, true));
        let about = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let fields: Vec<StoredField> = about
            .schema()
            .fields()
            .iter()
            .map(|field| stored(field).unwrap())
            .collect();
        let lines: Vec<Map<String, Value>> = (0..2)
            .map(|row| {
                let row = take_record_batch(&about, &Int64Array::from(vec![row])).unwrap();
                to_json(&row).unwrap()
            })
            .collect();
        let back = from_json(&schema(&fields).unwrap(), lines.iter()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{about:?}"));
    }
}
