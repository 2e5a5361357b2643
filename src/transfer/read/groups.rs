//! Finds out what the groups of a source have in common, before the first of them is read.
//!
//! Formats such as robomimic's store each trajectory as a group of an HDF5 file. Not all arrays of
//! a group have a row for each step: simulators store the state after the reset as one row, and the
//! widths of their states depend on the scene. A [`Survey`] of all groups tells such arrays apart.
//! What is said once about a trajectory, in attributes and such arrays, becomes columns of
//! `trajectories`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use serde_json::{Map, Value};

use super::pattern::natural;
use super::{Choice, free_fact, per_trajectory};
use crate::container::arrays::ArrayColumns;
use crate::container::hdf5::{self, ArrayShape};
use crate::dataset::block::elements;
use crate::dataset::schema::{trajectory, type_name};
use crate::dataset::{Account, files};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope;

/// The group of arrays that hold the state after the reset, in files of Isaac Lab.
const INITIAL: &str = "initial_state/";

/// Names of attributes and arrays that hold the instruction.
const INSTRUCTIONS: [&str; 3] = ["language_instruction", "instruction", "language_raw"];

/// Returns the HDF5 files of a source in natural order, and the names of all other files beside
/// them. The source is one file, or a folder of files.
///
/// # Errors
/// Returns an error if the folder cannot be listed.
pub(crate) fn hdf5_files(path: &Path) -> Result<(Vec<PathBuf>, Vec<String>)> {
    if !files::is_dir(path)? {
        return Ok((vec![path.to_owned()], Vec::new()));
    }
    let entries = files::list(path)
        .map_err(|error| Error::failed(format!("cannot list {}: {error}", path.display())))?;
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        if hdf5::is_hdf5(&entry)? {
            found.push(entry);
        } else {
            let name = entry.file_name().unwrap_or_default();
            others.push(name.to_string_lossy().into_owned());
        }
    }
    found.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    others.sort_by(|a, b| natural(a, b));
    Ok((found, others))
}

/// What is known about the groups of a source.
#[derive(Default)]
pub(crate) struct Survey {
    arrays: BTreeMap<String, Seen>,
    /// The type of each attribute.
    attributes: BTreeMap<String, DataType>,
    /// The numbers of steps of trajectories.
    lengths: BTreeSet<u64>,
}

/// What is known about an array.
struct Seen {
    first: ArrayShape,
    /// The numbers of rows; 0 for single values.
    rows: BTreeSet<u64>,
    /// Whether the shapes of rows differ.
    ragged: bool,
}

impl Survey {
    /// Takes a group into account, whose arrays have the shapes `arrays`, and which has `length`
    /// steps and the attributes `attributes`.
    pub(crate) fn add(
        &mut self,
        arrays: BTreeMap<String, ArrayShape>,
        length: u64,
        attributes: &Map<String, Value>,
    ) {
        self.lengths.insert(length);
        for (name, array) in arrays {
            let rows = array.shape.first().copied().unwrap_or(0);
            let row = |array: &ArrayShape| array.shape.get(1..).map(<[u64]>::to_vec);
            match self.arrays.get_mut(&name) {
                Some(seen) => {
                    seen.ragged |= row(&seen.first) != row(&array);
                    seen.rows.insert(rows);
                }
                None => {
                    let seen = Seen {
                        first: array,
                        rows: BTreeSet::from([rows]),
                        ragged: false,
                    };
                    self.arrays.insert(name, seen);
                }
            }
        }
        for (name, value) in attributes {
            let found = kind(value);
            let known = self.attributes.remove(name).unwrap_or(DataType::Null);
            self.attributes.insert(name.clone(), both(known, found));
        }
    }
}

/// What the groups of a source have in common, and what of them is read.
pub(crate) struct Common {
    /// The arrays that the user wants to read.
    choice: Choice,
    /// The arrays whose widths differ between groups. They become columns of lists.
    ragged: BTreeSet<String>,
    /// The arrays that say something once about a trajectory, and their columns of `trajectories`.
    facts: BTreeMap<String, Field>,
    /// The attributes, and their columns of `trajectories`.
    attributes: Vec<(String, Field)>,
    /// The arrays that are not read, and the files beside those of the source, with the reason.
    left_out: BTreeMap<String, String>,
}

