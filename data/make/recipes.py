"""Trains the small models of the recipes in `pipelines/` on the Hopper dataset in `data/hopper`.

    python data/make/recipes.py    # writes data/models/recipes/*.onnx; a few minutes on one core

The models show what each method needs, not what it can do: they have two small layers and are
trained for a few thousand updates. Every graph takes raw observations and any number of them. Its
outputs in ONNX Runtime are within 1e-4 of PyTorch's, relative to their scale.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models" / "recipes"
HIDDEN, GAMMA, BATCH = 32, 0.99, 256
WINDOW, TOKEN, EMBEDDING, CHUNK = 20, 16, 8, 4
MEMBERS = {"reward": 3, "dynamics": 7, "discriminator": 4}
OPSET, IR_VERSION = 17, 8


class Corpus:
    """The transitions of the dataset: observation, action, reward, next observation, and end."""

    def __init__(self, path):
        table = pq.read_table(path)
        vector = lambda name: np.array(
            [row if row is not None else np.nan for row in table[name].to_pylist()], dtype=object
        )
        final = table["is_final"].to_numpy()
        observation = np.stack(vector("observation")).astype(np.float32)
        steps = np.flatnonzero(~final)
        assert (
            table["trajectory_id"].to_numpy()[steps] == table["trajectory_id"].to_numpy()[steps + 1]
        ).all(), "a final observation is missing"
        self.s, self.s_next = observation[steps], observation[steps + 1]
        self.a = np.stack(vector("action")[steps]).astype(np.float32)
        self.r = table["reward"].to_numpy(zero_copy_only=False)[steps].astype(np.float32)
        self.done = table["terminated"].to_numpy()[steps]
        self.trajectory, self.step = (
            table["trajectory_id"].to_numpy()[steps],
            table["step"].to_numpy()[steps],
        )
        self.policy = table["infos/policy"].to_numpy(zero_copy_only=False)[steps]
        self.to_go = self.r.astype(np.float64)
        for t in range(len(steps) - 2, -1, -1):
            if self.trajectory[t] == self.trajectory[t + 1]:
                self.to_go[t] += GAMMA * self.to_go[t + 1]
        self.to_go = self.to_go.astype(np.float32)

    def windows(self, length):
        """The indices of the steps of all windows within a trajectory: [n, length]."""
        starts = np.flatnonzero(self.trajectory[: -length + 1] == self.trajectory[length - 1 :])
        return starts[:, None] + np.arange(length)


class Net(nn.Module):
    """A network of two hidden layers. It normalises its inputs and scales its outputs."""

    def __init__(self, inputs, targets, hidden=HIDDEN):
        super().__init__()
        flat = lambda x: np.asarray(x, np.float32).reshape(len(x), -1)
        inputs, targets = flat(inputs), flat(targets)
        for name, value in [
            ("mean", inputs.mean(0)),
            ("scale", inputs.std(0) + 1e-6),
            ("low", targets.mean(0)),
            ("unit", targets.std(0) + 1e-6),
        ]:
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        widths = [inputs.shape[1], hidden, hidden, targets.shape[1]]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:]))

    def raw(self, x):
        x = (x - self.mean) / self.scale
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)

    def forward(self, x):
        return self.raw(x) * self.unit + self.low


def fit(parameters, loss, rows, updates, generator, rate=1e-3):
    """Minimises `loss` over batches of rows, with Adam and a learning rate that falls to 0."""
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        optimiser.zero_grad()
        loss(rows[torch.randint(len(rows), (BATCH,), generator=generator)]).backward()
        optimiser.step()
        schedule.step()


def regress(inputs, targets, seed, updates=3000, bootstrap=False):
    """Trains a network from inputs to targets; with `bootstrap`, on a resample of the rows."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = Net(inputs, targets)
    x, y = (
        torch.tensor(np.asarray(inputs, np.float32)),
        torch.tensor(np.asarray(targets, np.float32).reshape(len(inputs), -1)),
    )
    rows = torch.arange(len(x))
    if bootstrap:
        rows = torch.randint(len(x), (len(x),), generator=generator)
    fit(
        net.parameters(),
        lambda batch: (((net(x[batch]) - y[batch]) / net.unit) ** 2).mean(),
        rows,
        updates,
        generator,
    )
    return net.eval()


