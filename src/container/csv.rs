//! Tables in text files with a line for each row: CSV, and TSV if the file is named so.
//!
//! The first line names the columns. Nothing else in the file says what type a column has, so all
//! lines of all files are read before the first row is returned. A column holds numbers or flags
//! only if every cell is written as one; an empty cell is null.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array};
use arrow::array::{RecordBatch, StringArray, new_null_array};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::inferred::{Inferred, LARGEST_EXACT};
use super::{Batches, inferred, text};
use crate::error::wording::{count, printable};
use crate::error::{Error, Result};

/// Rows that are read at once to find out the types of columns.
const ROWS: usize = 4096;

/// Metadata of a column of text: where its first cell is that is no number.
pub(crate) const FIRST_TEXT: &str = "first text";

/// Finds out the columns of `files`.
///
/// # Errors
/// Returns an error if a file cannot be read, if a line has another number of cells than the first
/// one, or if two columns have one name.
pub(crate) fn infer(files: &[PathBuf]) -> Result<Inferred> {
    let mut columns: Vec<(String, Seen)> = Vec::new();
    let mut counts = Vec::new();
    for path in files {
        let header = header(path)?;
        let places: Vec<usize> = header
            .iter()
            .map(|name| inferred::place(&mut columns, name))
            .collect();
        let mut rows = 0_u64;
        for batch in cells(path, &header, ROWS, None)? {
            let batch = batch.map_err(|error| malformed(path, &error))?;
            for (column, place) in batch.columns().iter().zip(&places) {
                let column = column.as_string::<i32>();
                columns[*place].1.add(column, path, rows);
            }
            rows += batch.num_rows() as u64;
        }
        counts.push((path.clone(), rows));
    }
    let fields: Vec<Field> = columns
        .into_iter()
        .map(|(name, seen)| seen.field(&name))
        .collect();
    Ok(Inferred {
        empty: Vec::new(),
        schema: Arc::new(Schema::new(fields)),
        rows: counts,
    })
}

/// Returns the rows of the file at `path` in batches of `rows`, with the columns of `schema` whose
/// names are in `columns`; with all if `None`.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub(super) fn batches(
    path: &Path,
    rows: usize,
    schema: &SchemaRef,
    columns: Option<&[String]>,
) -> Result<Batches> {
    let header = header(path)?;
    let target = inferred::chosen(schema, columns);
    let used = header
        .iter()
        .enumerate()
        .filter(|(_, name)| target.index_of(name).is_ok())
        .map(|(index, _)| index)
        .collect();
    let typed = move |cells: RecordBatch| -> std::result::Result<RecordBatch, ArrowError> {
        let columns =
            target
                .fields()
                .iter()
                .map(|field| match cells.column_by_name(field.name()) {
                    Some(column) => converted(column.as_string(), field),
                    None => Ok(new_null_array(field.data_type(), cells.num_rows())),
                });
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&target), columns)
    };
    let cells = cells(path, &header, rows, Some(used))?;
    Ok(Box::new(cells.map(move |batch| typed(batch?))))
}

/// Returns the names of the columns of the file at `path`.
fn header(path: &Path) -> Result<Vec<String>> {
    let format = Format::default()
        .with_header(true)
        .with_delimiter(delimiter(path));
    let (schema, _) = format
        .infer_schema(Records::new(text::open(path)?, delimiter(path)), Some(0))
        .map_err(|error| malformed(path, &error))?;
    let names: Vec<String> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| match field.name().trim() {
            // pandas writes its index without a name.
            "" => format!("unnamed_{index}"),
            name => name.to_owned(),
        })
        .collect();
    let wrong = |what: String| Error::failed(format!("{}: line 1: {what}", path.display()));
    if let Some(name) = names.iter().enumerate().find_map(|(index, name)| {
        let repeated = names[..index].contains(name);
        repeated.then_some(name)
    }) {
        return Err(
            wrong(format!("two columns are named `{}`", printable(name)))
                .hint("the first line names the columns: give each a name of its own"),
        );
    }
    if !names.is_empty() && names.iter().all(|name| kind(name) != Kind::Text) {
        return Err(wrong("it holds values, not the names of columns".to_owned()).hint(
            "write a first line with names, for example `episode,step,obs_0,obs_1,action,reward`",
        ));
    }
    Ok(names)
}

