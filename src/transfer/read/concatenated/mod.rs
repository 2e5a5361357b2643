//! Trajectories laid end to end in arrays of equal length: what D4RL HDF5 and npz have in common.
//!
//! The file's own reader lists its arrays and reads rows of each in order; here they get their roles by name, ends of
//! trajectories are found in the flags as these are read, and rows become columns. One trajectory is held at a time.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use serde_json::{Map, Value};

use super::kept::Kept;
use super::parts::{
    Flags, Last, Layout, Part, column, decode, field, flags, listing, names, same_rows, squeeze,
    take, with_valid,
};
use super::{Incoming, Options, Source, free_name};
use crate::dataset::schema::step;
use crate::error::{Error, Result};

/// A dataset of arrays that hold trajectories end to end.
pub(super) struct Flat {
    file: String,
    schema: SchemaRef,
    observation: Part,
    next_observation: Option<Part>,
    action: Option<Part>,
    reward: Option<Part>,
    extras: Vec<Part>,
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
    kept: Option<Kept>,
    /// Which of the extra columns say by an array of their own where they are null.
    valid: Vec<Option<Part>>,
    about: SchemaRef,
}

/// Where trajectories end.
enum Ends {
    /// After the steps with a flag, before those that start a trajectory, and at the longest length.
    Flags {
        terminated: Option<Box<Flags>>,
        truncated: Option<Box<Flags>>,
        start: Option<Box<Flags>>,
        max_steps: Option<usize>,
    },
    /// Before the given steps; observations have one more row in each trajectory.
    Splits {
        ends: Vec<u64>,
        terminated: Vec<bool>,
    },
    /// At rows with a flag, which hold the observation after the last action and nothing else.
    LastRows(Box<Flags>),
}

impl Ends {
    fn flags(
        terminated: Option<Part>,
        truncated: Option<Part>,
        start: Option<Part>,
        max_steps: Option<usize>,
    ) -> Ends {
        Ends::Flags {
            terminated: terminated.map(Flags::new),
            truncated: truncated.map(Flags::new),
            start: start.map(Flags::new),
            max_steps,
        }
    }
}

/// The flags of one trajectory's steps.
#[derive(Default)]
struct Scan {
    terminated: Vec<bool>,
    truncated: Vec<bool>,
    /// Whether the final observation is known, where the file says it of each trajectory.
    known_final: Option<bool>,
    about: Option<RecordBatch>,
}

impl Flat {
    /// A dataset of the arrays `parts` of `file`.
    ///
    /// # Errors
    /// Where there are no observations or no ends of trajectories, or where lengths or types do not fit.
    pub(super) fn new(
        file: &Path,
        parts: Vec<Part>,
        options: &Options,
        metadata: Map<String, Value>,
        kept: Option<Kept>,
    ) -> Result<Flat> {
        Flat::assemble(file, parts, options, metadata, kept)
            .map_err(|error| error.at(file.display()))
    }

