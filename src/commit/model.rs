//! Publishing a learnt model: its report and pictures first, the model itself last, each in one step.
//!
//! So a model that is there is whole, and what lies beside it is its own, unless a kill came between the files of a model
//! that replaces another: its metadata and the report's `recipe` then differ, and the next run writes all of them again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Existing;
use crate::dataset::store;
use crate::error::Result;
use crate::plan::{Fingerprint, Training};
use crate::train::{self, Fitted};

/// What the file's metadata calls the key of all that the model depends on, and what it depends on by name, as JSON.
const RECIPE: [&str; 2] = ["trajmill.recipe", "trajmill.inputs"];
/// Every picture that there can be.
const PICTURES: [&str; 3] = ["loss", "scatter", "calibration"];

/// Looks at what stands at a model's path.
///
/// # Errors
/// Where it cannot be read.
pub fn existing_model(path: &Path) -> Result<Existing> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(Existing::Nothing);
    }
    let Ok(file) = std::fs::read(path) else {
        return Ok(Existing::Foreign);
    };
    let Ok(metadata) = train::metadata(&file) else {
        return Ok(Existing::Foreign);
    };
    let [key, inputs] = RECIPE.map(|name| metadata.get(name));
    let inputs = inputs.and_then(|inputs| serde_json::from_str(inputs).ok());
    match (key, inputs) {
        (Some(key), Some(inputs)) => Ok(Existing::Result {
            key: key.clone(),
            inputs,
        }),
        _ => Ok(Existing::Foreign),
    }
}

/// The file `NAME.what` beside the model `NAME.onnx`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!("{stem}.{what}"))
}

/// Writes a learnt model with its report and pictures.
///
/// # Errors
/// Where a file cannot be written; the model is then as it was.
pub fn publish_model(training: &Training, fitted: &Fitted) -> Result<()> {
    let path = &training.path;
    let Fingerprint { inputs } = &training.fingerprint;
    let own = [training.fingerprint.key(), json!(inputs).to_string()];
    let mut metadata: BTreeMap<String, String> = training.stage.metadata();
    metadata.extend(RECIPE.map(str::to_owned).into_iter().zip(own));
    let model = train::write(&fitted.model, &metadata);
    let head = Map::from_iter([
        (
            "recipe".to_owned(),
            Value::String(training.fingerprint.key()),
        ),
        (
            "model_blake3".to_owned(),
            Value::String(blake3::hash(&model).to_hex().to_string()),
        ),
        ("inputs".to_owned(), json!(inputs)),
    ]);
    let pictures = train::pictures(&fitted.report)?;
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        store::create_dir(parent)?;
    }
    for name in PICTURES {
        match pictures.iter().find(|(own, _)| *own == name) {
            Some((_, text)) => {
                store::replace(&beside(path, &format!("{name}.svg")), text.as_bytes())?
            }
            None => store::remove(&beside(path, &format!("{name}.svg")))?,
        }
    }
    store::replace(
        &beside(path, "report.json"),
        fitted.report.to_json(&head).as_bytes(),
    )?;
    store::replace(path, &model)
}
