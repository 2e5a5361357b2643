//! d3rlpy's dumps of a replay buffer: HDF5 with `observations_0`, `actions_0`, `rewards_0`, `terminated_0` and so on for
//! each trajectory.
//!
//! A trajectory that is not terminated was cut off; there is no place for the observation after the last action. Written
//! with what is missing, and further columns, under `trajmill`, which d3rlpy's loader passes over.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, make_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::{Detection, Evidence, Format};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::container::hdf5::{Element, Hdf5Writer};
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{IncomingTrajectory, Options, Reader, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeLine};
use crate::transfer::write::arrays;
use crate::transfer::write::{
    ACTION_VALID, OutgoingDataset, OutgoingTrajectory, WriteOptions, Writer, Written,
};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "d3rlpy",
    about: "d3rlpy's ReplayBuffer.dump: HDF5, arrays of each trajectory",
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
        takes: &[],
        write,
        note: Some(note),
    }),
    validate: None,
};

/// Where what no array of d3rlpy's holds is kept.
const PREFIX: &str = "trajmill/";

/// The version of the dumps that are read and written.
const VERSION: &str = "2.1";

/// Whether the file at `path` is a dump.
fn detect(path: &Path) -> Result<bool> {
    if !hdf5::is_hdf5(path)? {
        return Ok(false);
    }
    let file = hdf5::open(path)?;
    for name in ["num_episodes", "columns", "version"] {
        if !hdf5::has_array(&file, name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn note(path: &Path) -> Result<Option<Value>> {
    envelope::note_of_hdf5(path, PREFIX)
}

struct Dump {
    path: PathBuf,
    /// ArrayColumns that are not read yet, and the groups of what was kept.
    arrays: HashMap<String, hdf5::Dataset>,
    groups: HashMap<String, hdf5::Group>,
    episodes: u64,
    next: u64,
    /// Members of a tuple of observations; `None` where there is one array.
    parts: Option<u64>,
    envelope: Option<Envelope>,
    about: SchemaRef,
    schema: SchemaRef,
    opening: FirstTrajectory,
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let failed = |message: String| Error::failed(format!("{}: {message}", path.display()));
    let file = hdf5::open(path)?;
    let mut arrays = hdf5::datasets(&file.root()).map_err(|error| error.at(path.display()))?;
    let groups = hdf5::member(&file.root(), PREFIX.trim_end_matches('/'))
        .map_err(|error| error.at(path.display()))?;
    let groups = groups
        .map(|kept| hdf5::groups(&kept))
        .transpose()?
        .unwrap_or_default();
    let version = arrays
        .remove("version")
        .and_then(|version| version.read_string().ok())
        .and_then(|texts| texts.into_iter().next());
    if version.as_deref() != Some(VERSION) {
        return Err(failed(format!(
            "version {} of a dump is not {VERSION}",
            version.unwrap_or_default()
        ))
        .hint("dump it again with d3rlpy 2.1 or newer"));
    }
    let episodes = arrays
        .remove("num_episodes")
        .and_then(|count| count.read_i64().ok())
        .and_then(|count| count.first().copied());
    let episodes = episodes
        .and_then(|count| u64::try_from(count).ok())
        .filter(|count| *count > 0);
    let episodes = episodes.ok_or_else(|| {
        failed("there are no episodes".to_owned()).hint("there is nothing to import")
    })?;
    let there = arrays
        .keys()
        .filter(|name| name.starts_with("terminated_"))
        .count() as u64;
    // One that is missing is an error of its own; where most are, it is the number that is wrong.
    if there < episodes.div_ceil(2) {
        return Err(failed(format!(
            "`num_episodes` is {episodes}, and {there} of them are there"
        ))
        .hint("the file is not whole: dump it again"));
    }
    let parts = (0..)
        .take_while(|part| arrays.contains_key(&format!("observations_0_{part}")))
        .count() as u64;
    let parts = (!arrays.contains_key("observations_0") && parts > 0).then_some(parts);
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
        parts,
        envelope,
        about,
        schema,
        opening,
    };
    (dump.opening, dump.schema) = FirstTrajectory::read(options.on_error, || dump.episode(None))?;
    Ok(Box::new(dump))
}

impl Dump {
    fn episode(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let index = self.next;
        if index == self.episodes {
            return Ok(None);
        }
        self.next += 1;
        self.read(index, schema)
            .map(Some)
            .map_err(|error| error.at(format!("{}: trajectory {index}", self.path.display())))
    }

    fn dataset(&mut self, name: &str) -> Result<hdf5::Dataset> {
        let missing = || {
            Error::failed(format!("there is no array `{name}`"))
                .hint(format!("`num_episodes` says {}", self.episodes))
        };
        self.arrays.remove(name).ok_or_else(missing)
    }

    fn array(&mut self, name: &str) -> Result<(Field, ArrayRef)> {
        hdf5::column(&self.dataset(name)?, name, &mut hdf5::all_rows)?
            .ok_or_else(|| Error::failed(format!("`{name}` is a single value")))
    }

    fn read(&mut self, index: u64, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
        let group = self.envelope.as_ref().map(|_| {
            let (mut arrays, mut attributes) = (ArrayColumns::new(), Map::new());
            let group = self
                .groups
                .remove(&index.to_string())
                .ok_or_else(|| Error::failed("what was kept of it is not there"))?;
            hdf5::attributes(&group, &mut attributes)?;
            hdf5::arrays(&group, "", 0, &mut hdf5::all_rows, &mut arrays)?;
            let line = attributes
                .get("line")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let line: EnvelopeLine = serde_json::from_str(line).map_err(|error| {
                Error::failed(format!("what was kept of it is damaged: {error}"))
            })?;
            Ok::<_, Error>((arrays, line))
        });
        let (mut kept, line) = group
            .transpose()?
            .map_or((ArrayColumns::new(), None), |(arrays, line)| {
                (arrays, Some(line))
            });
        let mut observation = match self.parts {
            None => self.array(&format!("observations_{index}"))?,
            Some(parts) => {
                let mut arrays = ArrayColumns::new();
                for part in 0..parts {
                    arrays.insert(
                        format!("observations/{part}"),
                        self.array(&format!("observations_{index}_{part}"))?,
                    );
                }
                per_trajectory::take(&mut arrays, "observations")
                    .ok_or_else(|| Error::failed("parts of `observations` differ in length"))?
            }
        };
        let length = observation.1.len();
        let last = per_trajectory::take(&mut kept, "final_observation");
        // Parts that had names are numbered in d3rlpy.
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
        let mut assembly = TrajectoryBuilder::new(length, observation.1.len() > length);
        let mut action = self.array(&format!("actions_{index}"))?;
        // Single whole numbers stand in a column of one.
        if action.0.data_type().to_string().contains("Int") {
            action = per_trajectory::squeezed(action);
        }
        assembly.add(step::OBSERVATION, observation, false)?;
        assembly.add(step::ACTION, action, true)?;
        assembly.add(
            step::REWARD,
            per_trajectory::squeezed(self.array(&format!("rewards_{index}"))?),
            true,
        )?;
        let name = format!("terminated_{index}");
        let terminated = self
            .dataset(&name)?
            .read_raw()
            .ok()
            .and_then(|bytes| bytes.first().copied());
        let terminated =
            terminated.ok_or_else(|| Error::failed(format!("`{name}` is no value")))? != 0;
        let (terminated, truncated) = line.as_ref().map_or((terminated, !terminated), |line| {
            (line.terminated, line.truncated)
        });
        let flags = |last: bool| {
            (0..length)
                .map(|row| last && row + 1 == length)
                .collect::<Vec<_>>()
        };
        assembly.flags(step::TERMINATED, &flags(terminated))?;
        assembly.flags(step::TRUNCATED, &flags(truncated))?;
        assembly.finals();
        assembly.others(per_trajectory::with_valid(kept, true)?)?;
        let about = line.map_or(Ok(None), |line| envelope::row(&self.about, &line.about))?;
        Ok(IncomingTrajectory {
            key: index.to_string(),
            steps: assembly.finish(schema)?,
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

    fn rows(&self) -> Option<u64> {
        None
    }

    fn metadata(&self) -> Map<String, Value> {
        Map::new()
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if let Some(next) = self.opening.next() {
            return next.map(Some);
        }
        let schema = Arc::clone(&self.schema);
        self.episode(Some(&schema))
    }
}

fn write(outgoing: &OutgoingDataset, to: &Path, options: &WriteOptions) -> Result<Written> {
    let mut written = Written::default();
    for column in [step::OBSERVATION, step::ACTION, step::REWARD] {
        let field = outgoing.steps().field_with_name(column);
        let field = field.map_err(|_| {
            Error::failed(format!(
                "d3rlpy needs `{column}s`, and the dataset has no column `{column}`"
            ))
            .hint("`derive` can make one")
        })?;
        if arrays::plain(field, column).is_none() {
            return Err(Error::failed(format!(
                "d3rlpy cannot hold `{column}` of type {}",
                field.data_type()
            )));
        }
    }
    let mut extras = Vec::new();
    let mut left = Vec::new();
    for column in arrays::extras(outgoing.steps()) {
        match arrays::plain(outgoing.steps().field_with_name(&column)?, &column) {
            Some(_) => extras.push(column),
            None => left.push(column),
        }
    }
    arrays::left(&mut written, &left);
    let mut file = Hdf5Writer::create(to)?;
    for leaving in outgoing.pass(None)? {
        episode(&mut file, &leaving?, &extras)?;
    }
    file.texts(
        "columns",
        &[4],
        &["observations", "actions", "rewards", "terminated"],
    )?;
    file.array(
        "num_episodes",
        Element::Plain(DataType::Int64),
        &[],
        &(outgoing.trajectories() as i64).to_le_bytes(),
    )?;
    file.texts("version", &[], &[VERSION])?;
    let envelope = Envelope::new(outgoing, options, BTreeMap::new(), &mut written).text()?;
    file.array(
        &format!("{PREFIX}{}", envelope::ENVELOPE),
        Element::Plain(DataType::UInt8),
        &[envelope.len() as u64],
        envelope.as_bytes(),
    )?;
    file.finish()?;
    written.moved(
        "final observations, how each trajectory ended, its identity, further columns",
        format!("the groups `{PREFIX}*`"),
    );
    if outgoing.steps().column_with_name(ACTION_VALID).is_some() {
        written.moved(
            "which actions were filled in",
            format!("`{ACTION_VALID}` in those groups"),
        );
    }
    Ok(written)
}

fn episode(file: &mut Hdf5Writer, leaving: &OutgoingTrajectory, extras: &[String]) -> Result<()> {
    let (index, length) = (leaving.index, leaving.length);
    let schema = leaving.steps.schema();
    let whole = |name: &str| {
        leaving
            .steps
            .column_by_name(name)
            .ok_or_else(|| Error::failed("a column was not read"))
    };
    let field = schema.field_with_name(step::OBSERVATION)?;
    let observation = whole(step::OBSERVATION)?;
    let parts = arrays::plain(field, "").unwrap_or_default();
    for (part, plain) in parts.iter().enumerate() {
        let name = if plain.path.is_empty() {
            format!("observations_{index}")
        } else {
            format!("observations_{index}_{part}")
        };
        arrays::one(file, &name, plain, &observation.slice(0, length))?;
    }
    // Actions and rewards are columns of one where they are single numbers.
    for (column, name) in [(step::ACTION, "actions"), (step::REWARD, "rewards")] {
        let values = whole(column)?.slice(0, length);
        let mut bytes = Vec::new();
        arrays::append(&values, &mut bytes)?;
        let plain = arrays::plain(schema.field_with_name(column)?, name)
            .and_then(|parts| parts.into_iter().next());
        let plain =
            plain.ok_or_else(|| Error::failed(format!("`{column}` is no array of numbers")))?;
        let row = if plain.row.is_empty() {
            vec![1]
        } else {
            plain.row
        };
        let shape: Vec<u64> = std::iter::once(length as u64).chain(row).collect();
        file.array(
            &format!("{name}_{index}"),
            Element::Plain(plain.element),
            &shape,
            &bytes,
        )?;
    }
    let line = envelope::line(leaving)?;
    file.array(
        &format!("terminated_{index}"),
        Element::Plain(DataType::Boolean),
        &[],
        &[u8::from(line.terminated)],
    )?;
    let group = format!("{PREFIX}{index}");
    if leaving.has_final() {
        arrays::array(
            file,
            &format!("{group}/final_observation"),
            field,
            &observation.slice(length, 1),
        )?;
    }
    for column in extras {
        let (field, values) = (schema.field_with_name(column)?, whole(column)?);
        arrays::array(file, &format!("{group}/{column}"), field, values)?;
        if field.is_nullable() {
            let valid: ArrayRef = Arc::new(BooleanArray::from_iter(
                (0..values.len()).map(|row| Some(values.is_valid(row))),
            ));
            arrays::array(
                file,
                &format!("{group}/{column}_valid"),
                &Field::new("valid", DataType::Boolean, false),
                &valid,
            )?;
        }
    }
    if let Some(proxy) = arrays::proxy(leaving, leaving.steps.num_rows()) {
        arrays::array(
            file,
            &format!("{group}/action_is_proxy"),
            &Field::new("proxy", DataType::Boolean, false),
            &proxy,
        )?;
    }
    let text = serde_json::to_string(&line).map_err(|error| Error::failed(error.to_string()))?;
    file.group(
        &group,
        vec![(
            "line".to_owned(),
            crate::container::hdf5::Attribute::Text(text),
        )],
    )?;
    file.close(&group)
}
