"""Frames of LeRobot's videos, decoded on import and for a pipeline, byte for byte as PyAV decodes them.

PyAV, which brings an FFmpeg of its own, writes the videos (H.264 with B-frames, a late start and several episodes a file; AV1
as LeRobot's recorder has it; other matrices, ranges and odd sizes) and says what is in them. A build without the Cargo feature
`video` is held to the one error that names it.
"""

import io
import json
import os
import shutil

import av
import h5py
import networks
import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from oracle import check, equal, trajmill
from oracle import table as steps
from PIL import Image
from writers.video import BT709, FPS, dataset, decoded, encode, expected, file, video

def arrays(rows, key):
    shape = [int(axis) for axis in rows.schema.field(key).metadata[b"shape"].split(b",")]
    values = rows[key].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), *shape)

def images(rows, key):
    return np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in rows[key].to_pylist()])

def refused(folder, source, *words, code=1, options=("--frames", "array")):
    """Checks that an import fails with these words and leaves nothing."""
    message = trajmill("import", source, folder / "refused", *options, code=code).stderr
    oracle.says(message, map(str, words), "refused")
    check(not (folder / "refused").exists(), f"{words}: something was left")

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

class Decoded:
    """Two cameras and what PyAV sees in them, imported as arrays, as PNG and as references."""

    def __init__(self, folder):
        self.root = folder / "two"
        self.wanted = two_cameras(self.root)
        for name in ("array", "png"):
            trajmill("import", self.root, folder / name, "--frames", name)
        trajmill("import", self.root, folder / "reference")
        self.array, self.png, self.reference = folder / "array", folder / "png", folder / "reference"

@pytest.fixture(scope="module")
def cameras(shared):
    return Decoded(shared)

# --- import

@pytest.mark.video
def test_frames_are_those_of_pyav(cameras):
    with av.open(file(cameras.root, TOP)) as opened:
        stream = opened.streams.video[0]
        check(stream.codec_context.has_b_frames > 0 and abs(stream.start_time * stream.time_base - 0.5) < 1e-6, "B-frames, and a late start")
    for key, frames in cameras.wanted.items():
        equal(arrays(steps(cameras.array), key), frames, f"arrays of {key}")
        equal(images(steps(cameras.png), key), frames, f"PNG of {key}")
    check("nothing to do" in trajmill("import", cameras.root, cameras.array, "--frames", "array").stderr, "the same import again")
    check(pa.types.is_struct(steps(cameras.reference).schema.field(TOP).type), "references where nothing is asked for")

@pytest.mark.video
def test_v21_has_a_video_for_each_episode(tmp_path):
    root = tmp_path / "v21"
    for folder in ["meta", "data/chunk-000"]:
        os.makedirs(root / folder)
    lengths, key = [7, 12], TOP
    wanted = []
    for episode, length in enumerate(lengths):
        frame = np.arange(length)
        columns = {"action": frame[:, None] / np.float32(99), "timestamp": (frame / FPS).astype(np.float32), "frame_index": frame, "episode_index": frame * 0 + episode, "index": frame, "task_index": frame * 0}
        pq.write_table(pa.table({name: pa.array(values.tolist(), pa.list_(pa.float32())) if values.ndim == 2 else pa.array(values) for name, values in columns.items()}), root / f"data/chunk-000/episode_{episode:06d}.parquet")
        path = str(root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4")
        encode(path, length, seed=episode, options={"bf": "2"})
        wanted.append(decoded(path)[1])
    one = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}
    features = {"action": one("float32"), key: video([48, 64, 3]), "timestamp": one("float32"), **{name: one("int64") for name in ["frame_index", "episode_index", "index", "task_index"]}}
    info = {"codebase_version": "v2.1", "fps": FPS, "total_episodes": 2, "total_frames": 19, "total_tasks": 1, "features": features, "splits": {"train": "0:2"}}
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "stack"}))
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps({"episode_index": episode, "tasks": ["stack"], "length": length}) + "\n" for episode, length in enumerate(lengths)))
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
    root = dataset(tmp_path / "set", [9], {kind: (video([*options.get("size", (48, 64)), 3]), places)})
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
        equal(np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in rows[key].to_pylist()]), frames, f"LeRobot {key}")

def in_robomimic(demo, key, frames):
    """robomimic's loader looks for what a camera saw among the observations, and for what it saw next."""
    name = key.removeprefix("observation.")
    equal(demo[f"obs/{name}"][:], frames, f"robomimic {demo.name} {name}")
    equal(demo[f"next_obs/{name}"][:], np.concatenate([frames[1:], frames[-1:]]), f"robomimic {demo.name} next {name}")
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
        check(features[key]["dtype"] == "image" and features[key]["shape"] == list(frames.shape[1:]), f"{features[key]}")
    check_lerobot(tmp_path / "images", cameras.wanted)
    trajmill("import", tmp_path / "images", tmp_path / "in")
    check(steps(tmp_path / "in")[TOP].equals(steps(cameras.png)[TOP]), "PNG through LeRobot and back")

