//! Reads files and lists directories that others may have written.
//!
//! Absent and unreadable are different: a missing file is `None` or `false`, and any other failure
//! is an error. Only regular files are read, because opening a FIFO waits for a writer and a device
//! may have no end.

#![expect(
    clippy::disallowed_methods,
    reason = "opens existing files for reading only"
)]

use std::ffi::OsStr;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags};

use crate::error::{Error, Result};

/// Verifies that `path`, as a user wrote it, is no URL such as `s3://bucket/data`, which would be a
/// folder named `s3:`.
///
/// # Errors
/// Returns an error if it is one.
pub(crate) fn ensure_local(path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(());
    };
    let mut letters = scheme.chars();
    let is_scheme = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !is_scheme {
        return Ok(());
    }
    let hint = match scheme.eq_ignore_ascii_case("file") {
        true => format!("write the path alone: {rest}"),
        false => "copy the data from or to a local folder with the tool of that storage, \
                  or mount the storage and write the path there"
            .to_owned(),
    };
    let message = format!("`{text}` is a URL, and trajmill reads and writes local paths only");
    Err(Error::usage(message).hint(hint))
}

/// Opens the regular file at `path` for reading. Links are followed.
///
/// # Errors
/// Returns an error if the file cannot be opened, or if it is a directory, a FIFO, a socket or a
/// device.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Without NONBLOCK, opening a FIFO waits for a writer. The flag has no effect on regular files.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let found = file.metadata()?.file_type();
    if found.is_file() {
        Ok(file)
    } else if found.is_dir() {
        Err(ErrorKind::IsADirectory.into())
    } else {
        Err(io::Error::other(format!(
            "it is {}, and only files are read",
            kind(found)
        )))
    }
}

/// Reads the whole regular file at `path`.
///
/// # Errors
/// Returns an error if the file cannot be opened or read; see [`open`].
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = open(path)?;
    file.read_to_end(&mut bytes)?;
    ensure_whole(&file, bytes.len() as u64)?;
    Ok(bytes)
}

/// Reads the whole regular file at `path` as text.
///
/// # Errors
/// Returns an error if the file cannot be opened or read, or if it is not UTF-8; see [`open`].
pub(crate) fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = open(path)?;
    file.read_to_string(&mut text)?;
    ensure_whole(&file, text.len() as u64)?;
    Ok(text)
}

/// Verifies that a file of which `read` bytes were read has no more.
///
/// # Errors
/// Returns an error if the file is longer or its length is unknown.
pub(super) fn ensure_whole(file: &File, read: u64) -> io::Result<()> {
    let length = file.metadata()?.len();
    if read < length {
        let message = format!("it ended after {read} of {length} bytes");
        return Err(io::Error::new(ErrorKind::UnexpectedEof, message));
    }
    Ok(())
}

/// Reads the whole regular file at `path`; `None` if nothing is there.
///
/// # Errors
/// Returns an error if something is there that cannot be read.
pub(crate) fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Returns the paths of everything in the directory `folder`, in no order.
///
/// # Errors
/// Returns an error if the directory cannot be opened or listed.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    // The standard library's reader panics if the directory cannot be closed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(folder, flags, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in Dir::read_from(open)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push(folder.join(OsStr::from_bytes(name)));
        }
    }
    Ok(entries)
}

/// Whether anything is at `path`. Links are followed.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    Ok(metadata(path)?.is_some())
}

/// Whether a file is at `path`. Links are followed.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn is_file(path: &Path) -> Result<bool> {
    // What is neither a file nor a directory is refused when it is opened, not passed over.
    Ok(metadata(path)?.is_some_and(|found| !found.is_dir()))
}

/// Whether a directory is at `path`. Links are followed.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn is_dir(path: &Path) -> Result<bool> {
    Ok(metadata(path)?.is_some_and(|found| found.is_dir()))
}

/// Whether a symbolic link is at `path`.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn is_link(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_symlink()),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn metadata(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Whether `error` says that nothing is at a path.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    // A path below a file leads to nothing either.
    [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind())
}

/// Returns the error about a file or directory that exists and cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Error {
    let failure = Error::failed(format!("cannot read {}: {error}", path.display()));
    match error.kind() {
        ErrorKind::PermissionDenied => {
            failure.hint("permission was denied: check the owner and mode of the file")
        }
        ErrorKind::InvalidFilename => {
            failure.hint("most file systems take names of up to 255 bytes: choose a shorter one")
        }
        _ => failure,
    }
}

/// Returns what a message calls a file of this type.
pub(super) fn kind(found: FileType) -> &'static str {
    if found.is_symlink() {
        "a symbolic link"
    } else if found.is_fifo() {
        "a FIFO"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_dir() {
        "a directory"
    } else if found.is_file() {
        "a file"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::store;

    #[test]
    fn absent_and_unreadable_are_different() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        store::write(&at("file"), b"bytes").unwrap();
        store::create_dir(&at("folder")).unwrap();
        #[expect(clippy::disallowed_methods)]
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        let present = |name: &str| read_if_present(&at(name)).map_err(|error| error.message);
        assert_eq!(present("file").unwrap().unwrap(), b"bytes");
        assert_eq!(present("nothing").unwrap(), None);
        assert_eq!(present("file/below").unwrap(), None);
        for name in ["folder", "loop"] {
            let message = present(name).unwrap_err();
            assert!(message.starts_with("cannot read "), "{message}");
        }
        for ask in [exists, is_file, is_dir] {
            assert!(!ask(&at("nothing")).unwrap() && ask(&at("loop")).is_err());
        }
        assert!(is_file(&at("file")).unwrap() && !is_dir(&at("file")).unwrap());
        assert_eq!(list(folder.path()).unwrap().len(), 3);
        assert!(list(&at("file")).is_err());
    }

    /// A file of the kernel's says that it has a page, and ends earlier.
    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let path = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
        if path.exists() {
            let error = read(path).unwrap_err().to_string();
            assert!(error.starts_with("it ended after "), "{error}");
            store::digest(path).unwrap_err();
        }
    }

    #[test]
    fn devices_are_not_read() {
        for path in ["/dev/zero", "/dev/null"] {
            let error = read(Path::new(path)).unwrap_err().to_string();
            assert_eq!(error, "it is a device, and only files are read");
        }
    }
}
