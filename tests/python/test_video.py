"""Frames of LeRobot's videos are decoded byte for byte as PyAV decodes them.

PyAV, which brings an FFmpeg of its own, writes the videos and says what is in them: H.264 with
B-frames, a late start and several episodes in a file; AV1 as LeRobot's recorder writes it; other
matrices, ranges and odd sizes.
"""

import collections
import io
import itertools
import json
import os
import shutil
import signal
import subprocess

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from PIL import Image

import networks
import oracle
from oracle import check, equal, trajmill
from oracle import table as steps
from writers.video import (
    BT709,
    FPS,
    LENGTHS,
    TOP,
    WRIST,
    arrays,
    dataset,
    decoded,
    encode,
    expected,
    file,
    images,
    two_cameras,
    video,
)


class Decoded:
    """Two cameras and what PyAV sees in them, imported as arrays, as PNG and as references."""

    def __init__(self, folder):
        self.root = folder / "two"
        self.wanted = two_cameras(self.root)
        for name in ("array", "png"):
            trajmill("import", self.root, folder / name, "--frames", name)
        trajmill("import", self.root, folder / "reference", "--videos", "reference")
        self.array, self.png, self.reference = (
            folder / "array",
            folder / "png",
            folder / "reference",
        )


@pytest.fixture(scope="module")
def cameras(shared):
    return Decoded(shared)


# --- import


@pytest.mark.video
def test_frames_are_those_of_pyav(cameras):
    with av.open(file(cameras.root, TOP)) as opened:
        stream = opened.streams.video[0]
        check(
            stream.codec_context.has_b_frames > 0
            and abs(stream.start_time * stream.time_base - 0.5) < 1e-6,
            "B-frames, and a late start",
        )
    for key, frames in cameras.wanted.items():
        equal(arrays(steps(cameras.array), key), frames, f"arrays of {key}")
        equal(images(steps(cameras.png), key), frames, f"PNG of {key}")
    check(
        "nothing to do"
        in trajmill("import", cameras.root, cameras.array, "--frames", "array").stderr,
        "the same import again",
    )
    check(
        pa.types.is_struct(steps(cameras.reference).schema.field(TOP).type),
        "references where nothing is asked for",
    )


@pytest.mark.video
def test_v21_has_a_video_for_each_episode(tmp_path):
    root = tmp_path / "v21"
    for folder in ["meta", "data/chunk-000"]:
        os.makedirs(root / folder)
    lengths, key = [7, 12], TOP
    wanted = []
    for episode, length in enumerate(lengths):
        frame = np.arange(length)
        columns = {
            "action": frame[:, None] / np.float32(99),
            "timestamp": (frame / FPS).astype(np.float32),
            "frame_index": frame,
            "episode_index": frame * 0 + episode,
            "index": frame,
            "task_index": frame * 0,
        }
        pq.write_table(
            pa.table(
                {
                    name: pa.array(values.tolist(), pa.list_(pa.float32()))
                    if values.ndim == 2
                    else pa.array(values)
                    for name, values in columns.items()
                }
            ),
            root / f"data/chunk-000/episode_{episode:06d}.parquet",
        )
        path = str(root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4")
        encode(path, length, seed=episode, options={"bf": "2"})
        wanted.append(decoded(path)[1])
    one = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}
    features = {
        "action": one("float32"),
        key: video([48, 64, 3]),
        "timestamp": one("float32"),
        **{name: one("int64") for name in ["frame_index", "episode_index", "index", "task_index"]},
    }
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "total_episodes": 2,
        "total_frames": 19,
        "total_tasks": 1,
        "features": features,
        "splits": {"train": "0:2"},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "stack"}))
    (root / "meta/episodes.jsonl").write_text(
        "".join(
            json.dumps({"episode_index": episode, "tasks": ["stack"], "length": length}) + "\n"
            for episode, length in enumerate(lengths)
        )
    )
    trajmill("import", root, tmp_path / "in", "--frames", "array")
    # With no vector to observe, what the camera saw is the observation.
    equal(arrays(steps(tmp_path / "in"), "observation"), np.concatenate(wanted), "v2.1")


KINDS = {
    "bt709": dict(matrix=BT709),
    "full": dict(full=True),
    "bt709full": dict(matrix=BT709, full=True),
    "yuv444": dict(pixels="yuv444p"),
    "odd": dict(size=(37, 51), pixels="yuv444p"),
    "tenbit": dict(pixels="yuv420p10le"),
    "hevc": dict(codec="libx265", options={"x265-params": "log-level=error"}),
}


