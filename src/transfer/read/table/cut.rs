//! Cuts the rows of a table into trajectories.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::convert::{Flags, Table};
use crate::error::{Error, Result};
use crate::transfer::read::IncomingTrajectory;

/// Cuts the rows of a table into trajectories.
pub(super) struct Cutter {
    table: Table,
    max_steps: Option<usize>,
    pending: Pending,
    ready: VecDeque<Result<IncomingTrajectory>>,
    /// Hashes of the ids of finished trajectories.
    seen: HashSet<[u8; 16]>,
    /// Trajectories that flags have started.
    count: u64,
    /// Steps of the last of them, less final observations.
    steps: usize,
    last: Last,
}

/// Rows of a batch that belong to one trajectory.
struct Run {
    rows: Range<usize>,
    /// The trajectory's key, where it begins here.
    begins: Option<String>,
}

/// The trajectory that the rows read so far leave open.
#[derive(Default)]
struct Pending {
    slices: Vec<RecordBatch>,
    key: Option<String>,
    last_step: Option<f64>,
    /// Whether its last row holds a final observation.
    after_final: bool,
    /// The observation that the last row so far led to, where the source says it and has no row for it.
    after: Option<ArrayRef>,
    /// Whether something is wrong with it, which has been said: its other rows are passed over.
    bad: bool,
}

/// What flags say of the row before.
#[derive(Default, Clone, Copy, PartialEq)]
enum Last {
    #[default]
    Open,
    Ended,
    Final,
}

impl Cutter {
    pub(super) fn new(table: Table, max_steps: Option<usize>) -> Cutter {
        Cutter {
            table,
            max_steps,
            pending: Pending::default(),
            ready: VecDeque::new(),
            seen: HashSet::new(),
            count: 0,
            steps: 0,
            last: Last::default(),
        }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.table.schema
    }

    /// The next trajectory that is whole, or what is wrong with it.
    pub(super) fn next(&mut self) -> Option<Result<IncomingTrajectory>> {
        self.ready.pop_front()
    }

    /// Whether rows wait for the rest of their trajectory.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.slices.is_empty()
    }

    /// Cuts a batch at the ends of trajectories.
    pub(super) fn split(
        &mut self,
        batch: &RecordBatch,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
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
                continue;
            }
            // Where something in the batch is wrong, only the trajectory that it is in is.
            let steps = match &whole {
                Some(whole) => Ok(whole.slice(rows.start, rows.len())),
                None => self.table.steps(
                    &batch.slice(rows.start, rows.len()),
                    flags.of(rows.clone()),
                    &|row| place(rows.start + row),
                ),
            };
            let ordered = |pending: &mut Pending| match &numbers {
                Some((name, numbers)) => pending.check_order(name, numbers, rows.clone(), place),
                None => Ok(()),
            };
            let finals = &flags.is_final[rows.clone()];
            let steps = steps.and_then(|steps| ordered(&mut self.pending).map(|()| steps));
            let steps = steps.and_then(|steps| {
                self.pending
                    .check_final(finals, &|row| place(rows.start + row))
                    .map(|()| steps)
            });
            let last = rows.end - 1;
            let after = || match self.pending.after_final {
                true => Ok(None),
                false => self
                    .table
                    .following(&batch.slice(last, 1), &|_| place(last)),
            };
            match steps.and_then(|steps| Ok((steps, after()?))) {
                Ok((steps, after)) => {
                    self.pending.slices.push(steps);
                    self.pending.after = after;
                }
                Err(error) => {
                    let key = self.pending.key.as_deref().unwrap_or_default();
                    self.ready
                        .push_back(Err(error.at(format!("trajectory `{key}`"))));
                    self.pending.slices.clear();
                    self.pending.bad = true;
                }
            }
        }
        Ok(())
    }

    /// The rows of each trajectory in a batch, by its ids.
    fn runs_by_id(
        &mut self,
        name: &str,
        ids: &ArrayRef,
        place: &dyn Fn(usize) -> String,
    ) -> Result<Vec<Run>> {
        if let Some(row) = (0..ids.len()).find(|row| ids.is_null(*row)) {
            return Err(Error::failed(format!(
                "column `{name}` is null at {}: the row belongs to no trajectory",
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
                    "trajectory `{key}` of column `{name}` comes back at {}, after other trajectories",
                    place(rows.start)
                ))
                .hint("the rows of a trajectory must be together: sort the source by trajectory and step"));
            }
            current = Some(key);
            runs.push(Run {
                rows,
                begins: current.clone().filter(|_| begins),
            });
        }
        Ok(runs)
    }

    /// The rows of each trajectory in a batch, by its flags; the longest length adds cuts to these.
    fn runs_by_flags(&mut self, flags: &mut Flags) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for row in 0..flags.is_final.len() {
            let is_final = flags.is_final[row];
            let begins = match self.last {
                Last::Open => self.count == 0,
                Last::Ended => !is_final,
                Last::Final => true,
            };
            if begins {
                runs.push(Run {
                    rows: row..row,
                    begins: Some(self.count.to_string()),
                });
                self.count += 1;
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
            self.last = match (is_final, flags.terminated[row] || flags.truncated[row]) {
                (true, _) => Last::Final,
                (false, true) => Last::Ended,
                (false, false) => Last::Open,
            };
        }
        runs
    }

    /// Hands on the pending trajectory, where there is one.
    pub(super) fn finish(&mut self) -> Result<()> {
        let Pending {
            mut slices,
            key,
            after,
            ..
        } = std::mem::take(&mut self.pending);
        if let Some(after) = after.filter(|_| !slices.is_empty()) {
            slices.push(self.table.final_row(&after)?);
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
    /// Checks that the numbers of steps ascend in these rows of a batch, and from those before.
    fn check_order(
        &mut self,
        name: &str,
        numbers: &ArrayRef,
        rows: Range<usize>,
        place: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        let numbers = numbers.as_primitive::<Float64Type>();
        for row in rows {
            let number = if numbers.is_valid(row) {
                numbers.value(row)
            } else {
                f64::NAN
            };
            let ascends = self.last_step.is_none_or(|last| number > last);
            if !ascends || number.is_nan() {
                let before = self
                    .last_step
                    .map_or_else(|| "a start".to_owned(), |last| last.to_string());
                return Err(Error::failed(format!(
                    "column `{name}` is {number} after {before} at {}: steps must ascend in a trajectory",
                    place(row)
                ))
                .hint("sort the source by trajectory and step"));
            }
            self.last_step = Some(number);
        }
        Ok(())
    }

    /// Checks that nothing follows a final observation in rows with these flags, or those before.
    fn check_final(&mut self, finals: &[bool], place: &dyn Fn(usize) -> String) -> Result<()> {
        let after = if self.after_final {
            Some(0)
        } else {
            (1..finals.len()).find(|row| finals[row - 1])
        };
        self.after_final = finals.last() == Some(&true);
        let Some(row) = after else { return Ok(()) };
        Err(Error::failed(format!("it goes on after its final observation at {}", place(row)))
            .hint("`is_final` marks the observation after the last action: only the last row of a trajectory can have it"))
    }
}

fn hash(key: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]);
    short
}
