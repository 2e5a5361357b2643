//! TF-Agents' TFRecord files: one record a step, its values as raw bytes.
//!
//! Keys are `observation`, `action`, `reward`, `discount`, `step_type`, `next_step_type`, or those of its transitions under
//! `time_step/`, `action_step/` and `next_time_step/`. Types come from the file `NAME.spec` beside it, and without it are
//! 32-bit. A step type is 0 first, 1 in the middle, 2 last: a record of type 2 is a boundary, which holds the final observation
//! and what came of the reset after it: no reward and a discount of 1, or zeros for an action. Some writers put the last step
//! itself there, which has an action, and a reward or an end.

mod spec;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayData, ArrayRef, BooleanArray, FixedSizeListArray, RecordBatch, make_array, new_null_array,
};
use arrow::buffer::Buffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use crate::container::tfrecord::{Feature, Kind, Records};
use crate::dataset::files;
use crate::dataset::schema::{self, step};
use crate::error::{Error, Result, nearest};
use crate::format::{Detection, Evidence, Format};
use crate::transfer::read::{FinalAction, IncomingTrajectory, Options, Reader, Source, free_name};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "tfagents",
    about: "TF-Agents' TFRecord: a file or a folder of files, one record a step",
    detection: Some(Detection {
        evidence: Evidence::Layout,
        probe: |path| Ok(!record_files(path)?.is_empty()),
    }),
    read: Some(Reader {
        takes: &["map", "final_action"],
        open: read,
    }),
    write: None,
    validate: None,
};

const FIRST: i32 = 0;
const LAST: i32 = 2;

/// Keys of a step, in the flat form and in that of transitions.
const STEP_TYPE: [&str; 2] = ["step_type", "time_step/step_type"];
const NEXT_STEP_TYPE: [&str; 2] = ["next_step_type", "next_time_step/step_type"];
const OBSERVATION: [&str; 2] = ["observation", "time_step/observation"];
const ACTION: [&str; 2] = ["action", "action_step/action"];
const REWARD: [&str; 2] = ["reward", "next_time_step/reward"];
const DISCOUNT: [&str; 2] = ["discount", "next_time_step/discount"];

/// The TFRecord files of `path`; none of them where it is a TFDS directory.
fn record_files(path: &Path) -> Result<Vec<PathBuf>> {
    let named = |path: &Path| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        name.contains(".tfrecord") && !name.ends_with(".spec")
    };
    if !files::is_dir(path)? {
        return Ok(if named(path) && files::is_file(path)? {
            vec![path.to_owned()]
        } else {
            Vec::new()
        });
    }
    if files::exists(&path.join("features.json"))? {
        return Ok(Vec::new());
    }
    let failed =
        |error: std::io::Error| Error::failed(format!("cannot list {}: {error}", path.display()));
    let mut found = files::list(path).map_err(failed)?;
    found.retain(|path| named(path));
    found.sort();
    Ok(found)
}

/// One value of a step.
struct Column {
    key: String,
    element: DataType,
    /// Bytes of a step's value; of floats or whole numbers in lists, four or eight each.
    bytes: usize,
    /// Whether it is no value beside a final observation.
    of_action: bool,
}

/// A dataset of steps.
struct Steps {
    files: VecDeque<PathBuf>,
    open: Option<(PathBuf, Records)>,
    schema: SchemaRef,
    /// Columns in the schema's order, less the flags.
    columns: Vec<Column>,
    keys: [Option<String>; 3],
    /// Which of the columns are action and reward.
    roles: [Option<usize>; 2],
    final_action: FinalAction,
    /// The first record of the next trajectory.
    ahead: Option<Row>,
    /// Whether the last record read was bad: what is left of its trajectory is to be passed over.
    bad: bool,
    count: u64,
}

/// The values of one record.
struct Row {
    values: Vec<Vec<u8>>,
    step_type: i32,
    next_step_type: Option<i32>,
    discount: Option<f32>,
}

