//! Writes results as text, as Arrow streams and as Parquet files.
//!
//! - `table`: a box per 10,000 rows, each with a header, so that memory stays bounded; null is
//!   `NULL`, and characters that a terminal acts on are escaped.
//! - `csv`: a header, then one line per row; null is empty; lists and structs are JSON text.
//! - `json`: one object per line (newline-delimited JSON) with every column; NaN is null.
//! - `arrow`: an Arrow IPC stream, which pyarrow, Polars and others read without a conversion.
//! - `parquet`: a file, which is written whole or not at all and never replaces another.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{EncoderOptions, LineDelimited, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::ArrowWriter;

use super::Session;
use crate::dataset::store::WholeFile;
use crate::dataset::write;
use crate::error::wording::printable;
use crate::error::{Error, Result};

/// Number of rows in a box of a table.
const BOX: usize = 10_000;
/// Size at which a row group is written, in bytes of memory.
const ROW_GROUP: usize = 64 << 20;

/// The format of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultFormat {
    /// Boxes drawn with characters.
    Table,
    /// Comma-separated values with a header. Lists are JSON text.
    Csv,
    /// One JSON object per line.
    Json,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Runs `sql`, writes its result to `out` and returns the number of rows.
///
/// # Errors
/// Returns an error if the query fails, if `out` cannot be written, or if `format` is Parquet,
/// which only [`save_result`] writes.
pub fn print_result(
    session: &Session,
    sql: &str,
    format: ResultFormat,
    out: &mut (dyn Write + Send),
) -> Result<u64> {
    let mut text = Text {
        format,
        pending: Vec::new(),
        pending_rows: 0,
        boxes: 0,
        header: true,
        stream: None,
    };
    let mut rows = 0;
    session.stream(sql, &mut |batch| {
        rows += batch.num_rows() as u64;
        let bytes = text.push(batch)?;
        out.write_all(&bytes).map_err(unwritable)?;
        Ok(ControlFlow::Continue(()))
    })?;
    out.write_all(&text.end()?).map_err(unwritable)?;
    out.flush().map_err(unwritable)?;
    Ok(rows)
}

/// Returns the failure of `out`: its own error, if it has one.
fn unwritable(error: io::Error) -> Error {
    match error.get_ref() {
        Some(own) if own.is::<Error>() => error.into(),
        _ => Error::failed(format!("cannot write the result: {error}")),
    }
}

/// Converts batches to text, or to the messages of an Arrow stream.
struct Text {
    format: ResultFormat,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    boxes: usize,
    header: bool,
    stream: Option<StreamWriter<Vec<u8>>>,
}

impl Text {
    fn push(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match self.format {
            ResultFormat::Table => {
                self.pending_rows += batch.num_rows();
                self.pending.push(batch.clone());
                if self.pending_rows >= BOX {
                    self.boxed()
                } else {
                    Ok(Vec::new())
                }
            }
            ResultFormat::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new()
                    .with_header(self.header && batch.num_columns() > 0)
                    .build(Vec::new());
                writer.write(&flat(batch)?)?;
                self.header = false;
                Ok(writer.into_inner())
            }
            ResultFormat::Json => {
                let options = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
                let mut writer = options.build::<_, LineDelimited>(Vec::new());
                writer.write(batch)?;
                writer.finish()?;
                Ok(writer.into_inner())
            }
            ResultFormat::Arrow => {
                let writer = match &mut self.stream {
                    Some(writer) => writer,
                    none => {
                        let schema = batch.schema();
                        ensure_columns(&schema)?;
                        none.insert(StreamWriter::try_new(Vec::new(), &schema)?)
                    }
                };
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()))
            }
            ResultFormat::Parquet => Err(Error::usage("the format `parquet` needs an output file")
                .hint("name one with `-o FILE`")),
        }
    }

    fn end(&mut self) -> Result<Vec<u8>> {
        if let Some(writer) = self.stream.take() {
            return Ok(writer.into_inner()?);
        }
        let columns = self
            .pending
            .first()
            .is_some_and(|batch| batch.num_columns() > 0);
        if columns && (self.pending_rows > 0 || self.boxes == 0) {
            self.boxed()
        } else {
            Ok(Vec::new())
        }
    }

    fn boxed(&mut self) -> Result<Vec<u8>> {
        let texts = self.pending.iter().map(shown).collect::<Result<Vec<_>>>()?;
        let table = pretty_format_batches(&texts)?;
        self.pending.clear();
        self.pending_rows = 0;
        self.boxes += 1;
        Ok(format!("{table}\n").into_bytes())
    }
}

