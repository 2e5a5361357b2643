//! Reads arrays of equal length that hold all trajectories end to end.
//!
//! The reader of the file lists its arrays and reads their rows in order. This module assigns roles
//! to the arrays by their names, finds the ends of trajectories in the flags, and turns rows into
//! columns. One trajectory is in memory at a time.

mod ends;
mod roles;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value};

use self::ends::{Ends, Scan};
use super::arrays::{Last, column, flags};
use super::per_trajectory::lengthened;
use super::{IncomingTrajectory, Options, Source};
use crate::container::arrays::StoredArray;
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope::EnvelopeReader;

/// The column of trajectories with the number of the environment in a rollout.
const ENVIRONMENT: &str = "environment";

/// A dataset of arrays that hold trajectories end to end.
pub(crate) struct Concatenated {
    file: String,
    schema: SchemaRef,
    observation: StoredArray,
    next_observation: Option<StoredArray>,
    action: Option<StoredArray>,
    reward: Option<StoredArray>,
    extras: Vec<StoredArray>,
    ends: Ends,
    /// The number of steps of all trajectories.
    steps: u64,
    /// The number of steps read.
    read: u64,
    /// The number of trajectories read.
    count: usize,
    /// The number of steps of each environment, if the arrays are a rollout of several.
    column: Option<u64>,
    /// The number of trajectories of the current environment read.
    begun: u64,
    /// Whether the last error affects one trajectory only, so that the next one can be read.
    resumable: bool,
    metadata: Map<String, Value>,
    /// The metadata that trajmill stored beside the arrays, if it wrote the file.
    envelope: Option<EnvelopeReader>,
    /// For each extra array, the array of flags that says which values are not null, if there is
    /// one.
    valid: Vec<Option<StoredArray>>,
    about: SchemaRef,
}

impl Concatenated {
    /// Reads the arrays `arrays` of `file`.
    ///
    /// # Errors
    /// Returns an error if there are no observations, if nothing shows where trajectories end, or
    /// if the lengths or types of arrays contradict each other.
    pub(crate) fn new(
        file: &Path,
        arrays: Vec<StoredArray>,
        options: &Options,
        metadata: Map<String, Value>,
        envelope: Option<EnvelopeReader>,
    ) -> Result<Concatenated> {
        Concatenated::assemble(file, arrays, options, metadata, envelope)
            .map_err(|error| error.at(file.display()))
    }

    /// Reads arrays that have one more row than steps in each trajectory; `terminals` is set on
    /// that row.
    ///
    /// # Errors
    /// Returns the errors of [`Concatenated::new`], and an error if there is no array `terminals`.
    pub(crate) fn with_last_rows(
        file: &Path,
        arrays: Vec<StoredArray>,
        options: &Options,
        metadata: Map<String, Value>,
        envelope: Option<EnvelopeReader>,
    ) -> Result<Concatenated> {
        let mut source = Concatenated::new(file, arrays, options, metadata, envelope)?;
        source.ends = match source.ends {
            Ends::Flags {
                terminated: Some(terminated),
                ..
            } => Ends::LastRows(terminated),
            _ => {
                return Err(Error::failed(format!(
                    "{}: there is no array `terminals`",
                    file.display()
                )));
            }
        };
        Ok(source)
    }

    /// Skips the next row of every array: a trajectory of one row.
    fn skip_row(&mut self) -> Result<()> {
        let arrays = std::iter::once(&mut self.observation)
            .chain(&mut self.action)
            .chain(&mut self.reward);
        for array in arrays
            .chain(&mut self.extras)
            .chain(self.valid.iter_mut().flatten())
        {
            array.reader.read(1)?;
        }
        self.read += 1;
        self.count += 1;
        self.resumable = true;
        Ok(())
    }

