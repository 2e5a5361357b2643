"""The recipes on videos, run on videos of the size that models see, against PyAV and onnxruntime.

The tests make the videos: a bright square moves over a dark scene, and actions are its movement.
Frames are wider or less high than the models' inputs, so that cropping and padding are needed, and
nothing is interpolated.
"""

import csv
import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper

import networks
import oracle
from networks import FLOAT, predict
from oracle import REPOSITORY, check, close, equal, trajmill
from writers.burned import Burned, Read, Video, encode
from writers.lerobot import array

TOP, SIDE, SQUARE, FASTEST = "observation.images.top", 224, 32, 8
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class Moving(Burned):
    """A LeRobot dataset of a square that moves at speeds that change at random."""

    def size(self, code):
        return SIDE, 320

    def actions(self, random):
        path = random.integers(-FASTEST, FASTEST + 1, (len(self.step), 2))
        self.position = {}
        actions = np.zeros((len(self.step), 2), np.float32)
        for episode in range(len(self.lengths)):
            own = self.rows(episode)
            # x and y of the square, which stays within the middle of the frame.
            at = np.array([SIDE // 2, SIDE // 2])
            for step in range(own.start, own.stop):
                self.position[episode, step - own.start] = at
                ahead = np.clip(at + path[step], SQUARE, SIDE - 2 * SQUARE)
                actions[step], at = (ahead - at) / FASTEST, ahead
        return actions

    def picture(self, code, episode, step):
        return scene(SIDE, 320, *self.position.get((episode, step), (0, 0)), 48)


def scene(height, width, x, y, margin=0):
    frame = np.full((height, width, 3), 40, np.uint8)
    frame[y : y + SQUARE, margin + x : margin + x + SQUARE] = [230, 200, 120]
    return frame


def cells(chw, name):
    """Nodes that make `NAME_flat`: 14 × 14 means of a frame, its three channels as one."""
    grey, means, size = f"{name}_grey", f"{name}_means", [16, 16]
    return [
        helper.make_node("ReduceMean", [chw], [grey], axes=[1], keepdims=1),
        helper.make_node("AveragePool", [grey], [means], kernel_shape=size, strides=size),
        helper.make_node("Flatten", [means], [f"{name}_flat"]),
    ]


def encoder(path, name, width, shape):
    """A linear model of a frame: the first two numbers say where the bright square is."""
    y, x = np.mgrid[:14, :14] / 13 - 0.5
    random = np.random.default_rng(5)
    weights = np.stack([x.ravel(), y.ravel()], 1)
    weights = np.concatenate([weights, random.normal(0, 0.02, (196, 6))], 1)[:, :width]
    nodes = [*cells("image", "image"), helper.make_node("MatMul", ["image_flat", "w"], ["all"])]
    last = "Flatten" if shape else "Reshape"
    nodes.append(helper.make_node(last, ["all"] if shape else ["all", "rows"], [name]))
    constants = [("w", weights.astype(np.float32)), ("rows", np.array([-1]))]
    ports = [("image", FLOAT, [3, SIDE, SIDE])], [(name, FLOAT, shape)]
    networks.save(path, nodes, *ports, constants[: 1 if shape else 2])


def chunks(path):
    """An inverse dynamics model of two frames that predicts 16 actions."""
    random = np.random.default_rng(6)
    nodes, sides = [], []
    for name in ("now", "later"):
        nodes += [
            helper.make_node("Cast", [name], [f"{name}_number"], to=FLOAT),
            helper.make_node("Transpose", [f"{name}_number"], [f"{name}_chw"], perm=[0, 3, 1, 2]),
            *cells(f"{name}_chw", name),
        ]
        sides.append(f"{name}_flat")
    nodes += [
        helper.make_node("Concat", sides, ["both"], axis=1),
        helper.make_node("MatMul", ["both", "w"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["bounded"]),
        helper.make_node("Reshape", ["bounded", "shape"], ["action"]),
    ]
    picture = [SIDE, SIDE, 3]
    networks.save(
        path,
        nodes,
        [(name, onnx.TensorProto.UINT8, picture) for name in ("now", "later")],
        [("action", FLOAT, [16, 3])],
        [
            ("w", random.normal(0, 1e-3, (392, 48)).astype(np.float32)),
            ("shape", np.array([-1, 16, 3])),
        ],
    )


@pytest.fixture(scope="module")
def robot(shared):
    """A dataset with one camera, and models that see it."""
    random = oracle.seeded("recipes of videos")
    folder = shared / "videos"
    lengths = random.integers(20, 50, 12).tolist()
    source = Moving(folder / "robot", random, lengths, {TOP: "h264"}, "v3.0")
    encoder(folder / "encoder.onnx", "embedding", 8, [8])
    encoder(folder / "value.onnx", "value", 1, [])
    return source


def run(tmp_path, videos, name):
    """Runs a recipe as it is committed, and returns the LeRobot dataset that it writes."""
    path = f"pipelines/video/{name}.yaml"
    readme = (REPOSITORY / "README.md").read_text()
    check(f"`trajmill run {path}`" in readme, f"{path} is not in README.md")
    shutil.copytree(REPOSITORY / "pipelines", tmp_path / "pipelines")
    (tmp_path / "videos").symlink_to(videos)
    trajmill("check", path, cwd=tmp_path)
    trajmill("run", path, cwd=tmp_path)
    check("nothing to do" in trajmill("run", path, cwd=tmp_path).stderr, "the second time")
    written = (tmp_path / path).read_text().split("materialise: { path: ../../")[1].split(",")[0]
    trajmill("validate", tmp_path / written)
    return Read(tmp_path / written)


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_videos(read, folder):
    """All videos of a result are those of the source, byte for byte."""
    known = {sha(path) for path in folder.rglob("*.mp4")}
    files = list(read.root.rglob("*.mp4"))
    check(files and all(sha(path) in known for path in files), "the videos are those of the source")


def seen(frames, normalised=True):
    """Frames as the recipes show them to a model: cropped, divided, normalised, channels first."""
    cut = np.stack(frames)[:, :, 48 : 48 + SIDE].astype(np.float32) / 255
    if normalised:
        cut = (cut - MEAN) / STD
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 2).astype(np.float32))


def episodes(source):
    """The frames of each episode as PyAV decodes them, cropped by nothing."""
    read = Read(source.root)
    for episode in range(len(source.lengths)):
        path, indices = read.frames(TOP, episode)
        yield [read.video(path).frames[index] for index in indices]


@pytest.mark.video
@pytest.mark.model
def test_dreams_are_labelled_by_overlapping_chunks(tmp_path, shared):
    random = oracle.seeded("dreams")
    videos = shared / "videos"
    folder = videos / "dreams"
    rows, clips = [], {}
    for clip, length in enumerate([40, 5, 23]):
        path = folder / ("night" if clip == 1 else "day") / f"clip_{clip}.mp4"
        at = np.clip(np.cumsum(random.integers(-6, 7, (length, 2)), 0) + 60, 0, 130)
        encode(path, [scene(168, SIDE, x, y) for x, y in at], 16, "h264")
        name = str(path.relative_to(folder))
        rows.append({"file_name": name, "task": f"move {clip}"})
        clips[f"move {clip}"] = Video(path).frames
    with open(folder / "metadata.csv", "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    chunks(videos / "idm.onnx")
    read = run(tmp_path, videos, "dreams")
    equal(read.info["fps"], 16, "the rate is that of the videos")
    equal(len(read.episodes), 3, "a trajectory for each file")
    for episode, entry in enumerate(read.episodes):
        own = read.own(episode)
        frames = clips[read.tasks[own["task_index"][0].as_py()]]
        n = len(frames)
        equal(entry["length"], n, "a step for each frame")
        # Black is added above and below.
        padded = np.zeros((n, SIDE, SIDE, 3), np.uint8)
        padded[:, 28:196] = np.stack(frames)
        later = padded[np.minimum(np.arange(n) + 16, n - 1)]
        found = predict(videos / "idm.onnx", {"now": padded, "later": later})["action"]
        wanted = [
            np.mean([found[start, t - start] for start in range(max(0, t - 15), t + 1)], 0)
            for t in range(n)
        ]
        close(array(own["action"]), np.stack(wanted), f"labels of clip {episode}", atol=1e-5)
    check_videos(read, folder)


@pytest.mark.video
@pytest.mark.model
def test_frame_embeddings_are_a_column_beside_the_videos(tmp_path, robot):
    videos = robot.root.parent
    read = run(tmp_path, videos, "frame_embeddings")
    equal([row["length"] for row in read.episodes], robot.lengths, "episodes")
    for episode, frames in enumerate(episodes(robot)):
        wanted = predict(videos / "encoder.onnx", {"image": seen(frames)})["embedding"]
        own = read.own(episode)
        close(array(own["embedding"]), wanted, f"embeddings of {episode}", atol=1e-4, rtol=1e-4)
        equal(array(own["action"]), robot.action[robot.rows(episode)], "actions")
    check_videos(read, robot.root)


@pytest.mark.video
@pytest.mark.model
def test_episodes_that_gain_least_are_dropped(tmp_path, robot):
    videos = robot.root.parent
    read = run(tmp_path, videos, "vision_filter")
    gains = []
    for frames in episodes(robot):
        value = predict(videos / "value.onnx", {"image": seen(frames, False)})["value"]
        gains.append(float(value[-1] - value[0]))
    least = np.quantile(gains, 0.25, method="inverted_cdf")
    wanted = [episode for episode, gain in enumerate(gains) if gain > least]
    found = [int(array(read.own(e)["observation.state"])[0, 1]) for e in range(len(read.episodes))]
    equal(found, wanted, "episodes that are kept")
    check_videos(read, robot.root)


@pytest.mark.video
@pytest.mark.model
def test_an_inverse_dynamics_model_learns_from_frozen_embeddings(tmp_path, robot):
    read = run(tmp_path, robot.root.parent, "frozen_encoder_idm")
    report = json.loads((tmp_path / "out/frozen-encoder/idm.report.json").read_text())
    dimensions = report["held_out"]["dimensions"]
    error = sum(each["mse"] for each in dimensions) / sum(
        each["mse_of_mean"] for each in dimensions
    )
    check(error < 0.3, f"held-out error of {error:.2f} of that of the mean")
    equal([row["length"] for row in read.episodes], robot.lengths, "episodes")
    states = np.concatenate(
        [array(read.own(episode)["observation.state"]) for episode in range(len(read.episodes))]
    )
    equal(states, robot.state, "the state is the observation again")
    # `true_action` has what was hidden; recorded actions are as they were.
    labels = array(read.rows["action"]).astype(float)
    errors = ((labels - robot.action) ** 2).mean()
    check(
        0 < errors < 0.3 * robot.action.var(),
        f"labels are off by {errors / robot.action.var():.2f} of the variance",
    )
    check_videos(read, robot.root)
