//! What a dataset becomes: its features, frames per second, robot and tasks.

use std::collections::{HashMap, HashSet};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value, json};

use super::features::{Feature, Generated, Origin};
use super::image_size::first_image_size;
use super::quantiles::KeyType;
use crate::container::dtype;
use crate::dataset::schema::{axes, step, type_name};
use crate::error::{Error, Result};
use crate::transfer::write::nulls::columns_with_nulls;
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};
use crate::video::refers;

/// A feature with more values in a frame gets no statistics, such as pixels and embeddings.
const WIDEST_STATISTICS: usize = 1024;

/// The column with the text of a step's task.
const TASK: &str = "task";

/// What is written: features, frames per second, robot and tasks.
pub(crate) struct Plan {
    pub(crate) features: Vec<Feature>,
    pub(crate) fps: u64,
    pub(crate) robot: Value,
    task: Option<String>,
    has_tasks: bool,
    pub(crate) has_action: bool,
}

/// The texts of tasks, in the order of their first steps.
#[derive(Default)]
pub(crate) struct Tasks {
    indices: HashMap<String, i64>,
    pub(crate) texts: Vec<String>,
}

impl Tasks {
    /// Returns the index of a task, which is a new one for a new text.
    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.indices.get(text) {
            return *index;
        }
        let index = self.texts.len() as i64;
        self.indices.insert(text.to_owned(), index);
        self.texts.push(text.to_owned());
        index
    }
}

impl Plan {
    /// Plans the features of `outgoing`. What LeRobot cannot hold is noted in `written`.
    pub(crate) fn new(
        outgoing: &OutgoingDataset,
        options: &WriteOptions,
        written: &mut Written,
    ) -> Result<Plan> {
        // What the source says, or what several sources agree on.
        let infos = source_infos(&outgoing.manifest().lineage.source_metadata);
        let from_sources = |key: &str| {
            let value = infos.first()?.get(key)?;
            infos
                .iter()
                .all(|info| info.get(key) == Some(value))
                .then_some(value)
        };
        let fps = options
            .fps
            .map(u64::from)
            .or_else(|| {
                from_sources("fps")
                    .and_then(Value::as_f64)
                    .map(|fps| fps.round() as u64)
            })
            .filter(|fps| *fps > 0);
        if fps.is_none() && infos.iter().filter(|info| info.contains_key("fps")).count() > 1 {
            let rates: Vec<String> = infos
                .iter()
                .filter_map(|info| info.get("fps"))
                .map(Value::to_string)
                .collect();
            return Err(Error::failed(format!(
                "the sources have {} steps per second, but a LeRobot dataset has a single `fps`",
                rates.join(", ")
            ))
            .hint("write each source to a dataset of its own, or set `fps` for all of them"));
        }
        if fps.is_none() {
            written.cannot_hold(
                "steps per second",
                format!("not known, so `fps` is {DEFAULT_FPS}: set the true rate with --fps"),
            );
        }
        let robot = options
            .robot
            .clone()
            .map(Value::from)
            .or_else(|| from_sources("robot_type").cloned())
            .unwrap_or(Value::Null);
        // The names of a feature's values are kept as long as its shape is the same.
        let names = |feature: &Feature| {
            let entry =
                from_sources("features").and_then(|features| features.get(&feature.name))?;
            if entry.get("shape") == Some(&json!(feature.shape)) {
                entry.get("names").cloned()
            } else {
                None
            }
        };
        let with_nulls = columns_with_nulls(
            outgoing,
            |name| !Generated::is_name(name) && name != TASK,
            |_| false,
        )?;
        let mut plan = Plan {
            features: Vec::new(),
            fps: fps.unwrap_or(DEFAULT_FPS),
            robot,
            task: options.task.clone().or_else(|| options.env.clone()),
            has_tasks: false,
            has_action: false,
        };
        let first = outgoing.pass(None)?.next().transpose()?;
        for field in outgoing.steps().fields() {
            let name = field.name().as_str();
            if [step::TRAJECTORY_ID, step::STEP, step::IS_FINAL].contains(&name)
                || Generated::is_name(name)
            {
                continue;
            }
            if name == TASK && *field.data_type() == DataType::Utf8 {
                plan.has_tasks = true;
                continue;
            }
            plan.has_action |= name == step::ACTION;
            let feature = match name {
                step::OBSERVATION => "observation.state".to_owned(),
                step::REWARD => "next.reward".to_owned(),
                step::TERMINATED => "next.done".to_owned(),
                step::TRUNCATED => "next.truncated".to_owned(),
                other => other.replace('/', "."),
            };
            let image = first
                .as_ref()
                .and_then(|trajectory| first_image_size(trajectory, name));
            let added = plan.features.len();
            plan.column(&feature, field, name, image, written);
            for feature in &mut plan.features[added..] {
                feature.names = match feature.dtype {
                    "image" => json!(["height", "width", "channels"]),
                    _ => names(feature).unwrap_or(Value::Null),
                };
            }
            // Nulls explain themselves in provenance: a recorded action has no spread. Rewards have
            // a flag of their own.
            let explained = [step::REWARD, step::ACTION_SOURCE, step::ACTION_STD].contains(&name);
            if with_nulls.contains(name) && plan.features.len() > added && !explained {
                plan.add(
                    format!("{feature}_valid"),
                    "bool",
                    vec![1],
                    Origin::Valid(name.to_owned()),
                );
                written.cannot_hold(
                    format!("steps without `{name}`"),
                    format!("written as zeros in `{feature}`, where `{feature}_valid` is false"),
                );
            }
        }
        for feature in Generated::ALL {
            plan.add(
                feature.name().to_owned(),
                feature.dtype(),
                vec![1],
                Origin::Place(feature),
            );
        }
        let mut seen = HashSet::new();
        match plan
            .features
            .iter()
            .find(|feature| !seen.insert(feature.name.as_str()))
        {
            Some(twice) => Err(Error::failed(format!(
                "two columns would both become the feature `{}`",
                twice.name
            ))
            .hint("rename one of them with `derive`, or leave it out with `columns`")),
            None => Ok(plan),
        }
    }

