//! Reads LeRobot datasets, one episode at a time.
//!
//! The metadata says where the rows of an episode are; the order of files does not matter. The
//! columns `episode_index` and `index` prove that the rows belong to the episode.

mod absent;
mod cameras;
mod columns;
mod convert;
mod data_file;
mod rate;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, StructArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use self::cameras::Cameras;
use self::columns::{Column, Columns, Kind, SPLIT, columns, renames, trajectory_columns};
use self::convert::{images, pixels, references, scalar_column, vector_column};
use self::data_file::{DataFile, verify_rows};
use self::rate::verify_rate;
use crate::dataset::schema::{step, trajectory, type_name};
use crate::dataset::videos::resolve;
use crate::dataset::{self, Account};
use crate::error::{Error, Result};
use crate::format::lerobot::episodes::{self, Episode, Episodes};
use crate::format::lerobot::files;
use crate::format::lerobot::final_observations::{FinalObservations, with_final};
use crate::format::lerobot::info::{INFO, Info, Layout};
use crate::format::lerobot::modality;
use crate::format::lerobot::tables::Tables;
use crate::format::lerobot::video_statistics::{self, Statistics, VIDEO_STATISTICS};
use crate::transfer::read::table::flags;
use crate::transfer::read::{Choice, IncomingTrajectory, Options, Source, SourceVideo, renamed};
use crate::transfer::roundtrip::note;
use crate::video::{Frames, Videos};

/// The features that say where the rows of an episode are and how it ends.
const MARKERS: [&str; 10] = [
    "episode_index",
    "frame_index",
    "index",
    "timestamp",
    "task_index",
    "next.done",
    "next.terminated",
    "done",
    "next.truncated",
    "truncated",
];

/// A LeRobot dataset.
pub(crate) struct LeRobot {
    info: Info,
    schema: SchemaRef,
    columns: Vec<Column>,
    tables: Tables,
    /// Episodes that are not read yet, the next one last.
    episodes: Vec<Episode>,
    /// What else the metadata says about episodes.
    facts: RecordBatch,
    /// The statistics of videos, by the row of the episode.
    video_statistics: Vec<Statistics>,
    about: SchemaRef,
    /// The files of episodes whose place the metadata does not say.
    found: HashMap<u64, PathBuf>,
    open: Option<DataFile>,
    cameras: Cameras,
    final_observations: Option<FinalObservations>,
    choice: Choice,
    /// What else is left out.
    left_out: Account,
    /// The features whose columns have other names, as (feature, column).
    renames: Vec<(String, String)>,
    metadata: Map<String, Value>,
}

/// Opens the LeRobot dataset at `path`.
pub(super) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let mut info = Info::open(path)?;
    if note::of_directory(path)?.is_some() && info.has_written_splits() {
        // The splits of an exported dataset are facts about its trajectories.
        info.splits.clear();
    }
    let choice = Choice::new(options, |name| MARKERS.contains(&name));
    info.features.retain(|feature| choice.reads(&feature.name));
    choice
        .verify()
        .map_err(|error| error.at(path.join(INFO).display()))?;
    let tables = Tables::read(&info)?;
    let Episodes {
        list: mut episodes,
        facts,
        video_statistics,
    } = episodes::read(&info)?;
    if episodes.is_empty() {
        return Err(
            Error::failed(format!("{}: the dataset has no episodes", path.display()))
                .hint("there is nothing to import"),
        );
    }
    let opens_videos =
        options.videos != Videos::Reference || options.frames.kind != Frames::Reference;
    let absent = if opens_videos {
        absent::leave_out(&mut info, &mut episodes, options.on_error)?
    } else {
        Vec::new()
    };
    let cameras = Cameras::new(&info, &episodes, options.frames)?;
    let data = data_schema(&info, &episodes).map(|data| {
        let fields = data
            .fields()
            .iter()
            .filter(|field| choice.reads(field.name()));
        Schema::new(fields.cloned().collect::<Vec<_>>())
    });
    let Columns {
        schema,
        columns,
        mut left_out,
    } = columns(&info, options, &cameras, &tables, data.as_ref())
        .map_err(|error| error.at(path.join(INFO).display()))?;
    for (name, reason) in absent {
        left_out.leave_out(name, reason);
    }
    for name in unknown_files(path, &tables)? {
        left_out.leave_out(name, "it is a file that no LeRobot loader reads");
    }
    let mut metadata = Map::from_iter([("info".to_owned(), Value::Object(info.verbatim.clone()))]);
    if let Some(modality) = modality::read(path)? {
        metadata.insert(modality::KEY.to_owned(), modality);
    }
    let renames = renames(options);
    renamed::metadata(&mut metadata, &renames);
    let mut found = HashMap::new();
    if info.layout == Layout::Shared && episodes.iter().any(|episode| episode.file.is_none()) {
        for file in files::parquet_files(&path.join("data"))? {
            for index in DataFile::open(&file)?.scan()?.into_keys() {
                found.insert(index, file.clone());
            }
        }
    }
    episodes.reverse();
    for (name, reason) in facts.left_out {
        left_out.leave_out(name, reason);
    }
    let facts = facts.columns;
    let about = trajectory_columns(&info, &facts);
    let final_observations = match schema.field_with_name(step::OBSERVATION) {
        Ok(observation) => FinalObservations::open(path, observation.data_type())?,
        // Every feature that could be an observation has a name of its own.
        Err(_) => None,
    };
    Ok(Box::new(LeRobot {
        info,
        schema,
        columns,
        tables,
        episodes,
        facts,
        video_statistics,
        about,
        found,
        open: None,
        cameras,
        final_observations,
        choice,
        left_out,
        renames,
        metadata,
    }))
}

