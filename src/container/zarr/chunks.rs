//! Reads a zarr array row by row from its chunks.

use std::cell::RefCell;
use std::io::Read;
use std::rc::Rc;

use super::super::arrays::ArrayReader;
use super::super::blosc;
use super::array::Compressor;
use super::{Array, Store};
use crate::error::{Error, Result};

/// Reads an array from its first row to its last, one row of chunks at a time.
pub(crate) struct Chunks {
    store: Rc<RefCell<Store>>,
    array: Array,
    row_bytes: usize,
    /// The index of the next row of chunks.
    next: u64,
    block: Vec<u8>,
    at: usize,
}

impl ArrayReader for Chunks {
    fn read(&mut self, rows: u64) -> Result<Vec<u8>> {
        let mut left = rows as usize * self.row_bytes;
        let mut bytes = Vec::new();
        while left > 0 {
            if self.at == self.block.len() {
                self.fetch()?;
            }
            let count = left.min(self.block.len() - self.at);
            bytes.extend_from_slice(&self.block[self.at..self.at + count]);
            self.at += count;
            left -= count;
        }
        Ok(bytes)
    }
}

impl Chunks {
    pub(crate) fn new(store: &Rc<RefCell<Store>>, array: Array, row_bytes: usize) -> Chunks {
        Chunks {
            store: Rc::clone(store),
            array,
            row_bytes,
            next: 0,
            block: Vec::new(),
            at: 0,
        }
    }

    /// Assembles the next row of chunks.
    pub(crate) fn fetch(&mut self) -> Result<()> {
        let first = self.next * self.array.chunks[0] as u64;
        let rows = self.array.shape[0]
            .saturating_sub(first)
            .min(self.array.chunks[0] as u64) as usize;
        if rows == 0 {
            return Err(Error::failed(format!(
                "the array `{}` has no row {first}",
                self.array.name
            )));
        }
        let size = self.array.element.primitive_width().unwrap_or(1);
        let inner: Vec<usize> = self.array.shape[1..]
            .iter()
            .map(|axis| *axis as usize)
            .collect();
        let steps = &self.array.chunks[1..];
        let counts: Vec<usize> = inner
            .iter()
            .zip(steps)
            .map(|(axis, chunk)| axis.div_ceil(*chunk))
            .collect();
        let mut block = vec![0; rows * self.row_bytes];
        for number in 0..counts.iter().product::<usize>() {
            let mut place = vec![0; counts.len()];
            let mut rest = number;
            for (axis, count) in counts.iter().enumerate().rev() {
                place[axis] = rest % count;
                rest /= count;
            }
            let chunk = self.chunk(&place)?;
            if place.is_empty() || counts.iter().all(|count| *count == 1) && inner == steps {
                block.copy_from_slice(&chunk[..rows * self.row_bytes]);
                continue;
            }
            copy(&chunk, &mut block, &place, rows, &inner, steps, size);
        }
        (self.block, self.at) = (block, 0);
        self.next += 1;
        Ok(())
    }

    /// Returns the bytes of the chunk at the index `inner` in the next row of chunks.
    pub(crate) fn chunk(&self, inner: &[usize]) -> Result<Vec<u8>> {
        let array = &self.array;
        let size = array.element.primitive_width().unwrap_or(1);
        let elements: usize = array.chunks.iter().product();
        let place = std::iter::once(self.next.to_string())
            .chain(inner.iter().map(usize::to_string))
            .collect::<Vec<_>>();
        let name = format!(
            "{}/{}",
            array.name,
            place.join(&array.separator.to_string())
        );
        let mut store = self.store.borrow_mut();
        // Compressed data is hardly larger than its content.
        let Some(bytes) = store.get(&name, elements * size + elements * size / 4 + 65_536)? else {
            return Ok(array.fill.repeat(elements));
        };
        let unpacked = match array.compressor {
            Compressor::None => Ok(bytes),
            Compressor::Blosc => blosc::unpack(&bytes, elements * size),
            Compressor::Zlib => drain(
                flate2::read::ZlibDecoder::new(bytes.as_slice()),
                elements * size,
            ),
            Compressor::Gzip => drain(
                flate2::read::MultiGzDecoder::new(bytes.as_slice()),
                elements * size,
            ),
            Compressor::Zstd => zstd::stream::read::Decoder::new(bytes.as_slice())
                .map_err(|error| error.to_string())
                .and_then(|reader| drain(reader, elements * size)),
        };
        let unpacked = unpacked.and_then(|bytes| {
            let expected = elements * size;
            if bytes.len() == expected {
                Ok(bytes)
            } else {
                Err(format!(
                    "it holds {} bytes where the chunk has {expected}",
                    bytes.len()
                ))
            }
        });
        unpacked.map_err(|what| {
            Error::failed(format!(
                "{}: cannot unpack the chunk: {what}",
                store.place(&name)
            ))
            .hint("the file is damaged or cut short: fetch it again")
        })
    }
}

/// Reads all bytes of a reader, but at most one more than expected.
fn drain(reader: impl Read, expected: usize) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    reader
        .take(expected as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Copies the part of a chunk that is inside the array into rows of the shape `inner`.
fn copy(
    chunk: &[u8],
    block: &mut [u8],
    place: &[usize],
    rows: usize,
    inner: &[usize],
    steps: &[usize],
    size: usize,
) {
    let axes = inner.len();
    let from: Vec<usize> = place
        .iter()
        .zip(steps)
        .map(|(place, step)| place * step)
        .collect();
    let length: Vec<usize> = (0..axes)
        .map(|axis| steps[axis].min(inner[axis] - from[axis]))
        .collect();
    let run = length[axes - 1] * size;
    // One run of bytes for each row and for each index on the axes but the last.
    let outer: usize = length[..axes - 1].iter().product();
    for row in 0..rows {
        for number in 0..outer {
            let (mut rest, mut source, mut target, mut source_stride, mut target_stride) =
                (number, 0, 0, steps[axes - 1], inner[axes - 1]);
            for axis in (0..axes - 1).rev() {
                let at = rest % length[axis];
                rest /= length[axis];
                source += at * source_stride;
                target += (from[axis] + at) * target_stride;
                source_stride *= steps[axis];
                target_stride *= inner[axis];
            }
            let source = (row * source_stride + source) * size;
            let target = (row * target_stride + target + from[axes - 1]) * size;
            block[target..target + run].copy_from_slice(&chunk[source..source + run]);
        }
    }
}
