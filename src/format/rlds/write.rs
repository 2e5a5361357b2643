//! Writes RLDS datasets: a directory that `tfds.builder_from_directory` loads, one record an episode.
//!
//! The last step holds the final observation where it is known, with zeros for action and reward beside it; `is_final` and
//! `action_valid` say for each step what is there.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Int64Array, StringArray, new_null_array,
};
use arrow::compute::{cast, concat, interleave};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, UInt64Type};
use prost::Message;
use serde_json::json;

use super::VALID;
use super::features::{Encoding, Kind, Leaf, document, dtype};
use crate::container::tfrecord::{
    self, BytesList, Example, Feature, Features, FloatList, Int64List, Kind as List,
};
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};
use crate::transfer::write::{
    ACTION_VALID, OutgoingDataset, OutgoingTrajectory, WriteOptions, Written,
};

/// Bytes of steps in memory that a file aims at.
const SHARD_BYTES: u64 = 256 << 20;

/// Version of the dataset, as TFDS wants one.
const VERSION: &str = "1.0.0";

/// The name of the one split.
const SPLIT: &str = "train";

/// One feature of steps, and where its values come from.
struct Part {
    leaf: Leaf,
    from: From,
}

enum From {
    /// A column of steps, and the name of a field in it.
    Column(String, Option<String>),
    First,
    Last,
    Terminal,
    /// Whether the trajectory was cut off: RLDS takes every end for one that is no terminal state.
    Cut,
    Final,
    /// Whether the value of a column is there.
    Valid(String),
    Discount,
}

pub(crate) fn write(
    outgoing: &OutgoingDataset,
    path: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    let mut written = Written::default();
    let parts = parts(outgoing, &mut written)?;
    let about = about(outgoing);
    let name = match (&options.name, outgoing.pass(Some(&[]))?.next().transpose()?) {
        (Some(name), _) => name.clone(),
        (None, Some(first)) => first
            .text(trajectory::SOURCE)
            .unwrap_or("dataset")
            .to_owned(),
        (None, None) => {
            return Err(Error::failed("there is no trajectory to write")
                .hint("loosen the filters: TFDS has no empty split"));
        }
    };
    let name = identifier(&name);
    store::create_dir(path)?;
    let bytes = outgoing
        .rows()
        .saturating_mul(schema::row_bytes(outgoing.steps()) as u64);
    let shards = (bytes.div_ceil(SHARD_BYTES)).clamp(1, outgoing.trajectories().max(1));
    let mut lengths = vec![0_u64; shards as usize];
    let mut total = 0;
    let mut open: Option<(u64, HashingFile)> = None;
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        let shard = (u128::from(leaving.index) * u128::from(shards)
            / u128::from(outgoing.trajectories().max(1))) as u64;
        if open.as_ref().is_none_or(|(at, _)| *at != shard) {
            if let Some((_, file)) = open.take() {
                file.finish()?;
            }
            let file = path.join(format!("{name}-{SPLIT}.tfrecord-{shard:05}-of-{shards:05}"));
            open = Some((shard, HashingFile::create(&file)?));
        }
        let record = record(&leaving, &parts, &about);
        let record = record.map_err(|error| {
            error.at(format!(
                "trajectory {}",
                leaving
                    .text(trajectory::SOURCE_KEY)
                    .unwrap_or("without a key")
            ))
        })?;
        if let Some((_, file)) = &mut open {
            total +=
                tfrecord::write(file, &record).map_err(|error| Error::failed(error.to_string()))?;
        }
        lengths[shard as usize] += 1;
    }
    if let Some((_, file)) = open {
        file.finish()?;
    }
    let leaves: Vec<Leaf> = parts.iter().map(|part| part.leaf.clone()).collect();
    let said: Vec<Leaf> = about.iter().map(|(_, leaf)| leaf.clone()).collect();
    let info = json!({
        "name": name,
        "version": VERSION,
        "fileFormat": "tfrecord",
        "moduleName": "trajmill",
        "releaseNotes": {VERSION: "Written by trajmill."},
        "description": "Episodes as steps (RLDS). `is_final` marks a step that holds only the observation after the last action; `action_valid` a step whose action is known.",
        "splits": [{
            "name": SPLIT,
            "numBytes": total.to_string(),
            "shardLengths": lengths.iter().map(u64::to_string).collect::<Vec<_>>(),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }],
    });
    for (file, value) in [
        ("features.json", document(&leaves, &said)),
        ("dataset_info.json", info),
    ] {
        let mut bytes = serde_json::to_vec_pretty(&value)
            .map_err(|error| Error::failed(format!("cannot write {file}: {error}")))?;
        bytes.push(b'\n');
        store::write(&path.join(file), &bytes)?;
    }
    Ok(written)
}

