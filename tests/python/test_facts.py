"""Facts about trajectories, of every type, go into each format with metadata of episodes, and come
back.

pyarrow, json, protobuf, and the loaders of LeRobot and TFDS where they are installed, read them.
"""

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import check, equal, says, table, trajmill
from writers.rlds import Example, Made, tensor, unframe

LENGTHS = [5, 7, 4]
# The types that the trajectory columns have, by the names of the facts.
LISTS = {
    "initial_state/arm/joints": pa.float32(),
    "initial_state/cube/pose": pa.float64(),
    "initial_state/bits": pa.bool_(),
    "initial_state/small": pa.int8(),
    "initial_state/large": pa.uint64(),
    "initial_state/odd": pa.float32(),
    "initial_state/sometimes": pa.float32(),
    "ragged": pa.float64(),
    "indices": pa.int64(),
}
SMALL = {name for name in LISTS if LISTS[name] == pa.float32()} | {"wind", "measured"}
SINGLE = {"operator", "seed", "success", "counted", "wind", "nan", "measured"}


def write(path):
    """Writes demonstrations with facts as Isaac Lab does. The second one lacks some of them."""
    random = np.random.default_rng(3)
    odd = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45]], np.float32)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 2})
        for index, length in enumerate(LENGTHS):
            demo = file.create_group(f"data/demo_{index}")
            demo.attrs.update(num_samples=length, seed=2**53 + 1 + index, success=bool(index % 2))
            demo["actions"] = random.uniform(-1, 1, (length, 2)).astype(np.float32)
            demo["obs/q"] = random.normal(size=(length, 3)).astype(np.float32)
            demo["dones"] = np.r_[np.zeros(length - 1), 1].astype(np.int64)
            demo["initial_state/arm/joints"] = random.normal(size=(1, 6)).astype(np.float32)
            demo["initial_state/cube/pose"] = random.normal(size=(1, 7))
            demo["initial_state/bits"] = random.random((1, 4)) < 0.5
            demo["initial_state/small"] = random.integers(-128, 128, (1, 3)).astype(np.int8)
            demo["initial_state/large"] = np.array([[2**64 - 1, index]], np.uint64)
            demo["initial_state/odd"] = odd
            demo["ragged"] = (np.arange(9 + index) / 3).reshape(1, -1)
            demo["indices"] = np.arange(4) + index
            demo["wind"], demo["nan"] = np.float32(index / 3), np.float64("nan")
            if index != 1:
                demo.attrs["operator"] = f"op {index}"
                demo["counted"], demo["measured"] = np.int64(index), np.float32(index + 0.1)
                demo["initial_state/sometimes"] = random.normal(size=(1, 3)).astype(np.float32)


def text(column):
    """The values of a column, in which NaN and -0.0 differ from everything else."""
    return str(column.to_pylist())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    write(folder / "in.hdf5")
    trajmill("import", folder / "in.hdf5", folder / "made")
    return folder / "made"


def exported(made, folder, to):
    path = folder / ("out.hdf5" if to == "robomimic" else "out")
    given = ["--fps", 10, "--task", "lift"] if to.startswith("lerobot") else []
    done = trajmill("export", made, path, "--to", to, *given)
    check("left out" not in done.stderr, f"{to} holds every fact: {done.stderr}")
    return path


@pytest.mark.parametrize("to", ["robomimic", "lerobot", "lerobot-v2.1", "rlds"])
def test_facts_come_back(made, tmp_path, to):
    trajmill("import", exported(made, tmp_path, to), tmp_path / "back")
    before, after = (table(path, "trajectories") for path in (made, tmp_path / "back"))
    for name, element in LISTS.items():
        check(before[name].type.value_type == element, f"{name}: {before[name].type}")
    for name in [*LISTS, *SINGLE, "uid", "source_key", "source"]:
        check(after[name].type == before[name].type, f"{name}: {after[name].type}")
        check(text(after[name]) == text(before[name]), f"{name}: {text(after[name])}")


def test_the_table_of_episodes_has_columns_for_lists(made, tmp_path):
    (file,) = (exported(made, tmp_path, "lerobot") / "meta/episodes").glob("*/*.parquet")
    found, facts = pq.read_table(file), table(made, "trajectories")
    for name in [*LISTS, *SINGLE]:
        check(text(found[f"trajmill/{name}"]) == text(facts[name]), name)


def test_lines_of_episodes_have_keys_for_facts(made, tmp_path):
    path = exported(made, tmp_path, "lerobot-v2.1")
    lines = (path / "meta/episodes.jsonl").read_text().splitlines()
    lines, facts = [json.loads(line) for line in lines], table(made, "trajectories")
    for name in [*LISTS, *SINGLE]:
        for line, fact in zip(lines, facts[name].to_pylist()):
            found = line.get(f"trajmill/{name}")
            if fact is None or not isinstance(np.ravel(fact)[0], float):
                check(found == fact, f"{name}: {found} is not {fact}")
                continue
            # Texts stand for the numbers that JSON does not have.
            dtype = np.float32 if name in SMALL else np.float64
            same = np.array_equal(np.array(found, dtype), np.array(fact, dtype), equal_nan=True)
            check(same, f"{name}: {found} is not {fact}")


