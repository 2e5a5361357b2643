//! Arrow IPC files. Blocks that claim more than the file has are refused before they are read.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrow::ipc::reader::{FileReader, read_footer_length};
use arrow::ipc::{Block, Buffer, Message, root_as_footer, root_as_message};

use crate::dataset::files;
use crate::error::{Error, Result};

/// Bytes at the end of a file, which contain the length of the footer in front of them.
const TRAILER: usize = 10;

/// Opens the Arrow file at `path` and projects it to the columns with the indices `columns`; to all
/// columns if `None`.
///
/// # Errors
/// Returns an error if the file cannot be read or is damaged.
pub(crate) fn open(
    path: &Path,
    columns: Option<Vec<usize>>,
) -> Result<FileReader<BufReader<File>>> {
    let damaged = |what: &str| {
        Error::failed(format!(
            "{}: not a readable Arrow file: {what}",
            path.display()
        ))
        .hint("the file may be cut short or damaged: fetch or write it again")
    };
    let file = files::open(path)
        .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
    // The reader allocates what a block claims, and what its buffers claim after decompression.
    let length = file
        .metadata()
        .map_err(|error| damaged(&error.to_string()))?
        .len();
    for block in blocks(&file, length).unwrap_or_default() {
        let parts = [
            block.offset(),
            i64::from(block.metaDataLength()),
            block.bodyLength(),
        ];
        let end = parts
            .into_iter()
            .try_fold(0_u64, |end, part| {
                end.checked_add(u64::try_from(part).ok()?)
            })
            .unwrap_or(u64::MAX);
        if end > length {
            return Err(damaged(&format!(
                "a block claims to end at byte {end}, and the file has {length} bytes"
            )));
        }
        let claimed = claimed(&file, &block).unwrap_or(0);
        if usize::try_from(claimed)
            .is_ok_and(|claimed| Vec::<u8>::new().try_reserve_exact(claimed).is_err())
        {
            return Err(damaged(&format!(
                "a buffer claims {claimed} bytes, which do not fit in memory"
            )));
        }
    }
    FileReader::try_new(BufReader::new(file), columns).map_err(|error| damaged(&error.to_string()))
}

/// Returns the blocks that the footer lists; `None` if the footer is not readable, in which case
/// the reader reports the error.
fn blocks(file: &File, length: u64) -> Option<Vec<Block>> {
    let mut end = [0; TRAILER];
    let trailer = length.checked_sub(TRAILER as u64)?;
    file.read_exact_at(&mut end, trailer).ok()?;
    let mut footer = vec![
        0;
        read_footer_length(end)
            .ok()
            .filter(|footer| *footer as u64 <= trailer)?
    ];
    let at = trailer - footer.len() as u64;
    file.read_exact_at(&mut footer, at).ok()?;
    let footer = root_as_footer(&footer).ok()?;
    Some(
        [footer.dictionaries(), footer.recordBatches()]
            .into_iter()
            .flatten()
            .flatten()
            .copied()
            .collect(),
    )
}

/// Returns the largest size after decompression that a buffer of a block claims; `None` if no
/// buffer is compressed.
fn claimed(file: &File, block: &Block) -> Option<u64> {
    let mut message = vec![0; usize::try_from(block.metaDataLength()).ok()?];
    file.read_exact_at(&mut message, u64::try_from(block.offset()).ok()?)
        .ok()?;
    // The length of the message precedes it; in all but very old files a marker precedes the
    // length.
    let message = message
        .strip_prefix(&[0xff; 4])
        .unwrap_or(&message)
        .get(4..)?;
    let message = root_as_message(message).ok()?;
    let body = block
        .offset()
        .checked_add(i64::from(block.metaDataLength()))?;
    largest_buffer(file, message, body)
}

/// Returns the largest size after decompression that a buffer of a message claims, whose body
/// starts at byte `body` of `file`; `None` if no buffer is compressed.
pub(super) fn largest_buffer(file: &File, message: Message, body: i64) -> Option<u64> {
    let batch = message
        .header_as_record_batch()
        .or_else(|| message.header_as_dictionary_batch()?.data())?;
    batch.compression()?;
    let claim = |buffer: &Buffer| {
        let mut length = [0; 8];
        file.read_exact_at(
            &mut length,
            u64::try_from(body.checked_add(buffer.offset())?).ok()?,
        )
        .ok()?;
        u64::try_from(i64::from_le_bytes(length)).ok()
    };
    batch
        .buffers()?
        .iter()
        .filter(|buffer| buffer.length() >= 8)
        .filter_map(claim)
        .max()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions};

    use super::*;
    use crate::dataset::store::{self, HashingFile};

    #[test]
    fn blocks_that_claim_more_than_the_file_has_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.arrow");
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("reward", column)]).unwrap();
        let mut writer =
            FileWriter::try_new(HashingFile::create(&path).unwrap(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        writer.into_inner().unwrap().finish().unwrap();
        assert_eq!(open(&path, None).unwrap().next().unwrap().unwrap(), batch);

        let mut bytes = std::fs::read(&path).unwrap();
        // The last place that holds the length of the one block is where the footer says it.
        let length = 8000_i64.to_le_bytes();
        let at = bytes
            .windows(8)
            .rposition(|window| window == length)
            .unwrap();
        bytes[at..at + 8].copy_from_slice(&(1_i64 << 40).to_le_bytes());
        store::remove(&path).unwrap();
        store::write(&path, &bytes).unwrap();
        let message = open(&path, None).unwrap_err().message;
        assert!(
            message.contains("a block claims to end at byte 10995"),
            "{message}"
        );
    }

    #[test]
    fn buffers_that_claim_more_than_fits_in_memory_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (name, compression) in [
            ("lz4", CompressionType::LZ4_FRAME),
            ("zstd", CompressionType::ZSTD),
        ] {
            let path = folder.path().join(name);
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
            let batch = RecordBatch::try_from_iter([("reward", column)]).unwrap();
            let options = IpcWriteOptions::default()
                .try_with_compression(Some(compression))
                .unwrap();
            let mut writer = FileWriter::try_new_with_options(
                HashingFile::create(&path).unwrap(),
                &batch.schema(),
                options,
            )
            .unwrap();
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            writer.into_inner().unwrap().finish().unwrap();
            assert_eq!(
                open(&path, None).unwrap().next().unwrap().unwrap(),
                batch,
                "{name}"
            );

            let mut bytes = std::fs::read(&path).unwrap();
            let length = 8000_i64.to_le_bytes();
            let at = bytes
                .windows(8)
                .rposition(|window| window == length)
                .unwrap();
            bytes[at..at + 8].copy_from_slice(&(1_i64 << 61).to_le_bytes());
            store::remove(&path).unwrap();
            store::write(&path, &bytes).unwrap();
            let message = open(&path, None).unwrap_err().message;
            assert!(
                message.contains("a buffer claims 2305843009213693952 bytes"),
                "{name}: {message}"
            );
        }
    }
}
