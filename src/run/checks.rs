//! Verifies the pipeline's checks over a result that is sealed but not yet published.

use super::RunOptions;
use crate::dataset::Dataset;
use crate::error::wording::count;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Phase;
use crate::query::{self, Session};

/// Verifies the checks of `phase` over `result`. Returns the checks that failed but only warn, as
/// text.
///
/// # Errors
/// Returns an error of the kind [`ErrorKind::Checks`] if a check failed, and another one if a check
/// cannot be evaluated.
pub(super) fn verify(phase: &Phase, result: &Dataset, options: &RunOptions) -> Result<Vec<String>> {
    if phase.checks.is_empty() {
        return Ok(Vec::new());
    }
    let session = Session::open(
        &[("result".to_owned(), result.clone())],
        &query::SessionOptions {
            threads: options.threads,
            memory: options.memory,
            ..query::SessionOptions::default()
        },
    )?;
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    for check in &phase.checks {
        for (table, predicate) in check.predicates() {
            if !session.check(table, predicate)? {
                let list = if check.warns() {
                    &mut warnings
                } else {
                    &mut failures
                };
                list.push(format!("{table}: {predicate}"));
            }
        }
    }
    if failures.is_empty() {
        return Ok(warnings);
    }
    Err(Error {
        kind: ErrorKind::Checks,
        ..Error::failed(format!(
            "{} failed, so nothing was published:",
            count(failures.len() as u64, "check")
        ))
    }
    .details(failures.iter().map(|failure| format!("    {failure}"))))
}
