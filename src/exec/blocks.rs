//! Reads the trajectories of a task in output order, a block of whole trajectories at a time.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{Piece, Task};
use crate::dataset::block::with_column;
use crate::dataset::frame_references::SOURCE;
use crate::dataset::frames::Frames;
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::{Block, Dataset, Origin, ShardReader};
use crate::error::{Error, Result};

/// The number of files that a task keeps open. A shuffled result reads from everywhere.
const MOST_OPEN: usize = 64;

/// Opens the shards that tasks read.
pub struct Readers<'a> {
    sources: &'a [Dataset],
    /// What gives the frames that blocks refer to; `None` if columns are decoded when they are
    /// read.
    frames: Option<Arc<dyn Frames>>,
    /// The columns that are read at most.
    read: SchemaRef,
}

impl<'a> Readers<'a> {
    /// Returns readers of the datasets that a phase reads.
    pub fn new(sources: &'a [Dataset]) -> Readers<'a> {
        let read = sources.first().map(|source| Arc::clone(&source.steps));
        Readers {
            sources,
            frames: None,
            read: read.unwrap_or_else(|| Arc::new(Schema::empty())),
        }
    }

    /// Returns the readers, whose blocks then have the columns `read` at most and hold references
    /// whose frames `frames` gives.
    pub(super) fn with_frames(self, read: Schema, frames: Arc<dyn Frames>) -> Readers<'a> {
        Readers {
            read: Arc::new(read),
            frames: Some(frames),
            ..self
        }
    }

    /// Returns what gives the frames that blocks refer to.
    pub(super) fn frames(&self) -> Option<Arc<dyn Frames>> {
        self.frames.clone()
    }

    /// Returns the datasets that are read.
    pub(super) fn sources(&self) -> &'a [Dataset] {
        self.sources
    }

    fn open(&self, source: u32, shard: u32, steps: bool) -> Result<ShardReader> {
        let missing = || {
            Error::failed(format!(
                "the plan names shard {shard} of source {source}, which does not exist"
            ))
        };
        let dataset = self.sources.get(source as usize).ok_or_else(missing)?;
        let entry = dataset
            .manifest
            .shards
            .get(shard as usize)
            .ok_or_else(missing)?;
        if steps && self.frames.is_some() {
            dataset.open_stored_steps(entry)
        } else if steps {
            dataset.open_steps(entry)
        } else {
            dataset.open_trajectories(entry)
        }
    }

    /// Returns the blocks of `task`, with the columns of steps that `columns` names.
    ///
    /// `written` are the columns that come out. If they are wider than what is read, as windows
    /// are, a block has fewer rows. The number of rows read at once does not shrink with them,
    /// because one row of a page costs as much to decode as the whole page.
    pub fn blocks<'b>(
        &'b self,
        task: &'b Task,
        columns: &'b [String],
        written: &Schema,
    ) -> Blocks<'b> {
        let read = schema::block_rows(&self.read);
        let target = read.min(schema::block_rows(written));
        Blocks {
            readers: self,
            task,
            columns,
            read,
            target,
            next: 0,
            held: None,
            open: HashMap::new(),
        }
    }
}

/// An iterator over a task's blocks.
pub struct Blocks<'b> {
    readers: &'b Readers<'b>,
    task: &'b Task,
    columns: &'b [String],
    /// The number of rows that are read at once.
    read: usize,
    /// The number of rows of a block.
    target: usize,
    /// The next trajectory of the task to read.
    next: usize,
    /// What was read last, and the first of its trajectories that no block has held yet.
    held: Option<(Block, usize)>,
    open: HashMap<(u32, u32, bool), ShardReader>,
}

impl Iterator for Blocks<'_> {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Result<Block>> {
        let (held, start) = match self.held.take().filter(|(held, start)| *start < held.len()) {
            Some(held) => held,
            None => match self.more()? {
                Ok(held) => (held, 0),
                Err(error) => return Some(Err(error)),
            },
        };
        let end = (start + 1..held.len())
            .find(|end| held.offsets[*end] - held.offsets[start] >= self.target)
            .unwrap_or(held.len());
        if (start, end) == (0, held.len()) {
            return Some(Ok(held));
        }
        let block = held.slice(start..end);
        self.held = Some((held, end));
        Some(Ok(block))
    }
}

