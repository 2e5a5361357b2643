"""Minari datasets: by its own functions, or by h5py where Minari would refuse to write them."""

import json
import os

import h5py
import minari
import numpy as np


def files(folder, name, lengths, broken=()):
    """Writes a dataset with h5py and returns its path.

    The `broken` episodes have one reward too many.
    """
    random = np.random.default_rng(8)
    data = os.path.join(folder, name, "data")
    os.makedirs(data)
    space = lambda width: json.dumps(
        {
            "type": "Box",
            "dtype": "float32",
            "shape": [width],
            "low": [-1.0] * width,
            "high": [1.0] * width,
        }
    )
    json.dump(
        {
            "total_episodes": len(lengths),
            "total_steps": sum(lengths),
            "data_format": "hdf5",
            "dataset_id": "a/b-v0",
            "minari_version": "0.5.0",
            "observation_space": space(2),
            "action_space": space(1),
        },
        open(os.path.join(data, "metadata.json"), "w"),
    )
    with h5py.File(os.path.join(data, "main_data.hdf5"), "w") as file:
        for index, length in enumerate(lengths):
            group = file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "total_steps": length})
            group["observations"] = random.normal(size=(length + 1, 2)).astype(np.float32)
            group["actions"] = random.uniform(-1, 1, (length, 1)).astype(np.float32)
            group["rewards"] = np.arange(length + (index in broken), dtype=np.float64)
            group["terminations"] = np.arange(length) == length - 1
            group["truncations"] = np.zeros(length, bool)
    return os.path.join(folder, name)


def buffers(lengths, seed, width=2):
    from minari.data_collector import EpisodeBuffer

    random = np.random.default_rng(seed)
    for index, length in enumerate(lengths):
        yield EpisodeBuffer(
            id=index,
            seed=100 + index,
            observations=random.normal(size=(length + 1, width)),
            actions=random.uniform(-1, 1, (length, 1)).astype(np.float32),
            rewards=list(random.normal(size=length)),
            terminations=[row + 1 == length for row in range(length)],
            truncations=[False] * length,
            infos={},
        )


def dataset(name, lengths, seed, backend="hdf5", **more):
    from gymnasium.spaces import Box

    spaces = (
        {}
        if "env" in more
        else {
            "observation_space": Box(-np.inf, np.inf, (2,), np.float64),
            "action_space": Box(-1, 1, (1,), np.float32),
        }
    )
    made = list(buffers(lengths, seed, more.pop("width", 2)))
    minari.create_dataset_from_buffers(
        name,
        buffer=list(made),
        data_format=backend,
        algorithm_name="made",
        code_permalink="none",
        author="a",
        author_email="b@c.de",
        description="d",
        **spaces,
        **more,
    )
    return made, os.path.join(os.environ["MINARI_DATASETS_PATH"], name)
