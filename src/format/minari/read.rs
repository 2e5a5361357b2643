//! Reads Minari datasets, one episode at a time.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::episode_tables::read_tables;
use super::spaces::{self, fit_to_space};
use super::{MAIN_FILE, METADATA, TRAJMILL, metadata_folders, read_object};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::schema::step;
use crate::dataset::{Account, files};
use crate::error::wording::{count, number};
use crate::error::{Error, Result, caught};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{Choice, IncomingTrajectory, Options, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeLine};

/// How the episodes are stored.
enum Backend {
    /// Groups in one file: those that are not read yet.
    Hdf5(HashMap<String, hdf5::Group>),
    Arrow,
    Parquet,
}

/// A Minari dataset.
struct Minari {
    folder: PathBuf,
    backend: Backend,
    metadata: Map<String, Value>,
    /// The observation and the action space, if the metadata has them.
    spaces: [Option<Value>; 2],
    /// Whether images are encoded as JPEG.
    encoded: bool,
    envelope: Option<Envelope>,
    about: SchemaRef,
    schema: SchemaRef,
    opening: FirstTrajectory,
    /// The episode that is read next.
    next: u64,
    episodes: u64,
    /// The number of steps so far; `None` once an episode could not be read.
    steps: Option<u64>,
    choice: Choice,
    /// The arrays that no column can hold, with the reason.
    left_out: BTreeMap<String, &'static str>,
}

/// The prefix of the names of groups of episodes.
const EPISODE: &str = "episode_";

/// The arrays that an episode needs.
const NEEDED: [&str; 3] = ["rewards", "terminations", "truncations"];

/// Opens the Minari dataset at `path`.
pub(crate) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let [inside, own] = metadata_folders(path);
    let folder = if files::is_file(&inside.join(METADATA))? {
        inside
    } else if files::is_file(&own.join(METADATA))? {
        own
    } else {
        return Err(Error::failed(format!(
            "{} is not a Minari dataset: data/{METADATA} is missing",
            path.display()
        ))
        .hint("give the directory of one dataset, such as D4RL/door/human-v2"));
    };
    let place = folder.join(METADATA);
    let metadata = read_object(&place)?;
    let damaged = |what: &str| {
        Error::failed(format!("{}: {what}", place.display()))
            .hint("the dataset is incomplete or damaged: download or write it again")
    };
    let mut left_out = BTreeMap::new();
    let backend = match metadata
        .get("data_format")
        .and_then(Value::as_str)
        .unwrap_or("hdf5")
    {
        "hdf5" => {
            let main = folder.join(MAIN_FILE);
            let root = hdf5::open(&main)?.root();
            let is_episode = |name: &str| name.starts_with(EPISODE);
            let groups = hdf5::groups(&root, &is_episode);
            let groups = groups.map_err(|error| error.at(main.display()))?;
            let names = root.names().map_err(|error| error.at(main.display()))?;
            for name in names {
                if !groups.contains_key(&name) || !is_episode(&name) {
                    left_out.insert(name, "it is not an episode");
                }
            }
            Backend::Hdf5(groups)
        }
        "arrow" => Backend::Arrow,
        "parquet" => Backend::Parquet,
        other => {
            return Err(damaged(&format!(
                "`data_format` is `{other}`, but only hdf5, arrow and parquet are supported"
            )));
        }
    };
    let episodes = metadata
        .get("total_episodes")
        .and_then(Value::as_u64)
        .ok_or_else(|| damaged("`total_episodes` is missing or not a number"))?;
    if episodes == 0 {
        return Err(damaged("`total_episodes` is 0: there is nothing to import"));
    }
    let numbered = |name: &str| name.parse().is_ok_and(|index: u64| index < episodes);
    let found = match &backend {
        Backend::Hdf5(groups) => groups
            .keys()
            .filter(|name| name.strip_prefix(EPISODE).is_some_and(numbered))
            .count(),
        Backend::Arrow | Backend::Parquet => folders(&folder)?
            .iter()
            .filter(|name| numbered(name))
            .count(),
    } as u64;
    // A missing episode is an error of its own; if most are missing, the number is wrong.
    if found < episodes.div_ceil(2) {
        return Err(damaged(&format!(
            "`total_episodes` is {}, but only {} of them exist",
            number(episodes),
            number(found)
        )));
    }
    let encoded = metadata
        .get("jpeg_encoding")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let space = |name: &str| -> Result<Option<Value>> {
        let text = metadata.get(name).and_then(Value::as_str);
        let parse = |text| {
            let space = spaces::parse(text)?;
            spaces::verify(&space)
                .map_err(|error| error.at(format!("`{name}`")))
                .map(|()| space)
        };
        text.map(|text| parse(text).map_err(|error| error.at(place.display())))
            .transpose()
    };
    let spaces = [space("observation_space")?, space("action_space")?];
    let envelope = metadata
        .get(TRAJMILL)
        .map(|envelope| serde_json::from_value::<Envelope>(envelope.clone()));
    let envelope = envelope.transpose().map_err(|error| {
        damaged(&format!(
            "`{TRAJMILL}` is not what trajmill writes: {error}"
        ))
    })?;
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
        choice: Choice::new(options, |name| NEEDED.contains(&name)),
        left_out,
    };
    (minari.opening, minari.schema) =
        FirstTrajectory::read(options.on_error, || minari.episode(None))?;
    minari
        .choice
        .verify()
        .map_err(|error| error.at(path.display()))?;
    Ok(Box::new(minari))
}

