//! Aligns sources with each other: reads a dataset of trajmill as a source, and renames, orders,
//! widens and adds columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use crate::dataset::Account;
use crate::dataset::block::elements;
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::videos::VIDEO_STATISTICS;
use crate::error::{Error, Result};
use crate::transfer::read::{IncomingTrajectory, Source, SourceVideo, renamed};
use crate::transfer::write::{OutgoingDataset, Pass};

/// A dataset of trajmill as a source.
pub(crate) struct DatasetSource<'a> {
    outgoing: &'a OutgoingDataset<'a>,
    pass: Pass<'a>,
    schema: SchemaRef,
    about: SchemaRef,
}

impl<'a> DatasetSource<'a> {
    /// Reads `outgoing` from its first trajectory.
    ///
    /// # Errors
    /// Returns an error if the dataset cannot be read.
    pub(crate) fn new(outgoing: &'a OutgoingDataset<'a>) -> Result<DatasetSource<'a>> {
        let (schema, about) = own_columns(outgoing.steps(), outgoing.carried());
        Ok(DatasetSource {
            outgoing,
            pass: outgoing.pass(None)?,
            schema,
            about,
        })
    }
}

/// Returns the columns of steps and of trajectories of a dataset of trajmill as those of a source:
/// without the numbers that an import assigns.
pub(crate) fn own_columns(steps: &Schema, carried: &Schema) -> (SchemaRef, SchemaRef) {
    let without = |schema: &Schema, names: &[&str]| -> SchemaRef {
        Arc::new(Schema::new(
            schema
                .fields()
                .iter()
                .filter(|field| !names.contains(&field.name().as_str()))
                .cloned()
                .collect::<Vec<_>>(),
        ))
    };
    let numbers = [&[trajectory::TRAJECTORY_ID][..], &trajectory::COMPUTED].concat();
    (
        without(steps, &[step::TRAJECTORY_ID, step::STEP]),
        without(carried, &numbers),
    )
}

/// Returns `batch` with only the columns of `schema`.
fn only(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name()).cloned();
        column.ok_or_else(|| Error::failed(format!("there is no column `{}`", field.name())))
    });
    Ok(RecordBatch::try_new(
        Arc::clone(schema),
        columns.collect::<Result<Vec<_>>>()?,
    )?)
}

impl Source for DatasetSource<'_> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        Some(self.outgoing.rows())
    }

    fn metadata(&self) -> Map<String, Value> {
        self.outgoing.manifest().lineage.source_metadata.clone()
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.outgoing.source_video(path)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let Some(trajectory) = self.pass.next().transpose()? else {
            return Ok(None);
        };
        let key = trajectory
            .text(trajectory::SOURCE_KEY)
            .map_or_else(|| trajectory.index.to_string(), str::to_owned);
        let about = if self.about.fields().is_empty() {
            None
        } else {
            Some(only(&trajectory.about, &self.about)?)
        };
        Ok(Some(IncomingTrajectory {
            key,
            steps: only(&trajectory.steps, &self.schema)?,
            about,
        }))
    }
}

/// A source with columns renamed, reordered, widened and added.
pub(crate) struct Aligned<'a> {
    /// The source that is read.
    pub inner: Box<dyn Source + 'a>,
    /// Pairs of the source's name of a column of steps and its new name.
    pub names: Vec<(String, String)>,
    /// The columns of steps that come out. A column that the source lacks is null.
    pub steps: SchemaRef,
    /// The columns about each trajectory that come out. A column that the source lacks is null.
    pub about: SchemaRef,
}

