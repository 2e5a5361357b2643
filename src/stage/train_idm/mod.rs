//! `train_idm`: learns an inverse dynamics model from the recorded actions and writes it as ONNX.
//!
//! The model is p(a_t | s_{t-past}, …, s_{t+future}): SS-ORL (Zheng et al., ICML 2023) sees one observation before and one after,
//! VPT (Baker et al., NeurIPS 2022) as many after as before. Self-training goes back to Yarowsky (1995).
//!
//! The stage changes no step. It says what is learnt, from which steps of a block, and what the model will look like, so
//! that a `label` behind it can be bound before there is a model; the learning itself is [`crate::train`]'s.

mod options;

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use serde_json::{Value, json};

use self::options::{Activation, Head, SelfTraining, Statistics, TrainIdmOptions};
use super::support::infer::bind::shown;
use super::support::infer::windows::{Edge, Slot, Window, fill};
use super::support::infer::{Column, Values, place, spans};
use super::support::rank;
use super::{Bound, Context, Misfit, Stage};
use crate::dataset::Block;
use crate::dataset::schema::{step, trajectory};
use crate::error::{Error, Result};
use crate::model::{Element, Port};
use crate::train::{self, Examples, Part};

/// The registry entry.
pub(super) const STAGE: Stage = Stage {
    name: "train_idm",
    role: super::Role::TrainModel { path: "out" },
    schema: |generator| generator.subschema_for::<TrainIdmOptions>(),
    bind,
    sample: "{out: ../out/idm.onnx, window: {past: 1, future: 1}, head: gaussian, clip: [-5, 5], steps: 1000}",
};

/// Bytes of windows that the shuffle buffer holds where it is not stated.
const BUFFER: usize = 256 << 20;
/// Longest gradient of a Gaussian head where it is not stated.
const CLIP_NORM: f64 = 100.0;
/// Bytes of parameters that a model may have: protobuf, and so an ONNX file, ends at 2 GiB.
const LARGEST: u128 = 2_000_000_000;

/// The inputs and outputs of a model that is yet to be trained.
pub struct Ports {
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
}

/// A model to be learnt, bound to the columns that it is learnt from.
pub struct TrainIdm {
    /// Where it is written, as the pipeline has it.
    pub out: String,
    /// Whether one that was learnt otherwise is replaced.
    pub overwrite: bool,
    /// Everything of the options that the model depends on.
    pub recipe: Value,
    /// What is learnt.
    pub task: train::Task,
    /// How.
    pub options: train::Options,
    window: Window,
    validation: f64,
}

fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: TrainIdmOptions = super::options(value)?;
    let width = observation(context)?;
    let (actions, head) = actions(&given, context)?;
    let share = |value: f64, key: &str, fits: bool, range: &str| match fits {
        true => Ok(value),
        false => Err(Misfit::new(format!("`{key}` is {range}, not {value}")).at(key)),
    };
    share(
        given.dropout,
        "dropout",
        (0.0..1.0).contains(&given.dropout),
        "a share from 0 to below 1",
    )?;
    share(
        given.validation,
        "validation",
        given.validation > 0.0 && given.validation < 1.0,
        "a share between 0 and 1",
    )?;
    share(
        given.lr,
        "lr",
        given.lr > 0.0 && given.lr.is_finite(),
        "above 0",
    )?;
    share(
        given.weight_decay,
        "weight_decay",
        given.weight_decay >= 0.0 && given.weight_decay.is_finite(),
        "0 or above",
    )?;
    if let Some(layer) = given.hidden.iter().position(|size| *size == 0) {
        return Err(Misfit::new("a hidden layer of no values passes nothing on")
            .at(layer.to_string())
            .at("hidden"));
    }
    share(
        given.clip_norm.unwrap_or(0.0),
        "clip_norm",
        given.clip_norm.is_none_or(|norm| norm >= 0.0),
        "0 or above",
    )?;
    let clip_norm = given
        .clip_norm
        .or((head == train::Head::Gaussian).then_some(CLIP_NORM))
        .filter(|norm| *norm > 0.0);
    let budget = match (given.steps, given.epochs) {
        (Some(_), Some(_)) => {
            return Err(Misfit::new("`steps` and `epochs` are two budgets")
                .help("give one of them")
                .at("epochs"));
        }
        (Some(0), None) => {
            return Err(Misfit::new("`steps` is 0, and nothing would be learnt").at("steps"));
        }
        (None, Some(0)) => {
            return Err(Misfit::new("`epochs` is 0, and nothing would be learnt").at("epochs"));
        }
        (None, Some(epochs)) => train::Budget::Epochs(epochs),
        (steps, None) => train::Budget::Updates(steps.unwrap_or(10_000)),
    };
    let self_training = given
        .self_training
        .map(|own| self_training(own, head, given.members))
        .transpose()?;
    let window = Window {
        past: given.window.past.unwrap_or(1),
        future: given.window.future.unwrap_or(1),
        width,
        edge: given.window.edge.unwrap_or_default(),
    };
    if window.edge == Edge::Ssorl && window.future != 1 {
        let message = format!(
            "`edge: ssorl` sees exactly one observation after the step, and `future` is {}",
            window.future
        );
        return Err(Misfit::new(message)
            .help("`future: 1`, or another edge policy")
            .at("window"));
    }
    fits_into_a_file(&given, &window, head, actions)?;
    let bounds = bounds(&given, head, actions)?;
    let task = train::Task {
        past: window.past,
        future: window.future,
        width,
        actions,
        bounds,
    };
    let example = 4 * (task.cells() + actions) + 8;
    let mut recipe = value.clone();
    if let Value::Object(recipe) = &mut recipe {
        recipe.retain(|key, _| key != "out" && key != "overwrite");
    }
    let options = train::Options {
        head,
        hidden: given.hidden,
        activation: match given.activation {
            Activation::Relu => train::Activation::Relu,
            Activation::Tanh => train::Activation::Tanh,
            Activation::Elu => train::Activation::Elu,
        },
        statistics: match given.statistics {
            Statistics::Recorded => train::Statistics::Recorded,
            Statistics::Selection => train::Statistics::Selection,
        },
        dropout: given.dropout,
        members: given.members.max(1),
        bootstrap: given.bootstrap,
        batch: given.batch.max(1),
        adam: train::Adam {
            learning_rate: given.lr,
            weight_decay: given.weight_decay,
            decoupled: given.decoupled,
            clip_norm,
        },
        budget,
        patience: given.patience,
        buffer: given.buffer.unwrap_or(BUFFER / example).max(1),
        seed: given.seed,
        self_training,
    };
    let training = TrainIdm {
        out: given.out,
        overwrite: given.overwrite,
        recipe,
        task,
        options,
        window,
        validation: given.validation,
    };
    Ok(Bound::Train(Box::new(training)))
}

/// Values of an observation.
fn observation(context: &Context) -> Result<usize, Misfit> {
    let Ok(field) = context.steps.field_with_name(step::OBSERVATION) else {
        return Err(Misfit::new(
            "there is nothing to learn from: steps have no column `observation`",
        ));
    };
    let (element, width) = match field.data_type() {
        DataType::FixedSizeList(child, width) => {
            (child.data_type(), usize::try_from(*width).unwrap_or(0))
        }
        other => (other, 1),
    };
    if width == 0 || !(element.is_numeric() || *element == DataType::Boolean) {
        let message = format!(
            "`observation` is {}, and a model learns from vectors of numbers",
            shown(field.data_type())
        );
        return Err(
            Misfit::new(message).help("make a vector of it first, with `derive` or when importing")
        );
    }
    Ok(width)
}

