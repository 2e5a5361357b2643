//! robomimic's HDF5: a group per demonstration under `data`, `obs/*` and `next_obs/*` within, filters of demonstrations
//! under `mask`.
//!
//! `dones` means different things to those who write it, so it is kept as a column; a demonstration is terminated where
//! its last `dones` is 1, else cut off. Filters come as columns `mask_NAME` of trajectories. Written: loaders take actions
//! between -1 and 1 alone, so larger ones are divided by their dimension's greatest, which the attribute `action_scale` of
//! `data` says, and `actions_unscaled` has them as they were. They look for observations under `obs` alone, so columns that
//! are called as parts of the observation are written there: `observation.images.top` as `obs/images.top`.

mod robosuite;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use serde_json::{Map, Value};

use crate::container::arrays::ArrayColumns;
use crate::container::hdf5;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::format::{Detection, Evidence, Format};
use crate::inspect::Findings;
use crate::transfer::read::per_trajectory::{self, FirstTrajectory, TrajectoryBuilder};
use crate::transfer::read::{IncomingTrajectory, Options, Reader, Source};
use crate::transfer::roundtrip::envelope::{self, Envelope, EnvelopeLine};
use crate::transfer::write::Writer;

pub(crate) use robosuite::FORMAT as ROBOSUITE;

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "robomimic",
    about: "robomimic HDF5: a group per demonstration under data, with obs and next_obs, and masks",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| Ok(demonstrations(path)? == Some(true)),
    }),
    read: Some(Reader {
        takes: &[],
        open: |path, options| read(path, options, "obs"),
    }),
    write: Some(Writer {
        nulls: false,
        takes: &["env"],
        write: write::write,
        note: Some(note),
    }),
    validate: Some(validate),
};

/// Where what no array of robomimic's holds is kept: the file's in arrays, a demonstration's in an attribute.
const PREFIX: &str = "trajmill/";
const OURS: &str = "trajmill";

/// Names that the reader gives a meaning.
const ACTIONS: &str = "actions";
const UNSCALED: &str = "actions_unscaled";

/// What the names of arrays begin with that are parts of the observation.
const PART: &str = "obs/";

/// Whether each action is a model's.
const PROXY: &str = "action_is_proxy";

/// Whether the file at `path` holds demonstrations, and if so whether they have observations.
fn demonstrations(path: &Path) -> Result<Option<bool>> {
    if !hdf5::is_hdf5(path)? {
        return Ok(None);
    }
    let Some(data) = hdf5::member(&hdf5::open(path)?.root(), "data")? else {
        return Ok(None);
    };
    let groups = hdf5::groups(&data)?;
    let first = groups.iter().find(|(name, _)| name.starts_with("demo_"));
    first
        .map(|(_, demo)| Ok(hdf5::member(demo, "obs")?.is_some()))
        .transpose()
}

fn note(path: &Path) -> Result<Option<Value>> {
    envelope::note_of_hdf5(path, PREFIX)
}

struct Demos {
    path: PathBuf,
    /// The groups of demonstrations that are not read yet.
    groups: HashMap<String, hdf5::Group>,
    /// The array or group of observations.
    observation: &'static str,
    /// ArrayColumns whose width is not the same in all demonstrations: they are lists.
    ragged: BTreeSet<String>,
    names: std::vec::IntoIter<String>,
    masks: BTreeMap<String, Vec<String>>,
    metadata: Map<String, Value>,
    envelope: Option<Envelope>,
    about: SchemaRef,
    schema: SchemaRef,
    opening: FirstTrajectory,
    steps: Option<u64>,
}