class Graph:
    """An ONNX graph that is built node by node."""

    def __init__(self, inputs):
        self.nodes, self.constants, self.inputs, self.outputs = [], {}, inputs, []

    def constant(self, value, kind=np.float32):
        """The name of a constant. Equal constants are stored once."""
        value = np.ascontiguousarray(np.asarray(value, kind))
        key = (value.shape, value.dtype.str, value.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(value, f"c{len(self.constants)}")
        return self.constants[key].name

    def node(self, op, *inputs, output=None, **attributes):
        inputs = [source if isinstance(source, str) else self.constant(source) for source in inputs]
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes)
        )
        return output

    def shape(self, source, *axes):
        return self.node("Reshape", source, self.constant(axes, np.int64))

    def net(self, net, source, raw=False):
        x = self.node("Div", self.node("Sub", source, net.mean.numpy()), net.scale.numpy())
        for index, layer in enumerate(net.layers):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            x = self.node("Gemm", x, weight, bias, transB=1)
            if index + 1 < len(net.layers):
                x = self.node("Relu", x)
        return (
            x if raw else self.node("Add", self.node("Mul", x, net.unit.numpy()), net.low.numpy())
        )

    def output(self, name, source, *axes):
        self.nodes.append(helper.make_node("Identity", [source], [name], name=name))
        self.outputs.append((name, axes))

    def save(self, name, **metadata):
        info = lambda port, axes: helper.make_tensor_value_info(
            port, TensorProto.FLOAT, ["batch", *axes]
        )
        graph = helper.make_graph(
            self.nodes,
            name,
            [info(port, axes) for port, axes in self.inputs],
            [info(*port) for port in self.outputs],
            list(self.constants.values()),
        )
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="recipes",
        )
        helper.set_model_props(proto, {key: str(value) for key, value in metadata.items()})
        onnx.checker.check_model(proto, full_check=True)
        path = MODELS / f"{name}.onnx"
        path.write_bytes(proto.SerializeToString(deterministic=True))
        assert path.stat().st_size < 200_000, f"{path}: {path.stat().st_size} bytes"
        print(f"{path.name}: {path.stat().st_size:,} bytes")
        return path


