//! Bad trajectories that an import sets aside: one line of JSON each, with the trajectory's
//! position in the source and the reason.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dataset::files;
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};

/// The file in a dataset's directory. It exists only if a trajectory was set aside.
pub const FILE: &str = "quarantine.jsonl";

/// The hint for an error that affects one trajectory only.
pub(crate) const REMEDY: &str = "to import the others, set bad trajectories aside with \
     `--on-error quarantine` (in a pipeline, `on_error: quarantine`)";

/// One line: trajectories that were set aside for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The position of the first of them in the source, from 0.
    pub index: u64,
    /// The number of trajectories. It is more than 1 if the fault hides where the next one begins.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub trajectories: u64,
    /// What is wrong.
    pub reason: String,
    /// The source, if a result has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_one(count: &u64) -> bool {
    *count == 1
}

/// What an import set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAside {
    /// The number of trajectories.
    pub trajectories: u64,
    /// The first line.
    pub first: Option<Aside>,
}

impl SetAside {
    /// Reads what the import of the dataset at `root` set aside.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read(root: &Path) -> Result<SetAside> {
        let mut found = SetAside::default();
        lines(root, |aside| {
            found.add(aside);
            Ok(())
        })?;
        Ok(found)
    }

    fn add(&mut self, aside: Aside) {
        self.trajectories = self.trajectories.saturating_add(aside.trajectories);
        self.first.get_or_insert(aside);
    }
}

/// The file while it is written.
pub(crate) struct Quarantine {
    path: PathBuf,
    file: Option<BufWriter<HashingFile>>,
    found: SetAside,
}

impl Quarantine {
    /// Starts the file of the dataset that is written at `root`.
    pub(crate) fn new(root: &Path) -> Quarantine {
        Quarantine {
            path: root.join(FILE),
            file: None,
            found: SetAside::default(),
        }
    }

    /// Adds a line.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn add(&mut self, aside: Aside) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::new(HashingFile::create(&self.path)?)),
        };
        let line =
            serde_json::to_string(&aside).map_err(|error| Error::failed(error.to_string()))?;
        file.write_all(format!("{line}\n").as_bytes())?;
        self.found.add(aside);
        Ok(())
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn finish(self) -> Result<SetAside> {
        if let Some(file) = self.file {
            file.into_inner()
                .map_err(std::io::IntoInnerError::into_error)?
                .finish()?;
        }
        Ok(self.found)
    }
}

/// Calls `take` for each line of the file in the dataset at `root`, if there is one.
fn lines(root: &Path, mut take: impl FnMut(Aside) -> Result<()>) -> Result<()> {
    let path = root.join(FILE);
    let failed = |what: String| Error::failed(format!("cannot read {}: {what}", path.display()));
    let file = match files::open(&path) {
        Err(error) if files::is_absent(&error) => return Ok(()),
        file => file.map_err(|error| failed(error.to_string()))?,
    };
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| failed(error.to_string()))?;
        take(serde_json::from_str(&line).map_err(|error| failed(error.to_string()))?)?;
    }
    Ok(())
}

/// Copies the lines of the imports of `sources`, each a name and a dataset, into the dataset that
/// is written at `root`. Returns the number of trajectories.
///
/// # Errors
/// Returns an error if a file cannot be read or written.
pub fn carry(root: &Path, sources: &[(&str, &Path)]) -> Result<u64> {
    // A killed run may have left a file.
    store::remove(&root.join(FILE))?;
    let mut quarantine = Quarantine::new(root);
    for (name, source) in sources {
        let source_name = (sources.len() > 1).then(|| (*name).to_owned());
        lines(source, |aside| {
            quarantine.add(Aside {
                source: source_name.clone(),
                ..aside
            })
        })?;
    }
    Ok(quarantine.finish()?.trajectories)
}
