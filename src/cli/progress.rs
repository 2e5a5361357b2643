//! Progress on a terminal; nothing where stderr is not one.

use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::run::Watch;

/// A sign on stderr that something goes on whose end is not known, until it is dropped.
pub(super) struct Busy {
    bar: ProgressBar,
}

impl Busy {
    /// Says that `what` goes on.
    pub(super) fn with(what: String) -> Busy {
        let bar =
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Busy { bar }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar on stderr.
pub(super) struct Progress {
    bar: Mutex<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress {
            bar: Mutex::new(ProgressBar::hidden()),
        }
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
        let template = match rows {
            0 => "{spinner} {prefix}{msg}, {elapsed}",
            _ => {
                "{prefix} {wide_bar:.cyan/dim} {human_pos} of {human_len} rows, {rate} a second, {eta} to go"
            }
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = |state: &ProgressState, to: &mut dyn Write| {
                _ = write!(to, "{}", super::report::number(state.per_sec() as u64))
            };
            bar.set_style(style.with_key("rate", rate));
        }
        bar.set_prefix(name.to_owned());
        if rows == 0 {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        self.with(|current| *current = bar);
    }

    fn advance(&self, rows: u64) {
        self.with(|bar| {
            bar.inc(rows);
            if bar.length() == Some(0) {
                bar.set_message(format!(", {} rows", super::report::number(bar.position())));
            }
        });
    }

    fn learn(&self, name: &str, updates: u64) {
        let bar = ProgressBar::with_draw_target(Some(updates), ProgressDrawTarget::stderr());
        let template =
            "{prefix} {wide_bar:.cyan/dim} {human_pos} of {human_len} updates, {eta} to go{msg}";
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
