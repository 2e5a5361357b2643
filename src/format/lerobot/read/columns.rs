//! The columns of steps that the features of a LeRobot dataset become.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use super::cameras::Cameras;
use crate::container::dtype;
use crate::dataset::schema::{self, step};
use crate::error::{Error, Result, nearest};
use crate::format::lerobot::info::{Feature, Info};
use crate::transfer::read::{Options, free_name};
use crate::video::{DEPTH, reference};

/// Names that features go by.
const NAMES: [(&str, &[&str]); 5] = [
    (
        step::OBSERVATION,
        &[
            "observation.state",
            "observation.environment_state",
            "observation",
            "state",
            "observations.state",
            "observations",
        ],
    ),
    (step::ACTION, &["action", "actions"]),
    (step::REWARD, &["next.reward", "reward"]),
    (step::TERMINATED, &["next.done", "next.terminated", "done"]),
    (step::TRUNCATED, &["next.truncated", "truncated"]),
];

/// What the features of an observation's parts begin with.
const PART: &str = "observation.";

/// The column of the text that `task_index` stands for.
pub(crate) const TASK: &str = "task";

/// The column of trajectories that names the split.
pub(crate) const SPLIT: &str = "split";

/// What a column of steps is made of.
pub(crate) enum Kind {
    /// Numbers, `shape` of them a frame.
    Vector {
        element: DataType,
        shape: Vec<usize>,
    },
    /// One number, flag or text a frame.
    Single,
    /// An encoded image.
    Image,
    /// References to frames: number of the video feature.
    Video(usize),
    /// Decoded frames: number of the video feature.
    Frames(usize),
    /// An observation of several parts.
    Parts(Vec<Column>),
    /// The text of `task_index`.
    Task,
    /// A flag that must be known.
    Flag,
    /// A flag that is never set.
    Never,
}

/// One column of steps.
pub(crate) struct Column {
    /// The feature's name.
    pub(crate) source: String,
    pub(crate) kind: Kind,
}

/// What is said of each trajectory: what this tool wrote there, its first task and its split.
pub(crate) fn about(info: &Info, steps: &Schema, said: &RecordBatch) -> SchemaRef {
    let mut fields = said.schema().fields().to_vec();
    let mut add = |name: &str, there: bool| {
        if there && !fields.iter().any(|field| field.name() == name) {
            fields.push(Arc::new(Field::new(name, DataType::Utf8, true)));
        }
    };
    add(
        TASK,
        steps
            .column_with_name(TASK)
            .is_some_and(|(_, field)| *field.data_type() == DataType::Utf8),
    );
    add(SPLIT, !info.splits.is_empty());
    Arc::new(Schema::new(fields))
}

