//! The features that are written, and their values in each trajectory.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, FixedSizeListArray,
    Float32Array, Int64Array, ListArray, StringArray, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, UInt8Type};
use serde_json::Value;

use super::nested::vectors;
use super::quantiles::KeyType;
use crate::container::{dtype, png};
use crate::dataset::block::flattened;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::write::OutgoingTrajectory;
use crate::transfer::write::nulls::filled;

/// A feature that is computed from the place of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generated {
    Timestamp,
    FrameIndex,
    EpisodeIndex,
    Index,
    TaskIndex,
}

impl Generated {
    /// All of them, in the order in which they are written.
    pub(crate) const ALL: [Generated; 5] = [
        Generated::Timestamp,
        Generated::FrameIndex,
        Generated::EpisodeIndex,
        Generated::Index,
        Generated::TaskIndex,
    ];

    /// The name of the feature.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Generated::Timestamp => "timestamp",
            Generated::FrameIndex => "frame_index",
            Generated::EpisodeIndex => "episode_index",
            Generated::Index => "index",
            Generated::TaskIndex => "task_index",
        }
    }

    /// The numpy name of its type.
    pub(crate) fn dtype(self) -> &'static str {
        match self {
            Generated::Timestamp => "float32",
            _ => "int64",
        }
    }

    /// Whether a feature of this name is generated.
    pub(crate) fn is_name(name: &str) -> bool {
        Generated::ALL.iter().any(|feature| feature.name() == name)
    }
}

/// One feature of the dataset that is written.
#[derive(Clone)]
pub(crate) struct Feature {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) names: Value,
    pub(crate) from: Origin,
    /// The type of its keys in statistics; `None` if it gets none.
    pub(crate) key_type: Option<KeyType>,
}

/// Where the values of a feature come from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// A column of steps, and the path of struct fields in it.
    Column(String, Vec<String>),
    /// Whether a column has a value, by the column's name.
    Valid(String),
    /// A column of encoded images.
    Image(String),
    /// A column of pixels, or a part of it, like [`Origin::Column`].
    Pixels(String, Vec<String>),
    /// A column of texts, by its number in [`IndexColumns`](super::texts::IndexColumns).
    Index(usize),
    /// The place of a row.
    Place(Generated),
}

/// The place of a trajectory in the dataset that is written.
pub(crate) struct EpisodePlace {
    pub(crate) episode: u64,
    /// The number of its first row.
    pub(crate) first: u64,
    /// For each column of texts, the index of each step's text.
    pub(crate) indices: Vec<Vec<i64>>,
}

impl Feature {
    /// Returns the number of values in a frame.
    pub(crate) fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the field of its column in data files.
    pub(crate) fn field(&self) -> Field {
        let element = match self.dtype {
            "image" => DataType::Struct(image()),
            name => dtype::from_name(name).unwrap_or(DataType::Utf8),
        };
        let data_type = match self.shape.as_slice() {
            _ if self.dtype == "image" => element,
            [1] => element,
            [width] => DataType::FixedSizeList(
                Arc::new(Field::new("element", element, true)),
                *width as i32,
            ),
            axes => axes.iter().fold(element, |inner, _| {
                DataType::List(Arc::new(Field::new("element", inner, true)))
            }),
        };
        Field::new(&self.name, data_type, true)
    }

    /// Returns its values in a trajectory, frame by frame and without nesting. None of them is
    /// null.
    pub(crate) fn values(
        &self,
        trajectory: &OutgoingTrajectory,
        place: &EpisodePlace,
        fps: f64,
    ) -> Result<ArrayRef> {
        let missing = |name: &str| Error::failed(format!("the column `{name}` is missing"));
        let rows = trajectory.length;
        Ok(match &self.from {
            Origin::Column(name, path) => {
                let mut column = self.part(trajectory, name, path)?;
                if self.dtype == "string" {
                    column = cast(&column, &DataType::Utf8)?;
                }
                let empty = if name == step::ACTION_SOURCE {
                    "none"
                } else {
                    ""
                };
                flattened(&filled(&column, empty)?).0
            }
            Origin::Valid(name) => {
                let column = trajectory.column(name).ok_or_else(|| missing(name))?;
                Arc::new(BooleanArray::from_iter(
                    (0..rows).map(|row| Some(column.is_valid(row))),
                ))
            }
            Origin::Image(name) => {
                let column = trajectory.column(name).ok_or_else(|| missing(name))?;
                let images: &BinaryArray = column.as_binary::<i32>();
                if let Some(row) = (0..rows).find(|row| images.is_null(*row)) {
                    return Err(Error::failed(format!(
                        "column `{name}` has no image at step {row}"
                    ))
                    .hint(
                        "every frame needs an image: drop the trajectory with `filter`, or leave \
                         the column out with `columns`",
                    ));
                }
                stored_images(column)?
            }
            Origin::Pixels(..) => {
                let pixels = self.pixels(trajectory)?;
                let pixels = pixels.as_primitive::<UInt8Type>().values();
                let mut images = BinaryBuilder::new();
                for picture in pixels.chunks_exact(self.width().max(1)) {
                    images.append_value(png::encode(picture, self.shape[0], self.shape[1])?);
                }
                stored_images(Arc::new(images.finish()))?
            }
            Origin::Index(at) => Arc::new(Int64Array::from(place.indices[*at].clone())),
            Origin::Place(Generated::Timestamp) => Arc::new(Float32Array::from_iter_values(
                (0..rows).map(|row| (row as f64 / fps) as f32),
            )),
            Origin::Place(Generated::FrameIndex) => {
                Arc::new(Int64Array::from_iter_values(0..rows as i64))
            }
            Origin::Place(Generated::EpisodeIndex) => {
                Arc::new(Int64Array::from(vec![place.episode as i64; rows]))
            }
            Origin::Place(Generated::Index) => Arc::new(Int64Array::from_iter_values(
                (place.first as i64..).take(rows),
            )),
            Origin::Place(Generated::TaskIndex) => {
                Arc::new(Int64Array::from(place.indices[0].clone()))
            }
        })
    }

