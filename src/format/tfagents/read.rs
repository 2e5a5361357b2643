//! Reads TF-Agents' files, one trajectory at a time.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::values::{Column, bytes, column_of};
use super::{record_files, spec};
use crate::container::tfrecord::{Feature, Kind, Records};
use crate::dataset::Account;
use crate::dataset::schema::{self, step, type_name};
use crate::error::wording::count;
use crate::error::{Error, Result, nearest};
use crate::transfer::read::{Choice, FinalAction, IncomingTrajectory, Options, Source, free_name};

/// The step type of the first record of a trajectory.
const FIRST: i32 = 0;

/// The step type of the last record of a trajectory.
const LAST: i32 = 2;

/// The keys of a step, each in the flat form and in that of transitions.
const STEP_TYPE: [&str; 2] = ["step_type", "time_step/step_type"];

const NEXT_STEP_TYPE: [&str; 2] = ["next_step_type", "next_time_step/step_type"];

const OBSERVATION: [&str; 2] = ["observation", "time_step/observation"];

const ACTION: [&str; 2] = ["action", "action_step/action"];

const REWARD: [&str; 2] = ["reward", "next_time_step/reward"];

const DISCOUNT: [&str; 2] = ["discount", "next_time_step/discount"];

/// Whether a value of this key marks where a trajectory begins or how it ends.
fn is_marker(key: &str) -> bool {
    [STEP_TYPE, NEXT_STEP_TYPE, DISCOUNT]
        .iter()
        .any(|keys| keys.contains(&key))
}

/// A dataset of step records.
struct TfAgents {
    files: VecDeque<PathBuf>,
    open: Option<(PathBuf, Records)>,
    schema: SchemaRef,
    /// The columns in the order of the schema, without the flags.
    columns: Vec<Column>,
    /// The keys of step type, next step type and discount.
    keys: [Option<String>; 3],
    /// The indices of action and reward in `columns`.
    roles: [Option<usize>; 2],
    final_action: FinalAction,
    /// The first record of the next trajectory.
    ahead: Option<StepRecord>,
    /// Whether the last record was bad, so that the rest of its trajectory must be skipped.
    bad: bool,
    /// The number of trajectories so far.
    count: u64,
    choice: Choice,
}

/// The values of one record.
struct StepRecord {
    values: Vec<Vec<u8>>,
    step_type: i32,
    next_step_type: Option<i32>,
    discount: Option<f32>,
}

