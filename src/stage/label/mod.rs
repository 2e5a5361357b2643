//! `label`: fills actions that were not recorded with the predictions of a model.
//!
//! Options are bound in [`bind`], the model is run by `infer`, predictions are reduced to labels in [`reduce`], and columns
//! written in [`columns`]. What is here runs a chunk through them.

mod bind;
mod columns;
mod options;
mod outputs;
mod reduce;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::Array;
use arrow::datatypes::SchemaRef;

use self::columns::{Filled, Written};
use self::options::{Label, NonFinite};
use self::reduce::{Horizon, Predictions, needed};
use super::support::infer::windows::{Edge, Slot, Span};
use super::support::infer::{self, Column, Ensemble, Input, place, spans, step_of, unknown};
use super::{Changes, Stage, Tally, Transform};
use crate::dataset::Chunk;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "label",
    schema: |generator| generator.subschema_for::<Label>(),
    bind: bind::bind,
    sample: "{model: idm.onnx, window: {past: 1, future: 1, edge: repeat}, clip: [-1, 1]}",
};

/// The stage with its options bound.
struct Labeller {
    /// The members of the ensemble.
    ensemble: Ensemble,
    /// Where the model's inputs come from: a window of observations, or an expression for each.
    inputs: Vec<Input>,
    edge: Edge,
    horizon: Horizon,
    action: Action,
    /// Lowest and highest label, one per dimension.
    clip: Option<[Vec<f64>; 2]>,
    non_finite: NonFinite,
    written: Written,
    steps: SchemaRef,
    reads: Vec<String>,
}

/// What the model's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// A value per dimension; rounded to float32 where the column is.
    Continuous { single: bool },
    /// A logit per class.
    Logits,
    /// The class itself.
    Class,
}

impl Labeller {
    /// Whether the model can be run at a row: `skip` leaves out what the edge of a trajectory cuts.
    fn possible(&self, spans: &[Span], columns: &[Column], slot: &Slot) -> bool {
        let possible = |(input, column): (&Input, &Column)| match input.window {
            Some(window) => window.fits(&spans[slot.span], slot.row),
            None => !column.is_null(slot.row),
        };
        self.edge != Edge::Skip || self.inputs.iter().zip(columns).all(possible)
    }

    /// Refuses nulls in what is about to be fed.
    fn refuse_nulls(
        &self,
        chunk: &Chunk,
        spans: &[Span],
        columns: &[Column],
        slots: &[Slot],
    ) -> Result<()> {
        for (input, column) in self.inputs.iter().zip(columns) {
            let fault = slots
                .iter()
                .find_map(|slot| unknown(input, column, spans, slot).map(|row| (slot, row)));
            let Some((slot, row)) = fault else { continue };
            let name = match input.window {
                Some(_) => "`observation`".to_owned(),
                None => format!("the model's input `{}`", input.name),
            };
            return Err(Error::failed(format!(
                "{}: {name} is null, and the label of {} depends on it",
                place(chunk, slot.span, row),
                step_of(chunk, slot.row)
            ))
            .hint("drop such steps with `filter: {steps: …}` before `label`, or give them a value with `derive`"));
        }
        Ok(())
    }

    /// Runs the models at `slots`.
    fn predict(&self, spans: &[Span], columns: &[Column], slots: &[Slot]) -> Result<Predictions> {
        let cells = self.horizon.length * self.horizon.width;
        let room = || Vec::with_capacity(slots.len() * cells * self.ensemble.specs.len());
        let outputs = self.ensemble.geometry.outputs.len();
        let mut made: Vec<Vec<f64>> = (0..outputs).map(|_| room()).collect();
        self.ensemble.predict(
            &self.inputs,
            columns,
            spans,
            slots,
            &vec![cells; outputs],
            &mut made,
        )?;
        let mut made = made.into_iter();
        Ok(Predictions {
            means: made.next().unwrap_or_default(),
            stds: made.next(),
        })
    }