/// Returns the names of the folders in a folder.
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

impl Minari {
    /// Reads the next episode, whose columns must be those of `schema` if that is known; `None`
    /// after the last one.
    fn episode(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let index = self.next;
        if index == self.episodes {
            return self.verify_total_steps().map(|()| None);
        }
        self.next += 1;
        let place = match &self.backend {
            Backend::Hdf5(_) => {
                format!("{}: episode_{index}", self.folder.join(MAIN_FILE).display())
            }
            _ => format!("{}", self.folder.join(index.to_string()).display()),
        };
        // A damaged file can make its decoder panic, but the next episode can still be read.
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

    /// Compares the number of steps in all episodes with the metadata.
    fn verify_total_steps(&self) -> Result<()> {
        let declared = self.metadata.get("total_steps").and_then(Value::as_u64);
        match self.steps.zip(declared) {
            Some((steps, declared)) if steps != declared => {
                let place = self.folder.join(METADATA);
                Err(Error::failed(format!(
                    "{}: `total_steps` is {declared}, but the episodes have {}",
                    place.display(),
                    count(steps, "step")
                ))
                .hint(
                    "the dataset is incomplete, or metadata and data belong to different \
                     datasets: download or write it again",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Reads episode number `index`.
    fn read(&mut self, index: u64, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
        let choice = &self.choice;
        let reads = |name: &str| choice.reads(name);
        let (mut arrays, attributes) = match &mut self.backend {
            Backend::Hdf5(groups) => {
                let group = groups.remove(&format!("{EPISODE}{index}")).ok_or_else(|| {
                    Error::failed("there is no such group").hint(format!(
                        "`total_episodes` is {}, and episodes are numbered from 0 without gaps",
                        self.episodes
                    ))
                })?;
                let (mut arrays, mut attributes) = (ArrayColumns::new(), Map::new());
                hdf5::attributes(&group, &mut attributes)?;
                hdf5::arrays(&group, "", &reads, &mut hdf5::all_rows, &mut arrays)?;
                let mut found = BTreeMap::new();
                hdf5::shapes(&group, &reads, &mut found)?;
                found.retain(|name, _| !arrays.contains_key(name));
                self.left_out.extend(found.into_iter().map(|(name, seen)| {
                    let is_single = seen.shape.is_empty();
                    let reason = if is_single {
                        "it is a single value, not one for each step"
                    } else {
                        "its rows have no values"
                    };
                    (name, reason)
                }));
                (arrays, attributes)
            }
            Backend::Arrow | Backend::Parquet => {
                let folder = self.folder.join(index.to_string());
                let arrow = matches!(self.backend, Backend::Arrow);
                let arrays = read_tables(&folder, arrow, self.episodes, &reads)?;
                (arrays, read_object(&folder.join(METADATA))?)
            }
        };
        let line = match attributes
            .get(TRAJMILL)
            .and_then(Value::as_str)
            .filter(|_| self.envelope.is_some())
        {
            Some(text) => Some(serde_json::from_str::<EnvelopeLine>(text).map_err(|error| {
                Error::failed(format!("the attribute `{TRAJMILL}` is damaged: {error}"))
                    .hint("download or export the dataset again")
            })?),
            None => None,
        };
        let need = |column: Option<(Field, ArrayRef)>, name: &str| {
            column.ok_or_else(|| {
                choice.needed(name).unwrap_or_else(|| {
                    Error::failed(format!("`{name}` is missing"))
                        .hint("the dataset is incomplete or damaged: download or write it again")
                })
            })
        };
        let padded = !matches!(self.backend, Backend::Hdf5(_));
        let mut reward = per_trajectory::squeezed(need(arrays.remove("rewards"), "rewards")?);
        let mut observation = fit_to_space(
            need(
                per_trajectory::take(&mut arrays, "observations")?,
                "observations",
            )?,
            self.spaces[0].as_ref(),
            self.encoded,
        )?;
        let mut length = reward.1.len();
        // Arrow and Parquet pad what has no value on the last row.
        if padded {
            length = length
                .checked_sub(1)
                .filter(|length| *length > 0)
                .ok_or_else(no_steps)?;
            reward.1 = reward.1.slice(0, length);
        }
        if length == 0 {
            return Err(no_steps());
        }
        if let Some(declared) = attributes
            .get("total_steps")
            .and_then(Value::as_u64)
            .filter(|declared| *declared != length as u64)
        {
            return Err(Error::failed(format!(
                "`rewards` has {length} steps, but `total_steps` says {declared}"
            ))
            .hint("the episode is cut short or was changed: download or write the dataset again"));
        }
        let mut known_final = observation.1.len() == length + 1;
        if line.as_ref().is_some_and(|line| !line.known_final) && known_final {
            observation.1 = observation.1.slice(0, length);
            arrays
                .values_mut()
                .for_each(|(_, values)| *values = values.slice(0, values.len().min(length)));
            known_final = false;
        }
        let mut builder = TrajectoryBuilder::new(length, known_final);
        let cut = |column: (Field, ArrayRef)| {
            if padded {
                (column.0, column.1.slice(0, length))
            } else {
                column
            }
        };
        let action = fit_to_space(
            need(per_trajectory::take(&mut arrays, "actions")?, "actions")?,
            self.spaces[1].as_ref(),
            self.encoded,
        )?;
        builder.add(step::OBSERVATION, observation, false)?;
        builder.add(step::ACTION, cut(action), true)?;
        builder.add(step::REWARD, reward, true)?;
        let mut flags = |name: &str| -> Result<Vec<bool>> {
            let flags = need(arrays.remove(name), name)?;
            per_trajectory::booleans((flags.0, flags.1.slice(0, flags.1.len().min(length))))
        };
        let (terminated, mut truncated) = (flags("terminations")?, flags("truncations")?);
        if let (Some(line), Some(last)) = (&line, truncated.last_mut()) {
            *last = line.truncated;
        }
        builder.flags(step::TERMINATED, &terminated)?;
        builder.flags(step::TRUNCATED, &truncated)?;
        builder.finals();
        builder.others(self.renamed(arrays)?)?;
        let about = match &line {
            Some(line) => envelope::row(&self.about, &line.about)?,
            None if self.envelope.is_some() => {
                return Err(Error::failed(format!(
                    "the attribute `{TRAJMILL}` is missing, though the metadata announces it"
                )));
            }
            None => Some(self.about_episode(&attributes)?),
        };
        Ok(IncomingTrajectory {
            key: index.to_string(),
            steps: builder.finish(schema)?,
            about,
        })
    }

    /// Gives columns of files that trajmill wrote their old names back.
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

    /// Returns the trajectory columns: seed, options, and all other attributes.
    fn about_episode(&self, attributes: &Map<String, Value>) -> Result<RecordBatch> {
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

/// The error for an episode without steps.
fn no_steps() -> Error {
    Error::failed("the episode has no steps").hint("remove the episode from the source")
}

/// Puts `value` under `name`; a slash in the name leads into a nested object.
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
        metadata.remove(TRAJMILL);
        metadata
    }

    fn account(&self) -> Account {
        let mut account = Account::default();
        for (name, reason) in &self.left_out {
            account.leave_out(name, *reason);
        }
        self.choice.account(account)
    }

    fn lost(&self) -> Option<u64> {
        // An error after the last episode is about the whole dataset.
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
