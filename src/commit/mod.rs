//! Publishing: a result is visible whole or not at all.
//!
//! A run works in a staging directory beside its output ([`crate::dataset::layout`]). Every finished task is durable
//! before the journal says so; the manifest is written last; one rename makes the result visible, and is synced before
//! anyone is told. Whatever a crash leaves is either the old state or the new one, and a journal from which the next
//! run goes on. The order of effects:
//!
//! ```text
//! shard files synced → directories synced → journal line synced → … → dataset.json synced
//!   → directory synced → renamed to the output → parent synced → staging removed
//! ```
//!
//! This module moves finished files; it does not know how they came about.

mod journal;
mod model;

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::dataset::{Manifest, layout, store};
use crate::error::{Error, Result};
use crate::format;
use crate::plan::Fingerprint;

pub use journal::{Finished, Journal};
pub use model::{existing_model, publish_model};

/// What stands at an output's path.
#[derive(Debug)]
pub enum Existing {
    /// Nothing.
    Nothing,
    /// A result with this fingerprint and what it was made of.
    Result {
        /// Its fingerprint.
        key: String,
        /// What it depends on, by name.
        inputs: std::collections::BTreeMap<String, String>,
    },
    /// Something that this tool did not make.
    Foreign,
}

/// Looks at what stands at the output's path.
///
/// # Errors
/// Where it cannot be read.
pub fn existing(output: &Path) -> Result<Existing> {
    if std::fs::symlink_metadata(output).is_err() {
        return Ok(Existing::Nothing);
    }
    if let Ok(bytes) = std::fs::read(layout::manifest(output)) {
        let manifest = Manifest::parse(&bytes).map_err(|error| error.at(output.display()))?;
        return Ok(Existing::Result {
            key: manifest.fingerprint,
            inputs: manifest.lineage.inputs,
        });
    }
    let note = format::origin(output).and_then(|note| serde_json::from_value::<Note>(note).ok());
    Ok(note.map_or(Existing::Foreign, |note| Existing::Result {
        key: note.fingerprint,
        inputs: note.inputs,
    }))
}

/// What an output of a foreign format says of its origin.
#[derive(serde::Serialize, serde::Deserialize)]
struct Note {
    fingerprint: String,
    inputs: std::collections::BTreeMap<String, String>,
    /// The manifest of the dataset that was written, less its shards.
    written_from: serde_json::Value,
}

/// What an output of a foreign format, which has no manifest, is to say of its origin: JSON.
///
/// # Errors
/// Never in practice: every part has a JSON form.
pub fn note(fingerprint: &Fingerprint, manifest: &Manifest) -> Result<String> {
    let failed = |error: serde_json::Error| {
        Error::failed(format!("cannot keep the origin of the output: {error}"))
    };
    let mut written_from = serde_json::to_value(manifest).map_err(failed)?;
    if let Some(manifest) = written_from.as_object_mut() {
        manifest.remove("shards");
    }
    let note = Note {
        fingerprint: fingerprint.key(),
        inputs: fingerprint.inputs.clone(),
        written_from,
    };
    serde_json::to_string_pretty(&note).map_err(failed)
}

/// A staging directory that this run holds.
#[derive(Debug)]
pub struct Staging {
    output: PathBuf,
    directory: PathBuf,
    /// Held until the staging directory is gone.
    _lock: File,
}

impl Staging {
    /// Takes the staging directory of `output`; of what an earlier run left there, work towards the results `keys` is
    /// kept, the rest removed.
    ///
    /// # Errors
    /// Where another run holds it; the message says which.
    pub fn claim(output: &Path, keys: &[String]) -> Result<Staging> {
        let directory = layout::staging(output);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let holder = format!("process {} on {}", std::process::id(), host.trim());
        let lock = loop {
            store::create_dir(&directory)?;
            match store::lock(&directory.join("lock"), &holder) {
                // A run that was just done took the directory with it.
                Err(_) if !directory.exists() => {}
                locked => break locked?,
            }
        };
        let lock = lock.map_err(|other| {
            let other = if other.is_empty() {
                "another run".to_owned()
            } else {
                other
            };
            Error::failed(format!("{} is being written by {other}", output.display()))
                .hint("wait for it to end, or write to another path")
        })?;
        let staging = Staging {
            output: output.to_owned(),
            directory,
            _lock: lock,
        };
        staging.discard_all_but(keys)?;
        Ok(staging)
    }

