//! Binds the options that describe a model to what the model states.

use arrow::datatypes::DataType;
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::frame_inputs::{self, Binding, Wanted};
use super::names::{self, did_you_mean, quoted};
use super::shape::row_shape;
use super::state::{self, State};
use super::windows::Window;
use super::{Input, Of};
use crate::dataset::schema::type_name;
use crate::expr::Expression;
use crate::model::{Element, Port, Spec, USE_ONNX_RUNTIME, listed};
use crate::stage::{Context, Misfit};

/// One model or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum Files {
    /// One model.
    One(#[schemars(extend("format" = "path"))] String),
    /// An ensemble of models.
    Several(#[schemars(schema_with = "paths")] Vec<String>),
}

/// Returns the schema of a list of paths.
fn paths(_: &mut SchemaGenerator) -> schemars::Schema {
    json_schema!({"type": "array", "items": {"type": "string", "format": "path"}})
}

/// What a stage accepts of its models.
#[derive(Debug, Clone, Copy)]
pub(in crate::stage) struct Accepted {
    /// Random numbers, and layers in training mode.
    pub(in crate::stage) random: bool,
    /// Computing in narrower types than a model declares.
    pub(in crate::stage) precision: Precision,
}

/// The types that a model computes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::stage) enum Precision {
    /// The types that the model declares.
    #[default]
    Declared,
    /// float32 and int32 where the runtime has no wider types.
    Float32,
}

