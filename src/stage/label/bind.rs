//! Binds the options of `label` to the columns they meet and to what the models say of themselves.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, Schema};
use serde::Deserialize;
use serde_json::Value;

use super::columns::Written;
use super::options::{Files, Label};
use super::outputs::{Output, clip, output};
use super::{Action, Feed, Labeller, Named};
use crate::dataset::chunk::with_field;
use crate::dataset::schema::step;
use crate::error::nearest;
use crate::expr::{self, Expression};
use crate::model::{Element, Geometry, Port, Spec};
use crate::stage::assemble::{Edge, Window};
use crate::stage::{Bound, Context, Misfit, options};

/// Column with the number of overlapping predictions that a label was reduced from.
const ACTION_VOTES: &str = "action_votes";
/// Properties of a model file that stand for options that are not given.
const METADATA: [&str; 4] = ["trajmill.past", "trajmill.future", "trajmill.edge", "trajmill.clip"];

/// Binds the stage.
pub(super) fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    Bound::transform(labeller(value, context)?)
}

/// The stage with its options bound.
pub(super) fn labeller(value: &Value, context: &Context) -> Result<Labeller, Misfit> {
    let label: Label = options(value)?;
    let (names, specs) = specs(&label, context)?;
    let spec = &specs[0];
    let edge = edge(&label, spec)?;
    let (feed, rows) = feed(&label, context.steps, spec, edge)?;
    let batch = batch(&label, spec, context)?;
    let output = output(&label, context.steps, spec)?;
    let clip = clip(&label, spec, &output)?;
    let written = written(&label, context.steps, &output, specs.len())?;

    let mut steps = context.steps.clone();
    for field in [Some(&written.label), written.source.as_ref(), written.std.as_ref(), written.votes.as_ref()].into_iter().flatten() {
        steps = with_field(&steps, field.clone()).0;
    }
    Ok(Labeller {
        runtime: Arc::clone(context.models.runtime()),
        geometry: Geometry { batch, inputs: rows, outputs: [Some(output.action), output.std].into_iter().flatten().collect() },
        edge,
        horizon: output.horizon,
        action: output.meaning,
        clip,
        non_finite: label.non_finite,
        reads: reads(context.steps, &feed, &written),
        written,
        steps: Arc::new(steps),
        feed,
        names,
        specs,
        pools: OnceLock::new(),
    })
}

/// A misfit of an option where the user gave it, and of the model where it came from there.
pub(super) fn blame(given: bool, option: &str, message: String) -> Misfit {
    Misfit::new(message).at(if given { option } else { "model" })
}

fn quoted<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A column's type as ports are shown: `float32 [3]`.
pub(in crate::stage) fn shown(data_type: &DataType) -> String {
    match data_type {
        DataType::FixedSizeList(child, width) => format!("{} [{width}]", shown(child.data_type())),
        other if other.is_primitive() || *other == DataType::Utf8 => other.to_string().to_lowercase(),
        other => other.to_string(),
    }
}

/// The nearest of the model's names, or all of them.
pub(super) fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    nearest(given, known.clone()).map_or_else(|| format!("the model has {}", quoted(known)), |name| format!("did you mean `{name}`?"))
}

/// The models with their names: the members of an ensemble are alike.
fn specs(label: &Label, context: &Context) -> Result<(Vec<String>, Vec<Spec>), Misfit> {
    let (names, list) = match &label.model {
        Files::One(name) => (vec![name.clone()], false),
        Files::Several(names) => (names.clone(), true),
    };
    let at = |misfit: Misfit, index: usize| if list { misfit.at(index.to_string()).at("model") } else { misfit.at("model") };
    let load = |(index, name): (usize, &String)| {
        context.models.spec(name).map_err(|error| at(Misfit { word: Some(name.clone()), ..error.into() }, index))
    };
    let specs: Vec<Spec> = names.iter().enumerate().map(load).collect::<Result<_, _>>()?;
    let Some(first) = specs.first() else {
        return Err(Misfit::new("`model` lists no model").help("give a path, or a list of paths for an ensemble").at("model"));
    };
    // The batch axis is whatever the export made of it.
    let alike = |one: &[Port], other: &[Port]| {
        let rows = |port: &Port| port.shape.get(1..).map(<[_]>::to_vec);
        one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.name == b.name && a.element == b.element && rows(a) == rows(b))
    };
    for (index, spec) in specs.iter().enumerate().skip(1) {
        for (what, one, other) in [("inputs", &first.inputs, &spec.inputs), ("outputs", &first.outputs, &spec.outputs)] {
            if !alike(one, other) {
                let message = format!(
                    "the members of an ensemble need the same {what}: `{}` has {}, `{}` has {}",
                    names[0],
                    quoted(one),
                    names[index],
                    quoted(other)
                );
                return Err(at(Misfit::new(message), index));
            }
        }
        if let Some(key) = METADATA.iter().find(|key| first.metadata.get(**key) != spec.metadata.get(**key)) {
            let said = |spec: &Spec| spec.metadata.get(*key).map_or_else(|| "nothing".to_owned(), |value| format!("`{value}`"));
            let message = format!(
                "the members of an ensemble disagree on `{key}`: `{}` says {}, `{}` says {}",
                names[0],
                said(first),
                names[index],
                said(spec)
            );
            return Err(at(Misfit::new(message), index));
        }
    }
    Ok((names, specs))
}

