//! Dataset formats of others. One format is one file or folder, and one line of [`FORMATS`].
//!
//! A format says how its datasets are recognised, read, written and validated. What formats share is in
//! [`crate::transfer`] (trajectories) and [`crate::container`] (files).

mod arrow;
mod d3rlpy;
mod d4rl;
mod exorl;
mod lerobot;
mod minari;
mod npy;
mod npz;
mod ogbench;
mod parquet;
mod rlds;
mod robomimic;
mod tensordict;
mod tfagents;
mod zarr;

use std::path::Path;

use serde_json::Value;

use crate::dataset::files;
use crate::error::{Error, Result, caught, nearest};
use crate::inspect::{self, Findings};
use crate::transfer::read::{Guarded, OnError, Options, Reader, Source};
use crate::transfer::roundtrip::{note, restore};
use crate::transfer::write::{WriteOptions, Writer};
use crate::video::{self, Frames};

/// Every format, by name in alphabetical order.
pub const FORMATS: &[Format] = &[
    arrow::FORMAT,
    d3rlpy::FORMAT,
    d4rl::FORMAT,
    exorl::FORMAT,
    lerobot::FORMAT,
    lerobot::V2_1,
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
    zarr::FORMAT,
];

/// One entry of the registry.
pub struct Format {
    /// What `--from` and `format:` call it.
    pub name: &'static str,
    /// One line for the help.
    pub about: &'static str,
    /// How a file or directory of this format is recognised; `None` if it has to be named.
    pub detection: Option<Detection>,
    /// How a dataset is read; `None` if the format is only written.
    pub read: Option<Reader>,
    /// How a dataset is written; `None` where the format is only read.
    pub write: Option<Writer>,
    /// Holds a file or directory against the rules of the format's own loader; `None` where reading it is all the check.
    pub validate: Option<fn(&Path, &mut Findings) -> Result<()>>,
}

/// How a format is recognised.
pub struct Detection {
    /// What a match rests on.
    pub evidence: Evidence,
    /// Whether the file or directory looks like the format.
    ///
    /// An error means that this cannot be found out, so that no weaker match is taken instead.
    pub probe: fn(&Path) -> Result<bool>,
}

/// What a match rests on, strongest first: formats with stronger evidence are tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// A file, or first bytes, that only this format has.
    Marker,
    /// The names of the files or arrays that the format prescribes.
    Layout,
    /// The kind of file alone: formats with names of their own have been tried before.
    Container,
}

impl Format {
    /// How the format is read, if it can be with such `options`.
    ///
    /// # Errors
    /// Where it is only written, an option means nothing to it, or this build cannot do what one asks for.
    pub fn accepts(&self, options: &Options) -> Result<&Reader> {
        let reader = self.read.as_ref().ok_or_else(|| {
            Error::usage(format!("`{}` is a format that is only written", self.name))
        })?;
        let given = options.given()?;
        // What becomes of bad trajectories is the import's affair.
        self.takes(
            reader.takes,
            given
                .keys()
                .map(String::as_str)
                .filter(|name| *name != "on_error"),
        )?;
        if options.frames != Frames::Reference {
            video::version()?;
        }
        Ok(reader)
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

    /// How the format is written with `options`.
    ///
    /// # Errors
    /// Returns an error if the format is only read, or if an option means nothing to it.
    pub fn writes(&self, options: &WriteOptions) -> Result<&Writer> {
        let writer = self.write.as_ref().ok_or_else(|| {
            Error::usage(format!("`{}` is a format that is only read", self.name))
        })?;
        self.takes(writer.takes, options.given())?;
        Ok(writer)
    }

    /// Verifies the dataset at `path` against the rules of its format's loader, and its steps against
    /// [`inspect::Steps`].
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

    /// Reads the dataset at `path` from its first trajectory to its last, and adds what is wrong with its steps to
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

    /// Opens the dataset at `path` for reading; what this tool wrote there comes back as it was. A panic of a decoder at
    /// damaged input, now or later, is an error.
    ///
    /// # Errors
    /// Returns the errors of [`Format::accepts`], and an error if the dataset cannot be read.
    pub fn open(&self, path: &Path, options: &Options) -> Result<Box<dyn Source>> {
        let reader = self.accepts(options)?;
        let place = path.display().to_string();
        let inner = caught(&place, || {
            let source = (reader.open)(path, options)?;
            Ok(restore::restored(source, origin(path)?.as_ref()))
        })?;
        Ok(Box::new(Guarded::new(inner, place)))
    }
}

/// The format named `name`, or the one that `path` looks like.
///
/// # Errors
/// Returns an error if there is no such format, or if `path` looks like none.
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
    if !files::exists(path)? {
        return Err(Error::failed(format!("{} does not exist", path.display())));
    }
    detect(path)?.ok_or_else(|| {
        Error::failed(format!("cannot tell the format of {}", path.display())).hint(format!(
            "name it, by --from or `format:`: one of {}",
            names()
        ))
    })
}

/// The format that `path` looks like, by the strongest evidence.
fn detect(path: &Path) -> Result<Option<&'static Format>> {
    for evidence in [Evidence::Marker, Evidence::Layout, Evidence::Container] {
        for format in FORMATS {
            // The reader reports what is wrong with a file; the probe only decides which reader
            // that is.
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

/// The format `name`, which can be written.
///
/// # Errors
/// Returns an error if there is none; the hint names the formats that can be written.
pub fn writable(name: &str) -> Result<&'static Format> {
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
                || format!("one of {}", known.join(", ")),
                |meant| format!("did you mean `{meant}`?"),
            );
            Error::usage(format!("`{name}` is not a format that can be written")).hint(hint)
        })
}

/// The note of origin in the output at `path`; `None` if trajmill did not write it.
///
/// # Errors
/// Returns an error if a note is there that cannot be read or is damaged.
pub fn origin(path: &Path) -> Result<Option<Value>> {
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
