//! Second names and copies of files.

#![expect(clippy::disallowed_methods, reason = "this is the one place")]

use std::fs;
use std::path::Path;

use super::{attempt, create, sync};
use crate::dataset::files;
use crate::error::{Error, Result};

/// Gives the regular file `from` the second name `to`, which must not exist. Copies the file where
/// the file system cannot link it.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    let found = files::open(from).map_err(|error| files::unreadable(from, &error))?;
    drop(found);
    // The name may be a link, of which a second name would be a link too.
    let real = fs::canonicalize(from).map_err(|error| files::unreadable(from, &error))?;
    match attempt("link", to, || fs::hard_link(&real, to)) {
        Ok(()) => Ok(()),
        Err(_) if !fs::exists(to).unwrap_or(true) => copy(from, to),
        Err(error) => Err(error),
    }
}

/// Copies the regular file `from` to `to`, which must not exist, and makes the copy durable. File
/// systems that can let both share their blocks.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = files::open(from).map_err(|error| files::unreadable(from, &error))?;
    let mut copy = create(to)?;
    if attempt("copy", to, || {
        Ok(rustix::fs::ioctl_ficlone(&copy, &source)?)
    })
    .is_err()
    {
        let bytes = attempt("copy", to, || std::io::copy(&mut source, &mut copy))?;
        let length = source.metadata().map_or(bytes, |found| found.len());
        if bytes != length {
            return Err(
                Error::failed(format!("{} changed while it was copied", from.display()))
                    .hint("run the same command again"),
            );
        }
    }
    sync(&copy, to)
}
