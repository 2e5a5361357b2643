//! The `trajmill` command.

use std::process::ExitCode;

/// Blocks of megabytes come and go all the time: an allocator that keeps their pages saves a tenth of a run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(trajmill::cli::main())
}
