//! The options of writing a dataset in another format.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

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
        ]
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| name)
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
