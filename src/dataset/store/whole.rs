//! Files that appear whole: such a file has no name until it is complete.
//!
//! The kernel keeps a file without a name (`O_TMPFILE`) as long as it is open, and a link gives it
//! its name. A process that is killed leaves nothing behind. Where the file system has no such
//! files, or there is no `/proc` to link them from, the file has the hidden name
//! `.NAME.staging-file` until it is complete. A killed process leaves it there, and the next one
//! that writes NAME removes it: the lock on the file tells whether its writer still lives.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{attempt, failed, faults, publish, remove_file, sync, sync_dir};
use crate::dataset::files;
use crate::dataset::layout::{self, folder};
use crate::error::wording::shell_word;
use crate::error::{Error, Result};

/// How often a process tries to get the hidden name, and how long it waits in between.
const ATTEMPTS: (usize, Duration) = (100, Duration::from_millis(10));

/// A file that appears at its path when it is complete.
pub(crate) struct WholeFile {
    file: File,
    path: PathBuf,
    hidden: PathBuf,
    /// Whether the file has the hidden name now.
    is_named: bool,
}

impl WholeFile {
    /// Creates the file that will appear at `path`.
    ///
    /// # Errors
    /// Returns an error if the folder of `path` cannot be written, or if something is in the way
    /// at the hidden name.
    pub(crate) fn create(path: &Path) -> Result<WholeFile> {
        let hidden = layout::hidden(path, ".staging-file");
        // Whatever holds the name now, a file without a name may not need it.
        clear(&hidden)?;
        let (file, is_named) = match attempt("create", path, || unnamed(folder(path)))? {
            Some(file) => (file, false),
            None => (take(&hidden, path, || new(&hidden))?, true),
        };
        Ok(WholeFile {
            file,
            path: path.to_owned(),
            hidden,
            is_named,
        })
    }

    /// Lets the file, which is empty, share the bytes of `other` until one of them changes. Returns
    /// `false` and changes nothing if the file system has no reflinks.
    pub(super) fn clone_from(&mut self, other: &File) -> bool {
        rustix::fs::ioctl_ficlone(&self.file, other).is_ok()
    }

    /// Makes the file durable and lets it appear at its path, unless something is there: then this
    /// returns `false` and changes nothing.
    ///
    /// # Errors
    /// Returns an error if the file cannot be synced or named, or if its name cannot be made
    /// durable.
    pub(crate) fn publish(mut self) -> Result<bool> {
        sync(&self.file, &self.path)?;
        let published = if self.is_named {
            publish(&self.hidden, &self.path)?
        } else {
            attempt("publish", &self.path, || link(&self.file, &self.path))?.is_some()
        };
        if published {
            self.is_named = false;
            self.announce()?;
        }
        Ok(published)
    }

    /// Makes the file durable and lets it appear at its path, in the place of any file there:
    /// readers see either the old bytes or the new ones.
    ///
    /// # Errors
    /// Returns an error if the file cannot be synced or named, or if its name cannot be made
    /// durable.
    pub(crate) fn replace(mut self) -> Result<()> {
        sync(&self.file, &self.path)?;
        if !self.is_named {
            if attempt("publish", &self.path, || link(&self.file, &self.path))?.is_some() {
                return self.announce();
            }
            // No link replaces a file, but a rename does.
            lock(&self.file);
            take(&self.hidden, &self.path, || link(&self.file, &self.hidden))?;
            self.is_named = true;
        }
        attempt("publish", &self.path, || {
            Ok(rustix::fs::rename(&self.hidden, &self.path)?)
        })?;
        self.is_named = false;
        self.announce()
    }

    /// Makes the name of the file durable.
    fn announce(&self) -> Result<()> {
        sync_dir(folder(&self.path)).map_err(|error| Error {
            message: format!("{} is written, but {}", self.path.display(), error.message),
            ..error
        })
    }
}

impl Write for WholeFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = faults::before("write", &self.path).and_then(|()| self.file.write(buffer));
        written.map_err(|error| io::Error::new(error.kind(), failed("write", &self.path, &error)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    /// Removes the hidden name of a file that is not complete.
    fn drop(&mut self) {
        if self.is_named {
            // What remains, the next process that writes the same file removes.
            let _ = remove_file(&self.hidden);
        }
    }
}

/// Writes a small file to `path` in one step, replacing any file there: readers see either the old
/// bytes or the new ones.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.replace()
}

