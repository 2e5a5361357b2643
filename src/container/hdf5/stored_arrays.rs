//! The arrays of an HDF5 file, to be read from their first row to their last.

use std::path::Path;

use serde_json::{Map, Value};

use super::super::arrays::{ArrayLayout, ArrayReader, StoredArray};
use super::group::{Reads, unreadable};
use super::walk::walk;
use super::{Dataset, File, attributes, element};
use crate::error::{Error, Result};

/// Bytes that a read of an array aims at.
const BLOCK_BYTES: usize = 1 << 20;

/// Returns the arrays of `file` that `is_data` accepts by name, and its single values as metadata.
/// Metadata names the other arrays. Arrays that `reads` rejects are not opened.
///
/// # Errors
/// Returns an error if a group or an array cannot be read.
pub(crate) fn stored_arrays(
    file: &File,
    path: &Path,
    is_data: fn(&str) -> bool,
    reads: Reads,
) -> Result<(Vec<StoredArray>, Map<String, Value>)> {
    let mut found = Found {
        parts: Vec::new(),
        metadata: Map::new(),
        file: path.display().to_string(),
        is_data,
    };
    attributes(&file.root(), &mut found.metadata).map_err(|error| error.at(path.display()))?;
    walk(&file.root(), "", reads, &mut |name, dataset| {
        found.add(name, dataset)
    })
    .map_err(|error| error.at(path.display()))?;
    Ok((found.parts, found.metadata))
}

/// The content of a file.
struct Found {
    parts: Vec<StoredArray>,
    metadata: Map<String, Value>,
    file: String,
    is_data: fn(&str) -> bool,
}

impl Found {
    /// Adds the array `name`.
    fn add(&mut self, name: String, dataset: Dataset) -> Result<()> {
        let failed = |error: hdf5_pure::Error| {
            unreadable(format!("cannot read the dataset `{name}`: {error}"))
        };
        let shape = dataset.shape().map_err(failed)?;
        let datatype = dataset.datatype().map_err(failed)?;
        match shape.split_first() {
            Some((rows, row)) if (self.is_data)(&name) => {
                let layout = element::layout(&name, &datatype, *rows, row)?;
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
                self.parts.push(StoredArray {
                    layout,
                    reader: Box::new(rows),
                });
            }
            _ if shape.iter().product::<u64>() == 1 => {
                // A value that only describes the data must not prevent reading the data.
                let value = element::scalar(&dataset, &datatype)
                    .unwrap_or_else(|error| Value::from(format!("not imported: {error}")));
                self.metadata.insert(name, value);
            }
            _ => {
                self.metadata
                    .insert(name, Value::from(format!("not imported: shape {shape:?}")));
            }
        }
        Ok(())
    }
}

/// Returns the number of rows to read at once: whole chunks, so that each is decompressed once.
fn block_rows(dataset: &Dataset, layout: &ArrayLayout) -> u64 {
    let wanted = (BLOCK_BYTES / layout.row_bytes().max(1)).max(1) as u64;
    match dataset.chunk_shape() {
        Ok(Some(chunk)) => {
            let rows = chunk.first().copied().unwrap_or(1).max(1);
            wanted.div_ceil(rows).saturating_mul(rows)
        }
        _ => wanted,
    }
}

/// Reads an array from its first row to its last, a block at a time.
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

impl ArrayReader for Rows {
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
