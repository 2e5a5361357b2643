//! npz files: numpy arrays in a zip archive.
//!
//! An entry of a zip archive can only be read from its start, and borrows the archive while it is
//! read. So each array has a thread that unpacks it a little ahead of its reader.

mod write;

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::thread;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use crossbeam_channel::{Receiver, Sender, bounded};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use serde_json::{Map, Value};
use zip::ZipArchive;

use super::arrays::{ArrayLayout, ArrayReader, StoredArray, decode};
use super::starts_with;
use crate::dataset::files;
use crate::error::{Error, Result};

pub(crate) use write::NpzWriter;

/// Bytes that are unpacked at once.
const BLOCK_BYTES: usize = 256 << 10;

/// The longest header of an array. numpy's own headers are below 64 KiB.
const HEADER_BYTES: u64 = 1 << 20;

/// The most bytes of a single value.
const VALUE_BYTES: u64 = 1 << 20;

/// Whether the file at `path` is named like an npz file, or is a zip archive of nothing but files
/// that are named like arrays.
///
/// # Errors
/// Returns an error if it cannot be found out whether it is a file, or if it cannot be read.
pub(crate) fn is_npz(path: &Path) -> Result<bool> {
    let named = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("npz"));
    match named {
        true => files::is_file(path),
        false => Ok(starts_with(path, b"PK\x03\x04")?
            && open(path).is_ok_and(|archive| is_of_arrays(&archive))),
    }
}

/// Whether the files in `archive` are named like arrays.
fn is_of_arrays(archive: &Archive) -> bool {
    let mut names = archive.file_names();
    let is_array = |name: &str| npyz::npz::array_name_from_file_name(name).is_some();
    !archive.is_empty() && names.all(|name| name.is_ok_and(|name| is_array(&name)))
}

/// Unpacked bytes of an array, or the reason why there are no more.
type Block = std::result::Result<Vec<u8>, String>;

type Archive = ZipArchive<BufReader<std::fs::File>>;

fn open(path: &Path) -> Result<Archive> {
    let file = files::open(path)
        .map_err(|error| Error::failed(format!("cannot open {}: {error}", path.display())))?;
    ZipArchive::new(BufReader::new(file)).map_err(|error| {
        Error::failed(format!(
            "{}: not a readable npz file: {error}",
            path.display()
        ))
        .hint("the file may be cut short: fetch or write it again")
    })
}

/// Returns the names of the arrays in the file at `path`; `None` if it is not an npz file.
///
/// # Errors
/// Returns an error if the file is named like an npz file and cannot be read.
pub(crate) fn names(path: &Path) -> Result<Option<Vec<String>>> {
    if !is_npz(path)? {
        return Ok(None);
    }
    let archive = open(path)?;
    let names = archive
        .file_names()
        .flatten()
        .filter_map(|name| npyz::npz::array_name_from_file_name(&name).map(str::to_owned));
    Ok(Some(names.collect()))
}

/// Returns the arrays of the file at `path` whose names `reads` accepts.
///
/// # Errors
/// Returns an error if the file cannot be read, or if one of these arrays holds pickled Python
/// objects.
pub(crate) fn arrays(path: &Path, reads: &dyn Fn(&str) -> bool) -> Result<Vec<StoredArray>> {
    let mut archive = open(path)?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let damaged = |what: String| {
            Error::failed(format!("{}: {what}", path.display()))
                .hint("the file may be cut short or damaged: fetch or write it again")
        };
        let mut entry = archive.by_index(index).map_err(|error| {
            damaged(format!("cannot read entry {index} of the archive: {error}"))
        })?;
        let file_name = entry
            .name()
            .map_err(|error| {
                damaged(format!(
                    "entry {index} of the archive has no readable name: {error}"
                ))
            })?
            .into_owned();
        let Some(name) = npyz::npz::array_name_from_file_name(&file_name) else {
            continue;
        };
        if !reads(name) {
            continue;
        }
        let size = entry.size();
        let mut head = (&mut entry).take(HEADER_BYTES);
        let header = NpyHeader::from_reader(&mut head)
            .map_err(|error| damaged(format!("array `{name}` has no readable header: {error}")))?;
        let held = size.saturating_sub(HEADER_BYTES - head.limit());
        if header.uses_pickled_array() {
            return Err(pickled(path, name));
        }
        if let Some(layout) = layout(name, &header).map_err(|error| error.at(path.display()))? {
            if (layout.rows as u128) * (layout.row_bytes() as u128) > u128::from(held) {
                return Err(damaged(format!(
                    "array `{name}` declares more rows than it holds"
                )));
            }
            let reader = Blocks {
                path: path.to_owned(),
                name: name.to_owned(),
                index,
                left: layout.rows * layout.row_bytes() as u64,
                row_bytes: layout.row_bytes(),
                blocks: None,
                block: Vec::new(),
                at: 0,
            };
            arrays.push(StoredArray {
                layout,
                reader: Box::new(reader),
            });
        }
    }
    Ok(arrays)
}

