//! Arrow IPC files. They hold steps as Arrow lays them out in memory, so a program can map them and
//! use them without decoding.
//!
//! The writer makes a directory of two files. `steps.arrow` has a batch for each block of whole
//! trajectories, uncompressed so that it can be mapped. `trajectories.arrow` has a row for each
//! trajectory, with the place of its rows in the other file. The reader takes such a directory, any
//! single file or stream whose columns have the names that `parquet` recognises, or a directory of
//! streams that `save_to_disk` of the library `datasets` wrote.

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
use crate::container::{arrow_ipc, arrow_stream, starts_with};
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
        whole: None,
        text: true,
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

/// The files in a directory of `datasets`: the list of its data files, the description, and the
/// names of its splits if it has several.
const STATE: &str = "state.json";
const INFO: &str = "dataset_info.json";
const SPLITS: &str = "dataset_dict.json";

fn detect(path: &Path) -> Result<bool> {
    Ok(files::is_file(&path.join(STEPS))?
        || json(&path.join(STATE))?.is_some_and(|state| state["_data_files"].is_array())
        || json(&path.join(SPLITS))?.is_some_and(|splits| splits["splits"].is_array())
        || starts_with(path, MAGIC)?
        || arrow_stream::is_stream(path)?
        || files::is_dir(path)? && table::is_folder_of(path, is_arrow)?)
}

fn is_arrow(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["arrow", "arrows", "feather", "ipc"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Returns the JSON in the file at `path`; `None` if there is no file, or if it holds no JSON.
fn json(path: &Path) -> Result<Option<Value>> {
    let bytes = files::read_if_present(path)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// The files of a dataset, and what its directory says about it.
type Saved = (Vec<PathBuf>, Map<String, Value>);

/// Returns the files of the directory `path` and what it says about itself, if `save_to_disk` of
/// the library `datasets` wrote it.
///
/// # Errors
/// Returns an error if the directory has several parts, or if its rows are not those of its files.
fn saved(path: &Path) -> Result<Option<Saved>> {
    let failed = |what: String| Error::failed(format!("{}: {what}", path.display()));
    if let Some(splits) = json(&path.join(SPLITS))? {
        let names = splits["splits"].as_array().into_iter().flatten();
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        let example = path.join(names.first().copied().unwrap_or("SPLIT"));
        return Err(
            failed(format!("it holds several datasets: {}", names.join(", ")))
                .hint(format!("import one of them: {}", example.display())),
        );
    }
    let place = path.join(STATE);
    if !files::is_file(&place)? {
        return Ok(None);
    }
    let damaged = || {
        failed(format!("{STATE} does not list the files of the dataset"))
            .hint("the dataset is cut short or damaged: save it again with `save_to_disk`")
    };
    let state = json(&place)?.ok_or_else(damaged)?;
    let is_given = |name: &str| state[name].as_array().is_some_and(|list| !list.is_empty());
    if is_given("_indices_data_files") || is_given("_indices_files") {
        return Err(
            failed("its rows are a selection of those in its files".to_owned()).hint(
                "write the selected rows: `dataset.flatten_indices().save_to_disk(DIRECTORY)`",
            ),
        );
    }
    let listed = state["_data_files"].as_array().ok_or_else(damaged)?;
    let mut found = Vec::new();
    for entry in listed {
        let name = entry["filename"].as_str().ok_or_else(damaged)?;
        if name.contains('/') || name.starts_with('.') {
            return Err(damaged());
        }
        if !files::is_file(&path.join(name))? {
            return Err(failed(format!("{name} is missing, which {STATE} lists"))
                .hint("fetch the whole directory again, or save it again with `save_to_disk`"));
        }
        found.push(path.join(name));
    }
    if found.is_empty() {
        return Err(failed("it holds no rows".to_owned()).hint("there is nothing to import"));
    }
    let mut metadata = Map::new();
    for name in [INFO, STATE] {
        if let Some(about) = json(&path.join(name))? {
            metadata.insert(name.to_owned(), about);
        }
    }
    Ok(Some((found, metadata)))
}

/// A table with what its directory says about it.
struct Described {
    inner: Box<dyn Source>,
    metadata: Map<String, Value>,
}

impl Source for Described {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn about(&self) -> SchemaRef {
        self.inner.about()
    }

    fn rows(&self) -> Option<u64> {
        self.inner.rows()
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn account(&self) -> Account {
        self.inner.account()
    }

    fn lost(&self) -> Option<u64> {
        self.inner.lost()
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.inner.next()
    }
}

fn read(path: &Path, options: &Options) -> Result<Box<dyn Source>> {
    if files::is_dir(path)?
        && let Some((files, metadata)) = saved(path)?
    {
        let inner = table::open(path, files, TableFile::Arrow, options)?;
        return Ok(Box::new(Described { inner, metadata }));
    }
    let own = path.join(STEPS);
    let found = match files::is_file(&own)? {
        true => vec![own].into(),
        false => table::Found::at(path, is_arrow)?,
    };
    let steps = table::open(path, found, TableFile::Arrow, options)?;
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