/// Opens demonstrations whose observations are the array or group `observation`.
///
/// # Errors
/// Where there are none, or the first cannot be read.
fn read(path: &Path, options: &Options, observation: &'static str) -> Result<Box<dyn Source>> {
    let failed = |error: Error| error.at(path.display());
    let file = hdf5::open(path)?;
    let data = hdf5::member(&file.root(), "data").map_err(failed)?;
    let data = data.ok_or_else(|| {
        failed(
            Error::failed("there is no group `data`")
                .hint("demonstrations are groups in it: is it of another format?"),
        )
    })?;
    let mut metadata = Map::new();
    hdf5::attributes(&data, &mut metadata).map_err(failed)?;
    let number = |name: &String| {
        name.strip_prefix("demo_")
            .and_then(|number| number.parse::<u64>().ok())
    };
    let groups = hdf5::groups(&data).map_err(failed)?;
    let mut names: Vec<String> = groups
        .keys()
        .filter(|name| number(name).is_some())
        .cloned()
        .collect();
    names.sort_by_key(number);
    if names.is_empty() {
        return Err(failed(
            Error::failed("there is no demonstration `demo_0`, `demo_1`, … in the group `data`")
                .hint("there is nothing to import"),
        ));
    }
    // ArrayColumns besides those with a meaning may have another width in each demonstration; what cannot be looked at is said
    // when it is read.
    let (mut known, mut ragged): (BTreeMap<String, Vec<u64>>, BTreeSet<String>) =
        (BTreeMap::new(), BTreeSet::new());
    for group in names.iter().filter_map(|name| groups.get(name)) {
        let mut rows = BTreeMap::new();
        if hdf5::rows(group, "", 0, &mut rows).is_ok() {
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
    let mut masks = BTreeMap::new();
    if let Some(group) = hdf5::member(&file.root(), "mask").map_err(failed)? {
        let mut arrays = ArrayColumns::new();
        hdf5::arrays(&group, "mask/", 0, &mut hdf5::all_rows, &mut arrays).map_err(failed)?;
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
    let opening = FirstTrajectory::default();
    let mut demos = Demos {
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
        opening,
        steps,
    };
    (demos.opening, demos.schema) = FirstTrajectory::read(options.on_error, || demos.demo(None))?;
    Ok(Box::new(demos))
}

impl Demos {
    fn demo(&mut self, schema: Option<&SchemaRef>) -> Result<Option<IncomingTrajectory>> {
        let Some(name) = self.names.next() else {
            return Ok(None);
        };
        self.read(&name, schema)
            .map(Some)
            .map_err(|error| error.at(format!("{}: data/{name}", self.path.display())))
    }

    fn read(&mut self, name: &str, schema: Option<&SchemaRef>) -> Result<IncomingTrajectory> {
        let group = self
            .groups
            .remove(name)
            .ok_or_else(|| Error::failed("there is no such group"))?;
        let (mut arrays, mut attributes) = (ArrayColumns::new(), Map::new());
        let next = format!("next_{}", self.observation);
        // Of the next observations, all but the last are the steps' own, a row further on.
        let mut next_rows = BTreeSet::new();
        let mut choose = |name: &str, rows: u64| match name.strip_prefix(&next) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                next_rows.insert(rows);
                rows.saturating_sub(1)..rows
            }
            _ => 0..rows,
        };
        hdf5::attributes(&group, &mut attributes)?;
        hdf5::arrays(&group, "", 0, &mut choose, &mut arrays)?;
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
        })?;
        let columns = self.envelope.as_ref().map(|envelope| &envelope.columns);
        // What we put among the observations is columns of their own.
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
        // A single vector that we wrote has no name of its own.
        let unnamed = |column: (Field, ArrayRef)| match column.1.as_struct_opt() {
            Some(parts)
                if line.is_some()
                    && parts.fields().len() == 1
                    && parts.fields()[0].name() == step::OBSERVATION =>
            {
                (
                    parts.fields()[0].as_ref().clone(),
                    Arc::clone(parts.column(0)),
                )
            }
            _ => column,
        };
        let (field, mut observation) = observation
            .map(unnamed)
            .ok_or_else(|| Error::failed(format!("there is no `{}`", self.observation)))?;
        let length = match &line {
            Some(line) => line.length as usize,
            None => observation.len(),
        };
        let said = attributes
            .get("num_samples")
            .and_then(Value::as_u64)
            .unwrap_or(length as u64);
        if said != length as u64 {
            return Err(Error::failed(format!(
                "`{}` has {length} rows where `num_samples` says {said}",
                self.observation
            ))
            .hint(
                "the demonstration is cut short, or was changed: fetch or write the file again",
            ));
        }
        if length == 0 || observation.len() != length {
            return Err(Error::failed(format!(
                "`{}` has {} rows where there are {length} steps",
                self.observation,
                observation.len()
            )));
        }
        let next = per_trajectory::take(&mut arrays, &next).map(|next| unnamed(next).1);
        let next = next.filter(|next| {
            next.data_type() == observation.data_type()
                && next_rows == BTreeSet::from([length as u64])
        });
        let known_final = next.is_some() && line.as_ref().is_none_or(|line| line.known_final);
        if let Some(next) = next.filter(|_| known_final) {
            observation = arrow::compute::concat(&[observation.as_ref(), next.as_ref()])?;
        }
        let mut assembly = TrajectoryBuilder::new(length, known_final);
        assembly.add(step::OBSERVATION, (field, observation), false)?;
        let scaled = arrays.remove(ACTIONS);
        if let Some(action) = arrays.remove(UNSCALED).or(scaled) {
            assembly.add(step::ACTION, action, true)?;
        }
        if let Some(reward) = arrays.remove("rewards") {
            assembly.add(step::REWARD, per_trajectory::squeezed(reward), true)?;
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
        assembly.flags(step::TERMINATED, &flags(terminated))?;
        assembly.flags(step::TRUNCATED, &flags(truncated))?;
        assembly.finals();
        if line.is_some() {
            // Ours says how a demonstration ended; this was for the loader.
            arrays.remove("dones");
        }
        let named = |name: String| {
            columns
                .and_then(|columns| columns.get(&name).cloned())
                .unwrap_or(name)
        };
        assembly.others(per_trajectory::with_valid(
            arrays
                .into_iter()
                .map(|(name, column)| (named(name), column))
                .collect(),
            line.is_some(),
        )?)?;
        let about = match &line {
            Some(line) => envelope::row(&self.about, &line.about)?,
            None => Some(self.said(name, &mut attributes)?),
        };
        Ok(IncomingTrajectory {
            key: name.to_owned(),
            steps: assembly.finish(schema)?,
            about,
        })
    }

    /// What a demonstration says of itself, and the masks that it is in.
    fn said(&self, name: &str, attributes: &mut Map<String, Value>) -> Result<RecordBatch> {
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

impl Source for Demos {
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

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if let Some(next) = self.opening.next() {
            return next.map(Some);
        }
        let schema = Arc::clone(&self.schema);
        self.demo(Some(&schema))
    }
}

/// The rules of robomimic's loader that reading does not show: actions between -1 and 1, counts, masks, the environment.
fn validate(path: &Path, findings: &mut Findings) -> Result<()> {
    FORMAT.read_through(path, &Options::default(), findings);
    let data = hdf5::open(path).and_then(|file| {
        file.group("data")
            .map_err(|error| Error::failed(error.to_string()))
    });
    let data = match data {
        Ok(data) => data,
        // That has been reported.
        Err(_) if findings.errors > 0 => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut said = Map::new();
    hdf5::attributes(&data, &mut said)?;
    let env: Option<Value> = said
        .get("env_args")
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str(text).ok());
    if env.is_none_or(|env| env["env_name"].as_str().is_none() || env["type"].as_u64().is_none()) {
        findings.error("env-args", "data", "the attribute `env_args` is not JSON with `env_name` and `type`: the loader needs both");
    }
    let mut total = 0;
    let mut demos: Vec<(String, hdf5::Group)> = hdf5::groups(&data)?.into_iter().collect();
    demos.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, group) in &demos {
        let place = format!("data/{name}");
        let mut attributes = Map::new();
        hdf5::attributes(group, &mut attributes)?;
        let Some((_, action)) = group.dataset(ACTIONS).ok().and_then(|dataset| {
            hdf5::column(&dataset, ACTIONS, &mut hdf5::all_rows)
                .ok()
                .flatten()
        }) else {
            findings.error(
                "no-action",
                &place,
                "there are no `actions`, which the loader needs",
            );
            continue;
        };
        total += action.len() as u64;
        // A count that is another than that of the rows was found by reading.
        if attributes
            .get("num_samples")
            .and_then(Value::as_u64)
            .is_none()
        {
            let message = format!(
                "`num_samples` is missing, from which the loader takes the length: it is {}",
                action.len()
            );
            findings.error("num-samples", &place, message);
        }
        let (values, width) = elements(&action)?;
        if let Some(at) = values.values().iter().position(|value| value.abs() > 1.0) {
            let message = format!(
                "{} at step {} is outside of [-1, 1], which robomimic's policies cannot give: scale the actions",
                values.value(at),
                at / width
            );
            findings.error("action-range", &place, message);
        }
    }
    if said
        .get("total")
        .and_then(Value::as_u64)
        .is_some_and(|said| said != total)
    {
        findings.error(
            "total",
            "data",
            format!("`total` is {}, and there are {total} steps", said["total"]),
        );
    }
    Ok(())
}

/// Elements of vectors or numbers as float64, and how many a row has.
fn elements(column: &ArrayRef) -> Result<(Float64Array, usize)> {
    let (values, width) = match column.as_fixed_size_list_opt() {
        Some(vectors) => {
            let width = vectors.value_length() as usize;
            (
                vectors
                    .values()
                    .slice(vectors.value_offset(0) as usize, vectors.len() * width),
                width,
            )
        }
        None => (Arc::clone(column), 1),
    };
    let values = arrow::compute::cast(&values, &DataType::Float64)?;
    Ok((values.as_primitive::<Float64Type>().clone(), width.max(1)))
}
