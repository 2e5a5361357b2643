//! Which columns of steps the features of a LeRobot dataset become.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use super::cameras::Cameras;
use crate::container::dtype;
use crate::dataset::Account;
use crate::dataset::schema::{self, step, type_name};
use crate::error::{Error, Result, nearest};
use crate::format::lerobot::OWN_FEATURE;
use crate::format::lerobot::info::{Feature, INFO, Info};
use crate::format::lerobot::tables::Tables;
use crate::format::lerobot::video_statistics::VIDEO_STATISTICS;
use crate::transfer::read::{Options, free_name};
use crate::video::{DEPTH, TOLERANCE_KEY, reference};

/// The columns with a fixed meaning, and the features that are taken for them if `map` names none.
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

/// The prefix of features that are parts of an observation.
const PART: &str = "observation.";

/// The trajectory column that names the split.
pub(crate) const SPLIT: &str = "split";

/// How the values of a column are found.
pub(crate) enum Kind {
    /// An array of numbers in each frame.
    Vector {
        element: DataType,
        shape: Vec<usize>,
    },
    /// One number, boolean or text in each frame.
    Single,
    /// An encoded image.
    Image,
    /// An encoded image of this height and width, which was an array of pixels.
    Pixels([usize; 2]),
    /// References to frames of the video feature with this number.
    Video(usize),
    /// Decoded frames of the video feature with this number.
    Frames(usize),
    /// An observation of several features.
    Parts(Vec<Column>),
    /// The texts that the feature points to.
    Text,
    /// A boolean without nulls.
    Flag,
    /// `false` in every row.
    Never,
}

/// One column of steps.
pub(crate) struct Column {
    /// The feature's name.
    pub(crate) source: String,
    pub(crate) kind: Kind,
}

/// Returns the trajectory columns: the facts that the metadata states, the split, and the
/// statistics of videos.
pub(crate) fn trajectory_columns(info: &Info, facts: &RecordBatch) -> SchemaRef {
    let mut fields = facts.schema().fields().to_vec();
    if !info.splits.is_empty() && !fields.iter().any(|field| field.name() == SPLIT) {
        fields.push(Arc::new(Field::new(SPLIT, DataType::Utf8, true)));
    }
    fields.retain(|field| field.name() != VIDEO_STATISTICS);
    if info.videos().next().is_some() {
        fields.push(Arc::new(Field::new(VIDEO_STATISTICS, DataType::Utf8, true)));
    }
    Arc::new(Schema::new(fields))
}

/// The columns of steps.
pub(crate) struct Columns {
    pub(crate) schema: SchemaRef,
    /// How the values of each column are found.
    pub(crate) columns: Vec<Column>,
    /// What is left out, with the reason.
    pub(crate) left_out: Account,
}

