//! Verifies that a model gives a step the same values in batches of two sizes.
//!
//! A few steps of every block run again in a small batch. The steps depend on the block alone, so a
//! run ends in the same way with any number of threads.

use super::windows::{Slot, Span};
use super::{Ensemble, Fed, Sessions};
use crate::error::{Error, Result};
use crate::model::{Geometry, Pool, Runtime, Spec, rows_depend_on_each_other, slack};

/// The number of rows of a small batch.
const ROWS: usize = 4;

/// The number of steps from the start of a trajectory that a recurrent model runs again.
const CARRIED: usize = 16;

/// How many times the effect of a nudge on the inputs is still taken for rounding.
const NUDGES: f64 = 16.0;

/// A model opened for small batches.
pub(super) struct Again {
    pool: Pool,
    batch: usize,
}

impl Again {
    /// Opens a model that `geometry` opens for large batches. Returns `None` if it takes batches of
    /// one size only, or if its rows may depend on each other.
    pub(super) fn open(runtime: &Runtime, spec: &Spec, geometry: &Geometry) -> Option<Again> {
        let batch = ROWS.min(geometry.batch / 2);
        if batch == 0 || geometry.mixed {
            return None;
        }
        let small = Geometry {
            batch,
            mixed: true,
            ..geometry.clone()
        };
        let pool = runtime.open(spec, &small, 1).ok()?;
        Some(Again { pool, batch })
    }

    /// Verifies that some of `slots` give the values `made` again, which are ordered by output and
    /// slot, `cells` of each output per slot.
    ///
    /// # Errors
    /// Returns an error that names the output if they differ by more than rounding.
    pub(super) fn ensure_same(
        &self,
        ensemble: &Ensemble,
        spec: &Spec,
        fed: Fed,
        slots: &[Slot],
        cells: &[usize],
        made: &[&[f64]],
    ) -> Result<()> {
        let chosen = if ensemble.is_recurrent() {
            starts(fed.spans, slots, self.batch)
        } else {
            spread(slots.len(), self.batch)
        };
        if chosen.is_empty() {
            return Ok(());
        }
        let again: Vec<Slot> = chosen.iter().map(|index| slots[*index]).collect();
        let run = |nudged: bool| -> Result<Vec<Vec<f64>>> {
            let mut made = vec![Vec::new(); cells.len()];
            let sessions = Sessions {
                spec,
                pool: &self.pool,
                batch: self.batch,
            };
            ensemble.run(sessions, Fed { nudged, ..fed }, &again, (cells, &mut made))?;
            Ok(made)
        };
        let tf32 = ensemble.runtime.tf32();
        let small = run(false)?;
        let mut nudged = None;
        for (index, (small, cells)) in small.iter().zip(cells).enumerate() {
            let first: Vec<f64> = chosen
                .iter()
                .flat_map(|slot| &made[index][slot * cells..(slot + 1) * cells])
                .copied()
                .collect();
            let port = ensemble.geometry.outputs.get(index);
            let Some(port) = port.and_then(|port| spec.outputs.get(*port)) else {
                continue;
            };
            let largest = finite(first.iter().chain(small).copied());
            let rounding = slack(port.element, tf32) * largest;
            if differing(&first, small, rounding).is_none() {
                continue;
            }
            // Where large inputs cancel out, rounding has a large effect.
            if nudged.is_none() {
                nudged = Some(run(true)?);
            }
            let moved = nudged
                .iter()
                .flat_map(|made| small.iter().zip(&made[index]));
            let effect = finite(moved.map(|(one, two)| one - two));
            if let Some((one, two)) = differing(&first, small, rounding + NUDGES * effect) {
                return Err(refusal(ensemble, spec, &port.name, (one, two), self.batch));
            }
        }
        Ok(())
    }
}

fn refusal(
    ensemble: &Ensemble,
    spec: &Spec,
    output: &str,
    (one, two): (f64, f64),
    batch: usize,
) -> Error {
    let found = format!(
        "the same step gives {one} in a batch of {} and {two} in a batch of {batch}",
        ensemble.geometry.batch
    );
    rows_depend_on_each_other(spec, output, &found)
}

/// Returns the indices of `most` of `count` slots, from the first to the last; all of them if there
/// are fewer.
fn spread(count: usize, most: usize) -> Vec<usize> {
    let most = most.min(count);
    (0..most)
        .map(|index| index * (count - 1) / (most - 1).max(1))
        .collect()
}

/// Returns the indices of the slots among the first steps of the first `most` trajectories.
fn starts(spans: &[Span], slots: &[Slot], most: usize) -> Vec<usize> {
    let mut trajectories: Vec<usize> = slots.iter().map(|slot| slot.span).collect();
    trajectories.dedup();
    trajectories.truncate(most);
    let chosen = |slot: &Slot| {
        trajectories.contains(&slot.span) && slot.row < spans[slot.span].start + CARRIED
    };
    (0..slots.len())
        .filter(|index| chosen(&slots[*index]))
        .collect()
}

/// Returns the largest magnitude of the finite `values`.
fn finite(values: impl Iterator<Item = f64>) -> f64 {
    values
        .map(f64::abs)
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
}

/// Returns the first values that differ by more than `most`.
fn differing(one: &[f64], two: &[f64], most: f64) -> Option<(f64, f64)> {
    let same = |(one, two): &(f64, f64)| {
        one == two || one.is_nan() && two.is_nan() || (one - two).abs() <= most
    };
    let pairs = one.iter().copied().zip(two.iter().copied());
    pairs.into_iter().find(|pair| !same(pair))
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn rows_from_first_to_last_run_again() {
        assert!(spread(0, 4).is_empty());
        assert_eq!(spread(1, 4), [0]);
        assert_eq!(spread(3, 4), [0, 1, 2]);
        assert_eq!(spread(100, 4), [0, 33, 66, 99]);
        assert_eq!(spread(100, 1), [0]);
    }
}
