//! The error that every fallible function of this crate returns: one sentence about what went
//! wrong, hints about what to do, and the exit code.
//!
//! There are a few kinds of failure and no variant per call site, because no caller would match on
//! one. The message names the place (file, shard, column, row) and a hint names the remedy.
//! `cli::print` prints both.

pub(crate) mod engine;
pub(crate) mod wording;

use std::fmt;

use serde::Serialize;

/// The meaning of a failure to the caller. Each kind has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The run failed; running it again resumes. Exit code 1.
    Failed,
    /// The command line is wrong. Exit code 2.
    Usage,
    /// The pipeline file is wrong. Exit code 3.
    Pipeline,
    /// The work was done, but a check failed or too many trajectories were set aside. Exit code 4.
    Checks,
    /// The user stopped the run; running it again resumes. Exit code 130.
    Interrupted,
    /// The reader of standard output went away, as `head` does when it has enough. Nothing is
    /// reported. Exit code 141, as of a program that SIGPIPE ends.
    Closed,
}

impl ErrorKind {
    /// Returns the exit code of the process for this kind of failure.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failed => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Pipeline => 3,
            ErrorKind::Checks => 4,
            ErrorKind::Interrupted => 130,
            ErrorKind::Closed => 141,
        }
    }
}

/// A failure, described so that the user can act on it.
#[derive(Debug, Clone)]
pub struct Error {
    /// The meaning of the failure to the caller.
    pub kind: ErrorKind,
    /// One sentence that names the place, without a trailing full stop.
    pub message: String,
    /// Lines below the message, such as a list of faults or a quoted line of a file.
    pub details: Vec<String>,
    /// Remedies, one sentence each.
    pub hints: Vec<String>,
    /// The faults of a pipeline file, which `message` and `details` show; empty for other errors.
    pub faults: Vec<Fault>,
}

/// A fault of a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, line and column: `FILE:LINE:COLUMN`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub help: Option<String>,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates a failure of the run itself: bad input, a model that cannot run, storage that cannot
    /// be written.
    pub fn failed(message: impl Into<String>) -> Error {
        Error {
            kind: ErrorKind::Failed,
            message: message.into(),
            details: Vec::new(),
            hints: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Creates the failure of a wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Error {
        Error {
            kind: ErrorKind::Usage,
            ..Error::failed(message)
        }
    }

    /// Creates the failure of a wrong pipeline file. The lines already contain `FILE:LINE:COLUMN`
    /// and the caret.
    pub(crate) fn pipeline(lines: impl IntoIterator<Item = String>) -> Error {
        let mut lines = lines.into_iter();
        Error {
            kind: ErrorKind::Pipeline,
            ..Error::failed(lines.next().unwrap_or_default())
        }
        .details(lines)
    }

    /// Creates the failure of a run that the user stopped.
    pub(crate) fn interrupted(message: impl Into<String>) -> Error {
        Error {
            kind: ErrorKind::Interrupted,
            ..Error::failed(message)
        }
    }

    /// Adds lines below the message.
    #[must_use]
    pub(crate) fn details(mut self, lines: impl IntoIterator<Item = String>) -> Error {
        self.details.extend(lines);
        self
    }

    /// Adds a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hints.push(hint.into());
        self
    }

    /// Cuts values in Rust's debug format, which some libraries append, off the end of the message.
    #[must_use]
    pub(crate) fn plainly(mut self) -> Error {
        self.message
            .truncate(without_debug_values(&self.message).len());
        self
    }

    /// Prefixes the message with a place: `PLACE: MESSAGE`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

/// Runs `work`, which decodes the bytes of `place`, and turns a panic into an error: some decoders
/// panic on damaged input.
///
/// # Errors
/// Returns the error of `work`, or an error that describes its panic.
pub(crate) fn caught<T>(place: impl fmt::Display, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let payload = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => return done.map_err(Error::plainly),
        Err(payload) => payload,
    };
    // The message of an `unwrap` or of an index out of bounds means something only to the decoder's
    // author.
    let reason = Some(panic_message(payload.as_ref()))
        .filter(|message| !message.contains('`') && !message.starts_with("index "))
        .map(|message| format!(": {}", without_debug_values(message)))
        .unwrap_or_default();
    Err(
        Error::failed(format!("{place}: the decoder failed{reason}")).hint(
            "the input is probably damaged: download or create it again; \
             `trajmill info DATASET --verify` verifies every byte of a dataset",
        ),
    )
}

