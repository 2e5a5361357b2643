//! Sorts the rows of a table by trajectory and step in bounded memory.
//!
//! As many rows as fit in memory are sorted and written to a scratch file, a run. Runs are merged,
//! as many at once as have their next rows in memory. A row carries the place from which it came.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{cast, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};

use super::rows::FileRows;
use crate::dataset::store::ScratchFile;
use crate::error::{Error, Result};

/// Bytes of rows that are sorted in memory at once.
pub(super) const MEMORY: usize = 128 << 20;

/// About the bytes that sorting takes for each row besides its values.
const KEY_BYTES: usize = 64;

/// The most runs that are merged at once.
const MOST_RUNS: usize = 64;

/// The columns that say where a row is in the source.
const FILE: &str = "\0file";
const ROW: &str = "\0row";

/// The rows of a table in the order of trajectories and steps.
pub(super) struct SortedRows {
    rows: FileRows,
    /// The files whose rows were read.
    files: Vec<PathBuf>,
    sorter: Sorter,
    sorted: Option<Merge>,
}

/// Where the rows of a sorted batch are in the source.
pub(super) struct Places {
    files: Vec<PathBuf>,
    batch: RecordBatch,
}

impl Places {
    /// Returns what messages call `row`.
    pub(super) fn of(&self, row: usize) -> String {
        let file = self.batch[FILE].as_primitive::<UInt32Type>().value(row);
        let at = self.batch[ROW].as_primitive::<UInt64Type>().value(row);
        let file = self.files.get(file as usize);
        let file = file.map(|file| file.display().to_string());
        format!("row {at} of {}", file.unwrap_or_default())
    }
}

impl SortedRows {
    /// Sorts `rows`, which have the columns of `table`, by the columns `keys`. Rows whose keys are
    /// equal stay in the order of the source. Scratch files are in `scratch`; `memory` bounds the
    /// bytes that are sorted at once.
    ///
    /// # Errors
    /// Returns an error if a column cannot be sorted.
    pub(super) fn new(
        rows: FileRows,
        table: &SchemaRef,
        mut keys: Vec<String>,
        scratch: &Path,
        memory: usize,
    ) -> Result<SortedRows> {
        let place = [
            Field::new(FILE, DataType::UInt32, false),
            Field::new(ROW, DataType::UInt64, false),
        ];
        let fields = table.fields().iter().cloned();
        let schema = Schema::new(fields.chain(place.map(Arc::new)).collect::<Vec<_>>());
        keys.extend([FILE, ROW].map(str::to_owned));
        Ok(SortedRows {
            rows,
            files: Vec::new(),
            sorter: Sorter {
                keys: Keys::new(&schema, keys)?,
                schema: Arc::new(schema),
                scratch: scratch.to_owned(),
                memory,
                chunk: (memory / MOST_RUNS / 2).max(1),
            },
            sorted: None,
        })
    }

    /// Returns the next batch, and where its rows are in the source; `None` after the last. The
    /// first call reads and sorts the table.
    pub(super) fn next(&mut self) -> Result<Option<(RecordBatch, Places)>> {
        let sorted = match &mut self.sorted {
            Some(sorted) => sorted,
            none => none.insert(self.sorter.sort(&mut self.rows, &mut self.files)?),
        };
        let batch = sorted.next(&self.sorter)?;
        Ok(batch.map(|batch| {
            let places = Places {
                files: self.files.clone(),
                batch: batch.clone(),
            };
            (batch, places)
        }))
    }
}

/// The columns by which rows are sorted.
struct Keys {
    names: Vec<String>,
    types: Vec<DataType>,
    converter: RowConverter,
}

impl Keys {
    fn new(table: &Schema, names: Vec<String>) -> Result<Keys> {
        let types = names.iter().map(|name| {
            Ok(match table.field_with_name(name)?.data_type() {
                DataType::Dictionary(_, values) => values.as_ref().clone(),
                other => other.clone(),
            })
        });
        let types = types.collect::<Result<Vec<_>>>()?;
        let fields = types.iter().cloned().map(SortField::new).collect();
        Ok(Keys {
            names,
            types,
            converter: RowConverter::new(fields)?,
        })
    }

