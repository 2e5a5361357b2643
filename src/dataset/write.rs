//! Writes shards of whole trajectories. Row groups end where trajectories end, and files are hashed
//! while they are written.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, LogicalType, Type, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::manifest::{FileEntry, ShardEntry, Statistics, TOOL};
use super::row_group::{GroupWriter, Origin};
use super::schema::{self, step, trajectory};
use super::store::HashingFile;
use super::trajectory_hash::ImageDigest;
use super::{Block, computed_columns, layout, videos};
use crate::error::{Error, Result};

/// Number of bytes of steps that are encoded at once.
const ENCODED_AT_ONCE: usize = 4 << 20;

/// Number of bytes of images after which a row group ends in the middle of a trajectory, where
/// images are made while they are written.
const IMAGES_IN_ROW_GROUP: usize = 32 << 20;

/// The writer of one shard.
pub struct ShardWriter {
    root: PathBuf,
    index: usize,
    logical: SchemaRef,
    physical: SchemaRef,
    steps: GroupWriter,
    trajectories: ArrowWriter<HashingFile>,
    metadata: SchemaRef,
    block_rows: usize,
    rows: u64,
    statistics: Statistics,
    videos: BTreeSet<String>,
}

/// Returns the schema of `trajectories` for steps of the schema `steps` and carried columns of the
/// schema `carried`.
pub fn trajectories_schema(steps: &Schema, carried: &Schema) -> SchemaRef {
    let placed = [
        Field::new(trajectory::SHARD, DataType::Int32, false),
        Field::new(trajectory::FIRST_ROW, DataType::Int64, false),
        Field::new(trajectory::ROWS, DataType::Int64, false),
    ];
    let fields = carried.fields().iter().map(|field| field.as_ref().clone());
    let task = computed_columns::task_field(steps, carried)
        .filter(|_| carried.index_of(trajectory::TASK).is_err());
    Arc::new(Schema::new(
        fields
            .chain(task)
            .chain(computed_columns::fields(steps))
            .chain(placed)
            .collect::<Vec<_>>(),
    ))
}

