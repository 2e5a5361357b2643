#!/usr/bin/env python3
"""Writes the inverse dynamics models of the benchmarks: models.py OUT

    idm-small.onnx   o_t, o_t+1             34 → 256 → 256 → 6
    idm-paper.onnx   o_t-2, …, o_t+1        68 → 1024 → 1024 → 6, the size that SS-ORL uses
    window.onnx      the first 6 of 34 inputs, unchanged

`window.onnx` does no work, so it shows the cost of labelling without inference. The input `x` is
float32 [batch, window] and the output `action` is float32 [batch, 6]. The graph normalises its
input. The weights are random and seeded; the speed does not depend on them.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ACTIONS = 6


def save(path, inputs, nodes, constants):
    """Verifies and writes a graph from `x` to `action`."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", ACTIONS])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def perceptron(path, inputs, hidden, seed):
    """Writes a network of two hidden layers with ReLU, and tanh at the end."""
    rng = np.random.default_rng(seed)
    widths = [inputs, hidden, hidden, ACTIONS]
    constants = {
        "mean": rng.normal(0, 0.1, inputs).astype(np.float32),
        "scale": rng.uniform(0.5, 2.0, inputs).astype(np.float32),
    }
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["layer0"]),
    ]
    for layer, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:])):
        constants[f"weight{layer}"] = rng.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(
            np.float32
        )
        constants[f"bias{layer}"] = rng.normal(0, 0.1, fan_out).astype(np.float32)
        nodes.append(
            helper.make_node(
                "Gemm", [f"layer{layer}", f"weight{layer}", f"bias{layer}"], [f"sum{layer}"]
            )
        )
        last = layer == len(widths) - 2
        nodes.append(
            helper.make_node(
                "Tanh" if last else "Relu",
                [f"sum{layer}"],
                ["action" if last else f"layer{layer + 1}"],
            )
        )
    save(path, inputs, nodes, constants)


def window(path, inputs):
    """Writes a graph that returns its first inputs."""
    constants = {
        name: np.array([value], np.int64)
        for name, value in [("from", 0), ("to", ACTIONS), ("axis", 1)]
    }
    save(
        path,
        inputs,
        [helper.make_node("Slice", ["x", "from", "to", "axis"], ["action"])],
        constants,
    )


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    perceptron(out / "idm-small.onnx", 34, 256, seed=1)
    perceptron(out / "idm-paper.onnx", 68, 1024, seed=2)
    window(out / "window.onnx", 34)
