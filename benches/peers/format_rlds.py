#!/usr/bin/env python3
"""RLDS with TensorFlow Datasets: format_rlds.py import SOURCE OUT | export DATASET OUT"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import rows
import tensorflow_datasets as tfds


def episodes(path):
    builder = tfds.builder_from_directory(path)
    # One batch of all steps of an episode is faster than single steps.
    gather = lambda episode: next(iter(episode["steps"].batch(1 << 20)))
    for episode in builder.as_dataset(split="train", shuffle_files=False):
        steps = {name: column.numpy() for name, column in gather(episode).items()}
        terminated = steps["is_terminal"][-1]
        yield {
            "observation": steps["observation"],
            "action": steps["action"][:-1],
            "reward": steps["reward"][:-1],
            "terminated": terminated,
            "truncated": not terminated,
        }


def write(episodes, path):
    features = tfds.features.FeaturesDict(
        {
            "steps": tfds.features.Dataset(
                {
                    "observation": tfds.features.Tensor(shape=(17,), dtype=np.float32),
                    "action": tfds.features.Tensor(shape=(6,), dtype=np.float32),
                    "reward": np.float32,
                    "discount": np.float32,
                    "is_first": np.bool_,
                    "is_last": np.bool_,
                    "is_terminal": np.bool_,
                    "is_final": np.bool_,
                }
            )
        }
    )

    class Bench(tfds.core.GeneratorBasedBuilder):
        name, VERSION, pkg_dir_path = "bench", tfds.core.Version("1.0.0"), None

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, episode in enumerate(episodes):
                yield index, {"steps": list(steps(episode))}

    builder = Bench(data_dir=path)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )


def steps(episode):
    """The steps of an episode. The last one has the final observation and zeros."""
    length = len(episode["action"])
    nothing = np.zeros_like(episode["action"][0])
    for row in range(length + 1):
        final, last = row == length, row + 1 == length
        yield {
            "observation": episode["observation"][row],
            "action": nothing if final else episode["action"][row],
            "reward": np.float32(0 if final else episode["reward"][row]),
            "discount": np.float32(not (last and episode["terminated"])),
            "is_first": row == 0,
            "is_last": final,
            "is_terminal": final and bool(episode["terminated"]),
            "is_final": final,
        }


if __name__ == "__main__":
    rows.command(episodes, write)
