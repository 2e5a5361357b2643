//! Running models over the steps of a block.
//!
//! [`bind`] binds the options that describe a model to what the model states, [`column`] converts
//! columns to the model's types, [`windows`] copies windows into its inputs, [`carry`] runs
//! recurrent models, and [`again`] runs a few rows a second time in a smaller batch. This file runs
//! an ensemble in batches of one fixed size, filled across trajectories in order.

mod again;
pub(in crate::stage) mod bind;
mod carry;
mod column;
pub(in crate::stage) mod described;
pub(in crate::stage) mod frame_inputs;
mod frames;
mod gets;
pub(in crate::stage) mod names;
pub(in crate::stage) mod pixels;
pub(in crate::stage) mod shape;
mod shown;
pub(in crate::stage) mod state;
pub(in crate::stage) mod windows;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::Int32Type;

use self::state::State;
use self::windows::{Slot, Span, Window};
use crate::dataset::Block;
use crate::dataset::schema::step;
use crate::error::{Error, Result};
use crate::expr::Expression;
use crate::model::{Data, Element, Geometry, Pool, Runtime, Session, Spec, listed};
use crate::video;

pub(in crate::stage) use column::{Column, Numbers, Values};
pub(in crate::stage) use shown::Shown;

/// What feeds one input of a model.
pub(in crate::stage) struct Input {
    /// Name of the input in the graph.
    pub(in crate::stage) name: String,
    /// What it is fed with.
    pub(in crate::stage) of: Of,
    /// Element type of the model's input.
    pub(in crate::stage) element: Element,
    /// Number of values of one step.
    pub(in crate::stage) width: usize,
    /// Steps around a row that the model sees together; `None` for the row alone.
    pub(in crate::stage) window: Option<Window>,
}

/// What an input is fed with.
pub(in crate::stage) enum Of {
    /// A value at each step: a column, or an expression over columns.
    Expression(Expression),
    /// Frames of a video, or images.
    Frames(Shown),
}

impl Input {
    /// Returns the number of values of one row of the input.
    fn cells(&self) -> usize {
        match &self.of {
            Of::Frames(shown) => shown.cells(),
            Of::Expression(_) => self.window.map_or(self.width, |window| window.cells()),
        }
    }

    /// Returns what it shows, if that is frames.
    fn shown(&self) -> Option<&Shown> {
        match &self.of {
            Of::Frames(shown) => Some(shown),
            Of::Expression(_) => None,
        }
    }

    /// Returns the columns that it reads.
    pub(in crate::stage) fn columns(&self) -> &[String] {
        match &self.of {
            Of::Frames(shown) => std::slice::from_ref(&shown.column),
            Of::Expression(expression) => expression.columns(),
        }
    }

    /// Whether all that it shows at `slot` lies in the trajectory; a null counts as beyond its
    /// ends.
    pub(in crate::stage) fn fits(&self, column: &Column, spans: &[Span], slot: &Slot) -> bool {
        let span = &spans[slot.span];
        match (&self.of, self.window) {
            (Of::Frames(shown), _) => {
                shown.fits(span, slot) && unknown(self, column, spans, slot).is_none()
            }
            (_, Some(window)) => window.fits(span, slot.row),
            (_, None) => !column.is_null(slot.row),
        }
    }
}

/// Returns the columns of which `inputs` only ask for frames.
pub(in crate::stage) fn pulls(inputs: &[Input]) -> Vec<String> {
    let shown = inputs
        .iter()
        .filter_map(Input::shown)
        .map(|shown| &shown.column);
    let others = || inputs.iter().filter(|input| input.shown().is_none());
    shown
        .filter(|name| !others().any(|input| input.columns().contains(name)))
        .cloned()
        .collect()
}

