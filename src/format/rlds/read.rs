//! Reads RLDS datasets, one episode at a time.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float64Array, RecordBatch,
    StringArray, StructArray, new_null_array,
};
use arrow::compute::{cast, concat, nullif};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use serde_json::{Map, Value};

use super::VALID;
use super::columns::{
    Column, columns, data_type as type_of, is_marker, is_valid_flag, trajectory_columns,
};
use super::decode::{self, Record};
use super::features::{FeatureKind, FeatureTree, LeafFeature};
use super::shards::{Shard, json, shards};
use crate::container::tfrecord::Records;
use crate::dataset::Account;
use crate::dataset::schema::step;
use crate::error::wording::count;
use crate::error::{Error, Result};
use crate::transfer::read::{
    Alignment, Choice, FinalAction, IncomingTrajectory, Options, Source, parts,
};

/// An RLDS dataset.
struct Rlds {
    tree: FeatureTree,
    schema: SchemaRef,
    columns: Vec<Column>,
    about: SchemaRef,
    /// The features of the trajectory columns after the split.
    about_features: Vec<LeafFeature>,
    shards: VecDeque<Shard>,
    open: Option<(Shard, Records)>,
    /// The split of the open file, and the number of its episodes so far.
    count: (String, u64),
    /// The number of episodes that the last error stands for.
    lost: u64,
    final_action: FinalAction,
    alignment: Alignment,
    metadata: Map<String, Value>,
    account: Account,
}

/// Opens the RLDS dataset at `path`.
pub(crate) fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let root = super::root(path)?.ok_or_else(|| {
        Error::failed(format!(
            "{}: features.json is missing, or there are several below this directory",
            path.display()
        ))
        .hint("give the directory of one version, such as NAME/1.0.0")
    })?;
    let features = json(&root.join("features.json"))?;
    let place = root.join("features.json").display().to_string();
    let mut tree = FeatureTree::parse(&features).map_err(|error| error.at(&place))?;
    let mut metadata = Map::from_iter([("features".to_owned(), features)]);
    let choice = Choice::new(options, is_marker);
    tree.steps.retain(|leaf| choice.reads(&leaf.key));
    choice.verify().map_err(|error| error.at(&place))?;
    let mut account = choice.account(Account::default());
    let shards = shards(&root, &mut metadata)?;
    let (schema, columns) = columns(&tree, options).map_err(|error| error.at(&place))?;
    let (about, about_features) = trajectory_columns(&tree);
    for leaf in tree.steps.iter().chain(&tree.episode) {
        if let FeatureKind::Other(what) = &leaf.kind {
            account.leave_out(&leaf.key, what);
        } else if leaf.kind == FeatureKind::Image && tree.episode.contains(leaf) {
            account.leave_out(&leaf.key, "an image is not a fact about a trajectory");
        }
    }
    Ok(Box::new(Rlds {
        tree,
        schema,
        columns,
        about,
        about_features,
        shards,
        open: None,
        count: (String::new(), 0),
        lost: 1,
        final_action: options.final_action,
        alignment: options.alignment,
        metadata,
        account,
    }))
}

impl Source for Rlds {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn about(&self) -> SchemaRef {
        SchemaRef::clone(&self.about)
    }

    fn account(&self) -> Account {
        self.account.clone()
    }

    fn lost(&self) -> Option<u64> {
        Some(self.lost)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.lost = 1;
        loop {
            let (shard, mut records) = match self.open.take() {
                Some(open) => open,
                None => {
                    let Some(shard) = self.shards.pop_front() else {
                        return Ok(None);
                    };
                    if shard.split != self.count.0 {
                        self.count = (shard.split.clone(), 0);
                    }
                    let records = Records::open(&shard.path)
                        .inspect_err(|_| self.lost = shard.records.unwrap_or(1))?;
                    (shard, records)
                }
            };
            let record = match records.example() {
                Ok(record) => record,
                Err(error) => {
                    // After damaged framing, nothing says where the next record begins: go on with
                    // the next file.
                    if records.broken {
                        self.lost = shard
                            .records
                            .map_or(1, |expected| expected.saturating_sub(records.index))
                            .max(1);
                        self.count.1 = self.count.1.saturating_add(self.lost);
                    } else {
                        self.count.1 += 1;
                        self.open = Some((shard, records));
                    }
                    return Err(error);
                }
            };
            if let Some(record) = record {
                let (place, key) = (
                    shard.path.display().to_string(),
                    format!("{}/{}", self.count.0, self.count.1),
                );
                let at = records.index - 1;
                self.count.1 += 1;
                self.open = Some((shard, records));
                return self
                    .trajectory(&record, key)
                    .map(Some)
                    .map_err(|error| error.at(format!("{place}: record {at}")));
            }
            if let Some(expected) = shard.records.filter(|expected| *expected != records.index) {
                // More records than declared are no loss: they have been read.
                self.lost = expected.saturating_sub(records.index);
                return Err(Error::failed(format!(
                    "{} holds {}, but dataset_info.json says {expected}",
                    shard.path.display(),
                    count(records.index, "record")
                ))
                .hint(
                    "the file is cut short or belongs to another version of the dataset: fetch it \
                     again",
                ));
            }
        }
    }
}

