//! Files of several episodes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::container::parquet::ChecksummedWriter;
use crate::dataset::store;
use crate::error::Result;
use crate::format::lerobot::{CHUNK, FILE_MIB};

/// Files of several episodes, none of which spans two.
pub(crate) struct RollingFiles {
    folder: PathBuf,
    pub(crate) schema: SchemaRef,
    file: Option<ChecksummedWriter>,
    /// Files begun.
    begun: u64,
}

impl RollingFiles {
    pub(crate) fn new(root: &Path, folder: &str, schema: &SchemaRef) -> RollingFiles {
        RollingFiles {
            folder: root.join(folder),
            schema: Arc::clone(schema),
            file: None,
            begun: 0,
        }
    }

    /// Opens the file that has room for `rows` more; its chunk and index.
    pub(crate) fn make_room(&mut self, rows: u64) -> Result<(u64, u64)> {
        let full = self.file.as_ref().is_some_and(|file| {
            let bytes = file.bytes() as u64;
            bytes + bytes / file.rows.max(1) * rows >= FILE_MIB << 20
        });
        if full && let Some(file) = self.file.take() {
            file.finish()?;
        }
        if self.file.is_none() {
            let (chunk, index) = (self.begun / CHUNK, self.begun % CHUNK);
            let folder = self.folder.join(format!("chunk-{chunk:03}"));
            store::create_dir(&folder)?;
            self.file = Some(ChecksummedWriter::create(
                &folder.join(format!("file-{index:03}.parquet")),
                &self.schema,
            )?);
            self.begun += 1;
        }
        Ok(((self.begun - 1) / CHUNK, (self.begun - 1) % CHUNK))
    }

    /// Appends what room was made for.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(batch))
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.file.map_or(Ok(()), ChecksummedWriter::finish)
    }
}
