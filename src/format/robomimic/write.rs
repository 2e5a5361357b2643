//! Writes robomimic's HDF5, one demonstration after the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Map, Value, json};

use super::{ACTIONS, OURS, PART, PREFIX, PROXY, UNSCALED, elements};
use crate::container::hdf5::{Attribute, Element, Hdf5Writer};
use crate::dataset::late_frames::LateFrames;
use crate::dataset::schema::{self, step, type_name};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope::{self, Envelope};
use crate::transfer::write::arrays;
use crate::transfer::write::sources::{agreed, sources_with};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};

/// Writes the dataset as the file `to`.
///
/// # Errors
/// Returns an error if observations or actions are not arrays of numbers, if the dataset cannot be
/// read, or if the file cannot be written.
pub(crate) fn write(
    outgoing: &OutgoingDataset,
    to: &Path,
    options: &WriteOptions,
) -> Result<Written> {
    let mut written = Written::default();
    for (name, column) in [("obs", step::OBSERVATION), (ACTIONS, step::ACTION)] {
        let field = outgoing.steps().field_with_name(column);
        let field = field.map_err(|_| {
            Error::failed(format!(
                "robomimic needs `{name}`, but the dataset has no column `{column}`"
            ))
            .hint("make the column with `derive`, or write a format that does not need it")
        })?;
        if arrays::plain_arrays(field, name).is_none() {
            return Err(Error::failed(format!(
                "`{column}` is {}, but robomimic holds arrays of numbers",
                type_name(field.data_type())
            ))
            .hint("select other columns, or write another format"));
        }
    }
    let scale = scale(outgoing)?;
    let mut columns = BTreeMap::new();
    let mut extras = Vec::new();
    let mut left_out = Vec::new();
    for column in arrays::extra_columns(outgoing.steps()) {
        let mut name = array_of(&column, outgoing.steps())?;
        // Several columns may get one name, for example `observation.a/b` and `observation.a.b`, or
        // `dones` and `source_dones`. So may the arrays that say which values are not null.
        let both = |name: &str| [name.to_owned(), format!("{name}_valid")];
        while extras.iter().any(|(taken, ..): &(String, _, _)| {
            both(taken).iter().any(|taken| both(&name).contains(taken))
        }) {
            name = format!("source_{name}");
        }
        match arrays::plain_arrays(outgoing.steps().field_with_name(&column)?, &name) {
            Some(arrays) => {
                if name != column {
                    columns.insert(name.clone(), column.clone());
                }
                extras.push((name, column, arrays));
            }
            None => left_out.push(column),
        }
    }
    arrays::report_left_out(
        outgoing,
        &mut written,
        &left_out,
        "`lang` in the attribute `ep_meta` of each demonstration",
    );
    let envelope = Envelope::new(outgoing, options, columns, &mut written);
    let metadata = &outgoing.manifest().lineage.source_metadata;
    let mut file = Hdf5Writer::create(to)?;
    let mut masks: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut frames = outgoing.late_frames();
    for trajectory in outgoing.referring(None)? {
        let trajectory = trajectory?;
        for (field, column) in trajectory
            .about
            .schema()
            .fields()
            .iter()
            .zip(trajectory.about.columns())
        {
            let member = column
                .as_boolean_opt()
                .is_some_and(|member| member.is_valid(0) && member.value(0));
            if let Some(name) = field.name().strip_prefix("mask_").filter(|_| member) {
                masks
                    .entry(name.to_owned())
                    .or_default()
                    .push(trajectory.index);
            }
        }
        let steps = outgoing.steps();
        demonstration(
            &mut file,
            &trajectory,
            (steps, &mut frames),
            &extras,
            scale.as_deref(),
        )?;
    }
    for (name, members) in masks {
        let names: Vec<String> = members
            .iter()
            .map(|index| format!("demo_{index}"))
            .collect();
        let width = names.iter().map(String::len).max().unwrap_or(1);
        let bytes: Vec<u8> = names
            .iter()
            .flat_map(|name| {
                name.bytes()
                    .chain(std::iter::repeat_n(0, width - name.len()))
            })
            .collect();
        file.array(
            &format!("mask/{name}"),
            Element::Bytes(width as u32),
            &[names.len() as u64],
            &bytes,
        )?;
    }
    let sources = sources_with(metadata, "env_args");
    let env = match (
        &options.env,
        agreed(&sources, "env_args").and_then(Value::as_str),
    ) {
        (Some(env), _) => json!({"env_name": env, "type": 2, "env_kwargs": {}}).to_string(),
        (None, Some(env)) => env.to_owned(),
        (None, None) => {
            if !sources.is_empty() {
                written.cannot_hold(
                    "the sources' `env_args`",
                    "not written, since they differ: name the environment with --env",
                );
            }
            json!({"env_name": "", "type": 2, "env_kwargs": {}}).to_string()
        }
    };
    let mut attributes = vec![
        ("total".to_owned(), Attribute::Int(outgoing.length() as i64)),
        ("env_args".to_owned(), Attribute::Text(env)),
    ];
    if let Some(scale) = &scale {
        attributes.push((
            "action_scale".to_owned(),
            Attribute::Text(json!(scale).to_string()),
        ));
        written.cannot_hold(
            "actions outside of [-1, 1]",
            format!("`{UNSCALED}`; those in `{ACTIONS}` are divided by `action_scale`"),
        );
    }
    if outgoing
        .steps()
        .column_with_name(step::ACTION_SOURCE)
        .is_some()
    {
        written.cannot_hold(
            "`action_source`",
            format!(
                "{} of each demonstration",
                arrays::source_names(outgoing, PROXY)
            ),
        );
    }
    file.group("data", attributes)?;
    let text = envelope.text()?;
    file.array(
        &format!("{PREFIX}{}", envelope::ENVELOPE),
        Element::Plain(DataType::UInt8),
        &[text.len() as u64],
        text.as_bytes(),
    )?;
    file.finish()?;
    written.cannot_hold(
        "the identity of trajectories, and how each ended",
        format!("the attribute `{OURS}` of each demonstration"),
    );
    Ok(written)
}