/// Returns the models that `files` names, with their names. All of them must have the same inputs
/// and outputs, and the same values of the metadata properties `agree`, and none may do what is not
/// `accepted`.
pub(in crate::stage) fn specs(
    files: &Files,
    agree: &[&str],
    accepted: Accepted,
    context: &Context,
) -> Result<(Vec<String>, Vec<Spec>), Misfit> {
    let (names, list) = match files {
        Files::One(name) => (vec![name.clone()], false),
        Files::Several(names) => (names.clone(), true),
    };
    let at = |misfit: Misfit, index: usize| {
        if list {
            misfit.at(index.to_string()).at("model")
        } else {
            misfit.at("model")
        }
    };
    let load = |(index, name): (usize, &String)| {
        context.models.spec(name).map_err(|error| {
            at(
                Misfit {
                    word: Some(name.clone()),
                    ..error.into()
                },
                index,
            )
        })
    };
    let specs: Vec<Spec> = names
        .iter()
        .enumerate()
        .map(load)
        .collect::<Result<_, _>>()?;
    for (index, spec) in specs.iter().enumerate() {
        accept(spec, accepted).map_err(|misfit| at(misfit, index))?;
    }
    let Some(first) = specs.first() else {
        return Err(Misfit::new("`model` lists no file")
            .help("give a path, or a list of paths for an ensemble")
            .at("model"));
    };
    // The batch axis may differ, because it depends on how a model was exported.
    let alike = |one: &[Port], other: &[Port]| {
        let rows = |port: &Port| port.shape.get(1..).map(<[_]>::to_vec);
        one.len() == other.len()
            && one
                .iter()
                .zip(other)
                .all(|(a, b)| a.name == b.name && a.element == b.element && rows(a) == rows(b))
    };
    for (index, spec) in specs.iter().enumerate().skip(1) {
        for (what, one, other) in [
            ("inputs", &first.inputs, &spec.inputs),
            ("outputs", &first.outputs, &spec.outputs),
        ] {
            if !alike(one, other) {
                let message = format!(
                    "the models of an ensemble must have the same {what}, but `{}` has {}, and \
                     `{}` has {}",
                    names[0],
                    quoted(one),
                    names[index],
                    quoted(other)
                );
                return Err(at(Misfit::new(message), index));
            }
        }
        if let Some(key) = agree
            .iter()
            .find(|key| first.metadata.get(**key) != spec.metadata.get(**key))
        {
            let said = |spec: &Spec| {
                spec.metadata
                    .get(*key)
                    .map_or_else(|| "no value".to_owned(), |value| format!("`{value}`"))
            };
            let message = format!(
                "the models of an ensemble must agree on `{key}`, but `{}` has {}, and `{}` has {}",
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

/// Returns a misfit if a model does what is not `accepted`.
fn accept(spec: &Spec, accepted: Accepted) -> Result<(), Misfit> {
    if !accepted.random && !spec.random.is_empty() {
        return Err(spec.not_of_one_row().into());
    }
    let unfed = |port: &&Port| matches!(port.element, Element::Other(_));
    if let Some(port) = spec.inputs.iter().find(unfed) {
        return Err(names::unfed(port));
    }
    if accepted.precision == Precision::Declared && !spec.narrowed.is_empty() {
        return Err(Misfit::new(format!(
            "rten, the embedded runtime, would compute this model in float32 and int32, but {}",
            listed(&spec.narrowed)
        ))
        .help(format!(
            "{USE_ONNX_RUNTIME}; or set `precision: float32` to accept the narrower types"
        )));
    }
    Ok(())
}

/// Reads a metadata property of the model file as `T`; `None` if the file does not have it.
pub(in crate::stage) fn property<T>(
    spec: &Spec,
    key: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Misfit> {
    let Some(text) = spec.metadata.get(key) else {
        return Ok(None);
    };
    let wrong = || {
        Misfit::new(format!(
            "the model's metadata has an invalid `{key}`: `{text}`"
        ))
        .help("set the option in the pipeline, or export the model again")
        .at("model")
    };
    read(text.trim()).map(Some).ok_or_else(wrong)
}

/// Returns a misfit of the option if the user gave it, else of the model that the value came from.
pub(in crate::stage) fn blame(given: bool, option: &str, message: String) -> Misfit {
    Misfit::new(message).at(if given { option } else { "model" })
}

/// Returns the number of rows per batch: the one given, the one that the model requires, or the
/// runtime's default.
pub(in crate::stage) fn batch(
    given: Option<usize>,
    spec: &Spec,
    (inputs, rows): (&[Input], &[Vec<usize>]),
    states: &[State],
    context: &Context,
) -> Result<usize, Misfit> {
    let axes = state::axes(states).inputs;
    let fixed = spec.inputs.iter().enumerate().find_map(|(index, port)| {
        port.shape
            .get(axes.get(&index).copied().unwrap_or(0))
            .copied()
            .flatten()
            .map(|rows| (rows, port))
    });
    match (given, fixed) {
        (Some(0), _) => Err(Misfit::new("`batch` must be at least 1, not 0").at("batch")),
        (Some(batch), Some((rows, port))) if batch != rows => Err(Misfit::new(format!(
            "`batch` is {batch}, but the model's batch size is {rows}: `{port}`"
        ))
        .help("remove `batch`, or export the model with a dynamic batch axis")
        .at("batch")),
        (_, Some((0, port))) => {
            Err(Misfit::new(format!("the model's batch size is 0: `{port}`")).at("model"))
        }
        (Some(batch), _) => Ok(batch),
        (None, Some((rows, _))) => Ok(rows),
        (None, None) => {
            let usual = context.models.runtime()?.batch().max(1);
            if inputs.iter().any(|input| input.shown().is_some()) {
                let most = state::default_lanes(usual, states);
                return Ok(frame_inputs::batch(rows, usual).min(most));
            }
            Ok(state::default_batch(usual, states))
        }
    }
}

/// Returns the element type of a column that can feed a model, and the number of values per row;
/// `None` for any other type.
pub(in crate::stage) fn numbers(data_type: &DataType) -> Option<(&DataType, usize)> {
    let (element, size) = match data_type {
        DataType::FixedSizeList(child, size) => (child.data_type(), usize::try_from(*size).ok()?),
        other => (other, 1),
    };
    (element.is_numeric() || *element == DataType::Boolean).then_some((element, size))
}

/// Whether values of `element` can feed `port`. Floating-point inputs take any number, integer
/// inputs only integers.
pub(in crate::stage) fn feeds(element: &DataType, port: &Port) -> bool {
    match port.element {
        Element::F32 | Element::F64 | Element::F16 => true,
        Element::I32 | Element::I64 | Element::U8 => {
            element.is_integer() || *element == DataType::Boolean
        }
        Element::Other(_) => false,
    }
}

/// Returns an error unless `given` names each of the inputs `ports` of a model and nothing else.
/// `read` are the outputs that the stage reads.
pub(in crate::stage) fn check_inputs<'a>(
    given: impl Iterator<Item = &'a str> + Clone,
    ports: &[&Port],
    spec: &Spec,
    read: &[usize],
) -> Result<(), Misfit> {
    let known = ports.iter().map(|port| port.name.as_str());
    if let Some(name) = given
        .clone()
        .find(|name| !known.clone().any(|known| known == *name))
    {
        let fed_back = spec.inputs.iter().any(|port| port.name == name);
        let misfit = if fed_back {
            Misfit::new(format!("both `inputs` and `state` feed the input `{name}`"))
                .help("remove it from one of them")
        } else {
            Misfit::new(format!("the model has no input `{name}`")).help(did_you_mean(name, known))
        };
        return Err(misfit.at(name).at("inputs"));
    }
    let missing: Vec<&Port> = ports
        .iter()
        .copied()
        .filter(|port| !given.clone().any(|name| name == port.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if let Some(misfit) = state::suspected(&missing, spec, read) {
        return Err(misfit.at("inputs"));
    }
    let inputs = if missing.len() == 1 {
        "input"
    } else {
        "inputs"
    };
    Err(Misfit::new(format!(
        "nothing feeds the model's {inputs} {}",
        quoted(&missing)
    ))
    .help("give each input an SQL expression over steps, such as `observation`")
    .at("inputs"))
}

/// Binds the expression `sql` to `port`, or a window of it. Returns the input and the shape of one
/// of its rows.
pub(in crate::stage) fn input(
    sql: &str,
    port: &Port,
    binding: Binding,
) -> Result<(Input, Vec<usize>), Misfit> {
    let Binding {
        steps,
        along,
        window,
        ..
    } = binding;
    let wanted = Wanted { sql, port, binding };
    if let Some(bound) = frame_inputs::input(&wanted)? {
        return Ok(bound);
    }
    let expression = Expression::bind(sql, steps, Some(along))?;
    let found = expression.data_type().clone();
    let Some((element, width)) = numbers(&found) else {
        let message = format!(
            "`{sql}` is {}, which cannot feed the model's input `{port}`",
            type_name(&found)
        );
        return Err(Misfit::new(message).help("give a number or a vector of numbers"));
    };
    if !feeds(element, port) {
        return Err(Misfit::new(format!(
            "`{sql}` is {}, but the model's input is `{port}`",
            type_name(&found)
        )));
    }
    let window = window.map(|(past, future, edge)| Window {
        past,
        future,
        width,
        edge,
    });
    let cells = window.map_or(Some(width), |window| {
        window
            .past
            .checked_add(window.future)?
            .checked_add(1)?
            .checked_mul(width)
    });
    let Some(shape) = cells.and_then(|cells| row_shape(port, cells)) else {
        let shown = type_name(&found);
        let row = match (window, cells) {
            (None, _) => format!("`{sql}` is {shown}"),
            (Some(window), Some(cells)) => format!(
                "a window of length {} over `{sql}` ({shown}) has width {cells}",
                window.length()
            ),
            (Some(_), None) => format!("a window over `{sql}` ({shown}) is too wide"),
        };
        return Err(Misfit::new(format!(
            "{row}, but the model's input is `{port}`"
        )));
    };
    Ok((
        Input {
            name: port.name.clone(),
            of: Of::Expression(expression),
            element: port.element,
            width,
            window,
        },
        shape,
    ))
}
