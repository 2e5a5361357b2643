#!/usr/bin/env python3
"""Minari with its own library: format_minari.py import SOURCE OUT | export DATASET OUT"""

import os

import minari
import numpy as np
import rows
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer


def episodes(path):
    for episode in minari.MinariDataset(path / "data").iterate_episodes():
        yield {
            "observation": episode.observations,
            "action": episode.actions,
            "reward": episode.rewards,
            "terminated": episode.terminations[-1],
            "truncated": episode.truncations[-1],
        }


def write(episodes, path):
    os.environ["MINARI_DATASETS_PATH"] = str(path.parent)
    buffers = []
    for index, episode in enumerate(episodes):
        last = np.arange(len(episode["action"])) == len(episode["action"]) - 1
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations=episode["observation"],
                actions=episode["action"],
                rewards=episode["reward"].astype(np.float32),
                terminations=last & episode["terminated"],
                truncations=last & episode["truncated"],
                infos={},
            )
        )
    box = lambda values: Box(-np.inf, np.inf, values.shape[1:], values.dtype)
    minari.create_dataset_from_buffers(
        path.name,
        buffers,
        observation_space=box(buffers[0].observations),
        action_space=box(buffers[0].actions),
        data_format="hdf5",
        algorithm_name="none",
        author="none",
        author_email="none",
        code_permalink="none",
        description="none",
    )


if __name__ == "__main__":
    rows.command(episodes, write)
