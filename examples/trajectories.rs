//! Opens a dataset and prints a table of its longest trajectories.
//!
//! ```sh
//! cargo run --release --example trajectories -- data/hopper
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use trajmill::{Dataset, Result, ResultFormat, Session, SessionOptions, print_result};

fn main() -> ExitCode {
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let path = path.unwrap_or_else(|| PathBuf::from("data/hopper"));
    match show(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn show(path: &Path) -> Result<()> {
    let dataset = Dataset::open(path)?;
    println!(
        "{}: {} trajectories, {} rows",
        path.display(),
        dataset.trajectory_count(),
        dataset.rows()
    );

    // A session runs SQL over the tables `trajectories` and `steps` of the datasets that it opens.
    let session = Session::open(
        &[("dataset".to_owned(), dataset)],
        &SessionOptions::default(),
    )?;
    let sql = "select trajectory_id, length, return, terminated, labelled \
               from trajectories order by length desc, trajectory_id limit 10";
    print_result(&session, sql, ResultFormat::Table, &mut std::io::stdout())?;
    Ok(())
}