/// Returns the name of the array that a column without a fixed meaning becomes. A column that is
/// named as a part of the observation becomes one.
fn array_of(column: &str, steps: &Schema) -> Result<String> {
    let field = steps.field_with_name(column)?;
    let part = column
        .strip_prefix("observation")
        .and_then(|rest| rest.strip_prefix(['.', '/']));
    let part = part
        .filter(|part| !part.is_empty() && !matches!(field.data_type(), DataType::Struct(_)))
        .map(|part| part.replace('/', "."));
    if let Some(part) = part {
        let own = match steps.field_with_name(step::OBSERVATION)?.data_type() {
            DataType::Struct(parts) => parts.iter().any(|own| *own.name() == part),
            _ => part == step::OBSERVATION,
        };
        if !own {
            return Ok(format!("{PART}{part}"));
        }
    }
    // The names of robomimic's own arrays are reserved.
    let reserved = ["obs", "next_obs", ACTIONS, UNSCALED, "rewards", "dones"].contains(&column)
        || column.starts_with(PART)
        || column.starts_with("next_obs/");
    Ok(if reserved {
        format!("source_{column}")
    } else {
        column.to_owned()
    })
}

fn unread(column: &str) -> Error {
    Error::failed(format!("the column `{column}` was not read"))
}

/// Returns the divisor of each dimension of the actions; `None` if all actions are between -1
/// and 1.
fn scale(outgoing: &OutgoingDataset) -> Result<Option<Vec<f64>>> {
    let mut scale: Vec<f64> = Vec::new();
    for trajectory in outgoing.pass(Some(&[step::ACTION]))? {
        let action = trajectory?
            .column(step::ACTION)
            .ok_or_else(|| unread(step::ACTION))?;
        let (values, width) = elements(&action)?;
        scale.resize(width, 1.0);
        for (index, value) in values.values().iter().enumerate() {
            // `max` ignores NaN.
            scale[index % width] = scale[index % width].max(value.abs());
        }
    }
    Ok(scale.iter().any(|scale| *scale > 1.0).then_some(scale))
}

