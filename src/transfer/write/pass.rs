//! One pass through a dataset that is being written, trajectory by trajectory.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};

use super::unlabelled::{cut_off, filler};
use super::{Unlabelled, Watch, null_parts};
use crate::dataset::block::{with_column, with_field};
use crate::dataset::late_frames::LateFrames;
use crate::dataset::schema::{self, action_source, step, trajectory};
use crate::dataset::{Dataset, ShardEntry, ShardReader};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::models::{CODES, Models};

/// One trajectory that a writer receives.
#[derive(Debug, Clone)]
pub struct OutgoingTrajectory {
    /// Its position in the output, from 0.
    pub index: u64,
    /// One row of facts: `trajectory_id`, `uid`, `source_key`, `source`, and the columns that the
    /// dataset carries along.
    pub about: RecordBatch,
    /// Its rows, including the final observation, with the requested columns.
    pub steps: RecordBatch,
    /// The number of steps: rows that are not final. The final observation, if there is one, is row
    /// `length`.
    pub length: usize,
    /// The values of `action_source` that a format without text has a flag for.
    pub flagged_sources: Vec<&'static str>,
}

impl OutgoingTrajectory {
    /// Returns whether the observation after the last action is known.
    pub fn has_final(&self) -> bool {
        self.length < self.steps.num_rows()
    }

    /// Returns the column `name` of its steps, without the row of the final observation.
    pub fn column(&self, name: &str) -> Option<ArrayRef> {
        Some(self.steps.column_by_name(name)?.slice(0, self.length))
    }

    /// Returns for each step the value of `column` in the next row. If there is no final row, the
    /// value of the last step is repeated.
    ///
    /// # Errors
    /// Returns an error if `column` has fewer rows than the trajectory.
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

    /// Returns the name of the trajectory in errors.
    pub(crate) fn place(&self) -> String {
        place(&self.about)
    }

    /// Returns the text in the column `name` of the facts about the trajectory.
    pub fn text(&self, name: &str) -> Option<&str> {
        let column = self.about.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(0).then(|| column.value(0))
    }
}

/// The dataset that passes read, and how they prepare its trajectories.
pub(super) struct Passes<'w> {
    pub(super) dataset: Dataset,
    /// See [`Writer::whole`](super::Writer::whole).
    pub(super) whole: Option<fn(&Field) -> bool>,
    /// The columns of steps that are written: those of the dataset, and the validity columns.
    pub(super) steps: SchemaRef,
    /// The columns whose validity columns are written, each with the name of that column.
    pub(super) masks: Vec<(&'static str, &'static str)>,
    /// The table of models, if codes are written in place of `action_model`.
    pub(super) models: Option<Models>,
    /// The columns of [`OutgoingTrajectory::about`].
    pub(super) carried: SchemaRef,
    pub(super) unlabelled: Unlabelled,
    pub(super) fill: f64,
    pub(super) watch: Watch<'w>,
}

impl Passes<'_> {
    /// Returns the values of `action_source` that a format without text has a flag for: `proxy`,
    /// and the rare ones that the dataset has.
    pub(super) fn flagged_sources(&self) -> Vec<&'static str> {
        let total = &self.dataset.manifest.statistics;
        let occurs = |word: &str| match word {
            action_source::DERIVED => total.derived_actions > 0,
            action_source::PATCHED => total.patched_actions > 0,
            _ => true,
        };
        action_source::FLAGGED
            .into_iter()
            .filter(|word| occurs(word))
            .collect()
    }

    /// Returns what decodes the frames that the dataset refers to.
    pub(super) fn late_frames(&self) -> LateFrames {
        let decoded = self.dataset.decoded.as_ref();
        LateFrames::new(
            decoded.map(|decoded| &decoded.by),
            self.dataset.stored_steps(),
        )
    }

    /// Starts a pass with the given columns of steps, or all columns if `columns` is `None`. Frames
    /// are decoded, or stay references if `late` is true.
    ///
    /// # Errors
    /// Returns an error if there is no such column, or if the observer returns one.
    pub(super) fn start(&self, columns: Option<&[&str]>, late: bool) -> Result<Pass<'_>> {
        let known = |name: &str| self.dataset.steps.column_with_name(name).is_some();
        let masked = |name: &str| self.masks.iter().any(|(_, valid)| *valid == name);
        let is_coded = |name: &str| self.models.is_some() && name == CODES;
        let wanted: Vec<String> = match columns {
            None => self
                .dataset
                .steps
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            Some(names) => {
                if let Some(name) = names
                    .iter()
                    .find(|name| !known(name) && !masked(name) && !is_coded(name))
                {
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
        let codes = self.models.is_some() && columns.is_none_or(|names| names.contains(&CODES));
        let mut reads = wanted.clone();
        let mut also = |name: &str| {
            if !reads.iter().any(|read| read == name) {
                reads.push(name.to_owned());
            }
        };
        also(step::IS_FINAL);
        masks.iter().for_each(|(name, _)| also(name));
        if codes {
            also(step::ACTION_MODEL);
        }
        if self.unlabelled == Unlabelled::Drop {
            also(step::ACTION);
            also(step::TERMINATED);
            also(step::TRUNCATED);
        }
        let mut schema = Schema::new(Vec::<Field>::new());
        let is_written = |name: &String| {
            wanted.contains(name)
                || masks.iter().any(|(_, valid)| valid == name)
                || codes && name == CODES
        };
        for field in self
            .steps
            .fields()
            .iter()
            .filter(|field| is_written(field.name()))
        {
            let stored = self.dataset.stored_steps().field_with_name(field.name());
            let field = stored.ok().filter(|_| late).unwrap_or(field);
            schema = with_field(&schema, field.clone()).0;
        }
        (self.watch)(None)?;
        let shards = self.dataset.manifest.shards.iter();
        Ok(Pass {
            passes: self,
            reads,
            masks,
            fills,
            codes,
            schema: Arc::new(schema),
            shards,
            open: None,
            ready: VecDeque::new(),
            next: 0,
            reports: true,
            frames: (!late).then(|| self.late_frames()),
        })
    }
}

/// One pass through a dataset, trajectory by trajectory.
pub struct Pass<'a> {
    passes: &'a Passes<'a>,
    reads: Vec<String>,
    masks: Vec<(&'static str, &'static str)>,
    fills: bool,
    codes: bool,
    schema: SchemaRef,
    shards: std::slice::Iter<'a, ShardEntry>,
    open: Option<Shard>,
    ready: VecDeque<OutgoingTrajectory>,
    next: u64,
    /// Whether the observer learns of each block.
    reports: bool,
    /// What decodes frames; `None` if they stay references.
    frames: Option<LateFrames>,
}

