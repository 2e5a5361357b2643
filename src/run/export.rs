//! Exports a dataset to a foreign format: the work behind `trajmill export`, and behind an output
//! in a foreign format.

use std::path::{Path, PathBuf};

use super::Observer;
use crate::commit::{self, Claim, Staging, Wanted};
use crate::dataset::Dataset;
use crate::dataset::manifest::TOOL;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::plan::Fingerprint;
use crate::transfer::write::{self, WriteOptions, Writer, Written};

/// A dataset to export.
pub(crate) struct Export {
    /// The dataset.
    pub dataset: Dataset,
    /// The format to write.
    pub format: &'static Format,
    /// Options of the format.
    pub options: WriteOptions,
    /// Whether the export may replace one that was made from different inputs.
    pub overwrite: bool,
}

impl Export {
    /// Writes the file or directory `output`. Returns what the format cannot hold; `None` if the
    /// output is there and up to date.
    ///
    /// # Errors
    /// Returns an error if something else stands at the path, the format cannot hold the dataset,
    /// files cannot be read or written, or the user wants to stop. Nothing is left behind then.
    pub(crate) fn run(&self, output: &Path, observer: Observer) -> Result<Option<Written>> {
        let writer = self.format.writes(&self.options)?;
        self.dataset.verify_videos()?;
        let fingerprint = self.fingerprint()?;
        let claim = commit::claim(&Wanted {
            overwrite: self.overwrite,
            ..Wanted::new(output, &fingerprint)
        })?;
        let staging = match claim {
            Claim::UpToDate => return Ok(None),
            Claim::Conflict(conflict) => {
                return Err(conflict.into_error(Some("pass `--overwrite`")));
            }
            Claim::Granted(staging) => staging,
        };
        let written = write(
            writer,
            self.dataset.clone(),
            &self.options,
            &fingerprint,
            &staging,
            &Progress {
                name: &output.display().to_string(),
                resume: "run the same command again: the export starts over",
                observer,
            },
        );
        let (sealed, written) = match written {
            Ok(written) => written,
            // An export starts over, so an unfinished one is not kept.
            Err(error) => return Err(staging.abandon(error)),
        };
        staging.publish(&sealed)?;
        Ok(Some(written))
    }

    /// Everything that the export depends on.
    fn fingerprint(&self) -> Result<Fingerprint> {
        let mut fingerprint = Fingerprint::default();
        fingerprint.set("tool", TOOL);
        fingerprint.set("source", &self.dataset.hash);
        if let Some(decoded) = &self.dataset.decoded {
            fingerprint.set("frames", decoded.by.depends());
        }
        let options = serde_json::to_string(&self.options)
            .map_err(|error| Error::failed(error.to_string()))?;
        fingerprint.set("export", format!("{} {options}", self.format.name));
        Ok(fingerprint)
    }
}

/// How an export reports its progress.
pub(super) struct Progress<'a> {
    /// Name of the export.
    pub(super) name: &'a str,
    /// What the user can do after an interruption.
    pub(super) resume: &'a str,
    /// Receives the progress.
    pub(super) observer: Observer<'a>,
}

/// Writes `dataset` in a foreign format into `staging`. Returns its path there and what the format
/// cannot hold.
///
/// # Errors
/// Returns an error if the format cannot hold the dataset, files cannot be read or written, or the
/// user wants to stop.
pub(super) fn write(
    writer: &Writer,
    dataset: Dataset,
    options: &WriteOptions,
    fingerprint: &Fingerprint,
    staging: &Staging,
    progress: &Progress,
) -> Result<(PathBuf, Written)> {
    let Progress {
        name,
        resume,
        observer,
    } = progress;
    let options = WriteOptions {
        note: commit::note(fingerprint, &dataset)?,
        ..options.clone()
    };
    let path = staging.export(&fingerprint.key())?;
    let rows = dataset.rows();
    let watch = |read: Option<u64>| {
        match read {
            None => observer.watch.begin(name, rows),
            Some(rows) => observer.watch.advance(rows),
        }
        observer.go_on(|| {
            Error::interrupted(format!("interrupted: nothing was written to {name}")).hint(*resume)
        })
    };
    let written = write::export(writer, dataset, &path, &options, &watch);
    observer.watch.end();
    Ok((path, written.map_err(|error| error.at(name))?))
}