/// Opens the TF-Agents files at `path`.
pub(crate) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let files: VecDeque<PathBuf> = record_files(path)?.into();
    let first = files
        .front()
        .ok_or_else(|| Error::failed(format!("{} has no TFRecord files", path.display())))?;
    let failed = |error: Error| error.at(first.display());
    let spec = spec::read(first)?;
    let mut record = Records::open(first)?.example()?.ok_or_else(|| {
        failed(Error::failed("the file has no records").hint("there is nothing to import"))
    })?;
    let choice = Choice::new(options, is_marker);
    record.retain(|key, _| choice.reads(key));
    choice.verify().map_err(failed)?;
    let find = |names: &[&str]| {
        names
            .iter()
            .find(|name| record.contains_key(**name))
            .map(|name| (*name).to_owned())
    };
    let listing = || {
        format!(
            "the records have the keys {}",
            record
                .keys()
                .map(|key| format!("`{key}`"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let Some(step_type) = find(&STEP_TYPE) else {
        return Err(failed(
            Error::failed(
                "the records have no `step_type`, so that this is not a file of TF-Agents",
            )
            .hint("if this is a TFDS dataset, put its features.json beside the files")
            .hint(listing()),
        ));
    };
    let role =
        |target: &str, names: &[&str]| match options.map.iter().find(|(name, _)| name == target) {
            Some((_, source)) if record.contains_key(source) => Ok(Some(source.clone())),
            Some((_, source)) => {
                let hint = nearest(source, record.keys().map(String::as_str))
                    .map_or_else(listing, |meant| format!("did you mean `{meant}`?"));
                Err(failed(
                    Error::failed(format!(
                        "the records have no `{source}` to use as `{target}`"
                    ))
                    .hint(hint),
                ))
            }
            None => Ok(find(names)),
        };
    let observation = role(step::OBSERVATION, &OBSERVATION)?.ok_or_else(|| {
        failed(Error::failed("the records have no `observation`").hint(listing()))
    })?;
    let (action, reward) = (role(step::ACTION, &ACTION)?, role(step::REWARD, &REWARD)?);
    let (next_step_type, discount) = (find(&NEXT_STEP_TYPE), find(&DISCOUNT));
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let mut push = |name: &str, key: &str, of_action: bool, vector: bool| -> Result<()> {
        let feature = &record[key];
        let element = match &feature.kind {
            Some(Kind::Floats(_)) => DataType::Float32,
            Some(Kind::Whole(_)) => DataType::Int64,
            _ => spec
                .get(key)
                .map_or(DataType::Float32, |(element, _)| element.clone()),
        };
        let (length, size) = (bytes(feature).len(), element.primitive_width().unwrap_or(1));
        let width = i32::try_from(length / size)
            .ok()
            .filter(|width| *width > 0 && length.is_multiple_of(size));
        let width = width.ok_or_else(|| {
            Error::failed(format!(
                "`{key}` holds {}, which is not a whole number of {} values",
                count(length, "byte"),
                type_name(&element)
            ))
        })?;
        let single = width == 1 && (!vector || (name == step::ACTION && element.is_integer()));
        let data_type = if single {
            element.clone()
        } else {
            schema::vector(element.clone(), width)
        };
        fields.push(Field::new(name, data_type, name != step::OBSERVATION));
        columns.push(Column {
            key: key.to_owned(),
            element,
            bytes: length,
            of_action,
        });
        Ok(())
    };
    push(step::OBSERVATION, &observation, false, true).map_err(failed)?;
    if let Some(key) = &action {
        push(step::ACTION, key, true, true).map_err(failed)?;
    }
    if let Some(key) = &reward {
        push(step::REWARD, key, true, false).map_err(failed)?;
    }
    let used = [
        Some(&observation),
        action.as_ref(),
        reward.as_ref(),
        Some(&step_type),
        next_step_type.as_ref(),
    ];
    let extras: Vec<&String> = record
        .iter()
        .filter(|(key, feature)| !used.contains(&Some(key)) && !bytes(feature).is_empty())
        .map(|(key, _)| key)
        .collect();
    for key in extras {
        push(&free_name(key), key, Some(key) == discount.as_ref(), false).map_err(failed)?;
    }
    let flags = [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
        .map(|name| Field::new(name, DataType::Boolean, false));
    let at = 1 + usize::from(action.is_some()) + usize::from(reward.is_some());
    fields.splice(at..at, flags);
    let schema = Arc::new(Schema::new(fields));
    let roles = [&action, &reward].map(|role| {
        columns
            .iter()
            .position(|column| Some(&column.key) == role.as_ref())
    });
    Ok(Box::new(TfAgents {
        files,
        open: None,
        schema,
        columns,
        keys: [Some(step_type), next_step_type, discount],
        roles,
        final_action: options.final_action,
        ahead: None,
        bad: false,
        count: 0,
        choice,
    }))
}

impl TfAgents {
    /// Reads the next record; `None` after the last.
    fn row(&mut self) -> Result<Option<StepRecord>> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.files.pop_front() else {
                    return Ok(None);
                };
                let records = Records::open(&path)?;
                self.open = Some((path, records));
            }
            let Some((path, records)) = &mut self.open else {
                return Ok(None);
            };
            let record = match records.example() {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.open = None;
                    continue;
                }
                Err(error) => {
                    // Nothing says where the next record begins: go on with the next file.
                    if records.broken {
                        self.open = None;
                    }
                    return Err(error);
                }
            };
            let place = format!("{}: record {}", path.display(), records.index - 1);
            return self
                .values(&record)
                .map(Some)
                .map_err(|error| error.at(place));
        }
    }

    /// Skips the rest of a trajectory with a bad record.
    fn skip(&mut self) {
        loop {
            match self.row() {
                Ok(Some(row)) if row.step_type == FIRST => {
                    self.ahead = Some(row);
                    return;
                }
                Ok(Some(row)) if row.step_type == LAST => return,
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => return,
            }
        }
    }

    /// Takes the values of a step from a record.
    fn values(&self, record: &BTreeMap<String, Feature>) -> Result<StepRecord> {
        let wrong = |what: String| {
            Error::failed(what).hint(
                "all records of a dataset must have the same values: the file may be damaged, or \
                 joined from two datasets",
            )
        };
        let value = |column: &Column| {
            let found = record.get(&column.key).map(bytes).unwrap_or_default();
            if found.len() == column.bytes {
                Ok(found)
            } else {
                Err(wrong(format!(
                    "`{}` holds {} bytes, but the first record has {}",
                    column.key,
                    found.len(),
                    column.bytes
                )))
            }
        };
        let number = |key: &Option<String>| -> Result<Option<[u8; 4]>> {
            let Some(key) = key else { return Ok(None) };
            let found = record.get(key).map(bytes).unwrap_or_default();
            // A step type in a list has eight bytes, of which the first four are the number.
            let four = found
                .get(..4)
                .filter(|_| [4, 8].contains(&found.len()))
                .and_then(|bytes| bytes.try_into().ok());
            four.map(Some).ok_or_else(|| {
                wrong(format!(
                    "`{key}` holds {} bytes, which is not one number",
                    found.len()
                ))
            })
        };
        let step_type = number(&self.keys[0])?.map_or(0, i32::from_le_bytes);
        if !(FIRST..=LAST).contains(&step_type) {
            return Err(wrong(format!(
                "the step type is {step_type}, but only 0, 1 and 2 are defined"
            )));
        }
        Ok(StepRecord {
            values: self.columns.iter().map(value).collect::<Result<_>>()?,
            step_type,
            next_step_type: number(&self.keys[1])?.map(i32::from_le_bytes),
            discount: number(&self.keys[2])?.map(f32::from_le_bytes),
        })
    }

    /// Whether a record of type 2 holds only the final observation.
    fn is_boundary(&self, row: &StepRecord) -> bool {
        let zeros = |at: usize| row.values[at].iter().all(|byte| *byte == 0);
        let [action, reward] = self.roles;
        match self.final_action {
            FinalAction::Valid => false,
            FinalAction::Filler => true,
            FinalAction::Auto => {
                let no_action =
                    action.is_none_or(|at| !self.columns[at].element.is_integer() && zeros(at));
                no_action
                    || (reward.is_none_or(zeros)
                        && row.discount.is_none_or(|discount| discount == 1.0))
            }
        }
    }

    /// Converts the records of one trajectory to steps.
    fn steps(&self, rows: &[StepRecord]) -> Result<RecordBatch> {
        let count = rows.len();
        let has_final = rows
            .last()
            .is_some_and(|row| row.step_type == LAST && self.is_boundary(row));
        if has_final && count == 1 {
            return Err(Error::failed("it has no step, only a final observation")
                .hint("remove the record from the source"));
        }
        let length = count - usize::from(has_final);
        let last = rows.get(length.saturating_sub(1));
        let ended = has_final
            || last.is_some_and(|row| row.step_type == LAST || row.next_step_type == Some(LAST));
        let terminal = ended && last.is_some_and(|row| row.discount == Some(0.0));
        let flag = |flag: bool, at: usize| -> ArrayRef {
            Arc::new(BooleanArray::from_iter(
                (0..count).map(|row| Some(flag && row == at)),
            ))
        };
        let mut columns: Vec<ArrayRef> = Vec::new();
        let mut at = 0;
        for field in self.schema.fields() {
            match field.name().as_str() {
                step::TERMINATED => columns.push(flag(terminal, length.saturating_sub(1))),
                step::TRUNCATED => columns.push(flag(ended && !terminal, length.saturating_sub(1))),
                step::IS_FINAL => columns.push(flag(has_final, length)),
                _ => {
                    let column = &self.columns[at];
                    let bytes: Vec<u8> = rows
                        .iter()
                        .flat_map(|row| row.values[at].iter().copied())
                        .collect();
                    let values = column_of(column, field, bytes)?;
                    let filler = has_final && column.of_action;
                    columns.push(if filler {
                        concat(&[
                            values.slice(0, length).as_ref(),
                            new_null_array(field.data_type(), 1).as_ref(),
                        ])?
                    } else {
                        values
                    });
                    at += 1;
                }
            }
        }
        Ok(RecordBatch::try_new(
            SchemaRef::clone(&self.schema),
            columns,
        )?)
    }
}

