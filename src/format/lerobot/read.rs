//! Reads LeRobot datasets, one episode at a time.
//!
//! Where rows are is what the episode's metadata says, never a matter of the order of files; that the rows there are the
//! episode's own is checked by their `episode_index` and `index`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray, StructArray,
    make_array, new_null_array,
};
use arrow::compute::{CastOptions, cast, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, Float64Type, SchemaRef};
use serde_json::{Map, Value};

use super::cameras::Cameras;
use super::columns::{Column, Kind, SPLIT, TASK, about, columns};
use super::file::{DataFile, Finals};
use super::meta::{self, Episode, Episodes, INFO, Info, Layout};
use crate::dataset::files;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::transfer::read::table::{flags, vector};
use crate::transfer::read::{IncomingTrajectory, Options, Source};
use crate::video::reference;

/// A LeRobot dataset.
pub(crate) struct LeRobot {
    info: Info,
    schema: SchemaRef,
    columns: Vec<Column>,
    tasks: HashMap<i64, String>,
    /// Episodes not yet read, the next one last.
    episodes: Vec<Episode>,
    /// What the metadata says of each episode beside where it is.
    said: RecordBatch,
    about: SchemaRef,
    /// Where episodes are, for those of which the metadata does not say it.
    found: HashMap<u64, PathBuf>,
    open: Option<DataFile>,
    cameras: Cameras,
    finals: Option<Finals>,
}

/// `steps` and a row that holds only an observation.
fn with_final(steps: &RecordBatch, observation: ArrayRef) -> Result<RecordBatch> {
    let schema = steps.schema();
    let columns = schema
        .fields()
        .iter()
        .zip(steps.columns())
        .map(|(field, column)| {
            let last: ArrayRef = match field.name().as_str() {
                step::OBSERVATION => ArrayRef::clone(&observation),
                step::IS_FINAL => Arc::new(BooleanArray::from(vec![true])),
                step::TERMINATED | step::TRUNCATED => Arc::new(BooleanArray::from(vec![false])),
                _ => new_null_array(field.data_type(), 1),
            };
            Ok(concat(&[column.as_ref(), last.as_ref()])?)
        });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

pub(crate) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let info = Info::open(path)?;
    let tasks = meta::tasks(&info)?;
    let Episodes {
        list: mut episodes,
        said,
    } = meta::episodes(&info)?;
    if episodes.is_empty() {
        return Err(
            Error::failed(format!("{}: there are no episodes", path.display()))
                .hint("there is nothing to import"),
        );
    }
    let cameras = Cameras::new(&info, &episodes, options.frames)?;
    let (schema, columns) =
        columns(&info, options, &cameras).map_err(|error| error.at(path.join(INFO).display()))?;
    let mut found = HashMap::new();
    if info.layout == Layout::Shared && episodes.iter().any(|episode| episode.file.is_none()) {
        for file in meta::data_files(&path.join("data"))? {
            for index in DataFile::open(&file)?.scan()?.into_keys() {
                found.insert(index, file.clone());
            }
        }
    }
    episodes.reverse();
    let about = about(&info, &schema, &said);
    let finals = Finals::open(path, schema.field_with_name(step::OBSERVATION)?.data_type())?;
    Ok(Box::new(LeRobot {
        info,
        schema,
        columns,
        tasks,
        episodes,
        said,
        about,
        found,
        open: None,
        cameras,
        finals,
    }))
}

impl Source for LeRobot {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn rows(&self) -> Option<u64> {
        Some(self.info.total_frames)
    }

    fn metadata(&self) -> Map<String, Value> {
        Map::from_iter([("info".to_owned(), Value::Object(self.info.verbatim.clone()))])
    }

    fn about(&self) -> SchemaRef {
        SchemaRef::clone(&self.about)
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let Some(episode) = self.episodes.pop() else {
            return Ok(None);
        };
        match self.incoming(&episode) {
            Ok(incoming) => Ok(Some(incoming)),
            Err(error) => {
                self.open = None;
                Err(error.at(format!("episode {}", episode.index)))
            }
        }
    }
}

