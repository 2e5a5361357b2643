//! Runs a pipeline and watches its progress.
//!
//! ```sh
//! cargo run --release --example run_pipeline -- pipelines/quickstart.yaml
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trajmill::{Observer, Result, RunOptions, Watch};

/// Prints the beginning and the end of each pass over the data.
#[derive(Default)]
struct Progress {
    rows: AtomicU64,
}

impl Watch for Progress {
    fn begin(&self, name: &str, rows: u64) {
        self.rows.store(0, Ordering::Relaxed);
        match rows {
            0 => println!("{name}"),
            rows => println!("{name}: {rows} rows to read"),
        }
    }

    fn advance(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    fn train(&self, name: &str, updates: u64) {
        println!("{name}: {updates} updates to train");
    }

    fn losses(&self, training: f64, validation: f64) {
        println!("  training loss {training:.4}, validation loss {validation:.4}");
    }

    fn end(&self) {
        println!("  done: {} rows", self.rows.load(Ordering::Relaxed));
    }

    fn say(&self, line: &str) {
        println!("note: {line}");
    }
}

fn main() -> ExitCode {
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let path = path.unwrap_or_else(|| PathBuf::from("pipelines/quickstart.yaml"));
    match run_and_watch(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run_and_watch(path: &Path) -> Result<()> {
    // Another thread could set this flag: the run then ends, and the next one resumes it.
    let interrupted = AtomicBool::new(false);
    let report = trajmill::run(
        path,
        &RunOptions {
            threads: 2,
            fresh: true,
            verify: false,
            observer: Observer {
                watch: &Progress::default(),
                interrupted: &interrupted,
            },
            ..RunOptions::default()
        },
    )?;

    for output in &report.outputs {
        println!(
            "{}: {} trajectories, {} rows",
            output.path.display(),
            output.statistics.trajectories,
            output.statistics.rows
        );
    }
    Ok(())
}
