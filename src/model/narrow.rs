//! Finds the tensors of a model that rten computes in another type than the model declares.
//!
//! rten has float32, int32, int8 and uint8. It computes float64 and float16 in float32, and int64
//! in int32. Any float64 or float16 counts, except a constant that is only cast to float32. An
//! int64 counts only if its values come from data and the difference can show: indices, counts and
//! shapes fit into int32.

use std::collections::BTreeMap;

use super::graph::{Graph, Input, Model, Node, Tensor, element};

/// Returns a description of each tensor of `model` that rten narrows.
pub(super) fn narrowed(model: &Model) -> Vec<String> {
    let mut found = Vec::new();
    let mut uses = BTreeMap::new();
    consumers(&model.graph, &mut uses);
    for Input { name, element, .. } in &model.graph.inputs {
        let constant = model
            .graph
            .constants
            .iter()
            .any(|tensor| tensor.name == *name);
        if let Some(float) = float(*element).filter(|_| !constant) {
            found.push(format!("the input `{name}` is {float}"));
        }
    }
    floats(&model.graph, &uses, &mut found);
    let mut values = BTreeMap::new();
    for Input { name, element, .. } in &model.graph.inputs {
        values.insert(*name, Nature::of(*element, true));
    }
    integers(&model.graph, &mut values, &mut found);
    for name in &model.graph.outputs {
        if values
            .get(name)
            .is_some_and(|value| value.is_read_from_data() && value.large)
        {
            found.push(format!("the output `{name}` is int64"));
        }
    }
    found.dedup();
    found
}

/// Returns the name of a floating-point type that rten does not have.
fn float(number: u64) -> Option<&'static str> {
    match number {
        element::DOUBLE => Some("float64"),
        element::FLOAT16 => Some("float16"),
        element::BFLOAT16 => Some("bfloat16"),
        _ => None,
    }
}

/// The consumers of a tensor: the number of nodes that use it, and of casts to float32 among them.
type Uses<'a> = BTreeMap<&'a str, (usize, usize)>;

fn consumers<'a>(graph: &'a Graph<'a>, uses: &mut Uses<'a>) {
    for node in &graph.nodes {
        let cast = node.op == "Cast" && number(node, "to") == Some(element::FLOAT);
        for input in &node.inputs {
            let (all, casts) = uses.entry(input).or_default();
            *all += 1;
            *casts += usize::from(cast);
        }
        within(node).for_each(|graph| consumers(graph, uses));
    }
    for output in &graph.outputs {
        uses.entry(output).or_default().0 += 1;
    }
}

/// Finds where floating-point tensors of other types come from.
fn floats<'a>(graph: &'a Graph<'a>, uses: &Uses<'a>, found: &mut Vec<String>) {
    let counts = |name: &str| uses.get(name).is_some_and(|(all, casts)| all > casts);
    for tensor in &graph.constants {
        if let Some(float) = float(tensor.element).filter(|_| counts(tensor.name)) {
            found.push(format!("the constant `{}` is {float}", tensor.name));
        }
    }
    for node in &graph.nodes {
        let of = |number: Option<u64>| number.and_then(float);
        let held = node
            .attributes
            .iter()
            .find_map(|attribute| of(Some(attribute.tensor.as_ref()?.element)));
        let made = match node.op {
            "Cast" => of(number(node, "to")),
            "Constant" => held.filter(|_| node.outputs.iter().any(|output| counts(output))),
            _ => held
                .or_else(|| of(number(node, "dtype")))
                .or_else(|| of(number(node, "output_datatype"))),
        };
        if let Some(float) = made {
            found.push(format!("{} gives {float}", node.described()));
        }
        within(node).for_each(|graph| floats(graph, uses, found));
    }
}

fn number(node: &Node, name: &str) -> Option<u64> {
    node.number(name)
        .and_then(|number| u64::try_from(number).ok())
}

fn within<'a>(node: &'a Node<'a>) -> impl Iterator<Item = &'a Graph<'a>> {
    node.attributes
        .iter()
        .flat_map(|attribute| &attribute.graphs)
}

