//! TFRecord files of `tf.train.Example`: records with checksums, and the message.
//!
//! A record is its length (u64), the masked CRC-32C of the length, the payload, and the masked
//! CRC-32C of the payload, all little-endian. A whole file may be compressed with gzip or zlib.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use prost::Message;

use crate::dataset::files;
use crate::error::{Error, Result};

/// Bytes before and after a payload.
const HEAD: usize = 12;

/// `tf.train.Example`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Example {
    #[prost(message, optional, tag = "1")]
    pub(crate) features: Option<Features>,
}

/// `tf.train.Features`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Features {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) feature: BTreeMap<String, Feature>,
}

/// `tf.train.Feature`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Feature {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    pub(crate) kind: Option<Kind>,
}

/// The values of a feature.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    Bytes(BytesList),
    #[prost(message, tag = "2")]
    Floats(FloatList),
    #[prost(message, tag = "3")]
    Whole(Int64List),
}

/// `tf.train.BytesList`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BytesList {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) value: Vec<Vec<u8>>,
}

/// `tf.train.FloatList`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FloatList {
    #[prost(float, repeated, tag = "1")]
    pub(crate) value: Vec<f32>,
}

/// `tf.train.Int64List`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Int64List {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) value: Vec<i64>,
}

/// Returns the masked CRC-32C of TFRecord: a checksum that can itself be checksummed.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// The records of a file, in order.
pub(crate) struct Records {
    path: PathBuf,
    reader: Box<dyn Read>,
    /// The number of records so far, including bad ones.
    pub(crate) index: u64,
    /// Whether the last error hides where the next record starts.
    pub(crate) broken: bool,
}

impl Records {
    /// Opens the file at `path` and decompresses it if necessary.
    pub(crate) fn open(path: &Path) -> Result<Records> {
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot read {}: {error}", path.display()))
                .hint("fetch the file again")
        };
        let mut file = files::open(path).map_err(failed)?;
        let mut head = Vec::new();
        (&mut file)
            .take(HEAD as u64)
            .read_to_end(&mut head)
            .map_err(failed)?;
        file.rewind().map_err(failed)?;
        let file = BufReader::with_capacity(1 << 20, file);
        // The checksum of the first length tells a plain file from a compressed one, whose first
        // bytes could be a length.
        let plain = head.len() < 2 || length(&head).is_some();
        let reader: Box<dyn Read> = match head.get(..2) {
            Some([0x1f, 0x8b]) if !plain => Box::new(MultiGzDecoder::new(file)),
            Some([0x78, second]) if !plain && (0x7800 + u16::from(*second)).is_multiple_of(31) => {
                Box::new(ZlibDecoder::new(file))
            }
            _ => Box::new(file),
        };
        Ok(Records {
            path: path.to_owned(),
            reader,
            index: 0,
            broken: false,
        })
    }

    fn damaged(&self, what: &str) -> Error {
        Error::failed(format!(
            "{}: record {}: {what}",
            self.path.display(),
            self.index
        ))
        .hint("the file is damaged or cut short: fetch it again")
    }

    /// Reads up to `count` bytes. Memory follows the bytes that are there, not the declared length.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(count).read_to_end(&mut bytes);
        read.map_err(|error| self.damaged(&format!("cannot be read: {error}")))?;
        Ok(bytes)
    }

    /// Returns the payload of the next record; `None` after the last. After an error the next call
    /// continues with the next record, unless the file is [`Records::broken`].
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        self.broken = true;
        let head = self.bytes(HEAD as u64)?;
        if head.is_empty() {
            return Ok(None);
        }
        if head.len() < HEAD {
            return Err(self.damaged("the file ends within its header"));
        }
        let length = length(&head).ok_or_else(|| {
            self.damaged(
                "its length does not match the checksum, or the file is not a TFRecord file",
            )
        })?;
        let payload = self.bytes(length)?;
        let tail = self.bytes(4)?;
        let Ok(expected) = <[u8; 4]>::try_from(tail.as_slice()) else {
            return Err(self.damaged(&format!("the file ends before the declared {length} bytes")));
        };
        // The length was right, so the next record starts here, whatever this one contains.
        self.broken = false;
        let right = masked(&payload) == u32::from_le_bytes(expected);
        let wrong = (!right).then(|| self.damaged("its bytes do not match the checksum"));
        self.index += 1;
        wrong.map_or(Ok(Some(payload)), Err)
    }

    /// Returns the features of the next record; `None` after the last.
    pub(crate) fn example(&mut self) -> Result<Option<BTreeMap<String, Feature>>> {
        let Some(payload) = self.next()? else {
            return Ok(None);
        };
        let example = Example::decode(payload.as_slice());
        let example = example.map_err(|error| {
            Error::failed(format!(
                "{}: record {}: not a tf.train.Example: {error}",
                self.path.display(),
                self.index - 1
            ))
            .hint("the file is damaged or contains other messages: fetch it again")
        })?;
        Ok(Some(example.features.unwrap_or_default().feature))
    }
}

