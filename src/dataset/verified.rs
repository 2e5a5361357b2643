//! A file of a dataset, whose hash is verified before its first byte is used.
//!
//! A process hashes a file once, through the descriptor that it then reads. It does not keep
//! descriptors, because a dataset may have more files than a process may open. It keeps the stamp
//! of the verified file instead: its device, inode, length and times. A later reader opens the file
//! again and compares the stamp before and after reading. If the stamp is the same, the bytes that
//! it read are the verified bytes:
//!
//! - The kernel sets the time of the last change (ctime) at every write, and no program can set it
//!   back. Another file at the same path has another inode or another ctime.
//! - Two writes within one tick of the kernel's clock leave the same ctime. Therefore a file is
//!   hashed only when its last change is older than [`TICK`].
//! - Writes through an earlier memory map are the exception: the kernel may not set a time for
//!   each of them.
//!
//! A different stamp proves nothing: someone may have linked the file, or put a copy in its place.
//! The file is then hashed again, and only different bytes are an error. All files are compared
//! with the hashes in one manifest, which is read once. Whatever happens to the directory
//! meanwhile, a reader gets the bytes of one dataset or an error.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::manifest::FileEntry;
use super::{files, layout, store};
use crate::error::{Error, Result, wording};

/// Twice the longest time between two ticks of the clock that dates changes of files.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Number of times that a file is hashed if its links or its mode change meanwhile.
const ATTEMPTS: usize = 3;

/// The record of which files of a dataset are verified. Clones of a dataset share it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Whether files are read without being hashed.
    trusts: bool,
    stamps: Mutex<HashMap<String, SharedStamp>>,
}

/// The stamp that a file had when it was verified. The lock is held while the file is hashed, so
/// that other readers of the file wait instead of hashing it too.
type SharedStamp = Arc<Mutex<Option<Stamp>>>;

impl Ledger {
    /// Returns the ledger of a dataset whose files are not hashed. It still notices files that are
    /// replaced while they are read.
    pub(super) fn trusting() -> Ledger {
        Ledger {
            trusts: true,
            stamps: Mutex::default(),
        }
    }

    /// Returns the file that the manifest, whose hash is `manifest`, lists as `entry`.
    pub(super) fn file(&self, dataset: &Path, manifest: &str, entry: &FileEntry) -> DatasetFile {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        DatasetFile {
            dataset: dataset.to_owned(),
            path: dataset.join(&entry.path),
            manifest: manifest.to_owned(),
            entry: entry.clone(),
            trusted: self.trusts,
            stamp: Arc::clone(stamps.entry(entry.path.clone()).or_default()),
        }
    }
}

/// The identity, length and times of a file. They change whenever the bytes of the file change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Device, inode, length and time of the last write.
    written: (u64, u64, u64, i64, i64),
    /// The time of the last change of anything, links and mode included.
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(about: &Metadata) -> Stamp {
        Stamp {
            written: (
                about.dev(),
                about.ino(),
                about.len(),
                about.mtime(),
                about.mtime_nsec(),
            ),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }

    /// Returns whether no byte of the file was written between this stamp and `other`, as far as
    /// the time of the last write tells.
    pub(super) fn is_as_written(&self, other: &Stamp) -> bool {
        self.written == other.written
    }

    /// Returns whether another change now could leave the stamp as it is.
    pub(super) fn is_young(&self) -> bool {
        self.age().is_some_and(|age| age < TICK)
    }

    /// Returns the time since the file's last change; `None` if that is in the future.
    fn age(&self) -> Option<Duration> {
        let (seconds, nanos) = self.changed;
        let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH + since)
            .ok()
    }
}

/// A file that a dataset's manifest lists.
#[derive(Debug, Clone)]
pub struct DatasetFile {
    dataset: PathBuf,
    path: PathBuf,
    /// The blake3 hash of the manifest.
    manifest: String,
    entry: FileEntry,
    trusted: bool,
    stamp: SharedStamp,
}

/// A dataset's file that is being read.
#[derive(Debug)]
pub struct OpenFile<'a> {
    of: &'a DatasetFile,
    file: Arc<File>,
    stamp: Stamp,
}

impl DatasetFile {
    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's entry in the manifest.
    pub fn entry(&self) -> &FileEntry {
        &self.entry
    }

