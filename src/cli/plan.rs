//! `trajmill plan`: what a pipeline would do, in words or as JSON.

use std::fmt::Write;
use std::path::PathBuf;

use super::arguments::PipelineArguments;
use super::{Command, print};
use crate::config;
use crate::error::Result;
use crate::error::wording::{count, number};
use crate::run::preview::{Destination, PhasePreview, Preview, ResultPreview, SelectionPreview};

/// Show what a pipeline would read, keep and write, and which results are up to date
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    /// Pipeline file to plan
    pipeline: PathBuf,
    #[command(flatten)]
    arguments: PipelineArguments,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

impl Command for Plan {
    const NAME: &'static str = "plan";

    fn run(&self) -> Result<()> {
        let pipeline = config::load(&self.pipeline, &self.arguments.set)?;
        let preview = Preview::of(&self.arguments.plan(&pipeline)?)?;
        if self.json {
            print::data(&preview.to_json().to_string())?;
        } else {
            print::line(text(&preview).trim_end())?;
        }
        Ok(())
    }
}

// Writing to a string does not fail, so the results of `writeln!` are ignored.

fn text(preview: &Preview) -> String {
    let mut text = String::new();
    for (index, source) in preview.sources.iter().enumerate() {
        let head = if index == 0 { "source" } else { "" };
        let size = source.size.map_or_else(
            || "size unknown until it is imported".to_owned(),
            |(trajectories, rows)| {
                format!(
                    "{}, {}",
                    count(trajectories, "trajectory"),
                    count(rows, "row")
                )
            },
        );
        let _ = writeln!(text, "{head:6}  {}: {size}", source.path);
        if !source.absent.is_empty() {
            let _ = writeln!(
                text,
                "        no `{}`: null in its rows",
                source.absent.join("`, `")
            );
        }
    }
    if let Some(runtime) = &preview.runtime {
        let _ = writeln!(text, "models  {runtime}");
    }
    for (index, phase) in preview.phases.iter().enumerate() {
        let _ = writeln!(text, "\nphase {}", index + 1);
        describe(phase, &mut text);
    }
    text
}

fn describe(phase: &PhasePreview, text: &mut String) {
    for model in &phase.models {
        destination("train", model, "", text);
    }
    for selection in &phase.selections {
        let _ = writeln!(text, "  select     {}", selected(selection));
    }
    if let Some((trajectories, rows)) = phase.kept {
        let _ = writeln!(
            text,
            "  read       {}, {}, columns {}",
            count(trajectories, "trajectory"),
            count(rows, "row"),
            phase.columns.join(", ")
        );
    }
    for transform in &phase.transforms {
        let _ = writeln!(text, "  transform  {transform}");
    }
    match &phase.result {
        ResultPreview::Model(_) => {}
        ResultPreview::Intermediate {
            stage,
            because,
            over_all_steps,
        } => {
            let needs = match because.as_slice() {
                [] => "the result of the stages above".to_owned(),
                _ if *over_all_steps => "a value computed over all steps".to_owned(),
                columns => format!("`{}`", columns.join("`, `")),
            };
            let _ = writeln!(
                text,
                "  write      an intermediate for `{stage}`, which needs {needs}"
            );
        }
        ResultPreview::Output {
            destination: output,
            shards,
        } => {
            let shards = shards.map(|shards| format!(" in {}", count(shards, "shard")));
            destination("write", output, &shards.unwrap_or_default(), text);
        }
    }
}

fn selected(selection: &SelectionPreview) -> String {
    let kept = match &selection.flow {
        None => String::new(),
        Some(flow) => format!(
            ": {} of {}, {} of {}",
            number(flow.trajectories_out),
            count(flow.trajectories_in, "trajectory"),
            number(flow.rows_out),
            count(flow.rows_in, "row")
        ),
    };
    let ahead = match selection.ahead_of.as_slice() {
        [] => String::new(),
        transforms => format!(", ahead of {}", transforms.join(", ")),
    };
    format!("{}{kept}{ahead}", selection.stage)
}

fn destination(verb: &str, destination: &Destination, how: &str, text: &mut String) {
    let (path, state) = (destination.path.display(), destination.state);
    let _ = writeln!(text, "  {verb:<9}  {path}{how}: {state}");
    for change in &destination.changes {
        let _ = writeln!(text, "             {change}");
    }
}
