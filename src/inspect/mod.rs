//! What is wrong with a dataset, and how two datasets differ.

pub mod diff;
mod steps;

pub use steps::Steps;
pub(crate) use steps::read_through;

/// What `validate` found.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first faults, at most [`Findings::KEPT`].
    pub faults: Vec<Fault>,
    /// Faults in all that make the dataset wrong.
    pub errors: u64,
    /// Faults in all that its owner should know of.
    pub warnings: u64,
    /// Trajectories looked at.
    pub trajectories: u64,
    /// Rows looked at.
    pub rows: u64,
}

/// One thing that is wrong with a dataset.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Whether a loader would refuse it or train on wrong values; if not, it is a warning.
    pub error: bool,
    /// A short name that stays the same, such as `nan-action`.
    pub rule: &'static str,
    /// File, trajectory, row.
    pub place: String,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
}

impl Findings {
    /// Faults that are kept; the others are only counted.
    pub const KEPT: usize = 1000;

    /// Adds something that a loader would refuse or train wrongly on.
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

    /// Adds something that the owner should know of.
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
        if self.faults.len() < Findings::KEPT {
            self.faults.push(fault);
        }
    }
}
