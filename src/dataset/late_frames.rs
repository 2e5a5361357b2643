//! Frames that are decoded a few at a time, from references to them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::read::{Decode, DecodeColumns};
use super::schema;
use crate::error::Result;

/// What decodes the frames that rows refer to.
pub(crate) struct LateFrames {
    /// The columns that come out: those that are read, with frames in place of references.
    pub(crate) made: SchemaRef,
    /// The most rows that are decoded at once.
    pub(crate) at_once: usize,
    by: Option<(Arc<dyn Decode>, Box<dyn DecodeColumns>)>,
}

impl LateFrames {
    /// Returns what decodes columns of `steps`; nothing if `by` is `None`.
    pub(crate) fn new(by: Option<&Arc<dyn Decode>>, steps: &SchemaRef) -> LateFrames {
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

    /// Whether a column holds references that are decoded.
    pub(crate) fn decodes(&self, field: &Field) -> bool {
        let by = self.by.as_ref();
        by.is_some_and(|(by, _)| by.field(field).is_some())
    }

    /// Whether so many rows are decoded in parts.
    pub(crate) fn are_many(&self, rows: usize) -> bool {
        self.by.is_some() && rows > self.at_once
    }

    /// Returns the frames that `references` of the column `name` refer to. Errors name `place`.
    ///
    /// # Errors
    /// Returns an error that names the place and the column if a frame cannot be decoded.
    pub(crate) fn column(
        &mut self,
        name: &str,
        references: &ArrayRef,
        place: &str,
    ) -> Result<ArrayRef> {
        match &mut self.by {
            Some((_, open)) => open.column(name, references, &|_| place.to_owned()),
            None => Ok(Arc::clone(references)),
        }
    }

    /// Returns rows with their frames. Errors name `place`.
    ///
    /// # Errors
    /// Returns an error that names the place and the column if a frame cannot be decoded.
    pub(crate) fn rows(&mut self, steps: &RecordBatch, place: &str) -> Result<RecordBatch> {
        let Some((by, _)) = &self.by else {
            return Ok(steps.clone());
        };
        let by = Arc::clone(by);
        let schema = steps.schema();
        let (mut fields, mut columns) = (schema.fields().to_vec(), steps.columns().to_vec());
        for (field, column) in fields.iter_mut().zip(&mut columns) {
            if let Some(made) = by.field(field) {
                *column = self.column(field.name(), column, place)?;
                *field = Arc::new(made);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(steps.num_rows()));
        let schema = Arc::new(Schema::new(fields));
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}
