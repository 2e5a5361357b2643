"""Frames of LeRobot's videos, decoded on import and for a pipeline, byte for byte as PyAV decodes them.

    python tests/python/video_oracle.py TRAJMILL

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
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from fractions import Fraction
from onnx import TensorProto, helper
from PIL import Image

from oracle import BINARY, ROOT, check, equal, finish, trajmill

FPS = 30
BT709 = 1
# Encoders that talk.
os.environ["SVT_LOG"] = "1"

def encode(path, count, size=(48, 64), codec="libx264", start=0, seed=0, pixels="yuv420p", options=None, matrix=None, full=False):
    """A video of `count` frames, the first at frame `start`: gradients that move, and noise, so that no two are alike."""
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
            picture = np.stack([(x * 4 + at * 5) % 256, (y * 5 + at * 3) % 256, (x + y + at * 7) % 256], -1)
            picture = np.clip(picture + random.integers(-20, 20, picture.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels, dst_colorspace=matrix, dst_color_range=2 if full else 1)
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())

def decoded(path):
    """Every frame of a video as PyAV has it: seconds, and RGB."""
    with av.open(path) as file:
        frames = [(float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    return np.array([time for time, _ in frames]), np.stack([frame for _, frame in frames])

def video(shape, **more):
    return {"dtype": "video", "shape": list(shape), "names": ["height", "width", "channels"], "info": {"video.fps": FPS, **more}}

def dataset(name, lengths, cameras, state=True, times=None):
    """A LeRobot v3.0 dataset. `cameras`: feature to (entry, (file, first second) of each episode)."""
    root = ROOT / name
    shutil.rmtree(root, ignore_errors=True)
    for folder in ["data/chunk-000", "meta/episodes/chunk-000"]:
        os.makedirs(root / folder)
    n, ends = sum(lengths), np.cumsum(lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    stamps = (frame / FPS).astype(np.float32) if times is None else np.asarray(times, np.float32)
    columns = {
        "action": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2 * n, dtype=np.float32) / n / 2), 2),
        "timestamp": pa.array(stamps), "frame_index": pa.array(frame), "index": pa.array(np.arange(n)), "task_index": pa.array(np.zeros(n, int)),
        "episode_index": pa.array(np.repeat(np.arange(len(lengths)), lengths)),
    }
    one = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}
    features = {"action": {"dtype": "float32", "shape": [2], "names": None}, "timestamp": one("float32"), **{key: one("int64") for key in ["frame_index", "episode_index", "index", "task_index"]}}
    if state:
        columns["observation.state"] = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(3 * n, dtype=np.float32)), 3)
        features["observation.state"] = {"dtype": "float32", "shape": [3], "names": None}
    pq.write_table(pa.table(columns), root / "data/chunk-000/file-000.parquet")
    whole = lambda values: pa.array(values, pa.int64())
    episodes = {"episode_index": whole(range(len(lengths))), "length": whole(lengths), "data/chunk_index": whole([0] * len(lengths)), "data/file_index": whole([0] * len(lengths)),
                "dataset_from_index": whole(ends - lengths), "dataset_to_index": whole(ends)}
    for key, (entry, places) in cameras.items():
        features[key] = entry
        episodes[f"videos/{key}/chunk_index"] = whole([0] * len(lengths))
        episodes[f"videos/{key}/file_index"] = whole([file for file, _ in places])
        episodes[f"videos/{key}/from_timestamp"] = pa.array([first for _, first in places], pa.float64())
    pq.write_table(pa.table(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["stack"]}), root / "meta/tasks.parquet")
    info = {"codebase_version": "v3.0", "fps": FPS, "total_episodes": len(lengths), "total_frames": n, "total_tasks": 1, "features": features, "splits": {"train": f"0:{len(lengths)}"}}
    (root / "meta/info.json").write_text(json.dumps(info))
    return root

def file(root, key, index=0):
    return str(root / f"videos/{key}/chunk-000/file-{index:03d}.mp4")

def expected(root, key, lengths, places):
    """What PyAV has at the times of every row."""
    rows = []
    for length, (index, first) in zip(lengths, places):
        times, frames = decoded(file(root, key, index))
        for row in range(length):
            at = np.abs(times - (first + float(np.float32(row / FPS)))).argmin()
            check(abs(times[at] - (first + row / FPS)) < 1e-4, f"the test's own video: {key} {index} {row}")
            rows.append(frames[at])
    return np.stack(rows)

def steps(path):
    folder = os.path.join(path, "steps")
    return pa.concat_tables([pq.read_table(os.path.join(folder, name)) for name in sorted(os.listdir(folder))])

def arrays(table, key):
    shape = [int(axis) for axis in table.schema.field(key).metadata[b"shape"].split(b",")]
    values = table[key].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), *shape)

def images(table, key):
    return np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in table[key].to_pylist()])

def refused(source, *words, code=1, options=("--frames", "array")):
    out = ROOT / "refused"
    message = trajmill("import", source, out, *options, code=code).stderr
    check(all(str(word) in message for word in words) and "panicked" not in message, f"{words}: {message}")
    check(not out.exists(), f"{words}: something was left")
    return message

TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = [20, 35, 11]

def two_cameras(name):
    """H.264 in one file that starts late, AV1 in two files; episode 1 lies before episode 0."""
    top = [(0, 0.5 + 35 / FPS), (0, 0.5), (0, 0.5 + 55 / FPS)]
    wrist = [(0, 0.0), (0, 20 / FPS), (1, 0.0)]
    root = dataset(name, LENGTHS, {TOP: (video([48, 64, 3]), top), WRIST: (video([36, 52, 3]), wrist)})
    encode(file(root, TOP), 66, start=15, options={"bf": "3", "g": "12", "crf": "20"})
    av1 = {"crf": "30", "g": "2", "preset": "12"}
    encode(file(root, WRIST), 55, (36, 52), "libsvtav1", seed=1, options=av1)
    encode(file(root, WRIST, 1), 11, (36, 52), "libsvtav1", seed=2, options=av1)
    return root, {TOP: expected(root, TOP, LENGTHS, top), WRIST: expected(root, WRIST, LENGTHS, wrist)}

def frames_are_those_of_pyav():
    root, wanted = two_cameras("two")
    with av.open(file(root, TOP)) as opened:
        check(opened.streams.video[0].codec_context.has_b_frames > 0 and abs(opened.streams.video[0].start_time * opened.streams.video[0].time_base - 0.5) < 1e-6, "B-frames, and a late start")
    trajmill("import", root, ROOT / "array", "--frames", "array")
    table = steps(ROOT / "array")
    for key, frames in wanted.items():
        equal(arrays(table, key), frames, f"arrays of {key}")
    check("nothing to do" in trajmill("import", root, ROOT / "array", "--frames", "array").stderr, "the same import again")
    trajmill("import", root, ROOT / "png", "--frames", "png")
    table = steps(ROOT / "png")
    for key, frames in wanted.items():
        equal(images(table, key), frames, f"PNG of {key}")
    trajmill("import", root, ROOT / "reference")
    check(pa.types.is_struct(steps(ROOT / "reference").schema.field(TOP).type), "references where nothing is asked for")
    return root, wanted

def a_file_for_each_episode():
    """LeRobot v2.1."""
    root = ROOT / "v21"
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
    trajmill("import", root, ROOT / "v21.in", "--frames", "array")
    # With no vector to observe, what the camera saw is the observation.
    equal(arrays(steps(ROOT / "v21.in"), "observation"), np.concatenate(wanted), "v2.1")

def colours_and_sizes():
    kinds = [
        ("bt709", dict(matrix=BT709)), ("full", dict(full=True)), ("bt709full", dict(matrix=BT709, full=True)),
        ("yuv444", dict(pixels="yuv444p")), ("odd", dict(size=(37, 51), pixels="yuv444p")), ("tenbit", dict(pixels="yuv420p10le")), ("hevc", dict(codec="libx265", options={"x265-params": "log-level=error"})),
    ]
    places = [(0, 0.0)]
    root = dataset("kinds", [9], {key: (video([*kind.get("size", (48, 64)), 3]), places) for key, kind in kinds})
    for key, kind in kinds:
        encode(file(root, key), 9, **kind)
    trajmill("import", root, ROOT / "kinds.in", "--frames", "array")
    table = steps(ROOT / "kinds.in")
    for key, _ in kinds:
        found, wanted = arrays(table, key), expected(root, key, [9], places)
        if key == "tenbit":
            # How 10 bits become 8 differs between versions of FFmpeg, and PyAV brings a newer one.
            check(np.abs(found.astype(int) - wanted).mean() < 8, f"{key}: {np.abs(found.astype(int) - wanted).mean()}")
        else:
            equal(found, wanted, key)

def exports(wanted):
    """Formats that hold images get them: arrays in robomimic, image features in LeRobot, and both in RLDS."""
    trajmill("export", ROOT / "array", ROOT / "demos.hdf5", "--to", "robomimic")
    ends = np.cumsum(LENGTHS)
    with h5py.File(ROOT / "demos.hdf5") as demos:
        for index, (length, end) in enumerate(zip(LENGTHS, ends)):
            for key, frames in wanted.items():
                cameras(demos[f"data/demo_{index}"], key, frames[end - length:end])
    trajmill("import", ROOT / "demos.hdf5", ROOT / "demos.in")
    for key, frames in wanted.items():
        equal(arrays(steps(ROOT / "demos.in"), key), frames, f"robomimic and back {key}")
    trajmill("export", ROOT / "png", ROOT / "images", "--to", "lerobot")
    features = json.loads((ROOT / "images/meta/info.json").read_text())["features"]
    table = pq.read_table(ROOT / "images/data")
    for key, frames in wanted.items():
        check(features[key]["dtype"] == "image" and features[key]["shape"] == list(frames.shape[1:]), f"{features[key]}")
        equal(np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table[key].to_pylist()]), frames, f"LeRobot {key}")
    trajmill("import", ROOT / "images", ROOT / "images.in")
    check(steps(ROOT / "images.in")[TOP].equals(steps(ROOT / "png")[TOP]), "PNG through LeRobot and back")
    for source in ["array", "png"]:
        trajmill("export", ROOT / source, ROOT / f"{source}.rlds", "--to", "rlds")
        trajmill("import", ROOT / f"{source}.rlds", ROOT / f"{source}.rlds.in")
        back = steps(ROOT / f"{source}.rlds.in")
        for key, frames in wanted.items():
            equal((arrays if source == "array" else images)(back, key), frames, f"RLDS {source} {key}")

def a_model_sees_frames(root, wanted):
    """`score` over the frames of a source that is decoded for the run."""
    stages = [brightness(TensorProto.FLOAT), {"materialise": {"path": "scored", "columns": ["brightness"]}}]
    (ROOT / "score.json").write_text(json.dumps({"trajmill": 1, "source": {"path": str(root), "format": "lerobot", "frames": "array"}, "stages": stages}))
    trajmill("run", ROOT / "score.json")
    found = steps(ROOT / "scored")["brightness"].to_numpy()
    check(np.allclose(found, wanted[TOP].mean((1, 2, 3)), rtol=1e-5), "a model over frames")
    check("nothing to do" in trajmill("run", ROOT / "score.json").stderr, "the same run again")

def cameras(demo, key, frames):
    """robomimic's loader looks for what a camera saw among the observations, and for what it saw next."""
    name = key.removeprefix("observation.")
    equal(demo[f"obs/{name}"][:], frames, f"robomimic {demo.name} {name}")
    equal(demo[f"next_obs/{name}"][:], np.concatenate([frames[1:], frames[-1:]]), f"robomimic {demo.name} next {name}")
    check(key not in demo, f"{key} is there once")