    /// Labels a chunk with what `predict` says of the slots it is given.
    fn label(
        &self,
        chunk: Chunk,
        tally: &mut Tally,
        predict: impl FnOnce(&[Span], &[Column], &[Slot]) -> Result<Predictions>,
    ) -> Result<Chunk> {
        let is_final = chunk.is_final()?;
        let spans = spans(&chunk, is_final);
        let known = chunk
            .steps
            .column_by_name(step::ACTION)
            .map(|action| action.nulls());
        let null =
            |row: usize| known.is_none_or(|nulls| nulls.is_some_and(|nulls| nulls.is_null(row)));
        let missing = |slot: &Slot| null(slot.row) && !is_final.value(slot.row);
        let mut targets: Vec<Slot> = Vec::with_capacity(chunk.steps.num_rows());
        for (index, span) in spans.iter().enumerate() {
            targets.extend(
                (span.start..span.steps)
                    .map(|row| Slot { row, span: index })
                    .filter(missing),
            );
        }
        let filled = if targets.is_empty() {
            Filled::none(chunk.len())
        } else {
            let columns = infer::columns(&self.inputs, &chunk)?;
            let slots = needed(&self.horizon, &spans, &targets, |slot| {
                self.possible(&spans, &columns, slot)
            });
            self.refuse_nulls(&chunk, &spans, &columns, &slots)?;
            let made = predict(&spans, &columns, &slots)?;
            let reduced = reduce::reduce(
                &self.horizon,
                &spans,
                &targets,
                &slots,
                self.ensemble.specs.len(),
                made,
            );
            self.settle(&chunk, &targets, reduced, tally)?
        };
        columns::write(chunk, &self.written, &filled, tally)
    }

    /// Turns reduced predictions into labels: classes chosen, bounds kept, what is not finite dealt with.
    fn settle(
        &self,
        chunk: &Chunk,
        targets: &[Slot],
        reduced: reduce::Reduced,
        tally: &mut Tally,
    ) -> Result<Filled> {
        let width = self.horizon.width;
        let finite = self.finite(&reduced);
        if let Action::Continuous { single } = self.action
            && finite
            && !reduced.votes.contains(&0)
        {
            let mut values = reduced.values;
            tally.count("clipped", self.clip(&mut values, single));
            let rows = targets.iter().map(|slot| slot.row).collect();
            let stds = reduced
                .stds
                .filter(|_| self.written.std.is_some())
                .unwrap_or_default();
            return Ok(Filled {
                rows,
                width,
                values,
                stds,
                votes: reduced.votes,
                ..Filled::none(chunk.len())
            });
        }
        let mut filled = Filled {
            dropped: vec![false; chunk.len()],
            width: self.label_width(),
            ..Filled::default()
        };
        filled.values.reserve(targets.len() * filled.width);
        filled.rows.reserve(targets.len());
        filled.votes.reserve(targets.len());
        let mut broken = vec![false; targets.len()];
        for (index, slot) in targets.iter().enumerate().filter(|_| !finite) {
            let own = index * width..(index + 1) * width;
            if reduced.votes[index] == 0 {
                continue;
            }
            let std = reduced.stds.as_ref().filter(|_| self.written.std.is_some());
            let Some(dimension) =
                self.fault(&reduced.values[own.clone()], std.map(|stds| &stds[own]))
            else {
                continue;
            };
            match self.non_finite {
                NonFinite::Error => {
                    let place = place(chunk, slot.span, slot.row);
                    return Err(Error::failed(format!("{place}: the label is not finite in dimension {dimension}"))
                        .hint("look for values that are not finite, or very large, in the observations around that step")
                        .hint("`non_finite: null` leaves such actions null, `non_finite: drop` drops their trajectories"));
                }
                NonFinite::Null => broken[index] = true,
                NonFinite::Drop => filled.dropped[slot.span] = true,
            }
        }
        for (index, slot) in targets
            .iter()
            .enumerate()
            .filter(|(_, slot)| !filled.dropped[slot.span])
        {
            if reduced.votes[index] == 0 {
                filled.skipped += 1;
            } else if broken[index] {
                filled.broken += 1;
            } else {
                let own = index * width..(index + 1) * width;
                self.push_label(&reduced.values[own.clone()], &mut filled.values);
                filled.rows.push(slot.row);
                filled.votes.push(reduced.votes[index]);
                if let Some(stds) = reduced.stds.as_ref().filter(|_| self.written.std.is_some()) {
                    filled.stds.extend_from_slice(&stds[own]);
                }
            }
        }
        if let Action::Continuous { single } = self.action {
            tally.count("clipped", self.clip(&mut filled.values, single));
        }
        Ok(filled)
    }

