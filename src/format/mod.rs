//! Foreign dataset formats. A format is one file or folder here, and one line of [`FORMATS`].
//!
//! An entry tells how datasets of the format are recognised, read, written and validated. The code
//! that formats share is in [`crate::transfer`] (trajectories) and [`crate::container`] (files).

mod aloha;
mod arrow;
mod csv;
mod d3rlpy;
mod d4rl;
mod exorl;
mod jsonl;
mod lerobot;
mod maniskill;
mod minari;
mod npy;
mod npz;
mod ogbench;
mod parquet;
mod rlds;
mod robomimic;
mod tensordict;
mod tfagents;
mod videofolder;
mod zarr;

use std::path::Path;

use serde_json::Value;

use crate::container::{self, hdf5};
use crate::dataset::files;
use crate::dataset::schema::step;
use crate::error::{Error, Result, caught, nearest};
use crate::inspect::{self, Findings};
use crate::transfer::read::arrays::listing;
use crate::transfer::read::task::Tasked;
use crate::transfer::read::{Guarded, OnError, Options, Reader, Source};
use crate::transfer::roundtrip::{marks, note, restore};
use crate::transfer::write::{WriteOptions, Writer};
use crate::video::{self, Frames, Videos};

/// Every format, by name in alphabetical order.
pub const FORMATS: &[Format] = &[
    aloha::FORMAT,
    arrow::FORMAT,
    csv::FORMAT,
    d3rlpy::FORMAT,
    d4rl::FORMAT,
    exorl::FORMAT,
    jsonl::FORMAT,
    lerobot::FORMAT,
    lerobot::V2_1,
    maniskill::FORMAT,
    minari::FORMAT,
    npy::FORMAT,
    npz::FORMAT,
    ogbench::FORMAT,
    parquet::FORMAT,
    rlds::FORMAT,
    robomimic::FORMAT,
    robomimic::ROBOSUITE,
    tensordict::FORMAT,
    tfagents::FORMAT,
    videofolder::FORMAT,
    zarr::FORMAT,
];

/// One entry of the registry.
pub struct Format {
    /// The name in `--from`, `--to` and `format:`.
    pub name: &'static str,
    /// How a file or directory of this format is recognised; `None` if the user has to name the
    /// format.
    pub detection: Option<Detection>,
    /// How a dataset is read; `None` if the format is only written.
    pub read: Option<Reader>,
    /// How a dataset is written; `None` if the format is only read.
    pub write: Option<Writer>,
    /// Finds violations of the rules of the format's own loader; `None` if reading the dataset
    /// shows all of them.
    pub validate: Option<fn(&Path, &mut Findings) -> Result<()>>,
}

/// How a format is recognised.
pub struct Detection {
    /// The strength of the evidence that `probe` looks for.
    pub evidence: Evidence,
    /// Returns whether a file or directory looks like the format.
    ///
    /// An error means that this cannot be found out, so that no weaker match is taken instead.
    pub probe: fn(&Path) -> Result<bool>,
}

/// The strength of evidence for a format, strongest first. Formats with stronger evidence are tried
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// A file name, or first bytes of a file, that only this format has.
    Marker,
    /// The names of files or arrays that the format prescribes.
    Layout,
    /// The type of a file, such as HDF5, which other formats share.
    Container,
}

impl Format {
    /// Returns the reader of the format, if it takes `options`.
    ///
    /// # Errors
    /// Returns an error if the format is only written, if it does not take an option, or if this
    /// build lacks what an option needs.
    pub fn accepts(&self, options: &Options) -> Result<&Reader> {
        let reader = self.read.as_ref().ok_or_else(|| {
            Error::usage(format!("trajmill cannot read the format `{}`", self.name))
                .hint("this format can only be written")
        })?;
        let given = options.given()?;
        let videos = (options.videos != Videos::default()).then_some("videos");
        // The import handles bad trajectories and tasks of every format, and every reader takes the
        // choice of columns.
        let given = given.keys().map(|name| match name.as_str() {
            "frames" if !reader.takes.contains(&"frames") => options.frames.named(),
            name => name,
        });
        self.verify_options(
            reader.takes,
            given
                .chain(videos)
                .filter(|name| !["on_error", "non_finite", "only", "skip", "task"].contains(name)),
        )?;
        if options.frames.kind != Frames::Reference {
            video::version()?;
        }
        Ok(reader)
    }

