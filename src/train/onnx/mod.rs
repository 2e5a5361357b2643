//! The ONNX file of a model: its graph and its metadata.
//!
//! One file holds the whole ensemble, so `label` runs one model, and members cannot get separated.
//! `action` is the mean of the members. `std` is joined as `label` joins the models of a list of
//! files: the root of the mean of the variances plus the variance of the means.
//!
//! ```text
//! observation ─ (x - mean) · factor ─┬─ member 0 ─┬─ mean ──► action
//!                                    └─ member … ─┴─ joined ► std
//! ```

mod proto;

use std::collections::BTreeMap;

use prost::Message;

use self::proto::{
    Described, Dimension, Entry, GraphProto, ModelProto, NodeProto, OperatorSet, TensorProto,
    TensorShape, TensorType, TypeProto, ValueInfo,
};
use super::head::{LOG_STD, points};
use super::model::Model;
use super::network::Values;
use super::options::{Activation, Head};
use crate::error::{Error, Result};

/// Version of the operator set. It dates from 2021, so every runtime in use supports it.
const OPSET: i64 = 17;
/// Version of the file format that belongs to [`OPSET`].
const IR_VERSION: i64 = 8;
/// Values of `TensorProto.DataType`.
const FLOAT: i32 = 1;
const INT64: i32 = 7;

/// Returns the ONNX file of `model`, with `metadata` in it.
pub(crate) fn write(model: &Model, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let entry = |(key, value): (&String, &String)| Entry {
        key: key.clone(),
        value: value.clone(),
    };
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "trajmill".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph(model)),
        opset_import: vec![OperatorSet {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: metadata.iter().map(entry).collect(),
    }
    .encode_to_vec()
}

/// Returns the metadata of an ONNX file.
///
/// # Errors
/// Returns an error if the bytes are not an ONNX file.
pub fn metadata(file: &[u8]) -> Result<BTreeMap<String, String>> {
    let model = Described::decode(file)
        .map_err(|error| Error::failed(format!("not an ONNX file: {error}")))?;
    Ok(model
        .metadata_props
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect())
}

fn graph(model: &Model) -> GraphProto {
    let mut graph = Graph::default();
    let (cells, width) = (model.task.cells(), model.outputs());
    graph.constant("input_mean", &[cells], &model.inputs.mean);
    graph.constant("input_factor", &[cells], &model.inputs.factor);
    graph.node("Sub", &["observation", "input_mean"], "centred");
    graph.node("Mul", &["centred", "input_factor"], "inputs");
    match model.head {
        Head::Categorical => {}
        Head::Deterministic | Head::Gaussian => {
            graph.constant("action_centre", &[width], &model.centre);
            graph.constant("action_scale", &[width], &model.scale);
        }
    }
    if model.head == Head::Gaussian {
        let (points, weights) = points();
        graph.constant("points", &[points.len()], &points);
        graph.constant("weights", &[weights.len(), 1], &weights);
        graph.constant("half", &[], &[0.5 * (LOG_STD[1] - LOG_STD[0])]);
        graph.constant(
            "middle",
            &[],
            &[LOG_STD[0] + 0.5 * (LOG_STD[1] - LOG_STD[0])],
        );
        graph.shape("deep", &[0, i64::try_from(width).unwrap_or(-1), 1]);
        graph.shape("flat", &[0, i64::try_from(width).unwrap_or(-1)]);
    }
    if let (Head::Deterministic, Some(bounds)) = (model.head, &model.task.bounds) {
        for (name, bound) in ["lowest", "highest"].iter().zip(bounds) {
            let bound: Vec<f32> = bound.iter().map(|bound| *bound as f32).collect();
            graph.constant(name, &[width], &bound);
        }
    }
    for (index, networks) in model.members.iter().enumerate() {
        member(&mut graph, model, &format!("m{index}_"), networks);
    }
    join(&mut graph, model);
    let outputs: &[&str] = if model.has_std() {
        &["action", "std"]
    } else {
        &["action"]
    };
    GraphProto {
        node: graph.nodes,
        name: "idm".to_owned(),
        initializer: graph.initializers,
        input: vec![port("observation", cells)],
        output: outputs.iter().map(|name| port(name, width)).collect(),
    }
}

