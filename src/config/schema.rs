//! The JSON Schema of pipeline files, assembled from the options of every stage: the one description from which
//! validation, messages and editors' completions come.

use serde_json::{Value, json};

use super::Input;
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
    let one = generator.subschema_for::<Input>().to_value();
    let definitions: Value = generator
        .take_definitions(true)
        .into_iter()
        .collect::<serde_json::Map<_, _>>()
        .into();
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
