//! The hash of a file's or a folder's content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::store::Digest;
use super::{files, store};
use crate::error::{Error, Result};

/// Returns the file beside the file `path` that describes it, if there is one: `NAME.json` beside
/// `NAME.h5` or `NAME.hdf5`.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn description(path: &Path) -> Result<Option<PathBuf>> {
    let described = path
        .extension()
        .is_some_and(|ending| ending == "h5" || ending == "hdf5");
    let beside = path.with_extension("json");
    Ok((described && files::is_file(&beside)?).then_some(beside))
}

/// The hash of a source, and what it was computed from.
pub(crate) struct ContentHash {
    /// The blake3 hash in hexadecimal.
    pub(crate) hash: String,
    /// The length and the hash of every file.
    pub(crate) files: BTreeMap<PathBuf, Digest>,
}

/// Returns the hash that identifies the bytes of a source: the blake3 hash of a file, together with
/// its [`description`], or of the relative names and contents of a folder's files in the order of
/// their names, in hexadecimal.
///
/// # Errors
/// Returns an error if a file cannot be read.
pub(crate) fn content_hash(path: &Path) -> Result<ContentHash> {
    let mut files = BTreeMap::new();
    if !files::is_dir(path)? {
        let own = store::digest(path)?;
        let mut hash = own.blake3.clone();
        files.insert(path.to_owned(), own);
        if let Some(beside) = description(path)? {
            let digest = store::digest(&beside)?;
            let both = format!("{hash}\0{}", digest.blake3);
            hash = blake3::hash(both.as_bytes()).to_hex().to_string();
            files.insert(beside, digest);
        }
        return Ok(ContentHash { hash, files });
    }
    let mut found = Vec::new();
    collect(path, &mut found)?;
    found.sort();
    let mut hasher = blake3::Hasher::new();
    for file in found {
        let name = file
            .strip_prefix(path)
            .unwrap_or(&file)
            .to_string_lossy()
            .into_owned();
        let digest = store::digest(&file)?;
        hasher.update(format!("{name}\0{}\0", digest.blake3).as_bytes());
        files.insert(file, digest);
    }
    Ok(ContentHash {
        hash: hasher.finalize().to_hex().to_string(),
        files,
    })
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", folder.display()));
    for path in files::list(folder).map_err(failed)? {
        if files::is_dir(&path)? {
            collect(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_covers_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        store::create_dir(&at("a/sub")).unwrap();
        store::create_dir(&at("b/sub")).unwrap();
        store::write(&at("a/sub/1"), b"x").unwrap();
        store::write(&at("b/sub/1"), b"x").unwrap();
        let hash = |name: &str| content_hash(&at(name)).unwrap().hash;
        assert_eq!(hash("a"), hash("b"));
        store::write(&at("b/2"), b"").unwrap();
        assert_ne!(hash("a"), hash("b"));
        assert_eq!(hash("a/sub/1"), blake3::hash(b"x").to_hex().to_string());
    }
}