def brightness(kind):
    """A model whose input is an image of such numbers."""
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT), helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    graph = helper.make_graph(nodes, "brightness", [helper.make_tensor_value_info("image", kind, ["n", 48, 64, 3])], [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n"])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), ROOT / "brightness.onnx")
    return {"score": {"model": "brightness.onnx", "inputs": {"image": f'"{TOP}"'}, "outputs": {"brightness": "mean"}}}

def references_are_decoded_where_they_are_needed(root, wanted):
    """A dataset that holds references: exports and pipelines read it with the frames in their place, and write none they need not."""
    references, ends = ROOT / "reference", np.cumsum(LENGTHS)
    for name, frames in [("demos", "array"), ("pictures", "png")]:
        to = {"demos": "robomimic", "pictures": "lerobot"}[name]
        trajmill("export", references, ROOT / f"late-{name}", "--to", to, "--frames", frames, "--videos", root)
        check("nothing to do" in trajmill("export", references, ROOT / f"late-{name}", "--to", to, "--frames", frames, "--videos", root).stderr, "the same export again")
    with h5py.File(ROOT / "late-demos") as demos:
        for index, (length, end) in enumerate(zip(LENGTHS, ends)):
            for key, frames in wanted.items():
                cameras(demos[f"data/demo_{index}"], key, frames[end - length:end])
    table = pq.read_table(ROOT / "late-pictures/data")
    for key, frames in wanted.items():
        equal(np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table[key].to_pylist()]), frames, f"LeRobot {key}")

    def ran(name, stages, code=0, verb="run", **source):
        shutil.rmtree(ROOT / name, ignore_errors=True)
        source = {"path": "reference", "frames": "array", "videos": str(root), **source}
        source = {key: value for key, value in source.items() if value is not None}
        (ROOT / f"{name}.json").write_text(json.dumps({"trajmill": 1, "source": source, "stages": stages}))
        done = trajmill(verb, ROOT / f"{name}.json", code=code)
        return done.stderr if code else steps(ROOT / name)

    only = lambda name, *columns: {"materialise": {"path": name, "columns": columns, "shard_rows": 25}}
    found = ran("late-score", [{"filter": "length < 30"}, brightness(TensorProto.UINT8), only("late-score", "brightness")])
    short = np.concatenate([np.arange(20), np.arange(55, 66)])
    check(found.column_names.count(TOP) == 0 and np.allclose(found["brightness"].to_numpy(), wanted[TOP][short].mean((1, 2, 3)), rtol=1e-5), "a model over frames, which are not written")
    size = sum(file.stat().st_size for file in (ROOT / "late-score").rglob("*") if file.is_file())
    check(size < 60_000, f"{size} bytes are written of {sum(frames.nbytes for frames in wanted.values())} of frames")
    check("nothing to do" in trajmill("run", ROOT / "late-score.json").stderr, "the same run again")
    # Columns that come out as they came in are copied from the file, where these are not.
    for name, more in [("late-all", {}), ("late-map", {"map": {"camera": TOP}})]:
        found = ran(name, [{"filter": "length > 0"}, {"materialise": {"path": name}}], **more)
        for key, frames in wanted.items():
            equal(arrays(found, "camera" if more and key == TOP else key), frames, f"{name} {key}")
        check(found["action"].equals(steps(references)["action"]), "the rest is what it was")
    equal(images(ran("late-png", [{"materialise": {"path": "late-png"}}], frames="png"), WRIST), wanted[WRIST], "PNG of references")

    # Rows without a reference, such as final observations, have no frame.
    gaps = ran("late-gaps", [{"derive": {TOP: f'case when step % 3 <> 1 then "{TOP}" end'}}, {"materialise": {"path": "late-gaps"}}], frames=None, videos=None)
    gone = np.asarray([row is None for row in gaps[TOP].to_pylist()])
    check(gone.sum() > 10, "some references are null")
    found = ran("late-null", [{"materialise": {"path": "late-null"}}], path="late-gaps")
    equal(np.asarray(found[TOP].is_null()), gone, "no reference, no frame")
    equal(np.stack([np.asarray(row, np.uint8) for row in found[TOP].to_pylist() if row]), wanted[TOP][~gone].reshape(sum(~gone), -1), "frames between")

    stage = [{"materialise": {"path": "late-wrong"}}]
    for options, *words in [
        ({"videos": None}, "`frames` is given, and `videos` is not", "the LeRobot dataset that this one was imported from"),
        ({"frames": None}, "`videos` says where", "`frames` is array or png"),
        ({"videos": "nowhere"}, "there is no folder", "nowhere"),
        ({"path": "array"}, "a column refers to a video, and none does"),
        ({"path": str(root), "format": "lerobot"}, "`videos` in `source` is for datasets of trajmill"),
        ({"videos": str(ROOT / "png")}, "cannot open the video", str(ROOT / "png")),
    ]:
        message = ran("late-wrong", stage, code=3, verb="check", **options)
        check(all(word in message for word in words) and "panicked" not in message, f"{words}: {message}")
    message = trajmill("export", references, ROOT / "late-wrong", "--to", "npy", "--frames", "array", code=2).stderr
    check("`videos` is not" in message, message)

    # A video that is cut short, once others have said how large frames are.
    short = ROOT / "short-videos"
    shutil.copytree(root, short)
    encode(file(short, WRIST, 1), 5, (36, 52), "libsvtav1", options={"preset": "12"})
    message = ran("late-short", [{"materialise": {"path": "late-short"}}], code=1, videos=str(short))
    check(f"column `{WRIST}`" in message and "there is no frame at 0.1667 s" in message and not (ROOT / "late-short").exists(), message)
    outside = ran("late-outside", [{"derive": {TOP: f"""named_struct('path', '../' || "{TOP}"['path'], 'timestamp', "{TOP}"['timestamp'])"""}}, {"materialise": {"path": "late-outside"}}], frames=None, videos=None)
    check(outside[TOP].to_pylist()[0]["path"].startswith("../"), "references that lead elsewhere")
    message = ran("late-wrong", stage, code=3, verb="check", path="late-outside")
    check("outside of" in message, message)

