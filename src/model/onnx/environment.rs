//! The ONNX Runtime library of this process: loading it, its version, and what it was built with.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider};
use ort::logging::LogLevel;

use super::super::library;
use crate::error::{Error, Result};

/// Returns the environment of the process. ONNX Runtime allows one, which lives as long as the
/// process.
pub(super) fn environment(path: &Path) -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    let start = || -> Result<Environment, String> {
        let builder = ort::init_from(path).map_err(|error| match error {
            ort::LoadDynamicError::BadVersion { version_str, .. } => {
                format!("its version is {version_str}, and trajmill needs 1.23 or later")
            }
            error => error.to_string(),
        })?;
        // Failures are returned as errors, so the library's log would only disturb the terminal.
        let silent = Arc::new(|_: LogLevel, _: &str, _: &str, _: &str, _: &str| {});
        let environment = builder
            .with_name("trajmill")
            .with_telemetry(false)
            .with_logger(silent)
            .build()
            .map_err(|error| error.to_string())?;
        environment.set_log_level(LogLevel::Fatal);
        Ok(environment)
    };
    ENVIRONMENT.get_or_init(start).as_ref().map_err(|reason| {
        Error::failed(format!(
            "{} is not an ONNX Runtime that trajmill can use: {reason}",
            path.display()
        ))
        .hint(
            "`pip install --upgrade onnxruntime`, or set ORT_DYLIB_PATH to a libonnxruntime of \
             version 1.23 or later",
        )
    })
}

/// Returns the version in the name of the file, as packages have it, or else the version that the
/// library reports.
pub(super) fn version(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let numbered =
        |text: &str| text.starts_with(|first: char| first.is_ascii_digit()) && text.contains('.');
    let by_name = name
        .split_once(".so.")
        .map(|(_, version)| version.to_owned())
        .filter(|version| numbered(version));
    let branch = ort::info()
        .split("git-branch=rel-")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    by_name
        .or_else(|| branch.filter(|branch| numbered(branch)).map(str::to_owned))
        .or_else(|| ort::util::probe(path).map(|minor| format!("1.{minor}")))
        .unwrap_or_else(|| "of unknown version".to_owned())
}

pub(super) fn offers_cuda() -> bool {
    ep::CUDA::is_available().unwrap_or(false)
}

/// Returns the execution providers that the library was built with, besides the CPU.
///
/// # Errors
/// Returns an error if the library cannot be loaded.
pub(in crate::model) fn providers(found: &library::Found) -> Result<Vec<&'static str>> {
    environment(&found.path)?;
    let built = [
        (offers_cuda(), "CUDA"),
        (ep::TensorRT::is_available().unwrap_or(false), "TensorRT"),
    ];
    Ok(built
        .into_iter()
        .filter(|(offered, _)| *offered)
        .map(|(_, name)| name)
        .collect())
}

/// Loads the CUDA libraries that were found, once. The provider then finds them by name, wherever
/// they are.
pub(super) fn preload(runtime: &Path) {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        for library in library::cuda_libraries(Some(runtime)) {
            // The provider reports a library that cannot be loaded.
            let _ = ort::util::preload_dylib(&library);
        }
    });
}