@pytest.mark.video
@pytest.mark.parametrize("frames", ["array", "png"])
def test_frames_come_back_from_rlds(cameras, tmp_path, frames):
    trajmill("export", getattr(cameras, frames), tmp_path / "rlds", "--to", "rlds")
    trajmill("import", tmp_path / "rlds", tmp_path / "in")
    for key, wanted in cameras.wanted.items():
        equal((arrays if frames == "array" else images)(steps(tmp_path / "in"), key), wanted, f"RLDS {frames} {key}")

# --- models

def brightness(folder, kind):
    """A score by a model whose input is an image of such numbers."""
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT), helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    networks.save(folder / "brightness.onnx", nodes, [("image", kind, [48, 64, 3])], [("mean", TensorProto.FLOAT, [])], version=13)
    return {"score": {"model": "brightness.onnx", "inputs": {"image": f'"{TOP}"'}, "outputs": {"brightness": "mean"}}}

@pytest.mark.model
@pytest.mark.video
def test_a_model_sees_the_frames_of_a_source(cameras, tmp_path):
    """Of one that is decoded for the run."""
    stages = [brightness(tmp_path, TensorProto.FLOAT), {"materialise": {"path": "scored", "columns": ["brightness"]}}]
    path = oracle.pipeline(tmp_path / "score.json", {"path": str(cameras.root), "format": "lerobot", "frames": "array"}, stages)
    trajmill("run", path)
    found = steps(tmp_path / "scored")["brightness"].to_numpy()
    check(np.allclose(found, cameras.wanted[TOP].mean((1, 2, 3)), rtol=1e-5), "a model over frames")
    check("nothing to do" in trajmill("run", path).stderr, "the same run again")

# --- references, decoded where they are needed

class Late:
    """Pipelines whose source holds references, and exports of it."""

    def __init__(self, cameras, folder):
        self.folder, self.source = folder, {"path": str(cameras.reference), "frames": "array", "videos": str(cameras.root)}

    def pipeline(self, name, stages, **source):
        """Writes a pipeline; a part of the source that is None is left out."""
        source = {key: value for key, value in {**self.source, **source}.items() if value is not None}
        return oracle.pipeline(self.folder / f"{name}.json", source, [*stages, {"materialise": {"path": name}}])

    def rows(self, name, stages=(), **source):
        trajmill("run", self.pipeline(name, stages, **source))
        return steps(self.folder / name)

@pytest.fixture
def late(cameras, tmp_path):
    return Late(cameras, tmp_path)

@pytest.mark.video
@pytest.mark.parametrize("to, frames, compare", [("robomimic", "array", check_robomimic), ("lerobot", "png", check_lerobot)])
def test_an_export_decodes_references(cameras, tmp_path, to, frames, compare):
    export = lambda: trajmill("export", cameras.reference, tmp_path / "out", "--to", to, "--frames", frames, "--videos", cameras.root)
    export()
    check("nothing to do" in export().stderr, "the same export again")
    compare(tmp_path / "out", cameras.wanted)

@pytest.mark.model
@pytest.mark.video
def test_a_model_sees_frames_that_are_not_written(cameras, tmp_path):
    stages = [{"filter": "length < 30"}, brightness(tmp_path, TensorProto.UINT8), {"materialise": {"path": "scored", "columns": ["brightness"], "shard_rows": 25}}]
    path = oracle.pipeline(tmp_path / "score.json", {"path": str(cameras.reference), "frames": "array", "videos": str(cameras.root)}, stages)
    trajmill("run", path)
    found, short = steps(tmp_path / "scored"), np.concatenate([np.arange(20), np.arange(55, 66)])
    check(TOP not in found.column_names, "frames are not written")
    check(np.allclose(found["brightness"].to_numpy(), cameras.wanted[TOP][short].mean((1, 2, 3)), rtol=1e-5), "a model over frames")
    size = sum(entry.stat().st_size for entry in (tmp_path / "scored").rglob("*") if entry.is_file())
    check(size < 60_000, f"{size} bytes are written of {sum(frames.nbytes for frames in cameras.wanted.values())} of frames")
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
    gaps = late.rows("gaps", [{"derive": {TOP: f'case when step % 3 <> 1 then "{TOP}" end'}}], frames=None, videos=None)
    gone = np.asarray([row is None for row in gaps[TOP].to_pylist()])
    check(gone.sum() > 10, "some references are null")
    found = late.rows("null", path="gaps")
    equal(np.asarray(found[TOP].is_null()), gone, "no reference, no frame")
    frames = np.stack([np.asarray(row, np.uint8) for row in found[TOP].to_pylist() if row])
    equal(frames, cameras.wanted[TOP][~gone].reshape(sum(~gone), -1), "frames between")