/// A shard that is being read.
struct Shard {
    reader: ShardReader,
    carried: RecordBatch,
    /// The rows of each trajectory.
    spans: Vec<Range<u64>>,
    next: usize,
}

impl Pass<'_> {
    /// Leaves the report of progress to the caller, who takes longer with the rows than the pass.
    pub(super) fn unreported(mut self) -> Self {
        self.reports = false;
        self
    }

    /// Opens a shard.
    fn shard(&self, entry: &ShardEntry) -> Result<Shard> {
        let dataset = &self.passes.dataset;
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
            .passes
            .carried
            .fields()
            .iter()
            .map(|field| table.schema().index_of(field.name()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Shard {
            reader: dataset.open_stored_steps(entry)?,
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
        }
        let steps = match self.frames {
            Some(_) => &self.passes.dataset.steps,
            None => self.passes.dataset.stored_steps(),
        };
        let target = schema::block_rows(steps) as u64;
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
        if self.reports {
            (self.passes.watch)(Some(rows))?;
        }
        let about = shard.carried.slice(start, spans.len());
        let mut at = 0;
        let lengths: Vec<usize> = spans
            .iter()
            .map(|span| (span.end - span.start) as usize)
            .collect();
        for (row, rows) in lengths.into_iter().enumerate() {
            let (about, steps) = (about.slice(row, 1), batch.slice(at, rows));
            let steps = match &mut self.frames {
                Some(frames) => frames.rows(&steps, &place(&about))?,
                None => steps,
            };
            self.add(about, &steps)?;
            at += rows;
        }
        Ok(true)
    }

    /// Adds a trajectory to `ready`. If unlabelled steps are dropped, adds each run of labelled
    /// steps as a trajectory.
    fn add(&mut self, about: RecordBatch, steps: &RecordBatch) -> Result<()> {
        let rows = steps.num_rows();
        let is_final = flags(steps, step::IS_FINAL)?;
        let length = rows - usize::from(rows > 0 && is_final.value(rows - 1));
        if self.passes.unlabelled != Unlabelled::Drop {
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
            // The next row, if there is one, holds the observation after the last action of the
            // run.
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
        if let Some(is_written) = self.passes.whole {
            null_parts::refuse(&about, &steps, is_written)?;
        }
        self.ready.push_back(OutgoingTrajectory {
            index: self.next,
            about,
            steps,
            length,
            flagged_sources: self.passes.flagged_sources(),
        });
        self.next += 1;
        Ok(())
    }

    /// Returns `steps` with columns that mark missing values, with the codes of models, and with
    /// missing actions filled if the user wants that.
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
        if let Some(models) = self.passes.models.as_ref().filter(|_| self.codes) {
            let codes = models.encode(column(step::ACTION_MODEL)?)?;
            filled = with_column(&filled, Models::field(), codes)?;
        }
        if self.fills {
            let action = column(step::ACTION)?;
            if (0..length).any(|row| action.is_null(row)) {
                let field = steps.schema().field_with_name(step::ACTION)?.clone();
                let value = filler(action.data_type(), self.passes.fill)?;
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
    type Item = Result<OutgoingTrajectory>;

    fn next(&mut self) -> Option<Result<OutgoingTrajectory>> {
        loop {
            if let Some(trajectory) = self.ready.pop_front() {
                return Some(Ok(trajectory));
            }
            match self.block() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Returns the name in errors of the trajectory with the facts `about`.
fn place(about: &RecordBatch) -> String {
    let keys = about.column_by_name(trajectory::SOURCE_KEY);
    let keys = keys.and_then(|keys| keys.as_string_opt::<i32>());
    let key = keys
        .filter(|keys| keys.is_valid(0))
        .map(|keys| keys.value(0));
    key.map_or_else(
        || "a trajectory".to_owned(),
        |key| format!("trajectory `{key}`"),
    )
}

fn flags<'a>(steps: &'a RecordBatch, name: &str) -> Result<&'a BooleanArray> {
    let column = steps
        .column_by_name(name)
        .and_then(|column| column.as_boolean_opt());
    column.ok_or_else(|| Error::failed(format!("`{name}` is not a boolean column of steps")))
}
