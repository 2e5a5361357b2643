#!/usr/bin/env python3
"""Writes the small ONNX models that tests run: tests/models/*.onnx and src/model/onnx/probe.onnx.

tests/models/expected.json holds what each gives for eight rows of input, by ONNX's own reference
evaluator in numpy.

    python tests/python/make_models.py

This needs onnx and numpy, and writes the same bytes every time.

The models' batch axis is free and named `batch`. A window is three observations of three values,
oldest first (past 1, future 1): nine values in a row.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "models"
REFUSED = ["selu", "fixed_batch", "no_batch"]
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def value(name, shape, kind=FLOAT, batch="batch"):
    return helper.make_tensor_value_info(name, kind, [batch, *shape])


def weights(name, shape, rng, kind=np.float32):
    scale = 1 / np.sqrt(shape[0])
    return numpy_helper.from_array(rng.uniform(-scale, scale, shape).astype(kind), name)


def constant(name, values, kind=np.float32):
    return numpy_helper.from_array(np.asarray(values, kind), name)


def save(path, nodes, inputs, outputs, initializers=(), metadata=None, version=17):
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, list(initializers))
    model = helper.make_model(
        graph,
        producer_name="trajmill-tests",
        opset_imports=[helper.make_opsetid("", version)],
        ir_version=8,
    )
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def expected(path):
    """Inputs of eight rows, and what the model gives for them."""
    model = onnx.load(path)
    rng = np.random.default_rng(100)
    feeds = {}
    for port in model.graph.input:
        width = port.type.tensor_type.shape.dim[1].dim_value
        kind = np.float64 if port.type.tensor_type.elem_type == DOUBLE else np.float32
        feeds[port.name] = rng.uniform(-2, 2, (8, width)).round(3).astype(kind)
    outputs = ReferenceEvaluator(model).run(None, feeds)
    flat = lambda values: [
        None if np.isnan(v) else round(float(v), 6) for v in np.asarray(values).ravel()
    ]
    return {
        "inputs": [flat(values) for values in feeds.values()],
        "outputs": [flat(values) for values in outputs],
    }


def mlp(widths, hidden, last=None, seed=0, source="x", target="action", prefix="", kind=np.float32):
    """Nodes and weights of an MLP; `hidden` and `last` are operators."""
    rng, nodes, initializers, at = np.random.default_rng(seed), [], [], source
    for layer, (rows, columns) in enumerate(zip(widths, widths[1:])):
        w, b = f"{prefix}w{layer}", f"{prefix}b{layer}"
        initializers += [
            weights(w, (rows, columns), rng, kind),
            constant(b, rng.uniform(-0.1, 0.1, columns), kind),
        ]
        final = layer == len(widths) - 2
        operator = last if final else hidden
        product = target if final and operator is None else f"{prefix}z{layer}"
        nodes.append(helper.make_node("Gemm", [at, w, b], [product]))
        if operator:
            at = target if final else f"{prefix}h{layer}"
            nodes.append(helper.make_node(operator, [product], [at]))
    return nodes, initializers


def copy(path, width, dimension):
    """The coordinate `dimension` of the input, as an action of one dimension."""
    bounds = [
        constant("start", [dimension], np.int64),
        constant("end", [dimension + 1], np.int64),
        constant("axis", [1], np.int64),
    ]
    nodes = [helper.make_node("Slice", ["x", "start", "end", "axis"], ["action"])]
    save(path, nodes, [value("x", [width])], [value("action", [1])], bounds)


def main():
    MODELS.mkdir(parents=True, exist_ok=True)

    # The first coordinate of an observation, and of the current and the next one of a window.
    copy(MODELS / "copy_first.onnx", 3, 0)
    copy(MODELS / "copy.onnx", 9, 3)
    copy(MODELS / "copy_next.onnx", 9, 6)

    nodes, initializers = mlp([9, 16, 2], "Relu", "Tanh", seed=1)
    save(
        MODELS / "mlp.onnx",
        nodes,
        [value("x", [9])],
        [value("action", [2])],
        initializers,
        {"trajmill.window": "1,1", "note": "für Tests"},
    )
    nodes, initializers = mlp([9, 16, 2], "Relu", "Tanh", seed=2)
    save(MODELS / "mlp_b.onnx", nodes, [value("x", [9])], [value("action", [2])], initializers)

    # Two named inputs: action = s·A + s_next·B + c.
    rng = np.random.default_rng(3)
    initializers = [
        weights("a", (3, 2), rng),
        weights("b", (3, 2), rng),
        constant("c", rng.uniform(-0.1, 0.1, 2)),
    ]
    nodes = [
        helper.make_node("Gemm", ["s", "a", "c"], ["first"]),
        helper.make_node("MatMul", ["s_next", "b"], ["second"]),
        helper.make_node("Add", ["first", "second"], ["action"]),
    ]
    save(
        MODELS / "named.onnx",
        nodes,
        [value("s", [3]), value("s_next", [3])],
        [value("action", [2])],
        initializers,
    )

    # A mean and its standard deviation.
    mean, mean_weights = mlp([9, 11, 2], "Relu", "Tanh", seed=4, prefix="m")
    std, std_weights = mlp([9, 7, 2], "Relu", "Softplus", seed=5, target="std", prefix="s")
    save(
        MODELS / "gaussian.onnx",
        mean + std,
        [value("x", [9])],
        [value("action", [2]), value("std", [2])],
        mean_weights + std_weights,
    )

    # Four actions of two dimensions from one observation.
    nodes, initializers = mlp([3, 10, 8], "Relu", "Tanh", seed=6, target="flat")
    nodes.append(helper.make_node("Reshape", ["flat", "shape"], ["actions"]))
    save(
        MODELS / "horizon.onnx",
        nodes,
        [value("x", [3])],
        [value("actions", [4, 2])],
        [*initializers, constant("shape", [-1, 4, 2], np.int64)],
    )

    nodes, initializers = mlp([9, 12, 5], "Relu", seed=7, target="logits")
    save(MODELS / "logits.onnx", nodes, [value("x", [9])], [value("logits", [5])], initializers)

    # Activations whose bits depend on the place of a row in its batch; odd widths give tails.
    for seed, operator in [(8, "Elu"), (9, "Softplus")]:
        nodes, initializers = mlp([9, 13, 7, 2], operator, seed=seed)
        save(
            MODELS / f"{operator.lower()}.onnx",
            nodes,
            [value("x", [9])],
            [value("action", [2])],
            initializers,
        )

    # NaN where the first coordinate is negative.
    bounds = [
        constant("start", [0], np.int64),
        constant("end", [1], np.int64),
        constant("axis", [1], np.int64),
    ]
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["first"]),
        helper.make_node("Log", ["first"], ["action"]),
    ]
    save(MODELS / "nan.onnx", nodes, [value("x", [3])], [value("action", [1])], bounds)

    nodes, initializers = mlp([9, 5, 2], "Relu", seed=10, kind=np.float64)
    save(
        MODELS / "double.onnx",
        nodes,
        [value("x", [9], DOUBLE)],
        [value("action", [2], DOUBLE)],
        initializers,
    )

    runnable = sorted(MODELS.glob("*.onnx"))
    text = json.dumps(
        {path.stem: expected(path) for path in runnable if path.stem not in REFUSED},
        separators=(",", ":"),
    )
    (MODELS / "expected.json").write_text(text.replace('},"', '},\n"') + "\n")

    # Models that are refused: an operator that rten lacks, a fixed batch, no batch in the output.
    nodes, initializers = mlp([3, 4, 2], "Selu", seed=11)
    save(MODELS / "selu.onnx", nodes, [value("x", [3])], [value("action", [2])], initializers)
    nodes, initializers = mlp([3, 4, 2], "Relu", seed=12)
    save(
        MODELS / "fixed_batch.onnx",
        nodes,
        [value("x", [3], batch=7)],
        [value("action", [2], batch=7)],
        initializers,
    )
    nodes = [helper.make_node("ReduceMean", ["x"], ["action"], axes=[0], keepdims=0)]
    save(
        MODELS / "no_batch.onnx",
        nodes,
        [value("x", [3])],
        [helper.make_tensor_value_info("action", FLOAT, [3])],
    )

    # What a device is probed with: y = x·W.
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    save(
        ROOT / "src" / "model" / "onnx" / "probe.onnx",
        nodes,
        [value("x", [2])],
        [value("y", [2])],
        [constant("w", [[1, 2], [3, 4]])],
    )


if __name__ == "__main__":
    main()
