//! The graph of an ONNX model: nodes, constants and types, as far as verifying it needs them.

use std::collections::BTreeMap;

use super::weights::ModelFiles;
use super::wire::{Value, fields, varint};

/// Numbers of ONNX's element types.
pub(super) mod element {
    pub(crate) const FLOAT: u64 = 1;
    pub(crate) const UINT8: u64 = 2;
    pub(crate) const INT8: u64 = 3;
    pub(crate) const UINT16: u64 = 4;
    pub(crate) const INT16: u64 = 5;
    pub(crate) const INT32: u64 = 6;
    pub(crate) const INT64: u64 = 7;
    pub(crate) const STRING: u64 = 8;
    pub(crate) const BOOL: u64 = 9;
    pub(crate) const FLOAT16: u64 = 10;
    pub(crate) const DOUBLE: u64 = 11;
    pub(crate) const UINT32: u64 = 12;
    pub(crate) const UINT64: u64 = 13;
    pub(crate) const BFLOAT16: u64 = 16;

    /// Returns the name of a type of inputs that no column can feed.
    pub(crate) fn unfed(number: u64) -> Option<&'static str> {
        match number {
            BOOL => Some("bool"),
            INT8 => Some("int8"),
            INT16 => Some("int16"),
            UINT16 => Some("uint16"),
            UINT32 => Some("uint32"),
            UINT64 => Some("uint64"),
            BFLOAT16 => Some("bfloat16"),
            STRING => Some("text"),
            _ => None,
        }
    }
}

/// A model.
pub(super) struct Model<'a> {
    /// Versions of the operator sets, by domain.
    pub(super) opsets: BTreeMap<&'a str, u64>,
    pub(super) graph: Graph<'a>,
    pub(super) functions: Vec<Function<'a>>,
}

/// A function that nodes of the model may call.
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) domain: &'a str,
    pub(super) opsets: BTreeMap<&'a str, u64>,
    pub(super) nodes: Vec<Node<'a>>,
}

/// A graph: that of the model, or one inside a node.
#[derive(Default)]
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) constants: Vec<Tensor<'a>>,
    pub(super) inputs: Vec<Input<'a>>,
    pub(super) outputs: Vec<&'a str>,
}

/// An input or output of a graph.
#[derive(Default)]
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    /// The number of the element type; 0 if it is not a tensor.
    pub(super) element: u64,
    /// The name of each axis; empty for an axis without one.
    pub(super) axes: Vec<&'a str>,
}

/// A node.
#[derive(Default)]
pub(super) struct Node<'a> {
    pub(super) name: &'a str,
    pub(super) op: &'a str,
    pub(super) domain: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    pub(super) attributes: Vec<Attribute<'a>>,
}

/// An attribute of a node.
#[derive(Default)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    pub(super) number: Option<i64>,
    pub(super) numbers: Vec<i64>,
    pub(super) tensor: Option<Tensor<'a>>,
    pub(super) graphs: Vec<Graph<'a>>,
    /// Whether the value is an attribute of the function around the node.
    pub(super) refers: bool,
}

/// A constant.
#[derive(Default)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) element: u64,
    raw: Option<&'a [u8]>,
    integers: Vec<i64>,
}

impl<'a> Model<'a> {
    /// Parses a model.
    pub(super) fn of(files: &'a ModelFiles) -> Model<'a> {
        let mut model = Model {
            opsets: BTreeMap::new(),
            graph: Graph::default(),
            functions: Vec::new(),
        };
        for (number, value) in fields(&files.model) {
            let Value::Bytes(bytes) = value else { continue };
            match number {
                7 => model.graph = Graph::of(files, bytes),
                8 => model.opsets.extend([opset(bytes)]),
                25 => model.functions.push(Function::of(files, bytes)),
                _ => {}
            }
        }
        model
    }
}

impl<'a> Function<'a> {
    fn of(files: &'a ModelFiles, message: &'a [u8]) -> Function<'a> {
        let mut function = Function {
            name: "",
            domain: "",
            opsets: BTreeMap::new(),
            nodes: Vec::new(),
        };
        for (number, value) in fields(message) {
            let Value::Bytes(bytes) = value else { continue };
            match number {
                1 => function.name = text(bytes),
                7 => function.nodes.push(Node::of(files, bytes)),
                9 => function.opsets.extend([opset(bytes)]),
                10 => function.domain = text(bytes),
                _ => {}
            }
        }
        function
    }
}

impl<'a> Graph<'a> {
    fn of(files: &'a ModelFiles, message: &'a [u8]) -> Graph<'a> {
        let mut graph = Graph::default();
        for (number, value) in fields(message) {
            let Value::Bytes(bytes) = value else { continue };
            match number {
                1 => graph.nodes.push(Node::of(files, bytes)),
                5 => graph.constants.push(Tensor::of(files, bytes)),
                11 => graph.inputs.push(Input::of(bytes)),
                12 => graph.outputs.push(Input::of(bytes).name),
                _ => {}
            }
        }
        graph
    }
}

