//! Stages: what a pipeline can do to trajectories. A stage is one file and one line of [`STAGES`].
//!
//! The options of a stage are one serde struct. Its doc comments are the manual, and the JSON
//! Schema, the validation and the messages are made from it. A [`Stage`] binds its options to the
//! columns where it stands and returns its operators:
//!
//! - a [`Selection`] works on the table of all trajectories and decides which are kept, in which
//!   order;
//! - a [`Transform`] works on a block of whole trajectories and changes their steps.
//!
//! Three stages return something else: a [`Check`], a [`Materialise`], or a [`TrainIdm`], which
//! describes a model to train.
//!
//! Stages do no I/O and know nothing of paths, shards, threads or YAML. Models and other files that
//! a pipeline names reach them through [`Models`].

mod check;
mod derive;
mod filter;
mod hide_actions;
mod label;
mod materialise;
mod normalise;
mod pairs;
mod patch_actions;
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

use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::model;

pub(crate) use check::Check;
pub(crate) use materialise::Materialise;
pub(crate) use support::cut::COPY;
pub(crate) use train_idm::{Ports, TrainIdm};

/// Every stage, in alphabetical order.
pub const STAGES: &[Stage] = &[
    check::STAGE,
    derive::STAGE,
    filter::STAGE,
    hide_actions::STAGE,
    label::STAGE,
    materialise::STAGE,
    normalise::STAGE,
    pairs::STAGE,
    patch_actions::STAGE,
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

/// The columns that stages add under names of their own, which no option mentions.
pub(crate) const NAMED_BY_STAGES: [&str; 5] = [
    step::ACTION,
    step::ACTION_SOURCE,
    step::ACTION_STD,
    step::ACTION_MODEL,
    hide_actions::SPLIT,
];

/// An entry of the registry.
pub struct Stage {
    /// The key in the pipeline file.
    pub name: &'static str,
    /// What the stage is for.
    pub role: Role,
    /// Returns the JSON Schema of the options, which is made from their type.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// Reads options that satisfy the schema and binds them to the columns where the stage stands.
    pub bind: fn(&Value, &Context) -> Result<Bound, Misfit>,
    /// Options that are valid on any dataset with vector observations and actions, for tests and
    /// documentation.
    #[cfg_attr(
        not(feature = "faults"),
        allow(dead_code, reason = "only tests bind it")
    )]
    pub sample: &'static str,
}

/// What a stage is for. A plan has to know this before the options are bound, and even where they
/// cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Works on trajectories, without a model.
    Operate,
    /// Works on trajectories by running the models whose files the option `model` names. No other
    /// stage is given a runtime.
    RunModels {
        /// The key of that option.
        model: &'static str,
    },
    /// Trains a model and writes it to the path that the option `path` holds.
    TrainModel {
        /// The key of that option.
        path: &'static str,
    },
    /// Verifies the next result.
    Check,
    /// Writes a result to the path that the option `path` holds.
    Write {
        /// The key of that option.
        path: &'static str,
    },
}

/// What the options of a stage are bound to.
pub struct Context<'a> {
    /// The columns of steps where the stage stands.
    pub steps: &'a Schema,
    /// The columns of trajectories where the stage stands.
    pub trajectories: &'a Schema,
    /// The models and other files that the pipeline names.
    pub models: &'a dyn Models,
}

/// Gives stages the models and other files that a pipeline names. Only the implementation knows
/// where a path leads.
pub trait Models {
    /// Returns the inputs, outputs and metadata of a model file.
    ///
    /// # Errors
    /// Returns an error if the file is missing or the runtime cannot read it.
    fn spec(&self, path: &str) -> Result<model::Spec>;

    /// Returns the runtime that models run on.
    ///
    /// # Errors
    /// Returns an error if no stage of the pipeline declares `Role::RunModels`.
    fn runtime(&self) -> Result<&Arc<model::Runtime>>;

    /// Returns the text of another file, such as one with statistics; for the directory of a
    /// dataset, the text of its manifest.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    fn text(&self, path: &str) -> Result<String>;

    /// Returns the content of a Parquet file, which is small.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    fn table(&self, path: &str) -> Result<RecordBatch>;
}

/// The reason why options cannot be bound, and the option at fault.
#[derive(Debug)]
pub struct Misfit {
    /// The keys and indices that lead to the value at fault; empty for the stage as a whole.
    pub path: Vec<String>,
    /// The word inside that value to put the caret under, if a single word is at fault.
    pub word: Option<String>,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub help: Option<String>,
}

