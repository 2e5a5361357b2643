//! HDF5: what its files hold, read through the library; and how we write them ([`write`]).

#[path = "page_cache.rs"]
mod blocks;
pub(super) mod write;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field};
use hdf5_pure::{AttrValue, Datatype, DatatypeByteOrder};

pub(super) use hdf5_pure::{Dataset, File, Group};
use serde_json::{Map, Value};

use super::grouped::Arrays;
use super::parts::{self, Layout, Part, Reader};
use crate::error::{Error, Result};
use blocks::Blocks;

/// First bytes of an HDF5 file.
const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Bytes that a read from a dataset aims at.
const BLOCK_BYTES: usize = 1 << 20;

/// Groups within groups; a deeper file links to itself.
const DEEPEST: usize = 16;

/// Whether the file at `path` is HDF5, or is called so.
pub(super) fn is_hdf5(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| {
        ["hdf5", "h5", "hdf"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    path.is_file() && (named || super::starts_with(path, MAGIC))
}

/// Opens the file at `path`: what is read from it later is read as it is needed.
pub(super) fn open(path: &Path) -> Result<File> {
    let file = Blocks::open(path)
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
pub(super) fn member(group: &Group, name: &str) -> Result<Option<Group>> {
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

/// Everything in a file: its arrays, and single values as metadata.
pub(super) fn everything(file: &File, path: &Path) -> Result<(Vec<Part>, Map<String, Value>)> {
    let mut found = Found {
        parts: Vec::new(),
        metadata: Map::new(),
        file: path.display().to_string(),
    };
    attributes(&file.root(), &mut found.metadata);
    found
        .group(&file.root(), "", 0)
        .map_err(|error| error.at(path.display()))?;
    Ok((found.parts, found.metadata))
}

/// The groups in a group by name, found in one walk: looking each up would walk through all the others.
///
/// # Errors
/// Where they cannot be listed.
pub(super) fn groups(group: &Group) -> Result<HashMap<String, Group>> {
    Ok(group
        .iter_groups()
        .map_err(|error| unreadable(format!("the groups cannot be listed: {error}")))?
        .collect())
}

/// The arrays in a group by name, found in one walk.
///
/// # Errors
/// Where they cannot be listed.
pub(super) fn datasets(group: &Group) -> Result<HashMap<String, Dataset>> {
    Ok(group
        .iter_datasets()
        .map_err(|error| unreadable(format!("the arrays cannot be listed: {error}")))?
        .collect())
}

/// Which rows of the array `name` of `rows` rows are to be read.
pub(super) type Choose<'a> = &'a mut dyn FnMut(&str, u64) -> Range<u64>;

/// All rows.
pub(super) fn whole(_: &str, rows: u64) -> Range<u64> {
    0..rows
}

/// All arrays under `group` as columns, of each the rows that `choose` says; single values are left out.
///
/// # Errors
/// Where one cannot be read or is no column.
pub(super) fn arrays(
    group: &Group,
    prefix: &str,
    depth: usize,
    choose: Choose,
    found: &mut Arrays,
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
pub(super) fn rows(
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
pub(super) fn column(
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
    if is_text(&datatype) && row.is_empty() {
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
    let layout = layout(name, &datatype, count, row)?;
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
    parts::whole(name, &layout, bytes).map(Some)
}

/// Whether the type is text.
fn is_text(datatype: &Datatype) -> bool {
    matches!(
        datatype,
        Datatype::String { .. }
            | Datatype::VariableLength {
                is_string: true,
                ..
            }
    )
}

/// The bytes of the array `name`; `None` where there is none that can be read.
pub(super) fn bytes(file: &File, name: &str) -> Option<Vec<u8>> {
    file.dataset(name).ok()?.read_raw().ok()
}

/// What a file that we wrote says of its origin, in the envelope under `prefix`.
pub(super) fn note(path: &Path, prefix: &str) -> Option<String> {
    let file = super::starts_with(path, MAGIC).then(|| open(path).ok())??;
    let text = bytes(&file, &format!("{prefix}{}", super::kept::ENVELOPE))?;
    super::kept::Envelope::parse(&text)
        .ok()
        .map(|envelope| envelope.note.to_string())
}

/// What a file holds.
struct Found {
    parts: Vec<Part>,
    metadata: Map<String, Value>,
    file: String,
}

impl Found {
    fn group(&mut self, group: &Group, prefix: &str, depth: usize) -> Result<()> {
        let failed = |error: hdf5_pure::Error| {
            unreadable(format!("cannot read the group `/{prefix}`: {error}"))
        };
        if depth > DEEPEST {
            return Err(Error::failed(format!(
                "groups are nested more than {DEEPEST} deep at `/{prefix}`"
            )));
        }
        let mut datasets: Vec<(String, Dataset)> = group.iter_datasets().map_err(failed)?.collect();
        datasets.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, dataset) in datasets {
            let name = format!("{prefix}{name}");
            let failed = |error: hdf5_pure::Error| {
                unreadable(format!("cannot read the dataset `{name}`: {error}"))
            };
            let shape = dataset.shape().map_err(failed)?;
            let datatype = dataset.datatype().map_err(failed)?;
            match shape.split_first() {
                Some((rows, row))
                    if !name.starts_with("metadata/") || name.starts_with("metadata/trajmill/") =>
                {
                    let layout = layout(&name, &datatype, *rows, row)?;
                    let block = block_rows(&dataset, &layout);
                    let rows = Rows {
                        file: self.file.clone(),
                        name,
                        dataset,
                        row_bytes: layout.row_bytes(),
                        block,
                        next: 0,
                        buffer: Vec::new(),
                        at: 0,
                    };
                    self.parts.push(Part {
                        layout,
                        reader: Box::new(rows),
                    });
                }
                _ if shape.iter().product::<u64>() == 1 => {
                    // What only describes the data must not stand in its way.
                    let value = scalar(&dataset, &datatype)
                        .unwrap_or_else(|error| Value::from(format!("not imported: {error}")));
                    self.metadata.insert(name, value);
                }
                _ => {
                    self.metadata
                        .insert(name, Value::from(format!("not imported: shape {shape:?}")));
                }
            }
        }
        let mut groups = group.groups().map_err(failed)?;
        groups.sort();
        for name in groups {
            let child = group.group(&name).map_err(failed)?;
            self.group(&child, &format!("{prefix}{name}/"), depth + 1)?;
        }
        Ok(())
    }
}

fn layout(name: &str, datatype: &Datatype, rows: u64, row: &[u64]) -> Result<Layout> {
    let (element, order) = element(datatype);
    let row = row
        .iter()
        .map(|axis| usize::try_from(*axis).ok())
        .collect::<Option<Vec<_>>>();
    let bytes = |row: &Vec<usize>| {
        row.iter()
            .try_fold(8_usize, |bytes, axis| bytes.checked_mul(*axis))
    };
    let row = row
        .filter(|row| bytes(row).is_some())
        .ok_or_else(|| Error::failed(format!("a row of `{name}` is too large for this machine")))?;
    let swap = if cfg!(target_endian = "big") {
        order == DatatypeByteOrder::LittleEndian
    } else {
        order == DatatypeByteOrder::BigEndian
    };
    let kind = if element == DataType::Null {
        class(datatype).to_owned()
    } else {
        element.to_string().to_lowercase()
    };
    Ok(Layout {
        name: name.to_owned(),
        element,
        kind,
        swap,
        rows,
        row,
    })
}

/// The type of column for a type of the file, and the order of its bytes; `Null` where there is none.
fn element(datatype: &Datatype) -> (DataType, DatatypeByteOrder) {
    match datatype {
        Datatype::FixedPoint {
            size,
            byte_order,
            layout,
        } if u32::from(layout.bit_precision) == size * 8 => {
            let element = match (size, layout.signed) {
                (1, true) => DataType::Int8,
                (2, true) => DataType::Int16,
                (4, true) => DataType::Int32,
                (8, true) => DataType::Int64,
                (1, false) => DataType::UInt8,
                (2, false) => DataType::UInt16,
                (4, false) => DataType::UInt32,
                (8, false) => DataType::UInt64,
                _ => DataType::Null,
            };
            (element, *byte_order)
        }
        Datatype::FloatingPoint {
            size,
            byte_order,
            layout,
        } if *byte_order != DatatypeByteOrder::Vax => {
            let element = match (size, layout.exponent_size) {
                (2, 5) => DataType::Float16,
                (4, 8) => DataType::Float32,
                (8, 11) => DataType::Float64,
                _ => DataType::Null,
            };
            (element, *byte_order)
        }
        // Booleans are written as an enumeration of bytes, or as a bit field of one byte.
        Datatype::Enumeration {
            size: 1, members, ..
        } if members.len() <= 2 => (DataType::Boolean, DatatypeByteOrder::LittleEndian),
        Datatype::BitField { size: 1, .. } => (DataType::Boolean, DatatypeByteOrder::LittleEndian),
        Datatype::Enumeration { base_type, .. } => element(base_type),
        _ => (DataType::Null, DatatypeByteOrder::LittleEndian),
    }
}

fn class(datatype: &Datatype) -> &'static str {
    match datatype {
        Datatype::String { .. }
        | Datatype::VariableLength {
            is_string: true, ..
        } => "text",
        Datatype::VariableLength { .. } => "sequences of varying length",
        Datatype::Compound { .. } => "compound values",
        Datatype::Reference { .. } => "references",
        Datatype::Array { .. } => "arrays",
        Datatype::Opaque { .. } => "opaque bytes",
        _ => "numbers of an unusual format",
    }
}

/// Rows to read at once: whole chunks, so that each is decompressed once.
fn block_rows(dataset: &Dataset, layout: &Layout) -> u64 {
    let wanted = (BLOCK_BYTES / layout.row_bytes().max(1)).max(1) as u64;
    match dataset.chunk_shape() {
        Ok(Some(chunk)) => {
            let rows = chunk.first().copied().unwrap_or(1).max(1);
            wanted.div_ceil(rows).saturating_mul(rows)
        }
        _ => wanted,
    }
}

/// A single value as JSON.
fn scalar(dataset: &Dataset, datatype: &Datatype) -> Result<Value, hdf5_pure::Error> {
    let first = match datatype {
        Datatype::String { .. }
        | Datatype::VariableLength {
            is_string: true, ..
        } => dataset.read_string()?.into_iter().next().map(Value::from),
        Datatype::FixedPoint { .. } => dataset.read_i64()?.first().map(|value| Value::from(*value)),
        Datatype::FloatingPoint { .. } => {
            dataset.read_f64()?.first().map(|value| Value::from(*value))
        }
        Datatype::Enumeration { size: 1, .. } => dataset
            .read_raw()?
            .first()
            .map(|value| Value::from(*value != 0)),
        other => Some(Value::from(format!("not imported: {}", class(other)))),
    };
    Ok(first.unwrap_or(Value::Null))
}

/// Attributes of a group that are single values.
pub(super) fn attributes(root: &Group, metadata: &mut Map<String, Value>) {
    let mut attributes: Vec<(String, AttrValue)> =
        root.attrs().unwrap_or_default().into_iter().collect();
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
}

/// Reads a dataset from its first row to its last, a block at a time.
struct Rows {
    file: String,
    name: String,
    dataset: Dataset,
    row_bytes: usize,
    block: u64,
    next: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl Reader for Rows {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut left = rows as usize * self.row_bytes;
        let mut bytes = Vec::new();
        while left > 0 {
            if self.at == self.buffer.len() {
                self.buffer = self
                    .dataset
                    .read_raw_rows(self.next, self.block)
                    .map_err(|error| self.damaged(&error.to_string()))?;
                self.at = 0;
                self.next += self.block;
                if self.buffer.is_empty() || !self.buffer.len().is_multiple_of(self.row_bytes) {
                    return Err(self.damaged("it holds fewer rows than it declares"));
                }
            }
            let count = left.min(self.buffer.len() - self.at);
            bytes.extend_from_slice(&self.buffer[self.at..self.at + count]);
            self.at += count;
            left -= count;
        }
        Ok(bytes)
    }
}

impl Rows {
    fn damaged(&self, what: &str) -> Error {
        unreadable(format!(
            "cannot read the dataset `{}` of {}: {what}",
            self.name, self.file
        ))
    }
}
