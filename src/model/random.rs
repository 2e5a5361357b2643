//! Finds nodes whose outputs differ from run to run or depend on the other rows of a batch: random
//! numbers, and layers in training mode.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;

use super::graph::{Function, Graph, Model, Node, element};

/// Returns a description of each such node of `model`.
pub(super) fn random(model: &Model) -> Vec<String> {
    let mut search = Search {
        functions: &model.functions,
        entered: BTreeSet::new(),
        found: Vec::new(),
    };
    search.graph(&model.graph, &model.opsets, Flags::new());
    search.found
}

/// Returns the error of a model with such nodes, of which `what` names the first.
pub(super) fn refusal(what: &str) -> Error {
    Error::failed(format!("the model is not a function of one row: {what}"))
        .hint("export it in evaluation mode, with `model.eval()` in PyTorch")
        .hint(
            "or set `allow_random: true` and use ONNX Runtime: a repeated run may then write other \
             values",
        )
}

/// Constant booleans by name.
type Flags<'a> = BTreeMap<&'a str, bool>;

struct Search<'a> {
    functions: &'a [Function<'a>],
    /// Indices of the functions that were searched.
    entered: BTreeSet<usize>,
    found: Vec<String>,
}

impl<'a> Search<'a> {
    fn graph(&mut self, graph: &'a Graph<'a>, opsets: &BTreeMap<&str, u64>, flags: Flags<'a>) {
        let mut flags = flags;
        for tensor in &graph.constants {
            if let (element::BOOL, [value]) = (tensor.element, tensor.integers().as_slice()) {
                flags.insert(tensor.name, *value != 0);
            }
        }
        self.nodes(&graph.nodes, opsets, flags);
    }

    fn nodes(&mut self, nodes: &'a [Node<'a>], opsets: &BTreeMap<&str, u64>, mut flags: Flags<'a>) {
        for node in nodes {
            if let Some(value) = constant(node, &flags)
                && let Some(output) = node.outputs.first()
            {
                flags.insert(output, value);
            }
            let called = self
                .functions
                .iter()
                .position(|function| function.name == node.op && function.domain == node.domain);
            if let Some(index) = called {
                if self.entered.insert(index) {
                    let function = &self.functions[index];
                    self.nodes(&function.nodes, &function.opsets, Flags::new());
                }
            } else if let Some(what) = fault(node, opsets, &flags) {
                self.found.push(format!("{} {what}", node.described()));
            }
            for graph in node
                .attributes
                .iter()
                .flat_map(|attribute| &attribute.graphs)
            {
                self.graph(graph, opsets, flags.clone());
            }
        }
    }
}

/// Returns the boolean that a node always gives.
fn constant(node: &Node, flags: &Flags) -> Option<bool> {
    match node.op {
        "Constant" => {
            let tensor = node.attribute("value")?.tensor.as_ref()?;
            let values = tensor.integers();
            (tensor.element == element::BOOL && values.len() == 1).then(|| values[0] != 0)
        }
        "Identity" => flags.get(node.inputs.first()?).copied(),
        _ => None,
    }
}

/// Returns why a node is not a function of a row; `None` if it is one.
fn fault(node: &Node, opsets: &BTreeMap<&str, u64>, flags: &Flags) -> Option<&'static str> {
    const TRAINING: &str = "is in training mode";
    const DRAWS: &str = "draws random numbers";
    let version = opsets.get("").copied().unwrap_or(u64::MAX);
    let trains = |input: usize| {
        let given = node.inputs.get(input).filter(|name| !name.is_empty())?;
        match flags.get(given) {
            Some(false) => None,
            Some(true) => Some(TRAINING),
            None => Some("may be in training mode"),
        }
    };
    let old = || (node.number("is_test") != Some(1)).then_some(TRAINING);
    match (node.domain, node.op) {
        (
            "",
            "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike"
            | "Multinomial" | "Bernoulli",
        )
        | ("com.microsoft", "Sampling") => Some(DRAWS),
        ("", "Dropout") if version < 7 => old(),
        // From 7 to 11 it has no training mode.
        ("", "Dropout") if version < 12 => None,
        ("", "Dropout") | ("com.microsoft", "BitmaskDropout") => trains(2),
        ("com.microsoft", "BiasDropout" | "BitmaskBiasDropout") => trains(4),
        ("com.microsoft", "BatchNormInternal") => Some(TRAINING),
        ("", "BatchNormalization") if version < 7 => old(),
        ("", "BatchNormalization") if version < 14 => {
            let more = node.outputs.iter().skip(1).any(|name| !name.is_empty());
            more.then_some(TRAINING)
        }
        ("", "BatchNormalization") => {
            let mode = node.attribute("training_mode")?;
            (mode.refers || mode.number != Some(0)).then_some(TRAINING)
        }
        _ => None,
    }
}