/// Returns the columns that feed a model, one per input.
///
/// # Errors
/// Returns an error, which names the input, if an expression fails or a value does not fit the
/// model's type.
pub(in crate::stage) fn columns(inputs: &[Input], block: &Block) -> Result<Vec<Column>> {
    let column = |input: &Input| match &input.of {
        Of::Frames(shown) => Ok(Column::Frames(shown::Source::of(block, &shown.column)?)),
        Of::Expression(expression) => Column::new(
            &expression.evaluate(&block.steps, &block.offsets)?,
            input.element,
        ),
    };
    inputs
        .iter()
        .map(|input| column(input).map_err(|error| error.at(format!("input `{}`", input.name))))
        .collect()
}

/// Returns the rows of the block's trajectories.
pub(in crate::stage) fn spans(block: &Block, is_final: &BooleanArray) -> Vec<Span> {
    let span = |rows: std::ops::Range<usize>| {
        let has_final = !rows.is_empty() && is_final.value(rows.end - 1);
        Span {
            start: rows.start,
            steps: rows.end - usize::from(has_final),
            end: rows.end,
        }
    };
    block.spans().map(span).collect()
}

/// Returns the first row that `input` shows the model at `slot` and that is null in `column`.
pub(in crate::stage) fn unknown(
    input: &Input,
    column: &Column,
    spans: &[Span],
    slot: &Slot,
) -> Option<usize> {
    let nulls = column.nulls()?;
    let span = &spans[slot.span];
    if let Of::Frames(shown) = &input.of {
        return shown.unknown(nulls, span, slot);
    }
    let (past, future) = input
        .window
        .map_or((0, 0), |window| (window.past, window.future));
    let mut rows =
        span.start.max(slot.row.saturating_sub(past))..span.end.min(slot.row + future + 1);
    rows.find(|row| column.is_null(*row))
}

/// One or more models with the same inputs and outputs, ready to run.
pub(in crate::stage) struct Ensemble {
    runtime: Arc<Runtime>,
    /// The models.
    pub(in crate::stage) specs: Vec<Spec>,
    /// Paths of the models as the pipeline names them.
    names: Vec<String>,
    /// Batch size, input shapes and outputs with which they are opened.
    pub(in crate::stage) geometry: Geometry,
    /// States that are carried from step to step.
    states: Vec<State>,
    opened: OnceLock<Vec<Opened>>,
}

/// A model that is ready to run.
struct Opened {
    sessions: Pool,
    /// The model opened for small batches; `None` if it takes only batches of its own size.
    again: Option<again::Again>,
}

/// What a model runs on: a block, what feeds the inputs, the columns for them, and the block's
/// trajectories.
#[derive(Clone, Copy)]
struct Fed<'a> {
    block: &'a Block,
    inputs: &'a [Input],
    columns: &'a [Column],
    spans: &'a [Span],
    /// The frames that a batch shows.
    frames: Option<&'a frames::Batch<'a>>,
    /// Whether numbers are changed by about their rounding error, to learn its effect.
    nudged: bool,
}

/// The sessions of a model, and the number of rows of their batches.
#[derive(Clone, Copy)]
struct Sessions<'a> {
    spec: &'a Spec,
    pool: &'a Pool,
    batch: usize,
}

impl Ensemble {
    /// Creates an ensemble of the models `specs`, which the pipeline calls `names`.
    pub(in crate::stage) fn new(
        runtime: &Arc<Runtime>,
        names: Vec<String>,
        specs: Vec<Spec>,
        geometry: Geometry,
        states: Vec<State>,
    ) -> Ensemble {
        Ensemble {
            runtime: Arc::clone(runtime),
            specs,
            names,
            geometry,
            states,
            opened: OnceLock::new(),
        }
    }

    /// Loads the models for `workers` threads.
    pub(in crate::stage) fn prepare(&self, workers: usize) -> Result<()> {
        if self.opened.get().is_none() {
            let open = |spec| {
                Ok(Opened {
                    sessions: self.runtime.open(spec, &self.geometry, workers)?,
                    again: again::Again::open(&self.runtime, spec, &self.geometry),
                })
            };
            // If another thread was faster, its models are as good.
            let _ = self
                .opened
                .set(self.specs.iter().map(open).collect::<Result<_>>()?);
        }
        Ok(())
    }

