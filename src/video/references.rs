//! References to frames of videos, and datasets that are read with the frames in their place.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Field, Float64Type};

use super::{Pictures, Video, pictures, version};
use crate::dataset::frames::{FrameReader, Picture, Place};
use crate::dataset::schema::{LAZY, axes};
use crate::dataset::videos::{DEPTH, refers, tolerance};
use crate::dataset::{Dataset, Decode, SourceContent, files};
use crate::error::{Error, Result};
use crate::video::Frames;

/// The number of rows that are read at once in search of the first reference of a column.
const SEARCH_ROWS: u64 = 4096;

/// The columns whose references become frames.
#[derive(Debug, Clone)]
struct References {
    /// The dataset with the references.
    dataset: Dataset,
    /// The content of the folder that references are relative to when it was hashed; `None` if the
    /// dataset owns the videos, whose hashes its manifest lists.
    content: Option<Arc<SourceContent>>,
    frames: Frames,
    columns: Vec<Camera>,
    /// What decoded frames depend on, for fingerprints.
    depends: String,
}

/// A column whose references become frames.
#[derive(Debug, Clone)]
struct Camera {
    /// The column of frames.
    field: Field,
    /// Height and width of its first video.
    size: [usize; 2],
    /// The most seconds between the time of a reference and that of its frame.
    tolerance: f64,
}

/// Returns `dataset` with decoded frames in place of its references to videos, or with references
/// if `frames` keeps them. The paths of references to videos that the dataset does not own are
/// relative to the folder `videos`.
///
/// # Errors
///
/// Returns an error if `videos` is needed and absent, or given and not a folder, no column refers
/// to a video, the first video of a column cannot be opened, or this build has no decoder.
pub(crate) fn decoded(dataset: Dataset, frames: Frames, videos: Option<&Path>) -> Result<Dataset> {
    decoded_of(
        dataset,
        frames,
        videos,
        &|root| SourceContent::of(root),
        &[],
    )
}

/// Returns what [`decoded`] returns, with the content of the folder `videos` that `content` gives.
/// The columns `known` are decoded, or all if there are none of them.
fn decoded_of(
    dataset: Dataset,
    frames: Frames,
    videos: Option<&Path>,
    content: &dyn Fn(&Path) -> Result<SourceContent>,
    known: &[Field],
) -> Result<Dataset> {
    const REMEDY: &str = "set `videos` (`--videos-from`) to the LeRobot dataset that this one was \
                          imported from: references to videos are relative to it";
    if let Some(root) = videos
        && !files::is_dir(root)?
    {
        return Err(Error::failed(format!("no such folder: {}", root.display())).hint(REMEDY));
    }
    let dataset = dataset.with_videos(videos.map(Path::to_owned));
    let any = |refers: &dyn Fn(&Field) -> bool| dataset.steps.fields().iter().any(|at| refers(at));
    if frames == Frames::Reference {
        if videos.is_some() && !any(&refers) {
            return Err(
                Error::usage("`videos` is given, but no column refers to a video")
                    .hint("leave out `videos`"),
            );
        }
        return match videos {
            Some(root) => {
                let by = follow(&dataset, Some(content(root)?));
                Ok(dataset.decoding(by))
            }
            None => Ok(dataset),
        };
    }
    let owns = !dataset.manifest.videos.is_empty();
    if videos.is_none() && !owns && known.is_empty() && any(&refers) {
        return Err(Error::usage("`frames` is given without `videos`").hint(REMEDY));
    }
    let nothing = || {
        Error::usage("`frames` asks for decoded videos, but no column refers to a video")
            .hint("leave out `frames` and `videos`")
    };
    if !any(&refers) {
        return Err(nothing());
    }
    let version = version()?;
    let refer = |field: &&Arc<Field>| refers(field) && !field.metadata().contains_key(DEPTH);
    let mut columns = Vec::new();
    for field in dataset.steps.fields().iter().filter(refer) {
        if let Some(made) = known.iter().find(|made| made.name() == field.name()) {
            columns.push(Camera {
                size: size_of(made),
                field: made.clone(),
                tolerance: tolerance(field)?,
            });
        } else if !known.is_empty() {
            continue;
        } else if let Some(path) = first_path(&dataset, field.name())? {
            let video = dataset.video(&path)?;
            // FFmpeg would wait for the writer of a FIFO.
            files::open(&video).map_err(|error| files::unreadable(&video, &error))?;
            let size = Video::open(&video, 1)?.size();
            let mut made = pictures::field(field.name(), frames, size)?;
            made.metadata_mut().insert(LAZY.to_owned(), String::new());
            columns.push(Camera {
                field: made,
                size,
                tolerance: tolerance(field)?,
            });
        }
    }
    if columns.is_empty() {
        return Err(nothing());
    }
    let how = if frames == Frames::Png {
        "png"
    } else {
        "array"
    };
    let content = videos.map(content).transpose()?;
    let content = content.map(Arc::new);
    let of = content
        .as_ref()
        .map_or(&dataset.hash[..], |content| content.hash());
    let depends = format!("{how} by {version} of {of}");
    Ok(dataset.clone().decoding(Arc::new(References {
        dataset,
        content,
        frames,
        columns,
        depends,
    })))
}

