//! The engine's errors in the words of a person who wrote a query.

use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::object_store;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::error::{Error, nearest};
use crate::expr::Misfit;

/// What is wrong with a query, given the names of the tables that there are.
pub(super) fn explain(error: &DataFusionError, tables: &[String]) -> Misfit {
    let misfit = |word: Option<&str>, message: String, help: Option<String>| Misfit {
        word: word.map(str::to_owned),
        message,
        help,
    };
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => {
            explain(inner, tables)
        }
        DataFusionError::Shared(inner) => explain(inner, tables),
        DataFusionError::Collection(errors) if !errors.is_empty() => explain(&errors[0], tables),
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound {
                field,
                valid_fields,
            } => unknown_column(field, valid_fields),
            SchemaError::AmbiguousReference { field } => {
                let name = &field.name;
                misfit(
                    Some(name),
                    format!("`{name}` is a column of more than one table"),
                    Some(format!(
                        "write the table in front of it, such as `t.{name}`"
                    )),
                )
            }
            other => misfit(
                None,
                other.to_string(),
                Some("give one of the columns another name with AS".to_owned()),
            ),
        },
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::RecursionLimitExceeded => misfit(
                None,
                "the query is nested too deeply".to_owned(),
                Some("name inner queries with WITH".to_owned()),
            ),
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => {
                misfit(None, format!("not valid SQL: {}", lower_first(text)), None)
            }
        },
        other => {
            let message = other.message().into_owned();
            planned(&message, tables).unwrap_or_else(|| misfit(None, plain(&message), None))
        }
    }
}

/// Errors that the planner gives as text alone.
fn planned(message: &str, tables: &[String]) -> Option<Misfit> {
    if let Some(name) = between(message, "table function '", "' not found") {
        let help = "files and other databases cannot be read without `--unsafe`".to_owned();
        return Some(Misfit {
            word: Some(name.to_owned()),
            message: format!("there is no table function `{name}`"),
            help: Some(help),
        });
    }
    if let Some(full) = between(message, "table '", "' not found") {
        return Some(unknown_table(full, tables));
    }
    let name = between(message, "Invalid function '", "'")?;
    let help =
        between(message, "Did you mean '", "'").map(|name| format!("did you mean `{name}`?"));
    Some(Misfit {
        word: Some(name.to_owned()),
        message: format!("there is no function `{name}`"),
        help,
    })
}

fn unknown_column(field: &Column, valid: &[Column]) -> Misfit {
    let name = &field.name;
    let names: Vec<&str> = valid.iter().map(|column| column.name.as_str()).collect();
    let of = field
        .relation
        .as_ref()
        .map(|table| format!(" in `{}`", table.table()))
        .unwrap_or_default();
    let quoted = names
        .iter()
        .find(|known| known.eq_ignore_ascii_case(name) && *known != name);
    let help = match (quoted, nearest(name, names.iter().copied())) {
        (Some(known), _) => Some(format!(
            "names with capital letters need double quotes: \"{known}\""
        )),
        (None, Some(known)) if known != name => Some(format!("did you mean `{known}`?")),
        _ if names.is_empty() => None,
        _ => Some(format!("columns are {}", shortened(&names))),
    };
    Misfit {
        word: Some(name.clone()),
        message: format!("there is no column `{name}`{of}"),
        help,
    }
}

fn unknown_table(full: &str, tables: &[String]) -> Misfit {
    // The planner completes a name with the catalog and schema that this session calls `trajmill.main`.
    let name = full
        .strip_prefix("trajmill.main.")
        .or_else(|| full.strip_prefix("trajmill."))
        .unwrap_or(full);
    let help = if name.contains('/') || name.ends_with(".parquet") || name.ends_with(".csv") {
        "only the datasets on the command line can be read; `--unsafe` allows files by their path"
            .to_owned()
    } else {
        match nearest(name, tables.iter().map(String::as_str)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!(
                "tables are {}",
                shortened(&tables.iter().map(String::as_str).collect::<Vec<_>>())
            ),
        }
    };
    Misfit {
        word: Some(name.to_owned()),
        message: format!("there is no table `{name}`"),
        help: Some(help),
    }
}

/// The failure of a query that could not be planned.
pub(super) fn unplannable(error: &DataFusionError, tables: &[String]) -> Error {
    let misfit = explain(error, tables);
    let failure = Error::usage(misfit.message);
    match misfit.help {
        Some(help) => failure.hint(help),
        None => failure,
    }
}

/// The failure of a query that was running.
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
            Error::failed("the query needs more memory than it may use")
                .hint("give it more with `--memory`, or use fewer `--threads`, which share it")
        }
        DataFusionError::ObjectStore(error) => match error.as_ref() {
            object_store::Error::NotFound { path, .. } => missing(path),
            other => Error::failed(other.to_string()),
        },
        DataFusionError::ParquetError(error) => {
            let text = error.to_string();
            // Conditions are evaluated while pages are read, and their errors come as the file's.
            match text.split_once("Error evaluating filter predicate: ") {
                Some((_, why)) => Error::failed(format!(
                    "a condition cannot be computed on a row: {}",
                    bare(why)
                )),
                None => Error::failed(format!("a damaged Parquet file: {text}"))
                    .hint("`trajmill info DATASET --verify` finds the damage"),
            }
        }
        other => Error::failed(plain(&other.message())),
    }
}

/// The error of ours that a file of a dataset could not be read with, where `error` comes of one.
pub(super) fn own(error: &DataFusionError) -> Option<Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(Error {
                kind: own.kind,
                message: own.message.clone(),
                hints: own.hints.clone(),
            });
        }
        next = error.source();
    }
    None
}

/// `ArrowError(DivideByZero, Some(""))` as `divide by zero`, `ArrowError(CastError("no"), Some(""))` as `no`.
fn bare(error: &str) -> String {
    let inner = error
        .strip_prefix("ArrowError(")
        .map_or(error, |rest| rest.split(", Some(").next().unwrap_or(rest));
    if let Some((_, text)) = inner.split_once("(\"") {
        return text.trim_end_matches("\")").to_owned();
    }
    let spaced = |letter: char| {
        if letter.is_uppercase() {
            format!(" {}", letter.to_lowercase())
        } else {
            letter.to_string()
        }
    };
    inner
        .chars()
        .map(spaced)
        .collect::<String>()
        .trim_start()
        .to_owned()
}

fn missing(path: &str) -> Error {
    Error::failed(format!("{path} is missing, though the manifest lists it"))
        .hint("restore the file from a copy, or import or materialise the dataset again")
}

/// Text without the engine's own prefixes.
fn plain(message: &str) -> String {
    let prefixes = [
        "Error during planning: ",
        "Execution error: ",
        "Arrow error: ",
        "Optimizer rule ",
    ];
    let text = prefixes.iter().fold(message, |text, prefix| {
        text.strip_prefix(prefix).unwrap_or(text)
    });
    let text = text.split("\n\nbacktrace:").next().unwrap_or(text);
    lower_first(text.trim_end_matches('.'))
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        // Two capitals are an abbreviation, and stay.
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

/// The first names of a list, and how many more there are.
fn shortened(names: &[&str]) -> String {
    let shown = names
        .iter()
        .take(12)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(12) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
