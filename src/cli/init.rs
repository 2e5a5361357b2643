//! `trajmill init`: a first pipeline for a dataset, as commented YAML.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use arrow::datatypes::DataType;

use super::{Command, open, print};
use crate::dataset::schema::{step, type_name};
use crate::dataset::{Dataset, files, layout, source_name};
use crate::error::Result;
use crate::error::wording::{count, number, printable};
use crate::format;
use crate::transfer::read::Options;

/// Print a commented pipeline for a dataset, to edit and run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Paths in a pipeline are relative to the folder of its file, so redirect the output to a file in \
the current directory: trajmill init data/hopper > hopper.yaml")]
pub(super) struct Init {
    /// Dataset directory, or a dataset in any format that can be imported
    dataset: PathBuf,
}

impl Command for Init {
    const NAME: &'static str = "init";

    fn run(&self) -> Result<()> {
        let opened = open::open(&self.dataset)?;
        let source = if files::exists(&layout::manifest(&self.dataset))? {
            quoted(&self.dataset.display().to_string())
        } else {
            let format = format::resolve(None, &self.dataset, &Options::default())?;
            let path = quoted(&self.dataset.display().to_string());
            format!("{{ path: {path}, format: {} }}", format.name)
        };
        let text = pipeline(&self.dataset, &opened.dataset, &source);
        print::data(text.trim_end())
    }
}

/// Returns `text` as a scalar of YAML.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let starts = |c: char| c.is_ascii_alphabetic() || "/.".contains(c);
    if text.starts_with(starts) && text.chars().all(plain) && text.contains(['/', '.']) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// Returns the pipeline for `dataset`, which stands at `path` and is written as `source`.
fn pipeline(path: &Path, dataset: &Dataset, source: &str) -> String {
    let statistics = &dataset.manifest.statistics;
    let name = source_name(path).unwrap_or_else(|| dataset.name.clone());
    let mut text = format!(
        "# A pipeline for {}: {}, {}.\n\
         #\n\
         #   trajmill check FILE    reports mistakes\n\
         #   trajmill plan FILE     shows what a run would read, keep and write\n\
         #   trajmill run FILE      runs it\n\
         #\n\
         # Columns of `steps`:\n",
        printable(&path.display().to_string()),
        count(statistics.trajectories, "trajectory"),
        count(statistics.rows, "row"),
    );
    for field in dataset.steps.fields() {
        let (name, data_type) = (printable(field.name()), type_name(field.data_type()));
        _ = writeln!(text, "#   {name}: {data_type}");
    }
    _ = write!(
        text,
        "# Actions: {}, {} missing, of {}.\n\
         trajmill: 1\n\n\
         params:\n  seed: 7    # `--set seed=8` overrides it\n\n\
         source: {source}\n\n\
         stages:\n",
        statistics.sources(),
        number(statistics.missing_actions()),
        count(statistics.steps, "step"),
    );
    selection(&mut text, dataset);
    labels(&mut text, dataset, &name);
    if statistics.returns.is_some() {
        text.push_str(
            "  # Adds the discounted sum of the rewards from each step on.\n  \
             - derive: { return_to_go: \"returns_to_go(reward, 0.99)\" }\n",
        );
    }
    let out = quoted(&format!("out/{name}-prepared"));
    _ = write!(
        text,
        "  # The result is published only if these conditions hold.\n  \
         - check:\n      - count(*) > 0\n  \
         # `format: lerobot`, `d4rl`, `minari` and others write for a trainer: see \
         schemas/formats.md.\n  \
         - materialise: {{ path: {out}, overwrite: true }}\n",
    );
    text
}

/// Adds the stages that choose trajectories.
fn selection(text: &mut String, dataset: &Dataset) {
    text.push_str(
        "  # Keeps trajectories by a condition on `length`, `return`, `terminated`, `labelled` and \
         other columns\n  # of `trajectories`.\n  - filter: length >= 1\n",
    );
    if let Some(returns) = &dataset.manifest.statistics.returns {
        let mean = returns.sum / returns.count.max(1) as f64;
        _ = writeln!(
            text,
            "  # Returns are {:.4} to {:.4}, mean {mean:.4}. This keeps the better ones:\n  \
             # - filter: return > {mean:.4}",
            returns.min, returns.max,
        );
    }
    text.push_str(
        "  # Keeps half of the trajectories:\n  \
         # - subsample: { fraction: 0.5, seed: \"${seed}\" }\n",
    );
}

/// Adds the stages that fill missing actions, if some of the actions are recorded.
fn labels(text: &mut String, dataset: &Dataset, name: &str) {
    let statistics = &dataset.manifest.statistics;
    if statistics.missing_actions() == 0 {
        return;
    }
    let is_vector = |column: &str| {
        let field = dataset.steps.field_with_name(column);
        field.is_ok_and(|field| match field.data_type() {
            DataType::FixedSizeList(child, _) => child.data_type().is_floating(),
            _ => false,
        })
    };
    if statistics.recorded_actions == 0 || !is_vector(step::OBSERVATION) || !is_vector(step::ACTION)
    {
        text.push_str(
            "  # Actions are missing. A model that predicts them from observations fills them:\n  \
             # - label: { model: idm.onnx, window: { past: 1, future: 1 } }\n",
        );
        return;
    }
    let model = quoted(&format!("out/{name}-idm.onnx"));
    _ = write!(
        text,
        "  # Actions are missing. An inverse dynamics model is trained on the recorded ones and \
         predicts the others.\n  \
         - train_idm: {{ out: {model}, window: {{ past: 1, future: 1 }}, seed: \"${{seed}}\" }}\n  \
         - label: {{ model: {model} }}\n",
    );
}
