"""Stages for what the literature does to trajectories, against numpy and onnxruntime.

    python tests/python/test_stages.py TRAJMILL_BINARY

Random datasets go in as plain Parquet, models are written here, and every value that `trajmill run` computes is compared
with one that is computed trajectory by trajectory, step by step. Seeded draws are computed anew from the hash that they
are said to be. TRAJMILL_RUNTIME, where set, reaches the binary.
"""

import hashlib
import json

import blake3
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from oracle import ROOT, check, close, equal, finish, predict, run, trajmill

D, A = 4, 2
RNG = np.random.default_rng(17)

def dataset(name, lengths, kind=np.float32):
    """Trajectories with and without final rows; `x` has nulls, NaN, infinities and ties; some rewards are not recorded."""
    rows = {key: [] for key in ("trajectory_id", "step", "observation", "action", "reward", "x", "task", "terminated", "truncated", "is_final")}
    for index, n in enumerate(lengths):
        final = index % 3 != 2
        for t in range(n + final):
            last = t == n
            odd = RNG.random()
            x = None if odd < 0.1 else np.nan if odd < 0.15 else np.inf if odd < 0.18 else float(RNG.integers(-3, 4))
            values = {
                "trajectory_id": index, "step": t, "observation": RNG.normal(loc=5 * (index - 3), size=D).astype(kind), "is_final": last,
                "action": None if last else RNG.uniform(-1, 1, A).astype(kind), "reward": None if last or RNG.random() < 0.1 else float(RNG.normal()),
                "x": None if last else x, "task": ["a", "b", "c"][index % 7 % 3], "terminated": t == n - 1 and index % 2 == 0, "truncated": False,
            }
            for key, value in values.items():
                rows[key].append(value)
    value = pa.from_numpy_dtype(kind)
    types = {"trajectory_id": pa.int64(), "step": pa.int32(), "observation": pa.list_(value), "action": pa.list_(value), "reward": pa.float64(),
             "x": pa.float64(), "task": pa.string()}
    # `from_pandas` would make NaN null.
    arrays = {key: pa.array(column, types.get(key, pa.bool_()), from_pandas=False) for key, column in rows.items()}
    pq.write_table(pa.table(arrays), ROOT / f"{name}.parquet")
    trajmill("import", ROOT / f"{name}.parquet", ROOT / name, "--from", "parquet")
    return run(f"{name}-in-shards", [], ROOT / name, shard_rows=40)

# ---- models

def model(name, inputs, outputs, seed):
    """A small network from all inputs to each output; outputs of shape [batch, n]."""
    rng = np.random.default_rng(seed)
    width = sum(size for _, size in inputs)
    constants = [("w", rng.normal(size=(width, 8)) / 2)] + [(f"w_{head}", rng.normal(size=(8, size)) / 2) for head, size in outputs]
    nodes = [helper.make_node("Concat", [port for port, _ in inputs], ["all"], axis=1), helper.make_node("MatMul", ["all", "w"], ["h"]),
             helper.make_node("Tanh", ["h"], ["t"])]
    nodes += [helper.make_node("MatMul", ["t", f"w_{head}"], [head]) for head, _ in outputs]
    return save(name, nodes, inputs, outputs, constants)

