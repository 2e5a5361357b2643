//! Columns of frames, which blocks hold as references until somebody needs the pixels.
//!
//! A transform that only asks for frames leaves a column as it is. Any other transform that reads
//! the column gets it decoded, a whole block of it. What is written is decoded a few frames at a
//! time, also within a trajectory.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::concat;
use arrow::datatypes::{Field, Int32Type, Schema, SchemaRef};

use crate::dataset::frame_references::SOURCE;
use crate::dataset::videos::refers;
use crate::dataset::{Block, Dataset, DecodeColumns, schema};
use crate::error::{Error, Result};
use crate::plan::{Phase, Sink};

/// The columns that are read as references to frames and decoded later.
#[derive(Debug, Clone, Default)]
pub(super) struct Lazy {
    /// The fields as they are read, each with the field that it is decoded to.
    columns: Vec<(Field, Field)>,
}

impl Lazy {
    /// Returns the columns that all of `sources` decode. There are none if the sources differ in
    /// more than what they say about a column.
    pub(super) fn of<'a>(sources: impl Iterator<Item = &'a Dataset>) -> Lazy {
        let of = |source: &Dataset| -> Vec<(Field, Field)> {
            let Some(decoded) = &source.decoded else {
                return Vec::new();
            };
            let fields = decoded.stored.fields().iter();
            fields
                .filter_map(|field| Some((field.as_ref().clone(), decoded.by.field(field)?)))
                .collect()
        };
        let mut all = sources.map(of);
        let columns = all.next().unwrap_or_default();
        let kind = |(stored, made): &(Field, Field)| {
            let of = |field: &Field| (field.name().clone(), field.data_type().clone());
            [of(stored), of(made)]
        };
        let alike =
            |other: Vec<(Field, Field)>| other.iter().map(kind).eq(columns.iter().map(kind));
        if all.all(alike) {
            Lazy { columns }
        } else {
            Lazy::default()
        }
    }

    /// Whether there are no such columns.
    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Returns `steps` with references in place of frames, unless a transform of `phase` reads the
    /// frames themselves.
    pub(super) fn read(&self, steps: &Schema, phase: &Phase) -> Schema {
        let whole = phase.transforms.iter().any(|planned| {
            let (reads, pulls) = (planned.part.reads(), planned.part.pulls());
            let decoded = |name: &String| {
                !pulls.contains(name) && reads.as_ref().is_none_or(|reads| reads.contains(name))
            };
            self.columns.iter().any(|(field, _)| decoded(field.name()))
        });
        if whole {
            return steps.clone();
        }
        let known = |field: &Arc<Field>| {
            let made = |(_, made): &&(Field, Field)| {
                (made.name(), made.data_type()) == (field.name(), field.data_type())
            };
            let column = self.columns.iter().find(made);
            column.map_or_else(|| Arc::clone(field), |(stored, _)| Arc::new(stored.clone()))
        };
        Schema::new(steps.fields().iter().map(known).collect::<Vec<_>>())
    }

    /// Returns the columns that `phase` writes: an intermediate keeps references in place of
    /// frames, unless they would be relative to different folders.
    pub(super) fn written(&self, phase: &Phase, sources: &[Dataset]) -> SchemaRef {
        let refers = matches!(phase.sink, Sink::Intermediate { .. }) && !self.is_empty();
        if refers && following(sources).is_some() {
            Arc::new(self.read(&phase.steps, phase))
        } else {
            Arc::clone(&phase.steps)
        }
    }

    /// Returns what decodes the columns of blocks that were read from `sources`.
    pub(super) fn decoder<'a>(&'a self, sources: &'a [Dataset]) -> Decoder<'a> {
        Decoder {
            lazy: self,
            sources,
            open: HashMap::new(),
        }
    }

    /// Cuts `block` into pieces that are decoded one by one: a few trajectories with at most as
    /// many rows of `written` as are decoded at once, or one trajectory that is longer. A block
    /// without frames is one piece.
    pub(super) fn pieces(&self, block: Block, written: &Schema) -> Vec<Piece> {
        let is_lazy = |(stored, _): &(Field, Field)| {
            let field = block.steps.schema_ref().field_with_name(stored.name());
            let written = written.field_with_name(stored.name());
            written.is_ok_and(|written| !refers(written)) && field.is_ok_and(refers)
        };
        if !self.columns.iter().any(is_lazy) {
            return vec![Piece::Whole(block)];
        }
        let most = schema::frame_rows(written);
        let mut pieces = Vec::new();
        let mut start = 0;
        for end in 1..=block.len() {
            let rows = |end: usize| block.offsets[end] - block.offsets[start];
            if end < block.len() && rows(end + 1) <= most {
                continue;
            }
            pieces.push(if rows(end) > most {
                Piece::Long(block.slice(start..end))
            } else {
                Piece::Whole(block.slice(start..end))
            });
            start = end;
        }
        pieces
    }
}

