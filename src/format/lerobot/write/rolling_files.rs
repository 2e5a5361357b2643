//! Parquet files that hold several episodes each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::container::parquet::ChecksummedWriter;
use crate::dataset::store;
use crate::error::Result;
use crate::format::lerobot::{CHUNK, FILE_MIB};

/// A sequence of Parquet files; a new one begins when the last one is full. An episode never spans
/// two files.
pub(crate) struct RollingFiles {
    folder: PathBuf,
    pub(crate) schema: SchemaRef,
    file: Option<ChecksummedWriter>,
    /// The number of files so far.
    count: u64,
}

impl RollingFiles {
    /// Creates a sequence in `folder` of the dataset at `root`. The first rows open the first file.
    pub(crate) fn new(root: &Path, folder: &str, schema: &SchemaRef) -> RollingFiles {
        RollingFiles {
            folder: root.join(folder),
            schema: Arc::clone(schema),
            file: None,
            count: 0,
        }
    }

    /// Begins a new file if `rows` more do not fit into the present one. Returns the chunk and the
    /// index of the file.
    pub(crate) fn make_room(&mut self, rows: u64) -> Result<(u64, u64)> {
        let full = self.file.as_ref().is_some_and(|file| {
            let bytes = file.bytes() as u64;
            bytes + bytes / file.rows.max(1) * rows >= FILE_MIB << 20
        });
        if full && let Some(file) = self.file.take() {
            file.finish()?;
        }
        if self.file.is_none() {
            let (chunk, index) = (self.count / CHUNK, self.count % CHUNK);
            let folder = self.folder.join(format!("chunk-{chunk:03}"));
            store::create_dir(&folder)?;
            self.file = Some(ChecksummedWriter::create(
                &folder.join(format!("file-{index:03}.parquet")),
                &self.schema,
            )?);
            self.count += 1;
        }
        Ok(((self.count - 1) / CHUNK, (self.count - 1) % CHUNK))
    }

    /// Appends rows for which [`RollingFiles::make_room`] was called.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(batch))
    }

    /// Closes the last file.
    pub(crate) fn finish(self) -> Result<()> {
        self.file.map_or(Ok(()), ChecksummedWriter::finish)
    }
}
