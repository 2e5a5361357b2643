//! Frames of videos, for datasets that hold frames instead of references to videos.
//!
//! FFmpeg's libraries decode them, in a build with the Cargo feature `video`. Without the feature,
//! everything else works the same, and a request for frames is an error that says how to get it:
//! [`Video`] is then a type without values.

#[cfg(feature = "video")]
mod cut;
#[cfg(feature = "video")]
mod demux;
#[cfg(feature = "video")]
mod encode;
mod ending;
#[cfg(feature = "video")]
mod ffmpeg;
#[cfg(feature = "video")]
mod keys;
mod output;
mod pictures;
#[cfg(feature = "video")]
mod png;
#[cfg(feature = "video")]
mod probe;
#[cfg(feature = "video")]
mod rate;
mod references;
mod resize;
#[cfg(feature = "video")]
mod rgb;
#[cfg(feature = "video")]
mod still;
mod timeline;
#[cfg(not(feature = "video"))]
mod without;

pub(crate) use ending::{beyond, ending};
pub(crate) use output::{Codec, Encoding, Extent, Images, Run, VideoFiles, is_mp4};
pub(crate) use pictures::{Pictures, field};
pub(crate) use references::{decoded, follow, imported, of_folder, planned};
pub(crate) use resize::Resize;
pub(crate) use timeline::Timeline;

pub(crate) use crate::dataset::videos::{DEPTH, TOLERANCE, TOLERANCE_KEY, reference, refers};

#[cfg(feature = "video")]
pub(crate) use cut::{cut, extent, whole};
#[cfg(feature = "video")]
pub(crate) use encode::Encoder;
#[cfg(feature = "video")]
pub(crate) use ffmpeg::{Video, version};
#[cfg(feature = "video")]
pub(crate) use probe::timeline;
#[cfg(feature = "video")]
pub(crate) use still::still;
#[cfg(not(feature = "video"))]
pub(crate) use without::{Encoder, Video, cut, extent, still, timeline, version, whole};

/// How the frames of videos are stored.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Frames {
    /// Not stored: a column refers to them by file and by time in seconds.
    #[default]
    Reference,
    /// As RGB arrays of `uint8`, of the shape height × width × 3.
    Array,
    /// As PNG files.
    Png,
}

/// How the pixels of a resized picture are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filter {
    /// A triangle as wide as two pixels, or as two pixels of the smaller picture: Pillow's
    /// `BILINEAR`, which torchvision calls `antialias=True`.
    #[default]
    Bilinear,
    /// The mean of the pixels that a pixel covers, each as far as it is covered. Where a picture
    /// shrinks, it differs from OpenCV's `INTER_AREA` by at most 1.
    Area,
}

/// How a dataset gets the videos that its rows refer to.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Videos {
    /// Links the files into the dataset, or copies them from another file system.
    #[default]
    Link,
    /// Copies the files into the dataset, so that nothing that happens to the source changes them.
    Copy,
    /// Leaves the files in the source. References are relative to it.
    Reference,
}
