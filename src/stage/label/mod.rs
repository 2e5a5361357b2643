//! `label`: fills actions that were not recorded with the predictions of a model.
//!
//! Options are bound in [`bind`], windows assembled in [`super::assemble`], predictions reduced to labels in [`reduce`], and
//! columns written in [`columns`]. What is here runs a chunk through them.

mod bind;
mod columns;
mod options;
mod outputs;
mod reduce;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, SchemaRef};

pub(super) use self::bind::shown;
use self::columns::{Filled, Written};
pub(super) use self::options::Limit;
use self::options::{Label, NonFinite};
use self::reduce::{Horizon, Predictions, needed};
use super::assemble::{Edge, Slot, Span, Window, fill, gather, spans};
use super::{Changes, Stage, Tally, Transform};
use crate::dataset::Chunk;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::expr::Expression;
use crate::model::{Data, DataMut, Element, Geometry, Pool, Runtime, Session, Spec};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "label",
    schema: |generator| generator.subschema_for::<Label>(),
    bind: bind::bind,
    sample: "{model: idm.onnx, window: {past: 1, future: 1, edge: repeat}, clip: [-1, 1]}",
};

/// The stage with its options bound.
struct Labeller {
    runtime: Arc<Runtime>,
    /// The members of the ensemble, which have the same inputs and outputs.
    specs: Vec<Spec>,
    /// Their paths as the pipeline has them.
    names: Vec<String>,
    geometry: Geometry,
    feed: Feed,
    edge: Edge,
    horizon: Horizon,
    action: Action,
    /// Lowest and highest label, one per dimension.
    clip: Option<[Vec<f64>; 2]>,
    non_finite: NonFinite,
    written: Written,
    steps: SchemaRef,
    reads: Vec<String>,
    pools: OnceLock<Vec<Pool>>,
}

/// Where the model's inputs come from.
enum Feed {
    /// Windows of `observation`, flattened into the only input.
    Window(Window, Element),
    /// Expressions, one for each input in the graph's order.
    Named(Vec<Named>),
}

/// An expression that feeds an input.
struct Named {
    input: String,
    expression: Expression,
    element: Element,
    /// Values of one row.
    width: usize,
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

/// A column on the way into a model: values of every row of a chunk, and which rows have none.
pub(super) struct Column {
    pub(super) values: Values,
    nulls: Option<NullBuffer>,
}

/// Values in the element type of a model's input.
pub(super) enum Values {
    F32(ScalarBuffer<f32>),
    F64(ScalarBuffer<f64>),
    I32(ScalarBuffer<i32>),
    I64(ScalarBuffer<i64>),
}

impl Column {
    /// A vector or scalar column, cast once. A vector with a null in it counts as null.
    pub(super) fn new(column: &ArrayRef, element: Element) -> Result<Column> {
        let (flat, width) = match column.data_type() {
            DataType::FixedSizeList(_, width) => {
                let list = column.as_fixed_size_list();
                let width = usize::try_from(*width).unwrap_or(0);
                (list.values().slice(list.value_offset(0).unsigned_abs() as usize, list.len() * width), width)
            }
            _ => (Arc::clone(column), 1),
        };
        let mut nulls = column.nulls().cloned();
        if width > 0 && flat.null_count() > 0 {
            let whole = (0..column.len()).map(|row| (row * width..(row + 1) * width).all(|place| flat.is_valid(place)));
            nulls = NullBuffer::union(nulls.as_ref(), Some(&whole.collect()));
        }
        // A value that the model's type cannot hold is an error, not a null.
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let cast = |to: &DataType| if flat.data_type() == to { Ok(Arc::clone(&flat)) } else { cast_with_options(&flat, to, &strict) };
        let values = match element {
            Element::F32 => Values::F32(cast(&DataType::Float32)?.as_primitive::<Float32Type>().values().clone()),
            Element::F64 => Values::F64(cast(&DataType::Float64)?.as_primitive::<Float64Type>().values().clone()),
            Element::I32 => Values::I32(cast(&DataType::Int32)?.as_primitive::<Int32Type>().values().clone()),
            Element::I64 => Values::I64(cast(&DataType::Int64)?.as_primitive::<Int64Type>().values().clone()),
            Element::Other => return Err(Error::failed("a model's input has an element type that cannot be fed")),
        };
        Ok(Column { values, nulls: nulls.filter(|nulls| nulls.null_count() > 0) })
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Fills an input of a session with rows of `cells` values.
    fn feed(&self, input: DataMut<'_>, window: Option<&Window>, cells: usize, spans: &[Span], slots: &[Slot]) -> Result<()> {
        fn with<T: Copy + Default>(
            window: Option<&Window>,
            cells: usize,
            spans: &[Span],
            slots: &[Slot],
            values: &[T],
            out: &mut [T],
        ) -> Result<()> {
            let size = slots.len() * cells;
            let out = out.get_mut(..size).ok_or_else(|| Error::failed("a model's input is smaller than its batch"))?;
            match window {
                Some(window) => fill(window, spans, slots, values, out),
                None => gather(cells, slots, values, out),
            }
            Ok(())
        }
        match (&self.values, input) {
            (Values::F32(values), DataMut::F32(out)) => with(window, cells, spans, slots, values, out),
            (Values::F64(values), DataMut::F64(out)) => with(window, cells, spans, slots, values, out),
            (Values::I32(values), DataMut::I32(out)) => with(window, cells, spans, slots, values, out),
            (Values::I64(values), DataMut::I64(out)) => with(window, cells, spans, slots, values, out),
            _ => Err(Error::failed("a model's input has another element type than the model said")),
        }
    }
}

impl Labeller {
    /// The columns that feed the model, one per input.
    fn columns(&self, chunk: &Chunk) -> Result<Vec<Column>> {
        match &self.feed {
            Feed::Window(_, element) => {
                let observation = chunk.steps.column_by_name(step::OBSERVATION);
                let observation = observation.ok_or_else(|| Error::failed("steps has no column `observation`"))?;
                Ok(vec![Column::new(observation, *element)?])
            }
            Feed::Named(inputs) => {
                let column = |input: &Named| Column::new(&input.expression.evaluate(&chunk.steps, &chunk.offsets)?, input.element);
                inputs.iter().map(|input| column(input).map_err(|error| error.at(format!("input `{}`", input.input)))).collect()
            }
        }
    }

