//! The `trajmill` command.

use std::process::ExitCode;

/// A run allocates and frees blocks of megabytes all the time. An allocator that keeps their pages
/// saves a tenth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(trajmill::main())
}
