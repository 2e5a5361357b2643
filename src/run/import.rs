//! Imports a foreign dataset: the work behind `trajmill import`, and behind a source in a foreign
//! format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Observer;
use super::report::too_many;
use crate::commit::{self, Claim, Staging, Wanted};
use crate::dataset::manifest::{Lineage, TOOL};
use crate::dataset::{Account, Ancestry, Dataset, Decode, SourceContent, source_name, store};
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::format::{self, Format};
use crate::inspect::Checked;
use crate::plan::{Fingerprint, by_reference, stored_frames};
use crate::transfer::read::quarantine::{self, SetAside};
use crate::transfer::read::task::SET_TASK;
use crate::transfer::read::videos::Owned;
use crate::transfer::read::{NonFinite, OnError, Options, Source, import};
use crate::video::{self, Frames, TOLERANCE, Videos};

/// Name of the fingerprint's input that identifies the content of the source.
const SOURCE: &str = "source";

/// A foreign dataset to import.
pub(crate) struct Import {
    source: PathBuf,
    format: &'static Format,
    options: Options,
    shard_rows: u64,
    fingerprint: Fingerprint,
    content: SourceContent,
}

/// What an import did.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The new dataset.
    pub dataset: Dataset,
    /// The trajectories that were set aside.
    pub aside: SetAside,
}

impl Imported {
    /// Verifies that no more than `allowed` trajectories were set aside.
    ///
    /// # Errors
    /// Returns an error of the kind [`ErrorKind::Checks`](crate::error::ErrorKind::Checks) if more
    /// were set aside.
    pub(crate) fn within_allowance(&self, allowed: u64) -> Result<()> {
        if self.aside.trajectories <= allowed {
            return Ok(());
        }
        Err(too_many(self.aside.trajectories, allowed)
            .hint("all others are imported; pass `--allowed N` to accept up to N bad trajectories"))
    }
}

impl Import {
    /// Prepares the import of `source`, whose format is detected if `format` is `None`. This hashes
    /// the source, which takes a while if it is large. `shard_rows` is the number of rows that a
    /// shard aims at.
    ///
    /// # Errors
    /// Returns an error if the format is unknown or does not take `options`, or if the source
    /// cannot be read.
    pub(crate) fn new(
        source: &Path,
        format: Option<&str>,
        options: Options,
        shard_rows: u64,
    ) -> Result<Import> {
        let format = format::resolve(format, source, &options)?;
        format.accepts(&options)?;
        let mut fingerprint = Fingerprint::default();
        fingerprint.set("tool", TOOL);
        let content = SourceContent::of(source)?;
        fingerprint.set(SOURCE, content.hash());
        fingerprint.set("format", format.name);
        fingerprint.set("shard_rows", shard_rows.to_string());
        if format.has_videos() && options.videos != Videos::Reference {
            fingerprint.set("videos", "owned");
        }
        for (name, value) in options.depends()? {
            fingerprint.set(name, value);
        }
        Ok(Import {
            source: source.to_owned(),
            format,
            options,
            shard_rows,
            fingerprint,
            content,
        })
    }

    /// Writes the dataset to the directory `dataset`. Returns `None` if it is there and up to date.
    ///
    /// # Errors
    /// Returns an error if something else stands at the path, the source is damaged, files cannot
    /// be written, or the user wants to stop. Nothing is left behind then.
    pub(crate) fn run(&self, dataset: &Path, observer: Observer) -> Result<Option<Imported>> {
        let staging = match commit::claim(&Wanted::new(dataset, &self.fingerprint))? {
            Claim::UpToDate => return Ok(None),
            Claim::Conflict(conflict) => return Err(conflict.into_error(None)),
            Claim::Granted(staging) => staging,
        };
        let (sealed, aside) = match self.write(dataset, &staging, observer) {
            Ok(written) => written,
            // An import starts over, so an unfinished one is not kept.
            Err(error) => return Err(staging.abandon(error)),
        };
        staging.publish(&sealed)?;
        Ok(Some(Imported {
            dataset: Dataset::open(dataset).map_err(|error| commit::published(dataset, error))?,
            aside,
        }))
    }

    fn write(
        &self,
        dataset: &Path,
        staging: &Staging,
        observer: Observer,
    ) -> Result<(PathBuf, SetAside)> {
        let options = self.options.with_scratch(staging.scratch());
        let (mut source, frames) = self.open(&options)?;
        let name = source_name(&self.source).unwrap_or_default();
        Job {
            name: &name,
            progress: &dataset.display().to_string(),
            format: self.format.name,
            fingerprint: &self.fingerprint,
            content: Some(&self.content),
            shard_rows: self.shard_rows,
            on_error: self.options.on_error,
            non_finite: Some(self.options.non_finite),
            videos: self.options.videos,
            frames,
            imports: &[],
            ancestry: commit::ancestry(&self.source)?,
        }
        .run(source.as_mut(), staging, observer)
    }

