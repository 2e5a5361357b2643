//! Reads small Parquet files, and writes Parquet files whose pages have checksums. The crate
//! `parquet` verifies checksums but does not write them.
//!
//! A row group is encoded in memory. Then the header of each of its pages gets the field `crc`, and
//! its columns are appended to the file with their new sizes.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter, add_encoded_arrow_schema_to_metadata};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use prost::bytes::Bytes;

use crate::dataset::store::HashingFile;
use crate::error::{Error, Result};

/// A row group ends at the first end of a trajectory after this many rows.
const GROUP_ROWS: usize = 65_536;

/// A row group ends at the first end of a trajectory after this many bytes in memory.
const GROUP_BYTES: usize = 32 << 20;

/// Returns the rows of the Parquet file with the content `bytes`.
///
/// # Errors
/// Returns an error if it is not a Parquet file.
pub(crate) fn table(bytes: Vec<u8>) -> Result<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))?;
    let schema = std::sync::Arc::clone(reader.schema());
    let batches = reader
        .build()?
        .collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

/// A Parquet file while it is written.
pub(crate) struct ChecksummedWriter {
    schema: SchemaRef,
    properties: WriterPropertiesPtr,
    file: SerializedFileWriter<HashingFile>,
    group: Option<ArrowWriter<Vec<u8>>>,
    /// The rows so far.
    pub(crate) rows: u64,
}

impl ChecksummedWriter {
    /// Creates the file at `path`, which must not exist.
    pub(crate) fn create(path: &Path, schema: &SchemaRef) -> Result<ChecksummedWriter> {
        let properties = crate::dataset::write::properties(schema, None)?.into_builder();
        // The offsets of pages are not known before their headers grow; without them there is no
        // page index.
        let mut properties = properties
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .build();
        add_encoded_arrow_schema_to_metadata(schema, &mut properties);
        let properties = WriterPropertiesPtr::new(properties);
        let columns = ArrowSchemaConverter::new().convert(schema)?;
        let file = SerializedFileWriter::new(
            HashingFile::create(path)?,
            columns.root_schema_ptr(),
            properties.clone(),
        )?;
        Ok(ChecksummedWriter {
            schema: SchemaRef::clone(schema),
            properties,
            file,
            group: None,
            rows: 0,
        })
    }

    /// Returns the bytes so far, including the encoded size of those in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.file.bytes_written()
            + self
                .group
                .as_ref()
                .map_or(0, |group| group.bytes_written() + group.in_progress_size())
    }

    /// Appends a whole trajectory.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let group = match &mut self.group {
            Some(group) => group,
            none => none.insert(ArrowWriter::try_new(
                Vec::new(),
                SchemaRef::clone(&self.schema),
                Some(self.properties.as_ref().clone()),
            )?),
        };
        group.write(batch)?;
        self.rows += batch.num_rows() as u64;
        if group.in_progress_rows() >= GROUP_ROWS || group.in_progress_size() >= GROUP_BYTES {
            self.close_group()
        } else {
            Ok(())
        }
    }

    /// Ends the row group.
    fn close_group(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else {
            return Ok(());
        };
        let encoded = Bytes::from(group.into_inner()?);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&encoded)?;
        for group in metadata.row_groups() {
            let mut writer = self.file.next_row_group()?;
            for column in group.columns() {
                let (start, length) = column.byte_range();
                let pages = encoded
                    .get(start as usize..(start + length) as usize)
                    .ok_or_else(odd)?;
                let (chunk, first_data) = checksummed(pages)?;
                writer.append_column(
                    &Bytes::from(chunk.clone()),
                    close(column, group.num_rows(), chunk.len(), first_data)?,
                )?;
            }
            writer.close()?;
        }
        Ok(())
    }

    /// Closes the file and makes it durable.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.close_group()?;
        self.file.into_inner()?.finish()?;
        Ok(())
    }
}

fn odd() -> Error {
    Error::failed("an encoded page does not follow the Parquet format")
}

/// Returns the metadata of a column chunk of `length` bytes whose first data page is at
/// `first_data`.
fn close(
    column: &ColumnChunkMetaData,
    rows: i64,
    length: usize,
    first_data: usize,
) -> Result<ColumnCloseResult> {
    let metadata = column
        .clone()
        .into_builder()
        .set_total_compressed_size(length as i64)
        .set_data_page_offset(first_data as i64)
        .set_dictionary_page_offset(column.dictionary_page_offset().map(|_| 0))
        .set_offset_index_offset(None)
        .set_offset_index_length(None)
        .set_column_index_offset(None)
        .set_column_index_length(None)
        .build()?;
    let rows_written = u64::try_from(rows).map_err(|_| odd())?;
    Ok(ColumnCloseResult {
        bytes_written: length as u64,
        rows_written,
        metadata,
        bloom_filter: None,
        column_index: None,
        offset_index: None,
    })
}

