//! References to frames of videos, and the files that they name.
//!
//! A dataset owns the videos that its manifest lists. Paths of all other references are relative to
//! the source that the dataset was imported from, a folder that the user names.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field, Fields};

use super::manifest::VideoEntry;
use super::store::Digest;
use super::{Dataset, files, layout, store};
use crate::error::wording::{count, number};
use crate::error::{Error, Result};

/// Returns the fields of a reference to a frame: a file relative to the source, and the time in
/// seconds from its beginning.
pub(crate) fn reference() -> Fields {
    Fields::from(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("timestamp", DataType::Float64, false),
    ])
}

/// The metadata key of columns that refer to depth videos, whose frames are not pictures.
pub(crate) const DEPTH: &str = "depth";

/// The most seconds by which the time of a frame may differ from that of a reference, if the
/// column does not say otherwise: `tolerance_s` of LeRobot's loader.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// The metadata key of columns whose references have another tolerance than [`TOLERANCE`], in
/// seconds.
pub(crate) const TOLERANCE_KEY: &str = "tolerance";

/// The trajectory column of the statistics that a source states of the videos of its episodes: a
/// JSON object by the names of columns.
pub(crate) const VIDEO_STATISTICS: &str = "video_statistics";

/// Returns the tolerance of the references of a column, in seconds.
///
/// # Errors
///
/// Returns an error if its metadata has a tolerance that is no positive number.
pub(crate) fn tolerance(field: &Field) -> Result<f64> {
    let Some(text) = field.metadata().get(TOLERANCE_KEY) else {
        return Ok(TOLERANCE);
    };
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        .ok_or_else(|| {
            Error::failed(format!(
                "column `{}` has the tolerance `{text}`, which is no number of seconds",
                field.name()
            ))
            .hint("import the videos again")
        })
}

/// Whether a column refers to frames of videos.
pub(crate) fn refers(field: &Field) -> bool {
    let DataType::Struct(parts) = field.data_type() else {
        return false;
    };
    let same = |(part, own): (&Arc<Field>, &Arc<Field>)| {
        (part.name(), part.data_type()) == (own.name(), own.data_type())
    };
    parts.len() == 2 && parts.iter().zip(&reference()).all(same)
}

/// Returns the file at the relative path `path` of a reference, which must not lie outside `root`.
///
/// # Errors
/// Returns an error if it does.
pub(crate) fn resolve(root: &Path, path: &str) -> Result<PathBuf> {
    if Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Ok(root.join(path));
    }
    Err(Error::failed(format!(
        "a reference names `{path}`, a file outside {}",
        root.display()
    ))
    .hint("references are relative to the dataset that was imported: import it again"))
}

/// A video that the steps of a source refer to.
pub struct SourceVideo {
    /// The file.
    pub path: PathBuf,
    /// Its length and hash; `None` if nobody has hashed it, or the import has.
    pub(crate) digest: Option<Digest>,
}

/// A video that is to become a dataset's own.
#[derive(Debug, Clone)]
pub(crate) struct VideoToOwn {
    /// Its entry in the manifest.
    pub entry: VideoEntry,
    /// The file that is linked or copied.
    pub from: PathBuf,
}

/// Links `videos`, or copies them if `copy` is true, into the dataset at `root`, which is not
/// published yet, and returns their entries in the manifest. What an earlier run has brought stays.
/// Other files that it has left are removed.
///
/// # Errors
/// Returns an error if a file is missing, has another length or cannot be written.
pub(crate) fn own<'a>(
    root: &Path,
    videos: impl IntoIterator<Item = &'a VideoToOwn>,
    copy: bool,
) -> Result<Vec<VideoEntry>> {
    let folder = root.join(layout::VIDEOS);
    let mut entries: Vec<VideoEntry> = Vec::new();
    for VideoToOwn { entry, from } in videos {
        if entries.is_empty() {
            store::create_dir(&folder)?;
        }
        let digest = Digest {
            bytes: entry.bytes,
            blake3: entry.blake3.clone(),
        };
        let bring = if copy { store::copy } else { store::link };
        bring(from, &root.join(&entry.path), Some(&digest))?;
        entries.push(entry.clone());
    }
    entries.sort();
    if files::is_dir(&folder)? {
        for path in files::list(&folder).map_err(|error| files::unreadable(&folder, &error))? {
            if !entries.iter().any(|entry| root.join(&entry.path) == path) {
                store::remove(&path)?;
            }
        }
        store::sync_dir(&folder)?;
    }
    Ok(entries)
}

/// Adds the paths of all references in `column`, whose field is `field`, to `paths`.
pub(crate) fn add_paths(field: &Field, column: &ArrayRef, paths: &mut BTreeSet<String>) {
    let Some(parts) = column.as_struct_opt() else {
        return;
    };
    if !refers(field) {
        for (field, part) in parts.fields().iter().zip(parts.columns()) {
            add_paths(field, part, paths);
        }
        return;
    }
    let names = parts.column(0).as_string::<i32>();
    let mut last = None;
    for row in (0..parts.len()).filter(|row| parts.is_valid(*row)) {
        let path = names.value(row);
        if last != Some(path) && !paths.contains(path) {
            paths.insert(path.to_owned());
        }
        last = Some(path);
    }
}

