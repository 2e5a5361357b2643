//! The one public error: what went wrong in a sentence, what to do about it, and which exit code it means.
//!
//! There are few kinds and no variant per call site: nobody matches on those. A message names the place (file, shard,
//! column, row) and a hint names the remedy; rendering is `cli::report`'s.

pub mod wording;

use std::fmt;

/// What a failure means to the caller; each kind is one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The run failed; running it again resumes. Exit code 1.
    Failed,
    /// The command line is wrong. Exit code 2.
    Usage,
    /// The pipeline file is wrong. Exit code 3.
    Pipeline,
    /// The work was done, but a check failed or too many rows were set aside. Exit code 4.
    Checks,
    /// The user stopped the run; running it again resumes. Exit code 130.
    Interrupted,
}

impl Kind {
    /// The process exit code of this kind of failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Pipeline => 3,
            Kind::Checks => 4,
            Kind::Interrupted => 130,
        }
    }
}

/// A failure that a person can act on.
#[derive(Debug)]
pub struct Error {
    /// What the failure means to the caller.
    pub kind: Kind,
    /// One sentence without a trailing full stop, naming the place.
    pub message: String,
    /// What to do about it, one sentence each.
    pub hints: Vec<String>,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of the run itself: input, model, storage.
    pub fn failed(message: impl Into<String>) -> Error {
        Error {
            kind: Kind::Failed,
            message: message.into(),
            hints: Vec::new(),
        }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Error {
        Error {
            kind: Kind::Usage,
            ..Error::failed(message)
        }
    }

    /// A wrong pipeline file; the message already carries `FILE:LINE:COLUMN` and the caret.
    pub fn pipeline(message: impl Into<String>) -> Error {
        Error {
            kind: Kind::Pipeline,
            ..Error::failed(message)
        }
    }

    /// The user's wish to stop.
    pub fn interrupted(message: impl Into<String>) -> Error {
        Error {
            kind: Kind::Interrupted,
            ..Error::failed(message)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hints.push(hint.into());
        self
    }

    /// Leaves out values at the message's end that a library shows as Rust writes them.
    #[must_use]
    pub fn plainly(mut self) -> Error {
        self.message.truncate(plain(&self.message).len());
        self
    }

    /// Puts the place in front of the message: `PLACE: MESSAGE`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

/// Runs what decodes the bytes of `place`. Damaged input can make a decoder panic: that is an error, never the end of the
/// process.
///
/// # Errors
/// Those of `work`, and its panic.
pub fn caught<T>(place: impl fmt::Display, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map(|done| done.map_err(Error::plainly)).unwrap_or_else(|payload| {
        // Of an `unwrap` or an index, only the decoder's author could make something.
        let reason = Some(said(payload.as_ref())).filter(|said| !said.contains('`') && !said.starts_with("index "));
        let reason = reason.map(|said| format!(": {}", plain(said))).unwrap_or_default();
        Err(Error::failed(format!("{place}: a decoder gave up{reason}"))
            .hint("the input is likely damaged: fetch or make it again; `trajmill info --verify DATASET` checks every byte of a dataset"))
    })
}

/// What a library says, less the values at its end that it shows as Rust writes them.
fn plain(text: &str) -> &str {
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

/// What a panic said.
pub fn said(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no reason given")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for hint in &self.hints {
            write!(f, "\n  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Error {
        Error::failed(error.to_string())
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Error {
        // What `dataset::store` says comes through the encoder as an I/O error.
        let source = match &error {
            parquet::errors::ParquetError::External(source) => {
                source.downcast_ref::<std::io::Error>()
            }
            _ => None,
        };
        source
            .and_then(inner)
            .unwrap_or_else(|| Error::failed(error.to_string()))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        inner(&error).unwrap_or_else(|| Error::failed(error.to_string()))
    }
}

/// What `dataset::store` said, where that is what failed.
fn inner(error: &std::io::Error) -> Option<Error> {
    let own = error.get_ref()?.downcast_ref::<Error>()?;
    Some(Error {
        kind: own.kind,
        message: own.message.clone(),
        hints: own.hints.clone(),
    })
}

impl From<datafusion::error::DataFusionError> for Error {
    fn from(error: datafusion::error::DataFusionError) -> Error {
        Error::failed(error.strip_backtrace())
    }
}

/// The name among `known` that a misspelt `given` most likely meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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
    fn what_rust_shows_is_left_out() {
        let shown = "Arrow: no root in ARROW:schema: Utf8Error { error: Utf8Error { valid_up_to: 132, error_len: Some(1) }, range: 84..584 }";
        assert_eq!(plain(shown), "Arrow: no root in ARROW:schema");
        assert_eq!(plain("no length (Some(3))"), "no length");
        // What a file or a user says stays.
        for text in [
            "steps.parquet: `{a: 1}` is no type",
            "write { path: out } there",
            "Struct { x } is refused",
            "a decoder gave up",
        ] {
            assert_eq!(plain(text), text);
        }
        let caught = |what: fn() -> usize| caught("file", || Ok(what())).unwrap_err().message;
        assert_eq!(
            caught(|| std::hint::black_box(None).unwrap()),
            "file: a decoder gave up"
        );
        assert_eq!(
            caught(|| panic!("a type of 3 bits")),
            "file: a decoder gave up: a type of 3 bits"
        );
    }
}
