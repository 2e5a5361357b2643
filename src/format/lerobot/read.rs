//! Reads LeRobot datasets, one episode at a time.
//!
//! Where rows are is what the episode's metadata says, never a matter of the order of files; that the rows there are the
//! episode's own is checked by their `episode_index` and `index`.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray, StructArray, make_array, new_null_array,
};
use arrow::compute::{CastOptions, cast, cast_with_options, concat, concat_batches};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use serde_json::{Map, Value};

use super::FINALS;
use super::meta::{self, Episode, Episodes, Feature, INFO, Info, Layout};
use crate::dataset::schema::{self, step, trajectory};
use crate::error::{Error, Result, nearest};
use crate::format::table::{flags, vector};
use crate::format::{Incoming, Options, Source, free_name};

/// Rows that are read at once.
const BATCH_ROWS: usize = 4096;

/// Names that features go by.
const NAMES: [(&str, &[&str]); 5] = [
    (
        step::OBSERVATION,
        &["observation.state", "observation.environment_state", "observation", "state", "observations.state", "observations"],
    ),
    (step::ACTION, &["action", "actions"]),
    (step::REWARD, &["next.reward", "reward"]),
    (step::TERMINATED, &["next.done", "next.terminated", "done"]),
    (step::TRUNCATED, &["next.truncated", "truncated"]),
];

/// The column of the text that `task_index` stands for.
const TASK: &str = "task";

/// The column of trajectories that names the split.
const SPLIT: &str = "split";

/// What a column of steps is made of.
enum Kind {
    /// Numbers, `shape` of them a frame.
    Vector { element: DataType, shape: Vec<usize> },
    /// One number, flag or text a frame.
    Single,
    /// An encoded image.
    Image,
    /// A reference: number of the video feature.
    Video(usize),
    /// The text of `task_index`.
    Task,
    /// A flag that must be known.
    Flag,
    /// A flag that is never set.
    Never,
}

/// One column of steps.
struct Column {
    /// The feature's name.
    source: String,
    kind: Kind,
}

/// A LeRobot dataset.
pub(super) struct LeRobot {
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
    finals: Option<Finals>,
}

/// Final observations that this tool has kept beside the data, in order of their trajectories.
struct Finals {
    batches: Box<dyn Iterator<Item = Result<RecordBatch>>>,
    batch: RecordBatch,
    row: usize,
}

impl Finals {
    /// Those of the dataset at `root`, if there are any and they are of the type of its observations.
    fn open(root: &Path, observation: &DataType) -> Result<Option<Finals>> {
        let path = root.join(FINALS);
        if !path.is_file() {
            return Ok(None);
        }
        let mut batches = meta::table(&path, &|_| true)?;
        let Some(batch) = batches.next().transpose()? else { return Ok(None) };
        let same = batch.column_by_name(step::OBSERVATION).is_some_and(|column| column.data_type() == observation);
        Ok(same.then(|| Finals { batches: Box::new(batches), batch, row: 0 }))
    }

    /// The observation after the last action of trajectory `uid`.
    fn take(&mut self, uid: &str) -> Result<Option<ArrayRef>> {
        if self.row == self.batch.num_rows() {
            let Some(batch) = self.batches.next().transpose()? else { return Ok(None) };
            (self.batch, self.row) = (batch, 0);
        }
        let own = self.batch.column_by_name(trajectory::UID).and_then(|uids| uids.as_string_opt::<i32>());
        if own.is_none_or(|own| own.value(self.row) != uid) {
            return Ok(None);
        }
        self.row += 1;
        Ok(self.batch.column_by_name(step::OBSERVATION).map(|column| column.slice(self.row - 1, 1)))
    }
}

