//! Which features the columns of a dataset become.

use std::collections::HashSet;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field};

use super::features::{Encoding, FeatureKind, LeafFeature};
use super::instruction::INSTRUCTIONS;
use super::{METADATA_PREFIX, VALID};
use crate::container::dtype;
use crate::dataset::schema::{axes, step, trajectory, type_name};
use crate::error::{Error, Result};
use crate::transfer::write::nulls::columns_with_nulls;
use crate::transfer::write::{ACTION_VALID, OutgoingDataset, Written};

/// A feature of steps, and where its values come from.
pub(crate) struct StepFeature {
    pub(crate) leaf: LeafFeature,
    pub(crate) from: Origin,
}

pub(crate) enum Origin {
    /// A column of steps, or a field of a struct column.
    Column(String, Option<String>),
    /// Whether it is the first step.
    First,
    /// Whether it is the last step of a trajectory whose end is known.
    Last,
    /// Whether the trajectory ended in a terminal state.
    Terminal,
    /// Whether the trajectory was cut off. RLDS itself takes every end without a terminal state for
    /// that.
    Cut,
    /// Whether the step holds only the final observation.
    Final,
    /// Whether a column has a value.
    Valid(String),
    /// The task of the trajectory.
    Task,
    /// Whether the trajectory has a task.
    HasTask,
    /// 0 where the trajectory ends in a terminal state, otherwise 1.
    Discount,
}

/// A feature of episodes, and the trajectory column that its values come from.
pub(crate) struct EpisodeFeature {
    pub(crate) leaf: LeafFeature,
    pub(crate) column: String,
    /// Whether it says where the column has a value.
    pub(crate) is_flag: bool,
}

/// The trajectory columns with nulls.
#[derive(Default)]
pub(crate) struct Gaps {
    /// Those that are null in some trajectory.
    nulls: HashSet<String>,
    /// Those of lists of which some hold nulls.
    holes: HashSet<String>,
}

impl Gaps {
    /// Finds the nulls in the trajectory columns.
    pub(crate) fn find(outgoing: &OutgoingDataset) -> Result<Gaps> {
        let mut gaps = Gaps::default();
        for trajectory in outgoing.pass(Some(&[]))? {
            let about = trajectory?.about;
            for (field, column) in about.schema().fields().iter().zip(about.columns()) {
                let items = match field.data_type() {
                    _ if column.is_null(0) => {
                        gaps.nulls.insert(field.name().clone());
                        continue;
                    }
                    DataType::List(_) => column.as_list::<i32>().value(0),
                    DataType::FixedSizeList(..) => column.as_fixed_size_list().value(0),
                    _ => continue,
                };
                if items.null_count() > 0 {
                    gaps.holes.insert(field.name().clone());
                }
            }
        }
        Ok(gaps)
    }
}

/// Returns the feature `key` of one boolean value.
fn flag(key: String) -> LeafFeature {
    LeafFeature {
        key,
        kind: FeatureKind::Tensor {
            element: DataType::Boolean,
            shape: Vec::new(),
            encoding: Encoding::None,
        },
    }
}

/// Returns the features of steps. What RLDS cannot hold is noted in `written`.
pub(crate) fn step_features(
    outgoing: &OutgoingDataset,
    gaps: &Gaps,
    written: &mut Written,
) -> Result<Vec<StepFeature>> {
    let flag = |name: &str, from: Origin| StepFeature {
        leaf: flag(name.to_owned()),
        from,
    };
    let mut parts = vec![
        flag("is_first", Origin::First),
        flag("is_last", Origin::Last),
        flag("is_terminal", Origin::Terminal),
        flag("is_truncated", Origin::Cut),
        flag("is_final", Origin::Final),
    ];
    let columns = outgoing.steps().fields();
    let has = |name: &str| columns.iter().any(|field| field.name() == name);
    if has(step::ACTION) && !has(ACTION_VALID) {
        parts.push(flag(ACTION_VALID, Origin::Valid(step::ACTION.to_owned())));
    }
    let with_nulls = columns_with_nulls(
        outgoing,
        |name| name != step::ACTION,
        |name| name != step::REWARD,
    )?;
    if !has("discount") {
        let kind = FeatureKind::Tensor {
            element: DataType::Float32,
            shape: Vec::new(),
            encoding: Encoding::None,
        };
        parts.push(StepFeature {
            leaf: LeafFeature {
                key: "discount".to_owned(),
                kind,
            },
            from: Origin::Discount,
        });
    }
    // If other columns are parts of an observation, the vector becomes a part as well.
    let grouped = columns
        .iter()
        .any(|field| field.name().starts_with("observation/"));
    for field in columns {
        let name = field.name().as_str();
        if step::REQUIRED.contains(&name) {
            continue;
        }
        let key = match name {
            step::OBSERVATION if grouped => "observation/state",
            step::TASK if *field.data_type() == DataType::Utf8 && !has(INSTRUCTIONS[0]) => {
                INSTRUCTIONS[0]
            }
            name => name,
        };
        let mut add = |key: String, field: &Field, from: Origin| match kind(field) {
            Some(kind) => parts.push(StepFeature {
                leaf: LeafFeature { key, kind },
                from,
            }),
            None => written.cannot_hold(
                format!(
                    "the column `{key}` of type {}",
                    type_name(field.data_type())
                ),
                "left out, since a feature has one shape and one type",
            ),
        };
        match field.data_type() {
            DataType::Struct(fields) => {
                fields.iter().for_each(|part| {
                    add(
                        format!("{key}/{}", part.name()),
                        part,
                        Origin::Column(name.to_owned(), Some(part.name().clone())),
                    )
                });
            }
            _ => add(key.to_owned(), field, Origin::Column(name.to_owned(), None)),
        }
        let is_held = kind(field).is_some() || matches!(field.data_type(), DataType::Struct(_));
        if with_nulls.contains(name) && is_held {
            parts.push(flag(
                &format!("{key}{VALID}"),
                Origin::Valid(name.to_owned()),
            ));
        }
    }
    // Loaders look for the instruction in steps.
    let carried = outgoing.carried().field_with_name(trajectory::TASK);
    if carried.is_ok_and(|field| *field.data_type() == DataType::Utf8)
        && !has(step::TASK)
        && !has(INSTRUCTIONS[0])
    {
        parts.push(StepFeature {
            leaf: LeafFeature {
                key: INSTRUCTIONS[0].to_owned(),
                kind: FeatureKind::Text,
            },
            from: Origin::Task,
        });
        if gaps.nulls.contains(trajectory::TASK) {
            let key = format!("{}{VALID}", INSTRUCTIONS[0]);
            parts.push(flag(&key, Origin::HasTask));
        }
    }
    verify_keys(parts.iter().map(|part| part.leaf.key.as_str()))?;
    Ok(parts)
}

