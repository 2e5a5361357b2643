#!/usr/bin/env python3
"""D4RL's HDF5 with h5py, as in D4RL: format_d4rl.py import SOURCE OUT | export DATASET OUT

The import loads the whole file and splits it into episodes step by step, as `d4rl.sequence_dataset`
does. The export writes lists with gzip, as D4RL's `scripts/generation` do.
"""

import collections

import h5py
import numpy as np
import rows


def episodes(path):
    with h5py.File(path) as file:
        data = {
            name: file[name][()]
            for name in [
                "observations",
                "actions",
                "rewards",
                "terminals",
                "timeouts",
                "next_observations",
            ]
        }
    held = collections.defaultdict(list)
    for row in range(len(data["rewards"])):
        for name, values in data.items():
            held[name].append(values[row])
        if held["terminals"][-1] or held["timeouts"][-1]:
            arrays = {name: np.array(values) for name, values in held.items()}
            yield {
                "observation": np.concatenate(
                    [arrays["observations"], arrays["next_observations"][-1:]]
                ),
                "action": arrays["actions"],
                "reward": arrays["rewards"],
                "terminated": arrays["terminals"][-1],
                "truncated": arrays["timeouts"][-1],
            }
            held = collections.defaultdict(list)


def write(episodes, path, compression="gzip"):
    data = collections.defaultdict(list)
    for episode in episodes:
        length = len(episode["action"])
        flags = np.arange(length) == length - 1
        data["observations"].append(episode["observation"][:-1])
        data["next_observations"].append(episode["observation"][1:])
        data["actions"].append(episode["action"])
        data["rewards"].append(episode["reward"].astype(np.float32))
        data["terminals"].append(flags & episode["terminated"])
        data["timeouts"].append(flags & episode["truncated"])
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file.create_dataset(name, data=np.concatenate(values), compression=compression)


if __name__ == "__main__":
    rows.command(episodes, write)
