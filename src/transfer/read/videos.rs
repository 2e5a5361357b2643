//! The videos of a source become those of the dataset that is made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use serde_json::{Map, Value};

use crate::dataset::manifest::VideoEntry;
use crate::dataset::videos::{self, VideoToOwn};
use crate::dataset::{Account, Decode, SourceContent, layout, store};
use crate::error::Result;
use crate::transfer::read::{IncomingTrajectory, Source, SourceVideo};
use crate::video::Videos;

/// A source whose references name the videos of the dataset that is made from it, by their content:
/// see [`layout::video`].
pub(crate) struct Owned<'a> {
    inner: &'a mut dyn Source,
    how: Videos,
    /// The content of the source when it was hashed.
    content: Option<&'a SourceContent>,
    /// What decodes columns, whose references stay as they are.
    frames: Option<Arc<dyn Decode>>,
    /// The path of each video that was found in the dataset, by its path in the source; `None` if
    /// its references stay as they are.
    found: BTreeMap<String, Option<String>>,
    /// The videos that were found, by their path in the dataset.
    videos: BTreeMap<String, VideoToOwn>,
    /// Whether the last error is about the videos of a trajectory, so that the next one can follow.
    bad: bool,
}

impl<'a> Owned<'a> {
    /// Reads `inner`, whose files have the hashes in `content`. All references stay as they are if
    /// `how` says so, and those that `frames` decodes.
    pub(crate) fn new(
        inner: &'a mut dyn Source,
        content: Option<&'a SourceContent>,
        how: Videos,
        frames: Option<Arc<dyn Decode>>,
    ) -> Owned<'a> {
        Owned {
            inner,
            how,
            content,
            frames,
            found: BTreeMap::new(),
            videos: BTreeMap::new(),
            bad: false,
        }
    }

    /// Links or copies the videos at the paths `written` into the dataset at `root`, and returns
    /// their entries in the manifest. The source is unchanged since it was hashed.
    ///
    /// # Errors
    /// Returns an error if a file has changed or cannot be written.
    pub(crate) fn bring(&self, written: &BTreeSet<String>, root: &Path) -> Result<Vec<VideoEntry>> {
        let wanted = written.iter().filter_map(|path| self.videos.get(path));
        if let Some(content) = self.content {
            for video in wanted.clone() {
                content.ensure_file_unchanged(&video.from)?;
            }
        }
        videos::own(root, wanted, self.how == Videos::Copy)
    }

    /// Returns `steps` with references to videos of the dataset.
    fn owned(&mut self, steps: &RecordBatch) -> Result<RecordBatch> {
        let schema = steps.schema();
        let columns = schema.fields().iter().zip(steps.columns());
        let frames = self.frames.clone();
        let stays = |field: &Field| frames.as_ref().is_some_and(|by| by.field(field).is_some());
        let columns = columns
            .map(|(field, column)| match stays(field) {
                true => Ok(Arc::clone(column)),
                false => videos::with_paths(field, column, &mut |path| self.path(path)),
            })
            .collect::<Result<_>>()?;
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// Returns the path in the dataset of the video at `path` in the source.
    fn path(&mut self, path: &str) -> Result<String> {
        if let Some(known) = self.found.get(path) {
            return Ok(known.clone().unwrap_or_else(|| path.to_owned()));
        }
        let own = match self.inner.video(path)? {
            None => None,
            Some(SourceVideo { path: from, digest }) => {
                let hashed = || self.content.and_then(|content| content.digest(&from));
                let digest = match digest.or_else(|| hashed().cloned()) {
                    Some(digest) => digest,
                    None => store::digest(&from)?,
                };
                let own = layout::video(&digest.blake3, &extension(&from));
                let entry = VideoEntry {
                    path: own.clone(),
                    bytes: digest.bytes,
                    blake3: digest.blake3,
                };
                self.videos
                    .entry(own.clone())
                    .or_insert(VideoToOwn { entry, from });
                Some(own)
            }
        };
        let new = own.clone().unwrap_or_else(|| path.to_owned());
        self.found.insert(path.to_owned(), own);
        Ok(new)
    }
}

/// Returns the extension of a video in lower case; nothing if it is not a short word.
fn extension(path: &Path) -> String {
    path.extension()
        .and_then(|extension| extension.to_str())
        .filter(|extension| {
            extension.len() <= 8 && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
        .unwrap_or_default()
        .to_ascii_lowercase()
}

impl Source for Owned<'_> {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        self.inner.metadata()
    }

    fn account(&self) -> Account {
        self.inner.account()
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn lost(&self) -> Option<u64> {
        if self.bad { Some(1) } else { self.inner.lost() }
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.bad = false;
        let Some(trajectory) = self.inner.next()? else {
            return Ok(None);
        };
        if self.how == Videos::Reference {
            return Ok(Some(trajectory));
        }
        let steps = self.owned(&trajectory.steps).map_err(|error| {
            self.bad = true;
            error.at(format!("trajectory `{}`", trajectory.key))
        })?;
        Ok(Some(IncomingTrajectory {
            steps,
            ..trajectory
        }))
    }
}