/// What is known of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Nature {
    kind: Kind,
    /// Whether its values depend on the inputs' values, not only on their shapes.
    data: bool,
    /// Whether its values may not fit into int32.
    large: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A floating-point type, or unknown.
    Float,
    /// An integer type that rten has, or booleans.
    Small,
    /// int64.
    Long,
}

impl Nature {
    const NONE: Nature = Nature {
        kind: Kind::Float,
        data: false,
        large: false,
    };

    fn of(number: u64, data: bool) -> Nature {
        let kind = match number {
            element::INT64 | element::UINT64 | element::UINT32 => Kind::Long,
            element::INT32
            | element::INT16
            | element::INT8
            | element::UINT16
            | element::UINT8
            | element::BOOL => Kind::Small,
            _ => Kind::Float,
        };
        Nature {
            kind,
            data,
            large: data && kind == Kind::Long,
        }
    }

    fn constant(tensor: &Tensor) -> Nature {
        let large = tensor.element == element::INT64
            && tensor
                .integers()
                .iter()
                .any(|value| i32::try_from(*value).is_err());
        Nature {
            large,
            ..Nature::of(tensor.element, false)
        }
    }

    fn is_read_from_data(self) -> bool {
        self.kind == Kind::Long && self.data
    }
}

/// Follows int64 values through a graph.
fn integers<'a>(
    graph: &'a Graph<'a>,
    values: &mut BTreeMap<&'a str, Nature>,
    found: &mut Vec<String>,
) {
    for tensor in &graph.constants {
        values.insert(tensor.name, Nature::constant(tensor));
    }
    for node in &graph.nodes {
        let inputs: Vec<Nature> = node
            .inputs
            .iter()
            .map(|name| values.get(name).copied().unwrap_or(Nature::NONE))
            .collect();
        let large = inputs
            .iter()
            .any(|input| input.kind == Kind::Long && input.large);
        let computed = node
            .inputs
            .iter()
            .zip(&inputs)
            .enumerate()
            .find(|(index, (_, input))| {
                input.is_read_from_data() && !harmless(node, *index, large)
            });
        let outputs = if let Some((_, (name, _))) = computed {
            let fault = format!(
                "{} computes with the int64 values of `{name}`",
                node.described()
            );
            if !found.contains(&fault) {
                found.push(fault);
            }
            vec![
                Nature {
                    data: true,
                    ..Nature::NONE
                };
                node.outputs.len()
            ]
        } else {
            outputs(node, &inputs, values, found)
        };
        values.extend(node.outputs.iter().copied().zip(outputs));
    }
}

/// Whether a node may use int64 values from data as its input `index` without a difference in
/// int32. `large` is whether one of its inputs may not fit.
fn harmless(node: &Node, index: usize, large: bool) -> bool {
    match (node.op, index) {
        // Indices lie within the size of a tensor.
        ("Gather" | "GatherElements" | "GatherND" | "ScatterElements" | "ScatterND", 1)
        | ("OneHot", 0)
        | ("Slice", 1..)
        // Nodes that only move values.
        | (
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Expand"
            | "Slice" | "Gather" | "GatherElements" | "GatherND" | "Split" | "Tile"
            | "ScatterElements" | "ScatterND",
            0,
        )
        | ("ScatterElements" | "ScatterND" | "Where", 1..)
        | ("Concat" | "If" | "Loop" | "Scan" | "Shape" | "Size", _) => true,
        ("Cast", _) => !large || number(node, "to") == Some(element::INT64),
        // The sums and products of these may leave int32, the others cannot.
        (
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Min" | "Max"
            | "ReduceMin" | "ReduceMax" | "ArgMin" | "ArgMax" | "Clip",
            _,
        ) => !large,
        _ => false,
    }
}

