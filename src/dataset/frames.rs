//! Frames of videos that the rows of a block refer to, and how they are asked for.
//!
//! A block holds references, which are small. Whoever needs pixels lists the frames that each of
//! its batches needs, and gets the batches as they become complete.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, Int32Array, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Float64Type;

use super::Block;
use super::videos::{refers, tolerance};
use crate::error::Result;

/// A decoded frame: RGB with 8 bits per channel.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Number of rows of pixels.
    pub height: usize,
    /// Number of pixels in a row.
    pub width: usize,
    /// Number of bytes from one row to the next.
    pub stride: usize,
    /// The rows, from the top.
    pub rgb: &'a [u8],
}

impl<'a> Picture<'a> {
    /// Returns the picture of `rgb`, whose rows follow each other without gaps.
    pub(crate) fn packed([height, width]: [usize; 2], rgb: &'a [u8]) -> Picture<'a> {
        Picture {
            height,
            width,
            stride: 3 * width,
            rgb,
        }
    }

    /// Returns the rows, each of `3 * width` bytes.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let width = 3 * self.width;
        self.rgb
            .chunks(self.stride.max(1))
            .take(self.height)
            .map(move |row| &row[..width.min(row.len())])
    }
}

/// The place of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The path of the video, relative to its source.
    pub path: Arc<str>,
    /// The time of the frame, in seconds.
    pub seconds: f64,
    /// The most seconds by which the time of the frame may differ.
    pub tolerance: f64,
    /// The index of the source among those of the phase.
    pub source: usize,
    /// The id of the trajectory that shows it.
    pub trajectory: i64,
}

/// Reads frames, fastest in the order of their times.
pub trait FrameReader: Send {
    /// Returns the frame at `place`.
    ///
    /// # Errors
    /// Returns an error that names file and time if there is no such frame or if it is damaged.
    fn frame(&mut self, place: &Place) -> Result<Picture<'_>>;

    /// Verifies that the files that were read did not change meanwhile.
    ///
    /// # Errors
    /// Returns an error if one of them was replaced.
    fn finish(&mut self) -> Result<()>;
}

/// A frame in the form that whoever asked for it needs.
pub(crate) type Frame = Arc<Vec<u8>>;

/// Converts a frame to the form in which it is kept.
pub(crate) type Convert<'a> = dyn Fn(Picture) -> Result<Vec<u8>> + Sync + 'a;

/// Frames of one column that are converted in one way.
pub struct Feed<'a> {
    /// The name of the column.
    pub column: &'a str,
    /// The frames, in the order in which batches need them.
    pub places: Vec<Place>,
    /// Number of bytes of a converted frame.
    pub bytes: usize,
    /// How a frame is converted, on the thread that decodes it.
    pub convert: &'a Convert<'a>,
}

/// The frames of each feed that a batch needs. Neither end moves back from one batch to the next.
pub(crate) type Needs = Vec<Range<usize>>;

/// Works on a batch, given its index and, for each feed, the frames that it needs.
pub(crate) type Work<'a> = dyn Fn(usize, &[Vec<Frame>]) -> Result<()> + Sync + 'a;

/// Gives the frames that the blocks of a phase refer to.
pub trait Frames: std::fmt::Debug + Send + Sync {
    /// Decodes the frames of `feeds`, each once, and calls `work` for each of `batches` when its
    /// frames are there. Several batches may be worked on at once.
    ///
    /// # Errors
    /// Returns the error of the earliest batch that fails.
    fn pull(&self, feeds: &[Feed], batches: &[Needs], work: &Work) -> Result<()>;
}

/// The column of a block's trajectories with the index of the source that their references belong
/// to, where a phase has several sources. It is never written.
pub(crate) const SOURCE: &str = "__frame_source";

/// The metadata key of a column of frames that is decoded when its values are needed. It is never
/// written.
pub(crate) const LAZY: &str = "lazy";

/// The references of a block's column.
#[derive(Debug)]
pub(crate) struct References {
    paths: StringArray,
    seconds: Float64Array,
    nulls: Option<NullBuffer>,
    tolerance: f64,
    ids: Vec<i64>,
    sources: Option<Int32Array>,
}

impl References {
    /// Returns the references in the column `name` of `block`; `None` if it holds none.
    ///
    /// # Errors
    /// Returns an error if the trajectories have no ids.
    pub(crate) fn of(block: &Block, name: &str) -> Result<Option<References>> {
        let schema = block.steps.schema_ref();
        let Some((index, field)) = schema
            .column_with_name(name)
            .filter(|(_, field)| refers(field))
        else {
            return Ok(None);
        };
        let column = block.steps.column(index).as_struct();
        let sources = block.trajectories.column_by_name(SOURCE);
        Ok(Some(References {
            paths: column.column(0).as_string::<i32>().clone(),
            seconds: column.column(1).as_primitive::<Float64Type>().clone(),
            nulls: column.nulls().cloned(),
            tolerance: tolerance(field)?,
            ids: block.ids()?.to_vec(),
            sources: sources.and_then(|sources| sources.as_primitive_opt().cloned()),
        }))
    }

    /// Returns the rows without a reference.
    pub(crate) fn nulls(&self) -> Option<&NullBuffer> {
        self.nulls.as_ref()
    }

    /// Returns the places of the frames of `rows`, each a row and the index of its trajectory.
    pub(crate) fn places(&self, rows: impl Iterator<Item = (usize, usize)>) -> Vec<Place> {
        let mut known: Option<Arc<str>> = None;
        let place = |(row, trajectory): (usize, usize)| {
            let path = self.paths.value(row);
            let path = match known.take().filter(|known| **known == *path) {
                Some(known) => known,
                None => Arc::from(path),
            };
            known = Some(Arc::clone(&path));
            let source = self
                .sources
                .as_ref()
                .map_or(0, |sources| sources.value(trajectory));
            Place {
                path,
                seconds: self.seconds.value(row),
                tolerance: self.tolerance,
                source: usize::try_from(source).unwrap_or(usize::MAX),
                trajectory: self.ids[trajectory],
            }
        };
        rows.map(place).collect()
    }
}
