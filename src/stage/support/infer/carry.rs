//! Running a recurrent model: its states go from step to step of each trajectory.
//!
//! A batch holds one step of each of many trajectories. When a trajectory ends, the next one takes
//! its row, so that batches stay full and the state of a trajectory never reaches another. Frames
//! are asked for in this order too, so that only those of a few steps are in memory.

use std::sync::{Condvar, Mutex};

use super::windows::{Slot, Span};
use super::{Ensemble, Fed, Sessions, feed, frames, take};
use crate::error::{Error, Result, caught};
use crate::model::{Rows, Session};

/// Returns every row that runs: each trajectory from its first row to its last slot.
pub(in crate::stage) fn rows_before(spans: &[Span], slots: &[Slot]) -> Vec<Slot> {
    runs(spans, slots)
        .into_iter()
        .flat_map(|run| {
            (run.row..=run.last).map(move |row| Slot {
                row,
                span: run.span,
            })
        })
        .collect()
}

/// A trajectory in a row of the batch.
#[derive(Debug, Clone, Copy)]
struct Run {
    span: usize,
    /// The row that is next.
    row: usize,
    /// The last row.
    last: usize,
    /// Index of the next slot.
    slot: usize,
}

fn runs(spans: &[Span], slots: &[Slot]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, slot) in slots.iter().enumerate() {
        match runs.last_mut().filter(|run| run.span == slot.span) {
            Some(run) => run.last = slot.row,
            None => runs.push(Run {
                span: slot.span,
                row: spans[slot.span].start,
                last: slot.row,
                slot: index,
            }),
        }
    }
    runs
}

/// What runs at one step of a batch: the trajectories in its rows, each with its lane. A lane holds
/// one trajectory after another.
#[derive(Debug, Clone)]
struct Step {
    now: Vec<(Run, usize)>,
    /// The rows of trajectories that end here, from the last to the first.
    ends: Vec<usize>,
    /// The number of trajectories that begin here, in the last rows.
    begins: usize,
}

/// Gives the steps of a batch, from the first to the last.
struct Steps<'a> {
    slots: &'a [Slot],
    batch: usize,
    waiting: std::vec::IntoIter<Run>,
    active: Vec<(Run, usize)>,
    free: Vec<usize>,
}

impl<'a> Steps<'a> {
    fn new(spans: &[Span], slots: &'a [Slot], batch: usize) -> Steps<'a> {
        Steps {
            slots,
            batch,
            waiting: runs(spans, slots).into_iter(),
            active: Vec::new(),
            free: (0..batch).rev().collect(),
        }
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let begins = self.waiting.by_ref().take(self.batch - self.active.len());
        let before = self.active.len();
        for run in begins {
            self.active.push((run, self.free.pop()?));
        }
        if self.active.is_empty() {
            return None;
        }
        let mut step = Step {
            now: self.active.clone(),
            ends: Vec::new(),
            begins: self.active.len() - before,
        };
        for index in (0..self.active.len()).rev() {
            let (run, lane) = &mut self.active[index];
            if run.slot_at(self.slots).is_some() {
                run.slot += 1;
            }
            if run.row < run.last {
                run.row += 1;
                continue;
            }
            self.free.push(*lane);
            self.active.swap_remove(index);
            step.ends.push(index);
        }
        Some(step)
    }
}

impl Run {
    /// Returns the row that is next.
    fn here(&self) -> Slot {
        Slot {
            row: self.row,
            span: self.span,
        }
    }

    /// Returns the index of the slot at its row; `None` if nobody asks for this row.
    fn slot_at(&self, slots: &[Slot]) -> Option<usize> {
        let asked = slots
            .get(self.slot)
            .is_some_and(|slot| slot.row == self.row);
        asked.then_some(self.slot)
    }
}

/// The states and the results of a recurrent model between two steps.
struct Carry<'a> {
    slots: &'a [Slot],
    cells: &'a [usize],
    /// The states of the trajectories in the batch, one after another.
    kept: Vec<Vec<f64>>,
    /// The values of each output, ordered by slot.
    made: Vec<Vec<f64>>,
}

impl Ensemble {
    /// Runs a recurrent model at `slots`, and at all rows of their trajectories before them.
    pub(super) fn carry(
        &self,
        sessions: Sessions,
        fed: Fed,
        slots: &[Slot],
        (cells, made): (&[usize], &mut [Vec<f64>]),
    ) -> Result<()> {
        let mut carry = self.start(slots, cells);
        if fed.inputs.iter().any(|input| input.shown().is_some()) {
            self.carry_frames(sessions, fed, &mut carry)?;
        } else {
            for step in Steps::new(fed.spans, slots, sessions.batch) {
                self.step(sessions, fed, &step, &mut carry)?;
            }
        }
        for (made, own) in made.iter_mut().zip(&carry.made) {
            made.extend_from_slice(own);
        }
        Ok(())
    }