impl LeRobot {
    fn incoming(&mut self, episode: &Episode) -> Result<IncomingTrajectory> {
        let steps = self.steps(episode)?;
        let about = self.about.fields().iter().map(|field| -> Result<ArrayRef> {
            if let Some(said) = self.said.column_by_name(field.name()) {
                return Ok(said.slice(episode.row, 1));
            }
            if field.name() == SPLIT {
                return Ok(Arc::new(StringArray::from(vec![
                    self.info.split(episode.index),
                ])));
            }
            let task = steps.column_by_name(TASK).map(|task| task.slice(0, 1));
            task.ok_or_else(|| Error::failed(format!("there is no column `{}`", field.name())))
        });
        let about = match about.collect::<Result<Vec<_>>>()? {
            none if none.is_empty() => None,
            columns => Some(RecordBatch::try_new(
                SchemaRef::clone(&self.about),
                columns,
            )?),
        };
        let uid = about.as_ref().and_then(|about| {
            about
                .column_by_name(trajectory::UID)?
                .as_string_opt::<i32>()
        });
        let last = match (uid, &mut self.finals) {
            (Some(uid), Some(finals)) => finals.take(uid.value(0))?,
            _ => None,
        };
        let steps = match last {
            Some(observation) => with_final(&steps, observation)?,
            None => steps,
        };
        Ok(IncomingTrajectory {
            key: episode.index.to_string(),
            steps,
            about,
        })
    }

    fn steps(&mut self, episode: &Episode) -> Result<RecordBatch> {
        let path = match (
            self.info.layout,
            episode.file,
            self.found.get(&episode.index),
        ) {
            (Layout::Shared, None, Some(found)) => found.clone(),
            (Layout::Shared, None, None) => {
                return Err(Error::failed(format!(
                    "no file under {} holds rows of it",
                    self.info.root.join("data").display()
                ))
                .hint("the dataset is not whole: fetch it again"));
            }
            _ => self.info.root.join(self.info.data_file(episode)?),
        };
        if self.open.as_ref().is_none_or(|open| open.path != path) {
            self.open = Some(DataFile::open(&path)?);
        }
        let Some(open) = &mut self.open else {
            return Err(Error::failed("no file is open"));
        };
        let rows = open.locate(self.info.layout, episode)?;
        let table = open.rows(rows)?;
        let place = |error: Error| error.at(path.display());
        check(&table, self.info.layout, episode).map_err(place)?;
        let frames = self.frames(&table, episode)?;
        self.convert(&table, episode, &frames).map_err(place)
    }

    /// Decoded frames of the episode, by the number of their video feature.
    fn frames(
        &mut self,
        table: &RecordBatch,
        episode: &Episode,
    ) -> Result<HashMap<usize, ArrayRef>> {
        let mut frames = HashMap::new();
        for Column { source, kind } in &self.columns {
            if let Kind::Frames(at) = kind {
                let (path, times) = places(&self.info, source, *at, episode, table)?;
                frames.insert(
                    *at,
                    self.cameras
                        .decode(*at, &self.info.root.join(path), &times)?,
                );
            }
        }
        Ok(frames)
    }

    /// The rows of an episode's table as steps.
    fn convert(
        &self,
        table: &RecordBatch,
        episode: &Episode,
        frames: &HashMap<usize, ArrayRef>,
    ) -> Result<RecordBatch> {
        let columns = self.columns.iter().zip(self.schema.fields());
        let columns =
            columns.map(|(column, field)| self.values(column, field, table, episode, frames));
        Ok(RecordBatch::try_new(
            SchemaRef::clone(&self.schema),
            columns.collect::<Result<Vec<_>>>()?,
        )?)
    }

    /// The column or the part of one that `field` is.
    fn values(
        &self,
        Column { source, kind }: &Column,
        field: &Field,
        table: &RecordBatch,
        episode: &Episode,
        frames: &HashMap<usize, ArrayRef>,
    ) -> Result<ArrayRef> {
        let column = |name: &str| {
            table.column_by_name(name).ok_or_else(|| {
                Error::failed(format!(
                    "there is no column `{name}`, which `features` of {INFO} declares"
                ))
                .hint("remove the feature there, or fetch the file again")
            })
        };
        let values: ArrayRef = match (kind, field.data_type()) {
            (Kind::Vector { element, shape }, _) => {
                flat(source, column(source)?, element, shape, field)?
            }
            (Kind::Single, data_type) => single(source, column(source)?, data_type)?,
            (Kind::Image, _) => self.images(source, column(source)?)?,
            (Kind::Video(at), _) => references(places(&self.info, source, *at, episode, table)?)?,
            (Kind::Frames(at), _) => frames
                .get(at)
                .cloned()
                .ok_or_else(|| Error::failed(format!("`{source}` has not been decoded")))?,
            (Kind::Parts(parts), DataType::Struct(fields)) => {
                let parts = parts
                    .iter()
                    .zip(fields)
                    .map(|(part, field)| self.values(part, field, table, episode, frames));
                Arc::new(StructArray::try_new(
                    fields.clone(),
                    parts.collect::<Result<Vec<_>>>()?,
                    None,
                )?)
            }
            (Kind::Parts(_), other) => {
                return Err(Error::failed(format!(
                    "an observation of several parts is no {other}"
                )));
            }
            (Kind::Task, _) => self.texts(table)?,
            (Kind::Flag, _) => {
                let values = single(source, column(source)?, &DataType::Float64)?;
                Arc::new(BooleanArray::from(flags(source, &values, &[], &|row| {
                    format!("frame {row}")
                })?))
            }
            (Kind::Never, _) => Arc::new(BooleanArray::from(vec![false; table.num_rows()])),
        };
        if !field.is_nullable() && values.null_count() > 0 {
            let row = (0..values.len())
                .find(|row| values.is_null(*row))
                .unwrap_or(0);
            return Err(
                Error::failed(format!("feature `{source}` is null at frame {row}"))
                    .hint("every frame needs an observation: drop the episode, or fill it"),
            );
        }
        Ok(values)
    }

