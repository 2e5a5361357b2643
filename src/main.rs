//! The `trajmill` command.

use std::process::ExitCode;

/// A run allocates and frees blocks of megabytes all the time. An allocator that keeps their pages
/// saves a tenth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The variable that keeps ONNX Runtime from sending usage data, such as the names of models, to
/// Microsoft. Version 1.29 and later sends it unless the variable is set before the library is
/// loaded.
const TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

fn main() -> ExitCode {
    if std::env::var_os(TELEMETRY).is_none() {
        // SAFETY: no other thread runs yet.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var(TELEMETRY, "1");
        }
    }
    ExitCode::from(trajmill::main())
}
