//! The paths that a pipeline reads and writes: no result may overwrite a source or another result.

use std::path::{Path, PathBuf};

use crate::dataset::{files, layout};

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
        let is_source = match is_one_of(path, &self.sources) {
            Ok(is_source) => is_source,
            Err(conflict) => return Some(conflict),
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
        } else if is_source {
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
        match is_inside(path, &self.sources) {
            Ok(inside) => inside.then_some((
                "the output lies inside one of the sources",
                "write to another path: a source is never changed",
            )),
            Err(conflict) => Some(conflict),
        }
    }
}

/// The conflict if links cannot be followed, so that it is not known what the result would replace.
const UNKNOWN: Conflict = (
    "the folder of the output or of a source cannot be read",
    "check that the folders exist and that you may read them",
);

fn is_one_of(path: &Path, sources: &[PathBuf]) -> Result<bool, Conflict> {
    let Some(destination) = destination(path)? else {
        return Ok(sources.iter().any(|source| source == path));
    };
    for source in sources {
        if source == path || destination == real(source)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_inside(path: &Path, sources: &[PathBuf]) -> Result<bool, Conflict> {
    let Some(destination) = destination(path)? else {
        return Ok(false);
    };
    for source in sources {
        if layout::folder(&destination).starts_with(real(source)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns `path` with links followed, or `path` itself if nothing is there.
fn real(path: &Path) -> Result<PathBuf, Conflict> {
    match path.canonicalize() {
        Err(error) if files::is_absent(&error) => Ok(path.to_owned()),
        real => real.map_err(|_| UNKNOWN),
    }
}

/// Returns the path where a result will stand: links in its folder are followed as far as the
/// folder exists, and a link at the path itself is replaced. `None` if the path ends in no name.
fn destination(path: &Path) -> Result<Option<PathBuf>, Conflict> {
    let Some(name) = path.file_name() else {
        return Ok(None);
    };
    let folder = layout::folder(path);
    let mut there = Path::new(".");
    for ancestor in folder.ancestors() {
        if files::is_dir(ancestor).map_err(|_| UNKNOWN)? {
            there = ancestor;
            break;
        }
    }
    let missing = folder.strip_prefix(there).unwrap_or(folder);
    Ok(Some(real(there)?.join(missing).join(name)))
}
