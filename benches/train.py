"""Compares the time of an update of `train_idm` with that of PyTorch.

The network is that of the SS-ORL paper: windows of three observations of 17 values, two hidden
layers of 1024 with ReLU, dropout 0.1, actions of 6, batches of 1024, Adam. It has a deterministic
head or a Gaussian one, which needs two such networks. The programs run alternately. The table gives
the median, the smallest and the largest value of all rounds, and the largest share of the
processors that other processes used.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import measure

BENCHES = pathlib.Path(__file__).resolve().parent

WIDTH, ACTIONS, HIDDEN, BATCH, WINDOW = 17, 6, 1024, 1024, 3
STEPS = 20_000


def corpus(folder, trajmill):
    """Makes the dataset that trajmill trains on."""
    rng = np.random.default_rng(1)
    n, length = STEPS, 100
    values = pa.list_(pa.float32())
    table = pa.table(
        {
            "trajectory_id": pa.array(np.arange(n) // length, pa.int64()),
            "step": pa.array(np.arange(n) % length, pa.int32()),
            "observation": pa.array(list(rng.normal(size=(n, WIDTH)).astype(np.float32)), values),
            "action": pa.array(
                list(rng.uniform(-0.9, 0.9, (n, ACTIONS)).astype(np.float32)), values
            ),
            "reward": pa.array(np.ones(n, np.float32)),
            "terminated": pa.array(np.arange(n) % length == length - 1),
            "truncated": pa.array(np.zeros(n, bool)),
            "is_final": pa.array(np.zeros(n, bool)),
        }
    )
    pq.write_table(table, folder / "steps.parquet")
    subprocess.run(
        [trajmill, "import", folder / "steps.parquet", folder / "corpus", "--from", "parquet"],
        check=True,
        capture_output=True,
    )


def ours(folder, arguments, head, updates):
    """The command that trains with trajmill."""
    options = {
        "out": str(folder / "idm.onnx"),
        "head": head,
        "hidden": [HIDDEN, HIDDEN],
        "dropout": 0.1,
        "batch": BATCH,
        "lr": 1e-4,
        "steps": updates,
        "validation": 0.01,
        "patience": 1000,
        "clip_norm": 0,
    }
    pipeline = folder / "train.yaml"
    pipeline.write_text(
        json.dumps(
            {"trajmill": 1, "source": str(folder / "corpus"), "stages": [{"train_idm": options}]}
        )
    )
    for path in folder.glob("idm.*"):
        path.unlink()
    return [arguments.trajmill, "run", pipeline, "--threads", arguments.threads, "--device", "cpu"]


def theirs(folder, arguments, head, updates):
    """The command that trains with PyTorch."""
    return [
        sys.executable,
        __file__,
        "--torch",
        head,
        "--updates",
        updates,
        "--threads",
        arguments.threads,
    ]


def per_update(command, folder, arguments, head):
    """Milliseconds per update, from the difference between a long and a short run.

    The difference excludes the start, reading and writing.
    """
    short, long = (
        measure.once(command(folder, arguments, head, updates))
        for updates in (arguments.short, arguments.short + arguments.updates)
    )
    wall, cpu = (1e3 * (long[key] - short[key]) / arguments.updates for key in ("wall_s", "cpu_s"))
    return {
        "wall_ms": round(wall, 2),
        "cpu_ms": round(cpu, 2),
        "others": max(short["others"], long["others"]),
    }


def torch_run(head, updates, threads):
    """Trains with PyTorch."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    inputs = torch.randn(STEPS, WINDOW * WIDTH)
    targets = torch.empty(STEPS, ACTIONS).uniform_(-0.9, 0.9)

    def mlp():
        return nn.Sequential(
            nn.Linear(WINDOW * WIDTH, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(HIDDEN, ACTIONS),
        )

    networks = nn.ModuleList([mlp() for _ in range(2 if head == "gaussian" else 1)])
    optimiser = torch.optim.Adam(networks.parameters(), lr=1e-4)
    done, order = 0, torch.randperm(STEPS)
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
            if done == updates:
                return
        order = torch.randperm(STEPS)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trajmill",
        default=str(BENCHES.parent / "target/release/trajmill"),
        help="trajmill's binary [target/release/trajmill]",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds [3]")
    parser.add_argument("--short", type=int, default=20, help="updates of the short run [20]")
    parser.add_argument("--updates", type=int, default=100, help="updates that are measured [100]")
    parser.add_argument(
        "--threads",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="threads of each program [2]",
    )
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=BENCHES / "results",
        help="directory for the results [benches/results]",
    )
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch:
        return torch_run(arguments.torch, arguments.updates, arguments.threads)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-train-"))
    corpus(folder, arguments.trajmill)
    heads, lines = (
        {},
        [
            "| head | trajmill, ms per update | PyTorch, ms per update | times as fast "
            "| CPU ms, trajmill and PyTorch | other processes |",
            "|---|---|---|---|---|---|",
        ],
    )
    for head in ("deterministic", "gaussian"):
        runs = {"trajmill": [], "pytorch": []}
        for _ in range(arguments.rounds):
            for name, command in (("trajmill", ours), ("pytorch", theirs)):
                runs[name].append(per_update(command, folder, arguments, head))
        median = lambda name, key: statistics.median(run[key] for run in runs[name])
        wall = [
            f"{median(name, 'wall_ms'):.1f} "
            f"({min(r['wall_ms'] for r in own):.1f} to {max(r['wall_ms'] for r in own):.1f})"
            for name, own in runs.items()
        ]
        ratios = {
            key: round(median("pytorch", key) / median("trajmill", key), 3)
            for key in ("wall_ms", "cpu_ms")
        }
        heads[head] = {"runs": runs, "pytorch_by_trajmill": ratios}
        cpu = " and ".join(f"{median(name, 'cpu_ms'):.0f}" for name in runs)
        others = max(run["others"] for own in runs.values() for run in own)
        lines.append(
            f"| {head} | {wall[0]} | {wall[1]} "
            f"| {ratios['wall_ms']:.2f}× (by CPU time {ratios['cpu_ms']:.2f}×) "
            f"| {cpu} | {others:.0%} |"
        )
        print(lines[-1], flush=True)
    versions = {
        "torch": importlib.metadata.version("torch"),
        "trajmill": subprocess.run(
            [arguments.trajmill, "--version"], capture_output=True, text=True
        ).stdout.strip(),
    }
    record = {
        "what": "train",
        "date": datetime.date.today().isoformat(),
        "machine": measure.machine(),
        "threads": arguments.threads,
        "versions": versions,
        "heads": heads,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    stem = f"{record['date']}-train-threads-{arguments.threads}"
    (arguments.results / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
    (arguments.results / f"{stem}.md").write_text(
        f"{__doc__}Threads of each program: {arguments.threads}.\n\n" + "\n".join(lines) + "\n"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