    /// Whether the model can be run at a row: `skip` leaves out what the edge of a trajectory cuts.
    fn possible(&self, spans: &[Span], columns: &[Column], slot: &Slot) -> bool {
        match &self.feed {
            _ if self.edge != Edge::Skip => true,
            Feed::Window(window, _) => window.fits(&spans[slot.span], slot.row),
            Feed::Named(_) => columns.iter().all(|column| !column.is_null(slot.row)),
        }
    }

    /// Refuses nulls in what is about to be fed.
    fn refuse_nulls(&self, chunk: &Chunk, spans: &[Span], columns: &[Column], slots: &[Slot]) -> Result<()> {
        for (index, column) in columns.iter().enumerate().filter(|(_, column)| column.nulls.is_some()) {
            let (name, window) = match &self.feed {
                Feed::Window(window, _) => ("`observation`".to_owned(), (window.past, window.future)),
                Feed::Named(inputs) => (format!("the model's input `{}`", inputs[index].input), (0, 0)),
            };
            for slot in slots {
                let span = &spans[slot.span];
                let mut rows = span.start.max(slot.row.saturating_sub(window.0))..span.end.min(slot.row + window.1 + 1);
                if let Some(row) = rows.find(|row| column.is_null(*row)) {
                    return Err(Error::failed(format!(
                        "{}: {name} is null, and the label of {} depends on it",
                        place(chunk, slot.span, row),
                        step_of(chunk, slot.row)
                    ))
                    .hint("drop such steps with `filter: {steps: …}` before `label`, or give them a value with `derive`"));
                }
            }
        }
        Ok(())
    }

