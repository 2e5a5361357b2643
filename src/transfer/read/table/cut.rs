//! Cuts the rows of a table into trajectories.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::convert::{Flags, Table};
use super::order::{Numbers, Order, scattered, together};
use super::pending::{Gap, Pending, cut_off};
use crate::dataset::{Account, Rows};
use crate::error::wording::number;
use crate::error::{Error, Result};
use crate::transfer::read::IncomingTrajectory;
use crate::transfer::read::gaps::{differ, gaps, unmarked};

/// Cuts the rows of a table into trajectories.
pub(super) struct Cutter {
    table: Table,
    max_steps: Option<usize>,
    /// Whether a trajectory ends where the next observation is not that of the next row.
    split_on_gaps: bool,
    /// The column whose values increase within a trajectory.
    order: Option<Order>,
    /// The column whose values are the same within a trajectory.
    likely_environment: Option<String>,
    pending: Pending,
    ready: VecDeque<Result<IncomingTrajectory>>,
    /// The hashes of all trajectory ids so far.
    seen: HashSet<[u8; 16]>,
    /// The number of trajectories that began so far, if flags delimit trajectories.
    begun: u64,
    /// The environment of the previous row, if there is a column of environments.
    environment: Option<String>,
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
    /// after `max_steps` steps. The values of the column `order` must increase within a trajectory.
    pub(super) fn new(
        table: Table,
        max_steps: Option<usize>,
        order: Option<Order>,
        split_on_gaps: bool,
    ) -> Cutter {
        Cutter {
            likely_environment: table.roles().likely_environment(),
            table,
            max_steps,
            order,
            split_on_gaps,
            pending: Pending::default(),
            ready: VecDeque::new(),
            seen: HashSet::new(),
            begun: 0,
            environment: None,
            steps: 0,
            previous: Previous::default(),
            rows: Rows::default(),
            counts: true,
        }
    }

