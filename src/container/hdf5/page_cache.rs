//! A file behind a small cache of pages. The metadata of HDF5 arrays is scattered in pieces of a
//! few bytes, which the library reads one by one, many of them repeatedly. Without the cache, each
//! read would be two system calls.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hdf5_pure::{FormatError, Source};

use crate::dataset::files;

/// Bytes of a page. Reads of at least this size go to the file directly.
const PAGE_BYTES: usize = 1 << 13;

/// The number of pages in the cache. A page has the slot of its number modulo this.
const SLOTS: usize = 128;

/// A file and the cache of its pages. Clones share both.
#[derive(Clone)]
pub(crate) struct PageCache(Arc<Pages>);

struct Pages {
    file: File,
    length: u64,
    /// The first failure of the file system. The library passes over some errors, so every read
    /// after one fails as well.
    failed: OnceLock<String>,
    kept: Mutex<Vec<Option<Page>>>,
}

struct Page {
    number: u64,
    bytes: Vec<u8>,
}

impl PageCache {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// Returns the error of the operating system.
    pub(crate) fn open(path: &Path) -> io::Result<PageCache> {
        let file = files::open(path)?;
        let length = file.metadata()?.len();
        Ok(PageCache(Arc::new(Pages {
            file,
            length,
            failed: OnceLock::new(),
            kept: Mutex::new((0..SLOTS).map(|_| None).collect()),
        })))
    }
}

impl Pages {
    /// Fills `bytes` from the pages that contain them.
    fn gather(&self, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let number = offset / PAGE_BYTES as u64;
            let slot = &mut kept[(number % SLOTS as u64) as usize];
            let page = match slot {
                Some(page) if page.number == number => page,
                _ => {
                    let start = number * PAGE_BYTES as u64;
                    let mut bytes = vec![0; (self.length - start).min(PAGE_BYTES as u64) as usize];
                    self.file.read_exact_at(&mut bytes, start)?;
                    slot.insert(Page { number, bytes })
                }
            };
            let from = (offset % PAGE_BYTES as u64) as usize;
            let count = bytes.len().min(page.bytes.len() - from);
            let (now, later) = bytes.split_at_mut(count);
            now.copy_from_slice(&page.bytes[from..from + count]);
            bytes = later;
            offset += count as u64;
        }
        Ok(())
    }
}

impl Source for PageCache {
    fn len(&self) -> u64 {
        self.0.length
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), FormatError> {
        let wanted = buf.len() as u64;
        let end = offset
            .checked_add(wanted)
            .ok_or(FormatError::OffsetOverflow {
                offset,
                length: wanted,
            })?;
        if end > self.0.length {
            return Err(FormatError::UnexpectedEof {
                expected: end as usize,
                available: self.0.length as usize,
            });
        }
        if let Some(error) = self.0.failed.get() {
            return Err(FormatError::Source(error.clone()));
        }
        let read = if buf.len() >= PAGE_BYTES {
            self.0.file.read_exact_at(buf, offset)
        } else {
            self.0.gather(offset, buf)
        };
        read.map_err(|error| {
            let first = self.0.failed.get_or_init(|| error.to_string());
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
        fn reads_return_what_the_file_holds(
            length in prop_oneof![
                1..100_usize,
                Just(PAGE_BYTES),
                PAGE_BYTES * SLOTS..PAGE_BYTES * (SLOTS + 3)
            ],
            reads in prop::collection::vec(
                (
                    any::<prop::sample::Index>(),
                    prop_oneof![0..40_usize, PAGE_BYTES - 1..2 * PAGE_BYTES],
                ),
                1..80,
            ),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            let byte = |place: u64| (place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
            let bytes: Vec<u8> = (0..length as u64).map(byte).collect();
            store::write(&path, &bytes).unwrap();
            let cache = PageCache::open(&path).unwrap();
            for (at, count) in reads {
                let at = at.index(length);
                let mut found = vec![0; count];
                match bytes.get(at..at + count) {
                    Some(expected) => {
                        cache.read_at(at as u64, &mut found).unwrap();
                        prop_assert_eq!(&found[..], expected);
                    }
                    None => prop_assert!(cache.read_at(at as u64, &mut found).is_err()),
                }
            }
        }
    }
}