/// A name as TFDS wants it: lower-case letters, digits and underscores.
fn identifier(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .collect();
    if name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name
    } else {
        format!("d_{name}")
    }
}

/// The features of steps.
fn parts(outgoing: &OutgoingDataset, written: &mut Written) -> Result<Vec<Part>> {
    let flag = |name: &str, from: From| Part {
        leaf: Leaf {
            key: name.to_owned(),
            kind: Kind::Tensor {
                element: DataType::Boolean,
                shape: Vec::new(),
                encoding: Encoding::None,
            },
        },
        from,
    };
    let mut parts = vec![
        flag("is_first", From::First),
        flag("is_last", From::Last),
        flag("is_terminal", From::Terminal),
        flag("is_truncated", From::Cut),
        flag("is_final", From::Final),
    ];
    let columns = outgoing.steps().fields();
    let has = |name: &str| columns.iter().any(|field| field.name() == name);
    if has(step::ACTION) && !has(ACTION_VALID) {
        parts.push(flag(ACTION_VALID, From::Valid(step::ACTION.to_owned())));
    }
    let gaps = gaps(outgoing)?;
    if !has("discount") {
        let kind = Kind::Tensor {
            element: DataType::Float32,
            shape: Vec::new(),
            encoding: Encoding::None,
        };
        parts.push(Part {
            leaf: Leaf {
                key: "discount".to_owned(),
                kind,
            },
            from: From::Discount,
        });
    }
    // With other parts of an observation beside it, the vector is a part as well.
    let grouped = columns
        .iter()
        .any(|field| field.name().starts_with("observation/"));
    for field in columns {
        let name = field.name().as_str();
        if [
            step::TRAJECTORY_ID,
            step::STEP,
            step::IS_FINAL,
            step::TERMINATED,
            step::TRUNCATED,
        ]
        .contains(&name)
        {
            continue;
        }
        let key = if name == step::OBSERVATION && grouped {
            "observation/state"
        } else {
            name
        };
        let mut add = |key: String, field: &Field, from: From| match kind(field) {
            Some(kind) => parts.push(Part {
                leaf: Leaf { key, kind },
                from,
            }),
            None => written.cannot_hold(
                format!("the column `{key}` of {}", field.data_type()),
                "nowhere: a feature has one shape and one type",
            ),
        };
        match field.data_type() {
            DataType::Struct(fields) => {
                fields.iter().for_each(|part| {
                    add(
                        format!("{key}/{}", part.name()),
                        part,
                        From::Column(name.to_owned(), Some(part.name().clone())),
                    )
                });
            }
            _ => add(key.to_owned(), field, From::Column(name.to_owned(), None)),
        }
        if gaps.contains(name) && kind(field).is_some() {
            parts.push(flag(&format!("{key}{VALID}"), From::Valid(name.to_owned())));
        }
    }
    let keys: Vec<&str> = parts.iter().map(|part| part.leaf.key.as_str()).collect();
    let clash = keys.iter().find(|key| {
        keys.iter()
            .filter(|other| **other == **key || other.starts_with(&format!("{key}/")))
            .count()
            > 1
    });
    match clash {
        Some(key) => Err(Error::failed(format!(
            "`{key}` would be a feature and a group of features, or two features"
        ))
        .hint("rename a column with `derive`, or leave it out with `columns`")),
        None => Ok(parts),
    }
}

/// Columns, besides actions, that are null somewhere; rewards at a step, as there is none beside a final observation.
fn gaps(outgoing: &OutgoingDataset) -> Result<HashSet<String>> {
    let told = [step::ACTION, step::ACTION_STD];
    let nullable = outgoing
        .steps()
        .fields()
        .iter()
        .filter(|field| field.is_nullable())
        .map(|field| field.name().as_str());
    let nullable: Vec<&str> = nullable.filter(|name| !told.contains(name)).collect();
    let mut gaps = HashSet::new();
    for leaving in outgoing.pass(Some(&nullable))? {
        let leaving = leaving?;
        let column = |name: &str| {
            if name == step::REWARD {
                leaving.column(name)
            } else {
                leaving.steps.column_by_name(name).cloned()
            }
        };
        let has_gap = |name: &&&str| column(name).is_some_and(|column| column.null_count() > 0);
        gaps.extend(
            nullable
                .iter()
                .filter(has_gap)
                .map(|name| (*name).to_owned()),
        );
    }
    Ok(gaps)
}

