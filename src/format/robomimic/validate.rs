//! Validates robomimic's HDF5 against the rules of its loader.

use std::path::Path;

use arrow::array::Array;
use serde_json::{Map, Value};

use super::{ACTIONS, FORMAT, elements};
use crate::container::hdf5;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::inspect::Findings;
use crate::transfer::read::{Options, groups};

/// Adds the faults of the file or the folder of files at `path` to `findings`: those of its steps,
/// actions below -1 or above 1, wrong counts, and a missing environment.
///
/// # Errors
/// Returns an error if the demonstrations or their actions cannot be read.
pub(super) fn validate(path: &Path, findings: &mut Findings) -> Result<()> {
    FORMAT.read_through(path, &Options::default(), findings);
    let (files, _) = groups::hdf5_files(path)?;
    for file in &files {
        let place = |name: &str| match file == path {
            true => name.to_owned(),
            false => format!("{}: {name}", file.display()),
        };
        validate_file(file, &place, findings)?;
    }
    Ok(())
}

/// Adds the faults of the file at `path` to `findings`; `place` names a group of the file.
fn validate_file(
    path: &Path,
    place: &dyn Fn(&str) -> String,
    findings: &mut Findings,
) -> Result<()> {
    let data = hdf5::open(path).and_then(|file| {
        hdf5::member(&file.root(), "data")?.ok_or_else(|| Error::failed("there is no group `data`"))
    });
    let data = match data {
        Ok(data) => data,
        // That has been reported.
        Err(_) if findings.errors > 0 => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut attributes = Map::new();
    hdf5::attributes(&data, &mut attributes)?;
    let env: Option<Value> = attributes
        .get("env_args")
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok());
    if env.is_none_or(|env| env["env_name"].as_str().is_none() || env["type"].as_u64().is_none()) {
        findings.error(
            "env-args",
            place("data"),
            "the attribute `env_args` must be JSON with `env_name` and `type`: the loader needs \
             both",
        );
    }
    let mut total = 0;
    let mut demonstrations: Vec<(String, hdf5::Group)> =
        hdf5::groups(&data, &hdf5::all)?.into_iter().collect();
    demonstrations.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, group) in &demonstrations {
        let place = place(&format!("data/{name}"));
        let mut attributes = Map::new();
        hdf5::attributes(group, &mut attributes)?;
        let array = hdf5::array(group, ACTIONS).ok().flatten();
        let Some((_, action)) = array.and_then(|dataset| {
            hdf5::column(&dataset, ACTIONS, &mut hdf5::all_rows)
                .ok()
                .flatten()
        }) else {
            findings.error(
                "no-action",
                &place,
                "there is no array `actions`: the loader needs it",
            );
            continue;
        };
        total += action.len() as u64;
        // Reading the demonstration has found a count that differs from the number of rows.
        if attributes
            .get("num_samples")
            .and_then(Value::as_u64)
            .is_none()
        {
            let message = format!(
                "the attribute `num_samples` is missing: the loader needs it, and it should be {}",
                number(action.len())
            );
            findings.error("num-samples", &place, message);
        }
        let (values, width) = elements(&action)?;
        if let Some(at) = values.values().iter().position(|value| value.abs() > 1.0) {
            let message = format!(
                "the action at step {} has a value of {}, outside of [-1, 1]: scale the actions, \
                 because policies of robomimic cannot predict it",
                at / width,
                values.value(at)
            );
            findings.error("action-range", &place, message);
        }
    }
    let declared = attributes.get("total").and_then(Value::as_u64);
    if let Some(declared) = declared.filter(|declared| *declared != total) {
        findings.error(
            "total",
            place("data"),
            format!(
                "the attribute `total` is {}, but there are {}",
                number(declared),
                count(total, "step")
            ),
        );
    }
    Ok(())
}
