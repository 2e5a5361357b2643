"""What LeRobot's loader finds in a dataset with videos, by its rules and with PyAV's pixels."""

import glob
import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oracle import check

# `tolerance_s` of LeRobot's loader.
TOLERANCE = 1e-4


class Loaded:
    """A dataset of v3.0 or v2.1: its features, its rows, and where the frames of each are."""

    def __init__(self, root):
        self.root = str(root)
        with open(f"{root}/meta/info.json") as file:
            self.info = json.load(file)
        self.features, self.fps = self.info["features"], self.info["fps"]
        self.cameras = [name for name, one in self.features.items() if one["dtype"] == "video"]
        files = sorted(glob.glob(f"{root}/data/*/*.parquet"))
        self.rows = pa.concat_tables([pq.read_table(file) for file in files])
        if self.info["codebase_version"] == "v3.0":
            tables = sorted(glob.glob(f"{root}/meta/episodes/*/*.parquet"))
            self.episodes = pa.concat_tables([pq.read_table(file) for file in tables]).to_pylist()
            self.statistics = [
                {
                    camera: {
                        name.split("/")[-1]: value
                        for name, value in one.items()
                        if name.startswith(f"stats/{camera}/")
                    }
                    for camera in self.cameras
                }
                for one in self.episodes
            ]
        else:
            lines = lambda name: [json.loads(line) for line in open(f"{root}/meta/{name}.jsonl")]
            self.episodes = lines("episodes")
            self.statistics = [line["stats"] for line in lines("episodes_stats")]
        self.lengths = [one["length"] for one in self.episodes]
        check(sum(self.lengths) == len(self.rows), "a row for each frame")

    def place(self, camera, episode):
        """The file of an episode, and the second at which it begins there."""
        one = self.episodes[episode]
        if self.info["codebase_version"] == "v3.0":
            number = lambda part: one[f"videos/{camera}/{part}"]
            path = self.info["video_path"].format(
                video_key=camera,
                chunk_index=number("chunk_index"),
                file_index=number("file_index"),
            )
            first = number("from_timestamp")
            check(
                abs(number("to_timestamp") - first - one["length"] / self.fps) < 1e-9,
                "the end of an episode in its video",
            )
        else:
            path = self.info["video_path"].format(
                episode_chunk=episode // self.info["chunks_size"],
                video_key=camera,
                episode_index=episode,
            )
            first = 0.0
        return f"{self.root}/{path}", first

    def frames(self, camera):
        """The frames of every row, as the loader finds them."""
        opened, found = {}, []
        stamps = self.rows["timestamp"].to_numpy()
        row = 0
        for episode, length in enumerate(self.lengths):
            path, first = self.place(camera, episode)
            if path not in opened:
                opened[path] = decoded(path)
            times, frames = opened[path]
            for frame in range(length):
                wanted = first + float(stamps[row])
                at = np.abs(times - wanted).argmin()
                check(
                    abs(times[at] - wanted) < TOLERANCE,
                    f"{camera}: episode {episode} has no frame at {wanted}, the nearest is at "
                    f"{times[at]}",
                )
                check(abs(stamps[row] - np.float32(frame / self.fps)) < 1e-6, "timestamp")
                found.append(frames[at])
                row += 1
        return np.stack(found)

    def files(self, camera=""):
        """All video files, or those of a camera."""
        found = glob.glob(f"{self.root}/videos/**/*.mp4", recursive=True)
        return sorted(file for file in found if camera in file)


def decoded(path):
    """Every frame of a video as PyAV has it: seconds, and RGB."""
    with av.open(path) as file:
        frames = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in file.decode(video=0)
        ]
    return np.array([time for time, _ in frames]), np.stack([frame for _, frame in frames])


def packets(path):
    """The packets of a video, as bytes."""
    with av.open(path) as file:
        return [bytes(packet) for packet in file.demux(video=0) if packet.size]


def psnr(found, wanted):
    """The smallest ratio of signal to noise of a frame, in dB."""
    errors = ((found.astype(float) - wanted.astype(float)) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(errors, 1e-9))).min())


# --- lerobot/datasets/compute_stats.py of lerobot 0.4.4


def sampled(frames):
    """The frames and pixels that LeRobot computes statistics of: [frame, channel, pixels]."""
    count = len(frames)
    number = max(min(count, 100), min(int(count**0.75), 10_000))
    frames = frames[np.round(np.linspace(0, count - 1, number)).astype(int)]
    height, width = frames.shape[1:3]
    if max(height, width) >= 300:
        step = int(width / 150) if width > height else int(height / 150)
        frames = frames[:, ::step, ::step]
    return frames


def statistics(frames):
    """The statistics of an episode's frames."""
    frames = sampled(frames)
    values = frames.reshape(-1, 3) / 255
    shaped = lambda numbers: np.asarray(numbers).reshape(3, 1, 1)
    found = {
        "min": shaped(values.min(0)),
        "max": shaped(values.max(0)),
        "mean": shaped(values.mean(0)),
        "std": shaped(values.std(0)),
        "count": np.array([len(frames)]),
    }
    for name, quantile in {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}.items():
        found[name] = shaped(np.quantile(values, quantile, axis=0))
    return found


def aggregated(parts):
    """The statistics of all episodes together: `aggregate_feature_stats`."""
    of = lambda name: np.stack([np.asarray(part[name], float) for part in parts])
    counts = of("count")
    weights = counts[:, :, None, None]
    mean = (of("mean") * weights).sum(0) / counts.sum()
    variance = ((of("std") ** 2 + (of("mean") - mean) ** 2) * weights).sum(0) / counts.sum()
    found = {
        "min": of("min").min(0),
        "max": of("max").max(0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": counts.sum(0),
    }
    for name in ["q01", "q10", "q50", "q90", "q99"]:
        if all(name in part for part in parts):
            found[name] = (of(name) * weights).sum(0) / counts.sum()
    return found


def same_statistics(found, wanted, what, atol=1e-9):
    check(set(found) == set(wanted), f"{what}: {sorted(found)}")
    for name, value in wanted.items():
        number = np.asarray(found[name], float)
        check(number.shape == np.shape(value), f"{what}: shape of {name}: {number.shape}")
        check(np.allclose(number, value, atol=atol), f"{what}: {name}: {number} {value}")