    /// Runs the models at `slots`, in batches of the fixed size across trajectories.
    fn predict(&self, spans: &[Span], columns: &[Column], slots: &[Slot]) -> Result<Predictions> {
        let pools = self.pools.get().ok_or_else(|| Error::failed("the model of `label` was not loaded"))?;
        let cells = self.horizon.length * self.horizon.width;
        let with_std = self.geometry.outputs.len() > 1;
        let room = || Vec::with_capacity(slots.len() * cells * pools.len());
        let mut made = Predictions { means: room(), stds: with_std.then(room) };
        for (pool, spec) in pools.iter().zip(&self.specs) {
            for slots in slots.chunks(self.geometry.batch) {
                let batch = |session: &mut Session| {
                    match &self.feed {
                        Feed::Window(window, _) => columns[0].feed(session.input(0), Some(window), window.cells(), spans, slots)?,
                        Feed::Named(inputs) => {
                            for (index, (input, column)) in inputs.iter().zip(columns).enumerate() {
                                column.feed(session.input(index), None, input.width, spans, slots)?;
                            }
                        }
                    }
                    session.run(slots.len())?;
                    let (batch, rows) = (self.geometry.batch * cells, slots.len() * cells);
                    take(session.output(0), batch, rows, &mut made.means)?;
                    made.stds.as_mut().map_or(Ok(()), |stds| take(session.output(1), batch, rows, stds))
                };
                pool.with(batch).map_err(|error| error.at(spec.path.display()))?;
            }
        }
        Ok(made)
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
        let action = chunk.steps.column_by_name(step::ACTION);
        let missing = |slot: &Slot| !is_final.value(slot.row) && action.is_none_or(|action| action.is_null(slot.row));
        let rows = spans.iter().enumerate().flat_map(|(index, span)| (span.start..span.steps).map(move |row| Slot { row, span: index }));
        let targets: Vec<Slot> = rows.filter(missing).collect();
        let filled = if targets.is_empty() {
            Filled::none(chunk.len())
        } else {
            let columns = self.columns(&chunk)?;
            let slots = needed(&self.horizon, &spans, &targets, |slot| self.possible(&spans, &columns, slot));
            self.refuse_nulls(&chunk, &spans, &columns, &slots)?;
            let made = predict(&spans, &columns, &slots)?;
            let reduced = reduce::reduce(&self.horizon, &spans, &targets, &slots, self.specs.len(), &made);
            self.settle(&chunk, &targets, &reduced, tally)?
        };
        columns::write(chunk, &self.written, &filled, tally)
    }