impl Rlds {
    /// Decodes one episode.
    fn trajectory(&self, record: &Record, key: String) -> Result<IncomingTrajectory> {
        let rows = decode::steps(record, &self.tree.steps)?;
        if rows == 0 {
            return Err(Error::failed("the episode has no steps")
                .hint("remove the episode from the source"));
        }
        let about = self
            .about
            .fields()
            .iter()
            .zip(std::iter::once(None).chain(self.about_features.iter().map(Some)));
        let about = about.map(|(field, leaf)| -> Result<ArrayRef> {
            let Some(leaf) = leaf else {
                return Ok(Arc::new(StringArray::from(vec![self.count.0.as_str()])));
            };
            match record
                .get(&leaf.key)
                .and_then(|feature| feature.kind.as_ref())
            {
                None => Ok(new_null_array(field.data_type(), 1)),
                Some(_) => self.fact(record, leaf, field.data_type()),
            }
        });
        let about = RecordBatch::try_new(
            SchemaRef::clone(&self.about),
            about.collect::<Result<Vec<_>>>()?,
        )?;
        Ok(IncomingTrajectory {
            key,
            steps: self.steps(record, rows)?,
            about: Some(about),
        })
    }

    /// Returns the value of a feature of episodes.
    fn fact(&self, record: &Record, leaf: &LeafFeature, data_type: &DataType) -> Result<ArrayRef> {
        let flag = format!("{}{VALID}", leaf.key);
        let flag = self.tree.episode.iter().find(|leaf| leaf.key == flag);
        if let Some(flag) = flag.filter(|flag| is_valid_flag(flag, &self.tree.episode)) {
            let valid = decode::values(record, &flag.key, &flag.kind, 1)?;
            if !valid.as_boolean().value(0) {
                return Ok(new_null_array(data_type, 1));
            }
        }
        let values = decode::values(record, &leaf.key, &leaf.kind, 1)?;
        match data_type {
            DataType::FixedSizeList(child, width) => Ok(Arc::new(FixedSizeListArray::try_new(
                Arc::clone(child),
                *width,
                values,
                None,
            )?)),
            _ => Ok(values),
        }
    }

    /// Returns the boolean feature `name` of each step, if there is one.
    fn flags(&self, record: &Record, name: &str, rows: usize) -> Result<Option<Vec<bool>>> {
        decode::flags(record, &self.tree.steps, name, rows)
    }

    /// Decodes the steps of one episode.
    fn steps(&self, record: &Record, rows: usize) -> Result<RecordBatch> {
        let flags = |name: &str| self.flags(record, name, rows);
        let last = flags("is_last")?.unwrap_or_else(|| vec![false; rows]);
        let terminal = flags("is_terminal")?.unwrap_or_else(|| vec![false; rows]);
        let cut = flags("is_truncated")?;
        if let Some(row) = last[..rows - 1].iter().position(|last| *last) {
            return Err(Error::failed(format!(
                "`is_last` is true at step {row}, but the episode has {rows} steps"
            ))
            .hint("a record is one episode: split the record in the source"));
        }
        let valid = flags("action_valid")?;
        let mut columns = Vec::new();
        for column in &self.columns {
            columns.push(self.column(record, column, columns.len(), rows)?);
        }
        let shifted = self.alignment == Alignment::Rsa;
        let has_final = shifted || self.is_final(flags("is_final")?, &last, &columns, rows);
        let missing = BooleanArray::from_iter((0..rows).map(|row| {
            let at = row + usize::from(shifted);
            Some(
                (has_final && row + 1 == rows)
                    || valid
                        .as_ref()
                        .is_some_and(|valid| valid.get(at) == Some(&false)),
            )
        }));
        for at in (0..columns.len()).filter(|at| self.columns[*at].of_action) {
            if shifted {
                let none = new_null_array(columns[at].data_type(), 1);
                columns[at] = concat(&[columns[at].slice(1, rows - 1).as_ref(), none.as_ref()])?;
            }
            // A step without an action may have a reward, but everything beside a final observation
            // is filler.
            let name = self.name(at);
            if missing.true_count() > 0 && (name == step::ACTION || name == step::ACTION_STD) {
                columns[at] = nullif(&columns[at], &missing)?;
            } else if has_final {
                let final_row = BooleanArray::from_iter((0..rows).map(|row| Some(row + 1 == rows)));
                columns[at] = nullif(&columns[at], &final_row)?;
            }
        }
        // The flags of the end stand on the last row, but belong to the last step with an action.
        let at_end = |flag: bool| -> ArrayRef {
            let end = rows - 1 - usize::from(has_final && rows > 1);
            Arc::new(BooleanArray::from_iter(
                (0..rows).map(|row| Some(flag && row == end)),
            ))
        };
        let end = rows - 1;
        let flags = [
            at_end(terminal[end]),
            at_end(cut.map_or(last[end] && !terminal[end], |cut| cut.contains(&true))),
            Arc::new(BooleanArray::from_iter(
                (0..rows).map(|row| Some(has_final && row == end)),
            )),
        ];
        let front = columns.len()
            - self
                .columns
                .iter()
                .enumerate()
                .filter(|(at, _)| self.is_extra(*at))
                .count();
        let extras = columns.split_off(front);
        columns.extend(flags);
        columns.extend(extras);
        Ok(RecordBatch::try_new(
            SchemaRef::clone(&self.schema),
            columns,
        )?)
    }

