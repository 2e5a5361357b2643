//! ManiSkill's demonstrations: an HDF5 file with a group `traj_N` for each trajectory, and a JSON
//! file of the same name beside it, which describes the episodes.
//!
//! Observations and states of the environment have one more row than actions. A file that was
//! recorded without observations has `env_states` only, which are the observation then. An episode
//! may go on after the task is solved, so the flags of all steps are kept as columns, and the last
//! ones say how the trajectory ended.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::schema::step;
use crate::dataset::{Account, description, files};
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::transfer::read::groups::{self, Common, Survey};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{Choice, IncomingTrajectory, Options, Reader, Source, parts};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "maniskill",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe,
    }),
    read: Some(Reader {
        takes: &["map", "only", "skip"],
        open,
    }),
    write: None,
    validate: None,
};

/// The array of actions.
const ACTIONS: &str = "actions";

/// What may be the observation: the first that exists.
const OBSERVATIONS: [&str; 2] = ["obs", "env_states"];

/// The prefix of the names of trajectories.
const TRAJECTORY: &str = "traj_";

/// Returns the file of demonstrations at `path`: the file itself, or the only HDF5 file in the
/// folder; and the names of all other files in the folder.
fn find(path: &Path) -> Result<Option<(PathBuf, Vec<String>)>> {
    let (files, others) = groups::hdf5_files(path)?;
    Ok(match <[PathBuf; 1]>::try_from(files) {
        Ok([file]) if hdf5::is_hdf5(&file)? => Some((file, others)),
        _ => None,
    })
}

fn probe(path: &Path) -> Result<bool> {
    let Some((file, _)) = find(path)? else {
        return Ok(false);
    };
    let groups = hdf5::groups(&hdf5::open(&file)?.root(), &|_| false)
        .map_err(|error| error.at(file.display()))?;
    let first = groups.iter().find(|(name, _)| name.starts_with(TRAJECTORY));
    let Some((_, first)) = first else {
        return Ok(false);
    };
    let names = first.names().map_err(|error| error.at(file.display()))?;
    Ok(names.iter().any(|name| name == ACTIONS))
}

/// What the JSON file says about each trajectory, by the name of its group.
type Episodes = HashMap<String, Map<String, Value>>;

/// The trajectories of a file.
struct ManiSkill {
    path: PathBuf,
    names: std::vec::IntoIter<String>,
    groups: HashMap<String, hdf5::Group>,
    /// What the JSON file says about each episode.
    episodes: Episodes,
    /// The array or group of observations.
    observation: &'static str,
    options: Options,
    common: Common,
    metadata: Map<String, Value>,
    about: SchemaRef,
    schema: SchemaRef,
    first: FirstTrajectory,
    steps: u64,
}

