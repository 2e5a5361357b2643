"""Small ONNX models for tests, and their predictions by onnxruntime in Python."""

import functools
import os

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def save(path, nodes, inputs, outputs, constants=(), metadata=None, version=17):
    """Writes a graph; ports are (name, type, shape without the batch), constants (name, array)."""
    ports = lambda them: [
        helper.make_tensor_value_info(port, kind, ["batch", *shape]) for port, kind, shape in them
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph(nodes, path.stem, ports(inputs), ports(outputs), initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return str(path)


@functools.lru_cache(8)
def session(path, modified):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def predict(path, feeds):
    """The outputs of a model by name."""
    opened = session(str(path), os.stat(path).st_mtime_ns)
    return dict(zip([output.name for output in opened.get_outputs()], opened.run(None, feeds)))


def small(path, inputs, outputs, seed):
    """A network from all inputs to each output; ports are (name, width)."""
    rng = np.random.default_rng(seed)
    width = sum(size for _, size in inputs)
    constants = [
        ("w", rng.normal(size=(width, 8)) / 2),
        *((f"w_{head}", rng.normal(size=(8, size)) / 2) for head, size in outputs),
    ]
    nodes = [
        helper.make_node("Concat", [port for port, _ in inputs], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        *(helper.make_node("MatMul", ["t", f"w_{head}"], [head]) for head, _ in outputs),
    ]
    vectors = lambda ports: [(port, FLOAT, [size]) for port, size in ports]
    return save(
        path,
        nodes,
        vectors(inputs),
        vectors(outputs),
        [(name, value.astype(np.float32)) for name, value in constants],
    )