    /// A dataset of arrays that have a row more than steps in each trajectory, where `terminals` is set.
    ///
    /// # Errors
    /// As [`Flat::new`].
    pub(super) fn with_last_rows(
        file: &Path,
        parts: Vec<Part>,
        options: &Options,
        metadata: Map<String, Value>,
        kept: Option<Kept>,
    ) -> Result<Flat> {
        let mut flat = Flat::new(file, parts, options, metadata, kept)?;
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

    fn assemble(
        file: &Path,
        mut parts: Vec<Part>,
        options: &Options,
        mut metadata: Map<String, Value>,
        kept: Option<Kept>,
    ) -> Result<Flat> {
        let targets = [
            step::OBSERVATION,
            step::ACTION,
            step::REWARD,
            step::TERMINATED,
            step::TRUNCATED,
        ];
        if let Some((target, _)) = options
            .map
            .iter()
            .find(|(target, _)| !targets.contains(&target.as_str()))
        {
            return Err(Error::usage(format!("--map cannot give `{target}` here"))
                .hint(format!("one of {}", targets.join(", "))));
        }
        let observation = take(&mut parts, options, step::OBSERVATION, names::OBSERVATION)?;
        let observation = observation.ok_or_else(|| {
            Error::failed("there is no array `observations`").hint(listing(&parts))
        })?;
        let next_observation = take(&mut parts, &Options::default(), "", names::NEXT_OBSERVATION)?;
        let action = take(&mut parts, options, step::ACTION, names::ACTION)?;
        let reward = take(&mut parts, options, step::REWARD, names::REWARD)?
            .map(squeeze)
            .transpose()?;
        let terminated = take(&mut parts, options, step::TERMINATED, names::TERMINATED)?
            .map(squeeze)
            .transpose()?;
        let truncated = take(&mut parts, options, step::TRUNCATED, names::TRUNCATED)?
            .map(squeeze)
            .transpose()?;
        let start = take(&mut parts, options, "", names::START)?
            .map(squeeze)
            .transpose()?;
        // With flags for every observation, an array of that name is one like any other.
        let by_step = terminated
            .as_ref()
            .is_some_and(|part| part.layout.rows == observation.layout.rows);
        let split = if by_step || truncated.is_some() || start.is_some() {
            None
        } else {
            take(&mut parts, options, "", names::SPLIT)?
        };

        let (steps, ends) = match (split, terminated, truncated, start) {
            (Some(split), terminated, None, None) => splits(
                squeeze(split)?,
                terminated,
                &observation,
                action.as_ref().or(reward.as_ref()),
            )?,
            (_, None, None, None) if options.max_steps.is_none() => {
                return Err(Error::failed(
                    "no trajectory boundaries: there is neither `terminals` nor `timeouts`, `episode_starts` or `indices`",
                )
                .hint("if all trajectories have the same length, give it with --max-steps")
                .hint(listing(&parts)));
            }
            (_, terminated, truncated, start) => {
                let steps = observation.layout.rows;
                for part in [&terminated, &truncated, &start].into_iter().flatten() {
                    same_rows(part, steps, &format!("`{}`", observation.layout.name))?;
                }
                let max_steps = if truncated.is_none() {
                    options.max_steps
                } else {
                    None
                };
                (steps, Ends::flags(terminated, truncated, start, max_steps))
            }
        };
        if steps == 0 {
            return Err(
                Error::failed(format!("`{}` holds no rows", observation.layout.name))
                    .hint("there is nothing to import"),
            );
        }
        let like = match &ends {
            Ends::Flags { .. } | Ends::LastRows(_) => format!("`{}`", observation.layout.name),
            Ends::Splits { .. } => "the splits say that each array of steps".to_owned(),
        };
        for part in [&action, &reward, &next_observation].into_iter().flatten() {
            same_rows(part, steps, &like)?;
        }
        let same =
            |a: &Layout, b: &Layout| a.row == b.row && a.element == b.element && a.swap == b.swap;
        if let Some(next) = next_observation
            .as_ref()
            .filter(|next| !same(&next.layout, &observation.layout))
        {
            let describe = |layout: &Layout| {
                format!("`{}` is {} of {}", layout.name, layout.shape(), layout.kind)
            };
            return Err(Error::failed(format!(
                "{} where {}",
                describe(&next.layout),
                describe(&observation.layout)
            )));
        }
        let (extras, left): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| {
            part.layout.rows == steps
                && part.layout.element != DataType::Null
                && part.layout.width() > 0
        });
        if !left.is_empty() {
            let describe = |part: &Part| {
                Value::from(format!(
                    "{} {} of {}",
                    part.layout.name,
                    part.layout.shape(),
                    part.layout.kind
                ))
            };
            metadata.insert(
                "not_imported".to_owned(),
                left.iter().map(describe).collect(),
            );
        }

        let (extras, valid) = if kept.is_some() {
            with_valid(extras)
        } else {
            (extras, Vec::new())
        };
        let about = kept
            .as_ref()
            .map_or_else(|| Arc::new(Schema::empty()), |kept| Arc::clone(&kept.about));
        let mut fields = vec![field(step::OBSERVATION, &observation.layout, true, false)?];
        if let Some(action) = &action {
            let discrete = action.layout.row.is_empty() && action.layout.element.is_integer();
            fields.push(field(step::ACTION, &action.layout, !discrete, true)?);
        }
        if let Some(reward) = &reward {
            fields.push(field(step::REWARD, &reward.layout, false, true)?);
        }
        fields.extend(
            [step::TERMINATED, step::TRUNCATED, step::IS_FINAL]
                .map(|name| Field::new(name, DataType::Boolean, false)),
        );
        for extra in &extras {
            fields.push(field(
                &free_name(&extra.layout.name),
                &extra.layout,
                !extra.layout.row.is_empty(),
                true,
            )?);
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Flat {
            file: file.display().to_string(),
            schema,
            observation,
            next_observation,
            action,
            reward,
            extras,
            ends,
            steps,
            read: 0,
            count: 0,
            one: false,
            metadata,
            kept,
            valid,
            about,
        })
    }

