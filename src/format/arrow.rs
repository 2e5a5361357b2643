//! Arrow IPC files: the steps of a dataset as Arrow has them in memory, to be mapped and used without decoding.
//!
//! Written as a directory: `steps.arrow`, a batch per block of whole trajectories, uncompressed so that it can be mapped;
//! `trajectories.arrow`, a row per trajectory with the rows that it has in the other file. Read back as both, or as any one
//! file whose columns have the names that plain Parquet goes by.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use serde_json::{Map, Value};

use super::{Detection, Evidence, Format};
use crate::container::record_batches::TableFile;
use crate::container::{arrow_ipc, starts_with};
use crate::dataset::files;
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::store::{self, HashingFile};
use crate::error::{Error, Result};
use crate::transfer::read::table;
use crate::transfer::read::{IncomingTrajectory, Options, Reader, Source};
use crate::transfer::write::{OutgoingDataset, WriteOptions, Writer, Written};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "arrow",
    about: "Arrow IPC: a file, or a folder with steps.arrow, to be mapped into memory",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: detect,
    }),
    read: Some(Reader {
        takes: table::TAKES,
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

/// Names of the two files.
const STEPS: &str = "steps.arrow";
/// See [`STEPS`].
const TRAJECTORIES: &str = "trajectories.arrow";

fn detect(path: &Path) -> Result<bool> {
    Ok(files::is_file(&path.join(STEPS))? || starts_with(path, MAGIC)?)
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    let steps = if files::is_dir(path)? {
        path.join(STEPS)
    } else {
        path.to_owned()
    };
    let inner = table::tables(path, vec![steps], TableFile::Arrow, options)?;
    let table = path.join(TRAJECTORIES);
    if !files::is_file(&table)? {
        return Ok(inner);
    }
    let rows = arrow_ipc::open(&table, None)?;
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

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
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
        Ok(Some(IncomingTrajectory {
            steps,
            about,
            ..incoming
        }))
    }
}

fn write(outgoing: &OutgoingDataset, to: &Path, _options: &WriteOptions) -> Result<Written> {
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