    fn discard_all_but(&self, keys: &[String]) -> Result<()> {
        let kept: Vec<PathBuf> = keys
            .iter()
            .map(|key| layout::work(&self.directory, key))
            .chain([self.directory.join("lock")])
            .collect();
        let entries = std::fs::read_dir(&self.directory).map_err(|error| {
            Error::failed(format!("cannot read {}: {error}", self.directory.display()))
        })?;
        for entry in entries
            .flatten()
            .filter(|entry| !kept.contains(&entry.path()))
        {
            store::remove(&entry.path())?;
        }
        Ok(())
    }

    /// Where the result with the fingerprint `key` is put together.
    pub fn dataset(&self, key: &str) -> PathBuf {
        layout::work(&self.directory, key).join("dataset")
    }

    /// Where the result with the fingerprint `key` is written in a foreign format; what a killed run left there is removed.
    ///
    /// # Errors
    /// Where it cannot be removed, or its folder not made.
    pub fn foreign(&self, key: &str) -> Result<PathBuf> {
        let work = layout::work(&self.directory, key);
        store::create_dir(&work)?;
        let output = work.join("output");
        store::remove(&output)?;
        Ok(output)
    }

    /// Opens the journal of the result with the fingerprint `key`, with what an earlier run finished of it.
    ///
    /// # Errors
    /// Where it cannot be read or written.
    pub fn journal(&self, key: &str) -> Result<Journal> {
        let dataset = self.dataset(key);
        store::create_dir(&dataset.join("steps"))?;
        store::create_dir(&dataset.join("trajectories"))?;
        Journal::open(
            &layout::work(&self.directory, key).join("journal.jsonl"),
            &dataset,
        )
    }

    /// Seals the result with the fingerprint `key`: its manifest is written and everything is durable, but not visible.
    ///
    /// # Errors
    /// Where the manifest cannot be written.
    pub fn seal(&self, key: &str, manifest: &Manifest) -> Result<PathBuf> {
        let dataset = self.dataset(key);
        // In one step, so that a manifest that is there is whole: an import that was killed here is found undone.
        store::replace(&layout::manifest(&dataset), &manifest.to_bytes()?)?;
        Ok(dataset)
    }

    /// Makes a sealed result visible at the output's path and removes the staging directory.
    ///
    /// # Errors
    /// Where the output has come to exist meanwhile and is not to be replaced, or the rename fails.
    pub fn publish(self, sealed: &Path, overwrite: bool) -> Result<()> {
        if !store::publish(sealed, &self.output)? {
            // It may not be what was there when the run began.
            if !overwrite || matches!(existing(&self.output)?, Existing::Foreign) {
                return Err(Error::failed(format!(
                    "{} has come to exist while the run worked",
                    self.output.display()
                ))
                .hint("remove it and run the same command again: the work is kept"));
            }
            store::exchange(sealed, &self.output)?;
        }
        store::sync_dir(layout::folder(&self.output))?;
        self.discard()
    }

    /// Removes the staging directory with all work in it. The lock goes last: until then no other run works here, and what
    /// one puts there afterwards is its own.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn discard(self) -> Result<()> {
        self.discard_all_but(&[])?;
        store::remove(&self.directory.join("lock"))?;
        store::remove_empty(&self.directory)
    }
}

impl Drop for Staging {
    /// A run that fails before there is any work to go on from leaves nothing behind.
    fn drop(&mut self) {
        let is_lock = |entry: std::fs::DirEntry| entry.file_name() == "lock";
        if std::fs::read_dir(&self.directory)
            .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_lock)))
        {
            // What cannot be removed is an empty directory, which the next run takes.
            let _ = store::remove(&self.directory);
        }
    }
}
