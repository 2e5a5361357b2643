//! `materialise`: writes what has come so far, and commits it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use super::{Bound, Context, Misfit, Stage, options};
use crate::error::{Error, nearest};
use crate::format::{self, FORMATS, Format};
use crate::transfer::write::WriteOptions;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "materialise",
    schema: |generator| generator.subschema_for::<Materialise>(),
    bind,
    sample: "{path: out/result}",
};

/// Writes the dataset and publishes it in one step. In the middle of the list, the chain goes on from what was written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Materialise {
    /// Directory of the result, relative to the pipeline file's folder.
    pub path: String,
    /// `trajmill`, or the foreign format that a trainer loads.
    #[serde(default = "own")]
    #[schemars(schema_with = "formats")]
    pub format: String,
    /// What the foreign format asks of its writer.
    #[serde(default)]
    pub with: WriteOptions,
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

/// The format of this tool: manifest, trajectories, steps.
const OWN: &str = "trajmill";

impl Materialise {
    /// The foreign format to write; `None` for this tool's own.
    ///
    /// # Errors
    /// Where there is no such format, which binding has ruled out.
    pub fn foreign(&self) -> Result<Option<&'static Format>, Error> {
        if self.format == OWN {
            Ok(None)
        } else {
            format::writable(&self.format).map(Some)
        }
    }
}

fn own() -> String {
    OWN.to_owned()
}

fn formats(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<&str> = [OWN]
        .into_iter()
        .chain(
            FORMATS
                .iter()
                .filter(|format| format.write.is_some())
                .map(|format| format.name),
        )
        .collect();
    json_schema!({"type": "string", "enum": names})
}

fn shard_rows() -> u64 {
    250_000
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let materialise: Materialise = options(value)?;
    let names: Vec<&str> = context
        .steps
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    for (index, column) in materialise.columns.iter().flatten().enumerate() {
        if !names.contains(&column.as_str()) {
            let help = nearest(column, names.iter().copied()).map_or_else(
                || format!("steps has {}", names.join(", ")),
                |name| format!("did you mean `{name}`?"),
            );
            let misfit = Misfit {
                word: Some(column.clone()),
                ..Misfit::new(format!("unknown column `{column}`"))
            };
            return Err(misfit.help(help).at(index.to_string()).at("columns"));
        }
    }
    match materialise
        .foreign()
        .map_err(|error| Misfit::from(error).at("format"))?
    {
        Some(format) => format
            .writes(&materialise.with)
            .map(|_| ())
            .map_err(|error| Misfit::from(error).at("with"))?,
        None if materialise.with != WriteOptions::default() => {
            return Err(Misfit::new("`with` is for foreign formats")
                .help("say which by `format`")
                .at("with"));
        }
        None => {}
    }
    Ok(Bound::Materialise(materialise))
}
