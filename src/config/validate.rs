//! Compares a tree with the JSON Schema of pipelines. Every fault has its place and, if possible, a
//! suggestion.

use std::path::Path;

use serde_json::Value;

use super::diagnostic::Diagnostic;
use super::schema::json_schema;
use super::yaml::{Content, Node, START, suggest};
use crate::dataset::files;
use crate::error::wording::count;
use crate::stage::STAGES;

/// Validates the shape of a pipeline file.
pub(super) fn pipeline(root: &Node, faults: &mut Vec<Diagnostic>) {
    let schema = json_schema();
    let mut walker = Walker {
        definitions: &schema["$defs"],
        faults,
    };
    let Content::Map(_) = &root.content else {
        walker.fault(
            root,
            format!("a pipeline must be a mapping, not {}", root.content.kind()),
            Some(START.to_owned()),
        );
        return;
    };
    // Stages are validated one by one below: no message can be made of seventeen alternatives.
    let mut shape = schema.clone();
    shape["properties"]["stages"] = serde_json::json!({"type": "array", "minItems": 1});
    walker.node(root, &shape, "the pipeline");
    if let Some(Content::Seq(stages)) = root.get("stages").map(|stages| &stages.content) {
        let alternatives = schema["properties"]["stages"]["items"]["oneOf"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for stage in stages {
            walker.stage(stage, &alternatives);
        }
    }
}

/// The `format` of a string that is a path.
const PATH: &str = "path";

struct Walker<'a> {
    definitions: &'a Value,
    faults: &'a mut Vec<Diagnostic>,
}

impl Walker<'_> {
    fn fault(&mut self, node: &Node, message: String, help: Option<String>) {
        self.faults.push(Diagnostic {
            span: node.span,
            message,
            help,
        });
    }

    /// Reports that the value `name` has none of the expected types. Null is not offered.
    fn wrong_type(&mut self, node: &Node, name: &str, mut expected: Vec<&str>) {
        expected.retain(|expected| *expected != "null");
        let mut expected: Vec<&str> = expected.into_iter().map(article).collect();
        expected.dedup();
        let (expected, kind) = (expected.join(" or "), node.content.kind());
        self.fault(
            node,
            format!("`{name}` must be {expected}, not {kind}"),
            None,
        );
    }

    fn stage(&mut self, node: &Node, alternatives: &[Value]) {
        let names = || STAGES.iter().map(|stage| stage.name).collect::<Vec<_>>();
        let entries = match &node.content {
            Content::Map(entries) => entries.as_slice(),
            // `- shuffle` lacks nothing but the colon to be a stage with default options.
            Content::Str(name) if names().contains(&name.as_str()) => {
                return self.fault(
                    node,
                    format!("`{name}` needs a colon and its options"),
                    Some(format!("write `- {name}: {{}}` for the defaults")),
                );
            }
            other => {
                return self.fault(
                    node,
                    format!(
                        "a stage must be a key with its options, not {}",
                        other.kind()
                    ),
                    None,
                );
            }
        };
        if let Some((second, _)) = entries.get(1) {
            let message = format!("a stage has one key, and `{}` is a second one", second.name);
            let help = format!(
                "start it with its own dash, or indent it to make it an option of `{}`",
                entries[0].0.name
            );
            self.faults.push(Diagnostic {
                span: second.span,
                message,
                help: Some(help),
            });
        }
        let Some((name, options)) = entries.first() else {
            return self.fault(
                node,
                "a stage must be a key with its options".to_owned(),
                None,
            );
        };
        match STAGES.iter().position(|stage| stage.name == name.name) {
            Some(index) => {
                if let Some(schema) = alternatives.get(index) {
                    self.node(options, &schema["properties"][&name.name], &name.name);
                }
            }
            None => {
                let message = format!("unknown stage `{}`", name.name);
                self.faults.push(Diagnostic {
                    span: name.span,
                    message,
                    help: Some(suggest(&name.name, names())),
                });
            }
        }
    }

    fn node(&mut self, node: &Node, schema: &Value, name: &str) {
        let schema = self.resolve(schema);
        if let Some(words) = words(&schema, self.definitions)
            && let Content::Str(text) = &node.content
        {
            if !words.contains(text) {
                self.fault(
                    node,
                    format!("`{name}` cannot be `{text}`"),
                    Some(suggest(
                        text,
                        words.iter().map(String::as_str).collect::<Vec<_>>(),
                    )),
                );
            }
            return;
        }
        if let Some(alternatives) = ["anyOf", "oneOf"]
            .iter()
            .find_map(|key| schema[*key].as_array())
        {
            return self.alternatives(node, alternatives, name);
        }
        let types = types(&schema);
        if !types.is_empty() && !types.iter().any(|expected| fits(&node.content, expected)) {
            return self.wrong_type(node, name, types);
        }
        match &node.content {
            Content::Str(path) if schema["format"] == PATH => {
                if let Err(error) = files::ensure_local(Path::new(path)) {
                    self.fault(node, error.message, error.hints.into_iter().next());
                }
            }
            Content::Map(_) => self.mapping(node, &schema, name),
            Content::Seq(nodes) => self.sequence(node, nodes, &schema, name),
            Content::Int(value) => self.range(node, *value as f64, &schema, name),
            Content::Float(value) => self.range(node, *value, &schema, name),
            _ => {}
        }
    }

    fn resolve(&self, schema: &Value) -> Value {
        match schema["$ref"]
            .as_str()
            .and_then(|reference| reference.strip_prefix("#/$defs/"))
        {
            Some(definition) => self.definitions[definition].clone(),
            None => schema.clone(),
        }
    }

    /// Validates a node that may have several shapes. The shape that it resembles most makes the
    /// message.
    fn alternatives(&mut self, node: &Node, alternatives: &[Value], name: &str) {
        let resolved: Vec<Value> = alternatives
            .iter()
            .map(|schema| self.resolve(schema))
            .collect();
        let matching: Vec<&Value> = resolved
            .iter()
            .filter(|schema| {
                let types = types(schema);
                types.is_empty() || types.iter().any(|expected| fits(&node.content, expected))
            })
            .collect();
        let mut best: Option<Vec<Diagnostic>> = None;
        for schema in &matching {
            let mut faults = Vec::new();
            Walker {
                definitions: self.definitions,
                faults: &mut faults,
            }
            .node(node, schema, name);
            if best.as_ref().is_none_or(|best| faults.len() < best.len()) {
                best = Some(faults);
            }
        }
        match best {
            Some(faults) => self.faults.extend(faults),
            None => {
                let expected = resolved.iter().flat_map(types).collect();
                self.wrong_type(node, name, expected);
            }
        }
    }

    fn mapping(&mut self, node: &Node, schema: &Value, name: &str) {
        let Content::Map(entries) = &node.content else {
            return;
        };
        let none = serde_json::Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        for (key, value) in entries {
            match (properties.get(&key.name), &schema["additionalProperties"]) {
                (Some(schema), _) => self.node(value, schema, &key.name),
                (None, Value::Bool(false)) => {
                    let help = suggest(
                        &key.name,
                        properties.keys().map(String::as_str).collect::<Vec<_>>(),
                    );
                    self.faults.push(Diagnostic {
                        span: key.span,
                        message: format!("unknown key `{}` in {}", key.name, quoted(name)),
                        help: Some(help),
                    });
                }
                (None, schema @ Value::Object(_)) => self.node(value, schema, &key.name),
                (None, _) => {}
            }
        }
        for required in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !entries.iter().any(|(key, _)| key.name == required) {
                let message = format!("{} needs `{required}`", quoted(name));
                self.fault(node, message, how_to_add(required, &properties[required]));
            }
        }
    }

    fn sequence(&mut self, node: &Node, nodes: &[Node], schema: &Value, name: &str) {
        let found = nodes.len() as u64;
        if let Some(least) = schema["minItems"].as_u64().filter(|least| found < *least) {
            let message = format!("`{name}` needs at least {}", count(least, "entry"));
            self.fault(node, message, None);
        }
        if let Some(most) = schema["maxItems"].as_u64().filter(|most| found > *most) {
            let message = format!("`{name}` takes at most {}", count(most, "entry"));
            self.fault(node, message, None);
        }
        if schema["items"].is_object() {
            nodes
                .iter()
                .for_each(|node| self.node(node, &schema["items"], name));
        }
    }

    fn range(&mut self, node: &Node, value: f64, schema: &Value, name: &str) {
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed
                .iter()
                .any(|allowed| allowed.as_f64() == Some(value))
        {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            return self.fault(
                node,
                format!("`{name}` must be {}", allowed.join(" or ")),
                None,
            );
        }
        let limits = [
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        ];
        for (key, words) in limits {
            let Some(limit) = schema[key].as_f64() else {
                continue;
            };
            let held = match key {
                "minimum" => value >= limit,
                "exclusiveMinimum" => value > limit,
                "maximum" => value <= limit,
                _ => value < limit,
            };
            if !held {
                self.fault(node, format!("`{name}` must be {words} {limit}"), None);
            }
        }
    }
}

