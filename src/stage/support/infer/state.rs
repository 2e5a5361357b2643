//! The states of recurrent models: inputs that take what an output gave at the step before.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::names::{did_you_mean, quoted};
use crate::model::{Axes, Element, Geometry, Port, Spec};
use crate::stage::Misfit;

/// The default number of rows in a batch of a recurrent model. A batch can only be as full as a
/// block has trajectories.
const BATCH: usize = 64;

/// The most rows in a batch of a recurrent model that sees frames, because each of them has a
/// decoder of its own.
const LANES: usize = 8;

/// The output that a state input takes its values from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum Carried {
    /// An output of the model. The state is zero at the first step of a trajectory.
    Output(String),
    /// An output of the model, and the state at the first step of a trajectory.
    Started(Started),
}

impl Carried {
    /// Returns the name of the output.
    pub(in crate::stage) fn output(&self) -> &String {
        match self {
            Carried::Output(output) => output,
            Carried::Started(started) => &started.output,
        }
    }
}

/// An output of the model, and the state at the first step of a trajectory.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::stage) struct Started {
    /// Name of the output.
    pub(in crate::stage) output: String,
    /// State at the first step of a trajectory: one number for all values, or a list of them.
    pub(in crate::stage) start: Start,
}

/// The state at the first step of a trajectory.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::stage) enum Start {
    /// One number for all values.
    Number(f64),
    /// A number for each value.
    List(Vec<f64>),
}

/// A state that is carried from step to step.
#[derive(Debug, Clone)]
pub(in crate::stage) struct State {
    /// Index of the input in the graph.
    pub(super) input: usize,
    /// Index of the output in the graph.
    pub(super) output: usize,
    /// The batch axis of both.
    pub(super) axis: usize,
    /// The shape of one row.
    pub(super) shape: Vec<usize>,
    /// The values at the first step of a trajectory.
    pub(super) start: Vec<f64>,
}

/// Binds the option `state`.
pub(in crate::stage) fn states(
    given: &BTreeMap<String, Carried>,
    spec: &Spec,
) -> Result<Vec<State>, Misfit> {
    let bound = given
        .iter()
        .map(|(name, carried)| state(name, carried, spec).map_err(|misfit| misfit.at("state")));
    let states: Vec<State> = bound.collect::<Result<_, _>>()?;
    if axes(&states).outputs.len() < states.len() {
        let misfit = Misfit::new("two inputs take their state from the same output");
        return Err(misfit
            .help("name another output for one of them")
            .at("state"));
    }
    Ok(states)
}

fn state(name: &str, carried: &Carried, spec: &Spec) -> Result<State, Misfit> {
    let start = match carried {
        Carried::Output(_) => None,
        Carried::Started(started) => Some(&started.start),
    };
    let find = |ports: &[Port], what: &str, wanted: &str| {
        ports
            .iter()
            .position(|port| port.name == *wanted)
            .ok_or_else(|| {
                let known = ports.iter().map(|port| port.name.as_str());
                Misfit::new(format!("the model has no {what} `{wanted}`"))
                    .help(did_you_mean(wanted, known))
                    .at(name)
            })
    };
    let input = find(&spec.inputs, "input", name)?;
    let output = find(&spec.outputs, "output", carried.output())?;
    let (from, to) = (&spec.outputs[output], &spec.inputs[input]);
    let apart = || {
        Misfit::new(format!(
            "the state `{to}` cannot take the values of the output `{from}`"
        ))
        .help("an output that is fed back needs the type and the shape of the input")
        .at(name)
    };
    if from.element != to.element || from.shape.len() != to.shape.len() {
        return Err(apart());
    }
    if matches!(to.element, Element::Other(_)) || to.shape.is_empty() {
        let message = format!("the model's input `{to}` cannot be a state");
        let help = "export the model with a state of numbers and of a fixed shape";
        return Err(Misfit::new(message).help(help).at(name));
    }
    let axis = batch_axis(to, spec);
    let mut shape = Vec::new();
    for (index, (to, from)) in to.shape.iter().zip(&from.shape).enumerate() {
        if index == axis {
            continue;
        }
        match (to, from) {
            (Some(to), Some(from)) if to != from => return Err(apart()),
            (Some(size), _) | (None, Some(size)) => shape.push(*size),
            (None, None) => {
                let message = format!(
                    "the model does not say how many values a row of its state has: `{}`",
                    spec.inputs[input]
                );
                return Err(Misfit::new(message)
                    .help("export the model with a state in which only the batch axis is free")
                    .at(name));
            }
        }
    }
    let cells = shape.iter().product();
    let start = match start {
        None => vec![0.0; cells],
        Some(Start::Number(value)) => vec![*value; cells],
        Some(Start::List(values)) if values.len() == cells => values.clone(),
        Some(Start::List(values)) => {
            let message = format!(
                "`start` has {} values, but a row of the state `{to}` has {cells}",
                values.len()
            );
            return Err(Misfit::new(message)
                .help("give one number for all of them, or one for each")
                .at("start")
                .at(name));
        }
    };
    Ok(State {
        input,
        output,
        axis,
        shape,
        start,
    })
}

