//! Publishes a trained model: its report and pictures first, the model itself last, each in one
//! step.
//!
//! So a model that is there is whole, and the files beside it are its own. The one exception is a
//! kill between the files of a model that replaces another: the recipe in its metadata and the
//! `recipe` of the report then differ, and the next run writes all of them again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::claim::{Claim, Wanted};
use super::existing::{Existing, Origin, is_taken};
use super::outside::outside_datasets;
use super::staging;
use crate::dataset::{files, layout, store};
use crate::error::{Error, Result};
use crate::plan::{Fingerprint, Training};
use crate::train::{self, Fitted};

/// Keys in the metadata of a model file: the hash of everything that the model depends on, and the
/// same by name, as JSON.
const RECIPE: [&str; 2] = ["trajmill.recipe", "trajmill.inputs"];
/// The ending that the name of a model's report adds to the name of the model.
const REPORT: &str = "report.json";
/// Names of all pictures that a model can have.
const PICTURES: [&str; 3] = ["loss", "scatter", "calibration"];

/// A model file that this run may write.
#[derive(Debug)]
pub(crate) struct ModelFile<'a> {
    path: &'a Path,
    fingerprint: &'a Fingerprint,
}

/// Claims the path of a model. `fresh` asks to train it again even if it is up to date.
///
/// # Errors
/// Returns an error if what stands at the path cannot be read, if a file beside the model would
/// have too long a name, if the path is inside a dataset, or if a stale staging directory beside
/// the model cannot be removed.
pub(crate) fn claim_model(training: &Training, fresh: bool) -> Result<Claim<ModelFile<'_>>> {
    refuse_long_names(&training.path)?;
    outside_datasets(&training.path)?;
    let wanted = Wanted {
        overwrite: training.stage.overwrite,
        fresh,
        ..Wanted::new(&training.path, &training.fingerprint)
    };
    Ok(
        match wanted.decide(&existing_model(&training.path, &training.fingerprint)?)? {
            Claim::UpToDate => {
                staging::remove_stale(&training.path)?;
                Claim::UpToDate
            }
            Claim::Conflict(conflict) => Claim::Conflict(conflict),
            Claim::Granted(_) => Claim::Granted(ModelFile {
                path: &training.path,
                fingerprint: &training.fingerprint,
            }),
        },
    )
}

/// Compares what stands at `path` with the model that depends on `wanted`.
///
/// # Errors
/// Returns an error if what stands there cannot be read.
pub(crate) fn existing_model(path: &Path, wanted: &Fingerprint) -> Result<Existing> {
    if is_taken(path)? {
        Ok(Existing::compare(origin(path)?, wanted))
    } else {
        Ok(Existing::Nothing)
    }
}

/// Reads the model that is at the path of `training` and up to date.
///
/// # Errors
/// Returns an error if the file cannot be read, it is not the model that is up to date, or it is
/// damaged.
pub(crate) fn read_model(training: &Training) -> Result<Vec<u8>> {
    let (path, key) = (&training.path, training.fingerprint.key());
    let bytes = files::read(path)
        .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
    if origin_in(path, &bytes)?.is_none_or(|origin| origin.key != key) {
        let message = format!(
            "the model {} was replaced while it was read",
            path.display()
        );
        return Err(Error::failed(message).hint("run the command again"));
    }
    // A kill while this model replaced another may have left the report of the other.
    let report = files::read_if_present(&beside(path, REPORT))?;
    let report: Option<Value> = report.and_then(|text| serde_json::from_slice(&text).ok());
    let said = report.filter(|report| report["recipe"] == key.as_str());
    let hash = blake3::hash(&bytes).to_hex();
    if said.is_some_and(|report| report["model_blake3"] != hash.as_str()) {
        let message = format!(
            "{} is damaged: its hash is not the one in its report",
            path.display()
        );
        return Err(Error::failed(message).hint("run with `--fresh` to train the model again"));
    }
    Ok(bytes)
}

/// Returns what the model file at `path` says of its origin; `None` if `train_idm` did not write
/// it.
fn origin(path: &Path) -> Result<Option<Origin>> {
    if files::is_dir(path)? {
        return Ok(None);
    }
    let Some(bytes) = files::read_if_present(path)? else {
        return Ok(None);
    };
    origin_in(path, &bytes)
}

/// Returns what the bytes of the model file at `path` say of its origin; `None` if `train_idm` did
/// not write it.
fn origin_in(path: &Path, bytes: &[u8]) -> Result<Option<Origin>> {
    // A file that is not ONNX is not a model of `train_idm`.
    let Ok(metadata) = train::metadata(bytes) else {
        return Ok(None);
    };
    let [Some(key), Some(inputs)] = RECIPE.map(|name| metadata.get(name)) else {
        return Ok(None);
    };
    let inputs = serde_json::from_str(inputs).map_err(|error| {
        Error::failed(format!(
            "{}: `{}` in the metadata is damaged: {error}",
            path.display(),
            RECIPE[1]
        ))
        .hint("write to another path, or remove the damaged model")
    })?;
    Ok(Some(Origin {
        key: key.clone(),
        inputs,
        statistics: None,
    }))
}

/// Verifies that all files beside the model at `path` can have their names.
fn refuse_long_names(path: &Path) -> Result<()> {
    let pictures = PICTURES.map(|name| format!("{name}.svg"));
    for what in pictures.iter().map(String::as_str).chain([REPORT]) {
        let beside = beside(path, what);
        let name = beside.file_name().unwrap_or_default();
        if name.len() > layout::LONGEST_NAME {
            return Err(Error::failed(format!(
                "the name of {} is too long: the file that ends in `.{what}` beside it would have \
                 a name of {} bytes, and the longest has {}",
                path.display(),
                name.len(),
                layout::LONGEST_NAME
            ))
            .hint("give the model a shorter name"));
        }
    }
    Ok(())
}

/// Returns the path of the file `NAME.what` beside the model `NAME.onnx`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(".");
    name.push(what);
    path.with_file_name(name)
}

impl ModelFile<'_> {
    /// Writes a trained model with its report and pictures. `metadata` goes into the model file,
    /// whose bytes are returned.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written. The model file is then as it was.
    pub(crate) fn publish(
        self,
        fitted: &Fitted,
        mut metadata: BTreeMap<String, String>,
    ) -> Result<Vec<u8>> {
        let (key, inputs) = (self.fingerprint.key(), json!(self.fingerprint.inputs));
        let recipe = [key.clone(), inputs.to_string()];
        metadata.extend(RECIPE.map(str::to_owned).into_iter().zip(recipe));
        let model = train::write(&fitted.model, &metadata);
        let head = Map::from_iter([
            ("recipe".to_owned(), Value::String(key)),
            (
                "model_blake3".to_owned(),
                Value::String(blake3::hash(&model).to_hex().to_string()),
            ),
            ("inputs".to_owned(), inputs),
        ]);
        let pictures = train::pictures(&fitted.report)?;
        store::create_dir(layout::folder(self.path))?;
        for name in PICTURES {
            let picture = beside(self.path, &format!("{name}.svg"));
            match pictures.iter().find(|(own, _)| *own == name) {
                Some((_, text)) => store::replace(&picture, text.as_bytes())?,
                None => store::remove_file(&picture)?,
            }
        }
        let report = fitted.report.to_json(&head);
        store::replace(&beside(self.path, REPORT), report.as_bytes())?;
        store::replace(self.path, &model)?;
        Ok(model)
    }
}
