//! The nouns: a dataset on disk, its manifest and shards, and trajectories in memory.
//!
//! ```text
//! NAME/
//!   dataset.json                 the manifest; its appearance is the commit
//!   trajectories/00000.parquet   one row per trajectory: what SQL and selection read
//!   steps/00000.parquet          one row per observation: trajectories whole, contiguous, steps in order
//! ```
//!
//! A trajectory never spans two shards, and a row group never cuts one. Nothing here knows of pipelines, stages or
//! threads. [`store`] alone changes the file system.

pub mod block;
mod content;
mod group;
pub mod intrinsic;
pub mod layout;
pub mod manifest;
pub mod read;
pub mod schema;
mod source;
pub mod store;
mod vector;
mod verified;
pub mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use rayon::iter::{ParallelBridge, ParallelIterator};

use crate::error::{Error, Result};
pub use block::Block;
pub use content::content_hash;
pub use group::Origin;
pub use manifest::{FileEntry, Manifest, ShardEntry};
pub use read::{Decode, ShardReader};
pub use source::SourceContent;
pub use verified::{DatasetFile, Ledger};

/// A published dataset, as its manifest describes it; it does not change while it is open.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The dataset's directory.
    pub path: PathBuf,
    /// What it is called: the directory's name, or that of the source it was imported from.
    pub name: String,
    /// What `dataset.json` holds.
    pub manifest: Arc<Manifest>,
    /// blake3 of `dataset.json`: the identity of everything in the dataset.
    pub hash: String,
    /// Schema of `steps` in memory: vectors are `FixedSizeList`.
    pub steps: SchemaRef,
    /// What makes columns of `steps` of those in the files, where any is read otherwise than it is kept.
    pub decoded: Option<Decoded>,
    /// Schema of `trajectories`.
    pub trajectories: SchemaRef,
    /// Which of the files are verified.
    pub ledger: Arc<Ledger>,
}

/// How `steps` are read that are not as the files have them.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Schema of what the files have.
    stored: SchemaRef,
    /// What makes columns of it.
    pub by: Arc<dyn Decode>,
}

impl Dataset {
    /// Opens the dataset in the directory `path`: reads its manifest and one footer of each kind.
    ///
    /// # Errors
    /// Where there is no manifest, it is of a newer format, or the first shard's footer cannot be read.
    pub fn open(path: &Path) -> Result<Dataset> {
        let manifest_path = layout::manifest(path);
        let bytes = std::fs::read(&manifest_path).map_err(|error| {
            let failure = Error::failed(format!("{} is not a trajmill dataset: cannot read dataset.json: {error}", path.display()));
            if path.exists() {
                failure.hint("`trajmill import SRC DST` makes a dataset of Parquet, D4RL HDF5 or npz files")
            } else {
                failure.hint("no such directory: check the path; relative paths in a pipeline start at the pipeline file's folder")
            }
        })?;
        let manifest =
            Manifest::parse(&bytes).map_err(|error| error.at(manifest_path.display()))?;
        let first = manifest.shards.first().ok_or_else(|| {
            Error::failed(format!(
                "{}: the manifest lists no shard",
                manifest_path.display()
            ))
        })?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let is_there =
            || std::fs::read(&manifest_path).is_ok_and(|now| blake3::hash(&now).to_hex() == *hash);
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
            trajectories,
            ledger: Arc::default(),
        })
    }

    /// The dataset, whose files are read without being verified. Files that are replaced while they
    /// are read are still noticed.
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
    /// Returns an error if a file is missing, or its bytes are not those that the manifest lists.
    pub fn verify(&self) -> Result<()> {
        self.files()
            .par_bridge()
            .try_for_each(|entry| self.file(entry).open().map(|_| ()))
    }

    /// Every file that the manifest lists, shard by shard.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> + Send {
        self.manifest
            .shards
            .iter()
            .flat_map(|shard| [&shard.steps, &shard.trajectories])
    }

    /// The dataset with columns of `steps` that `by` makes of those in the files.
    pub fn decoding(self, by: Arc<dyn Decode>) -> Dataset {
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
    /// Those of [`ShardReader::open`].
    pub fn open_steps(&self, shard: &ShardEntry) -> Result<ShardReader> {
        let file = self.file(&shard.steps);
        match &self.decoded {
            Some(decoded) => Ok(ShardReader::open(file, &decoded.stored)?.decoding(&decoded.by)),
            None => ShardReader::open(file, &self.steps),
        }
    }

    /// Opens a shard's file of trajectories.
    ///
    /// # Errors
    /// Those of [`ShardReader::open`].
    pub fn open_trajectories(&self, shard: &ShardEntry) -> Result<ShardReader> {
        ShardReader::open(self.file(&shard.trajectories), &self.trajectories)
    }

    /// Number of rows of `steps`, final observations included.
    pub fn rows(&self) -> u64 {
        self.manifest
            .shards
            .iter()
            .map(|shard| shard.steps.rows)
            .sum()
    }

    /// Number of trajectories.
    pub fn trajectory_count(&self) -> u64 {
        self.manifest
            .shards
            .iter()
            .map(|shard| shard.trajectories.rows)
            .sum()
    }

    /// Checks that every file is there and as long as the manifest says: what can be told without reading them.
    ///
    /// # Errors
    /// Where one is missing or has another length.
    pub fn check_lengths(&self) -> Result<()> {
        for file in self.files() {
            let path = self.path.join(&file.path);
            let found = std::fs::metadata(&path).map_err(|error| {
                Error::failed(format!("cannot read {}: {error}", path.display()))
                    .hint("the manifest lists it: restore it from a copy")
            })?;
            if found.len() != file.bytes {
                let message = format!(
                    "{} is damaged: {} bytes, the manifest says {}",
                    path.display(),
                    found.len(),
                    file.bytes
                );
                return Err(Error::failed(message).hint("restore the file from a copy"));
            }
        }
        Ok(())
    }
}
