"""Videos by PyAV, which brings an FFmpeg of its own, and LeRobot datasets that refer to them."""

import io
import json
import os
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from oracle import check

FPS = 30
BT709 = 1
# Encoders that talk.
os.environ["SVT_LOG"] = "1"


def encode(
    path,
    count,
    size=(48, 64),
    codec="libx264",
    start=0,
    seed=0,
    pixels="yuv420p",
    options=None,
    matrix=None,
    full=False,
):
    """Writes `count` frames from frame `start` on: moving gradients with noise."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    random = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = Fraction(1, FPS)
        if matrix:
            stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        for index in range(count):
            at = index + start
            picture = np.stack(
                [(x * 4 + at * 5) % 256, (y * 5 + at * 3) % 256, (x + y + at * 7) % 256], -1
            )
            picture = np.clip(picture + random.integers(-20, 20, picture.shape), 0, 255).astype(
                np.uint8
            )
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
                format=pixels, dst_colorspace=matrix, dst_color_range=2 if full else 1
            )
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def decoded(path):
    """Every frame of a video as PyAV has it: seconds, and RGB."""
    with av.open(path) as file:
        frames = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in file.decode(video=0)
        ]
    return np.array([time for time, _ in frames]), np.stack([frame for _, frame in frames])


def video(shape, **more):
    return {
        "dtype": "video",
        "shape": list(shape),
        "names": ["height", "width", "channels"],
        "info": {"video.fps": FPS, **more},
    }


def dataset(root, lengths, cameras, state=True, times=None):
    """Writes a LeRobot v3.0 dataset.

    `cameras` maps a feature to its entry, and to the file and first second of each episode.
    """
    for folder in ["data/chunk-000", "meta/episodes/chunk-000"]:
        os.makedirs(root / folder)
    n, ends = sum(lengths), np.cumsum(lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    stamps = (frame / FPS).astype(np.float32) if times is None else np.asarray(times, np.float32)
    columns = {
        "action": pa.FixedSizeListArray.from_arrays(
            pa.array(np.arange(2 * n, dtype=np.float32) / n / 2), 2
        ),
        "timestamp": pa.array(stamps),
        "frame_index": pa.array(frame),
        "index": pa.array(np.arange(n)),
        "task_index": pa.array(np.zeros(n, int)),
        "episode_index": pa.array(np.repeat(np.arange(len(lengths)), lengths)),
    }
    one = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}
    features = {
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "timestamp": one("float32"),
        **{key: one("int64") for key in ["frame_index", "episode_index", "index", "task_index"]},
    }
    if state:
        columns["observation.state"] = pa.FixedSizeListArray.from_arrays(
            pa.array(np.arange(3 * n, dtype=np.float32)), 3
        )
        features["observation.state"] = {"dtype": "float32", "shape": [3], "names": None}
    pq.write_table(pa.table(columns), root / "data/chunk-000/file-000.parquet")
    whole = lambda values: pa.array(values, pa.int64())
    episodes = {
        "episode_index": whole(range(len(lengths))),
        "length": whole(lengths),
        "data/chunk_index": whole([0] * len(lengths)),
        "data/file_index": whole([0] * len(lengths)),
        "dataset_from_index": whole(ends - lengths),
        "dataset_to_index": whole(ends),
    }
    for key, (entry, places) in cameras.items():
        features[key] = entry
        episodes[f"videos/{key}/chunk_index"] = whole([0] * len(lengths))
        episodes[f"videos/{key}/file_index"] = whole([file for file, _ in places])
        episodes[f"videos/{key}/from_timestamp"] = pa.array(
            [first for _, first in places], pa.float64()
        )
    pq.write_table(pa.table(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["stack"]}), root / "meta/tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": len(lengths),
        "total_frames": n,
        "total_tasks": 1,
        "features": features,
        "splits": {"train": f"0:{len(lengths)}"},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def file(root, key, index=0):
    """The path of a video."""
    return str(root / f"videos/{key}/chunk-000/file-{index:03d}.mp4")


def expected(root, key, lengths, places):
    """What PyAV has at the times of every row."""
    rows = []
    for length, (index, first) in zip(lengths, places):
        times, frames = decoded(file(root, key, index))
        for row in range(length):
            at = np.abs(times - (first + float(np.float32(row / FPS)))).argmin()
            check(
                abs(times[at] - (first + row / FPS)) < 1e-4,
                f"the test's own video: {key} {index} {row}",
            )
            rows.append(frames[at])
    return np.stack(rows)


TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = [20, 35, 11]


def two_cameras(root):
    """H.264 in one file that starts late, AV1 in two files; episode 1 lies before episode 0."""
    top = [(0, 0.5 + 35 / FPS), (0, 0.5), (0, 0.5 + 55 / FPS)]
    wrist = [(0, 0.0), (0, 20 / FPS), (1, 0.0)]
    dataset(root, LENGTHS, {TOP: (video([48, 64, 3]), top), WRIST: (video([36, 52, 3]), wrist)})
    encode(file(root, TOP), 66, start=15, options={"bf": "3", "g": "12", "crf": "20"})
    av1 = {"crf": "30", "g": "2", "preset": "12"}
    encode(file(root, WRIST), 55, (36, 52), "libsvtav1", seed=1, options=av1)
    encode(file(root, WRIST, 1), 11, (36, 52), "libsvtav1", seed=2, options=av1)
    return {TOP: expected(root, TOP, LENGTHS, top), WRIST: expected(root, WRIST, LENGTHS, wrist)}


# --- how frames are read from a dataset


def arrays(rows, key):
    shape = [int(axis) for axis in rows.schema.field(key).metadata[b"shape"].split(b",")]
    values = rows[key].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), *shape)


def images(rows, key):
    return np.stack(
        [
            np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
            for image in rows[key].to_pylist()
        ]
    )