    /// Reads the rows of the trajectory whose flags are `scan`.
    fn trajectory(&mut self, scan: Scan) -> Result<RecordBatch> {
        let rows = scan.terminated.len() as u64;
        let mut fields = self.schema.fields().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
        let mut push = |array: &mut StoredArray, rows: u64, last: Last| match fields.next() {
            Some(field) => column(array, field, rows, last).map(|column| columns.push(column)),
            None => Ok(()),
        };
        if matches!(self.ends, Ends::LastRows(_)) {
            return self.with_last_row(&scan);
        }
        let splits = matches!(self.ends, Ends::Splits { .. });
        let last = match &mut self.next_observation {
            Some(next) => {
                let bytes = next.reader.read(rows)?;
                Last::Value(bytes[bytes.len() - next.layout.row_bytes()..].to_vec())
            }
            None => Last::None,
        };
        let last = if scan.known_final == Some(false) {
            Last::None
        } else {
            last
        };
        let is_final = splits || matches!(last, Last::Value(_));
        let null = || if is_final { Last::Null } else { Last::None };
        push(
            &mut self.observation,
            if splits { rows + 1 } else { rows },
            last,
        )?;
        for array in [&mut self.action, &mut self.reward].into_iter().flatten() {
            push(array, rows, null())?;
        }
        let mut extras = Vec::with_capacity(self.extras.len());
        let mut valid = self.valid.iter_mut();
        for (array, field) in self.extras.iter_mut().zip(fields.skip(3)) {
            let values = column(array, field, rows, null())?;
            extras.push(match valid.next() {
                Some(Some(valid)) => {
                    let flags = flags(&valid.layout, valid.reader.read(rows)?, self.read)?;
                    let nulls =
                        NullBuffer::from_iter(flags.into_iter().chain(is_final.then_some(false)));
                    make_array(
                        values
                            .into_data()
                            .into_builder()
                            .nulls(Some(nulls))
                            .build()?,
                    )
                }
                _ => values,
            });
        }
        let flags = |flags: Vec<bool>| -> ArrayRef {
            Arc::new(BooleanArray::from_iter(
                flags.into_iter().chain(is_final.then_some(false)).map(Some),
            ))
        };
        columns.extend([flags(scan.terminated), flags(scan.truncated)]);
        columns.push(Arc::new(BooleanArray::from_iter(
            (0..rows)
                .map(|_| Some(false))
                .chain(is_final.then_some(Some(true))),
        )));
        columns.extend(extras);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl Concatenated {
    /// Reads a trajectory whose arrays all have a row for the final observation.
    fn with_last_row(&mut self, scan: &Scan) -> Result<RecordBatch> {
        let length = scan.terminated.len();
        let rows = length as u64 + 1;
        // The envelope says that a final observation is filler.
        let known = scan.known_final != Some(false);
        let kept_rows = length + usize::from(known);
        let flags_of = |flags: &[bool]| -> ArrayRef {
            Arc::new(BooleanArray::from_iter(
                flags
                    .iter()
                    .copied()
                    .chain(known.then_some(false))
                    .map(Some),
            ))
        };
        let mut fields = self.schema.fields().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
        if let Some(field) = fields.next() {
            columns
                .push(column(&mut self.observation, field, rows, Last::None)?.slice(0, kept_rows));
        }
        for array in [&mut self.action, &mut self.reward].into_iter().flatten() {
            if let Some(field) = fields.next() {
                let values = column(array, field, rows, Last::None)?.slice(0, length);
                columns.push(lengthened(&values, kept_rows)?);
            }
        }
        columns.extend([flags_of(&scan.terminated), flags_of(&scan.truncated)]);
        columns.push(Arc::new(BooleanArray::from_iter(
            (0..kept_rows).map(|row| Some(row == length)),
        )));
        let mut valid = self.valid.iter_mut();
        for (array, field) in self.extras.iter_mut().zip(fields.skip(3)) {
            let mut values = column(array, field, rows, Last::None)?;
            if let Some(Some(valid)) = valid.next() {
                let flags = flags(&valid.layout, valid.reader.read(rows)?, self.read)?;
                values = make_array(
                    values
                        .into_data()
                        .into_builder()
                        .nulls(Some(NullBuffer::from(flags)))
                        .build()?,
                );
            }
            columns.push(values.slice(0, kept_rows));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl Source for Concatenated {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn about(&self) -> SchemaRef {
        Arc::clone(&self.about)
    }

    fn rows(&self) -> Option<u64> {
        Some(match &self.ends {
            Ends::Splits { .. } => self.observation.layout.rows,
            Ends::Flags { .. } | Ends::LastRows(_) => self.steps,
        })
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn lost(&self) -> Option<u64> {
        self.resumable.then_some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.resumable = false;
        let place = |error: Error, count: usize, file: &str| {
            error.at(format!("{file}: trajectory {count}"))
        };
        let index = self.count;
        let mut scan = self
            .scan()
            .map_err(|error| place(error, index, &self.file))?;
        if scan.terminated.is_empty() {
            return Ok(None);
        }
        let rows = scan.terminated.len() as u64;
        let mut about = scan.about.take();
        let steps = self
            .trajectory(scan)
            .map_err(|error| place(error, self.count, &self.file))?;
        let key = match self.column {
            Some(column) => {
                let environment = self.read / column.max(1);
                if self.read.is_multiple_of(column.max(1)) {
                    self.begun = 0;
                }
                let number: ArrayRef = Arc::new(Int64Array::from(vec![environment as i64]));
                about = Some(RecordBatch::try_new(Arc::clone(&self.about), vec![number])?);
                self.begun += 1;
                format!("{environment}/{}", self.begun - 1)
            }
            None => self.count.to_string(),
        };
        self.read += rows + u64::from(matches!(self.ends, Ends::LastRows(_)));
        self.count += 1;
        Ok(Some(IncomingTrajectory { key, steps, about }))
    }
}
