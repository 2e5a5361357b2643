//! Follows a command: receives its progress, and tells it to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Receives the progress of a command.
pub trait Watch: Sync {
    /// A pass over data begins. `rows` is the number of rows that it reads, 0 if unknown.
    fn begin(&self, name: &str, rows: u64);
    /// `n` more rows, or updates of a model, are done.
    fn advance(&self, n: u64);
    /// The training of a model begins, for a number of updates.
    fn train(&self, name: &str, updates: u64);
    /// The latest training and validation losses.
    fn losses(&self, training: f64, validation: f64);
    /// The pass or the training is over.
    fn end(&self);
    /// Shows a line to the user.
    fn say(&self, line: &str);
}

/// Follows a command on behalf of its user.
#[derive(Clone, Copy)]
pub struct Observer<'a> {
    /// Receives the progress.
    pub watch: &'a dyn Watch,
    /// Set as soon as the user wants the command to stop.
    pub interrupted: &'a AtomicBool,
}

/// Shows nothing.
struct Silent;

impl Watch for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn train(&self, _: &str, _: u64) {}
    fn losses(&self, _: f64, _: f64) {}
    fn end(&self) {}
    fn say(&self, _: &str) {}
}

impl Default for Observer<'_> {
    /// Returns an observer that shows nothing and never stops the command.
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Observer {
            watch: &Silent,
            interrupted: &NEVER,
        }
    }
}

impl Observer<'_> {
    /// Whether the user wants the command to stop.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Returns the error `stopped` if the user wants the command to stop.
    pub(super) fn go_on(&self, stopped: impl FnOnce() -> Error) -> Result<()> {
        if self.is_interrupted() {
            Err(stopped())
        } else {
            Ok(())
        }
    }
}
