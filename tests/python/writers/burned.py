"""LeRobot datasets whose frames say what they show: camera, episode and step, as large blocks.

The blocks survive lossy coding. The state of a row says the same in numbers, so a reader can compare
every row of any result with its frames. Files, places in files and gaps between episodes are drawn,
as deleting and merging leave them.
"""

import json
import os
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from oracle import check
from writers.lerobot import put

# Encoders that talk.
os.environ["SVT_LOG"] = "1"

BLOCK, ROWS, COLUMNS = 16, 4, 6
# An episode that no row refers to: what an editor removed, but left in a file.
REMOVED = 511
QUANTILES, PARTS = ("q01", "q10", "q50", "q90", "q99"), (0.01, 0.1, 0.5, 0.9, 0.99)
TASKS = ["pick the cup", "open the door"]
# As LeRobot's recorder encodes; as a camera does, with frames that refer to later ones; and with such
# frames that refer beyond the key frame before them.
CODECS = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "lp=2"}),
    "h264": ("libx264", {"g": "10", "crf": "20", "bf": "2", "preset": "veryfast"}),
    "open": ("libx264", {"g": "10", "crf": "20", "bf": "3", "x264-params": "open-gop=1"}),
    "hevc": ("libx265", {"crf": "20", "x265-params": "log-level=error:keyint=12"}),
}


def picture(camera, episode, step, size=(ROWS * BLOCK, COLUMNS * BLOCK)):
    """A frame, 24 bits of which are blocks: 3 of the camera, 9 of the episode, 12 of the step."""
    number = camera << 21 | episode << 12 | step
    bits = (number >> np.arange(ROWS * COLUMNS)) & 1
    blocks = np.kron(bits.reshape(ROWS, COLUMNS), np.ones((BLOCK, BLOCK), int))
    y, x = np.mgrid[: size[0], : size[1]]
    gradient = np.stack([x + step, y + 2 * step, x + y + 3 * episode], -1) % 64
    frame = 96 + gradient
    area = frame[: ROWS * BLOCK, : COLUMNS * BLOCK]
    area += np.where(blocks, 64, -96)[:, :, None]
    return frame.astype(np.uint8)


def shown(frame):
    """Camera, episode and step of a frame."""
    area = frame[: ROWS * BLOCK, : COLUMNS * BLOCK].astype(float).mean(-1)
    means = area.reshape(ROWS, BLOCK, COLUMNS, BLOCK)[:, 4:12, :, 4:12].mean((1, 3))
    number = int(((means.reshape(-1) > 112) << np.arange(ROWS * COLUMNS)).sum())
    return number >> 21, number >> 12 & 511, number & 4095


def encode(path, frames, fps, codec, start=0):
    """Writes frames to a video; the first is shown at `start` / `fps` seconds."""
    name, options = CODECS[codec]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(name, rate=fps, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(frame, "rgb24")
            frame.pts, frame.time_base = start + index, Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


class Video:
    """A video as PyAV decodes it: seconds, RGB, and which frames are key frames."""

    def __init__(self, path):
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            self.reorders = stream.codec_context.has_b_frames > 0
            self.codec = stream.codec_context.name
            times, frames, keys = [], [], []
            for frame in file.decode(stream):
                times.append(float(frame.pts * frame.time_base))
                frames.append(frame.to_ndarray(format="rgb24"))
                keys.append(bool(frame.key_frame))
        self.times, self.frames, self.keys = np.array(times), frames, keys

    def at(self, seconds, tolerance=1e-4):
        """The index of the frame at a time, by the rule of LeRobot's loader."""
        index = int(np.abs(self.times - seconds).argmin())
        apart = abs(self.times[index] - seconds)
        check(apart < tolerance, f"no frame at {seconds} s; the nearest is {apart} s away")
        return index


def samples(length):
    """The frames that LeRobot computes an episode's statistics of."""
    least = min(100, length)
    count = max(least, min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, count)).astype(int)


