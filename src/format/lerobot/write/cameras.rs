//! The video features that are written: where their frames come from, and what `info.json` says
//! of them.

use arrow::datatypes::Field;
use serde_json::{Map, Value};

use super::features::Feature;
use super::names::feature_name;
use super::source_infos::declared;
use crate::dataset::schema::step;
use crate::dataset::videos::{DEPTH, TOLERANCE, tolerance};
use crate::error::{Error, Result};
use crate::transfer::write::Written;

/// The key of the frames per second of a video.
pub(crate) const RATE: &str = "video.fps";

/// A video feature that is written.
pub(crate) struct Camera {
    /// The name of the feature.
    pub(crate) name: String,
    /// The column of steps.
    pub(crate) column: String,
    /// The number of features with values before it, in the order of `info.json`.
    pub(crate) at: usize,
    pub(crate) frames: CameraFrames,
    /// Whether its frames are depth maps, which are no pictures of 8 bits.
    pub(crate) depth: bool,
    /// What the sources say about the feature.
    pub(crate) declared: Map<String, Value>,
}

/// Where the frames of a camera come from.
pub(crate) enum CameraFrames {
    /// References to frames of videos, whose times may differ by `tolerance` seconds.
    References { tolerance: f64 },
    /// Images or pixels in the dataset.
    Stored(Feature),
}

impl Camera {
    /// Returns the camera that the column `field` of references becomes, the feature after `at`
    /// others. `columns` are the names of all columns of steps.
    ///
    /// # Errors
    ///
    /// Returns an error if the sources say different things about the shape of its frames.
    pub(crate) fn of_references(
        field: &Field,
        columns: &[&str],
        infos: &[&Map<String, Value>],
        at: usize,
        written: &mut Written,
    ) -> Result<Camera> {
        let column = field.name();
        let name = if column == step::OBSERVATION {
            // A dataset with nothing else to observe has a camera as its observation.
            let mut others = infos
                .iter()
                .filter_map(|info| info.get("features")?.as_object())
                .flatten()
                .filter(|(name, entry)| {
                    entry["dtype"] == "video" && !columns.contains(&name.as_str())
                })
                .map(|(name, _)| name);
            let first = others.next();
            first.map_or_else(|| "observation.image".to_owned(), Clone::clone)
        } else {
            camera_name(field, infos)
        };
        let tolerance = tolerance(field)?;
        if tolerance > TOLERANCE {
            written.cannot_hold(
                format!("the tolerance of `{column}`"),
                format!("not written: load the dataset with `tolerance_s={tolerance}`"),
            );
        }
        Ok(Camera {
            declared: agreed(&name, infos, written)?,
            column: column.clone(),
            at,
            frames: CameraFrames::References { tolerance },
            depth: field.metadata().contains_key(DEPTH),
            name,
        })
    }

    /// Whether the sources state the rate of its frames.
    pub(crate) fn states_rate(&self) -> bool {
        let infos = ["info", "video_info"].map(|key| self.declared.get(key));
        infos.iter().flatten().any(|info| info.get(RATE).is_some())
    }

    /// Returns the camera that a feature of images or pixels becomes, after `at` others.
    pub(crate) fn of_images(feature: Feature, column: &str, at: usize) -> Camera {
        Camera {
            name: feature.name.clone(),
            column: column.to_owned(),
            at,
            frames: CameraFrames::Stored(feature),
            depth: false,
            declared: Map::new(),
        }
    }
}

/// Returns the name of the feature that a column of references becomes.
fn camera_name(field: &Field, infos: &[&Map<String, Value>]) -> String {
    let name = field.name().replace('/', ".");
    if name.starts_with("observation") {
        name
    } else {
        feature_name(field, infos)
    }
}

/// Returns what the sources agree to say about the video feature `name`.
fn agreed(
    name: &str,
    infos: &[&Map<String, Value>],
    written: &mut Written,
) -> Result<Map<String, Value>> {
    let mut entries = declared(infos, name)
        .filter(|entry| entry["dtype"] == "video")
        .filter_map(Value::as_object);
    let Some(first) = entries.next() else {
        return Ok(Map::new());
    };
    let mut agreed = first.clone();
    for other in entries {
        if first.get("shape") != other.get("shape") {
            return Err(Error::failed(format!(
                "the frames of `{name}` have the shapes {} and {} in different sources, but a \
                 LeRobot feature has one",
                first.get("shape").unwrap_or(&Value::Null),
                other.get("shape").unwrap_or(&Value::Null)
            ))
            .hint("rename the camera of one source, or write the sources apart"));
        }
        let differs = intersect(&mut agreed, other);
        if !differs.is_empty() {
            written.cannot_hold(
                format!("{} of `{name}`", differs.join(", ")),
                "left out, since the sources differ in it",
            );
        }
    }
    Ok(agreed)
}

/// Removes from `agreed` what `other` says otherwise. Returns the keys.
fn intersect(agreed: &mut Map<String, Value>, other: &Map<String, Value>) -> Vec<String> {
    let mut differs = Vec::new();
    agreed.retain(|key, value| match (value, other.get(key)) {
        (Value::Object(value), Some(Value::Object(other))) => {
            differs.extend(intersect(value, other));
            true
        }
        (value, Some(other)) if value == other => true,
        (_, None) if key.contains('.') || key == "names" => true,
        _ => {
            differs.push(format!("`{key}`"));
            false
        }
    });
    differs
}