impl Misfit {
    /// Returns a misfit of the stage as a whole.
    pub fn new(message: impl Into<String>) -> Misfit {
        Misfit {
            path: Vec::new(),
            word: None,
            message: message.into(),
            help: None,
        }
    }

    /// Puts a key or index in front of the path. Callers add keys from the inside out.
    #[must_use]
    pub fn at(mut self, key: impl Into<String>) -> Misfit {
        self.path.insert(0, key.into());
        self
    }

    /// Adds a sentence that says how to fix it.
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
    /// Works on trajectories with these operators, in order.
    Work(Vec<Operator>),
    /// Verifies predicates over the next result.
    Check(Check),
    /// Writes the result so far.
    Materialise(Materialise),
    /// Trains a model on the result so far.
    Train(Box<TrainIdm>),
}

/// One step of what a stage does.
///
/// A stage that needs a fact about all steps has three operators: a transform computes each
/// trajectory's share of the fact, a selection combines the shares, and a second transform uses the
/// whole.
pub enum Operator {
    /// Works on the table of all trajectories.
    Selection(Box<dyn Selection>),
    /// Works on steps.
    Transform(Arc<dyn Transform>),
}

/// The prefix of the trajectory columns that one operator of a stage hands to its next. No other
/// stage sees them, and no result has them.
pub(crate) const PRIVATE_PREFIX: &str = "__";

impl Operator {
    /// Returns a selection as an operator.
    fn selection(selection: impl Selection + 'static) -> Operator {
        Operator::Selection(Box::new(selection))
    }

    /// Returns a transform as an operator.
    fn transform(transform: impl Transform + 'static) -> Operator {
        Operator::Transform(Arc::new(transform))
    }
}

impl Bound {
    /// Returns a stage that only selects.
    pub fn selection(selection: impl Selection + 'static) -> Result<Bound, Misfit> {
        Ok(Bound::Work(vec![Operator::selection(selection)]))
    }

    /// Returns a stage that only changes steps.
    pub fn transform(transform: impl Transform + 'static) -> Result<Bound, Misfit> {
        Ok(Bound::Work(vec![Operator::transform(transform)]))
    }
}

/// What a selection found out about all trajectories, by name, such as a threshold. The lineage of
/// the result keeps it.
pub(crate) type Facts = BTreeMap<String, Value>;

/// Decides which trajectories are kept, and in which order, from the table of trajectories alone.
///
/// The table has one row for each trajectory. It has the columns that [`Selection::reads`] names,
/// and always `trajectory_id`, `rows` and `length`. A selection must not depend on the order of the
/// table, unless that is its purpose.
pub trait Selection: Send + Sync {
    /// The trajectory columns that the selection reads.
    fn reads(&self) -> Vec<String>;

    /// The trajectory columns that it adds or replaces.
    fn writes(&self) -> Vec<Field> {
        Vec::new()
    }

    /// Whether it may keep a trajectory more than once. Each copy gets an id of its own.
    fn repeats(&self) -> bool {
        false
    }

    /// Whether it stays behind the transforms that precede it, because they would otherwise work on
    /// every copy that it makes.
    fn stays(&self) -> bool {
        false
    }

    /// Selects trajectories.
    ///
    /// # Errors
    /// Returns an error if an expression cannot be computed on a row; the message names the
    /// trajectory.
    fn select(&self, table: &RecordBatch) -> Result<Selected>;
}

/// What a selection decided.
#[derive(Default)]
pub struct Selected {
    /// The rows of the table that are kept, in their new order.
    pub rows: Vec<u32>,
    /// The columns that [`Selection::writes`] names, with one value for each kept row.
    pub columns: Vec<arrow::array::ArrayRef>,
    /// The rows that are not kept, by reason.
    pub dropped: Vec<Dropped>,
    /// Anything else that the summary reports, by name.
    pub counts: BTreeMap<String, u64>,
    /// What it found out, for the lineage and for the transforms of the same stage.
    pub facts: Facts,
}

/// Trajectories that a selection did not keep, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The reason, such as `the condition was false`.
    pub reason: String,
    /// The rows of the table.
    pub rows: Vec<u32>,
}

/// What a transform changes. A plan moves a later selection in front of the transform only if the
/// selection reads none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The trajectory columns that it adds or whose values it changes.
    pub trajectories: Vec<String>,
    /// Whether it adds, drops or cuts trajectories or rows. No selection moves in front of it then.
    pub rows: bool,
    /// Whether it may turn one trajectory into several. Each piece gets an id of its own.
    pub splits: bool,
}

