//! Foreign dataset formats. One format is one file, and one line of [`FORMATS`].
//!
//! A reader turns a foreign dataset into a stream of whole trajectories with canonical columns; it holds one
//! trajectory, never the dataset. [`import`] numbers them and writes shards. Nothing in a file is ever executed.

#[path = "../transfer/read/align.rs"]
pub mod adapt;
mod arrow;
#[path = "../container/blosc.rs"]
mod blosc;
#[path = "../inspect/steps.rs"]
pub mod check;
mod d3rlpy;
mod d4rl;
#[path = "../transfer/write/arrays.rs"]
mod dense;
#[path = "../inspect/diff.rs"]
pub mod diff;
mod exorl;
#[path = "../transfer/write/export.rs"]
pub mod export;
#[path = "../transfer/read/concatenated/mod.rs"]
mod flat;
#[path = "../transfer/read/per_trajectory.rs"]
mod grouped;
#[path = "../container/hdf5/mod.rs"]
mod hdf5;
#[path = "../transfer/read/import.rs"]
pub mod import;
#[path = "../transfer/roundtrip/envelope.rs"]
mod kept;
mod lerobot;
mod lerobot_v2_1;
mod minari;
mod npy;
mod npz;
mod ogbench;
#[path = "../transfer/read/options.rs"]
mod options;
#[path = "../transfer/write/dataset.rs"]
pub mod outgoing;
mod parquet;
#[path = "../transfer/read/arrays.rs"]
mod parts;
#[path = "../transfer/read/pattern.rs"]
mod pattern;
#[path = "../transfer/read/quarantine.rs"]
pub mod quarantine;
#[path = "../transfer/roundtrip/restore.rs"]
mod returning;
mod rlds;
mod robomimic;
mod robosuite;
#[path = "../transfer/read/table/convert.rs"]
mod table;
mod tensordict;
mod tfagents;
#[path = "../container/tfrecord.rs"]
mod tfrecord;
#[path = "../transfer/write/unlabelled.rs"]
mod unlabelled;
#[path = "../video/mod.rs"]
pub mod video;
mod zarr;

use std::path::Path;
use std::sync::Arc;

use ::arrow::array::RecordBatch;
use ::arrow::datatypes::{Schema, SchemaRef};

use crate::dataset::schema::step;
use crate::error::{Error, Result, caught};
pub use options::{Alignment, FinalAction, OnError, Options};
pub use outgoing::{Leaving, Outgoing, Unlabelled, WriteOptions, Writer, Written};
pub use video::Frames;

/// Every format, by name in alphabetical order.
pub const FORMATS: &[Format] = &[
    arrow::FORMAT,
    d3rlpy::FORMAT,
    d4rl::FORMAT,
    exorl::FORMAT,
    lerobot::FORMAT,
    lerobot_v2_1::FORMAT,
    minari::FORMAT,
    npy::FORMAT,
    npz::FORMAT,
    ogbench::FORMAT,
    parquet::FORMAT,
    rlds::FORMAT,
    robomimic::FORMAT,
    robosuite::FORMAT,
    tensordict::FORMAT,
    tfagents::FORMAT,
    zarr::FORMAT,
];

/// How a format is read.
pub struct Opener {
    /// Names of the [`Options`] that mean something to the format, besides `on_error`.
    pub takes: &'static [&'static str],
    /// Opens a dataset for reading.
    pub open: fn(&Path, &Options) -> Result<Box<dyn Source>>,
}

/// One entry of the registry.
pub struct Format {
    /// What `--from` and `format:` call it.
    pub name: &'static str,
    /// One line for the help.
    pub about: &'static str,
    /// Whether the file or directory looks like this format.
    pub detect: fn(&Path) -> bool,
    /// How a dataset is read; `None` where the format is only written.
    pub read: Option<Opener>,
    /// How a dataset is written; `None` where the format is only read.
    pub write: Option<Writer>,
    /// Holds a file or directory against the rules of the format's own loader; `None` where reading it is all the check.
    pub validate: Option<fn(&Path, &mut Findings) -> Result<()>>,
}

