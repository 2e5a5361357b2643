//! A directory for files that a command needs only while it runs.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{attempt, remove};
use crate::error::{Error, Result};

/// A directory in the system's temporary directory (`TMPDIR`), closed to other users. It is removed
/// with everything in it when the value is dropped.
#[derive(Debug)]
pub(crate) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    /// Creates a directory that did not exist before.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created.
    pub(crate) fn create() -> Result<TemporaryDir> {
        let folder = std::env::temp_dir();
        for attempt_number in 0_u32.. {
            let path = folder.join(format!("trajmill-{}-{attempt_number}", std::process::id()));
            let created = attempt("create", &path, || {
                match fs::DirBuilder::new().mode(0o700).create(&path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                    created => created.map(|()| true),
                }
            });
            let hint = "set TMPDIR to a directory with space for the data";
            if created.map_err(|error| error.hint(hint))? {
                return Ok(TemporaryDir(path));
            }
        }
        Err(Error::failed(format!(
            "every temporary name in {} is taken",
            folder.display()
        )))
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // The system's own cleanup removes what cannot be removed now.
        let _ = remove(&self.0);
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
}
