//! The models and other files that a pipeline names, relative to its folder.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Training;
use crate::config::PipelineFile;
use crate::dataset::{files, layout};
use crate::error::{Error, Result};
use crate::model::{Runtime, Spec};
use crate::stage::{Models, Ports};

/// Finds models and other files by the path that the pipeline has.
pub(super) struct Library<'a> {
    pipeline: &'a PipelineFile,
    /// `None` if no stage declares that it runs a model.
    runtime: Option<Arc<Runtime>>,
    /// The models that the stages so far train, whether or not their files exist yet.
    trained: Vec<Spec>,
}

impl<'a> Library<'a> {
    /// Returns the files of `pipeline`.
    pub(super) fn new(pipeline: &'a PipelineFile, runtime: Option<Arc<Runtime>>) -> Library<'a> {
        Library {
            pipeline,
            runtime,
            trained: Vec::new(),
        }
    }

    /// Adds a model whose file need not exist yet. Results depend on how it is trained, not on the
    /// file that happens to lie at its path.
    pub(super) fn will_train(&mut self, training: &Training) {
        let Ports { inputs, outputs } = training.stage.ports();
        self.trained.push(Spec {
            path: training.path.clone(),
            hash: training.fingerprint.key(),
            pin: training.pin.clone(),
            inputs,
            outputs,
            metadata: training.stage.metadata(),
            files: BTreeMap::new(),
            random: Vec::new(),
            narrowed: Vec::new(),
        });
    }
}

impl Models for Library<'_> {
    fn spec(&self, path: &str) -> Result<Spec> {
        let located = self.pipeline.locate(path);
        if let Some(spec) = self.trained.iter().find(|spec| spec.path == located) {
            return Ok(spec.clone());
        }
        if !files::is_file(&located)? {
            let message = format!("no such model file: {}", located.display());
            return Err(Error::failed(message).hint(RELATIVE));
        }
        self.runtime()?.spec(&located)
    }

    fn runtime(&self) -> Result<&Arc<Runtime>> {
        self.runtime.as_ref().ok_or_else(|| {
            Error::failed("the stage runs a model, but its registry entry does not declare it")
        })
    }

    fn text(&self, path: &str) -> Result<String> {
        let mut located = self.pipeline.locate(path);
        if files::is_dir(&located)? {
            located = layout::manifest(&located);
        }
        files::read_to_string(&located).map_err(|error| {
            Error::failed(format!("cannot read {}: {error}", located.display())).hint(RELATIVE)
        })
    }
}

/// How paths of a pipeline are read.
const RELATIVE: &str = "paths are relative to the folder of the pipeline file";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{self, Source};

    #[test]
    fn a_stage_that_declares_no_model_gets_no_runtime() {
        let source = Source {
            name: "pipeline.yaml".to_owned(),
            text: "trajmill: 1\nsource: corpus\nstages:\n  - shuffle: {}\n".to_owned(),
        };
        let pipeline = config::parse(source, PathBuf::new(), &[]).unwrap();
        let library = Library::new(&pipeline, None);
        assert!(library.runtime().is_err());
    }
}
