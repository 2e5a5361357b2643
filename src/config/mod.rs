//! What the user wrote, with the place of every word.
//!
//! Three passes, none of which does I/O but reading the file: [`yaml`] makes a tree with spans, parameters are put in
//! ([`params`]), and the tree is held against the JSON Schema of pipelines ([`validate`]). Every fault found is kept as
//! a [`Diagnostic`]. What the words mean on a dataset is `plan`'s affair, which adds the faults that it finds: all are
//! reported together.

mod diagnostic;
mod params;
mod schema;
mod validate;
mod yaml;

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::transfer::read::Options;

pub use diagnostic::{Diagnostic, Source, Span};
pub use schema::json_schema;
pub use yaml::{Content, Key, Node};

/// A pipeline file as it was read, with what is wrong with its shape.
#[derive(Debug)]
pub struct PipelineFile {
    /// The text, for messages and the lineage.
    pub source: Source,
    /// The folder of the file: relative paths start here.
    pub folder: PathBuf,
    /// What is wrong with its shape; it must not be run where there is anything.
    pub faults: Vec<Diagnostic>,
    /// Parameters as they are after `--set`.
    pub params: serde_json::Map<String, Value>,
    /// Datasets to read.
    pub inputs: Vec<Input>,
    /// The stages, in order.
    pub stages: Vec<StageNode>,
}

/// A dataset to read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub struct Input {
    /// Path of the dataset, relative to the pipeline file's folder
    pub path: String,
    /// Format, where it is not trajmill's own
    pub format: Option<String>,
    /// How it is read.
    #[serde(flatten)]
    pub options: Options,
    /// The LeRobot dataset that a dataset of trajmill refers to for its videos, where `frames` is to decode them as it is read
    pub videos: Option<String>,
    /// Trajectories that may be set aside; more of them give exit code 4
    #[serde(default)]
    pub allowed: u64,
    /// Whether types may become wider where the sources differ
    #[serde(default)]
    pub widen: bool,
    /// Where it is written.
    #[serde(skip)]
    pub span: Span,
}

/// A stage as written.
#[derive(Debug)]
pub struct StageNode {
    /// Its key.
    pub name: Key,
    /// Its options.
    pub options: Node,
    /// Whether it has the right shape, so that its options can be read.
    pub fits: bool,
}

/// Reads and checks the pipeline file at `path`, with `overrides` of its parameters as `(key, value)`.
///
/// # Errors
/// Where the file cannot be read (a failure), an override names no parameter (a usage error), or the text is no YAML (a
/// pipeline error).
pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<PipelineFile> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::usage(format!("cannot read {}: {error}", path.display())))?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    parse(
        Source {
            name: path.display().to_string(),
            text,
        },
        folder,
        overrides,
    )
}

/// Checks the text of a pipeline file; see [`load`].
///
/// # Errors
/// As [`load`].
pub fn parse(
    source: Source,
    folder: PathBuf,
    overrides: &[(String, String)],
) -> Result<PipelineFile> {
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
    faults.extend(
        misfits
            .into_iter()
            .filter(|fault| !known.contains(&fault.span)),
    );
    let fits = |node: &Node| {
        !faults
            .iter()
            .any(|fault| node.span.start <= fault.span.start && fault.span.start < node.span.end)
    };
    let stages = match root.get("stages").map(|stages| &stages.content) {
        Some(Content::Seq(stages)) => stages
            .iter()
            .filter_map(|node| stage(node, fits(node)))
            .collect(),
        _ => Vec::new(),
    };
    let inputs = match root.get("source").filter(|source| fits(source)) {
        Some(source) => inputs(source, &mut faults),
        None => Vec::new(),
    };
    Ok(PipelineFile {
        source,
        folder,
        faults,
        params,
        inputs,
        stages,
    })
}

impl PipelineFile {
    /// Where a path of the pipeline leads: from the file's folder, with `..` taken out where no link is in the way, so
    /// that messages name it as a person would.
    pub fn locate(&self, path: &str) -> PathBuf {
        let mut located = PathBuf::new();
        for part in self.folder.join(path).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir
                    if matches!(located.components().next_back(), Some(Component::Normal(_)))
                        && !located.is_symlink() =>
                {
                    located.pop();
                }
                other => located.push(other),
            }
        }
        located
    }
}

fn inputs(node: &Node, faults: &mut Vec<Diagnostic>) -> Vec<Input> {
    match &node.content {
        Content::Str(path) => vec![Input {
            path: path.clone(),
            span: node.span,
            ..Input::default()
        }],
        Content::Seq(nodes) => nodes.iter().flat_map(|node| inputs(node, faults)).collect(),
        Content::Map(_) => {
            let span = node.get("path").map_or(node.span, |path| path.span);
            match Input::deserialize(node.to_json()) {
                Ok(input) => vec![Input { span, ..input }],
                // The schema lets by what a type then does not hold, such as a number that is too large.
                Err(error) => {
                    faults.push(Diagnostic {
                        span,
                        message: error.to_string(),
                        help: None,
                    });
                    Vec::new()
                }
            }
        }
        _ => Vec::new(),
    }
}

fn stage(node: &Node, fits: bool) -> Option<StageNode> {
    match &node.content {
        Content::Map(entries) => entries.first().map(|(name, options)| StageNode {
            name: name.clone(),
            options: options.clone(),
            fits,
        }),
        _ => None,
    }
}