impl Source for TfAgents {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn account(&self) -> Account {
        self.choice.account(Account::default())
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if std::mem::take(&mut self.bad) {
            self.count += 1;
            self.skip();
        }
        let mut rows: Vec<StepRecord> = self.ahead.take().into_iter().collect();
        while let Some(row) = self.row().inspect_err(|_| self.bad = true)? {
            if row.step_type == FIRST && !rows.is_empty() {
                self.ahead = Some(row);
                break;
            }
            let last = row.step_type == LAST;
            rows.push(row);
            if last {
                break;
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let key = self.count.to_string();
        self.count += 1;
        let steps = self
            .steps(&rows)
            .map_err(|error| error.at(format!("trajectory {key}")))?;
        Ok(Some(IncomingTrajectory {
            key,
            steps,
            about: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use prost::Message;

    use super::*;
    use crate::container::tfrecord::{self, BytesList, Example, Features};
    use crate::dataset::store;

    fn record(
        step_type: i32,
        next: i32,
        observation: [f32; 2],
        action: i64,
        discount: f32,
    ) -> Vec<u8> {
        let raw = |bytes: Vec<u8>| Feature {
            kind: Some(Kind::Bytes(BytesList { value: vec![bytes] })),
        };
        let feature = BTreeMap::from([
            (
                "step_type".to_owned(),
                raw(step_type.to_le_bytes().to_vec()),
            ),
            (
                "next_step_type".to_owned(),
                raw(next.to_le_bytes().to_vec()),
            ),
            (
                "observation".to_owned(),
                raw(observation
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()),
            ),
            (
                "action".to_owned(),
                Feature {
                    kind: Some(Kind::Whole(tfrecord::Int64List {
                        value: vec![action],
                    })),
                },
            ),
            (
                "reward".to_owned(),
                raw((action as f32).to_le_bytes().to_vec()),
            ),
            ("discount".to_owned(), raw(discount.to_le_bytes().to_vec())),
        ]);
        Example {
            features: Some(Features { feature }),
        }
        .encode_to_vec()
    }

    fn all(records: &[Vec<u8>]) -> Result<Vec<RecordBatch>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.tfrecord");
        let mut bytes = Vec::new();
        records.iter().for_each(|record| {
            tfrecord::write(&mut bytes, record).unwrap();
        });
        store::write(&path, &bytes).unwrap();
        let mut source = read(&path, &Options::default())?;
        let mut found = Vec::new();
        while let Some(trajectory) = source.next()? {
            found.push(trajectory.steps);
        }
        Ok(found)
    }

    #[test]
    fn boundaries_are_final_observations() {
        let found = all(&[
            record(0, 1, [1.0, 2.0], 5, 1.0),
            record(1, 2, [3.0, 4.0], 6, 0.0),
            record(2, 0, [5.0, 6.0], 0, 1.0),
            record(0, 2, [7.0, 8.0], 7, 1.0),
            record(2, 0, [9.0, 9.0], 0, 1.0),
            record(0, 1, [1.0, 1.0], 8, 1.0),
        ])
        .unwrap();
        assert_eq!(
            found.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(),
            [3, 2, 1]
        );
        let trues = |index: usize, name: &str| {
            (0..found[index].num_rows())
                .filter(|row| found[index][name].as_boolean().value(*row))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (
                trues(0, "terminated"),
                trues(0, "truncated"),
                trues(0, "is_final")
            ),
            (vec![1], vec![], vec![2])
        );
        assert_eq!(
            (
                trues(1, "terminated"),
                trues(1, "truncated"),
                trues(1, "is_final")
            ),
            (vec![], vec![0], vec![1])
        );
        assert_eq!(
            (
                trues(2, "terminated"),
                trues(2, "truncated"),
                trues(2, "is_final")
            ),
            (vec![], vec![], vec![])
        );
        let actions = found[0]["action"].as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(
            (
                actions.value(0),
                actions.value(1),
                arrow::array::Array::is_null(actions, 2)
            ),
            (5, 6, true)
        );
    }

    #[test]
    fn a_last_record_with_a_reward_or_an_end_is_a_step() {
        let found = all(&[
            record(0, 1, [1.0, 2.0], 5, 1.0),
            record(2, 0, [3.0, 4.0], 6, 1.0),
            record(0, 1, [5.0, 6.0], 7, 1.0),
            record(2, 0, [7.0, 8.0], 0, 0.0),
        ])
        .unwrap();
        let last = |index: usize, name: &str| found[index][name].as_boolean().value(1);
        assert_eq!(
            found
                .iter()
                .map(|steps| steps["is_final"].as_boolean().true_count())
                .collect::<Vec<_>>(),
            [0, 0]
        );
        assert_eq!((last(0, "terminated"), last(0, "truncated")), (false, true));
        assert_eq!((last(1, "terminated"), last(1, "truncated")), (true, false));
        let error = all(&[
            record(0, 1, [0.0; 2], 1, 1.0),
            record(2, 0, [0.0; 2], 0, 1.0),
            record(2, 0, [0.0; 2], 0, 1.0),
        ])
        .unwrap_err();
        assert!(
            error.message.contains("trajectory 1: it has no step"),
            "{error}"
        );
    }

    #[test]
    fn records_that_differ_are_refused() {
        let mut other = Example::decode(record(1, 1, [0.0; 2], 1, 1.0).as_slice()).unwrap();
        other.features.as_mut().unwrap().feature.remove("action");
        let error = all(&[record(0, 1, [0.0; 2], 1, 1.0), other.encode_to_vec()]).unwrap_err();
        assert!(
            error.message.contains("record 1")
                && error
                    .message
                    .contains("`action` holds 0 bytes, but the first record has 8"),
            "{error}"
        );
        assert!(
            all(&[record(7, 1, [0.0; 2], 1, 1.0)])
                .unwrap_err()
                .message
                .contains("step type is 7")
        );
    }
}
