"""RLDS that trajmill writes is read with protobuf, and comes back.

Where tensorflow_datasets is installed, it reads what trajmill writes, and the other way round.
"""

import json
import os

import numpy as np
import pytest

from oracle import check, table, trajmill
from writers.hdf5 import d4rl
from writers.rlds import Made, unframe, values

# --- exports


def listed(feature, dtype, encoded):
    if encoded:
        return np.frombuffer(b"".join(feature.bytes_list.value), dtype)
    found = feature.float_list.value if np.dtype(dtype).kind == "f" else feature.int64_list.value
    return np.array(found).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exported_records_hold_every_value_and_come_back(tmp_path, dtype):
    lengths, root = [5, 1, 400, 17], tmp_path / "rlds"
    arrays = d4rl(tmp_path / "set.hdf5", lengths, dtype=dtype, unsigned=True)
    trajmill("import", tmp_path / "set.hdf5", tmp_path / "made")
    trajmill("export", tmp_path / "made", root, "--to", "rlds", "--name", "hopper")
    with open(f"{root}/dataset_info.json") as file:
        info = json.load(file)
    (split,) = info["splits"]
    check(
        (info["name"], split["name"], split["shardLengths"]) == ("hopper", "train", ["4"]),
        "dataset_info",
    )
    records = list(unframe(f"{root}/hopper-train.tfrecord-00000-of-00001"))
    check(len(records) == 4, "one record an episode")
    first = 0
    for number, (record, length) in enumerate(zip(records, lengths)):
        rows = slice(first, first + length)
        first += length
        wide = np.dtype(dtype) == np.float64
        observations = np.concatenate(
            [arrays["observations"][rows], arrays["next_observations"][rows][-1:]]
        )
        zero = lambda column: np.concatenate([column[rows], np.zeros_like(column[:1])])
        for key, expected in [
            ("observation", observations),
            ("action", zero(arrays["actions"])),
            ("reward", zero(arrays["rewards"])),
        ]:
            check(
                np.array_equal(listed(record[f"steps/{key}"], dtype, wide), expected.ravel()),
                f"{key} of {number}",
            )
        check(
            np.array_equal(
                listed(record["steps/infos/count"], np.uint64, False)[:-1],
                arrays["infos/count"][rows],
            ),
            "infos",
        )
        flag = lambda key: list(record[f"steps/{key}"].int64_list.value)
        last = [0] * length + [1]
        check(
            flag("is_first") == [1] + [0] * length
            and flag("is_last") == last
            and flag("is_final") == last,
            "marks",
        )
        check(
            flag("is_terminal") == (last if number % 2 == 0 else [0] * (length + 1)), "is_terminal"
        )
        check(flag("action_valid") == [1] * length + [0], "action_valid")
    trajmill("import", root, tmp_path / "back")
    before, after = table(tmp_path / "made"), table(tmp_path / "back")
    for column in [
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
        "is_final",
        "infos/count",
        "trajectory_id",
        "step",
    ]:
        check(
            before[column].combine_chunks().to_pylist()
            == after[column].combine_chunks().to_pylist(),
            f"{column} there and back",
        )
        check(before[column].type == after[column].type, f"the type of {column} there and back")
    check(
        table(tmp_path / "made", "trajectories")["uid"].equals(
            table(tmp_path / "back", "trajectories")["uid"]
        ),
        "uid there and back",
    )


# --- TFDS itself


def tfds():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets

    return tensorflow_datasets