/// What is decoded and written at once.
pub(super) enum Piece {
    /// Whole trajectories.
    Whole(Block),
    /// One trajectory, which is decoded and written in parts.
    Long(Block),
}

/// Decodes columns of frames. Videos stay open from one part of a trajectory to the next.
pub(super) struct Decoder<'a> {
    lazy: &'a Lazy,
    sources: &'a [Dataset],
    /// What decodes the columns of each source, by its index.
    open: HashMap<usize, Box<dyn DecodeColumns>>,
}

impl Decoder<'_> {
    /// Returns `block` with the columns decoded that `wanted` accepts.
    ///
    /// # Errors
    /// Returns an error that names trajectory and column if a frame cannot be decoded.
    pub(super) fn decoded(
        &mut self,
        mut block: Block,
        wanted: impl Fn(&String) -> bool,
    ) -> Result<Block> {
        let lazy = self.lazy;
        let columns = lazy.columns.iter();
        for (stored, made) in columns.filter(|(field, _)| wanted(field.name())) {
            let schema = block.steps.schema();
            let Some((index, _)) = schema
                .column_with_name(stored.name())
                .filter(|(_, field)| refers(field))
            else {
                continue;
            };
            let column = self.column(&block, block.steps.column(index), stored.name())?;
            block = block.with_step_column(made.clone(), column)?;
        }
        Ok(block)
    }

    /// Decodes the references `column` of a block, each by its own source.
    fn column(&mut self, block: &Block, column: &ArrayRef, name: &str) -> Result<ArrayRef> {
        let of = block.trajectories.column_by_name(SOURCE);
        let of = of.and_then(|of| of.as_primitive_opt::<Int32Type>());
        let source =
            |index: usize| of.map_or(0, |of| usize::try_from(of.value(index)).unwrap_or(0));
        let ids = block.ids()?;
        let mut parts: Vec<ArrayRef> = Vec::new();
        let mut start = 0;
        for end in 1..=block.len() {
            if end < block.len() && source(end) == source(start) {
                continue;
            }
            let (from, to) = (block.offsets[start], block.offsets[end]);
            let place = |row: usize| {
                let at = block
                    .offsets
                    .partition_point(|offset| *offset <= from + row);
                format!("trajectory {}", ids[at - 1])
            };
            let by = self.by(source(start), name)?;
            parts.push(by.column(name, &column.slice(from, to - from), &place)?);
            start = end;
        }
        match parts.as_slice() {
            [] => self.by(0, name)?.column(name, column, &|_| String::new()),
            [part] => Ok(Arc::clone(part)),
            parts => {
                let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                Ok(concat(&parts)?)
            }
        }
    }

    /// Returns what decodes the columns of a source.
    fn by(&mut self, source: usize, name: &str) -> Result<&mut Box<dyn DecodeColumns>> {
        let by = self.sources.get(source);
        let by = by.and_then(|source| source.decoded.as_ref());
        let by = by.ok_or_else(|| Error::failed(format!("the column `{name}` is not decoded")))?;
        Ok(self.open.entry(source).or_insert_with(|| by.by.columns()))
    }
}

/// Returns the source whose decoder and folder of videos also serve a dataset that was made from
/// all `sources`; `None` if there is no such source.
fn following(sources: &[Dataset]) -> Option<&Dataset> {
    let apart = sources.len() > 1 && sources.iter().any(|source| source.video_root.is_some());
    sources.first().filter(|_| !apart)
}

/// Returns `intermediate`, which was made from `sources`, with frames in place of the references
/// that it keeps.
pub(crate) fn with_frames(intermediate: Dataset, sources: &[Dataset]) -> Dataset {
    let Some(source) = following(sources) else {
        return intermediate;
    };
    let root = source.video_root.clone();
    let dataset = intermediate.with_videos(root);
    let decoded = source.decoded.as_ref();
    match decoded.and_then(|decoded| decoded.by.of(&dataset)) {
        Some(by) => dataset.decoding(by),
        None => dataset,
    }
}
