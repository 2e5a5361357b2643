//! `trajmill schema`: the JSON Schema of pipeline files.

use super::{Command, print};
use crate::config;
use crate::error::{Error, Result};

/// Print the JSON Schema of pipeline files, with which editors complete and check them
#[derive(Debug, clap::Args)]
pub(super) struct Schema {}

impl Command for Schema {
    const NAME: &'static str = "schema";

    fn run(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&config::json_schema())
            .map_err(|error| Error::failed(error.to_string()))?;
        print::data(&text)
    }
}