@pytest.mark.reference("tensorflow_datasets")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tfds_reads_what_is_exported(tmp_path, dtype):
    lengths = [5, 1, 60]
    arrays = d4rl(tmp_path / "set.hdf5", lengths, dtype=dtype, unsigned=True)
    trajmill("import", tmp_path / "set.hdf5", tmp_path / "made")
    trajmill("export", tmp_path / "made", tmp_path / "rlds", "--to", "rlds")
    builder = tfds().builder_from_directory(str(tmp_path / "rlds"))
    first = 0
    episodes = list(tfds().as_numpy(builder.as_dataset(split="train")))
    check(len(episodes) == 3, "episodes by TFDS")
    for episode, length in zip(episodes, lengths):
        steps = list(episode["steps"])
        check(
            len(steps) == length + 1 and steps[-1]["is_last"] and not steps[-1]["action_valid"],
            "steps by TFDS",
        )
        check(
            np.array_equal(
                [step["observation"] for step in steps[:-1]],
                arrays["observations"][first : first + length],
            ),
            "observations by TFDS",
        )
        check(
            np.array_equal(
                steps[-1]["observation"], arrays["next_observations"][first + length - 1]
            ),
            "final observations by TFDS",
        )
        check(
            np.array_equal(
                [step["action"] for step in steps[:-1]], arrays["actions"][first : first + length]
            ),
            "actions by TFDS",
        )
        check(
            np.array_equal(
                [step["infos"]["count"] for step in steps[:-1]],
                arrays["infos/count"][first : first + length],
            ),
            "infos by TFDS",
        )
        check(steps[0]["observation"].dtype == dtype, "types by TFDS")
        first += length


@pytest.mark.reference("tensorflow_datasets")
def test_what_a_tfds_builder_writes_is_imported(tmp_path):
    library = tfds()
    made = Made([4, 1, 30], 1)

    class Builder(library.core.GeneratorBasedBuilder):
        name, VERSION = "oracle", library.core.Version("1.0.0")
        pkg_dir_path = None

        def _info(self):
            features = library.features.FeaturesDict(
                {
                    "steps": library.features.Dataset(
                        {
                            "observation": library.features.FeaturesDict(
                                {"state": library.features.Tensor(shape=(3,), dtype=np.float32)}
                            ),
                            "action": library.features.Tensor(shape=(2,), dtype=np.float32),
                            "reward": np.float32,
                            "grid": library.features.Tensor(shape=(2, 2), dtype=np.uint8),
                            "precise": library.features.Tensor(
                                shape=(2,), dtype=np.float64, encoding="bytes"
                            ),
                            "packed": library.features.Tensor(
                                shape=(3,), dtype=np.int16, encoding="zlib"
                            ),
                            "language_instruction": library.features.Text(),
                            "is_first": np.bool_,
                            "is_last": np.bool_,
                            "is_terminal": np.bool_,
                        }
                    ),
                    "episode_metadata": library.features.FeaturesDict(
                        {"file_path": library.features.Text()}
                    ),
                }
            )
            return library.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, episode in enumerate(made.episodes):
                rows = len(episode["action"])
                names = [
                    "action",
                    "reward",
                    "grid",
                    "precise",
                    "packed",
                    "is_first",
                    "is_last",
                    "is_terminal",
                    "language_instruction",
                ]
                yield (
                    number,
                    {
                        "steps": [
                            {
                                **{key: episode[key][row] for key in names},
                                "observation": {"state": episode["observation/state"][row]},
                            }
                            for row in range(rows)
                        ],
                        "episode_metadata": {"file_path": f"/data/{number}"},
                    },
                )

    builder = Builder(data_dir=f"{tmp_path}/tfds")
    builder.download_and_prepare(
        download_config=library.download.DownloadConfig(try_download_gcs=False)
    )
    trajmill("import", str(builder.data_path), tmp_path / "in")
    steps, trajectories = table(tmp_path / "in"), table(tmp_path / "in", "trajectories")
    first = 0
    for row, path in enumerate(trajectories["file_path"].to_pylist()):  # TFDS shuffles episodes
        episode = made.episodes[int(path.rsplit("/", 1)[1])]
        count = len(episode["action"])
        own = steps.slice(first, count)
        first += count
        for column, key in [
            ("observation", "observation/state"),
            ("grid", "grid"),
            ("precise", "precise"),
            ("packed", "packed"),
        ]:
            found = np.array(own[column].to_pylist()).astype(episode[key].dtype)
            check(np.array_equal(found, episode[key].reshape(found.shape)), f"{key} of TFDS")
        found = np.array([np.float32(value) for value in values(own["action"])[:-1]])
        check(np.array_equal(found, episode["action"][:-1]), "actions of TFDS")
