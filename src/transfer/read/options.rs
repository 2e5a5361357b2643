//! The options of reading a foreign dataset, in a pipeline's `source` and in `trajmill import`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::video::{self, Frames, Videos};

/// The options of reading a foreign dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    /// Map canonical columns to source columns, for example `{action: act}`. A pattern such as
    /// `observation: obs_*`, in natural order, or a list such as `action: arm,hand` joins columns
    /// into a vector
    #[serde(
        serialize_with = "to_map",
        deserialize_with = "from_map",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub map: Vec<(String, String)>,
    /// Read only the arrays, columns or features of the source that match one of these patterns,
    /// for example `["obs/*", actions]`. The name of a group stands for everything in it. What
    /// marks the ends of trajectories is always read. Default: everything
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Leave out the arrays, columns or features of the source that match one of these patterns,
    /// for example `[states, "initial_state/*"]`. They are not opened. Default: nothing
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip: Vec<String>,
    /// Source column with the trajectory ids. Default: detected by its name, for example
    /// `episode_id`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trajectory: Option<String>,
    /// Source column with the step numbers. Default: detected by its name, `step`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Source column with the number or name of the environment of a row, in the log of a
    /// vectorised environment. Each environment has trajectories of its own, which its flags end.
    /// Default: none
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Sort the rows of a table by trajectory and step, or by trajectory and time if no column
    /// numbers the steps. Default: `false`
    #[serde(skip_serializing_if = "at_default")]
    pub sort: bool,
    /// The first axes of arrays: one of steps, or those of a rollout of vectorised environments.
    /// Default: `step`
    #[serde(skip_serializing_if = "at_default")]
    pub layout: Axes,
    /// Longest trajectory, in steps. Needed if the source marks terminal states only, as old D4RL
    /// files without `timeouts` do
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_steps: Option<usize>,
    /// Whether to end a trajectory where the observation after a step is not that of the next step,
    /// and no flag marks an end. Default: false, such a place is an error
    #[serde(skip_serializing_if = "at_default")]
    pub split_on_gaps: bool,
    /// Whether the last step of an RLDS or TF-Agents episode has an action. Default: `auto`
    #[serde(skip_serializing_if = "at_default")]
    pub final_action: FinalAction,
    /// The order of the values of an RLDS step. Default: `sar`
    #[serde(skip_serializing_if = "at_default")]
    pub alignment: Alignment,
    /// Frames per second of videos that are read from a folder: each step gets the frame that is
    /// shown at its time. Default: those of the files
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// How to read the frames of videos: `reference`, `array` or `png`. Default: `reference`.
    /// Decoding needs a build with the Cargo feature `video`. A map also says which frame of a
    /// LeRobot video belongs to a step: `{as: array, at: index, tolerance: 0.01}`
    #[serde(skip_serializing_if = "at_default")]
    pub frames: FrameOptions,
    /// How an imported dataset gets the videos that its rows refer to. It changes no row, unless
    /// references stay relative to the source. Default: `link`
    #[serde(skip)]
    pub videos: Videos,
    /// What to do with an observation, action or reward that is NaN or infinite. Default: `fail`,
    /// its trajectory is bad
    #[serde(skip_serializing_if = "at_default")]
    pub non_finite: NonFinite,
    /// Task of every step, such as `pick up the cup`. It replaces a task that the source has
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// What to do with a bad trajectory. Default: `fail`
    #[serde(skip_serializing_if = "at_default")]
    pub on_error: OnError,
    /// Folder for data that does not fit in memory; the temporary directory if `None`.
    #[serde(skip)]
    pub scratch: Option<PathBuf>,
}

impl Options {
    /// Returns the options that differ from their defaults, by name.
    ///
    /// # Errors
    /// Returns an error if the options cannot be serialised.
    pub fn given(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self) {
            Ok(Value::Object(given)) => Ok(given),
            other => Err(Error::failed(format!(
                "the options of reading serialise to {other:?}, not to a map"
            ))),
        }
    }

    /// Returns the options with `folder` for data that does not fit in memory.
    #[must_use]
    pub fn with_scratch(&self, folder: &Path) -> Options {
        Options {
            scratch: Some(folder.to_owned()),
            ..self.clone()
        }
    }

    /// Returns the folder for data that does not fit in memory.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Returns what a dataset depends on, by name, besides its source: the given options, and the
    /// decoder if frames are decoded.
    ///
    /// # Errors
    /// Returns an error if frames are to be decoded and this build has no decoder.
    pub fn depends(&self) -> Result<Vec<(String, String)>> {
        let text = |value: Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let mut depends: Vec<(String, String)> = self
            .given()?
            .into_iter()
            .map(|(name, value)| (name, text(value)))
            .collect();
        if self.frames.kind != Frames::Reference {
            depends.push(("frames by".to_owned(), video::version()?));
        }
        Ok(depends)
    }
}