@pytest.mark.video
@pytest.mark.parametrize("options, words", [
    ({"videos": None}, ["`frames`", "`videos`", "LeRobot dataset"]),
    ({"frames": None}, ["`videos`", "`frames`", "array", "png"]),
    ({"videos": "nowhere"}, ["nowhere"]),
    ({"path": "array"}, ["refers to a video"]),
    ({"path": "two", "format": "lerobot"}, ["`videos`", "trajmill"]),
    ({"videos": "png"}, ["cannot open the video", "png"]),
], ids=["no-videos", "no-frames", "no-folder", "no-references", "other-format", "other-folder"])
def test_a_source_that_cannot_be_decoded_is_refused(cameras, late, options, words):
    options = {key: str(cameras.root.parent / value) if key in ("path", "videos") and value else value for key, value in options.items()}
    message = trajmill("check", late.pipeline("wrong", [], **options), code=3).stderr
    oracle.says(message, words, f"{options}")

@pytest.mark.video
def test_an_export_of_frames_needs_to_know_where_videos_are(cameras, tmp_path):
    message = trajmill("export", cameras.reference, tmp_path / "wrong", "--to", "npy", "--frames", "array", code=2).stderr
    check("videos" in message, message)

@pytest.mark.video
def test_a_video_that_is_too_short_for_its_references_ends_a_run(cameras, late, tmp_path):
    """Once others have said how large frames are."""
    shutil.copytree(cameras.root, tmp_path / "short")
    encode(file(tmp_path / "short", WRIST, 1), 5, (36, 52), "libsvtav1", options={"preset": "12"})
    message = trajmill("run", late.pipeline("late", [], videos=str(tmp_path / "short")), code=1).stderr
    oracle.says(message, [f"column `{WRIST}`", "0.1667 s"], "a short video")
    check(not (tmp_path / "late").exists(), "nothing is left")

@pytest.mark.video
def test_references_that_lead_elsewhere_are_refused(late):
    elsewhere = f"""named_struct('path', '../' || "{TOP}"['path'], 'timestamp', "{TOP}"['timestamp'])"""
    outside = late.rows("outside", [{"derive": {TOP: elsewhere}}], frames=None, videos=None)
    check(outside[TOP].to_pylist()[0]["path"].startswith("../"), "references that lead elsewhere")
    message = trajmill("check", late.pipeline("wrong", [], path="outside"), code=3).stderr
    check("outside" in message, message)

# --- what is wrong

@pytest.fixture
def damaged(tmp_path):
    """A dataset of two cameras of the test's own."""
    two_cameras(tmp_path / "two")
    return tmp_path / "two"

@pytest.mark.video
def test_a_time_that_no_frame_has_is_refused_or_set_aside(damaged, tmp_path):
    path = damaged / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(path)
    times = rows["timestamp"].to_numpy().copy()
    place = times[23]
    times[23] += 0.0011
    pq.write_table(rows.set_column(rows.schema.get_field_index("timestamp"), "timestamp", pa.array(times)), path)
    refused(tmp_path, damaged, "episode 1", file(damaged, TOP), f"{0.5 + place + 0.0011:.4f} s", f"{0.5 + place:.4f} s")
    aside = trajmill("import", damaged, tmp_path / "aside", "--frames", "array", "--on-error", "quarantine", "--allowed", 1)
    oracle.says(aside.stderr, ["1 trajector", "set aside"], "a time")
    check(len(steps(tmp_path / "aside")) == 31, aside.stderr)

def rewrite(path, change):
    with open(path, "rb") as opened:
        whole = opened.read()
    with open(path, "wb") as opened:
        opened.write(change(whole))

av1 = dict(codec="libsvtav1", options={"preset": "12"})