/// Returns `dataset`, which was imported from the folder `root`, with decoded frames, or with
/// references that can be followed. `content` is that of the folder when it was imported; `None` if
/// it was not hashed. It matters only where the dataset does not own the videos. The columns
/// `known` are decoded, or all if there are none of them.
///
/// # Errors
/// Returns the errors of [`decoded`].
pub(crate) fn imported(
    dataset: Dataset,
    frames: Frames,
    root: Option<&Path>,
    content: Option<&SourceContent>,
    known: &[Field],
) -> Result<Dataset> {
    if !dataset.steps.fields().iter().any(|field| refers(field)) {
        return Ok(dataset);
    }
    let root = root.filter(|_| dataset.manifest.videos.is_empty());
    let content =
        |root: &Path| content.map_or_else(|| SourceContent::of(root), |at| Ok(at.clone()));
    decoded_of(dataset, frames, root, &content, known)
}

/// Returns height and width of the frames of a column; zeros if it does not state them.
fn size_of(field: &Field) -> [usize; 2] {
    let DataType::FixedSizeList(_, width) = field.data_type() else {
        return [0, 0];
    };
    let axes = axes(field, *width);
    [0, 1].map(|axis| axes.get(axis).copied().unwrap_or(0))
}

/// Frames of a dataset that is yet to be imported.
#[derive(Debug)]
struct Planned {
    fields: Vec<Field>,
    depends: String,
}

impl Decode for Planned {
    fn field(&self, stored: &Field) -> Option<Field> {
        let mut fields = self.fields.iter();
        fields.find(|field| field.name() == stored.name()).cloned()
    }

    fn column(&self, name: &str, _: &ArrayRef) -> Result<ArrayRef> {
        Err(Error::failed(format!(
            "the column `{name}` is yet to be imported"
        )))
    }

    fn depends(&self) -> &str {
        &self.depends
    }
}

/// Returns what will decode the columns of frames `fields` of a source with the hash `of`.
///
/// # Errors
/// Returns an error if this build has no decoder.
pub(crate) fn planned(fields: Vec<Field>, of: &str) -> Result<Arc<dyn Decode>> {
    Ok(Arc::new(Planned {
        depends: format!("frames by {} of {of}", version()?),
        fields,
    }))
}

/// Returns what reads the frames that `dataset` refers to. `content` is the content of the folder
/// that references are relative to when it was hashed; `None` if the dataset owns its videos.
pub(crate) fn follow(dataset: &Dataset, content: Option<SourceContent>) -> Arc<dyn Decode> {
    let of = content
        .as_ref()
        .map_or(&dataset.hash[..], SourceContent::hash);
    Arc::new(References {
        depends: format!("references to {of}"),
        dataset: dataset.clone(),
        content: content.map(Arc::new),
        frames: Frames::Reference,
        columns: Vec::new(),
    })
}

/// Returns the first file that the column `name` refers to; `None` if it has no reference.
fn first_path(dataset: &Dataset, name: &str) -> Result<Option<String>> {
    for shard in &dataset.manifest.shards {
        let reader = dataset.open_steps(shard)?;
        let mut start = 0;
        while start < reader.rows() {
            let end = reader.rows().min(start + SEARCH_ROWS);
            let batch = reader.read(
                std::slice::from_ref(&(start..end)),
                Some(&[name.to_owned()]),
            )?;
            let references = batch.column(0).as_struct();
            if let Some(row) = (0..references.len()).find(|row| references.is_valid(*row)) {
                return Ok(Some(
                    references
                        .column(0)
                        .as_string::<i32>()
                        .value(row)
                        .to_owned(),
                ));
            }
            start = end;
        }
    }
    Ok(None)
}