/// Returns the Parquet properties for files of `schema`: zstd compression, floats split by byte,
/// ids and texts in dictionaries. They do not depend on the machine or the date.
pub(crate) fn properties(
    schema: &Schema,
    sorting: Option<Vec<SortingColumn>>,
) -> Result<WriterProperties> {
    let mut builder = WriterProperties::builder()
        .set_created_by(TOOL.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(None)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(sorting);
    for column in ArrowSchemaConverter::new().convert(schema)?.columns() {
        let path = column.path().clone();
        let text = matches!(column.logical_type_ref(), Some(LogicalType::String));
        let pixel = matches!(
            column.logical_type_ref(),
            Some(LogicalType::Integer(integer)) if integer.bit_width == 8
        );
        builder = match (column.physical_type(), column.name()) {
            (Type::FLOAT | Type::DOUBLE, _) => {
                builder.set_column_encoding(path.clone(), Encoding::BYTE_STREAM_SPLIT)
            }
            (Type::INT32 | Type::INT64, step::STEP | trajectory::FIRST_ROW) => {
                builder.set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
            }
            (Type::INT64, _) => builder.set_column_dictionary_enabled(path.clone(), true),
            // A pixel takes four bytes in a page, or one as an index into a dictionary of 256
            // values.
            (Type::INT32, _) if pixel => builder.set_column_dictionary_enabled(path.clone(), true),
            (Type::BYTE_ARRAY, name)
                if text && ![trajectory::UID, trajectory::CONTENT_HASH].contains(&name) =>
            {
                builder.set_column_dictionary_enabled(path.clone(), true)
            }
            _ => builder,
        };
        // Minimum and maximum over the coordinates of vectors do not help a query skip pages.
        if column.max_rep_level() > 0 {
            builder = builder.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    Ok(builder.build())
}

fn sorting(schema: &Schema, names: &[&str]) -> Result<Vec<SortingColumn>> {
    let leaves = ArrowSchemaConverter::new().convert(schema)?;
    let index = |name: &&str| {
        leaves
            .columns()
            .iter()
            .position(|column| column.path().parts() == [*name])
    };
    Ok(names
        .iter()
        .filter_map(index)
        .map(|index| SortingColumn {
            column_idx: index as i32,
            descending: false,
            nulls_first: false,
        })
        .collect())
}

impl ShardWriter {
    /// Starts shard `index` of the dataset at `root`. `steps` is the schema of its steps in memory,
    /// `carried` the schema of the columns that its trajectories carry along, and `sorted` says
    /// that ids ascend.
    ///
    /// # Errors
    /// Returns an error if the files exist or cannot be created.
    pub fn create(
        root: &Path,
        index: usize,
        steps: &SchemaRef,
        carried: &Schema,
        sorted: bool,
    ) -> Result<ShardWriter> {
        let physical = schema::physical(steps);
        let metadata = trajectories_schema(steps, carried);
        let order = |schema: &Schema, names: &[&str]| {
            if sorted {
                sorting(schema, names).map(Some)
            } else {
                Ok(None)
            }
        };
        let file = |name: String| HashingFile::create(&root.join(name));
        let own = properties(
            &physical,
            order(&physical, &[step::TRAJECTORY_ID, step::STEP])?,
        )?;
        let writer = GroupWriter::new(file(layout::steps(index))?, &physical, own)?;
        let own = properties(&metadata, order(&metadata, &[trajectory::TRAJECTORY_ID])?)?;
        let trajectories = ArrowWriter::try_new(
            file(layout::trajectories(index))?,
            Arc::clone(&metadata),
            Some(own),
        )?;
        Ok(ShardWriter {
            root: root.to_owned(),
            index,
            steps: writer,
            trajectories,
            metadata,
            logical: Arc::clone(steps),
            physical,
            block_rows: schema::block_rows(steps),
            rows: 0,
            statistics: Statistics::default(),
            videos: BTreeSet::new(),
        })
    }

    /// Returns the number of rows of steps written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the paths of the videos that the rows written so far refer to.
    pub(crate) fn videos(&self) -> &BTreeSet<String> {
        &self.videos
    }

    /// Appends whole trajectories.
    ///
    /// # Errors
    /// Returns an error if a column of the shard is missing, or if the files cannot be written.
    pub fn write(&mut self, block: &Block) -> Result<()> {
        let computed = computed_columns::compute(block)?;
        self.statistics.add(&computed.statistics);
        self.write_trajectories(block, computed)?;
        for field in self.logical.fields() {
            if let Some(column) = block.steps.column_by_name(field.name()) {
                videos::add_paths(field, column, &mut self.videos);
            }
        }
        let steps = self.ordered(&block.steps)?;
        self.rows += steps.num_rows() as u64;
        if let Some(origin) = &block.origin {
            let copied = self.copied(block, origin);
            if !copied.is_empty() {
                return self.steps.splice(self.parts(&steps), origin, &copied);
            }
        }
        let mut from = 0;
        for span in block.spans() {
            // A trajectory as long as a row group gets its own row group.
            if span.len() >= self.block_rows {
                self.close_row_group(&steps.slice(from, span.start - from))?;
                from = span.start;
            }
            // A row group ends with the first trajectory that reaches the target size, so no
            // trajectory is cut.
            if self.steps.in_progress_rows() + span.end - from >= self.block_rows {
                self.close_row_group(&steps.slice(from, span.end - from))?;
                from = span.end;
            }
        }
        self.put(&steps.slice(from, steps.num_rows() - from))
    }

    /// Appends one trajectory some of whose columns are images that are made while it is written.
    /// `block` is the trajectory with something else in these columns, and `part` returns a range
    /// of its rows with the images. A part is as long as [`schema::frame_rows`] says. The
    /// trajectory has row groups of its own.
    ///
    /// # Errors
    /// Returns the errors of [`ShardWriter::write`] and of `part`.
    pub(crate) fn write_in_parts(
        &mut self,
        block: &Block,
        mut part: impl FnMut(Range<usize>) -> Result<RecordBatch>,
    ) -> Result<()> {
        let mut images: Vec<(String, ImageDigest)> = Vec::new();
        for field in self.logical.fields() {
            let Some(column) = block.steps.column_by_name(field.name()) else {
                continue;
            };
            videos::add_paths(field, column, &mut self.videos);
            if column.data_type() == field.data_type() {
                continue;
            }
            if !ImageDigest::is_of(field.data_type()) {
                let message = format!("the column `{}` has another type", field.name());
                return Err(Error::failed(message));
            }
            images.push((field.name().clone(), ImageDigest::default()));
        }
        if self.steps.in_progress_rows() > 0 {
            self.steps.flush()?;
        }
        let (rows, at_once) = (block.steps.num_rows(), schema::frame_rows(&self.logical));
        let mut in_earlier_groups = 0;
        for from in (0..rows).step_by(at_once) {
            let steps = part(from..rows.min(from + at_once))?;
            let mut bytes = 0;
            for (name, digest) in &mut images {
                if let Some(column) = steps.column_by_name(name) {
                    digest.add(column);
                }
                bytes += digest.bytes();
            }
            self.put(&self.ordered(&steps)?)?;
            let is_full = bytes - in_earlier_groups >= IMAGES_IN_ROW_GROUP
                || self.steps.in_progress_rows() >= self.block_rows;
            if is_full || from + at_once >= rows {
                in_earlier_groups = bytes;
                self.steps.flush()?;
            }
        }
        let digests = images.into_iter();
        let digests = digests.map(|(name, digest)| (name, digest.finish()));
        let computed = computed_columns::compute_with(block, &digests.collect())?;
        self.statistics.add(&computed.statistics);
        self.write_trajectories(block, computed)?;
        self.rows += rows as u64;
        Ok(())
    }

    /// Returns the columns of a block that can be copied from the row group that it was read from.
    /// Returns none if the block would not be a row group of its own here.
    fn copied(&self, block: &Block, origin: &Origin) -> Vec<String> {
        let rows = block.steps.num_rows();
        let whole = rows == origin.steps.num_rows()
            && rows * 2 >= self.block_rows
            && self.steps.in_progress_rows() == 0;
        let names = self
            .logical
            .fields()
            .iter()
            .map(|field| field.name())
            .filter(|_| whole);
        let same = |name: &&String| {
            block
                .steps
                .column_by_name(name)
                .is_some_and(|column| origin.has(name, column))
                && self.steps.takes(origin, name)
        };
        names.filter(same).cloned().collect()
    }

    /// Writes `rest` and ends the row group, unless it is empty.
    fn close_row_group(&mut self, rest: &RecordBatch) -> Result<()> {
        self.put(rest)?;
        if self.steps.in_progress_rows() > 0 {
            self.steps.flush()?;
        }
        Ok(())
    }

    /// Passes `steps` to the encoder in small parts, because it needs about twenty bytes of memory
    /// for a byte of an image.
    fn put(&mut self, steps: &RecordBatch) -> Result<()> {
        self.parts(steps)
            .try_for_each(|part| self.steps.write(&part))
    }

    fn parts(&self, steps: &RecordBatch) -> impl Iterator<Item = RecordBatch> + use<> {
        let part = (ENCODED_AT_ONCE / schema::row_bytes(&self.logical)).max(1);
        let steps = steps.clone();
        (0..steps.num_rows())
            .step_by(part)
            .map(move |from| steps.slice(from, part.min(steps.num_rows() - from)))
    }

    /// Returns the block's columns in the order and with the types of the shard's file.
    fn ordered(&self, steps: &RecordBatch) -> Result<RecordBatch> {
        let column = |field: &Arc<Field>| {
            let column = steps.column_by_name(field.name());
            column.cloned().ok_or_else(|| {
                Error::failed(format!(
                    "the column `{}` of {} is missing",
                    field.name(),
                    layout::steps(self.index)
                ))
            })
        };
        let columns = self
            .logical
            .fields()
            .iter()
            .map(column)
            .collect::<Result<Vec<_>>>()?;
        schema::convert(
            &RecordBatch::try_new(Arc::clone(&self.logical), columns)?,
            &self.physical,
        )
    }

    fn write_trajectories(
        &mut self,
        block: &Block,
        computed: computed_columns::ComputedColumns,
    ) -> Result<()> {
        let first = block
            .spans()
            .map(|span| (self.rows + span.start as u64) as i64);
        let placed: [(&str, ArrayRef); 3] = [
            (
                trajectory::SHARD,
                Arc::new(Int32Array::from(vec![self.index as i32; block.len()])),
            ),
            (
                trajectory::FIRST_ROW,
                Arc::new(first.collect::<Int64Array>()),
            ),
            (
                trajectory::ROWS,
                Arc::new(
                    block
                        .spans()
                        .map(|span| span.len() as i64)
                        .collect::<Int64Array>(),
                ),
            ),
        ];
        let known: Vec<(String, ArrayRef)> = computed
            .columns
            .into_iter()
            .map(|(field, column)| (field.name().clone(), column))
            .chain(
                placed
                    .into_iter()
                    .map(|(name, column)| (name.to_owned(), column)),
            )
            .collect();
        let schema = Arc::clone(&self.metadata);
        let column = |field: &Arc<Field>| {
            let known = known
                .iter()
                .find(|(name, _)| name == field.name())
                .map(|(_, column)| Arc::clone(column));
            let column = known.or_else(|| block.trajectories.column_by_name(field.name()).cloned());
            column.ok_or_else(|| {
                Error::failed(format!(
                    "the column `{}` of {} is missing",
                    field.name(),
                    layout::trajectories(self.index)
                ))
            })
        };
        let columns = schema
            .fields()
            .iter()
            .map(column)
            .collect::<Result<Vec<_>>>()?;
        self.trajectories
            .write(&RecordBatch::try_new(schema, columns)?)?;
        Ok(())
    }

    /// Closes both files. [`ClosedShard::sync`], which waits for the disk, makes them durable.
    ///
    /// # Errors
    /// Returns an error if the files cannot be written.
    pub fn close(self) -> Result<ClosedShard> {
        let trajectories = self.trajectories.into_inner()?;
        Ok(ClosedShard {
            root: self.root,
            index: self.index,
            steps: self.steps.into_inner()?,
            trajectories,
            rows: self.rows,
            statistics: self.statistics,
        })
    }

    /// Closes both files, makes them durable and returns the shard's entry in the manifest.
    ///
    /// # Errors
    /// Returns an error if the files cannot be written or synced.
    pub fn finish(self) -> Result<ShardEntry> {
        self.close()?.sync()
    }
}

/// A shard that is completely written, but not durable yet.
pub struct ClosedShard {
    root: PathBuf,
    index: usize,
    steps: HashingFile,
    trajectories: HashingFile,
    rows: u64,
    statistics: Statistics,
}

impl ClosedShard {
    /// Makes both files durable and returns the shard's entry in the manifest.
    ///
    /// # Errors
    /// Returns an error if the files cannot be synced.
    pub fn sync(self) -> Result<ShardEntry> {
        let trajectories = entry(
            self.trajectories,
            layout::trajectories(self.index),
            self.statistics.trajectories,
        )?;
        let steps = entry(self.steps, layout::steps(self.index), self.rows)?;
        super::store::sync_dir(&self.root.join("steps"))?;
        super::store::sync_dir(&self.root.join("trajectories"))?;
        Ok(ShardEntry {
            steps,
            trajectories,
            statistics: self.statistics,
        })
    }
}

fn entry(file: HashingFile, path: String, rows: u64) -> Result<FileEntry> {
    let digest = file.finish()?;
    Ok(FileEntry {
        path,
        rows,
        bytes: digest.bytes,
        blake3: digest.blake3,
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, BooleanArray, FixedSizeListArray, UInt8Array, UInt16Array};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::dataset::store;

    /// Bytes of an image: a row group has 40 of them, and 16 are made at once.
    const BYTES: i32 = 1 << 20;

    fn images(rows: Range<usize>) -> ArrayRef {
        let child = Arc::new(Field::new("element", DataType::UInt8, false));
        let values = rows.flat_map(|row| std::iter::repeat_n(row as u8, BYTES as usize));
        let values = Arc::new(UInt8Array::from_iter_values(values));
        Arc::new(FixedSizeListArray::new(child, BYTES, values, None))
    }

    /// A trajectory whose images are those of `column`.
    fn block(id: i64, rows: usize, column: ArrayRef) -> Block {
        let never = || -> ArrayRef { Arc::new(BooleanArray::from(vec![false; rows])) };
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                step::TRAJECTORY_ID,
                Arc::new(Int64Array::from(vec![id; rows])),
            ),
            (
                step::STEP,
                Arc::new(Int32Array::from_iter_values(0..rows as i32)),
            ),
            (step::TERMINATED, never()),
            (step::TRUNCATED, never()),
            (step::IS_FINAL, never()),
            ("image", column),
        ];
        let steps = RecordBatch::try_from_iter(columns).unwrap();
        let id: ArrayRef = Arc::new(Int64Array::from(vec![id]));
        let trajectories = RecordBatch::try_from_iter([(trajectory::TRAJECTORY_ID, id)]).unwrap();
        Block::new(steps, trajectories, vec![0, rows])
    }

    #[test]
    fn a_long_trajectory_is_made_in_parts_and_has_the_hash_of_a_whole_one() {
        let rows = 75;
        let folder = tempfile::tempdir().unwrap();
        for part in ["steps", "trajectories"] {
            store::create_dir(&folder.path().join(part)).unwrap();
        }
        let whole = block(1, rows, images(0..rows));
        let (steps, carried) = (whole.steps.schema(), whole.trajectories.schema());
        let mut shard = ShardWriter::create(folder.path(), 0, &steps, &carried, true).unwrap();
        let late: ArrayRef = Arc::new(UInt16Array::from_iter_values(0..rows as u16));
        let late = block(2, rows, late);
        let mut made = Vec::new();
        shard.write(&whole).unwrap();
        let part = |rows: Range<usize>| {
            made.push(rows.len());
            let part = late.part(rows.clone());
            let field = Field::new("image", images(0..1).data_type().clone(), false);
            Ok(part.with_step_column(field, images(rows)).unwrap().steps)
        };
        shard.write_in_parts(&late, part).unwrap();
        shard.write(&block(3, 2, images(5..7))).unwrap();
        let entry = shard.finish().unwrap();
        assert_eq!(made, [15, 15, 15, 15, 15]);
        assert_eq!((entry.steps.rows, entry.statistics.trajectories), (152, 3));

        let open = |file: &FileEntry| {
            let file = std::fs::File::open(folder.path().join(&file.path)).unwrap();
            ParquetRecordBatchReaderBuilder::try_new(file).unwrap()
        };
        let written = open(&entry.steps);
        let groups = written.metadata().row_groups().iter();
        let groups: Vec<i64> = groups.map(|group| group.num_rows()).collect();
        assert_eq!(groups, [75, 45, 30, 2]);
        let mut of_image = written.build().unwrap().flat_map(|batch| {
            let batch = batch.unwrap();
            let images = batch["image"].as_fixed_size_list().clone();
            let rows = 0..images.len();
            let first = |row| {
                images
                    .value(row)
                    .as_primitive::<arrow::datatypes::UInt8Type>()
                    .value(7)
            };
            rows.map(first).collect::<Vec<u8>>()
        });
        assert!(
            (0..75)
                .chain(0..75)
                .chain(5..7)
                .all(|row| of_image.next() == Some(row))
        );
        let table = open(&entry.trajectories)
            .build()
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let hashes = table[trajectory::CONTENT_HASH].as_string::<i32>();
        assert_eq!(hashes.value(0), hashes.value(1));
        let first = table[trajectory::FIRST_ROW].as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(first.values().to_vec(), [0, 75, 150]);
    }
}
