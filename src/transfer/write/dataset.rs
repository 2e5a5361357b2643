//! A dataset on its way out: what every writer of a foreign format reads.
//!
//! A writer goes through the dataset as often as it needs to, in the dataset's order, with the columns that it needs;
//! one block of whole trajectories is in memory, never the dataset. Steps without an action have been refused, dropped
//! or filled by then, as the user said, unless the format can say "null".

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::unlabelled::{cut_off, filler};
use crate::dataset::chunk::{with_column, with_field};
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::{Dataset, Manifest, ShardEntry, ShardReader};
use crate::error::{Error, Result};

/// The column that says which actions were there, beside actions that were filled in.
pub const ACTION_VALID: &str = "action_valid";

/// The column that says which rewards were there, where some were not and the format has no null.
pub const REWARD_VALID: &str = "reward_valid";

/// Columns that may get one beside them that says where they are null, and that one.
const MASKS: [(&str, &str); 2] = [(step::ACTION, ACTION_VALID), (step::REWARD, REWARD_VALID)];

/// How a format is written.
pub struct Writer {
    /// Whether a null action can be written as one: then unlabelled steps leave as they are.
    pub nulls: bool,
    /// Names of the [`WriteOptions`] that mean something to the format, besides `unlabelled` and `fill`.
    pub takes: &'static [&'static str],
    /// Writes the dataset to the path, which does not exist and is made: a file or a directory, in a staging place that
    /// the caller publishes by one rename. Every file is made through `dataset::store`.
    pub write: fn(&Outgoing, &Path, &WriteOptions) -> Result<Written>,
    /// For formats of one file: reads back what [`WriteOptions::note`] said. Directories get the note as a file of
    /// their own from the caller, and need nothing here.
    pub note: Option<fn(&Path) -> Option<String>>,
}

/// What the user says about the writing of a foreign format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WriteOptions {
    /// What becomes of steps without an action where the format cannot leave one out
    pub unlabelled: Unlabelled,
    /// Value of every dimension of an action that is filled in
    pub fill: f64,
    /// Name that the loader knows the dataset by, such as Minari's `mujoco/hopper/medium-v0`
    pub name: Option<String>,
    /// Environment that the data come from, such as `Hopper-v5`
    pub env: Option<String>,
    /// Steps per second
    pub fps: Option<u32>,
    /// Robot that the data come from
    pub robot: Option<String>,
    /// Text of the task, for trajectories that have none of their own
    pub task: Option<String>,
    /// What the output is to say of its origin; formats of one file keep it in the file.
    #[serde(skip)]
    pub note: String,
}

/// What becomes of steps without an action where the format cannot leave one out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unlabelled {
    /// Nothing is written.
    #[default]
    Refuse,
    /// They are left out: each run of steps with actions leaves as a trajectory of its own, cut off where it is not the last.
    Drop,
    /// Their actions are filled with the value of `fill`, and `action_valid` is false beside them.
    Fill,
}

/// What a writer did beside writing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// What the format cannot hold and where it is instead, a line each: ("rewards", "the extra array `rewards`").
    pub elsewhere: Vec<(String, String)>,
}

impl Written {
    /// Says that the format cannot hold `what`, which is now at `place`.
    pub fn moved(&mut self, what: impl Into<String>, place: impl Into<String>) {
        self.elsewhere.push((what.into(), place.into()));
    }
}

/// One trajectory on its way out.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// Its place in the output, from 0.
    pub index: u64,
    /// One row: `trajectory_id`, `uid`, `source_key`, `source` and whatever else came along.
    pub about: RecordBatch,
    /// Its rows, the final observation included, with the columns that were asked for.
    pub steps: RecordBatch,
    /// Steps: rows that are not final. The final observation, where there is one, is row `length`.
    pub length: usize,
}

impl Leaving {
    /// Whether the observation after the last action is known.
    pub fn has_final(&self) -> bool {
        self.length < self.steps.num_rows()
    }

