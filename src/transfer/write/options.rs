//! The options of writing a dataset in another format.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::video::{Codec, Encoding, Images, VideoFiles};

/// The options of writing a dataset in a foreign format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WriteOptions {
    /// What to do with steps without an action, if the format cannot store a missing action.
    /// Default: `refuse`
    pub unlabelled: Unlabelled,
    /// Value of every dimension of a filled action, with `unlabelled: fill`. Default: 0
    pub fill: f64,
    /// Name under which a loader finds the dataset, for example `mujoco/hopper/medium-v0` in Minari
    pub name: Option<String>,
    /// Environment that the data come from, for example `Hopper-v5`
    pub env: Option<String>,
    /// Number of steps per second, for example `30` or `29.97`
    #[serde(serialize_with = "short")]
    pub fps: Option<f64>,
    /// Type of the robot that recorded the data, for example `so100`
    pub robot: Option<String>,
    /// Description of the task, for trajectories that have none of their own
    pub task: Option<String>,
    /// How the files of videos reach the output: `link`, `copy` or `reencode`. Frames that do not
    /// follow one another in a file are always encoded. Default: `link`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub videos: Option<VideoFiles>,
    /// How columns of images and of pixels (`uint8[H*W*3]`) are stored: `image` or `video`.
    /// Default: `image`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// Codec of videos that are encoded: `av1`, `h264` or `hevc`. Default: `av1`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// Constant rate factor of videos that are encoded, for example `23`: a smaller number gives
    /// larger files that lose less. Default: 30
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crf: Option<u32>,
    /// Number of frames from a key frame to the next in videos that are encoded. Default: 2
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub gop: Option<u32>,
    /// The note of origin of the output. A format of one file stores it in the file.
    #[serde(skip)]
    pub note: String,
}

impl WriteOptions {
    /// Returns the names of the given options that only some formats take.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("name", self.name.is_some()),
            ("env", self.env.is_some()),
            ("fps", self.fps.is_some()),
            ("robot", self.robot.is_some()),
            ("task", self.task.is_some()),
            ("videos", self.videos.is_some()),
            ("images", self.images.is_some()),
            ("codec", self.codec.is_some()),
            ("crf", self.crf.is_some()),
            ("gop", self.gop.is_some()),
        ]
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| name)
    }

    /// Returns how videos are encoded.
    pub(crate) fn encoding(&self) -> Encoding {
        Encoding {
            codec: self.codec.unwrap_or_default(),
            crf: self.crf.unwrap_or(30),
            gop: self.gop.unwrap_or(2),
        }
    }
}

/// What to do with steps without an action, if the format cannot store a missing action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unlabelled {
    /// End the export with an error.
    #[default]
    Refuse,
    /// Leave these steps out. Each run of steps with actions becomes a trajectory, which is
    /// truncated unless it reaches the end.
    Drop,
    /// Fill the actions with the value of `fill`, and set `action_valid` to false for these steps.
    Fill,
}

/// Writes a whole number without a fraction, as users write it.
fn short<S: Serializer>(number: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(whole) if whole.fract() == 0.0 && whole.abs() < 1e15 => {
            to.serialize_i64(*whole as i64)
        }
        other => other.serialize(to),
    }
}