impl Common {
    /// Knows of no group yet.
    pub(crate) fn new(choice: Choice) -> Common {
        Common {
            choice,
            ragged: BTreeSet::new(),
            facts: BTreeMap::new(),
            attributes: Vec::new(),
            left_out: BTreeMap::new(),
        }
    }

    /// Returns whether the array `name` is read. Asks before anything about it is opened.
    pub(crate) fn reads(&self, name: &str) -> bool {
        self.choice.reads(name) && !self.left_out.contains_key(name)
    }

    /// Returns the arrays that the user wants to read.
    pub(crate) fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Takes over what `survey` found. Arrays whose names `fixed` accepts have a row for each step.
    pub(crate) fn settle(&mut self, survey: Survey, fixed: impl Fn(&str) -> bool) {
        let mut taken: BTreeSet<String> = BTreeSet::new();
        let mut named = |name: &str| {
            let mut free = free_fact(name);
            while !taken.insert(free.clone()) {
                free = format!("source_{free}");
            }
            free
        };
        for (name, data_type) in survey.attributes {
            // A value that is always null says nothing about its type.
            let data_type = known(data_type);
            self.attributes
                .push((name.clone(), Field::new(named(&name), data_type, true)));
        }
        for (name, seen) in survey.arrays {
            if fixed(&name) {
                continue;
            }
            let element = match &seen.first.holds {
                Ok(element) => element.clone(),
                Err(what) => {
                    self.left_out.insert(name, format!("it holds {what}"));
                    continue;
                }
            };
            let row = seen.first.shape.get(1..).unwrap_or_default();
            let is_single = seen.first.shape.is_empty();
            if row.contains(&0) {
                let reason = "its rows have no values".to_owned();
                self.left_out.insert(name, reason);
                continue;
            }
            let one_row = seen.rows == BTreeSet::from([1])
                && (survey.lengths != BTreeSet::from([1]) || name.starts_with(INITIAL));
            let constant = seen.rows.len() == 1 && survey.lengths.len() > 1 && row.is_empty();
            if is_single || one_row || constant {
                let listed = seen.ragged || !row.is_empty() || !(is_single || one_row);
                let data_type = if listed {
                    DataType::List(Arc::new(Field::new("item", element, true)))
                } else {
                    element
                };
                if row.len() > 1 && !seen.ragged {
                    let reason = "its values are a list, one row after another";
                    self.leave_out(format!("the shape {row:?} of `{name}`"), reason);
                }
                let field = Field::new(named(&name), data_type, true);
                self.facts.insert(name, field);
            } else if seen.ragged {
                self.ragged.insert(name);
            }
        }
    }

    /// Names the column of trajectories `task` that holds the instruction, unless one has that
    /// name: the text that is called like one.
    pub(crate) fn name_task(&mut self) {
        let attributes = self
            .attributes
            .iter_mut()
            .map(|(name, field)| (&*name, field));
        let mut columns: Vec<(&String, &mut Field)> =
            attributes.chain(self.facts.iter_mut()).collect();
        if columns
            .iter()
            .any(|(_, field)| field.name() == trajectory::TASK)
        {
            return;
        }
        for instruction in INSTRUCTIONS {
            let column = columns
                .iter_mut()
                .find(|(name, field)| *name == instruction && *field.data_type() == DataType::Utf8);
            if let Some((_, field)) = column {
                **field = field.clone().with_name(trajectory::TASK);
                return;
            }
        }
    }

    /// Returns the columns of `trajectories`.
    pub(crate) fn about(&self) -> Vec<Field> {
        let attributes = self.attributes.iter().map(|(_, field)| field);
        attributes.chain(self.facts.values()).cloned().collect()
    }

    /// Leaves out the files `others`, which are beside those of the source.
    pub(crate) fn leave_out_files(&mut self, others: Vec<String>) {
        for name in others {
            self.leave_out(name, "another kind of file");
        }
    }

    /// Leaves out `name` for a reason.
    pub(crate) fn leave_out(&mut self, name: impl Into<String>, reason: &str) {
        self.left_out.insert(name.into(), reason.to_owned());
    }

    /// Returns what was left out.
    pub(crate) fn account(&self) -> Account {
        let mut account = Account::default();
        for (name, reason) in &self.left_out {
            account.leave_out(name, reason);
        }
        self.choice.account(account)
    }

