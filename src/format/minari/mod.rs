//! Minari: a directory with `data/metadata.json` and either one HDF5 file with a group per episode, or a folder per
//! episode with an Arrow or Parquet file. Observations have one row more than actions.
//!
//! Written as HDF5. Where the observation after the last action is not known, the last one stands there; what is lost by
//! it, and the identity of trajectories, is in the attribute `trajmill` of each episode.

mod spaces;
mod validate;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::container::arrays::ArrayColumns;
use crate::container::{arrow_ipc, hdf5};
use crate::dataset::files;
use crate::dataset::schema::step;
use crate::error::{Error, Result, caught};
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{IncomingTrajectory, Options, Reader, Source, pattern};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeLine};
use crate::transfer::write::Writer;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "minari",
    about: "Minari: a directory with data/metadata.json; HDF5, Arrow or Parquet inside; written as HDF5",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: |path| Ok(data(path)?.is_some()),
    }),
    read: Some(Reader {
        takes: &[],
        open: read,
    }),
    write: Some(Writer {
        nulls: false,
        takes: &["name", "env"],
        write: write::write,
        note: None,
    }),
    validate: Some(validate::validate),
};

/// What the dataset and, in some backends, each episode says of itself.
const METADATA: &str = "metadata.json";

/// The file of the HDF5 backend, and what our own files keep in metadata and attributes.
const MAIN: &str = "main_data.hdf5";
const OURS: &str = "trajmill";

/// Where the metadata may be: in the dataset's `data`, or in the directory that is itself called so.
fn folders_of(path: &Path) -> [PathBuf; 2] {
    [path.join("data"), path.to_owned()]
}

