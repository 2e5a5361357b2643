//! Frames that take the place of references to videos after an import, so that the import itself
//! decodes nothing.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};

use crate::dataset::{Decode, SourceContent};
use crate::error::Result;
use crate::transfer::read::Options;
use crate::video::{self, Frames, refers};

/// Frames that take the place of references after an import.
pub(super) struct LateFrames {
    /// How they are decoded.
    pub(super) frames: Frames,
    /// What decodes them, as far as it is known before the import.
    pub(super) by: Arc<dyn Decode>,
}

impl LateFrames {
    /// Returns the frames among the columns `steps` of a source with the given content, if these
    /// are the columns `referred` but for frames in place of references.
    ///
    /// # Errors
    /// Returns an error if this build has no decoder.
    pub(super) fn of(
        steps: &Schema,
        referred: &Schema,
        frames: Frames,
        content: &SourceContent,
    ) -> Result<Option<LateFrames>> {
        let Some(fields) = decoded(steps, referred) else {
            return Ok(None);
        };
        let by = video::planned(fields, content)?;
        Ok(Some(LateFrames { frames, by }))
    }
}

/// Returns the options of an import that keeps references to videos.
pub(super) fn by_reference(options: &Options) -> Options {
    let mut options = options.clone();
    options.frames.kind = Frames::Reference;
    options
}

/// Returns the columns of frames among `steps`, if these are the columns `referred` but for frames
/// in place of references.
fn decoded(steps: &Schema, referred: &Schema) -> Option<Vec<Field>> {
    let pairs = || referred.fields().iter().zip(steps.fields());
    let same = pairs().all(|(stored, made)| {
        stored.name() == made.name() && (stored.data_type() == made.data_type() || refers(stored))
    });
    let made = pairs().filter(|(stored, made)| stored.data_type() != made.data_type());
    let made: Vec<Field> = made.map(|(_, made)| made.as_ref().clone()).collect();
    (same && referred.fields().len() == steps.fields().len() && !made.is_empty()).then_some(made)
}
