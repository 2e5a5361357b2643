//! The facts about episodes in their metadata: those that trajmill wrote, whose names begin with
//! [`OWN_PREFIX`], and those that another program added.
//!
//! In v3.0 they are columns of the table of episodes. In v2 they are keys of the lines of
//! `meta/episodes.jsonl`, and a file of their own says the types of those that trajmill wrote.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::files::{damaged, json};
use crate::container::types::convert;
use crate::dataset::Account;
use crate::dataset::files;
use crate::dataset::schema::trajectory;
use crate::error::Result;
use crate::transfer::read::admit::admitted;
use crate::transfer::read::free_fact;
use crate::transfer::roundtrip::facts::{self, StoredField};

/// The beginning of the names of what trajmill adds to the metadata of episodes.
pub(crate) const OWN_PREFIX: &str = "trajmill/";

/// The file with the types of the facts in `meta/episodes.jsonl`.
pub(crate) const TYPES: &str = "meta/trajmill/episodes.json";

/// The names of LeRobot's own columns and keys.
const LEROBOTS: [&str; 5] = [
    "episode_index",
    "tasks",
    "length",
    "dataset_from_index",
    "dataset_to_index",
];

/// The beginnings of the names of LeRobot's own columns.
const LEROBOTS_PREFIXES: [&str; 4] = ["data/", "meta/", "stats/", "videos/"];

/// The columns that identify an episode.
pub(crate) const IDENTITY: [&str; 3] =
    [trajectory::UID, trajectory::SOURCE_KEY, trajectory::SOURCE];

/// The facts about all episodes.
pub(crate) struct Facts {
    /// A row for each episode, in the order of the metadata.
    pub(crate) columns: RecordBatch,
    /// What is left out, with the reason.
    pub(crate) left_out: Vec<(String, String)>,
}

/// Whether a column or key of the metadata is a fact: LeRobot has no meaning for it.
pub(crate) fn is_fact(name: &str) -> bool {
    let mut prefixes = LEROBOTS_PREFIXES.iter();
    !LEROBOTS.contains(&name) && !prefixes.any(|prefix| name.starts_with(prefix))
}

/// Returns the facts in `batches`, the table of episodes of v3. A fact that only some of the files
/// have is null in the others.
pub(crate) fn of_table(batches: &[RecordBatch]) -> Result<Facts> {
    let mut left_out = Vec::new();
    let mut types: Vec<(String, DataType)> = Vec::new();
    for batch in batches {
        for field in batch.schema().fields() {
            let known = types.iter().any(|(name, _)| name == field.name());
            if !known && is_fact(field.name()) {
                types.push((field.name().clone(), field.data_type().clone()));
            }
        }
    }
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let mut columns = Vec::new();
    for (name, data_type) in types {
        let mut fields = Account::default();
        let admitted = match admitted(&name, &data_type, &mut fields) {
            Ok(admitted) => admitted,
            Err(reason) => {
                left_out.push((name, reason));
                continue;
            }
        };
        let parts: Vec<ArrayRef> = batches
            .iter()
            .map(|batch| match batch.column_by_name(&name) {
                Some(column) => Arc::clone(column),
                None => new_null_array(&data_type, batch.num_rows()),
            })
            .collect();
        if parts.iter().any(|part| *part.data_type() != data_type) {
            left_out.push((
                name,
                "its type differs between the files of the table".to_owned(),
            ));
            continue;
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let place = |row| format!("row {row} of the table of episodes");
        columns.push((name, convert(&concat(&parts)?, &admitted, &place)?));
        let fields = fields.left_out.into_iter();
        left_out.extend(fields.map(|field| (field.name, field.reason)));
    }
    named(columns, rows, left_out)
}

/// Returns the facts in `lines`, which are those of the file at `path` of a dataset at `root`.
pub(crate) fn of_lines(root: &Path, path: &Path, lines: &[Map<String, Value>]) -> Result<Facts> {
    let types = types(root, lines)?;
    let own = facts::schema(&types).map_err(|error| error.at(root.join(TYPES).display()))?;
    let mut others: BTreeMap<&str, ()> = BTreeMap::new();
    let own_lines: Vec<Map<String, Value>> = lines
        .iter()
        .map(|line| {
            let mut facts = Map::new();
            for (key, value) in line {
                match key.strip_prefix(OWN_PREFIX) {
                    Some(name) if own.index_of(name).is_ok() => {
                        facts.insert(name.to_owned(), value.clone());
                    }
                    _ if is_fact(key) => {
                        others.insert(key, ());
                    }
                    _ => {}
                }
            }
            facts
        })
        .collect();
    let mut columns = Vec::new();
    if !own.fields().is_empty() && !lines.is_empty() {
        let rows =
            facts::from_json(&own, own_lines.iter()).map_err(|error| damaged(path, error))?;
        for (field, column) in own.fields().iter().zip(rows.columns()) {
            columns.push((format!("{OWN_PREFIX}{}", field.name()), Arc::clone(column)));
        }
    }
    let mut left_out = Vec::new();
    for name in others.into_keys() {
        let values: Vec<&Value> = lines
            .iter()
            .map(|line| line.get(name).unwrap_or(&Value::Null))
            .collect();
        match untyped(&values)? {
            Some(column) => columns.push((name.to_owned(), column)),
            None => left_out.push((name.to_owned(), "it holds no values".to_owned())),
        }
    }
    named(columns, lines.len(), left_out)
}

/// Returns the types of the facts that trajmill wrote: those in the file, or else those of an
/// identity, which versions without the file wrote alone.
fn types(root: &Path, lines: &[Map<String, Value>]) -> Result<Vec<StoredField>> {
    let path = root.join(TYPES);
    if files::is_file(&path)? {
        return serde_json::from_value(json(&path)?).map_err(|error| damaged(&path, error));
    }
    let is_whole = |name: &&str| {
        let key = format!("{OWN_PREFIX}{name}");
        lines
            .iter()
            .all(|line| line.get(&key).is_some_and(Value::is_string))
    };
    let text = |name: &str| (name.to_owned(), DataType::Utf8.to_string(), false);
    Ok(IDENTITY.into_iter().filter(is_whole).map(text).collect())
}

/// Returns the column that the JSON values `values` become: truth values, numbers or texts if all
/// are, and their JSON otherwise. `None` if all are null.
fn untyped(values: &[&Value]) -> Result<Option<ArrayRef>> {
    let present = || values.iter().filter(|value| !value.is_null());
    let all = |is: fn(&Value) -> bool| present().all(|value| is(value));
    let data_type = match () {
        () if present().next().is_none() => return Ok(None),
        () if all(Value::is_boolean) => DataType::Boolean,
        () if all(Value::is_i64) => DataType::Int64,
        () if all(Value::is_number) => DataType::Float64,
        () => DataType::Utf8,
    };
    let is_text = all(Value::is_string);
    let lines: Vec<Map<String, Value>> = values
        .iter()
        .map(|value| {
            let value = match (&data_type, value) {
                (DataType::Utf8, value) if !is_text && !value.is_null() => {
                    Value::from(value.to_string())
                }
                (_, value) => (*value).clone(),
            };
            Map::from_iter([("value".to_owned(), value)])
        })
        .collect();
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("value", data_type, true)]));
    Ok(Some(Arc::clone(
        facts::from_json(&schema, lines.iter())?.column(0),
    )))
}

