//! A table in one file or in several, whose folders may hold keys.
//!
//! The files may have different columns, in any order. A column that a file lacks is null there. A
//! column with several types gets the type that holds all of them, and every type is the plainest
//! of its kind.

mod hive;
mod old_timestamps;
mod spread;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

pub(crate) use self::hive::{Key, column, data_type, is_key, keys};
use super::Batches;
use super::int96::Units;
use super::record_batches::{TableFile, damaged};
use super::types::{common, convert, plain};
use crate::dataset::schema::type_name;
use crate::error::{Error, Result};

/// A table in one file or in several.
pub(crate) struct FileTable {
    kind: TableFile,
    files: Vec<File>,
    /// The columns of all files, and then the keys that are no columns.
    columns: Vec<Column>,
    schema: SchemaRef,
    /// The position of the column whose lists of structs are read as a list for each field, which
    /// stand behind all other columns.
    spread: Option<usize>,
    /// The number of rows, if it is known without reading them.
    pub(crate) rows: Option<u64>,
    /// The columns that hold no values. They are not in the table.
    pub(crate) empty: Vec<String>,
    /// The units of old timestamps.
    units: Units,
}

/// A file of a table.
struct File {
    path: PathBuf,
    schema: SchemaRef,
    keys: Vec<hive::Key>,
}

/// A column of a table.
struct Column {
    field: Field,
    /// The types that it has, each with the number of the first file in which it has this type.
    types: Vec<(DataType, usize)>,
}

impl FileTable {
    /// Opens `files`, which are all files of the table at `root`, with the columns and keys whose
    /// names `reads` accepts.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, if two columns of a file have one name, or if no
    /// type holds the values of a column in all files.
    pub(crate) fn open(
        kind: TableFile,
        root: &Path,
        files: &[PathBuf],
        reads: &dyn Fn(&str) -> bool,
    ) -> Result<FileTable> {
        let mut rows = Some(0);
        let mut schemas = Vec::with_capacity(files.len());
        let mut old = Vec::new();
        for path in files {
            let (schema, count) = kind.look(path)?;
            let schema = chosen(&schema, reads);
            rows = rows.zip(count).map(|(rows, count)| rows + count);
            unique(schema.fields(), path)?;
            old.push((path.as_path(), kind.int96(path, &schema)?));
            schemas.push(schema);
        }
        let units = old_timestamps::units(&old)?;
        let mut opened: Vec<File> = Vec::with_capacity(files.len());
        let mut empty = BTreeSet::new();
        for ((path, old), schema) in old.into_iter().zip(schemas) {
            let schema = match old.is_empty() {
                true => schema,
                false => chosen(&kind.with_units(path, &units)?, reads),
            };
            // The decoder of Parquet mistakes vectors of no values for damage, and its encoder
            // takes no structs without fields.
            let holds = |field: &&FieldRef| match field.data_type() {
                DataType::FixedSizeList(_, 0) => false,
                DataType::Struct(fields) => !fields.is_empty(),
                _ => true,
            };
            let (held, without): (Vec<&FieldRef>, Vec<&FieldRef>) =
                schema.fields().iter().partition(holds);
            empty.extend(without.into_iter().map(|field| field.name().clone()));
            let held = Schema::new(held.into_iter().cloned().collect::<Vec<_>>());
            // Files with the same columns share them.
            let schema = match opened.last() {
                Some(before) if *before.schema == held => Arc::clone(&before.schema),
                _ => Arc::new(held),
            };
            opened.push(File {
                path: path.to_owned(),
                schema,
                keys: hive::keys(root, path)?
                    .into_iter()
                    .filter(|(key, _)| reads(key))
                    .collect(),
            });
        }
        let columns = columns(&opened)?;
        let named = kind.empty().iter().filter(|name| reads(name));
        empty.extend(named.cloned());
        empty.retain(|name| !columns.iter().any(|column| column.field.name() == name));
        let fields = columns.iter().map(|column| column.field.clone());
        Ok(FileTable {
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            kind,
            files: opened,
            columns,
            spread: None,
            rows,
            empty: empty.into_iter().collect(),
            units,
        })
    }

    /// Returns the columns.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads the lists of structs in one column as a list for each field, if that gives columns
    /// that `suits` accepts.
    pub(crate) fn spread(&mut self, suits: &dyn Fn(&Schema) -> bool) {
        let spread = |at: usize| Some((at, spread::schema(&self.schema, at)?));
        let found = (0..self.columns.len()).filter_map(spread);
        if let Some((at, schema)) = found.into_iter().find(|(_, schema)| suits(schema)) {
            (self.spread, self.schema) = (Some(at), Arc::new(schema));
        }
    }

