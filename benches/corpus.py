#!/usr/bin/env python3
"""Makes a seeded benchmark corpus of plain Parquet files.

    corpus.py walker --steps 10M [--recorded 0.1] OUT
    corpus.py short --trajectories 1M OUT

`walker` has the shape of walker2d, with observations of 17 and actions of 6 float32. Actions drive
8 joint positions and 9 velocities, so an inverse model has something to find. A quarter of the
trajectories reach the limit of 1000 steps and are truncated; the others end earlier and are
terminated. The mean length is about 600 steps. `--recorded` is the share of trajectories that have
actions; those of all others are null. `short` has many trajectories of 2 to 5 steps, for queries
over metadata.

    OUT/steps/00000.parquet   # one row per step; trajectories are whole, contiguous and in order
    OUT/trajectories.parquet  # one row per trajectory, for tools without metadata of their own
    OUT/corpus.json           # counts, and the median return

The values depend on the arguments only, not on the number of processes.
"""

import argparse
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LIMIT, DT = 1000, 0.02
JOINTS, VELOCITIES, ACTIONS = 8, 9, 6
OBSERVATIONS = JOINTS + VELOCITIES
SHARD_ROWS, ROW_GROUP = 312_500, 131_072


def count(text):
    """Parses `10M`, `1k` or a plain number."""
    unit = {"k": 10**3, "M": 10**6}.get(text[-1], 1)
    return int(float(text[:-1] if unit > 1 else text) * unit)


def walker_lengths(steps, seed):
    """The lengths of trajectories that have `steps` steps in total."""
    rng = np.random.default_rng([seed, 0])
    drawn = steps // 500 + 100
    lengths = np.where(rng.random(drawn) < 0.25, LIMIT, rng.integers(60, 871, drawn))
    ends = np.cumsum(lengths)
    last = int(np.searchsorted(ends, steps))
    lengths = lengths[: last + 1]
    lengths[-1] -= ends[last] - steps
    return lengths


def walk(lengths, rng):
    """Simulates trajectories of these lengths: observations, actions and rewards."""
    constants = np.random.default_rng(20_100)
    policy = constants.standard_normal((OBSERVATIONS, ACTIONS)).astype(np.float32) / np.float32(4)
    gears = constants.standard_normal((ACTIONS, VELOCITIES)).astype(np.float32)
    rows, starts = int(lengths.sum()), np.cumsum(lengths) - lengths
    observations = np.empty((rows, OBSERVATIONS), np.float32)
    actions = np.empty((rows, ACTIONS), np.float32)
    rewards = np.empty(rows, np.float32)
    # With the longest first, the trajectories that are still running are a prefix.
    order = np.argsort(-lengths, kind="stable")
    starts, sorted_lengths = starts[order], lengths[order]
    skill = rng.random((len(lengths), 1), dtype=np.float32)
    state = rng.standard_normal((len(lengths), OBSERVATIONS), dtype=np.float32) * np.float32(0.1)
    for step in range(int(lengths.max())):
        running = int(np.searchsorted(-sorted_lengths, -step, side="left"))
        state, skill = state[:running], skill[:running]
        at = starts[:running] + step
        noise = rng.standard_normal((running, ACTIONS + VELOCITIES), dtype=np.float32)
        action = np.tanh(state @ policy * skill + noise[:, :ACTIONS] * (np.float32(1.2) - skill))
        position, velocity = state[:, :JOINTS], state[:, JOINTS:]
        force = action @ gears - np.float32(0.8) * velocity
        force[:, 0] += 4 * skill[:, 0]
        force[:, 1:] -= np.float32(6) * position
        moved = velocity + np.float32(DT) * force + np.float32(0.02) * noise[:, ACTIONS:]
        observations[at], actions[at] = state, action
        rewards[at] = 1 + velocity[:, 0] - np.float32(1e-3) * np.square(action).sum(1)
        state = np.concatenate([position + np.float32(DT) * moved[:, 1:], moved], axis=1)
    return observations, actions, rewards


def scatter(lengths, rng):
    """Draws observations, actions and rewards without dynamics, for short trajectories."""
    rows = int(lengths.sum())
    level = np.repeat(rng.standard_normal(len(lengths), dtype=np.float32), lengths)
    draw = rng.standard_normal((rows, 4), dtype=np.float32)
    return draw[:, :2], draw[:, 2:3], level + draw[:, 3]