    /// The column `name` of its steps, the row of the final observation left out.
    pub fn column(&self, name: &str) -> Option<ArrayRef> {
        Some(self.steps.column_by_name(name)?.slice(0, self.length))
    }

    /// The value of `column`, which is one of its steps, after each step; the last one where that of the final row is not known.
    ///
    /// # Errors
    /// Never, as long as it has a value for each row.
    pub fn following(&self, column: &ArrayRef) -> Result<ArrayRef> {
        if self.has_final() {
            return Ok(column.slice(1, self.length));
        }
        let indices = (1..self.length as u64).chain((self.length as u64).checked_sub(1));
        Ok(arrow::compute::take(
            column,
            &indices.collect::<UInt64Array>(),
            None,
        )?)
    }

    /// The text in column `name` of what is said about the trajectory.
    pub fn text(&self, name: &str) -> Option<&str> {
        let column = self.about.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(0).then(|| column.value(0))
    }
}

/// Told of the passages through a dataset: `None` where one begins, then of so many rows more that are read. An error of it
/// ends the passage.
pub type Watch<'w> = &'w dyn Fn(Option<u64>) -> Result<()>;

/// A dataset to be written in a foreign format.
pub struct Outgoing<'w> {
    dataset: Dataset,
    unlabelled: Unlabelled,
    fill: f64,
    /// Those of [`MASKS`] that leave.
    masks: Vec<(&'static str, &'static str)>,
    steps: SchemaRef,
    carried: SchemaRef,
    trajectories: u64,
    rows: u64,
    length: u64,
    /// Whether a passage has held every file against its checksum.
    verified: Cell<bool>,
    watch: Watch<'w>,
}

