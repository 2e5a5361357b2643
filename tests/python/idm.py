"""Inverse dynamics models in numpy: training data, held-out steps, and outputs of a model."""

import math

import numpy as np
import pyarrow as pa
from onnx import numpy_helper

from draws import drawn
from oracle import import_trajectories, table

# ---- datasets: a dictionary from id to (observations with the final one, actions, recorded mask)


def made(
    folder, name, random, lengths, width, act, labelled, dtype=np.float32, discrete=None, spoil=None
):
    """Imports random walks, and returns the dataset's path and its trajectories.

    `act` maps the differences between a trajectory's observations to its actions. Only the
    trajectories in `labelled` keep them.
    """
    trajectories = {}
    for index, n in enumerate(lengths):
        observation = (
            np.cumsum(random.normal(size=(n + 1, width)), axis=0) * 0.3 + np.arange(width) * 10
        )
        action = act(np.diff(observation, axis=0))
        recorded = np.full(n, index in labelled)
        if spoil:
            spoil(index, observation, action)
        observation = observation.astype(dtype)
        action = action.astype(discrete or dtype)
        trajectories[index] = (observation, action, recorded)
    kept = trajectories.values()
    path = import_trajectories(folder, name, kept, lambda t: 1.0, dtype, discrete)
    return path, trajectories


def read(dataset):
    steps = table(dataset)
    trajectories = {}
    for key in np.unique(steps["trajectory_id"].to_numpy()):
        own = steps.filter(pa.compute.equal(steps["trajectory_id"], key)).sort_by("step")
        final = own["is_final"].to_numpy(zero_copy_only=False)
        observation = np.array(own["observation"].to_pylist(), np.float32)
        actions = [action for action, last in zip(own["action"].to_pylist(), final) if not last]
        recorded = np.array([action is not None for action in actions])
        width = next((len(action) for action in actions if action is not None), 1)
        trajectories[int(key)] = (
            observation,
            np.array([action or [np.nan] * width for action in actions], np.float32),
            recorded,
        )
    return trajectories


# ---- what is held out, and windows, one observation at a time


def held_out(trajectories, share, seed):
    """Trajectories that are held out, and those that are trained on."""
    labelled = [key for key, (_, _, recorded) in trajectories.items() if recorded.any()]
    order = drawn("train_idm", seed, labelled)
    count = max(1, math.ceil(share * len(order) - 1e-9))
    return order[:count], order[count:]


def windows(trajectories, keys, past, future, edge):
    inputs, targets = [], []
    for key in sorted(keys):
        observation, action, recorded = trajectories[key]
        for t in np.flatnonzero(recorded):
            places = range(t - past, t + future + 1)
            if edge == "skip" and (places[0] < 0 or places[-1] >= len(observation)):
                continue
            slots = [
                np.zeros_like(observation[0])
                if edge == "zero" and not 0 <= s < len(observation)
                else observation[min(max(s, 0), len(observation) - 1)]
                for s in places
            ]
            inputs.append(np.concatenate(slots))
            targets.append(action[t])
    return np.array(inputs, np.float32), np.array(targets, np.float64)


# ---- the file by hand


def by_hand(model, inputs, head, members):
    """Actions, standard deviations, and what the networks put out, in float64."""
    values = {
        one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer
    }
    hidden_of = {
        "Relu": lambda x: np.maximum(x, 0),
        "Tanh": np.tanh,
        "Elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    }
    operators = {
        node.op_type
        for node in model.graph.node
        if node.name.endswith(tuple(f"_h{i}" for i in range(9)))
    }
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
            actions.append(
                np.clip(action, values["lowest"], values["highest"])
                if "lowest" in values
                else action
            )
        else:
            mean, log_std = (
                network(f"m{m}_mean"),
                -5 + 3.5 * (np.tanh(network(f"m{m}_log_std")) + 1),
            )
            raw.append((mean, log_std))
            actions.append(np.tanh(mean) * values["action_scale"] + values["action_centre"])
            # The standard deviation of the squashed Normal, from far more points than the file has.
            grid = np.linspace(-8, 8, 4001)
            weights = np.exp(-(grid**2) / 2)
            weights /= weights.sum()
            squashed = np.tanh(mean[..., None] + np.exp(log_std)[..., None] * grid)
            middle = squashed @ weights
            stds.append(
                np.sqrt(np.maximum(((squashed - middle[..., None]) ** 2) @ weights, 0))
                * values["action_scale"]
            )
    mean = np.mean(actions, axis=0)
    own = np.mean(np.square(stds), axis=0) if stds else 0
    std = (
        np.sqrt(own + np.var(actions, axis=0))
        if stds or (members > 1 and head == "deterministic")
        else None
    )
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
    place = np.clip(
        (targets - values["action_centre"]) / values["action_scale"], -1 + 1e-6, 1 - 1e-6
    )
    x = np.arctanh(place)
    density = (
        -0.5 * ((x - mean) / np.exp(log_std)) ** 2
        - log_std
        - 0.5 * np.log(2 * np.pi)
        - np.log(1 - np.tanh(x) ** 2)
    )
    return -np.mean(density.sum(axis=1))