    /// Whether the models are recurrent.
    pub(in crate::stage) fn is_recurrent(&self) -> bool {
        !self.states.is_empty()
    }

    /// Returns the rows that run for the values at `slots`: these or, for recurrent models, all
    /// rows of their trajectories up to them.
    pub(in crate::stage) fn rows(&self, spans: &[Span], slots: &[Slot]) -> Vec<Slot> {
        if self.is_recurrent() {
            carry::rows_before(spans, slots)
        } else {
            slots.to_vec()
        }
    }

    /// Returns the id of the models, which is in the row of every action that they predict: the
    /// first 16 digits of each model's hash, joined with `+`.
    pub(in crate::stage) fn id(&self) -> String {
        let id = |spec: &Spec| spec.hash.chars().take(16).collect::<String>();
        self.specs.iter().map(id).collect::<Vec<_>>().join("+")
    }

    /// Returns what a user should know about what the models make.
    pub(in crate::stage) fn warnings(&self) -> Vec<String> {
        let named = self.names.iter().zip(&self.specs);
        let random = named.filter(|(_, spec)| !spec.random.is_empty());
        random
            .map(|(name, spec)| {
                format!(
                    "`allow_random: true`: a repeated run may write other values, because in \
                     {name} {}",
                    listed(&spec.random)
                )
            })
            .collect()
    }

