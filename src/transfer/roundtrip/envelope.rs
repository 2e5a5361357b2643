//! What formats of plain arrays have no place for, kept in two arrays of bytes beside the others: `envelope` says what the
//! file is made of, and `trajectories` has a line of JSON for each trajectory: how it ended, whether its last observation
//! is known, and what it is known by. Written on the way out, found again on the way in; loaders pass over both.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt8Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::container::arrays::ArraySink;
use crate::container::arrays::StoredArray;
use crate::container::{hdf5, npz};
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::transfer::write::arrays::{self, PlainArray};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};

/// Names of the two arrays, after the prefix that the format gives.
pub(crate) const ENVELOPE: &str = "envelope";
/// See [`ENVELOPE`].
pub(crate) const TRAJECTORIES: &str = "trajectories";

/// What a file says of itself as a whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Envelope {
    /// What the output depends on, as the caller of the writer put it.
    pub(crate) note: Value,
    /// What is said of each trajectory: name, Arrow type, whether it may be missing.
    pub(crate) about: Vec<(String, String, bool)>,
    /// Arrays that go by another name than the columns they were, to those columns.
    pub(crate) columns: BTreeMap<String, String>,
}

/// The note of origin in the npz file at `path`, in the envelope under `prefix`; `None` if there is none.
///
/// # Errors
/// Returns an error if the file cannot be read, or if its envelope is damaged.
pub(crate) fn note_of_npz(path: &Path, prefix: &str) -> Result<Option<Value>> {
    let name = format!("{prefix}{ENVELOPE}");
    if !npz::names(path)?.is_some_and(|names| names.contains(&name)) {
        return Ok(None);
    }
    let arrays = npz::arrays(path, &[])?;
    let Some(mut array) = arrays.into_iter().find(|array| array.layout.name == name) else {
        return Ok(None);
    };
    let text = array.reader.read(array.layout.rows)?;
    Envelope::note(&text, path)
}

/// The note of origin in the HDF5 file at `path`, in the envelope under `prefix`; `None` if there is none.
///
/// # Errors
/// Returns an error if the file cannot be read, or if its envelope is damaged.
pub(crate) fn note_of_hdf5(path: &Path, prefix: &str) -> Result<Option<Value>> {
    if !hdf5::has_magic(path)? {
        return Ok(None);
    }
    match hdf5::bytes(&hdf5::open(path)?, &format!("{prefix}{ENVELOPE}"))? {
        Some(text) => Envelope::note(&text, path),
        None => Ok(None),
    }
}

/// What a file says of one trajectory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EnvelopeLine {
    /// Steps, the final observation not counted.
    pub(crate) length: u64,
    /// Whether the observation after the last action is known.
    pub(crate) known_final: bool,
    /// Whether the environment ended with its last step.
    pub(crate) terminated: bool,
    /// Whether it was cut off after its last step.
    pub(crate) truncated: bool,
    /// What it is known by, and what else came along.
    pub(crate) about: Map<String, Value>,
}

/// Columns of steps that say how a trajectory ended.
pub(crate) const READS: [&str; 3] = [step::IS_FINAL, step::TERMINATED, step::TRUNCATED];

impl Envelope {
    /// The envelope of `outgoing`; columns of trajectories that have no JSON form that can be read back are named.
    pub(crate) fn new(
        outgoing: &OutgoingDataset,
        options: &WriteOptions,
        columns: BTreeMap<String, String>,
        written: &mut Written,
    ) -> Envelope {
        let mut about = Vec::new();
        for field in outgoing
            .carried()
            .fields()
            .iter()
            .filter(|field| field.name() != trajectory::TRAJECTORY_ID)
        {
            let text = field.data_type().to_string();
            if text
                .parse::<DataType>()
                .is_ok_and(|parsed| parsed == *field.data_type())
            {
                about.push((field.name().clone(), text, field.is_nullable()));
            } else {
                written.moved(
                    format!("column `{}` of trajectories", field.name()),
                    "left out: its type has no plain form",
                );
            }
        }
        let note = serde_json::from_str(&options.note).unwrap_or(Value::Null);
        Envelope {
            note,
            about,
            columns,
        }
    }

    /// Returns the note of origin in the envelope `text` of the file at `path`; `None` if it was
    /// written without one.
    fn note(text: &[u8], path: &Path) -> Result<Option<Value>> {
        let envelope = Envelope::parse(text).map_err(|error| error.at(path.display()))?;
        Ok(Some(envelope.note).filter(|note| !note.is_null()))
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// Where the text is not one.
    pub(crate) fn parse(text: &[u8]) -> Result<Envelope> {
        serde_json::from_slice(text).map_err(|error| {
            Error::failed(format!(
                "what trajmill kept beside the arrays is damaged: {error}"
            ))
            .hint("write the file again, or leave out its arrays named `trajmill`")
        })
    }

    /// The envelope as text.
    ///
    /// # Errors
    /// Never in practice.
    pub(crate) fn text(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| {
            Error::failed(format!(
                "cannot keep what the dataset says of itself: {error}"
            ))
        })
    }