/// Returns the pages of a column chunk with checksums, and the offset of the first data page.
///
/// The header of a page is a Thrift struct in the compact protocol. Its first fields are 1 the type
/// of the page, 2 its size and 3 its compressed size, all i32. Field 4 is the checksum, which is
/// absent so far. The number of a field is stored as the difference to the previous one.
fn checksummed(pages: &[u8]) -> Result<(Vec<u8>, usize)> {
    const INTEGER: u8 = 0x15;
    let mut out = Vec::with_capacity(pages.len() + 64);
    let mut first_data = None;
    let mut rest = pages;
    while !rest.is_empty() {
        let page = rest;
        let mut at = 0;
        let mut numbers = [0; 3];
        for number in &mut numbers {
            if page.get(at) != Some(&INTEGER) {
                return Err(odd());
            }
            let (value, bytes) = varint(page.get(at + 1..).ok_or_else(odd)?)?;
            *number = value >> 1;
            at += 1 + bytes;
        }
        let [kind, _, size] = numbers;
        let next = *page.get(at).ok_or_else(odd)?;
        let (delta, field) = (next >> 4, next & 0x0f);
        let header = at + skip(page.get(at..).ok_or_else(odd)?)?;
        let end = header.checked_add(size as usize).ok_or_else(odd)?;
        let body = page.get(header..end).ok_or_else(odd)?;
        if delta < 2 {
            return Err(odd());
        }
        // A page of type 2 is the dictionary.
        if kind != 2 && first_data.is_none() {
            first_data = Some(out.len());
        }
        let mut crc = flate2::Crc::new();
        crc.update(body);
        let crc = crc.sum() as i32;
        out.extend_from_slice(&page[..at]);
        out.push(INTEGER);
        put_varint(&mut out, u64::from(((crc << 1) ^ (crc >> 31)) as u32));
        out.push((delta - 1) << 4 | field);
        out.extend_from_slice(&page[at + 1..end]);
        rest = &page[end..];
    }
    Ok((out, first_data.ok_or_else(odd)?))
}

fn varint(bytes: &[u8]) -> Result<(u64, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
    }
    Err(odd())
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns the number of bytes of the fields of a Thrift struct in the compact protocol, including
/// its end.
fn skip(bytes: &[u8]) -> Result<usize> {
    fn value(kind: u8, bytes: &[u8], depth: usize) -> Result<usize> {
        match kind {
            1 | 2 => Ok(0),
            3 => Ok(1),
            4..=6 => varint(bytes).map(|(_, length)| length),
            7 => Ok(8),
            8 => {
                let (length, own) = varint(bytes)?;
                own.checked_add(length as usize).ok_or_else(odd)
            }
            9 | 10 => {
                let head = *bytes.first().ok_or_else(odd)?;
                let (mut count, mut at) = (u64::from(head >> 4), 1);
                if count == 15 {
                    let (long, own) = varint(bytes.get(1..).ok_or_else(odd)?)?;
                    (count, at) = (long, 1 + own);
                }
                for _ in 0..count {
                    // In a list, a boolean has its own byte.
                    let own = if head & 0x0f <= 2 {
                        1
                    } else {
                        value(head & 0x0f, bytes.get(at..).ok_or_else(odd)?, depth)?
                    };
                    at += own;
                }
                Ok(at)
            }
            12 if depth < 8 => fields(bytes, depth + 1),
            _ => Err(odd()),
        }
    }
    fn fields(bytes: &[u8], depth: usize) -> Result<usize> {
        let mut at = 0;
        loop {
            let head = *bytes.get(at).ok_or_else(odd)?;
            at += 1;
            if head == 0 {
                return Ok(at);
            }
            if head >> 4 == 0 {
                at += varint(bytes.get(at..).ok_or_else(odd)?)?.1;
            }
            at += value(head & 0x0f, bytes.get(at..).ok_or_else(odd)?, depth)?;
        }
    }
    fields(bytes, 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float32Array, StringArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn batch(rows: std::ops::Range<u32>) -> RecordBatch {
        let floats: ArrayRef = Arc::new(Float32Array::from_iter(
            rows.clone().map(|row| (row % 7 != 0).then_some(row as f32)),
        ));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
            rows.map(|row| format!("text {}", row % 5)),
        ));
        RecordBatch::try_from_iter([("floats", floats), ("texts", texts)]).unwrap()
    }

    #[test]
    fn pages_carry_checksums_that_a_flipped_byte_breaks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let parts = [
            batch(0..70_000),
            batch(70_000..70_003),
            batch(70_003..70_010),
        ];
        let mut file = ChecksummedWriter::create(&path, &parts[0].schema()).unwrap();
        parts.iter().for_each(|part| file.write(part).unwrap());
        file.finish().unwrap();
        let read = |path: &Path| -> std::result::Result<Vec<RecordBatch>, String> {
            let builder =
                ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap())
                    .map_err(|error| error.to_string())?;
            assert_eq!(builder.metadata().num_row_groups(), 2);
            builder
                .build()
                .unwrap()
                .collect::<std::result::Result<_, _>>()
                .map_err(|error| error.to_string())
        };
        let found =
            arrow::compute::concat_batches(&parts[0].schema(), &read(&path).unwrap()).unwrap();
        assert_eq!(
            found,
            arrow::compute::concat_batches(&parts[0].schema(), &parts).unwrap()
        );
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[2000] ^= 1;
        let wrong = folder.path().join("b.parquet");
        crate::dataset::store::write(&wrong, &bytes).unwrap();
        assert!(read(&wrong).unwrap_err().to_lowercase().contains("crc"));
    }
}