/// Dimensions or classes of an action, and the head that predicts it.
fn actions(given: &TrainIdmOptions, context: &Context) -> Result<(usize, train::Head), Misfit> {
    let Ok(field) = context.steps.field_with_name(step::ACTION) else {
        return Err(Misfit::new(
            "there is nothing to learn: steps have no column `action`",
        ));
    };
    let (element, width) = match field.data_type() {
        DataType::FixedSizeList(child, width) => {
            (child.data_type(), usize::try_from(*width).unwrap_or(0))
        }
        other => (other, 1),
    };
    match (element, given.head) {
        (DataType::Int32 | DataType::Int64, None | Some(Head::Categorical)) if width == 1 => {
            let Some(classes) = given.classes else {
                return Err(Misfit::new(
                    "how many discrete actions there are is not known before the data are read",
                )
                .help("say it with `classes`"));
            };
            if classes < 2 {
                return Err(Misfit::new(format!(
                    "`classes` is {classes}, and there is nothing to choose"
                ))
                .help("at least 2")
                .at("classes"));
            }
            if given.clip.is_some() {
                return Err(Misfit::new("a discrete action has no bounds")
                    .help("leave `clip` out")
                    .at("clip"));
            }
            Ok((classes, train::Head::Categorical))
        }
        (DataType::Float32 | DataType::Float64, head)
            if head != Some(Head::Categorical) && width > 0 =>
        {
            if given.classes.is_some() {
                let message = format!(
                    "`action` is {}, which has dimensions and no classes",
                    shown(field.data_type())
                );
                return Err(Misfit::new(message)
                    .help("leave `classes` out")
                    .at("classes"));
            }
            let gaussian = head == Some(Head::Gaussian);
            Ok((
                width,
                if gaussian {
                    train::Head::Gaussian
                } else {
                    train::Head::Deterministic
                },
            ))
        }
        (DataType::Int32 | DataType::Int64 | DataType::Float32 | DataType::Float64, Some(head)) => {
            let (wanted, help) = match head {
                Head::Categorical => (
                    "one int32 or int64 a step",
                    "`deterministic` or `gaussian` learn continuous actions",
                ),
                _ => (
                    "a vector of floating-point numbers",
                    "`categorical` learns discrete actions",
                ),
            };
            Err(Misfit::new(format!(
                "`action` is {}, and this head learns {wanted}",
                shown(field.data_type())
            ))
            .help(help)
            .at("head"))
        }
        _ => Err(Misfit::new(format!(
            "`action` is {}, and a model learns float32 or float64 vectors, or int32 or int64 classes",
            shown(field.data_type())
        ))),
    }
}

fn self_training(
    own: SelfTraining,
    head: train::Head,
    members: usize,
) -> Result<train::SelfTraining, Misfit> {
    let at = |misfit: Misfit| misfit.at("self_training");
    if !(own.keep > 0.0 && own.keep <= 1.0) {
        return Err(at(Misfit::new(format!(
            "`keep` is a share above 0, up to 1, not {}",
            own.keep
        ))
        .at("keep")));
    }
    if head == train::Head::Deterministic && members < 2 {
        return Err(at(Misfit::new(
            "a single deterministic model does not say how certain it is, so none of its labels is the most certain",
        )
        .help("`head: gaussian`, or several `members`")));
    }
    Ok(train::SelfTraining {
        rounds: own.rounds,
        keep: own.keep,
    })
}

/// Whether the model's parameters fit into an ONNX file, whatever numbers the options hold.
fn fits_into_a_file(
    given: &TrainIdmOptions,
    window: &Window,
    head: train::Head,
    actions: usize,
) -> Result<(), Misfit> {
    let wide = |size: usize| size as u128;
    let inputs = (wide(window.past) + 1 + wide(window.future)).saturating_mul(wide(window.width));
    let sizes = || given.hidden.iter().copied().map(wide);
    let layers = std::iter::once(inputs)
        .chain(sizes())
        .zip(sizes().chain([wide(actions)]));
    let parameters = layers.fold(0, |sum: u128, (from, to)| {
        sum.saturating_add((from + 1).saturating_mul(to))
    });
    let networks = wide(given.members.max(1)) * if head == train::Head::Gaussian { 2 } else { 1 };
    let bytes = parameters.saturating_mul(networks).saturating_mul(4);
    if bytes <= LARGEST {
        return Ok(());
    }
    let message = format!(
        "the model would have {:.1e} parameters, and an ONNX file has no room for more than 5e8",
        bytes as f64 / 4.0
    );
    Err(Misfit::new(message)
        .help("a smaller `window`, smaller layers in `hidden`, or fewer `members`"))
}

