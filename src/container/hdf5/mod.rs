//! HDF5 files: groups, arrays and attributes, read through a library and written by [`write`].

mod element;
mod encode;
mod page_cache;
mod stored_arrays;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field};
use hdf5_pure::AttrValue;
use serde_json::{Map, Value};

use super::arrays::{self, ArrayColumns};
use super::starts_with;
use crate::dataset::files;
use crate::error::{Error, Result};
use page_cache::PageCache;

pub(crate) use encode::Element;
pub(crate) use hdf5_pure::{Dataset, File, Group};
pub(crate) use stored_arrays::stored_arrays;
pub(crate) use write::{Attribute, Hdf5Writer};

/// First bytes of an HDF5 file.
const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Groups within groups; a deeper file links to itself.
const DEEPEST: usize = 16;

/// Whether the file at `path` is HDF5, or is called so.
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

/// Whether the file at `path` starts as HDF5 files do.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn has_magic(path: &Path) -> Result<bool> {
    starts_with(path, MAGIC)
}

/// Opens the file at `path`: what is read from it later is read as it is needed.
pub(crate) fn open(path: &Path) -> Result<File> {
    let file = PageCache::open(path)
        .map_err(hdf5_pure::Error::Io)
        .and_then(File::from_source);
    file.map_err(|error| {
        Error::failed(format!(
            "{}: not a readable HDF5 file: {error}",
            path.display()
        ))
        .hint("the file may be cut short: fetch or write it again")
    })
}

/// What the library cannot make sense of.
fn unreadable(what: String) -> Error {
    Error::failed(what).hint("the file may be cut short or damaged: fetch or write it again")
}

/// The group of that name in another; `None` where there is none.
///
/// # Errors
/// Where there is one that cannot be read.
pub(crate) fn member(group: &Group, name: &str) -> Result<Option<Group>> {
    let failed =
        |error: hdf5_pure::Error| unreadable(format!("cannot read the group `{name}`: {error}"));
    if group
        .groups()
        .map_err(failed)?
        .iter()
        .all(|known| known != name)
    {
        return Ok(None);
    }
    group.group(name).map(Some).map_err(failed)
}

/// The groups in a group by name, found in one walk: looking each up would walk through all the others.
///
/// # Errors
/// Where they cannot be listed.
pub(crate) fn groups(group: &Group) -> Result<HashMap<String, Group>> {
    Ok(group
        .iter_groups()
        .map_err(|error| unreadable(format!("the groups cannot be listed: {error}")))?
        .collect())
}

/// The arrays in a group by name, found in one walk.
///
/// # Errors
/// Where they cannot be listed.
pub(crate) fn datasets(group: &Group) -> Result<HashMap<String, Dataset>> {
    Ok(group
        .iter_datasets()
        .map_err(|error| unreadable(format!("the arrays cannot be listed: {error}")))?
        .collect())
}

/// Which rows of the array `name` of `rows` rows are to be read.
pub(crate) type Choose<'a> = &'a mut dyn FnMut(&str, u64) -> Range<u64>;

/// All rows.
pub(crate) fn all_rows(_: &str, rows: u64) -> Range<u64> {
    0..rows
}

/// All arrays under `group` as columns, of each the rows that `choose` says; single values are left out.
///
/// # Errors
/// Where one cannot be read or is no column.
pub(crate) fn arrays(
    group: &Group,
    prefix: &str,
    depth: usize,
    choose: Choose,
    found: &mut ArrayColumns,
) -> Result<()> {
    let failed =
        |error: hdf5_pure::Error| unreadable(format!("cannot read the group `/{prefix}`: {error}"));
    if depth > DEEPEST {
        return Err(Error::failed(format!(
            "groups are nested more than {DEEPEST} deep at `{prefix}`"
        )));
    }
    for (name, dataset) in group.iter_datasets().map_err(failed)? {
        let name = format!("{prefix}{name}");
        if let Some(column) = column(&dataset, &name, choose)? {
            found.insert(name, column);
        }
    }
    for (name, child) in group.iter_groups().map_err(failed)? {
        arrays(
            &child,
            &format!("{prefix}{name}/"),
            depth + 1,
            choose,
            found,
        )?;
    }
    Ok(())
}

