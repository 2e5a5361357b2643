//! Reads arrays of equal length that hold all trajectories end to end.
//!
//! The reader of the file lists its arrays and reads their rows in order. This module assigns roles
//! to the arrays by their names, finds the ends of trajectories in the flags, and turns rows into
//! columns. One trajectory is in memory at a time.

mod boundaries;
mod ends;
mod fill;
mod roles;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, make_array};
use arrow::buffer::NullBuffer;
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use serde_json::{Map, Value};

pub(crate) use self::boundaries::{at_rows, is_boundary, is_marker, is_reserved};
use self::ends::{EndFlags, Ends, Scan};
use super::arrays::{Last, column, flags};
use super::gaps::{self, gaps, unmarked};
use super::per_trajectory::lengthened;
use super::{IncomingTrajectory, Options, Source};
use crate::container::arrays::StoredArray;
use crate::dataset::{Account, Rows};
use crate::error::{Error, Result};
use crate::transfer::roundtrip::envelope::EnvelopeReader;
use crate::transfer::roundtrip::models::Models;

/// The column of trajectories with the number of the environment in a rollout.
const ENVIRONMENT: &str = "environment";

/// A dataset of arrays that hold trajectories end to end.
pub(crate) struct Concatenated {
    file: String,
    schema: SchemaRef,
    observation: StoredArray,
    next_observation: Option<StoredArray>,
    /// The type of fewer digits, if observations and next observations have different ones.
    narrow: Option<DataType>,
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
    account: Account,
    rows: Rows,
    /// Whether a trajectory ends where the next observation is not that of the next step.
    split_on_gaps: bool,
    /// Trajectories whose flags and observations were read, but nothing else.
    parts: VecDeque<Part>,
    /// The last value of each extra array of trajectory ids, by its number.
    last_ids: BTreeMap<usize, i64>,
    /// The metadata that trajmill stored beside the arrays, if it wrote the file.
    envelope: Option<EnvelopeReader>,
    /// For each extra array, the array of flags that says which values are not null, if there is
    /// one.
    valid: Vec<Option<StoredArray>>,
    about: SchemaRef,
}

/// A trajectory of which the flags and the observations were read.
struct Part {
    scan: Scan,
    /// The observations of its steps, and the final one if it is known.
    observation: ArrayRef,
}

