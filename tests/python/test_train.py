"""What `train_idm` writes, against onnx, onnxruntime and numpy.

    python tests/python/test_train.py TRAJMILL_BINARY

Models are learnt from data/hopper and from datasets made here. Each file goes through onnx.checker; onnxruntime has to give the
trainer's own predictions, numpy the same by hand; errors and losses of the report are computed again from windows that are built
observation by observation, on the trajectories that numpy says are held out. TRAJMILL_RUNTIME, where set, reaches the binary.
"""

import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

import blake3
import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import numpy_helper

BINARY = os.path.abspath(sys.argv[1])
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="train-oracle-"))
RNG = np.random.default_rng(5)
CHECKS = 0


def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what


def trajmill(*arguments, code=0, **environment):
    done = subprocess.run([BINARY, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


# ---- datasets: a dictionary from id to (observations with the final one, actions, recorded mask)

def made(name, lengths, width, act, labelled, dtype=np.float32, discrete=None, spoil=None):
    """Random walks whose action follows from the step: `act` maps the differences of a trajectory to its actions."""
    rows = {key: [] for key in ("trajectory_id", "step", "observation", "action", "reward", "terminated", "truncated", "is_final")}
    trajectories = {}
    for index, n in enumerate(lengths):
        observation = np.cumsum(RNG.normal(size=(n + 1, width)), axis=0) * 0.3 + np.arange(width) * 10
        action = act(np.diff(observation, axis=0))
        recorded = np.full(n, index in labelled)
        if spoil:
            spoil(index, observation, action)
        observation = observation.astype(dtype)
        action = action.astype(discrete or dtype)
        trajectories[index] = (observation, action, recorded)
        for t in range(n + 1):
            rows["trajectory_id"].append(index)
            rows["step"].append(t)
            rows["observation"].append(observation[t])
            rows["action"].append(action[t] if t < n and recorded[t] else None)
            rows["reward"].append(1.0 if t < n else None)
            rows["terminated"].append(t == n - 1)
            rows["truncated"].append(False)
            rows["is_final"].append(t == n)
    value = pa.from_numpy_dtype(dtype)
    types = {"trajectory_id": pa.int64(), "step": pa.int32(), "observation": pa.list_(value), "reward": pa.float32(),
             "action": pa.from_numpy_dtype(discrete) if discrete else pa.list_(value)}
    table = pa.table({key: pa.array(column, types.get(key, pa.bool_())) for key, column in rows.items()})
    pq.write_table(table, ROOT / f"{name}.parquet")
    shutil.rmtree(ROOT / name, ignore_errors=True)
    trajmill("import", ROOT / f"{name}.parquet", ROOT / name, "--from", "parquet")
    return ROOT / name, trajectories


def read(dataset):
    table = pa.concat_tables(pq.read_table(file) for file in sorted((dataset / "steps").glob("*.parquet")))
    trajectories = {}
    for key in np.unique(table["trajectory_id"].to_numpy()):
        own = table.filter(pa.compute.equal(table["trajectory_id"], key)).sort_by("step")
        final = own["is_final"].to_numpy(zero_copy_only=False)
        observation = np.array(own["observation"].to_pylist(), np.float32)
        actions = [action for action, last in zip(own["action"].to_pylist(), final) if not last]
        recorded = np.array([action is not None for action in actions])
        width = next((len(action) for action in actions if action is not None), 1)
        trajectories[int(key)] = (observation, np.array([action or [np.nan] * width for action in actions], np.float32), recorded)
    return trajectories


# ---- what is held out, and windows, one observation at a time

def held_out(trajectories, share, seed):
    labelled = [key for key, (_, _, recorded) in trajectories.items() if recorded.any()]

    def chance(key):
        hasher = blake3.blake3(b"train_idm\0" + seed.to_bytes(8, "little") + key.to_bytes(8, "little", signed=True))
        return int.from_bytes(hasher.digest(8), "little")

    order = sorted(labelled, key=lambda key: (chance(key), key))
    return order[: max(1, math.ceil(share * len(order) - 1e-9))], order[max(1, math.ceil(share * len(order) - 1e-9)):]


def windows(trajectories, keys, past, future, edge):
    inputs, targets = [], []
    for key in sorted(keys):
        observation, action, recorded = trajectories[key]
        for t in np.flatnonzero(recorded):
            places = range(t - past, t + future + 1)
            if edge == "skip" and (places[0] < 0 or places[-1] >= len(observation)):
                continue
            slots = [np.zeros_like(observation[0]) if edge == "zero" and not 0 <= s < len(observation)
                     else observation[min(max(s, 0), len(observation) - 1)] for s in places]
            inputs.append(np.concatenate(slots))
            targets.append(action[t])
    return np.array(inputs, np.float32), np.array(targets, np.float64)


# ---- the file by hand

def by_hand(model, inputs, head, members):
    """Actions, standard deviations, and what the networks put out, in float64."""
    values = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}
    hidden_of = {"Relu": lambda x: np.maximum(x, 0), "Tanh": np.tanh, "Elu": lambda x: np.where(x > 0, x, np.expm1(x))}
    operators = {node.op_type for node in model.graph.node if node.name.endswith(tuple(f"_h{i}" for i in range(9)))}
    hidden = hidden_of[operators.pop()]
    x = (inputs.astype(np.float64) - values["input_mean"]) * values["input_factor"]

    def network(name):
        at, layer = x, 0
        while f"{name}_w{layer}" in values:
            at = at if layer == 0 else hidden(at)
            at = at @ values[f"{name}_w{layer}"] + values[f"{name}_b{layer}"]
            layer += 1
        return at

    actions, stds, raw = [], [], []
    for m in range(members):
        if head == "categorical":
            actions.append(network(f"m{m}_action"))
            raw.append(actions[-1])
        elif head == "deterministic":
            raw.append(network(f"m{m}_output"))
            action = raw[-1] * values["action_scale"] + values["action_centre"]
            actions.append(np.clip(action, values["lowest"], values["highest"]) if "lowest" in values else action)
        else:
            mean, log_std = network(f"m{m}_mean"), -5 + 3.5 * (np.tanh(network(f"m{m}_log_std")) + 1)
            raw.append((mean, log_std))
            actions.append(np.tanh(mean) * values["action_scale"] + values["action_centre"])
            # The standard deviation of the squashed Normal, by many quantiles instead of the file's few points.
            grid = np.linspace(-8, 8, 4001)
            weights = np.exp(-grid**2 / 2)
            weights /= weights.sum()
            squashed = np.tanh(mean[..., None] + np.exp(log_std)[..., None] * grid)
            middle = squashed @ weights
            stds.append(np.sqrt(np.maximum(((squashed - middle[..., None]) ** 2) @ weights, 0)) * values["action_scale"])
    mean = np.mean(actions, axis=0)
    own = np.mean(np.square(stds), axis=0) if stds else 0
    std = np.sqrt(own + np.var(actions, axis=0)) if stds or (members > 1 and head == "deterministic") else None
    return mean, std, raw, values


def loss_by_hand(head, raw, targets, values):
    if head == "deterministic":
        scale = np.where(values["action_scale"] == 0, 1, values["action_scale"])
        return np.mean((raw - (targets - values["action_centre"]) / scale) ** 2)
    if head == "categorical":
        shifted = raw - raw.max(axis=1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return -np.mean(logs[np.arange(len(logs)), targets.astype(int)])
    mean, log_std = raw
    place = np.clip((targets - values["action_centre"]) / values["action_scale"], -1 + 1e-6, 1 - 1e-6)
    x = np.arctanh(place)
    density = -0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(x) ** 2)
    return -np.mean(density.sum(axis=1))


# ---- learning and comparing

def pipeline(name, source, stages):
    path = ROOT / f"{name}.yaml"
    path.write_text(json.dumps({"trajmill": 1, "source": source if isinstance(source, dict) else str(source), "stages": stages}))
    return path


def learn(name, source, options, threads=2, **environment):
    out = ROOT / "models" / name / "idm.onnx"
    shutil.rmtree(out.parent, ignore_errors=True)
    done = trajmill("run", pipeline(name, source, [{"train_idm": {"out": str(out), **options}}]), "--threads", threads, "--json", **environment)
    return out, json.loads((out.parent / "idm.report.json").read_text()), done


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def compare(name, source, trajectories, options, floor):
    head = options.get("head", "categorical" if "classes" in options else "deterministic")
    members, window = options.get("members", 1), {"past": 1, "future": 1, "edge": "repeat", **options.get("window", {})}
    out, report, _ = learn(name, source, options)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    check(report["model_blake3"] == blake3.blake3(out.read_bytes()).hexdigest(), f"{name}: the report is of another model")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    check([port.name for port in session.get_inputs()] == ["observation"], f"{name}: inputs")
    names = [port.name for port in session.get_outputs()]
    check(names == (["action", "std"] if head == "gaussian" or (members > 1 and head == "deterministic") else ["action"]), f"{name}: {names}")

    def run(inputs):
        return dict(zip(names, session.run(None, {"observation": inputs})))

    # The trainer's own predictions.
    probe = report["held_out"]["probe"]
    given = run(np.array(probe["observation"], np.float32))
    check(len(probe["action"]) == 16, f"{name}: probes")
    for output in names:
        gap = np.max(np.abs(given[output] - np.array(probe[output])))
        check(gap <= 1e-5, f"{name}: onnxruntime's {output} is {gap} off the trainer's")

    # The same by hand, on everything that is held out.
    validation, training = held_out(trajectories, options.get("validation", 0.1), options.get("seed", 0))
    inputs, targets = windows(trajectories, validation, **window)
    learnt_inputs, learnt_targets = windows(trajectories, training, **window)
    check((len(inputs), len(learnt_inputs)) == (report["held_out"]["steps"], report["data"]["training_steps"]), f"{name}: steps")
    mean, std, raw, values = by_hand(model, inputs, head, members)
    given = run(inputs)
    check(np.max(np.abs(given["action"] - mean)) < 1e-4, f"{name}: actions by hand")
    if std is not None:
        check(np.max(np.abs(given["std"] - std)) < 2e-3 * max(1, np.max(std)), f"{name}: stds by hand {np.max(np.abs(given['std'] - std))}")

    # The inputs are scaled by what is learnt from.
    width = inputs.shape[1] // (window["past"] + 1 + window["future"])
    now = learnt_inputs[:, window["past"] * width : (window["past"] + 1) * width].astype(np.float64)
    factor = np.where(now.std(axis=0) <= 1e-7 * np.abs(now.mean(axis=0)), 0, 1 / (now.std(axis=0) + 1e-6))
    times = window["past"] + 1 + window["future"]
    check(np.allclose(values["input_mean"], np.tile(now.mean(axis=0), times), rtol=1e-5, atol=1e-6), f"{name}: means")
    check(np.allclose(values["input_factor"], np.tile(factor, times), rtol=1e-4), f"{name}: factors")

    # The best checkpoint is the one in the file: its loss, computed here, is the lowest that was seen.
    for member, curve in enumerate(report["curves"]):
        looks = [look["validation"] for look in curve["looks"]]
        check(curve["best"]["validation"] == min(looks), f"{name}: best of {looks}")
        loss = loss_by_hand(head, raw[member], targets, values)
        check(abs(loss - min(looks)) < 1e-4 * max(1, abs(loss)), f"{name}: the loss of the file is {loss}, the best was {min(looks)}")

    # The report's errors.
    if head == "categorical":
        classes = report["held_out"]["classes"]
        check(abs(classes["accuracy"] - np.mean(np.argmax(given["action"], axis=1) == targets)) < 1e-9, f"{name}: accuracy")
        most = np.bincount(learnt_targets.astype(int)).argmax()
        check(abs(classes["accuracy_of_most_frequent"] - np.mean(targets == most)) < 1e-9, f"{name}: most frequent")
        check(classes["accuracy"] > floor, f"{name}: {classes['accuracy']}")
    else:
        for dimension, own in enumerate(report["held_out"]["dimensions"]):
            error = given["action"][:, dimension] - targets[:, dimension]
            of_mean = np.mean((targets[:, dimension] - learnt_targets[:, dimension].mean()) ** 2)
            found = [own["mse"], own["mae"], own["mse_of_mean"], own["r2"]]
            wanted = [np.mean(error**2), np.mean(np.abs(error)), of_mean, 1 - np.mean(error**2) / of_mean]
            check(np.allclose(found, wanted, rtol=1e-4, atol=1e-7), f"{name}: {found} is not {wanted}")
            check(own["r2"] > floor, f"{name}: dimension {dimension} has R² {own['r2']}")
            for level in own.get("calibration", []):
                reach = {0.1: 0.125661, 0.5: 0.67449, 0.9: 1.644854}.get(level["expected"])
                if reach:
                    within = np.mean(np.abs(error) <= reach * given["std"][:, dimension])
                    check(abs(level["observed"] - within) <= 2 / len(error), f"{name}: calibration {level} is not {within}")
    pictures = {path.name for path in out.parent.glob("*.svg")}
    wanted = {"idm.loss.svg"} | ({"idm.scatter.svg"} if head != "categorical" else set()) | ({"idm.calibration.svg"} if "std" in names else set())
    check(pictures == wanted, f"{name}: {pictures}")
    for picture in pictures:
        tree = xml.etree.ElementTree.fromstring((out.parent / picture).read_text())
        check(tree.tag.endswith("svg") and len(list(tree.iter())) > 30, f"{name}: {picture} shows nothing")
    # More than the last checkpoint would do.
    return any(curve["looks"][-1]["validation"] > curve["best"]["validation"] for curve in report["curves"])


def heads(hopper, trajectories):
    rest = {"hidden": [64, 48], "batch": 128, "validation": 0.2, "seed": 3}
    small = {**rest, "steps": 1500}
    stopped = [
        compare("deterministic", hopper, trajectories, {**small, "dropout": 0.1, "steps": 3000, "lr": 0.01, "patience": 6}, 0.3),
        compare("gaussian", hopper, trajectories, {**small, "head": "gaussian", "members": 2, "bootstrap": True, "activation": "tanh"}, 0.3),
        compare("ensemble", hopper, trajectories, {**rest, "members": 3, "activation": "elu", "clip": [-1, 1], "epochs": 8}, 0.2),
    ]
    check(any(stopped), "no member went on past its best checkpoint, so that it was kept shows nothing")


def others():
    lengths = list(RNG.integers(1, 40, 30))
    box = lambda steps: np.stack([2 + 3 * np.tanh(steps[:, 0]), -50 * np.tanh(steps[:, 1] - steps[:, 2])], axis=1)
    wide = made("wide", lengths, 3, box, set(range(0, 30, 2)), dtype=np.float64)
    small = {"hidden": [48], "steps": 1500, "batch": 64, "seed": 11, "validation": 0.25, "lr": 3e-3}
    compare("boxes", *wide, {**small, "head": "gaussian", "clip": [[-1, -50], [5, 50]], "window": {"past": 0, "future": 1, "edge": "skip"}}, 0.5)
    compare("zero", *wide, {**small, "window": {"past": 2, "future": 1, "edge": "zero"}}, 0.5)
    sort = lambda steps: np.digitize(steps[:, 0], [-0.2, 0.2])
    discrete = made("discrete", lengths, 2, sort, set(range(25)), discrete=np.int64)
    compare("classes", *discrete, {**small, "classes": 3, "members": 2, "weight_decay": 1e-4, "decoupled": True}, 0.8)


def threads(hopper):
    for name, options in {
        "once": {"head": "gaussian", "members": 2, "bootstrap": True, "hidden": [300, 130], "steps": 40, "batch": 500, "dropout": 0.2},
        "streamed": {"hidden": [64], "steps": 200, "buffer": 1000},
    }.items():
        one = files(learn(name, hopper, options, threads=1)[0].parent)
        for count, rayon in [(2, None), (1, "1"), (2, "3"), (5, "1")]:
            more = {} if rayon is None else {"RAYON_NUM_THREADS": rayon}
            check(files(learn(name, hopper, options, threads=count, **more)[0].parent) == one, f"{name}: other bytes at {count} threads, {rayon}")
        check(files(learn(name, hopper, {**options, "seed": 1})[0].parent)["idm.onnx"] != one["idm.onnx"], f"{name}: the seed does nothing")


def in_a_pipeline(hopper):
    """Split, learn, label with no further options, in one file; then again, changed, and killed."""
    out, model = ROOT / "relabelled", ROOT / "inside" / "idm.onnx"
    training = {"out": str(model), "window": {"past": 2, "future": 1, "edge": "zero"}, "head": "gaussian", "hidden": [64, 64], "steps": 600, "seed": 2}

    def stages(**more):
        return [{"hide_actions": {"keep": 0.3, "seed": 4, "as": "true_action"}}, {"train_idm": {**training, **more}}, {"label": {"model": str(model)}},
                {"check": ["count(*) filter (where action is null and not is_final) = 0"]}, {"materialise": {"path": str(out), "overwrite": True}}]

    path = pipeline("inside", hopper, stages())
    for command in ("check", "plan"):
        trajmill(command, path)
        check(not model.exists() and not out.exists(), f"{command} wrote something")
    done = json.loads(trajmill("run", path, "--json").stdout)
    check(done["models"][0]["reused"] is False and "held-out" in done["models"][0]["summary"], done["models"])
    check(sorted(entry.name for entry in ROOT.iterdir() if entry.name.startswith(".")) == [], "staging is left")

    # Labels are those of the file, windows and bounds those of its metadata.
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    check((metadata["trajmill.past"], metadata["trajmill.future"], metadata["trajmill.edge"], metadata["trajmill.clip"]) == ("2", "1", "zero", "-1.0,1.0"), metadata)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    table = pa.concat_tables(pq.read_table(file) for file in sorted((out / "steps").glob("*.parquet"))).to_pylist()
    known, labels = {}, 0
    for row in table:
        known.setdefault(row["trajectory_id"], []).append(row)
    for rows in known.values():
        observation = np.array([row["observation"] for row in rows], np.float32)
        proxies = [row for row in rows if row["action_source"] == "proxy"]
        check(len(proxies) in (0, sum(not row["is_final"] for row in rows)), "a trajectory is labelled in part")
        if not proxies:
            continue
        padded = np.concatenate([np.zeros_like(observation[:2]), observation, np.zeros_like(observation[:2])])
        inputs = np.stack([padded[row["step"] : row["step"] + 4].ravel() for row in proxies])
        action, std = session.run(["action", "std"], {"observation": inputs})
        check(np.allclose([row["action"] for row in proxies], np.clip(action, -1, 1), atol=1e-5), "labels are not the model's")
        check(np.allclose([row["action_std"] for row in proxies], std, atol=1e-5), "stds are not the model's")
        labels += len(proxies)
    check(labels > 1000, labels)
    # On actions that nobody showed to it, it is better than their mean.
    hidden = [row for row in table if row["action_source"] == "proxy"]
    truth = np.array([row["true_action"] for row in hidden])
    check(np.mean((np.array([row["action"] for row in hidden]) - truth) ** 2) < 0.5 * np.mean((truth - truth.mean(axis=0)) ** 2), "labels are worse than a mean")

    # Again: nothing to do. With another result behind it: the model is found again.
    before = files(model.parent)
    check(json.loads(trajmill("run", path, "--json").stdout)["reused"] is True, "not reused")
    shutil.rmtree(out)
    again = trajmill("run", path, "--json")
    check(json.loads(again.stdout)["models"][0]["reused"] is True and "nothing to learn" in again.stderr, again.stderr)
    check(files(model.parent) == before, "a model that was reused has changed")
    trajmill("run", path, "--fresh")
    check(files(model.parent) == before, "learnt again, it is another")

    # Changed: refused with the reason, replaced where that is wanted.
    changed = trajmill("run", pipeline("inside", hopper, stages(seed=9)), code=1)
    check("was learnt otherwise" in changed.stderr and "train_idm" in changed.stderr and files(model.parent) == before, changed.stderr)
    planned = trajmill("plan", pipeline("inside", hopper, stages(seed=9)))
    check("in the way" in planned.stdout, planned.stdout)
    trajmill("run", pipeline("inside", hopper, stages(seed=9, overwrite=True)))
    check(files(model.parent)["idm.onnx"] != before["idm.onnx"], "not replaced")
    model.write_bytes(b"something else")
    check("was not learnt by" in trajmill("run", pipeline("inside", hopper, stages(seed=8, overwrite=True)), code=1).stderr, "a foreign file")

    # Killed and interrupted while it learns: nothing is there; run again, it is as if nothing had been.
    pipeline("inside", hopper, stages())
    for end in (signal.SIGKILL, signal.SIGTERM):
        shutil.rmtree(model.parent)
        shutil.rmtree(out)
        process = subprocess.Popen([BINARY, "run", str(path)], cwd=ROOT, stderr=subprocess.DEVNULL)
        while not list((ROOT / ".relabelled.staging").glob("*/dataset/dataset.json")):
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(end)
        code = process.wait()
        check(code == (130 if end == signal.SIGTERM else -9), f"{end}: exit {code}")
        check(not model.parent.exists() and not out.exists(), "a killed run left something")
        trajmill("run", path)
        check(files(model.parent) == before, "after a kill it is another")


def foreign():
    """A source of another format is imported before anything is learnt from it: the same model as from an imported dataset."""
    act = lambda steps: np.tanh(steps[:, :2])
    imported, _ = made("brought", [20] * 12, 3, act, set(range(6)))
    options = {"head": "gaussian", "hidden": [16], "steps": 120, "seed": 3}
    stages = {
        "alone": [],
        "behind": [{"filter": "length > 1"}],
        "labelled": [{"filter": "length > 1"}],
    }
    for name, before in stages.items():
        found = []
        for kind, source in {"imported": imported, "parquet": {"path": str(ROOT / "brought.parquet"), "format": "parquet"}}.items():
            folder = ROOT / "foreign" / name / kind
            model, result = folder / "idm.onnx", folder / "result"
            after = [{"label": {"model": str(model)}}, {"materialise": {"path": str(result)}}] if name == "labelled" else []
            path = pipeline(f"foreign_{name}_{kind}", source, [*before, {"train_idm": {"out": str(model), **options}}, *after])
            trajmill("check", path)
            done = json.loads(trajmill("run", path, "--json").stdout)
            check(done["models"][0]["reused"] is False, done)
            entries = sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".svg")
            check(entries == ["idm.onnx", "idm.report.json"] + ["result"] * bool(after), f"{name}, {kind}: {entries}")
            weights = {one.name: numpy_helper.to_array(one).tobytes() for one in onnx.load(model).graph.initializer}
            rows = pa.concat_tables(pq.read_table(file) for file in sorted((result / "steps").glob("*.parquet"))).to_pylist() if after else []
            check(all(row["action"] is not None or row["is_final"] for row in rows), f"{name}, {kind}: not all is labelled")
            check(json.loads(trajmill("run", path, "--json").stdout)["reused"] is True, f"{name}, {kind}: learnt again")
            found.append((weights, rows))
        check(found[0] == found[1], f"{name}: another model from a source that the run imports")


