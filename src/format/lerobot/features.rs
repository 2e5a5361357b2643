//! The features that a dataset leaves with, and their values in each trajectory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeListArray, Float32Array,
    Float64Array, Int64Array, ListArray, StringArray, StructArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Field, Fields, Float64Type};
use serde_json::{Map, Value, json};

use super::stats::Scale;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};
use crate::video::refers;

/// Values a frame beyond which a feature gets no statistics: pixels, and embeddings of them.
const WIDEST_STATISTICS: usize = 1024;

/// The column of the text of a step's task.
const TASK: &str = "task";

/// Columns that are made anew from the rows' places.
const GENERATED: [&str; 5] = [
    "timestamp",
    "frame_index",
    "episode_index",
    "index",
    "task_index",
];

/// One feature of the output.
pub(crate) struct Feature {
    pub(crate) name: String,
    dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    names: Value,
    from: From,
    /// How it is counted; `None` where it gets no statistics.
    pub(crate) scale: Option<Scale>,
}

/// Where a feature's values come from.
enum From {
    /// A column of steps, and a path of fields in it.
    Column(String, Vec<String>),
    /// Whether a column's value is there.
    Valid(String),
    /// Encoded images.
    Image(String),
    /// The place of a row: one of [`GENERATED`].
    Place(usize),
}

/// What the output is made of.
pub(crate) struct Plan {
    pub(crate) features: Vec<Feature>,
    pub(crate) fps: u64,
    pub(crate) robot: Value,
    task: Option<String>,
    has_tasks: bool,
    pub(crate) has_action: bool,
}

/// Texts of tasks, in order of their first steps.
#[derive(Default)]
pub(crate) struct Tasks {
    indices: HashMap<String, i64>,
    pub(crate) texts: Vec<String>,
}

impl Tasks {
    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.indices.get(text) {
            return *index;
        }
        let index = self.texts.len() as i64;
        self.indices.insert(text.to_owned(), index);
        self.texts.push(text.to_owned());
        index
    }
}

/// Where a trajectory is in the output.
pub(crate) struct Place {
    pub(crate) episode: u64,
    /// Its first row.
    pub(crate) first: u64,
    /// The task of each step.
    pub(crate) tasks: Vec<i64>,
}