    /// Returns the place in the schema of column number `at` of [`Rlds::columns`].
    fn place(&self, at: usize) -> usize {
        let flags = self.schema.index_of(step::TERMINATED).unwrap_or(0);
        if at < flags { at } else { at + 3 }
    }

    /// Whether a column has no fixed meaning: those stand behind the flags.
    fn is_extra(&self, at: usize) -> bool {
        self.place(at) != at
    }

    fn name(&self, at: usize) -> &str {
        self.schema.field(self.place(at)).name()
    }

    /// Decodes column number `at`.
    fn column(&self, record: &Record, column: &Column, at: usize, rows: usize) -> Result<ArrayRef> {
        let value =
            |leaf: &LeafFeature, data_type: &DataType| -> Result<ArrayRef> {
                let values =
                    decode::values(record, &format!("steps/{}", leaf.key), &leaf.kind, rows)?;
                match data_type {
                    DataType::FixedSizeList(child, width) => Ok(Arc::new(
                        FixedSizeListArray::try_new(Arc::clone(child), *width, values, None)?,
                    )),
                    _ => Ok(values),
                }
            };
        let data_type = self.schema.field(self.place(at)).data_type();
        match (data_type, column.leaves.as_slice()) {
            (DataType::Struct(fields), leaves) => {
                let parts = leaves
                    .iter()
                    .zip(fields)
                    .map(|(leaf, field)| value(leaf, field.data_type()))
                    .collect::<Result<Vec<_>>>()?;
                Ok(Arc::new(StructArray::try_new(fields.clone(), parts, None)?))
            }
            (data_type, [leaf]) => {
                let values = value(leaf, data_type)?;
                // Actions may have moved to another step: the caller takes care of their flags.
                let has_flag = self.is_extra(at)
                    || (self.name(at) == step::REWARD && self.alignment == Alignment::Sar);
                let flags = if has_flag {
                    self.flags(record, &format!("{}{VALID}", leaf.key), rows)?
                } else {
                    None
                };
                match flags {
                    Some(valid) => Ok(nullif(
                        &values,
                        &BooleanArray::from_iter(valid.into_iter().map(|valid| Some(!valid))),
                    )?),
                    None => Ok(values),
                }
            }
            (DataType::FixedSizeList(element, _), leaves) => {
                let mut parts = Vec::new();
                for leaf in leaves {
                    let values = value(leaf, &type_of(leaf, false)?)?;
                    parts.push(values);
                }
                parts::interleaved(&parts, element, self.name(at))
            }
            _ => Err(Error::failed("a column has no feature")),
        }
    }

    /// Whether the last step holds only the final observation.
    fn is_final(
        &self,
        is_final: Option<Vec<bool>>,
        last: &[bool],
        columns: &[ArrayRef],
        rows: usize,
    ) -> bool {
        match (self.final_action, is_final) {
            (FinalAction::Valid, _) => false,
            (FinalAction::Filler, _) => true,
            (FinalAction::Auto, Some(is_final)) => is_final.last() == Some(&true),
            (FinalAction::Auto, None) => {
                let action = (0..columns.len())
                    .find(|at| self.name(*at) == step::ACTION)
                    .map(|at| columns[at].slice(rows - 1, 1));
                rows > 1 && last.last() == Some(&true) && action.is_none_or(|action| zeros(&action))
            }
        }
    }
}

/// Whether every value of an action is zero.
fn zeros(action: &ArrayRef) -> bool {
    let values = match action.as_fixed_size_list_opt() {
        Some(list) => list.value(0),
        None => ArrayRef::clone(action),
    };
    let values: Option<Float64Array> = cast(&values, &DataType::Float64)
        .ok()
        .map(|values| values.as_primitive::<Float64Type>().clone());
    values.is_some_and(|values| values.values().iter().all(|value| *value == 0.0))
}
