//! The decoder of a build without the Cargo feature `video`: an error that says how to get one.

use std::convert::Infallible;
use std::path::Path;

use crate::dataset::frames::Picture;
use crate::error::{Error, Result};
use crate::video::{Encoding, Extent, Frames, Run, Timeline};

/// Returns the name and the version of the decoder.
///
/// # Errors
///
/// Always returns an error: this build has no decoder.
pub(crate) fn version() -> Result<String> {
    Err(absent())
}

/// The error for a build without a decoder.
fn absent() -> Error {
    Error::usage(
        "videos cannot be decoded or encoded: this trajmill was built without the Cargo feature \
         `video`",
    )
    .hint(
        "install FFmpeg's libraries (on Debian: apt-get install libavcodec-dev libavfilter-dev \
         libavformat-dev libclang-dev pkg-config) and build again with `--features video`",
    )
}

/// Finds the frames of a video file.
///
/// # Errors
///
/// Always returns an error: this build has no decoder.
pub(crate) fn timeline(_: &Path) -> Result<Timeline> {
    Err(absent())
}

/// A video, of which there are no values.
pub(crate) struct Video(Infallible);

impl Video {
    pub(crate) fn open(_: &Path, _: usize) -> Result<Video> {
        Err(absent())
    }

    pub(crate) fn path(&self) -> &Path {
        match self.0 {}
    }

    pub(crate) fn size(&self) -> [usize; 2] {
        match self.0 {}
    }

    pub(crate) fn key_gap(&self) -> Option<f64> {
        match self.0 {}
    }

    pub(crate) fn picture(&mut self, _: f64, _: f64) -> Result<Picture<'_>> {
        match self.0 {}
    }

    pub(crate) fn frame(&mut self, _: f64, _: f64, _: Frames, _: &mut Vec<u8>) -> Result<()> {
        match self.0 {}
    }
}

/// Returns how much of a file a run of frames is.
pub(crate) fn extent(_: &Path, _: &Run) -> Result<Extent> {
    Err(absent())
}

/// Returns all frames of a file as one run.
pub(crate) fn whole(_: &Path, _: f64) -> Result<Option<Run>> {
    Err(absent())
}

/// Cuts a run of frames out of a video.
pub(crate) fn cut(_: &Path, _: &Path, _: &Run) -> Result<()> {
    Err(absent())
}

/// Decodes an image file.
pub(crate) fn still(_: &[u8], _: &mut Vec<u8>) -> Result<[usize; 2]> {
    Err(absent())
}

/// A video that is being written, of which there are no values.
pub(crate) struct Encoder(Infallible);

impl Encoder {
    pub(crate) fn create(_: &Path, _: [usize; 2], _: f64, _: &Encoding) -> Result<Encoder> {
        Err(absent())
    }

    pub(crate) fn frames(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn size(&self) -> [usize; 2] {
        match self.0 {}
    }

    pub(crate) fn push(&mut self, _: &[u8]) -> Result<()> {
        match self.0 {}
    }

    pub(crate) fn finish(self) -> Result<()> {
        match self.0 {}
    }
}
