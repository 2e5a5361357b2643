//! The folders that TorchRL's `ReplayBuffer.dumps` writes: the rows in `storage/`, a TensorDict as
//! large as the buffer, and in `writer/` the row that is written next.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::dataset::files;
use crate::error::wording::{count, number};
use crate::error::{Error, Result};

/// The description of the storage.
const STORAGE: &str = "storage_metadata.json";

/// The rows of a replay buffer.
pub(super) struct ReplayBuffer {
    /// The folder of the TensorDict.
    pub(super) storage: PathBuf,
    /// The number of rows that are filled.
    len: u64,
    /// The row that is written next, if it is known.
    cursor: Option<u64>,
}

/// The rows of a buffer that are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled {
    /// Their number.
    pub(super) rows: u64,
    /// The oldest of them.
    pub(super) first: u64,
}

impl ReplayBuffer {
    /// Returns the replay buffer at `path`, which is its folder or that of its storage; `None` if
    /// there is none.
    ///
    /// # Errors
    /// Returns an error if its rows are no TensorDict, or are not in the order of time.
    pub(super) fn find(path: &Path) -> Result<Option<ReplayBuffer>> {
        let inner = path.join("storage");
        let storage = if files::is_file(&inner.join(STORAGE))? {
            inner
        } else if files::is_file(&path.join(STORAGE))? {
            path.to_owned()
        } else {
            return Ok(None);
        };
        let described = object(&storage.join(STORAGE))?.unwrap_or_default();
        let wrong =
            |what: &str| Error::failed(format!("{}: {what}", storage.join(STORAGE).display()));
        if described.get("is_pytree").and_then(Value::as_bool) == Some(true) {
            return Err(wrong("the rows are a pytree, not a TensorDict")
                .hint("use a replay buffer of TensorDicts, such as TensorDictReplayBuffer"));
        }
        let len = described.get("len").and_then(Value::as_u64);
        let len = len.ok_or_else(|| {
            wrong("`len` is missing or not a number").hint("dump the replay buffer again")
        })?;
        let writer = storage
            .parent()
            .map(|folder| folder.join("writer/metadata.json"));
        let writer = match writer {
            Some(writer) => object(&writer)?,
            None => None,
        };
        if let Some(key) = writer.as_ref().and_then(|writer| writer.get("rank_key")) {
            return Err(Error::failed(format!(
                "{}: the buffer keeps the rows with the highest {key}, so they are not in the \
                 order of time",
                path.display()
            ))
            .hint("dump a replay buffer with a writer that keeps all rows"));
        }
        let cursor = writer.and_then(|writer| writer.get("cursor")?.as_u64());
        Ok(Some(ReplayBuffer {
            storage,
            len,
            cursor,
        }))
    }

    /// Returns the rows that are filled, of a buffer with `capacity` rows.
    ///
    /// # Errors
    /// Returns an error if the metadata contradicts itself, or if the oldest row is not known.
    pub(super) fn filled(&self, capacity: u64) -> Result<Filled> {
        let wrong = |what: String| {
            Error::failed(format!("{}: {what}", self.storage.join(STORAGE).display()))
                .hint("dump the replay buffer again")
        };
        if self.len > capacity {
            return Err(wrong(format!(
                "`len` is {}, but the buffer has {}",
                number(self.len),
                count(capacity, "row")
            )));
        }
        match self.cursor {
            Some(cursor) if self.len < capacity && cursor != self.len => Err(wrong(format!(
                "`len` is {}, but the writer's `cursor` is {}",
                number(self.len),
                number(cursor)
            ))),
            Some(cursor) if cursor > capacity => Err(wrong(format!(
                "the writer's `cursor` is {}, but the buffer has {}",
                number(cursor),
                count(capacity, "row")
            ))),
            None if self.len == capacity => Err(wrong(
                "the buffer is full, and without `writer/metadata.json` its oldest row is not \
                 known"
                    .to_owned(),
            )),
            Some(cursor) if self.len == capacity => Ok(Filled {
                rows: self.len,
                first: cursor % capacity.max(1),
            }),
            _ => Ok(Filled {
                rows: self.len,
                first: 0,
            }),
        }
    }
}

/// Returns the JSON object in a file; `None` if there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = files::read_if_present(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::failed(format!("{}: not a JSON object: {error}", path.display()))
            .hint("the file is damaged: dump the replay buffer again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_rows_begin_with_the_oldest() {
        let filled = |len, cursor, capacity| {
            let buffer = ReplayBuffer {
                storage: PathBuf::new(),
                len,
                cursor,
            };
            buffer
                .filled(capacity)
                .map(|filled| (filled.rows, filled.first))
                .ok()
        };
        assert_eq!(filled(7, Some(7), 20), Some((7, 0)));
        assert_eq!(filled(7, None, 20), Some((7, 0)));
        assert_eq!(filled(6, Some(0), 6), Some((6, 0)));
        assert_eq!(filled(6, Some(6), 6), Some((6, 0)));
        assert_eq!(filled(6, Some(4), 6), Some((6, 4)));
        assert_eq!(filled(6, None, 6), None);
        assert_eq!(filled(6, Some(7), 6), None);
        assert_eq!(filled(7, Some(3), 20), None);
        assert_eq!(filled(21, Some(1), 20), None);
    }
}
