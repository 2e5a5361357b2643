//! Progress of a training, and the wish to stop it.

use crate::error::{Error, Result};

/// Told of the learning's progress, and asked whether it is to stop.
pub trait Watch: Sync {
    /// So many updates lie ahead.
    fn begin(&self, updates: u64);

    /// So many are done since, with the mean loss of training and validation.
    fn advance(&self, updates: u64, losses: Option<(f64, f64)>);

    /// Whether the user wants it to stop.
    fn interrupted(&self) -> bool;
}

/// Fails where the user wants it to stop.
pub(super) fn stop_if_interrupted(watch: &dyn Watch) -> Result<()> {
    if !watch.interrupted() {
        return Ok(());
    }
    let failure = Error::interrupted("interrupted while learning: the model was not written");
    Err(failure.hint("run the same command again to learn it from the beginning"))
}
