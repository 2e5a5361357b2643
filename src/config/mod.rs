//! What the user wrote, with the place of every word.
//!
//! Three passes, none of which does I/O but reading the file: [`yaml`] makes a tree with spans, parameters are put in
//! ([`params`]), and the tree is held against the JSON Schema of pipelines ([`validate`]). Every fault found is kept as
//! a [`Diagnostic`]; all are reported together. What the words mean on a dataset is `plan`'s affair.

mod diagnostic;
mod params;
mod schema;
mod validate;
mod yaml;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

pub use diagnostic::{Diagnostic, Source, Span};
pub use schema::json_schema;
pub use yaml::{Content, Key, Node};

/// A pipeline file that has the right shape.
#[derive(Debug)]
pub struct PipelineFile {
    /// The text, for messages and the lineage.
    pub source: Source,
    /// The folder of the file: relative paths start here.
    pub folder: PathBuf,
    /// Parameters as they are after `--set`.
    pub params: serde_json::Map<String, Value>,
    /// Datasets to read.
    pub inputs: Vec<Input>,
    /// The stages, in order.
    pub stages: Vec<StageNode>,
}

/// A dataset to read.
#[derive(Debug)]
pub struct Input {
    /// Path as written.
    pub path: String,
    /// Format where it is not trajmill's own.
    pub format: Option<String>,
    /// Column names to map, canonical to the source's.
    pub map: Vec<(String, String)>,
    /// Whether types may become wider where sources differ.
    pub widen: bool,
    /// What the last step of an RLDS episode holds, where it is said.
    pub final_action: Option<String>,
    /// Where an action stands in an RLDS episode, where it is said.
    pub alignment: Option<String>,
    /// Where it is written.
    pub span: Span,
}

/// A stage as written.
#[derive(Debug)]
pub struct StageNode {
    /// Its key.
    pub name: Key,
    /// Its options.
    pub options: Node,
}

/// Reads and checks the pipeline file at `path`, with `overrides` of its parameters as `(key, value)`.
///
/// # Errors
/// Where the file cannot be read (a failure), an override names no parameter (a usage error), or the file is wrong: a
/// pipeline error whose message holds every fault.
pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<PipelineFile> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    parse(Source { name: path.display().to_string(), text }, folder, overrides)
}

/// Checks the text of a pipeline file; see [`load`].
///
/// # Errors
/// As [`load`].
pub fn parse(source: Source, folder: PathBuf, overrides: &[(String, String)]) -> Result<PipelineFile> {
    let mut faults = Vec::new();
    let mut root = match yaml::parse(&source.text, &mut faults) {
        Ok(root) => root,
        Err(fault) => return Err(source.error(vec![fault])),
    };
    let params = params::substitute(&mut root, overrides, &mut faults)?;
    // What is at fault already is not held against the schema as well.
    let known: Vec<Span> = faults.iter().map(|fault| fault.span).collect();
    let mut misfits = Vec::new();
    validate::pipeline(&root, &mut misfits);
    faults.extend(misfits.into_iter().filter(|fault| !known.contains(&fault.span)));
    if !faults.is_empty() {
        return Err(source.error(faults));
    }
    let inputs = root.get("source").map(inputs).unwrap_or_default();
    let stages = match root.get("stages").map(|stages| &stages.content) {
        Some(Content::Seq(stages)) => stages.iter().filter_map(stage).collect(),
        _ => Vec::new(),
    };
    Ok(PipelineFile { source, folder, params, inputs, stages })
}

fn inputs(node: &Node) -> Vec<Input> {
    match &node.content {
        Content::Str(path) => vec![Input {
            path: path.clone(),
            format: None,
            map: Vec::new(),
            widen: false,
            final_action: None,
            alignment: None,
            span: node.span,
        }],
        Content::Seq(nodes) => nodes.iter().flat_map(inputs).collect(),
        Content::Map(_) => {
            let text = |key: &str| node.get(key).and_then(Node::as_str).map(str::to_owned);
            let map = match node.get("map").map(|map| &map.content) {
                Some(Content::Map(entries)) => {
                    entries.iter().filter_map(|(key, value)| Some((key.name.clone(), value.as_str()?.to_owned()))).collect()
                }
                _ => Vec::new(),
            };
            let widen = matches!(node.get("widen").map(|widen| &widen.content), Some(Content::Bool(true)));
            let span = node.get("path").map_or(node.span, |path| path.span);
            let (final_action, alignment) = (text("final_action"), text("alignment"));
            vec![Input { path: text("path").unwrap_or_default(), format: text("format"), map, widen, final_action, alignment, span }]
        }
        _ => Vec::new(),
    }
}

fn stage(node: &Node) -> Option<StageNode> {
    match &node.content {
        Content::Map(entries) => entries.first().map(|(name, options)| StageNode { name: name.clone(), options: options.clone() }),
        _ => None,
    }
}
