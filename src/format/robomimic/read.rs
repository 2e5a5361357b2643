//! Reads the HDF5 of robomimic and robosuite, one demonstration after the other.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::files::{DemoFile, DemoFiles};
use super::{ACTIONS, OURS, PART, UNSCALED};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::Account;
use crate::dataset::schema::step;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{Choice, IncomingTrajectory, Options, Source, gaps, parts};
use crate::transfer::roundtrip::envelope::{self, EnvelopeLine};
use crate::transfer::roundtrip::models::Models;

/// The demonstrations of a source.
struct Demonstrations {
    files: DemoFiles,
    /// The demonstrations that are not read yet: the index of the file, and the name.
    names: VecDeque<(usize, String)>,
    /// The groups of the demonstrations of one file that are not read yet.
    groups: Option<(usize, HashMap<String, hdf5::Group>)>,
    /// The name of the array or group of observations.
    observation: &'static str,
    options: Options,
    about: SchemaRef,
    schema: SchemaRef,
    first: FirstTrajectory,
}

/// Opens the file or folder at `path`. The observations of its demonstrations are the array or
/// group `observation`.
///
/// # Errors
/// Returns an error if there are no demonstrations, or if the first one cannot be read.
pub(super) fn read(
    path: &Path,
    options: &Options,
    observation: &'static str,
) -> Result<Box<dyn Source>> {
    parts::verify_targets(options, &parts::TARGETS)?;
    let choice = Choice::new(options, |name| ["dones", "is_final"].contains(&name));
    let files = DemoFiles::open(path, observation, choice)?;
    let about = match &files.envelope {
        Some(envelope) => envelope.schema()?,
        None => {
            let mut fields = files.common.about();
            for mask in &files.masks {
                fields.push(Field::new(format!("mask_{mask}"), DataType::Boolean, false));
            }
            Arc::new(Schema::new(fields))
        }
    };
    let names = files.files.iter().enumerate();
    let names = names.flat_map(|(index, file)| {
        let names = file.names.iter();
        names.map(move |name| (index, name.clone()))
    });
    let mut demonstrations = Demonstrations {
        names: names.collect(),
        files,
        groups: None,
        observation,
        options: options.clone(),
        about,
        schema: Arc::new(Schema::empty()),
        first: FirstTrajectory::default(),
    };
    (demonstrations.first, demonstrations.schema) =
        FirstTrajectory::read(options.on_error, || demonstrations.demonstration(None))?;
    Ok(Box::new(demonstrations))
}

impl Demonstrations {
    /// Reads the next demonstration, whose columns must be those of `schema`, if there is one.
    fn demonstration(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let Some((index, name)) = self.names.pop_front() else {
            return Ok(None);
        };
        if self.groups.as_ref().is_none_or(|(open, _)| *open != index) {
            self.groups = Some((index, self.files.files[index].groups()?));
        }
        let group = self
            .groups
            .as_mut()
            .and_then(|(_, groups)| groups.remove(&name))
            .ok_or_else(|| Error::failed("there is no such group"));
        let file = &self.files.files[index];
        group
            .and_then(|group| self.read(file, &name, &group, schema))
            .map(Some)
            .map_err(|error| error.at(format!("{}: data/{name}", file.path.display())))
    }