impl<'w> Outgoing<'w> {
    /// The dataset as it is to be written by a format that can hold null actions or cannot.
    ///
    /// # Errors
    /// Where steps have no action, the format cannot say so and the user did not either; where files cannot be read.
    pub fn new(dataset: Dataset, nulls: bool, options: &WriteOptions) -> Result<Outgoing<'w>> {
        Outgoing::watched(dataset, nulls, options, &|_| Ok(()))
    }

    /// As [`Outgoing::new`]; `watch` is told of every passage through the dataset.
    ///
    /// # Errors
    /// Those of [`Outgoing::new`], and of `watch`.
    pub fn watched(
        dataset: Dataset,
        nulls: bool,
        options: &WriteOptions,
        watch: Watch<'w>,
    ) -> Result<Outgoing<'w>> {
        let total = &dataset.manifest.statistics;
        let missing = total.steps - total.recorded_actions - total.proxy_actions;
        let has_actions = dataset.steps.column_with_name(step::ACTION).is_some();
        let unlabelled =
            if nulls || !has_actions || (missing == 0 && options.unlabelled == Unlabelled::Drop) {
                Unlabelled::Refuse
            } else {
                options.unlabelled
            };
        if !nulls && has_actions && missing > 0 && unlabelled == Unlabelled::Refuse {
            return Err(Error::failed(format!("{missing} of {} steps have no action, and the format cannot leave one out", total.steps))
                .hint("label them first, or say what becomes of them: `unlabelled: drop` or `unlabelled: fill`"));
        }
        let kept = dataset
            .trajectories
            .fields()
            .iter()
            .filter(|field| !trajectory::INTRINSIC.contains(&field.name().as_str()));
        let carried = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
        let (trajectories, rows, length) = (total.trajectories, total.rows, total.steps);
        let (steps, verified, masks) = (Arc::clone(&dataset.steps), Cell::new(false), Vec::new());
        let mut outgoing = Outgoing {
            dataset,
            unlabelled,
            fill: options.fill,
            masks,
            steps,
            carried,
            trajectories,
            rows,
            length,
            verified,
            watch,
        };
        for mask in MASKS {
            let leaves = if mask.0 == step::ACTION {
                unlabelled == Unlabelled::Fill
            } else {
                !nulls && outgoing.has_gaps(mask.0)?
            };
            if leaves {
                outgoing.mark(mask)?;
            }
        }
        if unlabelled == Unlabelled::Drop {
            let (mut trajectories, mut rows, mut length) = (0, 0, 0);
            for leaving in outgoing.pass(Some(&[step::ACTION]))? {
                let leaving = leaving?;
                (trajectories, rows, length) = (
                    trajectories + 1,
                    rows + leaving.steps.num_rows() as u64,
                    length + leaving.length as u64,
                );
            }
            (outgoing.trajectories, outgoing.rows, outgoing.length) = (trajectories, rows, length);
        }
        Ok(outgoing)
    }

    /// Whether the column `name` is null at some step.
    fn has_gaps(&self, name: &str) -> Result<bool> {
        if !self
            .dataset
            .steps
            .field_with_name(name)
            .is_ok_and(Field::is_nullable)
        {
            return Ok(false);
        }
        for leaving in self.pass(Some(&[name]))? {
            if leaving?
                .column(name)
                .is_some_and(|column| column.null_count() > 0)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets a column leave that says where another is null.
    fn mark(&mut self, mask: (&'static str, &'static str)) -> Result<()> {
        let (name, valid) = mask;
        if self.steps.column_with_name(valid).is_some() {
            return Err(Error::failed(format!("the dataset has a column `{valid}` already, which is to say where `{name}` is missing"))
                .hint("leave it out with `columns`"));
        }
        self.steps =
            Arc::new(with_field(&self.steps, Field::new(valid, DataType::Boolean, false)).0);
        self.masks.push(mask);
        Ok(())
    }

    /// Columns of steps as they leave: those of the dataset, in its order, and those that say where others are missing.
    pub fn steps(&self) -> &SchemaRef {
        &self.steps
    }

    /// Columns of [`Leaving::about`].
    pub fn carried(&self) -> &SchemaRef {
        &self.carried
    }

    /// Number of trajectories that leave.
    pub fn trajectories(&self) -> u64 {
        self.trajectories
    }

    /// Rows that leave, final observations included.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Steps that leave: rows that are not final observations.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What the dataset says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.dataset.manifest
    }

    /// Goes through the dataset in its order, with the columns of steps named, all where `None`.
    ///
    /// # Errors
    /// Where a column is not one of [`Outgoing::steps`].
    pub fn pass(&self, columns: Option<&[&str]>) -> Result<Pass<'_>> {
        let known = |name: &str| self.dataset.steps.column_with_name(name).is_some();
        let masked = |name: &str| self.masks.iter().any(|(_, valid)| *valid == name);
        let wanted: Vec<String> = match columns {
            None => self
                .dataset
                .steps
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            Some(names) => {
                if let Some(name) = names.iter().find(|name| !known(name) && !masked(name)) {
                    return Err(Error::failed(format!(
                        "there is no column `{name}` to write"
                    )));
                }
                let mut wanted: Vec<String> = Vec::new();
                for name in names.iter().filter(|name| known(name)) {
                    if !wanted.iter().any(|known| known == name) {
                        wanted.push((*name).to_owned());
                    }
                }
                wanted
            }
        };
        let masks: Vec<_> = self
            .masks
            .iter()
            .copied()
            .filter(|(_, valid)| columns.is_none_or(|names| names.contains(valid)))
            .collect();
        let fills =
            self.unlabelled == Unlabelled::Fill && wanted.iter().any(|name| name == step::ACTION);
        let mut reads = wanted.clone();
        let mut also = |name: &str| {
            if !reads.iter().any(|read| read == name) {
                reads.push(name.to_owned());
            }
        };
        also(step::IS_FINAL);
        masks.iter().for_each(|(name, _)| also(name));
        if self.unlabelled == Unlabelled::Drop {
            also(step::ACTION);
            also(step::TERMINATED);
            also(step::TRUNCATED);
        }
        let mut schema = Schema::new(Vec::<Field>::new());
        let leaves =
            |name: &String| wanted.contains(name) || masks.iter().any(|(_, valid)| valid == name);
        for field in self
            .steps
            .fields()
            .iter()
            .filter(|field| leaves(field.name()))
        {
            schema = with_field(&schema, field.as_ref().clone()).0;
        }
        (self.watch)(None)?;
        let shards = self.dataset.manifest.shards.iter();
        Ok(Pass {
            outgoing: self,
            reads,
            masks,
            fills,
            schema: Arc::new(schema),
            shards,
            open: None,
            ready: VecDeque::new(),
            next: 0,
        })
    }
}