    /// Opens the file, and verifies its bytes unless this process has done that already.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or its bytes are not those that the manifest
    /// lists.
    pub fn open(&self) -> Result<OpenFile<'_>> {
        let file = self.regular()?;
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stamp = self.stamp_of(&file)?;
        if *known != Some(stamp) {
            if self.trusted {
                if known.is_some_and(|known| known.written != stamp.written) {
                    return Err(self.replaced());
                }
            } else {
                stamp = self.hash(&file, known.is_some())?;
            }
            *known = Some(stamp);
        }
        Ok(OpenFile {
            of: self,
            file: Arc::new(file),
            stamp,
        })
    }

    /// Opens the file, passes it to `read`, and returns the outcome if the file did not change
    /// meanwhile.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, it changed, or `read` fails.
    pub fn read<T>(&self, read: impl FnOnce(&Arc<File>) -> Result<T>) -> Result<T> {
        let open = self.open()?;
        let outcome = read(&open.file);
        open.finish()?;
        outcome
    }

    fn regular(&self) -> Result<File> {
        files::open(&self.path).map_err(|error| self.unreadable(&error))
    }

    fn stamp_of(&self, file: &File) -> Result<Stamp> {
        file.metadata()
            .map(|about| Stamp::of(&about))
            .map_err(|error| self.unreadable(&error))
    }

    /// Hashes the file and returns its stamp. If `again` is true, the file was right before, so
    /// different bytes mean that it was replaced.
    fn hash(&self, mut file: &File, again: bool) -> Result<Stamp> {
        for _ in 0..ATTEMPTS {
            let mut before = self.stamp_of(file)?;
            if before.is_young() {
                std::thread::sleep(TICK);
                before = self.stamp_of(file)?;
            }
            file.seek(SeekFrom::Start(0))
                .map_err(|error| self.unreadable(&error))?;
            let found = store::digest_of(file, &self.path)?;
            let after = self.stamp_of(file)?;
            if before.written != after.written {
                return Err(self.replaced());
            }
            if !found.is(&self.entry) {
                return Err(if again || self.is_of_another_dataset() {
                    self.replaced()
                } else {
                    self.corrupt(&found)
                });
            }
            if before == after {
                return Ok(after);
            }
        }
        Err(self.replaced())
    }

    /// Returns whether the dataset's directory now holds another manifest, or none.
    fn is_of_another_dataset(&self) -> bool {
        files::read(&layout::manifest(&self.dataset)).map_or(true, |bytes| {
            *blake3::hash(&bytes).to_hex() != *self.manifest
        })
    }

    fn replaced(&self) -> Error {
        replaced(&self.dataset)
    }

    fn unreadable(&self, error: &std::io::Error) -> Error {
        let path = self.path.display();
        if self.is_of_another_dataset() {
            self.replaced()
        } else if error.kind() == std::io::ErrorKind::NotFound {
            Error::failed(format!("{path} is missing, though the manifest lists it"))
                .hint("restore the file from a copy, or import or materialise the dataset again")
        } else {
            Error::failed(format!("cannot read {path}: {error}"))
        }
    }

    fn corrupt(&self, found: &store::Digest) -> Error {
        let message = format!(
            "{} is corrupt: it has {} with the hash {:.16}…, and the manifest lists {} with \
             {:.16}…",
            self.path.display(),
            wording::count(found.bytes, "byte"),
            found.blake3,
            wording::count(self.entry.bytes, "byte"),
            self.entry.blake3
        );
        Error::failed(message)
            .hint("restore the file from a copy, or import or materialise the dataset again")
    }
}

/// Returns the error of a reader whose dataset is no longer the one that it opened.
pub(super) fn replaced(dataset: &Path) -> Error {
    let message = format!("{} was replaced while it was read", dataset.display());
    Error::failed(message).hint("run the command again")
}

impl OpenFile<'_> {
    /// Returns the descriptor.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Ends the reading. If it succeeds, the bytes that were read are the bytes that were verified.
    ///
    /// # Errors
    /// Returns an error if the file changed since it was opened.
    pub fn finish(self) -> Result<()> {
        let stamp = self.of.stamp_of(&self.file)?;
        if stamp == self.stamp {
            return Ok(());
        }
        if stamp.written != self.stamp.written {
            return Err(self.of.replaced());
        }
        if !self.of.trusted {
            // Links or the mode changed, or a program wrote and then set the time back.
            self.of.hash(&self.file, true)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, bytes: &[u8], ledger: &Ledger) -> DatasetFile {
        store::write(&layout::manifest(folder), b"{}").unwrap();
        store::write(&folder.join("shard"), bytes).unwrap();
        let entry = FileEntry {
            path: "shard".to_owned(),
            rows: 0,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        ledger.file(folder, &blake3::hash(b"{}").to_hex(), &entry)
    }

    fn put(file: &DatasetFile, bytes: &[u8]) {
        store::remove(file.path()).unwrap();
        store::write(file.path(), bytes).unwrap();
    }

    #[test]
    fn what_is_read_is_what_was_verified() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::default();
        let file = file(folder.path(), b"right", &ledger);
        let message = |outcome: Result<()>| outcome.unwrap_err().message;
        let read = |file: &DatasetFile| file.read(|_| Ok(()));

        put(&file, b"wrong");
        assert!(message(read(&file)).contains("is corrupt"));
        put(&file, b"right");
        read(&file).unwrap();
        // The same bytes in another file are right too.
        put(&file, b"right");
        read(&file).unwrap();
        // A file that was right before and now is not was replaced.
        put(&file, b"wrong");
        assert!(message(read(&file)).contains("was replaced while it was read"));
        store::remove(file.path()).unwrap();
        assert!(message(read(&file)).contains("is missing"));
        // Another manifest explains everything.
        store::remove(&layout::manifest(folder.path())).unwrap();
        assert!(message(read(&file)).contains("was replaced while it was read"));
    }

    #[test]
    fn bytes_that_change_under_the_reader_are_noticed() {
        use std::os::unix::fs::FileExt;
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::default();
        let file = file(folder.path(), b"right", &ledger);
        let writer = store::append(file.path()).unwrap();
        file.read(|_| Ok(())).unwrap();
        let open = file.open().unwrap();
        writer.set_times(std::fs::FileTimes::new()).unwrap();
        open.finish().unwrap();
        let open = file.open().unwrap();
        std::thread::sleep(TICK);
        rustix::io::pwrite(&writer, b"x", 0).unwrap();
        let mut bytes = [0; 5];
        open.file().read_at(&mut bytes, 0).unwrap();
        assert!(open.finish().unwrap_err().message.contains("replaced"));
    }

    #[test]
    fn a_pipe_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::default();
        let file = file(folder.path(), b"right", &ledger);
        store::remove(file.path()).unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            file.path(),
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        )
        .unwrap();
        let error = file.open().unwrap_err().message;
        assert!(error.contains("only files are read"), "{error}");
    }
}