    /// Reads the demonstration `name` of `file`.
    fn read(
        &self,
        file: &DemoFile,
        name: &str,
        group: &hdf5::Group,
        schema: Option<&SchemaRef>,
    ) -> Result<IncomingTrajectory> {
        let mut attributes = Map::new();
        let name_of_next = format!("next_{}", self.observation);
        hdf5::attributes(group, &mut attributes)?;
        let mut arrays = self.files.common.arrays(group, &mut hdf5::all_rows)?;
        let line = attributes
            .get(OURS)
            .and_then(Value::as_str)
            .filter(|_| self.files.envelope.is_some())
            .map(serde_json::from_str::<EnvelopeLine>);
        let line = line.transpose().map_err(|error| {
            Error::failed(format!("the attribute `{OURS}` is damaged: {error}"))
                .hint("export the file again")
        })?;
        let num_samples = attributes.get("num_samples").and_then(Value::as_u64);
        let about = match &line {
            Some(line) => envelope::row(&self.about, &line.about)?,
            None => Some(self.facts(file, name, &mut arrays, attributes)?),
        };
        let columns = self
            .files
            .envelope
            .as_ref()
            .map(|envelope| &envelope.columns);
        // Columns that the writer put among the observations become columns again.
        for (name, column) in columns
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.starts_with(PART))
        {
            let next = arrays
                .remove(&format!("next_{name}"))
                .filter(|_| line.as_ref().is_some_and(|line| line.known_final));
            if let Some((field, mut values)) = arrays.remove(name) {
                if let Some((_, next)) = next {
                    values = arrow::compute::concat(&[values.as_ref(), last(&next).as_ref()])?;
                }
                arrays.insert(column.clone(), (field, values));
            }
        }
        let [observation, next] = self.observations(&mut arrays, &name_of_next)?;
        // The writer named a single vector `observation`.
        let unwrapped = |column: (Field, ArrayRef)| match column.1.as_struct_opt() {
            Some(group)
                if line.is_some()
                    && group.fields().len() == 1
                    && group.fields()[0].name() == step::OBSERVATION =>
            {
                (
                    group.fields()[0].as_ref().clone(),
                    Arc::clone(group.column(0)),
                )
            }
            _ => column,
        };
        let (field, mut observation) = observation.map(unwrapped).ok_or_else(|| {
            let choice = self.files.common.choice();
            choice.needed(self.observation).unwrap_or_else(|| {
                Error::failed(format!("there is no array or group `{}`", self.observation))
            })
        })?;
        let length = match &line {
            Some(line) => line.length as usize,
            None => observation.len(),
        };
        let num_samples = num_samples.unwrap_or(length as u64);
        if num_samples != length as u64 {
            return Err(Error::failed(format!(
                "`{}` has {}, but `num_samples` says {}",
                self.observation,
                count(length, "row"),
                number(num_samples)
            ))
            .hint("the demonstration is cut short or was changed: download or export it again"));
        }
        if length == 0 || observation.len() != length {
            return Err(Error::failed(format!(
                "`{}` has {} in a demonstration of {}",
                self.observation,
                count(observation.len(), "row"),
                count(length, "step")
            )));
        }
        let next = next.map(|next| unwrapped(next).1);
        // The next observations of an export repeat its observations.
        if let Some(found) = next.as_ref().filter(|_| line.is_none()) {
            if found.len() != length {
                return Err(Error::failed(format!(
                    "`{name_of_next}` has {} in a demonstration of {}",
                    count(found.len(), "row"),
                    count(length, "step")
                ))
                .hint(format!("`--skip {name_of_next}` reads the file without it")));
            }
            let (own, following) = (self.observation, &name_of_next);
            gaps::verify(&observation, found, own, following, None)?;
        }
        let known_final = next.is_some() && line.as_ref().is_none_or(|line| line.known_final);
        if let Some(next) = next.filter(|_| known_final) {
            let last = gaps::in_type(&last(&next), observation.data_type(), &name_of_next)?;
            observation = arrow::compute::concat(&[observation.as_ref(), last.as_ref()])?;
        }
        let mut trajectory = TrajectoryBuilder::new(length, known_final);
        trajectory.add(step::OBSERVATION, (field, observation), false)?;
        let action = match parts::take(&mut arrays, &self.options, step::ACTION)? {
            Some(action) => Some(action),
            None => {
                let scaled = arrays.remove(ACTIONS);
                arrays.remove(UNSCALED).or(scaled)
            }
        };
        if let Some(action) = action {
            trajectory.add(step::ACTION, action, true)?;
        }
        let reward = match parts::take(&mut arrays, &self.options, step::REWARD)? {
            Some(reward) => Some(reward),
            None => arrays.remove("rewards"),
        };
        if let Some(reward) = reward {
            trajectory.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
        }
        let done = arrays
            .get("dones")
            .map(per_trajectory::numbers)
            .transpose()?;
        let done = done.map(|done| done.last() == Some(&1.0));
        let flags = |last: bool| {
            (0..length)
                .map(|row| last && row + 1 == length)
                .collect::<Vec<_>>()
        };
        // Without `dones`, the file does not say how the demonstration ended.
        let (terminated, truncated) = line
            .as_ref()
            .map_or((done == Some(true), done == Some(false)), |line| {
                (line.terminated, line.truncated)
            });
        trajectory.flags(step::TERMINATED, &flags(terminated))?;
        trajectory.flags(step::TRUNCATED, &flags(truncated))?;
        trajectory.finals();
        if line.is_some() {
            // The attribute says how the demonstration ended, and the writer added `dones` for the
            // loader.
            arrays.remove("dones");
        }
        let named = |name: String| {
            columns
                .and_then(|columns| columns.get(&name).cloned())
                .unwrap_or(name)
        };
        trajectory.others(per_trajectory::with_valid(
            arrays
                .into_iter()
                .map(|(name, column)| (named(name), column))
                .collect(),
            line.is_some(),
        )?)?;
        Ok(IncomingTrajectory {
            key: self.files.key(file, name),
            steps: trajectory.finish(schema)?,
            about,
        })
    }

    /// Takes the observations out of `arrays`, and the next observations, which are under `next`.
    fn observations(&self, arrays: &mut ArrayColumns, next: &str) -> Result<[Taken; 2]> {
        let Some(observation) = parts::take(arrays, &self.options, step::OBSERVATION)? else {
            let observation = per_trajectory::take(arrays, self.observation)?;
            return Ok([observation, per_trajectory::take(arrays, next)?]);
        };
        // The next observations are mapped in the same way. What is left are parts of observations
        // that are columns now.
        let mut options = self.options.clone();
        for (_, source) in &mut options.map {
            let parts = source
                .split(',')
                .map(|part| format!("next_{}", part.trim()));
            *source = parts.collect::<Vec<_>>().join(",");
        }
        let following = parts::take(arrays, &options, step::OBSERVATION).unwrap_or_default();
        arrays.retain(|name, _| !name.starts_with(next));
        let prefix = format!("{}/", self.observation);
        let left: Vec<String> = arrays
            .keys()
            .filter(|name| name.starts_with(&prefix))
            .cloned()
            .collect();
        for name in left {
            if let Some(column) = arrays.remove(&name) {
                let part = &name[prefix.len()..];
                arrays.insert(format!("{}/{part}", step::OBSERVATION), column);
            }
        }
        Ok([Some(observation), following])
    }

    /// Returns the facts about the demonstration `name` of `file`: attributes, arrays that say
    /// something once, and the filters that contain it.
    fn facts(
        &self,
        file: &DemoFile,
        name: &str,
        arrays: &mut ArrayColumns,
        attributes: Map<String, Value>,
    ) -> Result<RecordBatch> {
        let attributes = self.files.facts(file, attributes);
        let mut columns = self.files.common.facts(arrays, &attributes)?;
        for mask in &self.files.masks {
            let member = file.is_member(mask, name);
            columns.push(Arc::new(BooleanArray::from(vec![member])));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.about),
            columns,
            &options,
        )?)
    }
}

/// Returns the last row of a column.
fn last(column: &ArrayRef) -> ArrayRef {
    column.slice(column.len().saturating_sub(1), 1)
}

/// A column that was taken out of arrays.
type Taken = Option<(Field, ArrayRef)>;

impl Source for Demonstrations {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        self.files.steps
    }

    fn metadata(&self) -> Map<String, Value> {
        self.files.metadata.clone()
    }

    fn account(&self) -> Account {
        self.files.common.account()
    }

    fn models(&self) -> Option<Models> {
        self.files.envelope.as_ref()?.models.clone()
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if let Some(next) = self.first.next() {
            return next.map(Some);
        }
        let schema = Arc::clone(&self.schema);
        self.demonstration(Some(&schema))
    }
}
