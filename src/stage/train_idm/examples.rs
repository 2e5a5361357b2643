//! Examples of a block: windows of observations and the actions recorded at them.

use arrow::array::{Array, AsArray};

use super::TrainIdm;
use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::model::Element;
use crate::stage::support::infer::windows::{Edge, Slot, Span, Window, fill};
use crate::stage::support::infer::{Numbers, Values, place, spans};
use crate::train::{Examples, Head, Part};

impl TrainIdm {
    /// Returns the examples of a block.
    ///
    /// They are windows at the steps with a recorded action, for [`Part::Unlabelled`] windows at
    /// the steps without an action, and for [`Part::Every`] the observations at all steps.
    ///
    /// # Errors
    /// Returns an error if an observation is null or not finite, or if the model cannot predict an
    /// action.
    pub fn examples(&self, block: &Block, part: Part) -> Result<Examples> {
        let column = |name: &str| block.steps.column_by_name(name);
        let missing = |name: &str| Error::failed(format!("steps have no column `{name}`"));
        let is_final = block.is_final()?;
        let spans = spans(block, is_final);
        let action = column(step::ACTION).ok_or_else(|| missing(step::ACTION))?;
        let source = column(step::ACTION_SOURCE).and_then(|source| source.as_string_opt::<i32>());
        let recorded = |row: usize| {
            action.is_valid(row)
                && source
                    .is_none_or(|source| source.is_null(row) || source.value(row) == "recorded")
        };
        let wanted = |row: usize| match part {
            Part::Training | Part::Validation => recorded(row),
            Part::Unlabelled => action.is_null(row),
            Part::Every => true,
        };
        let rows = spans.iter().enumerate().flat_map(|(index, span)| {
            (span.start..span.steps).map(move |row| Slot { row, span: index })
        });
        let window = if part == Part::Every {
            Window {
                past: 0,
                future: 0,
                ..self.window
            }
        } else {
            self.window
        };
        let fits =
            |slot: &Slot| window.edge != Edge::Skip || window.fits(&spans[slot.span], slot.row);
        let slots: Vec<Slot> = rows.filter(|slot| wanted(slot.row) && fits(slot)).collect();

        let observation = Numbers::new(
            column(step::OBSERVATION).ok_or_else(|| missing(step::OBSERVATION))?,
            Element::F32,
        )?;
        let Values::F32(values) = &observation.values else {
            return Err(Error::failed("observations are not numbers"));
        };
        ensure_finite(block, &window, &spans, &slots, (&observation, values))?;
        let mut inputs = vec![0.0; slots.len() * window.cells()];
        fill(&window, &spans, &slots, values, &mut inputs);
        let labelled = matches!(part, Part::Training | Part::Validation);
        let targets = if labelled {
            self.targets(block, action, &slots)?
        } else {
            Vec::new()
        };
        let ids = block.ids()?;
        Ok(Examples {
            inputs,
            targets,
            trajectories: slots.iter().map(|slot| ids[slot.span]).collect(),
        })
    }

    /// Returns the actions at `slots`.
    ///
    /// # Errors
    /// Returns an error if the model cannot predict an action: if it is not finite, outside the
    /// bounds, or not one of the classes.
    fn targets(
        &self,
        block: &Block,
        action: &arrow::array::ArrayRef,
        slots: &[Slot],
    ) -> Result<Vec<f32>> {
        let discrete = self.options.head == Head::Categorical;
        // float64 holds every class exactly.
        let column = Numbers::new(action, Element::F64)?;
        let Values::F64(values) = &column.values else {
            return Err(Error::failed("actions are not numbers"));
        };
        let width = if discrete { 1 } else { self.task.actions };
        let mut targets = Vec::with_capacity(slots.len() * width);
        for slot in slots {
            for (dimension, value) in values[slot.row * width..(slot.row + 1) * width]
                .iter()
                .enumerate()
            {
                let wrong = |what: String, help: &str| {
                    Err(
                        Error::failed(format!("{}: {what}", place(block, slot.span, slot.row)))
                            .hint(help),
                    )
                };
                if discrete && !(0.0..self.task.actions as f64).contains(value) {
                    return wrong(
                        format!(
                            "the action {value} is none of the {} classes from 0 to {}",
                            self.task.actions,
                            self.task.actions - 1
                        ),
                        "set `classes` to the number of discrete actions",
                    );
                }
                if !value.is_finite() {
                    return wrong(
                        format!("`action[{}]` is not finite", dimension + 1),
                        "before `train_idm`, drop such steps with `filter: {steps: …}`",
                    );
                }
                if let Some([low, high]) = &self.task.bounds {
                    let (low, high) = (low[dimension], high[dimension]);
                    // A bound that was rounded to float32 still counts as within.
                    let slack = (high - low) * 1e-6;
                    if *value < low - slack || *value > high + slack {
                        let what = format!(
                            "`action[{}]` is {value}, outside the box from {low} to {high}",
                            dimension + 1
                        );
                        return wrong(
                            what,
                            "set `clip: [low, high]` to bounds that hold all actions",
                        );
                    }
                }
                targets.push(*value as f32);
            }
        }
        Ok(targets)
    }
}

/// Returns an error if an observation in the windows at `slots` is null or not finite.
fn ensure_finite(
    block: &Block,
    window: &Window,
    spans: &[Span],
    slots: &[Slot],
    (observation, values): (&Numbers, &[f32]),
) -> Result<()> {
    let width = window.width;
    for slot in slots {
        let span = &spans[slot.span];
        let seen = span.start.max(slot.row.saturating_sub(window.past))
            ..span.end.min(slot.row + window.future + 1);
        for row in seen {
            if observation.is_null(row) {
                return Err(Error::failed(format!(
                    "{}: `observation` is null, so the model cannot be trained on it",
                    place(block, slot.span, row)
                ))
                .hint("drop such steps before `train_idm` with `filter: {steps: …}`"));
            }
            if let Some(dimension) = values[row * width..(row + 1) * width]
                .iter()
                .position(|value| !value.is_finite())
            {
                let message = format!(
                    "{}: `observation[{}]` is not finite",
                    place(block, slot.span, row),
                    dimension + 1
                );
                return Err(Error::failed(message).hint(
                    "before `train_idm`, repair such steps with `derive` or drop them with \
                     `filter: {steps: …}`",
                ));
            }
        }
    }
    Ok(())
}
