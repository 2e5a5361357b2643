//! Reads the HDF5 of robomimic and robosuite, one demonstration after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::{ACTIONS, OURS, PART, PREFIX, UNSCALED};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::Account;
use crate::dataset::schema::step;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{Choice, IncomingTrajectory, Options, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeLine};

/// The demonstrations of a file.
struct Demonstrations {
    path: PathBuf,
    /// The groups of the demonstrations that are not read yet.
    groups: HashMap<String, hdf5::Group>,
    /// The name of the array or group of observations.
    observation: &'static str,
    /// The arrays whose widths differ between demonstrations. They become columns of lists.
    ragged: BTreeSet<String>,
    names: std::vec::IntoIter<String>,
    /// The members of each filter.
    masks: BTreeMap<String, Vec<String>>,
    metadata: Map<String, Value>,
    envelope: Option<Envelope>,
    about: SchemaRef,
    schema: SchemaRef,
    first: FirstTrajectory,
    steps: Option<u64>,
    choice: Choice,
}

/// Opens the file at `path`. The observations of its demonstrations are the array or group
/// `observation`.
///
/// # Errors
/// Returns an error if there are no demonstrations, or if the first one cannot be read.
pub(super) fn read(
    path: &Path,
    options: &Options,
    observation: &'static str,
) -> Result<Box<dyn Source>> {
    let failed = |error: Error| error.at(path.display());
    let file = hdf5::open(path)?;
    let data = hdf5::member(&file.root(), "data").map_err(failed)?;
    let data = data.ok_or_else(|| {
        failed(
            Error::failed("there is no group `data`")
                .hint("demonstrations are groups in `data`: the file may be of another format"),
        )
    })?;
    let mut metadata = Map::new();
    hdf5::attributes(&data, &mut metadata).map_err(failed)?;
    let index = |name: &String| {
        name.strip_prefix("demo_")
            .and_then(|number| number.parse::<u64>().ok())
    };
    let groups = hdf5::groups(&data).map_err(failed)?;
    let mut names: Vec<String> = groups
        .keys()
        .filter(|name| index(name).is_some())
        .cloned()
        .collect();
    names.sort_by_key(index);
    if names.is_empty() {
        return Err(failed(
            Error::failed("there are no demonstrations `demo_0`, `demo_1`, … in the group `data`")
                .hint("there is nothing to import"),
        ));
    }
    // The widths of arrays without a fixed meaning may differ between demonstrations. An array that
    // cannot be opened here is an error when its demonstration is read.
    let choice = Choice::new(options, |name| ["dones", "is_final"].contains(&name));
    let reads = |name: &str| choice.reads(name);
    let (mut known, mut ragged): (BTreeMap<String, Vec<u64>>, BTreeSet<String>) =
        (BTreeMap::new(), BTreeSet::new());
    for group in names.iter().filter_map(|name| groups.get(name)) {
        let mut rows = BTreeMap::new();
        if hdf5::rows(group, "", 0, &reads, &mut rows).is_ok() {
            for (name, row) in rows {
                if known.entry(name.clone()).or_insert_with(|| row.clone()) != &row {
                    ragged.insert(name);
                }
            }
        }
    }
    let fixed = |name: &String| {
        [observation, ACTIONS].contains(&name.as_str())
            || name.starts_with("obs/")
            || name.starts_with("next_obs/")
    };
    ragged.retain(|name| !fixed(name));
    choice.verify().map_err(failed)?;
    let mut masks = BTreeMap::new();
    if let Some(group) = hdf5::member(&file.root(), "mask").map_err(failed)? {
        let mut arrays = ArrayColumns::new();
        hdf5::arrays(
            &group,
            "mask/",
            0,
            &hdf5::all,
            &mut hdf5::all_rows,
            &mut arrays,
        )
        .map_err(failed)?;
        for (name, (_, values)) in arrays {
            let values = values.as_string_opt::<i32>();
            let members = values.map(|values| {
                values
                    .iter()
                    .flatten()
                    .map(|name| name.trim_end_matches('\0').to_owned())
                    .collect()
            });
            masks.insert(
                name.trim_start_matches("mask/").to_owned(),
                members.unwrap_or_default(),
            );
        }
    }
    let envelope = hdf5::bytes(&file, &format!("{PREFIX}{}", envelope::ENVELOPE))
        .map_err(failed)?
        .map(|text| Envelope::parse(&text))
        .transpose()
        .map_err(failed)?;
    let about = match &envelope {
        Some(envelope) => envelope.schema()?,
        None => {
            let own = [
                Field::new("model_file", DataType::Utf8, true),
                Field::new("demo_attributes", DataType::Utf8, true),
            ];
            let masks = masks
                .keys()
                .map(|name| Field::new(format!("mask_{name}"), DataType::Boolean, false));
            Arc::new(Schema::new(
                own.into_iter().chain(masks).collect::<Vec<_>>(),
            ))
        }
    };
    let steps = metadata.get("total").and_then(Value::as_u64);
    let schema = Arc::new(Schema::empty());
    let names = names.into_iter();
    let first = FirstTrajectory::default();
    let mut demonstrations = Demonstrations {
        path: path.to_owned(),
        groups,
        observation,
        ragged,
        names,
        masks,
        metadata,
        envelope,
        about,
        schema,
        first,
        steps,
        choice,
    };
    (demonstrations.first, demonstrations.schema) =
        FirstTrajectory::read(options.on_error, || demonstrations.demonstration(None))?;
    Ok(Box::new(demonstrations))
}

