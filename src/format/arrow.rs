//! Arrow IPC files: the steps of a dataset as Arrow has them in memory, to be mapped and used without decoding.
//!
//! Written as a directory: `steps.arrow`, a batch per block of whole trajectories, uncompressed so that it can be mapped;
//! `trajectories.arrow`, a row per trajectory with the rows that it has in the other file. Read back as both, or as any one
//! file whose columns have the names that plain Parquet goes by.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::{FileReader, read_footer_length};
use arrow::ipc::writer::FileWriter;
use arrow::ipc::{Block, Buffer, root_as_footer, root_as_message};
use serde_json::{Map, Value};

use super::outgoing::{Outgoing, WriteOptions, Writer, Written};
use super::parquet::{self, kind::Kind};
use super::{Format, Incoming, Opener, Options, Source};
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const FORMAT: Format = Format {
    name: "arrow",
    about: "Arrow IPC: a file, or a folder with steps.arrow, to be mapped into memory",
    detect,
    read: Some(Opener {
        takes: parquet::TAKES,
        open: read,
    }),
    write: Some(Writer {
        nulls: true,
        takes: &[],
        write,
        note: None,
    }),
    validate: None,
};

/// First bytes of an Arrow file.
const MAGIC: &[u8] = b"ARROW1";

/// Bytes at the end of a file, which say how long the footer in front of them is.
const TRAILER: usize = 10;

/// Names of the two files.
const STEPS: &str = "steps.arrow";
/// See [`STEPS`].
const TRAJECTORIES: &str = "trajectories.arrow";

fn detect(path: &Path) -> bool {
    path.join(STEPS).is_file() || super::starts_with(path, MAGIC)
}

/// Opens the Arrow file at `path`, for the columns of the indices `columns`, all where `None`.
///
/// # Errors
/// Where it cannot be read or is damaged.
pub(super) fn open(
    path: &Path,
    columns: Option<Vec<usize>>,
) -> Result<FileReader<BufReader<File>>> {
    let damaged = |what: &str| {
        Error::failed(format!(
            "{}: not a readable Arrow file: {what}",
            path.display()
        ))
        .hint("the file may be cut short or of the streaming form: write it again as an Arrow file")
    };
    let file = File::open(path)
        .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
    // The reader makes room for as many bytes as a block says it has, and as its buffers say they have once decompressed.
    let length = file
        .metadata()
        .map_err(|error| damaged(&error.to_string()))?
        .len();
    for block in blocks(&file, length).unwrap_or_default() {
        let parts = [
            block.offset(),
            i64::from(block.metaDataLength()),
            block.bodyLength(),
        ];
        let end = parts
            .into_iter()
            .try_fold(0_u64, |end, part| {
                end.checked_add(u64::try_from(part).ok()?)
            })
            .unwrap_or(u64::MAX);
        if end > length {
            return Err(damaged(&format!(
                "a block of it would end at byte {end}, and it has {length}"
            )));
        }
        let claimed = claimed(&file, &block).unwrap_or(0);
        if usize::try_from(claimed)
            .is_ok_and(|claimed| Vec::<u8>::new().try_reserve_exact(claimed).is_err())
        {
            return Err(damaged(&format!(
                "a buffer of it would have {claimed} bytes, which is more than fits in memory"
            )));
        }
    }
    FileReader::try_new(BufReader::new(file), columns).map_err(|error| damaged(&error.to_string()))
}

/// The blocks that the footer of a file of so many bytes lists; `None` where it cannot be read, which is the reader's to say.
fn blocks(file: &File, length: u64) -> Option<Vec<Block>> {
    let mut end = [0; TRAILER];
    let trailer = length.checked_sub(TRAILER as u64)?;
    file.read_exact_at(&mut end, trailer).ok()?;
    let mut footer = vec![
        0;
        read_footer_length(end)
            .ok()
            .filter(|footer| *footer as u64 <= trailer)?
    ];
    let at = trailer - footer.len() as u64;
    file.read_exact_at(&mut footer, at).ok()?;
    let footer = root_as_footer(&footer).ok()?;
    Some(
        [footer.dictionaries(), footer.recordBatches()]
            .into_iter()
            .flatten()
            .flatten()
            .copied()
            .collect(),
    )
}

