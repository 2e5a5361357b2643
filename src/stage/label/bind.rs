//! Binds the options of `label` to the columns they meet and to what the models say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde::Deserialize;
use serde_json::Value;

use super::columns::Written;
use super::frames::{frames_around, shows_frames};
use super::options::Label;
use super::outputs::{Output, chosen_action, clip, output};
use super::{Action, Labeller};
use crate::dataset::block::with_field;
use crate::dataset::schema::{step, type_name};
use crate::expr::{self, Expression};
use crate::model::{Port, Spec};
use crate::stage::support::infer::bind::{
    Accepted, batch, blame, check_inputs, feeds, input, numbers, property, specs,
};
use crate::stage::support::infer::frame_inputs::Binding;
use crate::stage::support::infer::names::quoted;
use crate::stage::support::infer::pixels::FrameOptions;
use crate::stage::support::infer::shape::{cells, row_shape};
use crate::stage::support::infer::state::{State, fed_back, geometry, others, states, suspected};
use crate::stage::support::infer::windows::{Edge, Window};
use crate::stage::support::infer::{Ensemble, Input, Of};
use crate::stage::{Bound, Context, Misfit, options};

/// Column with the number of overlapping predictions that a label was reduced from.
const ACTION_VOTES: &str = "action_votes";
/// Properties of a model file that stand in for options that are not given.
const METADATA: [&str; 4] = [
    "trajmill.past",
    "trajmill.future",
    "trajmill.edge",
    "trajmill.clip",
];

/// Binds the stage.
pub(super) fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    Bound::transform(labeller(value, context)?)
}

/// Binds the stage to its own type.
pub(super) fn labeller(value: &Value, context: &Context) -> Result<Labeller, Misfit> {
    let label: Label = options(value)?;
    let accepted = Accepted {
        random: label.allow_random,
        precision: label.precision,
    };
    let (names, specs) = specs(&label.model, &METADATA, accepted, context)?;
    let spec = &specs[0];
    let states = states(&label.state, spec)?;
    let edge = edge(&label, spec)?;
    if edge == Edge::Skip && !states.is_empty() {
        let message = "`edge: skip` skips steps, but a state is carried through every step";
        return Err(Misfit::new(message)
            .help("use `window: {edge: repeat}` or `window: {edge: zero}`")
            .at("state"));
    }
    let (inputs, rows) = feed(&label, context.steps, spec, &states, edge)?;
    let batch = batch(label.batch, spec, (&inputs, &rows), &states, context)?;
    let output = output(&label, context.steps, spec)?;
    let clip = clip(&label, spec, &output)?;
    let written = written(&label, context.steps, &output, specs.len())?;

    let mut steps = context.steps.clone();
    for field in [
        Some(&written.label),
        written.source.as_ref(),
        written.std.as_ref(),
        written.votes.as_ref(),
        written.model.as_ref(),
        written.recorded.as_ref(),
    ]
    .into_iter()
    .flatten()
    {
        steps = with_field(&steps, field.clone()).0;
    }
    let outputs = [Some(output.action), output.std];
    let outputs: Vec<usize> = outputs.into_iter().flatten().collect();
    let read = outputs.len();
    let geometry = geometry(spec, batch, rows, outputs, &states, label.allow_random);
    let ensemble = Ensemble::new(context.models.runtime()?, names, specs, geometry, states);
    Ok(Labeller {
        edge,
        horizon: output.horizon,
        action: output.meaning,
        clip,
        non_finite: label.non_finite,
        reads: reads(context.steps, &inputs, &written),
        written,
        steps: Arc::new(steps),
        inputs,
        relabel: label.relabel,
        outputs: read,
        id: ensemble.id(),
        ensemble,
    })
}

fn edge(label: &Label, spec: &Spec) -> Result<Edge, Misfit> {
    let given = label.window.as_ref().and_then(|window| window.edge);
    let said = || {
        property(spec, "trajmill.edge", |text| {
            Edge::deserialize(&Value::from(text)).ok()
        })
    };
    Ok(given
        .map_or_else(said, |edge| Ok(Some(edge)))?
        .unwrap_or_default())
}

/// What feeds the inputs, with the shape of one row of each.
type Feed = (Vec<Input>, Vec<Vec<usize>>);