/// Opens the demonstrations at `path`.
fn open(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    parts::verify_targets(options, &parts::TARGETS)?;
    let (path, mut others) = find(path)?.ok_or_else(|| {
        Error::failed(format!("{} is not one HDF5 file", path.display()))
            .hint("give the file trajectory.h5, or the folder that holds it alone")
    })?;
    let failed = |error: Error| error.at(path.display());
    let root = hdf5::open(&path)?.root();
    let is_trajectory = |name: &str| name.starts_with(TRAJECTORY);
    let groups = hdf5::groups(&root, &is_trajectory).map_err(failed)?;
    let index = |name: &String| {
        name.strip_prefix(TRAJECTORY)
            .and_then(|number| number.parse::<u64>().ok())
    };
    let mut names: Vec<String> = groups.keys().cloned().collect();
    names.retain(|name| index(name).is_some());
    names.sort_by_key(index);
    if names.is_empty() {
        return Err(failed(
            Error::failed("there are no trajectories `traj_0`, `traj_1`, …")
                .hint("there is nothing to import"),
        ));
    }
    let (episodes, metadata) = match description(&path)? {
        Some(beside) => {
            others
                .retain(|other| *other != beside.file_name().unwrap_or_default().to_string_lossy());
            described(&beside)?
        }
        None => (HashMap::new(), Map::new()),
    };
    let choice = Choice::new(options, |name| ["terminated", "truncated"].contains(&name));
    let mut common = Common::new(choice);
    let reads = |name: &str| common.reads(name);
    let (mut survey, mut steps, mut observation) = (Survey::default(), 0, None);
    for name in &names {
        let mut arrays = BTreeMap::new();
        // A trajectory that cannot be read is an error when its turn comes.
        if hdf5::shapes(&groups[name], &reads, &mut arrays).is_err() {
            continue;
        }
        observation = observation.or_else(|| {
            OBSERVATIONS.into_iter().find(|known| {
                let parts = format!("{known}/");
                arrays
                    .keys()
                    .any(|name| name == known || name.starts_with(&parts))
            })
        });
        let length = arrays
            .get(ACTIONS)
            .and_then(|actions| actions.shape.first().copied());
        steps += length.unwrap_or(0);
        let mut attributes = Map::new();
        if hdf5::attributes(&groups[name], &mut attributes).is_ok() {
            attributes.extend(episodes.get(name).cloned().unwrap_or_default());
            survey.add(arrays, length.unwrap_or(0), &attributes);
        }
    }
    let observation = observation.unwrap_or(OBSERVATIONS[0]);
    let parts = OBSERVATIONS.map(|known| format!("{known}/"));
    common.settle(survey, |name| {
        OBSERVATIONS.contains(&name)
            || parts.iter().any(|parts| name.starts_with(parts))
            || [ACTIONS, "terminated", "truncated", "rewards"].contains(&name)
    });
    common.name_task();
    common.leave_out_files(others);
    for name in root.names().map_err(failed)? {
        if !groups.contains_key(&name) || index(&name).is_none() {
            common.leave_out(name, "it is not a trajectory");
        }
    }
    let mut absent: Vec<&String> = episodes
        .keys()
        .filter(|name| !groups.contains_key(*name))
        .collect();
    absent.sort_by_key(|name| index(name));
    if let Some(first) = absent.first() {
        let what = count(absent.len(), "episode");
        common.leave_out(
            format!("{what} of the JSON file, the first of them `{first}`"),
            "the HDF5 file has no such group",
        );
    }
    common.choice().verify().map_err(failed)?;
    let mut source = ManiSkill {
        path,
        names: names.into_iter(),
        groups,
        episodes,
        observation,
        options: options.clone(),
        about: Arc::new(Schema::new(common.about())),
        common,
        metadata,
        schema: Arc::new(Schema::empty()),
        first: FirstTrajectory::default(),
        steps,
    };
    (source.first, source.schema) =
        FirstTrajectory::read(options.on_error, || source.trajectory(None))?;
    Ok(Box::new(source))
}

/// Returns what the JSON file at `path` says about each trajectory, by the name of its group, and
/// about all of them.
fn described(path: &Path) -> Result<(Episodes, Map<String, Value>)> {
    let damaged = |what: String| {
        Error::failed(format!("{}: {what}", path.display()))
            .hint("the file describes the episodes: download or record it again")
    };
    let text =
        files::read_to_string(path).map_err(|error| damaged(format!("cannot be read: {error}")))?;
    let mut metadata: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| damaged(format!("not an object of JSON: {error}")))?;
    let Some(Value::Array(described)) = metadata.remove("episodes") else {
        // Another program's file.
        return Ok((HashMap::new(), metadata));
    };
    let mut episodes = HashMap::new();
    for episode in described {
        let id = episode["episode_id"]
            .as_u64()
            .ok_or_else(|| damaged("an episode has no `episode_id`".to_owned()))?;
        let mut facts = Map::new();
        flatten("", &episode, &mut facts);
        if episodes
            .insert(format!("{TRAJECTORY}{id}"), facts)
            .is_some()
        {
            return Err(damaged(format!("two episodes have the `episode_id` {id}")));
        }
    }
    Ok((episodes, metadata))
}

/// Adds the values of an object to `facts`; the names of nested values have slashes.
fn flatten(name: &str, value: &Value, facts: &mut Map<String, Value>) {
    match value {
        Value::Object(parts) => {
            for (part, value) in parts {
                let name = if name.is_empty() {
                    part.clone()
                } else {
                    format!("{name}/{part}")
                };
                flatten(&name, value, facts);
            }
        }
        value => drop(facts.insert(name.to_owned(), value.clone())),
    }
}

