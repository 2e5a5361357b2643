//! `trajmill check`: the faults of pipeline files.

use std::path::PathBuf;

use super::arguments::PipelineArguments;
use super::{Command, print};
use crate::config;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::run::preview;

/// Check pipeline files without reading any steps: names, columns, types, models
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Pipeline files to check
    #[arg(required = true, value_name = "PIPELINE")]
    pipelines: Vec<PathBuf>,
    #[command(flatten)]
    arguments: PipelineArguments,
}

impl Command for Check {
    const NAME: &'static str = "check";

    fn run(&self) -> Result<()> {
        let mut last: Option<Error> = None;
        for path in &self.pipelines {
            let checked = config::load(path, &self.arguments.set).and_then(|pipeline| {
                let plan = self.arguments.plan(&pipeline)?;
                preview::open_models(&plan)?;
                Ok(plan)
            });
            match checked {
                Ok(plan) => print::say(&format!(
                    "{}: no faults ({})",
                    path.display(),
                    count(plan.phases.len(), "phase")
                )),
                Err(error) => {
                    if let Some(previous) = last.replace(error) {
                        print::error(&previous);
                    }
                }
            }
        }
        last.map_or(Ok(()), Err)
    }
}