/// One passage through a dataset, trajectory by trajectory.
pub struct Pass<'a> {
    outgoing: &'a Outgoing<'a>,
    reads: Vec<String>,
    masks: Vec<(&'static str, &'static str)>,
    fills: bool,
    schema: SchemaRef,
    shards: std::slice::Iter<'a, ShardEntry>,
    open: Option<Shard>,
    ready: VecDeque<Leaving>,
    next: u64,
}

/// A shard that is being read.
struct Shard {
    reader: ShardReader,
    carried: RecordBatch,
    /// First row and number of rows of each trajectory.
    spans: Vec<Range<u64>>,
    next: usize,
}

impl Pass<'_> {
    /// Columns of the trajectories' steps, in order.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn shard(&self, entry: &ShardEntry) -> Result<Shard> {
        let dataset = &self.outgoing.dataset;
        // The first passage holds every file against its checksum.
        if !self.outgoing.verified.get() {
            dataset.verify_file(&entry.trajectories)?;
            dataset.verify_file(&entry.steps)?;
        }
        let table = dataset.open_trajectories(entry)?;
        let table = table.read(std::slice::from_ref(&(0..table.rows())), None)?;
        let number = |name: &str| {
            let column = table
                .column_by_name(name)
                .and_then(|column| column.as_primitive_opt::<Int64Type>());
            column.ok_or_else(|| {
                Error::failed(format!(
                    "{}: `{name}` is not an int64 column",
                    entry.trajectories.path
                ))
            })
        };
        let (first, rows) = (number(trajectory::FIRST_ROW)?, number(trajectory::ROWS)?);
        let span = |(first, rows): (&i64, &i64)| {
            (*first as u64)..(*first as u64).saturating_add(*rows as u64)
        };
        let spans = first.values().iter().zip(rows.values()).map(span).collect();
        let keep = self
            .outgoing
            .carried
            .fields()
            .iter()
            .map(|field| table.schema().index_of(field.name()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Shard {
            reader: dataset.open_steps(entry)?,
            carried: table.project(&keep)?,
            spans,
            next: 0,
        })
    }

    /// Reads the next block of whole trajectories; `false` after the last.
    fn block(&mut self) -> Result<bool> {
        loop {
            let done = self
                .open
                .as_ref()
                .is_none_or(|shard| shard.next == shard.spans.len());
            if !done {
                break;
            }
            let Some(entry) = self.shards.next() else {
                return Ok(false);
            };
            self.open = Some(self.shard(entry)?);
            if self.shards.as_slice().is_empty() {
                self.outgoing.verified.set(true);
            }
        }
        let target = schema::chunk_rows(&self.outgoing.dataset.steps) as u64;
        let Some(shard) = &mut self.open else {
            return Ok(false);
        };
        let start = shard.next;
        let mut rows = 0;
        while let Some(span) = shard
            .spans
            .get(shard.next)
            .filter(|span| rows == 0 || rows + (span.end - span.start) <= target)
        {
            rows += span.end - span.start;
            shard.next += 1;
        }
        let spans = &shard.spans[start..shard.next];
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for span in spans {
            match ranges.last_mut() {
                Some(last) if last.end == span.start => last.end = span.end,
                _ => ranges.push(span.clone()),
            }
        }
        let batch = shard.reader.read(&ranges, Some(&self.reads))?;
        (self.outgoing.watch)(Some(rows))?;
        let about = shard.carried.slice(start, spans.len());
        let mut at = 0;
        let lengths: Vec<usize> = spans
            .iter()
            .map(|span| (span.end - span.start) as usize)
            .collect();
        for (row, rows) in lengths.into_iter().enumerate() {
            self.trajectory(about.slice(row, 1), &batch.slice(at, rows))?;
            at += rows;
        }
        Ok(true)
    }

    /// Makes a trajectory ready, as one or, where unlabelled steps are dropped, as its labelled runs.
    fn trajectory(&mut self, about: RecordBatch, steps: &RecordBatch) -> Result<()> {
        let rows = steps.num_rows();
        let is_final = flags(steps, step::IS_FINAL)?;
        let length = rows - usize::from(rows > 0 && is_final.value(rows - 1));
        if self.outgoing.unlabelled != Unlabelled::Drop {
            let steps = self.filled(steps, length)?;
            return self.push(about, &steps, length);
        }
        let action = steps
            .column_by_name(step::ACTION)
            .ok_or_else(|| Error::failed("there is no column `action`"))?;
        let mut start = 0;
        while start < length {
            let Some(first) = (start..length).find(|row| action.is_valid(*row)) else {
                break;
            };
            let end = (first..length)
                .find(|row| action.is_null(*row))
                .unwrap_or(length);
            // The observation after the run's last action is that of the next row, where there is one.
            let known = end < rows;
            let run = steps.slice(first, end - first + usize::from(known));
            let run = if end < length {
                cut_off(&run, end - first)?
            } else {
                run
            };
            self.push(about.clone(), &self.filled(&run, end - first)?, end - first)?;
            start = end + 1;
        }
        Ok(())
    }

    fn push(&mut self, about: RecordBatch, steps: &RecordBatch, length: usize) -> Result<()> {
        let keep = self
            .schema
            .fields()
            .iter()
            .map(|field| steps.schema().index_of(field.name()))
            .collect::<Result<Vec<_>, _>>()?;
        let columns = keep
            .into_iter()
            .map(|index| Arc::clone(steps.column(index)))
            .collect();
        let options =
            arrow::array::RecordBatchOptions::new().with_row_count(Some(steps.num_rows()));
        let steps = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        self.ready.push_back(Leaving {
            index: self.next,
            about,
            steps,
            length,
        });
        self.next += 1;
        Ok(())
    }

    /// `steps` with what is missing marked, and missing actions filled in, where the user says so.
    fn filled(&self, steps: &RecordBatch, length: usize) -> Result<RecordBatch> {
        let mut filled = steps.clone();
        let column = |name: &str| {
            steps
                .column_by_name(name)
                .ok_or_else(|| Error::failed(format!("there is no column `{name}`")))
        };
        for (name, valid) in &self.masks {
            let column = column(name)?;
            let flags =
                BooleanArray::from_iter((0..column.len()).map(|row| Some(column.is_valid(row))));
            filled = with_column(
                &filled,
                Field::new(*valid, DataType::Boolean, false),
                Arc::new(flags),
            )?;
        }
        if self.fills {
            let action = column(step::ACTION)?;
            if (0..length).any(|row| action.is_null(row)) {
                let field = steps.schema().field_with_name(step::ACTION)?.clone();
                let value = filler(action.data_type(), self.outgoing.fill)?;
                let indices = (0..action.len()).map(|row| {
                    if action.is_null(row) && row < length {
                        (1, 0)
                    } else {
                        (0, row)
                    }
                });
                let action = arrow::compute::interleave(
                    &[action.as_ref(), value.as_ref()],
                    &indices.collect::<Vec<_>>(),
                )?;
                filled = with_column(&filled, field, action)?;
            }
        }
        Ok(filled)
    }
}

