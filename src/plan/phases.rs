//! Cuts a chain of operators into phases, and moves selections in front of transforms.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::columns::{Columns, is_required};
use super::{Fingerprint, Phase, Planned, Sink, Training};
use crate::stage::{Check, Selection, Transform};

/// The phase that operators are being added to.
struct Open {
    trainings: Vec<Planned<Training>>,
    selections: Vec<Planned<Box<dyn Selection>>>,
    transforms: Vec<Planned<Arc<dyn Transform>>>,
    /// The columns of steps that the phase may read.
    steps: SchemaRef,
}

impl Open {
    fn at(steps: &SchemaRef) -> Open {
        Open {
            trainings: Vec::new(),
            selections: Vec::new(),
            transforms: Vec::new(),
            steps: Arc::clone(steps),
        }
    }
}

/// The phases of a pipeline, as far as its stages have been bound.
pub(super) struct Phases {
    /// The columns behind the last operator.
    pub(super) columns: Columns,
    /// Everything that the result of the open phase depends on.
    pub(super) fingerprint: Fingerprint,
    /// The lines that show the stage that is bound in the pipeline file.
    pub(super) quote: Vec<String>,
    /// The phases that are complete.
    pub(super) closed: Vec<Phase>,
    open: Open,
}

impl Phases {
    /// Returns phases that begin with a dataset of these columns.
    pub(super) fn new(columns: Columns, fingerprint: Fingerprint) -> Phases {
        Phases {
            open: Open::at(&columns.steps),
            columns,
            fingerprint,
            quote: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Whether the open phase would write what it reads.
    pub(super) fn changes_nothing(&self) -> bool {
        self.open.selections.is_empty() && self.open.transforms.is_empty()
    }

    /// Returns the last model that is trained before the open phase.
    pub(super) fn last_training(&self) -> Option<&Training> {
        self.open.trainings.last().map(|planned| &planned.part)
    }

    /// Adds a selection in front of the transforms of the open phase, or to a new phase if it
    /// depends on them.
    pub(super) fn select(&mut self, index: usize, name: &str, selection: Box<dyn Selection>) {
        let changes: Vec<_> = self
            .open
            .transforms
            .iter()
            .map(|planned| planned.part.changes())
            .collect();
        let changed = |name: &String| {
            changes
                .iter()
                .any(|changes| changes.trajectories.contains(name))
        };
        let because: Vec<String> = selection.reads().into_iter().filter(changed).collect();
        let rows = changes.iter().any(|changes| changes.rows);
        let stays = selection.stays() && !self.open.transforms.is_empty();
        if rows || stays || !because.is_empty() {
            self.close_intermediate(because, name);
        }
        self.columns.select(selection.as_ref());
        let ahead_of = self
            .open
            .transforms
            .iter()
            .map(|planned| planned.name.clone())
            .collect();
        self.open.selections.push(Planned {
            index,
            name: name.to_owned(),
            ahead_of,
            quote: self.quote.clone(),
            part: selection,
        });
    }

    /// Adds a transform to the open phase.
    pub(super) fn transform(&mut self, index: usize, name: &str, transform: Arc<dyn Transform>) {
        self.columns.transform(transform.as_ref());
        for (key, value) in transform.depends() {
            self.fingerprint
                .set(format!("stage {} {name} {key}", index + 1), value);
        }
        self.open.transforms.push(Planned {
            index,
            name: name.to_owned(),
            ahead_of: Vec::new(),
            quote: self.quote.clone(),
            part: transform,
        });
    }

    /// Closes the open phase if it changes anything: a model is trained on the result so far.
    pub(super) fn close_before_training(&mut self, name: &str) {
        if !self.changes_nothing() {
            self.close_intermediate(Vec::new(), name);
        }
    }

    /// Adds a model that is trained on what the open phase reads.
    pub(super) fn train(&mut self, index: usize, name: &str, training: Training) {
        self.open.trainings.push(Planned {
            index,
            name: name.to_owned(),
            ahead_of: Vec::new(),
            quote: self.quote.clone(),
            part: training,
        });
    }

    fn close_intermediate(&mut self, because: Vec<String>, stage: &str) {
        let stage = stage.to_owned();
        self.close(Sink::Intermediate { because, stage }, Vec::new());
        // The operators of a stage depend on the same things, and yet their phases write different
        // results. Fingerprints of earlier versions have this word, so it stays.
        self.fingerprint
            .set(format!("phase {}", self.closed.len()), "staged");
    }

    /// Completes the open phase and opens the next.
    pub(super) fn close(&mut self, sink: Sink, checks: Vec<Check>) {
        let open = std::mem::replace(&mut self.open, Open::at(&self.columns.steps));
        let reads = self.reads(&open);
        self.closed.push(Phase {
            trainings: open.trainings,
            selections: open.selections,
            transforms: open.transforms,
            steps: Arc::clone(&self.columns.steps),
            reads,
            carried: Arc::new(self.columns.carried.clone()),
            checks,
            sink,
            fingerprint: self.fingerprint.clone(),
        });
        self.columns.recompute();
    }

    /// The columns of steps that a phase has to read: those that come out, those that its
    /// transforms read, and those that every dataset has.
    fn reads(&self, open: &Open) -> Vec<String> {
        let mut wanted: Vec<String> = Vec::new();
        for planned in &open.transforms {
            match planned.part.reads() {
                Some(names) => wanted.extend(names),
                None => wanted.extend(open.steps.fields().iter().map(|field| field.name().clone())),
            }
        }
        let needed = |name: &&String| {
            wanted.contains(name) || is_required(name) || self.columns.steps.index_of(name).is_ok()
        };
        let names = open.steps.fields().iter().map(|field| field.name());
        names.filter(needed).cloned().collect()
    }
}
