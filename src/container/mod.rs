//! File containers: arrays and records in files, with no notion of a trajectory or of a dataset
//! format.

pub(crate) mod arrays;
pub(crate) mod arrow_ipc;
mod blosc;
pub(crate) mod dtype;
pub(crate) mod hdf5;
pub(crate) mod npy;
pub(crate) mod npz;
pub(crate) mod parquet;
pub(crate) mod record_batches;
pub(crate) mod tfrecord;
pub(crate) mod zarr;

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Whether the file at `path` starts with `bytes`; `false` if it cannot be read.
pub(crate) fn starts_with(path: &Path, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut found))
        .is_ok()
        && found == bytes
}