    /// Reads the rows that `choose` returns of the arrays of `group`. Arrays whose widths differ
    /// become lists.
    ///
    /// # Errors
    /// Returns an error if an array cannot be read.
    pub(crate) fn arrays(&self, group: &hdf5::Group, choose: hdf5::Choose) -> Result<ArrayColumns> {
        let mut arrays = ArrayColumns::new();
        let reads = |name: &str| self.reads(name);
        hdf5::arrays(group, "", &reads, choose, &mut arrays)?;
        hdf5::single_values(group, &reads, &mut arrays)?;
        for name in &self.ragged {
            if let Some(column) = arrays.get_mut(name) {
                *column = per_trajectory::listed(column)?;
            }
        }
        Ok(arrays)
    }

    /// Takes the facts about a trajectory out of its `arrays` and `attributes`, as one row with
    /// the columns of [`Common::about`].
    ///
    /// # Errors
    /// Returns an error if the type of a fact is not the one that it has in the first group.
    pub(crate) fn facts(
        &self,
        arrays: &mut ArrayColumns,
        attributes: &Map<String, Value>,
    ) -> Result<Vec<ArrayRef>> {
        let fields: Vec<Field> = self
            .attributes
            .iter()
            .map(|(_, field)| field.clone())
            .collect();
        let mut values = Map::new();
        for (name, field) in &self.attributes {
            let value = attributes.get(name).cloned().unwrap_or_default();
            let value = match (&value, field.data_type()) {
                (Value::Null | Value::String(_), DataType::Utf8) => value,
                (_, DataType::Utf8) => Value::from(value.to_string()),
                _ => value,
            };
            values.insert(field.name().clone(), value);
        }
        let row = envelope::row(&Arc::new(Schema::new(fields)), &values)?;
        let mut columns = row.map_or_else(Vec::new, |row: RecordBatch| row.columns().to_vec());
        for (name, field) in &self.facts {
            columns.push(match arrays.remove(name) {
                Some((_, values)) => fact(name, field, &values)?,
                None => arrow::array::new_null_array(field.data_type(), 1),
            });
        }
        Ok(columns)
    }
}

/// Returns the values of the array `name` as the one value of the column `field`.
fn fact(name: &str, field: &Field, values: &ArrayRef) -> Result<ArrayRef> {
    let other_type = |found: &DataType| {
        Error::failed(format!(
            "`{name}` holds {}, but {} in the first trajectory",
            type_name(found),
            type_name(field.data_type())
        ))
    };
    let DataType::List(item) = field.data_type() else {
        return if values.data_type() == field.data_type() && values.len() == 1 {
            Ok(Arc::clone(values))
        } else {
            Err(other_type(values.data_type()))
        };
    };
    let values = match arrow::array::AsArray::as_fixed_size_list_opt(values) {
        Some(vectors) => elements(vectors),
        None => Arc::clone(values),
    };
    if values.data_type() != item.data_type() {
        return Err(other_type(values.data_type()));
    }
    let ends = OffsetBuffer::from_lengths([values.len()]);
    let item: FieldRef = Arc::clone(item);
    Ok(Arc::new(ListArray::try_new(item, ends, values, None)?))
}

/// Returns the type of a column that holds `value`.
fn kind(value: &Value) -> DataType {
    match value {
        Value::Null => DataType::Null,
        Value::Bool(_) => DataType::Boolean,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(number) if number.is_u64() => DataType::UInt64,
        Value::Number(_) => DataType::Float64,
        Value::Array(values) => {
            let item = values.iter().map(kind).fold(DataType::Null, both);
            DataType::List(Arc::new(Field::new("item", item, true)))
        }
        Value::String(_) | Value::Object(_) => DataType::Utf8,
    }
}

/// Returns a type for values of both types: text if there is no other.
fn both(one: DataType, other: DataType) -> DataType {
    match (one, other) {
        (DataType::Null, known) | (known, DataType::Null) => known,
        (one, other) if one == other => one,
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => {
            DataType::Float64
        }
        (DataType::List(one), DataType::List(other)) => {
            let item = both(one.data_type().clone(), other.data_type().clone());
            DataType::List(Arc::new(Field::new("item", item, true)))
        }
        _ => DataType::Utf8,
    }
}