def same(path, feeds, expected):
    """Asserts that ONNX Runtime gives PyTorch's outputs."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for found, wanted in zip(session.run(None, feeds), expected, strict=True):
        wanted = wanted.detach().numpy()
        worst = np.abs(found - wanted).max() / (np.abs(wanted).max() + 1e-9)
        assert worst < 1e-4, f"{path.name}: ONNX Runtime differs from PyTorch by {worst:.1e}"


def tensors(*arrays):
    return [torch.tensor(array) for array in arrays]


def value(corpus):
    """V(s): the discounted return-to-go of an observation."""
    net = regress(corpus.s, corpus.to_go, seed=1)
    graph = Graph([("s", [11])])
    graph.output("value", graph.net(net, "s"), 1)
    same(graph.save("value"), {"s": corpus.s[:99]}, [net(torch.tensor(corpus.s[:99]))])


def rewards(corpus):
    """An ensemble of three reward models r(s, a), each trained on a bootstrap of the rows."""
    both = np.concatenate([corpus.s, corpus.a], axis=1)
    for member in range(MEMBERS["reward"]):
        net = regress(both, corpus.r, seed=10 + member, updates=1500, bootstrap=True)
        graph = Graph([("s", [11]), ("a", [3])])
        graph.output("reward", graph.net(net, graph.node("Concat", "s", "a", axis=1)), 1)
        same(
            graph.save(f"reward_{member}"),
            {"s": corpus.s[:99], "a": corpus.a[:99]},
            [net(torch.tensor(both[:99]))],
        )


def healthy(graph, s):
    """1 if Hopper stands, with a height above 0.7 and an angle within 0.2; otherwise 0."""
    part = lambda index: graph.node("Gather", s, graph.constant([index], np.int64), axis=1)
    stands = graph.node(
        "And",
        graph.node("Greater", part(0), [0.7]),
        graph.node("Less", graph.node("Abs", part(1)), [0.2]),
    )
    return graph.node("Cast", stands, to=TensorProto.FLOAT)


def vgdf(corpus):
    """VGDF's value targets of a transition: the recorded one, and those that an ensemble imagines.

    The ensemble's dynamics are trained on the trajectories of the good policy.
    """
    both = np.concatenate([corpus.s, corpus.a], axis=1)
    good = np.flatnonzero(corpus.policy == corpus.policy.max())
    policy = regress(corpus.s[good], corpus.a[good], seed=20, updates=1500)
    twins = [regress(both, corpus.to_go, seed=21 + twin, updates=1500) for twin in range(2)]
    change = np.concatenate([corpus.r[:, None], corpus.s_next - corpus.s], axis=1)
    members = [
        regress(both[good], change[good], seed=30 + member, updates=1500, bootstrap=True)
        for member in range(MEMBERS["dynamics"])
    ]
    graph = Graph([("s", [11]), ("a", [3]), ("r", [1]), ("s_next", [11]), ("done", [1])])

    def lookahead(s):
        pair = graph.node(
            "Concat",
            s,
            graph.node("Clip", graph.net(policy, s), graph.constant(-1), graph.constant(1)),
            axis=1,
        )
        return graph.node(
            "Mul", graph.node("Min", *[graph.net(twin, pair) for twin in twins]), [GAMMA]
        )

    going = graph.node("Sub", [1.0], "done")
    source = graph.node("Add", "r", graph.node("Mul", going, lookahead("s_next")))
    imagined = []
    pair = graph.node("Concat", "s", "a", axis=1)
    for member in members:
        made = graph.net(member, pair)
        reward = graph.node("Gather", made, graph.constant([0], np.int64), axis=1)
        moved = graph.node(
            "Add", "s", graph.node("Gather", made, graph.constant(range(1, 12), np.int64), axis=1)
        )
        imagined.append(
            graph.node("Add", reward, graph.node("Mul", healthy(graph, moved), lookahead(moved)))
        )
    together = graph.node("Concat", *imagined, axis=1)
    mean = graph.node("ReduceMean", together, axes=[1], keepdims=1)
    squares = graph.node(
        "ReduceSum",
        graph.node("Pow", graph.node("Sub", together, mean), [2.0]),
        graph.constant([1], np.int64),
        keepdims=1,
    )
    std = graph.node(
        "Add", graph.node("Sqrt", graph.node("Div", squares, [MEMBERS["dynamics"] - 1.0])), [1e-8]
    )
    graph.output("y_src", source, 1)
    graph.output("y_mean", mean, 1)
    graph.output("y_std", std, 1)
    path = graph.save("vgdf")

    n = 99
    s, a, r, s_next, done = tensors(
        corpus.s[:n],
        corpus.a[:n],
        corpus.r[:n, None],
        corpus.s_next[:n],
        corpus.done[:n, None].astype(np.float32),
    )
    best = lambda s: (
        GAMMA * torch.minimum(*[twin(torch.cat([s, policy(s).clamp(-1, 1)], 1)) for twin in twins])
    )
    made = [member(torch.cat([s, a], 1)) for member in members]
    moved = [s + each[:, 1:] for each in made]
    stands = [((each[:, :1] > 0.7) & (each[:, 1:2].abs() < 0.2)).float() for each in moved]
    y = torch.cat(
        [each[:, :1] + stand * best(to) for each, stand, to in zip(made, stands, moved)], 1
    )
    expected = [
        r + (1 - done) * best(s_next),
        y.mean(1, keepdim=True),
        y.std(1, keepdim=True) + 1e-8,
    ]
    same(
        path,
        {
            "s": s.numpy(),
            "a": a.numpy(),
            "r": r.numpy(),
            "s_next": s_next.numpy(),
            "done": done.numpy(),
        },
        expected,
    )


class WorldModel(nn.Module):
    """Predicts the next observation after a window, and the reward of each of its steps.

    One attention head looks from the last step to all observations and actions of the window.
    """

    def __init__(self, s, a):
        super().__init__()
        for name, value in [
            ("s_mean", s.mean(0)),
            ("s_scale", s.std(0) + 1e-6),
            ("a_mean", a.mean(0)),
            ("a_scale", a.std(0) + 1e-6),
        ]:
            self.register_buffer(name, torch.tensor(value))
        self.key_s, self.key_a = nn.Linear(11, TOKEN), nn.Linear(3, TOKEN)
        self.value_s, self.value_a = nn.Linear(11, TOKEN), nn.Linear(3, TOKEN)
        self.query = nn.Linear(14, TOKEN)
        self.change, self.reward = nn.Linear(TOKEN + 14, 11), nn.Linear(14, 1)

    def forward(self, s, a):
        s, a = (s - self.s_mean) / self.s_scale, (a - self.a_mean) / self.a_scale
        both = torch.cat([s, a], -1)
        query = self.query(both[:, -1:])
        keys, values = (
            torch.cat([self.key_s(s), self.key_a(a)], 1),
            torch.cat([self.value_s(s), self.value_a(a)], 1),
        )
        attention = torch.softmax(query @ keys.transpose(1, 2) / TOKEN**0.5, -1)
        seen = (attention @ values)[:, 0]
        importance = attention[:, 0, : s.shape[1]] + attention[:, 0, s.shape[1] :]
        rewards = self.reward(both)[..., 0]
        return (
            self.change(torch.cat([seen, both[:, -1]], 1)),
            importance,
            rewards,
            importance * rewards.sum(1, keepdim=True),
        )


def hindsight(corpus):
    """The importance of each step of a window for the next observation.

    It also distributes the window's predicted return over the steps, by importance.
    """
    torch.manual_seed(40)
    model, windows = WorldModel(corpus.s, corpus.a), corpus.windows(WINDOW)
    change = (corpus.s_next - corpus.s)[windows[:, -1]]
    s, a, r, change = tensors(corpus.s, corpus.a, corpus.r, change / (change.std(0) + 1e-6))
    windows = torch.tensor(windows)

    def loss(rows):
        at = windows[rows]
        made, _, rewards, _ = model(s[at], a[at])
        return ((made - change[rows]) ** 2).mean() + ((rewards - r[at]) ** 2).mean()

    fit(
        model.parameters(),
        loss,
        torch.arange(len(windows)),
        2000,
        torch.Generator().manual_seed(40),
    )
    model.eval()
    graph = Graph([("s", [WINDOW * 11]), ("a", [WINDOW * 3])])

    def linear(layer, source):
        return graph.node(
            "Add",
            graph.node("MatMul", source, layer.weight.detach().numpy().T),
            layer.bias.detach().numpy(),
        )

    s_in = graph.node(
        "Div",
        graph.node("Sub", graph.shape("s", -1, WINDOW, 11), model.s_mean.numpy()),
        model.s_scale.numpy(),
    )
    a_in = graph.node(
        "Div",
        graph.node("Sub", graph.shape("a", -1, WINDOW, 3), model.a_mean.numpy()),
        model.a_scale.numpy(),
    )
    both = graph.node("Concat", s_in, a_in, axis=2)
    last = graph.node("Gather", both, graph.constant([WINDOW - 1], np.int64), axis=1)
    keys = graph.node("Concat", linear(model.key_s, s_in), linear(model.key_a, a_in), axis=1)
    scores = graph.node(
        "MatMul", linear(model.query, last), graph.node("Transpose", keys, perm=[0, 2, 1])
    )
    attention = graph.shape(
        graph.node("Softmax", graph.node("Div", scores, [TOKEN**0.5]), axis=2), -1, 2, WINDOW
    )
    importance = graph.node("ReduceSum", attention, graph.constant([1], np.int64), keepdims=0)
    rewards = graph.shape(linear(model.reward, both), -1, WINDOW)
    total = graph.node("ReduceSum", rewards, graph.constant([1], np.int64), keepdims=1)
    graph.output("importance", importance, WINDOW)
    graph.output("predicted", rewards, WINDOW)
    graph.output("redistributed", graph.node("Mul", importance, total), WINDOW)
    path = graph.save("hindsight", window=WINDOW)
    at = windows[:99]
    flat = {"s": s[at].reshape(99, -1).numpy(), "a": a[at].reshape(99, -1).numpy()}
    same(path, flat, model(s[at], a[at])[1:])


def encoder(corpus):
    """An encoder of windows of observations and actions, trained as an autoencoder."""
    torch.manual_seed(50)
    windows = corpus.windows(WINDOW)
    whole = np.concatenate([corpus.s, corpus.a], axis=1)[windows].reshape(len(windows), -1)
    down = Net(whole, np.zeros((2, EMBEDDING), np.float32))
    up = nn.Sequential(nn.Linear(EMBEDDING, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, whole.shape[1]))
    x = torch.tensor(whole)
    loss = lambda rows: (
        (up(torch.tanh(down.raw(x[rows]))) - (x[rows] - down.mean) / down.scale) ** 2
    ).mean()
    fit(
        [*down.parameters(), *up.parameters()],
        loss,
        torch.arange(len(x)),
        2000,
        torch.Generator().manual_seed(50),
    )
    graph = Graph([("s", [WINDOW * 11]), ("a", [WINDOW * 3])])
    together = graph.node(
        "Concat", graph.shape("s", -1, WINDOW, 11), graph.shape("a", -1, WINDOW, 3), axis=2
    )
    graph.output(
        "z",
        graph.node("Tanh", graph.net(down, graph.shape(together, -1, WINDOW * 14), raw=True)),
        EMBEDDING,
    )
    s, a = corpus.s[windows[:99]].reshape(99, -1), corpus.a[windows[:99]].reshape(99, -1)
    same(graph.save("encoder", window=WINDOW), {"s": s, "a": a}, [torch.tanh(down.raw(x[:99]))])


def dynamics_reward(corpus):
    """MOREC's reward of a transition: how real it looks to discriminators.

    These are trained to tell real transitions from those with a shifted next observation.
    """
    nets, generator = [], np.random.default_rng(60)
    real = np.concatenate([corpus.s, corpus.a, corpus.s_next - corpus.s], axis=1)
    scale = (corpus.s_next - corpus.s).std(0)
    for member in range(MEMBERS["discriminator"]):
        moved = real.copy()
        moved[:, 14:] += (
            generator.normal(size=moved[:, 14:].shape).astype(np.float32)
            * scale
            * generator.uniform(0.05, 1, (len(moved), 1)).astype(np.float32)
        )
        torch.manual_seed(61 + member)
        x = torch.tensor(np.concatenate([real, moved]))
        y = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
        net = Net(x.numpy(), y.numpy())
        loss = lambda rows: nn.functional.binary_cross_entropy_with_logits(
            net.raw(x[rows]), y[rows]
        )
        fit(
            net.parameters(),
            loss,
            torch.arange(len(x)),
            2000,
            torch.Generator().manual_seed(61 + member),
        )
        nets.append(net.eval())
    graph = Graph([("s", [11]), ("a", [3]), ("s_next", [11])])
    together = graph.node("Concat", "s", "a", graph.node("Sub", "s_next", "s"), axis=1)
    chances = [
        graph.node(
            "Clip",
            graph.node("Sigmoid", graph.net(net, together, raw=True)),
            graph.constant(0),
            graph.constant(0.999),
        )
        for net in nets
    ]
    mean = graph.node("ReduceMean", graph.node("Concat", *chances, axis=1), axes=[1], keepdims=1)
    graph.output(
        "reward",
        graph.node(
            "Neg", graph.node("Log", graph.node("Add", graph.node("Sub", [1.0], mean), [1e-9]))
        ),
        1,
    )
    n = torch.tensor(real[:99])
    chance = torch.cat([torch.sigmoid(net.raw(n)).clamp(0, 0.999) for net in nets], 1).mean(
        1, keepdim=True
    )
    feeds = {"s": corpus.s[:99], "a": corpus.a[:99], "s_next": corpus.s_next[:99]}
    same(graph.save("dynamics_reward"), feeds, [-torch.log(1 - chance + 1e-9)])


def chunks(corpus):
    """An IDM of action chunks: four actions from the observations before and after them."""
    windows = corpus.windows(CHUNK)
    inputs = np.concatenate([corpus.s[windows[:, 0]], corpus.s_next[windows[:, -1]]], axis=1)
    net = regress(inputs, corpus.a[windows].reshape(len(windows), -1), seed=70)
    graph = Graph([("x", [11]), ("x_later", [11])])
    made = graph.net(net, graph.node("Concat", "x", "x_later", axis=1))
    graph.output("action", graph.shape(made, -1, CHUNK, 3), CHUNK, 3)
    wanted = net(torch.tensor(inputs[:99])).reshape(-1, CHUNK, 3)
    same(graph.save("chunks"), {"x": inputs[:99, :11], "x_later": inputs[:99, 11:]}, [wanted])


def main():
    torch.set_num_threads(1)
    MODELS.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(ROOT / "hopper" / "steps" / "00000.parquet")
    for make in (value, rewards, vgdf, hindsight, encoder, dynamics_reward, chunks):
        make(corpus)


if __name__ == "__main__":
    main()
