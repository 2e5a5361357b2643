//! Frames of videos, decoded where a dataset is to hold them instead of references to them.
//!
//! FFmpeg decodes, by the system's libraries, in a build with the Cargo feature `video`. Without it everything else is the
//! same, and asking for frames is an error that says so: [`Video`] is then a type of which there are no values.

#[cfg(feature = "video")]
mod ffmpeg;
mod pictures;
mod references;
#[cfg(not(feature = "video"))]
mod without;

pub(crate) use pictures::{Pictures, field};
pub use references::decoded;
pub(crate) use references::{DEPTH, reference, refers};

#[cfg(feature = "video")]
pub(crate) use ffmpeg::Video;
#[cfg(feature = "video")]
pub use ffmpeg::version;
#[cfg(not(feature = "video"))]
pub(crate) use without::Video;
#[cfg(not(feature = "video"))]
pub use without::version;

/// What becomes of the frames of videos.
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
    /// They stay where they are: a column of references, file and seconds.
    #[default]
    Reference,
    /// Arrays of bytes of the shape height × width × 3, RGB.
    Array,
    /// PNG files.
    Png,
}
