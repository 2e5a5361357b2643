"""What trajmill requires of models: declared types, weights in other files, independent rows,
and states, against onnxruntime and numpy."""

import json
import os

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

import oracle
from oracle import check, manifest, says, table, trajmill

pytestmark = pytest.mark.model

FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
INT64, INT32, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
WIDTH, LENGTHS = 3, [5, 1, 70, 4, 9]
node = helper.make_node


def embedded():
    """Whether models run on rten, which has no float64, float16 and int64."""
    return os.environ.get("TRAJMILL_RUNTIME") == "rten"


@pytest.fixture(scope="module")
def log(shared):
    """Trajectories without actions, in which float32 cannot tell neighbours apart."""
    random, rows = np.random.default_rng(14), sum(LENGTHS)
    observation = random.normal(size=(rows, WIDTH))
    ids = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    ends = np.concatenate([np.arange(n) == n - 1 for n in LENGTHS])
    columns = {
        "trajectory_id": ids,
        "step": np.concatenate([np.arange(n, dtype=np.int32) for n in LENGTHS]),
        "observation": list(observation),
        "large": list(observation + [1.7e9, 0, 0]),
        "single": pa.array(list(observation.astype(np.float32)), pa.list_(pa.float32())),
        "item": np.arange(rows) * 7 + (1 << 33),
        "small": np.arange(rows) % 5,
        "known": pa.array(list(random.normal(size=(rows, 2)))),
        "reward": random.normal(size=rows),
        "terminated": ends,
        "truncated": np.zeros(rows, bool),
    }
    pq.write_table(pa.table(columns), shared / "log.parquet")
    return shared / "log.parquet", {name: np.array(pa.array(value).to_pylist()) for name, value in columns.items()}


def model(path, nodes, inputs, outputs, constants=(), version=17, functions=(), **more):
    """Writes a graph; ports are (name, type, shape), constants (name, array)."""
    ports = lambda them: [helper.make_tensor_value_info(*port) for port in them]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants]
    graph = helper.make_graph(nodes, "graph", ports(inputs), ports(outputs), initializers)
    domains = {function.domain for function in functions}
    opsets = [("", version), *((domain, 1) for domain in sorted(domains))]
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*opset) for opset in opsets],
        ir_version=8,
        functions=list(functions),
    )
    onnx.save(proto, path, **more)
    return path


def scored(folder, source, options, code=0):
    """The table that `score` makes, or what it says."""
    stages = [{"score": options}]
    made = oracle.run(folder, stages, source, name="scored", code=code)
    return table(made.path) if code == 0 else made.stderr


def refused(folder, source, options, wanted):
    """A refusal by `trajmill check`, and by a run that leaves nothing."""
    stages = [{"score": options}, {"materialise": {"path": "out"}}]
    path = oracle.pipeline(folder / "refused.yaml", source, stages)
    before = sorted(os.listdir(folder))
    for command in ("check", "run"):
        done = trajmill(command, path, code=None, cwd=folder)
        check(done.returncode in (1, 3), f"{command}: exit code {done.returncode}")
        says(done.stderr, wanted, command)
    check(sorted(os.listdir(folder)) == before, "nothing is left")


def vectors(column):
    return np.array(column.to_pylist())


# ---- types


def double(path):
    nodes = [node("Sub", ["obs", "b"], ["d"]), node("MatMul", ["d", "w"], ["y"])]
    constants = [("b", np.array([1.7e9, 0, 0])), ("w", np.array([[1.0, 0], [0, 1], [0, 0.5]]))]
    return model(
        path, nodes, [("obs", DOUBLE, ["n", 3])], [("y", DOUBLE, ["n", 2])], constants
    )


def test_float64_is_computed_in_float64_or_refused(log, tmp_path):
    source, columns = log
    options = {"model": str(double(tmp_path / "m.onnx")), "inputs": {"obs": "large"}}
    wanted = (columns["large"] - [1.7e9, 0, 0]) @ [[1.0, 0], [0, 1], [0, 0.5]]
    if embedded():
        refused(tmp_path, source, options, ["`obs` is float64", "onnxruntime", "precision"])
        made = scored(tmp_path, source, {**options, "precision": "float32"})
        found = vectors(made["y"])
        check(np.abs(found[:, 0] - wanted[:, 0]).max() > 1, "float32 shows")
        inputs = manifest(tmp_path / "scored")["lineage"]["inputs"]
        says(inputs["stage 1 score precision"], ["float32", "`obs` is float64"], "lineage")
    else:
        made = scored(tmp_path, source, options)
        check(np.abs(vectors(made["y"]) - wanted).max() < 1e-9, "float64")


