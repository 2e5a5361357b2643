//! The JSON Schema of pipeline files, assembled from the options of every stage. Validation,
//! messages and the completions of editors all come from it.

use serde_json::{Value, json};

use super::Input;
use crate::stage::STAGES;

/// Returns the JSON Schema (2020-12) of a pipeline file.
pub(crate) fn json_schema() -> Value {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let stage = |name: &str, options: Value| {
        json!({
            "type": "object",
            "properties": {name: options},
            "required": [name],
            "additionalProperties": false
        })
    };
    let stages: Vec<Value> = STAGES
        .iter()
        .map(|entry| stage(entry.name, (entry.schema)(&mut generator).to_value()))
        .collect();
    let one = generator.subschema_for::<Input>().to_value();
    let definitions: Value = generator
        .take_definitions(true)
        .into_iter()
        .collect::<serde_json::Map<_, _>>()
        .into();
    let path = json!({"type": "string", "format": "path"});
    let either = json!({"anyOf": [path, one]});
    let several = json!({"type": "array", "items": either, "minItems": 1});
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "trajmill pipeline",
        "type": "object",
        "properties": {
            "trajmill": {
                "type": "integer",
                "enum": [1],
                "description": "The version of the pipeline format, always 1."
            },
            "params": {
                "type": "object",
                "description": "The parameters and their defaults. `--set NAME=VALUE` overrides \
                                one, and `${NAME}` in any value stands for it.",
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]}
            },
            "source": {
                "description": "The dataset to read, or a list of datasets.",
                "anyOf": [path, one, several]
            },
            "stages": {
                "type": "array",
                "description": "The stages, in order. Each is a key with its options.",
                "items": {"oneOf": stages},
                "minItems": 1
            }
        },
        "required": ["trajmill", "source", "stages"],
        "additionalProperties": false,
        "$defs": definitions
    });
    join_lines(&mut schema);
    schema
}

/// Joins the lines of every description: they come from doc comments, which are wrapped. A blank
/// line still separates paragraphs.
fn join_lines(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::String(text) if key == "description" => {
                        let paragraphs = text.split("\n\n").map(|text| text.replace('\n', " "));
                        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
                    }
                    value => join_lines(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(join_lines),
        _ => {}
    }
}
