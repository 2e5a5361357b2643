//! The staging directory: where a run prepares the result that it publishes.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Journal;
use super::existing::origin;
use crate::dataset::manifest::Statistics;
use crate::dataset::{Manifest, files, layout, store};
use crate::error::{Error, Result};

/// A staging directory that this run holds. Its files are described in [`crate::dataset::layout`].
#[derive(Debug)]
pub(crate) struct Staging {
    /// The path of the result.
    output: PathBuf,
    directory: PathBuf,
    /// Whether the result replaces what stands at its path when it is published.
    replaces: bool,
    /// Totals over the result that stands at its path and is replaced, if it tells them.
    replaced: Option<Box<Statistics>>,
    /// The hint about the work that stays here if the result cannot be published; `None` if no
    /// later run resumes it.
    kept: Option<&'static str>,
    /// Held until the staging directory is gone.
    _lock: File,
}

impl Staging {
    /// Locks the staging directory of `output` and creates it if necessary. Of what an earlier run
    /// left there, work towards the results with the fingerprints `keys` stays; the rest is
    /// removed.
    ///
    /// # Errors
    /// Returns an error if another run holds the lock, if files cannot be created or removed, or if
    /// another user's directory or a link is in the way.
    pub(crate) fn lock(output: &Path, keys: &[String]) -> Result<Staging> {
        let directory = layout::staging(output);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let holder = format!("process {} on {}", std::process::id(), host.trim());
        let lock = loop {
            store::take_dir(&directory)?;
            match store::lock(&directory.join("lock"), &holder) {
                // A run that finished in this moment took the directory with it.
                Err(_) if !files::exists(&directory)? => {}
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
                .hint("wait for it to finish, or write to another path")
        })?;
        let staging = Staging {
            output: output.to_owned(),
            directory,
            replaces: false,
            replaced: None,
            kept: None,
            _lock: lock,
        };
        staging.discard_all_but(keys)?;
        store::refuse_links(&staging.directory)?;
        Ok(staging)
    }

    /// Says whether the result replaces what stands at its path when it is published, and the
    /// totals over a different result that stands there.
    pub(super) fn replacing(
        mut self,
        replaces: bool,
        replaced: Option<Box<Statistics>>,
    ) -> Staging {
        self.replaces = replaces;
        self.replaced = replaced;
        self
    }

    /// Returns the totals over the different result that is replaced; `None` if there is none or it
    /// does not tell them.
    pub(crate) fn replaced(&self) -> Option<&Statistics> {
        self.replaced.as_deref()
    }

    /// Says that a later run resumes the work that is left here: `kept` tells the user how.
    pub(super) fn keeping(mut self, kept: Option<&'static str>) -> Staging {
        self.kept = kept;
        self
    }

    fn discard_all_but(&self, keys: &[String]) -> Result<()> {
        let kept: Vec<PathBuf> = keys
            .iter()
            .map(|key| layout::work(&self.directory, key))
            .chain([self.directory.join("lock")])
            .collect();
        let entries = files::list(&self.directory)
            .map_err(|error| files::unreadable(&self.directory, &error))?;
        for entry in entries.iter().filter(|entry| !kept.contains(entry)) {
            store::remove(entry)?;
        }
        Ok(())
    }

    /// Returns the directory of the dataset with the fingerprint `key`.
    pub(crate) fn dataset(&self, key: &str) -> PathBuf {
        layout::work(&self.directory, key).join("dataset")
    }

    /// Returns a folder for data that does not fit in memory.
    pub(crate) fn scratch(&self) -> &Path {
        &self.directory
    }

    /// Returns the path of the export with the fingerprint `key`, after removing what a killed run
    /// left there.
    ///
    /// # Errors
    /// Returns an error if the leftovers cannot be removed or the parent directory cannot be
    /// created.
    pub(crate) fn export(&self, key: &str) -> Result<PathBuf> {
        let work = layout::work(&self.directory, key);
        store::create_dir(&work)?;
        let export = work.join("output");
        store::remove(&export)?;
        Ok(export)
    }

    /// Opens the journal of the dataset with the fingerprint `key`, which lists the tasks that an
    /// earlier run finished.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read or written.
    pub(crate) fn journal(&self, key: &str) -> Result<Journal> {
        let dataset = self.dataset(key);
        store::create_dir(&dataset.join("steps"))?;
        store::create_dir(&dataset.join("trajectories"))?;
        Journal::open(
            &layout::work(&self.directory, key).join("journal.jsonl"),
            &dataset,
        )
    }

