"""Models see the frames of videos: which ones, in which form, and at any number of threads.

PyAV says what the frames are, Pillow how they are resized, numpy how they are scaled, and
onnxruntime what the models make of them.
"""

import os
import shutil

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

import networks
import oracle
from oracle import check, close, equal, trajmill
from oracle import table as steps
from writers.video import LENGTHS, TOP, WRIST, encode, file, two_cameras

SIZE = (48, 64)


class Videos:
    """A LeRobot dataset with two cameras, and what PyAV sees in them, episode by episode."""

    def __init__(self, folder):
        self.root = folder / "two"
        wanted = two_cameras(self.root)
        ends = np.cumsum(LENGTHS)
        self.episodes = {
            key: [frames[end - length : end] for length, end in zip(LENGTHS, ends)]
            for key, frames in wanted.items()
        }

    def shown(self, key, offsets, edge="repeat"):
        """The frames at `offsets` from each row, `None` for a row that is skipped."""
        rows = []
        for frames in self.episodes[key]:
            for row in range(len(frames)):
                at = [row + offset for offset in offsets]
                if edge == "skip" and not all(0 <= place < len(frames) for place in at):
                    rows.append(None)
                    continue
                one = lambda place: frames[min(max(place, 0), len(frames) - 1)]
                inside = lambda place: edge != "zero" or 0 <= place < len(frames)
                rows.append(
                    np.stack([one(place) if inside(place) else 0 * frames[0] for place in at])
                )
        return rows


@pytest.fixture(scope="module")
def videos(shared):
    return Videos(shared)


def score(folder, root, name, model, inputs, width, threads=2, **more):
    """The column `seen` that a model makes of frames."""
    stage = {"score": {"model": model, "inputs": inputs, "outputs": {"seen": "seen"}, **more}}
    keep = {"materialise": {"path": name, "columns": ["seen"]}}
    path = oracle.pipeline(
        folder / f"{name}.json", {"path": str(root), "format": "lerobot"}, [stage, keep]
    )
    trajmill("run", path, "--threads", threads)
    column = steps(folder / name)["seen"].combine_chunks()
    valid = ~np.asarray(column.is_null())
    rows = np.stack([np.asarray(row) for row in column.filter(valid).to_pylist()])
    return rows.reshape(-1, width), valid


