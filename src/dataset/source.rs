//! The content of a foreign source, which is hashed before it is read.

use std::path::{Path, PathBuf};

use super::verified::{Stamp, TICK, replaced};
use super::{content_hash, description, files};
use crate::error::{Error, Result};

/// The content of a file or a folder when it was hashed. An importer opens files as often as it
/// likes, so no descriptor holds the source. After it has read the source, it calls
/// [`SourceContent::ensure_unchanged`].
#[derive(Debug, Clone)]
pub(crate) struct SourceContent {
    path: PathBuf,
    hash: String,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl SourceContent {
    /// Hashes the file or folder `path`.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read.
    pub(crate) fn of(path: &Path) -> Result<SourceContent> {
        let mut found = stamps(path)?;
        if found.iter().any(|(_, stamp)| stamp.is_young()) {
            // A change within the same tick of the clock would not be noticed.
            std::thread::sleep(TICK);
            found = stamps(path)?;
        }
        Ok(SourceContent {
            path: path.to_owned(),
            hash: content_hash(path)?,
            stamps: found,
        })
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
        match stamps(&self.path) {
            Ok(now) if now == self.stamps => Ok(()),
            // New links and modes change stamps too, but not the times of writing.
            Ok(now) if self.was_written(&now) => Err(replaced(&self.path)),
            Ok(_) if content_hash(&self.path)? == self.hash => Ok(()),
            Ok(_) | Err(_) => Err(replaced(&self.path)),
        }
    }

    fn was_written(&self, now: &[(PathBuf, Stamp)]) -> bool {
        let written = |files: &[(PathBuf, Stamp)]| -> Vec<_> {
            files
                .iter()
                .map(|(path, stamp)| (path.clone(), stamp.written()))
                .collect()
        };
        written(now) != written(&self.stamps)
    }
}

/// Returns the stamps of the file `path` and its description, or of all files in the folder `path`,
/// in order of their names.
fn stamps(path: &Path) -> Result<Vec<(PathBuf, Stamp)>> {
    let failed = |path: &Path, error: std::io::Error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
    };
    let (mut found, mut folders) = (Vec::new(), vec![path.to_owned()]);
    if !files::is_dir(path)? {
        folders.extend(description(path)?);
    }
    while let Some(path) = folders.pop() {
        let about = std::fs::metadata(&path).map_err(|error| failed(&path, error))?;
        if !files::is_dir(&path)? {
            found.push((path, Stamp::of(&about)));
            continue;
        }
        folders.extend(files::list(&path).map_err(|error| failed(&path, error))?);
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::store;

    #[test]
    fn a_source_that_changes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        store::write(&at("a"), b"a").unwrap();
        store::write(&at("b"), b"b").unwrap();
        let content = SourceContent::of(folder.path()).unwrap();
        content.ensure_unchanged().unwrap();
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
}
