//! Dumps of d3rlpy's replay buffer: HDF5 files with the arrays `observations_0`, `actions_0`,
//! `rewards_0`, `terminated_0` and so on, one set for each trajectory.
//!
//! A trajectory that is not terminated was cut off. The format has no place for the observation
//! after the last action, nor for further columns. The writer puts these into groups under
//! `trajmill`, which d3rlpy's loader ignores. Dumps of d3rlpy 1 are read too.

mod version_1;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, make_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::Account;
use crate::dataset::schema::step;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{Choice, IncomingTrajectory, Options, Reader, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeLine};
use crate::transfer::roundtrip::models::Models;
use crate::transfer::write::{Writer, nulls};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "d3rlpy",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: detect,
    }),
    read: Some(Reader {
        takes: &[],
        open: read,
    }),
    write: Some(Writer {
        nulls: false,
        whole: Some(nulls::is_plain),
        text: false,
        takes: &[],
        write: write::write,
        note: Some(note),
    }),
    validate: None,
};

/// The group of everything that d3rlpy's own arrays cannot hold.
const PREFIX: &str = "trajmill/";

/// The names of the parts of a trajectory, before its number.
const PARTS: [&str; 4] = [OBSERVATIONS, "actions", "rewards", "terminated"];

/// The arrays about all trajectories.
const ABOUT: [&str; 3] = ["num_episodes", "columns", "version"];

/// The name of observations, before the number of their trajectory.
const OBSERVATIONS: &str = "observations";

/// The version of dumps that is read and written.
const VERSION: &str = "2.1";