def image_statistics(frames):
    """Statistics of an episode's frames by LeRobot's rules: some frames, large ones reduced."""
    height, width = frames[0].shape[:2]
    every = int(max(height, width) / 150) if max(height, width) >= 300 else 1
    values = np.stack([frames[index][::every, ::every] for index in samples(len(frames))])
    of = lambda found: (np.asarray(found, np.float64) / 255).reshape(3, 1, 1).tolist()
    values = values.reshape(-1, 3).astype(np.float64)
    return {
        "min": of(values.min(0)),
        "max": of(values.max(0)),
        "mean": of(values.mean(0)),
        "std": of(values.std(0)),
        "count": [len(samples(len(frames)))],
        **dict(zip(QUANTILES, map(of, np.quantile(values, PARTS, axis=0)))),
    }


def number_statistics(values):
    values = values.astype(np.float64).reshape(len(values), -1)
    of = lambda found: np.asarray(found, np.float64).tolist()
    return {
        "min": of(values.min(0)),
        "max": of(values.max(0)),
        "mean": of(values.mean(0)),
        "std": of(values.std(0)),
        "count": [len(values)],
        **dict(zip(QUANTILES, map(of, np.quantile(values, PARTS, axis=0)))),
    }


def aggregated(parts):
    """Statistics of several episodes as one, by LeRobot's rules."""
    counts = np.array([part["count"][0] for part in parts], np.float64)
    of = lambda key: np.stack([np.asarray(part[key], np.float64) for part in parts])
    weights = (counts / counts.sum()).reshape(-1, *[1] * (of("mean").ndim - 1))
    mean = (of("mean") * weights).sum(0)
    variance = ((of("std") ** 2 + (of("mean") - mean) ** 2) * weights).sum(0)
    return {
        "min": of("min").min(0).tolist(),
        "max": of("max").max(0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(counts.sum())],
        **{key: (of(key) * weights).sum(0).tolist() for key in QUANTILES},
    }