/// What a column becomes; `None` where there is nothing that holds it.
fn kind(field: &Field) -> Option<Kind> {
    // Lists of numbers have 32-bit floats: what has more is written as bytes.
    let encoding = |element: &DataType| {
        if *element == DataType::Float64 {
            Encoding::Bytes
        } else {
            Encoding::None
        }
    };
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Some(Kind::Text),
        DataType::Binary => Some(Kind::Image),
        DataType::FixedSizeList(child, width)
            if *width > 0 && dtype(child.data_type()).is_some() =>
        {
            let shape = field.metadata().get("shape").and_then(|shape| {
                shape
                    .split(',')
                    .map(|axis| axis.parse().ok())
                    .collect::<Option<Vec<usize>>>()
            });
            let shape = shape
                .filter(|shape| shape.iter().product::<usize>() == *width as usize)
                .unwrap_or_else(|| vec![*width as usize]);
            Some(Kind::Tensor {
                element: child.data_type().clone(),
                shape,
                encoding: encoding(child.data_type()),
            })
        }
        other => dtype(other).map(|_| Kind::Tensor {
            element: other.clone(),
            shape: Vec::new(),
            encoding: encoding(other),
        }),
    }
}

/// What is said of an episode: its column and its feature.
fn about(outgoing: &OutgoingDataset) -> Vec<(String, Leaf)> {
    let fields = outgoing
        .carried()
        .fields()
        .iter()
        .filter(|field| field.name() != trajectory::TRAJECTORY_ID);
    let single = fields.filter(|field| {
        !matches!(
            field.data_type(),
            DataType::FixedSizeList(_, _) | DataType::Binary
        )
    });
    single
        .filter_map(|field| {
            Some((
                field.name().clone(),
                Leaf {
                    key: format!("episode_metadata/{}", field.name()),
                    kind: kind(field)?,
                },
            ))
        })
        .collect()
}

/// One episode as the bytes of a `tf.train.Example`.
fn record(
    leaving: &OutgoingTrajectory,
    parts: &[Part],
    about: &[(String, Leaf)],
) -> Result<Vec<u8>> {
    let mut feature = BTreeMap::new();
    let rows = leaving.steps.num_rows();
    for part in parts {
        let values = values(leaving, &part.from, rows)?;
        feature.insert(
            format!("steps/{}", part.leaf.key),
            Feature {
                kind: Some(list(&values, &part.leaf.kind, rows)?),
            },
        );
    }
    for (column, leaf) in about {
        let value = leaving
            .about
            .column_by_name(column)
            .ok_or_else(|| Error::failed(format!("there is no column `{column}`")))?;
        // An empty list is a missing value.
        if value.is_valid(0) {
            feature.insert(
                leaf.key.clone(),
                Feature {
                    kind: Some(list(value, &leaf.kind, 1)?),
                },
            );
        } else {
            feature.insert(
                leaf.key.clone(),
                Feature {
                    kind: Some(list(&filled(value)?, &leaf.kind, 1)?),
                },
            );
        }
    }
    Ok(Example {
        features: Some(Features { feature }),
    }
    .encode_to_vec())
}

fn values(leaving: &OutgoingTrajectory, from: &From, rows: usize) -> Result<ArrayRef> {
    let flag = |name: &str| {
        leaving
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
        From::First => at(Some(0)),
        // A trajectory whose end is not known ends here all the same, unless nobody said that it does.
        From::Last => {
            at(end
                .filter(|_| leaving.has_final() || flag(step::TERMINATED) || flag(step::TRUNCATED)))
        }
        From::Terminal => at(end.filter(|_| flag(step::TERMINATED))),
        From::Cut => at(end.filter(|_| flag(step::TRUNCATED))),
        From::Final => at(end.filter(|_| leaving.has_final())),
        From::Valid(name) => {
            let column = leaving.steps.column_by_name(name);
            Arc::new(BooleanArray::from_iter((0..rows).map(|row| {
                Some(column.is_some_and(|column| column.is_valid(row)))
            })))
        }
        From::Discount => {
            let zero = |row: usize| flag(step::TERMINATED) && row + 1 == leaving.length;
            Arc::new(Float32Array::from_iter_values(
                (0..rows).map(|row| if zero(row) { 0.0 } else { 1.0 }),
            ))
        }
        From::Column(name, part) => {
            let missing = || Error::failed(format!("there is no column `{name}` to write"));
            let column = leaving.steps.column_by_name(name).ok_or_else(missing)?;
            match part {
                Some(part) => filled(
                    column
                        .as_struct_opt()
                        .and_then(|parts| parts.column_by_name(part))
                        .ok_or_else(missing)?,
                )?,
                None => filled(column)?,
            }
        }
    })
}

