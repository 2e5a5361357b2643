//! Every creation, rename, sync and removal, and nothing else.
//!
//! The rest of the crate is kept from `std::fs`'s own by `clippy.toml`, so the order of effects that the commit
//! protocol promises can be counted, failed and killed at from a test: with the feature `faults`, `TRAJMILL_FAULT`
//! names the operation (`kill:17`, `stop:17`, `error:17:28` with an errno; `count:FILE` writes their names to FILE).
//! `delay:SEED` lets workers linger at random wherever they take something from one another; `plain-renames` takes away the
//! renames that not every file system has.

#![expect(clippy::disallowed_methods, reason = "this is the one file")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::layout::folder;
use super::manifest::FileEntry;
use crate::error::{Error, Result};

fn failed(action: &str, path: &Path, error: &io::Error) -> Error {
    let failure = Error::failed(format!("cannot {action} {}: {error}", path.display()));
    match error.raw_os_error() {
        Some(28) => failure.hint("the disk is full: free some space and run the same command again, finished tasks are kept"),
        Some(122) => failure.hint("the disk quota is used up: free some space and run the same command again"),
        Some(30) => failure.hint("the file system is read-only: write the output somewhere else"),
        Some(13) => failure.hint("permission was denied: check the owner and mode of the folder"),
        _ => failure,
    }
}

fn attempt<T>(action: &str, path: &Path, operation: impl FnOnce() -> io::Result<T>) -> Result<T> {
    faults::before(action, path)
        .and_then(|()| operation())
        .map_err(|error| failed(action, path, &error))
}

/// Creates `path` for writing; it must not exist yet.
pub fn create(path: &Path) -> Result<File> {
    attempt("create", path, || File::create_new(path))
}

/// Opens `path` for appending, creating it if need be.
pub fn append(path: &Path) -> Result<File> {
    attempt("open", path, || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(path)
    })
}

/// Creates a directory and its missing parents, and makes their names durable: what is later put into them is not lost with
/// them.
pub fn create_dir(path: &Path) -> Result<()> {
    // What is there is looked at after it is seen to be there: another process may make the folder between the two.
    if path.symlink_metadata().is_ok() {
        return if path.is_dir() {
            Ok(())
        } else {
            let message = format!("{} is there and is not a folder", path.display());
            Err(Error::failed(message).hint("write to another path, or remove it yourself"))
        };
    }
    let parent = folder(path);
    create_dir(parent)?;
    attempt("create", path, || match fs::create_dir(path) {
        // Another process may have made it meanwhile.
        Err(_) if path.is_dir() => Ok(()),
        made => made,
    })?;
    sync_dir(parent)
}

/// Makes the bytes of an open file durable.
pub fn sync(file: &File, path: &Path) -> Result<()> {
    attempt("sync", path, || file.sync_all())
}

/// Makes the names in a directory durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    attempt("sync", path, || File::open(path)?.sync_all())
}

/// Writes a whole small file durably; it must not exist yet.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    attempt("write", path, || file.write_all(bytes))?;
    sync(&file, path)
}

/// Puts a whole small file at `path` in one step, whatever is there: readers see the old bytes or the new ones.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let unfinished = path.with_file_name(format!(".{name}.staging-file"));
    remove(&unfinished)?;
    write(&unfinished, bytes)?;
    attempt("publish", path, || {
        Ok(rustix::fs::rename(&unfinished, path)?)
    })?;
    sync_dir(folder(path))
}