/// Renames the columns of `schema` by `names`, pairs of the source's name and the new name.
///
/// # Errors
/// Returns an error if a name is not a column, or if two columns would get one name.
pub(crate) fn with_names(schema: &Schema, names: &[(String, String)]) -> Result<SchemaRef> {
    if let Some((name, _)) = names
        .iter()
        .find(|(name, _)| schema.index_of(name).is_err())
    {
        let known: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let hint = crate::error::nearest(name, known.iter().copied()).map_or_else(
            || format!("the columns are {}", known.join(", ")),
            |meant| format!("did you mean `{meant}`?"),
        );
        return Err(Error::failed(format!("there is no column `{name}`")).hint(hint));
    }
    let new = |name: &String| {
        names
            .iter()
            .find(|(old, _)| old == name)
            .map_or_else(|| name.clone(), |(_, new)| new.clone())
    };
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_name(new(field.name())))
        .collect();
    for (index, field) in fields.iter().enumerate() {
        if fields[..index]
            .iter()
            .any(|other| other.name() == field.name())
        {
            return Err(
                Error::failed(format!("two columns would be named `{}`", field.name()))
                    .hint("choose another name for one of them"),
            );
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Returns the type that holds the values of both without loss; `None` if there is none.
pub(crate) fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    if a == b {
        return Some(a.clone());
    }
    if let (DataType::FixedSizeList(a, width), DataType::FixedSizeList(b, other)) = (a, b) {
        return (width == other)
            .then(|| {
                wider(a.data_type(), b.data_type()).map(|element| schema::vector(element, *width))
            })
            .flatten();
    }
    let bits = |data_type: &DataType| data_type.primitive_width().map(|bytes| bytes * 8);
    let (left, right) = (bits(a)?, bits(b)?);
    let signed = |bits: usize| match bits {
        0..=8 => Some(DataType::Int8),
        9..=16 => Some(DataType::Int16),
        17..=32 => Some(DataType::Int32),
        33..=64 => Some(DataType::Int64),
        _ => None,
    };
    match (a.is_floating(), b.is_floating()) {
        (true, true) => Some(if left > right { a.clone() } else { b.clone() }),
        // A float holds whole numbers of half its bits without loss.
        (true, false) | (false, true) => {
            let (float, whole) = if a.is_floating() {
                (left, right)
            } else {
                (right, left)
            };
            match float.max(whole * 2) {
                0..=16 => Some(DataType::Float16),
                17..=32 => Some(DataType::Float32),
                33..=64 => Some(DataType::Float64),
                _ => None,
            }
        }
        (false, false) if !a.is_integer() || !b.is_integer() => None,
        (false, false) if a.is_signed_integer() == b.is_signed_integer() => {
            Some(if left > right { a.clone() } else { b.clone() })
        }
        (false, false) => {
            let (of_signed, unsigned) = if a.is_signed_integer() {
                (left, right)
            } else {
                (right, left)
            };
            signed(of_signed.max(unsigned * 2))
        }
    }
}

fn widened(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    if let (Some(vectors), DataType::FixedSizeList(child, width)) =
        (column.as_fixed_size_list_opt(), to)
    {
        let values = elements(vectors);
        let values = widened(&values, child.data_type())?;
        return Ok(Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *width,
            values,
            vectors.nulls().cloned(),
        )?));
    }
    Ok(cast_with_options(
        column,
        to,
        &CastOptions {
            safe: false,
            ..CastOptions::default()
        },
    )?)
}

impl Aligned<'_> {
    /// Returns the source's name of the column that comes out as `name`; `None` if the source's
    /// column of this name comes out under another one.
    fn old_name<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let renamed = self.names.iter().find(|(_, new)| new == name);
        match renamed {
            Some((old, _)) => Some(old),
            None if self.names.iter().any(|(old, _)| old == name) => None,
            None => Some(name),
        }
    }
}

/// Returns the column `field` of a trajectory whose source lacks it: null, except that actions of a
/// source that does not tell where they come from are recorded ones.
fn absent(field: &Field, steps: &RecordBatch) -> ArrayRef {
    match steps.column_by_name(step::ACTION) {
        Some(actions) if field.name() == step::ACTION_SOURCE => {
            let said = (0..actions.len()).map(|row| actions.is_valid(row).then_some("recorded"));
            Arc::new(said.collect::<StringArray>())
        }
        _ => new_null_array(field.data_type(), steps.num_rows()),
    }
}