/// Verifies that no two features have the same key, and that none has the key of a group.
fn verify_keys<'a>(keys: impl Iterator<Item = &'a str>) -> Result<()> {
    let keys: Vec<&str> = keys.collect();
    let clash = keys.iter().find(|key| {
        keys.iter()
            .filter(|other| **other == **key || other.starts_with(&format!("{key}/")))
            .count()
            > 1
    });
    match clash {
        Some(key) => Err(Error::failed(format!(
            "`{key}` would be the name of two features, or of a feature and a group"
        ))
        .hint("rename a column with `derive`, or leave it out with `columns`")),
        None => Ok(()),
    }
}

/// Returns how numbers are written. The floats of a record have 32 bits: 64-bit floats are written
/// as bytes.
fn encoding(element: &DataType) -> Encoding {
    if *element == DataType::Float64 {
        Encoding::Bytes
    } else {
        Encoding::None
    }
}

/// Returns what a column becomes; `None` if no feature can hold it.
fn kind(field: &Field) -> Option<FeatureKind> {
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Some(FeatureKind::Text),
        DataType::Binary => Some(FeatureKind::Image),
        DataType::FixedSizeList(child, width)
            if *width > 0 && dtype::name(child.data_type()).is_some() =>
        {
            Some(FeatureKind::Tensor {
                element: child.data_type().clone(),
                shape: axes(field, *width),
                encoding: encoding(child.data_type()),
            })
        }
        other => dtype::name(other).map(|_| FeatureKind::Tensor {
            element: other.clone(),
            shape: Vec::new(),
            encoding: encoding(other),
        }),
    }
}

/// Returns what a trajectory column becomes; `None` if no feature of episodes can hold it.
fn kind_of_fact(field: &Field) -> Option<FeatureKind> {
    match field.data_type() {
        DataType::Binary => None,
        DataType::List(child) => {
            let element = child.data_type();
            let is_held = *element == DataType::Utf8 || dtype::name(element).is_some();
            is_held.then(|| FeatureKind::List {
                element: element.clone(),
                encoding: encoding(element),
            })
        }
        _ => kind(field),
    }
}

/// Returns the features of episodes, which are the trajectory columns. What RLDS cannot hold is
/// noted in `written`.
pub(crate) fn episode_features(
    outgoing: &OutgoingDataset,
    gaps: &Gaps,
    written: &mut Written,
) -> Result<Vec<EpisodeFeature>> {
    let columns = outgoing.carried();
    let key = |name: &str| format!("{METADATA_PREFIX}{name}");
    let mut features = Vec::new();
    for field in columns.fields() {
        let name = field.name();
        let marked = name.strip_suffix(VALID).filter(|marked| {
            *field.data_type() == DataType::Boolean && columns.index_of(marked).is_ok()
        });
        let why = match (kind_of_fact(field), marked) {
            _ if name == trajectory::TRAJECTORY_ID => continue,
            (None, _) => format!(
                "the metadata of an episode cannot hold {}",
                type_name(field.data_type())
            ),
            (_, Some(marked)) => format!("the name says where `{marked}` has a value"),
            _ if gaps.holes.contains(name) => "some of its lists hold nulls".to_owned(),
            (Some(kind), None) => {
                features.push(EpisodeFeature {
                    leaf: LeafFeature {
                        key: key(name),
                        kind,
                    },
                    column: name.clone(),
                    is_flag: false,
                });
                if gaps.nulls.contains(name) {
                    features.push(EpisodeFeature {
                        leaf: flag(key(&format!("{name}{VALID}"))),
                        column: name.clone(),
                        is_flag: true,
                    });
                }
                continue;
            }
        };
        let what = format!("the trajectory column `{name}`");
        written.cannot_hold(what, format!("left out: {why}"));
    }
    verify_keys(features.iter().map(|feature| feature.leaf.key.as_str()))?;
    Ok(features)
}