/// Moves `from` to `to`, which must not exist: the atomic step that makes a result visible.
/// Returns `false`, with nothing changed, where `to` exists.
pub fn publish(from: &Path, to: &Path) -> Result<bool> {
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

/// Exchanges `from` and `to` in one step: readers see the old tree or the new one. Where the file system cannot, `to` is
/// moved aside first, and nothing stands there for a moment.
pub fn exchange(from: &Path, to: &Path) -> Result<()> {
    use rustix::fs::{RenameFlags, rename as plain};
    attempt("publish", to, || {
        match rename(from, to, RenameFlags::EXCHANGE) {
            Err(error) if unsupported(error) => {
                let aside = from.with_extension("replaced");
                plain(to, &aside)?;
                plain(from, to)?;
                Ok(plain(&aside, from)?)
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

/// Whether a file system has no renames but the plain one: NFS, Lustre and many in user space have not.
fn unsupported(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].contains(&error)
}

/// Moves `from` to `to` without the kernel's word that nothing is there: a directory replaces nothing but an empty one by its
/// nature, and a file is linked to its second name before it loses its first.
fn move_to_nothing(from: &Path, to: &Path) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    if from.is_dir() {
        return rustix::fs::rename(from, to).map_err(|error| match error {
            Errno::NOTEMPTY | Errno::NOTDIR => Errno::EXIST,
            other => other,
        });
    }
    rustix::fs::link(from, to)?;
    rustix::fs::unlink(from)
}

/// Removes a file or a whole tree; nothing to do where there is none.
pub fn remove(path: &Path) -> Result<()> {
    let removed = attempt("remove", path, || match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    });
    match removed {
        Err(_) if !path.exists() => Ok(()),
        other => other,
    }
}

/// Removes a directory, unless something is in it.
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

/// Locks the file at `path`, creating it, and writes `holder` into it; the lock goes with the returned file.
/// `Err` in the inner result holds what the present holder wrote.
pub fn lock(path: &Path, holder: &str) -> Result<Result<File, String>> {
    use rustix::fs::{FlockOperation, flock};
    let mut waited = 0;
    loop {
        let mut file = append(path)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed("lock", path, &error.into()));
            }
            let holder = fs::read_to_string(path).unwrap_or_default();
            // Who has just taken it has yet to write its name.
            if holder.is_empty() && waited < 100 {
                waited += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
            return Ok(Err(holder));
        }
        // The holder before may have removed the file between its opening and its locking here: then try again.
        let same = match (file.metadata(), fs::metadata(path)) {
            (Ok(ours), Ok(theirs)) => {
                std::os::unix::fs::MetadataExt::ino(&ours)
                    == std::os::unix::fs::MetadataExt::ino(&theirs)
            }
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
pub fn append_line(file: &mut File, path: &Path, line: &str) -> Result<()> {
    attempt("write", path, || {
        file.write_all(format!("{line}\n").as_bytes())
    })?;
    sync(file, path)
}

/// A file that is hashed while it is written.
pub struct HashingFile {
    file: File,
    path: std::path::PathBuf,
    hasher: blake3::Hasher,
    bytes: u64,
}

/// Length and blake3 of a finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Length in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, in hexadecimal.
    pub blake3: String,
}

impl Digest {
    /// Whether the manifest lists a file of this content as `entry`.
    pub fn is(&self, entry: &FileEntry) -> bool {
        self.bytes == entry.bytes && self.blake3 == entry.blake3
    }
}

impl HashingFile {
    /// Creates `path`; it must not exist yet.
    pub fn create(path: &Path) -> Result<HashingFile> {
        Ok(HashingFile {
            file: create(path)?,
            path: path.to_owned(),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        })
    }

    /// Makes the file durable and returns what was written.
    pub fn finish(self) -> Result<Digest> {
        sync(&self.file, &self.path)?;
        Ok(Digest {
            bytes: self.bytes,
            blake3: self.hasher.finalize().to_hex().to_string(),
        })
    }
}

impl Write for HashingFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // Encoders hand the error on as it is, so it says here already which file it was and what to do.
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

/// Stands wherever a worker takes something that another may want: with the feature `faults`, a test can upset the order.
pub fn pause() {
    faults::pause();
}

/// A file of a format whose beginning says what only its end knows.
pub struct PatchedFile {
    file: File,
    path: std::path::PathBuf,
}

impl PatchedFile {
    /// Creates `path`; it must not exist yet.
    pub fn create(path: &Path) -> Result<PatchedFile> {
        Ok(PatchedFile {
            file: create(path)?,
            path: path.to_owned(),
        })
    }

    /// Writes over bytes that were written before, from `offset` on.
    pub fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        use std::os::unix::fs::FileExt;
        attempt("write", &self.path, || {
            self.file.write_all_at(bytes, offset)
        })
    }

    /// Makes the file durable.
    pub fn finish(self) -> Result<()> {
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

/// Length and blake3 of the file at `path`, read as a stream.
pub fn digest(path: &Path) -> Result<Digest> {
    digest_of(
        &File::open(path).map_err(|error| failed("read", path, &error))?,
        path,
    )
}

/// Length and blake3 of what an open file holds from its position on. `path` is its path.
pub fn digest_of(file: &File, path: &Path) -> Result<Digest> {
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

/// Counts operations and, at the one that `TRAJMILL_FAULT` names, kills or stops the process or fails.
#[cfg(feature = "faults")]
mod faults {
    use std::io::{self, Write};
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    static COUNT: AtomicU64 = AtomicU64::new(0);
    static PAUSES: AtomicU64 = AtomicU64::new(0);

    pub(super) fn before(action: &str, path: &Path) -> io::Result<()> {
        let Ok(fault) = std::env::var("TRAJMILL_FAULT") else {
            return Ok(());
        };
        let count = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
        let mut parts = fault.split(':');
        let (kind, at) = (parts.next(), parts.next().unwrap_or_default());
        if kind == Some("count") {
            let mut log = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(at)?;
            return writeln!(log, "{count} {action} {}", path.display());
        }
        if at.parse() != Ok(count) {
            return Ok(());
        }
        match kind {
            Some("kill") => signal(rustix::process::Signal::KILL),
            Some("stop") => signal(rustix::process::Signal::STOP),
            Some("error") => {
                let errno = parts
                    .next()
                    .and_then(|errno| errno.parse().ok())
                    .unwrap_or(5);
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }

    /// Sleeps for up to 4 ms, by the seed and the number of pauses before this one.
    pub(super) fn pause() {
        let Ok(fault) = std::env::var("TRAJMILL_FAULT") else {
            return;
        };
        let Some(seed) = fault.strip_prefix("delay:") else {
            return;
        };
        let count = PAUSES.fetch_add(1, Ordering::SeqCst);
        let hash = blake3::hash(format!("{seed} {count}").as_bytes());
        let micros = u64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % 4000;
        std::thread::sleep(std::time::Duration::from_micros(micros));
    }

    /// Whether renames are to work as they do on a file system that knows no flags.
    pub(super) fn plain_renames() -> bool {
        std::env::var("TRAJMILL_FAULT").is_ok_and(|fault| fault == "plain-renames")
    }

    fn signal(signal: rustix::process::Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(
            rustix::process::getpid(),
            signal,
        )?)
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