/// A column with zeros, or nothing, where it is null.
fn filled(column: &ArrayRef) -> Result<ArrayRef> {
    if column.null_count() == 0 {
        return Ok(Arc::clone(column));
    }
    let zeros = |data_type: &DataType, count: usize| {
        cast(
            &(Arc::new(Int64Array::from(vec![0; count])) as ArrayRef),
            data_type,
        )
    };
    let filler: ArrayRef = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => cast(
            &(Arc::new(StringArray::from(vec![""])) as ArrayRef),
            column.data_type(),
        )?,
        DataType::Binary => Arc::new(arrow::array::BinaryArray::from(vec![b"".as_slice()])),
        DataType::FixedSizeList(child, width) => {
            let values = zeros(child.data_type(), *width as usize)?;
            Arc::new(arrow::array::FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                values,
                None,
            )?)
        }
        other if other.is_numeric() || *other == DataType::Boolean => zeros(other, 1)?,
        other => new_null_array(other, 1),
    };
    let order: Vec<(usize, usize)> = (0..column.len())
        .map(|row| {
            if column.is_null(row) {
                (1, 0)
            } else {
                (0, row)
            }
        })
        .collect();
    Ok(interleave(&[column.as_ref(), filler.as_ref()], &order)?)
}

/// Values as the list of a record.
fn list(column: &ArrayRef, kind: &Kind, rows: usize) -> Result<List> {
    let values = match column.as_fixed_size_list_opt() {
        Some(list) => {
            let width = list.value_length() as usize;
            list.values()
                .slice(list.value_offset(0) as usize, list.len() * width)
        }
        None => Arc::clone(column),
    };
    match kind {
        Kind::Text => {
            let texts = cast(&values, &DataType::Utf8)?;
            Ok(List::Bytes(BytesList {
                value: texts
                    .as_string::<i32>()
                    .iter()
                    .map(|text| text.unwrap_or_default().as_bytes().to_vec())
                    .collect(),
            }))
        }
        Kind::Tensor {
            element,
            encoding: Encoding::None,
            ..
        } if element.is_floating() => {
            let floats = cast(&values, &DataType::Float32)?;
            Ok(List::Floats(FloatList {
                value: floats.as_primitive::<Float32Type>().values().to_vec(),
            }))
        }
        Kind::Tensor {
            element: DataType::UInt64,
            encoding: Encoding::None,
            ..
        } => Ok(List::Whole(Int64List {
            value: values
                .as_primitive::<UInt64Type>()
                .values()
                .iter()
                .map(|value| *value as i64)
                .collect(),
        })),
        Kind::Tensor {
            encoding: Encoding::None,
            ..
        } => {
            let whole = cast(&values, &DataType::Int64)?;
            Ok(List::Whole(Int64List {
                value: whole.as_primitive::<Int64Type>().values().to_vec(),
            }))
        }
        Kind::Tensor { element, .. } => {
            let size = element.primitive_width().unwrap_or(1);
            let data = concat(&[values.as_ref()])?.to_data();
            let bytes = data
                .buffers()
                .first()
                .map(|buffer| {
                    &buffer.as_slice()[data.offset() * size..(data.offset() + data.len()) * size]
                })
                .unwrap_or_default();
            let step = (bytes.len() / rows.max(1)).max(1);
            Ok(List::Bytes(BytesList {
                value: bytes.chunks(step).map(<[u8]>::to_vec).collect(),
            }))
        }
        Kind::Image => Ok(List::Bytes(BytesList {
            value: values
                .as_binary::<i32>()
                .iter()
                .map(|image| image.unwrap_or_default().to_vec())
                .collect(),
        })),
        Kind::Other(what) => Err(Error::failed(format!("{what} cannot be written"))),
    }
}
