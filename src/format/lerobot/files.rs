//! Reads the files of a LeRobot dataset: JSON, JSON lines, and Parquet tables.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::dataset::files;
use crate::error::{Error, Result};

/// Returns an error about the file at `path`, with the hint that it may be damaged.
pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::failed(format!("{}: {what}", path.display()))
        .hint("the file may be damaged: fetch or write the dataset again")
}

/// Reads the JSON file at `path`.
///
/// Python writes `NaN` and `Infinity`, which JSON does not have: those are errors.
pub(crate) fn json(path: &Path) -> Result<Value> {
    let text = files::read_to_string(path).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", path.display()))
            .hint("every LeRobot dataset has this file: fetch the dataset again")
    })?;
    parse(&text).map_err(|what| damaged(path, what))
}

fn parse(text: &str) -> std::result::Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        let token = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|token| text.contains(token));
        match token {
            Some(token) => format!(
                "not JSON: {error}; it contains `{token}`, which Python writes but JSON does not \
                 allow"
            ),
            None => format!("not JSON: {error}"),
        }
    })
}

/// Calls `take` with each line of a file of JSON lines; blank lines are skipped.
pub(crate) fn lines(path: &Path, mut take: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    let file = files::open(path).map_err(|error| {
        Error::failed(format!("cannot open {}: {error}", path.display()))
            .hint("every LeRobot v2 dataset has this file: fetch the dataset again")
    })?;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| damaged(path, format!("line {}: {error}", number + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let line =
            parse(&line).map_err(|what| damaged(path, format!("line {}: {what}", number + 1)))?;
        take(&line)?;
    }
    Ok(())
}

/// Returns the columns of a Parquet file whose names `wanted` accepts, in batches.
pub(crate) fn table(
    path: &Path,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let file = files::open(path).map_err(|error| {
        Error::failed(format!("cannot open {}: {error}", path.display()))
            .hint("the dataset is incomplete: fetch it again")
    })?;
    let unreadable = |error: &dyn std::fmt::Display| {
        damaged(path, format!("not a readable Parquet file: {error}"))
    };
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(&error))?;
    let roots: Vec<usize> = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| wanted(field.name()))
        .map(|(index, _)| index)
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder
        .with_projection(mask)
        .with_batch_size(8192)
        .build()
        .map_err(|error| unreadable(&error))?;
    let path = path.to_owned();
    Ok(reader.map(move |batch| {
        batch.map_err(|error| damaged(&path, format!("cannot read a batch of rows: {error}")))
    }))
}

/// Returns the column `name` as int64; `None` if it is missing, holds nulls or is not numeric.
pub(crate) fn integers(batch: &RecordBatch, name: &str) -> Option<Int64Array> {
    let column = batch
        .column_by_name(name)
        .filter(|column| column.data_type().is_numeric())?;
    let column = cast(column, &DataType::Int64).ok()?;
    (column.null_count() == 0).then(|| column.as_primitive::<Int64Type>().clone())
}

/// Returns the column `name` as float64; `None` if it is missing or not numeric.
pub(crate) fn nullable(batch: &RecordBatch, name: &str) -> Option<Float64Array> {
    let column = cast(batch.column_by_name(name)?, &DataType::Float64).ok()?;
    Some(column.as_primitive::<Float64Type>().clone())
}

/// Returns numbers or booleans as float64.
pub(crate) fn numbers(values: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(values, &DataType::Float64)?
        .as_primitive::<Float64Type>()
        .clone())
}

/// Returns the Parquet files two levels below `folder`, in the order of their names, as LeRobot's
/// loader finds them.
pub(crate) fn parquet_files(folder: &Path) -> Result<Vec<PathBuf>> {
    fn list(folder: &Path) -> Result<Vec<PathBuf>> {
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot list {}: {error}", folder.display()))
                .hint("the dataset is incomplete: fetch it again")
        };
        let mut entries = files::list(folder).map_err(failed)?;
        entries.sort();
        Ok(entries)
    }
    let mut found = Vec::new();
    for chunk in list(folder)? {
        if files::is_dir(&chunk)? {
            found.extend(list(&chunk)?.into_iter().filter(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "parquet")
            }));
        }
    }
    Ok(found)
}