/// `steps` and a row that holds only an observation.
fn with_final(steps: &RecordBatch, observation: ArrayRef) -> Result<RecordBatch> {
    let schema = steps.schema();
    let columns = schema.fields().iter().zip(steps.columns()).map(|(field, column)| {
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

pub(super) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let info = Info::open(path)?;
    let tasks = meta::tasks(&info)?;
    let Episodes { list: mut episodes, said } = meta::episodes(&info)?;
    if episodes.is_empty() {
        return Err(Error::failed(format!("{}: there are no episodes", path.display())).hint("there is nothing to import"));
    }
    let (schema, columns) = columns(&info, options).map_err(|error| error.at(path.join(INFO).display()))?;
    let mut found = HashMap::new();
    if info.layout == Layout::Shared && episodes.iter().any(|episode| episode.file.is_none()) {
        for file in meta::files(&path.join("data"))? {
            for index in DataFile::open(&file)?.scan()?.into_keys() {
                found.insert(index, file.clone());
            }
        }
    }
    episodes.reverse();
    let about = about(&info, &schema, &said);
    let finals = Finals::open(path, schema.field_with_name(step::OBSERVATION)?.data_type())?;
    Ok(Box::new(LeRobot { info, schema, columns, tasks, episodes, said, about, found, open: None, finals }))
}

/// What is said of each trajectory: what this tool wrote there, its first task and its split.
fn about(info: &Info, steps: &Schema, said: &RecordBatch) -> SchemaRef {
    let mut fields = said.schema().fields().to_vec();
    let mut add = |name: &str, there: bool| {
        if there && !fields.iter().any(|field| field.name() == name) {
            fields.push(Arc::new(Field::new(name, DataType::Utf8, true)));
        }
    };
    add(TASK, steps.column_with_name(TASK).is_some_and(|(_, field)| *field.data_type() == DataType::Utf8));
    add(SPLIT, !info.splits.is_empty());
    Arc::new(Schema::new(fields))
}

/// The columns of steps, and what they are made of.
fn columns(info: &Info, options: &Options) -> Result<(SchemaRef, Vec<Column>)> {
    let targets = NAMES.map(|(target, _)| target);
    if let Some((target, _)) = options.map.iter().find(|(target, _)| !targets.contains(&target.as_str())) {
        return Err(Error::usage(format!("--map cannot give `{target}` here")).hint(format!("one of {}", targets.join(", "))));
    }
    let names = || info.features.iter().map(|feature| feature.name.as_str());
    let listing = || format!("the features are {}", names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
    let mut roles: Vec<(&str, &Feature)> = Vec::new();
    for (target, known) in NAMES {
        let found = match options.map.iter().find(|(name, _)| name == target) {
            Some((_, source)) => {
                let found = info.features.iter().find(|feature| feature.name == *source);
                Some(found.ok_or_else(|| {
                    let hint = nearest(source, names()).map_or_else(listing, |meant| format!("did you mean `{meant}`?"));
                    Error::failed(format!("there is no feature `{source}` to be `{target}`")).hint(hint)
                })?)
            }
            None => known.iter().find_map(|name| info.features.iter().find(|feature| feature.name == *name)),
        };
        // With no vector to observe, what a camera saw is the observation.
        let camera = || ["image", "video"].iter().find_map(|dtype| info.features.iter().find(|feature| feature.dtype == *dtype));
        match found.or_else(|| if target == step::OBSERVATION { camera() } else { None }) {
            Some(feature) => roles.push((target, feature)),
            None if target == step::OBSERVATION => {
                return Err(Error::failed("there is no feature `observation.state`")
                    .hint(format!("name one with --map observation=FEATURE; {}", listing())));
            }
            None => {}
        }
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let mut push = |field: Field, source: &str, kind: Kind| {
        fields.push(field);
        columns.push(Column { source: source.to_owned(), kind });
    };
    let videos: Vec<&str> = info.videos().map(|feature| feature.name.as_str()).collect();
    for target in [step::OBSERVATION, step::ACTION, step::REWARD] {
        if let Some((_, feature)) = roles.iter().find(|(role, _)| *role == target) {
            let (field, kind) = column(target, feature, &videos)?;
            push(field.with_nullable(target != step::OBSERVATION), &feature.name, kind);
        }
    }
    for target in [step::TERMINATED, step::TRUNCATED, step::IS_FINAL] {
        let feature = roles.iter().find(|(role, _)| *role == target).map(|(_, feature)| feature);
        let field = Field::new(target, DataType::Boolean, false);
        match feature {
            Some(feature) if feature.shape.iter().product::<usize>() == 1 && numeric(&feature.dtype).is_some() => {
                push(field, &feature.name, Kind::Flag)
            }
            Some(feature) => return Err(unsuitable(feature, target)),
            None => push(field, "", Kind::Never),
        }
    }
    for feature in &info.features {
        if !roles.iter().any(|(_, used)| used.name == feature.name) {
            let (field, kind) = column(&free_name(&feature.name), feature, &videos)?;
            push(field, &feature.name, kind);
        }
    }
    if names().any(|name| name == "task_index") && !names().any(|name| name == TASK) {
        push(Field::new(TASK, DataType::Utf8, true), "task_index", Kind::Task);
    }
    Ok((Arc::new(Schema::new(fields)), columns))
}

fn unsuitable(feature: &Feature, target: &str) -> Error {
    Error::failed(format!("feature `{}` is {} of shape {:?}, which cannot be `{target}`", feature.name, feature.dtype, feature.shape))
        .hint(format!("name another with --map {target}=FEATURE"))
}

/// The column of type and kind that a feature becomes under the name `target`.
fn column(target: &str, feature: &Feature, videos: &[&str]) -> Result<(Field, Kind)> {
    let width: usize = feature.shape.iter().product();
    let of = |data_type: DataType, kind: Kind| Ok((Field::new(target, data_type, true), kind));
    match feature.dtype.as_str() {
        "image" if target != step::ACTION && target != step::REWARD => of(DataType::Binary, Kind::Image),
        "video" if target != step::ACTION && target != step::REWARD => {
            let at = videos.iter().position(|video| *video == feature.name).unwrap_or(0);
            of(DataType::Struct(reference()), Kind::Video(at))
        }
        "string" | "language" if ![step::OBSERVATION, step::ACTION, step::REWARD].contains(&target) => of(DataType::Utf8, Kind::Single),
        dtype => {
            let Some(element) = numeric(dtype) else {
                return Err(if targets_numbers(target) {
                    unsuitable(feature, target)
                } else {
                    Error::failed(format!("feature `{}` has the dtype `{dtype}`, which is not known", feature.name))
                        .hint("numpy's numbers, bool, string, image and video are read: remove the feature with LeRobot's own tools")
                });
            };
            let single = feature.shape.len() < 2 && width == 1;
            match target {
                step::REWARD if !single => Err(unsuitable(feature, target)),
                step::REWARD => of(element, Kind::Single),
                step::ACTION if single && element.is_integer() => of(element, Kind::Single),
                step::OBSERVATION | step::ACTION => vectors(target, element, feature),
                _ if single => of(element, Kind::Single),
                _ => vectors(target, element, feature),
            }
        }
    }
}

fn targets_numbers(target: &str) -> bool {
    [step::OBSERVATION, step::ACTION, step::REWARD].contains(&target)
}

fn vectors(target: &str, element: DataType, feature: &Feature) -> Result<(Field, Kind)> {
    let width: usize = feature.shape.iter().product();
    let width = i32::try_from(width).ok().filter(|width| *width > 0);
    let width = width.ok_or_else(|| {
        Error::failed(format!("feature `{}` has the shape {:?}: a frame must hold something", feature.name, feature.shape))
    })?;
    let mut field = Field::new(target, schema::vector(element.clone(), width), true);
    if feature.shape.len() > 1 {
        let shape = feature.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        field = field.with_metadata([("shape".to_owned(), shape)].into());
    }
    Ok((field, Kind::Vector { element, shape: if feature.shape.is_empty() { vec![1] } else { feature.shape.clone() } }))
}

/// The fields of a reference to a frame of a video: a file relative to the source, and seconds from its beginning.
fn reference() -> Fields {
    Fields::from(vec![Field::new("path", DataType::Utf8, false), Field::new("timestamp", DataType::Float64, false)])
}

fn numeric(dtype: &str) -> Option<DataType> {
    Some(match dtype {
        "bool" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float16" => DataType::Float16,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        _ => return None,
    })
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

    fn recovers(&self) -> bool {
        true
    }

    fn next(&mut self) -> Result<Option<Incoming>> {
        let Some(episode) = self.episodes.pop() else { return Ok(None) };
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
    fn incoming(&mut self, episode: &Episode) -> Result<Incoming> {
        let steps = self.steps(episode)?;
        let about = self.about.fields().iter().map(|field| -> Result<ArrayRef> {
            if let Some(said) = self.said.column_by_name(field.name()) {
                return Ok(said.slice(episode.row, 1));
            }
            if field.name() == SPLIT {
                return Ok(Arc::new(StringArray::from(vec![self.info.split(episode.index)])));
            }
            let task = steps.column_by_name(TASK).map(|task| task.slice(0, 1));
            task.ok_or_else(|| Error::failed(format!("there is no column `{}`", field.name())))
        });
        let about = match about.collect::<Result<Vec<_>>>()? {
            none if none.is_empty() => None,
            columns => Some(RecordBatch::try_new(SchemaRef::clone(&self.about), columns)?),
        };
        let uid = about.as_ref().and_then(|about| about.column_by_name(trajectory::UID)?.as_string_opt::<i32>());
        let last = match (uid, &mut self.finals) {
            (Some(uid), Some(finals)) => finals.take(uid.value(0))?,
            _ => None,
        };
        let steps = match last {
            Some(observation) => with_final(&steps, observation)?,
            None => steps,
        };
        Ok(Incoming { key: episode.index.to_string(), steps, about })
    }

    fn steps(&mut self, episode: &Episode) -> Result<RecordBatch> {
        let path = match (self.info.layout, episode.file, self.found.get(&episode.index)) {
            (Layout::Shared, None, Some(found)) => found.clone(),
            (Layout::Shared, None, None) => {
                return Err(Error::failed(format!("no file under {} holds rows of it", self.info.root.join("data").display()))
                    .hint("the dataset is not whole: fetch it again"));
            }
            _ => self.info.root.join(self.info.data_file(episode)?),
        };
        if self.open.as_ref().is_none_or(|open| open.path != path) {
            self.open = Some(DataFile::open(&path)?);
        }
        let Some(open) = &mut self.open else { return Err(Error::failed("no file is open")) };
        let rows = open.locate(self.info.layout, episode)?;
        let table = open.rows(rows)?;
        check(&table, self.info.layout, episode).and_then(|()| self.convert(&table, episode)).map_err(|error| error.at(path.display()))
    }

    /// The rows of an episode's table as steps.
    fn convert(&self, table: &RecordBatch, episode: &Episode) -> Result<RecordBatch> {
        let column = |name: &str| {
            table.column_by_name(name).ok_or_else(|| {
                Error::failed(format!("there is no column `{name}`, which `features` of {INFO} declares"))
                    .hint("remove the feature there, or fetch the file again")
            })
        };
        let columns = self.columns.iter().zip(self.schema.fields());
        let columns = columns.map(|(Column { source, kind }, field)| {
            let values: ArrayRef = match kind {
                Kind::Vector { element, shape } => flat(source, column(source)?, element, shape, field)?,
                Kind::Single => single(source, column(source)?, field.data_type())?,
                Kind::Image => self.images(source, column(source)?)?,
                Kind::Video(at) => self.video(source, *at, episode, table)?,
                Kind::Task => self.texts(table)?,
                Kind::Flag => {
                    let values = single(source, column(source)?, &DataType::Float64)?;
                    Arc::new(BooleanArray::from(flags(source, &values, &[], &|row| format!("frame {row}"))?))
                }
                Kind::Never => Arc::new(BooleanArray::from(vec![false; table.num_rows()])),
            };
            if !field.is_nullable() && values.null_count() > 0 {
                let row = (0..values.len()).find(|row| values.is_null(*row)).unwrap_or(0);
                return Err(Error::failed(format!("feature `{source}` is null at frame {row}"))
                    .hint("every frame needs an observation: drop the episode, or fill it"));
            }
            Ok(values)
        });
        Ok(RecordBatch::try_new(SchemaRef::clone(&self.schema), columns.collect::<Result<Vec<_>>>()?)?)
    }

    /// Encoded images: the bytes in the table, or those of the file that it names.
    fn images(&self, name: &str, column: &ArrayRef) -> Result<ArrayRef> {
        let Some(parts) = column.as_struct_opt() else {
            return cast(column, &DataType::Binary)
                .map_err(|_| Error::failed(format!("feature `{name}` is {}, not encoded images", column.data_type())));
        };
        let part = |part: &str, data_type: &DataType| parts.column_by_name(part).and_then(|values| cast(values, data_type).ok());
        let (bytes, paths) = (part("bytes", &DataType::Binary), part("path", &DataType::Utf8));
        let bytes = bytes.as_ref().map(|bytes| bytes.as_binary::<i32>());
        let paths = paths.as_ref().map(|paths| paths.as_string::<i32>());
        let mut images = arrow::array::BinaryBuilder::new();
        for row in 0..column.len() {
            let inline = bytes.filter(|bytes| bytes.is_valid(row)).map(|bytes| bytes.value(row));
            match (inline, paths.filter(|paths| paths.is_valid(row)).map(|paths| paths.value(row))) {
                _ if parts.is_null(row) => images.append_null(),
                (Some(bytes), _) => images.append_value(bytes),
                (None, Some(path)) if !path.starts_with('/') && !path.split('/').any(|part| part == "..") => {
                    let path = self.info.root.join(path);
                    let bytes = std::fs::read(&path).map_err(|error| {
                        Error::failed(format!("feature `{name}` at frame {row}: cannot read {}: {error}", path.display()))
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

    /// References to the frames of a video.
    fn video(&self, name: &str, at: usize, episode: &Episode, table: &RecordBatch) -> Result<ArrayRef> {
        let (path, from) = self.info.video_file(episode, at, name)?;
        let times = match table.column_by_name("timestamp") {
            Some(times) => single("timestamp", times, &DataType::Float64)?,
            None => Arc::new(Float64Array::from_iter_values((0..table.num_rows()).map(|row| row as f64 / self.info.fps))),
        };
        let times = times.as_primitive::<Float64Type>();
        if times.null_count() > 0 {
            return Err(Error::failed("`timestamp` holds nulls").hint("every frame of a video needs its time: fetch the file again"));
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&path, table.num_rows()))),
            Arc::new(times.unary::<_, Float64Type>(|time| from + time)),
        ];
        Ok(Arc::new(StructArray::try_new(reference(), columns, None)?))
    }

    fn texts(&self, table: &RecordBatch) -> Result<ArrayRef> {
        let indices = meta::integers(table, "task_index")
            .ok_or_else(|| Error::failed("`task_index` is missing or holds nulls").hint("fetch the file again"))?;
        let text = |(row, index): (usize, &i64)| {
            self.tasks.get(index).map(String::as_str).ok_or_else(|| {
                Error::failed(format!("`task_index` is {index} at frame {row}, and meta/tasks has no such task"))
                    .hint("the metadata is from another version of the dataset: fetch it again")
            })
        };
        Ok(Arc::new(StringArray::from_iter_values(indices.values().iter().enumerate().map(text).collect::<Result<Vec<_>>>()?)))
    }
}

/// Checks that the rows are those of the episode, in order.
fn check(table: &RecordBatch, layout: Layout, episode: &Episode) -> Result<()> {
    let wrong = |name: &str, row: usize, found: i64, expected: String| {
        Error::failed(format!("`{name}` is {found} at frame {row}, where {expected}"))
            .hint("metadata and data contradict each other: fetch the dataset again, or write it again with LeRobot's own tools")
    };
    let values = |name: &str| meta::integers(table, name);
    if let Some(indices) = values("episode_index")
        && let Some(row) = (0..indices.len()).find(|row| indices.value(*row) != episode.index as i64)
    {
        return Err(wrong("episode_index", row, indices.value(row), format!("the metadata places episode {}", episode.index)));
    }
    if let (Some(indices), Some(first), Layout::Shared) = (values("index"), episode.first, layout) {
        let expected = |row: usize| first as i64 + row as i64;
        if let Some(row) = (0..indices.len()).find(|row| indices.value(*row) != expected(*row)) {
            return Err(wrong("index", row, indices.value(row), format!("`dataset_from_index` makes it {}", expected(row))));
        }
    }
    if let Some(frames) = values("frame_index")
        && let Some(row) = (1..frames.len()).find(|row| frames.value(*row) <= frames.value(row - 1))
    {
        return Err(wrong("frame_index", row, frames.value(row), format!("the frame before has {}", frames.value(row - 1))));
    }
    if let (Some(first), Some(end)) = (episode.first, episode.end)
        && end.checked_sub(first) != Some(episode.length)
    {
        return Err(Error::failed(format!("meta/episodes says {} frames, and rows {first} to {end}", episode.length))
            .hint("the metadata contradicts itself: write the dataset again with LeRobot's own tools"));
    }
    Ok(())
}

/// One value a frame, as `to`; lists of one value are taken out of their lists.
fn single(name: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let mut column = ArrayRef::clone(column);
    if let DataType::List(child) | DataType::LargeList(child) | DataType::FixedSizeList(child, _) = column.data_type() {
        let child = Arc::new(child.as_ref().clone().with_nullable(false));
        let list = vector(name, &column, &child, 1, &|row| format!("frame {row}"))?;
        let list = list.as_fixed_size_list();
        column = make_array(list.values().to_data().into_builder().nulls(list.nulls().cloned()).build()?);
    }
    convert(name, &column, to)
}

/// A lossless change of type, or one that the declared type asks for; never one that loses a value.
fn convert(name: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, to, &options).map_err(|error| {
        Error::failed(format!("feature `{name}` is {}, which cannot be read as {to}: {error}", column.data_type()))
            .hint(format!("correct its dtype in {INFO}"))
    })
}

/// Nested lists of the declared shape as vectors, row by row.
fn flat(name: &str, column: &ArrayRef, element: &DataType, shape: &[usize], field: &Field) -> Result<ArrayRef> {
    let DataType::FixedSizeList(child, width) = field.data_type() else { return Err(Error::failed(format!("`{name}` is no vector"))) };
    let mut values = ArrayRef::clone(column);
    let mut nulls = column.nulls().cloned();
    let mut per_row = 1;
    for axis in shape {
        let inner = match values.data_type() {
            DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) => inner,
            // One value a frame is a plain column.
            _ if shape.iter().product::<usize>() == 1 => break,
            other => {
                return Err(Error::failed(format!("feature `{name}` is {other} where its shape is {shape:?}"))
                    .hint(format!("correct its shape in {INFO}")));
            }
        };
        let inner = Arc::new(inner.as_ref().clone().with_nullable(false));
        let axis = i32::try_from(*axis).map_err(|_| Error::failed(format!("feature `{name}` has too long an axis")))?;
        let list = vector(name, &values, &inner, axis, &|row| format!("frame {}", row / per_row))
            .map_err(|error| error.hint(format!("`features` of {INFO} gives it the shape {shape:?}")))?;
        let list = list.as_fixed_size_list();
        if per_row == 1 {
            nulls = list.nulls().cloned();
        }
        values = ArrayRef::clone(list.values());
        per_row *= axis.max(1) as usize;
    }
    let values = convert(name, &values, element)?;
    let values = make_array(values.to_data().into_builder().nulls(None).build()?);
    Ok(Arc::new(arrow::array::FixedSizeListArray::try_new(Arc::clone(child), *width, values, nulls)?))
}

/// A data file, read forwards where episodes come in its order.
struct DataFile {
    path: PathBuf,
    rows: usize,
    /// Rows of each episode in a file of several.
    spans: Option<HashMap<u64, Range<usize>>>,
    reader: Option<ParquetRecordBatchReader>,
    /// What was read beyond the last episode, and its first row.
    left: Option<RecordBatch>,
    next: usize,
}

impl DataFile {
    fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
        let file = File::open(path).map_err(|error| {
            Error::failed(format!("cannot open {}: {error}", path.display())).hint("the dataset is not whole: fetch it again")
        })?;
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| {
            Error::failed(format!("{}: not a readable Parquet file: {error}", path.display()))
                .hint("the file may be cut short: fetch it again")
        })
    }

    fn open(path: &Path) -> Result<DataFile> {
        let rows = DataFile::builder(path)?.metadata().file_metadata().num_rows();
        let rows = usize::try_from(rows).map_err(|_| Error::failed(format!("{} declares {rows} rows", path.display())))?;
        Ok(DataFile { path: path.to_owned(), rows, spans: None, reader: None, left: None, next: 0 })
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        Error::failed(format!("{}: {what}", self.path.display())).hint("the file may be damaged: fetch the dataset again")
    }

    /// The rows of an episode in this file.
    fn locate(&mut self, layout: Layout, episode: &Episode) -> Result<Range<usize>> {
        let found = match layout {
            Layout::PerEpisode => 0..self.rows,
            Layout::Shared => {
                if self.spans.is_none() {
                    self.spans = Some(self.scan()?);
                }
                let spans = self.spans.as_ref();
                spans.and_then(|spans| spans.get(&episode.index)).cloned().ok_or_else(|| {
                    Error::failed(format!("{}: the metadata places the episode here, but the file has no row of it", self.path.display()))
                        .hint(
                            "metadata and data contradict each other: fetch the dataset again, or write it again with LeRobot's own tools",
                        )
                })?
            }
        };
        if found.len() as u64 != episode.length {
            return Err(Error::failed(format!(
                "{}: the file has {} rows of it, the metadata says {}",
                self.path.display(),
                found.len(),
                episode.length
            ))
            .hint("the file may be cut short, or from another version of the dataset: fetch it again"));
        }
        Ok(found)
    }

    /// The rows of each episode.
    fn scan(&self) -> Result<HashMap<u64, Range<usize>>> {
        let mut spans: HashMap<u64, Range<usize>> = HashMap::new();
        let mut row = 0;
        for batch in meta::table(&self.path, &|name| name == "episode_index")? {
            let batch = batch?;
            let indices = meta::integers(&batch, "episode_index")
                .ok_or_else(|| self.damaged("there is no column `episode_index` of whole numbers"))?;
            for index in indices.values() {
                let index = u64::try_from(*index).map_err(|_| self.damaged(format!("`episode_index` is {index} in row {row}")))?;
                let span = spans.entry(index).or_insert(row..row);
                if span.end != row {
                    return Err(
                        self.damaged(format!("the rows of episode {index} are not together: row {row} comes after another episode's"))
                    );
                }
                span.end += 1;
                row += 1;
            }
        }
        Ok(spans)
    }

    /// The rows `wanted`, which are whole episodes.
    fn rows(&mut self, wanted: Range<usize>) -> Result<RecordBatch> {
        if self.reader.is_none() || wanted.start < self.next {
            let builder = DataFile::builder(&self.path)?;
            let roots: Vec<usize> = (0..builder.schema().fields().len()).collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            let selection = RowSelection::from(vec![RowSelector::skip(wanted.start), RowSelector::select(self.rows - wanted.start)]);
            let reader = builder.with_projection(mask).with_row_selection(selection).with_batch_size(BATCH_ROWS).build();
            self.reader = Some(reader.map_err(|error| self.damaged(error))?);
            (self.left, self.next) = (None, wanted.start);
        }
        let mut parts = Vec::new();
        while self.next < wanted.end {
            let batch = match (self.left.take(), &mut self.reader) {
                (Some(left), _) => left,
                (None, Some(reader)) => match reader.next() {
                    Some(batch) => batch.map_err(|error| self.damaged(format!("cannot read its rows: {error}")))?,
                    None => return Err(self.damaged(format!("it ends at row {} of {}", self.next, self.rows))),
                },
                (None, None) => return Err(self.damaged("it is not open")),
            };
            let skip = wanted.start.saturating_sub(self.next).min(batch.num_rows());
            let take = (wanted.end - self.next).min(batch.num_rows());
            if take > skip {
                parts.push(batch.slice(skip, take - skip));
            }
            if take < batch.num_rows() {
                self.left = Some(batch.slice(take, batch.num_rows() - take));
            }
            self.next += take;
        }
        match parts.as_slice() {
            [] => {
                Err(Error::failed(format!("{}: the episode has no rows", self.path.display())).hint("remove it with LeRobot's own tools"))
            }
            [one] => Ok(one.clone()),
            [first, ..] => Ok(concat_batches(&first.schema(), &parts)?),
        }
    }
}
