#!/usr/bin/env python3
"""robomimic's HDF5 with h5py, as in its conversion scripts.

format_robomimic.py import SOURCE OUT | export DATASET OUT
"""

import json

import h5py
import numpy as np
import rows


def episodes(path):
    with h5py.File(path) as file:
        data = file["data"]
        for name in sorted(data, key=lambda name: int(name[5:])):
            demo = data[name]
            observation, done = demo["obs/observation"][()], demo["dones"][()][-1]
            yield {
                "observation": np.concatenate([observation, demo["next_obs/observation"][-1:]]),
                "action": demo["actions"][()],
                "reward": demo["rewards"][()],
                "terminated": done == 1,
                "truncated": done == 0,
            }


def write(episodes, path):
    with h5py.File(path, "w") as file:
        data, total = file.create_group("data"), 0
        for index, episode in enumerate(episodes):
            demo, length = data.create_group(f"demo_{index}"), len(episode["action"])
            demo.create_dataset("obs/observation", data=episode["observation"][:-1])
            demo.create_dataset("next_obs/observation", data=episode["observation"][1:])
            demo.create_dataset("actions", data=episode["action"])
            demo.create_dataset("rewards", data=episode["reward"].astype(np.float32))
            demo.create_dataset(
                "dones",
                data=((np.arange(length) == length - 1) & episode["terminated"]).astype(np.int64),
            )
            demo.attrs["num_samples"] = length
            total += length
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps({"env_name": "", "type": 2, "env_kwargs": {}})


if __name__ == "__main__":
    rows.command(episodes, write)
