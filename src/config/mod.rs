//! What the user wrote, with the place of every word.
//!
//! A file is read in three passes: [`yaml`] parses it into a tree with spans, [`params`]
//! substitutes parameters, and [`validate`] compares the tree with the JSON Schema of pipelines.
//! Every fault is kept as a [`Diagnostic`]. What the words mean for a dataset is up to `plan`,
//! which adds the faults that it finds, so that all are reported together.

mod diagnostic;
mod params;
mod schema;
mod validate;
mod yaml;

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::dataset::files;
use crate::error::{Error, Result};
use crate::transfer::read::Options;

pub(crate) use diagnostic::{Diagnostic, Source, Span};
pub(crate) use schema::json_schema;
pub(crate) use yaml::{Content, Key, Node};

/// A pipeline file, with the faults of its shape.
#[derive(Debug)]
pub(crate) struct PipelineFile {
    /// Its text, for messages and the lineage.
    pub source: Source,
    /// Its folder, where relative paths start.
    pub folder: PathBuf,
    /// The faults of its shape. A file with faults must not be run.
    pub faults: Vec<Diagnostic>,
    /// The parameters, after `--set`.
    pub params: serde_json::Map<String, Value>,
    /// The datasets to read.
    pub inputs: Vec<Input>,
    /// The stages, in order.
    pub stages: Vec<StageNode>,
}

/// A dataset to read.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub(crate) struct Input {
    /// Path of the dataset, relative to the folder of the pipeline file.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// Format of the dataset, such as `d4rl`. Default: detected from the files.
    pub format: Option<String>,
    /// The options of the format.
    #[serde(flatten)]
    pub options: Options,
    /// LeRobot dataset whose videos a trajmill dataset refers to. `frames: array` and
    /// `frames: png` decode them from there.
    #[schemars(extend("format" = "path"))]
    pub videos: Option<String>,
    /// Number of bad trajectories that `on_error: quarantine` may set aside. If there are more, the
    /// exit code is 4. Default: 0.
    #[serde(default)]
    pub allowed: u64,
    /// Whether a column whose type differs between sources gets the wider type, such as float64
    /// instead of float32. Without it, only vectors of different widths merge: they become lists,
    /// unless the column has a fixed meaning, or its dimensions have names or a shape. Default:
    /// false.
    #[serde(default)]
    pub widen: bool,
    /// Where the path is in the file.
    #[serde(skip)]
    pub span: Span,
}

/// A stage, as written.
#[derive(Debug)]
pub(crate) struct StageNode {
    /// Its key.
    pub name: Key,
    /// Its options.
    pub options: Node,
    /// Whether it has the right shape. Otherwise its options cannot be read.
    pub fits: bool,
}

/// Reads the pipeline file at `path` and validates its shape. `overrides` replace the values of
/// parameters, as `(key, value)`.
///
/// # Errors
/// Returns a usage error if the file cannot be read or an override names no parameter, and a
/// pipeline error if the text is not YAML.
pub(crate) fn load(path: &Path, overrides: &[(String, String)]) -> Result<PipelineFile> {
    let text = files::read_to_string(path)
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

/// Parses the text of a pipeline file and validates its shape; see [`load`].
///
/// # Errors
/// Returns the same errors as [`load`].
pub(crate) fn parse(
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
    // A value that has a fault already is not reported for its shape as well.
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
    /// Returns where a path of the pipeline leads, starting from the folder of the file. `..` is
    /// resolved unless a link is in the way, so that messages have a readable path.
    pub(crate) fn locate(&self, path: &str) -> PathBuf {
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
                // The schema accepts values that the type cannot hold, such as a number that is too
                // large.
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