    /// Returns what became of the rows and columns of the table so far.
    pub(super) fn account(&self) -> Account {
        Account {
            rows: Some(self.rows),
            ..self.table.account(self.counts)
        }
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
        let numbers = self.order.as_ref().and_then(|order| {
            let column = batch.column_by_name(&order.name)?;
            Some(Numbers::new(order, column))
        });
        let numbers = numbers.transpose()?;
        let environments = column(&self.likely_environment);
        let roles = self.table.roles();
        let has_ids = roles.trajectory.is_some();
        let ids: Vec<(String, ArrayRef)> = [&roles.environment, &roles.trajectory]
            .into_iter()
            .filter_map(column)
            .collect();
        let runs = match (ids.is_empty(), has_ids) {
            (true, _) => self.runs_by_flags(&mut flags, 0..batch.num_rows()),
            (false, true) => self.runs_by_id(&ids, place)?,
            (false, false) => self.runs_by_environment(&ids, &mut flags, place)?,
        };
        let whole = self
            .table
            .steps(batch, flags.of(0..batch.num_rows()), place)
            .ok();
        let whole_next = self.table.following(batch, place).ok();
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
            let verify_order = |pending: &mut Pending| {
                if let Some((name, column)) = &environments {
                    pending.verify_environment(name, column, rows.clone(), place)?;
                }
                match &numbers {
                    Some(numbers) => pending.verify_order(numbers, rows.clone(), place),
                    None => Ok(()),
                }
            };
            if let Some(numbers) = &numbers {
                let before = self.pending.slices.iter().map(RecordBatch::num_rows).sum();
                self.counts &= numbers.count_from(before, rows.clone());
            }
            let finals = &flags.is_final[rows.clone()];
            let steps = steps.and_then(|steps| verify_order(&mut self.pending).map(|()| steps));
            let steps = steps.and_then(|steps| {
                self.pending
                    .verify_final(finals, &|row| place(rows.start + row))
                    .map(|()| steps)
            });
            let next = match &whole_next {
                Some(next) => Ok(next.as_ref().map(|next| next.slice(rows.start, rows.len()))),
                None => self
                    .table
                    .following(&batch.slice(rows.start, rows.len()), &|row| {
                        place(rows.start + row)
                    }),
            };
            let added = steps.and_then(|steps| {
                let place = |row: usize| place(rows.start + row);
                self.extend(&steps, next?, &flags.of(rows.clone()), &place)
            });
            match added {
                Ok(()) => {}
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

    /// Adds rows to the pending trajectory, with the observations after them if the table has
    /// them. Cuts it at gaps, or remembers them.
    fn extend(
        &mut self,
        steps: &RecordBatch,
        next: Option<ArrayRef>,
        flags: &Flags,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let rows = steps.num_rows();
        let Some(next) = next else {
            self.pending.slices.push(steps.clone());
            return Ok(());
        };
        let observation = steps.column(0);
        let narrow = self.table.narrow.as_ref();
        let ended = |row: usize| flags.terminated[row] || flags.truncated[row];
        let mut begins = Vec::new();
        if let Some(before) = self.pending.next_observation.as_ref()
            && !self.pending.ended
            && !flags.is_final[0]
            && differ(before, &observation.slice(0, 1), narrow)?
        {
            begins.push(0);
        }
        let within = gaps(observation, &next, narrow)?.into_iter();
        begins.extend(
            within
                .filter(|row| !ended(*row) && !flags.is_final[row + 1])
                .map(|row| row + 1),
        );
        if let Some(first) = begins.first().copied().filter(|_| !self.split_on_gaps) {
            let gap = || Gap {
                next: match (first, &self.pending.next_observation) {
                    (0, Some(before)) => ArrayRef::clone(before),
                    _ => next.slice(first - 1, 1),
                },
                place: match first {
                    0 => self.pending.last_place.clone(),
                    _ => place(first - 1),
                },
                following: observation.slice(first, 1),
                following_place: place(first),
            };
            let (gap, count) = match self.pending.gaps.take() {
                Some((gap, count)) => (gap, count),
                None => (gap(), 0),
            };
            self.pending.gaps = Some((gap, count + begins.len()));
            begins.clear();
        }
        let mut start = 0;
        for end in begins.into_iter().chain([rows]) {
            if end > start {
                let cut = end < rows;
                let part = steps.slice(start, end - start);
                self.pending
                    .slices
                    .push(if cut { cut_off(&part)? } else { part });
                self.pending.next_observation = Some(next.slice(end - 1, 1))
                    .filter(|next| next.is_valid(0) && !flags.is_final[end - 1]);
            } else if let Some(last) = self.pending.slices.pop() {
                self.pending.slices.push(cut_off(&last)?);
            }
            if end < rows {
                let (key, parts) = (self.pending.key.clone(), self.pending.parts);
                self.finish()?;
                let key = key.map(|key| match parts {
                    0 => format!("{key}/1"),
                    _ => match key.rsplit_once('/') {
                        Some((own, _)) => format!("{own}/{}", parts + 1),
                        None => key,
                    },
                });
                self.pending = Pending {
                    key,
                    parts: parts + 1,
                    ..Pending::default()
                };
            }
            start = end;
        }
        self.pending.last_place = place(rows - 1);
        self.pending.ended = ended(rows - 1);
        Ok(())
    }

    /// Returns the rows of each trajectory in a batch, delimited by the columns of `ids`.
    fn runs_by_id(
        &mut self,
        ids: &[(String, ArrayRef)],
        place: &dyn Fn(usize) -> String,
    ) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        let mut current = self.pending.key.clone();
        for (rows, key) in together(ids, place)? {
            let begins = current.as_ref() != Some(&key);
            if begins && !self.seen.insert(hash(&key)) {
                return Err(scattered("trajectory", &key, ids, &place(rows.start)));
            }
            current = Some(key);
            runs.push(Run {
                rows,
                begins: current.clone().filter(|_| begins),
            });
        }
        Ok(runs)
    }

    /// Returns the rows of each trajectory in a batch, delimited by `flags` within each
    /// environment, which the column `ids` tells.
    fn runs_by_environment(
        &mut self,
        ids: &[(String, ArrayRef)],
        flags: &mut Flags,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        for (rows, key) in together(ids, place)? {
            if self.environment.as_ref() != Some(&key) {
                if !self.seen.insert(hash(&key)) {
                    return Err(scattered("environment", &key, ids, &place(rows.start)));
                }
                self.environment = Some(key);
                (self.begun, self.previous) = (0, Previous::default());
            }
            runs.extend(self.runs_by_flags(flags, rows));
        }
        Ok(runs)
    }

    /// Returns the trajectories in `rows` of a batch, delimited by `flags`. Sets `truncated` where
    /// a trajectory reaches `max_steps`.
    fn runs_by_flags(&mut self, flags: &mut Flags, rows: Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for row in rows.clone() {
            let is_final = flags.is_final[row];
            let begins = match self.previous {
                Previous::Open => self.begun == 0,
                Previous::Ended => !is_final,
                Previous::Final => true,
            };
            if begins {
                let key = match &self.environment {
                    Some(environment) => format!("{environment}/{}", self.begun),
                    None => self.begun.to_string(),
                };
                runs.push(Run {
                    rows: row..row,
                    begins: Some(key),
                });
                self.begun += 1;
                self.steps = 0;
            } else if row == rows.start {
                runs.push(Run {
                    rows: row..row,
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

    /// Verifies, after the last row, that flags do not make all rows one trajectory by accident.
    ///
    /// # Errors
    /// Returns an error if flags delimit trajectories and there is none.
    pub(super) fn verify_ends(&self) -> Result<()> {
        let roles = self.table.roles();
        let has_ended = self.begun != 1 || self.previous != Previous::Open;
        if roles.trajectory.is_some() || has_ended || self.max_steps.is_some() {
            return Ok(());
        }
        let flags = [&roles.terminated, &roles.truncated, &roles.is_final];
        let names = flags.into_iter().flatten();
        let flags: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        Err(Error::failed(format!(
            "no trajectory ends: no row has the flag {}, so all {} rows would be one trajectory",
            flags.join(" or "),
            number(self.rows.read)
        ))
        .hint(
            "name the column that tells trajectories apart: `--map trajectory_id=COLUMN`; \
             if the rows are one trajectory, add such a column with one value",
        ))
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
            gaps,
            ..
        } = std::mem::take(&mut self.pending);
        if let Some((gap, count)) = gaps {
            let (next, own) = self.table.observation_names();
            let error = unmarked(
                (&next, &gap.place, &gap.next),
                (&own, &gap.following_place, &gap.following),
                count,
            );
            let rows = slices.iter().map(|slice| slice.num_rows() as u64);
            self.rows.set_aside += rows.sum::<u64>();
            let key = key.unwrap_or_default();
            self.ready
                .push_back(Err(error.at(format!("trajectory `{key}`"))));
            return Ok(());
        }
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

/// Returns the first 16 bytes of the hash of `key`.
pub(super) fn hash(key: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
    short
}