/// Returns a new file without a name in `folder`; `None` if that is not possible there.
fn unnamed(folder: &Path) -> io::Result<Option<File>> {
    if faults::plain_renames() {
        return Ok(None);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => {
            let file = File::from(file);
            Ok(descriptor(&file).exists().then_some(file))
        }
        // Kernels that do not know the flag try to open the directory for writing.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns a path that leads to an open file, which may have no name.
fn descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Gives a file without a name the name `path`; `None` if something is there.
pub(super) fn link(file: &File, path: &Path) -> io::Result<Option<()>> {
    let named = rustix::fs::linkat(CWD, descriptor(file), CWD, path, AtFlags::SYMLINK_FOLLOW);
    match named {
        Ok(()) => Ok(Some(())),
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Creates and locks a file with the hidden name; `None` if something is there.
fn new(hidden: &Path) -> io::Result<Option<File>> {
    match File::create_new(hidden) {
        // Before it was locked, another process may have taken the file for an abandoned one.
        Ok(file) => Ok((lock(&file) && is_at(&file, hidden)).then_some(file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives the hidden name to a file for `path` by `make`, after removing what a killed process left
/// there.
fn take<T>(hidden: &Path, path: &Path, make: impl Fn() -> io::Result<Option<T>>) -> Result<T> {
    for _ in 0..ATTEMPTS.0 {
        if let Some(made) = attempt("create", hidden, &make)? {
            return Ok(made);
        }
        if !clear(hidden)? {
            std::thread::sleep(ATTEMPTS.1);
        }
    }
    Err(Error::failed(format!(
        "{} is being written by another process, which holds {}",
        path.display(),
        hidden.display()
    ))
    .hint(format!(
        "wait for it to finish, or write to another path; if no process writes there, remove the \
         file: `rm {}`",
        shell_word(hidden)
    )))
}

/// Removes the file with the hidden name, or a link there, unless a living process writes to it.
/// Returns whether nothing is there now.
fn clear(hidden: &Path) -> Result<bool> {
    match hidden.symlink_metadata() {
        Ok(found) if found.is_file() => {}
        Ok(_) => return remove_file(hidden).map(|()| true),
        Err(error) if files::is_absent(&error) => return Ok(true),
        Err(error) => return Err(files::unreadable(hidden, &error)),
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = attempt("open", hidden, || {
        // A network file system locks only what is open for writing.
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(hidden);
        match options {
            Err(error) if files::is_absent(&error) => Ok(None),
            opened => opened.map(Some),
        }
    });
    let Some(abandoned) = opened? else {
        return Ok(true);
    };
    if !lock(&abandoned) || !is_at(&abandoned, hidden) {
        return Ok(false);
    }
    remove_file(hidden).map(|()| true)
}

/// Locks a file until it is closed. Returns `false` if another process holds the lock, or if the
/// file system has no locks.
pub(super) fn lock(file: &File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Returns whether the open file has the name `path`.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::store;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = files::list(folder)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_replaces_only_if_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut file = WholeFile::create(&path).unwrap();
        file.write_all(b"one").unwrap();
        assert!(!path.exists());
        assert!(file.publish().unwrap());
        let mut file = WholeFile::create(&path).unwrap();
        file.write_all(b"two").unwrap();
        assert!(!file.publish().unwrap());
        assert_eq!(files::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(files::read(&path).unwrap(), b"three");
        assert_eq!(names(folder.path()), ["x"]);
        // A directory is not replaced, and nothing stays beside it.
        let path = folder.path().join("y");
        store::create_dir(&path).unwrap();
        replace(&path, b"four").unwrap_err();
        assert_eq!(names(folder.path()), ["x", "y"]);
    }

    #[test]
    fn an_abandoned_file_is_removed_and_one_that_is_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, hidden) = (
            folder.path().join("x"),
            folder.path().join(".x.staging-file"),
        );
        store::write(&hidden, b"abandoned").unwrap();
        drop(WholeFile::create(&path).unwrap());
        assert_eq!(names(folder.path()), [""; 0]);
        let written = new(&hidden).unwrap().unwrap();
        assert!(!clear(&hidden).unwrap());
        let message = take(&hidden, &path, || new(&hidden)).unwrap_err().message;
        assert!(
            message.contains("x is being written by another process"),
            "{message}"
        );
        // A file without a name does not need the hidden one.
        replace(&path, b"x").unwrap();
        drop(written);
        replace(&path, b"y").unwrap();
        assert_eq!(names(folder.path()), ["x"]);
    }
}
