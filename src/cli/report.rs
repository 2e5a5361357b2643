//! Everything that is printed: errors, summaries, answers.

use std::io::{IsTerminal, Write};
use std::path::Path;

use crate::error::{Error, Kind};
use crate::plan::table::Flow;
use crate::run::{Output, Report};
use crate::train;
use crate::transfer::read::quarantine::{self, SetAside};
use crate::transfer::write::Written;

/// Prints an answer to stdout; a reader that has gone away is not an error.
pub(super) fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a line for people to stderr.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints an error and what to do about it.
pub(super) fn error(error: &Error) {
    // A fault in a pipeline file begins with its place, so that editors find it.
    let prefix = match (error.kind, colour()) {
        (Kind::Pipeline, _) => "",
        (_, true) => "\u{1b}[1;31merror\u{1b}[0m: ",
        (_, false) => "error: ",
    };
    say(&format!("{prefix}{}", error.message.trim_end()));
    for hint in error.hints.iter().filter(|hint| !hint.is_empty()) {
        say(&format!("  help: {hint}"));
    }
}

/// Prints what was found of runtimes and devices.
pub(super) fn doctor() {
    let mut findings = crate::model::doctor();
    let learning = match train::Device::Cuda(0).works() {
        Ok(()) => "on cuda:0, and on the CPU".to_owned(),
        Err(_) if !train::Device::built_for_cuda() => {
            "on the CPU: built without the Cargo feature `cuda`".to_owned()
        }
        Err(error) => format!("on the CPU: {}", error.message),
    };
    let video = crate::video::version().unwrap_or_else(|_| {
        "built without the Cargo feature `video`: LeRobot's videos stay references".to_owned()
    });
    findings.extend([
        ("learning".to_owned(), learning),
        ("video".to_owned(), video),
    ]);
    let width = findings
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    for (name, finding) in findings {
        print(&format!("{name:width$}  {finding}"));
    }
}

/// A number with its digits in groups of three.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let grouped: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    grouped.join(" ")
}

/// Prints the summary that ends every run.
pub(super) fn summary(report: &Report) {
    for model in &report.models {
        let path = model.path.display();
        match model.reused {
            true => say(&format!(
                "{path}: nothing to learn, it is there and learnt from the same things"
            )),
            false => say(&format!("{path}: {}", model.summary)),
        }
    }
    let reasons = report
        .outputs
        .first()
        .filter(|output| output.manifest.is_some())
        .map(|output| output.path.join(quarantine::FILE));
    for quarantined in &report.quarantined {
        set_aside(&quarantined.source, &quarantined.aside, reasons.as_deref());
    }
    for output in &report.outputs {
        match output.reused {
            true => {
                say(&format!(
                    "{}: nothing to do, it is there and made of the same things:",
                    output.path.display()
                ));
                for (name, value) in &output.inputs {
                    let value = if value.chars().count() > 72 {
                        format!("{}…", value.chars().take(71).collect::<String>())
                    } else {
                        value.clone()
                    };
                    say(&format!("  {name}: {value}"));
                }
                say("  (run with --fresh to do it again)");
            }
            false => one(output, report.seconds),
        }
    }
}

fn one(output: &Output, seconds: f64) {
    let width = output
        .flow
        .iter()
        .map(|flow| flow.stage.len())
        .chain([11])
        .max()
        .unwrap_or(11);
    say(&format!(
        "{:width$}  {:>14}  {:>14}",
        "", "trajectories", "rows"
    ));
    if let Some(first) = output.flow.first() {
        say(&format!(
            "{:width$}  {:>14}  {:>14}",
            "read",
            number(first.trajectories_in),
            number(first.rows_in)
        ));
    }
    for flow in &output.flow {
        say(&format!(
            "{:width$}  {:>14}  {:>14}{}",
            flow.stage,
            number(flow.trajectories_out),
            number(flow.rows_out),
            notes(flow)
        ));
    }
    let statistics = &output.statistics;
    say(&format!(
        "{:width$}  {:>14}  {:>14}",
        "written",
        number(statistics.trajectories),
        number(statistics.rows)
    ));
    let nothing = statistics.steps - statistics.recorded_actions - statistics.proxy_actions;
    say(&format!(
        "actions: {} recorded, {} proxy, {} missing, of {} steps",
        number(statistics.recorded_actions),
        number(statistics.proxy_actions),
        number(nothing),
        number(statistics.steps)
    ));
    if let Some(runtime) = &output.runtime {
        let devices: Vec<&str> = runtime["devices"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_str)
            .collect();
        let text = |key: &str| runtime[key].as_str().unwrap_or_default().to_owned();
        say(&format!(
            "models: {} {} on {}",
            text("name"),
            text("version"),
            devices.join(", ")
        ));
    }
    for warning in &output.warnings {
        say(&format!("warning: check does not hold: {warning}"));
    }
    if output.tasks.1 > 0 {
        say(&format!(
            "resumed: {} of {} tasks were finished by an earlier run",
            output.tasks.1, output.tasks.0
        ));
    }
    let read = output
        .flow
        .first()
        .map_or(statistics.rows, |flow| flow.rows_in);
    let time: Vec<String> = output
        .time
        .iter()
        .map(|(name, share)| format!("{name} {:.0} %", share * 100.0))
        .collect();
    let limit = output
        .time
        .first()
        .map(|(name, _)| format!("; most of the time went to {name} ({})", time.join(", ")))
        .unwrap_or_default();
    say(&format!(
        "{seconds:.2} s, {} rows read a second{limit}",
        number((read as f64 / seconds.max(1e-9)) as u64)
    ));
    elsewhere(&output.written);
    say(&format!("result: {}", output.path.display()));
    if output.manifest.is_some() {
        say(&format!(
            "look at it: trajmill info {0}, or trajmill sql {0} -c \"select * from trajectories limit 5\"",
            output.path.display()
        ));
    }
}

/// Prints what was set aside of a source, and where the reasons are.
pub(super) fn set_aside(source: &Path, aside: &SetAside, reasons: Option<&Path>) {
    let Some(first) = &aside.first else { return };
    let reasons = reasons
        .map(|path| format!(", reasons in {}", path.display()))
        .unwrap_or_default();
    say(&format!(
        "{}: {} trajectories set aside{reasons}; the first: {}",
        source.display(),
        number(aside.trajectories),
        first.reason
    ));
}

/// Prints what the format of an output cannot hold, and where it went.
pub(super) fn elsewhere(written: &Written) {
    for (what, place) in &written.not_held {
        say(&format!("  {what}: {place}"));
    }
}

fn notes(flow: &Flow) -> String {
    let mut notes: Vec<String> = Vec::new();
    for (reason, rows) in &flow.tally.dropped_rows {
        let trajectories = flow
            .tally
            .dropped_trajectories
            .get(reason)
            .map(|n| format!("{} trajectories, ", number(*n)))
            .unwrap_or_default();
        notes.push(format!(
            "dropped {trajectories}{} rows: {reason}",
            number(*rows)
        ));
    }
    for (reason, n) in flow
        .tally
        .dropped_trajectories
        .iter()
        .filter(|(reason, _)| !flow.tally.dropped_rows.contains_key(*reason))
    {
        notes.push(format!("{} trajectories: {reason}", number(*n)));
    }
    notes.extend(
        flow.tally
            .counts
            .iter()
            .map(|(name, n)| format!("{} {name}", number(*n))),
    );
    if flow.tally.added_rows > 0 {
        notes.push(format!("{} rows added", number(flow.tally.added_rows)));
    }
    if notes.is_empty() {
        String::new()
    } else {
        format!("   {}", notes.join("; "))
    }
}