def test_float16_is_fed_and_read_as_declared(log, tmp_path):
    source, columns = log
    path = model(
        tmp_path / "m.onnx",
        [node("Add", ["obs", "b"], ["y"])],
        [("obs", HALF, ["n", 3])],
        [("y", HALF, ["n", 3])],
        [("b", np.zeros(3, np.float16))],
    )
    options = {"model": str(path), "inputs": {"obs": "single"}}
    if embedded():
        return refused(tmp_path, source, options, ["`obs` is float16"])
    made = scored(tmp_path, source, options)
    wanted = columns["single"].astype(np.float16).astype(np.float32)
    check((vectors(made["y"]) == wanted).all(), "rounded once, to float16")
    said = scored(tmp_path, source, {**options, "inputs": {"obs": "large"}}, code=1)
    says(said, ["does not fit the model's type float16", "`obs`"], "overflow")


def test_integers_that_a_float_cannot_hold_are_refused(log, tmp_path):
    path = model(
        tmp_path / "m.onnx",
        [node("Unsqueeze", ["x", "one"], ["y"])],
        [("x", FLOAT, ["n"])],
        [("y", FLOAT, ["n", 1])],
        [("one", np.array([1]))],
    )
    said = scored(tmp_path, log[0], {"model": str(path), "inputs": {"x": "item"}}, code=1)
    says(said, ["8589934592 does not fit the model's type float32"], "item")
    made = scored(tmp_path, log[0], {"model": str(path), "inputs": {"x": "small"}})
    check(made["y"].to_pylist() == log[1]["small"].tolist(), "small integers")


UNFED = ["UINT64", "UINT32", "UINT16", "INT16", "INT8", "BOOL", "BFLOAT16", "STRING"]


@pytest.mark.parametrize("name", UNFED)
def test_inputs_of_types_that_no_column_feeds_are_refused_with_a_remedy(log, tmp_path, name):
    path = model(
        tmp_path / "m.onnx",
        [node("Cast", ["x"], ["y"], to=FLOAT)],
        [("x", getattr(TensorProto, name), ["n", 1])],
        [("y", FLOAT, ["n", 1])],
    )
    said = {"STRING": "text"}.get(name, name.lower())
    options = {"model": str(path), "inputs": {"x": "small"}}
    refused(tmp_path, log[0], options, [f"`x: {said}[batch, 1]`", "no column can feed", "cast it"])
    # Where the remedy is followed, the model runs.
    path = model(
        tmp_path / "cast.onnx",
        [node("Cast", ["x"], ["z"], to=INT32), node("Cast", ["z"], ["y"], to=FLOAT)],
        [("x", INT32, ["n", 1])],
        [("y", FLOAT, ["n", 1])],
    )
    made = scored(tmp_path, log[0], {"model": str(path), "inputs": {"x": "small"}})
    check(made["y"].to_pylist() == log[1]["small"].tolist(), "cast within the model")


def test_an_output_that_no_column_holds_is_refused_with_a_remedy(log, tmp_path):
    path = model(
        tmp_path / "m.onnx",
        [node("Cast", ["obs"], ["y"], to=TensorProto.INT8)],
        [("obs", FLOAT, ["n", 3])],
        [("y", TensorProto.INT8, ["n", 3])],
    )
    options = {"model": str(path), "inputs": {"obs": "single"}}
    refused(tmp_path, log[0], options, ["`y: int8[batch, 3]`", "cast to float32"])


LONG = [("x", INT64, ["n"])]
OBS = [("obs", FLOAT, ["n", 3])]
ROW = [("y", FLOAT, ["n", 3])]
CLASS = [("y", INT64, ["n"])]
TABLE = [("t", np.arange(15, dtype=np.float32).reshape(5, 3))]

