//! What inputs with frames show, and where a block has the frames.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;

use super::pixels::{Shape, Values};
use super::windows::{Edge, Slot, Span};
use crate::dataset::Block;
use crate::dataset::block::elements;
use crate::dataset::frame_references::References;
use crate::error::{Error, Result};

/// What an input with frames shows.
pub(in crate::stage) struct Shown {
    /// The column that refers to the frames, or holds them.
    pub(super) column: String,
    /// The rows around a row whose frames are shown, the first and the last.
    pub(super) reach: [i64; 2],
    /// What stands for frames beyond the ends of a trajectory.
    pub(super) edge: Edge,
    /// Height and width of frames that the column itself holds.
    pub(super) held: [usize; 2],
    pub(super) shape: Shape,
    pub(super) values: Values,
}

impl Shown {
    /// Returns the row of each frame that is shown at `slot`; `None` for a frame of zeros.
    pub(super) fn rows(
        &self,
        span: &Span,
        slot: &Slot,
    ) -> impl Iterator<Item = Option<usize>> + use<> {
        let (start, end, zero) = (span.start as i64, span.end as i64, self.edge == Edge::Zero);
        let at = slot.row as i64;
        (self.reach[0]..=self.reach[1]).map(move |offset| {
            let row = at.saturating_add(offset);
            let beyond = row < start || row >= end;
            (!(beyond && zero)).then(|| row.clamp(start, end - 1) as usize)
        })
    }

    /// Whether all frames that are shown at `slot` lie in its trajectory.
    pub(super) fn fits(&self, span: &Span, slot: &Slot) -> bool {
        let row = |offset: i64| (slot.row as i64).saturating_add(offset);
        row(self.reach[0]) >= span.start as i64 && row(self.reach[1]) < span.end as i64
    }

    /// Returns the first row without a frame that is shown at `slot`.
    pub(super) fn unknown(&self, nulls: &NullBuffer, span: &Span, slot: &Slot) -> Option<usize> {
        self.rows(span, slot)
            .flatten()
            .find(|row| nulls.is_null(*row))
    }

    /// Returns the number of values that one row shows.
    pub(super) fn cells(&self) -> usize {
        self.shape.bytes() * self.length()
    }

    fn length(&self) -> usize {
        usize::try_from(self.reach[1] - self.reach[0] + 1).unwrap_or(0)
    }
}

/// The frames of a column of a block.
pub(in crate::stage) enum Source {
    /// In videos.
    Referred(Box<References>),
    /// In the block itself, one after another.
    Held(ArrayRef, Option<NullBuffer>),
}

impl Source {
    /// Returns the frames in the column `name` of `block`.
    pub(super) fn of(block: &Block, name: &str) -> Result<Source> {
        if let Some(references) = References::of(block, name)? {
            return Ok(Source::Referred(Box::new(references)));
        }
        let column = block.steps.column_by_name(name);
        let vectors = column.and_then(|column| column.as_fixed_size_list_opt());
        let vectors = vectors
            .ok_or_else(|| Error::failed(format!("the column `{name}` does not hold frames")))?;
        Ok(Source::Held(elements(vectors), vectors.nulls().cloned()))
    }

    pub(super) fn nulls(&self) -> Option<&NullBuffer> {
        match self {
            Source::Referred(references) => references.nulls(),
            Source::Held(_, nulls) => nulls.as_ref(),
        }
    }
}