    /// Whether the format refers to videos, which a dataset that is made from it can own.
    pub fn has_videos(&self) -> bool {
        let reader = self.read.as_ref();
        reader.is_some_and(|reader| reader.takes.contains(&"videos"))
    }

    /// Verifies that the format takes all options that the user gave.
    ///
    /// # Errors
    /// Returns an error if it does not take one of them.
    fn verify_options<'a>(
        &self,
        takes: &[&str],
        mut given: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        let Some(name) = given.find(|name| !takes.contains(name)) else {
            return Ok(());
        };
        let hint = if takes.is_empty() {
            "this format has no options of its own".to_owned()
        } else {
            format!("the options of this format are {}", takes.join(", "))
        };
        Err(Error::usage(format!(
            "the format `{}` does not take the option `{name}`",
            self.name
        ))
        .hint(hint))
    }

    /// Returns the writer of the format, if it takes `options`.
    ///
    /// # Errors
    /// Returns an error if the format is only read, or if it does not take an option.
    pub fn writes(&self, options: &WriteOptions) -> Result<&Writer> {
        let writer = self.write.as_ref().ok_or_else(|| {
            Error::usage(format!("trajmill cannot write the format `{}`", self.name))
                .hint("this format can only be read")
        })?;
        self.verify_options(writer.takes, options.given())?;
        Ok(writer)
    }

    /// Finds the faults of the dataset at `path`: violations of the rules of the format's own
    /// loader, and the faults that [`inspect::Steps`] finds.
    ///
    /// # Errors
    /// Returns an error if the dataset cannot be read at all.
    pub fn validate(&self, path: &Path, options: &Options) -> Result<Findings> {
        let mut findings = Findings::default();
        match self.validate {
            Some(own) => caught(path.display(), || own(path, &mut findings))?,
            None => self.read_through(path, options, &mut findings),
        }
        Ok(findings)
    }

    /// Reads every trajectory of the dataset at `path`, and adds the faults of its steps to
    /// `findings`.
    fn read_through(&self, path: &Path, options: &Options, findings: &mut Findings) {
        let options = Options {
            on_error: OnError::Quarantine,
            ..options.clone()
        };
        match self.open(path, &options) {
            Ok(source) => inspect::read_through(source, findings),
            Err(error) => {
                findings.error("unreadable", path.display().to_string(), error.to_string())
            }
        }
    }

    /// Opens the dataset at `path` for reading. An output of trajmill is restored to the exported
    /// dataset. A panic of a decoder on damaged input becomes an error, now and later.
    ///
    /// # Errors
    /// Returns the errors of [`Format::accepts`], and an error if the dataset cannot be read.
    pub fn open(&self, path: &Path, options: &Options) -> Result<Box<dyn Source>> {
        let reader = self.accepts(options)?;
        let place = path.display().to_string();
        let inner = caught(&place, || {
            let source = marks::of_own_actions((reader.open)(path, options)?, options);
            let source = restore::restored(source, origin(path)?.as_ref());
            Ok(match &options.task {
                Some(task) => Box::new(Tasked::new(source, task.clone())),
                None => source,
            })
        })?;
        Ok(Box::new(Guarded::new(inner, place)))
    }
}

