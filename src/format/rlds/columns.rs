//! Which columns the features of an RLDS dataset become.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use super::features::{FeatureKind, FeatureTree, LeafFeature};
use super::instruction::instruction;
use super::{METADATA_PREFIX, VALID};
use crate::dataset::schema::{self, step, trajectory, type_name};
use crate::error::{Error, Result};
use crate::transfer::read::align::wider;
use crate::transfer::read::{Options, free_name, parts};

/// Features of steps that become flags, and are not columns of their own.
const FLAGS: [&str; 5] = [
    "is_first",
    "is_last",
    "is_terminal",
    "is_truncated",
    "is_final",
];

/// Whether a feature of steps of this name marks where an episode begins or how it ends.
pub(crate) fn is_marker(name: &str) -> bool {
    FLAGS.contains(&name)
}

/// Features that are taken for the observation in a dict of observations.
const STATES: [&str; 6] = [
    "observation/state",
    "observation/proprio",
    "observation/observation",
    "observation/robot_state",
    "observation/joint_state",
    "observation/eef_state",
];

/// The trajectory column that names the split.
const SPLIT: &str = "split";

/// A column of steps.
pub(crate) struct Column {
    /// Its feature, or the features of a struct or of a joined vector.
    pub(crate) leaves: Vec<LeafFeature>,
    /// Whether it belongs to the action: then it moves with the action, and is null on a step
    /// without one.
    pub(crate) of_action: bool,
}

/// Returns the name of a feature of episodes, without the conventional prefix.
fn plain(leaf: &LeafFeature) -> &str {
    leaf.key.strip_prefix(METADATA_PREFIX).unwrap_or(&leaf.key)
}

/// Returns the trajectory columns, which are texts, numbers, tensors and lists of one axis, and
/// their features.
pub(crate) fn trajectory_columns(tree: &FeatureTree) -> (SchemaRef, Vec<LeafFeature>) {
    let mut fields = vec![Field::new(SPLIT, DataType::Utf8, true)];
    let mut features = Vec::new();
    // Steps say more than the episode.
    let task = instruction(&tree.episode, plain)
        .filter(|_| instruction(&tree.steps, |leaf| &leaf.key).is_none());
    let is_kept = |leaf: &&LeafFeature| {
        let is_image = leaf.kind == FeatureKind::Image;
        !is_image && !is_valid_flag(leaf, &tree.episode)
    };
    for leaf in tree.episode.iter().filter(is_kept) {
        let name = match plain(leaf) {
            name if Some(name) == task => trajectory::TASK,
            name => name,
        };
        let Ok(data_type) = data_type(leaf, false) else {
            continue;
        };
        let taken = name == trajectory::TRAJECTORY_ID
            || trajectory::COMPUTED.contains(&name)
            || fields.iter().any(|field| field.name() == name);
        let name = if taken {
            format!("source_{name}")
        } else {
            name.to_owned()
        };
        fields.push(with_shape(Field::new(name, data_type, true), leaf));
        features.push(leaf.clone());
    }
    // The three columns of an identity are kept together or not at all.
    let identity = [trajectory::UID, trajectory::SOURCE_KEY, trajectory::SOURCE];
    let text = |name: &&str| {
        fields
            .iter()
            .any(|field| field.name() == name && *field.data_type() == DataType::Utf8)
    };
    if !identity.iter().all(text) {
        for field in &mut fields {
            if identity.contains(&field.name().as_str()) {
                *field = field.clone().with_name(format!("source_{}", field.name()));
            }
        }
    }
    (Arc::new(Schema::new(fields)), features)
}

