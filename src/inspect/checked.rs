//! Verifies the trajectories of a source while they are read, by the rules of [`Steps`].

use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value};

use super::steps::EMPTY;
use super::{Findings, Steps};
use crate::dataset::Account;
use crate::error::{Error, Result};
use crate::transfer::read::{IncomingTrajectory, NonFinite, Source, SourceVideo};

/// A source whose bad trajectories are errors.
pub(crate) struct Checked<'a> {
    inner: &'a mut dyn Source,
    non_finite: NonFinite,
    steps: Steps,
    warnings: Findings,
    /// The rows of bad trajectories.
    bad_rows: u64,
    /// Whether the last error is about a trajectory that was read, so that the next one can follow.
    bad: bool,
}

impl<'a> Checked<'a> {
    /// Verifies the trajectories of `inner`; `non_finite` says what to do with numbers that are not
    /// finite.
    pub(crate) fn new(inner: &'a mut dyn Source, non_finite: NonFinite) -> Checked<'a> {
        Checked {
            inner,
            non_finite,
            steps: Steps::default(),
            warnings: Findings::default(),
            bad_rows: 0,
            bad: false,
        }
    }

    /// Verifies one trajectory.
    fn verify(&mut self, trajectory: &IncomingTrajectory) -> Result<()> {
        let place = format!("trajectory `{}`", trajectory.key);
        let mut findings = Findings::default();
        self.steps.add(&place, &trajectory.steps, &mut findings)?;
        for fault in findings.faults {
            let is_value = fault.rule.starts_with("nan-");
            if is_value && self.non_finite == NonFinite::Keep || !fault.error {
                self.warnings
                    .warning(fault.rule, fault.place, fault.message);
                continue;
            }
            let error = Error::failed(format!("{}: {}", fault.place, fault.message));
            return Err(match is_value {
                true => error.hint(
                    "correct the source, or import such values as they are with \
                     `--non-finite keep` (`non_finite: keep`)",
                ),
                false if fault.rule == EMPTY => {
                    error.hint("a trajectory needs at least one step: remove it from the source")
                }
                false => error.hint(
                    "a flag of an end belongs to the last step of a trajectory: correct the \
                     flags, or the ids that tell trajectories apart, in the source",
                ),
            });
        }
        Ok(())
    }
}

impl Source for Checked<'_> {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        self.inner.metadata()
    }

    fn account(&self) -> Account {
        let mut account = self.inner.account();
        if let Some(rows) = &mut account.rows {
            rows.set_aside += self.bad_rows;
        }
        let mut all = Findings::default();
        self.steps.finish(&mut all);
        for fault in self.warnings.faults.iter().chain(&all.faults) {
            *account.warnings.entry(fault.rule.to_owned()).or_default() += 1;
        }
        account
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.inner.video(path)
    }

    fn lost(&self) -> Option<u64> {
        match self.bad {
            true => Some(1),
            false => self.inner.lost(),
        }
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.bad = false;
        let Some(trajectory) = self.inner.next()? else {
            return Ok(None);
        };
        if let Err(error) = self.verify(&trajectory) {
            self.bad = true;
            self.bad_rows += trajectory.steps.num_rows() as u64;
            return Err(error);
        }
        Ok(Some(trajectory))
    }
}