    /// Whether a column of lists of structs is read as a list for each field.
    pub(crate) fn is_spread(&self) -> bool {
        self.spread.is_some()
    }

    /// Returns the number of files.
    pub(crate) fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Returns the batches of the file `number`, of about `rows` rows if the file does not define
    /// its own batches. They have all columns of the table, or those of `wanted` that the file has;
    /// there are none if it has none of these.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub(crate) fn batches(
        self: &Arc<FileTable>,
        number: usize,
        rows: usize,
        wanted: Option<&[String]>,
    ) -> Result<FileBatches> {
        let file = &self.files[number];
        let whole = self.spread.map(|at| self.columns[at].field.name());
        let is_part = |name: &String| self.columns.iter().all(|known| known.field.name() != name);
        let is_wanted = |name: &String| {
            wanted.is_none_or(|wanted| {
                wanted.contains(name) || whole == Some(name) && wanted.iter().any(is_part)
            })
        };
        let names: Vec<String> = file
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(is_wanted)
            .collect();
        let is_read = |column: &Column| wanted.is_none() || names.contains(column.field.name());
        let columns: Vec<usize> = (0..self.columns.len())
            .filter(|index| is_read(&self.columns[*index]))
            .collect();
        let batches: Batches = match columns.is_empty() {
            true => Box::new(std::iter::empty()),
            false => self
                .kind
                .batches(&file.path, rows, Some(&names), &self.units)?,
        };
        let fields = columns
            .iter()
            .map(|index| self.columns[*index].field.clone());
        let mut schema = Schema::new(fields.collect::<Vec<_>>());
        let spread = columns.iter().position(|index| Some(*index) == self.spread);
        if let Some(spread) = spread.and_then(|at| spread::schema(&schema, at)) {
            schema = spread;
        }
        Ok(FileBatches {
            table: Arc::clone(self),
            number,
            schema: Arc::new(schema),
            spread,
            columns,
            batches,
            row: 0,
        })
    }
}

/// The batches of a file, with columns of its table.
pub(crate) struct FileBatches {
    table: Arc<FileTable>,
    /// The number of the file.
    number: usize,
    /// The positions of the columns in the table.
    columns: Vec<usize>,
    /// The place in `columns` of the column that is read as a list for each field.
    spread: Option<usize>,
    schema: SchemaRef,
    batches: Batches,
    /// The number of rows that were read.
    row: usize,
}

impl FileBatches {
    /// Returns the file.
    pub(crate) fn path(&self) -> &Path {
        &self.table.files[self.number].path
    }

