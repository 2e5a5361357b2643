//! References to frames of videos, and datasets that are read with the frames in their place.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Field, Float64Type};

use super::{Pictures, Video, pictures, version};
use crate::dataset::frames::{FrameReader, Picture, Place};
use crate::dataset::schema::{LAZY, axes};
use crate::dataset::videos::{DEPTH, refers, resolve, tolerance};
use crate::dataset::{Dataset, Decode, DecodeColumns, SourceContent, files};
use crate::error::{Error, Result};
use crate::video::Frames;

/// The number of rows that are read at once in search of the first reference of a column.
const SEARCH_ROWS: u64 = 4096;

/// The columns whose references become frames.
#[derive(Debug, Clone)]
struct References {
    files: Files,
    frames: Frames,
    columns: Vec<Camera>,
    /// What decoded frames depend on, for fingerprints.
    depends: String,
}

/// Where the videos are that references name.
#[derive(Debug, Clone)]
enum Files {
    /// Those of a dataset, and the content of the folder that references are relative to when it
    /// was hashed; `None` if the dataset owns the videos, whose hashes its manifest lists.
    Dataset(Dataset, Option<Arc<SourceContent>>),
    /// Those of a foreign dataset, and its content when it was hashed.
    Folder(PathBuf, Arc<SourceContent>),
}

impl Files {
    /// Returns the video at the path of a reference.
    fn file(&self, path: &str) -> Result<PathBuf> {
        match self {
            Files::Dataset(dataset, _) => dataset.video(path),
            Files::Folder(root, _) => resolve(root, path),
        }
    }

    /// Verifies that the bytes of the video at the path of a reference are those that were hashed.
    fn verify(&self, path: &str) -> Result<()> {
        match self {
            Files::Dataset(dataset, Some(content)) if dataset.owned_video(path).is_none() => {
                content.ensure_file_unchanged(&dataset.video(path)?)
            }
            Files::Dataset(dataset, _) => dataset.verify_video(path),
            Files::Folder(root, content) => content.ensure_file_unchanged(&resolve(root, path)?),
        }
    }
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
        files: Files::Dataset(dataset, content),
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

/// Returns what decodes the frames that steps of the foreign dataset `root` refer to, into the
/// columns `fields`. `content` is the content of the dataset when it was hashed.
///
/// # Errors
/// Returns an error if this build has no decoder.
pub(crate) fn of_folder(
    root: &Path,
    content: SourceContent,
    frames: Frames,
    fields: &[Field],
    tolerance: f64,
) -> Result<Arc<dyn Decode>> {
    let columns = fields.iter().map(|field| Camera {
        size: size_of(field),
        field: field.clone(),
        tolerance,
    });
    Ok(Arc::new(References {
        depends: format!("frames by {} of {}", version()?, content.hash()),
        files: Files::Folder(root.to_owned(), Arc::new(content)),
        frames,
        columns: columns.collect(),
    }))
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

    fn columns(&self) -> Box<dyn DecodeColumns> {
        Box::new(Planned {
            fields: Vec::new(),
            depends: String::new(),
        })
    }

    fn depends(&self) -> &str {
        &self.depends
    }
}

impl DecodeColumns for Planned {
    fn column(
        &mut self,
        name: &str,
        _: &ArrayRef,
        _: &dyn Fn(usize) -> String,
    ) -> Result<ArrayRef> {
        Err(Error::failed(format!(
            "the column `{name}` is yet to be imported"
        )))
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
        files: Files::Dataset(dataset.clone(), content.map(Arc::new)),
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

/// Decodes columns of frames, with one video of each column open.
struct Columns {
    references: References,
    open: HashMap<String, (String, Video)>,
}

impl DecodeColumns for Columns {
    fn column(
        &mut self,
        name: &str,
        stored: &ArrayRef,
        place: &dyn Fn(usize) -> String,
    ) -> Result<ArrayRef> {
        let mut cameras = self.references.columns.iter();
        let camera = cameras.find(|camera| camera.field.name() == name).cloned();
        let camera =
            camera.ok_or_else(|| Error::failed(format!("the column `{name}` is not decoded")))?;
        let mut read = BTreeSet::new();
        let decoded = self.frames(&camera, stored.as_struct(), &mut read, place);
        // A file that was replaced may have failed for that reason alone.
        for path in &read {
            self.references.files.verify(path)?;
        }
        decoded
    }
}

impl Columns {
    /// Decodes the frames that a column refers to. Adds the path of every file that is read to
    /// `read`.
    fn frames(
        &mut self,
        camera: &Camera,
        references: &StructArray,
        read: &mut BTreeSet<String>,
        place: &dyn Fn(usize) -> String,
    ) -> Result<ArrayRef> {
        let name = camera.field.name();
        let at =
            |row: usize| move |error: Error| error.at(format!("{}, column `{name}`", place(row)));
        let (paths, times) = (
            references.column(0).as_string::<i32>(),
            references.column(1).as_primitive::<Float64Type>(),
        );
        let frames = self.references.frames;
        let mut pictures = Pictures::new(frames, camera.size, references.len()).map_err(at(0))?;
        for row in 0..references.len() {
            if references.is_null(row) {
                pictures.skip().map_err(at(row))?;
                continue;
            }
            let path = paths.value(row);
            if !read.contains(path) {
                read.insert(path.to_owned());
            }
            let video = self.video(name, path).map_err(at(row))?;
            let pushed = pictures.push(video, times.value(row), camera.tolerance);
            pushed.map_err(at(row))?;
        }
        pictures.finish()
    }

    /// Opens the video that a reference of the column `name` names by `path`.
    fn video(&mut self, name: &str, path: &str) -> Result<&mut Video> {
        let open = match self.open.remove(name).filter(|(known, _)| known == path) {
            Some(open) => open,
            None => {
                // FFmpeg would wait for the writer of a FIFO.
                self.references.files.verify(path)?;
                let file = self.references.files.file(path)?;
                (path.to_owned(), Video::open(&file, 0)?)
            }
        };
        let open = self.open.entry(name.to_owned()).insert_entry(open);
        Ok(&mut open.into_mut().1)
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
        let Files::Dataset(_, content) = &self.files else {
            return None;
        };
        Some(Arc::new(References {
            files: Files::Dataset(dataset.clone(), content.clone()),
            ..self.clone()
        }))
    }

    fn columns(&self) -> Box<dyn DecodeColumns> {
        Box::new(Columns {
            references: self.clone(),
            open: HashMap::new(),
        })
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
                self.references.files.verify(&place.path)?;
                self.file = Some(Arc::clone(&place.path));
                let file = self.references.files.file(&place.path)?;
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
        file.map_or(Ok(()), |file| self.references.files.verify(&file))
    }
}
