"""Inverse dynamics models, which predict the action of a step from the observations around it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from environments import POLICIES, Environment

PAST, FUTURE = 1, 1
HIDDEN = 256
LABELLED_SHARE = 0.3
UPDATES, BATCH, LEARNING_RATE = 12_000, 256, 1e-3
LOG_STD = (-5.0, 1.0)
OPSET, IR_VERSION = 17, 8


def windows(trajectory: dict) -> np.ndarray:
    """The observations around each step, oldest first: [steps, (PAST + 1 + FUTURE) * dim].

    The final observation is included. Beyond the ends of the trajectory, its first or its final
    observation stands in.
    """
    known = np.concatenate([trajectory["observations"], trajectory["next_observations"][-1:]])
    steps = len(trajectory["observations"])
    at = np.arange(steps)[:, None] + np.arange(-PAST, FUTURE + 1)
    return known[np.clip(at, 0, steps)].reshape(steps, -1)


def split(environment: Environment, count: int) -> tuple[list[int], list[int]]:
    """The indices of the trajectories that the model is trained on, and of those held out."""
    order = environment.random(3).permutation(count).tolist()
    labelled = round(LABELLED_SHARE * count)
    return sorted(order[:labelled]), sorted(order[labelled:])


class InverseDynamics(nn.Module):
    """A network of two hidden layers. Actions are a tanh, scaled to the box [-bound, bound].

    A Gaussian head also gives their standard deviation.
    """

    def __init__(
        self, mean: np.ndarray, std: np.ndarray, actions: int, bound: float, gaussian: bool
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(np.tile(mean, PAST + 1 + FUTURE)))
        self.register_buffer(
            "scale", torch.tensor(np.tile(std + np.float32(1e-6), PAST + 1 + FUTURE))
        )
        self.bound = bound
        self.trunk = nn.ModuleList([nn.Linear(len(self.mean), HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.action = nn.Linear(HIDDEN, actions)
        self.log_std = nn.Linear(HIDDEN, actions) if gaussian else None

    def forward(self, observations):
        hidden = (observations - self.mean) / self.scale
        for layer in self.trunk:
            hidden = torch.relu(layer(hidden))
        action = torch.tanh(self.action(hidden)) * self.bound
        if self.log_std is None:
            return action, None
        return action, torch.exp(torch.clamp(self.log_std(hidden), *LOG_STD))


def loss(action, std, target):
    if std is None:
        return ((action - target) ** 2).mean()
    return (0.5 * ((action - target) / std) ** 2 + torch.log(std)).mean()


def train(environment: Environment, labelled: list[dict], gaussian: bool) -> InverseDynamics:
    torch.manual_seed(environment.seed)
    torch.set_num_threads(1)
    space = environment.make().action_space
    assert (space.low == -space.high).all() and (space.high == space.high[0]).all()

    known = np.concatenate(
        [np.concatenate([t["observations"], t["next_observations"][-1:]]) for t in labelled]
    )
    model = InverseDynamics(
        known.mean(axis=0), known.std(axis=0), space.shape[0], float(space.high[0]), gaussian
    )
    inputs = torch.tensor(np.concatenate([windows(t) for t in labelled]))
    targets = torch.tensor(np.concatenate([t["actions"] for t in labelled]))

    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, UPDATES)
    for _ in range(UPDATES):
        batch = torch.randint(len(inputs), (BATCH,))
        optimiser.zero_grad()
        loss(*model(inputs[batch]), targets[batch]).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def export(model: InverseDynamics, trained_on: list[int], path: Path) -> None:
    """Writes the network as an ONNX graph, node by node.

    The graph's metadata lists the trajectories that the network was trained on.
    """
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def linear(layer, source, name):
        weight = constant(f"{name}.weight", layer.weight.detach().numpy())
        bias = constant(f"{name}.bias", layer.bias.detach().numpy())
        return node("Gemm", [source, weight, bias], f"{name}.out", transB=1)

    hidden = node("Sub", ["observations", constant("mean", model.mean)], "centred")
    hidden = node("Div", [hidden, constant("scale", model.scale)], "normalised")
    for i, layer in enumerate(model.trunk):
        hidden = node("Relu", [linear(layer, hidden, f"layer{i}")], f"hidden{i}")
    squashed = node("Tanh", [linear(model.action, hidden, "head")], "squashed")
    outputs = [node("Mul", [squashed, constant("bound", model.bound)], "action")]
    if model.log_std is not None:
        bounds = [constant("log_std.low", LOG_STD[0]), constant("log_std.high", LOG_STD[1])]
        clipped = node(
            "Clip", [linear(model.log_std, hidden, "log_std"), *bounds], "log_std.clipped"
        )
        outputs.append(node("Exp", [clipped], "std"))

    def tensor(name, dim):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", dim])

    graph = helper.make_graph(
        nodes,
        "inverse_dynamics",
        [tensor("observations", len(model.mean))],
        [tensor(name, model.action.out_features) for name in outputs],
        constants,
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="make_corpus",
    )
    properties = {
        "past": PAST,
        "future": FUTURE,
        "edge": "repeat",
        "learnt_from": ",".join(map(str, trained_on)),
    }
    helper.set_model_props(proto, {key: str(value) for key, value in properties.items()})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def predict(path: Path, inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"observations": inputs})


def compare(model: InverseDynamics, path: Path, inputs: np.ndarray) -> float:
    """The largest difference between PyTorch and ONNX Runtime, which is at most 1e-5."""
    worst = 0.0
    with torch.no_grad():
        for count in (1, 7, len(inputs)):
            expected = [o.numpy() for o in model(torch.tensor(inputs[:count])) if o is not None]
            for e, got in zip(expected, predict(path, inputs[:count]), strict=True):
                worst = max(worst, float(np.abs(e - got).max()))
    assert worst <= 1e-5, f"{path.name}: ONNX Runtime differs from PyTorch by {worst:.2g}"
    return worst


def report(path: Path, labelled: list[dict], held_out: list[dict]) -> None:
    """Prints the errors of the model. R2 is relative to predicting the mean labelled action."""
    baseline = np.concatenate([t["actions"] for t in labelled]).mean(axis=0)
    groups = {"labelled": labelled, "held out": held_out}
    for i, name in enumerate(POLICIES):
        groups[f"held out, {name}"] = [t for t in held_out if t["infos/policy"][0] == i]
    heading = ["trajectories", "count", "steps", "MSE", "MSE of the mean", "R2"]
    if path.stem.endswith("gaussian"):
        heading += ["mean std", "within one std"]
    print("|", " | ".join(heading), "|")
    print("|" + "---|" * len(heading))
    for name, group in groups.items():
        if not group:
            continue
        actions = np.concatenate([t["actions"] for t in group])
        predicted, *std = predict(path, np.concatenate([windows(t) for t in group]))
        error, reference = ((predicted - actions) ** 2).mean(), ((baseline - actions) ** 2).mean()
        cells = [
            name,
            len(group),
            f"{len(actions):,}",
            f"{error:.5f}",
            f"{reference:.4f}",
            f"{1 - error / reference:.4f}",
        ]
        if std:
            cells += [
                f"{std[0].mean():.4f}",
                f"{(np.abs(predicted - actions) <= std[0]).mean():.1%}",
            ]
        print("|", " | ".join(map(str, cells)), "|")


def make(environment: Environment, trajectories: list[dict], path: Path, gaussian: bool) -> None:
    trained_on, rest = split(environment, len(trajectories))
    labelled, held_out = [trajectories[i] for i in trained_on], [trajectories[i] for i in rest]
    model = train(environment, labelled, gaussian)
    export(model, trained_on, path)
    sample = np.concatenate([windows(t) for t in held_out])[:20_000]
    worst = compare(model, path, sample)
    print(
        f"\n{path.name}: {path.stat().st_size:,} bytes, ONNX Runtime within {worst:.1g} of PyTorch"
    )
    report(path, labelled, held_out)
