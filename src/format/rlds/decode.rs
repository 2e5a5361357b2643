//! Decodes a record into columns.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Int64Array,
    ListArray, StringArray, UInt64Array, make_array,
};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field};

use super::features::{Encoding, FeatureKind, LeafFeature};
use crate::container::tfrecord::{Feature, Kind as ValueList};
use crate::dataset::schema::type_name;
use crate::error::{Error, Result};

/// A decoded record.
pub(crate) type Record = BTreeMap<String, Feature>;

/// The error for a feature that contradicts features.json.
fn wrong(key: &str, what: String) -> Error {
    Error::failed(format!("`{key}` {what}"))
        .hint("the record and features.json contradict each other: fetch the dataset again")
}

/// Returns the number of values of the feature `key`.
fn value_count(record: &Record, key: &str) -> usize {
    match record.get(key).and_then(|feature| feature.kind.as_ref()) {
        None => 0,
        Some(ValueList::Bytes(list)) => list.value.len(),
        Some(ValueList::Floats(list)) => list.value.len(),
        Some(ValueList::Whole(list)) => list.value.len(),
    }
}

/// Returns the number of steps of a record.
pub(crate) fn steps(record: &Record, leaves: &[LeafFeature]) -> Result<usize> {
    let per_step = |leaf: &LeafFeature| match &leaf.kind {
        FeatureKind::Tensor {
            shape,
            encoding: Encoding::None,
            ..
        } => shape.iter().product(),
        FeatureKind::Other(_) => 0,
        _ => 1,
    };
    let first = leaves
        .iter()
        .find(|leaf| leaf.key == "is_first")
        .or_else(|| leaves.iter().find(|leaf| per_step(leaf) > 0));
    let leaf =
        first.ok_or_else(|| Error::failed("no feature shows how many steps an episode has"))?;
    let key = format!("steps/{}", leaf.key);
    let (values, per_step) = (value_count(record, &key), per_step(leaf).max(1));
    if values % per_step != 0 {
        return Err(wrong(
            &key,
            format!(
                "holds {values} values, which is not a multiple of the {per_step} values of a step"
            ),
        ));
    }
    Ok(values / per_step)
}

/// Returns the values of the feature at `key` for `rows` steps, without the shape of a step. None
/// of them is null.
pub(crate) fn values(
    record: &Record,
    key: &str,
    kind: &FeatureKind,
    rows: usize,
) -> Result<ArrayRef> {
    let list = record.get(key).and_then(|feature| feature.kind.as_ref());
    let short = |found: usize, needed: usize| {
        wrong(
            key,
            format!("holds {found} values, but {rows} steps need {needed}"),
        )
    };
    match kind {
        FeatureKind::Tensor {
            element,
            shape,
            encoding: Encoding::None,
        } => {
            let needed = rows.saturating_mul(shape.iter().product());
            let found = value_count(record, key);
            if found != needed {
                return Err(short(found, needed));
            }
            let values: ArrayRef = match (list, element) {
                (Some(ValueList::Floats(list)), _) => {
                    Arc::new(Float32Array::from_iter_values(list.value.iter().copied()))
                }
                // Integers are stored as signed 64-bit numbers; unsigned ones keep their bits.
                (Some(ValueList::Whole(list)), DataType::UInt64) => Arc::new(
                    UInt64Array::from_iter_values(list.value.iter().map(|value| *value as u64)),
                ),
                (Some(ValueList::Whole(list)), _) => {
                    Arc::new(Int64Array::from_iter_values(list.value.iter().copied()))
                }
                (None, _) => Arc::new(Int64Array::from(Vec::<i64>::new())),
                (Some(ValueList::Bytes(_)), _) => {
                    return Err(wrong(
                        key,
                        format!("holds bytes, but {} is declared", type_name(element)),
                    ));
                }
            };
            let options = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            cast_with_options(&values, element, &options).map_err(|error| {
                wrong(
                    key,
                    format!(
                        "holds a value that does not fit {}: {error}",
                        type_name(element)
                    ),
                )
            })
        }
        FeatureKind::Tensor {
            element,
            shape,
            encoding,
        } => {
            let items = items(list, key, rows)?;
            let width: usize = shape.iter().product();
            let size = element.primitive_width().unwrap_or(1);
            let mut bytes = Vec::new();
            for item in items {
                let before = bytes.len();
                match encoding {
                    // A damaged item could unpack to any size: no more than a step needs is read.
                    Encoding::Zlib => {
                        let unpacked = flate2::read::ZlibDecoder::new(item.as_slice())
                            .take((width * size) as u64 + 1)
                            .read_to_end(&mut bytes);
                        unpacked.map_err(|error| {
                            wrong(key, format!("cannot be decompressed: {error}"))
                        })?;
                    }
                    _ => bytes.extend_from_slice(item),
                }
                if bytes.len() - before != width * size {
                    return Err(wrong(
                        key,
                        format!(
                            "has a step of {} bytes, but its shape needs {}",
                            bytes.len() - before,
                            width * size
                        ),
                    ));
                }
            }
            if *element == DataType::Boolean {
                return Ok(Arc::new(BooleanArray::from_iter(
                    bytes.iter().map(|byte| Some(*byte != 0)),
                )));
            }
            let data = ArrayData::builder(element.clone())
                .len(rows * width)
                .add_buffer(Buffer::from_vec(bytes))
                .align_buffers(true);
            Ok(make_array(data.build()?))
        }
        FeatureKind::List { element, encoding } => {
            let length = list_length(record, key, element, *encoding)?;
            // The values are stored as those of as many rows, or as the bytes of one row.
            let (kind, rows) = match (element, encoding) {
                (DataType::Utf8, _) => (FeatureKind::Text, length),
                (_, Encoding::None) => (tensor(element, Vec::new(), *encoding), length),
                _ => (tensor(element, vec![length], *encoding), 1),
            };
            let items = values(record, key, &kind, rows)?;
            let field = Arc::new(Field::new_list_field(element.clone(), true));
            let offsets = OffsetBuffer::from_lengths([items.len()]);
            Ok(Arc::new(ListArray::try_new(field, offsets, items, None)?))
        }
        FeatureKind::Text => {
            let text = |(row, item): (usize, &Vec<u8>)| {
                String::from_utf8(item.clone())
                    .map_err(|_| wrong(key, format!("is not UTF-8 at step {row}")))
            };
            Ok(Arc::new(StringArray::from(
                items(list, key, rows)?
                    .iter()
                    .enumerate()
                    .map(text)
                    .collect::<Result<Vec<_>>>()?,
            )))
        }
        FeatureKind::Image => Ok(Arc::new(BinaryArray::from_iter_values(items(
            list, key, rows,
        )?))),
        FeatureKind::Other(what) => Err(wrong(key, format!("is {what}, which is not supported"))),
    }
}