@pytest.mark.video
@pytest.mark.parametrize("kind", KINDS)
def test_colours_and_sizes_are_those_of_pyav(tmp_path, kind):
    options, places = KINDS[kind], [(0, 0.0)]
    root = dataset(
        tmp_path / "set", [9], {kind: (video([*options.get("size", (48, 64)), 3]), places)}
    )
    encode(file(root, kind), 9, **options)
    trajmill("import", root, tmp_path / "in", "--frames", "array")
    found, wanted = arrays(steps(tmp_path / "in"), kind), expected(root, kind, [9], places)
    if kind == "tenbit":
        # How 10 bits become 8 differs between versions of FFmpeg, and PyAV brings a newer one.
        apart = np.abs(found.astype(int) - wanted).mean()
        check(found.shape == wanted.shape and apart < 8, f"{apart}")
    else:
        equal(found, wanted, kind)


# --- exports


def parts(wanted):
    """What each episode shows."""
    for index, (length, end) in enumerate(zip(LENGTHS, np.cumsum(LENGTHS))):
        yield index, {key: frames[end - length : end] for key, frames in wanted.items()}


def check_robomimic(path, wanted):
    with h5py.File(path) as demos:
        for index, shown in parts(wanted):
            for key, frames in shown.items():
                in_robomimic(demos[f"data/demo_{index}"], key, frames)


def check_lerobot(path, wanted):
    rows = pq.read_table(path / "data")
    for key, frames in wanted.items():
        equal(
            np.stack(
                [
                    np.asarray(Image.open(io.BytesIO(image["bytes"])))
                    for image in rows[key].to_pylist()
                ]
            ),
            frames,
            f"LeRobot {key}",
        )


def in_robomimic(demo, key, frames):
    """robomimic's loader expects frames, and the next ones, among the observations."""
    name = key.removeprefix("observation.")
    equal(demo[f"obs/{name}"][:], frames, f"robomimic {demo.name} {name}")
    equal(
        demo[f"next_obs/{name}"][:],
        np.concatenate([frames[1:], frames[-1:]]),
        f"robomimic {demo.name} next {name}",
    )
    check(key not in demo, f"{key} is there once")


@pytest.mark.video
def test_robomimic_gets_arrays(cameras, tmp_path):
    trajmill("export", cameras.array, tmp_path / "demos.hdf5", "--to", "robomimic")
    check_robomimic(tmp_path / "demos.hdf5", cameras.wanted)
    trajmill("import", tmp_path / "demos.hdf5", tmp_path / "in")
    for key, frames in cameras.wanted.items():
        equal(arrays(steps(tmp_path / "in"), key), frames, f"robomimic and back {key}")


@pytest.mark.video
def test_lerobot_gets_image_features(cameras, tmp_path):
    trajmill("export", cameras.png, tmp_path / "images", "--to", "lerobot")
    features = json.loads((tmp_path / "images/meta/info.json").read_text())["features"]
    for key, frames in cameras.wanted.items():
        check(
            features[key]["dtype"] == "image" and features[key]["shape"] == list(frames.shape[1:]),
            f"{features[key]}",
        )
    check_lerobot(tmp_path / "images", cameras.wanted)
    trajmill("import", tmp_path / "images", tmp_path / "in")
    check(
        steps(tmp_path / "in")[TOP].equals(steps(cameras.png)[TOP]), "PNG through LeRobot and back"
    )


@pytest.mark.video
@pytest.mark.parametrize("frames", ["array", "png"])
def test_frames_come_back_from_rlds(cameras, tmp_path, frames):
    trajmill("export", getattr(cameras, frames), tmp_path / "rlds", "--to", "rlds")
    trajmill("import", tmp_path / "rlds", tmp_path / "in")
    for key, wanted in cameras.wanted.items():
        equal(
            (arrays if frames == "array" else images)(steps(tmp_path / "in"), key),
            wanted,
            f"RLDS {frames} {key}",
        )


# --- models