/// Returns `column`, whose field is `field`, with another path in every reference: the one that
/// `new` returns.
///
/// # Errors
/// Returns the errors of `new`.
pub(crate) fn with_paths(
    field: &Field,
    column: &ArrayRef,
    new: &mut dyn FnMut(&str) -> Result<String>,
) -> Result<ArrayRef> {
    let Some(parts) = column.as_struct_opt() else {
        return Ok(Arc::clone(column));
    };
    let columns = if refers(field) {
        let names = parts.column(0).as_string::<i32>();
        let mut last: Option<(&str, String)> = None;
        let mut renamed = StringBuilder::new();
        for row in 0..parts.len() {
            if parts.is_null(row) {
                renamed.append_value("");
                continue;
            }
            let path = names.value(row);
            let (_, renamed_path) = match last.take() {
                Some(known) if known.0 == path => last.insert(known),
                _ => last.insert((path, new(path)?)),
            };
            renamed.append_value(renamed_path);
        }
        vec![
            Arc::new(renamed.finish()) as ArrayRef,
            Arc::clone(parts.column(1)),
        ]
    } else {
        let of = parts.fields().iter().zip(parts.columns());
        of.map(|(field, part)| with_paths(field, part, new))
            .collect::<Result<_>>()?
    };
    Ok(Arc::new(StructArray::try_new(
        parts.fields().clone(),
        columns,
        parts.nulls().cloned(),
    )?))
}

impl Dataset {
    /// Returns the dataset, whose references to videos that it does not own are relative to `root`.
    pub(crate) fn with_videos(self, root: Option<PathBuf>) -> Dataset {
        Dataset {
            video_root: root,
            ..self
        }
    }

    /// Returns the manifest's entry of the video at the path of a reference; `None` if the dataset
    /// does not own it.
    pub(crate) fn owned_video(&self, path: &str) -> Option<&VideoEntry> {
        let videos = &self.manifest.videos;
        let at = videos.binary_search_by(|video| video.path.as_str().cmp(path));
        at.ok().and_then(|at| videos.get(at))
    }

    /// Verifies that every video that the dataset owns is there and has the length that the
    /// manifest lists. Reads no file.
    ///
    /// # Errors
    /// Returns an error if a file is missing or has another length.
    pub(crate) fn verify_videos(&self) -> Result<()> {
        let videos = &self.manifest.videos;
        videos
            .iter()
            .try_for_each(|entry| verify_length(&self.path.join(&entry.path), entry))
    }

    /// Verifies the bytes of a video that the dataset owns, unless this process has done that
    /// already.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or its bytes are not those that the manifest
    /// lists.
    pub(crate) fn verify_video(&self, path: &str) -> Result<()> {
        match self.owned_video(path) {
            Some(entry) => self.file(&entry.file()).open()?.finish(),
            None => Ok(()),
        }
    }

    /// Returns the file that a reference of this dataset names by `path`. Its length is verified if
    /// the dataset owns it, and its bytes are not.
    ///
    /// # Errors
    /// Returns an error if the file is missing or has another length, if it lies outside the folder
    /// that references are relative to, or if no such folder is given.
    pub fn video(&self, path: &str) -> Result<PathBuf> {
        if let Some(entry) = self.owned_video(path) {
            let file = self.path.join(path);
            verify_length(&file, entry)?;
            return Ok(file);
        }
        let Some(root) = &self.video_root else {
            return Err(Error::failed(format!(
                "{} refers to the video `{path}` and does not own it",
                self.path.display()
            ))
            .hint(
                "set `videos` (`--videos-from`) to the dataset that this one was imported from, or \
                 import that dataset again with `--videos link`",
            ));
        };
        let file = resolve(root, path)?;
        if files::is_file(&file)? {
            Ok(file)
        } else {
            Err(
                Error::failed(format!("there is no video {}", file.display())).hint(
                    "set `videos` (`--videos-from`) to the dataset that this one was imported \
                     from: references to videos are relative to it",
                ),
            )
        }
    }
}

impl Dataset {
    /// Returns the video that a reference names by `path`, with its length and hash if the dataset
    /// owns it; `None` if it is not known where the file is.
    ///
    /// # Errors
    /// Returns the errors of [`Dataset::video`].
    pub(crate) fn source_video(&self, path: &str) -> Result<Option<SourceVideo>> {
        let owned = self.owned_video(path);
        if owned.is_none() && self.video_root.is_none() {
            return Ok(None);
        }
        Ok(Some(SourceVideo {
            path: self.video(path)?,
            digest: owned.map(|entry| Digest {
                bytes: entry.bytes,
                blake3: entry.blake3.clone(),
            }),
        }))
    }
}

/// Verifies that a dataset's video is there and has the length that the manifest lists.
fn verify_length(file: &Path, entry: &VideoEntry) -> Result<()> {
    const REMEDY: &str = "restore the file from a copy, or import or materialise the dataset again";
    if !files::is_file(file)? {
        let message = format!(
            "the video {} is missing, though the manifest lists it",
            file.display()
        );
        return Err(Error::failed(message).hint(REMEDY));
    }
    let found = file
        .metadata()
        .map_err(|error| files::unreadable(file, &error))?;
    if found.len() == entry.bytes {
        return Ok(());
    }
    let message = format!(
        "the video {} is damaged: it has {}, and the manifest lists {}",
        file.display(),
        count(found.len(), "byte"),
        number(entry.bytes)
    );
    Err(Error::failed(message).hint(REMEDY))
}
