//! Frames that take the place of references to videos after an import, so that the import itself
//! decodes nothing.

use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::dataset::schema::LAZY;
use crate::transfer::read::Options;
use crate::video::{Frames, refers};

/// Frames that take the place of references after an import.
#[derive(Clone)]
pub(super) struct LateFrames {
    /// How they are decoded.
    pub(super) frames: Frames,
    /// The columns of frames.
    pub(super) fields: Vec<Field>,
    /// The columns of steps, with references in place of frames.
    pub(super) steps: SchemaRef,
}

impl LateFrames {
    /// Returns the frames among the columns `steps`, if these are the columns `referred` but for
    /// frames in place of references.
    pub(super) fn of(steps: &Schema, referred: SchemaRef, frames: Frames) -> Option<LateFrames> {
        let fields = stored_frames(steps, &referred)?;
        let lazy = |mut field: Field| {
            field.metadata_mut().insert(LAZY.to_owned(), String::new());
            field
        };
        Some(LateFrames {
            frames,
            fields: fields.into_iter().map(lazy).collect(),
            steps: referred,
        })
    }
}

/// Returns the options of an import that keeps references to videos.
pub(crate) fn by_reference(options: &Options) -> Options {
    let mut options = options.clone();
    options.frames.kind = Frames::Reference;
    options
}

/// Returns the columns of frames among `steps`, if these are the columns `referred` but for frames
/// in place of references.
pub(crate) fn stored_frames(steps: &Schema, referred: &Schema) -> Option<Vec<Field>> {
    let pairs = || referred.fields().iter().zip(steps.fields());
    let same = pairs().all(|(stored, made)| {
        stored.name() == made.name() && (stored.data_type() == made.data_type() || refers(stored))
    });
    let made = pairs().filter(|(stored, made)| stored.data_type() != made.data_type());
    let made: Vec<Field> = made.map(|(_, made)| made.as_ref().clone()).collect();
    (same && referred.fields().len() == steps.fields().len() && !made.is_empty()).then_some(made)
}
