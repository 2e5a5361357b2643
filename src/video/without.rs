//! What stands in for decoding where the build has none: the error that says how to get it.

use std::convert::Infallible;
use std::path::Path;

use crate::error::{Error, Result};
use crate::video::Frames;

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

    pub(crate) fn frame(&mut self, _: f64, _: Frames, _: &mut Vec<u8>) -> Result<()> {
        match self.0 {}
    }
}
