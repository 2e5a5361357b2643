//! Running a recurrent model: its states go from step to step of each trajectory.
//!
//! A batch holds one step of each of many trajectories. When a trajectory ends, the next one takes
//! its row, so that batches stay full and the state of a trajectory never reaches another.

use super::windows::{Slot, Span};
use super::{Ensemble, Fed, Sessions, feed, take};
use crate::error::{Error, Result};
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

impl Ensemble {
    /// Runs a recurrent model at `slots`, and at all rows of their trajectories before them.
    pub(super) fn carry(
        &self,
        Sessions { spec, pool, batch }: Sessions,
        fed: Fed,
        slots: &[Slot],
        (cells, made): (&[usize], &mut [Vec<f64>]),
    ) -> Result<()> {
        let bases: Vec<usize> = made.iter().map(Vec::len).collect();
        for (made, cells) in made.iter_mut().zip(cells) {
            made.resize(made.len() + slots.len() * cells, 0.0);
        }
        let mut waiting = runs(fed.spans, slots).into_iter();
        let mut active: Vec<Run> = Vec::new();
        // The states of active runs, one after another.
        let mut kept: Vec<Vec<f64>> = vec![Vec::new(); self.states.len()];
        let mut row_made: Vec<f64> = Vec::new();
        loop {
            for run in waiting.by_ref().take(batch - active.len()) {
                active.push(run);
                for (kept, state) in kept.iter_mut().zip(&self.states) {
                    kept.extend_from_slice(&state.start);
                }
            }
            if active.is_empty() {
                return Ok(());
            }
            let now: Vec<Slot> = active
                .iter()
                .map(|run| Slot {
                    row: run.row,
                    span: run.span,
                })
                .collect();
            pool.with(|session| {
                feed(session, spec, fed, &now)?;
                self.put(session, batch, &kept, now.len());
                session.run(now.len())?;
                for (index, (cells, made)) in cells.iter().zip(made.iter_mut()).enumerate() {
                    row_made.clear();
                    let (all, own) = (batch * cells, now.len() * cells);
                    take(session.output(index), all, own, &mut row_made)
                        .map_err(|error| error.at(spec.path.display()))?;
                    for (run, values) in active.iter().zip(row_made.chunks_exact(*cells)) {
                        if slots.get(run.slot).is_some_and(|slot| slot.row == run.row) {
                            let place = bases[index] + run.slot * cells;
                            made[place..place + cells].copy_from_slice(values);
                        }
                    }
                }
                self.keep(session, batch, &mut kept, now.len())
                    .map_err(|error| error.at(spec.path.display()))
            })?;
            for index in (0..active.len()).rev() {
                let run = &mut active[index];
                if slots.get(run.slot).is_some_and(|slot| slot.row == run.row) {
                    run.slot += 1;
                }
                if run.row < run.last {
                    run.row += 1;
                    continue;
                }
                active.swap_remove(index);
                for (kept, state) in kept.iter_mut().zip(&self.states) {
                    let (cells, end) = (state.start.len(), kept.len());
                    kept.copy_within(end - cells..end, index * cells);
                    kept.truncate(end - cells);
                }
            }
        }
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