impl Format {
    /// How the format is read, if it can be with such `options`.
    ///
    /// # Errors
    /// Where it is only written, an option means nothing to it, or this build cannot do what one asks for.
    pub fn accepts(&self, options: &Options) -> Result<&Opener> {
        let opener = self.read.as_ref().ok_or_else(|| {
            Error::usage(format!("`{}` is a format that is only written", self.name))
        })?;
        let given = options.given()?;
        // What becomes of bad trajectories is the import's affair.
        self.takes(
            opener.takes,
            given
                .keys()
                .map(String::as_str)
                .filter(|name| *name != "on_error"),
        )?;
        if options.frames != Frames::Reference {
            video::version()?;
        }
        Ok(opener)
    }

    /// Holds the options that a user gave against those that the format takes.
    ///
    /// # Errors
    /// Where one means nothing to it.
    fn takes<'a>(&self, takes: &[&str], mut given: impl Iterator<Item = &'a str>) -> Result<()> {
        let Some(name) = given.find(|name| !takes.contains(name)) else {
            return Ok(());
        };
        let hint = if takes.is_empty() {
            "it takes none of the kind".to_owned()
        } else {
            format!("it takes {}", takes.join(", "))
        };
        Err(Error::usage(format!(
            "`{name}` means nothing to the format `{}`",
            self.name
        ))
        .hint(hint))
    }

    /// Opens the dataset at `path` for reading; what this tool wrote there comes back as it was. Where a decoder panics at damaged
    /// input, now or later, that is an error.
    ///
    /// # Errors
    /// Those of [`Format::accepts`], and where the dataset cannot be read.
    pub fn open(&self, path: &Path, options: &Options) -> Result<Box<dyn Source>> {
        let opener = self.accepts(options)?;
        let place = path.display().to_string();
        let inner = caught(&place, || {
            Ok(returning::returning((opener.open)(path, options)?, path))
        })?;
        Ok(Box::new(Caught {
            inner,
            place,
            broken: false,
        }))
    }
}

/// What `validate` found.
#[derive(Debug, Default)]
pub struct Findings {
    /// The first faults, at most [`Findings::KEPT`].
    pub faults: Vec<Fault>,
    /// Faults in all that make the dataset wrong.
    pub errors: u64,
    /// Faults in all that its owner should know of.
    pub warnings: u64,
    /// Trajectories looked at.
    pub trajectories: u64,
    /// Rows looked at.
    pub rows: u64,
}

/// One thing that is wrong with a dataset.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Whether a loader would refuse it or train on wrong values; if not, it is a warning.
    pub error: bool,
    /// A short name that stays the same, such as `nan-action`.
    pub rule: &'static str,
    /// File, trajectory, row.
    pub place: String,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
}

impl Findings {
    /// Faults that are kept; the others are only counted.
    pub const KEPT: usize = 1000;

    /// Adds something that a loader would refuse or train wrongly on.
    pub fn error(
        &mut self,
        rule: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.errors += 1;
        self.add(Fault {
            error: true,
            rule,
            place: place.into(),
            message: message.into(),
        });
    }

    /// Adds something that the owner should know of.
    pub fn warning(
        &mut self,
        rule: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.warnings += 1;
        self.add(Fault {
            error: false,
            rule,
            place: place.into(),
            message: message.into(),
        });
    }

    fn add(&mut self, fault: Fault) {
        if self.faults.len() < Findings::KEPT {
            self.faults.push(fault);
        }
    }
}

/// A foreign dataset, read one trajectory at a time.
pub trait Source {
    /// Columns of steps less `trajectory_id` and `step`: `observation`, `action`, `reward`, `terminated`,
    /// `truncated`, `is_final` in this order, then any other column under its own name.
    fn schema(&self) -> SchemaRef;

