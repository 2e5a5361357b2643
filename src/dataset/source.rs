//! The content of a foreign source, which is hashed before it is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::store::Digest;
use super::verified::{Stamp, TICK, replaced};
use super::{content_hash, description, files, store};
use crate::error::{Error, Result};

/// Returns the name of a foreign source at `path`: that of the file or folder without its
/// extension. That of a folder consists of letters, as in `set.zarr`; `1.0.0` is a whole name.
pub(crate) fn source_name(path: &Path) -> Option<String> {
    let is_extension = |end: &str| end.chars().all(char::is_alphabetic);
    let end = path.extension().map(|end| end.to_string_lossy());
    let name = match end {
        Some(end) if !is_extension(&end) && files::is_dir(path).unwrap_or(false) => {
            path.file_name()
        }
        _ => path.file_stem(),
    };
    name.map(|name| name.to_string_lossy().into_owned())
}

/// The content of a file or a folder when it was hashed. A reader opens files as often as it likes,
/// so no descriptor holds the source. After it has read the source, it calls
/// [`SourceContent::ensure_unchanged`].
///
/// Folders have stamps too, because a folder that is exchanged for another and back leaves no trace
/// in its files. So a new mode of a folder during the reading is an error as well.
#[derive(Debug, Clone)]
pub(crate) struct SourceContent {
    path: PathBuf,
    hash: String,
    files: Arc<BTreeMap<PathBuf, Digest>>,
    stamps: BTreeMap<PathBuf, Stamp>,
    /// The later stamps of files that were hashed again.
    seen: Arc<Mutex<BTreeMap<PathBuf, Stamp>>>,
}

impl SourceContent {
    /// Hashes the file or folder `path`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(crate) fn of(path: &Path) -> Result<SourceContent> {
        let mut found = stamps(path)?;
        if found.values().any(Stamp::is_young) {
            // A change within the same tick of the clock would not be noticed.
            std::thread::sleep(TICK);
            found = stamps(path)?;
        }
        let content = content_hash(path)?;
        Ok(SourceContent {
            path: path.to_owned(),
            hash: content.hash,
            files: Arc::new(content.files),
            stamps: found,
            seen: Arc::default(),
        })
    }

    /// Returns the length and the hash that the file `path` of the source had; `None` if there was
    /// no such file.
    pub(crate) fn digest(&self, path: &Path) -> Option<&Digest> {
        self.files.get(path)
    }

    /// Returns the hash; see [`content_hash`].
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    /// Verifies that the source is still the one that was hashed.
    ///
    /// # Errors
    /// Returns an error if a file changed, appeared or disappeared.
    pub(crate) fn ensure_unchanged(&self) -> Result<()> {
        let now = stamps(&self.path).map_err(|_| replaced(&self.path))?;
        let is_same = now.len() == self.stamps.len()
            && now.iter().all(|(path, stamp)| self.is_same(path, stamp));
        if is_same {
            Ok(())
        } else {
            Err(replaced(&self.path))
        }
    }

    /// Verifies that the file `path` of the source, and the folders that lead to it, are still
    /// those that were hashed.
    ///
    /// # Errors
    /// Returns an error if one of them changed.
    pub(crate) fn ensure_file_unchanged(&self, path: &Path) -> Result<()> {
        let mut places = path.ancestors().take_while(|at| at.starts_with(&self.path));
        let is_same = |at: &Path| {
            let now = std::fs::metadata(at).map(|about| Stamp::of(&about));
            now.is_ok_and(|now| self.is_same(at, &now))
        };
        if places.all(is_same) {
            Ok(())
        } else {
            Err(replaced(&self.path))
        }
    }

    /// Whether the file or folder `path`, whose stamp is `now`, is the one that was hashed. A file
    /// that only got another link or mode is hashed again: another process may have given it to a
    /// dataset as its own video.
    fn is_same(&self, path: &Path, now: &Stamp) -> bool {
        let Some(then) = self.stamps.get(path) else {
            return false;
        };
        let seen = |stamp: &Stamp| {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.get(path) == Some(stamp)
        };
        if then == now || seen(now) {
            return true;
        }
        let Some(digest) = self.digest(path).filter(|_| then.is_as_written(now)) else {
            return false;
        };
        if now.is_young() {
            std::thread::sleep(TICK);
        }
        let is_right = store::digest(path).is_ok_and(|found| found == *digest)
            && std::fs::metadata(path).is_ok_and(|about| Stamp::of(&about) == *now);
        if is_right {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(path.to_owned(), *now);
        }
        is_right
    }
}

