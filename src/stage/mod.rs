//! Stages: what a pipeline can do to trajectories. One stage is one file, and one line of [`STAGES`].
//!
//! A stage's options are one serde struct whose doc comments are the manual; JSON Schema, validation and messages come
//! from it. Binding the options to a schema gives up to two halves:
//!
//! - a [`Selection`] works on the whole table of trajectories and decides which are kept, and in which order;
//! - a [`Transform`] works on a few whole trajectories at a time and changes their steps.
//!
//! or none of them: a [`Check`], a [`Materialise`], or a [`Training`], which says what a model is learnt from.
//!
//! Stages do no I/O and know nothing of paths, shards, threads or YAML. A model is a handle that they are given.

mod check;
mod derive;
mod filter;
mod hide_actions;
mod label;
mod materialise;
mod normalise;
mod pairs;
mod score;
mod shuffle;
mod sort;
mod subsample;
mod summarise;
mod support;
mod train_idm;
mod truncate;
mod win_rate;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use serde_json::Value;

use crate::dataset::Chunk;
use crate::error::{Error, Result};
use crate::model;

pub use check::Check;
pub use materialise::Materialise;
pub use train_idm::Training;

/// Every stage, by name in alphabetical order.
pub const STAGES: &[Stage] = &[
    check::STAGE,
    derive::STAGE,
    filter::STAGE,
    hide_actions::STAGE,
    label::STAGE,
    materialise::STAGE,
    normalise::STAGE,
    pairs::STAGE,
    score::STAGE,
    shuffle::STAGE,
    sort::STAGE,
    subsample::STAGE,
    summarise::STAGE,
    train_idm::STAGE,
    truncate::STAGE,
    win_rate::STAGE,
    window::STAGE,
];

/// One entry of the registry.
pub struct Stage {
    /// The key in the pipeline file.
    pub name: &'static str,
    /// JSON Schema of the options, made from their type.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// Reads options that fit the schema and binds them to the columns they meet.
    pub bind: fn(&Value, &Context) -> Result<Bound, Misfit>,
    /// Options that are valid on any dataset with vector observations and actions, for tests and documentation.
    pub sample: &'static str,
}

/// What a stage is bound against.
pub struct Context<'a> {
    /// Columns of steps where the stage stands.
    pub steps: &'a Schema,
    /// Columns of trajectories where the stage stands.
    pub trajectories: &'a Schema,
    /// The runtime that models run on, and their files.
    pub models: &'a dyn Models,
}

/// Gives stages the models that pipelines name; paths are the caller's affair.
pub trait Models {
    /// What the model file says of itself.
    ///
    /// # Errors
    /// Where there is no such model or it cannot be run.
    fn spec(&self, path: &str) -> Result<model::Spec>;

    /// The runtime that models run on.
    fn runtime(&self) -> &Arc<model::Runtime>;

    /// The text of another file that a pipeline names, such as statistics; of a dataset's directory, its manifest.
    ///
    /// # Errors
    /// Where it cannot be read.
    fn text(&self, path: &str) -> Result<String>;
}