    /// Columns of what is said of each trajectory.
    ///
    /// # Errors
    /// Where a type is none.
    pub(crate) fn schema(&self) -> Result<SchemaRef> {
        let field = |(name, text, nullable): &(String, String, bool)| {
            let data_type = text.parse::<DataType>();
            data_type
                .map(|data_type| Field::new(name, data_type, *nullable))
                .map_err(|error| Error::failed(error.to_string()))
        };
        Ok(Arc::new(Schema::new(
            self.about.iter().map(field).collect::<Result<Vec<_>>>()?,
        )))
    }
}

/// One row of `schema` that `about` says; `None` where the schema has no columns.
///
/// # Errors
/// Where it does not fit.
pub(crate) fn row(schema: &SchemaRef, about: &Map<String, Value>) -> Result<Option<RecordBatch>> {
    if schema.fields().is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_vec(about).map_err(|error| Error::failed(error.to_string()))?;
    let mut reader =
        arrow::json::ReaderBuilder::new(Arc::clone(schema)).build(Cursor::new(text))?;
    reader.next().transpose()?.map_or_else(
        || Err(Error::failed("a trajectory is said nothing of")),
        |row| Ok(Some(row)),
    )
}

/// What is to be kept of `leaving`, whose steps have the columns [`READS`].
///
/// # Errors
/// Where it has no JSON form.
pub(crate) fn line(leaving: &OutgoingTrajectory) -> Result<EnvelopeLine> {
    let last = |name: &str| {
        let flags = leaving.column(name);
        let flags = flags.as_ref().and_then(|column| column.as_boolean_opt());
        flags.is_some_and(|flags| leaving.length > 0 && flags.value(leaving.length - 1))
    };
    Ok(EnvelopeLine {
        length: leaving.length as u64,
        known_final: leaving.has_final(),
        terminated: last(step::TERMINATED),
        truncated: last(step::TRUNCATED),
        about: arrays::about(leaving)?,
    })
}

/// Writes both arrays under `prefix`.
///
/// # Errors
/// Where the dataset cannot be read or the sink not written.
pub(crate) fn write(
    outgoing: &OutgoingDataset,
    sink: &mut dyn ArraySink,
    prefix: &str,
    envelope: &Envelope,
) -> Result<()> {
    let bytes = |name: &str| PlainArray {
        name: format!("{prefix}{name}"),
        path: Vec::new(),
        element: DataType::UInt8,
        row: Vec::new(),
    };
    let text = envelope.text()?;
    sink.begin(
        &bytes(ENVELOPE).name,
        &DataType::UInt8,
        text.len() as u64,
        &[],
    )?;
    sink.write(text.as_bytes())?;
    sink.end()?;
    let of = |leaving: &OutgoingTrajectory| -> Result<ArrayRef> {
        let mut text = serde_json::to_vec(&line(leaving)?)
            .map_err(|error| Error::failed(error.to_string()))?;
        text.push(b'\n');
        Ok(Arc::new(UInt8Array::from(text)))
    };
    // The length of an array comes before its bytes.
    let mut length = 0;
    for leaving in outgoing.pass(Some(&READS))? {
        length += of(&leaving?)?.len() as u64;
    }
    arrays::stream(outgoing, sink, &bytes(TRAJECTORIES), length, &READS, &of).map(|_| ())
}

/// What was kept beside arrays that are being read.
pub(crate) struct EnvelopeReader {
    pub(crate) about: SchemaRef,
    part: StoredArray,
    left: u64,
    buffer: Vec<u8>,
}

impl EnvelopeReader {
    /// Takes what was kept under `prefix` out of `parts`; `None` where there is nothing.
    ///
    /// # Errors
    /// Where it is damaged.
    pub(crate) fn take(
        parts: &mut Vec<StoredArray>,
        prefix: &str,
    ) -> Result<Option<EnvelopeReader>> {
        let place = |parts: &[StoredArray], name: &str| {
            parts
                .iter()
                .position(|part| part.layout.name == format!("{prefix}{name}"))
        };
        let Some(mut envelope) = place(parts, ENVELOPE).map(|index| parts.remove(index)) else {
            return Ok(None);
        };
        let Some(part) = place(parts, TRAJECTORIES).map(|index| parts.remove(index)) else {
            return Err(Error::failed(format!(
                "`{prefix}{ENVELOPE}` is there without `{prefix}{TRAJECTORIES}`"
            )));
        };
        let rows = envelope.layout.rows;
        let envelope = Envelope::parse(&envelope.reader.read(rows)?)?;
        let about = envelope.schema()?;
        let left = part.layout.rows;
        for part in parts.iter_mut() {
            if let Some(column) = envelope.columns.get(&part.layout.name) {
                part.layout.name.clone_from(column);
            }
        }
        Ok(Some(EnvelopeReader {
            about,
            part,
            left,
            buffer: Vec::new(),
        }))
    }

    /// What is said of the next trajectory; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<EnvelopeLine>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = serde_json::from_slice(&line);
                return line.map(Some).map_err(|error| {
                    Error::failed(format!("what was kept of a trajectory is damaged: {error}"))
                });
            }
            if self.left == 0 {
                return Ok(None);
            }
            let rows = self.left.min(1 << 16);
            self.buffer.extend(self.part.reader.read(rows)?);
            self.left -= rows;
        }
    }
}
