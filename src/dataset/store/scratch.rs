//! Files without names, for data that does not fit in memory. Their space is free again when they
//! are closed, also after a kill.

#![expect(clippy::disallowed_methods, reason = "a part of the one place")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{attempt, failed, faults};
use crate::error::{Error, Result};

/// A file without a name in a folder.
#[derive(Debug)]
pub(crate) struct ScratchFile {
    file: File,
    /// The name that the file had, for messages.
    path: PathBuf,
}

impl ScratchFile {
    /// Creates a file in `folder`.
    ///
    /// # Errors
    /// Returns an error if the file cannot be created.
    pub(crate) fn create(folder: &Path) -> Result<ScratchFile> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".trajmill-{}-{number}", std::process::id()));
        let file = attempt("create", &path, || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
        })?;
        attempt("remove", &path, || fs::remove_file(&path))?;
        Ok(ScratchFile { file, path })
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// Returns an error if they cannot be written.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        attempt("write", &self.path, || {
            self.file.write_all_at(bytes, offset)
        })
    }

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// Returns an error if they cannot be read.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| self.unreadable(&error))
    }

    /// Continues at the first byte.
    ///
    /// # Errors
    /// Returns an error if that fails.
    pub(crate) fn rewind(&mut self) -> Result<()> {
        let moved = self.file.seek(SeekFrom::Start(0));
        moved.map(|_| ()).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        failed("read", &self.path, error)
    }
}

impl Read for ScratchFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Write for ScratchFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = faults::before("write", &self.path).and_then(|()| self.file.write(buffer));
        written.map_err(|error| io::Error::new(error.kind(), failed("write", &self.path, &error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
