"""RLDS datasets as TFDS builds them, by protobuf and a checksum library of their own."""

import json
import os
import struct
import zlib

import google_crc32c
import numpy as np
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from oracle import check


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
    file = descriptor_pb2.FileDescriptorProto(
        name="oracle.proto", package="oracle", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields, parent=None):
        made = (parent.nested_type if parent else file.message_type).add(name=name)
        for number, (own, kind, label, type_name, oneof) in enumerate(fields, 1):
            entry = made.field.add(
                name=own, number=number, type=kind, label=label, type_name=type_name or None
            )
            if oneof:
                entry.oneof_index = 0
        return made

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", ("value", field.TYPE_BYTES, many, "", False))
    message("FloatList", ("value", field.TYPE_FLOAT, many, "", False))
    message("Int64List", ("value", field.TYPE_INT64, many, "", False))
    feature = message(
        "Feature",
        *[
            (name, field.TYPE_MESSAGE, one, f".oracle.{kind}", True)
            for name, kind in [
                ("bytes_list", "BytesList"),
                ("float_list", "FloatList"),
                ("int64_list", "Int64List"),
            ]
        ],
    )
    feature.oneof_decl.add(name="kind")
    features = message(
        "Features", ("feature", field.TYPE_MESSAGE, many, ".oracle.Features.FeatureEntry", False)
    )
    entry = message(
        "FeatureEntry",
        ("key", field.TYPE_STRING, one, "", False),
        ("value", field.TYPE_MESSAGE, one, ".oracle.Feature", False),
        parent=features,
    )
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
        out += (
            length + struct.pack("<I", masked(length)) + record + struct.pack("<I", masked(record))
        )
    return out


def unframe(path):
    with open(path, "rb") as file:
        data = file.read()
    at = 0
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        check(
            struct.unpack("<I", data[at + 8 : at + 12])[0] == masked(data[at : at + 8]),
            "the checksum of a length",
        )
        record = data[at + 12 : at + 12 + length]
        check(
            struct.unpack("<I", data[at + 12 + length : at + 16 + length])[0] == masked(record),
            "the checksum of a record",
        )
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
    return {
        "pythonClassName": TENSOR,
        "tensor": {
            "shape": {"dimensions": [str(axis) for axis in shape]} if shape else {},
            "dtype": dtype,
            "encoding": encoding,
        },
    }


def tree(features):
    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


class Made:
    """Episodes; with `final`, the last step holds the final observation and an action of zeros."""

    def __init__(self, lengths, final, seed=0):
        random = np.random.default_rng(seed)
        self.lengths, self.final = lengths, final
        self.episodes = []
        for number, length in enumerate(lengths):
            rows = length + final
            episode = {
                "observation/state": random.normal(size=(rows, 3)).astype(np.float32),
                "action": random.normal(size=(rows, 2)).astype(np.float32),
                "reward": random.normal(size=rows).astype(np.float32),
                "discount": np.ones(rows, np.float32),
                "grid": random.integers(0, 255, size=(rows, 2, 2)).astype(np.uint8),
                "precise": random.normal(size=(rows, 2)),
                "big": random.integers(0, 1 << 62, size=rows).astype(np.uint64) * 3,
                "language_instruction": [f"task {number}".encode()] * rows,
                "observation/image": [bytes([255, 216, row % 256]) for row in range(rows)],
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
            "observation": tree(
                {
                    "state": tensor("float32", 3),
                    "image": {
                        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
                        "image": {
                            "shape": {"dimensions": ["1", "1", "3"]},
                            "dtype": "uint8",
                            "encodingFormat": "jpeg",
                        },
                    },
                }
            ),
            "action": tensor("float32", 2),
            "reward": tensor("float32"),
            "discount": tensor("float32"),
            "grid": tensor("uint8", 2, 2),
            "precise": tensor("float64", 2, encoding="bytes"),
            "big": tensor("uint64"),
            "packed": tensor("int16", 3, encoding="zlib"),
            "language_instruction": {
                "pythonClassName": "tensorflow_datasets.core.features.text_feature.Text",
                "text": {},
            },
            **{name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")},
        }
        return tree(
            {
                "steps": {
                    "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
                    "sequence": {"feature": tree(steps), "length": "-1"},
                },
                "episode_metadata": tree(
                    {
                        "file_path": {"pythonClassName": "x.Text", "text": {}},
                        "episode_id": tensor("int32"),
                    }
                ),
            }
        )

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
        parts = (
            {"train": records[:cut], "val": records[cut:]}
            if len(splits) > 1
            else {"train": records}
        )
        info = {"name": "set", "version": "1.0.0", "fileFormat": "tfrecord", "splits": []}
        for name, shards in splits:
            pieces = [list(part) for part in np.array_split(np.array(parts[name], object), shards)]
            for index, piece in enumerate(pieces):
                data = frame(piece)
                with open(f"{root}/set-{name}.tfrecord-{index:05d}-of-{shards:05d}", "wb") as file:
                    file.write(pack(data) if pack else data)
            info["splits"].append(
                {
                    "name": name,
                    "numBytes": "1",
                    "shardLengths": [str(len(piece)) for piece in pieces],
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                }
            )
        for name, value in [("features.json", self.features()), ("dataset_info.json", info)]:
            with open(f"{root}/{name}", "w") as file:
                json.dump(value, file)
