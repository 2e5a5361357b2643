//! The files of a zarr store: a directory, or a zip archive.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use zip::ZipArchive;

use crate::dataset::files;
use crate::error::{Error, Result};

/// The place of the files.
pub(crate) enum Store {
    Folder(PathBuf),
    Zip {
        path: PathBuf,
        archive: Box<ZipArchive<BufReader<File>>>,
    },
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Store> {
        if files::is_dir(path)? {
            return Ok(Store::Folder(path.to_owned()));
        }
        let damaged = |error: String| {
            Error::failed(format!(
                "{}: not a readable zip file: {error}",
                path.display()
            ))
            .hint("the file may be cut short: fetch it again")
        };
        let file = files::open(path).map_err(|error| damaged(error.to_string()))?;
        let archive =
            ZipArchive::new(BufReader::new(file)).map_err(|error| damaged(error.to_string()))?;
        Ok(Store::Zip {
            path: path.to_owned(),
            archive: Box::new(archive),
        })
    }

    pub(crate) fn place(&self, name: &str) -> String {
        match self {
            Store::Folder(root) => root.join(name).display().to_string(),
            Store::Zip { path, .. } => format!("{}: {name}", path.display()),
        }
    }

    /// Returns the bytes of a file, which may be at most `most`; `None` if there is no such file.
    pub(crate) fn get(&mut self, name: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let place = self.place(name);
        let failed = |error: String| {
            Error::failed(format!("cannot read {place}: {error}"))
                .hint("the file may be damaged: fetch it again")
        };
        let mut bytes = Vec::new();
        match self {
            Store::Folder(root) => match files::open(&root.join(name)) {
                Ok(file) => file
                    .take(most as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|error| failed(error.to_string()))?,
                Err(error) if files::is_absent(&error) => return Ok(None),
                Err(error) => return Err(failed(error.to_string())),
            },
            Store::Zip { archive, .. } => match archive.by_name(name) {
                Ok(entry) => entry
                    .take(most as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|error| failed(error.to_string()))?,
                Err(zip::result::ZipError::FileNotFound) => return Ok(None),
                Err(error) => return Err(failed(error.to_string())),
            },
        };
        if bytes.len() > most {
            Err(failed(format!("it is larger than {most} bytes")))
        } else {
            Ok(Some(bytes))
        }
    }

    pub(crate) fn json(&mut self, name: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.get(name, 16 << 20)? else {
            return Ok(None);
        };
        let place = self.place(name);
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|error| {
            Error::failed(format!("{place}: not JSON: {error}"))
                .hint("the file is damaged: fetch it again")
        })
    }

    /// Returns the names of the arrays under `group`, at any depth, in order.
    pub(crate) fn arrays(&self, group: &str) -> Result<Vec<String>> {
        fn walk(folder: &Path, name: &str, into: &mut Vec<String>, depth: usize) -> Result<()> {
            let failed = |error: std::io::Error| {
                Error::failed(format!("cannot list {}: {error}", folder.display()))
                    .hint("a replay buffer has the groups `data` and `meta`: fetch it again")
            };
            if files::is_file(&folder.join(".zarray"))? {
                into.push(name.to_owned());
            } else if depth < 8 {
                for entry in files::list(folder).map_err(failed)? {
                    if files::is_dir(&entry)? {
                        let own = entry.file_name().unwrap_or_default();
                        let own = own.to_string_lossy().into_owned();
                        walk(
                            &entry,
                            &if name.is_empty() {
                                own
                            } else {
                                format!("{name}/{own}")
                            },
                            into,
                            depth + 1,
                        )?;
                    }
                }
            }
            Ok(())
        }
        let mut names = Vec::new();
        match self {
            Store::Folder(root) => {
                walk(&root.join(group), "", &mut names, 0)?;
            }
            Store::Zip { archive, .. } => {
                let own = |name: &str| {
                    Some(
                        name.strip_prefix(group)?
                            .strip_prefix('/')?
                            .strip_suffix("/.zarray")?
                            .to_owned(),
                    )
                };
                names = archive
                    .file_names()
                    .filter_map(|name| own(&name.ok()?))
                    .collect();
            }
        }
        names.sort();
        Ok(names)
    }
}