# What rten computes as declared, and what it would narrow.
AS_DECLARED = {
    "an embedding": ([node("Gather", ["t", "x"], ["y"])], LONG, ROW, TABLE),
    "shapes": (
        [
            node("Shape", ["obs"], ["s"]),
            node("Gather", ["s", "zero"], ["n"], axis=0),
            node("Mul", ["n", "one"], ["m"]),
            node("Concat", ["m", "three"], ["shape"], axis=0),
            node("Reshape", ["obs", "shape"], ["y"]),
        ],
        OBS,
        ROW,
        [("zero", [0]), ("one", [1]), ("three", [3])],
    ),
    "the end of a slice": (
        [node("Slice", ["obs", "start", "end", "axis"], ["y"])],
        OBS,
        ROW,
        [("start", [0]), ("end", [np.iinfo(np.int64).max]), ("axis", [1])],
    ),
    "a class": ([node("ArgMax", ["obs"], ["y"], axis=1, keepdims=0)], OBS, CLASS, []),
    "a constant that is cast": (
        [node("Cast", ["c"], ["f"], to=FLOAT), node("Mul", ["obs", "f"], ["y"])],
        OBS,
        ROW,
        [("c", np.array([0.1]))],
    ),
}
NARROWED = {
    "arithmetic of ids": (
        [node("Mod", ["x", "k"], ["r"]), node("Gather", ["t", "r"], ["y"])],
        LONG,
        ROW,
        [*TABLE, ("k", [5])],
        "computes with the int64 values of `x`",
    ),
    "an id that is cast": (
        [node("Cast", ["x"], ["f"], to=FLOAT), node("Unsqueeze", ["f", "one"], ["y"])],
        LONG,
        [("y", FLOAT, ["n", 1])],
        [("one", [1])],
        "computes with the int64 values of `x`",
    ),
    "an id that comes out": (
        [node("Identity", ["x"], ["y"])],
        LONG,
        CLASS,
        [],
        "the output `y` is int64",
    ),
    "numbers that become int64": (
        [node("Cast", ["obs"], ["i"], to=INT64), node("Mul", ["i", "k"], ["j"])]
        + [node("Cast", ["j"], ["y"], to=FLOAT)],
        OBS,
        ROW,
        [("k", [1 << 20])],
        "computes with the int64 values of `i`",
    ),
    "classes that are computed with": (
        [
            node("ArgMax", ["obs"], ["a"], axis=1, keepdims=0),
            node("Mul", ["a", "k"], ["y"]),
        ],
        OBS,
        CLASS,
        [("k", [1 << 40])],
        "computes with the int64 values of `a`",
    ),
    "float64 inside": (
        [node("Cast", ["obs"], ["d"], to=DOUBLE), node("Mul", ["d", "d"], ["e"])]
        + [node("Cast", ["e"], ["y"], to=FLOAT)],
        OBS,
        ROW,
        [],
        "gives float64",
    ),
    "float16 inside": (
        [node("Cast", ["obs"], ["d"], to=HALF), node("Cast", ["d"], ["y"], to=FLOAT)],
        OBS,
        ROW,
        [],
        "gives float16",
    ),
}


@pytest.mark.parametrize("name", [*AS_DECLARED, *NARROWED])
def test_only_what_rten_would_compute_otherwise_is_refused(log, tmp_path, name):
    nodes, inputs, outputs, constants, *said = {**AS_DECLARED, **NARROWED}[name]
    constants = [
        (key, np.asarray(value, np.int64) if isinstance(value, list) else value)
        for key, value in constants
    ]
    path = model(tmp_path / "m.onnx", nodes, inputs, outputs, constants)
    feed, column = ("x", "small") if inputs is LONG else ("obs", "single")
    options = {"model": str(path), "inputs": {feed: column}}
    if said and embedded():
        return refused(tmp_path, log[0], options, said)
    made = scored(tmp_path, log[0], options)
    values = log[1][column]
    values = values.astype(np.int64 if inputs is LONG else np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {feed: values})[0]
    found = np.array(made["y"].to_pylist()).reshape(wanted.shape)
    check(np.allclose(found, wanted), name)


# ---- weights in other files


def linear(path, weights, **more):
    return model(
        path,
        [node("MatMul", ["obs", "w"], ["y"]), node("Add", ["y", "c"], ["z"])],
        [("obs", FLOAT, ["n", 3])],
        [("z", FLOAT, ["n", 2])],
        [("w", weights), ("c", np.ones(2, np.float32))],
        save_as_external_data=True,
        location="m.onnx.data",
        size_threshold=0,
        **more,
    )


def test_weights_beside_the_model_run_and_are_hashed(log, tmp_path):
    source, columns = log
    seen = []
    for seed in (1, 2):
        weights = np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)
        (tmp_path / "m.onnx.data").unlink(missing_ok=True)
        linear(tmp_path / "m.onnx", weights)
        options = {"model": "m.onnx", "inputs": {"obs": "single"}}
        made = scored(tmp_path, source, options)
        wanted = columns["single"].astype(np.float32) @ weights + 1
        check(np.abs(vectors(made["z"]) - wanted).max() < 1e-5, f"weights {seed}")
        inputs = manifest(tmp_path / "scored")["lineage"]["inputs"]
        names = ["model m.onnx", "file m.onnx", "file m.onnx, weights m.onnx.data"]
        seen.append([inputs[f"stage 1 score {name}"] for name in names])
        check(len(set(seen[-1])) == 3, "three hashes")
    (model_1, file_1, data_1), (model_2, file_2, data_2) = seen
    check(file_1 == file_2 and data_1 != data_2 and model_1 != model_2, "only the weights differ")


