//! What a dataset becomes: its features, frames per second, robot and tasks.

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value, json};

use super::cameras::Camera;
use super::features::{Feature, Generated, Origin};
use super::image_size::first_image_size;
use super::names::{feature_name, guarded};
use super::nested::nested_vectors;
use super::quantiles::KeyType;
use super::rate::{RowRate, mixed, row_rate};
use super::source_infos::{declared, source_infos};
use super::texts::{IndexColumns, TASK};
use crate::container::dtype;
use crate::dataset::schema::{self, axes, step, type_name};
use crate::error::{Error, Result};
use crate::format::lerobot::info::PIXELS;
use crate::transfer::write::nulls::columns_with_nulls;
use crate::transfer::write::sources::{agreed, silent};
use crate::transfer::write::{OutgoingDataset, WriteOptions, Written};
use crate::video::{Images, refers};

/// A feature with more values in a frame gets no statistics, such as pixels and embeddings.
const WIDEST_STATISTICS: usize = 1024;

/// The channels of a column of pixels that is written as images.
const CHANNELS: usize = 3;

/// What is written: features, frames per second, robot and tasks.
pub(crate) struct Plan {
    /// The features with values in data files.
    pub(crate) features: Vec<Feature>,
    /// The features whose values are videos.
    pub(crate) cameras: Vec<Camera>,
    pub(crate) fps: f64,
    /// Whether the times of the rows state another rate than the source.
    pub(crate) differs_in_rate: bool,
    pub(crate) robot: Value,
    pub(crate) indices: IndexColumns,
    pub(crate) has_action: bool,
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
        if let Some(fps) = options.fps.filter(|fps| !(fps.is_finite() && *fps > 0.0)) {
            return Err(
                Error::usage(format!("`fps` is {fps}, but it must be more than 0"))
                    .hint("give the number of steps per second, such as 30 or 29.97"),
            );
        }
        let stated = agreed(&infos, "fps").and_then(Value::as_f64);
        let stated = stated.filter(|fps| *fps > 0.0);
        let rows = match stated {
            Some(stated) => row_rate(outgoing, stated)?,
            None => RowRate::Source,
        };
        let fps = options.fps.or(match (&rows, stated) {
            (RowRate::Other(rate), Some(stated)) if options.fps.is_none() => {
                written.cannot_hold(
                    format!("the source's {stated} steps per second"),
                    format!("`fps` is {rate}, as the times of the rows that were kept state it"),
                );
                Some(*rate)
            }
            (RowRate::Mixed(rates), _) if options.fps.is_none() => return Err(mixed(rates)),
            _ => stated,
        });
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
        if options.fps.is_none()
            && let Some(fps) = fps
        {
            let metadata = &outgoing.manifest().lineage.source_metadata;
            let states = |source: &Map<String, Value>| {
                let info = source.get("info");
                info.is_some_and(|info| info.get("fps").is_some())
            };
            let silent = silent(metadata, "info", &states);
            if let Some(name) = silent.first() {
                return Err(Error::failed(format!(
                    "source `{name}` does not say its steps per second, another source has {fps}, \
                     and a LeRobot dataset has a single `fps`"
                ))
                .hint("write each source to a dataset of its own, or set `fps` for all of them"));
            }
        }
        if fps.is_none() {
            written.cannot_hold(
                "steps per second",
                format!("not known, so `fps` is {DEFAULT_FPS}: set the true rate with --fps"),
            );
        }
        let robot = options.robot.clone().map(Value::from);
        if robot.is_none() && differ(infos.iter().filter_map(|info| info.get("robot_type"))) {
            written.cannot_hold(
                "the sources' robots",
                "not written, since `robot_type` can name only one: set it with --robot",
            );
        }
        let robot = robot
            .or_else(|| agreed(&infos, "robot_type").cloned())
            .unwrap_or(Value::Null);
        let with_nulls = columns_with_nulls(
            outgoing,
            |name| !Generated::is_name(name) && name != TASK,
            |_| false,
        )?;
        let columns: Vec<&str> = outgoing
            .steps()
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let mut plan = Plan {
            features: Vec::new(),
            cameras: Vec::new(),
            fps: fps.unwrap_or(DEFAULT_FPS),
            differs_in_rate: rows != RowRate::Source,
            robot,
            indices: IndexColumns::new(options.task.clone().or_else(|| options.env.clone())),
            has_action: false,
        };
        let first = outgoing.pass(None)?.next().transpose()?;
        let nested = nested_vectors(outgoing)?;
        for field in outgoing.steps().fields() {
            let name = field.name().as_str();
            if [step::TRAJECTORY_ID, step::STEP, step::IS_FINAL].contains(&name)
                || Generated::is_name(name)
            {
                continue;
            }
            if name == TASK && *field.data_type() == DataType::Utf8 {
                continue;
            }
            plan.has_action |= name == step::ACTION;
            if refers(field) {
                let at = plan.features.len();
                let camera = Camera::of_references(field, &columns, &infos, at, written)?;
                plan.cameras.push(camera);
                continue;
            }
            let added = plan.features.len();
            let index = plan.indices.add(field, &infos);
            let feature = match &index {
                Some((feature, _)) => feature.clone(),
                None => feature_name(field, &infos),
            };
            if let Some((_, at)) = index {
                plan.add(feature.clone(), "int64", vec![1], Origin::Index(at));
            }
            let image = first
                .as_ref()
                .and_then(|trajectory| first_image_size(trajectory, name));
            if plan.features.len() == added {
                let field = nested.get(name).unwrap_or(field);
                plan.column(&feature, field, name, image, written);
            }
            for feature in &mut plan.features[added..] {
                let other = match feature.dtype {
                    "image" => json!(["height", "width", "channel"]),
                    _ => schema::names(field)
                        .filter(|names| feature.shape == [names.len()])
                        .map_or(Value::Null, Value::from),
                };
                feature.names = names(feature, &infos, written).unwrap_or(other);
            }
            if options.images == Some(Images::Video) {
                plan.film(added, name);
            }
            // A step without a source has no action. Rewards have a flag of their own.
            let explained = [step::REWARD, step::ACTION_SOURCE].contains(&name);
            if with_nulls.contains(name) && plan.features.len() > added && !explained {
                let valid = guarded(format!("{feature}_valid"));
                written.cannot_hold(
                    format!("steps without `{name}`"),
                    format!("written as zeros in `{feature}`, where `{valid}` is false"),
                );
                plan.add(valid, "bool", vec![1], Origin::Valid(name.to_owned()));
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
        if options.images == Some(Images::Video) && plan.cameras.is_empty() {
            return Err(Error::usage(
                "`images: video` is given, but no column holds images or pixels",
            )
            .hint(
                "leave out `images` (`--images`): pixels are columns `uint8[H*W*3]` with a shape",
            ));
        }
        plan.verify_names()?;
        Ok(plan)
    }

    /// Verifies that no two features have the same name.
    pub(crate) fn verify_names(&self) -> Result<()> {
        let mut seen = HashSet::new();
        let names = self.features.iter().map(|feature| &feature.name);
        let mut names = names.chain(self.cameras.iter().map(|camera| &camera.name));
        match names.find(|name| !seen.insert(name.as_str())) {
            Some(twice) => Err(Error::failed(format!(
                "two columns would both become the feature `{twice}`"
            ))
            .hint("rename one of them with `derive`, or leave it out with `columns`")),
            None => Ok(()),
        }
    }

    /// Adds one feature.
    pub(crate) fn add(
        &mut self,
        name: String,
        dtype: &'static str,
        shape: Vec<usize>,
        from: Origin,
    ) {
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

    /// Makes cameras of the images among the features from `added` on, which are made of `column`.
    fn film(&mut self, added: usize, column: &str) {
        let (images, others) = self
            .features
            .split_off(added)
            .into_iter()
            .partition(|feature| feature.dtype == "image");
        self.features.extend::<Vec<_>>(others);
        let images: Vec<Feature> = images;
        for feature in images {
            let at = self.features.len();
            self.cameras.push(Camera::of_images(feature, column, at));
        }
    }

    /// Adds the features that a column of steps becomes.
    pub(crate) fn column(
        &mut self,
        feature: &str,
        field: &Field,
        column: &str,
        image: Option<[usize; 3]>,
        written: &mut Written,
    ) {
        let mut pending = vec![(feature.to_owned(), field.clone(), Vec::new())];
        while let Some((name, field, path)) = pending.pop() {
            let from = Origin::Column(column.to_owned(), path.clone());
            let name = if path.is_empty() || column == step::OBSERVATION {
                name
            } else {
                guarded(name)
            };
            match (field.data_type(), image) {
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
                            field.as_ref().clone(),
                            path,
                        ));
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
                    let shape = axes(&field, *width);
                    if is_picture(child.data_type(), &shape) {
                        let name = if column == step::OBSERVATION && path.is_empty() {
                            "observation.image".to_owned()
                        } else {
                            name
                        };
                        self.add(
                            name,
                            "image",
                            shape,
                            Origin::Pixels(column.to_owned(), path),
                        );
                    } else if let Some(dtype) = dtype::name(child.data_type()) {
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
    pub(crate) fn reads(
        &self,
        outgoing: &OutgoingDataset,
        wanted: impl Iterator<Item = usize>,
    ) -> Vec<&str> {
        let has = |name: &str| outgoing.steps().column_with_name(name).is_some();
        let mut reads: Vec<&str> = Vec::new();
        for feature in wanted.filter_map(|at| self.features.get(at)) {
            let column = match &feature.from {
                Origin::Column(column, _)
                | Origin::Valid(column)
                | Origin::Image(column)
                | Origin::Pixels(column, _) => column,
                Origin::Index(at) => self.indices.columns[*at].column.as_str(),
                Origin::Place(Generated::TaskIndex) if has(TASK) => TASK,
                Origin::Place(_) => continue,
            };
            if !reads.contains(&column) {
                reads.push(column);
            }
        }
        reads
    }

    /// Returns the number of values in a frame of the feature `name`.
    pub(crate) fn width(&self, name: &str) -> Option<usize> {
        let mut features = self.features.iter();
        features
            .find(|feature| feature.name == name)
            .map(Feature::width)
    }

    /// Returns the names of the columns of steps that the features with values are made of; `None`
    /// if these are all.
    pub(crate) fn columns<'a>(&self, outgoing: &'a OutgoingDataset) -> Option<Vec<&'a str>> {
        let is_filmed = |name: &str| {
            let of_column = |feature: &Feature| match &feature.from {
                Origin::Column(column, _) | Origin::Valid(column) => column == name,
                _ => false,
            };
            self.cameras.iter().any(|camera| camera.column == name)
                && !self.features.iter().any(of_column)
        };
        let fields = outgoing.steps().fields().iter();
        let names = fields.map(|field| field.name().as_str());
        (!self.cameras.is_empty()).then(|| names.filter(|name| !is_filmed(name)).collect())
    }

    /// Returns the `features` of `info.json` with values in data files.
    pub(crate) fn describe(&self) -> Vec<(String, Value)> {
        self.features
            .iter()
            .map(|feature| {
                let mut entry = json!({
                    "dtype": feature.dtype,
                    "shape": feature.shape,
                    "names": feature.names,
                });
                if matches!(feature.from, Origin::Pixels(..)) {
                    entry["info"] = json!({PIXELS: true});
                }
                (feature.name.clone(), entry)
            })
            .collect()
    }
}

/// Whether two of the values are different.
fn differ<'a>(values: impl Iterator<Item = &'a Value>) -> bool {
    let mut values = values.filter(|value| !value.is_null());
    let first = values.next();
    values.any(|value| Some(value) != first)
}

/// Returns the names that the sources give to the values of a feature, if its shape is the same and
/// they agree.
fn names(feature: &Feature, infos: &[&Map<String, Value>], written: &mut Written) -> Option<Value> {
    let shape = json!(feature.shape);
    let mut names = declared(infos, &feature.name)
        .filter(|entry| entry.get("shape") == Some(&shape))
        .filter_map(|entry| entry.get("names"));
    if differ(names.clone()) {
        written.cannot_hold(
            format!("the names of the values of `{}`", feature.name),
            "not written, since the sources differ in them",
        );
        return Some(Value::Null);
    }
    names.find(|names| !names.is_null()).cloned()
}

/// Whether vectors of these elements and this shape are pictures of height, width and channels.
fn is_picture(element: &DataType, shape: &[usize]) -> bool {
    *element == DataType::UInt8 && matches!(shape, [_, _, CHANNELS])
}

/// Steps per second if neither the user nor the source says.
const DEFAULT_FPS: f64 = 30.0;
