//! `materialise`: writes what has come so far, and commits it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Bound, Context, Misfit, Stage, options};
use crate::error::nearest;

/// The registry entry.
pub(super) const STAGE: Stage =
    Stage { name: "materialise", schema: |generator| generator.subschema_for::<Materialise>(), bind, sample: "{path: out/result}" };

/// Writes the dataset and publishes it in one step. In the middle of the list, the chain goes on from what was written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Materialise {
    /// Directory of the result, relative to the pipeline file's folder.
    pub path: String,
    /// `trajmill`, or `parquet` for the files of steps alone.
    #[serde(default)]
    pub format: OutputFormat,
    /// Rows that a shard aims at: it closes at the first trajectory end at or after them.
    #[serde(default = "shard_rows")]
    #[schemars(range(min = 1))]
    pub shard_rows: u64,
    /// Columns of steps to write, beside those that every dataset has; all where not given.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// Whether a different result at the same path is replaced.
    #[serde(default)]
    pub overwrite: bool,
}

/// What is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// A dataset of this tool: manifest, trajectories, steps.
    #[default]
    Trajmill,
    /// Parquet files of steps alone.
    Parquet,
}

fn shard_rows() -> u64 {
    250_000
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let materialise: Materialise = options(value)?;
    let names: Vec<&str> = context.steps.fields().iter().map(|field| field.name().as_str()).collect();
    for (index, column) in materialise.columns.iter().flatten().enumerate() {
        if !names.contains(&column.as_str()) {
            let help = nearest(column, names.iter().copied())
                .map_or_else(|| format!("steps has {}", names.join(", ")), |name| format!("did you mean `{name}`?"));
            let misfit = Misfit { word: Some(column.clone()), ..Misfit::new(format!("unknown column `{column}`")) };
            return Err(misfit.help(help).at(index.to_string()).at("columns"));
        }
    }
    Ok(Bound::Materialise(materialise))
}