impl Blocks<'_> {
    /// Reads the next trajectories; `None` at the end.
    fn more(&mut self) -> Option<Result<Block>> {
        let (start, target) = (self.next, self.read as u64);
        let mut rows = 0;
        while let Some(piece) = self.task.pieces.get(self.next).filter(|_| rows < target) {
            rows += piece.rows;
            self.next += 1;
        }
        (self.next > start).then(|| self.block(start..self.next))
    }

    fn block(&mut self, range: Range<usize>) -> Result<Block> {
        let pieces = &self.task.pieces[range.clone()];
        let steps = self.gather(pieces, true, |piece| {
            piece.first_row..piece.first_row + piece.rows
        })?;
        let metadata = self.gather(pieces, false, |piece| piece.row..piece.row + 1)?;
        let mut offsets = Vec::with_capacity(pieces.len() + 1);
        offsets.push(0);
        let mut end = 0;
        for piece in pieces {
            end += usize::try_from(piece.rows)
                .map_err(|_| Error::failed("a trajectory has more rows than fit in memory"))?;
            offsets.push(end);
        }
        let origin = self.origin(pieces, &steps).map(Arc::new);
        let id = |name: &str| Field::new(name, DataType::Int64, false);
        let ids: Int64Array = pieces
            .iter()
            .flat_map(|piece| std::iter::repeat_n(piece.id, piece.rows as usize))
            .collect();
        let steps = with_column(&steps, id(step::TRAJECTORY_ID), Arc::new(ids))?;
        let ids: Int64Array = pieces.iter().map(|piece| piece.id).collect();
        let mut trajectories =
            with_column(&metadata, id(trajectory::TRAJECTORY_ID), Arc::new(ids))?;
        for (field, column) in self
            .task
            .computed
            .schema()
            .fields()
            .iter()
            .zip(self.task.computed.columns())
        {
            let column: ArrayRef = column.slice(range.start, range.len());
            trajectories = with_column(&trajectories, field.as_ref().clone(), column)?;
        }
        if self.readers.frames.is_some() && self.readers.sources.len() > 1 {
            let of = pieces
                .iter()
                .map(|piece| i32::try_from(piece.source).unwrap_or(-1));
            let of: Int32Array = of.collect();
            let field = Field::new(SOURCE, DataType::Int32, false);
            trajectories = with_column(&trajectories, field, Arc::new(of))?;
        }
        Ok(Block {
            origin,
            frames: self.readers.frames.clone(),
            ..Block::new(steps, trajectories, offsets)
        })
    }

    /// Returns the row group that `pieces` make up, if they are exactly one; `steps` are its rows.
    fn origin(&self, pieces: &[Piece], steps: &RecordBatch) -> Option<Origin> {
        let (first, last) = pieces.first().zip(pieces.last())?;
        let follows = |pair: &[Piece]| {
            (
                pair[0].source,
                pair[0].shard,
                pair[0].first_row + pair[0].rows,
            ) == (pair[1].source, pair[1].shard, pair[1].first_row)
        };
        let reader = self
            .open
            .get(&(first.source, first.shard, true))
            .filter(|_| pieces.windows(2).all(follows))?;
        reader.origin(&(first.first_row..last.first_row + last.rows), steps)
    }

    /// Reads the rows `of` each piece, each shard once and in file order, and returns them in the
    /// order of the pieces.
    fn gather(
        &mut self,
        pieces: &[Piece],
        steps: bool,
        of: impl Fn(&Piece) -> Range<u64>,
    ) -> Result<RecordBatch> {
        let mut shards: BTreeMap<(u32, u32), Vec<Range<u64>>> = BTreeMap::new();
        for piece in pieces {
            shards
                .entry((piece.source, piece.shard))
                .or_default()
                .push(of(piece));
        }
        // Where the rows of each piece begin in what is read: shard after shard, rows ascending.
        // The rows of copies are read once.
        let mut places: HashMap<(u32, u32, u64), u64> = HashMap::new();
        let mut batches = Vec::with_capacity(shards.len());
        let mut at = 0;
        for (&(source, shard), ranges) in &mut shards {
            ranges.sort_unstable_by_key(|range| (range.start, range.end));
            ranges.dedup();
            for range in ranges.iter() {
                places.insert((source, shard, range.start), at);
                at += range.end - range.start;
            }
            batches.push(self.read(source, shard, steps, &merged(ranges))?);
        }
        let batch = match batches.as_slice() {
            [batch] => batch.clone(),
            [first, ..] => concat_batches(&first.schema(), &batches)?,
            [] => return Err(Error::failed("a block has no trajectories")),
        };
        let starts = pieces.iter().map(|piece| {
            let range = of(piece);
            let at = places
                .get(&(piece.source, piece.shard, range.start))
                .copied()
                .unwrap_or_default();
            at..at + (range.end - range.start)
        });
        let starts: Vec<Range<u64>> = starts.collect();
        let in_order = starts.first().is_some_and(|first| first.start == 0)
            && starts.windows(2).all(|pair| pair[0].end == pair[1].start);
        if in_order {
            return Ok(batch);
        }
        let indices: UInt64Array = starts.into_iter().flatten().collect();
        Ok(take_record_batch(&batch, &indices)?)
    }

    fn read(
        &mut self,
        source: u32,
        shard: u32,
        steps: bool,
        ranges: &[Range<u64>],
    ) -> Result<RecordBatch> {
        if self.open.len() >= MOST_OPEN {
            self.open.clear();
        }
        let reader = match self.open.entry((source, shard, steps)) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(self.readers.open(source, shard, steps)?)
            }
        };
        if steps {
            reader.read(ranges, Some(self.columns))
        } else {
            let carried = reader
                .names()
                .filter(|name| !trajectory::COMPUTED.contains(&name.as_str()))
                .cloned()
                .collect::<Vec<_>>();
            reader.read(ranges, Some(&carried))
        }
    }
}

/// Joins adjacent ranges.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range.clone()),
        }
    }
    merged
}
