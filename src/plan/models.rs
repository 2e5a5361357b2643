//! The models and other files that a pipeline names, relative to its folder.

use std::cell::RefCell;
use std::sync::Arc;

use crate::config::PipelineFile;
use crate::dataset::layout;
use crate::error::{Error, Result};
use crate::model::{Runtime, Spec};
use crate::stage::Models;

/// Models by path, on one runtime.
pub(super) struct Library<'a> {
    /// Knows where its paths lead.
    pub(super) pipeline: &'a PipelineFile,
    /// What models run on.
    pub(super) runtime: Arc<Runtime>,
    /// Models that stages so far will have learnt, whether or not their files are there yet.
    pub(super) learnt: RefCell<Vec<Spec>>,
}

impl Models for Library<'_> {
    fn spec(&self, path: &str) -> Result<Spec> {
        let located = self.pipeline.locate(path);
        if let Some(spec) = self
            .learnt
            .borrow()
            .iter()
            .find(|spec| spec.path == located)
        {
            return Ok(spec.clone());
        }
        if !located.is_file() {
            let missing = Error::failed(format!("there is no model file {path}"));
            return Err(missing.hint(format!(
                "it would be {}: relative paths start at the pipeline's folder",
                located.display()
            )));
        }
        self.runtime.spec(&located)
    }

    fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    fn text(&self, path: &str) -> Result<String> {
        let located = self.pipeline.locate(path);
        let located = if located.is_dir() {
            layout::manifest(&located)
        } else {
            located
        };
        std::fs::read_to_string(&located).map_err(|error| {
            Error::failed(format!("cannot read {path}: {error}"))
                .hint(format!("it would be {}", located.display()))
        })
    }
}
