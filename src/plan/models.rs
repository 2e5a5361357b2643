//! The model files that a pipeline names, relative to its folder.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::{Runtime, Spec};
use crate::stage::Models;

/// Models by path, on one runtime.
pub(super) struct Library {
    /// The pipeline file's folder.
    pub(super) folder: PathBuf,
    /// What models run on.
    pub(super) runtime: Arc<Runtime>,
    /// Models that stages so far will have learnt, whether or not their files are there yet.
    pub(super) learnt: RefCell<Vec<Spec>>,
}

impl Models for Library {
    fn spec(&self, path: &str) -> Result<Spec> {
        let full = self.folder.join(path);
        if let Some(spec) = self.learnt.borrow().iter().find(|spec| spec.path == full) {
            return Ok(spec.clone());
        }
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
}