def vectors(values):
    """A column of vectors without nulls."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def nullable(values, valid):
    """A column of vectors with nulls, as lists of any length.

    pyarrow before version 26 cannot read back fixed-size lists with nulls.
    """
    offsets = np.zeros(len(valid) + 1, np.int32)
    np.cumsum(np.where(valid, values.shape[1], 0), out=offsets[1:])
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values[valid].ravel()), mask=pa.array(~valid)
    )


def write_shard(job):
    """Writes one shard of steps and returns its trajectories."""
    out, kind, index, first, lengths, recorded_share, seed = job
    rng = np.random.default_rng([seed, 1, index])
    recorded = rng.random(len(lengths)) < recorded_share
    observations, actions, rewards = (walk if kind == "walker" else scatter)(lengths, rng)
    starts = np.cumsum(lengths) - lengths
    truncated = lengths == LIMIT if kind == "walker" else rng.random(len(lengths)) < 0.5
    row = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(len(row)) - starts[row]
    last = step + 1 == lengths[row]
    columns = {
        "trajectory_id": pa.array(first + row, pa.int64()),
        "step": pa.array(step, pa.int32()),
        "observation": vectors(observations),
        "action": nullable(actions, recorded[row]),
        "reward": pa.array(rewards),
        "terminated": pa.array(last & ~truncated[row]),
        "truncated": pa.array(last & truncated[row]),
    }
    path = out / "steps" / f"{index:05}.parquet"
    pq.write_table(
        pa.table(columns),
        path,
        compression="zstd",
        compression_level=1,
        row_group_size=ROW_GROUP,
        use_dictionary=["trajectory_id"],
    )
    returns = np.add.reduceat(rewards.astype(np.float64), starts)
    return {
        "trajectory_id": np.arange(first, first + len(lengths)),
        "length": lengths.astype(np.int64),
        "return": returns,
        "labelled": recorded,
        "terminated": ~truncated,
        "truncated": truncated,
        "shard": np.full(len(lengths), index, np.int32),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["walker", "short"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=count, default=10**6, help="steps of a walker corpus")
    parser.add_argument(
        "--trajectories", type=count, default=10**6, help="trajectories of a short corpus"
    )
    parser.add_argument(
        "--recorded", type=float, default=0.1, help="share of trajectories that have actions"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.kind == "walker":
        lengths = walker_lengths(args.steps, args.seed)
    else:
        lengths = np.random.default_rng([args.seed, 0]).integers(2, 6, args.trajectories)
    # A shard ends with the first trajectory that reaches its target size.
    ends = np.cumsum(lengths)
    cuts = np.searchsorted(ends, np.arange(SHARD_ROWS, ends[-1], SHARD_ROWS)) + 1
    cuts = np.unique(np.concatenate([[0], cuts, [len(lengths)]]))
    (args.out / "steps").mkdir(parents=True)
    jobs = [
        (args.out, args.kind, index, int(start), lengths[start:stop], args.recorded, args.seed)
        for index, (start, stop) in enumerate(zip(cuts[:-1], cuts[1:]))
    ]
    with multiprocessing.Pool(args.processes) as pool:
        parts = pool.map(write_shard, jobs, chunksize=1)
    table = pa.table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    # DuckDB writes row groups of this size itself, so its threads can share the work.
    pq.write_table(
        table,
        args.out / "trajectories.parquet",
        compression="zstd",
        compression_level=1,
        row_group_size=122_880,
    )
    recorded = table["labelled"].to_numpy()
    facts = {
        "steps": int(lengths.sum()),
        "trajectories": len(lengths),
        "recorded_steps": int(lengths[recorded].sum()),
        # A window with one future step fits everywhere except at the last step.
        "to_label": int((lengths[~recorded] - 1).sum()),
        "median_return": float(np.median(table["return"].to_numpy())),
        "seed": args.seed,
    }
    # This file is written last, so a corpus without it is incomplete.
    (args.out / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(
        f"{args.out}: {facts['steps']} steps, {facts['trajectories']} trajectories "
        f"in {len(jobs)} file{'s' if len(jobs) != 1 else ''}"
    )


if __name__ == "__main__":
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    main()