/// A kind of file of arrays, and the format that reads arrays of any names from it.
type Kind = (fn(&Path) -> Result<bool>, &'static str);

/// The kinds of files of arrays.
const KINDS: [Kind; 2] = [(hdf5::is_hdf5, "d4rl"), (container::npz::is_npz, "npz")];

/// Returns the format named `name`, or the one that `path` looks like. If `options` say which array
/// holds the observations, the kind of file tells the format of arrays of any other names.
///
/// # Errors
/// Returns an error if there is no such format, or if `path` looks like none.
pub fn resolve(name: Option<&str>, path: &Path, options: &Options) -> Result<&'static Format> {
    let known = |name: &str| FORMATS.iter().find(|format| format.name == name);
    let names = || {
        FORMATS
            .iter()
            .filter(|format| format.read.is_some())
            .map(|format| format.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(name) = name {
        return known(name).ok_or_else(|| {
            Error::usage(format!("unknown format `{name}`"))
                .hint(format!("the formats are {}", names()))
        });
    }
    if !files::exists(path)? {
        return Err(Error::failed(format!("{} does not exist", path.display())));
    }
    if let Some(format) = detect(path)? {
        return Ok(format);
    }
    let mut kind = None;
    for (is_kind, name) in KINDS {
        if is_kind(path)? {
            kind = known(name);
        }
    }
    let mapped = options
        .map
        .iter()
        .any(|(name, _)| name == step::OBSERVATION);
    let error = Error::failed(format!("cannot tell the format of {}", path.display()));
    let error = match kind {
        Some(format) if mapped => return Ok(format),
        Some(format) => error.hint(contents(path, format)).hint(
            "if its arrays hold all trajectories, one after the other, name them with `--map \
             observation=ARRAY --map action=ARRAY` and so on (`map:` in a pipeline)",
        ),
        None => error,
    };
    Err(error.hint(format!(
        "name the format with `--from`, or `format:` in a pipeline: {}",
        names()
    )))
}

/// Lists the arrays of the file at `path`, which `format` would read, or says why it cannot.
fn contents(path: &Path, format: &Format) -> String {
    let arrays = || match format.name {
        "npz" => container::npz::arrays(path, &|_| true),
        _ => Ok(hdf5::stored_arrays(&hdf5::open(path)?, path, hdf5::all, &hdf5::all)?.0),
    };
    caught(path.display(), arrays).map_or_else(|error| error.message, |found| listing(&found))
}

/// Returns the format that `path` looks like, by the strongest evidence.
fn detect(path: &Path) -> Result<Option<&'static Format>> {
    for evidence in [Evidence::Marker, Evidence::Layout, Evidence::Container] {
        for format in FORMATS {
            // A probe that cannot read the file decides nothing, and another format must not claim
            // the file for that reason.
            if let Some(detection) = &format.detection
                && detection.evidence == evidence
                && caught(path.display(), || (detection.probe)(path))?
            {
                return Ok(Some(format));
            }
        }
    }
    Ok(None)
}

/// Returns the format `name`, which can be written.
///
/// # Errors
/// Returns an error if there is none; the hint names the formats that can be written.
pub(crate) fn writable(name: &str) -> Result<&'static Format> {
    let known: Vec<&str> = FORMATS
        .iter()
        .filter(|format| format.write.is_some())
        .map(|format| format.name)
        .collect();
    FORMATS
        .iter()
        .find(|format| format.name == name && format.write.is_some())
        .ok_or_else(|| {
            let hint = nearest(name, known.iter().copied()).map_or_else(
                || format!("the formats are {}", known.join(", ")),
                |meant| format!("did you mean `{meant}`?"),
            );
            Error::usage(format!("trajmill cannot write the format `{name}`")).hint(hint)
        })
}

/// Returns the note of origin of the output at `path`; `None` if trajmill did not write it.
///
/// # Errors
/// Returns an error if a note exists that cannot be read or is damaged.
pub(crate) fn origin(path: &Path) -> Result<Option<Value>> {
    if files::is_dir(path)? {
        return note::of_directory(path);
    }
    let notes = FORMATS
        .iter()
        .filter_map(|format| format.write.as_ref()?.note);
    for note in notes {
        if let Some(note) = note(path)? {
            return Ok(Some(note));
        }
    }
    Ok(None)
}