/// What a file holds besides its arrays.
#[derive(Default)]
pub(crate) struct Besides {
    /// Its metadata. A number under a name such as `size` may say how far the arrays are filled.
    pub(crate) metadata: Map<String, Value>,
    /// What is left out so far.
    pub(crate) account: Account,
    /// The metadata that trajmill stored beside the arrays, if it wrote the file.
    pub(crate) envelope: Option<EnvelopeReader>,
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
        besides: Besides,
    ) -> Result<Concatenated> {
        Concatenated::assemble(file, arrays, options, besides)
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
        besides: Besides,
    ) -> Result<Concatenated> {
        let mut source = Concatenated::new(file, arrays, options, besides)?;
        source.ends = match source.ends {
            Ends::Flags(EndFlags { stated, .. }) if !stated.is_empty() => {
                return Err(Error::failed(format!(
                    "{}: `{}` and `terminals` both tell where trajectories end",
                    file.display(),
                    stated[0].name()
                ))
                .hint(
                    "leave out one of them with `--skip`, or name another format with `--from`",
                ));
            }
            Ends::Flags(EndFlags {
                terminated: Some(terminated),
                ..
            }) => Ends::LastRows(terminated),
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
            .chain(&mut self.next_observation)
            .chain(&mut self.action)
            .chain(&mut self.reward);
        for array in arrays
            .chain(&mut self.extras)
            .chain(self.valid.iter_mut().flatten())
        {
            array.reader.read(1)?;
        }
        self.read += 1;
        self.rows.set_aside += 1;
        self.count += 1;
        self.resumable = true;
        Ok(())
    }

    /// Reads the observations of the trajectory whose flags are `scan`, and cuts it at gaps.
    fn parts(&mut self, scan: Scan) -> Result<VecDeque<Part>> {
        let rows = scan.terminated.len() as u64;
        let field = Arc::new(self.schema.field(0).clone());
        let splits = u64::from(matches!(self.ends, Ends::Splits { .. }));
        let observation = column(&mut self.observation, &field, rows + splits, Last::None)?;
        let Some(next) = &mut self.next_observation else {
            return Ok(VecDeque::from([Part { scan, observation }]));
        };
        let next = column(next, &field, rows, Last::None)?;
        let mut ends = gaps(&observation, &next, self.narrow.as_ref())?;
        if let Some(row) = ends.first().copied()
            && !(self.split_on_gaps && self.envelope.is_none())
        {
            let names = (self.next_observation.as_ref(), &self.observation);
            let name = |array: Option<&StoredArray>| {
                array.map_or_else(String::new, |array| array.layout.name.clone())
            };
            let (next_name, own_name) = (name(names.0), name(Some(names.1)));
            let at = self.read + row as u64;
            self.read += rows;
            let breaks = ends.len() + self.count_gaps(&field);
            return Err(unmarked(
                (&next_name, &format!("row {at}"), &next.slice(row, 1)),
                (
                    &own_name,
                    &format!("row {}", at + 1),
                    &observation.slice(row + 1, 1),
                ),
                breaks,
            ));
        }
        ends.push(rows as usize - 1);
        let mut begin = 0;
        let mut parts = VecDeque::with_capacity(ends.len());
        let mut about = scan.about;
        for end in ends {
            let mut truncated = scan.truncated[begin..=end].to_vec();
            if let Some(last) = truncated.last_mut() {
                *last |= end + 1 < rows as usize;
            }
            let own = observation.slice(begin, end + 1 - begin);
            let observation = if scan.known_final == Some(false) {
                own
            } else {
                self.rows.added += 1;
                concat(&[own.as_ref(), next.slice(end, 1).as_ref()])?
            };
            parts.push_back(Part {
                scan: Scan {
                    terminated: scan.terminated[begin..=end].to_vec(),
                    truncated,
                    known_final: scan.known_final,
                    about: about.take(),
                },
                observation,
            });
            begin = end + 1;
        }
        Ok(parts)
    }

    /// Counts the gaps in all trajectories that were not read yet.
    fn count_gaps(&mut self, field: &arrow::datatypes::Field) -> usize {
        let mut count = 0;
        // Another error does not matter beside this one.
        while let Ok(scan) = self.scan() {
            let rows = scan.terminated.len() as u64;
            let Some(next) = self.next_observation.as_mut().filter(|_| rows > 0) else {
                break;
            };
            let observation = column(&mut self.observation, field, rows, Last::None);
            let next = column(next, field, rows, Last::None);
            let (Ok(observation), Ok(next)) = (observation, next) else {
                break;
            };
            count += gaps(&observation, &next, self.narrow.as_ref()).map_or(0, |gaps| gaps.len());
            self.read += rows;
        }
        count
    }

    /// Verifies that the ids of the next trajectory, which extra array number `at` holds, are all
    /// the same, and not those of the trajectory before. In an export of trajmill, whose envelope
    /// tells where trajectories end, such an array is a column like any other.
    fn verify_ids(&mut self, at: usize, values: &ArrayRef, rows: u64) -> Result<()> {
        let layout = &self.extras[at].layout;
        let is_id = boundaries::IDS.contains(&layout.name.as_str())
            && layout.element.is_integer()
            && layout.width() == 1
            && self.envelope.is_none();
        if !is_id {
            return Ok(());
        }
        let wrong = |row: u64, what: String| {
            Error::failed(format!("`{}` {what} at row {row}", layout.name)).hint(format!(
                "correct the flags or the ids in the source, or leave the ids out with \
                 `--skip {}`",
                layout.name
            ))
        };
        let values = match values.as_fixed_size_list_opt() {
            Some(list) => Arc::clone(list.values()),
            None => Arc::clone(values),
        };
        let ids = cast(&values.slice(0, rows as usize), &DataType::Int64)?;
        let ids = ids.as_primitive::<Int64Type>().values();
        if let Some(row) = (1..ids.len()).find(|row| ids[*row] != ids[0]) {
            let what = format!(
                "changes from {} to {} without a flag of an end",
                ids[row - 1],
                ids[row]
            );
            return Err(wrong(self.read + row as u64, what));
        }
        if self.last_ids.get(&at) == Some(&ids[0]) && !self.split_on_gaps {
            let what = format!("is still {}, after a flag of an end", ids[0]);
            return Err(wrong(self.read, what));
        }
        self.last_ids.insert(at, ids[0]);
        Ok(())
    }

    /// Reads the other arrays of a trajectory.
    fn trajectory(&mut self, part: Part) -> Result<RecordBatch> {
        let Part { scan, observation } = part;
        let rows = scan.terminated.len() as u64;
        let is_final = observation.len() as u64 > rows;
        let schema = Arc::clone(&self.schema);
        let mut fields = schema.fields().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
        fields.next();
        columns.push(observation);
        let null = || if is_final { Last::Null } else { Last::None };
        for array in [&mut self.action, &mut self.reward].into_iter().flatten() {
            if let Some(field) = fields.next() {
                columns.push(column(array, field, rows, null())?);
            }
        }
        let mut extras = Vec::with_capacity(self.extras.len());
        for (at, field) in fields.skip(3).enumerate() {
            let values = column(&mut self.extras[at], field, rows, null())?;
            self.verify_ids(at, &values, rows)?;
            extras.push(match self.valid.get_mut(at) {
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
    /// Reads the trajectory of `scan`, whose arrays all have a row for the final observation.
    fn last_rows(&mut self, mut scan: Scan) -> Result<IncomingTrajectory> {
        let about = scan.about.take();
        let steps = self.with_last_row(&scan)?;
        let key = self.count.to_string();
        self.rows.left_out += u64::from(scan.known_final == Some(false));
        self.read += scan.terminated.len() as u64 + 1;
        self.count += 1;
        Ok(IncomingTrajectory { key, steps, about })
    }

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
            let observation = column(&mut self.observation, field, rows, Last::None)?;
            if let Some(next) = &mut self.next_observation {
                let values = column(next, field, rows, Last::None)?.slice(0, length);
                let (own, following) = (&self.observation.layout.name, &next.layout.name);
                gaps::verify(&observation, &values, own, following, self.narrow.as_ref())?;
            }
            columns.push(observation.slice(0, kept_rows));
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
            Ends::Flags(_) | Ends::LastRows(_) => self.steps,
        })
    }

    fn account(&self) -> Account {
        Account {
            rows: Some(self.rows),
            ..self.account.clone()
        }
    }

    fn metadata(&self) -> Map<String, Value> {
        self.metadata.clone()
    }

    fn models(&self) -> Option<Models> {
        self.envelope.as_ref()?.models.clone()
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
        if self.parts.is_empty() {
            let scan = self
                .scan()
                .map_err(|error| place(error, index, &self.file))?;
            if scan.terminated.is_empty() {
                return Ok(None);
            }
            if matches!(self.ends, Ends::LastRows(_)) {
                return self
                    .last_rows(scan)
                    .map(Some)
                    .map_err(|error| place(error, index, &self.file));
            }
            self.parts = self
                .parts(scan)
                .map_err(|error| place(error, index, &self.file))?;
        }
        let Some(mut part) = self.parts.pop_front() else {
            return Ok(None);
        };
        let rows = part.scan.terminated.len() as u64;
        let mut about = part.scan.about.take();
        let steps = self
            .trajectory(part)
            .map_err(|error| place(error, index, &self.file))?;
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
            None => index.to_string(),
        };
        self.read += rows;
        self.count += 1;
        Ok(Some(IncomingTrajectory { key, steps, about }))
    }
}