/// Why options do not fit, and which of them.
#[derive(Debug)]
pub struct Misfit {
    /// Keys and indices that lead to the value at fault; empty for the stage as a whole.
    pub path: Vec<String>,
    /// A word inside that value to put the caret under, where one is at fault.
    pub word: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Misfit {
    /// A misfit of the stage as a whole.
    pub fn new(message: impl Into<String>) -> Misfit {
        Misfit {
            path: Vec::new(),
            word: None,
            message: message.into(),
            help: None,
        }
    }

    /// Says which value is at fault: an option's key, outermost last as errors travel outwards.
    #[must_use]
    pub fn at(mut self, key: impl Into<String>) -> Misfit {
        self.path.insert(0, key.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Misfit {
        self.help = Some(help.into());
        self
    }
}

impl From<Error> for Misfit {
    fn from(error: Error) -> Misfit {
        let help = (!error.hints.is_empty()).then(|| error.hints.join("; "));
        Misfit {
            help,
            ..Misfit::new(error.message)
        }
    }
}

impl From<crate::expr::Misfit> for Misfit {
    fn from(error: crate::expr::Misfit) -> Misfit {
        Misfit {
            path: Vec::new(),
            word: error.word,
            message: error.message,
            help: error.help,
        }
    }
}

/// A stage with its options bound.
pub enum Bound {
    /// Works on trajectories: on their table, on their steps, or on both in turn.
    Work(Vec<Half>),
    /// Predicates over the next result.
    Check(Check),
    /// Writes what has come so far.
    Materialise(Materialise),
    /// Learns a model from what has come so far.
    Train(Box<Training>),
}

/// What a stage does in one go: a stage that needs a fact about all steps finds it out for each trajectory in a transform,
/// brings the trajectories' facts together in a selection, and uses them in another transform.
pub enum Half {
    /// Works on the whole table of trajectories.
    Selection(Box<dyn Selection>),
    /// Works on steps.
    Transform(Arc<dyn Transform>),
}

/// How the names of columns of trajectories begin that go from one half of a stage to the next, and no further.
pub const BETWEEN_HALVES: &str = "__";

impl Half {
    /// A half that selects.
    fn selection(selection: impl Selection + 'static) -> Half {
        Half::Selection(Box::new(selection))
    }

    /// A half that changes steps.
    fn transform(transform: impl Transform + 'static) -> Half {
        Half::Transform(Arc::new(transform))
    }
}

impl Bound {
    /// A stage that only selects.
    pub fn selection(selection: impl Selection + 'static) -> Result<Bound, Misfit> {
        Ok(Bound::Work(vec![Half::selection(selection)]))
    }

    /// A stage that only changes steps.
    pub fn transform(transform: impl Transform + 'static) -> Result<Bound, Misfit> {
        Ok(Bound::Work(vec![Half::transform(transform)]))
    }
}

/// The half of a stage that decides on the table of trajectories alone which are kept, and in which order.
///
/// The table has one row per trajectory, with the columns that [`Selection::reads`] names and always `trajectory_id`,
/// `rows` and `length`. A selection must not depend on the table's order, other than where that is its purpose.
pub trait Selection: Send + Sync {
    /// Trajectory columns that the selection reads.
    fn reads(&self) -> Vec<String>;

    /// Trajectory columns that it adds or replaces, with their types.
    fn writes(&self) -> Vec<Field> {
        Vec::new()
    }

    /// Whether the result's order means something.
    fn orders(&self) -> bool {
        false
    }

    /// Whether a trajectory may come more than once: copies get ids of their own.
    fn repeats(&self) -> bool {
        false
    }

    /// Whether it is better not moved ahead of the transforms before it, because they would then work on every copy of what
    /// it repeats.
    fn stays(&self) -> bool {
        false
    }

    /// Selects.
    ///
    /// # Errors
    /// Where an expression cannot be computed on a row; the message names the trajectory.
    fn select(&self, table: &RecordBatch) -> Result<Selected>;
}

/// What a selection decided.
#[derive(Default)]
pub struct Selected {
    /// Kept rows of the table, in the order they are to have.
    pub rows: Vec<u32>,
    /// Columns added or replaced, one value per kept row, in the order of [`Selection::writes`].
    pub columns: Vec<arrow::array::ArrayRef>,
    /// Why rows were not kept: reason and number of trajectories, such as `("below the predicate", 12)`.
    pub dropped: Vec<Dropped>,
    /// What was found out on the way, such as a threshold: kept in the result's lineage, by name.
    pub facts: BTreeMap<String, Value>,
}

/// Trajectories that a selection did not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub reason: String,
    /// Which rows of the table.
    pub rows: Vec<u32>,
}

/// What a transform changes, by which the plan knows what may be selected before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Trajectory columns whose values change, or which it adds.
    pub trajectories: Vec<String>,
    /// Whether trajectories appear, vanish or are cut, or rows do: nothing may then be selected before it.
    pub rows: bool,
    /// Whether one trajectory may become several: the others get ids of their own.
    pub splits: bool,
}

/// The half of a stage that changes the steps of a few whole trajectories at a time.
pub trait Transform: Send + Sync {
    /// Columns of steps that come out.
    fn steps(&self) -> SchemaRef;

    /// Carried columns of trajectories that it adds or replaces.
    fn trajectories(&self) -> Vec<Field> {
        Vec::new()
    }

    /// What it changes.
    fn changes(&self) -> Changes {
        Changes::default()
    }

    /// Columns of steps that it reads; `None` for all of them.
    fn reads(&self) -> Option<Vec<String>>;

    /// Gets ready to work on `workers` threads at once: a model is loaded here, before the first row is read.
    ///
    /// # Errors
    /// Where a model cannot be loaded.
    fn prepare(&self, workers: usize) -> Result<()> {
        let _ = workers;
        Ok(())
    }

    /// What the result depends on besides the options and the data, such as a model's hash, by name.
    fn depends(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Works on some trajectories; what is dropped or filled is counted in `tally`.
    ///
    /// # Errors
    /// Where a value is not what it should be; the message names trajectory, step and column.
    fn apply(&self, chunk: Chunk, tally: &mut Tally) -> Result<Chunk>;
}

/// Counts that a transform keeps while it works; they add up over tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Rows dropped, by reason.
    pub dropped_rows: BTreeMap<String, u64>,
    /// Trajectories dropped, by reason.
    pub dropped_trajectories: BTreeMap<String, u64>,
    /// Rows added, as windows are where steps were.
    #[serde(default)]
    pub added_rows: u64,
    /// Anything else worth a line in the summary: labels written, labels clipped, actions left null.
    pub counts: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds `n` to a count.
    pub fn count(&mut self, name: &str, n: u64) {
        if n > 0 {
            *self.counts.entry(name.to_owned()).or_default() += n;
        }
    }

    /// Counts dropped rows.
    pub fn drop_rows(&mut self, reason: &str, n: u64) {
        if n > 0 {
            *self.dropped_rows.entry(reason.to_owned()).or_default() += n;
        }
    }

    /// Counts dropped trajectories.
    pub fn drop_trajectories(&mut self, reason: &str, n: u64) {
        if n > 0 {
            *self
                .dropped_trajectories
                .entry(reason.to_owned())
                .or_default() += n;
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Tally) {
        self.added_rows += other.added_rows;
        let pairs = [
            (&mut self.dropped_rows, &other.dropped_rows),
            (&mut self.dropped_trajectories, &other.dropped_trajectories),
            (&mut self.counts, &other.counts),
        ];
        for (own, other) in pairs {
            for (name, n) in other {
                *own.entry(name.clone()).or_default() += n;
            }
        }
    }
}

/// Options of type `T`, which the schema has already vouched for.
fn options<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Misfit> {
    T::deserialize(value).map_err(|error| Misfit::new(error.to_string()))
}