/// Returns the batch axis of a state: the free axis or, if a model has none or several, the one
/// that PyTorch's layers have, layer × batch × unit.
fn batch_axis(port: &Port, spec: &Spec) -> usize {
    let free: Vec<usize> = (0..port.shape.len())
        .filter(|axis| port.shape[*axis].is_none())
        .collect();
    let usual = usize::from(port.shape.len() > 2);
    if let [only] = free.as_slice() {
        return *only;
    }
    // A model of a fixed batch size says it in its other inputs too.
    let fixed = spec
        .inputs
        .iter()
        .filter(|other| other.name != port.name)
        .find_map(|other| other.shape.first().copied().flatten());
    match fixed.filter(|_| free.is_empty()) {
        Some(batch) if port.shape[usual] != Some(batch) => port
            .shape
            .iter()
            .position(|size| *size == Some(batch))
            .unwrap_or(usual),
        _ if free.is_empty() || free.contains(&usual) => usual,
        _ => free[0],
    }
}

/// Returns the inputs that `states` leave to be fed.
pub(in crate::stage) fn others<'a>(spec: &'a Spec, states: &[State]) -> Vec<&'a Port> {
    let is_state = |index: usize| states.iter().any(|state| state.input == index);
    spec.inputs
        .iter()
        .enumerate()
        .filter(|(index, _)| !is_state(*index))
        .map(|(_, port)| port)
        .collect()
}

/// Returns the batch axes of the states.
pub(in crate::stage) fn axes(states: &[State]) -> Axes {
    Axes {
        inputs: states
            .iter()
            .map(|state| (state.input, state.axis))
            .collect(),
        outputs: states
            .iter()
            .map(|state| (state.output, state.axis))
            .collect(),
    }
}

/// Returns the default number of rows in a batch; `usual` is that of a model without states.
pub(in crate::stage) fn default_batch(usual: usize, states: &[State]) -> usize {
    if states.is_empty() {
        usual
    } else {
        usual.min(BATCH)
    }
}

/// Returns the most rows of a batch of a model that sees frames; `usual` is that of a model without
/// states.
pub(in crate::stage) fn default_lanes(usual: usize, states: &[State]) -> usize {
    if states.is_empty() {
        usual
    } else {
        usual.min(LANES)
    }
}

/// Returns what a model is opened with: the shape of one row of each input that is not a state is
/// in `rows`, in the graph's order.
pub(in crate::stage) fn geometry(
    spec: &Spec,
    batch: usize,
    rows: Vec<Vec<usize>>,
    outputs: Vec<usize>,
    states: &[State],
    mixed: bool,
) -> Geometry {
    let mut rows = rows.into_iter();
    let inputs = (0..spec.inputs.len()).map(|index| {
        let state = states.iter().find(|state| state.input == index);
        state.map_or_else(
            || rows.next().unwrap_or_default(),
            |state| state.shape.clone(),
        )
    });
    let inputs = inputs.collect();
    let mut read = outputs;
    for state in states {
        if !read.contains(&state.output) {
            read.push(state.output);
        }
    }
    Geometry {
        batch,
        inputs,
        outputs: read,
        axes: axes(states),
        mixed,
    }
}

/// Returns the outputs that are fed back as `states`.
pub(in crate::stage) fn fed_back(states: &[State]) -> impl Iterator<Item = usize> {
    states.iter().map(|state| state.output)
}

/// Returns a misfit if inputs that nothing feeds look like the state of a recurrent model. `read`
/// are the outputs that the stage reads or feeds back.
pub(in crate::stage) fn suspected(unfed: &[&Port], spec: &Spec, read: &[usize]) -> Option<Misfit> {
    let mut taken: Vec<usize> = read.to_vec();
    let mut pairs = Vec::new();
    for port in unfed {
        let alike = |index: &usize| {
            let output = &spec.outputs[*index];
            !taken.contains(index)
                && output.element == port.element
                && output.shape == port.shape
                && (port.shape.len() > 2 || names_state(&port.name) || names_state(&output.name))
        };
        if let Some(index) = (0..spec.outputs.len()).find(alike) {
            taken.push(index);
            pairs.push((*port, &spec.outputs[index]));
        }
    }
    let (noun, looks, has) = match pairs.len() {
        0 => return None,
        1 => ("input", "looks like the state", "has"),
        _ => ("inputs", "look like the state", "have"),
    };
    let ports: Vec<&Port> = pairs.iter().map(|(port, _)| *port).collect();
    let outputs: Vec<&str> = pairs
        .iter()
        .map(|(_, output)| output.name.as_str())
        .collect();
    let option: Vec<String> = pairs
        .iter()
        .map(|(port, output)| format!("{}: {}", port.name, output.name))
        .collect();
    let message = format!(
        "the model's {noun} {} {looks} of a recurrent model: {} {has} the same type",
        quoted(&ports),
        quoted(&outputs)
    );
    Some(Misfit::new(message).help(format!(
        "carry it from step to step with `state: {{{}}}`, or feed it with `inputs`",
        option.join(", ")
    )))
}

/// Whether a name is usual for the state of a recurrent model.
fn names_state(name: &str) -> bool {
    const USUAL: [&str; 18] = [
        "h",
        "c",
        "hx",
        "cx",
        "h0",
        "c0",
        "hn",
        "cn",
        "hidden",
        "state",
        "states",
        "cell",
        "rnn",
        "lstm",
        "gru",
        "carry",
        "memory",
        "recurrent",
    ];
    name.to_lowercase()
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|word| USUAL.contains(&word))
}
