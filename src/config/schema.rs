//! The JSON Schema of pipeline files, assembled from the options of every stage: the one description from which
//! validation, messages and editors' completions come.

use serde_json::{Value, json};

use crate::stage::STAGES;

/// The JSON Schema (2020-12) of a pipeline file.
pub fn json_schema() -> Value {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let stages: Vec<Value> = STAGES
        .iter()
        .map(|stage| {
            let options = (stage.schema)(&mut generator).to_value();
            json!({"type": "object", "properties": {stage.name: options}, "required": [stage.name], "additionalProperties": false})
        })
        .collect();
    let definitions: Value = generator.take_definitions(true).into_iter().collect::<serde_json::Map<_, _>>().into();
    let one = json!({
        "type": "object",
        "description": "A dataset to read.",
        "properties": {
            "path": {"type": "string", "description": "Path of the dataset, relative to the pipeline file's folder."},
            "format": {"type": "string", "description": "Format, where it is not trajmill's own."},
            "map": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Canonical column to source column."},
            "widen": {"type": "boolean", "description": "Whether types may become wider where the sources differ."},
            "final_action": {"type": "string", "enum": ["auto", "valid", "filler"], "description": "The last step of an RLDS or TF-Agents episode: a valid action, filler beside the final observation, or auto to tell by zeros."},
            "alignment": {"type": "string", "enum": ["sar", "rsa"], "description": "Where an action stands in an RLDS episode: beside the observation it was taken in, or beside the next one."},
            "max_steps": {"type": "integer", "minimum": 1, "description": "Longest trajectory, where the source marks terminal states alone."},
            "on_error": {"type": "string", "enum": ["fail", "quarantine"], "description": "What becomes of a bad trajectory: it ends the run, or is set aside with its reason in quarantine.jsonl."},
            "allowed": {"type": "integer", "minimum": 0, "description": "Trajectories that may be set aside; more of them give exit code 4."},
            "frames": {"type": "string", "enum": ["reference", "array", "png"], "description": "Frames of videos: references to them, or decoded to arrays of bytes or to PNG; needs a build with the Cargo feature `video`."},
            "videos": {"type": "string", "description": "The LeRobot dataset that a dataset of trajmill refers to for its videos, where `frames` is to decode them as it is read."}
        },
        "required": ["path"],
        "additionalProperties": false
    });
    let either = json!({"anyOf": [{"type": "string"}, one]});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "trajmill pipeline",
        "type": "object",
        "properties": {
            "trajmill": {"type": "integer", "enum": [1], "description": "Version of this format."},
            "params": {
                "type": "object",
                "description": "Parameters and their defaults; --set overrides them, \"${name}\" in any scalar stands for one.",
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]}
            },
            "source": {
                "description": "The dataset to read, or a list of them.",
                "anyOf": [{"type": "string"}, one, {"type": "array", "items": either, "minItems": 1}]
            },
            "stages": {"type": "array", "description": "What to do, in order; each stage is one key.", "items": {"oneOf": stages}, "minItems": 1}
        },
        "required": ["trajmill", "source", "stages"],
        "additionalProperties": false,
        "$defs": definitions
    })
}
