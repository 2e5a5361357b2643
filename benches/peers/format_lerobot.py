#!/usr/bin/env python3
"""LeRobot v3.0 with its own library: format_lerobot.py import SOURCE OUT | export DATASET OUT

The import reads the loader's table one episode at a time, which is faster than item by item. The
export uses LeRobot's recorder, frame by frame. LeRobot has no place for final observations, so the
import fills in zeros, and they are not compared.
"""

import numpy as np
import rows
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FEATURES = ["observation.state", "action", "next.reward", "next.done", "next.truncated"]


def episodes(path):
    dataset = LeRobotDataset("bench/set", root=path)
    table = dataset.hf_dataset.select_columns(FEATURES).with_format("numpy")
    start = 0
    for length in dataset.meta.episodes["length"]:
        part = table[start : start + length]
        state, action, reward, done, cut = (np.asarray(part[name]) for name in FEATURES)
        yield {
            "observation": np.concatenate([state, np.zeros_like(state[:1])]),
            "action": action,
            "reward": reward.reshape(-1),
            "terminated": done.reshape(-1)[-1],
            "truncated": cut.reshape(-1)[-1],
        }
        start += length


def write(episodes, path):
    recorder = None
    for episode in episodes:
        if recorder is None:
            feature = lambda dtype, *shape: {"dtype": dtype, "shape": shape, "names": None}
            shapes = [
                ("float32", *episode["observation"].shape[1:]),
                ("float32", *episode["action"].shape[1:]),
                ("float32", 1),
                ("bool", 1),
                ("bool", 1),
            ]
            features = {name: feature(*shape) for name, shape in zip(FEATURES, shapes)}
            recorder = LeRobotDataset.create(
                "bench/set", fps=30, root=path, features=features, use_videos=False
            )
        length = len(episode["action"])
        reward = episode["reward"].astype(np.float32)
        for row in range(length):
            last = row + 1 == length
            frame = [
                episode["observation"][row],
                episode["action"][row],
                reward[row : row + 1],
                np.array([last and episode["terminated"]]),
                np.array([last and episode["truncated"]]),
            ]
            recorder.add_frame(dict(zip(FEATURES, frame)) | {"task": "walk"})
        recorder.save_episode()
    if hasattr(recorder, "finalize"):
        recorder.finalize()


if __name__ == "__main__":
    rows.command(episodes, write)