def memory(hopper):
    """What is learnt from is streamed: four times as much of it takes no more memory."""
    peaks = []
    for times in (4, 16):
        grown = ROOT / f"grown-{times}"
        copies = {"subsample": {"fraction": times, "replacement": True, "seed": 1}}
        trajmill("run", pipeline("grown", hopper, [copies, {"materialise": {"path": str(grown), "shard_rows": 20000}}]))
        options = {"out": str(ROOT / f"memory-{times}" / "idm.onnx"), "hidden": [16], "steps": 300, "buffer": 2000, "statistics": "selection"}
        path = pipeline("streamed", grown, [{"train_idm": options}])
        process = subprocess.Popen([BINARY, "run", str(path), "--threads", "1"], cwd=ROOT, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        check(status == 0, f"memory: exit {status}")
        peaks.append(usage.ru_maxrss / 1024)
    # All windows of the larger one would be 80 MB.
    check(peaks[1] < peaks[0] + 25, f"peaks of {peaks} MB")


def self_training(hopper):
    options = {"head": "gaussian", "hidden": [48], "steps": 400, "self_training": {"rounds": 2, "keep": 0.3}, "seed": 6}
    out = ROOT / "own" / "idm.onnx"
    stages = [{"hide_actions": {"keep": 0.15, "seed": 1}}, {"train_idm": {"out": str(out), **options}}]
    trajmill("run", pipeline("own", hopper, stages))
    report = json.loads((out.parent / "idm.report.json").read_text())
    rounds = report["rounds"]
    check(len(rounds) == 3 and rounds[0]["steps"] < rounds[1]["steps"] == rounds[2]["steps"], rounds)
    check(report["chosen_round"] == int(np.argmin([one["validation"] for one in rounds])), "not the best round")
    check(all(one["error"] > 0 for one in rounds) and rounds[1]["uncertainty_limit"] > 0, rounds)


def failures(hopper):
    lengths = [12] * 12
    act = lambda steps: np.tanh(steps[:, :2])

    def spoiled(kind):
        def spoil(index, observation, action):
            if kind == "constant":
                observation[:] = 4.25
            if kind == "nan" and index == 5:
                observation[7, 1] = np.nan
            if kind == "outside" and index == 5:
                action[3, 1] = 1.5
        return spoil

    everyone = set(range(12))
    gaussian = {"head": "gaussian"}
    cases = [
        ("none", (everyone, None), {}, ["no recorded action in the selection"]),
        ("few", ({3}, None), {}, ["1 trajectory has recorded actions", "validation share of 0.1"]),
        ("constant", (everyone, spoiled("constant")), {}, ["observations are constant"]),
        ("nan", (everyone, spoiled("nan")), {}, ["trajectory 5, step 7", "`observation` is not finite in dimension 1"]),
        ("outside", (everyone, spoiled("outside")), gaussian, ["trajectory 5, step 3", "the action 1.5 in dimension 1 is outside the box from -1 to 1", "clip"]),
        ("diverges", (everyone, None), {**gaussian, "lr": 1e5}, ["the loss diverged", "`lr`"]),
        ("window", (everyone, None), {"window": {"past": 9, "future": 9, "edge": "skip"}}, ["whole window"]),
    ]
    for name, (labelled, spoil), options, texts in cases:
        source, _ = made(f"bad_{name}", lengths, 3, act, labelled, spoil=spoil)
        out = ROOT / "failed" / name / "idm.onnx"
        result = ROOT / "failed" / f"{name}-result"
        before = [{"hide_actions": {"keep": 0}}] if name == "none" else []
        stages = [*before, {"train_idm": {"out": str(out), "steps": 50, "hidden": [8], **options}}, {"label": {"model": str(out)}}, {"materialise": {"path": str(result)}}]
        stderr = trajmill("run", pipeline(f"bad_{name}", source, stages), code=1).stderr
        for text in texts:
            check(text in stderr, f"{name}: {text!r} is not in\n{stderr}")
        check(stderr.count("error:") == 1 and not out.parent.exists() and not result.exists(), f"{name}: wrote something, or said more than one thing\n{stderr}")
    classes = lambda steps: np.digitize(steps[:, 0], [-0.2, 0.2])
    source, _ = made("bad_class", lengths, 2, classes, everyone, discrete=np.int32)
    stderr = trajmill("run", pipeline("bad_class", source, [{"train_idm": {"out": "bad/idm.onnx", "classes": 2}}]), code=1).stderr
    check("none of the 2 classes" in stderr, stderr)
    check(not list((ROOT / "bad").rglob("*")), f"a model that was not learnt left {list((ROOT / 'bad').rglob('*'))}")
    # A device that this build cannot learn on: said before anything is read.
    path = pipeline("bad_device", hopper, [{"train_idm": {"out": "bad/idm.onnx"}}])
    stderr = trajmill("run", path, "--device", "cuda", code=1).stderr
    check("cannot learn on cuda:0" in stderr and "--features cuda" in stderr and not list((ROOT / "bad").rglob("*")), stderr)


def main():
    hopper = REPOSITORY / "data" / "hopper"
    trajectories = read(hopper)
    heads(hopper, trajectories)
    others()
    threads(hopper)
    in_a_pipeline(hopper)
    foreign()
    memory(hopper)
    self_training(hopper)
    failures(hopper)
    shutil.rmtree(ROOT)
    print(f"{CHECKS} checks passed")


if __name__ == "__main__":
    main()