impl Source for Aligned<'_> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn about(&self) -> SchemaRef {
        // The import assigns the identity that a source lacks.
        let provided = self.inner.about();
        let identity = [trajectory::UID, trajectory::SOURCE_KEY, trajectory::SOURCE];
        let is_given = |field: &&Arc<Field>| {
            !identity.contains(&field.name().as_str()) || provided.index_of(field.name()).is_ok()
        };
        Arc::new(Schema::new(
            self.about
                .fields()
                .iter()
                .filter(is_given)
                .cloned()
                .collect::<Vec<_>>(),
        ))
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        let mut metadata = self.inner.metadata();
        renamed::metadata(&mut metadata, &self.names);
        metadata
    }

    fn account(&self) -> Account {
        let mut account = self.inner.account();
        account.rename(|name| {
            let new = self.names.iter().find(|(old, _)| old == name);
            new.map(|(_, new)| new.clone())
        });
        account
    }

    fn video(&self, path: &str) -> Result<Option<SourceVideo>> {
        self.inner.video(path)
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost()
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let Some(trajectory) = self.inner.next()? else {
            return Ok(None);
        };
        let source = |field: &Arc<Field>| {
            let old = self.old_name(field.name());
            let Some((old, column)) =
                old.and_then(|old| Some((old, trajectory.steps.column_by_name(old)?)))
            else {
                return Ok(absent(field, &trajectory.steps));
            };
            widened(column, field.data_type()).map_err(|error| {
                error.at(format!("trajectory `{}`: column `{old}`", trajectory.key))
            })
        };
        let columns = self
            .steps
            .fields()
            .iter()
            .map(source)
            .collect::<Result<Vec<_>>>()?;
        let steps = RecordBatch::try_new(Arc::clone(&self.steps), columns)?;
        let fact = |field: &Arc<Field>| {
            let column = trajectory
                .about
                .as_ref()
                .and_then(|about| about.column_by_name(field.name()));
            let Some(column) = column else {
                return Ok(new_null_array(field.data_type(), 1));
            };
            match column.as_string_opt::<i32>() {
                Some(texts) if field.name() == VIDEO_STATISTICS && !self.names.is_empty() => {
                    let texts = texts.iter();
                    let renamed =
                        texts.map(|text| text.map(|text| renamed::statistics(text, &self.names)));
                    Ok(Arc::new(renamed.collect::<StringArray>()) as ArrayRef)
                }
                _ => widened(column, field.data_type()),
            }
        };
        let schema = self.about();
        let about = match schema.fields().is_empty() {
            true => None,
            false => {
                let columns = schema
                    .fields()
                    .iter()
                    .map(fact)
                    .collect::<Result<Vec<_>>>()?;
                Some(RecordBatch::try_new(schema, columns)?)
            }
        };
        Ok(Some(IncomingTrajectory {
            key: trajectory.key,
            steps,
            about,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_types_hold_both() {
        let wide = |a: DataType, b: DataType| (wider(&a, &b), wider(&b, &a));
        assert_eq!(
            wide(DataType::Float32, DataType::Float64),
            (Some(DataType::Float64), Some(DataType::Float64))
        );
        assert_eq!(
            wide(DataType::Int32, DataType::Float32),
            (Some(DataType::Float64), Some(DataType::Float64))
        );
        assert_eq!(
            wide(DataType::UInt8, DataType::Int8),
            (Some(DataType::Int16), Some(DataType::Int16))
        );
        assert_eq!(wide(DataType::UInt64, DataType::Int8), (None, None));
        assert_eq!(wide(DataType::Utf8, DataType::Int8), (None, None));
        let vector = |element: DataType, width: i32| schema::vector(element, width);
        let (narrow, broad) = (vector(DataType::Float32, 3), vector(DataType::Float64, 3));
        assert_eq!(
            wide(narrow.clone(), broad.clone()),
            (Some(broad.clone()), Some(broad))
        );
        assert_eq!(wide(narrow, vector(DataType::Float32, 2)), (None, None));
    }
}
