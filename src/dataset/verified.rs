//! A file of a dataset, whose bytes are verified before the first of them is used.
//!
//! A file is hashed once per process, through the descriptor that is then read. Descriptors are not
//! kept: a dataset may have more files than a process may open. The stamp of the verified file is
//! kept instead: its device, inode, length and times. Whoever reads the file later opens it again,
//! compares the stamp before and after reading, and has read the verified bytes if it is the same:
//!
//! - The kernel sets the time of the last change (ctime) at every write, and no program can set it
//!   back. Another file at the same path has another inode or another ctime.
//! - Two writes within one tick of the kernel's clock leave one ctime. So a file is not hashed
//!   before its last change is older than [`TICK`].
//! - Writes through a memory map that existed before are the exception: the kernel may not set a
//!   time for each of them.
//!
//! A stamp that differs proves nothing: a link to the file may have been made or removed, or a copy
//! may have been put in its place. The file is then hashed again, and only other bytes are an
//! error. All files are compared with the hashes in one manifest, which is read once. So whatever
//! happens to the directory meanwhile, what is read is all of one dataset or an error.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};

use super::manifest::FileEntry;
use super::{layout, store};
use crate::error::{Error, Result};

/// The longest time between two ticks of the clock that dates changes of files, twice over.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// How often a file is hashed again because its links or its mode changed meanwhile.
const ATTEMPTS: usize = 3;

/// What is known about the files of a dataset. Clones of a dataset share it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Whether files are read without being hashed.
    trusts: bool,
    stamps: Mutex<HashMap<String, SharedStamp>>,
}

/// The stamp of a file when it was verified. The lock is held while the file is hashed, so that
/// other readers of the file wait instead of hashing it too.
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

/// What the file system says about a file. It changes whenever the bytes of the file change.
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

    /// What changes with the bytes alone, unless a program sets the time of writing.
    pub(super) fn written(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        self.written
    }

    /// Whether a change that comes now may leave the stamp as it is.
    pub(super) fn is_young(&self) -> bool {
        self.age().is_some_and(|age| age < TICK)
    }

    /// How long ago the file was last changed; `None` if that is in the future.
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
    /// blake3 of the manifest.
    manifest: String,
    entry: FileEntry,
    trusted: bool,
    stamp: SharedStamp,
}

/// A dataset's file while it is read.
#[derive(Debug)]
pub struct OpenFile<'a> {
    of: &'a DatasetFile,
    file: Arc<File>,
    stamp: Stamp,
}

impl DatasetFile {
    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the manifest says about the file.
    pub fn entry(&self) -> &FileEntry {
        &self.entry
    }

    /// Opens the file, and verifies its bytes unless this process has done so.
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

    /// Opens the file, hands it to `read` and returns the outcome, if the file did not change
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
        // Opening a pipe waits for its other end, unless it is opened so.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(&self.path, flags, Mode::empty())
            .map_err(|error| self.unreadable(&error.into()))?;
        let file = File::from(file);
        let about = file.metadata().map_err(|error| self.unreadable(&error))?;
        if about.is_file() {
            return Ok(file);
        }
        Err(
            Error::failed(format!("{} is not a regular file", self.path.display()))
                .hint("restore the file from a copy, or make the dataset again"),
        )
    }

    fn stamp_of(&self, file: &File) -> Result<Stamp> {
        file.metadata()
            .map(|about| Stamp::of(&about))
            .map_err(|error| self.unreadable(&error))
    }

    /// Hashes the file and returns its stamp. `again` says that other bytes are those of a file
    /// that was replaced, because they were right before.
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

    /// Whether the dataset's directory holds another manifest by now, or none.
    fn is_of_another_dataset(&self) -> bool {
        std::fs::read(layout::manifest(&self.dataset)).map_or(true, |bytes| {
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
            "{} is corrupt: {} bytes with blake3 {:.16}…, the manifest says {} bytes with {:.16}…",
            self.path.display(),
            found.bytes,
            found.blake3,
            self.entry.bytes,
            self.entry.blake3
        );
        Error::failed(message)
            .hint("restore the file from a copy, or import or materialise the dataset again")
    }
}

/// The error of a reader whose dataset is not the one any more that it opened.
pub(super) fn replaced(dataset: &Path) -> Error {
    let message = format!("{} was replaced while it was read", dataset.display());
    Error::failed(message).hint("run the command again")
}

impl OpenFile<'_> {
    /// The descriptor.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Ends the reading: what was read is what was verified, unless this fails.
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
            // Links or the mode changed, or somebody wrote and then set the time back.
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
        // A file that was right and is not any more was replaced.
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
        rustix::fs::mkfifoat(rustix::fs::CWD, file.path(), Mode::RUSR | Mode::WUSR).unwrap();
        let error = file.open().unwrap_err().message;
        assert!(error.contains("is not a regular file"), "{error}");
    }
}
