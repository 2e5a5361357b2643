//! Parameters: `params:`, overridden by `--set`, and substituted for `${name}` in every scalar.

use serde_json::{Map, Value};

use super::diagnostic::Diagnostic;
use super::yaml::{Content, Node, suggest};
use crate::error::{Error, Result, nearest};

/// Substitutes parameters in the tree and returns their values.
///
/// # Errors
/// Returns an error if an override names no parameter.
pub(super) fn substitute(
    root: &mut Node,
    overrides: &[(String, String)],
    faults: &mut Vec<Diagnostic>,
) -> Result<Map<String, Value>> {
    let mut params: Vec<(String, Content)> = Vec::new();
    if let Some(Content::Map(entries)) = root.get("params").map(|params| &params.content) {
        for (key, node) in entries {
            if matches!(node.content, Content::Seq(_) | Content::Map(_)) {
                let message = format!(
                    "parameter `{}` must be a single value, not {}",
                    key.name,
                    node.content.kind()
                );
                faults.push(Diagnostic {
                    span: node.span,
                    message,
                    help: None,
                });
            }
            params.push((key.name.clone(), node.content.clone()));
        }
    }
    for (name, value) in overrides {
        let names = || params.iter().map(|(name, _)| name.as_str());
        let Some(index) = params.iter().position(|(known, _)| known == name) else {
            let hint = match nearest(name, names()) {
                Some(name) => format!("did you mean `{name}`?"),
                None if params.is_empty() => {
                    "the pipeline has no parameters: declare them under `params:`".to_owned()
                }
                None => format!(
                    "its parameters are {}",
                    names().collect::<Vec<_>>().join(", ")
                ),
            };
            return Err(
                Error::usage(format!("--set {name}: the pipeline has no such parameter"))
                    .hint(hint),
            );
        };
        params[index].1 = Content::scalar(value);
    }
    if let Content::Map(entries) = &mut root.content {
        entries
            .iter_mut()
            .filter(|(key, _)| key.name != "params")
            .for_each(|(_, node)| put(node, &params, faults));
    }
    let value = |content: &Content| {
        Node {
            content: content.clone(),
            span: super::Span::default(),
        }
        .to_json()
    };
    Ok(params
        .iter()
        .map(|(name, content)| (name.clone(), value(content)))
        .collect())
}

fn put(node: &mut Node, params: &[(String, Content)], faults: &mut Vec<Diagnostic>) {
    match &mut node.content {
        Content::Seq(nodes) => nodes.iter_mut().for_each(|node| put(node, params, faults)),
        Content::Map(entries) => entries
            .iter_mut()
            .for_each(|(_, node)| put(node, params, faults)),
        Content::Str(text) if text.contains("${") => match expand(text, params) {
            Ok(content) => node.content = content,
            Err((message, help)) => faults.push(Diagnostic {
                span: node.span,
                message,
                help,
            }),
        },
        _ => {}
    }
}

/// Replaces every `${name}` in the text. A text that is nothing but one such name gets the type of
/// the parameter.
fn expand(text: &str, params: &[(String, Content)]) -> Result<Content, (String, Option<String>)> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err((
                "`${` is not closed".to_owned(),
                Some("close it with a brace, as in ${name}".to_owned()),
            ));
        };
        let Some((_, content)) = params.iter().find(|(known, _)| known == name.trim()) else {
            let names: Vec<&str> = params.iter().map(|(name, _)| name.as_str()).collect();
            let help = if names.is_empty() {
                "declare it under `params:`, with a default".to_owned()
            } else {
                suggest(name, names)
            };
            return Err((format!("unknown parameter `{name}`"), Some(help)));
        };
        if before.is_empty() && after.is_empty() && expanded.is_empty() {
            return Ok(content.clone());
        }
        match content {
            Content::Str(text) => expanded.push_str(text),
            Content::Bool(value) => expanded.push_str(&value.to_string()),
            Content::Int(value) => expanded.push_str(&value.to_string()),
            Content::Float(value) => expanded.push_str(&value.to_string()),
            Content::Null | Content::Seq(_) | Content::Map(_) => {}
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(Content::Str(expanded))
}
