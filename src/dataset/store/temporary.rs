//! A directory for files that a command needs only while it runs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::whole::{is_at, lock};
use super::{attempt, remove};
use crate::dataset::files;
use crate::error::{Error, Result};

/// A directory in the system's temporary directory (`TMPDIR`), closed to other users. It is removed
/// with everything in it when the value is dropped. A process that is killed leaves it there, and
/// the next one of the same user that creates such a directory removes it: the lock on a directory
/// tells whether its process still lives.
#[derive(Debug)]
pub(crate) struct TemporaryDir {
    path: PathBuf,
    /// The directory, which is locked as long as it is open.
    _open: File,
}

impl TemporaryDir {
    /// Creates a directory that did not exist before.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created.
    pub(crate) fn create() -> Result<TemporaryDir> {
        TemporaryDir::create_in(&std::env::temp_dir())
    }

    fn create_in(folder: &Path) -> Result<TemporaryDir> {
        remove_abandoned(folder);
        for attempt_number in 0_u32.. {
            let path = folder.join(format!("trajmill-{}-{attempt_number}", std::process::id()));
            let created = attempt("create", &path, || {
                match fs::DirBuilder::new().mode(0o700).create(&path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                    created => created?,
                }
                let open = open(&path)?;
                // Some file systems have no locks. Then nobody can remove what is abandoned.
                let _ = rustix::fs::flock(&open, FlockOperation::LockExclusive);
                // Before it was locked, another process may have taken it for an abandoned one.
                Ok(is_at(&open, &path).then_some(open))
            });
            let hint = "set TMPDIR to a directory with space for the data";
            if let Some(open) = created.map_err(|error| error.hint(hint))? {
                return Ok(TemporaryDir { path, _open: open });
            }
        }
        Err(Error::failed(format!(
            "every temporary name in {} is taken",
            folder.display()
        )))
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // What remains, the next process that needs a temporary directory removes.
        let _ = remove(&self.path);
    }
}

/// Opens a directory, but follows no link.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Removes the temporary directories in `folder` that killed processes of this user left there.
/// What cannot be removed stays.
fn remove_abandoned(folder: &Path) {
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let numbers = name.and_then(|name| name.strip_prefix("trajmill-")?.split_once('-'));
        let are_numbers = numbers.is_some_and(|(process, number)| {
            process.parse::<u32>().is_ok() && number.parse::<u32>().is_ok()
        });
        let found = || path.symlink_metadata();
        are_numbers && found().is_ok_and(|found| found.is_dir() && found.uid() == user)
    };
    for path in files::list(folder).unwrap_or_default() {
        if !is_ours(&path) {
            continue;
        }
        if let Ok(open) = open(&path)
            && lock(&open)
            && is_at(&open, &path)
        {
            let _ = remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_temporary_directory_is_private_and_goes_with_its_value() {
        let (one, two) = (
            TemporaryDir::create().unwrap(),
            TemporaryDir::create().unwrap(),
        );
        assert_ne!(one.path(), two.path());
        let mode = one.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let path = one.path().to_owned();
        fs::create_dir(path.join("sub")).unwrap();
        drop(one);
        assert!(!path.exists() && two.path().exists());
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_lives_stays() {
        let folder = tempfile::tempdir().unwrap();
        let living = TemporaryDir::create_in(folder.path()).unwrap();
        let [killed, other] = ["trajmill-1-0", "trajmill-1-x"].map(|name| folder.path().join(name));
        for path in [&killed, &other] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("dataset"), "rows").unwrap();
        }
        let next = TemporaryDir::create_in(folder.path()).unwrap();
        assert!(!killed.exists() && other.exists());
        assert!(living.path().exists() && next.path().exists());
    }
}