def seeing(folder, inputs, kind=TensorProto.FLOAT):
    """A model whose output are the values of its inputs; inputs are (name, shape)."""
    name = "_".join(port for port, _ in inputs) + "_".join(str(kind))
    size = [int(np.prod(shape)) for _, shape in inputs]
    flat = [
        node
        for (port, _), width in zip(inputs, size)
        for node in [
            helper.make_node("Cast", [port], [f"{port}_f"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", [f"{port}_f"], [f"{port}_flat"], axis=1),
        ]
    ]
    join = helper.make_node("Concat", [f"{port}_flat" for port, _ in inputs], ["seen"], axis=1)
    return networks.save(
        folder / f"{name}.onnx",
        [*flat, join],
        [(port, kind, list(shape)) for port, shape in inputs],
        [("seen", TensorProto.FLOAT, [sum(size)])],
    )


FORMS = {
    "stretch": ({"size": [12, 20]}, (12, 20)),
    "larger": ({"size": [60, 70]}, (60, 70)),
    "area": ({"size": [12, 16], "filter": "area"}, (12, 16)),
    "crop": ({"size": [20, 20], "fit": "crop"}, (20, 20)),
    "crop odd": ({"size": [30, 33], "fit": "crop"}, (30, 33)),
    "pad odd": ({"size": [30, 33], "fit": "pad"}, (30, 33)),
    "pad": ({"size": [20, 20], "fit": "pad"}, (20, 20)),
    "normal": (
        {
            "size": [12, 20],
            "scale": "unit",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        (12, 20),
    ),
    "factor": ({"scale": 0.5, "layout": "chw"}, SIZE),
}


def formed(frame, form, size):
    """A frame in the form that the options describe, by Pillow and numpy."""
    height, width = size
    image = Image.fromarray(frame)
    how = Image.BOX if form.get("filter") == "area" else Image.BILINEAR
    fit = form.get("fit", "stretch")
    if "size" in form:
        if fit == "stretch":
            image = image.resize((width, height), how)
        else:
            factor = (max if fit == "crop" else min)(height / image.height, width / image.width)
            inner = int(image.width * factor + 1e-9), int(image.height * factor + 1e-9)
            image = image.resize(inner, how)
            # As torchvision's CenterCrop rounds.
            left, top = round((inner[0] - width) / 2), round((inner[1] - height) / 2)
            if fit == "crop":
                image = image.crop((left, top, left + width, top + height))
            else:
                black = Image.new("RGB", (width, height))
                black.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
                image = black
    values = np.asarray(image).astype(np.float32)
    if "scale" in form:
        scale = form["scale"]
        values = values / np.float32(255) if scale == "unit" else values * np.float32(scale)
    if "mean" in form:
        values = (values - np.float32(form["mean"])) / np.float32(form["std"])
    return values.transpose(2, 0, 1)


@pytest.mark.model
@pytest.mark.video
@pytest.mark.parametrize("name", FORMS)
def test_frames_have_the_form_that_options_describe(videos, tmp_path, name):
    form, size = FORMS[name]
    model = seeing(tmp_path, [("img", (3, *size))])
    width = 3 * size[0] * size[1]
    found, _ = score(
        tmp_path, videos.root, "made", model, {"img": f'frame("{TOP}")'}, width, frames=form
    )
    wanted = np.stack([formed(shown[0], form, size) for shown in videos.shown(TOP, [0])])
    equal(found.astype(np.float32), wanted.reshape(len(wanted), -1), name)


@pytest.mark.model
@pytest.mark.video
@pytest.mark.parametrize("edge", ["repeat", "zero", "skip"])
def test_windows_of_two_cameras_never_leave_their_episode(videos, tmp_path, edge):
    form = {"img": {"size": [6, 8]}, "later": {"size": [6, 8]}, "seq": {"size": [5, 7]}}
    model = seeing(
        tmp_path, [("img", (3, 6, 8)), ("later", (6, 8, 3)), ("seq", (4, 3, 5, 7))]
    )
    inputs = {
        "img": f'prev("{TOP}")',
        "later": f'frame("{TOP}", 16)',
        "seq": {"of": f'frame("{WRIST}")', "past": 2, "future": 1},
    }
    width = 3 * 6 * 8 * 2 + 4 * 3 * 5 * 7
    found, valid = score(
        tmp_path, videos.root, "made", model, inputs, width, frames=form, edge=edge
    )
    resized = lambda frame, size: np.asarray(Image.fromarray(frame).resize(size[::-1], 2))
    wanted, known = [], []
    parts = [
        videos.shown(TOP, [-1], edge),
        videos.shown(TOP, [16], edge),
        videos.shown(WRIST, [-2, -1, 0, 1], edge),
    ]
    for img, later, seq in zip(*parts):
        known.append(not any(part is None for part in (img, later, seq)))
        if known[-1]:
            wanted.append(
                np.concatenate(
                    [
                        resized(img[0], (6, 8)).transpose(2, 0, 1).ravel(),
                        resized(later[0], (6, 8)).ravel(),
                        *(resized(one, (5, 7)).transpose(2, 0, 1).ravel() for one in seq),
                    ]
                )
            )
    equal(valid, np.asarray(known), "rows that are scored")
    equal(found.astype(np.uint8), np.stack(wanted), edge)


def idm(folder, chunk):
    """A small convolutional model of two frames that predicts a chunk of actions."""
    rng = np.random.default_rng(5)
    constants = [
        ("k", rng.normal(size=(8, 6, 5, 5)) / 40),
        ("w", rng.normal(size=(8, 2 * chunk)) / 8),
    ]
    nodes = [
        helper.make_node("Concat", ["img", "img_h"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "k"], ["c"], strides=[4, 4], dilations=[1, 1], pads=[0, 0, 0, 0]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "w"], ["action"]),
    ]
    ports = [(name, TensorProto.FLOAT, [3, 24, 32]) for name in ("img", "img_h")]
    return networks.save(
        folder / "idm.onnx",
        nodes,
        ports,
        [("action", TensorProto.FLOAT, [2 * chunk])],
        [(name, value.astype(np.float32)) for name, value in constants],
    )


@pytest.mark.model
@pytest.mark.video
def test_chunks_over_frames_are_averaged_and_do_not_depend_on_threads(videos, tmp_path):
    form, chunk, batch = {"size": [24, 32], "scale": "unit"}, 16, 5
    model = idm(tmp_path, chunk)
    label = {
        "model": model,
        "inputs": {"img": f'frame("{TOP}")', "img_h": f'frame("{TOP}", 16)'},
        "frames": form,
        "horizon": {"length": chunk, "reduce": "mean"},
        "batch": batch,
        "relabel": True,
    }
    outputs = {}
    for threads in (1, 2, 5):
        keep = {"materialise": {"path": f"made{threads}", "shard_rows": 25}}
        path = oracle.pipeline(
            tmp_path / f"label{threads}.json",
            {"path": str(videos.root), "format": "lerobot"},
            [{"label": label}, keep],
        )
        trajmill("run", path, "--threads", threads)
        made = tmp_path / f"made{threads}"
        outputs[threads] = {
            place.relative_to(made): place.read_bytes()
            for place in sorted(made.rglob("*.parquet"))
        }
    check(outputs[1] == outputs[2] == outputs[5], "the same bytes with 1, 2 and 5 threads")
    now = [formed(shown[0], form, (24, 32)) for shown in videos.shown(TOP, [0])]
    then = [formed(shown[0], form, (24, 32)) for shown in videos.shown(TOP, [16])]
    made = networks.predict(model, {"img": np.stack(now), "img_h": np.stack(then)})["action"]
    made = made.reshape(len(now), chunk, 2).astype(np.float64)
    wanted, start = [], 0
    for length in LENGTHS:
        for row in range(length):
            votes = [made[start + at, row - at] for at in range(max(0, row - chunk + 1), row + 1)]
            wanted.append(np.mean(votes, 0))
        start += length
    found = oracle.numpy(steps(tmp_path / "made1")["action"], 2)
    close(found, np.stack(wanted), "the mean of the chunks", atol=1e-5, rtol=1e-4)


@pytest.mark.model
@pytest.mark.video
def test_a_frame_that_cannot_be_decoded_is_named(videos, tmp_path):
    """By trajectory, camera and second, whatever decodes it first."""
    shutil.copytree(videos.root, tmp_path / "short")
    os.remove(file(tmp_path / "short", WRIST, 1))
    encode(file(tmp_path / "short", WRIST, 1), 5, (36, 52))
    model = seeing(tmp_path, [("img", (3, 6, 8))])
    stage = {
        "score": {
            "model": model,
            "inputs": {"img": f'frame("{WRIST}")'},
            "frames": {"size": [6, 8]},
            "outputs": {"seen": "seen"},
        }
    }
    path = oracle.pipeline(
        tmp_path / "late.json",
        {"path": str(tmp_path / "short"), "format": "lerobot"},
        [stage, {"materialise": {"path": "made"}}],
    )
    message = trajmill("run", path, code=1).stderr
    oracle.says(message, ["trajectory ", f"column `{WRIST}`", "0.1667 s"], "a short video")


@pytest.mark.model
@pytest.mark.video
@pytest.mark.parametrize(
    "inputs, frames, words",
    [
        ('frame("observation.images.tip")', {}, ["observation.images.top", "did you mean"]),
        (f'frame("{TOP}", 1.5)', {}, ["whole number of rows"]),
        ('frame("action")', {}, ["`action` is", "not a column of frames"]),
        (f'frame("{TOP}")', {"size": [6, 9]}, ["6 × 9", "img: float32[batch, 3, 6, 8]"]),
        (f'frame("{TOP}")', {"size": [6, 8], "dtype": "uint8", "mean": [0, 0, 0]}, ["`mean`"]),
        ("action", {"size": [6, 8]}, ["not a column of frames"]),
    ],
    ids=["name", "rows", "vector", "size", "dtype", "options"],
)
def test_frames_that_do_not_fit_are_refused(videos, tmp_path, inputs, frames, words):
    model = seeing(tmp_path, [("img", (3, 6, 8))])
    stage = {
        "score": {
            "model": model,
            "inputs": {"img": inputs},
            "frames": frames,
            "outputs": {"seen": "seen"},
        }
    }
    path = oracle.pipeline(
        tmp_path / "wrong.json",
        {"path": str(videos.root), "format": "lerobot"},
        [stage, {"materialise": {"path": "made"}}],
    )
    message = trajmill("check", path, code=3).stderr
    oracle.says(message, words, f"{inputs} {frames}")