    /// Turns reduced predictions into labels: classes chosen, bounds kept, what is not finite dealt with.
    fn settle(&self, chunk: &Chunk, targets: &[Slot], reduced: &reduce::Reduced, tally: &mut Tally) -> Result<Filled> {
        let width = self.horizon.width;
        let mut filled = Filled { dropped: vec![false; chunk.len()], width: self.label_width(), ..Filled::default() };
        let mut broken = vec![false; targets.len()];
        for (index, slot) in targets.iter().enumerate() {
            let own = index * width..(index + 1) * width;
            if reduced.votes[index] == 0 {
                continue;
            }
            let std = reduced.stds.as_ref().filter(|_| self.written.std.is_some());
            let Some(dimension) = self.fault(&reduced.values[own.clone()], std.map(|stds| &stds[own])) else { continue };
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
        for (index, slot) in targets.iter().enumerate().filter(|(_, slot)| !filled.dropped[slot.span]) {
            if reduced.votes[index] == 0 {
                filled.skipped += 1;
            } else if broken[index] {
                filled.broken += 1;
            } else {
                let own = index * width..(index + 1) * width;
                let clipped = self.push_label(&reduced.values[own.clone()], &mut filled.values);
                tally.count("clipped", u64::from(clipped));
                filled.rows.push(slot.row);
                filled.votes.push(reduced.votes[index]);
                if let Some(stds) = reduced.stds.as_ref().filter(|_| self.written.std.is_some()) {
                    filled.stds.extend_from_slice(&stds[own]);
                }
            }
        }
        Ok(filled)
    }

    /// Values of one label.
    fn label_width(&self) -> usize {
        if matches!(self.action, Action::Continuous { .. }) { self.horizon.width } else { 1 }
    }

    /// The dimension in which a label is not finite.
    fn fault(&self, values: &[f64], std: Option<&[f64]>) -> Option<usize> {
        match self.action {
            Action::Continuous { single } => {
                // A value can be finite in float64 and not in float32.
                let finite = |value: &f64| if single { (*value as f32).is_finite() } else { value.is_finite() };
                let fault = values.iter().position(|value| !finite(value));
                fault.or_else(|| std.and_then(|std| std.iter().position(|value| !finite(value))))
            }
            Action::Logits if reduce::argmax(values).is_none() => Some(values.iter().position(|value| !value.is_finite()).unwrap_or(0)),
            Action::Logits | Action::Class => None,
        }
    }

    /// Appends a label and says whether a bound changed it.
    fn push_label(&self, values: &[f64], labels: &mut Vec<f64>) -> bool {
        let single = match self.action {
            Action::Continuous { single } => single,
            Action::Logits => {
                labels.push(reduce::argmax(values).unwrap_or(0) as f64);
                return false;
            }
            Action::Class => {
                labels.extend_from_slice(values);
                return false;
            }
        };
        let mut clipped = false;
        for (dimension, value) in values.iter().enumerate() {
            let value = if single { f64::from(*value as f32) } else { *value };
            let kept = self.clip.as_ref().map_or(value, |[low, high]| value.max(low[dimension]).min(high[dimension]));
            clipped |= kept != value;
            labels.push(kept);
        }
        clipped
    }
}

/// Copies the first `size` values of a model's output, which has to have `batch` of them.
fn take(output: Data<'_>, batch: usize, size: usize, into: &mut Vec<f64>) -> Result<()> {
    let found = match output {
        Data::F32(values) => values.len(),
        Data::F64(values) => values.len(),
        Data::I32(values) => values.len(),
        Data::I64(values) => values.len(),
    };
    if found != batch {
        return Err(Error::failed(format!("the model's output has {found} values where a batch has {batch}"))
            .hint("the shape that the model states for its output is not the one it gives"));
    }
    match output {
        Data::F32(values) => into.extend(values[..size].iter().map(|value| f64::from(*value))),
        Data::F64(values) => into.extend_from_slice(&values[..size]),
        Data::I32(values) => into.extend(values[..size].iter().map(|value| f64::from(*value))),
        Data::I64(values) => into.extend(values[..size].iter().map(|value| *value as f64)),
    }
    Ok(())
}

/// Names a row of a chunk to a person.
pub(super) fn place(chunk: &Chunk, span: usize, row: usize) -> String {
    let id = chunk.ids().ok().and_then(|ids| ids.get(span).copied());
    id.map_or_else(|| step_of(chunk, row), |id| format!("trajectory {id}, {}", step_of(chunk, row)))
}

fn step_of(chunk: &Chunk, row: usize) -> String {
    let steps = chunk.steps.column_by_name(step::STEP).and_then(|column| column.as_primitive_opt::<Int32Type>());
    steps.map_or_else(|| format!("row {row}"), |steps| format!("step {}", steps.value(row)))
}

impl Transform for Labeller {
    fn steps(&self) -> SchemaRef {
        Arc::clone(&self.steps)
    }

    fn changes(&self) -> Changes {
        let names = [trajectory::ACTION_SUM, trajectory::ACTION_SUM_SQ, trajectory::CONTENT_HASH];
        Changes { trajectories: names.map(str::to_owned).to_vec(), rows: self.non_finite == NonFinite::Drop, splits: false }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(self.reads.clone())
    }

    fn prepare(&self, workers: usize) -> Result<()> {
        if self.pools.get().is_none() {
            let open = |spec| self.runtime.open(spec, &self.geometry, workers);
            // Where another thread was faster, its pools are as good.
            let _ = self.pools.set(self.specs.iter().map(open).collect::<Result<_>>()?);
        }
        Ok(())
    }

    fn depends(&self) -> BTreeMap<String, String> {
        let models = self.names.iter().zip(&self.specs).map(|(name, spec)| (format!("model {name}"), spec.hash.clone()));
        let runtime = [
            ("batch".to_owned(), self.geometry.batch.to_string()),
            ("runtime".to_owned(), format!("{} {}", self.runtime.name(), self.runtime.version())),
            ("devices".to_owned(), self.runtime.devices().join(", ")),
        ];
        models.chain(runtime).collect()
    }

    fn apply(&self, chunk: Chunk, tally: &mut Tally) -> Result<Chunk> {
        self.label(chunk, tally, |spans, columns, slots| self.predict(spans, columns, slots))
    }
}

#[cfg(test)]
mod tests;