    /// Returns the next batch and the number of rows in front of it; `None` after the last.
    ///
    /// # Errors
    /// Returns an error if the file is damaged, or if a value does not fit the type of its column
    /// in the table.
    pub(crate) fn next(&mut self) -> Result<Option<(RecordBatch, usize)>> {
        let Some(batch) = self.batches.next() else {
            return Ok(None);
        };
        let batch = batch.map_err(|error| damaged(self.path(), error))?;
        let columns = self.columns.iter().map(|index| self.column(&batch, *index));
        let mut columns = columns.collect::<Result<Vec<_>>>()?;
        if let Some(at) = self.spread {
            let whole = columns.remove(at);
            columns.extend(spread::columns(&whole)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::clone(&self.schema);
        let converted = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let first = self.row;
        self.row += converted.num_rows();
        Ok(Some((converted, first)))
    }

    /// Returns the column of the table at `index` for the rows of `batch`.
    fn column(&self, batch: &RecordBatch, index: usize) -> Result<ArrayRef> {
        let file = &self.table.files[self.number];
        let Column { field, types } = &self.table.columns[index];
        let name = field.name();
        let place = |row: usize| format!("row {} of {}", self.row + row, file.path.display());
        let key = file.keys.iter().find(|(key, _)| key == name);
        match (batch.column_by_name(name), key) {
            (Some(column), key) => {
                if let Some((_, value)) = key
                    && let Some(row) = hive::differs(column, value.as_deref())
                {
                    return Err(Error::failed(format!(
                        "column `{name}` and the folder `{name}=…` give different values at {}",
                        place(row)
                    ))
                    .hint("rename the column or the folder, or correct one of them"));
                }
                convert(column, field.data_type(), &place).map_err(|error| {
                    let types = types.iter().map(|(data_type, file)| {
                        let path = self.table.files[*file].path.display();
                        format!("{} in {path}", type_name(data_type))
                    });
                    let types = types.collect::<Vec<_>>().join(" and ");
                    error.at(format!("column `{name}` is {types}"))
                })
            }
            (None, Some((_, value))) => {
                let data_type = hive::data_type(values(&self.table.files, name));
                let one = hive::column(value.as_deref(), &data_type);
                let one = convert(&one, field.data_type(), &place)?;
                let rows = UInt64Array::from(vec![0; batch.num_rows()]);
                Ok(take(&one, &rows, None)?)
            }
            (None, None) => Ok(new_null_array(field.data_type(), batch.num_rows())),
        }
    }
}

/// Returns the columns of `schema` whose names `reads` accepts.
fn chosen(schema: &SchemaRef, reads: &dyn Fn(&str) -> bool) -> SchemaRef {
    let fields = schema.fields().iter().filter(|field| reads(field.name()));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// Verifies that no two of `fields`, or of the fields within one of them, have the same name.
fn unique(fields: &Fields, path: &Path) -> Result<()> {
    for (index, field) in fields.iter().enumerate() {
        if fields[..index]
            .iter()
            .any(|other| other.name() == field.name())
        {
            return Err(Error::failed(format!(
                "{}: two columns are named `{}`",
                path.display(),
                field.name()
            ))
            .hint("rename or drop one of them in the source; pyarrow reads them by position"));
        }
        if let DataType::Struct(children) = field.data_type() {
            unique(children, path)
                .map_err(|error| error.at(format!("column `{}`", field.name())))?;
        }
    }
    Ok(())
}

/// Returns the columns that `files` have together, and their keys.
fn columns(files: &[File]) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    for (number, file) in files.iter().enumerate() {
        if number > 0 && Arc::ptr_eq(&file.schema, &files[number - 1].schema) {
            continue;
        }
        for field in file.schema.fields() {
            add(&mut columns, field, number, files)?;
        }
    }
    for (number, file) in files.iter().enumerate() {
        for (key, _) in &file.keys {
            if file.schema.index_of(key).is_err() {
                let data_type = hive::data_type(values(files, key));
                add(
                    &mut columns,
                    &Field::new(key, data_type, true),
                    number,
                    files,
                )?;
            }
        }
    }
    for Column { field, .. } in &mut columns {
        *field = field.clone().with_data_type(plain(field.data_type()));
        field.set_nullable(true);
    }
    Ok(columns)
}

/// Adds `field`, a column of the file `number`, to `columns`.
fn add(columns: &mut Vec<Column>, field: &Field, number: usize, files: &[File]) -> Result<()> {
    let data_type = field.data_type();
    let known = columns
        .iter_mut()
        .find(|column| column.field.name() == field.name());
    let Some(column) = known else {
        columns.push(Column {
            field: field.clone(),
            types: vec![(data_type.clone(), number)],
        });
        return Ok(());
    };
    if column.types.iter().any(|(known, _)| known == data_type) {
        return Ok(());
    }
    let Some(both) = common(column.field.data_type(), data_type) else {
        let clashes = |(known, _): &&(DataType, usize)| common(known, data_type).is_none();
        let before = column.types.iter().find(clashes).or(column.types.first());
        let before = before.map_or_else(String::new, |(known, file)| {
            format!(
                ", but in {} it is {}",
                files[*file].path.display(),
                type_name(known)
            )
        });
        return Err(Error::failed(format!(
            "{}: column `{}` is {}{before}",
            files[number].path.display(),
            field.name(),
            type_name(data_type)
        ))
        .hint("no type holds both without loss: convert the column in one of the files"));
    };
    column.types.push((data_type.clone(), number));
    let mut metadata = column.field.metadata().clone();
    metadata.retain(|key, value| field.metadata().get(key) == Some(value));
    column.field = column
        .field
        .clone()
        .with_data_type(both)
        .with_metadata(metadata);
    Ok(())
}

/// Returns the values of a key in all files, without nulls.
fn values<'a>(files: &'a [File], key: &'a str) -> impl Iterator<Item = &'a str> + Clone {
    let keys = files.iter().flat_map(|file| &file.keys);
    keys.filter(move |(name, _)| name == key)
        .filter_map(|(_, value)| value.as_deref())
}
