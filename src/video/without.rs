//! What stands in for decoding where the build has none: the error that says how to get it.

use std::convert::Infallible;
use std::path::Path;

use super::Frames;
use crate::error::{Error, Result};

/// What decodes.
///
/// # Errors
/// Always: nothing does.
pub fn version() -> Result<String> {
    Err(absent())
}

fn absent() -> Error {
    Error::usage("frames of videos cannot be decoded: this trajmill was built without the Cargo feature `video`").hint(
        "install FFmpeg's libraries (Debian: apt-get install libavcodec-dev libavfilter-dev libavformat-dev libclang-dev pkg-config), and \
         build with `--features video`",
    )
}

/// A video; there are none.
pub(in crate::format) struct Video(Infallible);

impl Video {
    pub(in crate::format) fn open(_: &Path) -> Result<Video> {
        Err(absent())
    }

    pub(in crate::format) fn path(&self) -> &Path {
        match self.0 {}
    }

    pub(in crate::format) fn size(&self) -> [usize; 2] {
        match self.0 {}
    }

    pub(in crate::format) fn frame(&mut self, _: f64, _: Frames, _: &mut Vec<u8>) -> Result<()> {
        match self.0 {}
    }
}
