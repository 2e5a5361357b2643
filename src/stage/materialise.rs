//! `materialise`: writes the result of the stages before it and publishes it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Bound, Context, Misfit, Stage, options};
use crate::error::{Error, nearest};
use crate::format::{self, FORMATS, Format};
use crate::transfer::write::WriteOptions;
use crate::video::Videos;

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "materialise",
    role: super::Role::Write { path: "path" },
    schema: |generator| generator.subschema_for::<Materialise>(),
    bind,
    sample: "{path: out/result}",
};

/// Writes the result of the stages before it and publishes it in one step. Stages after it go on
/// from what was written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Materialise {
    /// Path of the result, relative to the pipeline file's folder, such as `out/hopper`. It is a
    /// directory, or a file for a format that has only one.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// Format of the result: `trajmill`, or the foreign format that a trainer loads, such as
    /// `d4rl`. Default: `trajmill`.
    #[serde(default = "own")]
    #[schemars(schema_with = "formats")]
    pub format: String,
    /// Options of the foreign format, such as `{unlabelled: drop}`.
    #[serde(default)]
    pub with: WriteOptions,
    /// Rows per shard. A shard closes at the first end of a trajectory at or after this number of
    /// rows. Default: 250000.
    #[serde(default = "shard_rows")]
    #[schemars(range(min = 1))]
    pub shard_rows: u64,
    /// Columns of `steps` to write besides those that every dataset has, such as `[return_to_go]`.
    /// Every dataset has the observation, action, reward, flags and ids. Default: all columns.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// How the result gets the videos that its rows refer to. `link` links the files of the
    /// sources, or copies them from another file system. `copy` copies them, so that a change of
    /// the source does not reach them. `reference` leaves them in the source: whatever reads them
    /// needs `videos` with the directory of the source. Default: `link`.
    #[serde(default)]
    pub videos: Videos,
    /// Replaces a different result at the same path. Default: false.
    #[serde(default)]
    pub overwrite: bool,
    /// Lets an empty result replace one that has rows. Needs `overwrite: true`. Default: false.
    #[serde(default)]
    pub allow_empty: bool,
}

/// Name of trajmill's own format.
const OWN: &str = "trajmill";

impl Materialise {
    /// Returns the foreign format to write, or `None` for trajmill's own.
    ///
    /// # Errors
    /// Returns an error if there is no such format, which binding rules out.
    pub fn foreign(&self) -> Result<Option<&'static Format>, Error> {
        if self.format == OWN {
            Ok(None)
        } else {
            format::writable(&self.format).map(Some)
        }
    }

    /// Returns the options that the bytes of the result depend on, for its fingerprint.
    pub fn recipe(&self) -> Value {
        let mut recipe = json!({
            "format": self.format,
            "shard_rows": self.shard_rows,
            "columns": self.columns,
            "with": self.with,
        });
        // Links and copies have the same bytes.
        if self.videos == Videos::Reference {
            recipe["videos"] = json!(self.videos);
        }
        recipe
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
    if materialise.allow_empty && !materialise.overwrite {
        return Err(
            Misfit::new("`allow_empty` has no effect without `overwrite: true`")
                .help("add `overwrite: true`, or remove `allow_empty`")
                .at("allow_empty"),
        );
    }
    let names: Vec<&str> = context
        .steps
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    for (index, column) in materialise.columns.iter().flatten().enumerate() {
        if !names.contains(&column.as_str()) {
            let help = nearest(column, names.iter().copied()).map_or_else(
                || format!("the columns of `steps` are {}", names.join(", ")),
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
            return Err(Misfit::new(
                "`with` holds options of foreign formats, but the format is `trajmill`",
            )
            .help("name the foreign format with `format`, or remove `with`")
            .at("with"));
        }
        None => {}
    }
    Ok(Bound::Materialise(materialise))
}