    /// Encoded images: the bytes in the table, or those of the file that it names.
    fn images(&self, name: &str, column: &ArrayRef) -> Result<ArrayRef> {
        let Some(parts) = column.as_struct_opt() else {
            return cast(column, &DataType::Binary).map_err(|_| {
                Error::failed(format!(
                    "feature `{name}` is {}, not encoded images",
                    column.data_type()
                ))
            });
        };
        let part = |part: &str, data_type: &DataType| {
            parts
                .column_by_name(part)
                .and_then(|values| cast(values, data_type).ok())
        };
        let (bytes, paths) = (
            part("bytes", &DataType::Binary),
            part("path", &DataType::Utf8),
        );
        let bytes = bytes.as_ref().map(|bytes| bytes.as_binary::<i32>());
        let paths = paths.as_ref().map(|paths| paths.as_string::<i32>());
        let mut images = arrow::array::BinaryBuilder::new();
        for row in 0..column.len() {
            let inline = bytes
                .filter(|bytes| bytes.is_valid(row))
                .map(|bytes| bytes.value(row));
            match (
                inline,
                paths
                    .filter(|paths| paths.is_valid(row))
                    .map(|paths| paths.value(row)),
            ) {
                _ if parts.is_null(row) => images.append_null(),
                (Some(bytes), _) => images.append_value(bytes),
                (None, Some(path))
                    if !path.starts_with('/') && !path.split('/').any(|part| part == "..") =>
                {
                    let path = self.info.root.join(path);
                    let bytes = files::read(&path).map_err(|error| {
                        Error::failed(format!(
                            "feature `{name}` at frame {row}: cannot read {}: {error}",
                            path.display()
                        ))
                        .hint("the dataset is not whole: fetch it again")
                    })?;
                    images.append_value(bytes);
                }
                (None, Some(path)) => {
                    return Err(Error::failed(format!("feature `{name}` at frame {row} names `{path}`, a file outside of the dataset"))
                        .hint("write the dataset again with the images' bytes inside"));
                }
                (None, None) => images.append_null(),
            }
        }
        Ok(Arc::new(images.finish()))
    }

    fn texts(&self, table: &RecordBatch) -> Result<ArrayRef> {
        let indices = meta::integers(table, "task_index").ok_or_else(|| {
            Error::failed("`task_index` is missing or holds nulls").hint("fetch the file again")
        })?;
        let text = |(row, index): (usize, &i64)| {
            self.tasks.get(index).map(String::as_str).ok_or_else(|| {
                Error::failed(format!(
                    "`task_index` is {index} at frame {row}, and meta/tasks has no such task"
                ))
                .hint("the metadata is from another version of the dataset: fetch it again")
            })
        };
        Ok(Arc::new(StringArray::from_iter_values(
            indices
                .values()
                .iter()
                .enumerate()
                .map(text)
                .collect::<Result<Vec<_>>>()?,
        )))
    }
}

/// Where the frames of a video feature are: the file, relative to the root, and the second in it of each.
fn places(
    info: &Info,
    name: &str,
    at: usize,
    episode: &Episode,
    table: &RecordBatch,
) -> Result<(String, Float64Array)> {
    let (path, from) = info.video_file(episode, at, name)?;
    let times = match table.column_by_name("timestamp") {
        Some(times) => single("timestamp", times, &DataType::Float64)?,
        None => Arc::new(Float64Array::from_iter_values(
            (0..table.num_rows()).map(|row| row as f64 / info.fps),
        )),
    };
    let times = times.as_primitive::<Float64Type>();
    if times.null_count() > 0 {
        return Err(Error::failed("`timestamp` holds nulls")
            .hint("every frame of a video needs its time: fetch the file again"));
    }
    Ok((path, times.unary(|time| from + time)))
}

/// References to frames.
fn references((path, times): (String, Float64Array)) -> Result<ArrayRef> {
    let paths = StringArray::from_iter_values(std::iter::repeat_n(path, times.len()));
    Ok(Arc::new(StructArray::try_new(
        reference(),
        vec![Arc::new(paths), Arc::new(times)],
        None,
    )?))
}

