"""RLDS and TF-Agents records, which protobuf writes, are imported; damaged ones are refused."""

import gzip
import json
import os
import shutil
import zlib

import numpy as np
import pyarrow as pa
import pytest

import oracle
from oracle import check, says, table, trajmill
from writers.rlds import Example, Made, array, encode, frame, values


def compare(made, dataset, final, shift=False):
    steps, trajectories = table(dataset), table(dataset, "trajectories")
    check(
        trajectories["length"].to_pylist()
        == [len(episode["action"]) - final for episode in made.episodes],
        "lengths",
    )
    cut = max(1, len(made.lengths) * 2 // 3)
    check(
        trajectories["split"].to_pylist() == ["train"] * cut + ["val"] * (len(made.lengths) - cut),
        "splits",
    )
    check(
        trajectories["file_path"].to_pylist()
        == [f"/data/{number}" for number in range(len(made.lengths))],
        "metadata",
    )
    check(
        trajectories["episode_id"].to_pylist()
        == [number * 10 for number in range(len(made.lengths))],
        "metadata",
    )
    first = 0
    for number, episode in enumerate(made.episodes):
        rows = len(episode["action"])
        own = steps.slice(first, rows)
        first += rows
        length = rows - final
        for name, column in [
            ("observation", "observation/state"),
            ("grid", "grid"),
            ("precise", "precise"),
            ("big", "big"),
            ("packed", "packed"),
        ]:
            found = array(own[name])
            check(
                found.dtype == episode[column].dtype
                and np.array_equal(found, episode[column].reshape(found.shape)),
                f"{column} of {number}",
            )
        check(own["observation/image"].to_pylist() == episode["observation/image"], "images")
        check(
            own["task"].to_pylist()
            == [text.decode() for text in episode["language_instruction"]],
            "texts",
        )
        for name in ("action", "reward", "discount"):
            found, expected = values(own[name]), episode[name][1:] if shift else episode[name]
            check(
                [value is None for value in found] == [False] * length + [True] * final,
                f"nulls of {name}",
            )
            check(
                all(
                    np.array_equal(np.float32(value), expected[row])
                    for row, value in enumerate(found[:length])
                ),
                name,
            )
        flags = {
            name: np.flatnonzero(own[name].to_numpy(zero_copy_only=False)).tolist()
            for name in ("terminated", "truncated", "is_final")
        }
        check(flags["is_final"] == ([length] if final else []), "is_final")
        check(
            flags["terminated" if number % 2 == 0 else "truncated"] == [length - 1]
            and flags["truncated" if number % 2 == 0 else "terminated"] == [],
            f"ends: {flags}",
        )
    types = {
        name: steps[name].type.value_type
        if pa.types.is_nested(steps[name].type)
        else steps[name].type
        for name in ("grid", "precise", "big", "packed")
    }
    check(
        types
        == {"grid": pa.uint8(), "precise": pa.float64(), "big": pa.uint64(), "packed": pa.int16()},
        f"types: {types}",
    )


# --- imports

LENGTHS = [4, 1, 300, 7]
PACK = {"plain": None, "gzip": gzip.compress, "zlib": zlib.compress}


@pytest.mark.parametrize("final", [0, 1])
@pytest.mark.parametrize("packing", PACK)
def test_rlds_is_imported_value_by_value(tmp_path, final, packing):
    made = Made(LENGTHS, final)
    made.write(f"{tmp_path}/set", pack=PACK[packing])
    trajmill("import", tmp_path / "set", tmp_path / "in")
    compare(made, tmp_path / "in", final)


def test_a_last_action_of_zeros_is_an_action_where_the_user_says_so(tmp_path):
    made = Made(LENGTHS, 1)
    made.write(f"{tmp_path}/set")
    trajmill("import", tmp_path / "set", tmp_path / "in", "--final-action", "valid")
    compare(made, tmp_path / "in", 0)


def test_an_episode_of_one_step_cannot_end_with_filler(tmp_path):
    """It would have no step."""
    Made(LENGTHS, 0).write(f"{tmp_path}/set")
    trajmill("import", tmp_path / "set", tmp_path / "in", "--final-action", "filler", code=1)


@pytest.fixture(scope="module")
def late(shared):
    """Episodes whose actions and rewards stand a step late, as in logs of dm_env."""
    made = Made([4, 2, 9], 1, seed=4)
    for episode in made.episodes:
        episode["action"][-1], episode["reward"][-1] = 1, 1
    made.write(f"{shared}/late")
    return made, shared / "late"


def test_actions_that_stand_a_step_late_are_aligned(late, tmp_path):
    made, source = late
    trajmill("import", source, tmp_path / "in", "--alignment", "rsa")
    compare(made, tmp_path / "in", 1, shift=True)


def test_a_pipeline_aligns_its_source(late, tmp_path):
    made, source = late
    stages = [{"materialise": {"path": "out"}}]
    source = {"path": str(source), "format": "rlds", "final_action": "filler", "alignment": "rsa"}
    trajmill("run", oracle.pipeline(tmp_path / "pipeline.yaml", source, stages))
    compare(made, tmp_path / "out", 1, shift=True)


def test_the_folder_of_a_version_is_found(late, tmp_path):
    """One level up, as TFDS lays versions out."""
    made, source = late
    shutil.copytree(source, tmp_path / "name" / "1.0.0")
    trajmill("import", tmp_path / "name", tmp_path / "in", "--alignment", "rsa")
    compare(made, tmp_path / "in", 1, shift=True)


# --- damage

MADE = Made([4, 5, 6], 1)
RECORDS = list(MADE.records())
TRAIN = "set-train.tfrecord-00000-of-00002"


def edit(name, change):
    def damage(root):
        with open(f"{root}/{name}") as file:
            value = json.load(file)
        change(value)
        with open(f"{root}/{name}", "w") as file:
            json.dump(value, file)

    return damage


def flip(root):
    with open(f"{root}/{TRAIN}", "rb") as file:
        data = bytearray(file.read())
    data[len(data) // 2] ^= 8
    with open(f"{root}/{TRAIN}", "wb") as file:
        file.write(data)


def replace(*records):
    def damage(root):
        with open(f"{root}/{TRAIN}", "wb") as file:
            file.write(frame(records))

    return damage


def features(value):
    return value["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"][
        "features"
    ]


def short_of_a_reward():
    record = Example.FromString(RECORDS[0])
    del record.features.feature["steps/reward"].float_list.value[-1]
    return record.SerializeToString()


@pytest.mark.parametrize(
    "damage, wanted",
    [
        (lambda root: os.remove(f"{root}/{TRAIN}"), [TRAIN, "missing"]),
        (lambda root: os.truncate(f"{root}/{TRAIN}", 100), [TRAIN, "record 0", "ends"]),
        (flip, [TRAIN, "record", "checksum"]),
        (replace(*RECORDS[:1] * 3), [TRAIN, "3 records", "says 1"]),
        (replace(b"\xff\xff\xff"), ["not a tf.train.Example"]),
        (replace(short_of_a_reward()), ["record 0", "`steps/reward`", "4 values"]),
        (
            edit(
                "features.json",
                lambda value: features(value)["action"]["tensor"]["shape"].update(dimensions=["3"]),
            ),
            ["`steps/action`"],
        ),
        (
            edit("features.json", lambda value: value["featuresDict"]["features"].pop("steps")),
            ["`steps`", "features.json"],
        ),
        (
            edit("features.json", lambda value: features(value).pop("observation")),
            ["`observation`"],
        ),
        (
            edit("dataset_info.json", lambda value: value.update(fileFormat="array_record")),
            ["array_record", "tfrecord"],
        ),
        (
            edit("dataset_info.json", lambda value: value["splits"][0].update(shardLengths=["x"])),
            ["`shardLengths`"],
        ),
        (
            lambda root: open(f"{root}/features.json", "w").write('{"a": Infinity}'),
            ["features.json", "not JSON"],
        ),
    ],
    ids=[
        "no-shard",
        "cut-shard",
        "flipped-bit",
        "too-many-records",
        "no-example",
        "short-of-a-reward",
        "other-shape",
        "no-steps",
        "no-observation",
        "array-record",
        "shard-lengths",
        "infinity",
    ],
)
def test_damaged_rlds_is_refused(tmp_path, damage, wanted):
    root = tmp_path / "set"
    MADE.write(str(root))
    damage(root)
    done = trajmill("import", root, tmp_path / "none", code=1)
    check(len(oracle.errors(done)) == 1 and not (tmp_path / "none").exists(), done.stderr)
    says(done.stderr, wanted, "damaged RLDS")


# --- TF-Agents


def test_tf_agents_records_are_imported(tmp_path):
    random = np.random.default_rng(1)
    records, expected = [], []
    for length in (3, 1, 40):
        observations, actions = (
            random.normal(size=(length + 1, 3)).astype(np.float32),
            random.normal(size=(length, 2)).astype(np.float32),
        )
        expected.append((observations, actions))
        for row in range(length + 1):
            boundary = row == length
            kind = 2 if boundary else int(row > 0)
            value = {
                "observation": observations[row],
                "action": np.zeros(2, np.float32) if boundary else actions[row],
                "reward": np.float32(row),
                "discount": np.float32(row + 1 != length),
                "step_type": np.int32(kind),
                "next_step_type": np.int32(0 if boundary else 2 if row + 1 == length else 1),
            }
            records.append(encode({key: [np.asarray(own).tobytes()] for key, own in value.items()}))
    os.makedirs(f"{tmp_path}/steps")
    with open(f"{tmp_path}/steps/set.tfrecord", "wb") as file:
        file.write(frame(records))
    trajmill("import", f"{tmp_path}/steps", f"{tmp_path}/out")
    steps, trajectories = table(f"{tmp_path}/out"), table(f"{tmp_path}/out", "trajectories")
    check(
        trajectories["length"].to_pylist() == [3, 1, 40]
        and trajectories["terminated"].to_pylist() == [True] * 3,
        "episodes",
    )
    check(
        np.array_equal(
            np.array(steps["observation"].to_pylist(), np.float32),
            np.concatenate([pair[0] for pair in expected]),
        ),
        "observations",
    )
    found = [np.float32(value) for value in values(steps["action"]) if value is not None]
    check(
        np.array_equal(np.array(found), np.concatenate([pair[1] for pair in expected])), "actions"
    )


@pytest.mark.parametrize(
    "how, length, rewards",
    [("auto", 4, [0, 1, 2, 3]), ("valid", 4, [0, 1, 2, 3]), ("filler", 3, [0, 1, 2, None])],
    ids=["auto", "valid", "filler"],
)
def test_a_last_tf_agents_record_is_a_step_or_a_boundary(tmp_path, how, length, rewards):
    """Some writers put the last step where others put a boundary: its action is not zero."""
    random = np.random.default_rng(1)
    records = [
        encode(
            {
                key: [np.asarray(own).tobytes()]
                for key, own in {
                    "observation": random.normal(size=3).astype(np.float32),
                    "action": random.normal(size=2).astype(np.float32),
                    "reward": np.float32(row),
                    "discount": np.float32(row != 3),
                    "step_type": np.int32(0 if row == 0 else 2 if row == 3 else 1),
                    "next_step_type": np.int32(2 if row == 2 else 0 if row == 3 else 1),
                }.items()
            }
        )
        for row in range(4)
    ]
    with open(f"{tmp_path}/set.tfrecord", "wb") as file:
        file.write(frame(records))
    trajmill("import", f"{tmp_path}/set.tfrecord", f"{tmp_path}/{how}", "--final-action", how)
    steps, trajectories = table(tmp_path / how), table(tmp_path / how, "trajectories")
    check(
        (trajectories["length"].to_pylist(), steps["reward"].to_pylist()) == ([length], rewards),
        f"a last record that is {how}",
    )
    check(trajectories["terminated"].to_pylist() == [how != "filler"], f"the end where it is {how}")