    /// Rows in all, where the source knows, for the progress bar.
    fn rows(&self) -> Option<u64>;

    /// What the source says of itself, verbatim.
    fn metadata(&self) -> serde_json::Map<String, serde_json::Value>;

    /// Columns of [`Incoming::about`]: what the source says of each trajectory besides its steps. `uid`, `source` and
    /// `source_key`, text, take the place of those that import would give; all columns are carried along.
    fn about(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    /// After [`Source::next`] has failed: how many trajectories that error stands for, where the next call goes on with
    /// those behind them, so that they can be set aside; `None` where it cannot go on.
    fn lost(&self) -> Option<u64> {
        None
    }

    /// The next trajectory, in the source's order.
    ///
    /// # Errors
    /// Where the source is damaged or contradicts itself; the message names file, trajectory, dataset or column, and
    /// the remedy.
    fn next(&mut self) -> Result<Option<Incoming>>;
}

/// One trajectory of a foreign dataset.
pub struct Incoming {
    /// The source's own id of it, as text.
    pub key: String,
    /// Its steps, and the observation after the last action where the source has it, as [`Source::schema`] says.
    pub steps: RecordBatch,
    /// One row of what the source says of it, as [`Source::about`] says; `None` where that has no columns.
    pub about: Option<RecordBatch>,
}

/// The format named `name`, or the one that `path` looks like.
///
/// # Errors
/// Where there is no such format, or none or several fit.
pub fn resolve(name: Option<&str>, path: &Path) -> Result<&'static Format> {
    let names = || {
        FORMATS
            .iter()
            .filter(|format| format.read.is_some())
            .map(|format| format.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(name) = name {
        return FORMATS
            .iter()
            .find(|format| format.name == name)
            .ok_or_else(|| {
                Error::usage(format!("unknown format `{name}`")).hint(format!("one of {}", names()))
            });
    }
    if !path.exists() {
        return Err(Error::failed(format!("{} does not exist", path.display())));
    }
    // Whatever upsets the look at a file is for the reader that fits to say.
    let fits =
        |format: &&Format| caught(path.display(), || Ok((format.detect)(path))).unwrap_or(false);
    FORMATS.iter().find(fits).ok_or_else(|| {
        Error::failed(format!("cannot tell the format of {}", path.display())).hint(format!(
            "name it, by --from or `format:`: one of {}",
            names()
        ))
    })
}

/// A source whose panics are errors.
struct Caught {
    inner: Box<dyn Source>,
    place: String,
    /// Whether it has failed in a way that nothing comes after: what a panic leaves is of no use.
    broken: bool,
}

impl Source for Caught {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> serde_json::Map<String, serde_json::Value> {
        self.inner.metadata()
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost().filter(|_| !self.broken)
    }

    fn next(&mut self) -> Result<Option<Incoming>> {
        self.broken = true;
        let next = caught(&self.place, || Ok(self.inner.next()))?;
        self.broken = false;
        next.map_err(Error::plainly)
    }
}

/// The name of a column that has no fixed meaning: its own, unless a column of steps with a fixed meaning is called so.
fn free_name(name: &str) -> String {
    let fixed = [
        step::TRAJECTORY_ID,
        step::STEP,
        step::OBSERVATION,
        step::ACTION,
        step::REWARD,
        step::TERMINATED,
        step::TRUNCATED,
        step::IS_FINAL,
        step::ACTION_SOURCE,
        step::ACTION_STD,
    ];
    if fixed.contains(&name) {
        format!("source_{name}")
    } else {
        name.to_owned()
    }
}

/// Whether the file at `path` begins with `bytes`; `false` where it cannot be read.
fn starts_with(path: &Path, bytes: &[u8]) -> bool {
    use std::io::Read;
    let mut found = vec![0; bytes.len()];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut found))
        .is_ok()
        && found == bytes
}