impl ManiSkill {
    /// Reads the next trajectory, whose columns must be those of `schema`, if there is one.
    fn trajectory(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        let group = self.groups.remove(&name);
        group
            .ok_or_else(|| Error::failed("there is no such group"))
            .and_then(|group| self.read(&name, &group, schema))
            .map(Some)
            .map_err(|error| error.at(format!("{}: {name}", self.path.display())))
    }

    /// Reads the trajectory `name`.
    fn read(
        &self,
        name: &str,
        group: &hdf5::Group,
        schema: Option<&SchemaRef>,
    ) -> Result<IncomingTrajectory> {
        let mut attributes = Map::new();
        hdf5::attributes(group, &mut attributes)?;
        attributes.extend(self.episodes.get(name).cloned().unwrap_or_default());
        let mut arrays = self.common.arrays(group, &mut hdf5::all_rows)?;
        let facts = self.common.facts(&mut arrays, &attributes)?;
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let about = RecordBatch::try_new_with_options(Arc::clone(&self.about), facts, &one)?;
        let mut taken = |target: &str, name: &str| -> Result<Option<(Field, ArrayRef)>> {
            match parts::take(&mut arrays, &self.options, target)? {
                Some(found) => Ok(Some(found)),
                None => per_trajectory::take(&mut arrays, name),
            }
        };
        let missing = |name: &str| {
            let left_out = self.common.choice().needed(name);
            left_out
                .unwrap_or_else(|| Error::failed(format!("there is no array or group `{name}`")))
        };
        let action = taken(step::ACTION, ACTIONS)?.ok_or_else(|| missing(ACTIONS))?;
        let observation =
            taken(step::OBSERVATION, self.observation)?.ok_or_else(|| missing(self.observation))?;
        let reward = taken(step::REWARD, "rewards")?;
        let (length, rows) = (action.1.len(), observation.1.len());
        if length == 0 || rows < length || rows > length + 1 {
            return Err(Error::failed(format!(
                "the observation has {}, but `{ACTIONS}` has {}",
                count(rows, "row"),
                count(length, "row")
            ))
            .hint("there is one more observation than actions: record the trajectory again"));
        }
        let last = |arrays: &ArrayColumns, name: &str| -> Result<bool> {
            let flags = arrays
                .get(name)
                .cloned()
                .map(per_trajectory::booleans)
                .transpose()?;
            Ok(flags.is_some_and(|flags| flags.last() == Some(&true)))
        };
        let ends = [step::TERMINATED, step::TRUNCATED];
        let flags = [last(&arrays, ends[0])?, last(&arrays, ends[1])?];
        let mut trajectory = TrajectoryBuilder::new(length, rows > length);
        trajectory.add(step::OBSERVATION, observation, false)?;
        trajectory.add(step::ACTION, action, true)?;
        if let Some(reward) = reward {
            trajectory.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
        }
        for (name, flag) in ends.into_iter().zip(flags) {
            let flags: Vec<bool> = (1..=length).map(|row| flag && row == length).collect();
            trajectory.flags(name, &flags)?;
        }
        trajectory.finals();
        // Parts of observations that are not mapped.
        let part = |name: String| match name.strip_prefix("obs/") {
            Some(part) => format!("{}/{part}", step::OBSERVATION),
            None => name,
        };
        let others = arrays
            .into_iter()
            .map(|(name, column)| (part(name), column));
        trajectory.others(others.collect())?;
        Ok(IncomingTrajectory {
            key: name.to_owned(),
            steps: trajectory.finish(schema)?,
            about: (!self.about.fields().is_empty()).then_some(about),
        })
    }
}

impl Source for ManiSkill {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        Some(self.steps)
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn account(&self) -> Account {
        self.common.account()
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if let Some(next) = self.first.next() {
            return next.map(Some);
        }
        let schema = Arc::clone(&self.schema);
        self.trajectory(Some(&schema))
    }
}
