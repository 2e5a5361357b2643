//! Cuts the rows of a table into trajectories.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::convert::{Flags, Table};
use crate::dataset::schema::step;
use crate::dataset::{Account, Rows};
use crate::error::{Error, Result};
use crate::transfer::read::IncomingTrajectory;

/// Cuts the rows of a table into trajectories.
pub(super) struct Cutter {
    table: Table,
    max_steps: Option<usize>,
    pending: Pending,
    ready: VecDeque<Result<IncomingTrajectory>>,
    /// The hashes of all trajectory ids so far.
    seen: HashSet<[u8; 16]>,
    /// The number of trajectories that began so far, if flags delimit trajectories.
    begun: u64,
    /// The number of steps of the last of them so far, without final observations.
    steps: usize,
    previous: Previous,
    /// What became of the rows so far.
    rows: Rows,
    /// Whether all step numbers so far count from 0 in their trajectories.
    counts: bool,
}

/// The rows of a batch that belong to one trajectory.
struct Run {
    rows: Range<usize>,
    /// The key of the trajectory, if it begins with these rows.
    begins: Option<String>,
}

/// The trajectory that is not complete yet.
#[derive(Default)]
struct Pending {
    slices: Vec<RecordBatch>,
    key: Option<String>,
    last_step: Option<f64>,
    /// Whether its last row so far holds a final observation.
    has_final: bool,
    /// The observation after its last row so far, if the source has it in a column.
    next_observation: Option<ArrayRef>,
    /// Whether an error was reported for it. Its other rows are skipped.
    bad: bool,
}

/// What the flags of the previous row say.
#[derive(Default, Clone, Copy, PartialEq)]
enum Previous {
    /// The trajectory continues.
    #[default]
    Open,
    /// The trajectory ended with this step; a final observation may follow.
    Ended,
    /// The row holds a final observation.
    Final,
}

impl Cutter {
    /// Makes a cutter for rows of `table`. If flags delimit trajectories, a trajectory is cut off
    /// after `max_steps` steps.
    pub(super) fn new(table: Table, max_steps: Option<usize>) -> Cutter {
        Cutter {
            table,
            max_steps,
            pending: Pending::default(),
            ready: VecDeque::new(),
            seen: HashSet::new(),
            begun: 0,
            steps: 0,
            previous: Previous::default(),
            rows: Rows::default(),
            counts: true,
        }
    }

    /// Returns what became of the rows and columns of the table so far.
    pub(super) fn account(&self) -> Account {
        let mut account = self.table.account();
        account.rows = Some(self.rows);
        if let Some(step) = &self.table.roles().step {
            if self.counts {
                account.keep(step, step::STEP);
            } else {
                account.leave_out(
                    step,
                    "steps are numbered from 0, in the order of its values",
                );
            }
        }
        account
    }