    /// Whether every value is finite, as it nearly always is: then none need be looked at alone.
    fn finite(&self, reduced: &reduce::Reduced) -> bool {
        let Action::Continuous { single } = self.action else {
            return false;
        };
        // A value can be finite in float64 and not in float32.
        let all = |values: &[f64]| {
            values.iter().all(|value| {
                if single {
                    (*value as f32).is_finite()
                } else {
                    value.is_finite()
                }
            })
        };
        all(&reduced.values) && reduced.stds.as_deref().is_none_or(all)
    }

    /// Holds labels to their bounds, and counts those that a bound changed.
    fn clip(&self, values: &mut [f64], single: bool) -> u64 {
        let Some([low, high]) = &self.clip else {
            return 0;
        };
        let mut clipped = 0;
        for label in values.chunks_exact_mut(self.horizon.width) {
            let mut changed = false;
            for (value, (low, high)) in label.iter_mut().zip(low.iter().zip(high)) {
                let given = if single {
                    f64::from(*value as f32)
                } else {
                    *value
                };
                *value = given.max(*low).min(*high);
                changed |= *value != given;
            }
            clipped += u64::from(changed);
        }
        clipped
    }

    /// Values of one label.
    fn label_width(&self) -> usize {
        if matches!(self.action, Action::Continuous { .. }) {
            self.horizon.width
        } else {
            1
        }
    }

    /// The dimension in which a label is not finite.
    fn fault(&self, values: &[f64], std: Option<&[f64]>) -> Option<usize> {
        match self.action {
            Action::Continuous { single } => {
                // A value can be finite in float64 and not in float32.
                let finite = |value: &f64| {
                    if single {
                        (*value as f32).is_finite()
                    } else {
                        value.is_finite()
                    }
                };
                let fault = values.iter().position(|value| !finite(value));
                fault.or_else(|| std.and_then(|std| std.iter().position(|value| !finite(value))))
            }
            Action::Logits if reduce::argmax(values).is_none() => Some(
                values
                    .iter()
                    .position(|value| !value.is_finite())
                    .unwrap_or(0),
            ),
            Action::Logits | Action::Class => None,
        }
    }

    /// Appends a label.
    fn push_label(&self, values: &[f64], labels: &mut Vec<f64>) {
        match self.action {
            Action::Logits => labels.push(reduce::argmax(values).unwrap_or(0) as f64),
            Action::Continuous { .. } | Action::Class => labels.extend_from_slice(values),
        }
    }
}

impl Transform for Labeller {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        let names = [
            trajectory::ACTION_SUM,
            trajectory::ACTION_SUM_SQ,
            trajectory::CONTENT_HASH,
        ];
        Changes {
            trajectories: names.map(str::to_owned).to_vec(),
            rows: self.non_finite == NonFinite::Drop,
            splits: false,
        }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(self.reads.clone())
    }

    fn prepare(&self, workers: usize) -> Result<()> {
        self.ensemble.prepare(workers)
    }

    fn depends(&self) -> BTreeMap<String, String> {
        self.ensemble.depends()
    }

    fn apply(&self, chunk: Chunk, tally: &mut Tally) -> Result<Chunk> {
        self.label(chunk, tally, |spans, columns, slots| {
            self.predict(spans, columns, slots)
        })
    }
}

#[cfg(test)]
mod tests;
