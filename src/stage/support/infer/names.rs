//! The names of a model's inputs and outputs in messages.

use std::fmt::Display;

use crate::error::nearest;

/// Returns names in backticks, separated by commas.
pub(in crate::stage) fn quoted<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    names
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns a hint with the model's name that is nearest to `given`, or with all of its names.
pub(in crate::stage) fn did_you_mean<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    nearest(given, known.clone()).map_or_else(
        || format!("the model has {}", quoted(known)),
        |name| format!("did you mean `{name}`?"),
    )
}
