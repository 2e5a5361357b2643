#!/usr/bin/env python3
"""Makes LeRobot datasets with videos, and models that see two frames.

    video_corpus.py corpus OUT --size 256x256 --codec h264 --episodes 8 --length 300 [--version v2.1]
    video_corpus.py models OUT

A corpus has one camera, a state of 6 numbers and an action of 7. Its frames are a texture that moves,
with noise, so that encoding and decoding cost what they cost on camera images. H.264 has B-frames and
a key frame every 250 frames, as x264 does by default; AV1 is what LeRobot's recorder writes (GOP 2,
CRF 30). In v3.0 all episodes are in one file, and in v2.1 each has its own. The values depend on the
arguments only.

The models take frames as bytes, height × width × 3, of any size:

    small-HxW.onnx    `img`, `img_next`: three convolutions, 7 actions
    resnet-HxW.onnx   `img`, `img_next`: the size of ResNet-18, 7 actions
    chunk-HxW.onnx    `img`, `img_next`: as small, but the next 16 actions
    first-HxW.onnx    `img`, `img_next`: the first pixel of each; no work, so it shows what decoding costs
    state.onnx        `x`: two states, 7 actions
"""

import argparse
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

CAMERA = "observation.images.top"
FPS, STATES, ACTIONS, CHUNK = 30, 6, 7, 16
CODECS = {
    "h264": ("libx264", {"crf": "23", "preset": "veryfast"}),
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
}
SIZES = [(256, 256), (480, 640)]


