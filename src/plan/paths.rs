//! The paths that a pipeline reads and writes: no result may overwrite a source or another result.

use std::path::{Path, PathBuf};

use crate::dataset::layout;

/// What is wrong with a path, and how to fix it.
pub(super) type Conflict = (&'static str, &'static str);

/// The paths that are in use.
pub(super) struct Paths {
    sources: Vec<PathBuf>,
    outputs: Vec<PathBuf>,
}

impl Paths {
    /// Returns the paths of a pipeline that reads `sources`.
    pub(super) fn new(sources: Vec<PathBuf>) -> Paths {
        let outputs = Vec::new();
        Paths { sources, outputs }
    }

    /// Takes `path` for a result, or says why it cannot be taken.
    pub(super) fn claim(&mut self, path: &Path) -> Option<Conflict> {
        let is_source = |source: &PathBuf| {
            source == path || destination(path).is_some_and(|path| path == real(source))
        };
        let conflict = if path.file_name().is_none() {
            Some((
                "the output path must end in a name",
                "write `path: out/NAME`",
            ))
        } else if self.outputs.iter().any(|output| output == path) {
            Some((
                "two stages write to the same path",
                "give each result its own path",
            ))
        } else if self.sources.iter().any(is_source) {
            Some((
                "the output is one of the sources",
                "write to another path: a source is never changed",
            ))
        } else {
            None
        };
        self.outputs.push(path.to_owned());
        conflict
    }

    /// Says whether `path` lies inside a source.
    pub(super) fn inside_source(&self, path: &Path) -> Option<Conflict> {
        let path = destination(path)?;
        let folder = path.parent()?;
        let inside = self
            .sources
            .iter()
            .any(|source| folder.starts_with(real(source)));
        inside.then_some((
            "the output lies inside one of the sources",
            "write to another path: a source is never changed",
        ))
    }
}

/// Returns `path` with links followed, or `path` itself if nothing is there.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Returns the path where a result will stand: links in its folder are followed as far as the
/// folder exists, and a link at the path itself is replaced.
fn destination(path: &Path) -> Option<PathBuf> {
    let (name, folder) = (path.file_name()?, layout::folder(path));
    let there = folder
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("."));
    let missing = folder.strip_prefix(there).unwrap_or(folder);
    Some(real(there).join(missing).join(name))
}
