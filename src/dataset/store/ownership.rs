//! What only one user, and only one process at a time, may write: staging directories and locks.
//! Links, FIFOs and other users' directories in their place are refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{attempt, create_dir, failed, remove_empty, sync_dir};
use crate::dataset::files;
use crate::dataset::layout::{self, folder};
use crate::error::wording::shell_word;
use crate::error::{Error, Result};

/// Opens the file `path` for appending. Creates it if it does not exist. Refuses a link, because
/// its target would be written to, and everything that is not a file.
pub(crate) fn append(path: &Path) -> Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = attempt("open", path, || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
    });
    let file = match opened {
        Err(_) if path.is_symlink() => return Err(in_the_way(path, "a symbolic link")),
        opened => opened?,
    };
    let found = file
        .metadata()
        .map_err(|error| failed("read", path, &error))?;
    if !found.is_file() {
        Err(in_the_way(path, files::kind(found.file_type())))
    } else if found.nlink() > 1 {
        Err(in_the_way(path, "a hard link to another file"))
    } else {
        Ok(file)
    }
}

/// Returns the error about something else at `path`, where only trajmill's own files may be.
fn in_the_way(path: &Path, what: &str) -> Error {
    let place = path.display();
    Error::failed(format!(
        "{place} is {what}, and trajmill keeps its work there"
    ))
    .hint(format!(
        "remove it (`rm {}`), or write to another path",
        shell_word(path)
    ))
}

/// Creates the directory `path` or takes over the one that an earlier run left there, and closes it
/// to other users, so that nobody else can plant a link in it.
///
/// # Errors
/// Returns an error if a link or a file is there, or a directory that belongs to another user.
pub(crate) fn take_dir(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = folder(path);
            create_dir(parent)?;
            attempt("create", path, || {
                match fs::DirBuilder::new().mode(0o700).create(path) {
                    // Another process may have created it meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    created => created,
                }
            })?;
            sync_dir(parent)?;
        }
        Err(error) => return Err(files::unreadable(path, &error)),
        Ok(_) => {}
    }
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        // A run that has just finished removed it. The next use of the directory then fails.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files::unreadable(path, &error)),
    };
    if !found.is_dir() {
        return Err(in_the_way(path, files::kind(found.file_type())));
    }
    if found.uid() != rustix::process::geteuid().as_raw() && found.uid() != owner_of_new(path)? {
        let place = path.display();
        return Err(Error::failed(format!(
            "{place} belongs to user {}, who may be writing the same output or have stopped",
            found.uid()
        ))
        .hint(format!(
            "ask them to finish or to remove it, or write to another path; if they are done, the \
             owner of the folder can put it aside: `mv {} {}`",
            shell_word(path),
            shell_word(&path.with_added_extension("old"))
        )));
    }
    if found.mode() & 0o077 != 0 {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Some file systems have no modes.
        let _ = rustix::fs::open(path, flags, Mode::empty())
            .and_then(|open| rustix::fs::fchmod(open, Mode::RWXU));
    }
    Ok(())
}

/// Returns the owner of a directory that this process creates beside `path`. The owner is another
/// user if the file system gives every file to one user, or those of the superuser to nobody.
fn owner_of_new(path: &Path) -> Result<u32> {
    let probe = layout::hidden(path, &format!(".{}.owner", std::process::id()));
    attempt("create", &probe, || fs::create_dir(&probe))?;
    let owner = probe.symlink_metadata().map(|found| found.uid());
    remove_empty(&probe)?;
    owner.map_err(|error| files::unreadable(&probe, &error))
}

/// Verifies that there are only files and directories below the directory `path`, which is closed
/// to other users.
///
/// # Errors
/// Returns an error that names the first link, FIFO, socket or device, or if a directory cannot be
/// read.
pub(crate) fn refuse_links(path: &Path) -> Result<()> {
    for entry in files::list(path).map_err(|error| files::unreadable(path, &error))? {
        let found = entry
            .symlink_metadata()
            .map_err(|error| files::unreadable(&entry, &error))?;
        if found.is_dir() {
            refuse_links(&entry)?;
        } else if !found.is_file() {
            return Err(in_the_way(&entry, files::kind(found.file_type())));
        }
    }
    Ok(())
}

/// Locks the file at `path`, which is created if it does not exist, and writes `holder` to it.
/// Dropping the returned file releases the lock. The inner result is `Err` with the content of the
/// file if another process holds the lock.
pub(crate) fn lock(path: &Path, holder: &str) -> Result<Result<File, String>> {
    use rustix::fs::{FlockOperation, flock};
    let mut waited = 0;
    loop {
        let mut file = append(path)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed("lock", path, &error.into()));
            }
            // A holder that finishes in this moment removes its name.
            let holder = files::read_to_string(path).unwrap_or_default();
            // A process that has just taken the lock has yet to write its name.
            if holder.is_empty() && waited < 100 {
                waited += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
            return Ok(Err(holder));
        }
        // The previous holder may have removed the file after it was opened and before it was
        // locked: then try again.
        let same = match (file.metadata(), path.symlink_metadata()) {
            (Ok(ours), Ok(theirs)) => ours.ino() == theirs.ino(),
            _ => false,
        };
        if same {
            attempt("write", path, || {
                file.set_len(0)
                    .and_then(|()| file.write_all(holder.as_bytes()))
            })?;
            return Ok(Ok(file));
        }
    }
}
