"""LeRobot datasets as its own tools write them, and how their columns are read and compared."""

import json
import os
import struct

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from oracle import check


def array(column):
    """A column as one numpy array; lists of one length become its axes."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_struct(column.type):
        return np.array(column.to_pylist(), object)
    shape = [len(column)]
    while pa.types.is_nested(column.type):
        inner = column.flatten()
        shape.append(len(inner) // max(1, len(column)))
        column = inner
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def same(a, b, what):
    a, b = np.asarray(a), np.asarray(b)
    check(
        a.shape == b.shape and a.dtype == b.dtype,
        f"{what}: {a.shape} {a.dtype}, {b.shape} {b.dtype}",
    )
    check(a.tobytes() == b.tobytes() if a.dtype != object else a.tolist() == b.tolist(), what)


class Made:
    """Episodes with a state, an action, an image, a matrix, flags and texts."""

    def __init__(self, lengths, seed=0, fps=25):
        random = np.random.default_rng(seed)
        n = sum(lengths)
        self.lengths, self.fps, self.n = lengths, fps, n
        self.ends = np.cumsum(lengths)
        self.episode = np.repeat(np.arange(len(lengths)), lengths)
        self.frame = np.concatenate([np.arange(length) for length in lengths])
        self.task = self.episode % 2
        self.tasks = ["pick the cup", "open the door"]
        done = np.zeros(n, bool)
        done[self.ends - 1] = True
        self.columns = {
            "observation.state": random.normal(size=(n, 5)).astype(np.float32),
            "action": random.normal(size=(n, 2)).astype(np.float32),
            "next.reward": random.normal(size=n).astype(np.float32),
            "next.done": done,
            "next.truncated": np.zeros(n, bool),
            "observation.heights": random.normal(size=(n, 3, 4)),
            "gripper": random.integers(0, 3, size=n).astype(np.int8),
            "note": np.array([f"note {row % 3}" for row in range(n)], object),
        }
        # A PNG as far as its size goes: 6 wide, 4 high, RGB.
        head = (
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 6, 4) + bytes([8, 2, 0, 0, 0])
        )
        self.images = [head + bytes([row % 251] * (row % 7)) for row in range(n)]

    def features(self):
        kinds = {np.dtype(object): "string"}
        features = {
            name: {
                "dtype": kinds.get(values.dtype, str(values.dtype)),
                "shape": list(values.shape[1:]) or [1],
                "names": None,
            }
            for name, values in self.columns.items()
        }
        features["observation.images.top"] = {
            "dtype": "image",
            "shape": [4, 6, 3],
            "names": ["height", "width", "channels"],
        }
        for name in ["timestamp", "frame_index", "episode_index", "index", "task_index"]:
            features[name] = {
                "dtype": "float32" if name == "timestamp" else "int64",
                "shape": [1],
                "names": None,
            }
        return features

    def table(self, fixed=True, rows=slice(None)):
        columns = {}
        for name, values in self.columns.items():
            values = values[rows]
            if values.ndim == 1:
                columns[name] = pa.array(values)
            elif values.ndim == 2 and fixed:
                columns[name] = pa.FixedSizeListArray.from_arrays(
                    pa.array(values.ravel()), values.shape[1]
                )
            else:
                columns[name] = pa.array(
                    values.tolist(),
                    pa.list_(pa.float32())
                    if values.ndim == 2
                    else pa.list_(pa.list_(pa.float64())),
                )
        images = self.images[rows]
        columns["observation.images.top"] = pa.array(
            [{"bytes": image, "path": "frame.png"} for image in images],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        columns["timestamp"] = pa.array((self.frame[rows] / self.fps).astype(np.float32))
        columns["frame_index"] = pa.array(self.frame[rows])
        columns["episode_index"] = pa.array(self.episode[rows])
        columns["index"] = pa.array(np.arange(self.n)[rows])
        columns["task_index"] = pa.array(self.task[rows])
        return pa.table(columns)

    def info(self, version, **more):
        return {
            "codebase_version": version,
            "robot_type": "arm",
            "total_episodes": len(self.lengths),
            "total_frames": self.n,
            "total_tasks": 2,
            "chunks_size": 1000,
            "fps": self.fps,
            "splits": {
                "train": f"0:{len(self.lengths) - 1}",
                "test": f"{len(self.lengths) - 1}:{len(self.lengths)}",
            },
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": self.features(),
            **more,
        }


def put(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if isinstance(value, pa.Table):
        pq.write_table(value, path)
    else:
        with open(path, "w") as file:
            file.write(value if isinstance(value, str) else json.dumps(value, indent=4))


def v30(folder, made, fixed=True, files=None, named=True, video=False):
    """`files` lists the episodes of each file, in their order in it."""
    files = files or [list(range(len(made.lengths)))]
    info = made.info(
        "v3.0",
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        data_files_size_in_mb=100,
    )
    starts = [0, *made.ends[:-1]]
    entries = {}
    for at, episodes in enumerate(files):
        parts = [
            made.table(fixed, slice(starts[episode], made.ends[episode])) for episode in episodes
        ]
        put(f"{folder}/data/chunk-000/file-{at:03d}.parquet", pa.concat_tables(parts))
        for episode in episodes:
            entries[episode] = {
                "episode_index": episode,
                "tasks": [made.tasks[episode % 2]],
                "length": made.lengths[episode],
                "data/chunk_index": 0,
                "data/file_index": at,
                "dataset_from_index": int(starts[episode]),
                "dataset_to_index": int(made.ends[episode]),
                "stats/action/min": [0.0, 0.0],
            }
            if video:
                entries[episode] |= {
                    "videos/observation.images.side/chunk_index": 0,
                    "videos/observation.images.side/file_index": at,
                    "videos/observation.images.side/from_timestamp": 1.5 * episode,
                    "videos/observation.images.side/to_timestamp": 9.0,
                }
    if video:
        info["features"]["observation.images.side"] = {
            "dtype": "video",
            "shape": [4, 6, 3],
            "names": None,
        }
    rows = [entries[episode] for episode in reversed(range(len(entries)))]
    if not named:
        rows = [{key: row[key] for key in ("episode_index", "length")} for row in rows]
    put(f"{folder}/meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    put(f"{folder}/meta/info.json", info)
    os.makedirs(f"{folder}/meta", exist_ok=True)
    pd.DataFrame(
        {"task_index": range(2)}, index=pd.Index(made.tasks, name="task" if fixed else None)
    ).to_parquet(f"{folder}/meta/tasks.parquet")


def v2(folder, made, version="v2.1", chunks=1000):
    info = made.info(
        version,
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        chunks_size=chunks,
    )
    info["video_path"] = (
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    )
    starts = [0, *made.ends[:-1]]
    for episode in range(len(made.lengths)):
        put(
            f"{folder}/data/chunk-{episode // chunks:03d}/episode_{episode:06d}.parquet",
            made.table(True, slice(starts[episode], made.ends[episode])),
        )
    put(f"{folder}/meta/info.json", info)
    put(
        f"{folder}/meta/tasks.jsonl",
        "".join(
            json.dumps({"task_index": index, "task": task}) + "\n"
            for index, task in enumerate(made.tasks)
        ),
    )
    put(
        f"{folder}/meta/episodes.jsonl",
        "".join(
            json.dumps({"episode_index": index, "tasks": [made.tasks[index % 2]], "length": length})
            + "\n"
            for index, length in enumerate(made.lengths)
        ),
    )