impl References {
    /// Decodes the frames that a column refers to, from the files that were hashed.
    fn decode(&self, camera: &Camera, references: &StructArray) -> Result<ArrayRef> {
        let mut read = BTreeSet::new();
        let decoded = self.frames(camera, references, &mut read);
        // A file that was replaced may have failed for that reason alone.
        for path in &read {
            self.verify(path)?;
        }
        decoded
    }

    /// Verifies that the bytes of the video at the path of a reference are those that were hashed.
    fn verify(&self, path: &str) -> Result<()> {
        match &self.content {
            Some(content) if self.dataset.owned_video(path).is_none() => {
                content.ensure_file_unchanged(&self.dataset.video(path)?)
            }
            _ => self.dataset.verify_video(path),
        }
    }

    /// Decodes the frames that a column refers to. Adds every file that is opened to `read`.
    fn frames(
        &self,
        camera: &Camera,
        references: &StructArray,
        read: &mut BTreeSet<String>,
    ) -> Result<ArrayRef> {
        let (paths, times) = (
            references.column(0).as_string::<i32>(),
            references.column(1).as_primitive::<Float64Type>(),
        );
        let mut pictures = Pictures::new(self.frames, camera.size, references.len())?;
        let mut open: Option<(&str, Video)> = None;
        for row in 0..references.len() {
            if references.is_null(row) {
                pictures.skip()?;
                continue;
            }
            let path = paths.value(row);
            let (_, video) = match open.take() {
                Some(video) if video.0 == path => open.insert(video),
                _ => {
                    // FFmpeg would wait for the writer of a FIFO.
                    self.verify(path)?;
                    read.insert(path.to_owned());
                    open.insert((path, Video::open(&self.dataset.video(path)?, 0)?))
                }
            };
            pictures.push(video, times.value(row), camera.tolerance)?;
        }
        pictures.finish()
    }
}

impl Decode for References {
    fn field(&self, stored: &Field) -> Option<Field> {
        self.columns
            .iter()
            .find(|camera| camera.field.name() == stored.name() && refers(stored))
            .map(|camera| camera.field.clone())
    }

    fn of(&self, dataset: &Dataset) -> Option<Arc<dyn Decode>> {
        Some(Arc::new(References {
            dataset: dataset.clone(),
            ..self.clone()
        }))
    }

    fn column(&self, name: &str, stored: &ArrayRef) -> Result<ArrayRef> {
        let mut cameras = self.columns.iter();
        let camera = cameras
            .find(|camera| camera.field.name() == name)
            .ok_or_else(|| Error::failed(format!("the column `{name}` is not decoded")))?;
        self.decode(camera, stored.as_struct())
            .map_err(|error| error.at(format!("column `{name}`")))
    }

    fn reader(&self, threads: usize) -> Result<Box<dyn FrameReader>> {
        Ok(Box::new(Reader {
            references: self.clone(),
            threads,
            open: None,
            file: None,
        }))
    }

    fn depends(&self) -> &str {
        &self.depends
    }
}

/// Reads single frames, with one video open at a time.
struct Reader {
    references: References,
    threads: usize,
    open: Option<(Arc<str>, Video)>,
    /// The path of the video that is open, or that could not be opened.
    file: Option<Arc<str>>,
}

impl FrameReader for Reader {
    fn frame(&mut self, place: &Place) -> Result<Picture<'_>> {
        let open = match self.open.take().filter(|(path, _)| *path == place.path) {
            Some(open) => open,
            None => {
                self.finish()?;
                // FFmpeg would wait for the writer of a FIFO.
                self.references.verify(&place.path)?;
                self.file = Some(Arc::clone(&place.path));
                let file = self.references.dataset.video(&place.path)?;
                (Arc::clone(&place.path), Video::open(&file, self.threads)?)
            }
        };
        let (_, video) = self.open.insert(open);
        video.picture(place.seconds, place.tolerance)
    }

    fn key_gap(&self) -> Option<f64> {
        self.open.as_ref().and_then(|(_, video)| video.key_gap())
    }

    fn finish(&mut self) -> Result<()> {
        self.open = None;
        let file = self.file.take();
        file.map_or(Ok(()), |file| self.references.verify(&file))
    }
}