/// Returns what is known of the outputs of a node.
fn outputs<'a>(
    node: &'a Node<'a>,
    inputs: &[Nature],
    values: &BTreeMap<&'a str, Nature>,
    found: &mut Vec<String>,
) -> Vec<Nature> {
    let first = inputs.first().copied().unwrap_or(Nature::NONE);
    let data = inputs.iter().any(|input| input.data);
    let count = node.outputs.len();
    let index = Nature {
        kind: Kind::Long,
        data,
        large: false,
    };
    let moved = |from: &[Nature]| {
        let most = from.iter().copied().max().unwrap_or(Nature::NONE);
        vec![
            Nature {
                data,
                large: from.iter().any(|input| input.large),
                ..most
            };
            count
        ]
    };
    match node.op {
        "Constant" => {
            let held = node
                .attributes
                .iter()
                .find_map(|attribute| attribute.tensor.as_ref().map(Nature::constant));
            let listed = node
                .attributes
                .iter()
                .flat_map(|attribute| attribute.number.iter().chain(&attribute.numbers))
                .map(|value| Nature {
                    kind: Kind::Long,
                    data: false,
                    large: i32::try_from(*value).is_err(),
                })
                .max();
            vec![held.or(listed).unwrap_or(Nature::NONE); count]
        }
        "Shape" | "Size" => vec![
            Nature {
                data: false,
                ..index
            };
            count
        ],
        "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression" => vec![index; count],
        "TopK" | "Unique" => std::iter::once(first)
            .chain(std::iter::repeat(index))
            .take(count)
            .collect(),
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Not" | "And" | "Or"
        | "Xor" | "IsNaN" | "IsInf" => vec![Nature::of(element::BOOL, data); count],
        "Cast" => {
            let cast = Nature::of(number(node, "to").unwrap_or(0), data);
            // A count of true values, an int32 or an index fits; a number may not.
            let large = cast.large && (first.kind == Kind::Float || first.large);
            vec![Nature { large, ..cast }; count]
        }
        "ConstantOfShape" => {
            let held = node
                .attribute("value")
                .and_then(|value| value.tensor.as_ref());
            vec![held.map_or(Nature::NONE, Nature::constant); count]
        }
        "Where" => moved(inputs.get(1..).unwrap_or_default()),
        "OneHot" => moved(inputs.get(2..).unwrap_or_default()),
        "Concat" | "Min" | "Max" => moved(inputs),
        "ScatterElements" | "ScatterND" => {
            let both: Vec<Nature> = [0, 2]
                .iter()
                .filter_map(|at| inputs.get(*at).copied())
                .collect();
            moved(&both)
        }
        "If" | "Loop" | "Scan" => inside(node, inputs, values, found),
        _ => moved(&[first]),
    }
}

/// Follows values through the graphs of a node, and returns what is known of its outputs.
fn inside<'a>(
    node: &'a Node<'a>,
    inputs: &[Nature],
    values: &BTreeMap<&'a str, Nature>,
    found: &mut Vec<String>,
) -> Vec<Nature> {
    // The first outputs of a loop are whether it goes on, and its carried values.
    let skipped = usize::from(node.op == "Loop");
    let mut carried = inputs.to_vec();
    let mut made = vec![Nature::NONE; node.outputs.len()];
    // What a loop carries from one pass to the next may change in the first.
    for _ in 0..2 {
        for graph in within(node) {
            let mut values = values.clone();
            for (index, Input { name, element, .. }) in graph.inputs.iter().enumerate() {
                let given = carried.get(index).copied().unwrap_or(Nature::NONE);
                let known = Nature::of(*element, given.data);
                let large = given.large && known.kind == Kind::Long;
                let kind = if *element == 0 {
                    given.kind
                } else {
                    known.kind
                };
                values.insert(
                    name,
                    Nature {
                        kind,
                        large,
                        ..known
                    },
                );
            }
            integers(graph, &mut values, found);
            let outputs = graph.outputs.iter().skip(skipped);
            for (index, (own, output)) in made.iter_mut().zip(outputs).enumerate() {
                let new = values.get(output).copied().unwrap_or(Nature::NONE);
                *own = (*own).max(new);
                let place = index + 2 * skipped;
                if let Some(carried) = carried.get_mut(place).filter(|_| node.op != "If") {
                    *carried = (*carried).max(new);
                }
            }
        }
    }
    // Which branch is taken, and how often, may depend on the data.
    let data = inputs.iter().any(|input| input.data);
    made.iter()
        .map(|made| Nature {
            data: made.data || data,
            ..*made
        })
        .collect()
}
