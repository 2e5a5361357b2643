//! The options of writing a dataset of another format.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the user says about the writing of a foreign format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WriteOptions {
    /// What becomes of steps without an action where the format cannot leave one out
    pub unlabelled: Unlabelled,
    /// Value of every dimension of an action that is filled in
    pub fill: f64,
    /// Name that the loader knows the dataset by, such as Minari's `mujoco/hopper/medium-v0`
    pub name: Option<String>,
    /// Environment that the data come from, such as `Hopper-v5`
    pub env: Option<String>,
    /// Steps per second
    pub fps: Option<u32>,
    /// Robot that the data come from
    pub robot: Option<String>,
    /// Text of the task, for trajectories that have none of their own
    pub task: Option<String>,
    /// What the output is to say of its origin; formats of one file keep it in the file.
    #[serde(skip)]
    pub note: String,
}

impl WriteOptions {
    /// The names of the options that only some formats take, as far as they are given.
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

/// What becomes of steps without an action where the format cannot leave one out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unlabelled {
    /// Nothing is written.
    #[default]
    Refuse,
    /// They are left out: each run of steps with actions leaves as a trajectory of its own, cut off where it is not the last.
    Drop,
    /// Their actions are filled with the value of `fill`, and `action_valid` is false beside them.
    Fill,
}