    /// Seals the dataset with the fingerprint `key`: writes its manifest and makes everything
    /// durable, but not visible.
    ///
    /// # Errors
    /// Returns an error if the manifest cannot be written.
    pub(crate) fn seal(&self, key: &str, manifest: &Manifest) -> Result<PathBuf> {
        let dataset = self.dataset(key);
        // One step, so that a manifest is whole if it is there: an import without one is
        // unfinished.
        store::replace(&layout::manifest(&dataset), &manifest.to_bytes()?)?;
        Ok(dataset)
    }

    /// Makes a sealed result visible at the path of the output and removes the staging directory.
    ///
    /// # Errors
    /// Returns an error if something has appeared at the path that may not be replaced, or if the
    /// rename fails; work that the next run cannot resume is then removed. Returns an error that
    /// says that the result is published if only the steps after that fail.
    pub(crate) fn publish(self, sealed: &Path) -> Result<()> {
        if let Err(error) = self.reveal(sealed) {
            return Err(match self.kept {
                Some(kept) => error.hint(kept),
                None => self.abandon(error),
            });
        }
        let output = self.output.clone();
        store::sync_dir(layout::folder(&output))
            .and_then(|()| self.discard())
            .map_err(|error| published(&output, error))
    }

    fn reveal(&self, sealed: &Path) -> Result<()> {
        if store::publish(sealed, &self.output)? {
            return Ok(());
        }
        // What stands there now may not be what the claim saw.
        if !self.replaces || origin(&self.output)?.is_none() {
            return Err(Error::failed(format!(
                "something else appeared at {} during the run",
                self.output.display()
            ))
            .hint("remove it and run the same command again"));
        }
        store::exchange(sealed, &self.output)
    }

    /// Removes the staging directory with everything in it. The lock goes last: until then no other
    /// run works here, and what another run creates afterwards is its own.
    ///
    /// # Errors
    /// Returns an error if a file cannot be removed.
    pub(crate) fn discard(self) -> Result<()> {
        self.discard_all_but(&[])?;
        store::remove(&self.directory.join("lock"))?;
        store::remove_empty(&self.directory)
    }

    /// Removes the staging directory because of `error`, and returns the error: for work that the
    /// next run cannot resume.
    #[must_use]
    pub(crate) fn abandon(self, error: Error) -> Error {
        // What cannot be removed now, the next run removes. The user needs to know why the work
        // failed.
        let _ = self.discard();
        error
    }
}

impl Drop for Staging {
    /// Removes the staging directory of a run that fails before it did any work.
    fn drop(&mut self) {
        let lock = self.directory.join("lock");
        if files::list(&self.directory)
            .is_ok_and(|entries| entries.iter().all(|entry| *entry == lock))
        {
            // If this fails, an empty directory remains, which the next run takes.
            let _ = store::remove(&self.directory);
        }
    }
}

/// Returns `error` with the fact that the result at `output` is published nevertheless.
pub(crate) fn published(output: &Path, error: Error) -> Error {
    Error {
        message: format!("{} is published, but {}", output.display(), error.message),
        ..error
    }
    .hint("the result is complete; the same command removes what is left beside it")
}

/// Removes the staging directory of `output`, whose result is up to date, unless another run holds
/// it or it is not a directory of this user.
pub(super) fn remove_stale(output: &Path) -> Result<()> {
    if files::is_dir(&layout::staging(output))?
        && let Ok(staging) = Staging::lock(output, &[])
    {
        staging
            .discard()
            .map_err(|error| published(output, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_holds_the_directory_and_leaves_nothing_without_work() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("result");
        let staging = Staging::lock(&output, &[]).unwrap();
        let refused = Staging::lock(&output, &[]).unwrap_err().message;
        let holder = format!("is being written by process {}", std::process::id());
        assert!(refused.contains(&holder), "{refused}");
        drop(staging);
        assert!(!layout::staging(&output).exists());
    }

    #[test]
    fn work_stays_for_the_run_that_resumes_it() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("result");
        let (kept, other) = ("a".repeat(64), "b".repeat(64));
        let staging = Staging::lock(&output, &[]).unwrap();
        for key in [&kept, &other] {
            store::create_dir(&staging.dataset(key)).unwrap();
        }
        drop(staging);
        let staging = Staging::lock(&output, std::slice::from_ref(&kept)).unwrap();
        assert!(staging.dataset(&kept).exists() && !staging.dataset(&other).exists());
        // A directory that a run holds is not stale.
        remove_stale(&output).unwrap();
        assert!(staging.dataset(&kept).exists());
        drop(staging);
        remove_stale(&output).unwrap();
        assert!(!layout::staging(&output).exists());
    }
}
