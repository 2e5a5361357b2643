//! Turns what the user wrote into what will run. A plan is plain data: nothing is open but the
//! model runtime.
//!
//! [`resolve`] binds every stage to the columns where it stands and cuts the chain into [`Phase`]s.
//! A phase reads a dataset once, selects trajectories from their table alone, transforms the
//! selected ones and writes a result. A selection moves in front of the transforms that precede it,
//! unless they change what it reads; then a phase of its own writes an intermediate. A model is
//! trained on what a phase reads, before the phase itself.

mod checks;
mod columns;
mod fingerprint;
mod late_frames;
mod models;
mod paths;
mod phases;
mod resolve;
mod sources;
mod to_import;
mod union;
mod unite;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::dataset::Dataset;
use crate::model::Pin;
use crate::stage::{Check, Materialise, Selection, TrainIdm, Transform};
use crate::train;

pub(crate) use fingerprint::Fingerprint;
pub(crate) use late_frames::{by_reference, stored_frames};
pub(crate) use resolve::resolve;
pub(crate) use to_import::SourceToImport;

/// A pipeline bound to its data.
pub(crate) struct Plan {
    /// The phases, in order. The first reads the sources, each other one the result before it.
    pub phases: Vec<Phase>,
    /// The datasets of the sources.
    pub sources: Vec<Dataset>,
    /// The import that makes the dataset, for each source; `None` for a source that can be read as
    /// it is.
    pub imports: Vec<Option<SourceToImport>>,
    /// The runtime that models run on; `None` if no stage runs a model.
    pub runtime: Option<Arc<crate::model::Runtime>>,
    /// The text of the pipeline, for the lineage.
    pub text: String,
    /// The parameters, for the lineage.
    pub params: serde_json::Map<String, serde_json::Value>,
}

/// One pass over a dataset.
pub(crate) struct Phase {
    /// The models that are trained on everything that the phase reads, before the pass.
    pub trainings: Vec<Planned<Training>>,
    /// The selections, in order. They read metadata alone.
    pub selections: Vec<Planned<Box<dyn Selection>>>,
    /// The transforms, in order.
    pub transforms: Vec<Planned<Arc<dyn Transform>>>,
    /// The columns of steps of the result.
    pub steps: SchemaRef,
    /// The columns of steps that are read.
    pub reads: Vec<String>,
    /// The columns of trajectories of the result, apart from those that are computed from steps.
    pub carried: SchemaRef,
    /// The predicates that the result must satisfy.
    pub checks: Vec<Check>,
    /// Where the result goes.
    pub sink: Sink,
    /// Everything that the result depends on.
    pub fingerprint: Fingerprint,
}

/// A model to train.
pub(crate) struct Training {
    /// The path of the model.
    pub path: PathBuf,
    /// The bound stage, which describes the model and how it is trained.
    pub stage: Box<TrainIdm>,
    /// Everything that the model depends on.
    pub fingerprint: Fingerprint,
    /// The device that trains it.
    pub device: train::Device,
    /// The bytes of the model, once it is trained or found to be up to date.
    pub pin: Pin,
}

/// An operator or a training, and the stage that it belongs to.
pub(crate) struct Planned<T> {
    /// The position of the stage in the pipeline, from 0.
    pub index: usize,
    /// The name of the stage.
    pub name: String,
    /// The names of the transforms that precede the stage in the pipeline and run after it.
    pub ahead_of: Vec<String>,
    /// The operator or training itself.
    pub part: T,
}

/// Where a phase's result goes.
pub(crate) enum Sink {
    /// To the next phase, which alone reads it. It lies in the staging directory and is deleted
    /// with it.
    Intermediate {
        /// The trajectory columns that the next phase selects by and this phase changes.
        because: Vec<String>,
        /// The stage that reads them.
        stage: String,
    },
    /// Nowhere: the pipeline ends with a model that is trained on what the phase reads.
    Model {
        /// The path of the model.
        path: PathBuf,
    },
    /// To a path, where it is published.
    Output {
        /// The path.
        path: PathBuf,
        /// The options of `materialise`.
        options: Box<Materialise>,
    },
}

impl Plan {
    /// Returns the output that phase `index` works towards: its own, or the next one after it. An
    /// intermediate lies in the staging directory of that output.
    pub(crate) fn output_of(&self, index: usize) -> Option<(usize, &PathBuf)> {
        self.phases
            .iter()
            .enumerate()
            .skip(index)
            .find_map(|(index, phase)| match &phase.sink {
                Sink::Output { path, .. } | Sink::Model { path } => Some((index, path)),
                Sink::Intermediate { .. } => None,
            })
    }
}