/// Returns the schema of the first data file that can be read.
fn data_schema(info: &Info, episodes: &[Episode]) -> Option<SchemaRef> {
    // The episodes of a file that is missing or damaged are reported one by one.
    let files = episodes
        .iter()
        .filter_map(|episode| info.data_file(episode).ok());
    files
        .filter_map(|file| DataFile::schema(&info.root.join(file)).ok())
        .next()
}

/// Returns the files under `meta/` that are neither read nor the work of trajmill.
fn unknown_files(root: &Path, tables: &Tables) -> Result<Vec<String>> {
    let folder = root.join("meta");
    let listing = dataset::files::list(&folder)
        .map_err(|error| dataset::files::unreadable(&folder, &error))?;
    let mut unknown: Vec<String> = listing
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .filter(|name| {
            let stem = name.split('.').next().unwrap_or_default();
            !KNOWN_FILES.contains(name) && !tables.tables.iter().any(|table| table.name == stem)
        })
        .map(|name| format!("meta/{name}"))
        .collect();
    unknown.sort();
    Ok(unknown)
}

/// The files and folders under `meta/` that are read, or computed again by an export.
const KNOWN_FILES: [&str; 7] = [
    "info.json",
    "stats.json",
    "episodes",
    "episodes.jsonl",
    "episodes_stats.jsonl",
    "modality.json",
    "trajmill",
];

impl Source for LeRobot {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn rows(&self) -> Option<u64> {
        Some(self.info.total_frames)
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn about(&self) -> SchemaRef {
        SchemaRef::clone(&self.about)
    }

    fn account(&self) -> Account {
        let mut left_out = self.left_out.clone();
        if self.cameras.are_unverified() {
            left_out.leave_out(
                "the comparison of timestamps with the frames of videos",
                "timestamps do not begin at 0, and a video is absent or cannot be read by this \
                 trajmill, so frames may be those of other steps",
            );
        }
        self.choice.account(left_out)
    }

