//! Which features the columns of a dataset become.

use arrow::datatypes::{DataType, Field};

use super::VALID;
use super::features::{Encoding, FeatureKind, LeafFeature};
use super::instruction::INSTRUCTIONS;
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
    /// 0 where the trajectory ends in a terminal state, otherwise 1.
    Discount,
}

/// Returns the features of steps. What RLDS cannot hold is noted in `written`.
pub(crate) fn step_features(
    outgoing: &OutgoingDataset,
    written: &mut Written,
) -> Result<Vec<StepFeature>> {
    let flag = |name: &str, from: Origin| StepFeature {
        leaf: LeafFeature {
            key: name.to_owned(),
            kind: FeatureKind::Tensor {
                element: DataType::Boolean,
                shape: Vec::new(),
                encoding: Encoding::None,
            },
        },
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
            "`{key}` would be the name of two features, or of a feature and a group"
        ))
        .hint("rename a column with `derive`, or leave it out with `columns`")),
        None => Ok(parts),
    }
}

/// Returns what a column becomes; `None` if no feature can hold it.
fn kind(field: &Field) -> Option<FeatureKind> {
    // The floats of a list have 32 bits: 64-bit floats are written as bytes.
    let encoding = |element: &DataType| {
        if *element == DataType::Float64 {
            Encoding::Bytes
        } else {
            Encoding::None
        }
    };
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

/// Returns the trajectory columns that are written, with their features.
pub(crate) fn trajectory_features(
    outgoing: &OutgoingDataset,
    written: &mut Written,
) -> Vec<(String, LeafFeature)> {
    let mut features = Vec::new();
    for field in outgoing.carried().fields() {
        let name = field.name();
        let is_single = !matches!(
            field.data_type(),
            DataType::FixedSizeList(_, _) | DataType::Binary
        );
        match kind(field).filter(|_| is_single) {
            _ if name == trajectory::TRAJECTORY_ID => {}
            Some(kind) => {
                let key = format!("episode_metadata/{name}");
                features.push((name.clone(), LeafFeature { key, kind }));
            }
            None => written.cannot_hold(
                format!("the trajectory column `{name}`"),
                "left out: the metadata of an episode holds numbers, texts and truth values",
            ),
        }
    }
    features
}
