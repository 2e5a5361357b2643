//! Verifies what Minari's loader requires beyond readable episodes: the metadata, and its totals.

use std::path::Path;

use serde_json::{Map, Value};

use super::{FORMAT, MAIN_FILE, metadata_folder, read_object, spaces};
use crate::container::hdf5;
use crate::error::Result;
use crate::error::wording::count;
use crate::inspect::Findings;
use crate::transfer::read::Options;

/// The versions of datasets that Minari 0.5 loads.
const VERSIONS: [&str; 2] = ["0.4.", "0.5."];

/// Verifies the Minari dataset at `path`.
pub(crate) fn validate(path: &Path, findings: &mut Findings) -> Result<()> {
    let Some(folder) = metadata_folder(path)? else {
        findings.error(
            "metadata",
            path.display().to_string(),
            "data/metadata.json is missing or damaged: download or write the dataset again",
        );
        return Ok(());
    };
    let place = folder.join("metadata.json").display().to_string();
    let metadata = match read_object(&folder.join("metadata.json")) {
        Ok(metadata) => metadata,
        Err(error) => {
            findings.error("metadata", place, error.to_string());
            return Ok(());
        }
    };
    validate_metadata(&metadata, findings, &place);
    let (episodes, steps) = (findings.trajectories, findings.rows);
    FORMAT.read_through(path, &Options::default(), findings);
    let total = |key: &str| metadata.get(key).and_then(Value::as_u64);
    let (episodes, rows) = (findings.trajectories - episodes, findings.rows - steps);
    // An episode has one more row than steps if its final observation is known.
    if let Some(declared) =
        total("total_steps").filter(|declared| *declared + episodes < rows || *declared > rows)
    {
        findings.error(
            "total-steps",
            place.as_str(),
            format!(
                "`total_steps` is {declared}, but {} and {} were read: correct the number, or \
                 download what is missing",
                count(episodes, "episode"),
                count(rows, "row")
            ),
        );
    }
    if let (Some(declared), Ok(file)) =
        (total("total_episodes"), hdf5::open(&folder.join(MAIN_FILE)))
    {
        let found = hdf5::groups(&file.root(), &hdf5::all)?
            .keys()
            .filter(|name| name.starts_with("episode_"))
            .count() as u64;
        if found != declared {
            let message = format!(
                "`total_episodes` is {declared}, but the file has {}, and the loader relies on \
                 the number: correct it",
                count(found, "episode")
            );
            findings.error("total-episodes", place, message);
        }
    }
    Ok(())
}

/// Verifies what the loader requires of the metadata.
fn validate_metadata(metadata: &Map<String, Value>, findings: &mut Findings, place: &str) {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    match text("minari_version") {
        Some(version) if VERSIONS.iter().any(|known| version.starts_with(known)) => {}
        other => findings.error(
            "version",
            place,
            format!(
                "`minari_version` is {}, but loaders accept 0.4 and 0.5: correct it, or write the \
                 dataset again",
                other.unwrap_or("missing")
            ),
        ),
    }
    if text("dataset_id").is_none() {
        findings.error(
            "dataset-id",
            place,
            "`dataset_id` is missing, which the loader needs as the name of the dataset: add it",
        );
    }
    for key in ["observation_space", "action_space"] {
        match text(key) {
            None if text("env_spec").is_some() => {}
            None => findings.error(
                "space",
                place,
                format!(
                    "`{key}` is missing, and there is no `env_spec` to derive it from: add one of \
                     them, as text"
                ),
            ),
            Some(space) => {
                if let Err(error) = spaces::parse(space) {
                    findings.error(
                        "space",
                        place,
                        format!(
                            "`{key}` is not a space in JSON: {}: correct it",
                            error.message
                        ),
                    );
                }
            }
        }
    }
}
