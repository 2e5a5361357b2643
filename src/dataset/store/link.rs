//! Files that two directories share, or copies of them.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rustix::io::Errno;

use super::whole::{self, WholeFile};
use super::{Digest, attempt, failed, sync};
use crate::dataset::files;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};

/// Number of bytes that are copied at once.
const AT_ONCE: usize = 1 << 20;

/// Gives the file at `from` the further name `to`, without reading it. Links at `from` are
/// followed. Where one file cannot have both names, as on two file systems, the file is copied: see
/// [`copy`]. If its length and hash are known as `digest`, the length is verified, and a file of
/// this length that an earlier run left at `to` stays.
///
/// The name is durable after the directory of `to` is synced.
///
/// # Errors
/// Returns an error if `from` is no file or has another length, or if `to` cannot be written.
pub(crate) fn link(from: &Path, to: &Path, digest: Option<&Digest>) -> Result<()> {
    let file = open(from, digest)?;
    let linked = attempt("link", to, || match whole::link(&file, to) {
        Ok(linked) => Ok(Some(linked.is_some())),
        // Another file system, a file of another user, too many links, no links, no `/proc`.
        Err(error)
            if [
                Errno::XDEV,
                Errno::PERM,
                Errno::ACCESS,
                Errno::MLINK,
                Errno::OPNOTSUPP,
                Errno::NOSYS,
                Errno::INVAL,
                Errno::NOENT,
            ]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    })?;
    match linked {
        None => copied(&file, from, to, digest),
        // The owner of the file may have written it a moment ago.
        Some(true) => sync(&file, to),
        Some(false) => ensure_left(to, digest),
    }
}

/// Copies the file at `from` to `to`: by a reflink, which shares the bytes until one of the files
/// changes, if the file system has them. The copy appears when it is whole and durable. If its
/// length and hash are known as `digest`, bytes that are copied are compared with the hash, and a
/// file of this length that an earlier run left at `to` stays.
///
/// # Errors
/// Returns an error if `from` is no file or has other bytes, or if `to` cannot be written.
pub(crate) fn copy(from: &Path, to: &Path, digest: Option<&Digest>) -> Result<()> {
    copied(&open(from, digest)?, from, to, digest)
}

/// Verifies a file that was at `path` already.
fn ensure_left(path: &Path, digest: Option<&Digest>) -> Result<()> {
    if digest.is_none() {
        let message = format!("{} exists already", path.display());
        return Err(Error::failed(message).hint("remove it, and run the command again"));
    }
    open(path, digest).map(|_| ())
}

/// Opens the file at `path` and verifies its length, if it is known.
fn open(path: &Path, digest: Option<&Digest>) -> Result<File> {
    let unreadable = |error| files::unreadable(path, &error);
    let file = files::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?.len();
    let Some(digest) = digest.filter(|digest| digest.bytes != found) else {
        return Ok(file);
    };
    let message = format!(
        "{} has {}, and {} are expected",
        path.display(),
        count(found, "byte"),
        number(digest.bytes)
    );
    Err(Error::failed(message).hint("the file was changed: restore it and run the command again"))
}

fn copied(mut file: &File, from: &Path, to: &Path, digest: Option<&Digest>) -> Result<()> {
    let about = file.metadata();
    let length = about
        .map_err(|error| files::unreadable(from, &error))?
        .len();
    let mut copy = WholeFile::create(to)?;
    if !copy.clone_from(file) {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; AT_ONCE];
        loop {
            let read = file
                .read(&mut buffer)
                .map_err(|error| failed("read", from, &error))?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            hasher.update(bytes);
            copy.write_all(bytes)
                .map_err(|error| failed("write", to, &error))?;
        }
        let known = digest.map(|digest| &*digest.blake3);
        let found = hasher.finalize().to_hex();
        if hasher.count() != length || known.is_some_and(|known| *found != *known) {
            let message = format!("{} has other bytes than when it was hashed", from.display());
            return Err(Error::failed(message)
                .hint("the file was changed: restore it and run the command again"));
        }
    }
    if copy.publish()? {
        Ok(())
    } else {
        ensure_left(to, digest)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::dataset::store;

    #[test]
    fn a_link_is_the_file_and_a_copy_has_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        store::write(&at("blob"), b"frames").unwrap();
        #[expect(clippy::disallowed_methods)]
        std::os::unix::fs::symlink("blob", at("name")).unwrap();
        let digest = store::digest(&at("blob")).unwrap();
        let inode = |name: &str| at(name).symlink_metadata().unwrap().ino();
        for _ in 0..2 {
            link(&at("name"), &at("linked"), Some(&digest)).unwrap();
            copy(&at("name"), &at("copied"), Some(&digest)).unwrap();
        }
        assert_eq!(inode("linked"), inode("blob"));
        assert_ne!(inode("copied"), inode("blob"));
        assert_eq!(std::fs::read(at("copied")).unwrap(), b"frames");
        let wrong = Digest {
            bytes: 7,
            ..digest.clone()
        };
        for make in [link, copy] {
            let message = make(&at("name"), &at("x"), Some(&wrong))
                .unwrap_err()
                .message;
            assert!(
                message.contains("has 6 bytes, and 7 are expected"),
                "{message}"
            );
            make(&at("nothing"), &at("x"), Some(&digest)).unwrap_err();
            make(folder.path(), &at("x"), Some(&digest)).unwrap_err();
            make(&at("nothing"), &at("x"), None).unwrap_err();
            let message = make(&at("name"), &at("linked"), None).unwrap_err().message;
            assert!(message.contains("exists already"), "{message}");
        }
        link(&at("name"), &at("other"), None).unwrap();
        assert_eq!(inode("other"), inode("blob"));
        assert!(!at("x").exists());
    }

    #[test]
    fn a_file_of_another_file_system_is_copied_and_verified() {
        let (here, there) = (tempfile::tempdir().unwrap(), Path::new("/dev/shm"));
        let device = |path: &Path| path.metadata().map(|about| about.dev()).ok();
        let Some(there) = (there.is_dir() && device(there) != device(here.path()))
            .then(|| tempfile::tempdir_in(there).ok())
            .flatten()
        else {
            return;
        };
        let (from, to) = (there.path().join("from"), here.path().join("to"));
        store::write(&from, b"frames").unwrap();
        let digest = store::digest(&from).unwrap();
        let wrong = Digest {
            blake3: "0".repeat(64),
            ..digest.clone()
        };
        let message = link(&from, &to, Some(&wrong)).unwrap_err().message;
        assert!(message.contains("other bytes"), "{message}");
        assert!(!to.exists());
        link(&from, &to, Some(&digest)).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"frames");
    }
}
