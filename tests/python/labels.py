"""Datasets, models and windows for tests of `label`, and the comparison of every row it writes."""

import numpy as np
from onnx import helper

import oracle
from networks import FLOAT, predict, save
from oracle import check, seeded, table, trajmill

D, A, K = 4, 3, 5

# ---- datasets: a list of trajectories, each (observations, actions, recorded mask, has final row)


class Made:
    """Trajectories, and the dataset that they were imported to."""

    def __init__(
        self,
        folder,
        name,
        dtype,
        final,
        discrete=None,
        lengths=(1, 2, 1, 3, 23, 5, 1, 40, 8, 17, 2),
    ):
        random = seeded(name)
        self.path, self.trajectories = folder / name, []
        for index, n in enumerate(lengths):
            has_final = {"all": True, "none": False, "some": index % 2 == 0}[final]
            observation = random.normal(size=(n + has_final, D)).astype(dtype)
            action = (
                random.integers(0, K, n).astype(discrete)
                if discrete
                else random.normal(size=(n, A)).astype(dtype)
            )
            recorded = np.ones(n, bool) if index % 5 == 4 else random.random(n) < 0.2
            self.trajectories.append((observation, action, recorded, has_final))
        kept = [trajectory[:3] for trajectory in self.trajectories]
        oracle.import_trajectories(folder, name, kept, float, dtype, discrete)


# ---- models


def copies(path, width, indices, shape=None, output="action", metadata=None):
    """Copies coordinates of its input."""
    nodes = [
        helper.make_node("Gather", ["x", "indices"], ["y"], axis=1),
        helper.make_node("Reshape", ["y", "shape"], [output]),
    ]
    shape = shape or [len(indices)]
    constants = [
        ("indices", np.array(indices, np.int64)),
        ("shape", np.array([0, *shape], np.int64)),
    ]
    return save(path, nodes, [("x", FLOAT, [width])], [(output, FLOAT, shape)], constants, metadata)


def mlp(path, width, seed, std=False, inputs=("x",), horizon=None):
    rng = np.random.default_rng(seed)
    out = A * (horizon or 1)
    heads = ["action", "std"] if std else ["action"]
    constants = [
        ("w", rng.normal(size=(width, 16)).astype(np.float32)),
        ("b", rng.normal(size=16).astype(np.float32)),
    ]
    constants += [
        (f"w_{head}", (rng.normal(size=(16, out)) / 4).astype(np.float32)) for head in heads
    ]
    constants += [("shape", np.array([0, horizon, A] if horizon else [0, A], np.int64))]
    nodes = [
        helper.make_node("Concat", list(inputs), ["all"], axis=1),
        helper.make_node("Gemm", ["all", "w", "b"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
    ]
    nodes += [helper.make_node("MatMul", ["t", f"w_{head}"], [f"y_{head}"]) for head in heads]
    nodes += [helper.make_node("Reshape", ["y_action", "shape"], ["action"])]
    if std:
        nodes += [
            helper.make_node("Sigmoid", ["y_std"], ["z_std"]),
            helper.make_node("Reshape", ["z_std", "shape"], ["std"]),
        ]
    shape = [horizon, A] if horizon else [A]
    ports = [(port, FLOAT, [width // len(inputs)]) for port in inputs]
    return save(path, nodes, ports, [(head, FLOAT, shape) for head in heads], constants)


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
            slots.append(
                zero
                if edge == "zero"
                else observation[min(max(s, 0), known - 1)].astype(np.float32)
            )
    return np.concatenate(slots)


def windows(trajectories, past, future, edge):
    return {
        (i, t): w
        for i, trajectory in enumerate(trajectories)
        for t in range(len(trajectory[1]))
        if (w := window(trajectory, t, past, future, edge)) is not None
    }


def by_step(steps, paths, feeds, head="action"):
    """What each model predicts, by trajectory and step."""
    made = [predict(path, feeds)[head] for path in paths]
    return {key: [member[row] for member in made] for row, key in enumerate(steps)}


def flat(trajectories, paths, past, future, edge, head="action"):
    seen = windows(trajectories, past, future, edge)
    return by_step(seen, paths, {"x": np.stack(list(seen.values()))}, head)


# ---- running and comparing


def run(folder, options, source, threads=2):
    """The rows that labelling a dataset gives, in order."""
    stages = [{"label": options}, {"materialise": {"path": "out", "shard_rows": 60}}]
    trajmill(
        "run",
        oracle.pipeline(folder / "label.yaml", source, stages),
        "--threads",
        threads,
        cwd=folder,
    )
    return (
        table(folder / "out")
        .sort_by([("trajectory_id", "ascending"), ("step", "ascending")])
        .to_pylist()
    )


def compare(folder, data, options, expected, exact=True, stds=None, votes=None):
    """`expected` maps (trajectory, step) to the label; what is not in it stays null."""
    trajectories, rows = data.trajectories, run(folder, options, data.path)
    into = options.get("into", "action")
    check(len(rows) == sum(len(trajectory[0]) for trajectory in trajectories), "rows")
    for row in rows:
        i, t = row["trajectory_id"], row["step"]
        where = f"trajectory {i} step {t}"
        _, action, recorded, _ = trajectories[i]
        given = t < len(action) and recorded[t]
        if given:
            check(np.array_equal(row["action"], action[t]), f"{where}: a recorded action changed")
        if into != "action":
            check(
                "action_source" not in row and (given or row["action"] is None),
                f"{where}: `into` leaves actions alone",
            )
        want = expected.get((i, t)) if t < len(action) and not given else None
        found = None if given and into == "action" else row[into]
        if want is None:
            check(found is None, f"{where}: {found} where there should be nothing")
        else:
            gap = np.max(np.abs(np.asarray(found, np.float64) - np.asarray(want, np.float64)))
            check(gap == 0 if exact else gap <= 1e-5, f"{where}: {found} is not {want}")
        if into == "action":
            check(
                row["action_source"]
                == ("recorded" if given else None if want is None else "proxy"),
                f"{where}: {row['action_source']}",
            )
        check(
            ("action_std" in row) == (stds is not None)
            and ("action_votes" in row) == (votes is not None),
            f"{where}: columns",
        )
        if stds is not None:
            std = row["action_std"]
            check(
                (std is None) == (want is None)
                and (want is None or np.allclose(std, stds[i, t], atol=1e-5)),
                f"{where}: std {std}",
            )
        if votes is not None:
            check(
                row["action_votes"] == (None if want is None else votes[i, t]),
                f"{where}: votes {row['action_votes']}",
            )


def mean(parts):
    return np.mean(np.asarray(parts, np.float64), axis=0)


def spread(parts, stds=None):
    own = 0 if stds is None else np.mean(np.asarray(stds, np.float64) ** 2, axis=0)
    return np.sqrt(own + np.var(np.asarray(parts, np.float64), axis=0))
