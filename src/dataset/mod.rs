//! A dataset on disk, its manifest and shards, and trajectories in memory.
//!
//! ```text
//! NAME/
//!   dataset.json               the manifest; its appearance is the commit
//!   trajectories/00000.parquet one row per trajectory, read by SQL and selections
//!   steps/00000.parquet        one row per observation: trajectories whole, steps in order
//!   videos/HASH.mp4            the videos that rows refer to, if there are any
//! ```
//!
//! A trajectory never spans two shards, and a row group cuts one only where frames are stored.
//! Nothing here knows of pipelines, stages or threads. Only [`store`] changes the file system.

pub(crate) mod account;
mod action_sources;
pub(crate) mod ancestry;
pub(crate) mod block;
pub(crate) mod computed_columns;
mod content;
pub(crate) mod files;
pub(crate) mod frame_references;
pub(crate) mod frames;
pub(crate) mod layout;
pub(crate) mod manifest;
pub(crate) mod old_columns;
pub(crate) mod read;
mod row_group;
pub(crate) mod schema;
mod source;
pub(crate) mod store;
pub(crate) mod trajectory_hash;
mod vector_reader;
mod verified;
pub(crate) mod videos;
pub(crate) mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use rayon::iter::{ParallelBridge, ParallelIterator};

use crate::error::{Error, Result, wording};
pub(crate) use account::{Account, Rows};
pub(crate) use ancestry::{Ancestor, Ancestry};
pub use block::Block;
pub(crate) use content::{content_hash, description};
pub(crate) use manifest::{FileEntry, Manifest, ShardEntry};
pub(crate) use read::{Decode, DecodeColumns, ShardReader};
pub(crate) use row_group::Origin;
pub(crate) use source::{SourceContent, source_name};
pub(crate) use verified::{DatasetFile, Ledger};

/// A published dataset, as its manifest describes it. It does not change while it is open.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The dataset's directory.
    pub path: PathBuf,
    /// The name of the directory, or of the source that the dataset was imported from.
    pub name: String,
    /// The content of `dataset.json`.
    pub manifest: Arc<Manifest>,
    /// The blake3 hash of `dataset.json`, which identifies everything in the dataset.
    pub hash: String,
    /// The schema of `steps` in memory: vectors are `FixedSizeList`.
    pub steps: SchemaRef,
    /// How columns of `steps` are decoded, if any is not read as it is stored.
    pub(crate) decoded: Option<Decoded>,
    /// The folder that references to videos are relative to, if the dataset does not own them.
    pub(crate) video_root: Option<PathBuf>,
    /// The schema of `trajectories`.
    pub trajectories: SchemaRef,
    /// The record of which files this process has verified.
    pub ledger: Arc<Ledger>,
}

/// A decoder of columns of `steps`, and the schema that it decodes.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    /// The schema of the files.
    pub stored: SchemaRef,
    /// The decoder.
    pub by: Arc<dyn Decode>,
}

impl Dataset {
    /// Opens the dataset in the directory `path`: reads its manifest and one footer of each kind.
    ///
    /// # Errors
    /// Returns an error if there is no manifest, if its format is newer than this build, or if the
    /// footer of the first shard cannot be read.
    pub fn open(path: &Path) -> Result<Dataset> {
        let manifest_path = layout::manifest(path);
        let Some(bytes) = files::read_if_present(&manifest_path)? else {
            return Err(no_manifest(path)?);
        };
        let manifest =
            Manifest::parse(&bytes).map_err(|error| error.at(manifest_path.display()))?;
        let first = manifest.shards.first().ok_or_else(|| {
            Error::failed(format!(
                "{}: the manifest lists no shards",
                manifest_path.display()
            ))
        })?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let is_there =
            || files::read(&manifest_path).is_ok_and(|now| blake3::hash(&now).to_hex() == *hash);
        let footer = |file: &FileEntry| {
            let schema = read::file_schema(&path.join(&file.path));
            if is_there() {
                schema
            } else {
                Err(verified::replaced(path))
            }
        };
        let stored: SchemaRef = footer(&first.steps)?;
        let steps = schema::logical(&stored, &manifest.columns)?;
        let trajectories = footer(&first.trajectories)?;
        Ok(Dataset {
            path: path.to_owned(),
            name: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            hash,
            manifest: Arc::new(manifest),
            steps,
            decoded: None,
            video_root: None,
            trajectories,
            ledger: Arc::default(),
        })
    }

    /// Returns the dataset, whose files are then read without being verified. A file that is
    /// replaced while it is read is still an error.
    pub fn unverified(self) -> Dataset {
        Dataset {
            ledger: Arc::new(Ledger::trusting()),
            ..self
        }
    }

    /// Returns one of the dataset's files, which is verified before it is read.
    pub fn file(&self, entry: &FileEntry) -> DatasetFile {
        self.ledger.file(&self.path, &self.hash, entry)
    }

