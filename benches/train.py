"""Time of an update of `train_idm` and of PyTorch, side by side.

The network of the paper: windows of three observations of 17 values, two hidden layers of 1024 with ReLU, dropout 0.1, actions of 6,
batches of 1024, Adam; with a deterministic head, and with the Gaussian one, which is two such networks. Contestants take turns.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH, ACTIONS, HIDDEN, BATCH, WINDOW = 17, 6, 1024, 1024, 3
STEPS = 20_000
WARM_UP = 5


def corpus(folder, trajmill):
    rng = np.random.default_rng(1)
    n, length = STEPS, 100
    values = pa.list_(pa.float32())
    table = pa.table({
        "trajectory_id": pa.array(np.arange(n) // length, pa.int64()),
        "step": pa.array(np.arange(n) % length, pa.int32()),
        "observation": pa.array(list(rng.normal(size=(n, WIDTH)).astype(np.float32)), values),
        "action": pa.array(list(rng.uniform(-0.9, 0.9, (n, ACTIONS)).astype(np.float32)), values),
        "reward": pa.array(np.ones(n, np.float32)),
        "terminated": pa.array(np.arange(n) % length == length - 1),
        "truncated": pa.array(np.zeros(n, bool)),
        "is_final": pa.array(np.zeros(n, bool)),
    })
    pq.write_table(table, folder / "steps.parquet")
    subprocess.run([trajmill, "import", folder / "steps.parquet", folder / "corpus", "--from", "parquet"], check=True, capture_output=True)


def ours(folder, arguments, head):
    """Seconds of an update: the difference of a long and a short run, so that start, reading and writing are in neither."""
    short, long = (run(folder, arguments, head, updates) for updates in (arguments.short, arguments.short + arguments.updates))
    return (long - short) / arguments.updates


def run(folder, arguments, head, updates):
    options = {"out": str(folder / "idm.onnx"), "head": head, "hidden": [HIDDEN, HIDDEN], "dropout": 0.1, "batch": BATCH, "lr": 1e-4,
               "steps": updates, "validation": 0.01, "patience": 1000}
    pipeline = folder / "train.yaml"
    pipeline.write_text(json.dumps({"trajmill": 1, "source": str(folder / "corpus"), "stages": [{"train_idm": options}]}))
    for path in folder.glob("idm.*"):
        path.unlink()
    began = time.perf_counter()
    subprocess.run([arguments.trajmill, "run", pipeline, "--threads", str(arguments.threads)], check=True, capture_output=True)
    return time.perf_counter() - began


def theirs(arguments, head):
    """Seconds of an update, by PyTorch's own process after some that do not count."""
    done = subprocess.run([sys.executable, __file__, "--torch", head, "--updates", str(arguments.updates), "--threads", str(arguments.threads)], check=True, capture_output=True, text=True)
    return float(done.stdout) / arguments.updates


def torch_run(head, updates, threads):
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    inputs = torch.randn(STEPS, WINDOW * WIDTH)
    targets = torch.empty(STEPS, ACTIONS).uniform_(-0.9, 0.9)

    def mlp():
        return nn.Sequential(nn.Linear(WINDOW * WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout(0.1), nn.Linear(HIDDEN, ACTIONS))

    networks = nn.ModuleList([mlp() for _ in range(2 if head == "gaussian" else 1)])
    optimiser = torch.optim.Adam(networks.parameters(), lr=1e-4)
    done, order, began = 0, torch.randperm(STEPS), 0.0
    while True:
        for start in range(0, STEPS - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            x, action = inputs[rows], targets[rows]
            if head == "gaussian":
                mean, log_std = networks[0](x), -5 + 3.5 * (torch.tanh(networks[1](x)) + 1)
                squashed = torch.atanh(action)
                normal = torch.distributions.Normal(mean, log_std.exp())
                loss = -(normal.log_prob(squashed) - torch.log(1 - action**2)).sum(-1).mean()
            else:
                loss = ((networks[0](x) - action) ** 2).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            done += 1
            if done == WARM_UP:
                began = time.perf_counter()
            if done == WARM_UP + updates:
                return print(time.perf_counter() - began)
        order = torch.randperm(STEPS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajmill", default=str(pathlib.Path(__file__).resolve().parents[1] / "target/release/trajmill"), help="the binary; `cargo build --release`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=20, help="updates of trajmill's short run")
    parser.add_argument("--updates", type=int, default=100, help="updates that are measured")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch:
        return torch_run(arguments.torch, arguments.updates, arguments.threads)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-train-"))
    corpus(folder, arguments.trajmill)
    results = {}
    for head in ("deterministic", "gaussian"):
        times = {"trajmill": [], "pytorch": []}
        for _ in range(arguments.rounds):
            for name, run in (("trajmill", lambda: ours(folder, arguments, head)), ("pytorch", lambda: theirs(arguments, head))):
                times[name].append(run() * 1e3)
        medians = {name: statistics.median(own) for name, own in times.items()}
        results[head] = {"ms_per_update": times, "median": medians, "ratio": medians["pytorch"] / medians["trajmill"]}
        each = ", ".join(f"{name} {medians[name]:.1f} ms ({min(own):.1f} to {max(own):.1f})" for name, own in times.items())
        print(f"{head}: an update takes {each}; trajmill runs at {results[head]['ratio']:.2f} of PyTorch's speed", flush=True)
    print(json.dumps(results))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
