//! The features that a dataset leaves with, and their values in each trajectory.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value, json};

use super::features::{Feature, GENERATED, Origin};
use super::image_size::picture;
use super::quantiles::KeyType;
use crate::container::dtype;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};
use crate::video::refers;

/// Values a frame beyond which a feature gets no statistics: pixels, and embeddings of them.
const WIDEST_STATISTICS: usize = 1024;

/// The column of the text of a step's task.
const TASK: &str = "task";

/// What the output is made of.
pub(crate) struct Plan {
    pub(crate) features: Vec<Feature>,
    pub(crate) fps: u64,
    pub(crate) robot: Value,
    task: Option<String>,
    has_tasks: bool,
    pub(crate) has_action: bool,
}

/// Texts of tasks, in order of their first steps.
#[derive(Default)]
pub(crate) struct Tasks {
    indices: HashMap<String, i64>,
    pub(crate) texts: Vec<String>,
}

impl Tasks {
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
    /// The features of `outgoing`; what has no place among them goes into `written`.
    pub(crate) fn new(
        outgoing: &OutgoingDataset,
        options: &WriteOptions,
        written: &mut Written,
    ) -> Result<Plan> {
        // What one source says, or all of several.
        let infos = infos(&outgoing.manifest().lineage.source_metadata);
        let said = |key: &str| {
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
                said("fps")
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
                "the sources have {} steps per second, and a LeRobot dataset has one `fps`",
                rates.join(", ")
            ))
            .hint(
                "write each on its own, or say with `fps` what their steps are to be taken for",
            ));
        }
        if fps.is_none() {
            written.moved(
                "steps per second, which the dataset does not say",
                format!("`fps` {DEFAULT_FPS}: give the true one with --fps"),
            );
        }
        let robot = options
            .robot
            .clone()
            .map(Value::from)
            .or_else(|| said("robot_type").cloned())
            .unwrap_or(Value::Null);
        // Names of a vector's values hold as long as it is the same vector.
        let names = |feature: &Feature| {
            let entry = said("features").and_then(|features| features.get(&feature.name))?;
            if entry.get("shape") == Some(&json!(feature.shape)) {
                entry.get("names").cloned()
            } else {
                None
            }
        };
        let gaps = gaps(outgoing)?;
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
                || GENERATED.contains(&name)
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
            let image = first.as_ref().and_then(|leaving| picture(leaving, name));
            let added = plan.features.len();
            plan.column(&feature, field, name, image, written);
            for feature in &mut plan.features[added..] {
                feature.names = match feature.dtype {
                    "image" => json!(["height", "width", "channels"]),
                    _ => names(feature).unwrap_or(Value::Null),
                };
            }
            // Of provenance, what is not said says itself: a recorded action has no spread. Rewards have their flag already.
            let said = [step::REWARD, step::ACTION_SOURCE, step::ACTION_STD].contains(&name);
            if gaps.contains(name) && plan.features.len() > added && !said {
                plan.add(
                    format!("{feature}_valid"),
                    "bool",
                    vec![1],
                    Origin::Valid(name.to_owned()),
                );
                written.moved(
                    format!("steps without `{name}`"),
                    format!("zeros in `{feature}` where `{feature}_valid` is false"),
                );
            }
        }
        for (at, name) in GENERATED.iter().enumerate() {
            plan.add(
                (*name).to_owned(),
                if at == 0 { "float32" } else { "int64" },
                vec![1],
                Origin::Place(at),
            );
        }
        let mut seen = HashSet::new();
        match plan
            .features
            .iter()
            .find(|feature| !seen.insert(feature.name.as_str()))
        {
            Some(twice) => Err(Error::failed(format!(
                "two columns would become the feature `{}`",
                twice.name
            ))
            .hint("rename one with `derive`, or leave it out with `columns`")),
            None => Ok(plan),
        }
    }

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

    /// Adds what a column of steps becomes.
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
                    // The fields of an observation are observations.
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
                        let what = format!(
                            "the frames of `{column}`, which is a reference to a video: `--frames png` decodes them"
                        );
                        written.moved(
                            what,
                            format!("the features `{name}.path` and `{name}.timestamp`"),
                        );
                    }
                }
                (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, _) => {
                    self.add(name, "string", vec![1], from)
                }
                (DataType::Binary, Some(shape)) => {
                    written.moved(
                        format!("statistics of the images `{column}`"),
                        "LeRobot's own tools, which make them of decoded frames",
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
                    let shape = field.metadata().get("shape").and_then(|shape| {
                        shape
                            .split(',')
                            .map(|axis| axis.parse().ok())
                            .collect::<Option<Vec<usize>>>()
                    });
                    let shape = shape.filter(|shape| {
                        path.is_empty() && shape.iter().product::<usize>() == *width as usize
                    });
                    if let Some(dtype) = dtype::name(child.data_type()) {
                        self.add(
                            name,
                            dtype,
                            shape.unwrap_or_else(|| vec![*width as usize]),
                            from,
                        );
                    }
                }
                (other, _) => match dtype::name(other) {
                    Some(dtype) => self.add(name, dtype, vec![1], from),
                    None => written.moved(
                        format!("the column `{column}` of {other}"),
                        "nowhere: a feature has one shape and one type",
                    ),
                },
            }
        }
    }

    /// Columns of steps that the features at `wanted` are made of.
    pub(crate) fn reads(&self, wanted: impl Iterator<Item = usize>) -> Vec<&str> {
        let mut reads: Vec<&str> = Vec::new();
        for feature in wanted.filter_map(|at| self.features.get(at)) {
            let column = match &feature.from {
                Origin::Column(column, _) | Origin::Valid(column) | Origin::Image(column) => column,
                Origin::Place(4) if self.has_tasks => TASK,
                Origin::Place(_) => continue,
            };
            if !reads.contains(&column) {
                reads.push(column);
            }
        }
        reads
    }

    /// The task of each step of a trajectory.
    pub(crate) fn tasks(
        &self,
        leaving: &OutgoingTrajectory,
        tasks: &mut Tasks,
    ) -> Result<Vec<i64>> {
        let own = leaving
            .text(TASK)
            .map(str::to_owned)
            .or_else(|| self.task.clone())
            .or_else(|| leaving.text("source").map(str::to_owned));
        let own = own.unwrap_or_default();
        match leaving.column(TASK).filter(|_| self.has_tasks) {
            Some(texts) => {
                let texts = cast(&texts, &DataType::Utf8)?;
                Ok(texts
                    .as_string::<i32>()
                    .iter()
                    .map(|text| tasks.index(text.unwrap_or(&own)))
                    .collect())
            }
            None => Ok(vec![tasks.index(&own); leaving.length]),
        }
    }

    /// The `features` of `info.json`.
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

/// What LeRobot sources say of themselves, one or several that were merged.
fn infos(said: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    match said.get("info").and_then(Value::as_object) {
        Some(info) => vec![info],
        None => said
            .values()
            .filter_map(|said| said.get("info")?.as_object())
            .collect(),
    }
}

/// Steps per second where nobody says.
const DEFAULT_FPS: u64 = 30;

/// Columns that are null on some step that leaves.
fn gaps(outgoing: &OutgoingDataset) -> Result<HashSet<String>> {
    let nullable = outgoing
        .steps()
        .fields()
        .iter()
        .filter(|field| field.is_nullable())
        .map(|field| field.name().as_str());
    let nullable: Vec<&str> = nullable
        .filter(|name| !GENERATED.contains(name) && *name != TASK)
        .collect();
    let mut gaps = HashSet::new();
    for leaving in outgoing.pass(Some(&nullable))? {
        let leaving = leaving?;
        for name in &nullable {
            if !gaps.contains(*name)
                && leaving
                    .column(name)
                    .is_some_and(|column| column.null_count() > 0)
            {
                gaps.insert((*name).to_owned());
            }
        }
    }
    Ok(gaps)
}