/// The folder with the metadata of a Minari dataset.
fn data(path: &Path) -> Result<Option<PathBuf>> {
    for folder in folders_of(path) {
        let text = files::read_if_present(&folder.join(METADATA))?.unwrap_or_default();
        let metadata = spaces::parse(&String::from_utf8_lossy(&text));
        if metadata.is_ok_and(|metadata| {
            metadata.get("data_format").is_some() || metadata.get("total_episodes").is_some()
        }) {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

enum Backend {
    /// The groups of episodes that are not read yet.
    Hdf5(HashMap<String, hdf5::Group>),
    Arrow,
    Parquet,
}

struct Minari {
    folder: PathBuf,
    backend: Backend,
    metadata: Map<String, Value>,
    /// Observation and action space, where they are said.
    spaces: [Option<Value>; 2],
    /// Whether images are encoded.
    encoded: bool,
    envelope: Option<Envelope>,
    about: SchemaRef,
    schema: SchemaRef,
    opening: FirstTrajectory,
    next: u64,
    episodes: u64,
    /// Steps so far; `None` once an episode could not be read.
    steps: Option<u64>,
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let [inside, own] = folders_of(path);
    let folder = if files::is_file(&inside.join(METADATA))? {
        inside
    } else if files::is_file(&own.join(METADATA))? {
        own
    } else {
        return Err(Error::failed(format!(
            "{} is no Minari dataset: there is no data/{METADATA}",
            path.display()
        ))
        .hint("name the directory of one dataset, such as D4RL/door/human-v2"));
    };
    let place = folder.join(METADATA);
    let metadata = object(&place)?;
    let damaged = |what: &str| {
        Error::failed(format!("{}: {what}", place.display()))
            .hint("the dataset is not whole: download or write it again")
    };
    let backend = match metadata
        .get("data_format")
        .and_then(Value::as_str)
        .unwrap_or("hdf5")
    {
        "hdf5" => {
            let main = folder.join(MAIN);
            Backend::Hdf5(
                hdf5::groups(&hdf5::open(&main)?.root())
                    .map_err(|error| error.at(main.display()))?,
            )
        }
        "arrow" => Backend::Arrow,
        "parquet" => Backend::Parquet,
        other => {
            return Err(damaged(&format!(
                "the data format `{other}` is not one of hdf5, arrow, parquet"
            )));
        }
    };
    let episodes = metadata
        .get("total_episodes")
        .and_then(Value::as_u64)
        .ok_or_else(|| damaged("there is no number `total_episodes`"))?;
    if episodes == 0 {
        return Err(damaged("there are no episodes"));
    }
    let numbered = |name: &str| name.parse().is_ok_and(|index: u64| index < episodes);
    let there = match &backend {
        Backend::Hdf5(groups) => groups
            .keys()
            .filter(|name| name.strip_prefix("episode_").is_some_and(numbered))
            .count(),
        Backend::Arrow | Backend::Parquet => folders(&folder)?
            .iter()
            .filter(|name| numbered(name))
            .count(),
    } as u64;
    // One that is missing is an error of its own; where most are, it is the number that is wrong.
    if there < episodes.div_ceil(2) {
        return Err(damaged(&format!(
            "`total_episodes` is {episodes}, and {there} of them are there"
        )));
    }
    let encoded = metadata
        .get("jpeg_encoding")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let space = |name: &str| -> Result<Option<Value>> {
        let text = metadata.get(name).and_then(Value::as_str);
        text.map(|text| spaces::parse(text).map_err(|error| error.at(place.display())))
            .transpose()
    };
    let spaces = [space("observation_space")?, space("action_space")?];
    let envelope = metadata
        .get(OURS)
        .map(|ours| serde_json::from_value::<Envelope>(ours.clone()));
    let envelope = envelope
        .transpose()
        .map_err(|error| damaged(&format!("`{OURS}` is not what we write: {error}")))?;
    let about = match &envelope {
        Some(envelope) => envelope.schema()?,
        None => Arc::new(Schema::new(vec![
            Field::new("seed", DataType::Int64, true),
            Field::new("options", DataType::Utf8, true),
            Field::new("episode_metadata", DataType::Utf8, true),
        ])),
    };
    let mut minari = Minari {
        folder,
        backend,
        metadata,
        spaces,
        encoded,
        envelope,
        about,
        schema: Arc::new(Schema::empty()),
        opening: FirstTrajectory::default(),
        next: 0,
        episodes,
        steps: Some(0),
    };
    (minari.opening, minari.schema) =
        FirstTrajectory::read(options.on_error, || minari.episode(None))?;
    Ok(Box::new(minari))
}

/// Names of the folders in a folder.
fn folders(folder: &Path) -> Result<Vec<String>> {
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", folder.display()));
    let mut names = Vec::new();
    for entry in files::list(folder).map_err(failed)? {
        if files::is_dir(&entry)? {
            let name = entry.file_name().unwrap_or_default();
            names.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The JSON object in the file at `path`.
fn object(path: &Path) -> Result<Map<String, Value>> {
    let damaged = |what: String| {
        Error::failed(what).hint("the dataset is not whole: download or write it again")
    };
    let text = files::read_to_string(path)
        .map_err(|error| damaged(format!("cannot read {}: {error}", path.display())))?;
    match spaces::parse(&text)
        .map_err(|error| damaged(format!("{}: {}", path.display(), error.message)))?
    {
        Value::Object(object) => Ok(object),
        _ => Err(damaged(format!("{} is not a JSON object", path.display()))),
    }
}

impl Minari {
    /// Reads the next episode, whose columns must be those of `schema`, where that is known; `None` after the last.
    fn episode(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let index = self.next;
        if index == self.episodes {
            return self.counted().map(|()| None);
        }
        self.next += 1;
        let place = match &self.backend {
            Backend::Hdf5(_) => format!("{}: episode_{index}", self.folder.join(MAIN).display()),
            _ => format!("{}", self.folder.join(index.to_string()).display()),
        };
        // A damaged file of one episode can make its decoder panic, and keeps nobody from the next.
        let read = caught("its file", || self.read(index, schema)).map_err(|error| error.at(place));
        let length = read
            .as_ref()
            .ok()
            .and_then(|read| read.steps.column_by_name(step::IS_FINAL))
            .map(|column| column.as_boolean().false_count());
        self.steps = self
            .steps
            .zip(length)
            .map(|(steps, length)| steps + length as u64);
        read.map(Some)
    }

    /// Holds the steps of all episodes against what the metadata says of them.
    fn counted(&self) -> Result<()> {
        let said = self.metadata.get("total_steps").and_then(Value::as_u64);
        match self.steps.zip(said) {
            Some((steps, said)) if steps != said => {
                let place = self.folder.join(METADATA);
                Err(Error::failed(format!("{}: `total_steps` is {said}, and the episodes have {steps} steps", place.display()))
                    .hint("the dataset is not whole, or metadata and data are of two: download or write it again"))
            }
            _ => Ok(()),
        }
    }

    fn read(&mut self, index: u64, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
        let (mut arrays, attributes) = match &mut self.backend {
            Backend::Hdf5(groups) => {
                let group = groups.remove(&format!("episode_{index}")).ok_or_else(|| {
                    Error::failed("there is no such group").hint(format!(
                        "`total_episodes` says {}, numbered from 0 without a gap",
                        self.episodes
                    ))
                })?;
                let (mut arrays, mut attributes) = (ArrayColumns::new(), Map::new());
                hdf5::attributes(&group, &mut attributes)?;
                hdf5::arrays(&group, "", 0, &mut hdf5::all_rows, &mut arrays)?;
                (arrays, attributes)
            }
            Backend::Arrow => self.tables(index, true)?,
            Backend::Parquet => self.tables(index, false)?,
        };
        let line = match attributes
            .get(OURS)
            .and_then(Value::as_str)
            .filter(|_| self.envelope.is_some())
        {
            Some(text) => Some(serde_json::from_str::<EnvelopeLine>(text).map_err(|error| {
                Error::failed(format!("the attribute `{OURS}` is damaged: {error}"))
            })?),
            None => None,
        };
        let need = |column: Option<(Field, ArrayRef)>, name: &str| {
            column.ok_or_else(|| Error::failed(format!("there is no `{name}`")))
        };
        let padded = !matches!(self.backend, Backend::Hdf5(_));
        let mut reward = per_trajectory::squeezed(need(arrays.remove("rewards"), "rewards")?);
        let mut observation = spaced(
            need(
                per_trajectory::take(&mut arrays, "observations"),
                "observations",
            )?,
            self.spaces[0].as_ref(),
            self.encoded,
        )?;
        let mut length = reward.1.len();
        // The other backends pad what has no value on the last row.
        if padded {
            length = length
                .checked_sub(1)
                .filter(|length| *length > 0)
                .ok_or_else(|| Error::failed("it has no step"))?;
            reward.1 = reward.1.slice(0, length);
        }
        if length == 0 {
            return Err(Error::failed("it has no step").hint("drop it from the source"));
        }
        if let Some(said) = attributes
            .get("total_steps")
            .and_then(Value::as_u64)
            .filter(|said| *said != length as u64)
        {
            return Err(Error::failed(format!(
                "`rewards` has {length} steps where `total_steps` says {said}"
            ))
            .hint(
                "the episode is cut short, or was changed: download or write the dataset again",
            ));
        }
        let mut known_final = observation.1.len() == length + 1;
        if line.as_ref().is_some_and(|line| !line.known_final) && known_final {
            observation.1 = observation.1.slice(0, length);
            arrays
                .values_mut()
                .for_each(|(_, values)| *values = values.slice(0, values.len().min(length)));
            known_final = false;
        }
        let mut assembly = TrajectoryBuilder::new(length, known_final);
        let cut = |column: (Field, ArrayRef)| {
            if padded {
                (column.0, column.1.slice(0, length))
            } else {
                column
            }
        };
        let action = spaced(
            need(per_trajectory::take(&mut arrays, "actions"), "actions")?,
            self.spaces[1].as_ref(),
            self.encoded,
        )?;
        assembly.add(step::OBSERVATION, observation, false)?;
        assembly.add(step::ACTION, cut(action), true)?;
        assembly.add(step::REWARD, reward, true)?;
        let mut flags = |name: &str| -> Result<Vec<bool>> {
            let flags = need(arrays.remove(name), name)?;
            per_trajectory::booleans((flags.0, flags.1.slice(0, flags.1.len().min(length))))
        };
        let (terminated, mut truncated) = (flags("terminations")?, flags("truncations")?);
        if let (Some(line), Some(last)) = (&line, truncated.last_mut()) {
            *last = line.truncated;
        }
        assembly.flags(step::TERMINATED, &terminated)?;
        assembly.flags(step::TRUNCATED, &truncated)?;
        assembly.finals();
        assembly.others(self.renamed(arrays)?)?;
        let about = match &line {
            Some(line) => envelope::row(&self.about, &line.about)?,
            None if self.envelope.is_some() => {
                return Err(Error::failed(format!(
                    "there is no attribute `{OURS}`, which the metadata announces"
                )));
            }
            None => Some(self.said(&attributes)?),
        };
        Ok(IncomingTrajectory {
            key: index.to_string(),
            steps: assembly.finish(schema)?,
            about,
        })
    }

    /// The tables of an episode in the Arrow and Parquet backends, as arrays.
    fn tables(&self, index: u64, arrow: bool) -> Result<(ArrayColumns, Map<String, Value>)> {
        let folder = self.folder.join(index.to_string());
        let extension = if arrow { "arrow" } else { "parquet" };
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot list the folder: {error}")).hint(format!(
                "`total_episodes` says {}, numbered from 0 without a gap",
                self.episodes
            ))
        };
        let mut tables: Vec<PathBuf> = Vec::new();
        for path in files::list(&folder).map_err(failed)? {
            if path.extension().is_some_and(|found| found == extension) {
                tables.push(path);
            }
        }
        tables.sort_by(|a, b| pattern::natural(&a.to_string_lossy(), &b.to_string_lossy()));
        let mut batches: Vec<RecordBatch> = Vec::new();
        for path in &tables {
            let open = || {
                files::open(path).map_err(|error| {
                    Error::failed(format!("cannot read {}: {error}", path.display()))
                })
            };
            let damaged = |error: String| {
                Error::failed(format!("{} cannot be read: {error}", path.display()))
                    .hint("the file may be cut short: fetch or write it again")
            };
            if arrow {
                let reader = arrow_ipc::open(path, None)?;
                for batch in reader {
                    batches.push(batch.map_err(|error| damaged(error.to_string()))?);
                }
            } else {
                let reader = ParquetRecordBatchReaderBuilder::try_new(open()?)
                    .and_then(ParquetRecordBatchReaderBuilder::build);
                for batch in reader.map_err(|error| damaged(error.to_string()))? {
                    batches.push(batch.map_err(|error| damaged(error.to_string()))?);
                }
            }
        }
        let first = batches
            .first()
            .ok_or_else(|| Error::failed(format!("there is no .{extension} file with rows")))?;
        let batch = concat_batches(&first.schema(), &batches)?;
        let mut arrays = ArrayColumns::new();
        let holds = |field: &Field| {
            !matches!(field.data_type(), DataType::FixedSizeList(_, 0))
                && field.name() != "episode_id"
        };
        for (field, values) in batch
            .schema()
            .fields()
            .iter()
            .zip(batch.columns())
            .filter(|(field, _)| holds(field))
        {
            let (field, values) = per_trajectory::canonical(field, values)?;
            // What infos hold is a column each; spaces stay whole.
            if field.name() == "infos" {
                scatter("infos", &values, &mut arrays)
            } else {
                drop(arrays.insert(field.name().clone(), (field, values)))
            }
        }
        Ok((arrays, object(&folder.join(METADATA))?))
    }

    /// Columns of our own files under the names that they had.
    fn renamed(&self, arrays: ArrayColumns) -> Result<ArrayColumns> {
        let Some(envelope) = &self.envelope else {
            return Ok(arrays);
        };
        let arrays = per_trajectory::with_valid(arrays, true)?;
        Ok(arrays
            .into_iter()
            .map(|(name, column)| (envelope.columns.get(&name).cloned().unwrap_or(name), column))
            .collect())
    }

    /// What an episode says of itself.
    fn said(&self, attributes: &Map<String, Value>) -> Result<RecordBatch> {
        let (mut options, mut others) = (Map::new(), Map::new());
        for (name, value) in attributes {
            match name.as_str() {
                "id" | "seed" | "total_steps" => {}
                "options" if value.is_object() => {
                    options.extend(value.as_object().cloned().unwrap_or_default())
                }
                name => match name.strip_prefix("options/") {
                    Some(option) => insert(&mut options, option, value),
                    None => drop(others.insert(name.to_owned(), value.clone())),
                },
            }
        }
        let text =
            |map: Map<String, Value>| (!map.is_empty()).then(|| Value::Object(map).to_string());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![
                attributes.get("seed").and_then(Value::as_i64),
            ])),
            Arc::new(StringArray::from(vec![text(options)])),
            Arc::new(StringArray::from(vec![text(others)])),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&self.about), columns)?)
    }
}

