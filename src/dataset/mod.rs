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
pub mod files;
mod group;
pub mod intrinsic;
pub mod layout;
pub mod manifest;
pub mod read;
pub mod schema;
pub mod store;
mod vector;
pub mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use crate::error::{Error, Result};
pub use block::Block;
pub use content::content_hash;
pub use group::Origin;
pub use manifest::{FileEntry, Manifest, ShardEntry};
pub use read::{Decode, ShardReader};

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
        let bytes = match files::read_if_present(&manifest_path)? {
            Some(bytes) => bytes,
            None => {
                let failure = Error::failed(format!(
                    "{} is not a trajmill dataset: it has no dataset.json",
                    path.display()
                ));
                return Err(if files::exists(path)? {
                    failure.hint("`trajmill import SRC DST` makes a dataset of Parquet, D4RL HDF5 or npz files")
                } else {
                    failure.hint("no such directory: check the path; relative paths in a pipeline start at the pipeline file's folder")
                });
            }
        };
        let manifest =
            Manifest::parse(&bytes).map_err(|error| error.at(manifest_path.display()))?;
        let first = manifest.shards.first().ok_or_else(|| {
            Error::failed(format!(
                "{}: the manifest lists no shard",
                manifest_path.display()
            ))
        })?;
        let file = read::file_schema(&path.join(&first.steps.path))?;
        let steps = schema::logical(&file, &manifest.columns)?;
        let trajectories = read::file_schema(&path.join(&first.trajectories.path))?;
        Ok(Dataset {
            path: path.to_owned(),
            name: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            hash: blake3::hash(&bytes).to_hex().to_string(),
            manifest: Arc::new(manifest),
            steps,
            decoded: None,
            trajectories,
        })
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
        let path = self.path.join(&shard.steps.path);
        match &self.decoded {
            Some(decoded) => Ok(ShardReader::open(&path, &decoded.stored)?.decoding(&decoded.by)),
            None => ShardReader::open(&path, &self.steps),
        }
    }

    /// Opens a shard's file of trajectories.
    ///
    /// # Errors
    /// Those of [`ShardReader::open`].
    pub fn open_trajectories(&self, shard: &ShardEntry) -> Result<ShardReader> {
        ShardReader::open(
            &self.path.join(&shard.trajectories.path),
            &self.trajectories,
        )
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
        for file in self
            .manifest
            .shards
            .iter()
            .flat_map(|shard| [&shard.steps, &shard.trajectories])
        {
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

    /// Checks the bytes of one of the dataset's files against the manifest.
    ///
    /// # Errors
    /// Where the file is missing, or its length or blake3 is not the manifest's.
    pub fn verify_file(&self, file: &FileEntry) -> Result<()> {
        let path = self.path.join(&file.path);
        let found = store::digest(&path)?;
        if found.bytes != file.bytes || found.blake3 != file.blake3 {
            let message = format!(
                "{} is corrupt: {} bytes with blake3 {:.16}…, the manifest says {} bytes with {:.16}…",
                path.display(),
                found.bytes,
                found.blake3,
                file.bytes,
                file.blake3
            );
            return Err(Error::failed(message)
                .hint("restore the file from a copy, or import or materialise the dataset again"));
        }
        Ok(())
    }
}
