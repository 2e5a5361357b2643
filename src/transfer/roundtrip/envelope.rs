//! Stores what formats of plain arrays have no place for in two arrays of bytes beside the others.
//!
//! `envelope` describes the file. `trajectories` holds one line of JSON per trajectory: how it
//! ended, whether its final observation is known, its identity and other facts. An export writes
//! both arrays, an import reads them, and the loaders of the formats ignore them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt8Array};
use arrow::datatypes::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::container::arrays::ArraySink;
use crate::container::arrays::StoredArray;
use crate::container::{hdf5, npz};
use crate::dataset::schema::{step, trajectory, type_name};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::facts::{self, StoredField};
use crate::transfer::roundtrip::models::Models;
use crate::transfer::write::arrays::{self, PlainArray};
use crate::transfer::write::{OutgoingDataset, OutgoingTrajectory, WriteOptions, Written};

/// The name of the array that describes the file, after the prefix of the format.
pub(crate) const ENVELOPE: &str = "envelope";
/// The name of the array with a line for each trajectory, after the prefix of the format.
pub(crate) const TRAJECTORIES: &str = "trajectories";

/// The description of a file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Envelope {
    /// The note of origin: everything that the output depends on.
    pub(crate) note: Value,
    /// The facts about each trajectory.
    pub(crate) about: Vec<StoredField>,
    /// The arrays whose names differ from those of their columns, and the names of the columns.
    pub(crate) columns: BTreeMap<String, String>,
    /// The models that predicted actions, if the dataset says which and the format has no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) models: Option<Models>,
}

/// Returns the note of origin in the npz file at `path`, from the envelope under `prefix`; `None`
/// if there is none.
///
/// # Errors
/// Returns an error if the file cannot be read, or if its envelope is damaged.
pub(crate) fn note_of_npz(path: &Path, prefix: &str) -> Result<Option<Value>> {
    let name = format!("{prefix}{ENVELOPE}");
    if !npz::names(path)?.is_some_and(|names| names.contains(&name)) {
        return Ok(None);
    }
    let arrays = npz::arrays(path, &|known| known == name)?;
    let Some(mut array) = arrays.into_iter().find(|array| array.layout.name == name) else {
        return Ok(None);
    };
    let text = array.reader.read(array.layout.rows)?;
    Envelope::note(&text, path)
}

/// Returns the note of origin in the HDF5 file at `path`, from the envelope under `prefix`; `None`
/// if there is none.
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

/// The line of a file about one trajectory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EnvelopeLine {
    /// The number of steps, without the final observation.
    pub(crate) length: u64,
    /// Whether the observation after the last action is known.
    pub(crate) known_final: bool,
    /// Whether its last step reached a terminal state.
    pub(crate) terminated: bool,
    /// Whether it was cut off after its last step.
    pub(crate) truncated: bool,
    /// Its identity and other facts.
    pub(crate) about: Map<String, Value>,
}

/// The columns of steps that a line is made from.
pub(crate) const READS: [&str; 3] = [step::IS_FINAL, step::TERMINATED, step::TRUNCATED];

impl Envelope {
    /// Makes the envelope of `outgoing`. Columns of trajectories whose types cannot be stored are
    /// left out, and reported in `written`.
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
            match facts::stored(field) {
                Some(stored) => about.push(stored),
                None => written.cannot_hold(
                    format!("the trajectory column `{}`", field.name()),
                    format!(
                        "left out: {} cannot be stored as JSON",
                        type_name(field.data_type())
                    ),
                ),
            }
        }
        let note = serde_json::from_str(&options.note).unwrap_or(Value::Null);
        Envelope {
            note,
            about,
            columns,
            models: outgoing.models().cloned(),
        }
    }

    /// Returns the note of origin in the envelope `text` of the file at `path`; `None` if it was
    /// written without one.
    fn note(text: &[u8], path: &Path) -> Result<Option<Value>> {
        let envelope = Envelope::parse(text).map_err(|error| error.at(path.display()))?;
        Ok(Some(envelope.note).filter(|note| !note.is_null()))
    }

    /// Parses an envelope.
    ///
    /// # Errors
    /// Returns an error if `text` is not one.
    pub(crate) fn parse(text: &[u8]) -> Result<Envelope> {
        serde_json::from_slice(text).map_err(|error| {
            Error::failed(format!(
                "the metadata that trajmill stored beside the arrays is damaged: {error}"
            ))
            .hint("export the file again, or remove the arrays with `trajmill` in their names")
        })
    }

    /// Returns the envelope as JSON.
    ///
    /// # Errors
    /// Returns an error if it has no JSON form.
    pub(crate) fn text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::failed(format!("cannot write the envelope as JSON: {error}")))
    }

    /// Returns the columns of the facts about each trajectory.
    ///
    /// # Errors
    /// Returns an error if the text of a type cannot be parsed.
    pub(crate) fn schema(&self) -> Result<SchemaRef> {
        facts::schema(&self.about)
    }
}