/// Puts `value` under `name`, within others where it has slashes.
fn insert(options: &mut Map<String, Value>, name: &str, value: &Value) {
    match name.split_once('/') {
        None => drop(options.insert(name.to_owned(), value.clone())),
        Some((outer, inner)) => {
            let outer = options
                .entry(outer)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Some(outer) = outer.as_object_mut() {
                insert(outer, inner, value);
            }
        }
    }
}

/// The parts of a struct, and theirs, as columns under `name/PART`.
fn scatter(name: &str, values: &ArrayRef, arrays: &mut ArrayColumns) {
    match values.as_struct_opt() {
        Some(parts) => {
            for (field, values) in parts.fields().iter().zip(parts.columns()) {
                scatter(&format!("{name}/{}", field.name()), values, arrays);
            }
        }
        None => drop(arrays.insert(
            name.to_owned(),
            (
                Field::new(name, values.data_type().clone(), true),
                Arc::clone(values),
            ),
        )),
    }
}

/// A column as its space has it: images that are encoded are rows of bytes, vectors have their axes, members of a tuple
/// the names that HDF5 has for them.
fn spaced(
    column: (Field, ArrayRef),
    space: Option<&Value>,
    encoded: bool,
) -> Result<(Field, ArrayRef)> {
    let Some(space) = space else {
        return Ok(column);
    };
    let (field, values) = column;
    if let Some(vectors) = values.as_fixed_size_list_opt() {
        let width = vectors.value_length() as usize;
        if encoded && spaces::is_image(space) && vectors.value_type() == DataType::UInt8 {
            let bytes = vectors
                .values()
                .slice(vectors.value_offset(0) as usize, vectors.len() * width);
            let bytes = bytes
                .as_primitive::<arrow::datatypes::UInt8Type>()
                .values()
                .to_vec();
            let frames: BinaryArray = bytes.chunks_exact(width.max(1)).map(Some).collect();
            return Ok((
                Field::new(field.name(), DataType::Binary, field.is_nullable()),
                Arc::new(frames),
            ));
        }
        let shape: Vec<u64> = space["shape"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect();
        let fits = shape.len() > 1 && shape.iter().product::<u64>() == width as u64;
        let shape = shape
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(",");
        return Ok((
            if fits {
                field.with_metadata([("shape".to_owned(), shape)].into())
            } else {
                field
            },
            values,
        ));
    }
    let Some(parts) = values.as_struct_opt() else {
        return Ok((field, values));
    };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (part, values) in parts.fields().iter().zip(parts.columns()) {
        let member =
            space["type"] == "Tuple" && part.name().bytes().all(|digit| digit.is_ascii_digit());
        let name = if member {
            format!("_index_{}", part.name())
        } else {
            part.name().clone()
        };
        let inside = spaces::inside(space, part.name());
        let (part, values) = spaced(
            (part.as_ref().clone().with_name(name), Arc::clone(values)),
            inside,
            encoded,
        )?;
        fields.push(part);
        columns.push(values);
    }
    let whole =
        arrow::array::StructArray::try_new(fields.into(), columns, values.nulls().cloned())?;
    Ok((
        Field::new(field.name(), whole.data_type().clone(), field.is_nullable()),
        Arc::new(whole),
    ))
}

impl Source for Minari {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        self.metadata
            .get("total_steps")
            .and_then(Value::as_u64)
            .map(|steps| steps.saturating_add(self.episodes))
    }

    fn metadata(&self) -> Map<String, Value> {
        let mut metadata = self.metadata.clone();
        metadata.remove(OURS);
        metadata
    }

    fn lost(&self) -> Option<u64> {
        // After the last episode there is nothing to go on with.
        (self.next < self.episodes || self.steps.is_none()).then_some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if let Some(next) = self.opening.next() {
            return next.map(Some);
        }
        let schema = Arc::clone(&self.schema);
        self.episode(Some(&schema))
    }
}