impl Plan {
    /// The features of `outgoing`; what has no place among them goes into `written`.
    pub(crate) fn new(
        outgoing: &OutgoingDataset,
        options: &WriteOptions,
        written: &mut Written,
    ) -> Result<Plan> {
        // What one source says, or all of several.
        let infos = infos(&outgoing.manifest().lineage.source_metadata);
        let said = |key: &str| {
            let value = infos.first()?.get(key)?;
            infos
                .iter()
                .all(|info| info.get(key) == Some(value))
                .then_some(value)
        };
        let fps = options
            .fps
            .map(u64::from)
            .or_else(|| {
                said("fps")
                    .and_then(Value::as_f64)
                    .map(|fps| fps.round() as u64)
            })
            .filter(|fps| *fps > 0);
        if fps.is_none() && infos.iter().filter(|info| info.contains_key("fps")).count() > 1 {
            let rates: Vec<String> = infos
                .iter()
                .filter_map(|info| info.get("fps"))
                .map(Value::to_string)
                .collect();
            return Err(Error::failed(format!(
                "the sources have {} steps per second, and a LeRobot dataset has one `fps`",
                rates.join(", ")
            ))
            .hint(
                "write each on its own, or say with `fps` what their steps are to be taken for",
            ));
        }
        if fps.is_none() {
            written.cannot_hold(
                "steps per second, which the dataset does not say",
                format!("`fps` {DEFAULT_FPS}: give the true one with --fps"),
            );
        }
        let robot = options
            .robot
            .clone()
            .map(Value::from)
            .or_else(|| said("robot_type").cloned())
            .unwrap_or(Value::Null);
        // Names of a vector's values hold as long as it is the same vector.
        let names = |feature: &Feature| {
            let entry = said("features").and_then(|features| features.get(&feature.name))?;
            if entry.get("shape") == Some(&json!(feature.shape)) {
                entry.get("names").cloned()
            } else {
                None
            }
        };
        let gaps = gaps(outgoing)?;
        let mut plan = Plan {
            features: Vec::new(),
            fps: fps.unwrap_or(DEFAULT_FPS),
            robot,
            task: options.task.clone().or_else(|| options.env.clone()),
            has_tasks: false,
            has_action: false,
        };
        let first = outgoing.pass(None)?.next().transpose()?;
        for field in outgoing.steps().fields() {
            let name = field.name().as_str();
            if [step::TRAJECTORY_ID, step::STEP, step::IS_FINAL].contains(&name)
                || GENERATED.contains(&name)
            {
                continue;
            }
            if name == TASK && *field.data_type() == DataType::Utf8 {
                plan.has_tasks = true;
                continue;
            }
            plan.has_action |= name == step::ACTION;
            let feature = match name {
                step::OBSERVATION => "observation.state".to_owned(),
                step::REWARD => "next.reward".to_owned(),
                step::TERMINATED => "next.done".to_owned(),
                step::TRUNCATED => "next.truncated".to_owned(),
                other => other.replace('/', "."),
            };
            let image = first.as_ref().and_then(|leaving| picture(leaving, name));
            let added = plan.features.len();
            plan.column(&feature, field, name, image, written);
            for feature in &mut plan.features[added..] {
                feature.names = match feature.dtype {
                    "image" => json!(["height", "width", "channels"]),
                    _ => names(feature).unwrap_or(Value::Null),
                };
            }
            // Of provenance, what is not said says itself: a recorded action has no spread. Rewards have their flag already.
            let said = [step::REWARD, step::ACTION_SOURCE, step::ACTION_STD].contains(&name);
            if gaps.contains(name) && plan.features.len() > added && !said {
                plan.add(
                    format!("{feature}_valid"),
                    "bool",
                    vec![1],
                    From::Valid(name.to_owned()),
                );
                written.cannot_hold(
                    format!("steps without `{name}`"),
                    format!("zeros in `{feature}` where `{feature}_valid` is false"),
                );
            }
        }
        for (at, name) in GENERATED.iter().enumerate() {
            plan.add(
                (*name).to_owned(),
                if at == 0 { "float32" } else { "int64" },
                vec![1],
                From::Place(at),
            );
        }
        let mut seen = HashSet::new();
        match plan
            .features
            .iter()
            .find(|feature| !seen.insert(feature.name.as_str()))
        {
            Some(twice) => Err(Error::failed(format!(
                "two columns would become the feature `{}`",
                twice.name
            ))
            .hint("rename one with `derive`, or leave it out with `columns`")),
            None => Ok(plan),
        }
    }

    fn add(&mut self, name: String, dtype: &'static str, shape: Vec<usize>, from: From) {
        let scale = match dtype {
            "string" | "image" => None,
            "float16" | "float32" => Some(Scale::Single),
            "float64" => Some(Scale::Double),
            _ => Some(Scale::Whole),
        };
        let scale = scale.filter(|_| shape.iter().product::<usize>() <= WIDEST_STATISTICS);
        self.features.push(Feature {
            name,
            dtype,
            shape,
            names: Value::Null,
            from,
            scale,
        });
    }

