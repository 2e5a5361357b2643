#!/usr/bin/env python3
"""D4RL's HDF5 with h5py, tuned: whole arrays, no loop over steps, no compression.

format_d4rl_tuned.py import SOURCE OUT | export DATASET OUT
"""

import format_d4rl
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
    start = 0
    for end in np.flatnonzero(data["terminals"] | data["timeouts"]) + 1:
        yield {
            "observation": np.concatenate(
                [data["observations"][start:end], data["next_observations"][end - 1 : end]]
            ),
            "action": data["actions"][start:end],
            "reward": data["rewards"][start:end],
            "terminated": data["terminals"][end - 1],
            "truncated": data["timeouts"][end - 1],
        }
        start = end


if __name__ == "__main__":
    rows.command(episodes, lambda episodes, path: format_d4rl.write(episodes, path, None))
