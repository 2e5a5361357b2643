//! How videos are written: which files are kept, and how frames are encoded.

use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dataset::files;
use crate::error::Result;

/// Whether the file at `path` is an MP4, whatever its name says. A QuickTime file is not.
///
/// # Errors
///
/// Returns an error if the file cannot be read.
pub(crate) fn is_mp4(path: &Path) -> Result<bool> {
    let unreadable = |error| files::unreadable(path, &error);
    let mut head = Vec::new();
    let file = files::open(path).map_err(unreadable)?;
    file.take(12).read_to_end(&mut head).map_err(unreadable)?;
    Ok(head.get(4..8) == Some(b"ftyp") && head.get(8..12).is_some_and(|brand| brand != b"qt  "))
}

/// How the files of videos that a dataset refers to reach an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VideoFiles {
    /// By hard links, or by copies on another file system. Frames are encoded only where the files
    /// cannot be used as they are.
    #[default]
    Link,
    /// By copies. Frames are encoded only where the files cannot be used as they are.
    Copy,
    /// Every frame is decoded and encoded again.
    Reencode,
}

/// How columns of images and of pixels are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Images {
    /// As image files, without loss.
    #[default]
    Image,
    /// As videos, which are much smaller and lose some detail.
    Video,
}

/// The codec of videos that are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// AV1 by SVT-AV1, as LeRobot's recorder encodes.
    #[default]
    Av1,
    /// H.264 by x264.
    H264,
    /// HEVC by x265.
    Hevc,
}

impl Codec {
    /// The name of the codec in FFmpeg, which LeRobot notes in `info.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Codec::Av1 => "av1",
            Codec::H264 => "h264",
            Codec::Hevc => "hevc",
        }
    }
}

/// How frames are encoded. The defaults are those of LeRobot's recorder.
#[cfg_attr(not(feature = "video"), allow(dead_code))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) codec: Codec,
    /// The constant rate factor: smaller numbers lose less.
    pub(crate) crf: u32,
    /// The number of frames from a key frame to the next.
    pub(crate) gop: u32,
}

/// A run of frames in a video.
#[cfg_attr(not(feature = "video"), allow(dead_code))]
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    /// The time of the first frame, in seconds.
    pub(crate) from: f64,
    /// The number of frames.
    pub(crate) frames: u64,
    /// The number of frames per second.
    pub(crate) fps: f64,
    /// The most seconds by which a time may differ.
    pub(crate) tolerance: f64,
}

/// How much of a file a run of frames is.
#[cfg_attr(not(feature = "video"), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The whole file.
    Whole,
    /// A part that can be cut out as it is: it begins with a key frame, and no frame in it needs
    /// one outside.
    Cut,
    /// A part that has to be encoded again.
    Unaligned,
}