    fn start<'a>(&self, slots: &'a [Slot], cells: &'a [usize]) -> Carry<'a> {
        Carry {
            slots,
            cells,
            kept: vec![Vec::new(); self.states.len()],
            made: cells
                .iter()
                .map(|cells| vec![0.0; slots.len() * cells])
                .collect(),
        }
    }

    /// Runs a recurrent model whose inputs show frames. Each lane of the batch is a feed of its
    /// own, because its frames follow one another.
    fn carry_frames(&self, sessions: Sessions, fed: Fed, carry: &mut Carry) -> Result<()> {
        let steps: Vec<Step> = Steps::new(fed.spans, carry.slots, sessions.batch).collect();
        let lane = |(run, lane): &(Run, usize)| (run.here(), *lane);
        let lanes: Vec<Vec<(Slot, usize)>> = steps
            .iter()
            .map(|step| step.now.iter().map(lane).collect())
            .collect();
        // The index of the next step, and what it continues from; `None` after a failure.
        let state = Mutex::new((0, Some(carry)));
        let turned = Condvar::new();
        frames::pull(fed, &lanes, &|at, batch| {
            let failed = || Error::failed("a step before this one has failed");
            let state = state.lock().map_err(|_| failed())?;
            let not_yet =
                |(next, carry): &mut (usize, Option<&mut Carry>)| *next < at && carry.is_some();
            let mut state = turned.wait_while(state, not_yet).map_err(|_| failed())?;
            let fed = Fed {
                frames: Some(batch),
                ..fed
            };
            let carry = state.1.as_mut().ok_or_else(failed)?;
            // A panic would leave those that wait for their turn without one.
            let done = caught("the model", || self.step(sessions, fed, &steps[at], carry));
            state.0 += 1;
            if done.is_err() {
                state.1 = None;
            }
            turned.notify_all();
            done
        })
    }

    /// Runs one step of a batch.
    fn step(
        &self,
        Sessions { spec, pool, batch }: Sessions,
        fed: Fed,
        step: &Step,
        carry: &mut Carry,
    ) -> Result<()> {
        let Carry {
            slots,
            cells,
            kept,
            made,
        } = carry;
        for (kept, state) in kept.iter_mut().zip(&self.states) {
            for _ in 0..step.begins {
                kept.extend_from_slice(&state.start);
            }
        }
        let now: Vec<Slot> = step.now.iter().map(|(run, _)| run.here()).collect();
        let mut row_made: Vec<f64> = Vec::new();
        pool.with(|session| {
            feed(session, spec, fed, &now)?;
            self.put(session, batch, kept, now.len());
            session.run(now.len())?;
            for (index, (cells, made)) in cells.iter().zip(made.iter_mut()).enumerate() {
                row_made.clear();
                let (all, own) = (batch * cells, now.len() * cells);
                take(session.output(index), all, own, &mut row_made)
                    .map_err(|error| error.at(spec.path.display()))?;
                for ((run, _), values) in step.now.iter().zip(row_made.chunks_exact(*cells)) {
                    if let Some(slot) = run.slot_at(slots) {
                        made[slot * cells..(slot + 1) * cells].copy_from_slice(values);
                    }
                }
            }
            self.keep(session, batch, kept, now.len())
                .map_err(|error| error.at(spec.path.display()))
        })?;
        for index in &step.ends {
            for (kept, state) in kept.iter_mut().zip(&self.states) {
                let (cells, end) = (state.start.len(), kept.len());
                kept.copy_within(end - cells..end, index * cells);
                kept.truncate(end - cells);
            }
        }
        Ok(())
    }

    /// Feeds the states of the first `rows` rows.
    fn put(&self, session: &mut Session, batch: usize, kept: &[Vec<f64>], rows: usize) {
        for (state, kept) in self.states.iter().zip(kept) {
            let blocks = self.geometry.input_blocks(state.input);
            let mut input = session.input(state.input);
            let places = Rows::of(input.len(), blocks, batch);
            let cells = places.cells();
            for row in 0..rows {
                for cell in 0..cells {
                    input.set(places.place(row, cell), kept[row * cells + cell]);
                }
            }
        }
    }

    /// Keeps the states that the first `rows` rows gave.
    fn keep(
        &self,
        session: &Session,
        batch: usize,
        kept: &mut [Vec<f64>],
        rows: usize,
    ) -> Result<()> {
        for (state, kept) in self.states.iter().zip(kept) {
            let at = self
                .geometry
                .outputs
                .iter()
                .position(|at| *at == state.output);
            let output = session.output(at.unwrap_or(usize::MAX));
            let cells = state.start.len();
            if output.len() != batch * cells {
                return Err(Error::failed(format!(
                    "the model's state has {} values, but a batch should have {}",
                    output.len(),
                    batch * cells
                ))
                .hint("export the model with a state of a fixed shape"));
            }
            let blocks = self.geometry.input_blocks(state.input);
            let places = Rows::of(output.len(), blocks, batch);
            for row in 0..rows {
                for cell in 0..cells {
                    kept[row * cells + cell] = output.get(places.place(row, cell));
                }
            }
        }
        Ok(())
    }
}