def test_weights_that_are_missing_short_or_elsewhere_are_named(log, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    linear(folder / "m.onnx", np.ones((3, 2), np.float32))
    options = {"model": "models/m.onnx", "inputs": {"obs": "single"}}
    data = folder / "m.onnx.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:9])
    refused(tmp_path, log[0], options, ["m.onnx.data are cut short", "9 bytes", "`w`"])
    data.rename(tmp_path / "weights")
    refused(tmp_path, log[0], options, ["its weights are missing", "m.onnx.data"])
    (tmp_path / "weights").write_bytes(whole)
    data.symlink_to(tmp_path / "weights")
    refused(tmp_path, log[0], options, ["m.onnx.data, which is a symbolic link"])
    proto = onnx.load(folder / "m.onnx", load_external_data=False)
    for location in ["../weights", str(tmp_path / "weights")]:
        for tensor in proto.graph.initializer:
            tensor.external_data[0].value = location
        (folder / "m.onnx").write_bytes(proto.SerializeToString())
        refused(tmp_path, log[0], options, [location, "not a path below the folder"])


# ---- independent rows, and no chance


def body(name, nodes, inputs, outputs, constants=()):
    tensors = [numpy_helper.from_array(np.asarray(array), key) for key, array in constants]
    return helper.make_graph(
        nodes,
        name,
        [],
        [helper.make_tensor_value_info(key, FLOAT, None) for key in outputs],
        tensors,
    )


def chance(name):
    """Nodes and constants of a graph from `obs` to `y`, and its version."""
    true, false = np.array(True), np.array(False)
    ratio = ("ratio", np.float32(0.5))
    dropout = [node("Dropout", ["obs", "ratio", "train"], ["y"], name="drop")]
    norm = lambda **more: node(
        "BatchNormalization", ["obs", "s", "b", "m", "v"], ["y", *more.pop("rest", [])], **more
    )
    moments = [(key, np.ones(3, np.float32)) for key in "sbmv"]
    inside = node("RandomUniformLike", ["obs"], ["u"], name="within")
    branch = node(
        "If",
        ["flag"],
        ["y"],
        then_branch=body("then", [inside], [], ["u"]),
        else_branch=body("else", [node("Identity", ["obs"], ["e"])], [], ["e"]),
    )
    return {
        "dropout": (dropout, [ratio, ("train", true)], 17),
        "dropout off": (dropout, [ratio, ("train", false)], 17),
        "dropout by default": ([node("Dropout", ["obs"], ["y"])], [], 17),
        "dropout of a node": (
            [node("Constant", [], ["train"], value=numpy_helper.from_array(true)), *dropout],
            [ratio],
            13,
        ),
        "norm": ([norm(training_mode=1, rest=["p", "q"])], moments, 17),
        "norm off": ([norm(training_mode=0)], moments, 15),
        "old norm": ([norm(rest=["p", "q", "r", "t"])], moments, 9),
        "noise": (
            [node("RandomNormalLike", ["obs"], ["e"]), node("Add", ["obs", "e"], ["y"])],
            [],
            17,
        ),
        "seeded": (
            [
                node("RandomNormal", [], ["e"], shape=[1, 3], seed=1.0),
                node("Add", ["obs", "e"], ["y"]),
            ],
            [],
            17,
        ),
        "coins": (
            [node("Sigmoid", ["obs"], ["p"]), node("Bernoulli", ["p"], ["y"])],
            [],
            17,
        ),
        "a branch": ([branch], [("flag", true)], 17),
    }[name]


@pytest.mark.parametrize(
    "name, said",
    [
        ("dropout", "Dropout (node `drop`) is in training mode"),
        ("dropout of a node", "Dropout (node `drop`) is in training mode"),
        ("norm", "BatchNormalization (output `y`) is in training mode"),
        ("old norm", "BatchNormalization (output `y`) is in training mode"),
        ("noise", "RandomNormalLike (output `e`) draws random numbers"),
        ("seeded", "RandomNormal (output `e`) draws random numbers"),
        ("coins", "Bernoulli (output `y`) draws random numbers"),
        ("a branch", "RandomUniformLike (node `within`) draws random numbers"),
        ("dropout off", None),
        ("dropout by default", None),
        ("norm off", None),
    ],
)
def test_chance_and_training_mode_are_refused_by_name(log, tmp_path, name, said):
    nodes, constants, version = chance(name)
    path = model(tmp_path / "m.onnx", nodes, OBS, ROW, constants, version)
    options = {"model": str(path), "inputs": {"obs": "single"}, "outputs": {"y": "y"}}
    if said is None:
        # The rten of trajmill has no Dropout.
        if not (embedded() and "dropout" in name):
            scored(tmp_path, log[0], options)
        return
    refused(tmp_path, log[0], options, [said, "allow_random: true"])
    if not embedded() and name != "old norm":
        made = oracle.run(
            tmp_path, [{"score": {**options, "allow_random": True}}], log[0], name="allowed"
        )
        inputs = manifest(made.path)["lineage"]["inputs"]
        says(inputs["stage 1 score random"], [said], "lineage")
        path = oracle.pipeline(
            tmp_path / "plan.yaml",
            log[0],
            [{"score": {**options, "allow_random": True}}, {"materialise": {"path": "p"}}],
        )
        for done in (trajmill("plan", path).stdout, trajmill("run", path).stderr):
            says(done, ["warning", "a repeated run may write other values", said], "plan and run")


def test_chance_in_a_function_is_found(log, tmp_path):
    own = helper.make_opsetid
    function = helper.make_function(
        "own",
        "Noisy",
        ["a"],
        ["b"],
        [node("RandomNormalLike", ["a"], ["e"]), node("Add", ["a", "e"], ["b"])],
        [own("", 17)],
    )
    path = model(
        tmp_path / "m.onnx",
        [node("Noisy", ["obs"], ["y"], domain="own")],
        OBS,
        ROW,
        functions=[function],
    )
    options = {"model": str(path), "inputs": {"obs": "single"}}
    refused(tmp_path, log[0], options, ["RandomNormalLike (output `e`)"])


MIXING = {
    "a mean": [node("ReduceMean", ["obs"], ["m"], axes=[0]), node("Sub", ["obs", "m"], ["y"])],
    "a sum of all before": [node("CumSum", ["obs", "zero"], ["y"])],
    "a softmax over the batch": [node("Softmax", ["obs"], ["y"], axis=0)],
}


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_mixes_rows_is_refused(log, tmp_path, name, size):
    batch = size or "n"
    path = model(
        tmp_path / "m.onnx",
        MIXING[name],
        [("obs", FLOAT, [batch, 3])],
        [("y", FLOAT, [batch, 3])],
        [("zero", np.array(0))],
    )
    options = {"model": str(path), "inputs": {"obs": "single"}}
    refused(tmp_path, log[0], options, ["the output `y` for a row depends on the other rows"])


# Rows of the data that lie outside the values with which a model is tried out before a run.
FAR = [node("Add", ["obs", "far"], ["x"]), node("Relu", ["x"], ["r"])]
FAR += [node("ReduceMean", ["r"], ["m"], axes=[0]), node("Add", ["obs", "m"], ["y"])]


@pytest.mark.parametrize("far", [0, 1])
def test_rows_of_the_data_are_compared_at_two_batch_sizes(log, tmp_path, far):
    # Rows mix only where the first number is large.
    path = model(
        tmp_path / "m.onnx",
        FAR,
        [("obs", FLOAT, ["n", 3])],
        ROW,
        [("far", np.array([-100, -100, -100], np.float32))],
    )
    options = {"model": str(path), "inputs": {"obs": "single * (small * 100)" if far else "single"}}
    said = scored(tmp_path, log[0], options, code=far)
    if not far:
        return check((vectors(said["y"]) == log[1]["single"]).all(), "independent where small")
    says(said, ["the output `y` for a row depends on the other rows", "batch of 4"], "large")
    check(not (tmp_path / "scored").exists(), "no result")
    made = scored(tmp_path, log[0], {**options, "allow_random": True})
    check(len(made) == sum(LENGTHS), "the user may allow it")


@pytest.mark.parametrize("batch", [512, 2])
def test_rounding_of_large_inputs_is_no_difference(log, tmp_path, batch):
    # The columns cancel out, so that nearly all that is left is rounding, and rten multiplies a
    # single row in another order than two.
    random = np.random.default_rng(2)
    wide = random.normal(size=(3, 300))
    nodes = [node("MatMul", ["obs", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])]
    constants = [("a", wide.astype(np.float32)), ("b", np.linalg.qr(wide.T, "complete")[0][:, 3:6])]
    constants[1] = ("b", constants[1][1].astype(np.float32))
    path = model(tmp_path / "m.onnx", nodes, [("obs", FLOAT, ["n", 3])], ROW, constants)
    options = {"model": str(path), "inputs": {"obs": "large * 2.5"}, "batch": batch}
    check(len(scored(tmp_path, log[0], options)) == sum(LENGTHS), "all rows")


def test_a_state_that_mixes_trajectories_is_refused(log, tmp_path):
    nodes = [
        node("Add", ["obs", "far"], ["x"]),
        node("Relu", ["x"], ["r"]),
        node("ReduceMean", ["r"], ["m"], axes=[0]),
        node("Add", ["h", "m"], ["h_out"]),
        node("Add", ["h_out", "obs"], ["y"]),
    ]
    path = model(
        tmp_path / "m.onnx",
        nodes,
        [("obs", FLOAT, ["n", 3]), ("h", FLOAT, ["n", 3])],
        [("y", FLOAT, ["n", 3]), ("h_out", FLOAT, ["n", 3])],
        [("far", np.array([-100, -100, -100], np.float32))],
    )
    options = {"model": str(path), "state": {"h": "h_out"}}
    near = scored(tmp_path, log[0], {**options, "inputs": {"obs": "single"}})
    check(len(near) == sum(LENGTHS), "independent where small")
    far = {**options, "inputs": {"obs": "single * (small * 100)"}}
    said = scored(tmp_path, log[0], far, code=1)
    says(said, ["the output `y` for a row depends on the other rows"], "large")


# ---- states

HIDDEN = 4


def recurrent(path, layers=True, batch="n", cell=False):
    """A network with one state, layers × batch × units or batch × units, or two of them."""
    random = np.random.default_rng(3)
    constants = [
        (name, random.normal(size=shape).astype(np.float32))
        for name, shape in [("wx", (3, HIDDEN)), ("wh", (HIDDEN, HIDDEN)), ("wo", (HIDDEN, 2))]
    ]
    shape = [1, batch, HIDDEN] if layers else [batch, HIDDEN]
    squeeze = lambda a, b: node("Squeeze", [a, "zero"], [b]) if layers else node("Identity", [a], [b])
    expand = lambda a, b: node("Unsqueeze", [a, "zero"], [b]) if layers else node("Identity", [a], [b])
    nodes = [
        squeeze("h", "h0"),
        node("MatMul", ["obs", "wx"], ["a"]),
        node("MatMul", ["h0", "wh"], ["b"]),
        node("Add", ["a", "b"], ["s"]),
        node("Tanh", ["s"], ["t"]),
        *([squeeze("c", "c0"), node("Add", ["c0", "t"], ["c1"]), expand("c1", "c_out")] if cell else []),
        node("MatMul", ["c1" if cell else "t", "wo"], ["action"]),
        expand("t", "h_out"),
    ]
    states = ["h", "c"] if cell else ["h"]
    return model(
        path,
        nodes,
        [("obs", FLOAT, [batch, 3]), *((name, FLOAT, shape) for name in states)],
        [("action", FLOAT, [batch, 2]), *((f"{name}_out", FLOAT, shape) for name in states)],
        [*constants, ("zero", np.array([0]))],
    )


def by_hand(path, observations, start=0.0):
    """What onnxruntime gives, one trajectory and one step after another."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    states = [port for port in session.get_inputs() if port.name != "obs"]
    made, row = [], 0
    for length in LENGTHS:
        held = {
            port.name: np.full([n if isinstance(n, int) else 1 for n in port.shape], start, np.float32)
            for port in states
        }
        for _ in range(length):
            action, *after = session.run(None, {"obs": observations[row : row + 1], **held})
            held = dict(zip(held, after))
            made.append(action[0])
            row += 1
    return np.array(made)


@pytest.mark.parametrize(
    "layers, batch, cell, size",
    [
        (True, "n", False, None),
        (False, "n", True, 2),
        (True, 1, True, None),
        (True, "n", True, 3),
    ],
)
def test_a_state_is_carried_along_each_trajectory(log, tmp_path, layers, batch, cell, size):
    source, columns = log
    path = recurrent(tmp_path / "m.onnx", layers, batch, cell)
    state = {"h": "h_out", **({"c": "c_out"} if cell else {})}
    observations = columns["observation"].astype(np.float32)
    options = {"model": str(path), "state": state, **({"batch": size} if size else {})}
    wanted = by_hand(path, observations)
    made = oracle.run(tmp_path, [{"label": options}], source)
    steps = table(made.path)
    check(np.abs(vectors(steps["action"]) - wanted).max() < 1e-5, "label")
    check(set(steps["action_source"].to_pylist()) == {"proxy"}, "all are proxies")
    started = {key: {"output": value, "start": 0.25} for key, value in state.items()}
    made = scored(tmp_path, source, {**options, "state": started, "outputs": {"y": "action"}})
    check(np.abs(vectors(made["y"]) - by_hand(path, observations, 0.25)).max() < 1e-5, "start")


def test_only_missing_actions_are_filled_but_every_step_moves_the_state(log, tmp_path):
    source, columns = log
    path = recurrent(tmp_path / "m.onnx")
    wanted = by_hand(path, columns["observation"].astype(np.float32))
    # Every third step has a recorded action.
    partly = pq.read_table(source)
    known = pa.array(
        [value if row % 3 == 0 else None for row, value in enumerate(partly["known"].to_pylist())],
        pa.list_(pa.float64()),
    )
    pq.write_table(partly.append_column("action", known), tmp_path / "partly.parquet")
    made = oracle.run(
        tmp_path,
        [{"label": {"model": str(path), "state": {"h": "h_out"}}}],
        tmp_path / "partly.parquet",
    )
    steps = table(made.path)
    found = vectors(steps["action"])
    recorded = np.array(steps["action_source"].to_pylist()) == "recorded"
    check((recorded == (np.arange(len(wanted)) % 3 == 0)).all(), "sources")
    check((found[recorded] == columns["known"][recorded]).all(), "recorded actions")
    check(np.abs(found[~recorded] - wanted[~recorded]).max() < 1e-5, "labels")


def test_threads_do_not_change_a_state(log, tmp_path):
    path = recurrent(tmp_path / "m.onnx")
    options = {"model": str(path), "state": {"h": "h_out"}}
    made = [
        (oracle.run(tmp_path, [{"label": options}], log[0], str(n), threads=n, shard_rows=8).path)
        for n in (1, 3)
    ]
    oracle.same_dataset(*made, "threads")


def test_a_state_that_is_not_declared_is_recognised(log, tmp_path):
    path = recurrent(tmp_path / "m.onnx", cell=True)
    option = "`state: {h: h_out, c: c_out}`"
    for inputs in ({}, {"inputs": {"obs": "observation"}}):
        refused(tmp_path, log[0], {"model": str(path), **inputs}, ["recurrent model", option])
    option = "carry it from step to step with `state: {c: c_out}`"
    refused(tmp_path, log[0], {"model": str(path), "state": {"h": "h_out"}}, ["`c:", option])
    wrong = [
        ({"h": "h_uot", "c": "c_out"}, ["no output `h_uot`", "did you mean `h_out`?"]),
        ({"h": "action", "c": "c_out"}, ["cannot take the values of the output `action"]),
        ({"h": "h_out", "c": "h_out"}, ["the same output"]),
        ({"h": {"output": "h_out", "start": [1, 2]}, "c": "c_out"}, ["2 values", "has 4"]),
    ]
    for state, wanted in wrong:
        refused(tmp_path, log[0], {"model": str(path), "state": state}, wanted)


# ---- labels that replace, and who made them


def test_relabel_replaces_recorded_actions_and_keeps_them(log, tmp_path):
    source, columns = log
    whole = pq.read_table(source).rename_columns(
        ["action" if name == "known" else name for name in pq.read_table(source).column_names]
    )
    pq.write_table(whole, tmp_path / "whole.parquet")
    path = recurrent(tmp_path / "m.onnx")
    options = {"model": str(path), "state": {"h": "h_out"}}
    pipeline = oracle.pipeline(
        tmp_path / "idle.yaml",
        tmp_path / "whole.parquet",
        [{"label": options}, {"materialise": {"path": "idle"}}],
    )
    said = trajmill("run", pipeline, cwd=tmp_path).stderr
    says(said, ["warning: `label` had nothing to do", "89 rows", "relabel: true"], "idle")
    made = oracle.run(
        tmp_path, [{"label": {**options, "relabel": True}}], tmp_path / "whole.parquet"
    )
    steps = table(made.path)
    wanted = by_hand(path, columns["observation"].astype(np.float32))
    check(np.abs(vectors(steps["action"]) - wanted).max() < 1e-5, "labels")
    check((vectors(steps["action_recorded"]) == columns["known"]).all(), "recorded actions")
    check(set(steps["action_source"].to_pylist()) == {"proxy"}, "sources")
    [account] = manifest(made.path)["lineage"]["stages"]
    check(account["counts"]["recorded actions replaced"] == 89, f"{account}")
    # A second time there is nothing left to keep, and nothing is lost.
    again = oracle.run(
        tmp_path, [{"label": {**options, "relabel": True}}], made.path, name="again"
    )
    steps = table(again.path)
    check((vectors(steps["action_recorded"]) == columns["known"]).all(), "kept twice")


def planned(folder, source, stages):
    """What `plan` says, and its phases as JSON."""
    path = oracle.pipeline(folder / "plan.yaml", source, [*stages, {"materialise": {"path": "p"}}])
    return trajmill("plan", path).stdout, json.loads(trajmill("plan", path, "--json").stdout)["phases"]


def test_a_plan_says_where_nothing_is_left_to_label(log, tmp_path):
    names = {"known": "action"}
    whole = pq.read_table(log[0])
    whole = whole.rename_columns([names.get(name, name) for name in whole.column_names])
    pq.write_table(whole, tmp_path / "whole.parquet")
    trajmill("import", tmp_path / "whole.parquet", tmp_path / "whole")
    label = {"model": str(recurrent(tmp_path / "m.onnx")), "state": {"h": "h_out"}}
    some = oracle.run(tmp_path, [{"hide_actions": {"keep": 0.5, "seed": 1}}], tmp_path / "whole")
    done = oracle.run(tmp_path, [{"label": label}], some.path, name="done")
    idle = ["warning", "`label` has nothing to do", "relabel: true"]
    rows = sum(LENGTHS)
    for source, before, wanted in [
        (tmp_path / "whole", [], rows),
        (done.path, [], rows),
        (some.path, [{"filter": "labelled"}], None),
        (some.path, [{"filter": "has_actions"}, {"derive": {"twice": "reward * 2"}}], None),
    ]:
        said, [phase] = planned(tmp_path, source, [*before, {"label": label}])
        says(said, idle, f"{before}")
        check(len(phase["warnings"]) == 1, f"{phase['warnings']}")
        check(wanted is None or f"{wanted} rows" in said, said)
        said, _ = planned(tmp_path, source, [*before, {"label": {**label, "relabel": True}}])
        check("warning" not in said, "all are replaced")
    hide = {"hide_actions": {"keep": 0.5, "seed": 2}}
    for source, before in [(some.path, []), (tmp_path / "whole", [hide])]:
        said, _ = planned(tmp_path, source, [*before, {"label": label}])
        check("warning" not in said, f"{before}: {said}")
    said, _ = planned(tmp_path, tmp_path / "whole.parquet", [{"label": label}])
    check("warning" not in said, "the counts of a file are not known yet")


def test_a_plan_shows_what_each_input_gets(log, tmp_path):
    path = model(
        tmp_path / "two.onnx",
        [node("Add", ["s", "s_next"], ["y"])],
        [("s", FLOAT, ["n", 3]), ("s_next", FLOAT, ["n", 3])],
        [("y", FLOAT, ["n", 3])],
    )
    window = model(
        tmp_path / "window.onnx",
        [node("Identity", ["w"], ["y"])],
        [("w", FLOAT, ["n", 12])],
        [("y", FLOAT, ["n", 12])],
    )
    state = {"h": {"output": "h_out", "start": 0.5}}
    fed = {"s": "single", "s_next": "next(single)"}
    windowed = {"w": {"of": "single", "past": 2, "future": 1}}
    stages = [
        {"score": {"model": str(path), "inputs": fed, "outputs": {"a": "y"}}},
        {"score": {"model": str(window), "inputs": windowed, "edge": "zero", "outputs": {"b": "y"}}},
        {"label": {"model": str(recurrent(tmp_path / "m.onnx")), "state": state}},
    ]
    said, [phase] = planned(tmp_path, log[0], stages)
    wanted = [
        [
            "s: float32[batch, 3] gets `single` (float32[3])",
            "s_next: float32[batch, 3] gets `next(single)` (float32[3])",
        ],
        ["w: float32[batch, 12] gets `single` (float32[3]) from t-2 to t+1, edge zero"],
        [
            "obs: float32[batch, 3] gets `observation` (float64[3]) at t",
            "h: float32[1, ?, 4] gets `h_out` of the step before, 0.5 at the first step",
        ],
    ]
    check([stage["inputs"] for stage in phase["inputs"]] == wanted, f"{phase['inputs']}")
    check([stage["index"] for stage in phase["inputs"]] == [1, 2, 3], "places in the pipeline")
    says(said, [line for lines in wanted for line in lines], "in words")


def test_every_label_names_its_model(log, tmp_path):
    source, _ = log
    paths = [recurrent(tmp_path / "m.onnx"), recurrent(tmp_path / "o.onnx", layers=False)]
    made = []
    for index, path in enumerate(paths):
        options = {"model": path.name, "state": {"h": "h_out"}}
        made.append(oracle.run(tmp_path, [{"label": options}], source, name=f"made{index}"))
    ids = []
    for own, path in zip(made, paths):
        found = set(table(own.path)["action_model"].to_pylist())
        hash = manifest(own.path)["lineage"]["inputs"][f"stage 1 label model {path.name}"]
        check(found == {hash[:16]}, f"{path.name}: {found}")
        ids.append(hash[:16])
    merged = oracle.run(
        tmp_path,
        [{"filter": {"steps": "step < 4"}}],
        [str(own.path) for own in made],
        name="merged",
    )
    steps = table(merged.path)
    counts = {id: steps["action_model"].to_pylist().count(id) for id in ids}
    kept = sum(min(length, 4) for length in LENGTHS)
    check(counts == {id: kept for id in ids}, f"{counts}")


@pytest.mark.skipif(embedded(), reason="rten sends nothing")
def test_onnx_runtime_keeps_no_usage_data(tmp_path, monkeypatch):
    """ONNX Runtime 1.29 and later writes a cache of what it sends to its makers, unless told not to."""
    # What else silences it.
    for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"):
        monkeypatch.delenv(name, raising=False)
    kept = []
    for index, told in enumerate([{}, {"ORT_DISABLE_TELEMETRY": "0"}]):
        home = tmp_path / f"home{index}"
        home.mkdir()
        trajmill("doctor", HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"), **told)
        kept.append(any("onnxruntime" in str(file) for file in home.rglob("*")))
    check(kept == [False, True], f"usage data is kept without and with the user's will: {kept}")