/// Returns `data_type` with text in place of a type that is not known.
fn known(data_type: DataType) -> DataType {
    match data_type {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => {
            // Lists of texts may hold other values too, which only text holds.
            match known(item.data_type().clone()) {
                item if item.is_numeric() || item == DataType::Boolean => {
                    DataType::List(Arc::new(Field::new("item", item, true)))
                }
                _ => DataType::Utf8,
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(shape: &[u64]) -> ArrayShape {
        ArrayShape {
            shape: shape.to_vec(),
            holds: Ok(DataType::Float32),
        }
    }

    fn everything() -> Common {
        Common::new(Choice::new(
            &crate::transfer::read::Options::default(),
            |_| false,
        ))
    }

    fn survey(groups: &[(&[(&str, ArrayShape)], u64)]) -> Common {
        let mut survey = Survey::default();
        for (arrays, length) in groups {
            let arrays = arrays
                .iter()
                .map(|(name, shape)| ((*name).to_owned(), shape.clone()));
            survey.add(arrays.collect(), *length, &Map::new());
        }
        let mut common = everything();
        common.settle(survey, |name| name == "actions");
        common
    }

    #[test]
    fn arrays_that_say_something_once_are_facts() {
        let common = survey(&[
            (
                &[
                    ("actions", shape(&[5, 6])),
                    ("initial_state/mat", shape(&[1, 2, 3])),
                    ("initial_state/pose", shape(&[1, 7])),
                    ("source", shape(&[3])),
                    ("states", shape(&[5, 47])),
                    ("time", shape(&[])),
                    ("void", shape(&[5, 0])),
                ],
                5,
            ),
            (
                &[
                    ("actions", shape(&[1, 6])),
                    ("initial_state/mat", shape(&[1, 2, 3])),
                    ("initial_state/pose", shape(&[1, 7])),
                    ("source", shape(&[3])),
                    ("states", shape(&[1, 92])),
                    ("time", shape(&[])),
                    ("void", shape(&[1, 0])),
                ],
                1,
            ),
        ]);
        let facts: Vec<String> = common
            .about()
            .iter()
            .map(|field| format!("{}: {}", field.name(), type_name(field.data_type())))
            .collect();
        assert_eq!(
            facts,
            [
                "initial_state/mat: list[float32]",
                "initial_state/pose: list[float32]",
                "source_source: list[float32]",
                "time: float32"
            ]
        );
        assert_eq!(common.ragged, BTreeSet::from(["states".to_owned()]));
        assert_eq!(common.left_out["void"], "its rows have no values");
        assert_eq!(
            common.left_out["the shape [2, 3] of `initial_state/mat`"],
            "its values are a list, one row after another"
        );
    }

    #[test]
    fn one_row_in_a_trajectory_of_one_step_is_a_step() {
        let arrays = [("reward", shape(&[1])), ("initial_state/x", shape(&[1]))];
        let common = survey(&[(&arrays, 1)]);
        assert_eq!(common.facts.keys().collect::<Vec<_>>(), ["initial_state/x"]);
    }

    #[test]
    fn attributes_get_a_type_for_all_their_values() {
        let mut survey = Survey::default();
        for attributes in [
            json!({"seed": 1, "score": 1, "mixed": [1], "init": [1, 2], "none": null}),
            json!({"seed": 2, "score": 0.5, "mixed": "x", "init": [0.5], "length": true}),
        ] {
            survey.add(BTreeMap::new(), 1, attributes.as_object().unwrap());
        }
        let mut common = everything();
        common.settle(survey, |_| false);
        let facts: Vec<String> = common
            .about()
            .iter()
            .map(|field| format!("{}: {}", field.name(), type_name(field.data_type())))
            .collect();
        assert_eq!(
            facts,
            [
                "init: list[float64]",
                "source_length: bool",
                "mixed: text",
                "none: text",
                "score: float64",
                "seed: int64"
            ]
        );
        let row = json!({"seed": 3, "mixed": [1], "init": []});
        let row = common
            .facts(&mut ArrayColumns::new(), row.as_object().unwrap())
            .unwrap();
        assert!(row[1].is_null(0) && row[4].is_null(0));
        let mixed: &arrow::array::StringArray = arrow::array::AsArray::as_string(&row[2]);
        assert_eq!(mixed.value(0), "[1]");
    }
}