/// Lowest and highest action.
fn bounds(
    given: &TrainIdmOptions,
    head: train::Head,
    actions: usize,
) -> Result<Option<[Vec<f64>; 2]>, Misfit> {
    let Some(limits) = &given.clip else {
        return Ok(
            (head == train::Head::Gaussian).then(|| [vec![-1.0; actions], vec![1.0; actions]])
        );
    };
    let each = |index: usize| {
        limits[index]
            .each(actions)
            .map_err(|misfit| misfit.at(index.to_string()).at("clip"))
    };
    let [low, high] = [each(0)?, each(1)?];
    match (0..actions).find(|dimension| {
        low[*dimension] >= high[*dimension] || !(high[*dimension] - low[*dimension]).is_finite()
    }) {
        None => Ok(Some([low, high])),
        Some(dimension) => {
            let message = format!(
                "`clip` is no box: its low {} is not below its high {}",
                low[dimension], high[dimension]
            );
            Err(Misfit::new(message).help("`clip: [low, high]`").at("clip"))
        }
    }
}

impl TrainIdm {
    /// Returns the inputs and outputs that the model will have.
    pub fn ports(&self) -> Ports {
        let port = |name: &str, width: usize| Port {
            name: name.to_owned(),
            element: Element::F32,
            shape: vec![None, Some(width)],
        };
        let mut outputs = vec![port("action", self.task.actions)];
        if self.options.has_std() {
            outputs.push(port("std", self.task.actions));
        }
        Ports {
            inputs: vec![port("observation", self.task.cells())],
            outputs,
        }
    }