impl Iterator for Pass<'_> {
    type Item = Result<Leaving>;

    fn next(&mut self) -> Option<Result<Leaving>> {
        loop {
            if let Some(leaving) = self.ready.pop_front() {
                return Some(Ok(leaving));
            }
            match self.block() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn flags<'a>(steps: &'a RecordBatch, name: &str) -> Result<&'a BooleanArray> {
    let column = steps
        .column_by_name(name)
        .and_then(|column| column.as_boolean_opt());
    column.ok_or_else(|| Error::failed(format!("`{name}` is not a boolean column of steps")))
}

#[cfg(test)]
mod tests {
    use arrow::array::Float32Array;
    use arrow::datatypes::Float32Type;
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::manifest::{Lineage, Statistics, VERSION};
    use crate::dataset::write::ShardWriter;
    use crate::dataset::{Chunk, store};

    /// A dataset whose steps have an action where `actions` says so; a trajectory each, the last row final where `known`.
    fn dataset(folder: &Path, actions: &[Vec<bool>], known: bool) -> Dataset {
        for part in ["steps", "trajectories"] {
            store::create_dir(&folder.join(part)).unwrap();
        }
        let fields = vec![
            Field::new(step::TRAJECTORY_ID, DataType::Int64, false),
            Field::new(step::STEP, DataType::Int32, false),
            Field::new(step::ACTION, DataType::Float32, true),
            Field::new(step::TERMINATED, DataType::Boolean, false),
            Field::new(step::TRUNCATED, DataType::Boolean, false),
            Field::new(step::IS_FINAL, DataType::Boolean, false),
        ];
        let steps: SchemaRef = Arc::new(Schema::new(fields));
        let carried = Arc::new(Schema::new(vec![
            Field::new(trajectory::TRAJECTORY_ID, DataType::Int64, false),
            Field::new(trajectory::UID, DataType::Utf8, false),
        ]));
        let mut writer = ShardWriter::create(folder, 0, &steps, &carried, true).unwrap();
        for (id, actions) in actions.iter().enumerate() {
            let (length, rows) = (actions.len(), actions.len() + usize::from(known));
            let flags = |of: &dyn Fn(usize) -> bool| -> ArrayRef {
                Arc::new(BooleanArray::from_iter((0..rows).map(|row| Some(of(row)))))
            };
            let action = (0..rows)
                .map(|row| (row < length && actions[row]).then_some((id * 1000 + row) as f32));
            let columns: Vec<ArrayRef> = vec![
                Arc::new(arrow::array::Int64Array::from(vec![id as i64; rows])),
                Arc::new(arrow::array::Int32Array::from_iter_values(0..rows as i32)),
                Arc::new(action.collect::<Float32Array>()),
                flags(&|row| row + 1 == length),
                flags(&|_| false),
                flags(&|row| row >= length),
            ];
            let batch = RecordBatch::try_new(Arc::clone(&steps), columns).unwrap();
            let about: Vec<ArrayRef> = vec![
                Arc::new(arrow::array::Int64Array::from(vec![id as i64])),
                Arc::new(arrow::array::StringArray::from(vec![format!("u{id}")])),
            ];
            let about = RecordBatch::try_new(Arc::clone(&carried), about).unwrap();
            writer
                .write(&Chunk::new(batch, about, vec![0, rows]))
                .unwrap();
        }
        let shard = writer.finish().unwrap();
        let manifest = Manifest {
            trajmill: VERSION,
            tool: String::new(),
            fingerprint: String::new(),
            columns: schema::describe(&steps),
            statistics: Statistics {
                ..shard.statistics.clone()
            },
            shards: vec![shard],
            lineage: Lineage::default(),
        };
        store::write(
            &crate::dataset::layout::manifest(folder),
            &manifest.to_bytes().unwrap(),
        )
        .unwrap();
        Dataset::open(folder).unwrap()
    }