@pytest.mark.video
@pytest.mark.parametrize("damage, words", [
    (os.remove, ["cannot open the video"]),
    (lambda path: rewrite(path, lambda whole: whole[: len(whole) // 2]), ["again"]),
    (lambda path: encode(path, 5, (36, 52), **av1), ["0.1667 s", "0.1333 s"]),
    (lambda path: encode(path, 11, (40, 52), **av1), ["40 × 52", "36 × 52"]),
], ids=["missing", "cut", "too-short", "other-size"])
def test_a_bad_video_is_named_with_its_episode(damaged, tmp_path, damage, words):
    damage(file(damaged, WRIST, 1))
    refused(tmp_path, damaged, "episode 2", file(damaged, WRIST, 1), *words)

@pytest.mark.video
def test_videos_of_several_sizes_are_imported_as_png(damaged, tmp_path):
    encode(file(damaged, WRIST, 1), 11, (40, 52), **av1)
    trajmill("import", damaged, tmp_path / "sizes", "--frames", "png")

@pytest.mark.video
@pytest.mark.parametrize("key", [TOP, WRIST])
@pytest.mark.parametrize("place", range(6))
def test_a_hole_in_a_video_is_seen(damaged, tmp_path, key, place):
    """A video has no checksums: a bit that another frame comes of is not seen."""
    path = file(damaged, key)
    at = np.linspace(200, os.path.getsize(path) - 8000, 6).astype(int)[place]
    rewrite(path, lambda whole: whole[:at] + bytes(1500) + whole[at + 1500 :])
    refused(tmp_path, damaged, "episode", path)

@pytest.mark.video
def test_frames_of_a_dataset_without_videos_are_refused(tmp_path):
    refused(tmp_path, dataset(tmp_path / "plain", [4], {}), "no", "video", code=2)

@pytest.mark.video
def test_frames_of_a_format_without_videos_are_refused(cameras, tmp_path):
    trajmill("export", cameras.array, tmp_path / "demos.hdf5", "--to", "robomimic")
    refused(tmp_path, tmp_path / "demos.hdf5", "`frames`", "`robomimic`", code=2)

@pytest.mark.video
def test_videos_of_distances_stay_references(tmp_path):
    places = [(0, 0.0)]
    root = dataset(tmp_path / "set", [9], {TOP: (video([48, 64, 3]), places), "depth": (video([48, 64, 1], is_depth_map=True), places)})
    encode(file(root, TOP), 9)
    trajmill("import", root, tmp_path / "in", "--frames", "array")
    check(pa.types.is_struct(steps(tmp_path / "in").schema.field("depth").type), "distances stay references")

# --- memory

@pytest.mark.video
def test_memory_holds_a_row_group(tmp_path):
    peaks = []
    # 55 and 165 MiB of frames; a row group has 32 MiB.
    for count in [20, 60]:
        lengths, places = [50] * count, [(0, 50 * index / FPS) for index in range(count)]
        root = dataset(tmp_path / f"long{count}", lengths, {TOP: (video([120, 160, 3]), places)}, state=False)
        encode(file(root, TOP), 50 * count, (120, 160), options={"preset": "ultrafast"})
        child = os.posix_spawn(oracle.BINARY, [oracle.BINARY, "import", str(root), str(tmp_path / f"{count}.in"), "--frames", "array"], os.environ)
        _, status, usage = os.wait4(child, 0)
        check(status == 0, "the import")
        peaks.append(usage.ru_maxrss / 1024)
    # 110 MiB of frames more; what lies in buffers when is chance.
    check(peaks[1] < peaks[0] + 60, f"{peaks} MiB")

# --- a build without the feature

@pytest.fixture
def absent(tmp_path):
    """A dataset that refers to a video, for a build that cannot decode it."""
    if oracle.decodes_videos():
        pytest.skip("this trajmill is built with the Cargo feature `video`")
    return dataset(tmp_path / "absent", [4], {TOP: (video([48, 64, 3]), [(0, 0.0)])})

FEATURE = "without the Cargo feature `video`"

@pytest.mark.parametrize("frames", ["array", "png"])
def test_a_build_without_the_feature_refuses_to_decode_on_import(absent, tmp_path, frames):
    refused(tmp_path, absent, FEATURE, "--features video", code=2, options=("--frames", frames))

def test_a_build_without_the_feature_refuses_to_decode_for_a_pipeline(absent, tmp_path):
    path = oracle.pipeline(tmp_path / "absent.json", {"path": str(absent), "format": "lerobot", "frames": "array"}, [{"materialise": {"path": "out"}}])
    message = trajmill("check", path, code=3).stderr
    check(FEATURE in message, message)

def test_a_build_without_the_feature_keeps_references(absent, tmp_path):
    trajmill("import", absent, tmp_path / "in")
    check(pa.types.is_struct(steps(tmp_path / "in").schema.field(TOP).type), "references need nothing")
    message = trajmill("export", tmp_path / "in", tmp_path / "out", "--to", "npy", "--frames", "array", "--videos", absent, code=2).stderr
    check(FEATURE in message, message)
