//! References to frames, and a dataset of ours that is read with the frames in their place.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields, Float64Type};

use super::{Pictures, Video, pictures, version};
use crate::dataset::{Dataset, Decode, content_hash, files};
use crate::error::{Error, Result};
use crate::video::Frames;

/// The fields of a reference to a frame of a video: a file relative to the source, and seconds from its beginning.
pub(crate) fn reference() -> Fields {
    Fields::from(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("timestamp", DataType::Float64, false),
    ])
}

/// Key of a field whose references are to distances, which are no pictures.
pub(crate) const DEPTH: &str = "depth";

/// Whether the column `field` refers to frames of videos.
pub(crate) fn refers(field: &Field) -> bool {
    let DataType::Struct(parts) = field.data_type() else {
        return false;
    };
    let is = |(part, own): (&Arc<Field>, &Arc<Field>)| {
        (part.name(), part.data_type()) == (own.name(), own.data_type())
    };
    parts.len() == 2 && parts.iter().zip(&reference()).all(is)
}

/// Rows of a column that are looked at for its first reference at once.
const AT_ONCE: u64 = 4096;

/// Columns whose references become frames.
#[derive(Debug)]
struct References {
    root: PathBuf,
    frames: Frames,
    /// Each with the height and width that its first video has.
    columns: Vec<(Field, [usize; 2])>,
    depends: String,
}

/// `dataset` with `frames` in the place of its references to videos, whose paths start in the folder `videos`; as it is where
/// references are to stay.
///
/// # Errors
/// Where one of both is said alone, no column refers to a video, the first video of one cannot be opened, or this build
/// decodes none.
pub fn decoded(dataset: Dataset, frames: Frames, videos: Option<&Path>) -> Result<Dataset> {
    let root = match (frames, videos) {
        (Frames::Reference, None) => return Ok(dataset),
        (Frames::Reference, Some(_)) => {
            return Err(Error::usage(
                "`videos` says where frames are to be decoded from, and `frames` not as what",
            )
            .hint("`frames` is array or png"));
        }
        (_, None) => {
            return Err(Error::usage("`frames` is given, and `videos` is not: where are they?")
                .hint("`videos` is the LeRobot dataset that this one was imported from: references are relative to it"));
        }
        (_, Some(root)) => root,
    };
    let version = version()?;
    if !files::is_dir(root)? {
        return Err(
            Error::failed(format!("there is no folder {}", root.display())).hint(
                "name the LeRobot dataset that the videos belong to: references are relative to it",
            ),
        );
    }
    let refer = |field: &&Arc<Field>| refers(field) && !field.metadata().contains_key(DEPTH);
    let mut columns = Vec::new();
    for field in dataset.steps.fields().iter().filter(refer) {
        if let Some(path) = first(&dataset, field.name())? {
            let video = inside(root, &path)?;
            // FFmpeg would wait for the writer of a FIFO.
            files::open(&video).map_err(|error| files::unreadable(&video, &error))?;
            let size = Video::open(&video)?.size();
            columns.push((pictures::field(field.name(), frames, size)?, size));
        }
    }
    if columns.is_empty() {
        return Err(Error::usage(
            "there are frames to decode only where a column refers to a video, and none does",
        )
        .hint("leave `frames` and `videos` out"));
    }
    let how = if frames == Frames::Png {
        "png"
    } else {
        "array"
    };
    let depends = format!("{how} by {version} of {}", content_hash(root)?);
    Ok(dataset.decoding(Arc::new(References {
        root: root.to_owned(),
        frames,
        columns,
        depends,
    })))
}

/// The first file that the column `name` refers to; `None` where it refers to none.
fn first(dataset: &Dataset, name: &str) -> Result<Option<String>> {
    for shard in &dataset.manifest.shards {
        let reader = dataset.open_steps(shard)?;
        let mut start = 0;
        while start < reader.rows() {
            let end = reader.rows().min(start + AT_ONCE);
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

/// The file that a reference names, which must not lie outside of `root`.
fn inside(root: &Path, path: &str) -> Result<PathBuf> {
    if Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Ok(root.join(path));
    }
    Err(Error::failed(format!(
        "a frame is in `{path}`, a file outside of {}",
        root.display()
    ))
    .hint("references are relative to the dataset that was imported: import it again"))
}

impl References {
    fn decode(&self, size: [usize; 2], references: &StructArray) -> Result<ArrayRef> {
        let (paths, times) = (
            references.column(0).as_string::<i32>(),
            references.column(1).as_primitive::<Float64Type>(),
        );
        let mut pictures = Pictures::new(self.frames, size, references.len())?;
        let mut open: Option<(&str, Video)> = None;
        for row in 0..references.len() {
            if references.is_null(row) {
                pictures.skip()?;
                continue;
            }
            let path = paths.value(row);
            let (_, video) = match open.take() {
                Some(video) if video.0 == path => open.insert(video),
                _ => open.insert((path, Video::open(&inside(&self.root, path)?)?)),
            };
            pictures.push(video, times.value(row))?;
        }
        pictures.finish()
    }
}

impl Decode for References {
    fn field(&self, stored: &Field) -> Option<Field> {
        self.columns
            .iter()
            .find(|(field, _)| field.name() == stored.name())
            .map(|(field, _)| field.clone())
    }

    fn column(&self, name: &str, stored: &ArrayRef) -> Result<ArrayRef> {
        let known = self.columns.iter().find(|(field, _)| field.name() == name);
        let (_, size) =
            known.ok_or_else(|| Error::failed(format!("`{name}` is not to be decoded")))?;
        self.decode(*size, stored.as_struct())
            .map_err(|error| error.at(format!("column `{name}`")))
    }

    fn depends(&self) -> &str {
        &self.depends
    }
}