    fn with(unlabelled: Unlabelled) -> WriteOptions {
        WriteOptions {
            unlabelled,
            fill: -3.0,
            ..WriteOptions::default()
        }
    }

    fn all(outgoing: &Outgoing) -> Vec<Leaving> {
        outgoing
            .pass(None)
            .unwrap()
            .collect::<Result<Vec<_>>>()
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Every labelled step leaves once, with the observation after it where that is known; nothing else leaves.
        #[test]
        fn dropped_steps_cut_and_nothing_is_lost(actions in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..12), 1..6), known in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let outgoing = Outgoing::new(dataset(folder.path(), &actions, known), false, &with(Unlabelled::Drop)).unwrap();
            let leaving = all(&outgoing);
            let mut expected = Vec::new();
            for (id, actions) in actions.iter().enumerate() {
                expected.extend(actions.iter().enumerate().filter(|(_, there)| **there).map(|(row, _)| (id * 1000 + row) as f32));
            }
            let mut found = Vec::new();
            for leaving in &leaving {
                let action = leaving.column(step::ACTION).unwrap();
                prop_assert_eq!(action.null_count(), 0);
                found.extend(action.as_primitive::<Float32Type>().values().iter().copied());
                let id: usize = leaving.text(trajectory::UID).unwrap()[1..].parse().unwrap();
                let flag = |name: &str, row: usize| leaving.steps[name].as_boolean().value(row);
                let end = leaving.steps["step"].as_primitive::<arrow::datatypes::Int32Type>().value(leaving.length - 1) as usize + 1;
                let whole = end == actions[id].len();
                prop_assert_eq!(leaving.has_final(), known || !whole);
                prop_assert_eq!(flag(step::TERMINATED, leaving.length - 1), whole);
                prop_assert_eq!(flag(step::TRUNCATED, leaving.length - 1), !whole);
                prop_assert!((0..leaving.steps.num_rows()).all(|row| flag(step::IS_FINAL, row) == (row == leaving.length)));
                prop_assert!(leaving.length == leaving.steps.num_rows() || leaving.steps[step::ACTION].is_null(leaving.length));
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(outgoing.trajectories(), leaving.len() as u64);
            prop_assert_eq!(outgoing.length(), leaving.iter().map(|leaving| leaving.length as u64).sum::<u64>());
            prop_assert_eq!(outgoing.rows(), leaving.iter().map(|leaving| leaving.steps.num_rows() as u64).sum::<u64>());
        }

