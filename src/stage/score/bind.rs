//! Binds the options of `score` to the columns they meet and to what the models say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;

use super::options::{Chosen, Edge, Fed, Reduce, Score};
use super::{Scorer, Written};
use crate::dataset::block::with_field;
use crate::dataset::schema::{step, type_name, vector};
use crate::expr;
use crate::model::{Element, Port, Spec};
use crate::stage::support::columns::{fits, refuse_fixed};
use crate::stage::support::infer::bind::{Accepted, batch, check_inputs, input, specs};
use crate::stage::support::infer::frame_inputs::Binding;
use crate::stage::support::infer::names::{did_you_mean, quoted, unread};
use crate::stage::support::infer::pixels::FrameOptions;
use crate::stage::support::infer::shape::cells;
use crate::stage::support::infer::state::{
    Carried, State, fed_back, geometry, others, states, suspected,
};
use crate::stage::support::infer::{Ensemble, Input, windows};
use crate::stage::{Bound, Context, Misfit, options};

pub(super) fn bind(value: &Value, context: &Context) -> Result<Bound, Misfit> {
    let given: Score = options(value)?;
    let accepted = Accepted {
        random: given.allow_random,
        precision: given.precision,
    };
    let (names, specs) = specs(&given.model, &[], accepted, context)?;
    let spec = &specs[0];
    let states = states(&given.state, spec)?;
    let (inputs, rows) = feeds(&given, context.steps, spec, &states)?;
    let batch = batch(given.batch, spec, (&inputs, &rows), &states, context)?;
    let (outputs, cells, written) = outputs(&given, spec, specs.len())?;
    let mut steps = context.steps.clone();
    for column in &written {
        steps = with_field(&steps, column.field.clone()).0;
    }
    let geometry = geometry(spec, batch, rows, outputs, &states, given.allow_random);
    let ensemble = Ensemble::new(context.models.runtime()?, names, specs, geometry, states);
    let skips = given.edge == Edge::Skip;
    Bound::transform(Scorer {
        ensemble,
        inputs,
        skips,
        cells,
        written,
        non_finite: given.non_finite,
        steps: Arc::new(steps),
    })
}

