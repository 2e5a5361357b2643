//! Errors of the query engine in words that the author of a query understands.

use arrow::datatypes::SchemaRef;
use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::object_store;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::error::engine::{between, expected, plain_words, unsupported_operator, untokenizable};
use crate::error::{Error, nearest};
use crate::expr::{Misfit, other_languages};

/// Maximum number of names in a hint.
const MOST_NAMES: usize = 12;

/// The names that a query may use.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The tables, by name, and their columns.
    pub(super) tables: &'a [(String, SchemaRef)],
    /// The functions.
    pub(super) functions: &'a [String],
}

fn misfit(word: Option<&str>, message: impl Into<String>, help: Option<String>) -> Misfit {
    Misfit {
        word: word.map(str::to_owned),
        message: message.into(),
        help,
    }
}

/// Explains what is wrong with a query.
fn explain(error: &DataFusionError, known: Known) -> Misfit {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
            explain(inner, known)
        }
        DataFusionError::Shared(inner) => explain(inner, known),
        DataFusionError::Collection(errors) if !errors.is_empty() => explain(&errors[0], known),
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound {
                field,
                valid_fields,
            } => unknown_column(field, valid_fields, known),
            SchemaError::AmbiguousReference { field } => {
                let name = &field.name;
                misfit(
                    Some(name),
                    format!("several tables have a column `{name}`"),
                    Some(format!("prefix it with its table, such as `t.{name}`")),
                )
            }
            SchemaError::DuplicateQualifiedField { qualifier, name } => misfit(
                None,
                format!("the column `{qualifier}.{name}` appears twice"),
                Some("give one of the tables another name with AS".to_owned()),
            ),
            other => misfit(
                None,
                plain_words(&other.to_string()),
                Some("give one of the columns another name with AS".to_owned()),
            ),
        },
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::RecursionLimitExceeded => misfit(
                None,
                "the query is nested too deeply",
                Some("define inner queries in a WITH clause".to_owned()),
            ),
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => syntax(text),
        },
        other => {
            let message = other.message().into_owned();
            planned(&message, known).unwrap_or_else(|| misfit(None, plain_words(&message), None))
        }
    }
}

/// Explains a message of the parser, such as
/// `Expected: an expression, found: FROM at Line: 1, Column: 8`.
fn syntax(text: &str) -> Misfit {
    let (what, place) = match text.split_once(" at Line: ") {
        Some((what, place)) => (
            what,
            format!(" at line {}", place.replace("Column: ", "column ")),
        ),
        None => (text, String::new()),
    };
    match what.rsplit_once("found: ") {
        Some((wanted, "EOF")) => misfit(
            None,
            format!("the query ends too early: {}", expected(wanted)),
            None,
        ),
        Some((wanted, found)) => misfit(
            None,
            format!(
                "not valid SQL: {}, found `{found}`{place}",
                expected(wanted)
            ),
            other_languages::token(found, "").map(str::to_owned),
        ),
        None => misfit(
            None,
            format!("not valid SQL: {}{place}", untokenizable(what)),
            None,
        ),
    }
}

/// Explains errors of the planner that consist only of text.
fn planned(message: &str, known: Known) -> Option<Misfit> {
    if let Some((operator, instead)) = unsupported_operator(message) {
        return Some(misfit(
            Some(operator),
            format!("SQL has no operator `{operator}`"),
            Some(instead.to_owned()),
        ));
    }
    if let Some(name) = between(message, "table function '", "' not found") {
        return Some(misfit(
            Some(name),
            format!("there is no table function `{name}`"),
            Some("only `--unsafe` allows reading files and other databases".to_owned()),
        ));
    }
    if let Some(full) = between(message, "table '", "' not found") {
        return Some(unknown_table(full, known));
    }
    let name = between(message, "Invalid function '", "'")?;
    let help = match other_languages::function(&name.to_lowercase()) {
        Some(help) => Some(help.to_owned()),
        None => nearest(name, known.functions.iter().map(String::as_str))
            .map(|near| format!("did you mean `{near}`?")),
    };
    Some(misfit(
        Some(name),
        format!("there is no function `{name}`"),
        help,
    ))
}

