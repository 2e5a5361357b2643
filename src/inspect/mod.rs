//! Finds the faults of a dataset, and the differences between two datasets.

mod checked;
pub(crate) mod diff;
mod references;
mod steps;

pub(crate) use checked::Checked;
pub(crate) use references::References;
pub(crate) use steps::Steps;
pub(crate) use steps::read_through;

use std::collections::BTreeMap;

/// The findings of `validate`.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first faults of each rule, at most [`Findings::KEPT`] of one.
    pub faults: Vec<Fault>,
    /// The number of faults of each rule.
    pub by_rule: BTreeMap<&'static str, u64>,
    /// The number of faults that are errors.
    pub errors: u64,
    /// The number of faults that are warnings.
    pub warnings: u64,
    /// The number of trajectories read.
    pub trajectories: u64,
    /// The number of rows read.
    pub rows: u64,
}

/// One fault of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Whether it is an error: a loader would refuse the dataset, or train on wrong values. All
    /// other faults are warnings.
    pub error: bool,
    /// The stable short name of the rule, such as `nan-action`.
    pub rule: &'static str,
    /// The place: file, trajectory or row.
    pub place: String,
    /// A sentence that says what is wrong, and how to correct it.
    pub message: String,
}

impl Findings {
    /// The number of faults of one rule that are kept. All others are only counted.
    pub const KEPT: u64 = 100;

    /// Adds an error: a loader would refuse the dataset, or train on wrong values.
    pub fn error(
        &mut self,
        rule: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.errors += 1;
        self.add(Fault {
            error: true,
            rule,
            place: place.into(),
            message: message.into(),
        });
    }

    /// Adds a warning.
    pub fn warning(
        &mut self,
        rule: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.warnings += 1;
        self.add(Fault {
            error: false,
            rule,
            place: place.into(),
            message: message.into(),
        });
    }

    fn add(&mut self, fault: Fault) {
        let known = self.by_rule.entry(fault.rule).or_default();
        *known += 1;
        if *known <= Findings::KEPT {
            self.faults.push(fault);
        }
    }
}
