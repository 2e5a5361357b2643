//! `label`: fills actions that were not recorded with the predictions of a model.
//!
//! [`bind`] and [`outputs`] bind the options, `support::infer` runs the model, [`reduce`] reduces
//! predictions to labels, and [`columns`] writes the columns. This file runs a block through them.

mod bind;
mod columns;
#[cfg(test)]
mod fakes;
mod frames;
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
use super::{Changes, Known, Stage, Tally, Transform};
use crate::dataset::Block;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result, wording};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "label",
    role: super::Role::RunModels { model: "model" },
    schema: |generator| generator.subschema_for::<Label>(),
    bind: bind::bind,
    sample: "{model: idm.onnx, window: {past: 1, future: 1, edge: repeat}, clip: [-1, 1]}",
};

/// The stage with its options bound.
struct Labeller {
    /// The models.
    ensemble: Ensemble,
    /// What feeds the model's inputs: a window of observations, or an expression for each.
    inputs: Vec<Input>,
    edge: Edge,
    horizon: Horizon,
    action: Action,
    /// Lowest and highest label, one per dimension.
    clip: Option<[Vec<f64>; 2]>,
    non_finite: NonFinite,
    written: Written,
    /// Whether steps with an action are labelled too.
    relabel: bool,
    /// The id of the models.
    id: String,
    /// Number of outputs that are read: the action and, if there is one, its standard deviation.
    outputs: usize,
    steps: SchemaRef,
    reads: Vec<String>,
}

/// Meaning of the model's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// One value per dimension; `single` if the column is float32.
    Continuous { single: bool },
    /// One logit per class.
    Logits,
    /// The class itself.
    Class,
}

impl Labeller {
    /// Whether the model runs at a row. With `edge: skip`, it does not where its input reaches
    /// beyond the trajectory.
    fn possible(&self, spans: &[Span], columns: &[Column], slot: &Slot) -> bool {
        let possible = |(input, column): (&Input, &Column)| input.fits(column, spans, slot);
        self.edge != Edge::Skip || self.inputs.iter().zip(columns).all(possible)
    }

