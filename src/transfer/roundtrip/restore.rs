//! Restores the columns of a dataset that trajmill exported.
//!
//! A format without nulls and text has flags instead: which actions and rewards are present, and
//! which actions a model predicted. Here the flags become nulls and `action_source` again, and the
//! metadata of the dataset's own source is added to that of the file.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::transfer::read::{IncomingTrajectory, Source};

/// Returns `inner`, an output of trajmill, with the columns and the metadata that its `note` of
/// origin describes.
pub(crate) fn restored(inner: Box<dyn Source>, note: &Value) -> Box<dyn Source> {
    let written_from = &note["written_from"];
    let had = |name: &str| had_names(written_from).any(|known| known == name);
    let metadata = written_from["lineage"]["source_metadata"]
        .as_object()
        .cloned()
        .unwrap_or_default();

    let found = inner.schema();
    let place = |name: &str, data_type: &DataType| {
        let named = |field: &Field| {
            field.name() == name || field.name().strip_prefix("infos/") == Some(name)
        };
        found
            .fields()
            .iter()
            .position(|field| named(field) && field.data_type() == data_type)
    };
    let mut columns: Vec<(Field, From)> = found
        .fields()
        .iter()
        .enumerate()
        .map(|(at, field)| (field.as_ref().clone(), From::Column(at)))
        .collect();
    let mut flags = Vec::new();
    for (valid, field) in found
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| *field.data_type() == DataType::Boolean)
    {
        let Some(name) = field
            .name()
            .strip_suffix("_valid")
            .filter(|_| !had(field.name()))
        else {
            continue;
        };
        let at = found
            .index_of(name)
            .or_else(|_| found.index_of(name.strip_prefix("infos/").unwrap_or(name)));
        if let Ok(at) = at {
            columns[at] = (
                columns[at].0.clone().with_nullable(true),
                From::Masked { at, valid },
            );
            flags.push(valid);
        }
    }
    // Names of LeRobot's features contain no slashes.
    for name in
        had_names(written_from).filter(|name| name.contains('/') && found.index_of(name).is_err())
    {
        if let Ok(at) = found.index_of(&name.replace('/', ".")) {
            columns[at].0 = columns[at].0.clone().with_name(name);
        }
    }
    if had(step::ACTION_SOURCE) {
        // The column is text if the format has text, and a flag if it has not.
        let named = |name: &str| [name.to_owned(), format!("source_{name}")];
        let word = named(step::ACTION_SOURCE)
            .into_iter()
            .find_map(|name| place(&name, &DataType::Utf8));
        if let Some(at) = word.or_else(|| place("action_is_proxy", &DataType::Boolean)) {
            columns[at] = (
                Field::new(step::ACTION_SOURCE, DataType::Utf8, true),
                From::ActionSource(at),
            );
        }
        if let Some(at) = named(step::ACTION_STD)
            .into_iter()
            .find_map(|name| found.index_of(&name).ok())
        {
            columns[at] = (
                found
                    .field(at)
                    .clone()
                    .with_name(step::ACTION_STD)
                    .with_nullable(true),
                From::ActionStd(at),
            );
        }
    }
    let kept = columns
        .into_iter()
        .enumerate()
        .filter(|(at, _)| !flags.contains(at))
        .map(|(_, column)| column);
    let (fields, from): (Vec<Field>, Vec<From>) = kept.unzip();
    Box::new(Restored {
        inner,
        metadata,
        schema: Arc::new(Schema::new(fields)),
        from,
    })
}

/// Returns the names of the columns of steps that the exported dataset had.
fn had_names(written_from: &Value) -> impl Iterator<Item = &str> {
    written_from["columns"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|column| column["name"].as_str())
}

/// The origin of a column: the positions of the columns in the file that it is made from.
enum From {
    Column(usize),
    /// A column whose values are null where the flag is false.
    Masked {
        at: usize,
        valid: usize,
    },
    /// The column that says whether an action is recorded or a proxy.
    ActionSource(usize),
    /// The column `action_std`, which only proxies have.
    ActionStd(usize),
}

/// A source with restored columns.
struct Restored {
    inner: Box<dyn Source>,
    /// The metadata of the exported dataset's own source.
    metadata: Map<String, Value>,
    schema: SchemaRef,
    /// The origin of each column of `schema`.
    from: Vec<From>,
}

impl Restored {
    /// Returns the restored columns of `steps`.
    fn steps(&self, steps: &RecordBatch) -> Result<RecordBatch> {
        let masked = |from: &From| match from {
            From::Masked { at, valid } => {
                let wrong = steps
                    .column(*valid)
                    .as_boolean()
                    .iter()
                    .map(|valid| Some(valid == Some(false)));
                Ok::<_, Error>(nullif(steps.column(*at), &wrong.collect::<BooleanArray>())?)
            }
            From::Column(at) | From::ActionSource(at) | From::ActionStd(at) => {
                Ok(Arc::clone(steps.column(*at)))
            }
        };
        let mut columns = self.from.iter().map(masked).collect::<Result<Vec<_>>>()?;
        let Some(origin) = self
            .from
            .iter()
            .position(|from| matches!(from, From::ActionSource(_)))
        else {
            return Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        };
        let action = self
            .schema
            .index_of(step::ACTION)
            .ok()
            .map(|at| Arc::clone(&columns[at]));
        let there = |row: usize| action.as_ref().is_some_and(|action| action.is_valid(row));
        columns[origin] = origins(&columns[origin], there);
        let origins = columns[origin].as_string::<i32>().clone();
        for (column, _) in columns
            .iter_mut()
            .zip(&self.from)
            .filter(|(_, from)| matches!(from, From::ActionStd(_)))
        {
            let none = (0..origins.len())
                .map(|row| Some(origins.is_null(row) || origins.value(row) != "proxy"));
            *column = nullif(column, &none.collect::<BooleanArray>())?;
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// Converts a column of text or flags to the values of `action_source`. The value is null if there
/// is no action in a row.
fn origins(column: &ArrayRef, there: impl Fn(usize) -> bool) -> ArrayRef {
    let proxy = |row: usize| match column.as_boolean_opt() {
        Some(flags) => flags.is_valid(row) && flags.value(row),
        None => column.is_valid(row) && column.as_string::<i32>().value(row) == "proxy",
    };
    let origin = |row: usize| there(row).then(|| if proxy(row) { "proxy" } else { "recorded" });
    Arc::new((0..column.len()).map(origin).collect::<StringArray>())
}

impl Source for Restored {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        let mut metadata = self.inner.metadata();
        metadata.extend(self.metadata.clone());
        metadata
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost()
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        let Some(trajectory) = self.inner.next()? else {
            return Ok(None);
        };
        Ok(Some(IncomingTrajectory {
            steps: self.steps(&trajectory.steps)?,
            ..trajectory
        }))
    }
}
