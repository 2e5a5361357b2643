"""Labels against numpy windows and onnxruntime in Python.

    python tests/python/label_oracle.py TRAJMILL_BINARY

Random datasets go in as plain Parquet, models are written here, and what `trajmill run` labels is compared row by row
with windows that are built observation by observation. TRAJMILL_RUNTIME, where set, reaches the binary.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

BINARY = os.path.abspath(sys.argv[1])
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="label-oracle-"))
D, A, K = 4, 3, 5
RNG = np.random.default_rng(11)
CHECKS = 0

def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what

def trajmill(*arguments, code=0):
    done = subprocess.run([BINARY, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done

# ---- datasets: a list of trajectories, each (observations, actions, recorded mask, has final row)

def dataset(name, dtype, final, discrete=None, lengths=None):
    lengths = lengths or [1, 2, 1, 3, 23, 5, 1, 40, 8, 17, 2]
    trajectories, rows = [], {key: [] for key in ("trajectory_id", "step", "observation", "action", "reward", "terminated", "truncated", "is_final")}
    for index, n in enumerate(lengths):
        has_final = {"all": True, "none": False, "some": index % 2 == 0}[final]
        observation = RNG.normal(size=(n + has_final, D)).astype(dtype)
        action = RNG.integers(0, K, n).astype(discrete) if discrete else RNG.normal(size=(n, A)).astype(dtype)
        recorded = np.ones(n, bool) if index % 5 == 4 else RNG.random(n) < 0.2
        trajectories.append((observation, action, recorded, has_final))
        for t in range(n + has_final):
            last = t == n
            rows["trajectory_id"].append(index)
            rows["step"].append(t)
            rows["observation"].append(observation[t])
            rows["action"].append(None if last or not recorded[t] else action[t])
            rows["reward"].append(None if last else float(t))
            rows["terminated"].append(t == n - 1)
            rows["truncated"].append(False)
            rows["is_final"].append(last)
    value = pa.from_numpy_dtype(dtype)
    types = {"trajectory_id": pa.int64(), "step": pa.int32(), "observation": pa.list_(value), "reward": pa.float32(),
             "action": pa.from_numpy_dtype(discrete) if discrete else pa.list_(value)}
    table = pa.table({key: pa.array(column, types.get(key, pa.bool_())) for key, column in rows.items()})
    pq.write_table(table, ROOT / f"{name}.parquet")
    trajmill("import", ROOT / f"{name}.parquet", ROOT / name, "--from", "parquet")
    return name, trajectories

# ---- models

def model(name, inputs, outputs, nodes, constants=(), metadata=None):
    def infos(ports):
        return [helper.make_tensor_value_info(port, kind, ["batch", *shape]) for port, kind, shape in ports]

    initializers = [numpy_helper.from_array(array, key) for key, array in constants]
    graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    onnx.save(proto, ROOT / f"{name}.onnx")
    return f"{name}.onnx"

FLOAT = TensorProto.FLOAT

def copies(name, width, indices, shape=None, output="action", metadata=None):
    """Copies coordinates of its input."""
    nodes = [helper.make_node("Gather", ["x", "indices"], ["y"], axis=1), helper.make_node("Reshape", ["y", "shape"], [output])]
    shape = shape or [len(indices)]
    constants = [("indices", np.array(indices, np.int64)), ("shape", np.array([0, *shape], np.int64))]
    return model(name, [("x", FLOAT, [width])], [(output, FLOAT, shape)], nodes, constants, metadata)

def mlp(name, width, seed, std=False, inputs=("x",), horizon=None):
    rng = np.random.default_rng(seed)
    out = A * (horizon or 1)
    heads = ["action", "std"] if std else ["action"]
    constants = [("w", rng.normal(size=(width, 16)).astype(np.float32)), ("b", rng.normal(size=16).astype(np.float32))]
    constants += [(f"w_{head}", (rng.normal(size=(16, out)) / 4).astype(np.float32)) for head in heads]
    constants += [("shape", np.array([0, horizon, A] if horizon else [0, A], np.int64))]
    nodes = [helper.make_node("Concat", list(inputs), ["all"], axis=1), helper.make_node("Gemm", ["all", "w", "b"], ["h"]), helper.make_node("Tanh", ["h"], ["t"])]
    nodes += [helper.make_node("MatMul", ["t", f"w_{head}"], [f"y_{head}"]) for head in heads]
    nodes += [helper.make_node("Reshape", ["y_action", "shape"], ["action"])]
    if std:
        nodes += [helper.make_node("Sigmoid", ["y_std"], ["z_std"]), helper.make_node("Reshape", ["z_std", "shape"], ["std"])]
    shape = [horizon, A] if horizon else [A]
    ports = [(port, FLOAT, [width // len(inputs)]) for port in inputs]
    return model(name, ports, [(head, FLOAT, shape) for head in heads], nodes, constants)

def predict(path, feeds):
    session = onnxruntime.InferenceSession(ROOT / path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds)))

# ---- windows, one observation at a time

def window(trajectory, t, past, future, edge):
    observation, action, _, _ = trajectory
    n, known, zero = len(action), len(observation), np.zeros(D, np.float32)
    if edge == "ssorl" and past > 0:
        slots = list(observation[max(0, t - past) : min(t + 2, n)].astype(np.float32))
        return np.concatenate([zero] * (past + 2 - len(slots)) + slots)
    slots = []
    for s in range(t - past, t + future + 1):
        if 0 <= s < known:
            slots.append(observation[s].astype(np.float32))
        elif edge == "skip":
            return None
        else:
            slots.append(zero if edge == "zero" else observation[min(max(s, 0), known - 1)].astype(np.float32))
    return np.concatenate(slots)

def windows(trajectories, past, future, edge):
    return {(i, t): w for i, trajectory in enumerate(trajectories) for t in range(len(trajectory[1]))
            if (w := window(trajectory, t, past, future, edge)) is not None}

def by_step(steps, paths, feeds, head="action"):
    """What each model predicts, by trajectory and step."""
    made = [predict(path, feeds)[head] for path in paths]
    return {key: [member[row] for member in made] for row, key in enumerate(steps)}

def flat(trajectories, paths, past, future, edge, head="action"):
    seen = windows(trajectories, past, future, edge)
    return by_step(seen, paths, {"x": np.stack(list(seen.values()))}, head)

# ---- running and comparing

def run(name, options, source, tag="out", threads=2, extra=()):
    out = ROOT / tag
    shutil.rmtree(out, ignore_errors=True)
    pipeline = {"trajmill": 1, "source": str(ROOT / source), "stages": [{"label": options}, {"materialise": {"path": str(out), "shard_rows": 60}}]}
    path = ROOT / f"{name}.yaml"
    path.write_text(json.dumps(pipeline))
    trajmill("run", path, "--threads", threads, *extra)
    table = pa.concat_tables(pq.read_table(file) for file in sorted((out / "steps").glob("*.parquet")))
    return out, table.sort_by([("trajectory_id", "ascending"), ("step", "ascending")]).to_pylist()

def refused(name, source, path, message, options=None):
    """A run with a model that cannot be used: it fails with `message` and publishes nothing. Returns all that it says."""
    pipeline = {"trajmill": 1, "source": str(ROOT / source), "stages": [{"label": {"model": path, **(options or {})}}, {"materialise": {"path": str(ROOT / name)}}]}
    (ROOT / f"{name}.yaml").write_text(json.dumps(pipeline))
    said = trajmill("run", ROOT / f"{name}.yaml", "--threads", 1, code=1).stderr
    check(message in said, f"{name}: {said}")
    check(not (ROOT / name).exists(), f"{name}: something was published")
    return said

def compare(name, data, options, expected, exact=True, stds=None, votes=None):
    """`expected` maps (trajectory, step) to the label; what is not in it stays null."""
    source, trajectories = data
    _, rows = run(name, options, source)
    into = options.get("into", "action")
    check(len(rows) == sum(len(trajectory[0]) for trajectory in trajectories), f"{name}: rows")
    for row in rows:
        i, t = row["trajectory_id"], row["step"]
        where = f"{name}: trajectory {i} step {t}"
        _, action, recorded, _ = trajectories[i]
        given = t < len(action) and recorded[t]
        if given:
            check(np.array_equal(row["action"], action[t]), f"{where}: a recorded action changed")
        if into != "action":
            check("action_source" not in row and (given or row["action"] is None), f"{where}: `into` leaves actions alone")
        want = expected.get((i, t)) if t < len(action) and not given else None
        found = None if given and into == "action" else row[into]
        if want is None:
            check(found is None, f"{where}: {found} where there should be nothing")
        else:
            gap = np.max(np.abs(np.asarray(found, np.float64) - np.asarray(want, np.float64)))
            check(gap == 0 if exact else gap <= 1e-5, f"{where}: {found} is not {want}")
        if into == "action":
            check(row["action_source"] == ("recorded" if given else None if want is None else "proxy"), f"{where}: {row['action_source']}")
        check(("action_std" in row) == (stds is not None) and ("action_votes" in row) == (votes is not None), f"{where}: columns")
        if stds is not None:
            std = row["action_std"]
            check((std is None) == (want is None) and (want is None or np.allclose(std, stds[i, t], atol=1e-5)), f"{where}: std {std}")
        if votes is not None:
            check(row["action_votes"] == (None if want is None else votes[i, t]), f"{where}: votes {row['action_votes']}")

def mean(parts):
    return np.mean(np.asarray(parts, np.float64), axis=0)

def spread(parts, stds=None):
    own = 0 if stds is None else np.mean(np.asarray(stds, np.float64) ** 2, axis=0)
    return np.sqrt(own + np.var(np.asarray(parts, np.float64), axis=0))

def edges_and_copies(datasets):
    for data in datasets:
        for past, future, edge in [(p, f, e) for p, f in [(0, 0), (1, 1), (2, 0), (0, 2), (5, 3)] for e in ("repeat", "zero", "skip")] + [(k, 1, "ssorl") for k in (0, 1, 3)]:
            width = (past + 1 + future) * D
            name = f"copy-{data[0]}-{past}-{future}-{edge}"
            path = copies(name, width, RNG.integers(0, width, A))
            expected = {key: made[0] for key, made in flat(data[1], [path], past, future, edge).items()}
            options = {"model": path, "window": {"past": past, "future": future, "edge": edge}, "batch": 8}
            compare(name, data, options, expected)

def networks(data):
    spec = {"past": 1, "future": 1, "edge": "zero"}
    paths = [mlp(f"mlp-{seed}", 3 * D, seed) for seed in range(3)]
    made = flat(data[1], paths, 1, 1, "zero")
    compare("mlp", data, {"model": paths[0], "window": spec}, {key: parts[0] for key, parts in made.items()}, exact=False)
    clipped = {key: np.clip(parts[0], [-0.2, -1, 0], [0.2, 0.5, 9]) for key, parts in made.items()}
    compare("clip", data, {"model": paths[0], "window": spec, "clip": [[-0.2, -1, 0], [0.2, 0.5, 9]], "into": "guess"}, clipped, exact=False)
    stds = {key: spread(parts) for key, parts in made.items()}
    compare("ensemble", data, {"model": paths, "window": spec, "batch": 16}, {key: mean(parts) for key, parts in made.items()}, exact=False, stds=stds)

    paths = [mlp(f"gauss-{seed}", 3 * D, seed, std=True) for seed in range(2)]
    made, own = (flat(data[1], paths, 1, 1, "zero", head) for head in ("action", "std"))
    compare("gauss", data, {"model": paths[0], "window": spec}, {key: parts[0] for key, parts in made.items()}, exact=False,
            stds={key: parts[0] for key, parts in own.items()})
    compare("gauss-ensemble", data, {"model": paths, "window": spec, "outputs": {"action": "action", "std": "std"}},
            {key: mean(parts) for key, parts in made.items()}, exact=False, stds={key: spread(made[key], own[key]) for key in made})

    path = mlp("named", 2 * D, 9, inputs=("s", "s_next"))
    for edge in ("repeat", "zero", "skip"):
        seen = windows(data[1], 0, 1, edge)
        both = np.stack(list(seen.values()))
        made = by_step(seen, [path], {"s": both[:, :D], "s_next": both[:, D:]})
        options = {"model": path, "inputs": {"s": "observation", "s_next": "next(observation)"}, "window": {"edge": edge}}
        compare(f"named-{edge}", data, options, {key: parts[0] for key, parts in made.items()}, exact=False)

    path = copies("metadata", 2 * D, [0, D, 2 * D - 1], metadata={"trajmill.past": "1", "trajmill.future": "0", "trajmill.edge": "zero", "trajmill.clip": "-0.5,0.25"})
    made = {key: np.clip(parts[0], np.float32(-0.5), np.float32(0.25)) for key, parts in flat(data[1], [path], 1, 0, "zero").items()}
    compare("metadata", data, {"model": path}, made)

def horizons(data):
    for length in (1, 2, 4):
        for reduce in ("mean", "first", "last"):
            for edge in ("repeat", "skip"):
                name = f"horizon-{length}-{reduce}-{edge}"
                paths = [mlp(f"{name}-{seed}", 3 * D, seed, horizon=length) for seed in range(2 if length == 4 else 1)]
                made = flat(data[1], paths, 1, 1, edge)
                expected, stds, votes = {}, {}, {}
                for i, trajectory in enumerate(data[1]):
                    for t in range(len(trajectory[1])):
                        used = [s for s in range(max(0, t - length + 1), t + 1) if (i, s) in made]
                        used = {"mean": used, "first": used[:1], "last": used[-1:]}[reduce]
                        if used:
                            parts = [made[i, s][member][t - s] for member in range(len(paths)) for s in used]
                            expected[i, t], stds[i, t], votes[i, t] = mean(parts), spread(parts), len(used)
                options = {"model": paths if len(paths) > 1 else paths[0], "window": {"past": 1, "future": 1, "edge": edge},
                           "horizon": {"length": length, "reduce": reduce}, "batch": 8}
                compare(name, data, options, expected, exact=False, stds=stds if len(paths) > 1 else None, votes=votes)

def classes(data):
    paths = [copies(f"logits-{seed}", 2 * D, np.random.default_rng(seed).integers(0, 2 * D, K), output="logits") for seed in range(3)]
    made = flat(data[1], paths, 0, 1, "repeat", "logits")
    options = {"window": {"past": 0, "future": 1}, "batch": 8}
    compare("logits", data, {"model": paths[0], **options}, {key: int(np.argmax(parts[0])) for key, parts in made.items()})
    compare("logits-mean", data, {"model": paths, **options}, {key: int(np.argmax(mean(parts))) for key, parts in made.items()})
    # The slope breaks ties: of two equal values rten's ArgMax names the last one, ONNX the first.
    slope = helper.make_tensor("slope", FLOAT, [2 * D], [-1e-3 * index for index in range(2 * D)])
    nodes = [helper.make_node("Constant", [], ["slope"], value=slope), helper.make_node("Add", ["x", "slope"], ["tilted"]),
             helper.make_node("ArgMax", ["tilted"], ["class"], axis=1, keepdims=0)]
    path = model("class", [("x", FLOAT, [2 * D])], [("class", TensorProto.INT64, [])], nodes)
    made = flat(data[1], [path], 0, 1, "repeat", "class")
    compare("class", data, {"model": path, **options}, {key: int(parts[0]) for key, parts in made.items()})

def non_finite(data):
    """Labels that are not numbers: an error that names the first, nothing, or none of the trajectory."""
    source, trajectories = data
    nodes = [helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"]), helper.make_node("Sub", ["limit", "y"], ["left"]), helper.make_node("Sqrt", ["left"], ["action"])]
    constants = [("start", np.array([0], np.int64)), ("end", np.array([A], np.int64)), ("axis", np.array([1], np.int64)), ("limit", np.array([1.2], np.float32))]
    path = model("root", [("x", FLOAT, [D])], [("action", FLOAT, [A])], nodes, constants)
    made = {key: parts[0] for key, parts in flat(trajectories, [path], 0, 0, "repeat").items()}
    broken = [(i, t) for (i, t), label in made.items() if not trajectories[i][2][t] and not np.isfinite(label).all()]
    check(0 < len(broken) < len(made), f"{len(broken)} of {len(made)} labels are not finite")
    compare("root-null", data, {"model": path, "non_finite": None}, {key: label for key, label in made.items() if key not in broken}, exact=False)

    _, rows = run("root-drop", {"model": path, "non_finite": "drop"}, source)
    kept = [i for i in range(len(trajectories)) if i not in {i for i, _ in broken}]
    check(sorted({row["trajectory_id"] for row in rows}) == kept, f"root-drop keeps {sorted({row['trajectory_id'] for row in rows})}, not {kept}")
    check(len(rows) == sum(len(trajectories[i][0]) for i in kept), "root-drop: rows")
    check(all(row["action"] is not None for row in rows if not row["is_final"]), "root-drop: every step that is left has an action")

    refused("root-error", source, path, "trajectory {}, step {}: the label is not finite".format(*broken[0]))

def outputs_of_other_shapes(data):
    """A model that gives two rows for one, and one whose rows depend on the data though not for zeros."""
    ports = [("x", FLOAT, [D])], [("action", FLOAT, [A])]
    bounds = [("start", np.array([0], np.int64)), ("end", np.array([A], np.int64)), ("axis", np.array([1], np.int64))]
    cut = helper.make_node("Slice", ["x", "start", "end", "axis"], ["cut"])
    path = model("double-rows", *ports, [cut, helper.make_node("Concat", ["cut", "cut"], ["action"], axis=0)], bounds)
    refused("double-rows", data[0], path, f"output `action` has the shape [1024, {A}] for a batch of 512 rows; its first axis must be the batch")
    constants = [*bounds, ("one", np.array([1], np.int64)), ("zero", np.array([0], np.float32)), ("first", np.array([0], np.int64))]
    nodes = [cut, helper.make_node("Slice", ["x", "start", "one", "axis"], ["column"]), helper.make_node("Squeeze", ["column", "axis"], ["flat"]),
             helper.make_node("LessOrEqual", ["flat", "zero"], ["kept"]), helper.make_node("Cast", ["kept"], ["number"], to=TensorProto.INT32),
             helper.make_node("NonZero", ["number"], ["places"]), helper.make_node("Squeeze", ["places", "first"], ["rows"]),
             helper.make_node("Gather", ["cut", "rows"], ["action"], axis=0)]
    path = model("ragged", *ports, nodes, constants)
    said = refused("ragged", data[0], path, "ragged.onnx: the shape of an output depends on the data")
    check(said.count("ragged.onnx") == 1, f"ragged: the file is named once: {said}")

def same_bytes(data):
    """Threads change nothing: not a byte of any file."""
    options = {"model": [mlp(f"same-{seed}", 3 * D, seed, std=True) for seed in range(2)], "window": {"past": 1, "future": 1, "edge": "repeat"}}
    seen = []
    for threads in (1, 2, 7):
        out, _ = run("same", options, data[0], threads=threads)
        files = sorted(path for path in out.rglob("*") if path.is_file())
        seen.append({str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    check(len(seen[0]) > 10, "several shards")
    check(seen[0] == seen[1] == seen[2], f"threads 1, 2, 7 differ: {seen}")

def main():
    datasets = [dataset("f32-some", np.float32, "some"), dataset("f64-none", np.float64, "none"), dataset("f32-all", np.float32, "all")]
    edges_and_copies(datasets)
    networks(datasets[0])
    horizons(datasets[0])
    non_finite(datasets[1])
    outputs_of_other_shapes(datasets[0])
    classes(dataset("int32", np.float32, "some", discrete=np.int32))
    classes(dataset("int64", np.float64, "none", discrete=np.int64))
    same_bytes(dataset("long", np.float32, "some", lengths=[int(n) for n in RNG.integers(1, 900, 12)]))
    shutil.rmtree(ROOT)
    print(f"label_oracle: {CHECKS} checks passed")

main()