class Scene:
    """Frames of a texture that moves."""

    def __init__(self, height, width, seed):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (height // 8 + 40, width // 8 + 40, 3))
        self.texture = np.kron(coarse, np.ones((8, 8, 1), int)).astype(np.int16)
        for axis in (0, 1):
            for _ in range(2):
                self.texture = (self.texture + np.roll(self.texture, 3, axis)) // 2
        self.noise = rng.integers(-12, 13, (16, height, width, 3)).astype(np.int16)
        self.height, self.width = height, width

    def frame(self, index):
        y = int(120 + 100 * np.sin(index / 37))
        x = int(120 + 100 * np.cos(index / 23))
        part = self.texture[y : y + self.height, x : x + self.width]
        return np.clip(part + self.noise[index % 16], 0, 255).astype(np.uint8)


def encode(path, scene, frames, codec):
    """Writes frames `frames` of a scene."""
    name, options = CODECS[codec]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(name, rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = scene.height, scene.width, "yuv420p"
        for at, index in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(scene.frame(index), "rgb24")
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def vectors(values):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def corpus(out, size, codec, episodes, length, version):
    width, height = map(int, size.split("x"))
    scene, rng = Scene(height, width, 7), np.random.default_rng(11)
    n = episodes * length
    step = np.tile(np.arange(length), episodes)
    columns = {
        "observation.state": vectors(rng.normal(size=(n, STATES)).astype(np.float32)),
        "action": vectors(np.zeros((n, ACTIONS), np.float32)),
        "timestamp": pa.array((step / FPS).astype(np.float32)),
        "frame_index": pa.array(step),
        "episode_index": pa.array(np.repeat(np.arange(episodes), length)),
        "index": pa.array(np.arange(n)),
        "task_index": pa.array(np.zeros(n, int)),
    }
    table = pa.table(columns)
    feature = lambda dtype, *shape: {"dtype": dtype, "shape": list(shape), "names": None}
    one = lambda dtype: feature(dtype, 1)
    features = {
        "observation.state": feature("float32", STATES),
        "action": feature("float32", ACTIONS),
        CAMERA: feature("video", height, width, 3)
        | {
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": codec,
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": FPS,
                "video.channels": 3,
                "has_audio": False,
            },
        },
        "timestamp": one("float32"),
        **{key: one("int64") for key in ["frame_index", "episode_index", "index", "task_index"]},
    }
    info = {
        "codebase_version": version,
        "robot_type": "arm",
        "fps": FPS,
        "total_episodes": episodes,
        "total_frames": n,
        "total_tasks": 1,
        "chunks_size": 1000,
        "splits": {"train": f"0:{episodes}"},
        "features": features,
    }
    spread = lambda values: {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "count": [len(values)],
    }
    numbers = {
        name: np.stack(table[name].to_numpy()).astype(np.float64).reshape(n, -1)
        for name in table.column_names
    }
    seen = np.stack([scene.frame(index) for index in range(0, min(length, 100), 10)]) / 255
    image = {
        key: np.asarray(getattr(seen, key)((0, 1, 2))).reshape(3, 1, 1).tolist()
        for key in ("min", "max", "mean", "std")
    } | {"count": [len(seen)]}
    own = lambda rows: {name: spread(values[rows]) for name, values in numbers.items()} | {
        CAMERA: image
    }
    meta = out / "meta"
    if version == "v3.0":
        for folder in ["data/chunk-000", "meta/episodes/chunk-000"]:
            (out / folder).mkdir(parents=True)
        encode(
            out / f"videos/{CAMERA}/chunk-000/file-000.mp4", scene, range(n), codec
        )
        pq.write_table(table, out / "data/chunk-000/file-000.parquet")
        rows = []
        for episode in range(episodes):
            first = episode * length
            stats = own(slice(first, first + length))
            rows.append(
                {
                    "episode_index": episode,
                    "tasks": ["move"],
                    "length": length,
                    "data/chunk_index": 0,
                    "data/file_index": 0,
                    "dataset_from_index": first,
                    "dataset_to_index": first + length,
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                    f"videos/{CAMERA}/chunk_index": 0,
                    f"videos/{CAMERA}/file_index": 0,
                    f"videos/{CAMERA}/from_timestamp": first / FPS,
                    f"videos/{CAMERA}/to_timestamp": (first + length) / FPS,
                    **{
                        f"stats/{name}/{key}": value
                        for name, entry in stats.items()
                        for key, value in entry.items()
                    },
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), meta / "episodes/chunk-000/file-000.parquet")
        pd.DataFrame({"task_index": [0]}, index=pd.Index(["move"], name="task")).to_parquet(
            meta / "tasks.parquet"
        )
        (meta / "stats.json").write_text(json.dumps(own(slice(None))))
        info |= {
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
        }
    else:
        (out / "data/chunk-000").mkdir(parents=True)
        meta.mkdir()
        lines = {"tasks": [{"task_index": 0, "task": "move"}], "episodes": [], "episodes_stats": []}
        for episode in range(episodes):
            first, name = episode * length, f"episode_{episode:06d}"
            video = out / f"videos/chunk-000/{CAMERA}/{name}.mp4"
            encode(video, scene, range(first, first + length), codec)
            pq.write_table(
                table.slice(first, length), out / f"data/chunk-000/{name}.parquet"
            )
            entry = {"episode_index": episode, "tasks": ["move"], "length": length}
            lines["episodes"].append(entry)
            stats = own(slice(first, first + length))
            lines["episodes_stats"].append({"episode_index": episode, "stats": stats})
        for name, rows in lines.items():
            (meta / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        info |= {
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}"
            "/episode_{episode_index:06d}.mp4",
            "total_chunks": 1,
            "total_videos": episodes,
        }
    # This file is written last, so a corpus without it is incomplete.
    (meta / "info.json").write_text(json.dumps(info, indent=1))
    bytes_of = sum(file.stat().st_size for file in out.rglob("*.mp4"))
    print(f"{out}: {n} frames, {bytes_of / 1e6:.1f} MB of video")


# --- models


class Network:
    """A graph of convolutions with random, seeded weights; the speed does not depend on them."""

    def __init__(self, height, width, seed):
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), [], []
        self.height, self.width, self.count = height, width, 0

    def add(self, operator, inputs, output=None, **attributes):
        self.count += 1
        output = output or f"t{self.count}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, values):
        self.count += 1
        name = f"c{self.count}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def frames(self):
        """Both frames as float32 [batch, 6, height, width], from 0 to 1."""
        both = self.add("Concat", ["img", "img_next"], axis=3)
        number = self.add("Cast", [both], to=TensorProto.FLOAT)
        scaled = self.add("Mul", [number, self.constant(np.float32(1 / 255))])
        return self.add("Transpose", [scaled], perm=[0, 3, 1, 2])

    def convolve(self, at, fan_in, fan_out, kernel, stride, relu=True):
        scale = (2 / (fan_in * kernel**2)) ** 0.5
        weights = self.rng.normal(0, scale, (fan_out, fan_in, kernel, kernel)).astype(np.float32)
        bias = self.rng.normal(0, 0.05, fan_out).astype(np.float32)
        pad = (kernel - 1) // 2
        at = self.add(
            "Conv",
            [at, self.constant(weights), self.constant(bias)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
        )
        return self.add("Relu", [at]) if relu else at

    def head(self, at, features, outputs):
        pooled = self.add("GlobalAveragePool", [at])
        flat = self.add("Flatten", [pooled])
        weights = self.rng.normal(0, features**-0.5, (features, outputs)).astype(np.float32)
        return self.add("MatMul", [flat, self.constant(weights)])

    def save(self, path, last, shape, inputs=None):
        self.nodes.append(helper.make_node("Tanh", [last], ["action"]))
        picture = ["batch", self.height, self.width, 3]
        inputs = inputs or [
            helper.make_tensor_value_info(name, TensorProto.UINT8, picture)
            for name in ("img", "img_next")
        ]
        output = helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", *shape])
        graph = helper.make_graph(self.nodes, path.stem, inputs, [output], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def small(out, name, height, width, outputs, shape):
    net = Network(height, width, 1)
    at = net.convolve(net.frames(), 6, 16, 8, 4)
    at = net.convolve(at, 16, 32, 4, 2)
    at = net.convolve(at, 32, 32, 3, 2)
    at = net.head(at, 32, outputs)
    if len(shape) > 1:
        at = net.add("Reshape", [at, net.constant(np.array([-1, *shape]))])
    net.save(out / f"{name}-{width}x{height}.onnx", at, shape)


def resnet(out, height, width):
    net = Network(height, width, 2)
    at = net.convolve(net.frames(), 6, 64, 7, 2)
    at = net.add("MaxPool", [at], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    fan_in = 64
    for fan_out in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and fan_out > 64 else 1
            inner = net.convolve(at, fan_in, fan_out, 3, stride)
            inner = net.convolve(inner, fan_out, fan_out, 3, 1, relu=False)
            if stride > 1:
                at = net.convolve(at, fan_in, fan_out, 1, stride, relu=False)
            # Half, because weights that nobody trained would grow from block to block.
            added = net.add("Add", [at, inner])
            at = net.add("Relu", [net.add("Mul", [added, net.constant(np.float32(0.5))])])
            fan_in = fan_out
    net.save(out / f"resnet-{width}x{height}.onnx", net.head(at, 512, ACTIONS), [ACTIONS])


def first(out, height, width):
    net = Network(height, width, 3)
    ends = [net.constant(np.array(values)) for values in ([0, 0], [1, 1], [1, 2])]
    pixels = []
    for name in ("img", "img_next"):
        corner = net.add("Flatten", [net.add("Slice", [name, *ends])])
        pixels.append(net.add("Cast", [corner], to=TensorProto.FLOAT))
    # Twice the red of the first, for as many numbers as there are actions.
    red = [net.constant(np.array([at])) for at in (0, 1, 1)]
    both = net.add("Concat", [*pixels, net.add("Slice", [pixels[0], *red])], axis=1)
    net.save(out / f"first-{width}x{height}.onnx", both, [ACTIONS])


def state(out):
    net = Network(1, 1, 4)
    width = 2 * STATES
    weights = lambda *shape: net.constant(net.rng.normal(0, 0.3, shape).astype(np.float32))
    at = net.add("Tanh", [net.add("MatMul", ["x", weights(width, 64)])])
    at = net.add("MatMul", [at, weights(64, ACTIONS)])
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    net.save(out / "state.onnx", at, [ACTIONS], [port])


def models(out):
    out.mkdir(parents=True, exist_ok=True)
    for height, width in SIZES:
        small(out, "small", height, width, ACTIONS, [ACTIONS])
        small(out, "chunk", height, width, CHUNK * ACTIONS, [CHUNK, ACTIONS])
        resnet(out, height, width)
        first(out, height, width)
    # Written last: a folder without it is incomplete.
    state(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["corpus", "models"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="256x256", help="width x height [256x256]")
    parser.add_argument("--codec", choices=CODECS, default="h264")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--length", type=int, default=300, help="frames of an episode [300]")
    parser.add_argument("--version", choices=["v3.0", "v2.1"], default="v3.0")
    args = parser.parse_args()
    if args.what == "models":
        models(args.out)
    else:
        shutil.rmtree(args.out, ignore_errors=True)
        corpus(args.out, args.size, args.codec, args.episodes, args.length, args.version)


if __name__ == "__main__":
    os.environ.setdefault("SVT_LOG", "1")
    main()
