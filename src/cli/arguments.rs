//! Arguments that several commands share, and how their values are parsed.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::progress::Busy;
use crate::commit;
use crate::config::PipelineFile;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{FORMATS, Format};
use crate::model::{Device, ModelOptions};
use crate::plan::{self, Plan};

/// The arguments of all commands that read a pipeline.
#[derive(Debug, clap::Args)]
pub(super) struct PipelineArguments {
    /// Override a parameter of the pipeline, for example `--set seed=3`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(super) set: Vec<(String, String)>,
    /// Device for models: `auto` uses a GPU if one works, `cpu`, `cuda`, or a list such as
    /// `cuda:0,1`
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Let CUDA round matrix products to TF32, which is faster and less exact
    #[arg(long)]
    tf32: bool,
}

impl PipelineArguments {
    /// Returns the options of the model runtime.
    pub(super) fn model(&self) -> ModelOptions {
        ModelOptions {
            device: self.device.clone(),
            tf32: self.tf32,
        }
    }

    /// Plans a pipeline. This hashes foreign sources, which takes a while if they are large.
    pub(super) fn plan(&self, pipeline: &PipelineFile) -> Result<Plan> {
        let _busy = Busy::with("reading the sources".to_owned());
        plan::resolve(pipeline, &self.model())
    }
}

/// Refuses a path for a picture or a result in the directory of a dataset.
pub(super) fn outside_datasets(path: &Path) -> Result<()> {
    commit::outside_datasets(path).map_err(|error| Error {
        kind: ErrorKind::Usage,
        ..error
    })
}

/// Parses `KEY=VALUE`.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Parses one of the words that a pipeline has for the same option.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // The message is "unknown variant …, expected …". clap has already printed the value.
    let expected = |text: String| {
        text.split_once(", ")
            .map_or(text.clone(), |(_, expected)| expected.to_owned())
    };
    T::deserialize(Value::from(text)).map_err(|error| expected(error.to_string()))
}

/// Parses a size such as `600M` or `4G`, in binary units.
pub(super) fn size(text: &str) -> Result<usize, String> {
    const FORM: &str = "write a number with K, M, G or T, for example 4G";
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match text[digits.len()..]
        .to_ascii_lowercase()
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_usize << 40,
        _ => return Err(FORM.to_owned()),
    };
    let number: f64 = digits.parse().map_err(|_| FORM)?;
    if number <= 0.0 {
        return Err("the size must be greater than 0".to_owned());
    }
    Ok((number * unit as f64) as usize)
}

/// Returns the names of the formats that `can` be read, or written.
pub(super) fn formats(can: fn(&Format) -> bool) -> String {
    let names: Vec<&str> = FORMATS
        .iter()
        .filter(|format| can(format))
        .map(|format| format.name)
        .collect();
    names.join(", ")
}
