//! Every operation that changes the file system: creation, renaming, syncing, removal. Reading is
//! in [`files`].
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
//! - `plain-renames`: allow only plain renames, as on file systems that have no others.

#![expect(clippy::disallowed_methods, reason = "this is the one place")]

#[cfg(feature = "faults")]
mod faults;
mod removal;
mod temporary;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::files;
use super::layout::{self, folder};
use super::manifest::FileEntry;
use crate::error::{Error, Result};

pub(crate) use removal::{remove, remove_empty, remove_file};
pub(crate) use temporary::TemporaryDir;

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
        "remove it (`rm {place}`), or write to another path"
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
             owner of the folder can put it aside: `mv {place} {place}.old`"
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

/// Writes a small file to `path` in one step, replacing any file there: readers see either the old
/// bytes or the new ones.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = layout::hidden(path, ".staging-file");
    remove_file(&unfinished)?;
    write(&unfinished, bytes)?;
    attempt("publish", path, || {
        Ok(rustix::fs::rename(&unfinished, path)?)
    })?;
    sync_dir(folder(path)).map_err(|error| Error {
        message: format!("{} is written, but {}", path.display(), error.message),
        ..error
    })
}

/// Moves `from` to `to`, which must not exist: the atomic step that makes a result visible.
/// Returns `false` and changes nothing if `to` exists.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<bool> {
    use rustix::fs::RenameFlags;
    attempt("publish", to, || {
        let moved = match rename(from, to, RenameFlags::NOREPLACE) {
            Err(error) if unsupported(error) => move_to_nothing(from, to),
            moved => moved,
        };
        match moved {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    })
}

/// Exchanges `from` and `to` in one step: readers see either the old tree or the new one. If the
/// file system does not support that, `to` is moved aside first, and for a moment there is nothing
/// at its path.
pub(crate) fn exchange(from: &Path, to: &Path) -> Result<()> {
    use rustix::fs::{RenameFlags, rename as plain};
    attempt("publish", to, || {
        match rename(from, to, RenameFlags::EXCHANGE) {
            Err(error) if unsupported(error) => {
                let aside = from.with_extension("replaced");
                plain(to, &aside)?;
                if let Err(error) = plain(from, to) {
                    // The old tree goes back, so that something stands there.
                    plain(&aside, to)?;
                    return Err(error.into());
                }
                // What cannot be moved back is removed with the staging directory.
                let _ = plain(&aside, from);
                Ok(())
            }
            exchanged => Ok(exchanged?),
        }
    })
}

fn rename(from: &Path, to: &Path, flags: rustix::fs::RenameFlags) -> rustix::io::Result<()> {
    if faults::plain_renames() {
        return Err(rustix::io::Errno::INVAL);
    }
    rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)
}

/// Returns whether the error means that the file system supports only the plain rename, as NFS,
/// Lustre and many file systems in user space do.
fn unsupported(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].contains(&error)
}

/// Moves `from` to `to` without replacing anything, on file systems with only the plain rename:
/// renaming a directory replaces at most an empty one, and a file gets its second name by a link
/// before it loses its first.
fn move_to_nothing(from: &Path, to: &Path) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    if from.is_dir() {
        return rustix::fs::rename(from, to).map_err(|error| match error {
            Errno::NOTEMPTY | Errno::NOTDIR => Errno::EXIST,
            other => other,
        });
    }
    rustix::fs::link(from, to)?;
    // A first name that cannot be removed now is removed with the staging directory.
    let _ = rustix::fs::unlink(from);
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

/// Appends a line to an open file and makes it durable.
pub(crate) fn append_line(file: &mut File, path: &Path, line: &str) -> Result<()> {
    attempt("write", path, || {
        file.write_all(format!("{line}\n").as_bytes())
    })?;
    sync(file, path)
}

/// A file whose bytes are hashed while they are written.
pub(crate) struct HashingFile {
    file: File,
    path: std::path::PathBuf,
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

/// Does nothing, except in tests with the feature `faults`, which delay a worker here to change the
/// order in which workers take work.
pub(crate) fn pause() {
    faults::pause();
}

/// A file whose first bytes can only be written at the end, such as a header with a length.
pub(crate) struct PatchedFile {
    file: File,
    path: std::path::PathBuf,
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
pub(crate) fn digest(path: &Path) -> Result<Digest> {
    digest_of(
        &files::open(path).map_err(|error| failed("read", path, &error))?,
        path,
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_move_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["dataset", "other"] {
            create_dir(&at(name)).unwrap();
            write(&at(name).join("file"), name.as_bytes()).unwrap();
        }
        write(&at("file"), b"file").unwrap();
        for (from, to) in [
            ("dataset", "other"),
            ("dataset", "file"),
            ("other/file", "file"),
        ] {
            assert_eq!(
                move_to_nothing(&at(from), &at(to)),
                Err(rustix::io::Errno::EXIST),
                "{from} to {to}"
            );
        }
        move_to_nothing(&at("dataset"), &at("moved")).unwrap();
        move_to_nothing(&at("file"), &at("moved/other")).unwrap();
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!(
            (read("moved/file"), read("moved/other"), read("other/file")),
            ("dataset".to_owned(), "file".to_owned(), "other".to_owned())
        );
        assert!(!at("dataset").exists() && !at("file").exists());
    }
}