    /// Adds what a column of steps becomes.
    fn column(
        &mut self,
        feature: &str,
        field: &Field,
        column: &str,
        image: Option<[usize; 3]>,
        written: &mut Written,
    ) {
        let mut pending = vec![(feature.to_owned(), field.data_type().clone(), Vec::new())];
        while let Some((name, data_type, path)) = pending.pop() {
            let from = From::Column(column.to_owned(), path.clone());
            match (&data_type, image) {
                (DataType::Struct(fields), _) => {
                    // The fields of an observation are observations.
                    let stem = if column == step::OBSERVATION && path.is_empty() {
                        "observation"
                    } else {
                        name.as_str()
                    };
                    for field in fields.iter().rev() {
                        let path = path.iter().cloned().chain([field.name().clone()]).collect();
                        pending.push((
                            format!("{stem}.{}", field.name().replace('/', ".")),
                            field.data_type().clone(),
                            path,
                        ));
                    }
                    if path.is_empty() && refers(field) {
                        let what = format!(
                            "the frames of `{column}`, which is a reference to a video: `--frames png` decodes them"
                        );
                        written.cannot_hold(
                            what,
                            format!("the features `{name}.path` and `{name}.timestamp`"),
                        );
                    }
                }
                (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, _) => {
                    self.add(name, "string", vec![1], from)
                }
                (DataType::Binary, Some(shape)) => {
                    written.cannot_hold(
                        format!("statistics of the images `{column}`"),
                        "LeRobot's own tools, which make them of decoded frames",
                    );
                    let name = if column == step::OBSERVATION {
                        "observation.image".to_owned()
                    } else {
                        name
                    };
                    self.add(
                        name,
                        "image",
                        shape.to_vec(),
                        From::Image(column.to_owned()),
                    );
                }
                (DataType::FixedSizeList(child, width), _)
                    if *width > 0 && dtype(child.data_type()).is_some() =>
                {
                    let shape = field.metadata().get("shape").and_then(|shape| {
                        shape
                            .split(',')
                            .map(|axis| axis.parse().ok())
                            .collect::<Option<Vec<usize>>>()
                    });
                    let shape = shape.filter(|shape| {
                        path.is_empty() && shape.iter().product::<usize>() == *width as usize
                    });
                    if let Some(dtype) = dtype(child.data_type()) {
                        self.add(
                            name,
                            dtype,
                            shape.unwrap_or_else(|| vec![*width as usize]),
                            from,
                        );
                    }
                }
                (other, _) => match dtype(other) {
                    Some(dtype) => self.add(name, dtype, vec![1], from),
                    None => written.cannot_hold(
                        format!("the column `{column}` of {other}"),
                        "nowhere: a feature has one shape and one type",
                    ),
                },
            }
        }
    }

    /// Columns of steps that the features at `wanted` are made of.
    pub(crate) fn reads(&self, wanted: impl Iterator<Item = usize>) -> Vec<&str> {
        let mut reads: Vec<&str> = Vec::new();
        for feature in wanted.filter_map(|at| self.features.get(at)) {
            let column = match &feature.from {
                From::Column(column, _) | From::Valid(column) | From::Image(column) => column,
                From::Place(4) if self.has_tasks => TASK,
                From::Place(_) => continue,
            };
            if !reads.contains(&column) {
                reads.push(column);
            }
        }
        reads
    }

    /// The task of each step of a trajectory.
    pub(crate) fn tasks(
        &self,
        leaving: &OutgoingTrajectory,
        tasks: &mut Tasks,
    ) -> Result<Vec<i64>> {
        let own = leaving
            .text(TASK)
            .map(str::to_owned)
            .or_else(|| self.task.clone())
            .or_else(|| leaving.text("source").map(str::to_owned));
        let own = own.unwrap_or_default();
        match leaving.column(TASK).filter(|_| self.has_tasks) {
            Some(texts) => {
                let texts = cast(&texts, &DataType::Utf8)?;
                Ok(texts
                    .as_string::<i32>()
                    .iter()
                    .map(|text| tasks.index(text.unwrap_or(&own)))
                    .collect())
            }
            None => Ok(vec![tasks.index(&own); leaving.length]),
        }
    }

    /// The `features` of `info.json`.
    pub(crate) fn describe(&self) -> Map<String, Value> {
        self.features
            .iter()
            .map(|feature| {
                (
                    feature.name.clone(),
                    json!({"dtype": feature.dtype, "shape": feature.shape, "names": feature.names}),
                )
            })
            .collect()
    }
}

/// What LeRobot sources say of themselves, one or several that were merged.
fn infos(said: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    match said.get("info").and_then(Value::as_object) {
        Some(info) => vec![info],
        None => said
            .values()
            .filter_map(|said| said.get("info")?.as_object())
            .collect(),
    }
}

/// Steps per second where nobody says.
const DEFAULT_FPS: u64 = 30;

/// Columns that are null on some step that leaves.
fn gaps(outgoing: &OutgoingDataset) -> Result<HashSet<String>> {
    let nullable = outgoing
        .steps()
        .fields()
        .iter()
        .filter(|field| field.is_nullable())
        .map(|field| field.name().as_str());
    let nullable: Vec<&str> = nullable
        .filter(|name| !GENERATED.contains(name) && *name != TASK)
        .collect();
    let mut gaps = HashSet::new();
    for leaving in outgoing.pass(Some(&nullable))? {
        let leaving = leaving?;
        for name in &nullable {
            if !gaps.contains(*name)
                && leaving
                    .column(name)
                    .is_some_and(|column| column.null_count() > 0)
            {
                gaps.insert((*name).to_owned());
            }
        }
    }
    Ok(gaps)
}

