//! Progress bars on stderr. Nothing is drawn if stderr is not a terminal.

use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{messages, print};
use crate::error::wording::{count, number, printable};
use crate::run::Watch;

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(200);

/// A spinner for work of unknown length, until it is dropped.
pub(super) struct Busy {
    bar: ProgressBar,
}

impl Busy {
    /// Shows that `what` is going on.
    pub(super) fn with(what: String) -> Busy {
        let bar =
            bar(None, "{spinner} {msg}, {elapsed}").with_message(printable(&what).into_owned());
        bar.enable_steady_tick(TICK);
        Busy { bar }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Returns what shows the progress of a command: a bar, or messages for a program.
pub(super) fn shown() -> Box<dyn Watch> {
    if messages::are_json() {
        Box::new(messages::Progress::new())
    } else {
        Box::new(Progress {
            bar: Mutex::new(ProgressBar::hidden()),
        })
    }
}

/// The progress bar of a command.
struct Progress {
    bar: Mutex<ProgressBar>,
}

impl Progress {
    fn with(&self, work: impl FnOnce(&mut ProgressBar)) {
        if let Ok(mut bar) = self.bar.lock() {
            work(&mut bar);
        }
    }
}

fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        let rate = |state: &ProgressState, to: &mut dyn Write| {
            _ = write!(to, "{}", number(state.per_sec() as u64));
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar
}

impl Watch for Progress {
    fn begin(&self, name: &str, rows: u64) {
        let template = match rows {
            0 => "{spinner} {prefix}{msg}, {elapsed}",
            _ => {
                "{prefix} {wide_bar:.cyan/dim} {human_pos} of {human_len} rows, {rate} per second, \
                 {eta} left"
            }
        };
        let bar = bar(Some(rows), template).with_prefix(printable(name).into_owned());
        if rows == 0 {
            bar.enable_steady_tick(TICK);
        }
        self.with(|current| *current = bar);
    }

    fn advance(&self, n: u64) {
        self.with(|bar| {
            bar.inc(n);
            if bar.length() == Some(0) {
                bar.set_message(format!(", {}", count(bar.position(), "row")));
            }
        });
    }

    fn train(&self, name: &str, updates: u64) {
        let template =
            "{prefix} {wide_bar:.cyan/dim} {human_pos} of {human_len} updates, {eta} left{msg}";
        let bar = bar(Some(updates), template).with_prefix(printable(name).into_owned());
        self.with(|current| *current = bar);
    }

    fn losses(&self, training: f64, validation: f64) {
        self.with(|bar| {
            bar.set_message(format!(
                "; training loss {training:.4}, validation loss {validation:.4}"
            ));
        });
    }

    fn end(&self) {
        self.with(|bar| bar.finish_and_clear());
    }

    fn say(&self, line: &str) {
        self.with(|bar| bar.suspend(|| print::say(line)));
    }
}