fn unknown_column(field: &Column, valid: &[Column], known: Known) -> Misfit {
    let name = &field.name;
    let names: Vec<&str> = valid.iter().map(|column| column.name.as_str()).collect();
    let of = field
        .relation
        .as_ref()
        .map(|table| format!(" in `{}`", table.table()))
        .unwrap_or_default();
    let other_case = names
        .iter()
        .find(|known| known.eq_ignore_ascii_case(name) && *known != name);
    let other_table = known
        .tables
        .iter()
        .find(|(_, schema)| schema.index_of(name).is_ok());
    let help = match (
        other_case,
        other_table,
        nearest(name, names.iter().copied()),
    ) {
        (Some(known), ..) => Some(format!(
            "write names with capital letters in double quotes: \"{known}\""
        )),
        (None, Some((table, _)), _) => Some(format!("`{name}` is a column of `{table}`")),
        (None, None, Some(known)) if known != name => Some(format!("did you mean `{known}`?")),
        _ if names.is_empty() => None,
        _ => Some(format!("the columns are {}", shortened(&names))),
    };
    misfit(Some(name), format!("there is no column `{name}`{of}"), help)
}

fn unknown_table(full: &str, known: Known) -> Misfit {
    // The planner adds the catalog and schema of this session, `trajmill.main`, to a name.
    let name = full
        .strip_prefix("trajmill.main.")
        .or_else(|| full.strip_prefix("trajmill."))
        .unwrap_or(full);
    let names: Vec<&str> = known.tables.iter().map(|(name, _)| name.as_str()).collect();
    let help = if name.contains('/') || name.ends_with(".parquet") || name.ends_with(".csv") {
        "a query reads the datasets on the command line; only `--unsafe` allows files by path"
            .to_owned()
    } else {
        match nearest(name, names.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("the tables are {}", shortened(&names)),
        }
    };
    misfit(
        Some(name),
        format!("there is no table `{name}`"),
        Some(help),
    )
}

/// Returns the failure of a query that cannot be planned.
pub(super) fn unplannable(error: &DataFusionError, known: Known) -> Error {
    let misfit = explain(error, known);
    let failure = Error::usage(misfit.message);
    match misfit.help {
        Some(help) => failure.hint(help),
        None => failure,
    }
}

/// Returns the failure of a query that was running.
pub(super) fn failed(error: &DataFusionError) -> Error {
    if let Some(own) = own(error) {
        return own;
    }
    match error {
        DataFusionError::Diagnostic(_, inner) => failed(inner),
        DataFusionError::Shared(inner) => failed(inner),
        DataFusionError::Collection(errors) if !errors.is_empty() => failed(&errors[0]),
        DataFusionError::Context(place, inner) => match inner.as_ref() {
            DataFusionError::ObjectStore(error)
                if matches!(error.as_ref(), object_store::Error::NotFound { .. }) =>
            {
                missing(place)
            }
            _ => failed(inner).at(place),
        },
        DataFusionError::ResourcesExhausted(_) => {
            Error::failed("the query needs more memory than its limit allows")
                .hint("raise the limit with `--memory`, or lower `--threads`, which share it")
        }
        DataFusionError::ObjectStore(error) => match error.as_ref() {
            object_store::Error::NotFound { path, .. } => missing(path),
            other => Error::failed(other.to_string()),
        },
        DataFusionError::ParquetError(error) => {
            let text = error.to_string();
            // Conditions are evaluated while pages are read, so their errors look like the file's.
            match text.split_once("Error evaluating filter predicate: ") {
                Some((_, why)) => Error::failed(format!(
                    "a condition cannot be computed on a row: {}",
                    undebugged(why)
                )),
                None => Error::failed(format!("a Parquet file is damaged: {}", plain_words(&text)))
                    .hint("`trajmill info DATASET --verify` finds the damaged file"),
            }
        }
        other => Error::failed(plain_words(&other.message())),
    }
}

/// Returns the error of this crate that `error` wraps, if there is one: a dataset's file could not
/// be read or verified.
pub(super) fn own(error: &DataFusionError) -> Option<Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own.clone());
        }
        next = error.source();
    }
    None
}

/// Returns the message in an error in Rust's debug format: of
/// `ArrowError(CastError("no"), Some(""))` the text `no`, of `ArrowError(DivideByZero, Some(""))`
/// the text `division by zero`.
fn undebugged(error: &str) -> String {
    let inner = error
        .strip_prefix("ArrowError(")
        .map_or(error, |rest| rest.split(", Some(").next().unwrap_or(rest));
    match inner.split_once("(\"") {
        Some((_, text)) => plain_words(text.trim_end_matches("\")")),
        None => plain_words(inner),
    }
}

fn missing(path: &str) -> Error {
    Error::failed(format!("{path}, which the manifest lists, is missing"))
        .hint("restore the file from a copy, or import or materialise the dataset again")
}

/// Returns the first names of a list, and the number of the others.
fn shortened(names: &[&str]) -> String {
    let shown = names
        .iter()
        .take(MOST_NAMES)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
