//! References to frames of videos, and datasets that are read with the frames in their place.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::datatypes::{Field, Float64Type};

use super::{Pictures, Video, pictures, version};
use crate::dataset::frames::{FrameReader, LAZY, Picture, Place, refers};
use crate::dataset::{Dataset, Decode, SourceContent, files};
use crate::error::{Error, Result};
use crate::video::Frames;

/// The metadata key of columns that refer to depth videos, whose frames are not pictures.
pub(crate) const DEPTH: &str = "depth";

/// The number of rows that are read at once in search of the first reference of a column.
const SEARCH_ROWS: u64 = 4096;

/// The columns whose references become frames.
#[derive(Debug, Clone)]
struct References {
    root: PathBuf,
    /// The content of the folder `root` when it was hashed.
    content: Arc<SourceContent>,
    frames: Frames,
    /// The columns, each with the height and width of its first video.
    columns: Vec<(Field, [usize; 2])>,
    /// What decoded frames depend on, for fingerprints.
    depends: String,
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
            let size = Video::open(&video, 1)?.size();
            let mut made = pictures::field(field.name(), frames, size)?;
            made.metadata_mut().insert(LAZY.to_owned(), String::new());
            columns.push((made, size));
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
    let content = Arc::new(SourceContent::of(root)?);
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
    fn decode(&self, size: [usize; 2], references: &StructArray) -> Result<ArrayRef> {
        let mut read = BTreeSet::new();
        let decoded = self.frames(size, references, &mut read);
        // A file that was replaced may have failed for that reason alone.
        for path in &read {
            self.content.ensure_file_unchanged(path)?;
        }
        decoded
    }

    /// Decodes the frames that a column refers to. Adds every file that is opened to `read`.
    fn frames(
        &self,
        size: [usize; 2],
        references: &StructArray,
        read: &mut BTreeSet<PathBuf>,
    ) -> Result<ArrayRef> {
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
                _ => {
                    let file = resolve(&self.root, path)?;
                    // FFmpeg would wait for the writer of a FIFO.
                    self.content.ensure_file_unchanged(&file)?;
                    read.insert(file.clone());
                    open.insert((path, Video::open(&file, 0)?))
                }
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
            known.ok_or_else(|| Error::failed(format!("the column `{name}` is not decoded")))?;
        self.decode(*size, stored.as_struct())
            .map_err(|error| error.at(format!("column `{name}`")))
    }

    fn reader(&self, threads: usize) -> Result<Box<dyn FrameReader>> {
        Ok(Box::new(Reader {
            root: self.root.clone(),
            content: Arc::clone(&self.content),
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
    root: PathBuf,
    content: Arc<SourceContent>,
    threads: usize,
    open: Option<(Arc<str>, Video)>,
    /// The file that is open, or that could not be opened.
    file: Option<PathBuf>,
}

impl FrameReader for Reader {
    fn frame(&mut self, place: &Place) -> Result<Picture<'_>> {
        let open = match self.open.take().filter(|(path, _)| *path == place.path) {
            Some(open) => open,
            None => {
                self.finish()?;
                let file = resolve(&self.root, &place.path)?;
                // FFmpeg would wait for the writer of a FIFO.
                self.content.ensure_file_unchanged(&file)?;
                let file = self.file.insert(file);
                (Arc::clone(&place.path), Video::open(file, self.threads)?)
            }
        };
        let (_, video) = self.open.insert(open);
        video.picture(place.seconds)
    }

    fn finish(&mut self) -> Result<()> {
        self.open = None;
        let file = self.file.take();
        file.map_or(Ok(()), |file| self.content.ensure_file_unchanged(&file))
    }
}
