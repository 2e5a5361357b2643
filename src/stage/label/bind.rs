//! Binds the options of `label` to the columns they meet and to what the models say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde::Deserialize;
use serde_json::Value;

use super::columns::Written;
use super::options::Label;
use super::outputs::{Output, clip, output};
use super::{Action, Labeller};
use crate::dataset::chunk::with_field;
use crate::dataset::schema::step;
use crate::expr::{self, Expression};
use crate::model::{Geometry, Port, Spec};
use crate::stage::support::infer::bind::{
    batch, cells, check_inputs, feeds, input, numbers, property, quoted, row_shape, shown, specs,
};
use crate::stage::support::infer::windows::{Edge, Window};
use crate::stage::support::infer::{Ensemble, Input};
use crate::stage::{Bound, Context, Misfit, options};

/// Column with the number of overlapping predictions that a label was reduced from.
const ACTION_VOTES: &str = "action_votes";
/// Properties of a model file that stand for options that are not given.
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

/// The stage with its options bound.
pub(super) fn labeller(value: &Value, context: &Context) -> Result<Labeller, Misfit> {
    let label: Label = options(value)?;
    let (names, specs) = specs(&label.model, &METADATA, context)?;
    let spec = &specs[0];
    let edge = edge(&label, spec)?;
    let (inputs, rows) = feed(&label, context.steps, spec, edge)?;
    let batch = batch(label.batch, spec, context)?;
    let output = output(&label, context.steps, spec)?;
    let clip = clip(&label, spec, &output)?;
    let written = written(&label, context.steps, &output, specs.len())?;

    let mut steps = context.steps.clone();
    for field in [
        Some(&written.label),
        written.source.as_ref(),
        written.std.as_ref(),
        written.votes.as_ref(),
    ]
    .into_iter()
    .flatten()
    {
        steps = with_field(&steps, field.clone()).0;
    }
    let geometry = Geometry {
        batch,
        inputs: rows,
        outputs: [Some(output.action), output.std]
            .into_iter()
            .flatten()
            .collect(),
    };
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
        ensemble: Ensemble::new(context.models.runtime(), names, specs, geometry),
    })
}

