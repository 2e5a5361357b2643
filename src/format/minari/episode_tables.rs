//! Reads the tables of an episode in Minari's Arrow and Parquet backends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::container::arrays::ArrayColumns;
use crate::container::arrow_ipc;
use crate::dataset::files;
use crate::error::{Error, Result};
use crate::transfer::read::pattern;
use crate::transfer::read::per_trajectory;

/// Reads the Arrow or Parquet files of the episode in `folder` as arrays. `episodes` is the number
/// of episodes that the metadata declares. Columns that `reads` does not accept are left out.
pub(crate) fn read_tables(
    folder: &Path,
    arrow: bool,
    episodes: u64,
    reads: &dyn Fn(&str) -> bool,
) -> Result<ArrayColumns> {
    let extension = if arrow { "arrow" } else { "parquet" };
    let failed = |error: std::io::Error| {
        Error::failed(format!("cannot list the folder: {error}")).hint(format!(
            "`total_episodes` is {}, and episodes are numbered from 0 without gaps",
            episodes
        ))
    };
    let mut tables: Vec<PathBuf> = Vec::new();
    for path in files::list(folder).map_err(failed)? {
        if path.extension().is_some_and(|found| found == extension) {
            tables.push(path);
        }
    }
    tables.sort_by(|a, b| pattern::natural(&a.to_string_lossy(), &b.to_string_lossy()));
    let mut batches: Vec<RecordBatch> = Vec::new();
    for path in &tables {
        let open = || {
            files::open(path)
                .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))
        };
        let damaged = |error: String| {
            Error::failed(format!("{} cannot be read: {error}", path.display()))
                .hint("the file may be cut short: download or write it again")
        };
        if arrow {
            let schema = arrow_ipc::open(path, None)?.schema();
            let reader = arrow_ipc::open(path, Some(wanted(&schema, reads)))?;
            for batch in reader {
                batches.push(batch.map_err(|error| damaged(error.to_string()))?);
            }
        } else {
            let reader = ParquetRecordBatchReaderBuilder::try_new(open()?).and_then(|builder| {
                let roots = wanted(builder.schema(), reads);
                let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
                builder.with_projection(mask).build()
            });
            for batch in reader.map_err(|error| damaged(error.to_string()))? {
                batches.push(batch.map_err(|error| damaged(error.to_string()))?);
            }
        }
    }
    let first = batches
        .first()
        .ok_or_else(|| Error::failed(format!("there is no .{extension} file with rows")))?;
    let batch = concat_batches(&first.schema(), &batches)?;
    let mut arrays = ArrayColumns::new();
    let holds = |field: &Field| {
        !matches!(field.data_type(), DataType::FixedSizeList(_, 0)) && field.name() != "episode_id"
    };
    for (field, values) in batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .filter(|(field, _)| holds(field))
    {
        let (field, values) = chosen(field, values, reads)?;
        let (field, values) = per_trajectory::canonical(&field, &values)?;
        // Each part of `infos` is a column of its own; dict and tuple spaces stay structs.
        if field.name() == "infos" {
            flatten_struct("infos", &values, &mut arrays)
        } else {
            drop(arrays.insert(field.name().clone(), (field, values)))
        }
    }
    Ok(arrays)
}

/// Returns the indices of the columns that are read, at least in part.
fn wanted(schema: &Schema, reads: &dyn Fn(&str) -> bool) -> Vec<usize> {
    fn any(name: &str, data_type: &DataType, reads: &dyn Fn(&str) -> bool) -> bool {
        match data_type {
            // Every part is asked for, so that each one that is left out is named.
            DataType::Struct(parts) => parts.iter().fold(false, |found, part| {
                any(&format!("{name}/{}", part.name()), part.data_type(), reads) | found
            }),
            _ => reads(name),
        }
    }
    let fields = schema.fields().iter().enumerate();
    fields
        .filter(|(_, field)| any(field.name(), field.data_type(), reads))
        .map(|(at, _)| at)
        .collect()
}

/// Returns a column without the parts of structs that are not read.
fn chosen(
    field: &Field,
    values: &ArrayRef,
    reads: &dyn Fn(&str) -> bool,
) -> Result<(Field, ArrayRef)> {
    fn parts(
        name: &str,
        values: &ArrayRef,
        reads: &dyn Fn(&str) -> bool,
    ) -> Result<Option<ArrayRef>> {
        let Some(whole) = values.as_struct_opt() else {
            return Ok(reads(name).then(|| Arc::clone(values)));
        };
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (field, values) in whole.fields().iter().zip(whole.columns()) {
            if let Some(values) = parts(&format!("{name}/{}", field.name()), values, reads)? {
                let data_type = values.data_type().clone();
                fields.push(field.as_ref().clone().with_data_type(data_type));
                columns.push(values);
            }
        }
        if columns.is_empty() {
            return Ok(None);
        }
        let nulls = whole.nulls().cloned();
        let chosen = StructArray::try_new(Fields::from(fields), columns, nulls)?;
        Ok(Some(Arc::new(chosen)))
    }
    let values = parts(field.name(), values, reads)?
        .ok_or_else(|| Error::failed(format!("nothing is left of `{}`", field.name())))?;
    let data_type = values.data_type().clone();
    Ok((field.clone().with_data_type(data_type), values))
}

/// Adds the parts of a struct, at any depth, as columns `name/PART`.
fn flatten_struct(name: &str, values: &ArrayRef, arrays: &mut ArrayColumns) {
    match values.as_struct_opt() {
        Some(parts) => {
            for (field, values) in parts.fields().iter().zip(parts.columns()) {
                flatten_struct(&format!("{name}/{}", field.name()), values, arrays);
            }
        }
        None => drop(arrays.insert(
            name.to_owned(),
            (
                Field::new(name, values.data_type().clone(), true),
                Arc::clone(values),
            ),
        )),
    }
}