impl Demonstrations {
    /// Reads the next demonstration, whose columns must be those of `schema`, if there is one.
    fn demonstration(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        self.read(&name, schema)
            .map(Some)
            .map_err(|error| error.at(format!("{}: data/{name}", self.path.display())))
    }

    /// Reads the demonstration `name`.
    fn read(&mut self, name: &str, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
        let group = self
            .groups
            .remove(name)
            .ok_or_else(|| Error::failed("there is no such group"))?;
        let (mut arrays, mut attributes) = (ArrayColumns::new(), Map::new());
        let next = format!("next_{}", self.observation);
        // Only the last of the next observations is needed: the others repeat observations of
        // steps.
        let mut next_rows = BTreeSet::new();
        let mut choose = |name: &str, rows: u64| match name.strip_prefix(&next) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                next_rows.insert(rows);
                rows.saturating_sub(1)..rows
            }
            _ => 0..rows,
        };
        hdf5::attributes(&group, &mut attributes)?;
        let reads = |name: &str| self.choice.reads(name);
        hdf5::arrays(&group, "", 0, &reads, &mut choose, &mut arrays)?;
        for name in &self.ragged {
            if let Some(column) = arrays.get_mut(name) {
                *column = per_trajectory::listed(column)?;
            }
        }
        let line = attributes
            .get(OURS)
            .and_then(Value::as_str)
            .filter(|_| self.envelope.is_some())
            .map(serde_json::from_str::<EnvelopeLine>);
        let line = line.transpose().map_err(|error| {
            Error::failed(format!("the attribute `{OURS}` is damaged: {error}"))
                .hint("export the file again")
        })?;
        let columns = self.envelope.as_ref().map(|envelope| &envelope.columns);
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
                    values = arrow::compute::concat(&[values.as_ref(), next.as_ref()])?;
                }
                arrays.insert(column.clone(), (field, values));
            }
        }
        let observation = per_trajectory::take(&mut arrays, self.observation);
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
            self.choice.needed(self.observation).unwrap_or_else(|| {
                Error::failed(format!("there is no array or group `{}`", self.observation))
            })
        })?;
        let length = match &line {
            Some(line) => line.length as usize,
            None => observation.len(),
        };
        let num_samples = attributes
            .get("num_samples")
            .and_then(Value::as_u64)
            .unwrap_or(length as u64);
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
        let next = per_trajectory::take(&mut arrays, &next).map(|next| unwrapped(next).1);
        let next = next.filter(|next| {
            next.data_type() == observation.data_type()
                && next_rows == BTreeSet::from([length as u64])
        });
        let known_final = next.is_some() && line.as_ref().is_none_or(|line| line.known_final);
        if let Some(next) = next.filter(|_| known_final) {
            observation = arrow::compute::concat(&[observation.as_ref(), next.as_ref()])?;
        }
        let mut trajectory = TrajectoryBuilder::new(length, known_final);
        trajectory.add(step::OBSERVATION, (field, observation), false)?;
        let scaled = arrays.remove(ACTIONS);
        if let Some(action) = arrays.remove(UNSCALED).or(scaled) {
            trajectory.add(step::ACTION, action, true)?;
        }
        if let Some(reward) = arrays.remove("rewards") {
            trajectory.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
        }
        let done = arrays
            .get("dones")
            .map(per_trajectory::numbers)
            .transpose()?;
        let done = done.is_some_and(|done| done.last() == Some(&1.0));
        let flags = |last: bool| {
            (0..length)
                .map(|row| last && row + 1 == length)
                .collect::<Vec<_>>()
        };
        let (terminated, truncated) = line
            .as_ref()
            .map_or((done, !done), |line| (line.terminated, line.truncated));
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
        let about = match &line {
            Some(line) => envelope::row(&self.about, &line.about)?,
            None => Some(self.facts(name, &mut attributes)?),
        };
        Ok(IncomingTrajectory {
            key: name.to_owned(),
            steps: trajectory.finish(schema)?,
            about,
        })
    }

    /// Returns the facts about a demonstration: its attributes and the filters that contain it.
    fn facts(&self, name: &str, attributes: &mut Map<String, Value>) -> Result<RecordBatch> {
        let model = attributes
            .remove("model_file")
            .and_then(|model| model.as_str().map(str::to_owned));
        attributes.remove("num_samples");
        let others =
            (!attributes.is_empty()).then(|| Value::Object(attributes.clone()).to_string());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![model])),
            Arc::new(StringArray::from(vec![others])),
        ];
        for members in self.masks.values() {
            columns.push(Arc::new(BooleanArray::from(vec![
                members.iter().any(|member| member == name),
            ])));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.about), columns)?)
    }
}

impl Source for Demonstrations {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        self.steps
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn account(&self) -> Account {
        self.choice.account(Account::default())
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