/// Returns the single values of the file at `path` whose names `reads` accepts.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn single_values(
    path: &Path,
    reads: &dyn Fn(&str) -> bool,
) -> Result<Map<String, Value>> {
    let mut archive = open(path)?;
    let mut values = Map::new();
    for index in 0..archive.len() {
        let damaged = |what: String| {
            Error::failed(format!(
                "{}: cannot read entry {index} of the archive: {what}",
                path.display()
            ))
            .hint("the file may be cut short or damaged: fetch or write it again")
        };
        let mut entry = archive
            .by_index(index)
            .map_err(|error| damaged(error.to_string()))?;
        let file_name = entry
            .name()
            .map_err(|error| damaged(error.to_string()))?
            .into_owned();
        let Some(name) =
            npyz::npz::array_name_from_file_name(&file_name).filter(|name| reads(name))
        else {
            continue;
        };
        let header = NpyHeader::from_reader((&mut entry).take(HEADER_BYTES))
            .map_err(|error| damaged(error.to_string()))?;
        if header.shape().is_empty() && !header.uses_pickled_array() {
            let layout = typed(name, &header, 1, Vec::new());
            let mut bytes = Vec::new();
            entry
                .take(VALUE_BYTES)
                .read_to_end(&mut bytes)
                .map_err(|error| damaged(error.to_string()))?;
            values.insert(name.to_owned(), single_value(&layout, bytes)?);
        }
    }
    Ok(values)
}

/// Returns a single value as JSON.
fn single_value(layout: &ArrayLayout, bytes: Vec<u8>) -> Result<Value> {
    let unread = || Value::from(format!("not imported: {}", layout.kind));
    if layout.kind.contains('U') {
        let text = bytes.chunks_exact(4).map(|four| {
            let code = [four[0], four[1], four[2], four[3]];
            let code = if layout.kind.contains('>') {
                u32::from_be_bytes(code)
            } else {
                u32::from_le_bytes(code)
            };
            char::from_u32(code)
        });
        let text: Option<String> = text.collect();
        let text = text.map(|text| text.trim_end_matches('\0').to_owned());
        return Ok(text.map_or_else(unread, Value::from));
    }
    if layout.element == DataType::Null || bytes.len() != layout.row_bytes() {
        return Ok(unread());
    }
    let value = decode(layout, bytes)?;
    if layout.element == DataType::Boolean {
        return Ok(Value::from(value.as_boolean().value(0)));
    }
    Ok(if layout.element.is_integer() {
        let value = cast(&value, &DataType::Int64)?;
        Value::from(value.as_primitive::<Int64Type>().value(0))
    } else {
        let value = cast(&value, &DataType::Float64)?;
        Value::from(value.as_primitive::<Float64Type>().value(0))
    })
}

/// Returns the error for an array of Python objects.
fn pickled(path: &Path, name: &str) -> Error {
    Error::failed(format!(
        "{}: array `{name}` holds pickled Python objects, which are never executed",
        path.display()
    ))
    .hint(
        "if you trust the file, save it without them: python -c \"import numpy as np; \
         d = np.load('IN.npz', allow_pickle=True); \
         np.savez('OUT.npz', **{k: d[k] for k in d.files if d[k].dtype != object})\"",
    )
}

/// Returns the layout of an array with this header; `None` for a single value.
fn layout(name: &str, header: &NpyHeader) -> Result<Option<ArrayLayout>> {
    let Some((rows, row)) = header.shape().split_first() else {
        return Ok(None);
    };
    let row = row
        .iter()
        .map(|axis| usize::try_from(*axis).ok())
        .collect::<Option<Vec<_>>>();
    let bytes = |row: &Vec<usize>| {
        row.iter()
            .try_fold(16_usize, |bytes, axis| bytes.checked_mul(*axis))
    };
    let row = row
        .filter(|row| bytes(row).is_some_and(|bytes| (bytes as u64).checked_mul(*rows).is_some()));
    let row = row.ok_or_else(|| {
        Error::failed(format!(
            "array `{name}` declares a shape larger than this machine can address"
        ))
    })?;
    if header.order() == Order::Fortran && row.iter().product::<usize>() > 1 && *rows > 1 {
        return Err(Error::failed(format!(
            "array `{name}` is stored by columns (Fortran order) and cannot be read row by row"
        ))
        .hint("save it by rows: np.ascontiguousarray(ARRAY)"));
    }
    Ok(Some(typed(name, header, *rows, row)))
}