    /// Returns the pixels of a trajectory's frames. A frame without a picture is black.
    pub(crate) fn pixels(&self, trajectory: &OutgoingTrajectory) -> Result<ArrayRef> {
        match &self.from {
            Origin::Pixels(name, path) => {
                Ok(flattened(&filled(&self.part(trajectory, name, path)?, "")?).0)
            }
            _ => Err(Error::failed(format!("`{}` has no pixels", self.name))),
        }
    }

    /// Returns a column of a trajectory, or the part of it at `path`. Lists become vectors.
    fn part(
        &self,
        trajectory: &OutgoingTrajectory,
        name: &str,
        path: &[String],
    ) -> Result<ArrayRef> {
        let part = part(trajectory, name, path)?;
        match part.data_type() {
            DataType::List(_) => vectors(&part, self.width()),
            _ => Ok(part),
        }
    }

    /// Whether it gets statistics.
    pub(crate) fn has_statistics(&self) -> bool {
        self.key_type.is_some() || matches!(self.from, Origin::Pixels(..))
    }

    /// Returns the shape of its statistics: that of a frame, or one value for each channel of an
    /// image.
    pub(crate) fn statistics_shape(&self) -> Vec<usize> {
        match (&self.from, self.shape.last()) {
            (Origin::Pixels(..), Some(channels)) => vec![*channels, 1, 1],
            _ => self.shape.clone(),
        }
    }

    /// Nests values as the column in data files has them.
    pub(crate) fn shaped(&self, values: ArrayRef) -> Result<ArrayRef> {
        match self.field().data_type() {
            DataType::FixedSizeList(child, width) => Ok(Arc::new(FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                values,
                None,
            )?)),
            DataType::List(_) => lists(values, &self.shape),
            _ => Ok(values),
        }
    }
}

/// Returns a column of a trajectory, or the part of it at `path`.
fn part(trajectory: &OutgoingTrajectory, name: &str, path: &[String]) -> Result<ArrayRef> {
    let missing = || Error::failed(format!("the column `{name}` is missing"));
    let column = trajectory.column(name).ok_or_else(missing)?;
    path.iter().try_fold(column, |column, part| {
        let parts = column.as_struct_opt();
        parts
            .and_then(|parts| parts.column_by_name(part))
            .cloned()
            .ok_or_else(missing)
    })
}

/// Returns encoded images as the values of an image feature.
fn stored_images(images: ArrayRef) -> Result<ArrayRef> {
    let paths = (0..images.len()).map(|row| format!("frame-{row:06}.png"));
    let paths = StringArray::from_iter_values(paths);
    Ok(Arc::new(StructArray::try_new(
        image(),
        vec![images, Arc::new(paths)],
        None,
    )?))
}

/// The fields of a column of images.
fn image() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}

/// Returns values as nested lists of the shape `axes`, one list in each row.
pub(crate) fn lists(values: ArrayRef, axes: &[usize]) -> Result<ArrayRef> {
    let mut nested = values;
    for axis in axes.iter().rev() {
        let count = nested.len() / (*axis).max(1);
        let child = Arc::new(Field::new("element", nested.data_type().clone(), true));
        nested = Arc::new(ListArray::try_new(
            child,
            OffsetBuffer::from_repeated_length(*axis, count),
            nested,
            None,
        )?);
    }
    Ok(nested)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_filled_and_vectors_flattened() {
        let child = Arc::new(Field::new("element", DataType::Float32, false));
        let nulls = Some(arrow::buffer::NullBuffer::from(vec![true, false, true]));
        let values: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0, 9.0, 9.0, 3.0, 4.0]));
        let column: ArrayRef =
            Arc::new(FixedSizeListArray::try_new(child, 2, values, nulls).unwrap());
        let flat = flattened(&filled(&column, "").unwrap()).0;
        assert_eq!(
            flat.as_primitive::<arrow::datatypes::Float32Type>()
                .values()
                .to_vec(),
            [1.0, 2.0, 0.0, 0.0, 3.0, 4.0]
        );
        assert_eq!(
            flattened(&filled(&column.slice(2, 1), "").unwrap()).0.len(),
            2
        );
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("proxy"), None]));
        assert_eq!(
            filled(&texts, "none").unwrap().as_string::<i32>().value(1),
            "none"
        );
    }
}
