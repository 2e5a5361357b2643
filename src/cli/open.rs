//! Opens what `info`, `sql` and `diff` read: a trajmill dataset, or a dataset in any other format,
//! which is imported into a temporary directory first.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::progress::{self, Busy};
use super::{interruptible, print};
use crate::dataset::store::TemporaryDir;
use crate::dataset::{Dataset, files, layout, source_name};
use crate::error::{Error, Result};
use crate::format;
use crate::run::Observer;
use crate::run::import::Import;
use crate::transfer::read::Options;
use crate::video::Videos;

/// Rows per shard of a temporary import.
const SHARD_ROWS: u64 = 250_000;

/// A dataset that a command reads.
pub(super) struct Opened {
    /// The dataset.
    pub(super) dataset: Dataset,
    /// How it was imported; `None` if it is a trajmill dataset.
    pub(super) foreign: Option<Foreign>,
}

/// The temporary import of a dataset in a foreign format.
pub(super) struct Foreign {
    /// Whether the user wants the command to stop.
    pub(super) interrupted: Arc<AtomicBool>,
    /// The directory of the import.
    _directory: TemporaryDir,
}

/// Opens the dataset at `path`.
///
/// # Errors
/// Returns an error if nothing is there, if it is in no format that can be read without options, or
/// if the user stops the import.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let own = files::exists(&layout::manifest(path))?;
    if own || !files::exists(path)? {
        return Ok(Opened {
            dataset: Dataset::open(path)?,
            foreign: None,
        });
    }
    let format = format::resolve(None, path, &Options::default()).map_err(|error| {
        let place = path.display();
        Error {
            hints: Vec::new(),
            ..error
        }
        .hint(format!(
            "{place} has no dataset.json, so it is not a trajmill dataset"
        ))
        .hint(format!(
            "`trajmill import {place} NAME --from FORMAT` reads it as a named format"
        ))
    })?;
    let advice = |error: Error| {
        error.hint(format!(
            "`trajmill import {} NAME` has options for how to read it",
            path.display()
        ))
    };
    let import = {
        let _busy = Busy::with(format!("hashing {}", path.display()));
        // Videos stay where they are: the dataset lives as long as this command.
        let videos = if format.has_videos() {
            Videos::Reference
        } else {
            Videos::default()
        };
        let options = Options {
            videos,
            ..Options::default()
        };
        Import::new(path, Some(format.name), options, SHARD_ROWS).map_err(advice)?
    };
    let directory = TemporaryDir::create()?;
    print::say(&format!(
        "{}: read as {} and imported into a temporary directory; to save this time, import it once \
         with `trajmill import`",
        path.display(),
        format.name
    ));
    let interrupted = interruptible()?;
    let progress = progress::shown();
    let observer = Observer {
        watch: &*progress,
        interrupted: &interrupted,
    };
    let name = source_name(path);
    let target = directory.path().join("dataset");
    import.run(&target, observer).map_err(advice)?;
    let dataset = Dataset::open(&target)?;
    Ok(Opened {
        dataset: Dataset {
            name: name.unwrap_or_else(|| dataset.name.clone()),
            ..dataset
        },
        foreign: Some(Foreign {
            interrupted,
            _directory: directory,
        }),
    })
}
