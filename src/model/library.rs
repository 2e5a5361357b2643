//! Finds the ONNX Runtime library.

use std::path::PathBuf;

/// The library, and how it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The library file.
    pub path: PathBuf,
    /// Where the search found it, for people.
    pub how: String,
}

/// Finds the library; `None` where there is none.
pub fn find() -> Option<Found> {
    None
}
