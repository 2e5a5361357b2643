//! The links of large groups: objects in a fractal heap, which a version 2 B-tree lists.

use std::collections::HashSet;

use super::image::{Bytes, Parsed, Reader};

/// Bytes of a node's signature, version, type and checksum.
const NODE_OVERHEAD: u64 = 10;

/// The type of a tree of links by name.
const BY_NAME: u64 = 5;

/// Bytes of the hash of a name, in front of the place of the link.
const HASH: usize = 4;

/// Returns the messages of all links that the tree at `tree` finds in the heap at `heap`.
///
/// # Errors
/// Returns an error if the heap or the tree cannot be read.
pub(super) fn messages(file: &Reader, heap: u64, tree: u64) -> Parsed<Vec<Vec<u8>>> {
    let heap = Heap::open(file, heap)?;
    records(file, tree)?
        .iter()
        .map(|record| heap.object(file, record.get(HASH..).unwrap_or_default()))
        .collect()
}

/// Returns the number of bytes that hold every number up to `largest`.
fn bytes_for(largest: u64) -> usize {
    (largest.max(1).ilog2() / 8 + 1) as usize
}

/// Returns the records of the tree at `address`.
fn records(file: &Reader, address: u64) -> Parsed<Vec<Vec<u8>>> {
    let (offset, length) = (file.image.offset, file.image.length);
    let header = file.part(address, (22 + offset + length) as u64, b"BTHD")?;
    let mut header = Bytes(&header);
    if header.number(1)? != 0 || header.number(1)? != BY_NAME {
        return Err("the tree of its links is of an unknown kind".to_owned());
    }
    let (node, record) = (header.number(4)?, header.number(2)?);
    let depth = header.count(2)?;
    header.take(2)?;
    let root = header.number(offset)?;
    let in_root = header.count(2)?;
    let total = header.number(length)?;
    if total == 0 {
        return Ok(Vec::new());
    }
    let capacity = node.saturating_sub(NODE_OVERHEAD).checked_div(record);
    let leaf = capacity.filter(|capacity| *capacity > 0 && depth < 32);
    let leaf = leaf.ok_or_else(|| "the tree of its links is damaged".to_owned())?;
    let count = bytes_for(leaf);
    // For each depth, the bytes of the number of all records below a node.
    let (mut below, mut most) = (vec![0], leaf);
    for _ in 0..depth {
        let size = below.last().copied().unwrap_or(0);
        let pointer = (offset + count + size) as u64;
        let own = node.saturating_sub(NODE_OVERHEAD + pointer) / (record + pointer);
        most = own
            .saturating_add(1)
            .saturating_mul(most)
            .saturating_add(own);
        below.push(bytes_for(most));
    }
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut nodes = vec![(root, in_root, depth)];
    while let Some((address, count_here, depth)) = nodes.pop() {
        if !seen.insert(address) {
            return Err("the tree of its links contains itself".to_owned());
        }
        let signature = if depth == 0 { b"BTLF" } else { b"BTIN" };
        let bytes = file.part(address, node, signature)?;
        let mut bytes = Bytes(&bytes);
        bytes.take(2)?;
        for _ in 0..count_here {
            found.push(bytes.take(record as usize)?.to_vec());
        }
        if depth > 0 {
            for _ in 0..=count_here {
                let child = (bytes.number(offset)?, bytes.count(count)?, depth - 1);
                bytes.take(below[depth - 1])?;
                nodes.push(child);
            }
        }
    }
    if found.len() as u64 != total {
        return Err(format!("the tree has {} of {total} links", found.len()));
    }
    Ok(found)
}

/// A fractal heap: blocks whose sizes double from row to row of a table.
struct Heap {
    /// Bytes of the place of an object in the heap, and of its length.
    place: usize,
    size: usize,
    /// The blocks in a row.
    width: u64,
    /// Bytes of a block of the first row, and of the largest block that holds objects.
    first: u64,
    largest: u64,
    /// The address of the root block, and the number of its rows; 0 if it holds objects itself.
    root: u64,
    rows: u64,
}

impl Heap {
    fn open(file: &Reader, address: u64) -> Parsed<Heap> {
        let (offset, length) = (file.image.offset, file.image.length);
        let header = file.part(address, (22 + 12 * length + 3 * offset) as u64, b"FRHP")?;
        let mut header = Bytes(&header);
        header.take(3)?;
        if header.number(2)? != 0 {
            return Err("its links are compressed".to_owned());
        }
        header.take(1)?;
        let longest = header.number(4)?;
        // Places and numbers of large objects and of free space.
        header.take(length + offset + length + offset + 8 * length)?;
        let width = header.number(2)?;
        let (first, largest) = (header.number(length)?, header.number(length)?);
        let bits = header.count(2)?;
        header.take(2)?;
        let (root, rows) = (header.number(offset)?, header.number(2)?);
        if !(width.is_power_of_two() && first.is_power_of_two() && largest.is_power_of_two())
            || largest < first
            || largest > 1 << 32
            || bits > 64
        {
            return Err("the heap of its links is damaged".to_owned());
        }
        Ok(Heap {
            place: bits.div_ceil(8),
            size: bytes_for(longest).min((largest.ilog2() as usize).div_ceil(8)),
            width,
            first,
            largest,
            root,
            rows,
        })
    }

    /// Returns the object that `id` names.
    fn object(&self, file: &Reader, id: &[u8]) -> Parsed<Vec<u8>> {
        let mut id = Bytes(id);
        match id.number(1)? >> 4 {
            0 => {
                let (place, size) = (id.number(self.place)?, id.number(self.size)?);
                file.read(self.address(file, place)?, size)
            }
            _ => Err("the name of a link is too long".to_owned()),
        }
    }

    /// Returns the address of the byte `place` of the heap.
    fn address(&self, file: &Reader, mut place: u64) -> Parsed<u64> {
        let damaged = || "a link is outside of the heap of links".to_owned();
        let (mut block, mut rows) = (self.root, self.rows);
        let row_of = |size: u64| u64::from(size.ilog2() - self.first.ilog2());
        // Rows of blocks that hold objects. Blocks in later rows are tables again.
        let direct = row_of(self.largest) + 2;
        let overhead = 5 + file.image.offset as u64 + self.place as u64;
        while rows > 0 {
            let first_row = self.width.checked_mul(self.first).ok_or_else(damaged)?;
            let (row, start, size) = match (place / first_row).checked_ilog2() {
                None => (0, 0, self.first),
                Some(log) => {
                    let size = self
                        .first
                        .checked_shl(log)
                        .filter(|size| *size >> log == self.first);
                    (
                        u64::from(log) + 1,
                        first_row << log,
                        size.ok_or_else(damaged)?,
                    )
                }
            };
            if row >= rows {
                return Err(damaged());
            }
            let column = (place - start) / size;
            let entry = (row * self.width + column) * file.image.offset as u64;
            let at = block.checked_add(overhead + entry).ok_or_else(damaged)?;
            let child = file.read(at, file.image.offset as u64)?;
            block = Bytes(&child).number(file.image.offset)?;
            place = (place - start) % size;
            rows = match row < direct {
                true => 0,
                // The rows that a block of this size has.
                false => u64::from(size.ilog2() - first_row.ilog2()) + 1,
            };
        }
        block.checked_add(place).ok_or_else(damaged)
    }
}
