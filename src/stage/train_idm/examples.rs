//! The examples of a block: windows of observations and the actions recorded at them.

use arrow::array::{Array, AsArray};

use super::Training;
use crate::dataset::Chunk;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::model::Element;
use crate::stage::infer::assemble::{Edge, Slot, Window, fill};
use crate::stage::infer::{Column, Values, place, spans};
use crate::train::{Examples, Head, Part};

impl Training {
    /// The examples of a chunk: windows at the steps with a recorded action, or for [`Part::Unlabelled`] at those without any; for
    /// [`Part::Every`] the observations at all steps.
    ///
    /// # Errors
    /// Where an observation is null or not finite, or an action is not one that the model can predict.
    pub fn examples(&self, chunk: &Chunk, part: Part) -> Result<Examples> {
        let column = |name: &str| chunk.steps.column_by_name(name);
        let missing = |name: &str| Error::failed(format!("steps have no column `{name}`"));
        let is_final = chunk.is_final()?;
        let spans = spans(chunk, is_final);
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

        let observation = Column::new(
            column(step::OBSERVATION).ok_or_else(|| missing(step::OBSERVATION))?,
            Element::F32,
        )?;
        let Values::F32(values) = &observation.values else {
            return Err(Error::failed("observations are not numbers"));
        };
        for slot in &slots {
            let span = &spans[slot.span];
            let seen = span.start.max(slot.row.saturating_sub(window.past))
                ..span.end.min(slot.row + window.future + 1);
            let width = window.width;
            for row in seen {
                if observation.is_null(row) {
                    return Err(Error::failed(format!(
                        "{}: `observation` is null, and is learnt from",
                        place(chunk, slot.span, row)
                    ))
                    .hint("drop such steps with `filter: {steps: …}` before `train_idm`"));
                }
                if let Some(dimension) = values[row * width..(row + 1) * width]
                    .iter()
                    .position(|value| !value.is_finite())
                {
                    let message = format!(
                        "{}: `observation` is not finite in dimension {dimension}",
                        place(chunk, slot.span, row)
                    );
                    return Err(
                        Error::failed(message).hint("repair or drop such steps before `train_idm`, with `derive` or `filter: {steps: …}`")
                    );
                }
            }
        }
        let mut inputs = vec![0.0; slots.len() * window.cells()];
        fill(&window, &spans, &slots, values, &mut inputs);
        let labelled = matches!(part, Part::Training | Part::Validation);
        let targets = if labelled {
            self.targets(chunk, action, &slots)?
        } else {
            Vec::new()
        };
        let ids = chunk.ids()?;
        Ok(Examples {
            inputs,
            targets,
            trajectories: slots.iter().map(|slot| ids[slot.span]).collect(),
        })
    }

    /// The actions at `slots`, each one that the model can predict.
    fn targets(
        &self,
        chunk: &Chunk,
        action: &arrow::array::ArrayRef,
        slots: &[Slot],
    ) -> Result<Vec<f32>> {
        let discrete = self.options.head == Head::Categorical;
        // Classes go through float64, which holds every int32 and all classes that there can be.
        let column = Column::new(action, Element::F64)?;
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
                        Error::failed(format!("{}: {what}", place(chunk, slot.span, slot.row)))
                            .hint(help),
                    )
                };
                if discrete && !(0.0..self.task.actions as f64).contains(value) {
                    return wrong(
                        format!(
                            "the action {value} is none of the {} classes from 0 on",
                            self.task.actions
                        ),
                        "`classes` says how many there are",
                    );
                }
                if !value.is_finite() {
                    return wrong(
                        format!("the action is not finite in dimension {dimension}"),
                        "repair or drop such steps before `train_idm`",
                    );
                }
                if let Some([low, high]) = &self.task.bounds {
                    let (low, high) = (low[dimension], high[dimension]);
                    // What float32 makes of a bound is still within it.
                    let slack = (high - low) * 1e-6;
                    if *value < low - slack || *value > high + slack {
                        let what = format!(
                            "the action {value} in dimension {dimension} is outside the box from {low} to {high}"
                        );
                        return wrong(
                            what,
                            "state the box that actions lie in with `clip: [low, high]`",
                        );
                    }
                }
                targets.push(*value as f32);
            }
        }
        Ok(targets)
    }
}