fn feed(
    label: &Label,
    steps: &Schema,
    spec: &Spec,
    states: &[State],
    edge: Edge,
) -> Result<Feed, Misfit> {
    let action = chosen_action(label, spec).unwrap_or(0);
    let read: Vec<usize> = std::iter::once(action).chain(fed_back(states)).collect();
    match (&label.inputs, others(spec, states).as_slice()) {
        (_, []) => Err(Misfit::new("the model has no input to feed").at("model")),
        (Some(inputs), ports) => {
            let around = label
                .window
                .as_ref()
                .map(|window| (window.past, window.future));
            let around = around.filter(|around| *around != (None, None));
            let binding = Binding {
                steps,
                along: expr::Edge::Null,
                window: None,
                around: around.map(|(past, future)| (past.unwrap_or(0), future.unwrap_or(0))),
                pixels: None,
            };
            FrameOptions::check(label.frames.as_ref(), ports)?;
            named(
                inputs,
                (binding, label.frames.as_ref()),
                (spec, ports, &read),
                edge,
            )
        }
        (None, [port]) if shows_frames(label, steps) && edge != Edge::Ssorl => {
            FrameOptions::check(label.frames.as_ref(), &[*port])?;
            let (past, future) = frames_around(label, spec, port)?;
            let binding = Binding {
                steps,
                along: along(edge)?,
                window: Some((past, future, edge)),
                around: Some((past, future)),
                pixels: label.frames.as_ref().and_then(|frames| frames.of(port)),
            };
            let bound = input(step::OBSERVATION, port, binding);
            let (input, row) = bound.map_err(|misfit| misfit.at("model"))?;
            Ok((vec![input], vec![row]))
        }
        (None, [port]) => window(label, steps, spec, port, edge),
        (None, ports) => {
            if let Some(misfit) = suspected(ports, spec, &read) {
                return Err(misfit.at("model"));
            }
            let example = match ports {
                [one, other] => format!(
                    "{{{}: observation, {}: next(observation)}}",
                    one.name, other.name
                ),
                ports => format!("{{{}: observation, …}}", ports[0].name),
            };
            let message = format!(
                "the model has {} inputs ({}), but a window feeds only one",
                ports.len(),
                quoted(ports)
            );
            Err(Misfit::new(message)
                .help(format!(
                    "give an expression for each, such as `inputs: {example}`"
                ))
                .at("model"))
        }
    }
}

/// Returns what `next` and `prev` are beyond the ends of a trajectory.
fn along(edge: Edge) -> Result<expr::Edge, Misfit> {
    match edge {
        Edge::Repeat => Ok(expr::Edge::Repeat),
        Edge::Zero => Ok(expr::Edge::Zero),
        Edge::Skip => Ok(expr::Edge::Null),
        Edge::Ssorl => {
            let message = "`edge: ssorl` applies to a flattened window, but `inputs` feeds each \
                           input of the model by itself";
            Err(Misfit::new(message)
                .help("use repeat, zero or skip")
                .at("edge")
                .at("window"))
        }
    }
}

