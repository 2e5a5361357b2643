//! Checks robomimic's HDF5 against the rules of its loader.

use std::path::Path;

use arrow::array::Array;
use serde_json::{Map, Value};

use super::{ACTIONS, FORMAT, elements};
use crate::container::hdf5;
use crate::error::{Error, Result};
use crate::inspect::Findings;
use crate::transfer::read::Options;

/// The rules of robomimic's loader that reading does not show: actions between -1 and 1, counts, masks, the environment.
pub(super) fn validate(path: &Path, findings: &mut Findings) -> Result<()> {
    FORMAT.read_through(path, &Options::default(), findings);
    let Ok(data) = hdf5::open(path).and_then(|file| {
        file.group("data")
            .map_err(|error| Error::failed(error.to_string()))
    }) else {
        return Ok(());
    };
    let mut said = Map::new();
    hdf5::attributes(&data, &mut said);
    let env: Option<Value> = said
        .get("env_args")
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok());
    if env.is_none_or(|env| env["env_name"].as_str().is_none() || env["type"].as_u64().is_none()) {
        findings.error("env-args", "data", "the attribute `env_args` is not JSON with `env_name` and `type`: the loader needs both");
    }
    let mut total = 0;
    let mut demos: Vec<(String, hdf5::Group)> = hdf5::groups(&data)?.into_iter().collect();
    demos.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, group) in &demos {
        let place = format!("data/{name}");
        let mut attributes = Map::new();
        hdf5::attributes(group, &mut attributes);
        let Some((_, action)) = group.dataset(ACTIONS).ok().and_then(|dataset| {
            hdf5::column(&dataset, ACTIONS, &mut hdf5::all_rows)
                .ok()
                .flatten()
        }) else {
            findings.error(
                "no-action",
                &place,
                "there are no `actions`, which the loader needs",
            );
            continue;
        };
        total += action.len() as u64;
        // A count that is another than that of the rows was found by reading.
        if attributes
            .get("num_samples")
            .and_then(Value::as_u64)
            .is_none()
        {
            let message = format!(
                "`num_samples` is missing, from which the loader takes the length: it is {}",
                action.len()
            );
            findings.error("num-samples", &place, message);
        }
        let (values, width) = elements(&action)?;
        if let Some(at) = values.values().iter().position(|value| value.abs() > 1.0) {
            let message = format!(
                "{} at step {} is outside of [-1, 1], which robomimic's policies cannot give: scale the actions",
                values.value(at),
                at / width
            );
            findings.error("action-range", &place, message);
        }
    }
    if said
        .get("total")
        .and_then(Value::as_u64)
        .is_some_and(|said| said != total)
    {
        findings.error(
            "total",
            "data",
            format!("`total` is {}, and there are {total} steps", said["total"]),
        );
    }
    Ok(())
}