/// The most bytes that a buffer of a block says it has once decompressed; `None` where none is compressed.
fn claimed(file: &File, block: &Block) -> Option<u64> {
    let mut message = vec![0; usize::try_from(block.metaDataLength()).ok()?];
    file.read_exact_at(&mut message, u64::try_from(block.offset()).ok()?)
        .ok()?;
    // In front of it is its length, and in files that are not very old a mark in front of that.
    let message = message
        .strip_prefix(&[0xff; 4])
        .unwrap_or(&message)
        .get(4..)?;
    let message = root_as_message(message).ok()?;
    let batch = message
        .header_as_record_batch()
        .or_else(|| message.header_as_dictionary_batch()?.data())?;
    batch.compression()?;
    let body = block
        .offset()
        .checked_add(i64::from(block.metaDataLength()))?;
    let claim = |buffer: &Buffer| {
        let mut length = [0; 8];
        file.read_exact_at(
            &mut length,
            u64::try_from(body.checked_add(buffer.offset())?).ok()?,
        )
        .ok()?;
        u64::try_from(i64::from_le_bytes(length)).ok()
    };
    batch
        .buffers()?
        .iter()
        .filter(|buffer| buffer.length() >= 8)
        .filter_map(claim)
        .max()
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let steps = if path.is_dir() {
        path.join(STEPS)
    } else {
        path.to_owned()
    };
    let inner = parquet::tables(path, vec![steps], Kind::Arrow, options)?;
    let table = path.join(TRAJECTORIES);
    if !table.is_file() {
        return Ok(inner);
    }
    let rows = open(&table, None)?;
    let known = [
        trajectory::TRAJECTORY_ID,
        trajectory::LENGTH,
        trajectory::FIRST_ROW,
        trajectory::ROWS,
    ];
    let fields = rows
        .schema()
        .fields()
        .iter()
        .filter(|field| !known.contains(&field.name().as_str()))
        .cloned()
        .collect::<Vec<_>>();
    // A column of ours keeps its name, which in a stranger's file could mean anything.
    let own = |field: &Arc<Field>| match field.name().strip_prefix("source_") {
        Some(name) if [step::ACTION_SOURCE, step::ACTION_STD].contains(&name) => {
            Arc::new(field.as_ref().clone().with_name(name))
        }
        _ => Arc::clone(field),
    };
    let schema = Arc::new(Schema::new(
        inner.schema().fields().iter().map(own).collect::<Vec<_>>(),
    ));
    Ok(Box::new(Ours {
        inner,
        schema,
        place: table,
        rows,
        batch: None,
        short: false,
        about: Arc::new(Schema::new(fields)),
    }))
}

impl Ours {
    /// What the table says of the next trajectory, whose key is `key`; `None` where it has no columns for that.
    fn said(&mut self, key: &str) -> Result<Option<RecordBatch>> {
        self.short = true;
        let short = || {
            Error::failed(format!(
                "{}: there is no row for trajectory `{key}`",
                self.place.display()
            ))
            .hint("the two files are not of one dataset, or one is cut short: write them again")
        };
        while self
            .batch
            .as_ref()
            .is_none_or(|(batch, used)| *used == batch.num_rows())
        {
            let batch = self
                .rows
                .next()
                .ok_or_else(short)?
                .map_err(|error| Error::failed(error.to_string()).at(self.place.display()))?;
            self.batch = Some((batch, 0));
        }
        let Some((batch, used)) = &mut self.batch else {
            return Err(short());
        };
        let columns = self.about.fields().iter().map(|field| {
            batch
                .column_by_name(field.name())
                .map(|column| column.slice(*used, 1))
        });
        let columns = columns.collect::<Option<Vec<_>>>().ok_or_else(short)?;
        *used += 1;
        self.short = false;
        if columns.is_empty() {
            Ok(None)
        } else {
            Ok(Some(RecordBatch::try_new(
                Arc::clone(&self.about),
                columns,
            )?))
        }
    }
}

/// A folder that we wrote: each trajectory with what it is known by.
struct Ours {
    inner: Box<dyn Source>,
    schema: SchemaRef,
    place: PathBuf,
    rows: FileReader<BufReader<File>>,
    /// Rows of the table that are read, and how many of them are used.
    batch: Option<(RecordBatch, usize)>,
    /// Whether the last error is the table's, which has no row for a trajectory.
    short: bool,
    about: SchemaRef,
}

impl Source for Ours {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        self.inner.metadata()
    }

    fn lost(&self) -> Option<u64> {
        if self.short { None } else { self.inner.lost() }
    }

    fn next(&mut self) -> Result<Option<Incoming>> {
        self.short = false;
        let incoming = match self.inner.next() {
            Ok(Some(incoming)) => incoming,
            Ok(None) => return Ok(None),
            Err(error) => {
                // What is said of a trajectory that cannot be read is passed over with it.
                if self.inner.lost().is_some() {
                    self.said("")?;
                }
                return Err(error);
            }
        };
        let about = self.said(&incoming.key)?;
        let steps =
            RecordBatch::try_new(Arc::clone(&self.schema), incoming.steps.columns().to_vec())?;
        Ok(Some(Incoming {
            steps,
            about,
            ..incoming
        }))
    }
}