fn tensor(element: &DataType, shape: Vec<usize>, encoding: Encoding) -> FeatureKind {
    FeatureKind::Tensor {
        element: element.clone(),
        shape,
        encoding,
    }
}

/// Returns the number of values in the list at `key`, which is the only one of an episode.
fn list_length(
    record: &Record,
    key: &str,
    element: &DataType,
    encoding: Encoding,
) -> Result<usize> {
    let list = record.get(key).and_then(|feature| feature.kind.as_ref());
    if encoding == Encoding::None {
        return Ok(value_count(record, key));
    }
    let bytes = items(list, key, 1)?[0].len();
    let size = element.primitive_width().unwrap_or(1);
    if bytes % size == 0 {
        return Ok(bytes / size);
    }
    Err(wrong(
        key,
        format!("has {bytes} bytes, which is not a multiple of the {size} bytes of a value"),
    ))
}

/// Returns the byte strings of a feature, one for each step.
fn items<'a>(list: Option<&'a ValueList>, key: &str, rows: usize) -> Result<&'a [Vec<u8>]> {
    let items = match list {
        Some(ValueList::Bytes(list)) => list.value.as_slice(),
        None => &[],
        Some(_) => {
            return Err(wrong(
                key,
                "holds numbers, but bytes are declared".to_owned(),
            ));
        }
    };
    if items.len() == rows {
        Ok(items)
    } else {
        Err(wrong(
            key,
            format!("holds {} values, but there are {rows} steps", items.len()),
        ))
    }
}

/// Returns the boolean feature `name` of each step; `None` if there is no such feature.
pub(crate) fn flags(
    record: &Record,
    leaves: &[LeafFeature],
    name: &str,
    rows: usize,
) -> Result<Option<Vec<bool>>> {
    let Some(leaf) = leaves.iter().find(|leaf| leaf.key == name) else {
        return Ok(None);
    };
    let values = cast(
        &values(record, &format!("steps/{name}"), &leaf.kind, rows)?,
        &DataType::Boolean,
    )?;
    if values.len() != rows {
        return Err(wrong(
            name,
            format!("has {} values, but there are {rows} steps", values.len()),
        ));
    }
    Ok(Some(values.as_boolean().values().iter().collect()))
}
