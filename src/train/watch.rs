//! Progress and interruption of a training.

use crate::error::{Error, Result};

/// An observer of a training, which can also stop it.
pub(crate) trait Watch: Sync {
    /// Announces that this many updates lie ahead.
    fn begin(&self, updates: u64);

    /// Reports this many more updates as done, with the mean training and validation loss where the
    /// model was evaluated.
    fn advance(&self, updates: u64, losses: Option<(f64, f64)>);

    /// Returns whether the user wants the training to stop.
    fn interrupted(&self) -> bool;
}

/// Returns an error if the user wants the training to stop.
pub(super) fn stop_if_interrupted(watch: &dyn Watch) -> Result<()> {
    if !watch.interrupted() {
        return Ok(());
    }
    let failure = Error::interrupted("interrupted during training: no model was written");
    Err(failure.hint("run the same command again to train the model from the beginning"))
}