/// Returns the layout of an array with the type in this header.
fn typed(name: &str, header: &NpyHeader, rows: u64, row: Vec<usize>) -> ArrayLayout {
    let (element, swap) = match header.dtype() {
        DType::Plain(text) => {
            let native =
                [Endianness::of_machine(), Endianness::Irrelevant].contains(&text.endianness());
            (element(text.type_char(), text.size_field()), !native)
        }
        _ => (DataType::Null, false),
    };
    ArrayLayout {
        name: name.to_owned(),
        element,
        kind: header.dtype().descr(),
        swap,
        rows,
        row,
        names: Vec::new(),
    }
}

fn element(kind: TypeChar, size: u64) -> DataType {
    match (kind, size) {
        (TypeChar::Bool, 1) => DataType::Boolean,
        (TypeChar::Int, 1) => DataType::Int8,
        (TypeChar::Int, 2) => DataType::Int16,
        (TypeChar::Int, 4) => DataType::Int32,
        (TypeChar::Int, 8) => DataType::Int64,
        (TypeChar::Uint, 1) => DataType::UInt8,
        (TypeChar::Uint, 2) => DataType::UInt16,
        (TypeChar::Uint, 4) => DataType::UInt32,
        (TypeChar::Uint, 8) => DataType::UInt64,
        (TypeChar::Float, 2) => DataType::Float16,
        (TypeChar::Float, 4) => DataType::Float32,
        (TypeChar::Float, 8) => DataType::Float64,
        _ => DataType::Null,
    }
}

/// Reads an array from its first row to its last. A thread, which starts with the first read,
/// unpacks it.
struct Blocks {
    path: PathBuf,
    name: String,
    index: usize,
    row_bytes: usize,
    /// The bytes that are not read yet.
    left: u64,
    blocks: Option<Receiver<Block>>,
    block: Vec<u8>,
    at: usize,
}

impl ArrayReader for Blocks {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut wanted = rows as usize * self.row_bytes;
        let mut bytes = Vec::new();
        while wanted > 0 {
            if self.at == self.block.len() {
                self.block = self
                    .receive()?
                    .ok_or_else(|| self.damaged("it holds fewer rows than it declares"))?;
                self.at = 0;
            }
            let count = wanted.min(self.block.len() - self.at);
            bytes.extend_from_slice(&self.block[self.at..self.at + count]);
            self.at += count;
            wanted -= count;
        }
        let before = self.left;
        self.left -= bytes.len() as u64;
        // The checksum of an entry is compared only after its last byte.
        if before > 0 && self.left == 0 && self.receive()?.is_some() {
            return Err(self.damaged("it holds more rows than it declares"));
        }
        Ok(bytes)
    }
}

impl Blocks {
    /// Returns the next block; `None` after the last.
    fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        if self.blocks.is_none() {
            self.blocks = Some(self.start()?);
        }
        match self.blocks.as_ref().map(Receiver::recv) {
            Some(Ok(Ok(block))) => Ok(Some(block)),
            Some(Ok(Err(message))) => Err(self.damaged(&message)),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// Starts the thread that unpacks the array.
    fn start(&self) -> Result<Receiver<Block>> {
        let (sender, receiver) = bounded(2);
        let (path, index) = (self.path.clone(), self.index);
        let work = move || {
            if let Err(message) = unpack(&path, index, &sender) {
                // The reader may be gone. Then nobody needs the message.
                let _gone = sender.send(Err(message));
            }
        };
        let started = thread::Builder::new().name("npz".to_owned()).spawn(work);
        started
            .map(|_| receiver)
            .map_err(|error| self.damaged(&format!("cannot start a thread to unpack it: {error}")))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::failed(format!(
            "cannot read the array `{}` of {}: {what}",
            self.name,
            self.path.display()
        ))
        .hint("the file may be cut short or damaged: fetch or write it again")
    }
}

/// Sends what follows the header of entry `index` in blocks, until its end or until the receiver is
/// gone.
fn unpack(path: &Path, index: usize, blocks: &Sender<Block>) -> Result<(), String> {
    let mut archive = open(path).map_err(|error| error.message)?;
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    NpyHeader::from_reader((&mut entry).take(HEADER_BYTES)).map_err(|error| error.to_string())?;
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        (&mut entry)
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block)
            .map_err(|error| error.to_string())?;
        if block.is_empty() || blocks.send(Ok(block)).is_err() {
            return Ok(());
        }
    }
}