/// Returns what separates the cells of a line in the file at `path`.
fn delimiter(path: &Path) -> u8 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_lowercase();
    let name = [".gz", ".zst"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    if name.ends_with(".tsv") || name.ends_with(".tab") {
        b'\t'
    } else {
        b','
    }
}

/// Returns the lines of a file after its first in batches of `rows`, as text.
fn cells(
    path: &Path,
    header: &[String],
    rows: usize,
    columns: Option<Vec<usize>>,
) -> Result<Batches> {
    let field = |name: &String| Field::new(name, DataType::Utf8, true);
    let schema = Schema::new(header.iter().map(field).collect::<Vec<_>>());
    let mut builder = ReaderBuilder::new(Arc::new(schema))
        .with_header(true)
        .with_delimiter(delimiter(path))
        .with_batch_size(rows);
    if let Some(columns) = columns {
        builder = builder.with_projection(columns);
    }
    let records = Records::new(text::open(path)?, delimiter(path));
    let reader = builder.build_buffered(BufReader::new(records));
    Ok(Box::new(reader.map_err(|error| malformed(path, &error))?))
}

fn malformed(path: &Path, error: &ArrowError) -> Error {
    let cells = |what: &str| {
        Error::failed(format!("{}: {what}", path.display())).hint(
            "every line needs one cell for each column of the first line; text with a separator, \
             a line break or a quote in it stands between double quotes",
        )
    };
    match error {
        ArrowError::IoError(_, error) if error.kind() == io::ErrorKind::InvalidData => {
            cells(&error.to_string())
        }
        ArrowError::CsvError(what) if what.contains("UTF-8") => {
            Error::failed(format!("{}: {what}", path.display())).hint("save the file as UTF-8 text")
        }
        ArrowError::CsvError(what) => cells(what),
        other => text::unreadable(path, &other.to_string()),
    }
}

/// The kinds of values that cells of a column hold.
#[derive(Default)]
struct Seen {
    flag: bool,
    whole: bool,
    /// Whether a whole number may have no float64.
    large: bool,
    float: bool,
    /// The first cell that holds none of the above, with its place.
    text: Option<String>,
}

impl Seen {
    fn add(&mut self, cells: &StringArray, path: &Path, first: u64) {
        if self.text.is_some() {
            return;
        }
        for (row, cell) in cells.iter().enumerate() {
            match cell.map_or(Kind::Empty, kind) {
                Kind::Empty => {}
                Kind::Flag => self.flag = true,
                Kind::Whole(value) => {
                    self.whole = true;
                    self.large |= value.unsigned_abs() > LARGEST_EXACT;
                }
                Kind::Float => self.float = true,
                Kind::Text => {
                    self.text = Some(format!(
                        "`{}` at row {} of {}",
                        printable(cell.unwrap_or_default()),
                        first + row as u64,
                        path.display()
                    ));
                    return;
                }
            }
        }
    }

    fn field(self, name: &str) -> Field {
        let mixed = self.flag && (self.whole || self.float) || self.float && self.large;
        let data_type = match &self {
            Seen { text: Some(_), .. } => DataType::Utf8,
            _ if mixed => DataType::Utf8,
            Seen { float: true, .. } => DataType::Float64,
            Seen { whole: true, .. } => DataType::Int64,
            Seen { flag: true, .. } => DataType::Boolean,
            _ => DataType::Null,
        };
        let field = Field::new(name, data_type, true);
        match self.text {
            Some(place) => field.with_metadata([(FIRST_TEXT.to_owned(), place)].into()),
            None => field,
        }
    }
}

/// What a cell holds.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Empty,
    Flag,
    Whole(i64),
    Float,
    Text,
}