def test_records_hold_lists_and_mark_nulls(made, tmp_path):
    root = exported(made, tmp_path, "rlds")
    (file,) = root.glob("*.tfrecord*")
    facts = table(made, "trajectories").to_pylist()
    for record, fact in zip(list(unframe(str(file))), facts):
        of = lambda name: record[f"episode_metadata/{name}"]
        joints = np.float32(of("initial_state/arm/joints").float_list.value)
        equal(joints, np.float32(fact["initial_state/arm/joints"]), "floats")
        (pose,) = of("initial_state/cube/pose").bytes_list.value
        equal(np.frombuffer(pose, np.float64), fact["initial_state/cube/pose"], "64-bit floats")
        equal(of("indices").int64_list.value, fact["indices"], "integers")
        for name in ("counted", "operator", "measured", "initial_state/sometimes"):
            (valid,) = of(f"{name}_valid").int64_list.value
            check(valid == (fact[name] is not None), f"{name}_valid")


@pytest.mark.reference("tensorflow_datasets")
def test_tfds_reads_facts(made, tmp_path):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(exported(made, tmp_path, "rlds")))
    episodes = list(tfds.as_numpy(builder.as_dataset(split="train")))
    facts = table(made, "trajectories")
    for name, element in LISTS.items():
        for episode, fact in zip(episodes, facts[name].to_pylist()):
            found = episode["episode_metadata"]
            for part in name.split("/"):
                found = found[part]
            wanted = np.array(fact or [], element.to_pandas_dtype())
            check(found.dtype == wanted.dtype, f"{name}: {found.dtype}")
            check(found.tobytes() == wanted.tobytes(), f"{name}: {found} is not {wanted}")


@pytest.mark.reference("lerobot", "torch")
def test_lerobot_reads_facts(made, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("some/name", root=exported(made, tmp_path, "lerobot"))
    check(len(dataset) == sum(LENGTHS), "rows")
    facts = table(made, "trajectories").to_pylist()
    for index, fact in enumerate(facts):
        for name in [*LISTS, *SINGLE]:
            found = dataset.meta.episodes[index][f"trajmill/{name}"]
            check(str(found) == str(fact[name]), f"{name}: {found}")


# --- facts that other programs state


def test_columns_that_others_add_to_the_metadata_of_episodes_are_facts(made, tmp_path):
    v30, v21 = (exported(made, tmp_path / to, to) for to in ("lerobot", "lerobot-v2.1"))
    (file,) = (v30 / "meta/episodes").glob("*/*.parquet")
    found = pq.read_table(file)
    found = found.append_column("grade", pa.array([1.5, None, 2.5]))
    found = found.append_column("notes", pa.array([["a", "b"], [], None]))
    found = found.append_column("length_s", pa.array([1, 2, 3], pa.int16()))
    pq.write_table(found, file)
    lines = (v21 / "meta/episodes.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    for index, line in enumerate(lines):
        line.update(grade=[1.5, None, 2.5][index], notes=["a", {"b": index}], length_s=index)
        line.update(empty=None)
    (v21 / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trajmill("import", v30, tmp_path / "from30")
    done = trajmill("import", v21, tmp_path / "from21")
    says(done.stderr, ["left out: empty"], "a key without a value")
    facts = table(tmp_path / "from30", "trajectories")
    check(facts["grade"].to_pylist() == [1.5, None, 2.5], "numbers of v3.0")
    check(facts["notes"].to_pylist() == [["a", "b"], [], None], "lists of v3.0")
    check(facts["length_s"].type == pa.int16(), "integers of v3.0")
    facts = table(tmp_path / "from21", "trajectories")
    check(facts["grade"].to_pylist() == [1.5, None, 2.5], "numbers of v2.1")
    check(json.loads(facts["notes"][1].as_py()) == ["a", {"b": 1}], "lists of v2.1")
    check(facts["length_s"].to_pylist() == [0, 1, 2], "integers of v2.1")


class About(Made):
    """Episodes with lists and tensors in their metadata."""

    def features(self):
        features = super().features()
        about = features["featuresDict"]["features"]["episode_metadata"]
        words = {"feature": {"pythonClassName": "x.Text", "text": {}}, "length": "-1"}
        about["featuresDict"]["features"].update(
            words={"pythonClassName": "x.Sequence", "sequence": words},
            start=tensor("float32", 2, 2),
            goal=tensor("float64", -1, encoding="bytes"),
            odd=tensor("float32", -1, -1, encoding="bytes"),
        )
        return features

    def records(self):
        for number, record in enumerate(super().records()):
            example = Example.FromString(record)
            about = lambda name: example.features.feature[f"episode_metadata/{name}"]
            about("words").bytes_list.value.extend([b"a", b"\xc3\xa4"][:number])
            about("start").float_list.value.extend([number, 1, 2, 3])
            about("goal").bytes_list.value.append(np.arange(number, dtype=float).tobytes())
            yield example.SerializeToString()


def test_lists_about_episodes_of_other_programs_are_read(tmp_path):
    About([3, 4, 2], final=True).write(tmp_path / "in")
    done = trajmill("import", tmp_path / "in", tmp_path / "made")
    says(done.stderr, ["left out: episode_metadata/odd"], "a tensor of several unknown axes")
    facts = table(tmp_path / "made", "trajectories")
    check(facts["words"].to_pylist() == [[], ["a"], ["a", "ä"]], "texts")
    check(facts["start"].to_pylist() == [[index, 1, 2, 3] for index in range(3)], "a tensor")
    check(facts["start"].type.value_type == pa.float32(), "the type of a tensor")
    check(facts["goal"].to_pylist() == [[], [0], [0, 1]], "64-bit floats")
