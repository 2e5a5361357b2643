//! Every operation that changes the file system: creation, renaming, syncing, removal. Reading is
//! in [`files`](super::files).
//!
//! `clippy.toml` forbids the functions of `std::fs` that do so in the rest of the crate. The commit
//! protocol depends on the order of these operations, so tests can count them, make them fail, and
//! kill the process at any of them: with the feature `faults`, the variable `TRAJMILL_FAULT` is one
//! of
//!
//! - `kill:17` or `stop:17`: kill or stop the process before operation 17;
//! - `error:17:28`: let operation 17 fail with errno 28;
//! - `count:FILE`: write the operations to FILE;
//! - `delay:SEED`: delay workers at random where they take work from each other;
//! - `plain-renames`: allow only plain renames and files with names, as on file systems that have
//!   no others.

#![expect(clippy::disallowed_methods, reason = "this is the one place")]

#[cfg(feature = "faults")]
mod faults;
mod link;
mod ownership;
mod publication;
mod removal;
mod scratch;
mod temporary;
mod whole;
mod written;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::layout::folder;
use crate::error::{Error, Result};

pub(crate) use link::{copy, link};
pub(crate) use ownership::{append, lock, refuse_links, take_dir};
pub(crate) use publication::{exchange, publish};
pub(crate) use removal::{remove, remove_empty, remove_file};
pub(crate) use scratch::ScratchFile;
pub(crate) use temporary::TemporaryDir;
pub(crate) use whole::{WholeFile, replace};
pub(crate) use written::{Digest, HashingFile, PatchedFile, digest, digest_of};

fn failed(action: &str, path: &Path, error: &io::Error) -> Error {
    let failure = Error::failed(format!("cannot {action} {}: {error}", path.display()));
    match error.raw_os_error() {
        Some(28) => {
            failure.hint("the disk is full: free some space and run the same command again")
        }
        Some(122) => failure
            .hint("the disk quota is exhausted: free some space and run the same command again"),
        Some(30) => failure.hint("the file system is read-only: write the output to another one"),
        Some(13) => failure.hint("check the owner and the permissions of the folder"),
        _ => failure,
    }
}

fn attempt<T>(action: &str, path: &Path, operation: impl FnOnce() -> io::Result<T>) -> Result<T> {
    faults::before(action, path)
        .and_then(|()| operation())
        .map_err(|error| failed(action, path, &error))
}

/// Creates the file `path` for writing. It must not exist yet.
pub(crate) fn create(path: &Path) -> Result<File> {
    attempt("create", path, || File::create_new(path))
}

/// Creates a directory and its missing parents, and makes their names durable, so that files in
/// them are not lost after a crash.
pub fn create_dir(path: &Path) -> Result<()> {
    // `is_dir` comes second, because another process may create the folder between the two calls.
    if path.symlink_metadata().is_ok() {
        return if path.is_dir() {
            Ok(())
        } else {
            let message = format!("{} exists and is not a folder", path.display());
            Err(Error::failed(message).hint("remove it, or write to another path"))
        };
    }
    let parent = folder(path);
    create_dir(parent)?;
    attempt("create", path, || match fs::create_dir(path) {
        // Another process may have created it in the meantime.
        Err(_) if path.is_dir() => Ok(()),
        made => made,
    })?;
    sync_dir(parent)
}

/// Makes the bytes of an open file durable.
pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    attempt("sync", path, || file.sync_all())
}

/// Makes the bytes of the file at `path` durable, which a library has written.
#[cfg(feature = "video")]
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    attempt("sync", path, || File::open(path)?.sync_all())
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    attempt("sync", path, || File::open(path)?.sync_all())
}

/// Writes a small file durably. It must not exist yet.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    attempt("write", path, || file.write_all(bytes))?;
    sync(&file, path)
}

/// Appends a line to an open file and makes it durable.
pub(crate) fn append_line(file: &mut File, path: &Path, line: &str) -> Result<()> {
    attempt("write", path, || {
        file.write_all(format!("{line}\n").as_bytes())
    })?;
    sync(file, path)
}

/// Does nothing, except in tests with the feature `faults`, which delay a worker here to change the
/// order in which workers take work.
pub(crate) fn pause() {
    faults::pause();
}

#[cfg(not(feature = "faults"))]
mod faults {
    use std::io;
    use std::path::Path;

    #[expect(clippy::unnecessary_wraps)]
    pub(super) fn before(_action: &str, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn pause() {}

    pub(super) fn plain_renames() -> bool {
        false
    }
}
