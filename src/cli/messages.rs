//! Messages for the program that started trajmill, such as the Python module. If the environment
//! variable `TRAJMILL_MESSAGES` is `json`, each line of stderr is one JSON object with one key:
//!
//! - `note`: a line for people;
//! - `progress`: `{"name", "done", "of", "unit"}`; `of` is null if it is not known, and `done` is
//!   null when the pass is over;
//! - `error`: `{"kind", "exit_code", "message", "details", "help", "faults"}`, the last line.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, ErrorKind};
use crate::run::Watch;

/// The least time between two lines about the progress.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether a program reads stderr.
pub(super) fn are_json() -> bool {
    static JSON: OnceLock<bool> = OnceLock::new();
    *JSON.get_or_init(|| std::env::var_os("TRAJMILL_MESSAGES").is_some_and(|form| form == "json"))
}

/// Sends a line for people.
pub(super) fn note(line: &str) {
    send(&json!({ "note": line }));
}

/// Sends an error.
pub(super) fn error(error: &Error) {
    let kind = match error.kind {
        ErrorKind::Failed => "failed",
        ErrorKind::Usage => "usage",
        ErrorKind::Pipeline => "pipeline",
        ErrorKind::Checks => "checks",
        ErrorKind::Interrupted => "interrupted",
        ErrorKind::Closed => "closed",
    };
    send(&json!({ "error": {
        "kind": kind,
        "exit_code": error.kind.exit_code(),
        "message": error.message.trim_end(),
        "details": error.details,
        "help": error.hints,
        "faults": error.faults,
    }}));
}

fn send(message: &Value) {
    // There is no other place for the error.
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Sends the progress of a command.
pub(super) struct Progress {
    pass: Mutex<Pass>,
}

/// What is going on.
struct Pass {
    name: String,
    unit: &'static str,
    done: u64,
    of: Option<u64>,
    sent: Instant,
}

impl Progress {
    pub(super) fn new() -> Progress {
        let pass = Pass {
            name: String::new(),
            unit: "rows",
            done: 0,
            of: None,
            sent: Instant::now(),
        };
        Progress {
            pass: Mutex::new(pass),
        }
    }

    fn start(&self, name: &str, unit: &'static str, of: u64) {
        if let Ok(mut pass) = self.pass.lock() {
            name.clone_into(&mut pass.name);
            pass.unit = unit;
            pass.done = 0;
            pass.of = (of > 0).then_some(of);
            pass.send(Some(0));
        }
    }
}

impl Pass {
    fn send(&mut self, done: Option<u64>) {
        self.sent = Instant::now();
        let (name, of, unit) = (&self.name, self.of, self.unit);
        send(&json!({ "progress": { "name": name, "done": done, "of": of, "unit": unit } }));
    }
}

impl Watch for Progress {
    fn begin(&self, name: &str, rows: u64) {
        self.start(name, "rows", rows);
    }

    fn advance(&self, n: u64) {
        if let Ok(mut pass) = self.pass.lock() {
            pass.done += n;
            if pass.sent.elapsed() >= PAUSE {
                let done = pass.done;
                pass.send(Some(done));
            }
        }
    }

    fn train(&self, name: &str, updates: u64) {
        self.start(name, "updates", updates);
    }

    fn losses(&self, _: f64, _: f64) {}

    fn end(&self) {
        if let Ok(mut pass) = self.pass.lock() {
            pass.send(None);
        }
    }

    fn say(&self, line: &str) {
        note(line);
    }
}