fn quoted(name: &str) -> String {
    if name.contains(' ') {
        name.to_owned()
    } else {
        format!("`{name}`")
    }
}

/// Returns how to add a key that is missing: its only value, or what it is.
fn how_to_add(key: &str, schema: &Value) -> Option<String> {
    match schema["enum"].as_array().map(Vec::as_slice) {
        Some([only]) => Some(format!("add `{key}: {only}`")),
        _ => schema["description"].as_str().map(first_sentence),
    }
}

fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    text.split_once(". ")
        .map_or(text.clone(), |(first, _)| first.to_owned())
        .trim_end_matches('.')
        .to_owned()
}

/// Returns the words that an enumeration of words allows; `None` if the schema is not one.
fn words(schema: &Value, definitions: &Value) -> Option<Vec<String>> {
    let resolve = |schema: &Value| match schema["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix("#/$defs/"))
    {
        Some(definition) => definitions[definition].clone(),
        None => schema.clone(),
    };
    let texts = |values: &[Value]| {
        values
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
    };
    if let Some(values) = schema["enum"].as_array() {
        return texts(values);
    }
    if let Some(value) = schema["const"].as_str() {
        return Some(vec![value.to_owned()]);
    }
    let alternatives = ["anyOf", "oneOf"]
        .iter()
        .find_map(|key| schema[*key].as_array())?;
    let alternatives: Vec<Value> = alternatives
        .iter()
        .map(resolve)
        .filter(|schema| types(schema) != ["null"])
        .collect();
    alternatives
        .iter()
        .map(|schema| words(schema, definitions))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat())
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fits(content: &Content, expected: &str) -> bool {
    match content {
        Content::Null => expected == "null",
        Content::Bool(_) => expected == "boolean",
        Content::Int(_) => expected == "integer" || expected == "number",
        Content::Float(_) => expected == "number",
        Content::Str(_) => expected == "string",
        Content::Seq(_) => expected == "array",
        Content::Map(_) => expected == "object",
    }
}

fn article(expected: &str) -> &str {
    match expected {
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}