    fn lost(&self) -> Option<u64> {
        (!self.cameras.are_shifted()).then_some(1)
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        let path = resolve(&self.info.root, path)?;
        absent::existing(&path)?;
        Ok(Some(SourceVideo { path, digest: None }))
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let Some(episode) = self.episodes.pop() else {
            return Ok(None);
        };
        match self.trajectory(&episode) {
            Ok(trajectory) => Ok(Some(trajectory)),
            Err(error) => {
                self.open = None;
                Err(error.at(format!("episode {}", episode.index)))
            }
        }
    }
}

impl LeRobot {
    /// Reads one episode.
    fn trajectory(&mut self, episode: &Episode) -> Result<IncomingTrajectory> {
        let steps = self.steps(episode)?;
        let statistics = self.video_statistics.get_mut(episode.row);
        let mut statistics = statistics.map(std::mem::take);
        let about = self.about.fields().iter().map(|field| -> Result<ArrayRef> {
            if field.name() == VIDEO_STATISTICS {
                let stated = statistics.take().unwrap_or_default();
                let text = video_statistics::text(&self.info, episode.length, stated);
                let text = renamed::statistics(&text, &self.renames);
                return Ok(Arc::new(StringArray::from(vec![text])));
            }
            if let Some(own) = self.facts.column_by_name(field.name()) {
                return Ok(own.slice(episode.row, 1));
            }
            if field.name() == SPLIT {
                return Ok(Arc::new(StringArray::from(vec![
                    self.info.split(episode.index),
                ])));
            }
            Err(Error::failed(format!(
                "the column `{}` is missing",
                field.name()
            )))
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
        let last = match (uid, &mut self.final_observations) {
            (Some(uid), Some(observations)) => observations.take(uid.value(0))?,
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

    /// Reads the steps of one episode.
    fn steps(&mut self, episode: &Episode) -> Result<RecordBatch> {
        let path = match (
            self.info.layout,
            episode.file,
            self.found.get(&episode.index),
        ) {
            (Layout::Shared, None, Some(found)) => found.clone(),
            (Layout::Shared, None, None) => {
                return Err(Error::failed(format!(
                    "no file under {} has rows of the episode",
                    self.info.root.join("data").display()
                ))
                .hint("the dataset is incomplete: fetch it again"));
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
        let table = open.rows(rows, &|name| self.choice.reads(name))?;
        let place = |error: Error| error.at(path.display());
        verify_rows(&table, self.info.layout, episode).map_err(place)?;
        verify_rate(&self.info, &table).map_err(place)?;
        let frames = self.frames(&table, episode)?;
        self.convert(&table, episode, &frames).map_err(place)
    }

    /// Decodes the frames of the episode, by the number of their video feature. References stay,
    /// and those whose times are shifted are verified.
    fn frames(
        &mut self,
        table: &RecordBatch,
        episode: &Episode,
    ) -> Result<HashMap<usize, ArrayRef>> {
        let mut frames = HashMap::new();
        for Column { source, kind } in &self.columns {
            if let Kind::Frames(at) | Kind::Video(at) = kind {
                let Some((span, times)) = self
                    .cameras
                    .locate(&self.info, source, *at, episode, table)?
                else {
                    continue;
                };
                let rows = (&self.info, table);
                self.cameras.verify_times(rows, *at, (&span, &times))?;
                if matches!(kind, Kind::Video(_)) {
                    continue;
                }
                let path = self.info.root.join(span.path);
                let decoded = self.cameras.decode(*at, &path, &times).map_err(|error| {
                    match self.cameras.remedy(&self.info, table) {
                        Some(remedy) => error.hint(remedy),
                        None => error,
                    }
                });
                frames.insert(*at, decoded?);
            }
        }
        Ok(frames)
    }

    /// Converts the rows of an episode to steps.
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

    /// Returns the values of the column, or of the part of a column, that `field` describes.
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
                    "the column `{name}` is missing, though `features` in {INFO} declares it"
                ))
                .hint(format!(
                    "remove the feature from {INFO}, or fetch the file again"
                ))
            })
        };
        let values: ArrayRef = match (kind, field.data_type()) {
            (Kind::Vector { element, shape }, _) => {
                vector_column(source, column(source)?, element, shape, field)?
            }
            (Kind::Single, data_type) => scalar_column(source, column(source)?, data_type)?,
            (Kind::Image, _) => images(&self.info.root, source, column(source)?)?,
            (Kind::Pixels(size), _) => {
                let images = images(&self.info.root, source, column(source)?)?;
                pixels(source, &images, *size, field)?
            }
            (Kind::Video(at), _) => {
                let frames = self
                    .cameras
                    .locate(&self.info, source, *at, episode, table)?;
                let frames = frames.map(|(span, times)| (span.path, times));
                references(frames, table.num_rows())?
            }
            // What was not decoded is not there.
            (Kind::Frames(at), _) => frames
                .get(at)
                .cloned()
                .unwrap_or_else(|| new_null_array(field.data_type(), table.num_rows())),
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
                    "an observation of several parts cannot be {}",
                    type_name(other)
                )));
            }
            (Kind::Text, _) => {
                let index = self.tables.feature(source).ok_or_else(|| {
                    Error::failed(format!("feature `{source}` points into no table"))
                })?;
                self.tables.texts(index, column(source)?)?
            }
            (Kind::Flag, _) => {
                let values = scalar_column(source, column(source)?, &DataType::Float64)?;
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
                Error::failed(format!("feature `{source}` is null at frame {row}")).hint(
                    "every frame needs an observation: drop the episode, or fill in the value",
                ),
            );
        }
        Ok(values)
    }
}