fn write(outgoing: &Outgoing, to: &Path, _options: &WriteOptions) -> Result<Written> {
    store::create_dir(to)?;
    let logical = outgoing.steps();
    let mut steps = FileWriter::try_new(HashingFile::create(&to.join(STEPS))?, logical)?;
    let fields = outgoing.carried().fields().iter().cloned();
    let placed = [trajectory::LENGTH, trajectory::FIRST_ROW, trajectory::ROWS]
        .map(|name| Arc::new(Field::new(name, DataType::Int64, false)));
    let table = Arc::new(Schema::new(fields.chain(placed).collect::<Vec<_>>()));
    let mut trajectories =
        FileWriter::try_new(HashingFile::create(&to.join(TRAJECTORIES))?, &table)?;
    let (mut batches, mut rows): (Vec<RecordBatch>, Vec<RecordBatch>) = (Vec::new(), Vec::new());
    let (mut count, mut first) = (0, 0_i64);
    let target = schema::block_rows(logical);
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        let placed = [
            leaving.length as i64,
            first,
            leaving.steps.num_rows() as i64,
        ];
        let placed = placed.map(|value| Arc::new(Int64Array::from(vec![value])) as ArrayRef);
        rows.push(RecordBatch::try_new(
            Arc::clone(&table),
            leaving
                .about
                .columns()
                .iter()
                .cloned()
                .chain(placed)
                .collect(),
        )?);
        first += leaving.steps.num_rows() as i64;
        count += leaving.steps.num_rows();
        batches.push(leaving.steps);
        if count >= target {
            steps.write(&concat_batches(logical, &batches)?)?;
            trajectories.write(&concat_batches(&table, &rows)?)?;
            (batches, rows, count) = (Vec::new(), Vec::new(), 0);
        }
    }
    if !batches.is_empty() {
        steps.write(&concat_batches(logical, &batches)?)?;
        trajectories.write(&concat_batches(&table, &rows)?)?;
    }
    for mut writer in [steps, trajectories] {
        writer.finish()?;
        writer.into_inner()?.finish()?;
    }
    Ok(Written::default())
}

#[cfg(test)]
mod tests {
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;

    use super::*;

    #[test]
    fn blocks_that_claim_more_than_the_file_has_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.arrow");
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("reward", column)]).unwrap();
        let mut writer =
            FileWriter::try_new(HashingFile::create(&path).unwrap(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        writer.into_inner().unwrap().finish().unwrap();
        assert_eq!(open(&path, None).unwrap().next().unwrap().unwrap(), batch);

        let mut bytes = std::fs::read(&path).unwrap();
        // The last place that holds the length of the one block is where the footer says it.
        let length = 8000_i64.to_le_bytes();
        let at = bytes
            .windows(8)
            .rposition(|window| window == length)
            .unwrap();
        bytes[at..at + 8].copy_from_slice(&(1_i64 << 40).to_le_bytes());
        store::remove(&path).unwrap();
        store::write(&path, &bytes).unwrap();
        let message = open(&path, None).unwrap_err().message;
        assert!(
            message.contains("a block of it would end at byte 10995"),
            "{message}"
        );
    }

    #[test]
    fn buffers_that_claim_more_than_fits_in_memory_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (name, compression) in [
            ("lz4", CompressionType::LZ4_FRAME),
            ("zstd", CompressionType::ZSTD),
        ] {
            let path = folder.path().join(name);
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
            let batch = RecordBatch::try_from_iter([("reward", column)]).unwrap();
            let options = IpcWriteOptions::default()
                .try_with_compression(Some(compression))
                .unwrap();
            let mut writer = FileWriter::try_new_with_options(
                HashingFile::create(&path).unwrap(),
                &batch.schema(),
                options,
            )
            .unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            writer.into_inner().unwrap().finish().unwrap();
            assert_eq!(
                open(&path, None).unwrap().next().unwrap().unwrap(),
                batch,
                "{name}"
            );

            let mut bytes = std::fs::read(&path).unwrap();
            let length = 8000_i64.to_le_bytes();
            let at = bytes
                .windows(8)
                .rposition(|window| window == length)
                .unwrap();
            bytes[at..at + 8].copy_from_slice(&(1_i64 << 61).to_le_bytes());
            store::remove(&path).unwrap();
            store::write(&path, &bytes).unwrap();
            let message = open(&path, None).unwrap_err().message;
            assert!(
                message.contains("would have 2305843009213693952 bytes"),
                "{name}: {message}"
            );
        }
    }
}