    /// Adds one feature.
    fn add(&mut self, name: String, dtype: &'static str, shape: Vec<usize>, from: Origin) {
        let key_type = match dtype {
            "string" | "image" => None,
            "float16" | "float32" => Some(KeyType::Float32),
            "float64" => Some(KeyType::Float64),
            _ => Some(KeyType::Int64),
        };
        let key_type = key_type.filter(|_| shape.iter().product::<usize>() <= WIDEST_STATISTICS);
        self.features.push(Feature {
            name,
            dtype,
            shape,
            names: Value::Null,
            from,
            key_type,
        });
    }

    /// Adds the features that a column of steps becomes.
    fn column(
        &mut self,
        feature: &str,
        field: &Field,
        column: &str,
        image: Option<[usize; 3]>,
        written: &mut Written,
    ) {
        let mut pending = vec![(feature.to_owned(), field.data_type().clone(), Vec::new())];
        while let Some((name, data_type, path)) = pending.pop() {
            let from = Origin::Column(column.to_owned(), path.clone());
            match (&data_type, image) {
                (DataType::Struct(fields), _) => {
                    // The fields of an observation are features `observation.FIELD`.
                    let stem = if column == step::OBSERVATION && path.is_empty() {
                        "observation"
                    } else {
                        name.as_str()
                    };
                    for field in fields.iter().rev() {
                        let path = path.iter().cloned().chain([field.name().clone()]).collect();
                        pending.push((
                            format!("{stem}.{}", field.name().replace('/', ".")),
                            field.data_type().clone(),
                            path,
                        ));
                    }
                    if path.is_empty() && refers(field) {
                        let what = format!("the videos of `{column}`");
                        written.cannot_hold(
                            what,
                            format!(
                                "NOT written, only `{name}.path` and `{name}.timestamp`; \
                                 `--frames png --videos DATASET` writes the frames as images"
                            ),
                        );
                    }
                }
                (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, _) => {
                    self.add(name, "string", vec![1], from)
                }
                (DataType::Binary, Some(shape)) => {
                    written.cannot_hold(
                        format!("statistics of the images `{column}`"),
                        "not written: compute them with LeRobot's own tools",
                    );
                    let name = if column == step::OBSERVATION {
                        "observation.image".to_owned()
                    } else {
                        name
                    };
                    self.add(
                        name,
                        "image",
                        shape.to_vec(),
                        Origin::Image(column.to_owned()),
                    );
                }
                (DataType::FixedSizeList(child, width), _)
                    if *width > 0 && dtype::name(child.data_type()).is_some() =>
                {
                    let shape = if path.is_empty() {
                        axes(field, *width)
                    } else {
                        vec![*width as usize]
                    };
                    if let Some(dtype) = dtype::name(child.data_type()) {
                        self.add(name, dtype, shape, from);
                    }
                }
                (other, _) => match dtype::name(other) {
                    Some(dtype) => self.add(name, dtype, vec![1], from),
                    None => written.cannot_hold(
                        format!("the column `{column}` of type {}", type_name(other)),
                        "left out, since a feature has one shape and one type",
                    ),
                },
            }
        }
    }

    /// Returns the columns of steps from which the features at `wanted` are made.
    pub(crate) fn reads(&self, wanted: impl Iterator<Item = usize>) -> Vec<&str> {
        let mut reads: Vec<&str> = Vec::new();
        for feature in wanted.filter_map(|at| self.features.get(at)) {
            let column = match &feature.from {
                Origin::Column(column, _) | Origin::Valid(column) | Origin::Image(column) => column,
                Origin::Place(Generated::TaskIndex) if self.has_tasks => TASK,
                Origin::Place(_) => continue,
            };
            if !reads.contains(&column) {
                reads.push(column);
            }
        }
        reads
    }

    /// Returns the task of each step of a trajectory.
    pub(crate) fn tasks(
        &self,
        trajectory: &OutgoingTrajectory,
        tasks: &mut Tasks,
    ) -> Result<Vec<i64>> {
        let default = trajectory
            .text(TASK)
            .map(str::to_owned)
            .or_else(|| self.task.clone())
            .or_else(|| trajectory.text("source").map(str::to_owned));
        let default = default.unwrap_or_default();
        match trajectory.column(TASK).filter(|_| self.has_tasks) {
            Some(texts) => {
                let texts = cast(&texts, &DataType::Utf8)?;
                Ok(texts
                    .as_string::<i32>()
                    .iter()
                    .map(|text| tasks.index(text.unwrap_or(&default)))
                    .collect())
            }
            None => Ok(vec![tasks.index(&default); trajectory.length]),
        }
    }

    /// Returns the `features` of `info.json`.
    pub(crate) fn describe(&self) -> Map<String, Value> {
        self.features
            .iter()
            .map(|feature| {
                (
                    feature.name.clone(),
                    json!({"dtype": feature.dtype, "shape": feature.shape, "names": feature.names}),
                )
            })
            .collect()
    }
}

/// Returns `info.json` of the LeRobot dataset that was imported, or of each one that was merged.
fn source_infos(metadata: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    match metadata.get("info").and_then(Value::as_object) {
        Some(info) => vec![info],
        None => metadata
            .values()
            .filter_map(|source| source.get("info")?.as_object())
            .collect(),
    }
}

/// Steps per second if neither the user nor the source says.
const DEFAULT_FPS: u64 = 30;
