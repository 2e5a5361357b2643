//! References to frames of videos, and datasets that are read with the frames in their place.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Float64Type};

use super::{Pictures, Video, pictures, version};
use crate::dataset::{Dataset, Decode, SourceContent, files};
use crate::error::{Error, Result};
use crate::video::Frames;

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

/// The number of rows that are read at once in search of the first reference of a column.
const SEARCH_ROWS: u64 = 4096;

/// The columns whose references become frames.
#[derive(Debug)]
struct References {
    root: PathBuf,
    /// The content of the folder `root` when it was hashed.
    content: SourceContent,
    frames: Frames,
    columns: Vec<Camera>,
    /// What decoded frames depend on, for fingerprints.
    depends: String,
}

/// A column whose references become frames.
#[derive(Debug)]
struct Camera {
    /// The column of frames.
    field: Field,
    /// Height and width of its first video.
    size: [usize; 2],
    /// The most seconds between the time of a reference and that of its frame.
    tolerance: f64,
}

/// Returns `dataset` with decoded frames in place of its references to videos, or unchanged if
/// `frames` keeps references. The paths of references are relative to the folder `videos`.
///
/// # Errors
///
/// Returns an error if only one of `frames` and `videos` is given, no column refers to a video, the
/// first video of a column cannot be opened, or this build has no decoder.
pub(crate) fn decoded(dataset: Dataset, frames: Frames, videos: Option<&Path>) -> Result<Dataset> {
    let root = match (frames, videos) {
        (Frames::Reference, None) => return Ok(dataset),
        (Frames::Reference, Some(_)) => {
            return Err(Error::usage("`videos` is given without `frames`").hint(
                "add `frames: array` or `frames: png` (`--frames array` or `--frames png`)",
            ));
        }
        (_, None) => {
            return Err(Error::usage("`frames` is given without `videos`").hint(
                "set `videos` to the LeRobot dataset that this one was imported from: references \
                 to videos are relative to it",
            ));
        }
        (_, Some(root)) => root,
    };
    let version = version()?;
    if !files::is_dir(root)? {
        return Err(
            Error::failed(format!("no such folder: {}", root.display())).hint(
                "set `videos` to the LeRobot dataset that this one was imported from: references \
                 to videos are relative to it",
            ),
        );
    }
    let refer = |field: &&Arc<Field>| refers(field) && !field.metadata().contains_key(DEPTH);
    let mut columns = Vec::new();
    for field in dataset.steps.fields().iter().filter(refer) {
        if let Some(path) = first_path(&dataset, field.name())? {
            let video = resolve(root, &path)?;
            // FFmpeg would wait for the writer of a FIFO.
            files::open(&video).map_err(|error| files::unreadable(&video, &error))?;
            let size = Video::open(&video)?.size();
            columns.push(Camera {
                field: pictures::field(field.name(), frames, size)?,
                size,
                tolerance: tolerance(field)?,
            });
        }
    }
    if columns.is_empty() {
        return Err(Error::usage(
            "`frames` asks for decoded videos, but no column refers to a video",
        )
        .hint("leave out `frames` and `videos`"));
    }
    let how = if frames == Frames::Png {
        "png"
    } else {
        "array"
    };
    let content = SourceContent::of(root)?;
    let depends = format!("{how} by {version} of {}", content.hash());
    Ok(dataset.decoding(Arc::new(References {
        root: root.to_owned(),
        content,
        frames,
        columns,
        depends,
    })))
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

/// Returns the file that a reference names, which must not lie outside `root`.
fn resolve(root: &Path, path: &str) -> Result<PathBuf> {
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

impl References {
    /// Decodes the frames that a column refers to, from the files that were hashed.
    fn decode(&self, camera: &Camera, references: &StructArray) -> Result<ArrayRef> {
        let mut read = BTreeSet::new();
        let decoded = self.frames(camera, references, &mut read);
        // A file that was replaced may have failed for that reason alone.
        for path in &read {
            self.content.ensure_file_unchanged(path)?;
        }
        decoded
    }

    /// Decodes the frames that a column refers to. Adds every file that is opened to `read`.
    fn frames(
        &self,
        camera: &Camera,
        references: &StructArray,
        read: &mut BTreeSet<PathBuf>,
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
                    let file = resolve(&self.root, path)?;
                    // FFmpeg would wait for the writer of a FIFO.
                    self.content.ensure_file_unchanged(&file)?;
                    read.insert(file.clone());
                    open.insert((path, Video::open(&file)?))
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
            .find(|camera| camera.field.name() == stored.name())
            .map(|camera| camera.field.clone())
    }

    fn column(&self, name: &str, stored: &ArrayRef) -> Result<ArrayRef> {
        let mut cameras = self.columns.iter();
        let camera = cameras
            .find(|camera| camera.field.name() == name)
            .ok_or_else(|| Error::failed(format!("the column `{name}` is not decoded")))?;
        self.decode(camera, stored.as_struct())
            .map_err(|error| error.at(format!("column `{name}`")))
    }

    fn depends(&self) -> &str {
        &self.depends
    }
}