def save(name, nodes, inputs, outputs, constants=()):
    info = lambda port, size: helper.make_tensor_value_info(port, TensorProto.FLOAT, ["batch", size])
    initializers = [numpy_helper.from_array(np.asarray(value, np.float32), key) for key, value in constants]
    graph = helper.make_graph(nodes, name, [info(*port) for port in inputs], [info(*port) for port in outputs], initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    path = ROOT / f"{name}.onnx"
    onnx.save(proto, path)
    return str(path)

def around(values, t, past, future, edge):
    """The rows around `t`, flattened; None where one is missing or unknown and nothing stands for it."""
    slots = []
    for s in range(t - past, t + future + 1):
        if 0 <= s < len(values):
            slots.append(np.atleast_1d(values[s]))
        elif edge == "skip":
            return None
        else:
            slots.append(np.zeros_like(np.atleast_1d(values[0])) if edge == "zero" else np.atleast_1d(values[min(max(s, 0), len(values) - 1)]))
    slots = np.concatenate(slots).astype(np.float32)
    return None if np.isnan(slots).any() else slots

# ---- score

def score(data):
    s, a = ("s", 3 * D), ("a", A)
    members = [model(f"member-{seed}", [s, a], [("value", 1), ("vector", 3)], seed) for seed in range(3)]
    for edge in ("skip", "repeat", "zero"):
        options = {"model": members, "edge": edge, "batch": 8,
                   "inputs": {"s": {"of": "observation", "past": 1, "future": 1}, "a": "action"},
                   "outputs": {"mean": "value", "std": {"output": "value", "reduce": "std"}, "low": {"output": "vector", "reduce": "min"},
                               "high": {"output": "vector", "reduce": "max"}, "each": {"output": "value", "reduce": "all"}}}
        made = run(f"score-{edge}", [{"score": options}], data.path)
        counted = 0
        for before, after in zip(data, made):
            for t in range(len(before["step"])):
                feeds = [around(before["observation"], t, 1, 1, edge), around(before["action"], t, 0, 0, edge)]
                what = f"score {edge}: trajectory {before['id']} row {t}"
                if any(feed is None for feed in feeds):
                    check(np.isnan(after["mean"][t]) and np.isnan(after["low"][t]).all(), f"{what}: there is no score")
                    counted += t < before["n"]
                    continue
                each = [predict(member, {"s": feeds[0][None], "a": feeds[1][None]}) for member in members]
                value = np.array([own["value"][0, 0] for own in each], np.float64)
                vector = np.array([own["vector"][0] for own in each], np.float64)
                for name, wanted in [("mean", value.mean()), ("std", value.std()), ("each", value), ("low", vector.min(0)), ("high", vector.max(0))]:
                    close(after[name][t], wanted, f"{what}: {name}", atol=2e-5)
        counts = [entry["counts"] for entry in made.manifest["lineage"]["stages"] if entry["stage"] == "score"]
        equal(counts[0].get("left null, an input is not known", 0), counted, f"score {edge}: what is left null is counted")

    # A value of observations is known at the last one too; a new reward makes a new return.
    path = model("alone", [("x", D)], [("value", 1)], 7)
    made = run("score-final", [{"score": {"model": path, "outputs": {"reward": "value"}}}, {"filter": "return > -1e9"}], data.path)
    for before, after in zip(data, made):
        wanted = predict(path, {"x": before["observation"].astype(np.float32)})["value"][:, 0]
        close(after["reward"], wanted, "score: rewards", atol=2e-5)
        close(after["of"]["return"], wanted.astype(np.float64).sum(), "score: returns", atol=1e-3)

    node = [helper.make_node("Log", ["x"], ["y"])]
    path = save("log", node, [("x", 1)], [("y", 1)])
    options = {"model": path, "inputs": {"x": "observation[1]"}}
    done = run("score-error", [{"score": options}], data.path, code=1)
    check("is not finite" in done.stderr and "trajectory" in done.stderr, f"score: {done.stderr}")
    first = np.concatenate([own["observation"][:, 0] for own in data])
    with np.errstate(all="ignore"):
        wanted = np.log(first.astype(np.float32))
    made = run("score-null", [{"score": {**options, "non_finite": None}}], data.path)
    close(made.steps["y"], np.where(np.isfinite(wanted), wanted, np.nan), "score: null where it is not finite", atol=1e-5)
    check((first < 0).sum() > 3, "score: some are not finite")

def bytes_into_a_model():
    """A model of uint8, such as one of images: what goes in is what the column has, windows and padding included."""
    lengths, width = [1, 6, 3], 12
    pixels = RNG.integers(0, 256, (sum(lengths), width), dtype=np.uint8)
    table = {"trajectory_id": np.repeat(np.arange(3), lengths), "step": np.concatenate([np.arange(n) for n in lengths]), "observation": RNG.normal(size=sum(lengths))}
    pq.write_table(pa.table({**table, "pixels": pa.array(list(pixels), pa.list_(pa.uint8()))}), ROOT / "pixels.parquet")
    trajmill("import", ROOT / "pixels.parquet", ROOT / "pixels", "--from", "parquet", "--map", "observation=observation")
    info = lambda port, kind, *shape: helper.make_tensor_value_info(port, kind, ["batch", *shape])
    nodes = [helper.make_node("Identity", ["image"], ["same"]), helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
             helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0)]
    graph = helper.make_graph(nodes, "pixels", [info("image", TensorProto.UINT8, 2, width)], [info("mean", TensorProto.FLOAT), info("same", TensorProto.UINT8, 2, width)])
    path = str(ROOT / "pixels.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    options = {"model": path, "edge": "repeat", "batch": 4, "inputs": {"image": {"of": "pixels", "past": 1}}, "outputs": {"mean": "mean", "same": "same"}}
    made = run("score-bytes", [{"score": options}], ROOT / "pixels")
    before = np.concatenate([own[np.maximum(np.arange(len(own)) - 1, 0)] for own in np.split(pixels, np.cumsum(lengths)[:-1])])
    wanted = np.stack([before, pixels], 1)
    equal(made.steps["same"], wanted.reshape(len(pixels), -1), "bytes in, bytes out")
    close(made.steps["mean"], predict(path, {"image": wanted})["mean"], "a model of bytes", atol=1e-4)
    check({column["name"]: column["type"] for column in made.manifest["columns"]}["same"].count("UInt8") == 1, "bytes stay bytes")
    done = run("score-bytes-of", [{"score": {**options, "inputs": {"image": {"of": "observation", "past": 23}}}}], ROOT / "pixels", code=3)
    check("image: uint8" in done.stderr, f"floats are no bytes: {done.stderr}")

# ---- truncate

def truncate(data):
    for keep in (False, True):
        made = run(f"truncate-{keep}", [{"truncate": {"where": "reward > 1", "keep": keep}}], data.path).by_id()
        for before in data:
            n, reward = before["n"], before["reward"]
            bad = [t for t in range(n) if reward[t] > 1]
            what = f"truncate: trajectory {before['id']}"
            if not bad:
                close(made[before["id"]]["observation"], before["observation"], what)
                continue
            m = bad[0] + keep
            if m == 0:
                check(before["id"] not in made, f"{what} has no step left")
                continue
            after = made[before["id"]]
            rows = min(m + 1, len(reward))
            close(after["observation"], before["observation"][:rows], f"{what}: observations")
            equal(after["is_final"], [t == m for t in range(rows)], f"{what}: the last observation is final")
            close(after["reward"], np.where(np.arange(rows) < m, before["reward"][:rows], np.nan), f"{what}: rewards")
            close(after["action"], np.where(np.arange(rows)[:, None] < m, before["action"][:rows], np.nan), f"{what}: actions")
            equal(after["truncated"][:m], [t == m - 1 and not before["terminated"][m - 1] for t in range(m)], f"{what}: truncated")
            close(after["of"]["return"], np.nan if np.isnan(before["reward"][:m]).all() else np.nansum(before["reward"][:m]), f"{what}: return")
            equal(after["of"]["length"], m, f"{what}: length")

# ---- quantiles

def threshold(values, share):
    values = values[~np.isnan(values)]
    if np.ceil(share * len(values) - 1e-9) == 0:
        return -np.inf
    return np.quantile(values, share, method="inverted_cdf")

def quantiles(data):
    returns = np.array([own["of"]["return"] for own in data])
    tasks = np.array([own["task"][0] for own in data])
    ids = np.array([own["id"] for own in data])
    by_task = {"summarise": {"task": "max(task)"}}
    for share in (0.0, 0.25, 0.5, 0.9, 1.0):
        made = run("quantile", [{"filter": {"quantile": {"by": "return", "above": share}}}], data.path)
        equal([own["id"] for own in made], ids[returns > threshold(returns, share)], f"quantile: returns above {share}")
        made = run("quantile", [{"filter": {"quantile": {"by": "return", "below": share, "unknown": "keep"}}}], data.path)
        equal([own["id"] for own in made], ids[~(returns > threshold(returns, share))], f"quantile: returns below {share}")
        made = run("quantile", [by_task, {"filter": {"quantile": {"by": "return", "above": share, "group": "task"}}}], data.path)
        kept = [returns[i] > threshold(returns[tasks == tasks[i]], share) for i in range(len(ids))]
        equal([own["id"] for own in made], ids[kept], f"quantile: returns above {share} of their task")
    everything = np.concatenate([own["x"][: own["n"]] for own in data])
    for share, unknown, group in [(0.3, "drop", None), (0.8, "keep", None), (0.5, "drop", "task"), (0.5, "keep", "trajectory_id")]:
        options = {"by": "x", "of": "steps", "above": share, "unknown": unknown, **({"group": group} if group else {})}
        made = run("quantile-steps", [by_task, {"filter": {"quantile": options}}], data.path)
        wanted = []
        for own in data:
            ranked = everything
            if group == "task":
                ranked = np.concatenate([other["x"][: other["n"]] for other in data if other["task"][0] == own["task"][0]])
            elif group:
                ranked = own["x"][: own["n"]]
            x = own["x"][: own["n"]]
            kept = np.where(np.isnan(x), unknown == "keep", x > threshold(ranked, share))
            # Runs of kept steps, each with its parent and first step; the final row goes with the last step.
            t = 0
            while t < own["n"]:
                if not kept[t]:
                    t += 1
                    continue
                end = t
                while end < own["n"] and kept[end]:
                    end += 1
                rows = end if end < own["n"] else len(own["step"])
                wanted.append((own["id"], t, own["observation"][t:rows]))
                t = end
        found = sorted((int(own["of"]["parent_id"]), int(own["of"]["parent_step"]), own["observation"]) for own in made)
        equal(len(found), len(wanted), f"quantile of steps {options}: pieces")
        for (parent, step, observation), one in zip(wanted, found):
            equal(one[:2], (parent, step), f"quantile of steps {options}")
            close(one[2], observation, f"quantile of steps {options}: observations")
        check(not any(name.startswith("__") for name in made.trajectories), f"no column between halves is left: {list(made.trajectories)}")
        for flow in made.manifest["lineage"]["stages"]:
            equal(flow["rows_out"], flow["rows_in"] - sum(flow["dropped_rows"].values()) + flow["added_rows"], "quantile of steps: rows are accounted for")
    facts = run("quantile-facts", [{"filter": {"quantile": {"by": "x", "of": "steps", "above": 0.3}}}], data.path).facts("filter")
    close(facts[0]["quantiles"]["above"], threshold(everything, 0.3), "quantile: the threshold is kept")

# ---- normalise

def normalise(data):
    rows = np.concatenate([own["observation"] for own in data])
    mean, std = rows.mean(0), rows.std(0)
    made = run("normalise", [{"normalise": {"columns": ["observation"]}}, {"filter": "length > 3"}], data.path)
    kept = np.concatenate([own["observation"] for own in data if own["n"] > 3])
    close(made.steps["observation"], (kept - mean) / (std + 1e-6), "normalise: by the selection as it stands, not as it becomes", atol=2e-5)
    facts = made.facts("normalise")[0]["statistics"]["observation"]
    close(facts["mean"], mean, "normalise: the mean is kept")
    close(facts["std"], std, "normalise: the std is kept")
    again = run("normalise-file", [{"normalise": {"columns": {"observation": "scaled"}, "by": str(made.path), "eps": 0.5}}], data.path)
    close(again.steps["scaled"], (rows - mean) / (std + 0.5), "normalise: by what another dataset was normalised by", atol=2e-5)
    close(again.steps["observation"], rows, "normalise: under another name the column stays")
    (ROOT / "statistics.json").write_text(json.dumps({"reward": {"mean": [2], "std": [4]}}))
    reward = np.concatenate([own["reward"] for own in data])
    again = run("normalise-json", [{"normalise": {"columns": ["reward"], "by": str(ROOT / "statistics.json"), "eps": 0}}], data.path)
    close(again.steps["reward"], (reward - 2) / 4, "normalise: by a file")
    filtered = run("normalise-after", [{"filter": "length > 3"}, {"normalise": {"columns": ["observation"]}}], data.path)
    close(filtered.steps["observation"], (kept - kept.mean(0)) / (kept.std(0) + 1e-6), "normalise: after a filter", atol=2e-5)
    # What was recorded: half of the trajectories keep their actions.
    stages = [{"hide_actions": {"keep": 0.5, "seed": 3}}, {"normalise": {"columns": {"observation": "o", "action": "a", "reward": "r"}, "by": "recorded"}}]
    made = run("normalise-recorded", stages, data.path)
    recorded = ~np.isnan(made.steps["action"]).any(1)
    check(0 < recorded.sum() < len(recorded), "normalise: some actions are hidden")
    for name, result in [("observation", "o"), ("action", "a"), ("reward", "r")]:
        column = made.steps[name]
        own = column[recorded]
        close(made.steps[result], (column - np.nanmean(own, 0)) / (np.nanstd(own, 0) + 1e-6), f"normalise: {name} by what was recorded", atol=2e-5)

# ---- derive

def derive(data):
    expressions = {
        "to_go": "returns_to_go(reward, [1, 0.9, 0])", "second": "returns_to_go(reward, [1, 0.9, 0])[2]", "decayed": "prefix_sum(reward, 0.9)",
        "product": "prefix_product(reward)", "low": "prefix_min(reward)", "high": "suffix_max(reward)", "later": "suffix_product(reward)",
        "least": "suffix_min(reward)", "most": "prefix_max(reward)", "stock": "stock(reward, 0.9, 2)", "atoms": "categorical(returns_to_go(reward, 0.9), -3, 3, 51)",
    }
    made = run("derive", [{"derive": expressions}], data.path)
    for own, after in zip(data, made):
        n, what = own["n"], f"derive: trajectory {own['id']}"
        r, known = np.nan_to_num(own["reward"][:n]), own["reward"][:n]
        pad = lambda values: np.concatenate([np.asarray(values, np.float64), np.full((len(own["step"]) - n, *np.shape(values)[1:]), np.nan)])
        to_go = np.array([[sum(g ** (u - t) * r[u] for u in range(t, n)) for g in (1, 0.9, 0)] for t in range(n)]).reshape(n, 3)
        close(after["to_go"], pad(to_go), f"{what}: returns to go")
        close(after["second"], pad(to_go[:, 1]), f"{what}: one of them")
        close(after["decayed"], pad([sum(0.9 ** (t - u) * r[u] for u in range(t + 1)) for t in range(n)]), f"{what}: prefix sum")
        fold = lambda of, values: np.nan if np.isnan(values).all() else of(values[~np.isnan(values)])
        for name, of, prefix in [("product", np.prod, True), ("low", np.min, True), ("most", np.max, True), ("later", np.prod, False), ("high", np.max, False), ("least", np.min, False)]:
            close(after[name], pad([fold(of, known[: t + 1] if prefix else known[t:]) for t in range(n)]), f"{what}: {name}")
        stock = [2.0]
        for t in range(len(own["step"]) - 1):
            stock.append((stock[-1] + r[t]) / 0.9)
        close(after["stock"], stock, f"{what}: stock")
        # C51's projection, atom by atom: the share of a value that an atom gets falls with its distance.
        atoms = np.linspace(-3, 3, 51)
        wanted = np.clip(1 - np.abs(np.clip(to_go[:, 1:2], -3, 3) - atoms) / (atoms[1] - atoms[0]), 0, 1)
        close(after["atoms"], pad(wanted), f"{what}: categorical")

# ---- window

def windows(data):
    for length, stride, pad, fill in [(3, 1, "none", "zero"), (4, 2, "left", "zero"), (4, 3, "right", "repeat"), (50, 1, "left", "repeat"), (1, 1, "none", "zero")]:
        what = f"window {length} {stride} {pad} {fill}"
        made = run("window", [{"window": {"length": length, "stride": stride, "pad": pad, "fill": fill, "columns": ["observation", "action", "reward", "x"]}}], data.path)
        made_flow, made = made.manifest["lineage"]["stages"], made.by_id()
        for own in data:
            n = own["n"]
            starts = [t - length + 1 if pad == "left" else t for t in range(0, n, stride)]
            starts = [start for start in starts if pad != "none" or start + length <= n]
            if not starts:
                check(own["id"] not in made, f"{what}: trajectory {own['id']} has no window")
                continue
            after = made[own["id"]]
            equal(after["step"], range(len(starts)), f"{what}: numbers")
            equal(after["start"], starts, f"{what}: starts")
            slots = np.array(starts)[:, None] + np.arange(length)
            real = (slots >= 0) & (slots < n)
            close(after["mask"], real.astype(float), f"{what}: mask")
            for name, result in [("observation", "observation"), ("action", "action"), ("reward", "rewards"), ("x", "x")]:
                values = own[name][np.clip(slots, 0, n - 1)].reshape(len(starts), length, -1).astype(np.float64)
                if fill == "zero":
                    values[~real] = 0
                values = values.reshape(len(starts), -1)
                unknown = np.isnan(own["reward" if name == "reward" else name][:n].reshape(n, -1)).any(1)
                if name == "x":
                    continue  # NaN and null are one here
                values[[(real[w] | (fill == "repeat")) .any() and unknown[np.clip(slots[w], 0, n - 1)][real[w]].any() for w in range(len(starts))]] = np.nan
                close(after[result], values, f"{what}: {name} of trajectory {own['id']}")
            equal(after["terminated"], [own["terminated"][:n][np.clip(s, 0, n - 1)][m].any() for s, m in zip(slots, real)], f"{what}: terminated")
            flow = next(entry for entry in made_flow if entry["stage"] == "window")
            equal(flow["rows_out"], flow["rows_in"] - sum(flow["dropped_rows"].values()) + flow["added_rows"], f"{what}: rows are accounted for")
            check(not after["is_final"].any() and np.isnan(after["of"]["return"]), f"{what}: windows are no final rows, and have no return")

# ---- pairs

def chance(salt, seed, number):
    hasher = blake3.blake3(salt.encode() + b"\0" + seed.to_bytes(8, "little") + int(number).to_bytes(8, "little"))
    return ((int.from_bytes(hasher.digest(8), "little") >> 12) + 0.5) / 2**52

def draw(lengths, length, count, seed):
    """Trajectory and first step of both segments of every pair."""
    segments = [(i, start) for i, n in enumerate(lengths) for start in range(n - length + 1)]
    made = []
    for pair in range(count):
        first = int(chance("pairs", seed, 2 * pair) * len(segments))
        other = int(chance("pairs", seed, 2 * pair + 1) * (len(segments) - 1))
        made.append((segments[first], segments[other + (other >= first)]))
    return made

def sigmoid(x):
    return 1 / (1 + np.exp(-x))

def pairs(data):
    trajectories = list(data)
    length, count, seed = 3, 60, 9
    lengths = [own["n"] for own in trajectories]
    rewards = lambda segment: trajectories[segment[0]]["r"][segment[1] : segment[1] + length]
    for own in trajectories:
        own["r"] = np.nan_to_num(own["reward"])

    def compare(what, options, judge, candidates=None, extra=()):
        """`judge` says of a drawn pair its two scores and how much the second is preferred; None where it is not kept."""
        made = run("pairs", [*extra, {"pairs": {"length": length, "count": count, "seed": seed, "reward": "coalesce(reward, 0)", **options}}], data.path)
        drawn = candidates or list(enumerate(draw(lengths, length, count, seed)))
        wanted = [(pair, judged) for number, pair in drawn if (judged := judge(number, pair)) is not None]
        equal(len(made), 2 * len(wanted), f"{what}: segments")
        check(len(wanted) > 5, f"{what}: some pairs are left")
        found = list(made)
        for index, (pair, (scores, second)) in enumerate(wanted):
            for side in range(2):
                own, (i, start) = found[2 * index + side], pair[side]
                where = f"{what}: pair {index} side {side + 1}"
                equal((int(own["of"]["pair"]), int(own["of"]["side"])), (index, side + 1), where)
                equal((int(own["of"]["parent_id"]), int(own["of"]["parent_step"])), (trajectories[i]["id"], start), where)
                close(own["observation"], trajectories[i]["observation"][start : start + length], f"{where}: observations")
                equal(own["step"], range(length), f"{where}: steps")
                close(own["of"]["score"], scores[side], f"{where}: score", atol=1e-5)
                close(own["of"]["preference"], second if side else 1 - second, f"{where}: preference")
                n = trajectories[i]["n"]
                equal(own["truncated"][-1], start + length < n and not own["terminated"][-1], f"{where}: truncated")
        equal(len({own["id"] for own in found}), len(found), f"{what}: ids are unique")
        for flow in made.manifest["lineage"]["stages"]:
            equal(flow["rows_out"], flow["rows_in"] - sum(flow["dropped_rows"].values()) + flow["added_rows"], f"{what}: rows are accounted for")
        return made

    def hard(scores, equal=0.0):
        return 0.5 if abs(scores[1] - scores[0]) <= equal else float(scores[1] > scores[0])

    partial = lambda pair: [rewards(segment).sum() for segment in pair]
    compare("partial return", {}, lambda _, pair: (partial(pair), hard(partial(pair))))
    compare("equal", {"teacher": {"equal": 0.7}}, lambda _, pair: (partial(pair), hard(partial(pair), 0.7)))
    compare("skip", {"teacher": {"skip": 1.0}}, lambda _, pair: None if max(partial(pair)) < 1 else (partial(pair), hard(partial(pair))))
    felt = lambda pair, gamma: [sum(gamma ** (length - 1 - t) * r for t, r in enumerate(rewards(segment))) for segment in pair]
    compare("myopic", {"teacher": {"gamma": 0.5}}, lambda _, pair: (partial(pair), hard(felt(pair, 0.5))))
    draws = lambda number: [chance("pairs teacher", seed, 2 * number + index) for index in range(2)]
    noisy = lambda number, pair: float((draws(number)[0] < sigmoid(2 * (partial(pair)[1] - partial(pair)[0]))) != (draws(number)[1] < 0.3))
    compare("noisy and mistaken", {"teacher": {"beta": 2, "mistake": 0.3}}, lambda number, pair: (partial(pair), noisy(number, pair)))

    # Regret, where the value of an observation is its first coordinate.
    def regret(pair):
        scores = []
        for i, start in pair:
            own, end = trajectories[i], start + length
            value = own["observation"][:, 0].astype(np.float64)
            if own["terminated"][end - 1]:
                after = 0.0
            elif end < len(value):
                after = value[end]
            else:
                return None
            scores.append(rewards((i, start)).sum() + after - value[start])
        return scores

    judge = lambda _, pair: None if regret(pair) is None else (regret(pair), hard(regret(pair)))
    compare("regret", {"by": "regret", "value": "observation[1]"}, judge)

    # Pairs on which three reward models disagree most, of five times as many.
    members = [model(f"reward-{seed}", [("s", D)], [("reward", 1)], 100 + seed) for seed in range(3)]
    each = {"score": {"model": members, "inputs": {"s": "observation"}, "outputs": {"each": {"output": "reward", "reduce": "all"}}}}
    for own in trajectories:
        feeds = {"s": own["observation"].astype(np.float32)}
        own["each"] = np.concatenate([predict(member, feeds)["reward"] for member in members], axis=1).astype(np.float64)
    drawn = draw(lengths, length, 5 * count, seed)
    sums = lambda segment: trajectories[segment[0]]["each"][segment[1] : segment[1] + length].sum(0)
    apart = np.array([sigmoid(sums(second) - sums(first)).std() for first, second in drawn])
    chosen = sorted(np.argsort(-apart, kind="stable")[:count])
    compare("disagreement", {"disagreement": {"by": "each", "candidates": 5}}, lambda _, pair: (partial(pair), hard(partial(pair))),
            candidates=[(int(index), drawn[index]) for index in chosen], extra=[each])

# ---- subsample

def subsample(data):
    ids = np.array([own["id"] for own in data])
    returns = np.array([own["of"]["return"] for own in data])
    tasks = np.array([own["task"][0] for own in data])
    made = run("best", [{"summarise": {"task": "max(task)"}}, {"subsample": {"per_group": 2, "stratify": "task", "top": {"by": "return"}}}], data.path)
    best = []
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        best.extend(own[np.lexsort((ids[own], -np.nan_to_num(returns[own], nan=-np.inf)))][:2])
    equal([own["id"] for own in made], sorted(ids[best]), "subsample: the two best of every task")
    lengths = np.array([own["n"] for own in data], float)
    made = run("weighted", [{"subsample": {"count": 5, "weight": "length", "seed": 4}}], data.path)
    with np.errstate(divide="ignore"):
        keys = np.array([-np.log(chance("subsample", 4, i)) for i in ids]) / lengths
    equal([own["id"] for own in made], sorted(ids[np.argsort(keys)[:5]]), "subsample: weighted, without replacement (Efraimidis and Spirakis)")
    made = run("drawn", [{"subsample": {"count": 40, "weight": "length", "seed": 4, "replacement": True}}], data.path)
    ends = np.cumsum(lengths)
    points = [ids[np.searchsorted(ends, chance("subsample with replacement", 4, number) * ends[-1], side="right")] for number in range(40)]
    equal(sorted(int(own["id"]) % (ids.max() + 1) for own in made), sorted(points), "subsample: weighted, with replacement")

# ---- selections, from their definitions

def split(data):
    """SS-ORL's split: a share of all trajectories, drawn from one end of the ranking."""
    ids, n = np.array([own["id"] for own in data]), len(data)
    keys = {"return": [own["of"]["return"] for own in data], "length % 4": [own["n"] % 4 for own in data]}
    for by, values in keys.items():
        ranking = ids[np.lexsort((ids, np.nan_to_num(np.array(values, float), nan=np.inf)))]
        for end, share, keep in (("lowest", 0.5, 0.2), ("highest", 0.35, 0.3), ("lowest", 1.0, 1.0), ("highest", 0.2, 0.9), ("lowest", 0.6, 0.0)):
            size = int(share * n + 1e-9)
            pool = ranking[:size] if end == "lowest" else ranking[n - size :]
            drawn = sorted(pool, key=lambda i: chance("hide_actions", 5, i))[: int(keep * n + 1e-9)]
            options = {"keep": keep, "from": {end: share, "by": by}, "seed": 5, "as": "truth"}
            for before, after in zip(data, run("split", [{"hide_actions": options}], data.path)):
                what = f"hide_actions {options}: trajectory {before['id']}"
                side = "labelled" if before["id"] in drawn else "in_dist" if before["id"] in pool else "out_dist"
                check(after["of"]["split"] == side, f"{what} is {after['of']['split']}, not {side}")
                close(after["truth"], before["action"], f"{what}: hidden actions")
                close(after["action"], np.where(side == "labelled", before["action"], np.nan), f"{what}: actions")
                equal(after["of"]["recorded_actions"], before["n"] if side == "labelled" else 0, f"{what}: recorded actions")

def quotas(total, sizes):
    """`total` over groups in proportion to their sizes, what rounding leaves over to those that lost most, first ones first."""
    exact = np.array(sizes) * total / sum(sizes)
    floors = np.floor(exact + 1e-9).astype(int)
    for group in sorted(range(len(sizes)), key=lambda group: (-round(exact[group] - floors[group], 9), group))[: total - floors.sum()]:
        floors[group] += 1
    return floors

def draws(data):
    ids, lengths = np.array([own["id"] for own in data]), np.array([own["n"] for own in data])
    line = sorted(range(len(ids)), key=lambda row: chance("subsample", 4, ids[row]))
    def kept(options, rows):
        made = run("draws", [{"subsample": {"seed": 4, **options}}], data.path)
        equal([own["id"] for own in made], sorted(ids[list(rows)]), f"subsample {options}")
    for fraction in (0.0, 0.25, 0.4, 1.0):
        kept({"fraction": fraction}, line[: int(fraction * len(ids) + 1e-9)])
    for count in (0, 5, 99):
        kept({"count": count}, line[:count])
    for most in (0, 20, 60, 999):
        kept({"max_steps": most}, np.array(line)[np.cumsum(lengths[line]) <= most])
    kept({"fraction": 0.5, "top": {"by": "length"}}, np.lexsort((ids, -lengths))[: len(ids) // 2])
    for options, total in (({"fraction": 0.4}, int(0.4 * len(ids))), ({"count": 7}, 7)):
        keys = lengths % 3
        groups = [[row for row in line if keys[row] == key] for key in np.unique(keys)]
        counts = quotas(total, [len(group) for group in groups])
        kept({**options, "stratify": "length % 3"}, [row for group, count in zip(groups, counts) for row in group[:count]])

def orders(data):
    ids, returns = np.array([own["id"] for own in data]), np.array([own["of"]["return"] for own in data])
    found = lambda stage: [own["id"] for own in run("orders", [stage], data.path, shard_rows=30)]
    equal(found({"sort": {"by": "return", "descending": True}}), ids[np.lexsort((ids, -np.nan_to_num(returns, nan=-np.inf)))], "sort: descending")
    equal(found({"sort": "length % 5"}), ids[np.lexsort((ids, [own["n"] % 5 for own in data]))], "sort: ties by id")
    equal(found({"shuffle": {"seed": 6}}), sorted(ids, key=lambda i: chance("shuffle", 6, i)), "shuffle")

# ---- runs of steps, every k-th step, summaries

def runs(data):
    made = iter(run("runs", [{"filter": {"steps": "reward > -0.5"}}], data.path))
    stride = max(own["id"] for own in data) + 1
    for before in data:
        n, holds = before["n"], np.nan_to_num(before["reward"], nan=-np.inf) > -0.5
        starts = [t for t in range(n) if holds[t] and (t == 0 or not holds[t - 1])]
        for copy, start in enumerate(starts):
            end = next((t for t in range(start, n) if not holds[t]), n)
            rows = slice(start, len(holds) if end == n else end)
            after, what = next(made), f"filter by steps: run {copy} of trajectory {before['id']}"
            equal([after["id"], after["of"]["parent_id"], after["of"]["parent_step"]], [before["id"] + copy * stride, before["id"], start], what)
            equal(after["step"], np.arange(rows.stop - start), f"{what}: steps")
            for name in ("observation", "action", "reward"):
                close(after[name], before[name][rows], f"{what}: {name}")
            last = np.arange(start, rows.stop) == end - 1
            equal(after["truncated"], last & (end < n) & ~before["terminated"][rows], f"{what}: truncated")
            equal(after["terminated"], before["terminated"][rows], f"{what}: terminated")
    check(next(made, None) is None, "filter by steps: there are more runs")

def strides(data):
    for k, fold in ((1, "sum"), (3, "sum"), (4, "last"), (50, "sum")):
        for before, after in zip(data, run("strides", [{"subsample": {"stride": k, "reward": fold}}], data.path)):
            n, what = before["n"], f"subsample: every {k}th step of trajectory {before['id']}"
            firsts = list(range(0, n, k))
            groups = [slice(t, min(t + k, n)) for t in firsts]
            final = list(range(n, len(before["reward"])))
            close(after["observation"], before["observation"][firsts + final], f"{what}: observations")
            close(after["action"], before["action"][firsts + final], f"{what}: actions")
            total = lambda rewards: np.nan if np.isnan(rewards).all() else np.nansum(rewards)
            folded = [total(before["reward"][group]) if fold == "sum" else before["reward"][group][-1] for group in groups]
            close(after["reward"], folded + [np.nan] * len(final), f"{what}: rewards")
            equal(after["terminated"], [before["terminated"][group].any() for group in groups] + [False] * len(final), f"{what}: terminated")
            equal(after["step"], np.arange(len(firsts) + len(final)), f"{what}: steps")

def summaries(data):
    made = run("summaries", [{"summarise": {"mean": "avg(reward)", "n": "count(*)", "high": "max(observation[2])", "known": "count(x)"}}, {"filter": "n > 2"}], data.path)
    longer = [own for own in data if own["n"] > 2]
    equal([own["id"] for own in made], [own["id"] for own in longer], "summarise: what the filter behind it keeps")
    for before, after in zip(longer, made):
        n, of = before["n"], after["of"]
        wanted = [np.nanmean(before["reward"][:n]) if not np.isnan(before["reward"][:n]).all() else np.nan, n, before["observation"][:n, 1].max()]
        close([of["mean"], of["n"], of["high"]], wanted, f"summarise: trajectory {before['id']}")

# ---- win rates

def win_rates(data):
    returns = np.array([own["of"]["return"] for own in data])
    for beta in (None, 0.7):
        made = run("win-rate", [{"win_rate": {"by": "return", "group": "trajectory_id % 2", "as": "wins", **({"beta": beta} if beta else {})}}], data.path)
        for index, own in enumerate(made):
            others = [returns[other] for other in range(index % 2, len(returns), 2) if other != index and not np.isnan(returns[other])]
            wins = [sigmoid(beta * (returns[index] - other)) if beta else 0.5 * (np.sign(returns[index] - other) + 1) for other in others]
            close(own["of"]["wins"], np.mean(wins), f"win rate of trajectory {index}")

# ---- the same whatever the threads and the shards

def same(data, source):
    path = model("same", [("x", D)], [("value", 1)], 3)
    stages = [{"score": {"model": path, "outputs": {"value": "value"}}}, {"normalise": {"columns": {"reward": "scaled"}}},
              {"filter": {"quantile": {"by": "value", "of": "steps", "below": 0.8}}}, {"truncate": {"where": "scaled > 1.5"}},
              {"pairs": {"length": 2, "count": 50, "seed": 1, "by": "nothing"}}, {"window": {"length": 2, "columns": ["observation", "value"]}}]
    trees = []
    for threads in (1, 3):
        made = run("same", stages, data.path, threads=threads, shard_rows=20)
        trees.append({str(file.relative_to(made.path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(made.path.rglob("*")) if file.is_file()})
    equal(trees[0] == trees[1] and len(trees[0]) > 4, True, "same bytes with one thread and with three")
    whole = run("same-whole", stages, source)
    for name in ("observation", "value", "start"):
        close(whole.steps[name], made.steps[name], f"the same {name} whatever the shards of the source")
    equal(whole.trajectories["pair"], made.trajectories["pair"], "the same pairs whatever the shards of the source")

def main():
    data = dataset("small", [1, 5, 2, 23, 1, 9, 17, 4, 30, 3, 8, 12])
    for part in (score, truncate, quantiles, normalise, derive, windows, pairs, subsample, split, draws, orders, runs, strides, summaries, win_rates):
        part(data)
    bytes_into_a_model()
    same(data, ROOT / "small")
    finish("stages_oracle")

main()
