//! How a foreign dataset is to be read: what a pipeline's `source` and `trajmill import` say of it.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::video::{self, Frames};

/// How a foreign dataset is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Options {
    /// Canonical column to source column: `observation: obs_*` takes scalar columns in natural order as a vector
    #[serde(
        serialize_with = "to_map",
        deserialize_with = "from_map",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub map: Vec<(String, String)>,
    /// Source column that tells trajectories apart, where it is not found by its name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trajectory: Option<String>,
    /// Source column that numbers the steps of a trajectory, where it is not found by its name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Longest trajectory, where the source marks terminal states alone, as old D4RL sets without `timeouts` do
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_steps: Option<usize>,
    /// The last step of an RLDS or TF-Agents episode
    #[serde(skip_serializing_if = "at_default")]
    pub final_action: FinalAction,
    /// Where an action stands in an RLDS episode
    #[serde(skip_serializing_if = "at_default")]
    pub alignment: Alignment,
    /// Frames of LeRobot's videos; to decode them needs a build with the Cargo feature `video`
    #[serde(skip_serializing_if = "at_default")]
    pub frames: Frames,
    /// What becomes of a bad trajectory
    #[serde(skip_serializing_if = "at_default")]
    pub on_error: OnError,
}

impl Options {
    /// The options that are given, which means not at their defaults, by their names.
    ///
    /// # Errors
    /// None that comes from what is given.
    pub fn given(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self) {
            Ok(Value::Object(given)) => Ok(given),
            other => Err(Error::failed(format!(
                "options of a format are no map: {other:?}"
            ))),
        }
    }

    /// What a dataset that is read by them depends on besides its source, by name: the options that are given, and what
    /// decodes frames.
    ///
    /// # Errors
    /// Where frames are to be decoded and this build cannot.
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
        if self.frames != Frames::Reference {
            depends.push(("frames by".to_owned(), video::version()?));
        }
        Ok(depends)
    }
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
            "`{key}` is a column's name, not {other}"
        ))),
    };
    Map::deserialize(from)?.into_iter().map(pair).collect()
}

/// What becomes of a bad trajectory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It ends the import.
    #[default]
    Fail,
    /// It is set aside with its reason in quarantine.jsonl, and the import goes on with the next.
    Quarantine,
}

/// What the last step of an RLDS or TF-Agents episode holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FinalAction {
    /// The final observation where it is the last and its action is zeros, an action like any other elsewhere.
    #[default]
    Auto,
    /// An action like any other.
    Valid,
    /// The final observation, and filler for an action.
    Filler,
}

/// Which step of an RLDS episode an action stands in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Alignment {
    /// That in whose observation it was taken: state, action, reward.
    #[default]
    Sar,
    /// That whose observation it led to: reward, state, action; as dm_env logs it.
    Rsa,
}