/// Changes the steps of trajectories, a block at a time.
pub trait Transform: Send + Sync {
    /// The columns of steps that come out.
    fn steps(&self) -> SchemaRef;

    /// The columns of trajectories that it adds or replaces, apart from those that are computed
    /// from steps.
    fn trajectories(&self) -> Vec<Field> {
        Vec::new()
    }

    /// What it changes.
    fn changes(&self) -> Changes {
        Changes::default()
    }

    /// The columns of steps that it reads; `None` for all of them.
    fn reads(&self) -> Option<Vec<String>>;

    /// The columns, among those that it reads, of which it only asks for frames. They stay
    /// references, and [`Block::frames`] gives the frames.
    fn pulls(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the transform completed with the facts that the selections of its stage found, or
    /// `None` if it needs none. A transform that needs facts is never applied before this.
    ///
    /// # Errors
    /// Returns an error if a fact is missing.
    fn with_facts(&self, facts: &Facts) -> Result<Option<Arc<dyn Transform>>> {
        let _ = facts;
        Ok(None)
    }

    /// Loads what it needs to work on `workers` threads at once, such as a model, before the first
    /// row is read.
    ///
    /// # Errors
    /// Returns an error if a model cannot be loaded.
    fn prepare(&self, workers: usize) -> Result<()> {
        let _ = workers;
        Ok(())
    }

    /// What the result depends on besides the options and the data, by name, such as the hash of a
    /// model.
    fn depends(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Returns what a user should know about the result, as far as it is `known` what goes in.
    fn warnings(&self, known: Known) -> Vec<String> {
        let _ = known;
        Vec::new()
    }

    /// Returns what the inputs of its models get, a line each.
    fn inputs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Changes the trajectories of `block` and adds to `tally` what it drops or fills.
    ///
    /// # Errors
    /// Returns an error if a value is invalid; the message names trajectory, step and column.
    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block>;
}

/// What is known of the steps that go into a transform.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// Nothing.
    Nothing,
    /// All steps in this number of rows have an action, as metadata tells before a run.
    AllActions(u64),
    /// What a run has counted.
    Counted {
        /// The number of rows that went in.
        rows: u64,
        /// What the transform counted.
        tally: &'a Tally,
    },
}

/// What a transform counts while it works. The counts of tasks add up.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// The number of rows dropped, by reason.
    pub dropped_rows: BTreeMap<String, u64>,
    /// The number of trajectories dropped, by reason.
    pub dropped_trajectories: BTreeMap<String, u64>,
    /// The number of rows added, such as overlapping windows of steps.
    #[serde(default)]
    pub added_rows: u64,
    /// Anything else that the summary reports: labels written, labels clipped, actions left null.
    pub counts: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds `n` to a count.
    pub(crate) fn count(&mut self, name: &str, n: u64) {
        if n > 0 {
            *self.counts.entry(name.to_owned()).or_default() += n;
        }
    }

    /// Counts dropped rows.
    pub(crate) fn drop_rows(&mut self, reason: &str, n: u64) {
        if n > 0 {
            *self.dropped_rows.entry(reason.to_owned()).or_default() += n;
        }
    }

    /// Counts dropped trajectories.
    pub(crate) fn drop_trajectories(&mut self, reason: &str, n: u64) {
        if n > 0 {
            *self
                .dropped_trajectories
                .entry(reason.to_owned())
                .or_default() += n;
        }
    }

    /// Adds the counts of another tally.
    pub(crate) fn add(&mut self, other: &Tally) {
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

/// Reads options of type `T`. They already satisfy its schema.
fn options<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, Misfit> {
    T::deserialize(value).map_err(|error| Misfit::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_names_an_option_of_its_stage() {
        for stage in STAGES {
            let (Role::RunModels { model: key }
            | Role::TrainModel { path: key }
            | Role::Write { path: key }) = stage.role
            else {
                continue;
            };
            let mut generator = schemars::SchemaGenerator::default();
            let schema = (stage.schema)(&mut generator).to_value();
            let definition = schema["$ref"].as_str().unwrap();
            let definition = definition.rsplit('/').next().unwrap();
            let definitions = generator.take_definitions(true);
            let option = &definitions[definition]["properties"][key];
            assert!(!option.is_null(), "{} has no option `{key}`", stage.name);
        }
    }
}
