"""RLDS and TF-Agents: records that protobuf writes are imported value by value, and what is exported is read with it.

Where tensorflow_datasets is installed, it reads what trajmill writes, and trajmill reads what it writes.
"""

import gzip
import json
import os
import shutil
import zlib

import numpy as np
import oracle
import pyarrow as pa
import pytest
from oracle import check, says, table, trajmill
from writers.hdf5 import d4rl
from writers.rlds import Example, Made, encode, frame, unframe

def array(column):
    """A column as one numpy array; lists of one length become its axes."""
    column = column.combine_chunks()
    if not pa.types.is_nested(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)

def values(column):
    return [None if row is None else np.array(row) for row in column.to_pylist()]

def compare(made, dataset, final, shift=False):
    steps, trajectories = table(dataset), table(dataset, "trajectories")
    check(trajectories["length"].to_pylist() == [len(episode["action"]) - final for episode in made.episodes], "lengths")
    cut = max(1, len(made.lengths) * 2 // 3)
    check(trajectories["split"].to_pylist() == ["train"] * cut + ["val"] * (len(made.lengths) - cut), "splits")
    check(trajectories["file_path"].to_pylist() == [f"/data/{number}" for number in range(len(made.lengths))], "metadata")
    check(trajectories["episode_id"].to_pylist() == [number * 10 for number in range(len(made.lengths))], "metadata")
    first = 0
    for number, episode in enumerate(made.episodes):
        rows = len(episode["action"])
        own = steps.slice(first, rows)
        first += rows
        length = rows - final
        for name, column in [("observation", "observation/state"), ("grid", "grid"), ("precise", "precise"), ("big", "big"), ("packed", "packed")]:
            found = array(own[name])
            check(found.dtype == episode[column].dtype and np.array_equal(found, episode[column].reshape(found.shape)), f"{column} of {number}")
        check(own["observation/image"].to_pylist() == episode["observation/image"], "images")
        check(own["language_instruction"].to_pylist() == [text.decode() for text in episode["language_instruction"]], "texts")
        for name in ("action", "reward", "discount"):
            found, expected = values(own[name]), episode[name][1:] if shift else episode[name]
            check([value is None for value in found] == [False] * length + [True] * final, f"nulls of {name}")
            check(all(np.array_equal(np.float32(value), expected[row]) for row, value in enumerate(found[:length])), name)
        flags = {name: np.flatnonzero(own[name].to_numpy(zero_copy_only=False)).tolist() for name in ("terminated", "truncated", "is_final")}
        check(flags["is_final"] == ([length] if final else []), "is_final")
        check(flags["terminated" if number % 2 == 0 else "truncated"] == [length - 1] and flags["truncated" if number % 2 == 0 else "terminated"] == [], f"ends: {flags}")
    types = {name: steps[name].type.value_type if pa.types.is_nested(steps[name].type) else steps[name].type for name in ("grid", "precise", "big", "packed")}
    check(types == {"grid": pa.uint8(), "precise": pa.float64(), "big": pa.uint64(), "packed": pa.int16()}, f"types: {types}")

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
    return value["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]

def short_of_a_reward():
    record = Example.FromString(RECORDS[0])
    del record.features.feature["steps/reward"].float_list.value[-1]
    return record.SerializeToString()

@pytest.mark.parametrize("damage, wanted", [
    (lambda root: os.remove(f"{root}/{TRAIN}"), [TRAIN, "missing"]),
    (lambda root: os.truncate(f"{root}/{TRAIN}", 100), [TRAIN, "record 0", "ends"]),
    (flip, [TRAIN, "record", "checksum"]),
    (replace(*RECORDS[:1] * 3), [TRAIN, "3 records", "says 1"]),
    (replace(b"\xff\xff\xff"), ["not a tf.train.Example"]),
    (replace(short_of_a_reward()), ["record 0", "`steps/reward`", "4 values"]),
    (edit("features.json", lambda value: features(value)["action"]["tensor"]["shape"].update(dimensions=["3"])), ["`steps/action`"]),
    (edit("features.json", lambda value: value["featuresDict"]["features"].pop("steps")), ["`steps`", "features.json"]),
    (edit("features.json", lambda value: features(value).pop("observation")), ["`observation`"]),
    (edit("dataset_info.json", lambda value: value.update(fileFormat="array_record")), ["array_record", "tfrecord"]),
    (edit("dataset_info.json", lambda value: value["splits"][0].update(shardLengths=["x"])), ["`shardLengths`"]),
    (lambda root: open(f"{root}/features.json", "w").write("{\"a\": Infinity}"), ["features.json", "not JSON"]),
], ids=["no-shard", "cut-shard", "flipped-bit", "too-many-records", "no-example", "short-of-a-reward", "other-shape", "no-steps", "no-observation", "array-record", "shard-lengths", "infinity"])
def test_damaged_rlds_is_refused(tmp_path, damage, wanted):
    root = tmp_path / "set"
    MADE.write(str(root))
    damage(root)
    done = trajmill("import", root, tmp_path / "none", code=1)
    check(len(oracle.errors(done)) == 1 and not (tmp_path / "none").exists(), done.stderr)
    says(done.stderr, wanted, "damaged RLDS")

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
    check((info["name"], split["name"], split["shardLengths"]) == ("hopper", "train", ["4"]), "dataset_info")
    records = list(unframe(f"{root}/hopper-train.tfrecord-00000-of-00001"))
    check(len(records) == 4, "one record an episode")
    first = 0
    for number, (record, length) in enumerate(zip(records, lengths)):
        rows = slice(first, first + length)
        first += length
        wide = np.dtype(dtype) == np.float64
        observations = np.concatenate([arrays["observations"][rows], arrays["next_observations"][rows][-1:]])
        zero = lambda column: np.concatenate([column[rows], np.zeros_like(column[:1])])
        for key, expected in [("observation", observations), ("action", zero(arrays["actions"])), ("reward", zero(arrays["rewards"]))]:
            check(np.array_equal(listed(record[f"steps/{key}"], dtype, wide), expected.ravel()), f"{key} of {number}")
        check(np.array_equal(listed(record["steps/infos/count"], np.uint64, False)[:-1], arrays["infos/count"][rows]), "infos")
        flag = lambda key: list(record[f"steps/{key}"].int64_list.value)
        last = [0] * length + [1]
        check(flag("is_first") == [1] + [0] * length and flag("is_last") == last and flag("is_final") == last, "marks")
        check(flag("is_terminal") == (last if number % 2 == 0 else [0] * (length + 1)), "is_terminal")
        check(flag("action_valid") == [1] * length + [0], "action_valid")
    trajmill("import", root, tmp_path / "back")
    before, after = table(tmp_path / "made"), table(tmp_path / "back")
    for column in ["observation", "action", "reward", "terminated", "truncated", "is_final", "infos/count", "trajectory_id", "step"]:
        check(before[column].combine_chunks().to_pylist() == after[column].combine_chunks().to_pylist(), f"{column} there and back")
        check(before[column].type == after[column].type, f"the type of {column} there and back")
    check(table(tmp_path / "made", "trajectories")["uid"].equals(table(tmp_path / "back", "trajectories")["uid"]), "uid there and back")

# --- TF-Agents

def test_tf_agents_records_are_imported(tmp_path):
    random = np.random.default_rng(1)
    records, expected = [], []
    for length in (3, 1, 40):
        observations, actions = random.normal(size=(length + 1, 3)).astype(np.float32), random.normal(size=(length, 2)).astype(np.float32)
        expected.append((observations, actions))
        for row in range(length + 1):
            boundary = row == length
            kind = 2 if boundary else int(row > 0)
            value = {"observation": observations[row], "action": np.zeros(2, np.float32) if boundary else actions[row], "reward": np.float32(row), "discount": np.float32(row + 1 != length),
                     "step_type": np.int32(kind), "next_step_type": np.int32(0 if boundary else 2 if row + 1 == length else 1)}
            records.append(encode({key: [np.asarray(own).tobytes()] for key, own in value.items()}))
    os.makedirs(f"{tmp_path}/steps")
    with open(f"{tmp_path}/steps/set.tfrecord", "wb") as file:
        file.write(frame(records))
    trajmill("import", f"{tmp_path}/steps", f"{tmp_path}/out")
    steps, trajectories = table(f"{tmp_path}/out"), table(f"{tmp_path}/out", "trajectories")
    check(trajectories["length"].to_pylist() == [3, 1, 40] and trajectories["terminated"].to_pylist() == [True] * 3, "episodes")
    check(np.array_equal(np.array(steps["observation"].to_pylist(), np.float32), np.concatenate([pair[0] for pair in expected])), "observations")
    found = [np.float32(value) for value in values(steps["action"]) if value is not None]
    check(np.array_equal(np.array(found), np.concatenate([pair[1] for pair in expected])), "actions")

@pytest.mark.parametrize("how, length, rewards", [("auto", 4, [0, 1, 2, 3]), ("valid", 4, [0, 1, 2, 3]), ("filler", 3, [0, 1, 2, None])])
def test_a_last_tf_agents_record_is_a_step_or_a_boundary(tmp_path, how, length, rewards):
    """Some writers put the last step itself where a boundary stands: an action that is not zero, with a reward or an end."""
    random = np.random.default_rng(1)
    records = [encode({key: [np.asarray(own).tobytes()] for key, own in {
        "observation": random.normal(size=3).astype(np.float32), "action": random.normal(size=2).astype(np.float32), "reward": np.float32(row),
        "discount": np.float32(row != 3), "step_type": np.int32(0 if row == 0 else 2 if row == 3 else 1), "next_step_type": np.int32(2 if row == 2 else 0 if row == 3 else 1)}.items()}) for row in range(4)]
    with open(f"{tmp_path}/set.tfrecord", "wb") as file:
        file.write(frame(records))
    trajmill("import", f"{tmp_path}/set.tfrecord", f"{tmp_path}/{how}", "--final-action", how)
    steps, trajectories = table(tmp_path / how), table(tmp_path / how, "trajectories")
    check((trajectories["length"].to_pylist(), steps["reward"].to_pylist()) == ([length], rewards), f"a last record that is {how}")
    check(trajectories["terminated"].to_pylist() == [how != "filler"], f"the end where it is {how}")

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
        check(len(steps) == length + 1 and steps[-1]["is_last"] and not steps[-1]["action_valid"], "steps by TFDS")
        check(np.array_equal([step["observation"] for step in steps[:-1]], arrays["observations"][first:first + length]), "observations by TFDS")
        check(np.array_equal(steps[-1]["observation"], arrays["next_observations"][first + length - 1]), "final observations by TFDS")
        check(np.array_equal([step["action"] for step in steps[:-1]], arrays["actions"][first:first + length]), "actions by TFDS")
        check(np.array_equal([step["infos"]["count"] for step in steps[:-1]], arrays["infos/count"][first:first + length]), "infos by TFDS")
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
            features = library.features.FeaturesDict({"steps": library.features.Dataset({
                "observation": library.features.FeaturesDict({"state": library.features.Tensor(shape=(3,), dtype=np.float32)}), "action": library.features.Tensor(shape=(2,), dtype=np.float32),
                "reward": np.float32, "grid": library.features.Tensor(shape=(2, 2), dtype=np.uint8), "precise": library.features.Tensor(shape=(2,), dtype=np.float64, encoding="bytes"),
                "packed": library.features.Tensor(shape=(3,), dtype=np.int16, encoding="zlib"), "language_instruction": library.features.Text(), "is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_}),
                "episode_metadata": library.features.FeaturesDict({"file_path": library.features.Text()})})
            return library.core.DatasetInfo(builder=self, features=features)
        def _split_generators(self, manager):
            return {"train": self._generate_examples()}
        def _generate_examples(self):
            for number, episode in enumerate(made.episodes):
                rows = len(episode["action"])
                names = ["action", "reward", "grid", "precise", "packed", "is_first", "is_last", "is_terminal", "language_instruction"]
                yield number, {"steps": [{**{key: episode[key][row] for key in names}, "observation": {"state": episode["observation/state"][row]}} for row in range(rows)], "episode_metadata": {"file_path": f"/data/{number}"}}
    builder = Builder(data_dir=f"{tmp_path}/tfds")
    builder.download_and_prepare(download_config=library.download.DownloadConfig(try_download_gcs=False))
    trajmill("import", str(builder.data_path), tmp_path / "in")
    steps, trajectories = table(tmp_path / "in"), table(tmp_path / "in", "trajectories")
    first = 0
    for row, path in enumerate(trajectories["file_path"].to_pylist()):  # TFDS shuffles episodes
        episode = made.episodes[int(path.rsplit("/", 1)[1])]
        count = len(episode["action"])
        own = steps.slice(first, count)
        first += count
        for column, key in [("observation", "observation/state"), ("grid", "grid"), ("precise", "precise"), ("packed", "packed")]:
            found = np.array(own[column].to_pylist()).astype(episode[key].dtype)
            check(np.array_equal(found, episode[key].reshape(found.shape)), f"{key} of TFDS")
        found = np.array([np.float32(value) for value in values(own["action"])[:-1]])
        check(np.array_equal(found, episode["action"][:-1]), "actions of TFDS")