/// The bytes of a feature, whatever list they are in.
fn bytes(feature: &Feature) -> Vec<u8> {
    match &feature.kind {
        None => Vec::new(),
        Some(Kind::Bytes(list)) => list.value.concat(),
        Some(Kind::Floats(list)) => list
            .value
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        Some(Kind::Whole(list)) => list
            .value
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let files: VecDeque<PathBuf> = record_files(path)?.into();
    let first = files
        .front()
        .ok_or_else(|| Error::failed(format!("{} holds no TFRecord file", path.display())))?;
    let failed = |error: Error| error.at(first.display());
    let spec = spec::read(first)?;
    let record = Records::open(first)?.example()?.ok_or_else(|| {
        failed(Error::failed("the file holds no records").hint("there is nothing to import"))
    })?;
    let find = |names: &[&str]| {
        names
            .iter()
            .find(|name| record.contains_key(**name))
            .map(|name| (*name).to_owned())
    };
    let listing = || {
        format!(
            "a record holds {}",
            record
                .keys()
                .map(|key| format!("`{key}`"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let Some(step_type) = find(&STEP_TYPE) else {
        return Err(failed(
            Error::failed("there is no `step_type`: this is not a file of TF-Agents")
                .hint("a TFDS dataset needs its features.json beside its files")
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
                    Error::failed(format!("there is no `{source}` to be `{target}`")).hint(hint),
                ))
            }
            None => Ok(find(names)),
        };
    let observation = role(step::OBSERVATION, &OBSERVATION)?
        .ok_or_else(|| failed(Error::failed("there is no `observation`").hint(listing())))?;
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
                "`{key}` holds {length} bytes, which are no values of {element}"
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
    Ok(Box::new(Steps {
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
    }))
}

impl Steps {
    /// The next record, and where it is.
    fn row(&mut self) -> Result<Option<Row>> {
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
                    // Nothing says where the next record begins: the next file is read.
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

    /// Passes over what is left of a trajectory with a bad record.
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

    fn values(&self, record: &BTreeMap<String, Feature>) -> Result<Row> {
        let wrong = |what: String| {
            Error::failed(what).hint("all records of a dataset have the same values: the file is damaged, or joined from two")
        };
        let value = |column: &Column| {
            let found = record.get(&column.key).map(bytes).unwrap_or_default();
            if found.len() == column.bytes {
                Ok(found)
            } else {
                Err(wrong(format!(
                    "`{}` holds {} bytes where the first record has {}",
                    column.key,
                    found.len(),
                    column.bytes
                )))
            }
        };
        let number = |key: &Option<String>| -> Result<Option<[u8; 4]>> {
            let Some(key) = key else { return Ok(None) };
            let found = record.get(key).map(bytes).unwrap_or_default();
            // EnvelopeReader in a list, a step type has eight bytes, of which the first four say it.
            let four = found
                .get(..4)
                .filter(|_| [4, 8].contains(&found.len()))
                .and_then(|bytes| bytes.try_into().ok());
            four.map(Some).ok_or_else(|| {
                wrong(format!(
                    "`{key}` holds {} bytes and not one number",
                    found.len()
                ))
            })
        };
        let step_type = number(&self.keys[0])?.map_or(0, i32::from_le_bytes);
        if !(FIRST..=LAST).contains(&step_type) {
            return Err(wrong(format!(
                "the step type is {step_type}, and 0, 1 and 2 are known"
            )));
        }
        Ok(Row {
            values: self.columns.iter().map(value).collect::<Result<_>>()?,
            step_type,
            next_step_type: number(&self.keys[1])?.map(i32::from_le_bytes),
            discount: number(&self.keys[2])?.map(f32::from_le_bytes),
        })
    }

    /// Whether a last record holds only the final observation.
    fn is_boundary(&self, row: &Row) -> bool {
        let zeros = |at: usize| row.values[at].iter().all(|byte| *byte == 0);
        let [action, reward] = self.roles;
        match self.final_action {
            FinalAction::Valid => false,
            FinalAction::Filler => true,
            FinalAction::Auto => {
                let idle =
                    action.is_none_or(|at| !self.columns[at].element.is_integer() && zeros(at));
                idle || (reward.is_none_or(zeros)
                    && row.discount.is_none_or(|discount| discount == 1.0))
            }
        }
    }

    fn steps(&self, rows: &[Row]) -> Result<RecordBatch> {
        let count = rows.len();
        let has_final = rows
            .last()
            .is_some_and(|row| row.step_type == LAST && self.is_boundary(row));
        if has_final && count == 1 {
            return Err(Error::failed("it has no step, only a final observation")
                .hint("drop the record from the source"));
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

fn column_of(column: &Column, field: &Field, bytes: Vec<u8>) -> Result<ArrayRef> {
    let values: ArrayRef = if column.element == DataType::Boolean {
        Arc::new(BooleanArray::from_iter(
            bytes.iter().map(|byte| Some(*byte != 0)),
        ))
    } else {
        let size = column.element.primitive_width().unwrap_or(1);
        make_array(
            ArrayData::builder(column.element.clone())
                .len(bytes.len() / size)
                .add_buffer(Buffer::from_vec(bytes))
                .align_buffers(true)
                .build()?,
        )
    };
    match field.data_type() {
        DataType::FixedSizeList(child, width) => Ok(Arc::new(FixedSizeListArray::try_new(
            Arc::clone(child),
            *width,
            values,
            None,
        )?)),
        _ => Ok(values),
    }
}

impl Source for Steps {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn rows(&self) -> Option<u64> {
        None
    }

    fn metadata(&self) -> Map<String, Value> {
        Map::new()
    }

    fn lost(&self) -> Option<u64> {
        Some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        if std::mem::take(&mut self.bad) {
            self.count += 1;
            self.skip();
        }
        let mut rows: Vec<Row> = self.ahead.take().into_iter().collect();
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
        // A boundary without a step before it holds nothing to learn from.
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
        while let Some(incoming) = source.next()? {
            found.push(incoming.steps);
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
                    .contains("`action` holds 0 bytes where the first record has 8"),
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