/// A property of the model file, read as `T`.
pub(super) fn property<T>(spec: &Spec, key: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Misfit> {
    let Some(text) = spec.metadata.get(key) else { return Ok(None) };
    let wrong = || {
        Misfit::new(format!("the model's metadata says `{key}` is `{text}`, which makes no sense"))
            .help("give the option in the pipeline, or export the model again")
            .at("model")
    };
    read(text.trim()).map(Some).ok_or_else(wrong)
}

fn edge(label: &Label, spec: &Spec) -> Result<Edge, Misfit> {
    let given = label.window.as_ref().and_then(|window| window.edge);
    let said = || property(spec, "trajmill.edge", |text| Edge::deserialize(&Value::from(text)).ok());
    Ok(given.map_or_else(said, |edge| Ok(Some(edge)))?.unwrap_or_default())
}

/// Rows of a batch: what is asked for, what the model insists on, or the runtime's constant.
fn batch(label: &Label, spec: &Spec, context: &Context) -> Result<usize, Misfit> {
    let fixed = spec.inputs.iter().find_map(|port| port.shape.first().copied().flatten().map(|rows| (rows, port)));
    match (label.batch, fixed) {
        (Some(0), _) => Err(Misfit::new("`batch` is 0").help("at least 1").at("batch")),
        (Some(batch), Some((rows, port))) if batch != rows => {
            Err(Misfit::new(format!("`batch` is {batch}, and the model takes exactly {rows} rows: `{port}`"))
                .help("leave `batch` out, or export the model with a free batch axis")
                .at("batch"))
        }
        (_, Some((0, port))) => Err(Misfit::new(format!("the model takes batches of no rows: `{port}`")).at("model")),
        (Some(batch), _) => Ok(batch),
        (None, Some((rows, _))) => Ok(rows),
        (None, None) => Ok(context.models.runtime().batch().max(1)),
    }
}

/// Values of one row of a port; `None` where an axis is free.
pub(super) fn cells(axes: &[Option<usize>]) -> Option<usize> {
    axes.iter().copied().try_fold(1, |cells: usize, size| cells.checked_mul(size?))
}

/// Shape of one row of a port that is to hold `cells` values: at most one axis is free.
fn row_shape(port: &Port, wanted: usize) -> Option<Vec<usize>> {
    let Some(axes) = port.shape.get(1..) else { return Some(vec![wanted]) };
    let known: usize = axes.iter().flatten().product();
    match axes.iter().filter(|size| size.is_none()).count() {
        0 => (known == wanted).then(|| axes.iter().flatten().copied().collect()),
        1 if known > 0 && wanted.is_multiple_of(known) => Some(axes.iter().map(|size| size.unwrap_or(wanted / known)).collect()),
        _ => None,
    }
}

/// Values of a row of a column that can feed a model; `None` for any other type.
fn numbers(data_type: &DataType) -> Option<(&DataType, usize)> {
    let (element, size) = match data_type {
        DataType::FixedSizeList(child, size) => (child.data_type(), usize::try_from(*size).ok()?),
        other => (other, 1),
    };
    (element.is_numeric() || *element == DataType::Boolean).then_some((element, size))
}

/// Whether values of `element` may be fed into `port`: into floating point all, into integers only integers.
fn feeds(element: &DataType, port: &Port) -> bool {
    match port.element {
        Element::F32 | Element::F64 => true,
        Element::I32 | Element::I64 => element.is_integer() || *element == DataType::Boolean,
        Element::Other => false,
    }
}

/// Where the inputs come from, and the shape of one row of each.
fn feed(label: &Label, steps: &Schema, spec: &Spec, edge: Edge) -> Result<(Feed, Vec<Vec<usize>>), Misfit> {
    match (&label.inputs, spec.inputs.as_slice()) {
        (_, []) => Err(Misfit::new("the model has no input").at("model")),
        (Some(inputs), ports) => named(inputs, steps, ports, edge),
        (None, [port]) => window(label, steps, spec, port, edge),
        (None, ports) => {
            let example = match ports {
                [one, other] => format!("{{{}: observation, {}: next(observation)}}", one.name, other.name),
                ports => format!("{{{}: observation, …}}", ports[0].name),
            };
            let message = format!("the model has {} inputs, {}, and a window fills only one", ports.len(), quoted(ports));
            Err(Misfit::new(message).help(format!("say what goes into each, such as `inputs: {example}`")).at("model"))
        }
    }
}

fn named(inputs: &BTreeMap<String, String>, steps: &Schema, ports: &[Port], edge: Edge) -> Result<(Feed, Vec<Vec<usize>>), Misfit> {
    let along = match edge {
        Edge::Repeat => expr::Edge::Repeat,
        Edge::Zero => expr::Edge::Zero,
        Edge::Skip => expr::Edge::Null,
        Edge::Ssorl => {
            let message = "`edge: ssorl` is about the flattened window, and `inputs` gives the model's inputs one by one";
            return Err(Misfit::new(message).help("one of repeat, zero, skip").at("edge").at("window"));
        }
    };
    let known = ports.iter().map(|port| port.name.as_str());
    if let Some(name) = inputs.keys().find(|name| !known.clone().any(|known| known == **name)) {
        return Err(Misfit::new(format!("the model has no input `{name}`")).help(did_you_mean(name, known)).at(name).at("inputs"));
    }
    let missing: Vec<&Port> = ports.iter().filter(|port| !inputs.contains_key(&port.name)).collect();
    if !missing.is_empty() {
        let message = format!("the model's {} {} not fed", quoted(&missing), if missing.len() == 1 { "is" } else { "are" });
        return Err(Misfit::new(message).help("give an SQL expression over steps, such as `observation`").at("inputs"));
    }
    let (mut bound, mut shapes) = (Vec::new(), Vec::new());
    for port in ports {
        let Some(sql) = inputs.get(&port.name) else { continue };
        let at = |misfit: Misfit| misfit.at(port.name.as_str()).at("inputs");
        let expression = Expression::bind(sql, steps, Some(along)).map_err(|misfit| at(misfit.into()))?;
        let found = expression.data_type().clone();
        let Some((element, width)) = numbers(&found) else {
            return Err(at(Misfit::new(format!("`{sql}` is {}, which cannot be fed to the model's input `{port}`", shown(&found)))
                .help("it takes numbers and vectors of numbers")));
        };
        if !feeds(element, port) {
            return Err(at(Misfit::new(format!("`{sql}` is {}, and the model's input is `{port}`", shown(&found)))));
        }
        let Some(shape) = row_shape(port, width) else {
            return Err(at(Misfit::new(format!("`{sql}` has {width} values a step, and the model's input is `{port}`"))));
        };
        shapes.push(shape);
        bound.push(Named { input: port.name.clone(), expression, element: port.element, width });
    }
    Ok((Feed::Named(bound), shapes))
}

/// The window that fills the only input.
fn window(label: &Label, steps: &Schema, spec: &Spec, port: &Port, edge: Edge) -> Result<(Feed, Vec<Vec<usize>>), Misfit> {
    let by_hand = format!("`inputs: {{{}: SQL}}` feeds the model with any expression over steps", port.name);
    let Ok(field) = steps.field_with_name(step::OBSERVATION) else {
        return Err(Misfit::new("steps has no column `observation` for the model's window").help(by_hand));
    };
    let Some((element, width)) = numbers(field.data_type()) else {
        return Err(Misfit::new(format!(
            "`observation` is {}, and a window needs numbers or vectors of numbers",
            shown(field.data_type())
        ))
        .help(by_hand));
    };
    if !feeds(element, port) {
        return Err(Misfit::new(format!("`observation` is {}, and the model's input is `{port}`", shown(field.data_type()))).at("model"));
    }
    let given = label.window.as_ref();
    let count = |key: &str| property(spec, key, |text| text.parse::<usize>().ok());
    let past = given.and_then(|window| window.past).map_or_else(|| count("trajmill.past"), |past| Ok(Some(past)))?;
    let future = given.and_then(|window| window.future).map_or_else(|| count("trajmill.future"), |future| Ok(Some(future)))?;
    let future = future.or((edge == Edge::Ssorl).then_some(1));
    if let Some(future) = future.filter(|future| edge == Edge::Ssorl && *future != 1) {
        let misfit = blame(
            given.is_some(),
            "window",
            format!("`edge: ssorl` sees exactly one observation after the step, and `future` is {future}"),
        );
        return Err(misfit.help("`future: 1`, or another edge policy"));
    }

    let input = port.shape.get(1..).and_then(cells);
    // Observations that the model's input holds, where that is a whole number.
    let length = input.filter(|input| width > 0 && *input > 0 && input % width == 0).map(|input| input / width);
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
                    format!("say which: `window: {{past: …, future: …}}` with past + 1 + future = {length}"),
                ),
                (Some(input), None) => (format!("has {input} values, no multiple of the {width} of `observation`"), by_hand),
                (None, None) => ("does not say its width".to_owned(), "give `window: {past: …, future: …}`".to_owned()),
            };
            return Err(blame(given.is_some(), "window", format!("the model's input `{port}` {says}")).help(help));
        }
    };
    let window = Window { past, future, width, edge };
    let shape = past.checked_add(future).and_then(|sum| sum.checked_add(1)?.checked_mul(width)).and_then(|cells| row_shape(port, cells));
    let Some(shape) = shape else {
        let seen = past.saturating_add(future).saturating_add(1);
        let message = format!(
            "a window of {seen} observations (past {past}, current, future {future}) of {width} values has {}, and the model's input is `{port}`",
            seen.saturating_mul(width)
        );
        let help = match (input, length) {
            (_, Some(length)) => format!("the model's input holds {length} observations: past + 1 + future must be {length}"),
            (Some(input), None) => format!("{input} is no multiple of {width}: the model was made for other observations; {by_hand}"),
            (None, None) => by_hand,
        };
        return Err(blame(given.is_some(), "window", message).help(help));
    };
    Ok((Feed::Window(window, port.element), vec![shape]))
}