impl<'a> Input<'a> {
    fn of(message: &'a [u8]) -> Input<'a> {
        let mut input = Input::default();
        for (number, value) in fields(message) {
            match (number, value) {
                (1, Value::Bytes(bytes)) => input.name = text(bytes),
                (2, Value::Bytes(bytes)) => {
                    for (number, value) in inner(bytes, 1).flat_map(fields) {
                        match (number, value) {
                            (1, Value::Number(element)) => input.element = element,
                            (2, Value::Bytes(shape)) => {
                                input.axes = inner(shape, 1).map(axis).collect();
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        input
    }
}

impl<'a> Node<'a> {
    fn of(files: &'a ModelFiles, message: &'a [u8]) -> Node<'a> {
        let mut node = Node::default();
        for (number, value) in fields(message) {
            let Value::Bytes(bytes) = value else { continue };
            match number {
                1 => node.inputs.push(text(bytes)),
                2 => node.outputs.push(text(bytes)),
                3 => node.name = text(bytes),
                4 => node.op = text(bytes),
                5 => node.attributes.push(Attribute::of(files, bytes)),
                7 => node.domain = text(bytes),
                _ => {}
            }
        }
        // The default domain has two names.
        if node.domain == "ai.onnx" {
            node.domain = "";
        }
        node
    }

    /// Returns an attribute.
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes
            .iter()
            .find(|attribute| attribute.name == name)
    }

    /// Returns an integer attribute.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.attribute(name)?.number
    }

    /// Returns the operator and the name of the node, or of its first output, for messages.
    pub(super) fn described(&self) -> String {
        let op = if self.domain.is_empty() {
            self.op.to_owned()
        } else {
            format!("{} of the domain {}", self.op, self.domain)
        };
        match (self.name, self.outputs.first()) {
            ("", Some(output)) => format!("{op} (output `{output}`)"),
            (name, _) => format!("{op} (node `{name}`)"),
        }
    }
}

impl<'a> Attribute<'a> {
    fn of(files: &'a ModelFiles, message: &'a [u8]) -> Attribute<'a> {
        let mut attribute = Attribute::default();
        for (number, value) in fields(message) {
            match (number, value) {
                (1, Value::Bytes(bytes)) => attribute.name = text(bytes),
                (3, Value::Number(value)) => attribute.number = Some(value.cast_signed()),
                (5, Value::Bytes(bytes)) => attribute.tensor = Some(Tensor::of(files, bytes)),
                (6 | 11, Value::Bytes(bytes)) => attribute.graphs.push(Graph::of(files, bytes)),
                (8, value) => integers(value, &mut attribute.numbers),
                (21, Value::Bytes(bytes)) => attribute.refers = !bytes.is_empty(),
                _ => {}
            }
        }
        attribute
    }
}

impl<'a> Tensor<'a> {
    fn of(files: &'a ModelFiles, message: &'a [u8]) -> Tensor<'a> {
        let mut tensor = Tensor::default();
        for (number, value) in fields(message) {
            match (number, value) {
                (2, Value::Number(element)) => tensor.element = element,
                (5 | 7, value) => integers(value, &mut tensor.integers),
                (8, Value::Bytes(bytes)) => tensor.name = text(bytes),
                (9, Value::Bytes(bytes)) => tensor.raw = Some(bytes),
                _ => {}
            }
        }
        tensor.raw = files.external(message).or(tensor.raw);
        tensor
    }

    /// Returns the values of a tensor of booleans or int64.
    pub(super) fn integers(&self) -> Vec<i64> {
        match (self.raw, self.element) {
            (Some(raw), element::BOOL) => raw.iter().map(|byte| i64::from(*byte)).collect(),
            (Some(raw), element::INT64) => raw
                .as_chunks::<8>()
                .0
                .iter()
                .map(|bytes| i64::from_le_bytes(*bytes))
                .collect(),
            _ => self.integers.clone(),
        }
    }
}

/// Returns the domain and version of an operator set.
fn opset(message: &[u8]) -> (&str, u64) {
    let (mut domain, mut version) = ("", 0);
    for (number, value) in fields(message) {
        match (number, value) {
            (1, Value::Bytes(bytes)) => domain = text(bytes),
            (2, Value::Number(number)) => version = number,
            _ => {}
        }
    }
    (if domain == "ai.onnx" { "" } else { domain }, version)
}

/// Returns the name of an axis.
fn axis(message: &[u8]) -> &str {
    inner(message, 2).next().map(text).unwrap_or_default()
}

/// Returns the fields of `message` with this number that hold bytes.
fn inner(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    fields(message).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

/// Appends an integer, or integers that share a field.
fn integers(value: Value, into: &mut Vec<i64>) {
    match value {
        Value::Number(value) => into.push(value.cast_signed()),
        Value::Bytes(mut packed) => {
            while let Some(value) = varint(&mut packed) {
                into.push(value.cast_signed());
            }
        }
        Value::Group => {}
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