/// How the frames of videos are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "FrameForm", into = "FrameForm")]
#[schemars(with = "FrameForm")]
pub struct FrameOptions {
    /// How they are stored.
    pub kind: Frames,
    /// Which frame belongs to a step.
    pub at: FramesAt,
    /// The most seconds between the time of a step and that of its frame; LeRobot's 0.0001 if
    /// `None`.
    pub tolerance: Option<f64>,
}

impl FrameOptions {
    /// Returns the name of the first of the options that is given, as on the command line.
    pub(crate) fn named(&self) -> &'static str {
        let is_kept = self.kind == Frames::Reference;
        let which = self.which().filter(|_| is_kept);
        which.unwrap_or("frames")
    }

    /// Returns the name of the first of the options that is given and says which frame belongs to
    /// a step.
    pub(crate) fn which(&self) -> Option<&'static str> {
        match (self.at, self.tolerance) {
            (FramesAt::Index, _) => Some("frames-at"),
            (FramesAt::Timestamp, Some(_)) => Some("tolerance"),
            (FramesAt::Timestamp, None) => None,
        }
    }
}

impl From<Frames> for FrameOptions {
    fn from(kind: Frames) -> FrameOptions {
        FrameOptions {
            kind,
            ..FrameOptions::default()
        }
    }
}

/// [`FrameOptions`] as they are written.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum FrameForm {
    Kind(Frames),
    Map(FrameMap),
}

/// [`FrameOptions`] as a map.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FrameMap {
    /// How the frames are stored. Default: `reference`
    #[serde(rename = "as", default, skip_serializing_if = "at_default")]
    kind: Frames,
    /// Which frame of a LeRobot video belongs to a step. Default: `timestamp`
    #[serde(default, skip_serializing_if = "at_default")]
    at: FramesAt,
    /// Most seconds between the time of a step and that of its frame; the nearest frame counts.
    /// Default: 0.0001
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tolerance: Option<f64>,
}

impl From<FrameForm> for FrameOptions {
    fn from(form: FrameForm) -> FrameOptions {
        match form {
            FrameForm::Kind(kind) => kind.into(),
            FrameForm::Map(FrameMap {
                kind,
                at,
                tolerance,
            }) => FrameOptions {
                kind,
                at,
                tolerance,
            },
        }
    }
}

impl From<FrameOptions> for FrameForm {
    fn from(options: FrameOptions) -> FrameForm {
        let FrameOptions {
            kind,
            at,
            tolerance,
        } = options;
        match options == kind.into() {
            true => FrameForm::Kind(kind),
            false => FrameForm::Map(FrameMap {
                kind,
                at,
                tolerance,
            }),
        }
    }
}

/// Which frame of a LeRobot video belongs to a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FramesAt {
    /// The one that is shown at the step's `timestamp`.
    #[default]
    Timestamp,
    /// The one with the step's number in its episode, at the rate of the dataset.
    Index,
}

/// The first axes of the arrays of a dataset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Axes {
    /// One axis of steps, with all trajectories end to end.
    #[default]
    #[serde(rename = "step")]
    Step,
    /// Time, then environments.
    #[serde(rename = "time,env")]
    TimeEnv,
    /// Environments, then time.
    #[serde(rename = "env,time")]
    EnvTime,
}

fn at_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn to_map<S: Serializer>(pairs: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}

fn from_map<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    let pair = |(key, value)| match value {
        Value::String(value) => Ok((key, value)),
        other => Err(D::Error::custom(format!(
            "`map` needs the name of a source column for `{key}`, not {other}"
        ))),
    };
    Map::deserialize(from)?.into_iter().map(pair).collect()
}

/// What to do with a bad trajectory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// End the import with an error.
    #[default]
    Fail,
    /// Set the trajectory aside, with the reason, in quarantine.jsonl, and continue with the next
    /// one.
    Quarantine,
}

/// What to do with numbers that are NaN or infinite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// A trajectory with such an observation, action or reward is a bad one.
    #[default]
    Fail,
    /// Import them as they are.
    Keep,
}

/// Whether the last step of an RLDS or TF-Agents episode has an action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FinalAction {
    /// The last step holds the final observation if its action is all zeros; otherwise its action
    /// counts.
    #[default]
    Auto,
    /// The last step has an action.
    Valid,
    /// The last step holds the final observation, and its action is filler.
    Filler,
}

/// The order of the values of an RLDS step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Alignment {
    /// State, action, reward: the action was taken in the step's observation.
    #[default]
    Sar,
    /// Reward, state, action: the action led to the step's observation, as dm_env logs it.
    Rsa,
}
