//! Arrow IPC streams: the messages of an Arrow file without its footer. Messages that claim more
//! than the file has are refused before they are read.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrow::ipc::reader::StreamReader;
use arrow::ipc::{MessageHeader, root_as_message};

use super::arrow_ipc::largest_buffer;
use crate::dataset::files;
use crate::error::{Error, Result};

/// The bytes in front of the length of a message.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The longest first message that detection reads.
const MOST_SCHEMA: usize = 16 << 20;

/// Whether the file at `path` starts with the message that every Arrow stream starts with.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(crate) fn is_stream(path: &Path) -> Result<bool> {
    if !files::is_file(path)? {
        return Ok(false);
    }
    let unreadable = |error: std::io::Error| files::unreadable(path, &error);
    let file = files::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut head = [0; 8];
    if length < 8 {
        return Ok(false);
    }
    file.read_exact_at(&mut head, 0).map_err(unreadable)?;
    let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if head[..4] != CONTINUATION || size > MOST_SCHEMA || size as u64 + 8 > length {
        return Ok(false);
    }
    let mut message = vec![0; size];
    file.read_exact_at(&mut message, 8).map_err(unreadable)?;
    Ok(root_as_message(&message)
        .is_ok_and(|message| message.header_type() == MessageHeader::Schema))
}

/// Opens the Arrow stream at `path` and projects it to the columns with the indices `columns`; to
/// all columns if `None`. Returns its number of rows too.
///
/// # Errors
/// Returns an error if the file cannot be read, is damaged, or has no end marker.
pub(crate) fn open(
    path: &Path,
    columns: Option<Vec<usize>>,
) -> Result<(StreamReader<BufReader<File>>, u64)> {
    let damaged = |what: &str| {
        Error::failed(format!(
            "{}: not a readable Arrow stream: {what}",
            path.display()
        ))
        .hint("the file may be cut short or damaged: fetch or write it again")
    };
    let file = files::open(path)
        .map_err(|error| Error::failed(format!("cannot read {}: {error}", path.display())))?;
    let rows = survey(&file).map_err(|what| damaged(&what))?;
    let reader = StreamReader::try_new(BufReader::new(file), columns);
    Ok((reader.map_err(|error| damaged(&error.to_string()))?, rows))
}

/// Reads the heads of all messages, and returns the number of rows of all batches.
///
/// # Errors
/// Returns what is wrong if a message claims more than the file or memory has, or if the stream
/// does not end with its end marker.
fn survey(file: &File) -> std::result::Result<u64, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let (mut at, mut rows) = (0_u64, 0_u64);
    let word = |at: u64| {
        let mut bytes = [0; 4];
        let read = file.read_exact_at(&mut bytes, at);
        read.map(|()| bytes)
            .map_err(|_| format!("it ends at byte {length}, without an end marker"))
    };
    loop {
        let mut size = word(at)?;
        at += 4;
        if size == CONTINUATION {
            size = word(at)?;
            at += 4;
        }
        let size = u32::from_le_bytes(size);
        if size == 0 {
            return Ok(rows);
        }
        let exceeds = |end: u64| {
            format!("a message claims to end at byte {end}, and the file has {length} bytes")
        };
        let body = at + u64::from(size);
        if body > length {
            return Err(exceeds(body));
        }
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, at)
            .map_err(|error| error.to_string())?;
        let message = root_as_message(&bytes).map_err(|error| error.to_string())?;
        let end = u64::try_from(message.bodyLength())
            .ok()
            .and_then(|bytes| body.checked_add(bytes))
            .unwrap_or(u64::MAX);
        if end > length {
            return Err(exceeds(end));
        }
        if let Some(batch) = message.header_as_record_batch() {
            rows = rows.saturating_add(u64::try_from(batch.length()).unwrap_or(0));
        }
        let claimed = largest_buffer(file, message, body as i64).unwrap_or(0);
        if usize::try_from(claimed)
            .is_ok_and(|claimed| Vec::<u8>::new().try_reserve_exact(claimed).is_err())
        {
            return Err(format!(
                "a buffer claims {claimed} bytes, which do not fit in memory"
            ));
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::ipc::writer::StreamWriter;

    use super::*;
    use crate::dataset::store;

    #[test]
    fn a_stream_that_is_cut_or_claims_too_much_is_refused() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("reward", column)]).unwrap();
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        drop(writer);
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            store::write(&path, bytes).unwrap();
            path
        };
        let whole = place("whole", &bytes);
        assert!(is_stream(&whole).unwrap());
        let (reader, rows) = open(&whole, None).unwrap();
        assert_eq!((reader.count(), rows), (2, 2000));
        for cut in [0, 4, 100, bytes.len() / 2, bytes.len() - 8, bytes.len() - 1] {
            let message = open(&place(&cut.to_string(), &bytes[..cut]), None)
                .err()
                .unwrap()
                .message;
            assert!(message.contains("not a readable Arrow stream"), "{message}");
        }
        assert!(!is_stream(&place("text", b"\xff\xff\xff\xff\x08\0\0\0 text")).unwrap());
        let length = 8000_i64.to_le_bytes();
        let mut wrong = bytes.clone();
        let mut places = 0;
        for at in 0..wrong.len() - 8 {
            if wrong[at..at + 8] == length {
                wrong[at..at + 8].copy_from_slice(&(1_i64 << 40).to_le_bytes());
                places += 1;
            }
        }
        assert!(places > 0);
        let message = open(&place("wrong", &wrong), None).err().unwrap().message;
        assert!(
            message.contains("a message claims to end at byte 10995"),
            "{message}"
        );
    }
}
