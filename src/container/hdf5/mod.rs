//! HDF5 files: groups, arrays and attributes, read through a library and written by [`write`].

mod dense;
mod element;
mod encode;
mod group;
mod image;
mod links;
mod page_cache;
mod stored_arrays;
mod walk;
mod write;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value};

use super::arrays::{self, ArrayColumns};
use super::starts_with;
use crate::dataset::files;
use crate::error::{Error, Result};
use group::{Found, unreadable};
use walk::walk;

pub(crate) use encode::Element;
pub(crate) use group::{File, Group, Reads, all, array, datasets, groups, member, open};
pub(crate) use hdf5_pure::Dataset;
pub(crate) use stored_arrays::stored_arrays;
pub(crate) use write::{Attribute, Hdf5Writer};

/// The first bytes of an HDF5 file.
const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Whether the file at `path` is an HDF5 file, or is named like one.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn is_hdf5(path: &Path) -> Result<bool> {
    let named = path.extension().is_some_and(|extension| {
        ["hdf5", "h5", "hdf"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    Ok(files::is_file(path)? && (named || has_magic(path)?))
}

/// Whether the file at `path` starts like an HDF5 file.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn has_magic(path: &Path) -> Result<bool> {
    starts_with(path, MAGIC)
}

/// Chooses the rows to read of the array `name` with `rows` rows.
pub(crate) type Choose<'a> = &'a mut dyn FnMut(&str, u64) -> Range<u64>;

/// Chooses all rows.
pub(crate) fn all_rows(_: &str, rows: u64) -> Range<u64> {
    0..rows
}

/// Reads the rows that `choose` returns of the arrays under `group` whose names `reads` accepts, as
/// columns. Single values are left out.
///
/// # Errors
/// Returns an error if an array cannot be read or cannot be a column.
pub(crate) fn arrays(
    group: &Group,
    prefix: &str,
    reads: Reads,
    choose: Choose,
    found: &mut ArrayColumns,
) -> Result<()> {
    walk(group, prefix, reads, &mut |name, dataset| {
        let column = column(&dataset, &name, choose)?;
        found.extend(column.map(|column| (name, column)));
        Ok(())
    })
}

/// Finds the shape and the type of every array under `group` that `reads` accepts, by name.
///
/// # Errors
/// Returns an error if an array cannot be read.
pub(crate) fn shapes(
    group: &Group,
    reads: Reads,
    found: &mut BTreeMap<String, ArrayShape>,
) -> Result<()> {
    walk(group, "", reads, &mut |name, dataset| {
        let failed = |error: hdf5_pure::Error| {
            unreadable(format!("cannot read the array `{name}`: {error}"))
        };
        let (shape, datatype) = (
            dataset.shape().map_err(failed)?,
            dataset.datatype().map_err(failed)?,
        );
        let holds = if element::is_text(&datatype) {
            Ok(DataType::Utf8)
        } else {
            let layout = element::layout(&name, &datatype, 0, &[])?;
            match layout.element {
                DataType::Null => Err(layout.kind),
                element => Ok(element),
            }
        };
        found.insert(name, ArrayShape { shape, holds });
        Ok(())
    })
}

/// Returns the numbers of rows of the arrays in `group` whose names `reads` accepts, by name,
/// without those behind links that are not followed.
///
/// # Errors
/// Returns an error if the group or an array cannot be read.
pub(crate) fn rows(group: &Group, reads: Reads) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for name in group.names()?.into_iter().filter(|name| reads(name)) {
        let Found::Array(dataset) = group.find(&name)? else {
            continue;
        };
        let shape = dataset
            .shape()
            .map_err(|error| unreadable(format!("cannot read the array `{name}`: {error}")))?;
        found.extend(shape.first().map(|rows| (name, *rows)));
    }
    Ok(found)
}

/// The shape of an array, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArrayShape {
    /// The lengths of its axes; none if it is a single value.
    pub(crate) shape: Vec<u64>,
    /// The type of an element, or what it holds if no column can hold it.
    pub(crate) holds: Result<DataType, String>,
}

/// Reads the single values under `group`, as columns of one row.
///
/// # Errors
/// Returns an error if a value cannot be read.
pub(crate) fn single_values(group: &Group, reads: Reads, found: &mut ArrayColumns) -> Result<()> {
    walk(group, "", reads, &mut |name, dataset| {
        let shape = dataset
            .shape()
            .map_err(|error| unreadable(format!("cannot read the array `{name}`: {error}")))?;
        if shape.is_empty() {
            let column = column_of(&dataset, &name, 1, &[], &mut all_rows)?;
            found.extend(column.map(|column| (name, column)));
        }
        Ok(())
    })
}

