//! A model's inputs and outputs in messages.

use std::fmt::Display;

use crate::error::nearest;
use crate::model::Port;
use crate::stage::Misfit;

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

/// Returns the misfit of an input whose type nothing feeds.
pub(in crate::stage) fn unfed(port: &Port) -> Misfit {
    Misfit::new(format!(
        "the model's input `{port}` has a type that no column can feed"
    ))
    .help(
        "export the model with an input of float32, float64, float16, int32, int64 or uint8, and \
         cast it within the model",
    )
}

/// Returns the misfit of an output whose type no column holds.
pub(in crate::stage) fn unread(port: &Port) -> Misfit {
    Misfit::new(format!(
        "the model's output `{port}` holds neither floating-point numbers nor integers"
    ))
    .help("export the model with a cast to float32 or int64 at the end")
}
