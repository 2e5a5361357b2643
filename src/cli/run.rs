//! `trajmill run`: runs a pipeline and prints a summary.

use std::path::PathBuf;

use super::arguments::{PipelineArguments, size};
use super::{Command, interruptible, print, progress};
use crate::error::Result;
use crate::error::wording::{count, number, shell_word};
use crate::exec::Flow;
use crate::run::{self, ModelReport, Observer, OutputReport, Report, RunOptions};
use crate::transfer::read::quarantine;

/// Run a pipeline, or resume it after an interruption
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Pipeline file to run
    pipeline: PathBuf,
    #[command(flatten)]
    arguments: PipelineArguments,
    /// Number of worker threads [default: one per CPU core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Memory that the tasks in flight may use together, for example 4G [default: no limit]
    #[arg(long, value_parser = size, value_name = "SIZE")]
    memory: Option<usize>,
    /// Start over: ignore results that are up to date and the work of interrupted runs
    #[arg(long)]
    fresh: bool,
    /// Verify every byte of results that are up to date, not only the lengths of their files
    #[arg(long, conflicts_with = "fresh")]
    verify: bool,
    /// Print a report of the run to stdout, as one JSON object
    #[arg(long)]
    json: bool,
}

impl Command for Run {
    const NAME: &'static str = "run";

    fn run(&self) -> Result<()> {
        let interrupted = interruptible()?;
        let progress = progress::shown();
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let options = RunOptions {
            overrides: self.arguments.set.clone(),
            threads: self.threads.map_or_else(cores, usize::from),
            memory: self.memory,
            model: self.arguments.model(),
            fresh: self.fresh,
            verify: self.verify,
            observer: Observer {
                watch: &*progress,
                interrupted: &interrupted,
            },
        };
        let report = run::run(&self.pipeline, &options)?;
        summarise(&report);
        if self.json {
            print::data(&report.to_json().to_string())?;
        }
        report.within_allowance()
    }
}

/// Prints the summary of a run.
fn summarise(report: &Report) {
    report.models.iter().for_each(model);
    let reasons = report
        .outputs
        .first()
        .filter(|output| output.manifest.is_some())
        .map(|output| output.path.join(quarantine::FILE));
    for quarantined in &report.quarantined {
        print::set_aside(&quarantined.source, &quarantined.aside, reasons.as_deref());
    }
    for source in report
        .imports
        .iter()
        .filter(|source| !source.left_out.is_empty())
    {
        print::say(&format!("{}:", source.source));
        print::account(source);
    }
    for output in &report.outputs {
        if output.reused {
            up_to_date(output);
        } else {
            written(output);
        }
    }
}

fn model(model: &ModelReport) {
    let path = model.path.display();
    if model.reused {
        print::say(&format!(
            "{path}: nothing to train, the model is up to date"
        ));
    } else {
        print::say(&format!("{path}: {}", model.summary));
    }
}

/// Prints what an output that is up to date was made from.
fn up_to_date(output: &OutputReport) {
    print::say(&format!(
        "{}: nothing to do, the result is up to date. It was made from:",
        output.path.display()
    ));
    for (name, value) in &output.inputs {
        let value = if value.chars().count() > 72 {
            format!("{}…", value.chars().take(71).collect::<String>())
        } else {
            value.clone()
        };
        print::say(&format!("  {name}: {value}"));
    }
    print::say("  (run with `--fresh` to make it again)");
}

/// Prints the account of an output: rows and trajectories through each stage, actions, time.
fn written(output: &OutputReport) {
    let statistics = &output.statistics;
    let width = output
        .flow
        .iter()
        .map(|flow| flow.stage.len())
        .chain([11])
        .max()
        .unwrap_or(11);
    let line = |name: &str, trajectories: u64, rows: u64, notes: &str| {
        print::say(&format!(
            "{name:width$}  {:>14}  {:>14}{notes}",
            number(trajectories),
            number(rows)
        ));
    };
    print::say(&format!(
        "{:width$}  {:>14}  {:>14}",
        "", "trajectories", "rows"
    ));
    if let Some(first) = output.flow.first() {
        line("read", first.trajectories_in, first.rows_in, "");
    }
    for flow in &output.flow {
        let notes = notes(flow);
        line(&flow.stage, flow.trajectories_out, flow.rows_out, &notes);
    }
    line("written", statistics.trajectories, statistics.rows, "");

    print::say(&format!(
        "actions: {}, {} missing, of {}",
        statistics.sources(),
        number(statistics.missing_actions()),
        count(statistics.steps, "step")
    ));
    if let Some(runtime) = &output.runtime {
        let devices: Vec<&str> = runtime["devices"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_str)
            .collect();
        let text = |key: &str| runtime[key].as_str().unwrap_or_default().to_owned();
        print::say(&format!(
            "models: {} {} on {}",
            text("name"),
            text("version"),
            devices.join(", ")
        ));
    }
    for warning in &output.warnings {
        print::say(&format!("warning: {warning}"));
    }
    if output.tasks.1 > 0 {
        print::say(&format!(
            "resumed: an earlier run had finished {} of {}",
            number(output.tasks.1),
            count(output.tasks.0, "task")
        ));
    }
    time(output);
    print::elsewhere(&output.written);
    print::say(&format!("result: {}", output.path.display()));
    if let Some(replaced) = &output.replaced {
        print::say(&format!(
            "it replaced a result of {}, {}",
            count(replaced.trajectories, "trajectory"),
            count(replaced.rows, "row")
        ));
    }
    if output.manifest.is_some() {
        let path = shell_word(&output.path);
        print::say(&format!(
            "explore it: trajmill info {path}, or \
             trajmill sql {path} -c \"select * from trajectories limit 5\""
        ));
    }
}

/// Prints the throughput of an output and where its workers spent their time.
fn time(output: &OutputReport) {
    let seconds = output.seconds;
    let read = output
        .flow
        .first()
        .map_or(output.statistics.rows, |flow| flow.rows_in);
    let shares: Vec<String> = output
        .time
        .iter()
        .map(|(name, share)| format!("{name} {:.0} %", share * 100.0))
        .collect();
    let spent = match shares.as_slice() {
        [] => String::new(),
        shares => format!("; time: {}", shares.join(", ")),
    };
    print::say(&format!(
        "{seconds:.2} s, {} rows read per second{spent}",
        number((read as f64 / seconds.max(1e-9)) as u64)
    ));
}

/// What a stage dropped, added or counted, to print behind its line.
fn notes(flow: &Flow) -> String {
    let tally = &flow.tally;
    let mut notes: Vec<String> = Vec::new();
    for (reason, rows) in &tally.dropped_rows {
        let rows = count(*rows, "row");
        let dropped = match tally.dropped_trajectories.get(reason) {
            Some(trajectories) => format!("{}, {rows}", count(*trajectories, "trajectory")),
            None => rows,
        };
        notes.push(format!("dropped {dropped}: {reason}"));
    }
    for (reason, trajectories) in &tally.dropped_trajectories {
        if !tally.dropped_rows.contains_key(reason) {
            notes.push(format!("{}: {reason}", count(*trajectories, "trajectory")));
        }
    }
    for (name, n) in &tally.counts {
        notes.push(format!("{} {name}", number(*n)));
    }
    if tally.added_rows > 0 {
        notes.push(format!("added {}", count(tally.added_rows, "row")));
    }
    if notes.is_empty() {
        String::new()
    } else {
        format!("   {}", notes.join("; "))
    }
}
