//! Removal of files, links and trees. Links are removed, never followed.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};

use super::attempt;
use crate::dataset::files;
use crate::error::Result;

/// Removes a file or a whole tree, if it exists.
pub fn remove(path: &Path) -> Result<()> {
    let removed = attempt("remove", path, || Ok(remove_at(CWD, path)?));
    or_absent(path, removed)
}

/// Removes a file or a link, if it exists. A directory is an error.
pub fn remove_file(path: &Path) -> Result<()> {
    let removed = attempt("remove", path, || fs::remove_file(path));
    or_absent(path, removed)
}

/// Returns `removed`, unless nothing is at `path` now.
fn or_absent(path: &Path, removed: Result<()>) -> Result<()> {
    let absent = |error: io::Error| files::is_absent(&error);
    match removed {
        Err(_) if path.symlink_metadata().is_err_and(absent) => Ok(()),
        removed => removed,
    }
}

/// Removes the file, link or tree `name` in the open directory `folder`.
fn remove_at(folder: impl AsFd, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    let Err(not_removed) = rustix::fs::unlinkat(&folder, name, AtFlags::empty()) else {
        return Ok(());
    };
    if ![Errno::ISDIR, Errno::PERM].contains(&not_removed) {
        return Err(not_removed);
    }
    // The directory is opened once and its content is named from there, so that nobody can put a
    // link in its place.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_removed),
        open => open?,
    };
    for entry in names(&open)? {
        remove_at(&open, entry.as_c_str())?;
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
}

/// Returns the names in an open directory.
fn names(open: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(open)? {
        let name: &CStr = entry.as_ref().map_err(|error| *error)?.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes a directory if it is empty.
pub fn remove_empty(path: &Path) -> Result<()> {
    attempt("remove", path, || match fs::remove_dir(path) {
        Err(error)
            if [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::NotFound]
                .contains(&error.kind()) =>
        {
            Ok(())
        }
        other => other,
    })
}