/// Returns the message of a library without the values in Rust's debug format at its end.
fn without_debug_values(text: &str) -> &str {
    let name = |text: &str| {
        text.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_')
            .len()
    };
    let value = |at: usize, open: &str| {
        let (before, after) = (&text[..at], &text[at + open.len()..]);
        let start = name(before);
        let field = after
            .find(|c: char| !(c.is_ascii_lowercase() || c == '_'))
            .unwrap_or(after.len());
        (before[start..].starts_with(char::is_uppercase)
            && field > 0
            && after[field..].starts_with(": "))
        .then_some(start)
    };
    let shown = text
        .match_indices(" { ")
        .find_map(|(at, open)| value(at, open));
    match shown.into_iter().chain(text.find("Some(")).min() {
        Some(at) => {
            text[..at].trim_end_matches(|c: char| c.is_whitespace() || [':', '(', '['].contains(&c))
        }
        None => text,
    }
}

/// Returns the message of a panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no reason given")
}

/// The message and the hints are on one line, unless there are details, which need their own.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let apart = if self.details.is_empty() { "; " } else { "\n" };
        f.write_str(&self.message)?;
        for line in self.details.iter().chain(&self.hints) {
            write!(f, "{apart}{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Error {
        Error::failed(engine::plain_words(&error.to_string()))
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Error {
        // The encoder wraps an error of `dataset::store` in an I/O error.
        let source = match &error {
            parquet::errors::ParquetError::External(source) => {
                source.downcast_ref::<std::io::Error>()
            }
            _ => None,
        };
        source
            .and_then(wrapped)
            .unwrap_or_else(|| Error::failed(engine::plain_words(&error.to_string())))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        wrapped(&error).unwrap_or_else(|| Error::failed(error.to_string()))
    }
}

/// Returns the [`Error`] that an I/O error of `dataset::store` wraps.
fn wrapped(error: &std::io::Error) -> Option<Error> {
    error.get_ref()?.downcast_ref::<Error>().cloned()
}

impl From<datafusion::error::DataFusionError> for Error {
    fn from(error: datafusion::error::DataFusionError) -> Error {
        Error::failed(engine::plain_words(&error.strip_backtrace()))
    }
}

/// Returns the name in `known` that a misspelt `given` most likely stands for.
pub(crate) fn nearest<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| *distance <= (name.len().max(given.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_values_are_cut_off() {
        let shown = "Arrow: no root in ARROW:schema: Utf8Error { error: Utf8Error { \
                     valid_up_to: 132, error_len: Some(1) }, range: 84..584 }";
        assert_eq!(
            without_debug_values(shown),
            "Arrow: no root in ARROW:schema"
        );
        assert_eq!(without_debug_values("no length (Some(3))"), "no length");
        // Text from a file or a user stays.
        for text in [
            "steps.parquet: `{a: 1}` is no type",
            "write { path: out } there",
            "Struct { x } is refused",
            "the decoder failed",
        ] {
            assert_eq!(without_debug_values(text), text);
        }
        let caught = |what: fn() -> usize| caught("file", || Ok(what())).unwrap_err().message;
        assert_eq!(
            caught(|| std::hint::black_box(None).unwrap()),
            "file: the decoder failed"
        );
        assert_eq!(
            caught(|| panic!("a type of 3 bits")),
            "file: the decoder failed: a type of 3 bits"
        );
    }
}
