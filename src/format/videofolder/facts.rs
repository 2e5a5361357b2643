//! Facts about the videos of a folder: from metadata files, as Hugging Face's `datasets` reads
//! them, and from the names of folders.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, UInt64Array,
};
use arrow::compute::{cast, concat, concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema};

use super::VIDEO;
use crate::container::record_batches::TableFile;
use crate::container::table::{self, FileTable, is_key};
use crate::container::{csv, json_lines};
use crate::dataset::Account;
use crate::dataset::schema::{step, type_name};
use crate::error::{Error, Result, nearest};
use crate::transfer::read::table::fact;
use crate::transfer::read::{Choice, Options, free_fact};

/// The column of metadata that names the file.
pub(super) const FILE_NAME: &str = "file_name";

/// The names of files with metadata.
const METADATA: [&str; 3] = ["metadata.csv", "metadata.jsonl", "metadata.parquet"];

/// The column with the folder of a video.
const FOLDER: &str = "folder";

/// The number of rows that are read at once.
const ROWS: usize = 4096;

/// Whether `path` is a file with facts about the videos beside and below it.
pub(super) fn is_metadata(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    METADATA.contains(&name.as_ref())
}

/// Facts about videos.
pub(super) struct Facts {
    /// A row for each video.
    pub(super) table: RecordBatch,
    /// The task of each video, if the source states tasks.
    pub(super) task: Option<StringArray>,
    /// The names of columns in the source and in the dataset.
    names: Vec<(String, String)>,
}

/// One column of facts: its name in the source, and a value for each video.
type Column = (String, ArrayRef);

impl Facts {
    /// Reads the facts about the videos `names` in the folder `root` from the files `metadata` and
    /// from the names of folders. No column gets a `reserved` name.
    ///
    /// # Errors
    /// Returns an error if metadata cannot be read or names a file that is not there, or if `map`
    /// names no column.
    pub(super) fn read(
        root: &Path,
        names: &[String],
        metadata: &[PathBuf],
        reserved: &[&str],
        options: &Options,
        choice: &Choice,
    ) -> Result<Facts> {
        let mut columns = stated(root, names, metadata, choice)?;
        let folders = folders(root, names, choice)?;
        for (name, values) in folders {
            let known = columns.iter().any(|(known, _)| *known == name);
            let name = if known {
                format!("folder_{name}")
            } else {
                name
            };
            columns.push((name, values));
        }
        for (target, source) in options.map.iter().filter(|(_, source)| source != VIDEO) {
            let known = || columns.iter().map(|(name, _)| name.as_str());
            if !known().any(|name| name == source) {
                let hint = nearest(source, known().chain([VIDEO])).map_or_else(
                    || format!("the facts are {}", known().collect::<Vec<_>>().join(", ")),
                    |meant| format!("did you mean `{meant}`?"),
                );
                let message = format!("there is no fact `{source}` to use as `{target}`");
                return Err(Error::failed(message).hint(hint));
            }
        }
        let mut facts = Facts {
            table: RecordBatch::new_empty(Arc::new(Schema::empty())),
            task: None,
            names: Vec::new(),
        };
        let mut fields: Vec<Field> = Vec::new();
        let mut arrays = Vec::new();
        for (source, values) in columns {
            let mapped = options.map.iter().find(|(_, mapped)| *mapped == source);
            let name = mapped.map_or(source.as_str(), |(target, _)| target);
            if name == step::TASK && facts.task.is_none() && is_text(values.data_type()) {
                facts.task = Some(cast(&values, &DataType::Utf8)?.as_string::<i32>().clone());
                facts.names.push((source, step::TASK.to_owned()));
                continue;
            }
            let mut name = free_fact(name);
            while reserved.contains(&name.as_str())
                || name == step::TASK
                || fields.iter().any(|field| *field.name() == name)
            {
                name = format!("source_{name}");
            }
            let values = fact(&values)?;
            fields.push(Field::new(&name, values.data_type().clone(), true));
            arrays.push(values);
            facts.names.push((source, name));
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(names.len()));
        facts.table =
            RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &rows)?;
        Ok(facts)
    }

    /// Returns the task of the video number `at`.
    pub(super) fn task(&self, at: usize) -> Option<&str> {
        let tasks = self.task.as_ref()?;
        tasks.is_valid(at).then(|| tasks.value(at))
    }

    /// Records which columns were kept.
    pub(super) fn account(&self, account: &mut Account) {
        for (source, name) in &self.names {
            account.keep(source, name);
        }
    }
}

