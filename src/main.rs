//! The `trajmill` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(trajmill::cli::main())
}