    fn of(&self, batch: &RecordBatch) -> Result<Rows> {
        let columns = self.names.iter().zip(&self.types).map(|(name, data_type)| {
            let column = batch
                .column_by_name(name)
                .ok_or_else(|| Error::failed(format!("column `{name}` is missing")))?;
            Ok(cast(column, data_type)?)
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        Ok(self.converter.convert_columns(&columns)?)
    }
}

/// How rows are sorted.
struct Sorter {
    keys: Keys,
    /// The columns of the table, and those that say where a row is in the source.
    schema: SchemaRef,
    scratch: PathBuf,
    memory: usize,
    /// The target size of a batch of a run, in bytes.
    chunk: usize,
}

/// Sorted batches in a scratch file.
type Run = StreamReader<BufReader<ScratchFile>>;

impl Sorter {
    /// Sorts all `rows`, and puts their files into `files`.
    fn sort(&self, rows: &mut FileRows, files: &mut Vec<PathBuf>) -> Result<Merge> {
        // Runs are merged as soon as there are `MOST_RUNS` of about the same size.
        let mut levels: Vec<Vec<Run>> = vec![Vec::new()];
        let (mut pending, mut bytes) = (Vec::new(), 0);
        while let Some((batch, path, first)) = rows.next()? {
            if files.last() != Some(&path) {
                files.push(path);
            }
            let batch = self.placed(&batch, files.len() as u32 - 1, first as u64)?;
            bytes += batch.get_array_memory_size() + batch.num_rows() * KEY_BYTES;
            pending.push(batch);
            if bytes < self.memory {
                continue;
            }
            let run = self.write(self.in_memory(&mut pending)?)?;
            bytes = 0;
            levels[0].push(run);
            for level in 0.. {
                if levels[level].len() < MOST_RUNS {
                    break;
                }
                let run = self.merged(std::mem::take(&mut levels[level]))?;
                if levels.len() == level + 1 {
                    levels.push(Vec::new());
                }
                levels[level + 1].push(run);
            }
        }
        let last = self.in_memory(&mut pending)?;
        let mut runs: Vec<Run> = levels.into_iter().flatten().collect();
        while runs.len() >= MOST_RUNS {
            let some = runs.drain(..MOST_RUNS).collect();
            let run = self.merged(some)?;
            runs.push(run);
        }
        let runs = runs.into_iter().map(|run| Box::new(run) as Batches);
        Merge::new(self, runs.chain([Box::new(last) as Batches]).collect())
    }

    /// Returns `batch` with the columns of the table and the places of its rows.
    fn placed(&self, batch: &RecordBatch, file: u32, first: u64) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let column = |field: &Arc<Field>| -> Result<ArrayRef> {
            Ok(match field.name().as_str() {
                FILE => Arc::new(UInt32Array::from(vec![file; rows])),
                ROW => Arc::new(UInt64Array::from_iter_values(first..first + rows as u64)),
                name => Arc::clone(
                    batch
                        .column_by_name(name)
                        .ok_or_else(|| Error::failed(format!("column `{name}` is missing")))?,
                ),
            })
        };
        let columns = self.schema.fields().iter().map(column);
        Ok(RecordBatch::try_new(
            Arc::clone(&self.schema),
            columns.collect::<Result<_>>()?,
        )?)
    }

    /// Sorts `batches`, and leaves none there.
    fn in_memory(&self, batches: &mut Vec<RecordBatch>) -> Result<InMemory> {
        let batches = std::mem::take(batches);
        let keys = batches
            .iter()
            .map(|batch| self.keys.of(batch))
            .collect::<Result<Vec<_>>>()?;
        let mut order: Vec<(usize, usize)> = (0..batches.len())
            .flat_map(|batch| (0..batches[batch].num_rows()).map(move |row| (batch, row)))
            .collect();
        order.sort_by(|a, b| keys[a.0].row(a.1).cmp(&keys[b.0].row(b.1)));
        let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        Ok(InMemory {
            rows: self.chunk_rows(order.len(), bytes),
            batches,
            order,
            at: 0,
        })
    }

    /// Returns the number of rows of a batch of a run whose `rows` rows have `bytes` bytes.
    fn chunk_rows(&self, rows: usize, bytes: usize) -> usize {
        let row_bytes = (bytes / rows.max(1)).max(1);
        (self.chunk / row_bytes).clamp(1, 8192)
    }

    /// Writes sorted batches as a run.
    fn write(&self, batches: InMemory) -> Result<Run> {
        let mut writer = self.writer()?;
        for batch in batches {
            writer.write(&batch?)?;
        }
        Self::finished(writer)
    }

    /// Merges runs to one.
    fn merged(&self, runs: Vec<Run>) -> Result<Run> {
        let runs = runs.into_iter().map(|run| Box::new(run) as Batches);
        let mut merge = Merge::new(self, runs.collect())?;
        let mut writer = self.writer()?;
        while let Some(batch) = merge.next(self)? {
            writer.write(&batch)?;
        }
        Self::finished(writer)
    }

    fn writer(&self) -> Result<StreamWriter<ScratchFile>> {
        let file = ScratchFile::create(&self.scratch)?;
        Ok(StreamWriter::try_new(file, &self.schema)?)
    }

    fn finished(mut writer: StreamWriter<ScratchFile>) -> Result<Run> {
        writer.finish()?;
        let mut file = writer.into_inner()?;
        file.rewind()?;
        Ok(StreamReader::try_new(BufReader::new(file), None)?)
    }
}

/// Sorted batches, one after the other.
type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, arrow::error::ArrowError>>>;

/// Rows that are sorted in memory.
struct InMemory {
    batches: Vec<RecordBatch>,
    order: Vec<(usize, usize)>,
    at: usize,
    /// The rows of a batch.
    rows: usize,
}

impl Iterator for InMemory {
    type Item = std::result::Result<RecordBatch, arrow::error::ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = (self.at + self.rows).min(self.order.len());
        let rows = self
            .order
            .get(self.at..end)
            .filter(|rows| !rows.is_empty())?;
        self.at = end;
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        Some(interleave_record_batch(&batches, rows))
    }
}