fn kind(cell: &str) -> Kind {
    let cell = cell.trim_ascii();
    match cell {
        "" => return Kind::Empty,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Kind::Flag,
        "nan" | "NaN" | "NAN" | "inf" | "-inf" | "Inf" | "-Inf" | "Infinity" | "-Infinity" => {
            return Kind::Float;
        }
        _ => {}
    }
    let signless = cell.strip_prefix('-').unwrap_or(cell);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // Zeros in front have a meaning in codes such as 01001, and none in numbers.
    let padded = |text: &str| text.len() > 1 && text.starts_with('0');
    if !signless.is_empty() && digits(signless) {
        let plain = !padded(signless) && cell != "-0";
        let value = cell.parse().ok().filter(|_| plain);
        return match value {
            Some(value) => Kind::Whole(value),
            None if cell == "-0" => Kind::Float,
            None => Kind::Text,
        };
    }
    let signless = cell.strip_prefix(['-', '+']).unwrap_or(cell);
    if digits(signless) {
        return Kind::Text;
    }
    let (mantissa, _) = signless.split_once(['e', 'E']).unwrap_or((signless, ""));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = digits(before) && digits(after) && !padded(before);
    if is_number && cell.parse().is_ok_and(f64::is_finite) {
        Kind::Float
    } else {
        Kind::Text
    }
}

/// Converts cells to the type of `field`, which all of them have.
fn converted(cells: &StringArray, field: &Field) -> std::result::Result<ArrayRef, ArrowError> {
    let changed = |cell: &str| {
        ArrowError::ParseError(format!(
            "column `{}` holds `{}`, which it did not hold before",
            field.name(),
            printable(cell)
        ))
    };
    fn each<'a, T>(
        cells: &'a StringArray,
        parse: impl Fn(&'a str) -> Option<T>,
        changed: impl Fn(&str) -> ArrowError,
    ) -> std::result::Result<Vec<Option<T>>, ArrowError> {
        let parsed = cells.iter().map(|cell| {
            let cell = cell.map(str::trim_ascii).filter(|cell| !cell.is_empty());
            cell.map(|cell| parse(cell).ok_or_else(|| changed(cell)))
                .transpose()
        });
        parsed.collect()
    }
    Ok(match field.data_type() {
        DataType::Int64 => Arc::new(Int64Array::from(each(
            cells,
            |cell| cell.parse().ok(),
            changed,
        )?)),
        DataType::Float64 => Arc::new(Float64Array::from(each(
            cells,
            |cell| cell.parse().ok(),
            changed,
        )?)),
        DataType::Boolean => Arc::new(BooleanArray::from(each(
            cells,
            |cell| cell.to_ascii_lowercase().parse().ok(),
            changed,
        )?)),
        DataType::Null => new_null_array(&DataType::Null, cells.len()),
        _ => Arc::new(cells.clone()),
    })
}

/// Passes on the bytes of a file, and verifies that every record has as many cells as the first.
struct Records<R> {
    inner: R,
    delimiter: u8,
    state: State,
    /// The cells of the current record so far, without the one that is being read.
    cells: usize,
    /// The cells of the first record.
    expected: Option<usize>,
    /// The line of the next byte, and the line in which the current record began.
    line: u64,
    began: u64,
    /// Whether the last byte was a carriage return.
    returned: bool,
}

/// The place of the next byte.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Record,
    Cell,
    Plain,
    Quoted,
    /// After a quote in a quoted cell, which ends it unless another quote follows.
    Quote,
}

impl<R: Read> Records<R> {
    fn new(inner: R, delimiter: u8) -> Records<R> {
        Records {
            inner,
            delimiter,
            state: State::Record,
            cells: 0,
            expected: None,
            line: 1,
            began: 1,
            returned: false,
        }
    }

    fn take(&mut self, byte: u8) -> io::Result<()> {
        let is_break = byte == b'\n' || byte == b'\r';
        self.state = match self.state {
            State::Record if is_break => State::Record,
            State::Quoted if byte == b'"' => State::Quote,
            State::Quoted => State::Quoted,
            State::Quote if byte == b'"' => State::Quoted,
            _ if is_break => {
                self.end()?;
                State::Record
            }
            before => {
                if before == State::Record {
                    self.began = self.line;
                }
                if byte == self.delimiter {
                    self.cells += 1;
                    State::Cell
                } else if byte == b'"' && matches!(before, State::Record | State::Cell) {
                    State::Quoted
                } else {
                    State::Plain
                }
            }
        };
        if is_break && !(byte == b'\n' && self.returned) {
            self.line += 1;
        }
        self.returned = byte == b'\r';
        Ok(())
    }