    /// Returns the error of a reader that finds another dataset at the path.
    pub fn replaced(&self) -> Error {
        verified::replaced(&self.path)
    }

    /// Verifies every file that this process has not verified yet.
    ///
    /// # Errors
    /// Returns an error if a file is missing, or if its length or hash differs from the
    /// manifest's.
    pub fn verify(&self) -> Result<()> {
        self.files()
            .par_bridge()
            .try_for_each(|entry| self.file(entry).open().map(|_| ()))
    }

    /// Returns every file that the manifest lists, shard by shard.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> + Send {
        self.manifest
            .shards
            .iter()
            .flat_map(|shard| [&shard.steps, &shard.trajectories])
    }

    /// Returns the dataset with columns of `steps` decoded by `by`.
    pub(crate) fn decoding(self, by: Arc<dyn Decode>) -> Dataset {
        let field = |field: &Arc<_>| by.field(field).map_or_else(|| Arc::clone(field), Arc::new);
        let steps = Arc::new(Schema::new(
            self.steps.fields().iter().map(field).collect::<Vec<_>>(),
        ));
        Dataset {
            steps,
            decoded: Some(Decoded {
                stored: self.steps,
                by,
            }),
            ..self
        }
    }

    /// Opens a shard's file of steps.
    ///
    /// # Errors
    /// Returns the errors of [`ShardReader::open`].
    pub(crate) fn open_steps(&self, shard: &ShardEntry) -> Result<ShardReader> {
        let file = self.file(&shard.steps);
        match &self.decoded {
            Some(decoded) => Ok(ShardReader::open(file, &decoded.stored)?.decoding(&decoded.by)),
            None => ShardReader::open(file, &self.steps),
        }
    }

    /// Opens a shard's file of steps, whose columns are read as they are stored.
    ///
    /// # Errors
    /// Returns the errors of [`ShardReader::open`].
    pub(crate) fn open_stored_steps(&self, shard: &ShardEntry) -> Result<ShardReader> {
        let stored = self
            .decoded
            .as_ref()
            .map_or(&self.steps, |decoded| &decoded.stored);
        ShardReader::open(self.file(&shard.steps), stored)
    }

    /// Opens a shard's file of trajectories.
    ///
    /// # Errors
    /// Returns the errors of [`ShardReader::open`].
    pub(crate) fn open_trajectories(&self, shard: &ShardEntry) -> Result<ShardReader> {
        ShardReader::open(self.file(&shard.trajectories), &self.trajectories)
    }

    /// Returns the number of rows of `steps`, final observations included.
    pub fn rows(&self) -> u64 {
        self.manifest
            .shards
            .iter()
            .map(|shard| shard.steps.rows)
            .sum()
    }

    /// Returns the ancestry of a dataset that is made from `sources`.
    pub(crate) fn ancestry<'a>(sources: impl IntoIterator<Item = &'a Dataset>) -> Ancestry {
        let mut ancestry = Ancestry::default();
        for source in sources {
            let lineage = &source.manifest.lineage;
            let ancestor = lineage.ancestor(&source.manifest.tool);
            ancestry.add(&source.hash, ancestor, &lineage.ancestry);
        }
        ancestry
    }

    /// Returns the number of trajectories.
    pub fn trajectory_count(&self) -> u64 {
        self.manifest
            .shards
            .iter()
            .map(|shard| shard.trajectories.rows)
            .sum()
    }

    /// Verifies that every file exists and has the length that the manifest lists. Reads no file.
    ///
    /// # Errors
    /// Returns an error if a file is missing or has another length.
    pub fn verify_lengths(&self) -> Result<()> {
        for file in self.files() {
            let path = self.path.join(&file.path);
            let found = std::fs::metadata(&path).map_err(|error| {
                Error::failed(format!("cannot read {}: {error}", path.display()))
                    .hint("the manifest lists this file: restore it from a copy")
            })?;
            if found.len() != file.bytes {
                let message = format!(
                    "{} is damaged: it has {}, and the manifest lists {}",
                    path.display(),
                    wording::count(found.len(), "byte"),
                    wording::number(file.bytes)
                );
                return Err(Error::failed(message).hint("restore the file from a copy"));
            }
        }
        self.verify_videos()
    }
}

/// Returns the error of a path without a readable manifest.
fn no_manifest(path: &Path) -> Result<Error> {
    let place = path.display();
    if !files::exists(path)? {
        return Ok(Error::failed(format!("{place} does not exist"))
            .hint("check the path; a relative path starts at the current directory"));
    }
    let why = if files::is_file(path)? {
        "it is a file, not a directory"
    } else {
        "it has no dataset.json"
    };
    Ok(
        Error::failed(format!("{place} is not a trajmill dataset: {why}")).hint(format!(
            "`trajmill import {} NAME` converts a dataset in another format",
            wording::shell_word(path)
        )),
    )
}