/// Returns the columns of steps. `data` is the schema of a data file, if one can be read.
pub(crate) fn columns(
    info: &Info,
    options: &Options,
    cameras: &Cameras,
    tables: &Tables,
    data: Option<&Schema>,
) -> Result<Columns> {
    let renames = renames(options);
    let is_renamed = |feature: &&Feature| renames.iter().any(|(old, _)| *old == feature.name);
    let names = || info.features.iter().map(|feature| feature.name.as_str());
    let listing = || {
        format!(
            "the dataset has the features {}",
            names()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let unknown = |source: &str, target: &str| {
        let hint = nearest(source, names())
            .map_or_else(listing, |meant| format!("did you mean `{meant}`?"));
        Error::failed(format!(
            "there is no feature `{source}` to use as `{target}`"
        ))
        .hint(hint)
    };
    for (at, (source, target)) in renames.iter().enumerate() {
        if !names().any(|name| name == source) {
            return Err(unknown(source, target));
        }
        let (before, is_reserved) = (&renames[..at], free_name(target) != *target);
        if is_reserved || before.iter().any(|(old, _)| old == source) {
            return Err(Error::usage(format!(
                "`map` cannot name the feature `{source}` `{target}`"
            ))
            .hint(match is_reserved {
                true => "the name has a fixed meaning: choose another one",
                false => "it has another name already: a feature becomes one column",
            }));
        }
    }
    let mut roles: Vec<(&str, &Feature)> = Vec::new();
    let mut parts: Vec<&Feature> = Vec::new();
    for (target, known) in NAMES {
        let found = match options.map.iter().find(|(name, _)| name == target) {
            Some((_, source)) => {
                let found = info.features.iter().find(|feature| feature.name == *source);
                Some(found.ok_or_else(|| unknown(source, target))?)
            }
            None => known.iter().find_map(|name| {
                let features = info.features.iter().filter(|feature| !is_renamed(feature));
                features.into_iter().find(|feature| feature.name == *name)
            }),
        };
        if found.is_none() && target == step::OBSERVATION {
            let part = |feature: &&Feature| {
                feature.name.starts_with(PART)
                    && (dtype::from_name(&feature.dtype).is_some() || feature.pixels)
                    && !is_renamed(feature)
            };
            parts = info.features.iter().filter(part).collect();
        }
        // Without a single state, its parts are the observation; without those, a camera's images.
        let camera = || {
            ["image", "video"].iter().find_map(|dtype| {
                let mut features = info.features.iter();
                features.find(|feature| feature.dtype == *dtype && !is_renamed(feature))
            })
        };
        let found = match parts.as_slice() {
            _ if target != step::OBSERVATION => found,
            [] => found.or_else(camera),
            [one] => Some(*one),
            _ => continue,
        };
        match found {
            Some(feature) => roles.push((target, feature)),
            None if target == step::OBSERVATION && renames.is_empty() => {
                return Err(
                    Error::failed("there is no feature `observation.state`").hint(format!(
                        "choose one with --map observation=FEATURE; {}",
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
    let mut left_out = Account::default();
    for feature in &info.features {
        let used = |known: &&Feature| known.name == feature.name;
        let part = parts.len() > 1 && parts.iter().any(used);
        if part || roles.iter().any(|(_, known)| used(known)) {
            continue;
        }
        let renamed = renames.iter().find(|(old, _)| *old == feature.name);
        if let Some(index) = tables.feature(&feature.name) {
            if let Some((source, target)) = renamed {
                return Err(Error::usage(format!(
                    "`map` cannot name the feature `{source}` `{target}`"
                ))
                .hint("it has indices of texts, whose column has the name of their table"));
            }
            push(tables.field(index), &feature.name, Kind::Text);
        } else if let Some(reason) = unreadable(feature, data) {
            left_out.leave_out(&feature.name, reason);
        } else {
            // The prefix keeps a column's name from being taken for a part of an observation.
            let own = feature.name.strip_prefix(OWN_FEATURE);
            let own = own.filter(|own| !names().any(|name| name == *own));
            let name = match renamed {
                Some((_, target)) => target.clone(),
                None => free_name(own.unwrap_or(&feature.name)),
            };
            let (field, kind) = column(&name, feature, &videos, cameras)?;
            push(field, &feature.name, kind);
        }
    }
    for (at, field) in fields.iter().enumerate() {
        if fields[..at]
            .iter()
            .any(|other| other.name() == field.name())
        {
            return Err(
                Error::usage(format!("two columns would be named `{}`", field.name()))
                    .hint("choose another name for one of them with `map`"),
            );
        }
    }
    for field in data.iter().flat_map(|data| data.fields()) {
        if !names().any(|name| name == field.name()) {
            left_out.leave_out(field.name(), format!("{INFO} does not declare it"));
        }
    }
    Ok(Columns {
        schema: Arc::new(Schema::new(fields)),
        columns,
        left_out,
    })
}

/// Returns the features that `map` gives other names, as (feature, column), apart from those that
/// become a column with a fixed meaning.
pub(crate) fn renames(options: &Options) -> Vec<(String, String)> {
    let is_fixed = |target: &String| NAMES.iter().any(|(name, _)| name == target);
    let others = options.map.iter().filter(|(target, _)| !is_fixed(target));
    others
        .map(|(target, source)| (source.clone(), target.clone()))
        .collect()
}

/// Returns why a feature cannot become a column; `None` if it can.
fn unreadable(feature: &Feature, data: Option<&Schema>) -> Option<String> {
    if dtype::from_name(&feature.dtype).is_some() && feature.shape.contains(&0) {
        return Some(format!("its shape is {:?}", feature.shape));
    }
    let stored = data?.field_with_name(&feature.name).ok()?.data_type();
    let nested = stored.is_nested() && feature.dtype == "language";
    nested.then(|| {
        format!(
            "its values are of type {}, for which there is no column yet",
            type_name(stored)
        )
    })
}

/// The error for a feature that cannot be the column `target`.
fn unsuitable(feature: &Feature, target: &str) -> Error {
    Error::failed(format!(
        "feature `{}` has dtype {} and shape {:?}, which cannot be used as `{target}`",
        feature.name, feature.dtype, feature.shape
    ))
    .hint(format!("choose another one with --map {target}=FEATURE"))
}

/// Returns the column that a feature becomes under the name `target`, and how its values are found.
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
            match feature.shape.as_slice() {
                [height, width, 3] if feature.pixels => {
                    let (field, _) = vectors(target, DataType::UInt8, feature)?;
                    Ok((field, Kind::Pixels([*height, *width])))
                }
                _ => of(DataType::Binary, Kind::Image),
            }
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
                    let tolerance = cameras.given_tolerance();
                    let tolerance =
                        tolerance.map(|seconds| (TOLERANCE_KEY.to_owned(), seconds.to_string()));
                    Ok((
                        field.with_metadata(depth.into_iter().chain(tolerance).collect()),
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
                return Err(if must_be_numeric(target) {
                    unsuitable(feature, target)
                } else {
                    Error::failed(format!(
                        "feature `{}` has the dtype `{dtype}`, which is not supported",
                        feature.name
                    ))
                    .hint(
                        "supported are numpy's integers and floats, bool, string, image and \
                         video: remove the feature with LeRobot's own tools",
                    )
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

/// Returns the field that a part of an observation becomes, and how its values are found.
fn part(feature: &Feature) -> Result<(Field, Column)> {
    let name = &feature.name[PART.len()..];
    let element = dtype::from_name(&feature.dtype)
        .filter(|element| element.is_integer() && feature.shape.iter().product::<usize>() == 1);
    let (field, kind) = match (element, feature.shape.as_slice()) {
        (None, [height, width, _]) if feature.pixels => {
            let (field, _) = vectors(name, DataType::UInt8, feature)?;
            (field, Kind::Pixels([*height, *width]))
        }
        (Some(element), _) => (Field::new(name, element, false), Kind::Single),
        (None, _) => vectors(
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

fn must_be_numeric(target: &str) -> bool {
    [step::OBSERVATION, step::ACTION, step::REWARD].contains(&target)
}

/// Returns the vector column `target` for a feature.
fn vectors(target: &str, element: DataType, feature: &Feature) -> Result<(Field, Kind)> {
    let width: usize = feature.shape.iter().product();
    let width = i32::try_from(width).ok().filter(|width| *width > 0);
    let width = width.ok_or_else(|| {
        Error::failed(format!(
            "feature `{}` has the shape {:?}, which has no values or too many",
            feature.name, feature.shape
        ))
        .hint(format!("correct its `shape` in {INFO}"))
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