    /// Returns the columns of steps.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.table.schema
    }

    /// Returns the next complete trajectory, or the error that it has; `None` if there is none yet.
    pub(super) fn next(&mut self) -> Option<Result<IncomingTrajectory>> {
        self.ready.pop_front()
    }

    /// Returns whether there is a trajectory that is not complete yet.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.slices.is_empty()
    }

    /// Adds the rows of `batch`; `place` names a row in messages.
    ///
    /// # Errors
    /// Returns an error if the ends of trajectories cannot be found. An error of one trajectory is
    /// returned by [`Cutter::next`] instead.
    pub(super) fn add(
        &mut self,
        batch: &RecordBatch,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        self.rows.read += batch.num_rows() as u64;
        let mut flags = self.table.flags(batch, place)?;
        let column = |name: &Option<String>| {
            name.as_ref().and_then(|name| {
                batch
                    .column_by_name(name)
                    .map(|column| (name.clone(), ArrayRef::clone(column)))
            })
        };
        let (ids, numbers) = (
            column(&self.table.roles().trajectory),
            column(&self.table.roles().step),
        );
        let runs = match &ids {
            Some((name, ids)) => self.runs_by_id(name, ids, place)?,
            None => self.runs_by_flags(&mut flags),
        };
        let numbers = numbers
            .map(|(name, column)| Ok::<_, Error>((name, cast(&column, &DataType::Float64)?)))
            .transpose()?;
        let whole = self
            .table
            .steps(batch, flags.of(0..batch.num_rows()), place)
            .ok();
        for Run { rows, begins } in runs {
            if begins.is_some() {
                self.finish()?;
                self.pending = Pending {
                    key: begins,
                    ..Pending::default()
                };
            }
            if self.pending.bad {
                self.rows.set_aside += rows.len() as u64;
                continue;
            }
            // If the batch as a whole is wrong, each trajectory is converted alone, and only those
            // with an error are rejected.
            let steps = match &whole {
                Some(whole) => Ok(whole.slice(rows.start, rows.len())),
                None => self.table.steps(
                    &batch.slice(rows.start, rows.len()),
                    flags.of(rows.clone()),
                    &|row| place(rows.start + row),
                ),
            };
            let mut verify_order = |pending: &mut Pending| match &numbers {
                Some((name, numbers)) => {
                    pending.verify_order(name, numbers, rows.clone(), place, &mut self.counts)
                }
                None => Ok(()),
            };
            let finals = &flags.is_final[rows.clone()];
            let steps = steps.and_then(|steps| verify_order(&mut self.pending).map(|()| steps));
            let steps = steps.and_then(|steps| {
                self.pending
                    .verify_final(finals, &|row| place(rows.start + row))
                    .map(|()| steps)
            });
            let last = rows.end - 1;
            let next_observation = || match self.pending.has_final {
                true => Ok(None),
                false => self
                    .table
                    .following(&batch.slice(last, 1), &|_| place(last)),
            };
            match steps.and_then(|steps| Ok((steps, next_observation()?))) {
                Ok((steps, next_observation)) => {
                    self.pending.slices.push(steps);
                    self.pending.next_observation = next_observation;
                }
                Err(error) => {
                    let key = self.pending.key.as_deref().unwrap_or_default();
                    self.ready
                        .push_back(Err(error.at(format!("trajectory `{key}`"))));
                    let before = self.pending.slices.drain(..);
                    self.rows.set_aside += before.map(|slice| slice.num_rows() as u64).sum::<u64>();
                    self.rows.set_aside += rows.len() as u64;
                    self.pending.bad = true;
                }
            }
        }
        Ok(())
    }

    /// Returns the rows of each trajectory in a batch, delimited by the trajectory ids.
    fn runs_by_id(
        &mut self,
        name: &str,
        ids: &ArrayRef,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Vec<Run>> {
        if let Some(row) = (0..ids.len()).find(|row| ids.is_null(*row)) {
            return Err(Error::failed(format!(
                "column `{name}` is null at {}, so the row belongs to no trajectory",
                place(row)
            ))
            .hint("drop the row, or give it the id of its trajectory"));
        }
        let ids = match ids.data_type() {
            DataType::Dictionary(_, values) => cast(ids, values)?,
            _ => ArrayRef::clone(ids),
        };
        let options = FormatOptions::new();
        let formatter = ArrayFormatter::try_new(&ids, &options)?;
        let mut runs = Vec::new();
        let mut current = self.pending.key.clone();
        for rows in arrow::compute::partition(&[ArrayRef::clone(&ids)])?.ranges() {
            let key = formatter.value(rows.start).to_string();
            let begins = current.as_ref() != Some(&key);
            if begins && !self.seen.insert(hash(&key)) {
                return Err(Error::failed(format!(
                    "trajectory `{key}` of column `{name}` appears again at {}, after other \
                     trajectories",
                    place(rows.start)
                ))
                .hint(
                    "the rows of a trajectory must be adjacent: \
                     sort the source by trajectory and step",
                ));
            }
            current = Some(key);
            runs.push(Run {
                rows,
                begins: current.clone().filter(|_| begins),
            });
        }
        Ok(runs)
    }

    /// Returns the rows of each trajectory in a batch, delimited by `flags`. Sets `truncated` where
    /// a trajectory reaches `max_steps`.
    fn runs_by_flags(&mut self, flags: &mut Flags) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for row in 0..flags.is_final.len() {
            let is_final = flags.is_final[row];
            let begins = match self.previous {
                Previous::Open => self.begun == 0,
                Previous::Ended => !is_final,
                Previous::Final => true,
            };
            if begins {
                runs.push(Run {
                    rows: row..row,
                    begins: Some(self.begun.to_string()),
                });
                self.begun += 1;
                self.steps = 0;
            } else if row == 0 {
                runs.push(Run {
                    rows: 0..0,
                    begins: None,
                });
            }
            if let Some(run) = runs.last_mut() {
                run.rows.end = row + 1;
            }
            self.steps += usize::from(!is_final);
            let longest = self.max_steps == Some(self.steps) && !is_final;
            flags.truncated[row] |= longest && !flags.terminated[row];
            self.previous = match (is_final, flags.terminated[row] || flags.truncated[row]) {
                (true, _) => Previous::Final,
                (false, true) => Previous::Ended,
                (false, false) => Previous::Open,
            };
        }
        runs
    }

    /// Completes the pending trajectory, if there is one.
    ///
    /// # Errors
    /// Returns an error if its rows cannot be joined.
    pub(super) fn finish(&mut self) -> Result<()> {
        let Pending {
            mut slices,
            key,
            next_observation,
            ..
        } = std::mem::take(&mut self.pending);
        if let Some(observation) = next_observation.filter(|_| !slices.is_empty()) {
            slices.push(self.table.final_row(&observation)?);
            self.rows.added += 1;
        }
        let steps = match slices.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            several => concat_batches(&self.table.schema, several)?,
        };
        self.ready.push_back(Ok(IncomingTrajectory {
            key: key.unwrap_or_default(),
            steps,
            about: None,
        }));
        Ok(())
    }
}

