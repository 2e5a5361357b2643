//! How commands print: answers to stdout, everything for people to stderr. Both are printed line by
//! line, and characters that a terminal acts on or that break a line are shown escaped. Data for
//! programs is printed as it is. With `TRAJMILL_MESSAGES=json`, a program reads stderr too, and
//! gets messages as lines of JSON (`messages.rs`).

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use super::messages;
use crate::dataset::account::{Account, LeftOut, Rows};
use crate::error::wording::{count, number, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::transfer::read::quarantine::SetAside;
use crate::transfer::write::Written;

/// Standard output, with errors that say so.
///
/// If it was closed before the process started, Rust's runtime has opened `/dev/null` in its place.
/// A parent that discards the output may have done the same, so that is no error.
pub(super) struct Stdout(io::Stdout);

impl Stdout {
    pub(super) fn new() -> Stdout {
        Stdout(io::stdout())
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(unwritable)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(unwritable)
    }
}

/// Wraps the [`Error`] that an error of standard output means to the user.
fn unwritable(error: io::Error) -> io::Error {
    // A writer tries an interrupted call again.
    if error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    let message = format!("cannot write to standard output: {error}");
    let kind = match error.kind() {
        io::ErrorKind::BrokenPipe => ErrorKind::Closed,
        _ => ErrorKind::Failed,
    };
    io::Error::new(
        error.kind(),
        Error {
            kind,
            ..Error::failed(message)
        },
    )
}

/// Prints a line of an answer for people to stdout.
///
/// # Errors
/// Returns an error if standard output cannot be written or its reader has gone away.
pub(super) fn line(text: &str) -> Result<()> {
    data(&printable(text))
}

/// Prints a line of data for programs to stdout.
///
/// # Errors
/// Returns an error if standard output cannot be written or its reader has gone away.
pub(super) fn data(text: &str) -> Result<()> {
    let mut out = Stdout::new();
    out.write_all(format!("{text}\n").as_bytes())?;
    Ok(out.flush()?)
}

/// Returns the arguments of this process as they may be shown.
pub(super) fn arguments() -> Vec<String> {
    std::env::args_os()
        .map(|given| printable(&given.to_string_lossy()).into_owned())
        .collect()
}

/// Prints help, the version, or a fault of the command line, as clap renders them.
///
/// # Errors
/// Returns an error if standard output cannot be written or its reader has gone away.
pub(super) fn usage(error: &clap::Error) -> Result<()> {
    if error.use_stderr() && messages::are_json() {
        let text = error.render().to_string();
        messages::error(&Error::usage(
            text.trim().trim_start_matches("error: ").to_owned(),
        ));
        return Ok(());
    }
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        Err(failure) if !error.use_stderr() => Err(unwritable(failure).into()),
        _ => Ok(()),
    }
}

/// Prints a line for people to stderr.
pub(super) fn say(line: &str) {
    to_stderr("", line);
}

fn to_stderr(prefix: &str, line: &str) {
    if messages::are_json() {
        messages::note(line);
        return;
    }
    // There is no other place for the error.
    let _ = writeln!(io::stderr().lock(), "{prefix}{}", printable(line));
}

fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints an error and its hints.
pub(super) fn error(error: &Error) {
    if error.kind == ErrorKind::Closed {
        return;
    }
    if messages::are_json() {
        messages::error(error);
        return;
    }
    // A fault in a pipeline file begins with its place, so that editors find it.
    let prefix = match (error.kind, colour()) {
        (ErrorKind::Pipeline, _) => "",
        (_, true) => "\u{1b}[1;31merror\u{1b}[0m: ",
        (_, false) => "error: ",
    };
    to_stderr(prefix, error.message.trim_end());
    error.details.iter().for_each(|line| say(line));
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

/// Prints what became of the rows, columns and files of a source. Rows and columns that are in the
/// dataset as they are in the source need no line.
pub(super) fn account(account: &Account) {
    if let Some(rows) = account.rows.filter(|rows| {
        *rows
            != Rows {
                read: rows.read,
                ..Rows::default()
            }
    }) {
        let parts = [
            (rows.added, "added as final observations"),
            (rows.left_out, "left out"),
            (rows.set_aside, "set aside"),
        ];
        let parts = parts.iter().filter(|(rows, _)| *rows > 0);
        let parts = parts.map(|(rows, what)| format!(", {} {what}", number(*rows)));
        say(&format!(
            "rows: {} read{}",
            number(rows.read),
            parts.collect::<String>()
        ));
    }
    let mut renamed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (source, column) in &account.columns {
        if source != column {
            renamed.entry(column).or_default().push(source);
        }
    }
    if !renamed.is_empty() {
        let from = renamed.iter().map(|(column, sources)| match &sources[..] {
            [first, _, _, _, ..] => {
                format!("{column} from {first} and {} others", sources.len() - 1)
            }
            few => format!("{column} from {}", few.join(", ")),
        });
        say(&format!("columns: {}", from.collect::<Vec<_>>().join("; ")));
    }
    for LeftOut { name, reason } in &account.left_out {
        say(&format!("left out: {name}: {reason}"));
    }
    if !account.warnings.is_empty() {
        let rules = account.warnings.iter().map(|(rule, times)| match times {
            1 => rule.clone(),
            _ => format!("{rule} ({})", number(*times)),
        });
        say(&format!(
            "warnings: {}; `trajmill validate` explains them",
            rules.collect::<Vec<_>>().join(", ")
        ));
    }
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