/// Whether the file at `path` is a dump of a replay buffer.
fn detect(path: &Path) -> Result<bool> {
    if !hdf5::is_hdf5(path)? {
        return Ok(false);
    }
    let file = hdf5::open(path)?;
    let has_all = |names: &[&str]| -> Result<bool> {
        for name in names {
            if !hdf5::has_array(&file, name).map_err(|error| error.at(path.display()))? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(has_all(&ABOUT)? || has_all(&version_1::NAMES)?)
}

fn note(path: &Path) -> Result<Option<Value>> {
    envelope::note_of_hdf5(path, PREFIX)
}

/// A dump, read one trajectory at a time.
struct Dump {
    path: PathBuf,
    /// The arrays that were not read yet.
    arrays: HashMap<String, hdf5::Dataset>,
    /// The groups of trajectories under [`PREFIX`] that were not read yet.
    groups: HashMap<String, hdf5::Group>,
    episodes: u64,
    next: u64,
    /// The number of members if observations are tuples; `None` if they are single arrays.
    tuple_members: Option<u64>,
    envelope: Option<Envelope>,
    about: SchemaRef,
    schema: SchemaRef,
    opening: FirstTrajectory,
    choice: Choice,
    account: Account,
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let failed = |message: String| Error::failed(format!("{}: {message}", path.display()));
    let file = hdf5::open(path)?;
    let is_part = |name: &str| PARTS.iter().any(|part| name.starts_with(part));
    let mut arrays =
        hdf5::datasets(&file.root(), &is_part).map_err(|error| error.at(path.display()))?;
    if version_1::NAMES
        .iter()
        .all(|name| arrays.contains_key(*name))
    {
        return version_1::read(path, options);
    }
    let groups = hdf5::member(&file.root(), PREFIX.trim_end_matches('/'))
        .map_err(|error| error.at(path.display()))?;
    let groups = groups
        .map(|group| hdf5::groups(&group, &hdf5::all))
        .transpose()?
        .unwrap_or_default();
    let version = arrays
        .remove("version")
        .and_then(|version| version.read_string().ok())
        .and_then(|texts| texts.into_iter().next());
    if version.as_deref() != Some(VERSION) {
        let found = version.map_or_else(
            || "the dump does not state its version".to_owned(),
            |version| format!("the dump has version {version}"),
        );
        return Err(failed(format!(
            "{found}; only {VERSION}, and dumps of d3rlpy 1, can be read"
        ))
        .hint("dump the replay buffer again with d3rlpy 2.1 or newer"));
    }
    let episodes = arrays
        .remove("num_episodes")
        .and_then(|count| count.read_i64().ok())
        .and_then(|count| count.first().copied());
    let episodes = episodes
        .and_then(|count| u64::try_from(count).ok())
        .filter(|count| *count > 0);
    let episodes = episodes.ok_or_else(|| {
        failed(
            "`num_episodes` is missing or not positive, so there is nothing to import".to_owned(),
        )
        .hint("dump the replay buffer again, with at least one episode in it")
    })?;
    let found = arrays
        .keys()
        .filter(|name| name.starts_with("terminated_"))
        .count() as u64;
    // A missing episode is an error of that trajectory, unless most of them are missing.
    if found < episodes.div_ceil(2) {
        return Err(failed(format!(
            "`num_episodes` is {}, but the file has {}",
            number(episodes),
            count(found, "episode")
        ))
        .hint("the file is incomplete: dump the replay buffer again"));
    }
    let members = (0..)
        .take_while(|member| arrays.contains_key(&format!("observations_0_{member}")))
        .count() as u64;
    let is_tuple = !arrays.contains_key("observations_0") && members > 0;
    let mut account = Account::default();
    let mut others = file.root().names()?;
    others.retain(|name| {
        let is_group = name == PREFIX.trim_end_matches('/');
        !is_group && !ABOUT.contains(&name.as_str()) && !is_part(name)
    });
    // The arrays of one kind are named once.
    let kind = |name: String| match name.trim_end_matches(|letter: char| letter.is_ascii_digit()) {
        kind if kind.len() < name.len() && kind.ends_with('_') => format!("{kind}*"),
        _ => name,
    };
    for name in others.into_iter().map(kind).collect::<BTreeSet<_>>() {
        account.leave_out(name, "it is not a part of d3rlpy's trajectories");
    }
    let envelope = hdf5::bytes(&file, &format!("{PREFIX}{}", envelope::ENVELOPE))?
        .map(|text| Envelope::parse(&text))
        .transpose();
    let envelope = envelope.map_err(|error| error.at(path.display()))?;
    let about = envelope
        .as_ref()
        .map_or_else(|| Ok(Arc::new(Schema::empty())), Envelope::schema)?;
    let schema = Arc::new(Schema::empty());
    let opening = FirstTrajectory::default();
    let mut dump = Dump {
        path: path.to_owned(),
        arrays,
        groups,
        episodes,
        next: 0,
        tuple_members: is_tuple.then_some(members),
        envelope,
        about,
        schema,
        opening,
        choice: Choice::new(options, |_| false),
        account,
    };
    (dump.opening, dump.schema) =
        FirstTrajectory::read(options.on_error, || dump.next_episode(None))?;
    dump.choice
        .verify()
        .map_err(|error| error.at(path.display()))?;
    Ok(Box::new(dump))
}

impl Dump {
    /// Returns the next trajectory, whose columns must be those of `schema` if it is given; `None`
    /// after the last.
    fn next_episode(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let index = self.next;
        if index == self.episodes {
            return Ok(None);
        }
        self.next += 1;
        self.episode(index, schema)
            .map(Some)
            .map_err(|error| error.at(format!("{}: trajectory {index}", self.path.display())))
    }

    /// Takes the array `name`, which each trajectory needs once.
    fn dataset(&mut self, name: &str) -> Result<hdf5::Dataset> {
        let missing = || {
            Error::failed(format!("there is no array `{name}`")).hint(format!(
                "`num_episodes` is {}, so the file is incomplete: dump the replay buffer again",
                number(self.episodes)
            ))
        };
        self.arrays.remove(name).ok_or_else(missing)
    }

    /// Takes the array `name` as a column.
    fn column(&mut self, name: &str) -> Result<(Field, ArrayRef)> {
        hdf5::column(&self.dataset(name)?, name, &mut hdf5::all_rows)?.ok_or_else(|| {
            Error::failed(format!(
                "`{name}` is a single value or its rows have no values"
            ))
        })
    }

    /// Takes the group of the trajectory `index` that trajmill wrote: its arrays and its line.
    fn kept(&mut self, index: u64) -> Result<(ArrayColumns, EnvelopeLine)> {
        let name = format!("{PREFIX}{index}");
        let group = self.groups.remove(&index.to_string()).ok_or_else(|| {
            Error::failed(format!("there is no group `{name}`"))
                .hint("the file is incomplete: export the dataset again")
        })?;
        let (mut arrays, mut attributes) = (ArrayColumns::new(), Map::new());
        hdf5::attributes(&group, &mut attributes)?;
        let reads = |name: &str| self.choice.reads(name);
        hdf5::arrays(&group, "", &reads, &mut hdf5::all_rows, &mut arrays)?;
        let line = attributes
            .get("line")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let line = serde_json::from_str(line).map_err(|error| {
            Error::failed(format!(
                "the attribute `line` of `{name}` is damaged: {error}"
            ))
            .hint("export the dataset again")
        })?;
        Ok((arrays, line))
    }

    /// Returns the error for observations that were left out.
    fn left_out(&self) -> Error {
        self.choice
            .needed(OBSERVATIONS)
            .unwrap_or_else(|| Error::failed(format!("there are no {OBSERVATIONS}")))
    }

    /// Takes the observations of the trajectory `index`, a tuple of arrays as a struct.
    fn observation(&mut self, index: u64) -> Result<(Field, ArrayRef)> {
        let Some(members) = self.tuple_members else {
            if !self.choice.reads(OBSERVATIONS) {
                return Err(self.left_out());
            }
            return self.column(&format!("{OBSERVATIONS}_{index}"));
        };
        let mut arrays = ArrayColumns::new();
        for member in 0..members {
            let name = format!("{OBSERVATIONS}/{member}");
            if self.choice.reads(&name) {
                let column = self.column(&format!("{OBSERVATIONS}_{index}_{member}"))?;
                arrays.insert(name, column);
            }
        }
        if arrays.is_empty() {
            return Err(self.left_out());
        }
        per_trajectory::take(&mut arrays, "observations")
            .map_err(|error| error.hint("dump the replay buffer again"))?
            .ok_or_else(|| Error::failed(format!("there is no array `observations_{index}_0`")))
    }

    /// Reads the trajectory `index`.
    fn episode(&mut self, index: u64, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
        let (mut extras, line) = match &self.envelope {
            Some(_) => self
                .kept(index)
                .map(|(arrays, line)| (arrays, Some(line)))?,
            None => (ArrayColumns::new(), None),
        };
        let mut observation = self.observation(index)?;
        let length = observation.1.len();
        let last = per_trajectory::take(&mut extras, "final_observation")?;
        // d3rlpy numbers the members of a struct, so the names of its fields may differ.
        let data_type = observation.1.data_type().clone();
        if let Some((_, last)) =
            last.filter(|(_, last)| last.data_type().equals_datatype(&data_type))
        {
            let last = make_array(
                last.into_data()
                    .into_builder()
                    .data_type(data_type)
                    .build()?,
            );
            observation.1 = arrow::compute::concat(&[observation.1.as_ref(), last.as_ref()])?;
        }
        let mut builder = TrajectoryBuilder::new(length, observation.1.len() > length);
        builder.add(step::OBSERVATION, observation, false)?;
        if self.choice.reads("actions") {
            let mut action = self.column(&format!("actions_{index}"))?;
            // d3rlpy holds a discrete action as a vector of one whole number.
            if action.0.data_type().to_string().contains("Int") {
                action = per_trajectory::squeezed(action);
            }
            builder.add(step::ACTION, action, true)?;
        }
        if self.choice.reads("rewards") {
            let reward = self.column(&format!("rewards_{index}"))?;
            builder.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
        }
        let name = format!("terminated_{index}");
        let terminated = self
            .dataset(&name)?
            .read_raw()
            .ok()
            .and_then(|bytes| bytes.first().copied());
        let terminated = terminated
            .ok_or_else(|| Error::failed(format!("`{name}` is not a single value")))?
            != 0;
        let (terminated, truncated) = line.as_ref().map_or((terminated, !terminated), |line| {
            (line.terminated, line.truncated)
        });
        let flags = |last: bool| {
            (0..length)
                .map(|row| last && row + 1 == length)
                .collect::<Vec<_>>()
        };
        builder.flags(step::TERMINATED, &flags(terminated))?;
        builder.flags(step::TRUNCATED, &flags(truncated))?;
        builder.finals();
        builder.others(per_trajectory::with_valid(extras, true)?)?;
        let about = line.map_or(Ok(None), |line| envelope::row(&self.about, &line.about))?;
        Ok(IncomingTrajectory {
            key: index.to_string(),
            steps: builder.finish(schema)?,
            about,
        })
    }
}

impl Source for Dump {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn account(&self) -> Account {
        self.choice.account(self.account.clone())
    }

    fn models(&self) -> Option<Models> {
        self.envelope.as_ref()?.models.clone()
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if let Some(next) = self.opening.next() {
            return next.map(Some);
        }
        let schema = Arc::clone(&self.schema);
        self.next_episode(Some(&schema))
    }
}