/// Binds what feeds the inputs. Returns each input and the shape of one of its rows.
fn feeds(
    given: &Score,
    steps: &Schema,
    spec: &Spec,
    states: &[State],
) -> Result<(Vec<Input>, Vec<Vec<usize>>), Misfit> {
    let (along, edge) = match given.edge {
        Edge::Skip => (expr::Edge::Null, windows::Edge::Skip),
        Edge::Repeat => (expr::Edge::Repeat, windows::Edge::Repeat),
        Edge::Zero => (expr::Edge::Zero, windows::Edge::Zero),
    };
    let ports = others(spec, states);
    // Without `outputs`, every output is written, but one that is fed back may be a state.
    let named = given.outputs.iter().flat_map(|outputs| outputs.values());
    let read: Vec<usize> = named
        .filter_map(|chosen| {
            spec.outputs
                .iter()
                .position(|port| port.name == *chosen.output())
        })
        .chain(fed_back(states))
        .collect();
    let fed = match (&given.inputs, ports.as_slice()) {
        (_, []) => return Err(Misfit::new("the model has no input").at("model")),
        (Some(inputs), ports) => {
            check_inputs(inputs.keys().map(String::as_str), ports, spec, &read)?;
            inputs.clone()
        }
        (None, [port]) => {
            BTreeMap::from([(port.name.clone(), Fed::Row(step::OBSERVATION.to_owned()))])
        }
        (None, ports) => {
            if let Some(misfit) = suspected(ports, spec, &read) {
                return Err(misfit.at("model"));
            }
            return Err(Misfit::new(format!(
                "the model has {} inputs: {}",
                ports.len(),
                quoted(ports)
            ))
            .help(format!(
                "give an expression for each, such as `inputs: {{{}: observation, …}}`",
                ports[0].name
            ))
            .at("model"));
        }
    };
    let fed = ports
        .iter()
        .filter_map(|port| fed.get(&port.name).map(|fed| (*port, fed)));
    let frames = given.frames.as_ref();
    FrameOptions::check(frames, &ports)?;
    let bound = fed.map(|(port, fed)| {
        let binding = Binding {
            steps,
            along,
            window: None,
            around: None,
            pixels: frames.and_then(|frames| frames.of(port)),
        };
        let own = |misfit: Misfit| {
            if given.inputs.is_some() {
                misfit.at(port.name.as_str()).at("inputs")
            } else {
                misfit.at("model")
            }
        };
        match fed {
            Fed::Row(sql) => input(sql, port, binding).map_err(own),
            Fed::Window(window) => {
                let binding = Binding {
                    window: Some((window.past, window.future, edge)),
                    around: Some((window.past, window.future)),
                    ..binding
                };
                input(&window.of, port, binding).map_err(|misfit| own(misfit.at("of")))
            }
        }
    });
    Ok(bound.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

/// The indices of the outputs that are read, the number of values per row of each, and the columns
/// to write.
type Outputs = (Vec<usize>, Vec<usize>, Vec<Written>);

fn outputs(given: &Score, spec: &Spec, members: usize) -> Result<Outputs, Misfit> {
    let fed_back: Vec<&String> = given.state.values().map(Carried::output).collect();
    let chosen = given.outputs.clone().unwrap_or_else(|| {
        let own = |port: &Port| (port.name.clone(), Chosen::Output(port.name.clone()));
        let is_state = |port: &&Port| fed_back.contains(&&port.name);
        spec.outputs
            .iter()
            .filter(|port| !is_state(port))
            .map(own)
            .collect()
    });
    if chosen.is_empty() {
        let key = if given.outputs.is_some() {
            "outputs"
        } else {
            "model"
        };
        return Err(Misfit::new("`score` has no column to write")
            .help("name a column and an output of the model: `outputs: {COLUMN: OUTPUT}`")
            .at(key));
    }
    let (mut read, mut widths, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for (name, chosen) in chosen {
        let output = chosen.output();
        let reduce = match &chosen {
            Chosen::Output(_) => given.reduce,
            Chosen::Reduced(reduced) => reduced.reduce,
        };
        let at = |misfit: Misfit| {
            if given.outputs.is_some() {
                misfit.at(name.as_str()).at("outputs")
            } else {
                misfit.at("model")
            }
        };
        refuse_fixed(&name, "overwritten").map_err(at)?;
        let Some(position) = spec.outputs.iter().position(|port| port.name == *output) else {
            let known = spec.outputs.iter().map(|port| port.name.as_str());
            return Err(at(Misfit::new(format!(
                "the model has no output `{output}`"
            ))
            .help(did_you_mean(output, known))));
        };
        let port = &spec.outputs[position];
        if reduce == Reduce::Std && members == 1 {
            return Err(at(Misfit::new(
                "`reduce: std` needs an ensemble, but `model` is a single file",
            )
            .help("list several files: `model: [FILE, FILE, …]`")));
        }
        let exact = members == 1 || matches!(reduce, Reduce::Min | Reduce::Max | Reduce::All);
        let element = match port.element {
            Element::F32 | Element::F16 => DataType::Float32,
            Element::I32 if exact => DataType::Int32,
            Element::I64 if exact => DataType::Int64,
            Element::U8 if exact => DataType::UInt8,
            Element::F64 | Element::I32 | Element::I64 | Element::U8 => DataType::Float64,
            Element::Other(_) => return Err(at(unread(port))),
        };
        let stated = if port.shape.is_empty() {
            None
        } else {
            cells(&port.shape[1..])
        };
        let Some(cells) = stated.filter(|cells| *cells > 0) else {
            return Err(at(Misfit::new(format!(
                "the model's output `{port}` does not state how many values it has"
            ))
            .help("export the model with a fixed width")));
        };
        let width = if reduce == Reduce::All {
            cells * members
        } else {
            cells
        };
        let data_type = match i32::try_from(width) {
            Ok(1) => element,
            Ok(width) => vector(element, width),
            Err(_) => {
                return Err(at(Misfit::new(format!(
                    "`{name}` would have {width} values per row, more than a vector can hold"
                ))));
            }
        };
        if !fits(&name, &data_type) {
            return Err(at(Misfit::new(format!(
                "`{name}` cannot be {}, the type of the model's output `{port}`",
                type_name(&data_type)
            ))));
        }
        let index = read
            .iter()
            .position(|read| *read == position)
            .unwrap_or_else(|| {
                read.push(position);
                widths.push(cells);
                read.len() - 1
            });
        written.push(Written {
            field: Field::new(&name, data_type, true),
            output: index,
            reduce,
        });
    }
    Ok((read, widths, written))
}
