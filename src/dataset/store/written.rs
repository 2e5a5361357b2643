//! Files that are written once: their bytes are hashed meanwhile, or the first are patched at the
//! end.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{attempt, create, failed, faults, sync};
use crate::dataset::files;
use crate::dataset::manifest::FileEntry;
use crate::error::Result;

/// A file whose bytes are hashed while they are written.
pub(crate) struct HashingFile {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    bytes: u64,
}

/// The length and hash of a finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    /// Length in bytes.
    pub bytes: u64,
    /// The blake3 hash of the bytes, in hexadecimal.
    pub blake3: String,
}

impl Digest {
    /// Returns whether `entry` in the manifest has this length and hash.
    pub(crate) fn is(&self, entry: &FileEntry) -> bool {
        self.bytes == entry.bytes && self.blake3 == entry.blake3
    }
}

impl HashingFile {
    /// Creates the file `path`. It must not exist yet.
    pub(crate) fn create(path: &Path) -> Result<HashingFile> {
        Ok(HashingFile {
            file: create(path)?,
            path: path.to_owned(),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        })
    }

    /// Makes the file durable and returns its length and hash.
    pub(crate) fn finish(self) -> Result<Digest> {
        sync(&self.file, &self.path)?;
        Ok(Digest {
            bytes: self.bytes,
            blake3: self.hasher.finalize().to_hex().to_string(),
        })
    }
}

impl Write for HashingFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // Encoders pass the error on unchanged, so it names the file and the remedy here.
        let written = faults::before("write", &self.path).and_then(|()| self.file.write(buffer));
        let written = written
            .map_err(|error| io::Error::new(error.kind(), failed("write", &self.path, &error)))?;
        if let Some(bytes) = buffer.get(..written) {
            self.hasher.update(bytes);
        }
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file whose first bytes can only be written at the end, such as a header with a length.
pub(crate) struct PatchedFile {
    file: File,
    path: PathBuf,
}

impl PatchedFile {
    /// Creates the file `path`. It must not exist yet.
    pub(crate) fn create(path: &Path) -> Result<PatchedFile> {
        Ok(PatchedFile {
            file: create(path)?,
            path: path.to_owned(),
        })
    }

    /// Overwrites bytes that were already written, from `offset` on.
    pub(crate) fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        use std::os::unix::fs::FileExt;
        attempt("write", &self.path, || {
            self.file.write_all_at(bytes, offset)
        })
    }

    /// Makes the file durable.
    pub(crate) fn finish(self) -> Result<()> {
        sync(&self.file, &self.path)
    }
}

impl Write for PatchedFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = faults::before("write", &self.path).and_then(|()| self.file.write(buffer));
        written.map_err(|error| io::Error::new(error.kind(), failed("write", &self.path, &error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Returns the length and hash of the file at `path`, which is read as a stream.
///
/// # Errors
/// Returns an error if the file cannot be read to its end.
pub(crate) fn digest(path: &Path) -> Result<Digest> {
    let unreadable = |error| failed("read", path, &error);
    let file = files::open(path).map_err(unreadable)?;
    let digest = digest_of(&file, path)?;
    files::ensure_whole(&file, digest.bytes).map_err(unreadable)?;
    Ok(digest)
}

/// Returns the length and hash of the open file at `path`, from its position on.
pub(crate) fn digest_of(file: &File, path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(file)
        .map_err(|error| failed("read", path, &error))?;
    Ok(Digest {
        bytes: hasher.count(),
        blake3: hasher.finalize().to_hex().to_string(),
    })
}
