//! The decoder of a build without the Cargo feature `video`: an error that says how to get one.

use std::convert::Infallible;
use std::path::Path;

use crate::error::{Error, Result};
use crate::video::Frames;

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
        "videos cannot be decoded: this trajmill was built without the Cargo feature `video`",
    )
    .hint(
        "install FFmpeg's libraries (on Debian: apt-get install libavcodec-dev libavfilter-dev \
         libavformat-dev libclang-dev pkg-config) and build again with `--features video`",
    )
}

/// A video, of which there are no values.
pub(crate) struct Video(Infallible);

impl Video {
    pub(crate) fn open(_: &Path) -> Result<Video> {
        Err(absent())
    }

    pub(crate) fn path(&self) -> &Path {
        match self.0 {}
    }

    pub(crate) fn size(&self) -> [usize; 2] {
        match self.0 {}
    }

    pub(crate) fn frame(&mut self, _: f64, _: f64, _: Frames, _: &mut Vec<u8>) -> Result<()> {
        match self.0 {}
    }
}