    /// Ends the current record.
    fn end(&mut self) -> io::Result<()> {
        let cells = self.cells + 1;
        self.cells = 0;
        let expected = *self.expected.get_or_insert(cells);
        if cells == expected {
            return Ok(());
        }
        Err(wrong(format!(
            "line {} has {}, but the first line has {}",
            self.began,
            count(cells, "cell"),
            expected
        )))
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> Read for Records<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            match self.state {
                State::Record => {}
                State::Quoted => {
                    return Err(wrong(format!(
                        "line {} has a quote that is not closed",
                        self.began
                    )));
                }
                _ => {
                    self.end()?;
                    self.state = State::Record;
                }
            }
        }
        for byte in &buffer[..read] {
            self.take(*byte)?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::store;

    fn types(text: &str) -> std::result::Result<Vec<(String, DataType)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        store::write(&path, text.as_bytes()).unwrap();
        let inferred = infer(std::slice::from_ref(&path)).map_err(|error| error.message)?;
        // What was inferred can be read.
        let rows: usize = batches(&path, 2, &inferred.schema, None)
            .unwrap()
            .map(|batch| batch.unwrap().num_rows())
            .sum();
        assert_eq!(Some(rows as u64), inferred.rows_of(&path));
        Ok(inferred
            .schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect())
    }

    fn one(cells: &str) -> DataType {
        let rows: String = cells.split(' ').map(|cell| format!("{cell},\n")).collect();
        types(&format!("x,rest\n{rows}")).unwrap()[0].1.clone()
    }

    #[test]
    fn a_column_holds_numbers_only_if_every_cell_is_written_as_one() {
        assert_eq!(one("1 -2  30"), DataType::Int64);
        assert_eq!(one("1 2.5 -1e-3 nan -inf"), DataType::Float64);
        assert_eq!(one("-0 1"), DataType::Float64);
        assert_eq!(one("True False "), DataType::Boolean);
        for text in [
            "01001 2",
            "1 x",
            "True 1",
            "00.5",
            "1_000",
            "0x10",
            "1e999",
            "- 1",
            ". 1",
            "e5",
            "99999999999999999999",
            "9007199254740993 0.5",
            "+5",
        ] {
            assert_eq!(one(text), DataType::Utf8, "{text}");
        }
        assert_eq!(one("9007199254740993 5"), DataType::Int64);
        assert_eq!(one(" "), DataType::Null);
    }

    #[test]
    fn malformed_lines_are_named() {
        let message = |text: &str| types(text).unwrap_err();
        let ends =
            |text: &str, end: &str| assert!(message(text).ends_with(end), "{}", message(text));
        ends(
            "a,b\n1,2\n\n3\n",
            "line 4 has 1 cell, but the first line has 2",
        );
        ends(
            "a,b\r\n1,\"x\r\ny\"\r\n3,4,5\r\n",
            "line 4 has 3 cells, but the first line has 2",
        );
        ends(
            "a,b\n1,2\n3,\"x\n4,5\n",
            "line 3 has a quote that is not closed",
        );
        ends("a,b,a\n1,2,3\n", "line 1: two columns are named `a`");
        ends(
            "0,1.5\n1,2\n",
            "line 1: it holds values, not the names of columns",
        );
        ends("a,b\n1,2\n3", "line 3 has 1 cell, but the first line has 2");
        let quoted = types("a,b\n\"1,5\",\"say \"\"x\"\"\"\n2,\"\"\n").unwrap();
        assert_eq!(quoted[0].1, DataType::Utf8);
    }

    #[test]
    fn columns_of_several_files_are_joined_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| {
            let path = folder.path().join(name);
            store::write(&path, text.as_bytes()).unwrap();
            path
        };
        let files = [
            place("a.csv", "x,y\n1,2\n"),
            place("b.tsv", "z\ty\n3\t0.5\n"),
        ];
        let inferred = infer(&files).unwrap();
        let second = batches(&files[1], 9, &inferred.schema, None)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(second.schema().fields().len(), 3);
        assert_eq!(second["x"].null_count(), 1);
        assert_eq!(
            second["y"]
                .as_primitive::<arrow::datatypes::Float64Type>()
                .value(0),
            0.5
        );
        assert_eq!(
            second["z"]
                .as_primitive::<arrow::datatypes::Int64Type>()
                .value(0),
            3
        );
    }
}