/// Whether values of a type are texts.
fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// Returns the columns of the files `metadata`, with a row for each of the videos `names`.
fn stated(
    root: &Path,
    names: &[String],
    metadata: &[PathBuf],
    choice: &Choice,
) -> Result<Vec<Column>> {
    let Some(first) = metadata.first() else {
        return Ok(Vec::new());
    };
    if let Some(other) = metadata
        .iter()
        .find(|other| other.extension() != first.extension())
    {
        return Err(Error::failed(format!(
            "{}: there are {} and {}, and it is not clear which of them counts",
            root.display(),
            first.display(),
            other.display()
        ))
        .hint("keep metadata in files of one kind: remove or convert the others"));
    }
    let files: Vec<PathBuf> = metadata.iter().map(|file| root.join(file)).collect();
    let extension = first.extension().unwrap_or_default().to_string_lossy();
    let kind = match extension.as_ref() {
        "csv" => TableFile::Csv(Arc::new(csv::infer(&files)?)),
        "jsonl" => TableFile::JsonLines(Arc::new(json_lines::infer(&files)?)),
        _ => TableFile::Parquet,
    };
    // No folder lies below a file, so that the rows get no keys.
    let opened = FileTable::open(kind, &files[0], &files, &|name| choice.reads(name))?;
    let opened = Arc::new(opened);
    let numbers = names
        .iter()
        .enumerate()
        .map(|(at, name)| (name.as_str(), at));
    let numbers: HashMap<&str, usize> = numbers.collect();
    let mut batches = Vec::new();
    let mut rows = HashMap::new();
    let mut row = 0_u64;
    for (number, file) in files.iter().enumerate() {
        let folder = metadata[number].parent().unwrap_or(Path::new(""));
        let mut read = opened.batches(number, ROWS, None)?;
        while let Some((batch, before)) = read.next()? {
            let place = |row: usize| format!("row {} of {}", before + row, file.display());
            for (at, name) in file_names(&batch, file)?.iter().enumerate() {
                let named = name.map(|name| relative(&folder.join(name)));
                let found = named.as_deref().and_then(|name| numbers.get(name));
                let Some(found) = found.copied() else {
                    let name = name.unwrap_or("nothing");
                    return Err(Error::failed(format!(
                        "{}: `{FILE_NAME}` is `{name}`, and there is no such video",
                        place(at)
                    ))
                    .hint("correct or remove the row, or fetch the video"));
                };
                if rows.insert(found, row).is_some() {
                    return Err(Error::failed(format!(
                        "{}: `{}` has a row already",
                        place(at),
                        names[found]
                    ))
                    .hint("keep one row for each video"));
                }
                row += 1;
            }
            batches.push(batch);
        }
    }
    let Some(schema) = batches.first().map(RecordBatch::schema) else {
        return Ok(Vec::new());
    };
    let table = concat_batches(&schema, &batches)?;
    let rows = UInt64Array::from_iter((0..names.len()).map(|at| rows.get(&at).copied()));
    let columns = schema.fields().iter().zip(table.columns());
    columns
        .filter(|(field, _)| field.name() != FILE_NAME)
        .map(|(field, values)| Ok((field.name().clone(), take(values, &rows, None)?)))
        .collect()
}

/// Returns the names of files in a batch of the metadata in `file`.
fn file_names(batch: &RecordBatch, file: &Path) -> Result<StringArray> {
    let wrong = |what: &str| {
        Error::failed(format!("{}: {what}", file.display())).hint(format!(
            "`{FILE_NAME}` is the path of a video, relative to the folder of the metadata"
        ))
    };
    let column = batch.column_by_name(FILE_NAME);
    let column = column.ok_or_else(|| wrong(&format!("there is no column `{FILE_NAME}`")))?;
    if !is_text(column.data_type()) {
        let found = type_name(column.data_type());
        return Err(wrong(&format!("`{FILE_NAME}` is {found}, not text")));
    }
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// Returns a path without `.`, as the names of videos are written.
fn relative(path: &Path) -> String {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.collect::<PathBuf>().to_string_lossy().into_owned()
}

/// Returns the facts that the names of folders state about the videos `names`: a column for each
/// key, and `folder` with the rest of the path.
fn folders(root: &Path, names: &[String], choice: &Choice) -> Result<Vec<Column>> {
    let keys = names.iter().map(|name| table::keys(root, &root.join(name)));
    let keys = keys.collect::<Result<Vec<_>>>()?;
    let mut known: Vec<&str> = Vec::new();
    for (key, _) in keys.iter().flatten() {
        if !known.contains(&key.as_str()) && choice.reads(key) {
            known.push(key);
        }
    }
    let mut columns = Vec::new();
    for key in known {
        let value = |keys: &'_ Vec<table::Key>| -> Option<String> {
            keys.iter().find(|(name, _)| name == key)?.1.clone()
        };
        let values: Vec<Option<String>> = keys.iter().map(value).collect();
        let data_type = table::data_type(values.iter().flatten().map(String::as_str));
        let values: Vec<ArrayRef> = values
            .iter()
            .map(|value| table::column(value.as_deref(), &data_type))
            .collect();
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        columns.push((key.to_owned(), concat(&values)?));
    }
    let rest: StringArray = names.iter().map(|name| rest(name)).collect();
    if rest.null_count() < rest.len() && choice.reads(FOLDER) {
        columns.push((FOLDER.to_owned(), Arc::new(rest)));
    }
    Ok(columns)
}

/// Returns the folders in the path of a video that are no keys; `None` if there are none.
fn rest(name: &str) -> Option<String> {
    let (folders, _) = name.rsplit_once('/')?;
    let rest: Vec<&str> = folders
        .split('/')
        .filter(|folder| !is_key(folder))
        .collect();
    (!rest.is_empty()).then(|| rest.join("/"))
}