class Burned:
    """A dataset; `number` is the first number of its rows' states, and of its episodes' frames.

    `cameras` maps a feature to the name of its codec.
    """

    def __init__(self, root, random, lengths, cameras, version="v3.0", number=0, fps=30):
        self.root, self.lengths, self.fps, self.number = root, list(lengths), fps, number
        self.cameras, self.version = dict(cameras), version
        n, self.ends = sum(lengths), np.cumsum(lengths)
        self.episode = np.repeat(np.arange(len(lengths)), lengths)
        self.step = np.concatenate([np.arange(length) for length in lengths])
        self.state = np.stack([np.full(n, number), self.episode, self.step], -1).astype(np.float32)
        self.action = self.actions(random)
        self.task = self.episode % 2
        self.places = {}
        self.statistics = [self.numbers(episode) for episode in range(len(lengths))]
        for code, key in enumerate(self.cameras):
            self.film(random, code, key)
        (self.v3 if version == "v3.0" else self.v2)()

    def rows(self, episode):
        return slice(self.ends[episode] - self.lengths[episode], self.ends[episode])

    def actions(self, random):
        return random.normal(size=(len(self.step), 2)).astype(np.float32)

    def size(self, code):
        """Height and width of the frames of a camera."""
        return 64 + 16 * code, 96 + 32 * code

    def picture(self, code, episode, step):
        return picture(code, episode, step, self.size(code))

    def pictures(self, code, episode):
        """Frames of an episode. Its number in the frames counts on from dataset to dataset."""
        number = episode + 100 * self.number
        return [self.picture(code, number, step) for step in range(self.lengths[episode])]

    def numbers(self, episode):
        own = self.rows(episode)
        index = np.arange(len(self.step))
        return {
            name: number_statistics(values[own])
            for name, values in {
                "observation.state": self.state,
                "action": self.action,
                "timestamp": (self.step / self.fps).astype(np.float32),
                "frame_index": self.step,
                "episode_index": self.episode,
                "index": index,
                "task_index": self.task,
            }.items()
        }

    def film(self, random, code, key):
        """Draws the files of a camera and the places of episodes in them, and writes the videos."""
        count = len(self.lengths)
        if self.version == "v3.0":
            order = random.permutation(count)
            cuts = np.sort(random.choice(np.arange(1, count + 1), random.integers(0, 3)))
            files = [part for part in np.split(order, cuts) if len(part)]
        else:
            files = [[episode] for episode in range(count)]
        for index, episodes in enumerate(files):
            frames, start = [], 0
            if self.version == "v3.0" and random.random() < 0.3:
                # MP4 states the start in milliseconds.
                start = 3 * int(random.integers(1, 10))
            for episode in episodes:
                if self.version == "v3.0" and random.random() < 0.3:
                    gone = range(int(random.integers(1, 8)))
                    frames += [self.picture(code, REMOVED, step) for step in gone]
                own = self.pictures(code, int(episode))
                # Recorders add up durations, so that a first second is off by rounding errors.
                first = (start + len(frames)) / self.fps + random.uniform(-2e-5, 2e-5)
                first = max(0.0, first) if self.version == "v3.0" else 0.0
                self.places[key, int(episode)] = index, first
                self.statistics[episode][key] = image_statistics(own)
                frames += own
            encode(self.video(key, index), frames, self.fps, self.cameras[key], start)

    def video(self, key, index):
        if self.version == "v3.0":
            return self.root / f"videos/{key}/chunk-000/file-{index:03d}.mp4"
        return self.root / f"videos/chunk-000/{key}/episode_{index:06d}.mp4"

    def table(self, own):
        vector = lambda values: pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel()), values.shape[1]
        )
        return pa.table(
            {
                "observation.state": vector(self.state[own]),
                "action": vector(self.action[own]),
                "timestamp": pa.array((self.step[own] / self.fps).astype(np.float32)),
                "frame_index": pa.array(self.step[own]),
                "episode_index": pa.array(self.episode[own]),
                "index": pa.array(np.arange(len(self.step))[own]),
                "task_index": pa.array(self.task[own]),
            }
        )

    def info(self, **more):
        one = lambda dtype, *shape: {"dtype": dtype, "shape": list(shape) or [1], "names": None}
        features = {
            "observation.state": one("float32", 3),
            "action": one("float32", 2),
            "timestamp": one("float32"),
            **{
                name: one("int64")
                for name in ("frame_index", "episode_index", "index", "task_index")
            },
        }
        for code, (key, codec) in enumerate(self.cameras.items()):
            height, width = self.size(code)
            features[key] = {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": "h264" if codec == "open" else codec,
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": self.fps,
                    "video.channels": 3,
                    "has_audio": False,
                },
            }
        return {
            "codebase_version": self.version,
            "robot_type": "arm",
            "total_episodes": len(self.lengths),
            "total_frames": len(self.step),
            "total_tasks": 2,
            "chunks_size": 1000,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.lengths)}"},
            "features": features,
            **more,
        }

    def texts(self, episode):
        return [TASKS[episode % 2]]

    def v3(self):
        episodes = []
        for episode, length in enumerate(self.lengths):
            own = self.rows(episode)
            row = {
                "episode_index": episode,
                "tasks": self.texts(episode),
                "length": length,
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": int(own.start),
                "dataset_to_index": int(own.stop),
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
            for key in self.cameras:
                index, first = self.places[key, episode]
                row |= {
                    f"videos/{key}/chunk_index": 0,
                    f"videos/{key}/file_index": index,
                    f"videos/{key}/from_timestamp": first,
                    f"videos/{key}/to_timestamp": first + length / self.fps,
                }
            for name, own in self.statistics[episode].items():
                row |= {f"stats/{name}/{key}": value for key, value in own.items()}
            episodes.append(row)
        root = self.root
        put(root / "data/chunk-000/file-000.parquet", self.table(slice(None)))
        put(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(episodes))
        info = self.info(
            data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            data_files_size_in_mb=100,
            video_files_size_in_mb=200,
        )
        put(root / "meta/info.json", info)
        put(root / "meta/stats.json", self.whole())
        pd.DataFrame({"task_index": [0, 1]}, index=pd.Index(TASKS, name="task")).to_parquet(
            root / "meta/tasks.parquet"
        )

    def v2(self):
        root, lines = self.root, lambda rows: "".join(json.dumps(row) + "\n" for row in rows)
        for episode in range(len(self.lengths)):
            path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
            put(path, self.table(self.rows(episode)))
        info = self.info(
            data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            video_path="videos/chunk-{episode_chunk:03d}/{video_key}"
            "/episode_{episode_index:06d}.mp4",
            total_chunks=1,
            total_videos=len(self.cameras) * len(self.lengths),
        )
        put(root / "meta/info.json", info)
        put(root / "meta/tasks.jsonl", lines({"task_index": i, "task": t} for i, t in enumerate(TASKS)))
        put(
            root / "meta/episodes.jsonl",
            lines(
                {"episode_index": episode, "tasks": self.texts(episode), "length": length}
                for episode, length in enumerate(self.lengths)
            ),
        )
        if self.version == "v2.1":
            put(
                root / "meta/episodes_stats.jsonl",
                lines(
                    {"episode_index": episode, "stats": own}
                    for episode, own in enumerate(self.statistics)
                ),
            )
        else:
            put(root / "meta/stats.json", self.whole())

    def whole(self):
        return {
            name: aggregated([own[name] for own in self.statistics])
            for name in self.statistics[0]
        }


class Read:
    """A LeRobot dataset with videos, as LeRobot's loader finds rows and frames."""

    def __init__(self, root):
        self.root, self.opened = root, {}
        self.info = json.loads((root / "meta/info.json").read_text())
        features = self.info["features"]
        self.cameras = [key for key in features if features[key]["dtype"] == "video"]
        self.old = self.info["codebase_version"] != "v3.0"
        lines = lambda name: [
            json.loads(line) for line in (root / f"meta/{name}.jsonl").read_text().splitlines()
        ]
        if self.old:
            self.episodes = sorted(lines("episodes"), key=lambda row: row["episode_index"])
            self.tasks = {row["task_index"]: row["task"] for row in lines("tasks")}
            files = sorted((root / "data").rglob("*.parquet"))
            # v2.0 has no statistics of episodes.
            stats = lines("episodes_stats") if (root / "meta/episodes_stats.jsonl").exists() else []
            self.stats = {row["episode_index"]: row["stats"] for row in stats}
        else:
            files = sorted((root / "meta/episodes").rglob("*.parquet"))
            rows = [row for file in files for row in pq.read_table(file).to_pylist()]
            self.episodes = sorted(rows, key=lambda row: row["episode_index"])
            frame = pd.read_parquet(root / "meta/tasks.parquet")
            self.tasks = dict(zip(frame["task_index"].tolist(), frame.index.tolist()))
            files = sorted((root / "data").rglob("*.parquet"))
            self.stats = {row["episode_index"]: self.nested(row) for row in rows}
        self.rows = pa.concat_tables([pq.read_table(file) for file in files]).sort_by("index")
        lengths = [row["length"] for row in self.episodes]
        self.ends = np.cumsum(lengths, dtype=int)
        check(self.info["total_frames"] == len(self.rows) == sum(lengths), "frames in total")

    @staticmethod
    def nested(row):
        stats = {}
        for key, value in row.items():
            if key.startswith("stats/") and value is not None:
                _, name, statistic = key.split("/")
                stats.setdefault(name, {})[statistic] = value
        return stats

    def own(self, episode):
        length = self.episodes[episode]["length"]
        return self.rows.slice(self.ends[episode] - length, length)

    def place(self, key, episode):
        """The file of an episode's frames, and the second in it at which they begin."""
        row = self.episodes[episode]
        if self.old:
            path = self.info["video_path"].format(
                episode_chunk=episode // self.info["chunks_size"],
                video_key=key,
                episode_index=episode,
            )
            return self.root / path, 0.0
        path = self.info["video_path"].format(
            video_key=key,
            chunk_index=row[f"videos/{key}/chunk_index"],
            file_index=row[f"videos/{key}/file_index"],
        )
        return self.root / path, row[f"videos/{key}/from_timestamp"]

    def video(self, path):
        if path not in self.opened:
            self.opened[path] = Video(path)
        return self.opened[path]

    def frames(self, key, episode):
        """The path and the indices in it of the frames of an episode."""
        path, first = self.place(key, episode)
        video = self.video(path)
        times = self.own(episode)["timestamp"].to_pylist()
        return path, [video.at(first + time) for time in times]