/// Returns `batch` with every name and value as the text that a table shows. It has no characters
/// that a terminal acts on.
fn shown(batch: &RecordBatch) -> Result<RecordBatch> {
    let options = FormatOptions::default().with_null("NULL");
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|field| {
        let name = printable(field.name());
        Field::new(name, DataType::Utf8, false)
    });
    let fields: Vec<Field> = fields.collect();
    let columns = batch.columns().iter().map(|column| -> Result<ArrayRef> {
        let column = ArrayFormatter::try_new(column.as_ref(), &options)?;
        let mut texts = StringBuilder::new();
        for row in 0..batch.num_rows() {
            texts.append_value(printable(&column.value(row).try_to_string()?));
        }
        Ok(Arc::new(texts.finish()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(schema, columns, &rows)?)
}

/// Returns `batch` with JSON text in place of lists and structs, which CSV cannot express.
fn flat(batch: &RecordBatch) -> Result<RecordBatch> {
    let nested = |field: &Field| field.data_type().is_nested();
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|field| {
        if nested(field) {
            Field::new(field.name(), DataType::Utf8, true)
        } else {
            Field::new(field.name(), field.data_type().clone(), true)
        }
    });
    let columns =
        schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| -> Result<ArrayRef> {
                if !nested(field) {
                    return Ok(Arc::clone(column));
                }
                let options = EncoderOptions::default();
                let mut encoder = make_encoder(field, column.as_ref(), &options)?;
                let mut texts = StringBuilder::new();
                let mut text = Vec::new();
                for row in 0..column.len() {
                    if encoder.is_null(row) {
                        texts.append_null();
                    } else {
                        text.clear();
                        encoder.encode(row, &mut text);
                        texts.append_value(String::from_utf8_lossy(&text));
                    }
                }
                Ok(Arc::new(texts.finish()))
            });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    if columns.is_empty() {
        return Ok(batch.clone());
    }
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        columns,
    )?)
}

/// Runs `sql`, writes its result to the new file `path` and returns the number of rows. The file
/// appears when it is complete.
///
/// # Errors
/// Returns an error if `path` exists, the query fails, or the file cannot be written. Then nothing
/// is left behind.
pub fn save_result(session: &Session, sql: &str, format: ResultFormat, path: &Path) -> Result<u64> {
    if path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    if path.file_name().is_none() {
        return Err(Error::usage(format!(
            "{} is not a file name",
            path.display()
        )));
    }
    let mut file = WholeFile::create(path)?;
    let rows = if format == ResultFormat::Parquet {
        write_parquet(session, sql, &mut file)?
    } else {
        let mut out = io::BufWriter::new(&mut file);
        print_result(session, sql, format, &mut out)?
    };
    match file.publish()? {
        true => Ok(rows),
        false => Err(exists(path)),
    }
}

fn exists(path: &Path) -> Error {
    Error::failed(format!("{} already exists", path.display()))
        .hint("remove it, or choose another name: an existing file is never replaced")
}

fn write_parquet(session: &Session, sql: &str, file: &mut WholeFile) -> Result<u64> {
    let mut rows = 0;
    let mut writer: Option<ArrowWriter<&mut WholeFile>> = None;
    let mut file = Some(file);
    session.stream(sql, &mut |batch| {
        if let Some(file) = file.take() {
            writer = Some(start(file, batch.schema())?);
        }
        if let Some(writer) = &mut writer {
            rows += batch.num_rows() as u64;
            writer.write(batch)?;
            if writer.in_progress_size() >= ROW_GROUP {
                writer.flush()?;
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some(writer) = writer {
        writer.close()?;
    }
    Ok(rows)
}

fn start(file: &mut WholeFile, schema: SchemaRef) -> Result<ArrowWriter<&mut WholeFile>> {
    ensure_columns(&schema)?;
    let properties = write::properties(&schema, None)?;
    Ok(ArrowWriter::try_new(file, schema, Some(properties))?)
}

fn ensure_columns(schema: &Schema) -> Result<()> {
    match schema.fields().is_empty() {
        true => Err(Error::usage("the statement returns no columns to write")),
        false => Ok(()),
    }
}