/// Lengths of the axes after the first of every array under `group`, by name.
///
/// # Errors
/// Where one cannot be read.
pub(crate) fn rows(
    group: &Group,
    prefix: &str,
    depth: usize,
    found: &mut BTreeMap<String, Vec<u64>>,
) -> Result<()> {
    let failed =
        |error: hdf5_pure::Error| unreadable(format!("cannot read the group `/{prefix}`: {error}"));
    if depth > DEEPEST {
        return Err(Error::failed(format!(
            "groups are nested more than {DEEPEST} deep at `{prefix}`"
        )));
    }
    for (name, dataset) in group.iter_datasets().map_err(failed)? {
        let shape = dataset.shape().map_err(failed)?;
        found.insert(
            format!("{prefix}{name}"),
            shape.into_iter().skip(1).collect(),
        );
    }
    for (name, child) in group.iter_groups().map_err(failed)? {
        rows(&child, &format!("{prefix}{name}/"), depth + 1, found)?;
    }
    Ok(())
}

/// The rows of an array that `choose` says, as a column; `None` for a single value, and for rows that hold nothing.
///
/// # Errors
/// Where it cannot be read or is no column.
pub(crate) fn column(
    dataset: &Dataset,
    name: &str,
    choose: Choose,
) -> Result<Option<(Field, ArrayRef)>> {
    let failed =
        |error: hdf5_pure::Error| unreadable(format!("cannot read the array `{name}`: {error}"));
    let (shape, datatype) = (
        dataset.shape().map_err(failed)?,
        dataset.datatype().map_err(failed)?,
    );
    let Some((rows, row)) = shape.split_first() else {
        return Ok(None);
    };
    if row.contains(&0) {
        return Ok(None);
    }
    let chosen = choose(name, *rows);
    let count = chosen.end - chosen.start;
    if element::is_text(&datatype) && row.is_empty() {
        let texts = dataset.read_string().map_err(failed)?;
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
        _ if count == *rows => dataset.read_raw().map_err(failed)?,
        _ => dataset.read_raw_rows(chosen.start, count).map_err(failed)?,
    };
    if bytes.len() as u64 != count * layout.row_bytes() as u64 {
        return Err(Error::failed(format!(
            "`{name}` holds {} bytes, not those of {count} rows of the shape {shape:?}",
            bytes.len()
        )));
    }
    arrays::whole_column(name, &layout, bytes).map(Some)
}

/// The array `name` of a file; `None` where there is none.
fn array(file: &File, name: &str) -> Result<Option<Dataset>, hdf5_pure::Error> {
    use hdf5_pure::{Error, FormatError};
    match file.dataset(name) {
        Ok(found) => Ok(Some(found)),
        Err(
            Error::Format(FormatError::PathNotFound(_))
            | Error::NotADataset(_)
            | Error::NotAGroup(_),
        ) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a file has the array `name`.
///
/// # Errors
/// Returns an error if that cannot be found out.
pub(crate) fn has_array(file: &File, name: &str) -> Result<bool> {
    let found = array(file, name)
        .map_err(|error| unreadable(format!("cannot read the array `{name}`: {error}")))?;
    Ok(found.is_some())
}

/// The bytes of the array `name`; `None` where there is none.
///
/// # Errors
/// Returns an error if there is one that cannot be read.
pub(crate) fn bytes(file: &File, name: &str) -> Result<Option<Vec<u8>>> {
    array(file, name)
        .and_then(|found| found.map(|dataset| dataset.read_raw()).transpose())
        .map_err(|error| unreadable(format!("cannot read the array `{name}`: {error}")))
}

/// Attributes of a group that are single values. The library passes over an attribute that cannot
/// be read; if that is because of the file system, every later read of the file fails.
///
/// # Errors
/// Returns an error if they cannot be listed.
pub(crate) fn attributes(root: &Group, metadata: &mut Map<String, Value>) -> Result<()> {
    let attributes = root
        .attrs()
        .map_err(|error| unreadable(format!("cannot read the attributes of a group: {error}")))?;
    let mut attributes: Vec<(String, AttrValue)> = attributes.into_iter().collect();
    attributes.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in attributes {
        let text = value.as_str().map(Value::from);
        let value = text
            .or_else(|| value.as_i64().map(Value::from))
            .or_else(|| value.as_f64().map(Value::from));
        if let Some(value) = value {
            metadata.insert(name, value);
        }
    }
    Ok(())
}
