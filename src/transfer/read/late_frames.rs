//! Frames that an import stores, and decodes while it writes.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::{IncomingTrajectory, OnError};
use crate::dataset::{Decode, DecodeColumns, schema};
use crate::error::Result;

/// What decodes the frames that the steps of a source refer to.
pub(super) struct LateFrames {
    /// The columns that come out: those of the source, with frames in place of references.
    pub(super) made: SchemaRef,
    by: Option<(Arc<dyn Decode>, Box<dyn DecodeColumns>)>,
    /// The most rows that are decoded at once.
    at_once: usize,
}

impl LateFrames {
    /// Returns what decodes columns of `steps`; nothing if `by` is `None`.
    pub(super) fn new(by: Option<&Arc<dyn Decode>>, steps: &SchemaRef) -> LateFrames {
        let Some(by) = by else {
            return LateFrames {
                made: SchemaRef::clone(steps),
                by: None,
                at_once: usize::MAX,
            };
        };
        let made = |field: &Arc<Field>| by.field(field).map_or_else(|| Arc::clone(field), Arc::new);
        let made = Schema::new(steps.fields().iter().map(made).collect::<Vec<_>>());
        LateFrames {
            at_once: schema::frame_rows(&made),
            made: Arc::new(made),
            by: Some((Arc::clone(by), by.columns())),
        }
    }

    /// Whether the frames of `trajectory` are still references.
    pub(super) fn is_late(&self, trajectory: &IncomingTrajectory) -> bool {
        self.by.is_some() && trajectory.steps.num_rows() > self.at_once
    }

    /// Returns `trajectory` with its frames, or as it is if it has too many to be decoded at once.
    /// If bad trajectories are set aside, all its frames can be decoded, because what is written is
    /// not taken back.
    ///
    /// # Errors
    /// Returns an error that names trajectory and column if a frame cannot be decoded.
    pub(super) fn decoded(
        &mut self,
        trajectory: IncomingTrajectory,
        on_error: OnError,
    ) -> Result<IncomingTrajectory> {
        if !self.is_late(&trajectory) {
            let steps = self.made(&trajectory.key, &trajectory.steps)?;
            return Ok(IncomingTrajectory {
                steps,
                ..trajectory
            });
        }
        if on_error == OnError::Quarantine {
            let rows = trajectory.steps.num_rows();
            for from in (0..rows).step_by(self.at_once) {
                let part = trajectory.steps.slice(from, self.at_once.min(rows - from));
                self.made(&trajectory.key, &part)?;
            }
        }
        Ok(trajectory)
    }

    /// Returns rows of the trajectory `key` with their frames.
    ///
    /// # Errors
    /// Returns an error that names trajectory and column if a frame cannot be decoded.
    pub(super) fn made(&mut self, key: &str, steps: &RecordBatch) -> Result<RecordBatch> {
        let Some((by, open)) = &mut self.by else {
            return Ok(steps.clone());
        };
        let place = |_| format!("trajectory `{key}`");
        let schema = steps.schema();
        let (mut fields, mut columns) = (schema.fields().to_vec(), steps.columns().to_vec());
        for (field, column) in fields.iter_mut().zip(&mut columns) {
            if let Some(made) = by.field(field) {
                *column = open.column(field.name(), column, &place)?;
                *field = Arc::new(made);
            }
        }
        Ok(RecordBatch::try_new(
            Arc::new(Schema::new(fields)),
            columns,
        )?)
    }
}