/// Merges sorted batches.
struct Merge {
    inputs: Vec<Input>,
    /// The next row of each input that has one.
    heap: BinaryHeap<Reverse<(OwnedRow, usize)>>,
}

/// The batch of an input whose rows come next.
struct Input {
    batches: Batches,
    batch: Option<RecordBatch>,
    keys: Option<Rows>,
    row: usize,
}

impl Input {
    /// Returns the key of the next row; `None` after the last.
    fn key(&mut self, sorter: &Sorter) -> Result<Option<OwnedRow>> {
        while self
            .batch
            .as_ref()
            .is_none_or(|batch| self.row == batch.num_rows())
        {
            let Some(batch) = self.batches.next().transpose()? else {
                return Ok(None);
            };
            self.keys = Some(sorter.keys.of(&batch)?);
            self.batch = Some(batch);
            self.row = 0;
        }
        Ok(self.keys.as_ref().map(|keys| keys.row(self.row).owned()))
    }
}

impl Merge {
    fn new(sorter: &Sorter, runs: Vec<Batches>) -> Result<Merge> {
        let mut merge = Merge {
            inputs: Vec::new(),
            heap: BinaryHeap::new(),
        };
        for (index, batches) in runs.into_iter().enumerate() {
            let mut input = Input {
                batches,
                batch: None,
                keys: None,
                row: 0,
            };
            if let Some(key) = input.key(sorter)? {
                merge.heap.push(Reverse((key, index)));
            }
            merge.inputs.push(input);
        }
        Ok(merge)
    }