/// numpy's name of a type.
fn dtype(data_type: &DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Boolean => "bool",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        _ => return None,
    })
}

/// Height, width and channels of the first image in a column of encoded ones; `None` where it is none.
fn picture(leaving: &OutgoingTrajectory, column: &str) -> Option<[usize; 3]> {
    let column = leaving.column(column)?;
    let images = column.as_binary_opt::<i32>()?;
    measure(images.iter().flatten().next()?)
}

/// Height, width and channels of a PNG or JPEG.
fn measure(bytes: &[u8]) -> Option<[usize; 3]> {
    let short = |at: usize| {
        Some(usize::from(u16::from_be_bytes(
            bytes.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let long = |at: usize| {
        usize::try_from(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok()
    };
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let channels = match bytes.get(25)? {
            0 => 1,
            4 => 2,
            6 => 4,
            _ => 3,
        };
        return Some([long(20)?, long(16)?, channels]);
    }
    let mut at = 2;
    while bytes.starts_with(b"\xff\xd8") && bytes.get(at)? == &0xff {
        let marker = *bytes.get(at + 1)?;
        // A frame header of any coding, not a table.
        if (0xc0..=0xcf).contains(&marker) && ![0xc4, 0xc8, 0xcc].contains(&marker) {
            return Some([
                short(at + 5)?,
                short(at + 7)?,
                usize::from(*bytes.get(at + 9)?),
            ]);
        }
        at += 2 + short(at + 2)?.max(2);
    }
    None
}

impl Feature {
    /// Values a frame.
    pub(crate) fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The type of its column.
    pub(crate) fn field(&self) -> Field {
        let element = match self.dtype {
            "bool" => DataType::Boolean,
            "int8" => DataType::Int8,
            "int16" => DataType::Int16,
            "int32" => DataType::Int32,
            "int64" => DataType::Int64,
            "uint8" => DataType::UInt8,
            "uint16" => DataType::UInt16,
            "uint32" => DataType::UInt32,
            "uint64" => DataType::UInt64,
            "float16" => DataType::Float16,
            "float32" => DataType::Float32,
            "float64" => DataType::Float64,
            "image" => DataType::Struct(image()),
            _ => DataType::Utf8,
        };
        let data_type = match self.shape.as_slice() {
            _ if self.dtype == "image" => element,
            [1] => element,
            [width] => DataType::FixedSizeList(
                Arc::new(Field::new("element", element, true)),
                *width as i32,
            ),
            axes => axes.iter().fold(element, |inner, _| {
                DataType::List(Arc::new(Field::new("element", inner, true)))
            }),
        };
        Field::new(&self.name, data_type, true)
    }

    /// Its values in a trajectory, frame by frame without their shape; never null.
    pub(crate) fn values(
        &self,
        leaving: &OutgoingTrajectory,
        place: &Place,
        fps: u64,
    ) -> Result<ArrayRef> {
        let missing = |name: &str| Error::failed(format!("there is no column `{name}` to write"));
        let rows = leaving.length;
        Ok(match &self.from {
            From::Column(name, path) => {
                let mut column = leaving.column(name).ok_or_else(|| missing(name))?;
                for part in path {
                    column = column
                        .as_struct_opt()
                        .and_then(|parts| parts.column_by_name(part))
                        .cloned()
                        .ok_or_else(|| missing(name))?;
                }
                if self.dtype == "string" {
                    column = cast(&column, &DataType::Utf8)?;
                }
                let empty = if name == step::ACTION_SOURCE {
                    "none"
                } else {
                    ""
                };
                flatten(&filled(&column, empty)?)
            }
            From::Valid(name) => {
                let column = leaving.column(name).ok_or_else(|| missing(name))?;
                Arc::new(BooleanArray::from_iter(
                    (0..rows).map(|row| Some(column.is_valid(row))),
                ))
            }
            From::Image(name) => {
                let column = leaving.column(name).ok_or_else(|| missing(name))?;
                let images: &BinaryArray = column.as_binary::<i32>();
                if let Some(row) = (0..rows).find(|row| images.is_null(*row)) {
                    return Err(
                        Error::failed(format!("`{name}` has no image at step {row}")).hint(
                            "every frame needs one: drop the trajectory, or leave the column out",
                        ),
                    );
                }
                let paths = StringArray::from_iter_values(
                    (0..rows).map(|row| format!("frame-{row:06}.png")),
                );
                Arc::new(StructArray::try_new(
                    image(),
                    vec![column, Arc::new(paths)],
                    None,
                )?)
            }
            From::Place(0) => Arc::new(Float32Array::from_iter_values(
                (0..rows).map(|row| (row as f64 / fps as f64) as f32),
            )),
            From::Place(1) => Arc::new(Int64Array::from_iter_values(0..rows as i64)),
            From::Place(2) => Arc::new(Int64Array::from(vec![place.episode as i64; rows])),
            From::Place(3) => Arc::new(Int64Array::from_iter_values(
                (place.first as i64..).take(rows),
            )),
            From::Place(_) => Arc::new(Int64Array::from(place.tasks.clone())),
        })
    }

    /// Its values as its column.
    pub(crate) fn shaped(&self, values: ArrayRef) -> Result<ArrayRef> {
        match self.field().data_type() {
            DataType::FixedSizeList(child, width) => Ok(Arc::new(FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                values,
                None,
            )?)),
            DataType::List(_) => lists(values, &self.shape),
            _ => Ok(values),
        }
    }
}

/// What a column of images holds.
fn image() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}

/// Values as nested lists of the shape `axes`, one a row.
pub(crate) fn lists(values: ArrayRef, axes: &[usize]) -> Result<ArrayRef> {
    let mut nested = values;
    for axis in axes.iter().rev() {
        let count = nested.len() / (*axis).max(1);
        let child = Arc::new(Field::new("element", nested.data_type().clone(), true));
        nested = Arc::new(ListArray::try_new(
            child,
            OffsetBuffer::from_repeated_length(*axis, count),
            nested,
            None,
        )?);
    }
    Ok(nested)
}

/// Vectors without their lists.
fn flatten(column: &ArrayRef) -> ArrayRef {
    match column.as_fixed_size_list_opt() {
        Some(list) => {
            let width = list.value_length() as usize;
            list.values()
                .slice(list.value_offset(0) as usize, list.len() * width)
        }
        None => Arc::clone(column),
    }
}

/// A column with zeros, or `empty`, where it is null.
fn filled(column: &ArrayRef, empty: &str) -> Result<ArrayRef> {
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
        DataType::Utf8 => Arc::new(StringArray::from(vec![empty])),
        DataType::FixedSizeList(child, width) => Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *width,
            zeros(child.data_type(), *width as usize)?,
            None,
        )?),
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

/// Numbers and flags as float64.
pub(crate) fn numbers(values: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(values, &DataType::Float64)?
        .as_primitive::<Float64Type>()
        .clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_measured() {
        let png = [
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(),
            &7_u32.to_be_bytes(),
            &5_u32.to_be_bytes(),
            &[8, 2],
        ]
        .concat();
        assert_eq!(measure(&png), Some([5, 7, 3]));
        let jpeg = [
            b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08".as_slice(),
            &[0, 64, 0, 48, 3],
        ]
        .concat();
        assert_eq!(measure(&jpeg), Some([64, 48, 3]));
        assert_eq!(measure(b"\xff\xd8\xff\xe0\0"), None);
        assert_eq!(measure(b"GIF89a"), None);
    }

    #[test]
    fn nulls_are_filled_and_vectors_flattened() {
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        let nulls = Some(arrow::buffer::NullBuffer::from(vec![true, false, true]));
        let values: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0, 9.0, 9.0, 3.0, 4.0]));
        let column: ArrayRef =
            Arc::new(FixedSizeListArray::try_new(child, 2, values, nulls).unwrap());
        let flat = flatten(&filled(&column, "").unwrap());
        assert_eq!(
            flat.as_primitive::<arrow::datatypes::Float32Type>()
                .values()
                .to_vec(),
            [1.0, 2.0, 0.0, 0.0, 3.0, 4.0]
        );
        assert_eq!(flatten(&filled(&column.slice(2, 1), "").unwrap()).len(), 2);
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("proxy"), None]));
        assert_eq!(
            filled(&texts, "none").unwrap().as_string::<i32>().value(1),
            "none"
        );
    }
}