    /// Opens the source. Its steps refer to frames also where these are to be stored.
    fn open(&self, options: &Options) -> Result<Opened> {
        let source = self.format.open(&self.source, options)?;
        let kind = options.frames.kind;
        if kind == Frames::Reference {
            return Ok((source, None));
        }
        // The files are looked for, as they are for frames.
        let referring = Options {
            videos: Videos::Link,
            ..by_reference(options)
        };
        let referring = self.format.open(&self.source, &referring)?;
        match stored_frames(&source.schema(), &referring.schema()) {
            Some(fields) => {
                let content = self.content.clone();
                let tolerance = options.frames.tolerance.unwrap_or(TOLERANCE);
                let by = video::of_folder(&self.source, content, kind, &fields, tolerance)?;
                Ok((referring, Some(by)))
            }
            None => Ok((source, None)),
        }
    }
}

/// An open source, and what decodes the frames that its steps refer to, if they are to be stored.
type Opened = (Box<dyn Source>, Option<Arc<dyn Decode>>);

/// How an open source becomes a dataset in a staging directory.
pub(super) struct Job<'a> {
    /// Name of the source.
    pub(super) name: &'a str,
    /// Name of the import in the progress.
    pub(super) progress: &'a str,
    /// Name of the source's format.
    pub(super) format: &'a str,
    /// Everything that the dataset depends on.
    pub(super) fingerprint: &'a Fingerprint,
    /// The content that the fingerprint covers; `None` if the source verifies what it reads.
    pub(super) content: Option<&'a SourceContent>,
    /// Rows that a shard aims at.
    pub(super) shard_rows: u64,
    /// What to do with a bad trajectory.
    pub(super) on_error: OnError,
    /// What to do with numbers that are not finite; `None` if trajectories are not verified,
    /// because the source is a dataset of trajmill.
    pub(super) non_finite: Option<NonFinite>,
    /// How the dataset gets the videos that its rows refer to.
    pub(super) videos: Videos,
    /// What decodes the frames that the source refers to, if they are stored.
    pub(super) frames: Option<Arc<dyn Decode>>,
    /// The accounts of the imports that led to the source, if it is a dataset of trajmill.
    pub(super) imports: &'a [Account],
    /// The datasets that the source was made from.
    pub(super) ancestry: Ancestry,
}

impl Job<'_> {
    /// Writes and seals the dataset. Returns its directory and the trajectories that were set
    /// aside.
    ///
    /// # Errors
    /// Returns an error if the source is damaged, files cannot be written, or the user wants to
    /// stop.
    pub(super) fn run(
        &self,
        source: &mut dyn Source,
        staging: &Staging,
        observer: Observer,
    ) -> Result<(PathBuf, SetAside)> {
        let frames = self.frames.clone();
        let mut owned = Owned::new(source, self.content, self.videos, frames);
        let mut checked;
        let source: &mut dyn Source = match self.non_finite {
            Some(non_finite) => {
                checked = Checked::new(&mut owned, non_finite);
                &mut checked
            }
            None => &mut owned,
        };
        let key = self.fingerprint.key();
        let content = self.fingerprint.inputs.get(SOURCE);
        observer
            .watch
            .begin(self.progress, source.rows().unwrap_or(0));
        let imported = import::Import {
            name: self.name,
            fingerprint: content.map_or("", String::as_str),
            root: &staging.dataset(&key),
            shard_rows: self.shard_rows,
            on_error: self.on_error,
            frames: self.frames.clone(),
            progress: &|rows| {
                observer.watch.advance(rows);
                observer.go_on(|| {
                    Error::interrupted(format!(
                        "interrupted: nothing was imported from {}",
                        self.name
                    ))
                    .hint("run the same command again: the import starts over")
                })
            },
        }
        .run(source);
        observer.watch.end();
        // A source that was replaced may have failed for that reason alone.
        if let Some(content) = self.content {
            content.ensure_unchanged()?;
        }
        let imported = imported?;
        let source_metadata = source.metadata();
        let aside = imported.aside.clone();
        let quarantine = quarantine_hash(&staging.dataset(&key), aside.trajectories)?;
        let mut imports = self.imports.to_vec();
        if !imported.account.is_empty() {
            imports.push(imported.account.clone());
        }
        let lineage = Lineage {
            by: format!("import {}", self.format),
            inputs: self.fingerprint.inputs.clone(),
            ancestry: self.ancestry.clone(),
            source_metadata,
            imports,
            set_aside: aside.trajectories,
            quarantine,
            ..Lineage::default()
        };
        let videos = owned.bring(&imported.videos, &staging.dataset(&key))?;
        let sealed = staging.seal(&key, &imported.manifest(&key, videos, lineage))?;
        Ok((sealed, aside))
    }
}

/// Returns what the metadata of an imported source say about the import itself: whose task was
/// replaced. What was left out is in the account of the import.
pub(crate) fn notes(metadata: &Map<String, Value>) -> Vec<String> {
    let set = metadata.get(SET_TASK);
    let replaced = set.and_then(|set| set["replaced"].as_u64()).unwrap_or(0);
    let note = || {
        format!(
            "the task that was set replaced that of {}",
            count(replaced, "trajectory")
        )
    };
    (replaced > 0).then(note).into_iter().collect()
}

/// Returns the hash of the list of trajectories that were set aside, in the dataset at `root`;
/// `None` if `set_aside` is 0 and there is no list.
///
/// # Errors
/// Returns an error if the list cannot be read.
pub(super) fn quarantine_hash(root: &Path, set_aside: u64) -> Result<Option<String>> {
    (set_aside > 0)
        .then(|| store::digest(&root.join(quarantine::FILE)).map(|digest| digest.blake3))
        .transpose()
}
