//! What stands at the path of a result, and how it compares with the result that is wanted there.

use std::collections::BTreeMap;
use std::path::Path;

use crate::dataset::manifest::{Lineage, Statistics};
use crate::dataset::{Ancestor, Ancestry, Dataset, Manifest, files, layout};
use crate::error::wording::shell_word;
use crate::error::{Error, Result};
use crate::format;
use crate::plan::Fingerprint;

/// What stands at the path of a wanted result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Existing {
    /// Nothing.
    Nothing,
    /// The wanted result: it was made from the same inputs.
    Same,
    /// A result of trajmill that was made from different inputs.
    Different {
        /// The inputs that differ, a line each.
        changes: Vec<String>,
        /// Totals over the result; `None` if it does not tell them.
        statistics: Option<Box<Statistics>>,
    },
    /// Something that trajmill did not write.
    Unknown,
}

/// What a result says of its origin.
pub(super) struct Origin {
    /// Hash of everything that the result depends on.
    pub(super) key: String,
    /// Everything that the result depends on, by name.
    pub(super) inputs: BTreeMap<String, String>,
    /// Totals over the result; `None` if it does not tell them.
    pub(super) statistics: Option<Box<Statistics>>,
}

impl Existing {
    /// Compares the origin of what stands at a path with `wanted`. `None` stands for something that
    /// trajmill did not write.
    pub(super) fn compare(origin: Option<Origin>, wanted: &Fingerprint) -> Existing {
        match origin {
            None => Existing::Unknown,
            Some(origin) if origin.key == wanted.key() => Existing::Same,
            Some(origin) => Existing::Different {
                changes: wanted.changes_since(&origin.inputs),
                statistics: origin.statistics,
            },
        }
    }

    /// Returns the totals over a result that was made from different inputs, if it tells them.
    pub(super) fn statistics(self) -> Option<Box<Statistics>> {
        match self {
            Existing::Different { statistics, .. } => statistics,
            Existing::Nothing | Existing::Same | Existing::Unknown => None,
        }
    }
}

/// Returns whether anything is at `path`. A link that leads nowhere counts.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(super) fn is_taken(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if files::is_absent(&error) => Ok(false),
        Err(error) => Err(files::unreadable(path, &error)),
    }
}

/// Compares what stands at `path` with the result that depends on `wanted`.
///
/// # Errors
/// Returns an error if the manifest or the note of origin cannot be read, is damaged, or has a
/// newer format. No option replaces such a result, because it may be anything.
pub(crate) fn existing(path: &Path, wanted: &Fingerprint) -> Result<Existing> {
    if !is_taken(path)? {
        return Ok(Existing::Nothing);
    }
    let origin = origin(path).map_err(|error| {
        let aside = path.with_added_extension("old");
        error.hint(format!(
            "to write there nevertheless, move it aside (`mv {} {}`) and run the same command \
             again",
            shell_word(path),
            shell_word(&aside)
        ))
    })?;
    Ok(Existing::compare(origin, wanted))
}

/// Returns what the dataset or export at `path` says of its origin; `None` if trajmill did not
/// write it.
///
/// # Errors
/// Returns an error if a manifest or note exists that cannot be read or is damaged.
pub(super) fn origin(path: &Path) -> Result<Option<Origin>> {
    if let Some(bytes) = files::read_if_present(&layout::manifest(path))? {
        let manifest = Manifest::parse(&bytes).map_err(|error| error.at(path.display()))?;
        return Ok(Some(Origin {
            key: manifest.fingerprint,
            inputs: manifest.lineage.inputs,
            statistics: Some(Box::new(manifest.statistics)),
        }));
    }
    let Some(note) = format::origin(path)? else {
        return Ok(None);
    };
    let note: Note = serde_json::from_value(note).map_err(|error| {
        damaged(path, &error).hint("write to another path, or remove the damaged output")
    })?;
    Ok(Some(Origin {
        key: note.fingerprint,
        inputs: note.inputs,
        statistics: serde_json::from_value(note.written_from["statistics"].clone()).ok(),
    }))
}

fn damaged(path: &Path, error: &serde_json::Error) -> Error {
    let path = path.display();
    Error::failed(format!("{path}: the note of origin is damaged: {error}"))
}

/// Returns the datasets that the foreign dataset at `path` was exported from, as far as its note of
/// origin tells.
///
/// # Errors
/// Returns an error if there is a note that cannot be read or is damaged.
pub(crate) fn ancestry(path: &Path) -> Result<Ancestry> {
    Ok(lineage(path)?
        .map(|(_, ancestry)| ancestry)
        .unwrap_or_default())
}

/// Returns what the note of origin of the foreign dataset at `path` says of the export and of the
/// datasets that it was made from; `None` if there is no note.
///
/// # Errors
/// Returns an error if there is a note that cannot be read or is damaged.
pub(crate) fn lineage(path: &Path) -> Result<Option<(Ancestor, Ancestry)>> {
    #[derive(serde::Deserialize)]
    struct Exported {
        tool: String,
        lineage: Lineage,
    }
    let Some(note) = format::origin(path)? else {
        return Ok(None);
    };
    let read = || -> Result<(Note, Exported), serde_json::Error> {
        let note: Note = serde_json::from_value(note)?;
        let exported = serde_json::from_value(note.written_from.clone())?;
        Ok((note, exported))
    };
    let (note, exported) = read().map_err(|error| {
        damaged(path, &error).hint("remove the note to use the files without their origin")
    })?;
    let mut ancestry = Ancestry::default();
    if let Some(hash) = &note.manifest {
        let lineage = &exported.lineage;
        ancestry.add(hash, lineage.ancestor(&exported.tool), &lineage.ancestry);
    }
    let tool = note.inputs.get("tool").unwrap_or(&exported.tool);
    let own = Ancestor {
        tool: tool.clone(),
        by: "export".to_owned(),
        sources: ancestry.sources.clone(),
        inputs: note.inputs,
    };
    Ok(Some((own, ancestry)))
}

/// What a result in a foreign format, which has no manifest, says of its origin.
#[derive(serde::Serialize, serde::Deserialize)]
struct Note {
    fingerprint: String,
    inputs: BTreeMap<String, String>,
    /// The blake3 hash of the manifest of the dataset that was exported. Older versions did not
    /// record it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    manifest: Option<String>,
    /// That manifest, without its shards.
    written_from: serde_json::Value,
}

/// Returns what a result in a foreign format is to say of its origin, as JSON.
///
/// # Errors
/// Returns an error if a part cannot be written as JSON, which does not happen in practice.
pub(crate) fn note(fingerprint: &Fingerprint, dataset: &Dataset) -> Result<String> {
    let failed = |error: serde_json::Error| {
        Error::failed(format!("cannot record the origin of the export: {error}"))
    };
    let mut written_from = serde_json::to_value(dataset.manifest.as_ref()).map_err(failed)?;
    if let Some(manifest) = written_from.as_object_mut() {
        manifest.remove("shards");
    }
    let note = Note {
        fingerprint: fingerprint.key(),
        inputs: fingerprint.inputs.clone(),
        manifest: Some(dataset.hash.clone()),
        written_from,
    };
    serde_json::to_string_pretty(&note).map_err(failed)
}