/// A misfit of an option where the user gave it, and of the model where it came from there.
pub(super) fn blame(given: bool, option: &str, message: String) -> Misfit {
    Misfit::new(message).at(if given { option } else { "model" })
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

/// Where the inputs come from, with the shape of one row of each.
type Feed = (Vec<Input>, Vec<Vec<usize>>);

fn feed(label: &Label, steps: &Schema, spec: &Spec, edge: Edge) -> Result<Feed, Misfit> {
    match (&label.inputs, spec.inputs.as_slice()) {
        (_, []) => Err(Misfit::new("the model has no input").at("model")),
        (Some(inputs), ports) => named(inputs, steps, ports, edge),
        (None, [port]) => window(label, steps, spec, port, edge),
        (None, ports) => {
            let example = match ports {
                [one, other] => format!(
                    "{{{}: observation, {}: next(observation)}}",
                    one.name, other.name
                ),
                ports => format!("{{{}: observation, …}}", ports[0].name),
            };
            let message = format!(
                "the model has {} inputs, {}, and a window fills only one",
                ports.len(),
                quoted(ports)
            );
            Err(Misfit::new(message)
                .help(format!(
                    "say what goes into each, such as `inputs: {example}`"
                ))
                .at("model"))
        }
    }
}

fn named(
    inputs: &BTreeMap<String, String>,
    steps: &Schema,
    ports: &[Port],
    edge: Edge,
) -> Result<Feed, Misfit> {
    let along = match edge {
        Edge::Repeat => expr::Edge::Repeat,
        Edge::Zero => expr::Edge::Zero,
        Edge::Skip => expr::Edge::Null,
        Edge::Ssorl => {
            let message = "`edge: ssorl` is about the flattened window, and `inputs` gives the model's inputs one by one";
            return Err(Misfit::new(message)
                .help("one of repeat, zero, skip")
                .at("edge")
                .at("window"));
        }
    };
    check_inputs(inputs.keys().map(String::as_str), ports)?;
    let at = |misfit: Misfit, port: &Port| misfit.at(port.name.as_str()).at("inputs");
    let bound = ports
        .iter()
        .filter_map(|port| inputs.get(&port.name).map(|sql| (port, sql)));
    let bound = bound
        .map(|(port, sql)| input(sql, port, steps, along, None).map_err(|misfit| at(misfit, port)));
    Ok(bound.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

/// The window that fills the only input.
fn window(
    label: &Label,
    steps: &Schema,
    spec: &Spec,
    port: &Port,
    edge: Edge,
) -> Result<Feed, Misfit> {
    let by_hand = format!(
        "`inputs: {{{}: SQL}}` feeds the model with any expression over steps",
        port.name
    );
    let Ok(field) = steps.field_with_name(step::OBSERVATION) else {
        return Err(
            Misfit::new("steps has no column `observation` for the model's window").help(by_hand),
        );
    };
    let Some((element, width)) = numbers(field.data_type()) else {
        return Err(Misfit::new(format!(
            "`observation` is {}, and a window needs numbers or vectors of numbers",
            shown(field.data_type())
        ))
        .help(by_hand));
    };
    if !feeds(element, port) {
        return Err(Misfit::new(format!(
            "`observation` is {}, and the model's input is `{port}`",
            shown(field.data_type())
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
            format!(
                "`edge: ssorl` sees exactly one observation after the step, and `future` is {future}"
            ),
        );
        return Err(misfit.help("`future: 1`, or another edge policy"));
    }

    let input = port.shape.get(1..).and_then(cells);
    // Observations that the model's input holds, where that is a whole number.
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
                    format!("holds {length} observations of {width} values"),
                    format!(
                        "say which: `window: {{past: …, future: …}}` with past + 1 + future = {length}"
                    ),
                ),
                (Some(input), None) => (
                    format!("has {input} values, no multiple of the {width} of `observation`"),
                    by_hand,
                ),
                (None, None) => (
                    "does not say its width".to_owned(),
                    "give `window: {past: …, future: …}`".to_owned(),
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
            "a window of {seen} observations (past {past}, current, future {future}) of {width} values has {}, and the model's input is `{port}`",
            seen.saturating_mul(width)
        );
        let help = match (input, length) {
            (_, Some(length)) => format!(
                "the model's input holds {length} observations: past + 1 + future must be {length}"
            ),
            (Some(input), None) => format!(
                "{input} is no multiple of {width}: the model was made for other observations; {by_hand}"
            ),
            (None, None) => by_hand,
        };
        return Err(blame(given.is_some(), "window", message).help(help));
    };
    let expression = Expression::bind(step::OBSERVATION, steps, Some(expr::Edge::Null))?;
    let input = Input {
        name: port.name.clone(),
        expression,
        element: port.element,
        width,
        window: Some(window),
    };
    Ok((vec![input], vec![shape]))
}

/// The columns that come out.
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
            ACTION_VOTES,
        ];
        if name.is_empty() || own.contains(&name) || steps.field_with_name(name).is_ok() {
            let message = if name.is_empty() {
                "`into` names no column".to_owned()
            } else {
                format!("steps has a column `{name}` already, or will")
            };
            return Err(Misfit::new(message)
                .help("`into` takes a name of its own; leave it out to fill `action`")
                .at("into"));
        }
    }
    // What a field says besides its type, such as the bounds of actions, holds for labels too.
    let metadata = action
        .map(|action| action.metadata().clone())
        .unwrap_or_default();
    let beside = |name: &str, data_type: DataType| match steps.field_with_name(name) {
        Ok(field) if *field.data_type() != data_type => Err(Misfit::new(format!(
            "steps has a column `{name}` already, which is {}, and labels need {}",
            shown(field.data_type()),
            shown(&data_type)
        ))
        .help(format!("rename or drop `{name}` before `label`"))),
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
    })
}

/// Columns of steps that are read: what places a row, what feeds the model, and what is filled.
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
            .flat_map(|input| input.expression.columns())
            .map(String::as_str),
    );
    names.extend(
        [&written.source, &written.std, &written.votes]
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
