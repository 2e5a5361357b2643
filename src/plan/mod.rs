//! From what the user wrote to what will run: plain data, nothing open but the model runtime.
//!
//! [`resolve`] binds every stage to the columns it meets and cuts the chain into [`Phase`]s: each reads a dataset once,
//! selects on its trajectories alone, transforms what is left and writes a result. A selection moves in front of the
//! transforms before it wherever they do not change what it reads; only where they do is a phase of its own staged. A model
//! is learnt from what a phase reads, before the phase itself.

mod fingerprint;
mod models;
mod resolve;
mod sources;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::dataset::Dataset;
use crate::stage::{Check, Materialise, Selection, Training, Transform};
use crate::train;

pub use fingerprint::Fingerprint;
pub use resolve::{COPY, resolve};
pub use sources::Foreign;

/// A pipeline bound to its data.
pub struct Plan {
    /// The phases, in order: each reads what the one before wrote, the first the source.
    pub phases: Vec<Phase>,
    /// The datasets of the source.
    pub sources: Vec<Dataset>,
    /// How those of them come to be that are not there yet; one for each source.
    pub foreign: Vec<Option<Foreign>>,
    /// The runtime that models run on; `None` where no stage has one.
    pub runtime: Option<Arc<crate::model::Runtime>>,
    /// Text of the pipeline, for the lineage.
    pub text: String,
    /// Parameters, for the lineage.
    pub params: serde_json::Map<String, serde_json::Value>,
}

/// One pass over a dataset.
pub struct Phase {
    /// Models that are learnt from the whole of what the phase reads, before the pass.
    pub lessons: Vec<Placed<Lesson>>,
    /// Selections, in order; they read metadata alone.
    pub selections: Vec<Placed<Box<dyn Selection>>>,
    /// Transforms, in order.
    pub transforms: Vec<Placed<Arc<dyn Transform>>>,
    /// Columns of steps that come out.
    pub steps: SchemaRef,
    /// Columns of steps that are read.
    pub reads: Vec<String>,
    /// Carried columns of trajectories that come out.
    pub carried: SchemaRef,
    /// Predicates over the result.
    pub checks: Vec<Check>,
    /// What becomes of the result.
    pub sink: Sink,
    /// All that the result depends on.
    pub fingerprint: Fingerprint,
}

/// A model that is to be learnt.
pub struct Lesson {
    /// Where it is written.
    pub path: PathBuf,
    /// What is learnt, and how.
    pub training: Box<Training>,
    /// All that the model depends on.
    pub fingerprint: Fingerprint,
    /// Where it is learnt.
    pub device: train::Device,
}

/// A half of a stage in its place.
pub struct Placed<T> {
    /// Position of the stage in the pipeline, from 0.
    pub index: usize,
    /// The stage's name.
    pub name: String,
    /// Names of transforms that stand before the stage in the pipeline and run after it.
    pub ahead_of: Vec<String>,
    /// The half.
    pub part: T,
}

/// What becomes of a phase's result.
pub enum Sink {
    /// The next phase reads it; it lies in the staging directory and goes with it.
    Staged {
        /// The trajectory columns for whose sake it was staged.
        because: Vec<String>,
        /// The stage that needs them.
        stage: String,
    },
    /// There is none: the pipeline ends with the model that is learnt from what the phase reads.
    Model {
        /// Where the model is written.
        path: PathBuf,
    },
    /// It is published.
    Output {
        /// Where.
        path: PathBuf,
        /// How.
        options: Box<Materialise>,
    },
}

impl Plan {
    /// The output that phase `index` works towards: a staged phase lies in the staging directory of the next output.
    pub fn output_of(&self, index: usize) -> Option<(usize, &PathBuf)> {
        self.phases
            .iter()
            .enumerate()
            .skip(index)
            .find_map(|(index, phase)| match &phase.sink {
                Sink::Output { path, .. } | Sink::Model { path } => Some((index, path)),
                Sink::Staged { .. } => None,
            })
    }
}
