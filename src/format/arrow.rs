//! Arrow IPC files. They hold steps as Arrow lays them out in memory, so a program can map them and
//! use them without decoding.
//!
//! The writer makes a directory of two files. `steps.arrow` has a batch for each block of whole
//! trajectories, uncompressed so that it can be mapped. `trajectories.arrow` has a row for each
//! trajectory, with the place of its rows in the other file. The reader takes such a directory, or
//! any single file whose columns have the names that `parquet` recognises.

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
use crate::dataset::schema::{self, step, trajectory};
use crate::dataset::store::{self, HashingFile};
use crate::dataset::{Account, files};
use crate::error::{Error, Result};
use crate::transfer::read::table;
use crate::transfer::read::{IncomingTrajectory, Options, Reader, Source};
use crate::transfer::write::{OutgoingDataset, WriteOptions, Writer, Written};

/// The registry entry.
pub(crate) const FORMAT: Format = Format {
    name: "arrow",
    detection: Some(Detection {
        evidence: Evidence::Marker,
        probe: detect,
    }),
    read: Some(Reader {
        takes: table::OPTIONS,
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

/// The first bytes of an Arrow file.
const MAGIC: &[u8] = b"ARROW1";

/// The file of steps in a directory.
const STEPS: &str = "steps.arrow";

/// The table of trajectories in a directory that trajmill wrote.
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
    let steps = table::open(path, vec![steps], TableFile::Arrow, options)?;
    let table_path = path.join(TRAJECTORIES);
    if !files::is_file(&table_path)? {
        return Ok(steps);
    }
    let table = arrow_ipc::open(&table_path, None)?;
    let intrinsic = [
        trajectory::TRAJECTORY_ID,
        trajectory::LENGTH,
        trajectory::FIRST_ROW,
        trajectory::ROWS,
    ];
    let about = table
        .schema()
        .fields()
        .iter()
        .filter(|field| !intrinsic.contains(&field.name().as_str()))
        .cloned()
        .collect::<Vec<_>>();
    // Reading a table renames columns whose names mean something in trajmill. In this file, they do
    // have that meaning.
    let restored = |field: &Arc<Field>| match field.name().strip_prefix("source_") {
        Some(name) if [step::ACTION_SOURCE, step::ACTION_STD].contains(&name) => {
            Arc::new(field.as_ref().clone().with_name(name))
        }
        _ => Arc::clone(field),
    };
    let schema = Arc::new(Schema::new(
        steps
            .schema()
            .fields()
            .iter()
            .map(restored)
            .collect::<Vec<_>>(),
    ));
    Ok(Box::new(StepsAndTrajectories {
        steps,
        schema,
        table,
        table_path,
        batch: None,
        is_table_short: false,
        about: Arc::new(Schema::new(about)),
    }))
}

/// A directory that trajmill wrote: steps, and the table of their trajectories.
struct StepsAndTrajectories {
    steps: Box<dyn Source>,
    schema: SchemaRef,
    table: FileReader<BufReader<File>>,
    table_path: PathBuf,
    /// The current batch of the table, and the number of its rows that were used.
    batch: Option<(RecordBatch, usize)>,
    /// Whether the last error is that the table lacks a row, so that no trajectory can follow.
    is_table_short: bool,
    about: SchemaRef,
}

impl StepsAndTrajectories {
    /// Returns the table's row for the next trajectory, which messages call `trajectory`; `None` if
    /// its schema, `about`, has no columns.
    ///
    /// # Errors
    /// Returns an error if the table has no row for it, or cannot be read.
    fn next_row(&mut self, trajectory: &str) -> Result<Option<RecordBatch>> {
        self.is_table_short = true;
        let short = || {
            Error::failed(format!(
                "{}: there is no row for {trajectory}",
                self.table_path.display()
            ))
            .hint(format!(
                "{STEPS} and {TRAJECTORIES} are not from the same export, or one is cut short: \
                 export the dataset again"
            ))
        };
        while self
            .batch
            .as_ref()
            .is_none_or(|(batch, used)| *used == batch.num_rows())
        {
            let batch =
                self.table.next().ok_or_else(short)?.map_err(|error| {
                    Error::failed(error.to_string()).at(self.table_path.display())
                })?;
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
        self.is_table_short = false;
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

impl Source for StepsAndTrajectories {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        self.steps.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        self.steps.metadata()
    }

    fn account(&self) -> Account {
        self.steps.account()
    }

    fn lost(&self) -> Option<u64> {
        if self.is_table_short {
            None
        } else {
            self.steps.lost()
        }
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.is_table_short = false;
        let incoming = match self.steps.next() {
            Ok(Some(incoming)) => incoming,
            Ok(None) => return Ok(None),
            Err(error) => {
                // The row of a trajectory that cannot be read is skipped with it.
                if self.steps.lost().is_some() {
                    self.next_row("a trajectory that cannot be read")?;
                }
                return Err(error);
            }
        };
        let about = self.next_row(&format!("trajectory `{}`", incoming.key))?;
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
    let carried = outgoing.carried().fields().iter().cloned();
    let place = [trajectory::LENGTH, trajectory::FIRST_ROW, trajectory::ROWS]
        .map(|name| Arc::new(Field::new(name, DataType::Int64, false)));
    let table = Arc::new(Schema::new(carried.chain(place).collect::<Vec<_>>()));
    let mut trajectories =
        FileWriter::try_new(HashingFile::create(&to.join(TRAJECTORIES))?, &table)?;
    let (mut batches, mut rows): (Vec<RecordBatch>, Vec<RecordBatch>) = (Vec::new(), Vec::new());
    let (mut count, mut first) = (0, 0_i64);
    let target = schema::block_rows(logical);
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        let place = [
            leaving.length as i64,
            first,
            leaving.steps.num_rows() as i64,
        ];
        let place = place.map(|value| Arc::new(Int64Array::from(vec![value])) as ArrayRef);
        rows.push(RecordBatch::try_new(
            Arc::clone(&table),
            leaving
                .about
                .columns()
                .iter()
                .cloned()
                .chain(place)
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
