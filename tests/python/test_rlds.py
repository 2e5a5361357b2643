"""RLDS and TF-Agents: records made and read with protobuf and a checksum library that the tool does not use.

    python tests/python/test_rlds.py TRAJMILL

Where tensorflow_datasets is installed (tests/requirements-all.txt), `tfds.builder_from_directory` reads what is written,
and a TFDS builder writes what is read.
"""

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

import google_crc32c
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TRAJMILL = os.path.abspath(sys.argv[1])
CHECKS = 0

def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what

def trajmill(*arguments, code=0):
    done = subprocess.run([TRAJMILL, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    check(done.returncode == code and "panicked" not in done.stderr, f"{arguments}: exit {done.returncode}: {done.stderr}")
    return done

def read(path):
    return pa.concat_tables([pq.read_table(os.path.join(path, name)) for name in sorted(os.listdir(path))])

def array(column):
    """A column as one numpy array; lists of one length become its axes."""
    column = column.combine_chunks()
    if not pa.types.is_nested(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)

def values(column):
    return [None if row is None else np.array(row) for row in column.to_pylist()]

# --- tf.train.Example, by its published description

def example_class():
    file = descriptor_pb2.FileDescriptorProto(name="oracle.proto", package="oracle", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    def message(name, *fields, parent=None):
        made = (parent.nested_type if parent else file.message_type).add(name=name)
        for number, (own, kind, label, type_name, oneof) in enumerate(fields, 1):
            entry = made.field.add(name=own, number=number, type=kind, label=label, type_name=type_name or None)
            if oneof:
                entry.oneof_index = 0
        return made
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", ("value", field.TYPE_BYTES, many, "", False))
    message("FloatList", ("value", field.TYPE_FLOAT, many, "", False))
    message("Int64List", ("value", field.TYPE_INT64, many, "", False))
    feature = message("Feature", *[(name, field.TYPE_MESSAGE, one, f".oracle.{kind}", True) for name, kind in [("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")]])
    feature.oneof_decl.add(name="kind")
    features = message("Features", ("feature", field.TYPE_MESSAGE, many, ".oracle.Features.FeatureEntry", False))
    entry = message("FeatureEntry", ("key", field.TYPE_STRING, one, "", False), ("value", field.TYPE_MESSAGE, one, ".oracle.Feature", False), parent=features)
    entry.options.map_entry = True
    message("Example", ("features", field.TYPE_MESSAGE, one, ".oracle.Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("oracle.Example"))

Example = example_class()

def masked(data):
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

def frame(records):
    out = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        out += length + struct.pack("<I", masked(length)) + record + struct.pack("<I", masked(record))
    return out

def unframe(path):
    with open(path, "rb") as file:
        data = file.read()
    at = 0
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at:at + 8])
        check(struct.unpack("<I", data[at + 8:at + 12])[0] == masked(data[at:at + 8]), "the checksum of a length")
        record = data[at + 12:at + 12 + length]
        check(struct.unpack("<I", data[at + 12 + length:at + 16 + length])[0] == masked(record), "the checksum of a record")
        at += 16 + length
        yield Example.FromString(record).features.feature

def encode(features):
    example = Example()
    for key, value in features.items():
        own = example.features.feature[key]
        if isinstance(value, list):
            own.bytes_list.value.extend(value)
        elif value.dtype.kind == "f":
            own.float_list.value.extend(value.ravel().astype(np.float32).tolist())
        else:
            own.int64_list.value.extend(value.ravel().astype(np.int64).tolist())
    return example.SerializeToString()

# --- a dataset as TFDS builds it

TENSOR = "tensorflow_datasets.core.features.tensor_feature.Tensor"

def tensor(dtype, *shape, encoding="none"):
    return {"pythonClassName": TENSOR, "tensor": {"shape": {"dimensions": [str(axis) for axis in shape]} if shape else {}, "dtype": dtype, "encoding": encoding}}

def tree(features):
    return {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict", "featuresDict": {"features": features}}

class Made:
    """Episodes; `final` says whether the last step holds the final observation, and zeros for an action."""

    def __init__(self, lengths, final, seed=0):
        random = np.random.default_rng(seed)
        self.lengths, self.final = lengths, final
        self.episodes = []
        for number, length in enumerate(lengths):
            rows = length + final
            episode = {
                "observation/state": random.normal(size=(rows, 3)).astype(np.float32), "action": random.normal(size=(rows, 2)).astype(np.float32),
                "reward": random.normal(size=rows).astype(np.float32), "discount": np.ones(rows, np.float32), "grid": random.integers(0, 255, size=(rows, 2, 2)).astype(np.uint8),
                "precise": random.normal(size=(rows, 2)), "big": random.integers(0, 1 << 62, size=rows).astype(np.uint64) * 3,
                "language_instruction": [f"task {number}".encode()] * rows, "observation/image": [bytes([255, 216, row % 256]) for row in range(rows)],
                "packed": random.integers(-9, 9, size=(rows, 3)).astype(np.int16),
            }
            if final:
                episode["action"][-1], episode["reward"][-1] = 0, 0
            for name in ("is_first", "is_last", "is_terminal"):
                episode[name] = np.zeros(rows, bool)
            episode["is_first"][0] = episode["is_last"][-1] = True
            episode["is_terminal"][-1] = number % 2 == 0
            self.episodes.append(episode)

    def features(self):
        steps = {
            "observation": tree({"state": tensor("float32", 3), "image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": {"shape": {"dimensions": ["1", "1", "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"}}}),
            "action": tensor("float32", 2), "reward": tensor("float32"), "discount": tensor("float32"), "grid": tensor("uint8", 2, 2), "precise": tensor("float64", 2, encoding="bytes"),
            "big": tensor("uint64"), "packed": tensor("int16", 3, encoding="zlib"), "language_instruction": {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}},
            **{name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")},
        }
        return tree({
            "steps": {"pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset", "sequence": {"feature": tree(steps), "length": "-1"}},
            "episode_metadata": tree({"file_path": {"pythonClassName": "x.Text", "text": {}}, "episode_id": tensor("int32")}),
        })

    def records(self):
        for number, episode in enumerate(self.episodes):
            record = {f"steps/{name}": column for name, column in episode.items()}
            record["steps/precise"] = [row.tobytes() for row in episode["precise"]]
            record["steps/packed"] = [zlib.compress(row.tobytes()) for row in episode["packed"]]
            record["steps/big"] = episode["big"].view(np.int64)
            record["episode_metadata/file_path"] = [f"/data/{number}".encode()]
            record["episode_metadata/episode_id"] = np.array([number * 10])
            yield encode(record)

    def write(self, root, splits=(("train", 2), ("val", 1)), pack=None):
        os.makedirs(root)
        records = list(self.records())
        cut = max(1, len(records) * 2 // 3)
        parts = {"train": records[:cut], "val": records[cut:]} if len(splits) > 1 else {"train": records}
        info = {"name": "set", "version": "1.0.0", "fileFormat": "tfrecord", "splits": []}
        for name, shards in splits:
            pieces = [list(part) for part in np.array_split(np.array(parts[name], object), shards)]
            for index, piece in enumerate(pieces):
                data = frame(piece)
                with open(f"{root}/set-{name}.tfrecord-{index:05d}-of-{shards:05d}", "wb") as file:
                    file.write(pack(data) if pack else data)
            info["splits"].append({"name": name, "numBytes": "1", "shardLengths": [str(len(piece)) for piece in pieces], "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})
        for name, value in [("features.json", self.features()), ("dataset_info.json", info)]:
            with open(f"{root}/{name}", "w") as file:
                json.dump(value, file)

def compare(made, dataset, final, shift=False):
    steps, trajectories = read(f"{dataset}/steps"), read(f"{dataset}/trajectories")
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

def imports(folder):
    for final in (0, 1):
        made = Made([4, 1, 300, 7], final)
        for name, pack in [("plain", None), ("gzip", gzip.compress), ("zlib", zlib.compress)]:
            root = f"{folder}/{name}{final}"
            made.write(root, pack=pack)
            trajmill("import", root, f"{root}.auto")
            compare(made, f"{root}.auto", final)
    # An action of zeros at the end is filler, unless the user says that it is an action.
    trajmill("import", f"{folder}/plain1", f"{folder}/valid", "--final-action", "valid")
    compare(made, f"{folder}/valid", 0)
    trajmill("import", f"{folder}/plain0", f"{folder}/filler", "--final-action", "filler", code=1)  # an episode of one step would have none
    # dm_env's logs: action and reward stand a step late.
    shifted = Made([4, 2, 9], 1, seed=4)
    for episode in shifted.episodes:
        episode["action"][-1], episode["reward"][-1] = 1, 1
    shifted.write(f"{folder}/rsa")
    trajmill("import", f"{folder}/rsa", f"{folder}/rsa.in", "--alignment", "rsa")
    compare(shifted, f"{folder}/rsa.in", 1, shift=True)
    # In a pipeline, the same words.
    pipeline = f"{folder}/pipeline.yaml"
    with open(pipeline, "w") as file:
        file.write("trajmill: 1\nsource: {path: rsa, format: rlds, final_action: filler, alignment: rsa}\nstages:\n  - materialise: {path: rsa.run}\n")
    trajmill("run", pipeline)
    compare(shifted, f"{folder}/rsa.run", 1, shift=True)
    # One level up, as TFDS lays versions out.
    os.makedirs(f"{folder}/name")
    shutil.copytree(f"{folder}/rsa", f"{folder}/name/1.0.0")
    trajmill("import", f"{folder}/name", f"{folder}/name.in", "--alignment", "rsa")

def refuses(folder):
    made = Made([4, 5, 6], 1)
    train = "set-train.tfrecord-00000-of-00002"
    def edit(name, change):
        def work(root):
            with open(f"{root}/{name}") as file:
                value = json.load(file)
            change(value)
            with open(f"{root}/{name}", "w") as file:
                json.dump(value, file)
        return work
    def flip(root):
        data = bytearray(open(f"{root}/{train}", "rb").read())
        data[len(data) // 2] ^= 8
        open(f"{root}/{train}", "wb").write(data)
    def replace(records):
        return lambda root: open(f"{root}/{train}", "wb").write(frame(records))
    features = lambda value: value["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    records = list(made.records())
    wrong = Example.FromString(records[0])
    del wrong.features.feature["steps/reward"].float_list.value[-1]
    cases = [
        (lambda root: os.remove(f"{root}/{train}"), [train, "missing"]),
        (lambda root: os.truncate(f"{root}/{train}", 100), [train, "record 0", "ends"]),
        (flip, [train, "record", "checksum"]),
        (replace(records[:1] * 3), [train, "3 records", "says 1"]),
        (replace([b"\xff\xff\xff"]), ["not a tf.train.Example"]),
        (replace([wrong.SerializeToString()]), ["record 0", "`steps/reward`", "4 values"]),
        (edit("features.json", lambda value: features(value)["action"]["tensor"]["shape"].update(dimensions=["3"])), ["`steps/action`"]),
        (edit("features.json", lambda value: value["featuresDict"]["features"].pop("steps")), ["`steps`", "features.json"]),
        (edit("features.json", lambda value: features(value).pop("observation")), ["`observation`"]),
        (edit("dataset_info.json", lambda value: value.update(fileFormat="array_record")), ["array_record", "tfrecord"]),
        (edit("dataset_info.json", lambda value: value["splits"][0].update(shardLengths=["x"])), ["`shardLengths`"]),
        (lambda root: open(f"{root}/features.json", "w").write("{\"a\": Infinity}"), ["features.json", "not JSON"]),
    ]
    for number, (damage, wanted) in enumerate(cases):
        root = f"{folder}/{number}"
        made.write(root)
        damage(root)
        done = trajmill("import", root, f"{folder}/none", code=1)
        check(sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1 and not os.path.exists(f"{folder}/none"), done.stderr)
        for word in wanted:
            check(word in done.stderr, f"case {number}: `{word}` is not in: {done.stderr}")

# --- out

def d4rl(path, lengths, dtype):
    random = np.random.default_rng(3)
    n, ends = sum(lengths), np.cumsum(lengths)
    arrays = {"observations": random.normal(size=(n, 4)).astype(dtype), "next_observations": random.normal(size=(n, 4)).astype(dtype), "actions": random.normal(size=(n, 3)).astype(dtype),
              "rewards": random.normal(size=n).astype(dtype), "terminals": np.zeros(n, bool), "timeouts": np.zeros(n, bool), "infos/count": random.integers(0, 200, size=n).astype(np.uint64)}
    arrays["terminals"][ends[::2] - 1] = True
    arrays["timeouts"][ends[1::2] - 1] = True
    with h5py.File(path, "w") as file:
        for name, column in arrays.items():
            file[name] = column
    return arrays

def listed(feature, dtype, encoded):
    if encoded:
        return np.frombuffer(b"".join(feature.bytes_list.value), dtype)
    found = feature.float_list.value if np.dtype(dtype).kind == "f" else feature.int64_list.value
    return np.array(found).astype(dtype)

def exports(folder):
    lengths = [5, 1, 400, 17]
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        arrays = d4rl(f"{folder}/{name}.hdf5", lengths, dtype)
        trajmill("import", f"{folder}/{name}.hdf5", f"{folder}/{name}")
        trajmill("export", f"{folder}/{name}", f"{folder}/{name}.rlds", "--to", "rlds", "--name", "hopper")
        root = f"{folder}/{name}.rlds"
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
        trajmill("import", root, f"{root}.back")
        before, after = read(f"{folder}/{name}/steps"), read(f"{root}.back/steps")
        for column in ["observation", "action", "reward", "terminated", "truncated", "is_final", "infos/count", "trajectory_id", "step"]:
            check(before[column].combine_chunks().to_pylist() == after[column].combine_chunks().to_pylist(), f"{column} there and back")
            check(before[column].type == after[column].type, f"the type of {column} there and back")
        check(read(f"{folder}/{name}/trajectories")["uid"].to_pylist() == read(f"{root}.back/trajectories")["uid"].to_pylist(), "uid there and back")

def tfagents(folder):
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
    os.makedirs(f"{folder}/steps")
    with open(f"{folder}/steps/set.tfrecord", "wb") as file:
        file.write(frame(records))
    trajmill("import", f"{folder}/steps", f"{folder}/out")
    steps, trajectories = read(f"{folder}/out/steps"), read(f"{folder}/out/trajectories")
    check(trajectories["length"].to_pylist() == [3, 1, 40] and trajectories["terminated"].to_pylist() == [True] * 3, "episodes")
    check(np.array_equal(np.array(steps["observation"].to_pylist(), np.float32), np.concatenate([pair[0] for pair in expected])), "observations")
    found = [np.float32(value) for value in values(steps["action"]) if value is not None]
    check(np.array_equal(np.array(found), np.concatenate([pair[1] for pair in expected])), "actions")
    # Some put the last step itself where a boundary stands: an action that is none of zeros, with a reward or an end.
    records = [encode({key: [np.asarray(own).tobytes()] for key, own in {
        "observation": random.normal(size=3).astype(np.float32), "action": random.normal(size=2).astype(np.float32), "reward": np.float32(row),
        "discount": np.float32(row != 3), "step_type": np.int32(0 if row == 0 else 2 if row == 3 else 1), "next_step_type": np.int32(2 if row == 2 else 0 if row == 3 else 1)}.items()}) for row in range(4)]
    with open(f"{folder}/set.tfrecord", "wb") as file:
        file.write(frame(records))
    for how, length, rewards in [("auto", 4, [0, 1, 2, 3]), ("valid", 4, [0, 1, 2, 3]), ("filler", 3, [0, 1, 2, None])]:
        trajmill("import", f"{folder}/set.tfrecord", f"{folder}/{how}", "--final-action", how)
        steps, trajectories = read(f"{folder}/{how}/steps"), read(f"{folder}/{how}/trajectories")
        check((trajectories["length"].to_pylist(), steps["reward"].to_pylist()) == ([length], rewards), f"a last record that is {how}")
        check(trajectories["terminated"].to_pylist() == [how != "filler"], f"the end where it is {how}")

def reference(folder):
    """TFDS itself, where it is installed."""
    try:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow_datasets as tfds
    except ImportError:
        check("--all" not in sys.argv, "tensorflow_datasets is not installed")
        return print("tensorflow_datasets is not installed: it was not run")
    lengths = [5, 1, 60]
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        arrays = d4rl(f"{folder}/{name}.hdf5", lengths, dtype)
        trajmill("import", f"{folder}/{name}.hdf5", f"{folder}/{name}")
        trajmill("export", f"{folder}/{name}", f"{folder}/{name}.rlds", "--to", "rlds")
        builder = tfds.builder_from_directory(f"{folder}/{name}.rlds")
        first = 0
        episodes = list(tfds.as_numpy(builder.as_dataset(split="train")))
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
    # A TFDS builder writes, we read.
    made = Made([4, 1, 30], 1)
    class Builder(tfds.core.GeneratorBasedBuilder):
        name, VERSION = "oracle", tfds.core.Version("1.0.0")
        pkg_dir_path = None
        def _info(self):
            features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset({
                "observation": tfds.features.FeaturesDict({"state": tfds.features.Tensor(shape=(3,), dtype=np.float32)}), "action": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                "reward": np.float32, "grid": tfds.features.Tensor(shape=(2, 2), dtype=np.uint8), "precise": tfds.features.Tensor(shape=(2,), dtype=np.float64, encoding="bytes"),
                "packed": tfds.features.Tensor(shape=(3,), dtype=np.int16, encoding="zlib"), "language_instruction": tfds.features.Text(), "is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_}),
                "episode_metadata": tfds.features.FeaturesDict({"file_path": tfds.features.Text()})})
            return tfds.core.DatasetInfo(builder=self, features=features)
        def _split_generators(self, manager):
            return {"train": self._generate_examples()}
        def _generate_examples(self):
            for number, episode in enumerate(made.episodes):
                rows = len(episode["action"])
                names = ["action", "reward", "grid", "precise", "packed", "is_first", "is_last", "is_terminal", "language_instruction"]
                yield number, {"steps": [{**{key: episode[key][row] for key in names}, "observation": {"state": episode["observation/state"][row]}} for row in range(rows)], "episode_metadata": {"file_path": f"/data/{number}"}}
    builder = Builder(data_dir=f"{folder}/tfds")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    trajmill("import", str(builder.data_path), f"{folder}/tfds.in")
    steps, trajectories = read(f"{folder}/tfds.in/steps"), read(f"{folder}/tfds.in/trajectories")
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

def main():
    for part in [imports, refuses, exports, tfagents, reference]:
        with tempfile.TemporaryDirectory() as folder:
            part(folder)
            print(f"{part.__name__}: {CHECKS} checks so far")

if __name__ == "__main__":
    main()