    /// Returns an error if the models would read a null at `slots`.
    fn refuse_nulls(
        &self,
        block: &Block,
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
                "{}: {name} is null, but the label of {} depends on it",
                place(block, slot.span, row),
                step_of(block, slot.row)
            ))
            .hint(
                "before `label`, drop such steps with `filter: {steps: …}`, or fill the nulls with \
                 `derive`",
            ));
        }
        Ok(())
    }

    /// Runs the models at `slots`.
    fn predict(
        &self,
        block: &Block,
        spans: &[Span],
        columns: &[Column],
        slots: &[Slot],
    ) -> Result<Predictions> {
        let cells = self.horizon.length * self.horizon.width;
        let room = || Vec::with_capacity(slots.len() * cells * self.ensemble.specs.len());
        let outputs = self.outputs;
        let mut made: Vec<Vec<f64>> = (0..outputs).map(|_| room()).collect();
        self.ensemble.predict(
            block,
            (&self.inputs, columns),
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

    /// Labels a block with the predictions that `predict` makes at the slots it is given.
    fn label(
        &self,
        block: Block,
        tally: &mut Tally,
        predict: impl FnOnce(&Block, &[Span], &[Column], &[Slot]) -> Result<Predictions>,
    ) -> Result<Block> {
        let is_final = block.is_final()?;
        let spans = spans(&block, is_final);
        let known = block
            .steps
            .column_by_name(step::ACTION)
            .map(|action| action.nulls());
        let null =
            |row: usize| known.is_none_or(|nulls| nulls.is_some_and(|nulls| nulls.is_null(row)));
        let missing = |slot: &Slot| (self.relabel || null(slot.row)) && !is_final.value(slot.row);
        let mut targets: Vec<Slot> = Vec::with_capacity(block.steps.num_rows());
        for (index, span) in spans.iter().enumerate() {
            targets.extend(
                (span.start..span.steps)
                    .map(|row| Slot { row, span: index })
                    .filter(missing),
            );
        }
        let filled = if targets.is_empty() {
            Filled::none(block.len())
        } else {
            let columns = infer::columns(&self.inputs, &block)?;
            let slots = needed(&self.horizon, &spans, &targets, |slot| {
                self.possible(&spans, &columns, slot)
            });
            let rows = self.ensemble.rows(&spans, &slots);
            self.refuse_nulls(&block, &spans, &columns, &rows)?;
            let made = predict(&block, &spans, &columns, &slots)?;
            let reduced = reduce::reduce(
                &self.horizon,
                &spans,
                &targets,
                &slots,
                self.ensemble.specs.len(),
                made,
            );
            self.settle(&block, &targets, reduced, tally)?
        };
        columns::write(block, &self.written, &self.id, &filled, tally)
    }

    /// Turns reduced predictions into labels: chooses classes, applies bounds, and treats values
    /// that are not finite as `non_finite` says.
    fn settle(
        &self,
        block: &Block,
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
                ..Filled::none(block.len())
            });
        }
        let mut filled = Filled {
            dropped: vec![false; block.len()],
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
                    let place = place(block, slot.span, slot.row);
                    return Err(Error::failed(format!(
                        "{place}: the label is not finite in dimension {}",
                        dimension + 1
                    ))
                    .hint(
                        "look for NaN, infinite or very large values in the observations around \
                         that step",
                    )
                    .hint(
                        "`non_finite: null` leaves such actions null; `non_finite: drop` drops \
                         their trajectories",
                    ));
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

    /// Whether all values are finite, as they nearly always are. If so, labels need not be examined
    /// one by one.
    fn finite(&self, reduced: &reduce::Reduced) -> bool {
        let Action::Continuous { single } = self.action else {
            return false;
        };
        // A value can be finite in float64 but not in float32.
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

    /// Clips labels to their bounds, and returns the number of labels that this changed.
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

    /// Returns the number of values of one label.
    fn label_width(&self) -> usize {
        if matches!(self.action, Action::Continuous { .. }) {
            self.horizon.width
        } else {
            1
        }
    }

    /// Returns the first dimension in which a label is not finite.
    fn fault(&self, values: &[f64], std: Option<&[f64]>) -> Option<usize> {
        match self.action {
            Action::Continuous { single } => {
                // A value can be finite in float64 but not in float32.
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
            trajectory::HAS_ACTIONS,
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

    fn pulls(&self) -> Vec<String> {
        infer::pulls(&self.inputs)
    }

    fn prepare(&self, workers: usize) -> Result<()> {
        self.ensemble.prepare(workers)
    }

    fn warnings(&self, known: Known) -> Vec<String> {
        let idle = match known {
            Known::Nothing => None,
            Known::AllActions(rows) => (!self.relabel).then_some((rows, "has")),
            Known::Counted { rows, tally } => {
                let touched = ["labelled", columns::SKIPPED, columns::BROKEN];
                let touched = touched.iter().any(|name| tally.counts.contains_key(*name));
                (!touched).then_some((rows, "had"))
            }
        };
        let idle = idle.filter(|(rows, _)| *rows > 0).map(|(rows, has)| {
            format!(
                "`label` {has} nothing to do: none of the steps in {} lacks an action; set \
                 `relabel: true` to replace recorded actions, which `action_recorded` then keeps",
                wording::count(rows, "row")
            )
        });
        self.ensemble.warnings().into_iter().chain(idle).collect()
    }

    fn inputs(&self) -> Vec<String> {
        self.ensemble.inputs(&self.inputs)
    }

    fn depends(&self) -> BTreeMap<String, String> {
        self.ensemble.depends(&self.inputs)
    }

    fn apply(&self, block: Block, tally: &mut Tally) -> Result<Block> {
        self.label(block, tally, |block, spans, columns, slots| {
            self.predict(block, spans, columns, slots)
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, AsArray, BooleanArray, Float32Array, Int32Array, Int64Array, RecordBatch,
        StringArray,
    };
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{DataType, Field, Float32Type, Schema};
    use serde_json::{Value, json};

    use super::fakes::{bound, steps};
    use super::*;
    use crate::dataset::schema::vector;

    /// Two trajectories of 2 and 3 steps, the first with a final row; steps 0 of both have an
    /// action, odd bits and all.
    fn block(schema: &Schema) -> Block {
        let odd = f32::from_bits(0x7fc0_1234);
        let valid = NullBuffer::from(vec![true, false, false, true, false, false]);
        let values = Float32Array::from(vec![
            odd, -0.0, 9.0, 9.0, 9.0, 9.0, 0.5, 7.0, 9.0, 9.0, 9.0, 9.0,
        ]);
        let vectors = |field: &str, values: Float32Array, nulls: Option<NullBuffer>| -> ArrayRef {
            let DataType::FixedSizeList(child, width) =
                schema.field_with_name(field).unwrap().data_type().clone()
            else {
                panic!("no vector")
            };
            Arc::new(arrow::array::FixedSizeListArray::new(
                child,
                width,
                Arc::new(values),
                nulls,
            ))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![4, 4, 4, 7, 7, 7])),
            Arc::new(Int32Array::from(vec![0, 1, 2, 0, 1, 2])),
            vectors(
                "observation",
                Float32Array::from_iter_values((0..18).map(|value| value as f32)),
                None,
            ),
            Arc::new(BooleanArray::from(vec![
                false, false, true, false, false, false,
            ])),
            vectors("action", values, Some(valid)),
        ];
        let steps = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
        let ids = Schema::new(vec![Field::new("trajectory_id", DataType::Int64, false)]);
        let trajectories =
            RecordBatch::try_new(Arc::new(ids), vec![Arc::new(Int64Array::from(vec![4, 7]))])
                .unwrap();
        Block::new(steps, trajectories, vec![0, 3, 6])
    }

    /// Labels the block where the model predicts `(row, -row)`, or what `at` says.
    fn labelled(options: Value, at: impl Fn(usize) -> Option<f64>) -> (Result<Block>, Tally) {
        let schema = steps(Some(vector(DataType::Float32, 2)));
        let stage = bound(&schema, options).unwrap();
        let mut tally = Tally::default();
        let result = stage.label(block(&schema), &mut tally, |_, _, _, slots| {
            let means = slots
                .iter()
                .flat_map(|slot| [at(slot.row).unwrap_or(slot.row as f64), -(slot.row as f64)])
                .collect();
            let stds = (stage.ensemble.geometry.outputs.len() > 1).then(|| {
                slots
                    .iter()
                    .flat_map(|slot| [0.25, slot.row as f64])
                    .collect()
            });
            Ok(Predictions { means, stds })
        });
        if let Ok(block) = &result {
            assert_eq!(block.steps.schema(), stage.steps());
        }
        (result, tally)
    }

    fn vectors(block: &Block, name: &str) -> Vec<Option<Vec<f32>>> {
        let list = block
            .steps
            .column_by_name(name)
            .unwrap()
            .as_fixed_size_list();
        list.iter()
            .map(|vector| {
                vector.map(|vector| vector.as_primitive::<Float32Type>().values().to_vec())
            })
            .collect()
    }

    #[test]
    fn only_what_was_not_recorded_is_filled() {
        let (result, tally) = labelled(
            json!({"model": "current", "clip": [[-10, -3.5], 4]}),
            |_| None,
        );
        let block = result.unwrap();
        let actions = vectors(&block, "action");
        assert_eq!(
            actions[0]
                .as_ref()
                .unwrap()
                .iter()
                .map(|value| value.to_bits())
                .collect::<Vec<_>>(),
            [0x7fc0_1234, 0x8000_0000]
        );
        let filled = [
            Some(vec![1.0, -1.0]),
            None,
            Some(vec![0.5, 7.0]),
            Some(vec![4.0, -3.5]),
            Some(vec![4.0, -3.5]),
        ];
        assert_eq!(actions[1..], filled);
        let stds = [
            None,
            Some(vec![0.25, 1.0]),
            None,
            None,
            Some(vec![0.25, 4.0]),
            Some(vec![0.25, 5.0]),
        ];
        assert_eq!(vectors(&block, "action_std"), stds);
        let sources: &StringArray = block
            .steps
            .column_by_name("action_source")
            .unwrap()
            .as_string();
        let (recorded, proxy) = (Some("recorded"), Some("proxy"));
        assert_eq!(
            sources.iter().collect::<Vec<_>>(),
            [recorded, proxy, None, recorded, proxy, proxy]
        );
        assert_eq!(
            tally.counts,
            BTreeMap::from([("labelled".to_owned(), 3), ("clipped".to_owned(), 2)])
        );

        let (result, _) = labelled(json!({"model": "current", "into": "guess"}), |_| None);
        let block = result.unwrap();
        assert_eq!(vectors(&block, "action")[1], None);
        assert_eq!(vectors(&block, "guess")[0], None);
        assert_eq!(vectors(&block, "guess")[5], Some(vec![5.0, -5.0]));
        assert!(block.steps.column_by_name("action_source").is_none());
    }

    #[test]
    fn a_label_that_is_not_finite_is_an_error_or_null_or_drops_its_trajectory() {
        let broken = |row: usize| (row == 4).then_some(1e300);
        let (result, _) = labelled(json!({"model": "current"}), broken);
        let error = result.unwrap_err();
        assert_eq!(
            error.message,
            "trajectory 7, step 1: the label is not finite in dimension 1"
        );

        let (result, tally) = labelled(json!({"model": "current", "non_finite": null}), broken);
        assert_eq!(
            vectors(&result.unwrap(), "action")[4..],
            [None, Some(vec![5.0, -5.0])]
        );
        assert_eq!(
            (
                tally.counts["left null, not finite"],
                tally.counts["labelled"]
            ),
            (1, 2)
        );

        let (result, tally) = labelled(json!({"model": "current", "non_finite": "drop"}), broken);
        let block = result.unwrap();
        assert_eq!(
            (
                block.ids().unwrap(),
                block.offsets.as_slice(),
                block.steps.num_rows()
            ),
            ([4].as_slice(), [0, 3].as_slice(), 3)
        );
        assert_eq!(
            (
                tally.dropped_rows["label not finite"],
                tally.dropped_trajectories["label not finite"],
                tally.counts["labelled"]
            ),
            (3, 1, 1)
        );
    }

    #[test]
    fn skip_leaves_what_the_edge_cuts_null() {
        let (result, tally) = labelled(
            json!({"model": "plain", "window": {"past": 1, "future": 1, "edge": "skip"}}),
            |_| None,
        );
        let actions = vectors(&result.unwrap(), "action");
        assert_eq!(
            actions[1],
            Some(vec![1.0, -1.0]),
            "the final observation is known"
        );
        assert_eq!(actions[4..], [Some(vec![4.0, -4.0]), None]);
        assert_eq!(tally.counts["left null at an edge"], 1);
    }
}
