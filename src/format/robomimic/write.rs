//! Writes robomimic's HDF5, a demonstration after the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Value, json};

use super::{ACTIONS, OURS, PART, PREFIX, PROXY, UNSCALED, elements};
use crate::container::hdf5::{Attribute, Element, Hdf5Writer};
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope::{self, Envelope};
use crate::transfer::write::arrays;
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};

/// Writes the dataset as the file `to`.
///
/// # Errors
/// Where observations or actions are no arrays of numbers, the dataset cannot be read or the file not written.
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
                "robomimic needs `{name}`, and the dataset has no column `{column}`"
            ))
        })?;
        if arrays::plain(field, name).is_none() {
            return Err(Error::failed(format!(
                "robomimic cannot hold `{column}` of type {}",
                field.data_type()
            )));
        }
    }
    let scale = scale(outgoing)?;
    let mut columns = BTreeMap::new();
    let mut extras = Vec::new();
    let mut left = Vec::new();
    for column in arrays::extras(outgoing.steps()) {
        let mut name = array_of(&column, outgoing.steps())?;
        // Several columns may come to one name, as `observation.a/b` and `observation.a.b` do.
        while extras
            .iter()
            .any(|(taken, ..): &(String, _, _)| *taken == name)
        {
            name = format!("source_{name}");
        }
        match arrays::plain(outgoing.steps().field_with_name(&column)?, &name) {
            Some(parts) => {
                if name != column {
                    columns.insert(name.clone(), column.clone());
                }
                extras.push((name, column, parts));
            }
            None => left.push(column),
        }
    }
    arrays::left(&mut written, &left);
    let envelope = Envelope::new(outgoing, options, columns, &mut written);
    let said = &outgoing.manifest().lineage.source_metadata;
    let mut file = Hdf5Writer::create(to)?;
    let mut masks: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        for (field, column) in leaving
            .about
            .schema()
            .fields()
            .iter()
            .zip(leaving.about.columns())
        {
            let member = column
                .as_boolean_opt()
                .is_some_and(|member| member.is_valid(0) && member.value(0));
            if let Some(name) = field.name().strip_prefix("mask_").filter(|_| member) {
                masks
                    .entry(name.to_owned())
                    .or_default()
                    .push(leaving.index);
            }
        }
        demo(&mut file, &leaving, &extras, scale.as_deref())?;
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
    let env = match (&options.env, said.get("env_args").and_then(Value::as_str)) {
        (Some(env), _) => json!({"env_name": env, "type": 2, "env_kwargs": {}}).to_string(),
        (None, Some(said)) => said.to_owned(),
        (None, None) => json!({"env_name": "", "type": 2, "env_kwargs": {}}).to_string(),
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
        written.moved(
            "actions outside of [-1, 1]",
            format!("`{UNSCALED}`; `{ACTIONS}` has them divided by `action_scale`"),
        );
    }
    if outgoing
        .steps()
        .column_with_name(step::ACTION_SOURCE)
        .is_some()
    {
        written.moved(
            "`action_source`",
            format!("`{PROXY}` of each demonstration"),
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
    written.moved(
        "how each trajectory ended, identity of trajectories",
        format!("the attribute `{OURS}` of each demonstration"),
    );
    Ok(written)
}

/// Name of the array that a column without a fixed meaning becomes: that of a part of the observation where it is called one.
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
    // A demonstration's own names are not for columns of ours.
    let taken = ["obs", "next_obs", ACTIONS, UNSCALED, "rewards", "dones"].contains(&column)
        || column.starts_with(PART)
        || column.starts_with("next_obs/");
    Ok(if taken {
        format!("source_{column}")
    } else {
        column.to_owned()
    })
}

