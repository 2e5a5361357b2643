//! The columns that a dataset has at one point of a pipeline.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::sources::carried;
use crate::dataset::block::with_field;
use crate::dataset::schema::{step, trajectory};
use crate::dataset::{Dataset, write};
use crate::stage::{COPY, Selection, Transform};

/// Whether every dataset has the column `name` of steps.
pub(super) fn is_required(name: &str) -> bool {
    step::REQUIRED.contains(&name)
}

/// The columns at one point of a pipeline.
pub(super) struct Columns {
    /// The columns of steps.
    pub(super) steps: SchemaRef,
    /// The columns of trajectories that cannot be computed from steps.
    pub(super) carried: Schema,
    /// All columns of trajectories.
    pub(super) trajectories: Schema,
}

impl Columns {
    /// Returns the columns of `source`, which is the first of several if `merged` is true.
    pub(super) fn of(source: &Dataset, merged: bool) -> Columns {
        let mut own = carried(&source.trajectories);
        if merged {
            let name = Field::new(trajectory::SOURCE, DataType::Utf8, true);
            own = with_field(&own, name).0;
        }
        Columns {
            steps: Arc::clone(&source.steps),
            carried: own,
            trajectories: source.trajectories.as_ref().clone(),
        }
    }

    /// Adds what a selection writes.
    pub(super) fn select(&mut self, selection: &dyn Selection) {
        for field in selection.writes() {
            if !trajectory::COMPUTED.contains(&field.name().as_str()) {
                self.carried = with_field(&self.carried, field.clone()).0;
            }
            self.trajectories = with_field(&self.trajectories, field).0;
        }
    }

    /// Replaces the columns by those that come out of a transform.
    pub(super) fn transform(&mut self, transform: &dyn Transform) {
        self.steps = transform.steps();
        let added = transform.trajectories();
        for field in added.into_iter().filter(|field| field.name() != COPY) {
            self.carried = with_field(&self.carried, field).0;
        }
        self.recompute();
    }

    /// Drops columns of trajectories.
    pub(super) fn drop_carried(&mut self, names: &[String]) {
        let fields = self.carried.fields().iter();
        let kept = fields.filter(|field| !names.contains(field.name()));
        self.carried = Schema::new(kept.cloned().collect::<Vec<_>>());
        self.recompute();
    }

    /// Drops the columns of steps that `names` does not name. Every dataset keeps some others.
    pub(super) fn keep_steps(&mut self, names: &[String]) {
        let fields = self.steps.fields().iter();
        let kept = fields.filter(|field| {
            names.contains(field.name()) || step::KEPT.contains(&field.name().as_str())
        });
        self.steps = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
        self.recompute();
    }

    /// Computes the columns of trajectories from the others.
    pub(super) fn recompute(&mut self) {
        let all = write::trajectories_schema(&self.steps, &self.carried);
        self.trajectories = all.as_ref().clone();
    }
}