/// The columns that come out.
fn written(label: &Label, steps: &Schema, output: &Output, members: usize) -> Result<Written, Misfit> {
    let action = steps.field_with_name(step::ACTION).ok();
    let name = label.into.as_deref().unwrap_or(step::ACTION);
    if label.into.is_some() {
        let own = [step::ACTION, step::ACTION_SOURCE, step::ACTION_STD, ACTION_VOTES];
        if name.is_empty() || own.contains(&name) || steps.field_with_name(name).is_ok() {
            let message =
                if name.is_empty() { "`into` names no column".to_owned() } else { format!("steps has a column `{name}` already, or will") };
            return Err(Misfit::new(message).help("`into` takes a name of its own; leave it out to fill `action`").at("into"));
        }
    }
    // What a field says besides its type, such as the bounds of actions, holds for labels too.
    let metadata = action.map(|action| action.metadata().clone()).unwrap_or_default();
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
    let has_std = matches!(output.meaning, Action::Continuous { .. }) && (output.std.is_some() || members > 1);
    Ok(Written {
        label: Field::new(name, output.data_type.clone(), true).with_metadata(metadata),
        source: label.into.is_none().then(|| beside(step::ACTION_SOURCE, DataType::Utf8)).transpose()?,
        std: has_std.then(|| beside(step::ACTION_STD, output.data_type.clone())).transpose()?,
        votes: label.horizon.as_ref().map(|_| beside(ACTION_VOTES, DataType::Int32)).transpose()?,
    })
}

/// Columns of steps that are read: what places a row, what feeds the model, and what is filled.
fn reads(steps: &Schema, feed: &Feed, written: &Written) -> Vec<String> {
    let mut names: Vec<&str> = vec![step::TRAJECTORY_ID, step::STEP, step::IS_FINAL, step::ACTION];
    match feed {
        Feed::Window(..) => names.push(step::OBSERVATION),
        Feed::Named(inputs) => names.extend(inputs.iter().flat_map(|input| input.expression.columns()).map(String::as_str)),
    }
    names.extend([&written.source, &written.std, &written.votes].into_iter().flatten().map(|field| field.name().as_str()));
    let known = |field: &&Arc<Field>| names.contains(&field.name().as_str());
    steps.fields().iter().filter(known).map(|field| field.name().clone()).collect()
}
