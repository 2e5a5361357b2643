//! The models and other files that a pipeline names, relative to its folder.

use std::path::PathBuf;
use std::sync::Arc;

use crate::dataset::layout;
use crate::error::{Error, Result};
use crate::model::{Runtime, Spec};
use crate::stage::Models;

/// Models by path, on one runtime.
pub(super) struct Library {
    /// The pipeline file's folder.
    pub(super) folder: PathBuf,
    /// What models run on.
    pub(super) runtime: Arc<Runtime>,
}

impl Models for Library {
    fn spec(&self, path: &str) -> Result<Spec> {
        let full = self.folder.join(path);
        if !full.is_file() {
            return Err(
                Error::failed(format!("there is no model file {path}")).hint(format!("relative paths start at {}", self.folder.display()))
            );
        }
        self.runtime.spec(&full)
    }

    fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    fn text(&self, path: &str) -> Result<String> {
        let full = self.folder.join(path);
        let full = if full.is_dir() { layout::manifest(&full) } else { full };
        std::fs::read_to_string(&full).map_err(|error| {
            Error::failed(format!("cannot read {path}: {error}")).hint(format!("relative paths start at {}", self.folder.display()))
        })
    }
}
