//! Which trajectories the model is trained on, and which are held out.

use arrow::array::RecordBatch;

use super::Training;
use crate::dataset::schema::trajectory;
use crate::error::{Error, Result};
use crate::stage::rank;

impl Training {
    /// Columns of trajectories by which they are parted.
    pub const PARTED_BY: &'static str = trajectory::RECORDED_ACTIONS;

    /// Rows of a table of trajectories by part: to learn from, to hold out, and those with steps to be labelled by the model.
    ///
    /// # Errors
    /// Where too few trajectories have recorded actions.
    pub fn split(&self, table: &RecordBatch) -> Result<[Vec<u32>; 3]> {
        let recorded = rank::integers(table, Training::PARTED_BY)?;
        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let order = rank::shuffled(table, "train_idm", self.options.seed)?;
        let labelled: Vec<u32> = order
            .into_iter()
            .filter(|row| recorded[*row as usize] > 0)
            .collect();
        let held_out = ((self.validation * labelled.len() as f64 - 1e-9).ceil() as usize).max(1);
        if labelled.is_empty() {
            return Err(Error::failed(format!(
                "no recorded action in the selection: {} trajectories, and none to learn from",
                recorded.len()
            ))
            .hint("train on a selection with some: `hide_actions: {keep: …}` keeps a share, `filter: recorded_actions > 0` finds them"));
        }
        if held_out >= labelled.len() {
            let count = labelled.len();
            let these = if count == 1 {
                "trajectory has"
            } else {
                "trajectories have"
            };
            let message = format!(
                "{count} {these} recorded actions, and a validation share of {} holds out {held_out} of them: none is left to learn from",
                self.validation
            );
            return Err(Error::failed(message)
                .hint("label more trajectories, or hold out a smaller share with `validation`"));
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
