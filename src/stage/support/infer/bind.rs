//! What a pipeline says of a model, held against what the model says of itself.

use std::fmt::Display;

use arrow::datatypes::{DataType, Schema};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Input;
use super::windows::{Edge, Window};
use crate::error::nearest;
use crate::expr::{self, Expression};
use crate::model::{Element, Port, Spec};
use crate::stage::{Context, Misfit};

/// One file or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum Files {
    /// One model.
    One(String),
    /// An ensemble.
    Several(Vec<String>),
}

pub(in crate::stage) fn quoted<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    names
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A column's type as ports are shown: `float32 [3]`.
pub(in crate::stage) fn shown(data_type: &DataType) -> String {
    match data_type {
        DataType::FixedSizeList(child, width) => format!("{} [{width}]", shown(child.data_type())),
        other if other.is_primitive() || *other == DataType::Utf8 => {
            other.to_string().to_lowercase()
        }
        other => other.to_string(),
    }
}

/// The nearest of the model's names, or all of them.
pub(in crate::stage) fn did_you_mean<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    nearest(given, known.clone()).map_or_else(
        || format!("the model has {}", quoted(known)),
        |name| format!("did you mean `{name}`?"),
    )
}

/// The models with their names: the members of an ensemble are alike, and say the same of the properties `agree`.
pub(in crate::stage) fn specs(
    files: &Files,
    agree: &[&str],
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
    let Some(first) = specs.first() else {
        return Err(Misfit::new("`model` lists no model")
            .help("give a path, or a list of paths for an ensemble")
            .at("model"));
    };
    // The batch axis is whatever the export made of it.
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
                    "the members of an ensemble need the same {what}: `{}` has {}, `{}` has {}",
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
                    .map_or_else(|| "nothing".to_owned(), |value| format!("`{value}`"))
            };
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
            "the model's metadata says `{key}` is `{text}`, which makes no sense"
        ))
        .help("give the option in the pipeline, or export the model again")
        .at("model")
    };
    read(text.trim()).map(Some).ok_or_else(wrong)
}

/// A misfit of an option where the user gave it, and of the model where it came from there.
pub(in crate::stage) fn blame(given: bool, option: &str, message: String) -> Misfit {
    Misfit::new(message).at(if given { option } else { "model" })
}

/// Rows of a batch: what is asked for, what the model insists on, or the runtime's constant.
pub(in crate::stage) fn batch(
    given: Option<usize>,
    spec: &Spec,
    context: &Context,
) -> Result<usize, Misfit> {
    let fixed = spec.inputs.iter().find_map(|port| {
        port.shape
            .first()
            .copied()
            .flatten()
            .map(|rows| (rows, port))
    });
    match (given, fixed) {
        (Some(0), _) => Err(Misfit::new("`batch` is 0").help("at least 1").at("batch")),
        (Some(batch), Some((rows, port))) if batch != rows => Err(Misfit::new(format!(
            "`batch` is {batch}, and the model takes exactly {rows} rows: `{port}`"
        ))
        .help("leave `batch` out, or export the model with a free batch axis")
        .at("batch")),
        (_, Some((0, port))) => {
            Err(Misfit::new(format!("the model takes batches of no rows: `{port}`")).at("model"))
        }
        (Some(batch), _) => Ok(batch),
        (None, Some((rows, _))) => Ok(rows),
        (None, None) => Ok(context.models.runtime().batch().max(1)),
    }
}

/// Values of one row of a port; `None` where an axis is free.
pub(in crate::stage) fn cells(axes: &[Option<usize>]) -> Option<usize> {
    axes.iter()
        .copied()
        .try_fold(1, |cells: usize, size| cells.checked_mul(size?))
}

/// Shape of one row of a port that is to hold `cells` values: at most one axis is free.
pub(in crate::stage) fn row_shape(port: &Port, wanted: usize) -> Option<Vec<usize>> {
    let Some(axes) = port.shape.get(1..) else {
        return Some(vec![wanted]);
    };
    let known: usize = axes.iter().flatten().product();
    match axes.iter().filter(|size| size.is_none()).count() {
        0 => (known == wanted).then(|| axes.iter().flatten().copied().collect()),
        1 if known > 0 && wanted.is_multiple_of(known) => Some(
            axes.iter()
                .map(|size| size.unwrap_or(wanted / known))
                .collect(),
        ),
        _ => None,
    }
}

/// Values of a row of a column that can feed a model; `None` for any other type.
pub(in crate::stage) fn numbers(data_type: &DataType) -> Option<(&DataType, usize)> {
    let (element, size) = match data_type {
        DataType::FixedSizeList(child, size) => (child.data_type(), usize::try_from(*size).ok()?),
        other => (other, 1),
    };
    (element.is_numeric() || *element == DataType::Boolean).then_some((element, size))
}

/// Whether values of `element` may be fed into `port`: into floating point all, into integers only integers.
pub(in crate::stage) fn feeds(element: &DataType, port: &Port) -> bool {
    match port.element {
        Element::F32 | Element::F64 => true,
        Element::I32 | Element::I64 | Element::U8 => {
            element.is_integer() || *element == DataType::Boolean
        }
        Element::Other => false,
    }
}

/// Checks that `given` names the model's inputs, each and no other.
pub(in crate::stage) fn check_inputs<'a>(
    given: impl Iterator<Item = &'a str> + Clone,
    ports: &[Port],
) -> Result<(), Misfit> {
    let known = ports.iter().map(|port| port.name.as_str());
    if let Some(name) = given
        .clone()
        .find(|name| !known.clone().any(|known| known == *name))
    {
        return Err(Misfit::new(format!("the model has no input `{name}`"))
            .help(did_you_mean(name, known))
            .at(name)
            .at("inputs"));
    }
    let missing: Vec<&Port> = ports
        .iter()
        .filter(|port| !given.clone().any(|name| name == port.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the model's {} {} not fed",
        quoted(&missing),
        if missing.len() == 1 { "is" } else { "are" }
    );
    Err(Misfit::new(message)
        .help("give an SQL expression over steps, such as `observation`")
        .at("inputs"))
}

/// Feeds `port` with the expression `sql`, `next` and `prev` in it following `along`, and with the window (past, future,
/// edge) of it where there is one. Gives the input and the shape of one row of it.
pub(in crate::stage) fn input(
    sql: &str,
    port: &Port,
    steps: &Schema,
    along: expr::Edge,
    window: Option<(usize, usize, Edge)>,
) -> Result<(Input, Vec<usize>), Misfit> {
    let expression = Expression::bind(sql, steps, Some(along))?;
    let found = expression.data_type().clone();
    let Some((element, width)) = numbers(&found) else {
        let message = format!(
            "`{sql}` is {}, which cannot be fed to the model's input `{port}`",
            shown(&found)
        );
        return Err(Misfit::new(message).help("it takes numbers and vectors of numbers"));
    };
    if !feeds(element, port) {
        return Err(Misfit::new(format!(
            "`{sql}` is {}, and the model's input is `{port}`",
            shown(&found)
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
        let of = window.map_or_else(String::new, |window| {
            format!(" in a window of {}", window.length())
        });
        let cells = cells.map_or_else(|| "too many".to_owned(), |cells| cells.to_string());
        return Err(Misfit::new(format!(
            "`{sql}` has {cells} values a step{of}, and the model's input is `{port}`"
        )));
    };
    Ok((
        Input {
            name: port.name.clone(),
            expression,
            element: port.element,
            width,
            window,
        },
        shape,
    ))
}