/// Writes one demonstration. Its columns are those of `schema` once `frames` has decoded them. Each
/// of `extras` is the name of an array, its column, and the arrays of its fields.
fn demonstration(
    file: &mut Hdf5Writer,
    trajectory: &OutgoingTrajectory,
    (schema, frames): (&Schema, &mut LateFrames),
    extras: &[(String, String, Vec<arrays::PlainArray>)],
    scale: Option<&[f64]>,
) -> Result<()> {
    let group = format!("data/demo_{}", trajectory.index);
    let whole = |name: &str| {
        trajectory
            .steps
            .column_by_name(name)
            .ok_or_else(|| unread(name))
    };
    let mut put = |file: &mut Hdf5Writer, name: &str, field: &Field, values: &ArrayRef| {
        let name = format!("{group}/{name}");
        arrays::write_frames(file, &name, field, values, trajectory, frames)
    };
    let field = schema.field_with_name(step::OBSERVATION)?;
    // The fields of a struct have names. A single vector needs one.
    let (obs, next_obs) = match field.data_type() {
        DataType::Struct(_) => ("obs", "next_obs"),
        _ => ("obs/observation", "next_obs/observation"),
    };
    let observation = whole(step::OBSERVATION)?;
    let length = trajectory.length;
    put(file, obs, field, &observation.slice(0, length))?;
    put(file, next_obs, field, &trajectory.following(observation)?)?;
    let action = whole(step::ACTION)?.slice(0, length);
    let field = schema.field_with_name(step::ACTION)?;
    if let Some(scale) = scale {
        arrays::write_column(file, &format!("{group}/{UNSCALED}"), field, &action)?;
        let (values, width) = elements(&action)?;
        let scaled = Float64Array::from_iter_values(
            values
                .values()
                .iter()
                .enumerate()
                .map(|(index, value)| value / scale[index % width]),
        );
        let mut bytes = Vec::new();
        arrays::append(&scaled, &mut bytes)?;
        file.array(
            &format!("{group}/{ACTIONS}"),
            Element::Plain(DataType::Float64),
            &[length as u64, width as u64],
            &bytes,
        )?;
    } else {
        arrays::write_column(file, &format!("{group}/{ACTIONS}"), field, &action)?;
    }
    if let Ok(field) = schema.field_with_name(step::REWARD) {
        arrays::write_column(
            file,
            &format!("{group}/rewards"),
            field,
            &whole(step::REWARD)?.slice(0, length),
        )?;
    }
    let terminated = whole(step::TERMINATED)?.as_boolean();
    let dones: ArrayRef = Arc::new(Int64Array::from_iter_values(
        (0..length).map(|row| i64::from(terminated.value(row))),
    ));
    arrays::write_column(
        file,
        &format!("{group}/dones"),
        &Field::new("dones", DataType::Int64, false),
        &dones,
    )?;
    for (name, column, fields) in extras {
        let values = whole(column)?;
        let field = schema.field_with_name(column)?;
        if name.starts_with(PART) {
            put(file, name, field, &values.slice(0, length))?;
            let following = trajectory.following(values)?;
            put(file, &format!("next_{name}"), field, &following)?;
        } else if field.data_type() != values.data_type() {
            put(file, name, field, values)?;
        } else {
            for plain in fields {
                arrays::write_array(file, &format!("{group}/{}", plain.name), plain, values)?;
            }
        }
        // A validity array must not be under `obs`, where the loader takes everything for an
        // observation.
        let name = if name.starts_with(PART) { column } else { name };
        if field.is_nullable() {
            let valid: ArrayRef = Arc::new(BooleanArray::from_iter(
                (0..values.len()).map(|row| Some(values.is_valid(row))),
            ));
            arrays::write_column(
                file,
                &format!("{group}/{name}_valid"),
                &Field::new("valid", DataType::Boolean, false),
                &valid,
            )?;
        }
    }
    let proxies = format!("{group}/{PROXY}");
    arrays::write_sources(file, &proxies, trajectory, trajectory.steps.num_rows())?;
    let line = serde_json::to_string(&envelope::line(trajectory)?)
        .map_err(|error| Error::failed(error.to_string()))?;
    let mut attributes = vec![
        ("num_samples".to_owned(), Attribute::Int(length as i64)),
        (OURS.to_owned(), Attribute::Text(line)),
    ];
    if let Some(model) = trajectory.text("model_file") {
        attributes.push(("model_file".to_owned(), Attribute::Text(model.to_owned())));
    }
    if let Some(task) = task(trajectory) {
        // robomimic's language-conditioned loaders look for the instruction here.
        let mut about: Map<String, Value> = trajectory
            .text("ep_meta")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        about.insert("lang".to_owned(), Value::from(task));
        let text = Value::Object(about).to_string();
        attributes.push(("ep_meta".to_owned(), Attribute::Text(text)));
    }
    file.group(&group, attributes)?;
    file.close(&group)
}

/// Returns the instruction of a trajectory: the text of its column `task`, or the one that all its
/// steps have.
fn task(trajectory: &OutgoingTrajectory) -> Option<&str> {
    let own = trajectory.text(schema::trajectory::TASK);
    own.or_else(|| {
        let steps = trajectory.steps.column_by_name(schema::trajectory::TASK)?;
        let mut texts = steps.as_string_opt::<i32>()?.iter().take(trajectory.length);
        let first = texts.next().flatten()?;
        texts.all(|text| text == Some(first)).then_some(first)
    })
}
