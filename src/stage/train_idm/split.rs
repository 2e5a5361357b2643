//! The split of the selection: trajectories to train on, to hold out, and to label.

use arrow::array::RecordBatch;

use super::TrainIdm;
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};
use crate::stage::support::rank;

impl TrainIdm {
    /// The column of trajectories that the split depends on.
    pub const PARTED_BY: &'static str = trajectory::RECORDED_ACTIONS;

    /// Splits the rows of a table of trajectories into those to train on, those to hold out, and
    /// those with steps that the model can label in self-training.
    ///
    /// # Errors
    /// Returns an error if too few trajectories have recorded actions.
    pub fn split(&self, table: &RecordBatch) -> Result<[Vec<u32>; 3]> {
        let recorded = rank::integers(table, TrainIdm::PARTED_BY)?;
        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let order = rank::shuffled(table, "train_idm", self.options.seed)?;
        let labelled: Vec<u32> = order
            .into_iter()
            .filter(|row| recorded[*row as usize] > 0)
            .collect();
        let held_out = ((self.validation * labelled.len() as f64 - 1e-9).ceil() as usize).max(1);
        if labelled.is_empty() {
            let count = recorded.len();
            let trajectories = if count == 1 {
                "trajectory"
            } else {
                "trajectories"
            };
            let message = format!(
                "no recorded action in the selection: {count} {trajectories}, none to train on"
            );
            return Err(Error::failed(message).hint(
                "select trajectories with recorded actions: the filters before `train_idm` may \
                 drop them, and `hide_actions: {keep: …}` sets the share that keeps them",
            ));
        }
        if held_out >= labelled.len() {
            let count = labelled.len();
            let (these, hint) = if count == 1 {
                (
                    "trajectory has",
                    "select at least two trajectories with recorded actions",
                )
            } else {
                (
                    "trajectories have",
                    "select more trajectories with recorded actions, or hold out a smaller share \
                     with `validation`",
                )
            };
            let message = format!(
                "{count} {these} recorded actions, and a validation share of {} holds out \
                 {held_out}: none is left to train on",
                self.validation
            );
            return Err(Error::failed(message).hint(hint));
        }
        let (mut validation, mut training) =
            (labelled[..held_out].to_vec(), labelled[held_out..].to_vec());
        validation.sort_unstable();
        training.sort_unstable();
        let rest = |row: &u32| {
            recorded[*row as usize] < lengths[*row as usize]
                && validation.binary_search(row).is_err()
        };
        let unlabelled = (0..u32::try_from(recorded.len()).unwrap_or(u32::MAX))
            .filter(rest)
            .collect();
        Ok([training, validation, unlabelled])
    }
}