/// The columns of steps, and what they are made of.
pub(crate) fn columns(
    info: &Info,
    options: &Options,
    cameras: &Cameras,
) -> Result<(SchemaRef, Vec<Column>)> {
    let targets = NAMES.map(|(target, _)| target);
    if let Some((target, _)) = options
        .map
        .iter()
        .find(|(target, _)| !targets.contains(&target.as_str()))
    {
        return Err(Error::usage(format!("--map cannot give `{target}` here"))
            .hint(format!("one of {}", targets.join(", "))));
    }
    let names = || info.features.iter().map(|feature| feature.name.as_str());
    let listing = || {
        format!(
            "the features are {}",
            names()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let mut roles: Vec<(&str, &Feature)> = Vec::new();
    let mut parts: Vec<&Feature> = Vec::new();
    for (target, known) in NAMES {
        let found = match options.map.iter().find(|(name, _)| name == target) {
            Some((_, source)) => {
                let found = info.features.iter().find(|feature| feature.name == *source);
                Some(found.ok_or_else(|| {
                    let hint = nearest(source, names())
                        .map_or_else(listing, |meant| format!("did you mean `{meant}`?"));
                    Error::failed(format!("there is no feature `{source}` to be `{target}`"))
                        .hint(hint)
                })?)
            }
            None => known
                .iter()
                .find_map(|name| info.features.iter().find(|feature| feature.name == *name)),
        };
        if found.is_none() && target == step::OBSERVATION {
            let part = |feature: &&Feature| {
                feature.name.starts_with(PART) && dtype::from_name(&feature.dtype).is_some()
            };
            parts = info.features.iter().filter(part).collect();
        }
        // Without one state, the parts of it are the observation; without any, what a camera saw.
        let camera = || {
            ["image", "video"]
                .iter()
                .find_map(|dtype| info.features.iter().find(|feature| feature.dtype == *dtype))
        };
        let found = match parts.as_slice() {
            _ if target != step::OBSERVATION => found,
            [] => found.or_else(camera),
            [one] => Some(*one),
            _ => continue,
        };
        match found {
            Some(feature) => roles.push((target, feature)),
            None if target == step::OBSERVATION => {
                return Err(
                    Error::failed("there is no feature `observation.state`").hint(format!(
                        "name one with --map observation=FEATURE; {}",
                        listing()
                    )),
                );
            }
            None => {}
        }
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let mut push = |field: Field, source: &str, kind: Kind| {
        fields.push(field);
        columns.push(Column {
            source: source.to_owned(),
            kind,
        });
    };
    let videos: Vec<&str> = info.videos().map(|feature| feature.name.as_str()).collect();
    if parts.len() > 1 {
        let made = parts
            .iter()
            .map(|feature| part(feature))
            .collect::<Result<Vec<_>>>()?;
        let (fields, columns): (Vec<Field>, Vec<Column>) = made.into_iter().unzip();
        push(
            Field::new(
                step::OBSERVATION,
                DataType::Struct(Fields::from(fields)),
                false,
            ),
            "",
            Kind::Parts(columns),
        );
    }
    for target in [step::OBSERVATION, step::ACTION, step::REWARD] {
        if let Some((_, feature)) = roles.iter().find(|(role, _)| *role == target) {
            let (field, kind) = column(target, feature, &videos, cameras)?;
            push(
                field.with_nullable(target != step::OBSERVATION),
                &feature.name,
                kind,
            );
        }
    }
    for target in [step::TERMINATED, step::TRUNCATED, step::IS_FINAL] {
        let feature = roles
            .iter()
            .find(|(role, _)| *role == target)
            .map(|(_, feature)| feature);
        let field = Field::new(target, DataType::Boolean, false);
        match feature {
            Some(feature)
                if feature.shape.iter().product::<usize>() == 1
                    && dtype::from_name(&feature.dtype).is_some() =>
            {
                push(field, &feature.name, Kind::Flag)
            }
            Some(feature) => return Err(unsuitable(feature, target)),
            None => push(field, "", Kind::Never),
        }
    }
    for feature in &info.features {
        // What holds nothing is said by the source's own `features` alone.
        let empty = dtype::from_name(&feature.dtype).is_some() && feature.shape.contains(&0);
        let used = |known: &&Feature| known.name == feature.name;
        let part = parts.len() > 1 && parts.iter().any(used);
        if !empty && !part && !roles.iter().any(|(_, known)| used(known)) {
            let (field, kind) = column(&free_name(&feature.name), feature, &videos, cameras)?;
            push(field, &feature.name, kind);
        }
    }
    if names().any(|name| name == "task_index") && !names().any(|name| name == TASK) {
        push(
            Field::new(TASK, DataType::Utf8, true),
            "task_index",
            Kind::Task,
        );
    }
    Ok((Arc::new(Schema::new(fields)), columns))
}

fn unsuitable(feature: &Feature, target: &str) -> Error {
    Error::failed(format!(
        "feature `{}` is {} of shape {:?}, which cannot be `{target}`",
        feature.name, feature.dtype, feature.shape
    ))
    .hint(format!("name another with --map {target}=FEATURE"))
}

/// The column of type and kind that a feature becomes under the name `target`.
fn column(
    target: &str,
    feature: &Feature,
    videos: &[&str],
    cameras: &Cameras,
) -> Result<(Field, Kind)> {
    let width: usize = feature.shape.iter().product();
    let of = |data_type: DataType, kind: Kind| Ok((Field::new(target, data_type, true), kind));
    match feature.dtype.as_str() {
        "image" if target != step::ACTION && target != step::REWARD => {
            of(DataType::Binary, Kind::Image)
        }
        "video" if target != step::ACTION && target != step::REWARD => {
            let at = videos
                .iter()
                .position(|video| *video == feature.name)
                .unwrap_or(0);
            match cameras.field(at, target)? {
                Some(field) => Ok((field, Kind::Frames(at))),
                None => {
                    let field = Field::new(target, DataType::Struct(reference()), true);
                    let depth = feature.depth.then(|| (DEPTH.to_owned(), "true".to_owned()));
                    Ok((
                        field.with_metadata(depth.into_iter().collect()),
                        Kind::Video(at),
                    ))
                }
            }
        }
        "string" | "language"
            if ![step::OBSERVATION, step::ACTION, step::REWARD].contains(&target) =>
        {
            of(DataType::Utf8, Kind::Single)
        }
        dtype => {
            let Some(element) = dtype::from_name(dtype) else {
                return Err(if targets_numbers(target) {
                    unsuitable(feature, target)
                } else {
                    Error::failed(format!("feature `{}` has the dtype `{dtype}`, which is not known", feature.name))
                        .hint("numpy's numbers, bool, string, image and video are read: remove the feature with LeRobot's own tools")
                });
            };
            let single = feature.shape.len() < 2 && width == 1;
            match target {
                step::REWARD if !single => Err(unsuitable(feature, target)),
                step::REWARD => of(element, Kind::Single),
                step::ACTION if single && element.is_integer() => of(element, Kind::Single),
                step::OBSERVATION | step::ACTION => vectors(target, element, feature),
                _ if single => of(element, Kind::Single),
                _ => vectors(target, element, feature),
            }
        }
    }
}

/// The field that a part of an observation becomes, and what it is made of.
fn part(feature: &Feature) -> Result<(Field, Column)> {
    let name = &feature.name[PART.len()..];
    let (field, kind) = match dtype::from_name(&feature.dtype)
        .filter(|element| element.is_integer() && feature.shape.iter().product::<usize>() == 1)
    {
        Some(element) => (Field::new(name, element, false), Kind::Single),
        None => vectors(
            name,
            dtype::from_name(&feature.dtype).unwrap_or(DataType::Null),
            feature,
        )?,
    };
    Ok((
        field.with_nullable(false),
        Column {
            source: feature.name.clone(),
            kind,
        },
    ))
}

fn targets_numbers(target: &str) -> bool {
    [step::OBSERVATION, step::ACTION, step::REWARD].contains(&target)
}

fn vectors(target: &str, element: DataType, feature: &Feature) -> Result<(Field, Kind)> {
    let width: usize = feature.shape.iter().product();
    let width = i32::try_from(width).ok().filter(|width| *width > 0);
    let width = width.ok_or_else(|| {
        Error::failed(format!(
            "feature `{}` has the shape {:?}: a frame must hold something",
            feature.name, feature.shape
        ))
    })?;
    let mut field = Field::new(target, schema::vector(element.clone(), width), true);
    if feature.shape.len() > 1 {
        let shape = feature
            .shape
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(",");
        field = field.with_metadata([("shape".to_owned(), shape)].into());
    }
    Ok((
        field,
        Kind::Vector {
            element,
            shape: if feature.shape.is_empty() {
                vec![1]
            } else {
                feature.shape.clone()
            },
        },
    ))
}