def brightness(folder, kind):
    """A score by a model whose input is an image of such numbers."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
    ]
    networks.save(
        folder / "brightness.onnx",
        nodes,
        [("image", kind, [48, 64, 3])],
        [("mean", TensorProto.FLOAT, [])],
        version=13,
    )
    return {
        "score": {
            "model": "brightness.onnx",
            "inputs": {"image": f'"{TOP}"'},
            "outputs": {"brightness": "mean"},
        }
    }


@pytest.mark.model
@pytest.mark.video
def test_a_model_sees_the_frames_of_a_source(cameras, tmp_path):
    """Of one that is decoded for the run."""
    stages = [
        brightness(tmp_path, TensorProto.FLOAT),
        {"materialise": {"path": "scored", "columns": ["brightness"]}},
    ]
    path = oracle.pipeline(
        tmp_path / "score.json",
        {"path": str(cameras.root), "format": "lerobot", "frames": "array"},
        stages,
    )
    trajmill("run", path)
    found = steps(tmp_path / "scored")["brightness"].to_numpy()
    check(np.allclose(found, cameras.wanted[TOP].mean((1, 2, 3)), rtol=1e-5), "a model over frames")
    check("nothing to do" in trajmill("run", path).stderr, "the same run again")


# --- references, decoded where they are needed


class Late:
    """Pipelines whose source holds references, and exports of it."""

    def __init__(self, cameras, folder):
        self.folder, self.source = (
            folder,
            {"path": str(cameras.reference), "frames": "array", "videos": str(cameras.root)},
        )

    def pipeline(self, name, stages, **source):
        """Writes a pipeline; a part of the source that is None is left out."""
        source = {
            key: value for key, value in {**self.source, **source}.items() if value is not None
        }
        return oracle.pipeline(
            self.folder / f"{name}.json", source, [*stages, {"materialise": {"path": name}}]
        )

    def rows(self, name, stages=(), **source):
        trajmill("run", self.pipeline(name, stages, **source))
        return steps(self.folder / name)


@pytest.fixture
def late(cameras, tmp_path):
    return Late(cameras, tmp_path)


@pytest.mark.video
@pytest.mark.parametrize(
    "to, frames, compare",
    [("robomimic", "array", check_robomimic), ("lerobot", "png", check_lerobot)],
    ids=["robomimic", "lerobot"],
)
def test_an_export_decodes_references(cameras, tmp_path, to, frames, compare):
    export = lambda: trajmill(
        "export",
        cameras.reference,
        tmp_path / "out",
        "--to",
        to,
        "--frames",
        frames,
        "--videos",
        cameras.root,
    )
    export()
    check("nothing to do" in export().stderr, "the same export again")
    compare(tmp_path / "out", cameras.wanted)


@pytest.mark.model
@pytest.mark.video
def test_a_model_sees_frames_that_are_not_written(cameras, tmp_path):
    stages = [
        {"filter": "length < 30"},
        brightness(tmp_path, TensorProto.UINT8),
        {"materialise": {"path": "scored", "columns": ["brightness"], "shard_rows": 25}},
    ]
    path = oracle.pipeline(
        tmp_path / "score.json",
        {"path": str(cameras.reference), "frames": "array", "videos": str(cameras.root)},
        stages,
    )
    trajmill("run", path)
    found, short = steps(tmp_path / "scored"), np.concatenate([np.arange(20), np.arange(55, 66)])
    check(TOP not in found.column_names, "frames are not written")
    check(
        np.allclose(
            found["brightness"].to_numpy(), cameras.wanted[TOP][short].mean((1, 2, 3)), rtol=1e-5
        ),
        "a model over frames",
    )
    size = sum(
        entry.stat().st_size for entry in (tmp_path / "scored").rglob("*") if entry.is_file()
    )
    check(
        size < 60_000,
        f"{size} bytes are written",
    )
    check("nothing to do" in trajmill("run", path).stderr, "the same run again")


@pytest.mark.video
@pytest.mark.parametrize("more", [{}, {"map": {"camera": TOP}}], ids=["plain", "mapped"])
def test_a_pipeline_decodes_references_and_copies_the_rest(cameras, late, more):
    """Columns that come out as they came in are copied from the file, where these are not."""
    found = late.rows("all", [{"filter": "length > 0"}], **more)
    for key, frames in cameras.wanted.items():
        equal(arrays(found, "camera" if more and key == TOP else key), frames, key)
    check(found["action"].equals(steps(cameras.reference)["action"]), "the rest is what it was")


@pytest.mark.video
def test_a_pipeline_decodes_references_as_png(cameras, late):
    equal(images(late.rows("png", frames="png"), WRIST), cameras.wanted[WRIST], "PNG of references")


@pytest.mark.video
def test_rows_without_a_reference_have_no_frame(cameras, late):
    """Final observations are such rows."""
    gaps = late.rows(
        "gaps",
        [{"derive": {TOP: f'case when step % 3 <> 1 then "{TOP}" end'}}],
        frames=None,
        videos=None,
    )
    gone = np.asarray([row is None for row in gaps[TOP].to_pylist()])
    check(gone.sum() > 10, "some references are null")
    found = late.rows("null", path="gaps")
    equal(np.asarray(found[TOP].is_null()), gone, "no reference, no frame")
    frames = np.stack([np.asarray(row, np.uint8) for row in found[TOP].to_pylist() if row])
    equal(frames, cameras.wanted[TOP][~gone].reshape(sum(~gone), -1), "frames between")


@pytest.mark.video
@pytest.mark.parametrize(
    "options, words",
    [
        ({"videos": None}, ["`frames`", "`videos`", "LeRobot dataset"]),
        ({"videos": "nowhere"}, ["nowhere"]),
        ({"path": "array"}, ["refers to a video"]),
        ({"path": "two", "format": "lerobot"}, ["`videos`", "trajmill"]),
        ({"videos": "png"}, ["there is no video", "png", "file-000.mp4"]),
    ],
    ids=["no-videos", "no-folder", "no-references", "other-format", "other-folder"],
)
def test_a_source_that_cannot_be_decoded_is_refused(cameras, late, options, words):
    options = {
        key: str(cameras.root.parent / value) if key in ("path", "videos") and value else value
        for key, value in options.items()
    }
    message = trajmill("check", late.pipeline("wrong", [], **options), code=3).stderr
    oracle.says(message, words, f"{options}")


@pytest.mark.video
def test_an_export_of_frames_needs_to_know_where_videos_are(cameras, tmp_path):
    message = trajmill(
        "export", cameras.reference, tmp_path / "wrong", "--to", "npy", "--frames", "array", code=2
    ).stderr
    check("videos" in message, message)


@pytest.mark.video
def test_a_video_that_is_too_short_for_its_references_ends_a_run(cameras, late, tmp_path):
    """Once others have said how large frames are."""
    shutil.copytree(cameras.root, tmp_path / "short")
    encode(file(tmp_path / "short", WRIST, 1), 5, (36, 52), "libsvtav1", options={"preset": "12"})
    message = trajmill(
        "run", late.pipeline("late", [], videos=str(tmp_path / "short")), code=1
    ).stderr
    oracle.says(message, [f"column `{WRIST}`", "0.1667 s"], "a short video")
    check(not (tmp_path / "late").exists(), "nothing is left")


@pytest.mark.video
def test_references_that_lead_elsewhere_are_refused(late):
    elsewhere = (
        f"""named_struct('path', '../' || "{TOP}"['path'], 'timestamp', "{TOP}"['timestamp'])"""
    )
    outside = late.rows("outside", [{"derive": {TOP: elsewhere}}], frames=None, videos=None)
    check(outside[TOP].to_pylist()[0]["path"].startswith("../"), "references that lead elsewhere")
    message = trajmill("check", late.pipeline("wrong", [], path="outside"), code=3).stderr
    check("outside" in message, message)


@pytest.mark.video
def test_videos_that_are_replaced_during_a_run_are_noticed(late, cameras, tmp_path):
    """The run is stopped at one operation after another, and the videos change meanwhile."""
    root, other, aside = (tmp_path / name for name in ["videos", "other", "aside"])
    shutil.copytree(cameras.root, root)
    shutil.copytree(cameras.root, other)
    encode(file(other, TOP), 66, start=15, seed=9, options={"bf": "3", "g": "12", "crf": "20"})
    path = late.pipeline("frames", [], videos=str(root))

    def exchange():
        os.rename(root, aside)
        os.rename(other, root)
        os.rename(aside, other)

    trajmill("run", path)
    right = steps(tmp_path / "frames")
    found = collections.Counter()
    for at in itertools.count(1):
        shutil.rmtree(tmp_path / "frames", ignore_errors=True)
        shutil.rmtree(tmp_path / ".frames.staging", ignore_errors=True)
        process = subprocess.Popen(
            [oracle.BINARY, "run", path, "--threads", "1"],
            env={**os.environ, "TRAJMILL_FAULT": f"stop:{at}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if stopped.si_code == os.CLD_EXITED:
            process.communicate()
            break
        exchange()
        process.send_signal(signal.SIGCONT)
        message = process.communicate()[1]
        exchange()
        if process.returncode == 0:
            check(steps(tmp_path / "frames").equals(right), f"replaced at {at}: other frames")
            found["right"] += 1
        else:
            check("videos was replaced while it was read" in message, f"{at}: {message}")
            check(not (tmp_path / "frames").exists(), f"replaced at {at}: there is a result")
            found["error"] += 1
    if not found:
        pytest.skip("the binary was built without the Cargo feature `faults`")
    check(found["right"] and found["error"], f"{found}")
