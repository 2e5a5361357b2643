//! A pass over the trajectories of a dataset in which each has its place in the dataset that is
//! written.

use super::features::EpisodePlace;
use super::plan::Plan;
use super::texts::TextTable;
use crate::error::Result;
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, Pass};

/// Numbers the trajectories of a pass. Those without steps are not written.
pub(crate) struct EpisodePass<'a> {
    pass: Pass<'a>,
    plan: &'a Plan,
    /// The tables of texts so far.
    pub(crate) tables: &'a mut [TextTable],
    episode: u64,
    first: u64,
}

impl<'a> EpisodePass<'a> {
    /// Starts a pass over `outgoing` with the given columns of steps, or all columns if `columns`
    /// is `None`. The texts of each trajectory are added to `tables`.
    ///
    /// # Errors
    /// Returns the errors of [`OutgoingDataset::pass`].
    pub(crate) fn start(
        outgoing: &'a OutgoingDataset,
        plan: &'a Plan,
        columns: Option<&[&str]>,
        tables: &'a mut [TextTable],
    ) -> Result<EpisodePass<'a>> {
        Ok(EpisodePass {
            pass: outgoing.pass(columns)?,
            plan,
            tables,
            episode: 0,
            first: 0,
        })
    }

    /// Returns the next trajectory that has steps, with its place; `None` at the end.
    ///
    /// # Errors
    /// Returns an error if it cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<(OutgoingTrajectory, EpisodePlace)>> {
        for trajectory in &mut self.pass {
            let trajectory = trajectory?;
            if trajectory.length == 0 {
                continue;
            }
            let place = EpisodePlace {
                episode: self.episode,
                first: self.first,
                indices: self.plan.indices.indices(&trajectory, self.tables)?,
            };
            self.episode += 1;
            self.first += trajectory.length as u64;
            return Ok(Some((trajectory, place)));
        }
        Ok(None)
    }

    /// Returns the number of episodes and the number of their rows so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.episode, self.first)
    }
}
