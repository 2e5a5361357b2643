//! Sources that are imported before a run reads them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::Fingerprint;
use super::late_frames::LateFrames;
use crate::dataset::{Dataset, SourceContent};
use crate::error::Result;
use crate::format::Format;
use crate::transfer::read::align::{Aligned, DatasetSource};
use crate::transfer::read::task::Tasked;
use crate::transfer::read::{NonFinite, OnError, Options, Source};
use crate::transfer::write::{OutgoingDataset, WriteOptions};
use crate::video::{self, Frames, Videos};

/// The name that the option `format` has for a trajmill dataset.
pub(super) const OWN: &str = "trajmill";

/// What an import reads.
pub(super) enum From {
    /// A foreign dataset, and how to read it.
    Format(&'static Format, Options),
    /// A trajmill dataset whose columns change, and the task of its steps if it is set.
    Own(Dataset, Option<String>),
}

/// A source that is imported before it is read.
pub(crate) struct SourceToImport {
    /// Everything that the imported dataset depends on: the source's content and how it is read.
    pub fingerprint: Fingerprint,
    /// The content that the fingerprint covers; `None` if the source is a trajmill dataset.
    pub content: Option<SourceContent>,
    /// The file or directory.
    pub path: PathBuf,
    pub(super) from: From,
    /// The frames that take the place of references once they are imported.
    pub(super) frames: Option<LateFrames>,
    /// How the imported dataset gets the videos that its rows refer to.
    pub videos: Videos,
    /// The number of bad trajectories that may be set aside without a failing exit code.
    pub allowed: u64,
    /// The columns to rename, as (old, new).
    pub(super) names: Vec<(String, String)>,
    /// The columns of steps that come out.
    pub(super) steps: SchemaRef,
    /// The columns of trajectories that come out.
    pub(super) about: SchemaRef,
    /// The columns of steps that other sources have and this one lacks. They come out as null.
    pub absent: Vec<String>,
    /// The columns of steps that get another type, so that it holds the values of all sources: the
    /// name, and the new type in words.
    pub converted: Vec<(String, String)>,
}

impl SourceToImport {
    /// Returns the imported dataset with decoded frames, or with references that can be followed.
    ///
    /// # Errors
    /// Returns an error if a video cannot be opened.
    pub(crate) fn with_frames(&self, dataset: Dataset) -> Result<Dataset> {
        // Only references that the dataset does not own need a folder.
        let root = self.video_root();
        let root = root.filter(|_| dataset.manifest.videos.is_empty());
        let dataset = dataset.with_videos(root.map(Path::to_owned));
        if self.content.is_none() && self.frames.is_none() {
            return Ok(dataset);
        }
        let late = self.frames.as_ref();
        let (frames, known) = late.map_or((Frames::Reference, &[][..]), |late| {
            (late.frames, &late.fields[..])
        });
        video::imported(dataset, frames, root, self.content.as_ref(), known)
    }

    /// Returns the folder of the videos that the imported dataset refers to and does not own.
    fn video_root(&self) -> Option<&Path> {
        match &self.from {
            From::Format(..) => (self.videos == Videos::Reference).then_some(&self.path),
            From::Own(own, _) if own.video_root.is_none() && self.videos == Videos::Reference => {
                Some(&own.path)
            }
            From::Own(own, _) => own.video_root.as_deref(),
        }
    }

    /// Returns what happens to bad trajectories.
    pub(crate) fn on_error(&self) -> OnError {
        match &self.from {
            From::Format(_, options) => options.on_error,
            From::Own(..) => OnError::Fail,
        }
    }

    /// Returns what happens to numbers that are not finite; `None` for a trajmill dataset.
    pub(crate) fn non_finite(&self) -> Option<NonFinite> {
        match &self.from {
            From::Format(_, options) => Some(options.non_finite),
            From::Own(..) => None,
        }
    }

    /// Returns the trajmill dataset whose columns change; `None` for a foreign source.
    pub(crate) fn own(&self) -> Option<&Dataset> {
        match &self.from {
            From::Format(..) => None,
            From::Own(dataset, _) => Some(dataset),
        }
    }

    /// Returns the name of the format that is read.
    pub(crate) fn format(&self) -> &str {
        match &self.from {
            From::Format(format, _) => format.name,
            From::Own(..) => OWN,
        }
    }

    /// Calls `read` with the source, whose columns are those that the pipeline reads. Meanwhile,
    /// data that does not fit in memory is in the folder `scratch`.
    ///
    /// # Errors
    /// Returns an error if the source cannot be opened or `read` fails.
    pub(crate) fn read<T>(
        &self,
        scratch: &Path,
        read: impl FnOnce(&mut dyn Source) -> Result<T>,
    ) -> Result<T> {
        let adapt = |inner: Box<dyn Source + '_>| -> Result<T> {
            read(&mut Aligned {
                inner,
                names: self.names.clone(),
                steps: Arc::clone(&self.steps),
                about: Arc::clone(&self.about),
            })
        };
        match &self.from {
            From::Format(format, options) => {
                adapt(format.open(&self.path, &options.with_scratch(scratch))?)
            }
            From::Own(dataset, task) => {
                let outgoing =
                    OutgoingDataset::new(dataset.clone(), true, &WriteOptions::default())?;
                let own: Box<dyn Source + '_> = Box::new(DatasetSource::new(&outgoing)?);
                match task {
                    Some(task) => adapt(Box::new(Tasked::new(own, task.clone()))),
                    None => adapt(own),
                }
            }
        }
    }
}

/// A source before its columns are compared with those of the others.
pub(super) struct Found {
    /// The dataset, if it is trajmill's own.
    pub(super) dataset: Option<Dataset>,
    pub(super) name: String,
    pub(super) import: SourceToImport,
    /// How references are imported in place of frames, and the columns that come out. `None` if the
    /// source is imported as it is.
    pub(super) by_reference: Option<(From, SchemaRef)>,
    /// What frames become.
    pub(super) frames: Frames,
    pub(super) widen: bool,
}
