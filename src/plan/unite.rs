//! The columns of all sources of a pipeline, and the frames among them that are decoded late.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::late_frames::LateFrames;
use super::to_import::Found;
use super::union;
use crate::error::Error;

impl Found {
    /// Returns the columns of steps, with references in place of frames.
    fn referred(&self) -> &SchemaRef {
        let late = self.by_reference.as_ref();
        late.map_or(&self.import.steps, |(_, steps)| steps)
    }
}

/// Gives all sources the columns of all of them. Returns the first source whose columns contradict
/// those of the sources before it, and the reason.
pub(super) fn unite(found: &mut [Found]) -> Result<(), (usize, Error)> {
    let widen = found.iter().any(|source| source.widen);
    fn members<'a>(
        found: &'a [Found],
        steps: impl Fn(&'a Found) -> &'a SchemaRef,
    ) -> Vec<union::Member<'a>> {
        let member = |source: &'a Found| union::Member {
            name: &source.name,
            path: &source.import.path,
            own: source.dataset.is_some(),
            steps: steps(source),
            about: &source.import.about,
        };
        found.iter().map(member).collect()
    }
    let (steps, about) = union::of(&members(found, |source| &source.import.steps), widen)?;
    // Where one source holds frames and another refers to them, all of them decode.
    let referred = union::of(&members(found, Found::referred), widen);
    let kind = found.iter().find(|source| source.by_reference.is_some());
    let late = kind.map(|source| source.frames).zip(referred.ok());
    let late = late.and_then(|(kind, (referred, _))| LateFrames::of(&steps, referred, kind));
    for source in found {
        let import = &mut source.import;
        import.absent = union::missing(&steps, &import.steps);
        import.converted = union::converted(&steps, &import.steps);
        import.steps = Arc::clone(&steps);
        import.about = Arc::clone(&about);
        import.frames = late.clone();
    }
    Ok(())
}
