//! Encodes a trajectory as a record.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float32Array, StringArray};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Float32Type, Int64Type, UInt64Type};
use prost::Message;

use super::features::{Encoding, FeatureKind};
use super::step_features::{EpisodeFeature, Origin, StepFeature};
use crate::container::tfrecord::{
    BytesList, Example, Feature, Features, FloatList, Int64List, Kind as ValueList,
};
use crate::dataset::block::flattened;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::transfer::write::OutgoingTrajectory;
use crate::transfer::write::nulls::filled;

/// Returns a trajectory as the bytes of a `tf.train.Example`.
pub(crate) fn record(
    trajectory: &OutgoingTrajectory,
    features: &[StepFeature],
    about: &[EpisodeFeature],
) -> Result<Vec<u8>> {
    let mut feature = BTreeMap::new();
    let rows = trajectory.steps.num_rows();
    for part in features {
        let values = values(trajectory, &part.from, rows)?;
        feature.insert(
            format!("steps/{}", part.leaf.key),
            Feature {
                kind: Some(list(&values, &part.leaf.kind, rows)?),
            },
        );
    }
    for EpisodeFeature {
        leaf,
        column,
        is_flag,
    } in about
    {
        let value = trajectory
            .about
            .column_by_name(column)
            .ok_or_else(|| Error::failed(format!("the column `{column}` is missing")))?;
        let value: ArrayRef = match (&leaf.kind, is_flag) {
            (_, true) => Arc::new(BooleanArray::from(vec![value.is_valid(0)])),
            (FeatureKind::List { .. }, _) => value.as_list::<i32>().value(0),
            _ => filled(value, "")?,
        };
        feature.insert(
            leaf.key.clone(),
            Feature {
                kind: Some(list(&value, &leaf.kind, 1)?),
            },
        );
    }
    Ok(Example {
        features: Some(Features { feature }),
    }
    .encode_to_vec())
}

/// Returns the values of a feature in each step.
fn values(trajectory: &OutgoingTrajectory, from: &Origin, rows: usize) -> Result<ArrayRef> {
    let flag = |name: &str| {
        trajectory
            .steps
            .column_by_name(name)
            .and_then(|column| column.as_boolean_opt())
            .is_some_and(|column| column.true_count() > 0)
    };
    let at = |row: Option<usize>| -> ArrayRef {
        Arc::new(BooleanArray::from_iter(
            (0..rows).map(|at| Some(Some(at) == row)),
        ))
    };
    let end = rows.checked_sub(1);
    Ok(match from {
        Origin::First => at(Some(0)),
        // A trajectory of unknown end has no step with `is_last`.
        Origin::Last => at(end
            .filter(|_| trajectory.has_final() || flag(step::TERMINATED) || flag(step::TRUNCATED))),
        Origin::Terminal => at(end.filter(|_| flag(step::TERMINATED))),
        Origin::Cut => at(end.filter(|_| flag(step::TRUNCATED))),
        Origin::Final => at(end.filter(|_| trajectory.has_final())),
        Origin::Valid(name) => {
            let column = trajectory.steps.column_by_name(name);
            Arc::new(BooleanArray::from_iter((0..rows).map(|row| {
                Some(column.is_some_and(|column| column.is_valid(row)))
            })))
        }
        Origin::Discount => {
            let zero = |row: usize| flag(step::TERMINATED) && row + 1 == trajectory.length;
            Arc::new(Float32Array::from_iter_values(
                (0..rows).map(|row| if zero(row) { 0.0 } else { 1.0 }),
            ))
        }
        Origin::HasTask => {
            let has = trajectory.text(trajectory::TASK).is_some();
            Arc::new(BooleanArray::from(vec![has; rows]))
        }
        Origin::Task => {
            let task = trajectory.text(trajectory::TASK).unwrap_or_default();
            Arc::new(StringArray::from(vec![task; rows]))
        }
        Origin::Column(name, part) => {
            let missing = || Error::failed(format!("the column `{name}` is missing"));
            let column = trajectory.steps.column_by_name(name).ok_or_else(missing)?;
            match part {
                Some(part) => filled(
                    column
                        .as_struct_opt()
                        .and_then(|parts| parts.column_by_name(part))
                        .ok_or_else(missing)?,
                    "",
                )?,
                None => filled(column, "")?,
            }
        }
    })
}

/// Returns values as the list of a record.
fn list(column: &ArrayRef, kind: &FeatureKind, rows: usize) -> Result<ValueList> {
    let (values, _) = flattened(column);
    match kind {
        // The values of a list are stored as those of as many rows, or as the bytes of one row.
        FeatureKind::List { element, encoding } => {
            let kind = match element {
                DataType::Utf8 => FeatureKind::Text,
                _ => FeatureKind::Tensor {
                    element: element.clone(),
                    shape: Vec::new(),
                    encoding: *encoding,
                },
            };
            list(column, &kind, rows)
        }
        FeatureKind::Text => {
            let texts = cast(&values, &DataType::Utf8)?;
            Ok(ValueList::Bytes(BytesList {
                value: texts
                    .as_string::<i32>()
                    .iter()
                    .map(|text| text.unwrap_or_default().as_bytes().to_vec())
                    .collect(),
            }))
        }
        FeatureKind::Tensor {
            element,
            encoding: Encoding::None,
            ..
        } if element.is_floating() => {
            let floats = cast(&values, &DataType::Float32)?;
            Ok(ValueList::Floats(FloatList {
                value: floats.as_primitive::<Float32Type>().values().to_vec(),
            }))
        }
        FeatureKind::Tensor {
            element: DataType::UInt64,
            encoding: Encoding::None,
            ..
        } => Ok(ValueList::Whole(Int64List {
            value: values
                .as_primitive::<UInt64Type>()
                .values()
                .iter()
                .map(|value| *value as i64)
                .collect(),
        })),
        FeatureKind::Tensor {
            encoding: Encoding::None,
            ..
        } => {
            let whole = cast(&values, &DataType::Int64)?;
            Ok(ValueList::Whole(Int64List {
                value: whole.as_primitive::<Int64Type>().values().to_vec(),
            }))
        }
        FeatureKind::Tensor { element, .. } => {
            let size = element.primitive_width().unwrap_or(1);
            let data = concat(&[values.as_ref()])?.to_data();
            let bytes = data
                .buffers()
                .first()
                .map(|buffer| {
                    &buffer.as_slice()[data.offset() * size..(data.offset() + data.len()) * size]
                })
                .unwrap_or_default();
            let step = bytes.len() / rows.max(1);
            let values = (0..rows).map(|row| bytes[row * step..(row + 1) * step].to_vec());
            Ok(ValueList::Bytes(BytesList {
                value: values.collect(),
            }))
        }
        FeatureKind::Image => Ok(ValueList::Bytes(BytesList {
            value: values
                .as_binary::<i32>()
                .iter()
                .map(|image| image.unwrap_or_default().to_vec())
                .collect(),
        })),
        FeatureKind::Other(what) => Err(Error::failed(format!("{what} cannot be written"))),
    }
}
