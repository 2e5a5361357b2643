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

/// Gives the file at `from`, which has the length and hash `digest`, the further name `to`, without
/// reading it. Links at `from` are followed. Where one file cannot have both names, as on two file
/// systems, the file is copied: see [`copy_verified`]. A file that an earlier run left at `to`
/// stays.
///
/// The name is durable after the directory of `to` is synced.
///
/// # Errors
/// Returns an error if `from` is no file or has another length, or if `to` cannot be written.
pub(crate) fn link_verified(from: &Path, to: &Path, digest: &Digest) -> Result<()> {
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
        Some(false) => open(to, digest).map(|_| ()),
    }
}

/// Copies the file at `from`, which has the length and hash `digest`, to `to`: by a reflink, which
/// shares the bytes until one of the files changes, if the file system has them. Otherwise the
/// bytes are compared with the hash. The copy appears when it is whole and durable. A file that an
/// earlier run left at `to` stays.
///
/// # Errors
/// Returns an error if `from` is no file or has other bytes, or if `to` cannot be written.
pub(crate) fn copy_verified(from: &Path, to: &Path, digest: &Digest) -> Result<()> {
    copied(&open(from, digest)?, from, to, digest)
}

/// Opens the file at `path` and verifies its length.
fn open(path: &Path, digest: &Digest) -> Result<File> {
    let unreadable = |error| files::unreadable(path, &error);
    let file = files::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?.len();
    if found == digest.bytes {
        return Ok(file);
    }
    let message = format!(
        "{} has {}, and {} are expected",
        path.display(),
        count(found, "byte"),
        number(digest.bytes)
    );
    Err(Error::failed(message).hint("the file was changed: restore it and run the command again"))
}

fn copied(mut file: &File, from: &Path, to: &Path, digest: &Digest) -> Result<()> {
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
        if hasher.count() != digest.bytes || *hasher.finalize().to_hex() != *digest.blake3 {
            let message = format!("{} has other bytes than when it was hashed", from.display());
            return Err(Error::failed(message)
                .hint("the file was changed: restore it and run the command again"));
        }
    }
    if copy.publish()? {
        Ok(())
    } else {
        open(to, digest).map(|_| ())
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
            link_verified(&at("name"), &at("linked"), &digest).unwrap();
            copy_verified(&at("name"), &at("copied"), &digest).unwrap();
        }
        assert_eq!(inode("linked"), inode("blob"));
        assert_ne!(inode("copied"), inode("blob"));
        assert_eq!(std::fs::read(at("copied")).unwrap(), b"frames");
        let wrong = Digest {
            bytes: 7,
            ..digest.clone()
        };
        for make in [link_verified, copy_verified] {
            let message = make(&at("name"), &at("x"), &wrong).unwrap_err().message;
            assert!(
                message.contains("has 6 bytes, and 7 are expected"),
                "{message}"
            );
            make(&at("nothing"), &at("x"), &digest).unwrap_err();
            make(folder.path(), &at("x"), &digest).unwrap_err();
        }
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
        let message = link_verified(&from, &to, &wrong).unwrap_err().message;
        assert!(message.contains("other bytes"), "{message}");
        assert!(!to.exists());
        link_verified(&from, &to, &digest).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"frames");
    }
}