/// Adds the graph of one member, with the output `{p}action`, and `{p}std` for a Gaussian head.
fn member(graph: &mut Graph, model: &Model, p: &str, networks: &[Vec<Values>]) {
    let name = |what: &str| format!("{p}{what}");
    match (model.head, networks) {
        (Head::Gaussian, [mean, log_std]) => {
            network(graph, model.activation, &name("mean"), mean);
            network(graph, model.activation, &name("log_std"), log_std);
            graph.node("Tanh", &[&name("mean")], &name("place"));
            graph.node("Mul", &[&name("place"), "action_scale"], &name("scaled"));
            graph.node("Add", &[&name("scaled"), "action_centre"], &name("action"));
            graph.node("Tanh", &[&name("log_std")], &name("bounded"));
            graph.node("Mul", &[&name("bounded"), "half"], &name("halved"));
            graph.node("Add", &[&name("halved"), "middle"], &name("logarithm"));
            graph.node("Exp", &[&name("logarithm")], &name("sigma"));
            // The standard deviation of the squashed normal, over quadrature points along a new
            // last axis.
            graph.node("Reshape", &[&name("mean"), "deep"], &name("mean_deep"));
            graph.node("Reshape", &[&name("sigma"), "deep"], &name("sigma_deep"));
            graph.node("Mul", &[&name("sigma_deep"), "points"], &name("apart"));
            graph.node(
                "Add",
                &[&name("mean_deep"), &name("apart")],
                &name("around"),
            );
            graph.node("Tanh", &[&name("around")], &name("squashed"));
            graph.node("MatMul", &[&name("squashed"), "weights"], &name("expected"));
            graph.node(
                "Sub",
                &[&name("squashed"), &name("expected")],
                &name("error"),
            );
            graph.node(
                "Mul",
                &[&name("error"), &name("error")],
                &name("error_squared"),
            );
            graph.node(
                "MatMul",
                &[&name("error_squared"), "weights"],
                &name("variance_deep"),
            );
            graph.node(
                "Reshape",
                &[&name("variance_deep"), "flat"],
                &name("variance_place"),
            );
            graph.node("Sqrt", &[&name("variance_place")], &name("std_place"));
            graph.node("Mul", &[&name("std_place"), "action_scale"], &name("std"));
        }
        (Head::Deterministic, [one]) => {
            network(graph, model.activation, &name("output"), one);
            graph.node("Mul", &[&name("output"), "action_scale"], &name("scaled"));
            if model.task.bounds.is_some() {
                graph.node("Add", &[&name("scaled"), "action_centre"], &name("free"));
                graph.node("Max", &[&name("free"), "lowest"], &name("above"));
                graph.node("Min", &[&name("above"), "highest"], &name("action"));
            } else {
                graph.node("Add", &[&name("scaled"), "action_centre"], &name("action"));
            }
        }
        _ => networks
            .iter()
            .for_each(|one| network(graph, model.activation, &name("action"), one)),
    }
}

/// Adds the layers of a network, with the output `output`.
fn network(graph: &mut Graph, activation: Activation, output: &str, layers: &[Values]) {
    let mut at = "inputs".to_owned();
    for (index, layer) in layers.iter().enumerate() {
        let (weights, bias) = (format!("{output}_w{index}"), format!("{output}_b{index}"));
        graph.constant(&weights, &[layer.inputs, layer.outputs], &layer.weights);
        graph.constant(&bias, &[layer.outputs], &layer.bias);
        let last = index + 1 == layers.len();
        let sums = if last {
            output.to_owned()
        } else {
            format!("{output}_z{index}")
        };
        graph.node("Gemm", &[&at, &weights, &bias], &sums);
        if !last {
            at = format!("{output}_h{index}");
            let operator = match activation {
                Activation::Relu => "Relu",
                Activation::Tanh => "Tanh",
                Activation::Elu => "Elu",
            };
            graph.node(operator, &[&sums], &at);
        }
    }
}

/// Adds `action` and `std`, joined from the members.
fn join(graph: &mut Graph, model: &Model) {
    let count = model.members.len();
    if count == 1 {
        graph.node("Identity", &["m0_action"], "action");
        if model.has_std() {
            graph.node("Identity", &["m0_std"], "std");
        }
        return;
    }
    graph.constant("share", &[], &[1.0 / count as f32]);
    let actions: Vec<String> = (0..count)
        .map(|member| format!("m{member}_action"))
        .collect();
    graph.sum(&actions, "action_sum");
    graph.node("Mul", &["action_sum", "share"], "action");
    if !model.has_std() {
        return;
    }
    let mut variances = Vec::new();
    for member in 0..count {
        let name = |what: &str| format!("m{member}_{what}");
        graph.node("Sub", &[&name("action"), "action"], &name("off"));
        graph.node("Mul", &[&name("off"), &name("off")], &name("off_squared"));
        variances.push(name("off_squared"));
        if model.head == Head::Gaussian {
            graph.node("Mul", &[&name("std"), &name("std")], &name("variance"));
            variances.push(name("variance"));
        }
    }
    graph.sum(&variances, "variance_sum");
    graph.node("Mul", &["variance_sum", "share"], "variance");
    graph.node("Sqrt", &["variance"], "std");
}

/// A graph under construction.
#[derive(Default)]
struct Graph {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl Graph {
    fn node(&mut self, operator: &str, inputs: &[&str], output: &str) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: operator.to_owned(),
        });
    }

    /// Adds the sum of any number of values, in order.
    fn sum(&mut self, values: &[String], output: &str) {
        let mut at = values.first().cloned().unwrap_or_default();
        for (index, value) in values.iter().enumerate().skip(1) {
            let next = if index + 1 == values.len() {
                output.to_owned()
            } else {
                format!("{output}_{index}")
            };
            self.node("Add", &[&at, value], &next);
            at = next;
        }
    }

    fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let raw_data = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let dims = shape
            .iter()
            .map(|size| i64::try_from(*size).unwrap_or(i64::MAX))
            .collect();
        self.initializers.push(TensorProto {
            dims,
            data_type: FLOAT,
            name: name.to_owned(),
            raw_data,
        });
    }

    fn shape(&mut self, name: &str, shape: &[i64]) {
        let raw_data = shape.iter().flat_map(|size| size.to_le_bytes()).collect();
        self.initializers.push(TensorProto {
            dims: vec![shape.len() as i64],
            data_type: INT64,
            name: name.to_owned(),
            raw_data,
        });
    }
}

/// Returns an input or output with rows of `width` values.
fn port(name: &str, width: usize) -> ValueInfo {
    let batch = Dimension {
        dim_value: None,
        dim_param: Some("batch".to_owned()),
    };
    let values = Dimension {
        dim_value: i64::try_from(width).ok(),
        dim_param: None,
    };
    let tensor = TensorType {
        elem_type: FLOAT,
        shape: Some(TensorShape {
            dim: vec![batch, values],
        }),
    };
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
        }),
    }
}
