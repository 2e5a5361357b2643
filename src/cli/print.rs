//! How commands print: answers to stdout, everything for people to stderr.

use std::io::{IsTerminal, Write};
use std::path::Path;

use crate::error::wording::count;
use crate::error::{Error, ErrorKind};
use crate::transfer::read::quarantine::SetAside;
use crate::transfer::write::Written;

/// Prints an answer to stdout. A reader that has gone away is not an error.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a line for people to stderr.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints an error and its hints.
pub(super) fn error(error: &Error) {
    // A fault in a pipeline file begins with its place, so that editors find it.
    let prefix = match (error.kind, colour()) {
        (ErrorKind::Pipeline, _) => "",
        (_, true) => "\u{1b}[1;31merror\u{1b}[0m: ",
        (_, false) => "error: ",
    };
    say(&format!("{prefix}{}", error.message.trim_end()));
    for hint in error.hints.iter().filter(|hint| !hint.is_empty()) {
        say(&format!("  help: {hint}"));
    }
}

/// Prints how many trajectories of a source were set aside, and where the reasons are.
pub(super) fn set_aside(source: &Path, aside: &SetAside, reasons: Option<&Path>) {
    let Some(first) = &aside.first else { return };
    let reasons = reasons
        .map(|path| format!(", reasons in {}", path.display()))
        .unwrap_or_default();
    say(&format!(
        "{}: {} set aside{reasons}; the first: {}",
        source.display(),
        count(aside.trajectories, "trajectory"),
        first.reason
    ));
}

/// Prints what the format of an output cannot hold, and where it is instead.
pub(super) fn elsewhere(written: &Written) {
    if !written.not_held.is_empty() {
        say("the format has no place for:");
    }
    for (what, place) in &written.not_held {
        say(&format!("  {what}: {place}"));
    }
}