    /// Returns what predictions from `inputs` depend on besides options and data, for the
    /// fingerprint.
    pub(in crate::stage) fn depends(&self, inputs: &[Input]) -> BTreeMap<String, String> {
        let frames = inputs.iter().any(|input| input.shown().is_some());
        let models = self.names.iter().zip(&self.specs).flat_map(|(name, spec)| {
            let file = |(location, hash): (&String, &String)| match location.as_str() {
                "" => (format!("file {name}"), hash.clone()),
                location => (format!("file {name}, weights {location}"), hash.clone()),
            };
            // With weights in other files, the model's hash is one over those of all files.
            let files = spec.files.iter().filter(|_| spec.files.len() > 1).map(file);
            let own = (format!("model {name}"), spec.hash.clone());
            std::iter::once(own).chain(files).collect::<Vec<_>>()
        });
        let runtime = [
            ("batch".to_owned(), self.geometry.batch.to_string()),
            (
                "runtime".to_owned(),
                format!("{} {}", self.runtime.name(), self.runtime.version()),
            ),
            ("devices".to_owned(), self.runtime.devices().join(", ")),
        ];
        let tf32 = self.runtime.tf32().then(|| "tf32".to_owned());
        let narrowed = self.specs.iter().find(|spec| !spec.narrowed.is_empty());
        let narrowed = narrowed
            .map(|spec| format!("float32 and int32, although {}", spec.narrowed.join("; ")));
        let random = self.specs.iter().find(|spec| !spec.random.is_empty());
        let said = [
            ("precision", tf32.or(narrowed)),
            ("random", random.map(|spec| spec.random.join("; "))),
            ("frames", frames.then(video::version).and_then(Result::ok)),
        ];
        let said = said
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)));
        models.chain(runtime).chain(said).collect()
    }

    /// Runs every model at `slots`, in batches of the fixed size across trajectories, and appends
    /// the values of output `index` of the geometry to `made[index]`, ordered by model and slot.
    /// `cells[index]` is the number of values per slot.
    pub(in crate::stage) fn predict(
        &self,
        block: &Block,
        (inputs, columns): (&[Input], &[Column]),
        spans: &[Span],
        slots: &[Slot],
        cells: &[usize],
        made: &mut [Vec<f64>],
    ) -> Result<()> {
        let opened = self
            .opened
            .get()
            .ok_or_else(|| Error::failed("the models are not loaded"))?;
        let fed = Fed {
            block,
            inputs,
            columns,
            spans,
            frames: None,
            nudged: false,
        };
        let shows = inputs.iter().any(|input| input.shown().is_some());
        if shows && !self.is_recurrent() {
            return self.predict_frames(opened, fed, slots, (cells, made));
        }
        for (opened, spec) in opened.iter().zip(&self.specs) {
            let sessions = Sessions {
                spec,
                pool: &opened.sessions,
                batch: self.geometry.batch,
            };
            let before: Vec<usize> = made.iter().map(Vec::len).collect();
            self.run(sessions, fed, slots, (cells, &mut *made))?;
            if let Some(again) = &opened.again {
                let own = made.iter().zip(before).map(|(made, from)| &made[from..]);
                again.ensure_same(self, spec, fed, slots, cells, &own.collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }

    /// Runs a model at `slots`, and appends the values of its outputs to `made`.
    fn run(
        &self,
        sessions: Sessions,
        fed: Fed,
        slots: &[Slot],
        (cells, made): (&[usize], &mut [Vec<f64>]),
    ) -> Result<()> {
        if self.is_recurrent() {
            return self.carry(sessions, fed, slots, (cells, made));
        }
        let Sessions { spec, pool, batch } = sessions;
        for slots in slots.chunks(batch) {
            pool.with(|session| {
                feed(session, spec, fed, slots)?;
                session.run(slots.len())?;
                for (index, (cells, made)) in cells.iter().zip(made.iter_mut()).enumerate() {
                    let (all, own) = (batch * cells, slots.len() * cells);
                    take(session.output(index), all, own, made)
                        .map_err(|error| error.at(spec.path.display()))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Fills the inputs of a session with the rows at `slots`.
fn feed(session: &mut Session, spec: &Spec, fed: Fed, slots: &[Slot]) -> Result<()> {
    for (index, (input, column)) in fed.inputs.iter().zip(fed.columns).enumerate() {
        let place = spec.inputs.iter().position(|port| port.name == input.name);
        let place = place.unwrap_or(usize::MAX);
        match (column, &input.of, fed.frames) {
            (Column::Values(column), ..) => column.feed(
                session.input(place),
                input.window.as_ref(),
                input.cells(),
                fed.spans,
                slots,
            )?,
            (_, Of::Frames(shown), Some(frames)) => {
                frames.feed(index, shown, session.input(place), fed.spans, slots)?;
            }
            _ => return Err(Error::failed("an input has no frames")),
        }
        if fed.nudged {
            session.input(place).nudge();
        }
    }
    Ok(())
}

/// Appends the first `size` values of a model's output, which must have `batch` values, to `into`.
fn take(output: Data<'_>, batch: usize, size: usize, into: &mut Vec<f64>) -> Result<()> {
    if output.len() != batch {
        return Err(Error::failed(format!(
            "the model's output has {} values, but a batch should have {batch}",
            output.len()
        ))
        .hint("the output does not have the shape that the model states: export the model again"));
    }
    match output {
        Data::F32(values) => into.extend(values[..size].iter().map(|value| f64::from(*value))),
        Data::F64(values) => into.extend_from_slice(&values[..size]),
        Data::F16(values) => into.extend(values[..size].iter().map(|value| f64::from(*value))),
        Data::I32(values) => into.extend(values[..size].iter().map(|value| f64::from(*value))),
        Data::I64(values) => into.extend(values[..size].iter().map(|value| *value as f64)),
        Data::U8(values) => into.extend(values[..size].iter().map(|value| f64::from(*value))),
    }
    Ok(())
}

/// Returns the place of a row for messages, such as `trajectory 7, step 1`.
pub(in crate::stage) fn place(block: &Block, span: usize, row: usize) -> String {
    let id = block.ids().ok().and_then(|ids| ids.get(span).copied());
    id.map_or_else(
        || step_of(block, row),
        |id| format!("trajectory {id}, {}", step_of(block, row)),
    )
}

/// Returns the step of a row for messages, such as `step 1`.
pub(in crate::stage) fn step_of(block: &Block, row: usize) -> String {
    let steps = block
        .steps
        .column_by_name(step::STEP)
        .and_then(|column| column.as_primitive_opt::<Int32Type>());
    steps.map_or_else(
        || format!("row {row}"),
        |steps| format!("step {}", steps.value(row)),
    )
}
