//! Writes plain Parquet: the files of steps alone, as a dataset of ours has them.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;

use crate::dataset::store::{self, HashingFile};
use crate::dataset::{schema, write};
use crate::error::Result;
use crate::format::{Outgoing, WriteOptions, Written};

/// Rows that a file aims at: it closes at the first trajectory end at or after them.
const FILE_ROWS: u64 = 1 << 20;

pub(super) fn write(outgoing: &Outgoing, to: &Path, _options: &WriteOptions) -> Result<Written> {
    store::create_dir(to)?;
    let logical = outgoing.steps();
    let physical = schema::physical(logical);
    let block_rows = schema::block_rows(logical);
    let mut file = File {
        to,
        index: 0,
        rows: 0,
        writer: None,
        schema: physical,
    };
    let (mut pending, mut rows) = (Vec::new(), 0);
    for leaving in outgoing.pass(None)? {
        let leaving = leaving?;
        rows += leaving.steps.num_rows();
        pending.push(leaving.steps);
        if rows >= block_rows {
            file.group(&pending, logical)?;
            (pending, rows) = (Vec::new(), 0);
        }
    }
    file.group(&pending, logical)?;
    file.close()?;
    let mut written = Written::default();
    written.moved(
        "what is known of trajectories as a whole: identity, source, statistics",
        "left out: a file of steps has no place for it",
    );
    Ok(written)
}

struct File<'a> {
    to: &'a Path,
    index: usize,
    rows: u64,
    writer: Option<ArrowWriter<HashingFile>>,
    schema: SchemaRef,
}

impl File<'_> {
    /// Writes whole trajectories as a row group; an empty dataset still makes a file.
    fn group(&mut self, steps: &[RecordBatch], logical: &SchemaRef) -> Result<()> {
        if steps.is_empty() && self.index + usize::from(self.writer.is_some()) > 0 {
            return Ok(());
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let file =
                    HashingFile::create(&self.to.join(format!("{:05}.parquet", self.index)))?;
                ArrowWriter::try_new(
                    file,
                    Arc::clone(&self.schema),
                    Some(write::properties(&self.schema, None)?),
                )?
            }
        };
        let batch = schema::convert(&concat_batches(logical, steps)?, &self.schema)?;
        if batch.num_rows() > 0 {
            writer.write(&batch)?;
            writer.flush()?;
        }
        self.rows += batch.num_rows() as u64;
        self.writer = Some(writer);
        if self.rows >= FILE_ROWS {
            self.close()
        } else {
            Ok(())
        }
    }

    fn close(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.into_inner()?.finish()?;
            self.index += 1;
            self.rows = 0;
        }
        Ok(())
    }
}