def what_is_wrong_is_said():
    root, _ = two_cameras("wrong")
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    times = table["timestamp"].to_numpy().copy()
    place = times[23]
    times[23] += 0.0011
    pq.write_table(table.set_column(table.schema.get_field_index("timestamp"), "timestamp", pa.array(times)), root / "data/chunk-000/file-000.parquet")
    refused(root, "episode 1", file(root, TOP), f"there is no frame at {0.5 + place + 0.0011:.4f} s", f"{0.5 + place:.4f} s")
    bad = trajmill("import", root, ROOT / "aside", "--frames", "array", "--on-error", "quarantine", "--allowed", 1)
    check("1 trajectories set aside" in bad.stderr and len(steps(ROOT / "aside")) == 31, bad.stderr)

    root, _ = two_cameras("short")
    whole = open(file(root, WRIST, 1), "rb").read()
    os.remove(file(root, WRIST, 1))
    refused(root, "episode 2", file(root, WRIST, 1), "cannot open the video")
    open(file(root, WRIST, 1), "wb").write(whole[:len(whole) // 2])
    refused(root, "episode 2", file(root, WRIST, 1), "fetch it again")
    encode(file(root, WRIST, 1), 5, (36, 52), "libsvtav1", options={"preset": "12"})
    refused(root, "episode 2", file(root, WRIST, 1), "there is no frame at 0.1667 s", "the one before is at 0.1333 s")
    encode(file(root, WRIST, 1), 11, (40, 52), "libsvtav1", options={"preset": "12"})
    refused(root, "episode 2", file(root, WRIST, 1), "40 × 52", "36 × 52")
    trajmill("import", root, ROOT / "sizes", "--frames", "png")

    # A video has no checksums: a hole is seen, a bit that another frame comes of is not.
    root, wanted = two_cameras("holes")
    for key in [TOP, WRIST]:
        path = file(root, key)
        whole = bytearray(open(path, "rb").read())
        for at in np.linspace(200, len(whole) - 8000, 6).astype(int):
            open(path, "wb").write(whole[:at] + bytes(1500) + whole[at + 1500:])
            refused(root, "episode", path)
        open(path, "wb").write(whole)

    plain = dataset("plain", [4], {})
    refused(plain, "no", "video", code=2)
    refused(ROOT / "demos.hdf5", "the format `robomimic` does not take the option `frames`", code=2)
    depth = dataset("depth", [9], {TOP: (video([48, 64, 3]), [(0, 0.0)]), "depth": (video([48, 64, 1], is_depth_map=True), [(0, 0.0)])})
    encode(file(depth, TOP), 9)
    trajmill("import", depth, ROOT / "depth.in", "--frames", "array")
    check(pa.types.is_struct(steps(ROOT / "depth.in").schema.field("depth").type), "distances stay references")

def memory_holds_a_row_group():
    peaks = []
    # 55 and 165 MiB of frames; a row group has 32 MiB.
    for count in [20, 60]:
        lengths = [50] * count
        places = [(0, 50 * index / FPS) for index in range(count)]
        root = dataset(f"long{count}", lengths, {TOP: (video([120, 160, 3]), places)}, state=False)
        encode(file(root, TOP), 50 * count, (120, 160), options={"preset": "ultrafast"})
        child = os.posix_spawn(BINARY, [BINARY, "import", str(root), str(ROOT / f"long{count}.in"), "--frames", "array"], os.environ)
        _, status, usage = os.wait4(child, 0)
        check(status == 0, "the import")
        peaks.append(usage.ru_maxrss / 1024)
    # 110 MiB of frames more; what lies in buffers when is chance.
    check(peaks[1] < peaks[0] + 60, f"{peaks} MiB")
    print(f"20 episodes: {peaks[0]:.0f} MiB, 60 episodes: {peaks[1]:.0f} MiB at most")

def without_the_feature():
    root = dataset("absent", [4], {TOP: (video([48, 64, 3]), [(0, 0.0)])})
    refused(root, "without the Cargo feature `video`", "--features video", code=2)
    refused(root, "without the Cargo feature `video`", code=2, options=("--frames", "png"))
    (ROOT / "absent.json").write_text(json.dumps({"trajmill": 1, "source": {"path": str(root), "format": "lerobot", "frames": "array"}, "stages": [{"materialise": {"path": "out"}}]}))
    message = trajmill("check", ROOT / "absent.json", code=3).stderr
    check("without the Cargo feature `video`" in message, message)
    trajmill("import", root, ROOT / "absent.in")
    message = trajmill("export", ROOT / "absent.in", ROOT / "out", "--to", "npy", "--frames", "array", "--videos", root, code=2).stderr
    check("without the Cargo feature `video`" in message, message)
    check(pa.types.is_struct(steps(ROOT / "absent.in").schema.field(TOP).type), "references need nothing")

if "libavcodec" in trajmill("doctor").stdout:
    root, wanted = frames_are_those_of_pyav()
    a_file_for_each_episode()
    colours_and_sizes()
    exports(wanted)
    a_model_sees_frames(root, wanted)
    references_are_decoded_where_they_are_needed(root, wanted)
    what_is_wrong_is_said()
    memory_holds_a_row_group()
    finish("video")
else:
    without_the_feature()
    finish("video, a build without it")