    /// Returns the next batch; `None` after the last.
    fn next(&mut self, sorter: &Sorter) -> Result<Option<RecordBatch>> {
        // The batches of the rows, and for each input the place of its current batch among them.
        let mut held: Vec<RecordBatch> = Vec::new();
        let mut place: Vec<Option<usize>> = vec![None; self.inputs.len()];
        let mut rows: Vec<(usize, usize)> = Vec::new();
        let mut most = usize::MAX;
        while rows.len() < most
            && let Some(Reverse((_, index))) = self.heap.pop()
        {
            let input = &mut self.inputs[index];
            let Some(batch) = &input.batch else {
                continue;
            };
            let at = match place[index] {
                Some(at) => at,
                None => {
                    held.push(batch.clone());
                    most = most.min(batch.num_rows().max(1));
                    place[index] = Some(held.len() - 1);
                    held.len() - 1
                }
            };
            rows.push((at, input.row));
            input.row += 1;
            if input.row == batch.num_rows() {
                place[index] = None;
            }
            if let Some(key) = input.key(sorter)? {
                self.heap.push(Reverse((key, index)));
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let held: Vec<&RecordBatch> = held.iter().collect();
        Ok(Some(interleave_record_batch(&held, &rows)?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::container::record_batches::TableFile;
    use crate::container::table::FileTable;
    use crate::dataset::store;

    #[test]
    fn rows_are_sorted_whatever_fits_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        // The multiplier has no common divisor with the number of rows, so every row occurs once.
        let (rows, multiplier) = (20_000_i64, 7_919);
        let shuffled = |row: i64| row * multiplier % rows;
        let mut files = Vec::new();
        for (part, range) in [0..12_345, 12_345..rows].into_iter().enumerate() {
            let place: Vec<i64> = range.map(shuffled).collect();
            let number = |of: &dyn Fn(i64) -> i64| -> ArrayRef {
                Arc::new(place.iter().map(|row| of(*row)).collect::<Int64Array>())
            };
            let batch = RecordBatch::try_from_iter([
                ("step", number(&|row| row % 100)),
                ("id", number(&|row| row / 100 - 50)),
                (
                    "text",
                    Arc::new(StringArray::from_iter_values(
                        place.iter().map(i64::to_string),
                    )) as ArrayRef,
                ),
            ])
            .unwrap();
            let mut bytes = Vec::new();
            let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let path = folder.path().join(format!("{part}.parquet"));
            store::write(&path, &bytes).unwrap();
            files.push(path);
        }
        let scratch = folder.path().join("scratch");
        store::create_dir(&scratch).unwrap();
        // Runs of one batch of 50 rows need several levels of merges.
        for memory in [1, 40_000, 1 << 30] {
            let table =
                FileTable::open(TableFile::Parquet, folder.path(), &files, &|_| true).unwrap();
            let table = Arc::new(table);
            let in_order = FileRows::new(Arc::clone(&table), 50);
            let keys = vec!["id".to_owned(), "step".to_owned()];
            let mut sorted =
                SortedRows::new(in_order, table.schema(), keys, &scratch, memory).unwrap();
            let mut next = 0;
            while let Some((batch, places)) = sorted.next().unwrap() {
                for row in 0..batch.num_rows() {
                    let id = batch["id"].as_primitive::<Int64Type>().value(row);
                    let step = batch["step"].as_primitive::<Int64Type>().value(row);
                    assert_eq!((id + 50) * 100 + step, next);
                    assert_eq!(
                        batch["text"].as_string::<i32>().value(row),
                        next.to_string()
                    );
                    let place = places.of(row);
                    let (at, file) = place
                        .strip_prefix("row ")
                        .and_then(|place| place.split_once(" of "))
                        .unwrap();
                    let first = if file.ends_with("1.parquet") {
                        12_345
                    } else {
                        0
                    };
                    assert_eq!(shuffled(at.parse::<i64>().unwrap() + first), next);
                    next += 1;
                }
            }
            assert_eq!(next, rows);
            drop(sorted);
            assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);

            // Rows with equal keys stay in the order of the files.
            let in_order = FileRows::new(Arc::clone(&table), 50);
            let keys = vec!["id".to_owned()];
            let mut sorted =
                SortedRows::new(in_order, table.schema(), keys, &scratch, memory).unwrap();
            let mut last = None;
            while let Some((batch, _)) = sorted.next().unwrap() {
                for row in 0..batch.num_rows() {
                    let id = batch["id"].as_primitive::<Int64Type>().value(row);
                    let file = batch[FILE].as_primitive::<UInt32Type>().value(row);
                    let place = (id, file, batch[ROW].as_primitive::<UInt64Type>().value(row));
                    assert!(last < Some(place), "{last:?} before {place:?}");
                    last = Some(place);
                }
            }
        }
    }
}