/// Converts the facts `about` to one row with the columns of `schema`; `None` if there are no
/// columns.
///
/// # Errors
/// Returns an error if a value does not have the type of its column.
pub(crate) fn row(schema: &SchemaRef, about: &Map<String, Value>) -> Result<Option<RecordBatch>> {
    if schema.fields().is_empty() {
        return Ok(None);
    }
    facts::from_json(schema, std::iter::once(about)).map(Some)
}

/// Returns the line about `trajectory`, whose steps have the columns [`READS`].
///
/// # Errors
/// Returns an error if a fact has no JSON form.
pub(crate) fn line(trajectory: &OutgoingTrajectory) -> Result<EnvelopeLine> {
    let last = |name: &str| {
        let flags = trajectory.column(name);
        let flags = flags.as_ref().and_then(|column| column.as_boolean_opt());
        flags.is_some_and(|flags| trajectory.length > 0 && flags.value(trajectory.length - 1))
    };
    Ok(EnvelopeLine {
        length: trajectory.length as u64,
        known_final: trajectory.has_final(),
        terminated: last(step::TERMINATED),
        truncated: last(step::TRUNCATED),
        about: facts::to_json(&trajectory.about)?,
    })
}

/// Writes both arrays, with names that begin with `prefix`.
///
/// # Errors
/// Returns an error if the dataset cannot be read or the arrays cannot be written.
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
    let bytes_of = |trajectory: &OutgoingTrajectory| -> Result<ArrayRef> {
        let mut text = serde_json::to_vec(&line(trajectory)?)
            .map_err(|error| Error::failed(error.to_string()))?;
        text.push(b'\n');
        Ok(Arc::new(UInt8Array::from(text)))
    };
    // A sink needs the length of an array before its bytes.
    let mut length = 0;
    for trajectory in outgoing.pass(Some(&READS))? {
        length += bytes_of(&trajectory?)?.len() as u64;
    }
    arrays::stream(
        outgoing,
        sink,
        &bytes(TRAJECTORIES),
        length,
        &READS,
        &bytes_of,
    )
    .map(|_| ())
}

/// Reads the two arrays of a file.
pub(crate) struct EnvelopeReader {
    pub(crate) about: SchemaRef,
    pub(crate) models: Option<Models>,
    /// The arrays whose names differ from those of their columns, and the names of the columns.
    columns: BTreeMap<String, String>,
    lines: StoredArray,
    left: u64,
    buffer: Vec<u8>,
}

impl EnvelopeReader {
    /// Removes both arrays, whose names begin with `prefix`, from `arrays`. Returns `None` if
    /// trajmill did not write the file.
    ///
    /// # Errors
    /// Returns an error if one of the arrays is missing or damaged.
    pub(crate) fn take(
        arrays: &mut Vec<StoredArray>,
        prefix: &str,
    ) -> Result<Option<EnvelopeReader>> {
        let place = |arrays: &[StoredArray], name: &str| {
            arrays
                .iter()
                .position(|array| array.layout.name == format!("{prefix}{name}"))
        };
        let Some(mut envelope) = place(arrays, ENVELOPE).map(|index| arrays.remove(index)) else {
            return Ok(None);
        };
        let Some(lines) = place(arrays, TRAJECTORIES).map(|index| arrays.remove(index)) else {
            return Err(Error::failed(format!(
                "there is an array `{prefix}{ENVELOPE}`, but no array `{prefix}{TRAJECTORIES}`"
            ))
            .hint("export the file again, or remove the arrays with `trajmill` in their names"));
        };
        let rows = envelope.layout.rows;
        let envelope = Envelope::parse(&envelope.reader.read(rows)?)?;
        let about = envelope.schema()?;
        let left = lines.layout.rows;
        Ok(Some(EnvelopeReader {
            about,
            columns: envelope.columns,
            models: envelope.models,
            lines,
            left,
            buffer: Vec::new(),
        }))
    }

    /// Gives `arrays` the names of their columns, as far as a column of that name is `wanted`.
    pub(crate) fn rename(&self, arrays: &mut [StoredArray], wanted: &dyn Fn(&str) -> bool) {
        for array in arrays {
            let column = self.columns.get(&array.layout.name);
            if let Some(column) = column.filter(|column| wanted(column)) {
                array.layout.name.clone_from(column);
            }
        }
    }

    /// Returns the line about the next trajectory; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<EnvelopeLine>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = serde_json::from_slice(&line);
                return line.map(Some).map_err(|error| {
                    Error::failed(format!(
                        "trajmill's metadata of a trajectory is damaged: {error}"
                    ))
                });
            }
            if self.left == 0 {
                return Ok(None);
            }
            let rows = self.left.min(1 << 16);
            self.buffer.extend(self.lines.reader.read(rows)?);
            self.left -= rows;
        }
    }
}
