//! The bytes of an HDF5 file, by the addresses that the file uses.

use std::cell::Cell;

use hdf5_pure::{Source, Superblock};

use super::page_cache::PageCache;

/// What a part of a file says, or why it says nothing.
pub(super) type Parsed<T> = Result<T, String>;

/// The most bytes of a part that is read at once.
const LARGEST: u64 = 1 << 28;

/// A file, and how it stores addresses.
pub(super) struct Image {
    source: PageCache,
    /// The address of the root group.
    pub(super) root: u64,
    /// Bytes of an address.
    pub(super) offset: usize,
    /// Bytes of a length.
    pub(super) length: usize,
    /// What is added to an address.
    base: u64,
}

impl Image {
    pub(super) fn new(source: PageCache, superblock: &Superblock) -> Image {
        Image {
            source,
            root: superblock
                .root_group_address
                .saturating_sub(superblock.base_address.get()),
            offset: superblock.offset_size.into(),
            length: superblock.length_size.into(),
            base: superblock.base_address.get(),
        }
    }

    /// Reads parts of the file. All of them together are hardly larger than the file, unless the
    /// file is made to be read forever.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader {
            image: self,
            left: Cell::new(self.source.len().saturating_mul(4).saturating_add(1 << 20)),
        }
    }

    /// Returns the number in all bits of an address, which means that there is none.
    pub(super) fn undefined(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.offset.clamp(1, 8))
    }
}

/// Reads a limited number of bytes.
pub(super) struct Reader<'a> {
    pub(super) image: &'a Image,
    left: Cell<u64>,
}

impl Reader<'_> {
    /// Returns `length` bytes at `address`.
    ///
    /// # Errors
    /// Returns an error if the file does not have them.
    pub(super) fn read(&self, address: u64, length: u64) -> Parsed<Vec<u8>> {
        let left = self.left.get().checked_sub(length);
        let left = left.filter(|_| length <= LARGEST);
        self.left
            .set(left.ok_or_else(|| "its parts are larger than the file".to_owned())?);
        let at = address
            .checked_add(self.image.base)
            .ok_or_else(|| format!("there is no address {address}"))?;
        let read = self.image.source.read_exact_at(at, length as usize);
        read.map_err(|error| error.to_string())
    }

    /// Returns the part of `length` bytes at `address` after its signature.
    ///
    /// # Errors
    /// Returns an error if the part has another signature.
    pub(super) fn part(&self, address: u64, length: u64, signature: &[u8; 4]) -> Parsed<Vec<u8>> {
        let mut bytes = self.read(address, length)?;
        if !bytes.starts_with(signature) {
            let name = String::from_utf8_lossy(signature);
            return Err(format!("there is no {name} at the address {address}"));
        }
        bytes.drain(..signature.len());
        Ok(bytes)
    }
}

/// Bytes that are not parsed yet.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    /// Takes the next `count` bytes.
    ///
    /// # Errors
    /// Returns an error if there are fewer.
    pub(super) fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let (taken, left) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| "a part of it is cut short".to_owned())?;
        self.0 = left;
        Ok(taken)
    }

    /// Takes a number of `size` bytes, at most eight.
    ///
    /// # Errors
    /// Returns an error if there are fewer bytes.
    pub(super) fn number(&mut self, size: usize) -> Parsed<u64> {
        let bytes = self.take(size)?;
        let digits = bytes.iter().rev().take(8);
        Ok(digits.fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Takes a number of `size` bytes that counts what memory holds.
    ///
    /// # Errors
    /// Returns an error if there are fewer bytes, or if the number is too large.
    pub(super) fn count(&mut self, size: usize) -> Parsed<usize> {
        let number = self.number(size)?;
        usize::try_from(number).map_err(|_| format!("{number} is too large"))
    }
}