/// Returns the stamps of the file `path` and its description, or of the folder `path` and of
/// everything in it.
fn stamps(path: &Path) -> Result<BTreeMap<PathBuf, Stamp>> {
    let failed = |path: &Path, error: std::io::Error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
    };
    let (mut found, mut places) = (BTreeMap::new(), vec![path.to_owned()]);
    if !files::is_dir(path)? {
        places.extend(description(path)?);
    }
    while let Some(path) = places.pop() {
        let about = std::fs::metadata(&path).map_err(|error| failed(&path, error))?;
        if about.is_dir() {
            places.extend(files::list(&path).map_err(|error| failed(&path, error))?);
        }
        found.insert(path, Stamp::of(&about));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::store;

    #[test]
    fn the_name_of_a_version_is_whole() {
        let root = tempfile::tempdir().unwrap();
        for (folder, name) in [("1.0.0", "1.0.0"), ("set.zarr", "set"), ("set", "set")] {
            let path = root.path().join(folder);
            store::create_dir(&path).unwrap();
            assert_eq!(source_name(&path).as_deref(), Some(name));
        }
        let file = root.path().join("log.7");
        store::write(&file, b"").unwrap();
        assert_eq!(source_name(&file).as_deref(), Some("log"));
    }

    #[test]
    fn a_source_that_changes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        store::write(&at("a"), b"a").unwrap();
        store::write(&at("b"), b"b").unwrap();
        let content = SourceContent::of(folder.path()).unwrap();
        content.ensure_unchanged().unwrap();
        content.ensure_file_unchanged(&at("./b")).unwrap();
        content.ensure_file_unchanged(&at("c")).unwrap_err();
        store::remove(&at("b")).unwrap();
        store::write(&at("b"), b"c").unwrap();
        let error = content.ensure_unchanged().unwrap_err().message;
        assert!(error.contains("was replaced while it was read"), "{error}");
        let content = SourceContent::of(folder.path()).unwrap();
        store::write(&at("c"), b"c").unwrap();
        content.ensure_unchanged().unwrap_err();
        let content = SourceContent::of(&at("a")).unwrap();
        content.ensure_unchanged().unwrap();
        store::remove(&at("a")).unwrap();
        content.ensure_unchanged().unwrap_err();
    }

    #[test]
    fn a_file_that_is_linked_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        store::create_dir(&at("source")).unwrap();
        store::write(&at("source/file"), b"frames").unwrap();
        let content = SourceContent::of(&at("source")).unwrap();
        let digest = content.digest(&at("source/file")).unwrap();
        std::thread::sleep(TICK);
        store::link(&at("source/file"), &at("link"), Some(digest)).unwrap();
        content.ensure_file_unchanged(&at("source/file")).unwrap();
        content.ensure_unchanged().unwrap();
        // Other bytes of the same length, and the old time.
        let written = at("source/file").metadata().unwrap().modified().unwrap();
        #[expect(clippy::disallowed_methods)]
        let file = std::fs::File::options()
            .write(true)
            .open(at("link"))
            .unwrap();
        rustix::io::pwrite(&file, b"F", 0).unwrap();
        file.set_modified(written).unwrap();
        content.ensure_unchanged().unwrap_err();
    }

    #[test]
    fn a_folder_that_is_exchanged_and_back_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["one/below", "other/below"] {
            store::create_dir(&at(name)).unwrap();
            store::write(&at(name).join("file"), name.as_bytes()).unwrap();
        }
        for (exchanged, other) in [("one", "other"), ("one/below", "other/below")] {
            let content = SourceContent::of(&at("one")).unwrap();
            let file = at("one/below/file");
            content.ensure_unchanged().unwrap();
            content.ensure_file_unchanged(&file).unwrap();
            std::thread::sleep(TICK);
            store::exchange(&at(exchanged), &at(other)).unwrap();
            store::exchange(&at(exchanged), &at(other)).unwrap();
            content.ensure_unchanged().unwrap_err();
            content.ensure_file_unchanged(&file).unwrap_err();
        }
    }
}
