//! Writes npz files: arrays in a zip archive, one after the other, uncompressed so that they load
//! fast.

use std::io::Write;
use std::path::Path;

use arrow::datatypes::DataType;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::super::arrays::ArraySink;
use super::super::npy;
use crate::dataset::store::PatchedFile;
use crate::error::{Error, Result};

/// An npz file that is being written.
pub(crate) struct NpzWriter {
    zip: ZipWriter<StreamWriter<std::io::BufWriter<PatchedFile>>>,
}

fn failed(error: zip::result::ZipError) -> Error {
    match error {
        zip::result::ZipError::Io(error) => Error::from(error),
        other => Error::failed(other.to_string()),
    }
}

impl NpzWriter {
    /// Creates the file, which must not exist.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created.
    pub(crate) fn create(path: &Path) -> Result<NpzWriter> {
        let file = std::io::BufWriter::with_capacity(1 << 20, PatchedFile::create(path)?);
        Ok(NpzWriter {
            zip: ZipWriter::new_stream(file),
        })
    }

    /// Writes the directory of the archive and makes the file durable.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn finish(self) -> Result<()> {
        let file = self.zip.finish().map_err(failed)?.into_inner();
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .finish()
    }
}

impl ArraySink for NpzWriter {
    fn begin(&mut self, name: &str, element: &DataType, rows: u64, row: &[u64]) -> Result<()> {
        // Files must not depend on the clock.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(true);
        self.zip
            .start_file(format!("{name}.npy"), options)
            .map_err(failed)?;
        Ok(self
            .zip
            .write_all(&npy::header(name, element, rows, row)?)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.zip.write_all(bytes)?)
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}