fn named(
    inputs: &BTreeMap<String, String>,
    (binding, frames): (Binding, Option<&FrameOptions>),
    (spec, ports, read): (&Spec, &[&Port], &[usize]),
    edge: Edge,
) -> Result<Feed, Misfit> {
    let along = along(edge)?;
    check_inputs(inputs.keys().map(String::as_str), ports, spec, read)?;
    let at = |misfit: Misfit, port: &Port| misfit.at(port.name.as_str()).at("inputs");
    let bound = ports
        .iter()
        .filter_map(|port| inputs.get(&port.name).map(|sql| (*port, sql)));
    let bound = bound.map(|(port, sql)| {
        let binding = Binding {
            along,
            pixels: frames.and_then(|frames| frames.of(port)),
            ..binding
        };
        input(sql, port, binding).map_err(|misfit| at(misfit, port))
    });
    Ok(bound.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

/// Binds the window that feeds a model's only input.
fn window(
    label: &Label,
    steps: &Schema,
    spec: &Spec,
    port: &Port,
    edge: Edge,
) -> Result<Feed, Misfit> {
    let by_hand = format!(
        "feed the model with an expression over steps: `inputs: {{{}: SQL}}`",
        port.name
    );
    let Ok(field) = steps.field_with_name(step::OBSERVATION) else {
        return Err(
            Misfit::new("`steps` has no column `observation` for the model's window").help(by_hand),
        );
    };
    let Some((element, width)) = numbers(field.data_type()) else {
        return Err(Misfit::new(format!(
            "`observation` is {}, but a window needs numbers or vectors of numbers",
            type_name(field.data_type())
        ))
        .help(by_hand));
    };
    if !feeds(element, port) {
        return Err(Misfit::new(format!(
            "`observation` is {}, but the model's input is `{port}`",
            type_name(field.data_type())
        ))
        .at("model"));
    }
    let given = label.window.as_ref();
    let count = |key: &str| property(spec, key, |text| text.parse::<usize>().ok());
    let past = given
        .and_then(|window| window.past)
        .map_or_else(|| count("trajmill.past"), |past| Ok(Some(past)))?;
    let future = given
        .and_then(|window| window.future)
        .map_or_else(|| count("trajmill.future"), |future| Ok(Some(future)))?;
    let future = future.or((edge == Edge::Ssorl).then_some(1));
    if let Some(future) = future.filter(|future| edge == Edge::Ssorl && *future != 1) {
        let misfit = blame(
            given.is_some(),
            "window",
            format!("`edge: ssorl` needs `future: 1`, but `future` is {future}"),
        );
        return Err(misfit.help("set `future: 1`, or use another `edge`"));
    }

    let input = port.shape.get(1..).and_then(cells);
    // The number of observations that the model's input holds, if it is a whole number.
    let length = input
        .filter(|input| width > 0 && *input > 0 && input % width == 0)
        .map(|input| input / width);
    let (past, future) = match (past, future, length) {
        (Some(past), Some(future), _) => (past, future),
        (Some(past), None, Some(length)) if length > past => (past, length - past - 1),
        (None, Some(future), Some(length)) if length > future => (length - future - 1, future),
        (None, None, Some(1)) => (0, 0),
        (Some(past), None, _) => (past, 0),
        (None, Some(future), _) => (0, future),
        (None, None, _) => {
            let (says, help) = match (input, length) {
                (_, Some(length)) => (
                    format!("holds {length} observations of width {width}"),
                    format!(
                        "choose them with `window: {{past: …, future: …}}`, so that \
                         past + 1 + future = {length}"
                    ),
                ),
                (Some(input), None) => (
                    format!(
                        "has width {input}, which is not a multiple of the width {width} of \
                         `observation`"
                    ),
                    by_hand,
                ),
                (None, None) => (
                    "does not state its width".to_owned(),
                    "choose the observations with `window: {past: …, future: …}`".to_owned(),
                ),
            };
            return Err(blame(
                given.is_some(),
                "window",
                format!("the model's input `{port}` {says}"),
            )
            .help(help));
        }
    };
    let window = Window {
        past,
        future,
        width,
        edge,
    };
    let shape = past
        .checked_add(future)
        .and_then(|sum| sum.checked_add(1)?.checked_mul(width))
        .and_then(|cells| row_shape(port, cells));
    let Some(shape) = shape else {
        let seen = past.saturating_add(future).saturating_add(1);
        let message = format!(
            "a window of length {seen} (past {past} + 1 + future {future}) over observations of \
             width {width} has width {}, but the model's input is `{port}`",
            seen.saturating_mul(width)
        );
        let help = match (input, length) {
            (_, Some(length)) => {
                format!("past + 1 + future must be {length} to fill the model's input")
            }
            (Some(input), None) => format!(
                "{input} is not a multiple of {width}, so this model takes other observations; \
                 {by_hand}"
            ),
            (None, None) => by_hand,
        };
        return Err(blame(given.is_some(), "window", message).help(help));
    };
    let expression = Expression::bind(step::OBSERVATION, steps, Some(expr::Edge::Null))?;
    let input = Input {
        name: port.name.clone(),
        of: Of::Expression(expression),
        element: port.element,
        width,
        window: Some(window),
    };
    Ok((vec![input], vec![shape]))
}

/// Binds the columns that are written.
fn written(
    label: &Label,
    steps: &Schema,
    output: &Output,
    members: usize,
) -> Result<Written, Misfit> {
    let action = steps.field_with_name(step::ACTION).ok();
    let name = label.into.as_deref().unwrap_or(step::ACTION);
    if label.into.is_some() {
        let own = [
            step::ACTION,
            step::ACTION_SOURCE,
            step::ACTION_STD,
            step::ACTION_MODEL,
            step::ACTION_RECORDED,
            ACTION_VOTES,
        ];
        if name.is_empty() || own.contains(&name) || steps.field_with_name(name).is_ok() {
            let message = if name.is_empty() {
                "`into` is empty".to_owned()
            } else if steps.field_with_name(name).is_ok() {
                format!("`steps` already has a column `{name}`")
            } else {
                format!("trajmill maintains `{name}`")
            };
            return Err(Misfit::new(message)
                .help("choose another name for the labels, or leave `into` out to fill `action`")
                .at("into"));
        }
    }
    // The metadata of `action`, such as its bounds, holds for labels too.
    let metadata = action
        .map(|action| action.metadata().clone())
        .unwrap_or_default();
    let beside = |name: &str, data_type: DataType| match steps.field_with_name(name) {
        Ok(field) if *field.data_type() != data_type => Err(Misfit::new(format!(
            "`steps` already has a column `{name}` of type {}, but labels need {}",
            type_name(field.data_type()),
            type_name(&data_type)
        ))
        .help(format!(
            "drop `{name}` before `label`, with `materialise: {{columns: …}}`"
        ))),
        Ok(field) => Ok(field.clone().with_nullable(true)),
        Err(_) => Ok(Field::new(name, data_type, true)),
    };
    let has_std = matches!(output.meaning, Action::Continuous { .. })
        && (output.std.is_some() || members > 1);
    Ok(Written {
        label: Field::new(name, output.data_type.clone(), true).with_metadata(metadata),
        source: label
            .into
            .is_none()
            .then(|| beside(step::ACTION_SOURCE, DataType::Utf8))
            .transpose()?,
        std: has_std
            .then(|| beside(step::ACTION_STD, output.data_type.clone()))
            .transpose()?,
        votes: label
            .horizon
            .as_ref()
            .map(|_| beside(ACTION_VOTES, DataType::Int32))
            .transpose()?,
        model: label
            .into
            .is_none()
            .then(|| beside(step::ACTION_MODEL, DataType::Utf8))
            .transpose()?,
        recorded: action
            .filter(|_| label.relabel && label.into.is_none())
            .map(|action| {
                let metadata = action.metadata().clone();
                let field = beside(step::ACTION_RECORDED, action.data_type().clone())?;
                Ok::<_, Misfit>(field.with_metadata(metadata))
            })
            .transpose()?,
    })
}

/// Returns the columns of steps that are read: those that identify a row, feed the model, or are
/// filled.
fn reads(steps: &Schema, inputs: &[Input], written: &Written) -> Vec<String> {
    let mut names: Vec<&str> = vec![
        step::TRAJECTORY_ID,
        step::STEP,
        step::IS_FINAL,
        step::ACTION,
    ];
    names.extend(
        inputs
            .iter()
            .flat_map(|input| input.columns())
            .map(String::as_str),
    );
    names.extend(
        [
            &written.source,
            &written.std,
            &written.votes,
            &written.model,
            &written.recorded,
        ]
        .into_iter()
        .flatten()
        .map(|field| field.name().as_str()),
    );
    let known = |field: &&Arc<Field>| names.contains(&field.name().as_str());
    steps
        .fields()
        .iter()
        .filter(known)
        .map(|field| field.name().clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fakes::{Fakes, bound, fakes, steps};
    use super::*;
    use crate::dataset::schema::vector;
    use crate::model::Runtime;

    #[test]
    fn what_does_not_fit_is_said_with_both_sides_at_the_right_option() {
        let vectors = steps(Some(vector(DataType::Float32, 2)));
        let classes = steps(Some(DataType::Int32));
        let texts = steps(Some(DataType::Utf8));
        let cases = [
            (&vectors, json!({"model": []}), "model", "lists no file"),
            (
                &vectors,
                json!({"model": "absent"}),
                "model",
                "no model absent",
            ),
            (
                &vectors,
                json!({"model": ["plain", "absent"]}),
                "model.1",
                "no model absent",
            ),
            (
                &vectors,
                json!({"model": ["plain", "shifted"]}),
                "model.1",
                "`x: float32[batch, 9]`",
            ),
            (
                &vectors,
                json!({"model": "plain"}),
                "model",
                "holds 3 observations of width 3",
            ),
            (
                &vectors,
                json!({"model": "plain", "window": {"past": 2, "future": 1}}),
                "window",
                "has width 12, but the model's input is `x: float32[batch, 9]`",
            ),
            (
                &vectors,
                json!({"model": "odd", "window": {}}),
                "window",
                "has width 10, which is not a multiple of the width 3",
            ),
            (
                &vectors,
                json!({"model": "plain", "window": {"future": 2, "edge": "ssorl"}}),
                "window",
                "needs `future: 1`, but `future` is 2",
            ),
            (
                &vectors,
                json!({"model": "confused", "window": {"past": 1}}),
                "model",
                "invalid `trajmill.edge`: `round`",
            ),
            (
                &vectors,
                json!({"model": "integers", "window": {"past": 1}}),
                "model",
                "`x: int64[batch, 9]`",
            ),
            (&vectors, json!({"model": "named"}), "model", "2 inputs"),
            (
                &vectors,
                json!({"model": "named", "inputs": {"s": "observation", "s_nxt": "observation"}}),
                "inputs.s_nxt",
                "no input `s_nxt`",
            ),
            (
                &vectors,
                json!({"model": "named", "inputs": {"s": "observation"}}),
                "inputs",
                "nothing feeds the model's input `s_next: float32[batch, 3]`",
            ),
            (
                &vectors,
                json!({"model": "named", "inputs": {}, "window": {"edge": "ssorl"}}),
                "window.edge",
                "flattened window",
            ),
            (
                &vectors,
                json!({"model": "narrow", "window": {"past": 1}}),
                "model",
                "`action` is float32[2], but the model's output is `action: float32[batch, 1]`",
            ),
            (
                &vectors,
                json!({"model": "current", "outputs": {"action": "acton"}}),
                "outputs.action",
                "no output `acton`",
            ),
            (
                &vectors,
                json!({"model": "current", "outputs": {"std": "action"}}),
                "outputs.std",
                "both",
            ),
            (
                &vectors,
                json!({"model": "horizon"}),
                "model",
                "`action` is float32[2], but",
            ),
            (
                &vectors,
                json!({"model": "horizon", "horizon": {"length": 3}}),
                "horizon.length",
                "has a horizon of 4",
            ),
            (
                &vectors,
                json!({"model": "current", "horizon": {"length": 3}}),
                "horizon.length",
                "has width 2",
            ),
            (
                &vectors,
                json!({"model": "current", "horizon": {"length": 0}}),
                "horizon.length",
                "at least 1",
            ),
            (
                &vectors,
                json!({"model": "current", "clip": [-1, [1, 1, 1]]}),
                "clip.1",
                "a list of length 2, not a list of length 3",
            ),
            (
                &vectors,
                json!({"model": "current", "clip": [[0, 1], 0.5]}),
                "clip",
                "low bound 1 is above its high bound 0.5",
            ),
            (
                &vectors,
                json!({"model": "current", "batch": 0}),
                "batch",
                "at least 1",
            ),
            (
                &vectors,
                json!({"model": "fixed", "batch": 8}),
                "batch",
                "the model's batch size is 16",
            ),
            (
                &vectors,
                json!({"model": "current", "into": "observation"}),
                "into",
                "already",
            ),
            (
                &vectors,
                json!({"model": "class"}),
                "model",
                "`class: int64[batch]`",
            ),
            (
                &classes,
                json!({"model": "logits", "clip": [0, 1]}),
                "clip",
                "no bounds",
            ),
            (
                &classes,
                json!({"model": "current", "outputs": {"std": "std"}}),
                "outputs.std",
                "discrete",
            ),
            (
                &classes,
                json!({"model": "narrow", "window": {"past": 1}}),
                "model",
                "`action` is int32, but the model's output is",
            ),
            (
                &classes,
                json!({"model": ["class", "class"]}),
                "model",
                "cannot be averaged",
            ),
            (&texts, json!({"model": "current"}), "", "`action` is text"),
        ];
        for (steps, options, path, message) in cases {
            let misfit = bound(steps, options.clone())
                .err()
                .unwrap_or_else(|| panic!("{options} fits"));
            assert_eq!(misfit.path.join("."), path, "{options}: {}", misfit.message);
            assert!(
                misfit.message.contains(message),
                "{options}: {}",
                misfit.message
            );
        }
    }

    #[test]
    fn the_window_follows_options_then_metadata_then_width() {
        let vectors = steps(Some(vector(DataType::Float32, 2)));
        let window = |options: Value| {
            let window = bound(&vectors, options).unwrap().inputs[0].window.unwrap();
            (window.past, window.future, window.edge)
        };
        assert_eq!(
            window(json!({"model": "plain", "window": {"past": 1, "edge": "zero"}})),
            (1, 1, Edge::Zero)
        );
        assert_eq!(
            window(json!({"model": "plain", "window": {"edge": "ssorl"}})),
            (1, 1, Edge::Ssorl)
        );
        assert_eq!(
            window(json!({"model": "plain", "window": {"future": 0}})),
            (2, 0, Edge::Repeat)
        );
        assert_eq!(window(json!({"model": "metadata"})), (0, 2, Edge::Repeat));
        assert_eq!(
            window(json!({"model": "metadata", "window": {"past": 2, "future": 0}})),
            (2, 0, Edge::Repeat)
        );
        assert_eq!(window(json!({"model": "current"})), (0, 0, Edge::Repeat));
        let bounds = bound(&vectors, json!({"model": "metadata"}))
            .unwrap()
            .clip
            .unwrap();
        assert_eq!(
            bounds,
            [vec![f64::from(-0.1_f32); 2], vec![f64::from(0.1_f32); 2]]
        );
        assert_eq!(
            bound(&vectors, json!({"model": "fixed"}))
                .unwrap()
                .ensemble
                .geometry
                .batch,
            16
        );
        let bare = bound(&steps(None), json!({"model": ["current", "current"]})).unwrap();
        let types: Vec<_> = bare
            .steps
            .fields()
            .iter()
            .skip(4)
            .map(|field| (field.name().as_str(), field.data_type().clone()))
            .collect();
        let pair = vector(DataType::Float32, 2);
        assert_eq!(
            types,
            [
                ("action", pair.clone()),
                ("action_source", DataType::Utf8),
                ("action_std", pair),
                ("action_model", DataType::Utf8)
            ]
        );
        assert_eq!(
            bound(&steps(None), json!({"model": "class"}))
                .unwrap()
                .steps
                .field(4)
                .data_type(),
            &DataType::Int64
        );
    }

    /// Everything that changes the bits of a label is in the fingerprint, by name.
    #[test]
    fn a_label_depends_on_models_runtime_device_batch_and_precision() {
        let vectors = steps(Some(vector(DataType::Float32, 2)));
        let depends = |runtime: Runtime| {
            let models = Fakes {
                runtime: Arc::new(runtime),
                ..fakes()
            };
            let trajectories = Schema::empty();
            let context = Context {
                steps: &vectors,
                trajectories: &trajectories,
                models: &models,
            };
            let labeller = labeller(&json!({"model": "current"}), &context).unwrap();
            labeller.ensemble.depends(&labeller.inputs)
        };
        let known = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let rten = depends(Runtime::embedded());
        let wanted = [
            known("batch", "512"),
            known("devices", "cpu"),
            known("model current", "00"),
            known("runtime", "rten 0.27.0"),
        ];
        assert_eq!(rten, BTreeMap::from(wanted));
        let (Some(exact), Some(rounded)) = (Runtime::pretending(false), Runtime::pretending(true))
        else {
            return;
        };
        let (exact, rounded) = (depends(exact), depends(rounded));
        assert_eq!(
            (
                exact["batch"].as_str(),
                exact["devices"].as_str(),
                exact.get("precision")
            ),
            ("16384", "cuda:0", None)
        );
        let more: Vec<_> = rounded
            .iter()
            .filter(|(name, _)| !exact.contains_key(*name))
            .collect();
        assert_eq!(more, [(&"precision".to_owned(), &"tf32".to_owned())]);
    }
}
