//! A file behind a few blocks of memory. What HDF5 says of its arrays lies scattered in pieces of a few bytes, which the library
//! asks for one by one, many of them again and again: without this, each would be two calls of the system.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use hdf5_pure::{FormatError, Source};

use crate::dataset::files;

/// Bytes of a block; who asks for as many gets them from the file.
const BLOCK: usize = 1 << 13;

/// PageCache that are kept, each in the place that its number modulo this gives it.
const PLACES: usize = 128;

/// See the module.
pub(crate) struct PageCache {
    file: File,
    length: u64,
    /// The first failure of the file system. The library passes over some errors, so every read
    /// after one fails as well.
    failed: OnceLock<String>,
    kept: Mutex<Vec<Option<Block>>>,
}

struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl PageCache {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// As the system has them.
    pub(crate) fn open(path: &Path) -> io::Result<PageCache> {
        let file = files::open(path)?;
        let length = file.metadata()?.len();
        Ok(PageCache {
            file,
            length,
            failed: OnceLock::new(),
            kept: Mutex::new((0..PLACES).map(|_| None).collect()),
        })
    }

    /// Fills `bytes` from the blocks that they lie in.
    fn gather(&self, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let number = offset / BLOCK as u64;
            let place = &mut kept[(number % PLACES as u64) as usize];
            let block = match place {
                Some(block) if block.number == number => block,
                _ => {
                    let start = number * BLOCK as u64;
                    let mut bytes = vec![0; (self.length - start).min(BLOCK as u64) as usize];
                    self.file.read_exact_at(&mut bytes, start)?;
                    place.insert(Block { number, bytes })
                }
            };
            let from = (offset % BLOCK as u64) as usize;
            let count = bytes.len().min(block.bytes.len() - from);
            let (now, later) = bytes.split_at_mut(count);
            now.copy_from_slice(&block.bytes[from..from + count]);
            bytes = later;
            offset += count as u64;
        }
        Ok(())
    }
}

impl Source for PageCache {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), FormatError> {
        let wanted = buf.len() as u64;
        let end = offset
            .checked_add(wanted)
            .ok_or(FormatError::OffsetOverflow {
                offset,
                length: wanted,
            })?;
        if end > self.length {
            return Err(FormatError::UnexpectedEof {
                expected: end as usize,
                available: self.length as usize,
            });
        }
        if let Some(error) = self.failed.get() {
            return Err(FormatError::Source(error.clone()));
        }
        let read = if buf.len() >= BLOCK {
            self.file.read_exact_at(buf, offset)
        } else {
            self.gather(offset, buf)
        };
        read.map_err(|error| {
            let first = self.failed.get_or_init(|| error.to_string());
            FormatError::Source(first.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::store;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn every_read_is_what_the_file_holds(
            length in prop_oneof![1..100_usize, Just(BLOCK), BLOCK * PLACES..BLOCK * (PLACES + 3)],
            reads in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![0..40_usize, BLOCK - 1..2 * BLOCK]), 1..80),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let bytes: Vec<u8> = (0..length as u64).map(|place| (place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
            store::write(&path, &bytes).unwrap();
            let blocks = PageCache::open(&path).unwrap();
            for (at, count) in reads {
                let at = at.index(length);
                let mut found = vec![0; count];
                match bytes.get(at..at + count) {
                    Some(there) => {
                        blocks.read_at(at as u64, &mut found).unwrap();
                        prop_assert_eq!(&found[..], there);
                    }
                    None => prop_assert!(blocks.read_at(at as u64, &mut found).is_err()),
                }
            }
        }
    }
}