        #[test]
        fn filled_steps_are_marked(actions in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..12), 1..6), known in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let outgoing = Outgoing::new(dataset(folder.path(), &actions, known), false, &with(Unlabelled::Fill)).unwrap();
            for (leaving, actions) in all(&outgoing).iter().zip(&actions) {
                prop_assert_eq!(&leaving.steps.schema(), outgoing.steps());
                let (action, valid) = (leaving.column(step::ACTION).unwrap(), leaving.column(ACTION_VALID).unwrap());
                for (row, there) in actions.iter().enumerate() {
                    prop_assert_eq!(valid.as_boolean().value(row), *there);
                    prop_assert!(action.is_valid(row) && (*there || action.as_primitive::<Float32Type>().value(row) == -3.0));
                }
            }
        }
    }

    #[test]
    fn what_has_no_action_is_refused_unless_the_user_or_the_format_says() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset(folder.path(), &[vec![true, false, true]], true);
        let error = Outgoing::new(dataset.clone(), false, &with(Unlabelled::Refuse))
            .err()
            .unwrap();
        assert!(
            error.message.contains("1 of 3 steps have no action"),
            "{error}"
        );
        let kept = Outgoing::new(dataset.clone(), true, &with(Unlabelled::Drop)).unwrap();
        assert_eq!(
            (
                kept.trajectories(),
                kept.rows(),
                kept.steps().fields().len()
            ),
            (1, 4, 6)
        );
        let few: Vec<Leaving> = kept
            .pass(Some(&[step::ACTION]))
            .unwrap()
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(
            (
                few[0].steps.num_columns(),
                few[0].length,
                few[0].has_final()
            ),
            (1, 3, true)
        );
        assert!(kept.pass(Some(&["nothing"])).is_err());
        // A byte that is not as the manifest has it stops the first passage.
        let path = folder.path().join("steps/00000.parquet");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        store::remove(&path).unwrap();
        store::write(&path, &bytes).unwrap();
        let outgoing = Outgoing::new(dataset, true, &with(Unlabelled::Refuse)).unwrap();
        assert!(
            outgoing
                .pass(None)
                .unwrap()
                .next()
                .unwrap()
                .err()
                .unwrap()
                .message
                .contains("corrupt")
        );
    }
}
