//! The rules of Minari's loader that reading does not show: what its metadata must say, and whether it is true.

use std::path::Path;

use serde_json::{Map, Value};

use super::{FORMAT, MAIN, data, object, spaces};
use crate::container::hdf5;
use crate::error::Result;
use crate::inspect::Findings;
use crate::transfer::read::Options;

/// Versions whose datasets Minari 0.5 takes.
const VERSIONS: [&str; 2] = ["0.4.", "0.5."];

pub(crate) fn validate(path: &Path, findings: &mut Findings) -> Result<()> {
    let Some(folder) = data(path)? else {
        findings.error(
            "metadata",
            path.display().to_string(),
            "there is no data/metadata.json: download or write the dataset again",
        );
        return Ok(());
    };
    let place = folder.join("metadata.json").display().to_string();
    let metadata = match object(&folder.join("metadata.json")) {
        Ok(metadata) => metadata,
        Err(error) => {
            findings.error("metadata", place, error.to_string());
            return Ok(());
        }
    };
    described(&metadata, findings, &place);
    let (episodes, steps) = (findings.trajectories, findings.rows);
    FORMAT.read_through(path, &Options::default(), findings);
    let number = |key: &str| metadata.get(key).and_then(Value::as_u64);
    let (episodes, rows) = (findings.trajectories - episodes, findings.rows - steps);
    // Each episode has a row more than steps, where its last observation is known.
    if let Some(said) = number("total_steps").filter(|said| *said + episodes < rows || *said > rows)
    {
        findings.error(
            "total-steps",
            place.as_str(),
            format!("`total_steps` is {said}, and there are {rows} rows in {episodes} episodes"),
        );
    }
    if let (Some(said), Ok(file)) = (number("total_episodes"), hdf5::open(&folder.join(MAIN))) {
        let there = hdf5::groups(&file.root())?
            .keys()
            .filter(|name| name.starts_with("episode_"))
            .count() as u64;
        if there != said {
            let message = format!(
                "`total_episodes` is {said}, and there are {there} groups of episodes: the loader takes the number at its word"
            );
            findings.error("total-episodes", place, message);
        }
    }
    Ok(())
}

/// What the loader asks of the metadata before it opens anything.
fn described(metadata: &Map<String, Value>, findings: &mut Findings, place: &str) {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    match text("minari_version") {
        Some(version) if VERSIONS.iter().any(|known| version.starts_with(known)) => {}
        other => findings.error(
            "version",
            place,
            format!("`minari_version` is {}, and loaders take 0.4 and 0.5: write it, or the dataset, again", other.unwrap_or("missing")),
        ),
    }
    if text("dataset_id").is_none() {
        findings.error(
            "dataset-id",
            place,
            "`dataset_id` is missing: the loader names the dataset by it",
        );
    }
    for key in ["observation_space", "action_space"] {
        match text(key) {
            None if text("env_spec").is_some() => {}
            None => findings.error(
                "space",
                place,
                format!("`{key}` is missing, and no `env_spec` says it: the loader needs one of them, as text"),
            ),
            Some(space) => {
                if let Err(error) = spaces::parse(space) {
                    findings.error("space", place, format!("`{key}` is not the JSON of a space: {}", error.message));
                }
            }
        }
    }
}