/// Reads the rows that `choose` returns of an array, as a column; `None` for a single value, and
/// for rows without values.
///
/// # Errors
/// Returns an error if the array cannot be read or cannot be a column.
pub(crate) fn column(
    dataset: &Dataset,
    name: &str,
    choose: Choose,
) -> Result<Option<(Field, ArrayRef)>> {
    let failed =
        |error: hdf5_pure::Error| unreadable(format!("cannot read the array `{name}`: {error}"));
    match dataset.shape().map_err(failed)?.split_first() {
        Some((rows, row)) => column_of(dataset, name, *rows, row, choose),
        None => Ok(None),
    }
}

/// Reads the rows that `choose` returns of an array with `rows` rows of the shape `row`.
fn column_of(
    dataset: &Dataset,
    name: &str,
    rows: u64,
    row: &[u64],
    choose: Choose,
) -> Result<Option<(Field, ArrayRef)>> {
    let failed =
        |error: hdf5_pure::Error| unreadable(format!("cannot read the array `{name}`: {error}"));
    let datatype = dataset.datatype().map_err(failed)?;
    if row.contains(&0) {
        return Ok(None);
    }
    let chosen = choose(name, rows);
    let count = chosen.end - chosen.start;
    if element::is_text(&datatype) && row.is_empty() {
        let texts = match element::byte_strings(dataset, &datatype).map_err(failed)? {
            Some(strings) => {
                let strings = strings.slice(chosen.start as usize, count as usize);
                let data_type = strings.data_type().clone();
                return Ok(Some((Field::new(name, data_type, true), strings)));
            }
            None => dataset.read_string().map_err(failed)?,
        };
        let texts = texts
            .into_iter()
            .skip(chosen.start as usize)
            .take(count as usize);
        return Ok(Some((
            Field::new(name, DataType::Utf8, true),
            Arc::new(StringArray::from_iter_values(texts)),
        )));
    }
    let layout = element::layout(name, &datatype, count, row)?;
    if layout.element == DataType::Null {
        return Err(Error::failed(format!(
            "`{name}` holds {}, not numbers",
            layout.kind
        )));
    }
    let bytes = match count {
        0 => Vec::new(),
        _ if count == rows => dataset.read_raw().map_err(failed)?,
        _ => dataset.read_raw_rows(chosen.start, count).map_err(failed)?,
    };
    if bytes.len() as u64 != count * layout.row_bytes() as u64 {
        return Err(Error::failed(format!(
            "`{name}` holds {} bytes instead of {count} rows of the shape {row:?}",
            bytes.len()
        )));
    }
    arrays::whole_column(name, &layout, bytes).map(Some)
}

/// Whether a file has the array `name`, or a link of this name that is not followed.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn has_array(file: &File, name: &str) -> Result<bool> {
    Ok(matches!(
        file.root().find(name)?,
        Found::Array(_) | Found::Unread(_)
    ))
}

/// Returns the bytes of the array `name`; `None` if it does not exist.
///
/// # Errors
/// Returns an error if the array exists and cannot be read.
pub(crate) fn bytes(file: &File, name: &str) -> Result<Option<Vec<u8>>> {
    let bytes = array(&file.root(), name)?.map(|dataset| dataset.read_raw());
    bytes
        .transpose()
        .map_err(|error| unreadable(format!("cannot read the array `{name}`: {error}")))
}

/// Adds the attributes of a group to `metadata`. The library passes over an attribute that it
/// cannot read; if the file system failed, every later read of the file fails.
///
/// # Errors
/// Returns an error if the attributes cannot be listed.
pub(crate) fn attributes(root: &Group, metadata: &mut Map<String, Value>) -> Result<()> {
    let failed = |error: hdf5_pure::Error| {
        unreadable(format!("cannot read the attributes of a group: {error}"))
    };
    let root = root.library();
    let values = root.attrs().map_err(failed)?;
    let mut types: Vec<_> = root.attr_datatypes().map_err(failed)?.into_iter().collect();
    types.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, datatype) in types {
        let value = values
            .get(&name)
            .and_then(|value| element::attribute(value, &datatype));
        let value = value
            .unwrap_or_else(|| Value::from(format!("not imported: {}", element::class(&datatype))));
        metadata.insert(name, value);
    }
    Ok(())
}
