#!/usr/bin/env python3
"""The Python part of tests/gpu: finds libraries, makes a corpus and models, compares labels, and reports.

The corpus has the shape of D4RL's walker2d: 17 observations, 6 actions, trajectories of 200 to 1000 steps. Only shapes
matter for labelling, so its observations are noise; actions follow from two observations, so that a model can be trained.
"""

import hashlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

OBSERVATION, ACTION, BASE = 17, 6, 200_000
# Hidden units of the model that shows how many copies of the weights a device holds: 484 MB each.
WIDE = 11_000


def library():
    spec = find_spec("onnxruntime")
    found = sorted(Path(spec.origin).parent.glob("capi/libonnxruntime.so*")) if spec else []
    sys.exit("onnxruntime is not installed") if not found else print(found[0])


def cuda():
    roots = {path for entry in sys.path if entry for path in Path(entry).glob("nvidia/*/lib")}
    print(":".join(str(path) for path in sorted(roots)))


def corpus(out, steps):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out, steps, rng = Path(out), int(steps), np.random.default_rng(7)
    out.mkdir(parents=True)
    first = 0
    for file, rows in enumerate([min(1_000_000, steps - at) for at in range(0, steps, 1_000_000)]):
        lengths = rng.integers(200, 1001, rows // 200 + 1)
        ends = np.minimum(np.cumsum(lengths), rows)
        ends = ends[: int(np.searchsorted(ends, rows)) + 1]
        starts = np.concatenate([[0], ends[:-1]])
        which = np.repeat(np.arange(len(ends)), ends - starts)
        noise = lambda width: np.tanh(rng.standard_normal((rows, width), dtype=np.float32))
        observation = noise(OBSERVATION)
        action = np.tanh(np.roll(observation, -1, axis=0)[:, :ACTION] - observation[:, ACTION : 2 * ACTION])
        vector = lambda values: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        last = np.zeros(rows, bool)
        last[ends - 1] = True
        table = pa.table({
            "trajectory_id": first + which, "step": (np.arange(rows) - starts[which]).astype(np.int32),
            "observation": vector(observation), "action": vector(action), "reward": noise(1).ravel(),
            "terminated": np.zeros(rows, bool), "truncated": last,
        })
        pq.write_table(table, out / f"{file:05}.parquet", compression="none", use_dictionary=False, write_statistics=False)
        first += len(ends)


def models(out):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)

    def save(name, nodes, width, initializers, batch="batch"):
        ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, [batch, size]) for port, size in [("x", width), ("action", ACTION)]]
        graph = helper.make_graph(nodes, name, ports[:1], ports[1:], initializers)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), Path(out) / f"{name}.onnx")

    def layers(widths, at, to):
        nodes, initializers = [], []
        for layer, (rows, columns) in enumerate(zip(widths, widths[1:])):
            weights = (2 * rng.random((rows, columns), dtype=np.float32) - 1) / np.float32(np.sqrt(rows))
            initializers += [numpy_helper.from_array(weights, f"w{layer}"), numpy_helper.from_array(np.zeros(columns, np.float32), f"b{layer}")]
            final = layer == len(widths) - 2
            nodes.append(helper.make_node("Gemm", [at, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
            at = to if final else f"h{layer}"
            nodes.append(helper.make_node("Tanh" if final else "Relu", [f"z{layer}"], [at]))
        return nodes, initializers

    for name, widths in [("idm-small", (51, 256, 256, ACTION)), ("idm-paper", (68, 1024, 1024, ACTION)), ("wide", (51, WIDE, WIDE, ACTION))]:
        nodes, initializers = layers(widths, "x", "action")
        save(name, nodes, widths[0], initializers)

    # Arithmetic on the batch size, as exporters write it for `y.view(x.shape[0], -1)`. The runtime puts these nodes on
    # the CPU unless the batch size is fixed before the graph is optimised.
    integers = lambda name, values: numpy_helper.from_array(np.asarray(values, np.int64), name)
    nodes, initializers = layers((51, 64, ACTION), "x", "flat")
    nodes += [
        helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["first"]), helper.make_node("Concat", ["first", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["flat", "wanted"], ["action"]),
    ]
    save("shapes", nodes, 51, [*initializers, integers("zero", 0), integers("axes", [0]), integers("rest", [-1])])

    # A determinant per row, six times: the operator Det has no CUDA version.
    constants = [integers("start", [0]), integers("end", [9]), integers("axis", [1]), integers("square", [-1, 3, 3]), integers("column", [-1, 1])]
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["nine"]), helper.make_node("Reshape", ["nine", "square"], ["matrix"]),
        helper.make_node("Det", ["matrix"], ["det"]), helper.make_node("Reshape", ["det", "column"], ["one"]),
        helper.make_node("Concat", ["one"] * ACTION, ["action"], axis=1),
    ]
    save("cpu-only", nodes, 51, constants)


def compare(left, right, tolerance):
    import pyarrow.dataset as ds

    def labels(path):
        table = ds.dataset(str(Path(path) / "steps"), format="parquet").to_table(["trajectory_id", "step", "action"]).sort_by([("trajectory_id", "ascending"), ("step", "ascending")])
        table = table.filter(ds.field("action").is_valid())
        return table.column("trajectory_id").to_numpy(), table.column("action").combine_chunks().flatten().to_numpy()

    (ids, a), (others, b) = labels(left), labels(right)
    same = len(a) > 0 and np.array_equal(ids, others) and a.shape == b.shape
    difference = float(np.abs(a - b).max()) if same else float("inf")
    print(difference)
    sys.exit(0 if difference <= float(tolerance) else f"largest difference {difference}")


def digest(path):
    """Prints the hash of every file of a dataset except the manifest, which contains the path."""
    for file in sorted(Path(path).glob("*/*.parquet")):
        print(hashlib.sha256(file.read_bytes()).hexdigest(), file.relative_to(path))


def loads(work):
    """Prints how much more device memory the wide model takes than the small one, in units of its weights."""
    used = {}
    for model in ("idm-small", "wide"):
        samples = [float(line) for line in (Path(work) / f"used-{model}").read_text().split()]
        used[model] = max(samples) - samples[0]
    times = (used["wide"] - used["idm-small"]) * 2**20 / (4 * WIDE * WIDE)
    print(round(times, 2))
    sys.exit(0 if 0.8 < times < 1.6 else f"its {4 * WIDE * WIDE / 2**20:.0f} MiB of weights take {times:.2f} times that: {used} MiB")


def trained(work):
    """Reports the held-out errors of models that the CPU and CUDA trained on the same batches, and the time of an update."""
    work, result, same = Path(work), {}, True
    for head in ("deterministic", "gaussian"):
        seconds = lambda name: float((work / f"{name}-{head}-cuda").read_text())
        errors = {}
        for name in ("cpu", "cuda", "long"):
            report = json.loads((work / f"{head}-{name}.report.json").read_text())
            wanted = "cpu" if name == "cpu" else "cuda:0"
            if report["training"]["device"] != wanted:
                sys.exit(f"{head}-{name} was trained on {report['training']['device']}, not on {wanted}")
            dimensions = report["held_out"]["dimensions"]
            errors[name] = sum(each["mse"] for each in dimensions) / sum(each["mse_of_mean"] for each in dimensions)
        same &= errors["long"] < 0.5 and abs(errors["cuda"] - errors["cpu"]) < 0.1 * errors["cpu"]
        result[head] = {"error_of_that_of_the_mean": errors, "milliseconds_an_update": round((seconds("long") - seconds("short")) / 2, 2)}
    print(json.dumps(result, indent=2))
    print(json.dumps(result, indent=2), file=sys.stderr)
    sys.exit(0 if same else "the errors on the CPU and on CUDA differ by more than a tenth, or exceed half of the baseline's")


def frames(work, count):
    """Reports how many frames a second go through each model on CUDA, and how busy the GPU is meanwhile."""
    work, result = Path(work), {"frames": int(count), "cpus": os.cpu_count(), "codecs": {}}
    seconds = lambda name: float((work / name).read_text())
    print(f"{'':8} {'decoding':>10} {'small':>10} {'ResNet-18':>10} {'GPU busy':>9} {'on the CPU':>11} {'differs by':>11} binds", file=sys.stderr)
    for codec in ("h264", "av1"):
        speeds = {model: int(count) / seconds(f"time-{codec}-{model}") for model in ("first", "small", "resnet", "cpu")}
        samples = [float(line) for line in (work / f"busy-{codec}-resnet").read_text().split()]
        at_work = [index for index, sample in enumerate(samples) if sample > 0]
        samples = samples[at_work[0] : at_work[-1] + 1] if at_work else [0]
        busy, apart = sum(samples) / len(samples), seconds(f"apart-{codec}")
        # Where a model costs no time beside decoding, a faster GPU would not help.
        binds = "decoding" if speeds["resnet"] > 0.8 * speeds["first"] else "the model"
        result["codecs"][codec] = {
            "frames_per_second": {name: round(speed, 1) for name, speed in speeds.items()}, "gpu_busy_percent": round(busy, 1),
            "largest_difference_from_cpu": apart, "binds": binds,
        }
        print(f"{codec:8} {speeds['first']:10.0f} {speeds['small']:10.0f} {speeds['resnet']:10.0f} {busy:8.0f}% {speeds['cpu']:11.0f} {apart:11.1e} {binds}", file=sys.stderr)
    print(json.dumps(result, indent=2))


def report(work, steps, gpus):
    """Reports speeds, from the time that the large corpus takes longer than the small one: this leaves out the start."""
    work, steps = Path(work), int(steps)
    seconds = lambda name: float((work / name).read_text())
    per_second = lambda share, long, short: share * (steps - BASE) / (seconds(long) - seconds(short))
    copied = per_second(1, "time-copy", "base-copy")
    result = {
        "gpus": gpus.splitlines(), "cpus": os.cpu_count(), "steps": steps, "labelled_share": 0.9, "copied_steps_per_second": round(copied),
        "weights_on_device": seconds("loads"), "tf32_differs_by": seconds("apart-tf32"), "models": {},
    }
    print(f"{'':10} {'trajmill':>12} {'bare loop':>12} {'ratio':>6} {'goal':>12} {'met':>4} {'GPU busy':>9} {'differs by':>11}", file=sys.stderr)
    for model in ("small", "paper"):
        speed = per_second(0.9, f"time-{model}", f"base-{model}")
        bare = json.loads((work / f"bare-{model}").read_text())
        samples = [float(line) for line in (work / f"busy-{model}").read_text().split()]
        # The GPU is idle while the process starts and ends.
        at_work = [index for index, sample in enumerate(samples) if sample > 0]
        samples = samples[at_work[0] : at_work[-1] + 1] if at_work else [0]
        busy, goal = sum(samples) / len(samples), 0.8 * min(bare["steps_per_second"], 0.9 * copied)
        apart = seconds(f"apart-{model}")
        result["models"][f"idm-{model}"] = {
            "steps_per_second": round(speed), "wall_seconds": seconds(f"time-{model}"), "bare": bare, "ratio": round(speed / bare["steps_per_second"], 3),
            "goal": round(goal), "goal_met": speed >= goal, "gpu_busy_percent": round(busy, 1), "largest_difference_from_cpu": apart,
        }
        print(f"idm-{model:6} {speed:12,.0f} {bare['steps_per_second']:12,.0f} {speed / bare['steps_per_second']:6.2f} {goal:12,.0f} {'yes' if speed >= goal else 'no':>4} {busy:8.0f}% {apart:11.1e}", file=sys.stderr)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