/// Returns the length in the header of a record, if its checksum is right.
fn length(head: &[u8]) -> Option<u64> {
    let (length, checksum) = head.get(..HEAD)?.split_at(8);
    (masked(length) == u32::from_le_bytes(checksum.try_into().ok()?))
        .then_some(u64::from_le_bytes(length.try_into().ok()?))
}

/// Writes one record and returns the number of its bytes.
pub(crate) fn write(writer: &mut impl Write, payload: &[u8]) -> std::io::Result<u64> {
    let length = (payload.len() as u64).to_le_bytes();
    writer.write_all(&length)?;
    writer.write_all(&masked(&length).to_le_bytes())?;
    writer.write_all(payload)?;
    writer.write_all(&masked(payload).to_le_bytes())?;
    Ok(payload.len() as u64 + 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataset::store;

    /// All payloads of a file of these bytes, and the error that ends them.
    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Error>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tfrecord");
        store::write(&path, bytes).unwrap();
        let mut records = Records::open(&path).unwrap();
        let mut found = Vec::new();
        loop {
            match records.next() {
                Ok(Some(payload)) => found.push(payload),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error)),
            }
        }
    }

    fn framed(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        payloads.iter().for_each(|payload| {
            write(&mut bytes, payload).unwrap();
        });
        bytes
    }

    #[test]
    fn records_have_known_bytes_and_packed_files_are_read() {
        // What TensorFlow writes for the record b"abc".
        let known = [3, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(framed(&[b"abc".to_vec()])[..8], known);
        // CRC-32C of "123456789" is e3069283, by its definition (RFC 3720).
        assert_eq!(
            masked(b"123456789"),
            0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8)
        );
        let payloads = vec![b"abc".to_vec(), Vec::new(), vec![7; 100_000]];
        let plain = framed(&payloads);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&plain).unwrap();
        for bytes in [plain, gzip.finish().unwrap(), zlib.finish().unwrap()] {
            let (found, error) = read(&bytes);
            assert!(error.is_none() && found == payloads, "{error:?}");
        }
    }

    #[test]
    fn unpacked_lists_are_read() {
        // Field 1 of Int64List as two single varints, which older writers make.
        let list = Int64List::decode([0x08, 5, 0x08, 6].as_slice()).unwrap();
        assert_eq!(list.value, [5, 6]);
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_never_another_record(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<bool>(),
        ) {
            let mut bytes = framed(&payloads);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            let (found, error) = read(&bytes);
            prop_assert!(payloads.starts_with(&found));
            let whole = framed(&payloads[..found.len()]).len();
            prop_assert_eq!(error.is_none(), cut && whole == at, "{:?}", error);
            if let Some(error) = error {
                prop_assert!(error.message.contains("a.tfrecord") && !error.hints.is_empty());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (_, _) = read(&bytes);
            // A record may hold any bytes as well.
            let _ = Example::decode(bytes.as_slice());
        }
    }
}
