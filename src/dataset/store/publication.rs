//! The renames that make a result visible, also on file systems that know only the plain rename.

use std::path::Path;

use super::{attempt, faults};
use crate::error::Result;

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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::dataset::store::{create_dir, write};

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