    /// What `label` finds in the file of window, edge and bounds.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::from([
            ("trajmill.past".to_owned(), self.task.past.to_string()),
            ("trajmill.future".to_owned(), self.task.future.to_string()),
            (
                "trajmill.edge".to_owned(),
                self.window.edge.name().to_owned(),
            ),
        ]);
        if let Some(bounds) = &self.task.bounds {
            let side = |side: &Vec<f64>| match side.iter().all(|bound| *bound == side[0]) {
                true => json!(side[0]).to_string(),
                false => json!(side).to_string(),
            };
            metadata.insert(
                "trajmill.clip".to_owned(),
                bounds.each_ref().map(side).join(","),
            );
        }
        metadata
    }

    /// Columns of steps that are learnt from, of those that there are.
    pub fn reads(&self) -> [&'static str; 6] {
        [
            step::TRAJECTORY_ID,
            step::STEP,
            step::IS_FINAL,
            step::OBSERVATION,
            step::ACTION,
            step::ACTION_SOURCE,
        ]
    }

    /// Columns of trajectories by which they are parted.
    pub const PARTED_BY: &'static str = trajectory::RECORDED_ACTIONS;

    /// Rows of a table of trajectories by part: to learn from, to hold out, and those with steps to be labelled by the model.
    ///
    /// # Errors
    /// Where too few trajectories have recorded actions.
    pub fn split(&self, table: &RecordBatch) -> Result<[Vec<u32>; 3]> {
        let recorded = rank::integers(table, TrainIdm::PARTED_BY)?;
        let lengths = rank::integers(table, trajectory::LENGTH)?;
        let order = rank::shuffled(table, "train_idm", self.options.seed)?;
        let labelled: Vec<u32> = order
            .into_iter()
            .filter(|row| recorded[*row as usize] > 0)
            .collect();
        let held_out = ((self.validation * labelled.len() as f64 - 1e-9).ceil() as usize).max(1);
        if labelled.is_empty() {
            return Err(Error::failed(format!(
                "no recorded action in the selection: {} trajectories, and none to learn from",
                recorded.len()
            ))
            .hint("train on a selection with some: `hide_actions: {keep: …}` keeps a share, `filter: recorded_actions > 0` finds them"));
        }
        if held_out >= labelled.len() {
            let count = labelled.len();
            let these = if count == 1 {
                "trajectory has"
            } else {
                "trajectories have"
            };
            let message = format!(
                "{count} {these} recorded actions, and a validation share of {} holds out {held_out} of them: none is left to learn from",
                self.validation
            );
            return Err(Error::failed(message)
                .hint("label more trajectories, or hold out a smaller share with `validation`"));
        }
        let (mut validation, mut training) =
            (labelled[..held_out].to_vec(), labelled[held_out..].to_vec());
        validation.sort_unstable();
        training.sort_unstable();
        let rest = |row: &u32| {
            recorded[*row as usize] < lengths[*row as usize]
                && validation.binary_search(row).is_err()
        };
        let unlabelled = (0..u32::try_from(recorded.len()).unwrap_or(u32::MAX))
            .filter(rest)
            .collect();
        Ok([training, validation, unlabelled])
    }

    /// The examples of a block: windows at the steps with a recorded action, or for [`Part::Unlabelled`] at those without any; for
    /// [`Part::Every`] the observations at all steps.
    ///
    /// # Errors
    /// Where an observation is null or not finite, or an action is not one that the model can predict.
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
                        place(block, slot.span, row)
                    ))
                    .hint("drop such steps with `filter: {steps: …}` before `train_idm`"));
                }
                if let Some(dimension) = values[row * width..(row + 1) * width]
                    .iter()
                    .position(|value| !value.is_finite())
                {
                    let message = format!(
                        "{}: `observation` is not finite in dimension {dimension}",
                        place(block, slot.span, row)
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

    /// The actions at `slots`, each one that the model can predict.
    fn targets(
        &self,
        block: &Block,
        action: &arrow::array::ArrayRef,
        slots: &[Slot],
    ) -> Result<Vec<f32>> {
        let discrete = self.options.head == train::Head::Categorical;
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
                        Error::failed(format!("{}: {what}", place(block, slot.span, slot.row)))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::super::support::fixture;
    use super::*;
    use crate::dataset::schema::vector;

    fn training(options: &str) -> TrainIdm {
        match fixture::bind(
            &STAGE,
            options,
            &fixture::steps_schema(),
            &fixture::trajectories_schema(),
        ) {
            Ok(Bound::Train(training)) => *training,
            Ok(_) => panic!("{options} is no training"),
            Err(misfit) => panic!("{options}: {misfit:?}"),
        }
    }

    #[test]
    fn examples_are_windows_at_recorded_steps() {
        let training = training(r#"{"out": "m.onnx", "window": {"past": 1, "future": 1}}"#);
        let mut block = fixture::block(&[(4, 2, true), (7, 3, false)]);
        let examples = training.examples(&block, Part::Training).unwrap();
        // Row r holds the observation [r, -r] and the action [r + 0.5]; row 2 is final.
        assert_eq!(examples.trajectories, [4, 4, 7, 7, 7]);
        assert_eq!(examples.targets, [0.5, 1.5, 3.5, 4.5, 5.5]);
        let first: Vec<f32> = examples
            .inputs
            .chunks(2)
            .map(|observation| observation[0])
            .collect();
        assert_eq!(
            first,
            [
                0.0, 0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 3.0, 4.0, 3.0, 4.0, 5.0, 4.0, 5.0, 5.0
            ]
        );
        assert!(
            training
                .examples(&block, Part::Unlabelled)
                .unwrap()
                .is_empty()
        );

        // What a model said is nothing to learn from.
        let source = [
            Some("recorded"),
            Some("proxy"),
            None,
            Some("proxy"),
            None,
            Some("recorded"),
        ];
        let field = Field::new("action_source", DataType::Utf8, true);
        block = block
            .with_step_column(field, Arc::new(StringArray::from(source.to_vec())))
            .unwrap();
        assert_eq!(
            training.examples(&block, Part::Training).unwrap().targets,
            [0.5, 4.5, 5.5]
        );
    }

    #[test]
    fn statistics_of_the_selection_see_every_step_labelled_or_not() {
        let training = training(
            r#"{"out": "m.onnx", "window": {"past": 1, "future": 0, "edge": "skip"}, "statistics": "selection"}"#,
        );
        let block = fixture::block(&[(4, 2, true), (7, 3, false)]);
        let hidden = arrow::compute::nullif(
            block.steps.column_by_name("action").unwrap(),
            &vec![true; 6].into(),
        )
        .unwrap();
        let block = block
            .with_step_column(
                Field::new("action", hidden.data_type().clone(), true),
                hidden,
            )
            .unwrap();
        assert!(
            training
                .examples(&block, Part::Training)
                .unwrap()
                .is_empty()
        );
        let examples = training.examples(&block, Part::Every).unwrap();
        // The final row 2 is no step.
        let own: Vec<f32> = examples
            .inputs
            .chunks(2)
            .map(|observation| observation[0])
            .collect();
        assert_eq!(
            (own, examples.targets),
            (vec![0.0, 1.0, 3.0, 4.0, 5.0], vec![])
        );
    }

    #[test]
    fn models_that_no_file_can_hold_are_refused_before_a_row_is_read() {
        for options in [
            r#"{"out": "m.onnx", "hidden": [1000000000000, 1000000000000]}"#,
            r#"{"out": "m.onnx", "window": {"past": 18446744073709551615, "future": 18446744073709551615}}"#,
            r#"{"out": "m.onnx", "members": 18446744073709551615}"#,
            r#"{"out": "m.onnx", "hidden": [16000, 16000], "head": "gaussian"}"#,
        ] {
            let misfit = fixture::misfit(&STAGE, options, None, &fixture::trajectories_schema());
            assert!(
                misfit.message.contains("an ONNX file has no room"),
                "{options}: {misfit:?}"
            );
        }
        assert_eq!(
            training(r#"{"out": "m.onnx", "hidden": [16000, 16000]}"#)
                .options
                .hidden,
            [16000, 16000]
        );
    }

    #[test]
    fn skip_leaves_out_what_the_edge_cuts() {
        let training =
            training(r#"{"out": "m.onnx", "window": {"past": 1, "future": 1, "edge": "skip"}}"#);
        let examples = training
            .examples(
                &fixture::block(&[(4, 2, true), (7, 3, false)]),
                Part::Training,
            )
            .unwrap();
        assert_eq!(examples.targets, [1.5, 4.5]);
    }

    #[test]
    fn actions_outside_the_box_are_said_with_their_place() {
        let training = training(r#"{"out": "m.onnx", "clip": [0, 4]}"#);
        let error = training
            .examples(
                &fixture::block(&[(4, 2, true), (7, 3, false)]),
                Part::Training,
            )
            .unwrap_err();
        assert_eq!(
            error.message,
            "trajectory 7, step 1: the action 4.5 in dimension 0 is outside the box from 0 to 4"
        );
    }

    #[test]
    fn trajectories_are_held_out_by_seed_and_id_alone() {
        let split = |ids: &[i64], recorded: &[i64], options: &str| {
            let column = (
                Field::new("recorded_actions", DataType::Int64, false),
                Arc::new(Int64Array::from(recorded.to_vec())) as _,
            );
            let table = fixture::table(ids, &vec![5; ids.len()], vec![column]);
            let of = |rows: &Vec<u32>| {
                rows.iter()
                    .map(|row| ids[*row as usize])
                    .collect::<std::collections::BTreeSet<i64>>()
            };
            training(options)
                .split(&table)
                .map(|parts| parts.each_ref().map(of))
        };
        let options = r#"{"out": "m.onnx", "validation": 0.3, "seed": 5}"#;
        let ids: Vec<i64> = (0..12).collect();
        let recorded: Vec<i64> = ids
            .iter()
            .map(|id| [0, 5, 5, 2][(*id % 4) as usize])
            .collect();
        let [learnt, held_out, unlabelled] = split(&ids, &recorded, options).unwrap();
        // Nine are labelled, and 0.3 of them rounded up is three; the others with a step that is not recorded can be labelled.
        assert_eq!((learnt.len(), held_out.len()), (6, 3));
        assert!(learnt.is_disjoint(&held_out) && unlabelled.is_disjoint(&held_out));
        assert!(
            [0, 4, 8].iter().all(|id| unlabelled.contains(id))
                && unlabelled.iter().all(|id| id % 4 == 0 || id % 4 == 3)
        );
        let (backwards, their): (Vec<i64>, Vec<i64>) = (
            ids.iter().rev().copied().collect(),
            recorded.iter().rev().copied().collect(),
        );
        assert_eq!(
            split(&backwards, &their, options).unwrap(),
            [learnt, held_out.clone(), unlabelled]
        );
        assert_ne!(
            split(
                &ids,
                &recorded,
                r#"{"out": "m.onnx", "validation": 0.3, "seed": 6}"#
            )
            .unwrap()[1],
            held_out
        );

        let error = split(&[1, 2], &[0, 0], options).unwrap_err();
        assert!(
            error
                .message
                .starts_with("no recorded action in the selection: 2 trajectories"),
            "{error:?}"
        );
        let error = split(&[1, 2], &[3, 0], options).unwrap_err();
        assert!(
            error.message.starts_with(
                "1 trajectory has recorded actions, and a validation share of 0.3 holds out 1"
            ),
            "{error:?}"
        );
    }

    #[test]
    fn a_model_can_be_bound_before_it_is_there() {
        let gaussian = training(
            r#"{"out": "m.onnx", "window": {"past": 0, "future": 2, "edge": "zero"}, "head": "gaussian", "clip": [[-2], 3]}"#,
        );
        let ports = gaussian.ports();
        let ports: Vec<String> = ports
            .inputs
            .iter()
            .chain(&ports.outputs)
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            ports,
            [
                "observation: float32 [batch, 6]",
                "action: float32 [batch, 1]",
                "std: float32 [batch, 1]"
            ]
        );
        let metadata = gaussian.metadata();
        let said: Vec<(&str, &str)> = metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                ("trajmill.clip", "-2.0,3.0"),
                ("trajmill.edge", "zero"),
                ("trajmill.future", "2"),
                ("trajmill.past", "0")
            ]
        );
        assert_eq!(
            training(r#"{"out": "m.onnx", "members": 3}"#)
                .ports()
                .outputs
                .len(),
            2
        );
        assert_eq!(training(r#"{"out": "m.onnx"}"#).ports().outputs.len(), 1);
    }

    #[test]
    fn discrete_actions_need_their_number() {
        let fields = [
            ("observation", vector(DataType::Float32, 2)),
            ("action", DataType::Int32),
        ];
        let steps = Schema::new(
            fields
                .map(|(name, data_type)| Field::new(name, data_type, true))
                .to_vec(),
        );
        let misfit = |options: &str| {
            fixture::misfit(
                &STAGE,
                options,
                Some(&steps),
                &fixture::trajectories_schema(),
            )
        };
        assert_eq!(
            misfit(r#"{"out": "m.onnx"}"#).help.as_deref(),
            Some("say it with `classes`")
        );
        assert_eq!(
            misfit(r#"{"out": "m.onnx", "classes": 1}"#).path,
            ["classes"]
        );
        assert_eq!(
            misfit(r#"{"out": "m.onnx", "classes": 3, "clip": [0, 1]}"#).path,
            ["clip"]
        );
        assert_eq!(
            misfit(r#"{"out": "m.onnx", "classes": 3, "head": "gaussian"}"#).path,
            ["head"]
        );
    }
}