impl Pending {
    /// Verifies that the step numbers increase within `rows`, and from the row before them. Sets
    /// `counts` to false if they do not count from 0.
    fn verify_order(
        &mut self,
        name: &str,
        numbers: &ArrayRef,
        rows: Range<usize>,
        place: &dyn Fn(usize) -> String,
        counts: &mut bool,
    ) -> Result<()> {
        let numbers = numbers.as_primitive::<Float64Type>();
        for row in rows {
            let number = if numbers.is_valid(row) {
                numbers.value(row)
            } else {
                f64::NAN
            };
            let increases = self.last_step.is_none_or(|last| number > last);
            if !increases || number.is_nan() {
                let before = self
                    .last_step
                    .map(|last| format!(", after {last} in the row before"))
                    .unwrap_or_default();
                return Err(Error::failed(format!(
                    "column `{name}` is {number} at {}{before}: \
                     step numbers must increase within a trajectory",
                    place(row)
                ))
                .hint("sort the source by trajectory and step"));
            }
            *counts &= number == self.last_step.map_or(0.0, |last| last + 1.0);
            self.last_step = Some(number);
        }
        Ok(())
    }

    /// Verifies that no row follows a final observation, in the next rows, whose flags are
    /// `finals`.
    fn verify_final(&mut self, finals: &[bool], place: &dyn Fn(usize) -> String) -> Result<()> {
        let after = if self.has_final {
            Some(0)
        } else {
            (1..finals.len()).find(|row| finals[row - 1])
        };
        self.has_final = finals.last() == Some(&true);
        let Some(row) = after else { return Ok(()) };
        Err(Error::failed(format!(
            "it continues after its final observation, at {}",
            place(row)
        ))
        .hint(
            "`is_final` marks the observation after the last action: \
             set it on the last row of a trajectory only",
        ))
    }
}

/// Returns the first 16 bytes of the hash of `key`.
fn hash(key: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
    short
}
