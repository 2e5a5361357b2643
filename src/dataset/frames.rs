//! Frames of videos that the rows of a block refer to, and how they are asked for.
//!
//! A block holds references, which are small. Whoever needs pixels lists the frames that each of
//! its batches needs, and gets the batches as they become complete.

use std::ops::Range;
use std::sync::Arc;

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

impl Place {
    /// Whether the frame of `other` is in the same file.
    pub(crate) fn is_in_file_of(&self, other: &Place) -> bool {
        (self.source, &self.path) == (other.source, &other.path)
    }
}

/// Reads frames, fastest in the order of their times.
pub trait FrameReader: Send {
    /// Returns the frame at `place`.
    ///
    /// # Errors
    /// Returns an error that names file and time if there is no such frame or if it is damaged.
    fn frame(&mut self, place: &Place) -> Result<Picture<'_>>;

    /// Returns the longest time between two key frames in the file that is open, in seconds, as far
    /// as it was read; `None` if fewer than two key frames were read.
    fn key_gap(&self) -> Option<f64>;

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
