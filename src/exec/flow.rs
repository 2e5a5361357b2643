//! What goes into a stage and what comes out of it.

use serde::{Deserialize, Serialize};

use crate::plan::Planned;
use crate::stage::{Facts, Tally};

/// The rows and trajectories that went through a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The name of the stage.
    pub stage: String,
    /// The position of the stage in the pipeline, from 0.
    pub index: usize,
    /// The number of rows that went in.
    pub rows_in: u64,
    /// The number of rows that came out.
    pub rows_out: u64,
    /// The number of trajectories that went in.
    pub trajectories_in: u64,
    /// The number of trajectories that came out.
    pub trajectories_out: u64,
    /// What the stage dropped, by reason, and what else it counted.
    #[serde(flatten)]
    pub tally: Tally,
    /// What a selection found out about all trajectories.
    #[serde(default, skip_serializing_if = "Facts::is_empty")]
    pub facts: Facts,
}

impl Flow {
    /// Returns a flow of nothing through the stage of an operator.
    pub(super) fn through<T>(planned: &Planned<T>) -> Flow {
        Flow {
            stage: planned.name.clone(),
            index: planned.index,
            ..Flow::default()
        }
    }

    /// Adds what went through another part of the same stage.
    pub(crate) fn add(&mut self, other: &Flow) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        self.trajectories_in += other.trajectories_in;
        self.trajectories_out += other.trajectories_out;
        self.tally.add(&other.tally);
    }
}
