//! File containers: arrays and records in files, with no notion of a trajectory or of a dataset
//! format.

pub(crate) mod arrays;
pub(crate) mod arrow_ipc;
pub(crate) mod arrow_stream;
mod blosc;
pub(crate) mod csv;
pub(crate) mod dtype;
pub(crate) mod hdf5;
mod inferred;
mod int96;
pub(crate) mod json_lines;
pub(crate) mod npy;
pub(crate) mod npz;
pub(crate) mod parquet;
pub(crate) mod png;
pub(crate) mod record_batches;
pub(crate) mod table;
mod text;
pub(crate) mod tfrecord;
pub(crate) mod types;
pub(crate) mod zarr;

use std::io::{ErrorKind, Read};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use crate::dataset::files;
use crate::error::Result;

/// The batches of a table in a file, in order.
pub(crate) type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, ArrowError>>>;

/// Whether a file is at `path` and starts with `bytes`.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn starts_with(path: &Path, bytes: &[u8]) -> Result<bool> {
    if !files::is_file(path)? {
        return Ok(false);
    }
    let mut found = vec![0; bytes.len()];
    let read = files::open(path).and_then(|mut file| file.read_exact(&mut found));
    match read {
        Ok(()) => Ok(found == bytes),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(files::unreadable(path, &error)),
    }
}
