//! One pass over a dataset that is being written, trajectory by trajectory.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};

use super::Unlabelled;
use super::unlabelled::{cut_off, filler};
use crate::dataset::block::with_column;
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::{ShardEntry, ShardReader};
use crate::error::{Error, Result};
use crate::transfer::write::OutgoingDataset;

/// One trajectory on its way out.
#[derive(Debug, Clone)]
pub struct OutgoingTrajectory {
    /// Its place in the output, from 0.
    pub index: u64,
    /// One row: `trajectory_id`, `uid`, `source_key`, `source` and whatever else came along.
    pub about: RecordBatch,
    /// Its rows, the final observation included, with the columns that were asked for.
    pub steps: RecordBatch,
    /// Steps: rows that are not final. The final observation, where there is one, is row `length`.
    pub length: usize,
}

impl OutgoingTrajectory {
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

/// One passage through a dataset, trajectory by trajectory.
pub struct Pass<'a> {
    pub(super) outgoing: &'a OutgoingDataset<'a>,
    pub(super) reads: Vec<String>,
    pub(super) masks: Vec<(&'static str, &'static str)>,
    pub(super) fills: bool,
    pub(super) schema: SchemaRef,
    pub(super) shards: std::slice::Iter<'a, ShardEntry>,
    pub(super) open: Option<Shard>,
    pub(super) ready: VecDeque<OutgoingTrajectory>,
    pub(super) next: u64,
}

/// A shard that is being read.
pub(super) struct Shard {
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
        }
        let target = schema::block_rows(&self.outgoing.dataset.steps) as u64;
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
        self.ready.push_back(OutgoingTrajectory {
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
    type Item = Result<OutgoingTrajectory>;

    fn next(&mut self) -> Option<Result<OutgoingTrajectory>> {
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
