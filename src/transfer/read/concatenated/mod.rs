//! Trajectories end to end in arrays of equal length.
//!
//! The file's own reader lists its arrays and reads rows of each in order; here they get their roles by name, ends of
//! trajectories are found in the flags as these are read, and rows become columns. One trajectory is held at a time.

mod ends;
mod roles;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, make_array};
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
    /// Steps in all.
    steps: u64,
    /// Steps read.
    read: u64,
    /// Trajectories read.
    count: usize,
    /// Whether the last error is of one trajectory, so that those behind it can be read.
    one: bool,
    metadata: Map<String, Value>,
    /// What we kept beside the arrays when we wrote them.
    kept: Option<EnvelopeReader>,
    /// Which of the extra columns say by an array of their own where they are null.
    valid: Vec<Option<StoredArray>>,
    about: SchemaRef,
}

impl Concatenated {
    /// A dataset of the arrays `parts` of `file`.
    ///
    /// # Errors
    /// Where there are no observations or no ends of trajectories, or where lengths or types do not fit.
    pub(crate) fn new(
        file: &Path,
        parts: Vec<StoredArray>,
        options: &Options,
        metadata: Map<String, Value>,
        kept: Option<EnvelopeReader>,
    ) -> Result<Concatenated> {
        Concatenated::assemble(file, parts, options, metadata, kept)
            .map_err(|error| error.at(file.display()))
    }

    /// A dataset of arrays that have a row more than steps in each trajectory, where `terminals` is set.
    ///
    /// # Errors
    /// As [`Concatenated::new`].
    pub(crate) fn with_last_rows(
        file: &Path,
        parts: Vec<StoredArray>,
        options: &Options,
        metadata: Map<String, Value>,
        kept: Option<EnvelopeReader>,
    ) -> Result<Concatenated> {
        let mut flat = Concatenated::new(file, parts, options, metadata, kept)?;
        flat.ends = match flat.ends {
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
        Ok(flat)
    }

    /// Passes over a row of every array, which is all that there is of a trajectory.
    fn pass_over(&mut self) -> Result<()> {
        let parts = std::iter::once(&mut self.observation)
            .chain(&mut self.action)
            .chain(&mut self.reward);
        for part in parts
            .chain(&mut self.extras)
            .chain(self.valid.iter_mut().flatten())
        {
            part.reader.read(1)?;
        }
        self.read += 1;
        self.count += 1;
        self.one = true;
        Ok(())
    }

    fn trajectory(&mut self, scan: Scan) -> Result<RecordBatch> {
        let rows = scan.terminated.len() as u64;
        let mut fields = self.schema.fields().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
        let mut push = |part: &mut StoredArray, rows: u64, last: Last| match fields.next() {
            Some(field) => column(part, field, rows, last).map(|column| columns.push(column)),
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
        for part in [&mut self.action, &mut self.reward].into_iter().flatten() {
            push(part, rows, null())?;
        }
        let mut extras = Vec::with_capacity(self.extras.len());
        let mut valid = self.valid.iter_mut();
        for (part, field) in self.extras.iter_mut().zip(fields.skip(3)) {
            let values = column(part, field, rows, null())?;
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
    /// A trajectory whose every array has a row for the final observation.
    fn with_last_row(&mut self, scan: &Scan) -> Result<RecordBatch> {
        let length = scan.terminated.len();
        let rows = length as u64 + 1;
        // What we wrote says where no final observation was known.
        let known = scan.known_final != Some(false);
        let kept = length + usize::from(known);
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
            columns.push(column(&mut self.observation, field, rows, Last::None)?.slice(0, kept));
        }
        for part in [&mut self.action, &mut self.reward].into_iter().flatten() {
            if let Some(field) = fields.next() {
                let values = column(part, field, rows, Last::None)?.slice(0, length);
                columns.push(lengthened(&values, kept)?);
            }
        }
        columns.extend([flags_of(&scan.terminated), flags_of(&scan.truncated)]);
        columns.push(Arc::new(BooleanArray::from_iter(
            (0..kept).map(|row| Some(row == length)),
        )));
        let mut valid = self.valid.iter_mut();
        for (part, field) in self.extras.iter_mut().zip(fields.skip(3)) {
            let mut values = column(part, field, rows, Last::None)?;
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
            columns.push(values.slice(0, kept));
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
        self.one.then_some(1)
    }

    fn next(&mut self) -> Result<Option<IncomingTrajectory>> {
        self.one = false;
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
        let about = scan.about.take();
        let steps = self
            .trajectory(scan)
            .map_err(|error| place(error, self.count, &self.file))?;
        let key = self.count.to_string();
        self.read += rows + u64::from(matches!(self.ends, Ends::LastRows(_)));
        self.count += 1;
        Ok(Some(IncomingTrajectory { key, steps, about }))
    }
}