/// Returns the facts `columns` with the names of trajectory columns. Without its texts in every
/// row, the identity of trajectories is left out.
fn named(
    mut columns: Vec<(String, ArrayRef)>,
    rows: usize,
    mut left_out: Vec<(String, String)>,
) -> Result<Facts> {
    let own = |name: &str| name.strip_prefix(OWN_PREFIX).map(str::to_owned);
    let is_identity = |name: &str| own(name).is_some_and(|name| IDENTITY.contains(&name.as_str()));
    let is_whole = |(_, column): &&(String, ArrayRef)| {
        *column.data_type() == DataType::Utf8 && column.null_count() == 0
    };
    let identity = columns.iter().filter(|(name, _)| is_identity(name));
    if identity.clone().filter(is_whole).count() < identity.clone().count() {
        left_out.extend(identity.map(|(name, _)| {
            (
                name.clone(),
                "only some of the episodes have an identity".to_owned(),
            )
        }));
        columns.retain(|(name, _)| !is_identity(name));
    }
    let mut fields: Vec<Field> = Vec::new();
    let mut arrays = Vec::new();
    columns.sort_by_key(|(name, _)| own(name).is_none());
    for (name, column) in columns {
        let target = own(&name).unwrap_or_else(|| free_fact(&name));
        let is_taken = |target: &str| fields.iter().any(|field| field.name() == target);
        let target = if is_taken(&target) {
            format!("source_{target}")
        } else {
            target
        };
        if is_taken(&target) {
            left_out.push((name, format!("there is another column `{target}`")));
            continue;
        }
        let column = match column.as_string_opt::<i32>() {
            // As in the table of tasks, an empty text is no task.
            Some(texts) if target == trajectory::TASK => {
                let texts = texts
                    .iter()
                    .map(|text| text.filter(|text| !text.is_empty()));
                Arc::new(texts.collect::<StringArray>()) as ArrayRef
            }
            _ => column,
        };
        fields.push(Field::new(target, column.data_type().clone(), true));
        arrays.push(column);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::new(Schema::new(fields));
    Ok(Facts {
        columns: RecordBatch::try_new_with_options(schema, arrays, &options)?,
        left_out,
    })
}
