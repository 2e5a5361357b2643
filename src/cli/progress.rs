//! Progress on a terminal; nothing where stderr is not one.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::run::Watch;

/// A bar on stderr.
pub(super) struct Progress {
    bar: Mutex<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { bar: Mutex::new(ProgressBar::hidden()) }
    }

    fn with(&self, work: impl FnOnce(&mut ProgressBar)) {
        if let Ok(mut bar) = self.bar.lock() {
            work(&mut bar);
        }
    }
}

impl Watch for Progress {
    fn begin(&self, name: &str, rows: u64) {
        // indicatif draws nothing where stderr is not a terminal.
        let bar = ProgressBar::with_draw_target(Some(rows), ProgressDrawTarget::stderr());
        let template = "{prefix} {wide_bar:.cyan/dim} {human_pos} of {human_len} rows, {per_sec}, {eta} to go";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        self.with(|current| *current = bar);
    }

    fn advance(&self, rows: u64) {
        self.with(|bar| bar.inc(rows));
    }

    fn learn(&self, name: &str, updates: u64) {
        let bar = ProgressBar::with_draw_target(Some(updates), ProgressDrawTarget::stderr());
        let template = "{prefix} {wide_bar:.cyan/dim} {human_pos} of {human_len} updates, {eta} to go{msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        self.with(|current| *current = bar);
    }

    fn losses(&self, training: f64, validation: f64) {
        self.with(|bar| bar.set_message(format!("; loss {training:.4}, held out {validation:.4}")));
    }

    fn end(&self) {
        self.with(|bar| bar.finish_and_clear());
    }

    fn say(&self, line: &str) {
        self.with(|bar| bar.suspend(|| super::report::say(line)));
    }
}