/// What each dimension of actions is to be divided by; `None` where all are between -1 and 1.
fn scale(outgoing: &OutgoingDataset) -> Result<Option<Vec<f64>>> {
    let mut scale: Vec<f64> = Vec::new();
    for leaving in outgoing.pass(Some(&[step::ACTION]))? {
        let action = leaving?
            .column(step::ACTION)
            .ok_or_else(|| Error::failed("a column was not read"))?;
        let (values, width) = elements(&action)?;
        scale.resize(width, 1.0);
        for (index, value) in values.values().iter().enumerate() {
            // What is not a number bounds nothing.
            scale[index % width] = scale[index % width].max(value.abs());
        }
    }
    Ok(scale.iter().any(|scale| *scale > 1.0).then_some(scale))
}

fn demo(
    file: &mut Hdf5Writer,
    leaving: &OutgoingTrajectory,
    extras: &[(String, String, Vec<arrays::PlainArray>)],
    scale: Option<&[f64]>,
) -> Result<()> {
    let group = format!("data/demo_{}", leaving.index);
    let whole = |name: &str| {
        leaving
            .steps
            .column_by_name(name)
            .ok_or_else(|| Error::failed("a column was not read"))
    };
    let schema = leaving.steps.schema();
    let field = schema.field_with_name(step::OBSERVATION)?;
    // Its own observations have names; a single vector gets one.
    let (obs, next_obs) = match field.data_type() {
        DataType::Struct(_) => ("obs", "next_obs"),
        _ => ("obs/observation", "next_obs/observation"),
    };
    let observation = whole(step::OBSERVATION)?;
    let length = leaving.length;
    arrays::array(
        file,
        &format!("{group}/{obs}"),
        field,
        &observation.slice(0, length),
    )?;
    arrays::array(
        file,
        &format!("{group}/{next_obs}"),
        field,
        &leaving.following(observation)?,
    )?;
    let action = whole(step::ACTION)?.slice(0, length);
    let field = schema.field_with_name(step::ACTION)?;
    if let Some(scale) = scale {
        arrays::array(file, &format!("{group}/{UNSCALED}"), field, &action)?;
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
        arrays::array(file, &format!("{group}/{ACTIONS}"), field, &action)?;
    }
    if let Ok(field) = schema.field_with_name(step::REWARD) {
        arrays::array(
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
    arrays::array(
        file,
        &format!("{group}/dones"),
        &Field::new("dones", DataType::Int64, false),
        &dones,
    )?;
    for (name, column, parts) in extras {
        let values = whole(column)?;
        let field = schema.field_with_name(column)?;
        if name.starts_with(PART) {
            arrays::array(
                file,
                &format!("{group}/{name}"),
                field,
                &values.slice(0, length),
            )?;
            arrays::array(
                file,
                &format!("{group}/next_{name}"),
                field,
                &leaving.following(values)?,
            )?;
        } else {
            for plain in parts {
                arrays::one(file, &format!("{group}/{}", plain.name), plain, values)?;
            }
        }
        // Beside what is under a name of ours: whatever is under `obs` is an observation.
        let name = if name.starts_with(PART) { column } else { name };
        if field.is_nullable() {
            let valid: ArrayRef = Arc::new(BooleanArray::from_iter(
                (0..values.len()).map(|row| Some(values.is_valid(row))),
            ));
            arrays::array(
                file,
                &format!("{group}/{name}_valid"),
                &Field::new("valid", DataType::Boolean, false),
                &valid,
            )?;
        }
    }
    if let Some(proxy) = arrays::proxy(leaving, leaving.steps.num_rows()) {
        arrays::array(
            file,
            &format!("{group}/{PROXY}"),
            &Field::new(PROXY, DataType::Boolean, false),
            &proxy,
        )?;
    }
    let line = serde_json::to_string(&envelope::line(leaving)?)
        .map_err(|error| Error::failed(error.to_string()))?;
    let mut attributes = vec![
        ("num_samples".to_owned(), Attribute::Int(length as i64)),
        (OURS.to_owned(), Attribute::Text(line)),
    ];
    if let Some(model) = leaving.text("model_file") {
        attributes.push(("model_file".to_owned(), Attribute::Text(model.to_owned())));
    }
    file.group(&group, attributes)?;
    file.close(&group)
}