/// Checks that the rows are those of the episode, in order.
fn check(table: &RecordBatch, layout: Layout, episode: &Episode) -> Result<()> {
    let wrong = |name: &str, row: usize, found: i64, expected: String| {
        Error::failed(format!("`{name}` is {found} at frame {row}, where {expected}"))
            .hint("metadata and data contradict each other: fetch the dataset again, or write it again with LeRobot's own tools")
    };
    let values = |name: &str| meta::integers(table, name);
    if let Some(indices) = values("episode_index")
        && let Some(row) =
            (0..indices.len()).find(|row| indices.value(*row) != episode.index as i64)
    {
        return Err(wrong(
            "episode_index",
            row,
            indices.value(row),
            format!("the metadata places episode {}", episode.index),
        ));
    }
    if let (Some(indices), Some(first), Layout::Shared) = (values("index"), episode.first, layout) {
        let expected = |row: usize| first as i64 + row as i64;
        if let Some(row) = (0..indices.len()).find(|row| indices.value(*row) != expected(*row)) {
            return Err(wrong(
                "index",
                row,
                indices.value(row),
                format!("`dataset_from_index` makes it {}", expected(row)),
            ));
        }
    }
    if let Some(frames) = values("frame_index")
        && let Some(row) = (1..frames.len()).find(|row| frames.value(*row) <= frames.value(row - 1))
    {
        return Err(wrong(
            "frame_index",
            row,
            frames.value(row),
            format!("the frame before has {}", frames.value(row - 1)),
        ));
    }
    if let (Some(first), Some(end)) = (episode.first, episode.end)
        && end.checked_sub(first) != Some(episode.length)
    {
        return Err(Error::failed(format!(
            "meta/episodes says {} frames, and rows {first} to {end}",
            episode.length
        ))
        .hint(
            "the metadata contradicts itself: write the dataset again with LeRobot's own tools",
        ));
    }
    Ok(())
}

/// One value a frame, as `to`; lists of one value are taken out of their lists.
fn single(name: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let mut column = ArrayRef::clone(column);
    if let DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) =
        column.data_type()
    {
        let child = Arc::new(child.as_ref().clone().with_nullable(false));
        let list = vector(name, &column, &child, 1, &|row| format!("frame {row}"))?;
        let list = list.as_fixed_size_list();
        column = make_array(
            list.values()
                .to_data()
                .into_builder()
                .nulls(list.nulls().cloned())
                .build()?,
        );
    }
    convert(name, &column, to)
}

/// A lossless change of type, or one that the declared type asks for; never one that loses a value.
fn convert(name: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, to, &options).map_err(|error| {
        Error::failed(format!(
            "feature `{name}` is {}, which cannot be read as {to}: {error}",
            column.data_type()
        ))
        .hint(format!("correct its dtype in {INFO}"))
    })
}

/// Nested lists of the declared shape as vectors, row by row.
fn flat(
    name: &str,
    column: &ArrayRef,
    element: &DataType,
    shape: &[usize],
    field: &Field,
) -> Result<ArrayRef> {
    let DataType::FixedSizeList(child, width) = field.data_type() else {
        return Err(Error::failed(format!("`{name}` is no vector")));
    };
    let mut values = ArrayRef::clone(column);
    let mut nulls = column.nulls().cloned();
    let mut per_row = 1;
    for axis in shape {
        let inner = match values.data_type() {
            DataType::List(inner)
            | DataType::LargeList(inner)
            | DataType::FixedSizeList(inner, _) => inner,
            // One value a frame is a plain column.
            _ if shape.iter().product::<usize>() == 1 => break,
            other => {
                return Err(Error::failed(format!(
                    "feature `{name}` is {other} where its shape is {shape:?}"
                ))
                .hint(format!("correct its shape in {INFO}")));
            }
        };
        let inner = Arc::new(inner.as_ref().clone().with_nullable(false));
        let axis = i32::try_from(*axis)
            .map_err(|_| Error::failed(format!("feature `{name}` has too long an axis")))?;
        let list = vector(name, &values, &inner, axis, &|row| {
            format!("frame {}", row / per_row)
        })
        .map_err(|error| {
            error.hint(format!("`features` of {INFO} gives it the shape {shape:?}"))
        })?;
        let list = list.as_fixed_size_list();
        if per_row == 1 {
            nulls = list.nulls().cloned();
        }
        values = ArrayRef::clone(list.values());
        per_row *= axis.max(1) as usize;
    }
    let values = convert(name, &values, element)?;
    let values = make_array(values.to_data().into_builder().nulls(None).build()?);
    Ok(Arc::new(arrow::array::FixedSizeListArray::try_new(
        Arc::clone(child),
        *width,
        values,
        nulls,
    )?))
}