/// Returns the columns of steps, and the features that they are made of.
pub(crate) fn columns(tree: &FeatureTree, options: &Options) -> Result<(SchemaRef, Vec<Column>)> {
    let targets = [step::OBSERVATION, step::ACTION, step::REWARD];
    if let Some((target, _)) = options
        .map
        .iter()
        .find(|(target, _)| !targets.contains(&target.as_str()))
    {
        return Err(
            Error::usage(format!("`map` cannot set `{target}` for RLDS"))
                .hint(format!("it sets one of {}", targets.join(", "))),
        );
    }
    let leaves = &tree.steps;
    let listing = || {
        format!(
            "steps have the features {}",
            leaves
                .iter()
                .map(|leaf| format!("`{}`", leaf.key))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let find = |key: &str| leaves.iter().find(|leaf| leaf.key == key);
    let keys: Vec<&str> = leaves.iter().map(|leaf| leaf.key.as_str()).collect();
    let mapped = |target: &str| -> Result<Option<Vec<LeafFeature>>> {
        let names = parts::mapped(options, target, &keys)?;
        Ok(names.map(|names| names.into_iter().filter_map(find).cloned().collect()))
    };
    let one = |name: &str| find(name).map(|leaf| vec![leaf.clone()]);
    let tensor = |leaf: &&LeafFeature| matches!(leaf.kind, FeatureKind::Tensor { .. });
    let inside = |group: &str| {
        leaves
            .iter()
            .filter(|leaf| leaf.key.starts_with(group))
            .collect::<Vec<_>>()
    };
    let joined = mapped(step::OBSERVATION)?;
    let is_joined = joined.as_ref().is_some_and(|leaves| leaves.len() > 1);
    let observation: Vec<LeafFeature> = match joined.or_else(|| one(step::OBSERVATION)) {
        Some(leaves) => leaves,
        None => {
            let all = inside("observation/");
            let vectors: Vec<LeafFeature> = all.iter().copied().filter(tensor).cloned().collect();
            let state = STATES
                .iter()
                .find_map(|name| vectors.iter().find(|leaf| leaf.key == *name))
                .cloned();
            match (state, vectors.is_empty()) {
                (Some(state), _) => vec![state],
                (None, false) => vectors,
                (None, true) => all
                    .iter()
                    .find(|leaf| leaf.kind == FeatureKind::Image)
                    .map(|leaf| vec![(*leaf).clone()])
                    .unwrap_or_default(),
            }
        }
    };
    if observation.is_empty() {
        return Err(
            Error::failed("steps have no feature `observation`").hint(format!(
                "choose one with --map observation=FEATURE; {}",
                listing()
            )),
        );
    }
    let action = match mapped(step::ACTION)?.or_else(|| one(step::ACTION)) {
        Some(leaves) => leaves,
        None => match inside("action/")
            .into_iter()
            .filter(tensor)
            .collect::<Vec<_>>()
            .as_slice()
        {
            [] => Vec::new(),
            [one] => vec![(*one).clone()],
            several => {
                let names = several
                    .iter()
                    .map(|leaf| format!("`{}`", leaf.key))
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(
                    Error::failed(format!("the action has several parts: {names}"))
                        .hint("join them in this order with --map 'action=action/*'")
                        .hint("or name one or several with --map action=FEATURE,FEATURE"),
                );
            }
        },
    };
    let reward = mapped(step::REWARD)?.or_else(|| one(step::REWARD));
    let reward = match reward.as_deref() {
        Some([first, second, ..]) => {
            return Err(Error::usage(format!(
                "`reward` takes one feature, but several are mapped to it: `{}`, `{}`, …",
                first.key, second.key
            ))
            .hint("name one feature, without `*` and `?`"));
        }
        _ => reward.and_then(|leaves| leaves.into_iter().next()),
    };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let used: Vec<String> = observation
        .iter()
        .chain(&action)
        .chain(&reward)
        .map(|leaf| leaf.key.clone())
        .collect();
    fields.push(match observation.as_slice() {
        [one] => with_shape(
            Field::new(step::OBSERVATION, data_type(one, true)?, false),
            one,
        ),
        several if is_joined => joined_field(step::OBSERVATION, several)?.with_nullable(false),
        several => Field::new(step::OBSERVATION, structure(several)?, false),
    });
    columns.push(Column {
        leaves: observation,
        of_action: false,
    });
    if !action.is_empty() {
        fields.push(match action.as_slice() {
            [leaf] => with_shape(
                Field::new(step::ACTION, data_type(leaf, !is_integer(leaf))?, true),
                leaf,
            ),
            several => joined_field(step::ACTION, several)?,
        });
        columns.push(Column {
            leaves: action,
            of_action: true,
        });
    }
    if let Some(leaf) = reward {
        let field = Field::new(step::REWARD, data_type(&leaf, false)?, true);
        if !field.data_type().is_numeric() {
            return Err(Error::failed(format!(
                "feature `{}` has the type {}, which cannot be used as `reward`",
                leaf.key,
                type_name(field.data_type())
            ))
            .hint(
                "a reward is one number in each step: choose another feature with --map \
                 reward=FEATURE",
            ));
        }
        fields.push(field);
        columns.push(Column {
            leaves: vec![leaf],
            of_action: true,
        });
    }
    fields.extend(
        [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
            .map(|name| Field::new(name, DataType::Boolean, false)),
    );
    let task = instruction(leaves, |leaf| &leaf.key);
    for leaf in leaves
        .iter()
        .filter(|leaf| {
            !used.contains(&leaf.key)
                && !FLAGS.contains(&leaf.key.as_str())
                && !matches!(leaf.kind, FeatureKind::Other(_))
        })
        .filter(|leaf| !is_valid_flag(leaf, leaves))
    {
        let provenance = [step::ACTION_SOURCE, step::ACTION_STD].contains(&leaf.key.as_str());
        let name = if provenance {
            leaf.key.clone()
        } else if task == Some(leaf.key.as_str()) {
            step::TASK.to_owned()
        } else {
            free_name(&leaf.key)
        };
        fields.push(with_shape(
            Field::new(name, data_type(leaf, false)?, true),
            leaf,
        ));
        columns.push(Column {
            leaves: vec![leaf.clone()],
            of_action: provenance || leaf.key == "discount",
        });
    }
    Ok((Arc::new(Schema::new(fields)), columns))
}

/// Returns the field of the vector that several features become.
fn joined_field(target: &str, leaves: &[LeafFeature]) -> Result<Field> {
    let field = |leaf: &LeafFeature| Ok(Field::new(&leaf.key, data_type(leaf, false)?, true));
    let fields = leaves.iter().map(field).collect::<Result<Vec<_>>>()?;
    parts::joined_field(target, &fields.iter().collect::<Vec<_>>(), wider)
}

/// Whether a feature says where another one has a value.
pub(crate) fn is_valid_flag(leaf: &LeafFeature, leaves: &[LeafFeature]) -> bool {
    let flag = match &leaf.kind {
        FeatureKind::Tensor { element, shape, .. } => {
            *element == DataType::Boolean && shape.is_empty()
        }
        _ => false,
    };
    flag && leaf
        .key
        .strip_suffix(VALID)
        .is_some_and(|other| leaves.iter().any(|leaf| leaf.key == other))
}

/// Whether a feature is a single value, without an axis.
fn is_single(leaf: &LeafFeature) -> bool {
    matches!(&leaf.kind, FeatureKind::Tensor { shape, .. } if shape.is_empty())
}

/// Whether a feature is a single integer.
fn is_integer(leaf: &LeafFeature) -> bool {
    match &leaf.kind {
        FeatureKind::Tensor { element, shape, .. } => {
            element.is_integer() && shape.iter().product::<usize>() == 1
        }
        _ => false,
    }
}

/// Returns the type of the column that a feature becomes. With `vector`, a single number becomes a
/// vector too.
pub(crate) fn data_type(leaf: &LeafFeature, vector: bool) -> Result<DataType> {
    Ok(match &leaf.kind {
        FeatureKind::Text => DataType::Utf8,
        FeatureKind::Image => DataType::Binary,
        FeatureKind::List { element, .. } => {
            DataType::List(Arc::new(Field::new_list_field(element.clone(), true)))
        }
        FeatureKind::Tensor { element, shape, .. }
            if !vector && (shape.is_empty() || is_integer(leaf)) =>
        {
            element.clone()
        }
        FeatureKind::Tensor { element, shape, .. } => {
            let width = i32::try_from(shape.iter().product::<usize>())
                .ok()
                .filter(|width| *width > 0);
            schema::vector(
                element.clone(),
                width.ok_or_else(|| {
                    Error::failed(format!(
                        "feature `{}` has the shape {shape:?}, which has no values or too many",
                        leaf.key
                    ))
                })?,
            )
        }
        FeatureKind::Other(what) => {
            return Err(Error::failed(format!(
                "feature `{}` is {what}, which is not supported",
                leaf.key
            )));
        }
    })
}

/// Adds the shape of a feature to the metadata of its field.
fn with_shape(field: Field, leaf: &LeafFeature) -> Field {
    match &leaf.kind {
        FeatureKind::Tensor { shape, .. } if shape.len() > 1 => {
            let shape = shape
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(",");
            field.with_metadata([("shape".to_owned(), shape)].into())
        }
        _ => field,
    }
}

/// Returns the type of an observation whose parts are `leaves`.
fn structure(leaves: &[LeafFeature]) -> Result<DataType> {
    let field = |leaf: &LeafFeature| {
        Ok(with_shape(
            Field::new(
                leaf.key.trim_start_matches("observation/"),
                data_type(leaf, !is_single(leaf))?,
                false,
            ),
            leaf,
        ))
    };
    Ok(DataType::Struct(Fields::from(
        leaves.iter().map(field).collect::<Result<Vec<_>>>()?,
    )))
}
