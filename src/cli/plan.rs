//! `trajmill plan`: what a pipeline would do, in words or as JSON.

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
            lines(&preview)
                .iter()
                .try_for_each(|line| print::line(line))?;
        }
        Ok(())
    }
}

fn lines(preview: &Preview) -> Vec<String> {
    let mut lines = Vec::new();
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
        lines.push(format!("{head:6}  {}: {size}", source.path));
        if !source.absent.is_empty() {
            lines.push(format!(
                "        no `{}`: null in its rows",
                source.absent.join("`, `")
            ));
        }
        for (column, data_type) in &source.converted {
            lines.push(format!("        `{column}` becomes {data_type}"));
        }
    }
    if let Some(runtime) = &preview.runtime {
        lines.push(format!("models  {runtime}"));
    }
    for (index, phase) in preview.phases.iter().enumerate() {
        lines.push(String::new());
        lines.push(format!("phase {}", index + 1));
        describe(phase, &mut lines);
    }
    lines
}

fn describe(phase: &PhasePreview, lines: &mut Vec<String>) {
    for model in &phase.models {
        destination("train", model, "", lines);
    }
    for selection in &phase.selections {
        lines.push(format!("  select     {}", selected(selection)));
    }
    if let Some((trajectories, rows)) = phase.kept {
        lines.push(format!(
            "  read       {}, {}, columns {}",
            count(trajectories, "trajectory"),
            count(rows, "row"),
            phase.columns.join(", ")
        ));
    }
    for transform in &phase.transforms {
        lines.push(format!("  transform  {}", transform.stage));
        for input in &transform.inputs {
            lines.push(format!("    input    {input}"));
        }
    }
    for warning in &phase.warnings {
        lines.push(format!("  warning    {warning}"));
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
            lines.push(format!(
                "  write      an intermediate for `{stage}`, which needs {needs}"
            ));
        }
        ResultPreview::Output {
            destination: output,
            shards,
        } => {
            let shards = shards.map(|shards| format!(" in {}", count(shards, "shard")));
            destination("write", output, &shards.unwrap_or_default(), lines);
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

fn destination(verb: &str, destination: &Destination, how: &str, lines: &mut Vec<String>) {
    let (path, state) = (destination.path.display(), destination.state);
    lines.push(format!("  {verb:<9}  {path}{how}: {state}"));
    for change in &destination.changes {
        lines.push(format!("             {change}"));
    }
}