    /// The flags of the next trajectory's steps; empty after the last.
    fn scan(&mut self) -> Result<Scan> {
        let mut scan = Scan::default();
        let line = self.kept.as_mut().map(Kept::next).transpose()?.flatten();
        if self.kept.is_some() && line.is_none() && self.read < self.steps {
            return Err(Error::failed(format!(
                "what was kept of the trajectories ends at step {} of {}",
                self.read, self.steps
            )));
        }
        let length = line.as_ref().map(|line| line.length);
        match &mut self.ends {
            Ends::Splits { ends, terminated } => {
                if let Some(end) = ends.get(self.count) {
                    let length = (end - self.read) as usize;
                    scan = Scan {
                        terminated: vec![false; length],
                        truncated: vec![false; length],
                        ..Scan::default()
                    };
                    if let (Some(last), Some(ended)) =
                        (scan.terminated.last_mut(), terminated.get(self.count))
                    {
                        *last = *ended;
                    }
                }
            }
            Ends::LastRows(flags) => {
                while self.read + (scan.terminated.len() as u64) < self.steps {
                    let last = flags.next()?;
                    if last && scan.terminated.is_empty() {
                        self.pass_over()?;
                        return Err(Error::failed("it has no step, only a last observation")
                            .hint("in OGBench's files `terminals` is set once, on the row after the last action"));
                    }
                    if last {
                        scan.known_final = Some(true);
                        break;
                    }
                    scan.terminated.push(false);
                    scan.truncated.push(false);
                }
                if !scan.terminated.is_empty() && scan.known_final.is_none() {
                    self.read = self.steps;
                    self.one = true;
                    return Err(Error::failed("no terminal ends it")
                        .hint("the file may be cut short, or not OGBench's: name its format"));
                }
            }
            Ends::Flags {
                terminated,
                truncated,
                start,
                max_steps,
            } => {
                let next = |flags: &mut Option<Box<Flags>>| {
                    flags.as_mut().map_or(Ok(false), |flags| flags.next())
                };
                while self.read + (scan.terminated.len() as u64) < self.steps {
                    let (ended, mut cut) = (next(terminated)?, next(truncated)?);
                    next(start)?;
                    cut |= !ended && *max_steps == Some(scan.terminated.len() + 1);
                    scan.terminated.push(ended);
                    scan.truncated.push(cut);
                    let another =
                        start.as_mut().map_or(Ok(None), |start| start.peek())? == Some(true);
                    let end = match length {
                        Some(length) => scan.terminated.len() as u64 == length,
                        None => ended || cut || another,
                    };
                    if end {
                        break;
                    }
                }
            }
        }
        if let Some(line) = line {
            if scan.terminated.len() as u64 != line.length {
                return Err(Error::failed(format!(
                    "it has {} of the {} steps that were kept of it",
                    scan.terminated.len(),
                    line.length
                )));
            }
            if let (Some(terminated), Some(truncated)) =
                (scan.terminated.last_mut(), scan.truncated.last_mut())
            {
                (*terminated, *truncated) = (line.terminated, line.truncated);
            }
            scan.known_final = Some(line.known_final);
            scan.about = super::kept::row(&self.about, &line.about)?;
        }
        Ok(scan)
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
        let mut push = |part: &mut Part, rows: u64, last: Last| match fields.next() {
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

impl Flat {
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
                columns.push(super::grouped::lengthened(&values, kept)?);
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

/// Steps in all, and where the array of split indices ends trajectories.
fn splits(
    mut split: Part,
    terminated: Option<Part>,
    observation: &Part,
    steps: Option<&Part>,
) -> Result<(u64, Ends)> {
    let steps = steps
        .ok_or_else(|| {
            Error::failed(
                "there are split `indices`, but neither actions nor rewards that they could split",
            )
        })?
        .layout
        .rows;
    let bytes = split.reader.read(split.layout.rows)?;
    let values = arrow::compute::cast(&decode(&split.layout, bytes)?, &DataType::Int64)?;
    let values = values.as_primitive::<Int64Type>().values();
    let mut ends: Vec<u64> = values
        .iter()
        .map(|value| u64::try_from(*value).unwrap_or(u64::MAX))
        .collect();
    ends.push(steps);
    let ascending = ends.windows(2).all(|pair| pair[0] < pair[1])
        && ends.first().is_some_and(|first| *first > 0);
    if !ascending {
        return Err(Error::failed(format!(
            "`{}` does not ascend from above 0 to below the number of steps, {steps}",
            split.layout.name
        ))
        .hint("each index is the first step of a trajectory after the first one"));
    }
    let count = ends.len() as u64;
    if observation.layout.rows != steps + count {
        return Err(Error::failed(format!(
            "`{}` has {} rows where {steps} steps in {count} trajectories need {}: one more than steps in each",
            observation.layout.name,
            observation.layout.rows,
            steps + count
        )));
    }
    let terminated = match terminated {
        Some(mut part) => {
            same_rows(&part, count, "the number of trajectories")?;
            let bytes = part.reader.read(count)?;
            flags(&part.layout, bytes, 0)?
        }
        None => Vec::new(),
    };
    Ok((steps, Ends::Splits { ends, terminated }))
}

impl Source for Flat {
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

    fn next(&mut self) -> Result<Option<Incoming>> {
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
        Ok(Some(Incoming { key, steps, about }))
    }
}
