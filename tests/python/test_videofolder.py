"""Folders of videos, `videofolder`: frames, their times and the facts about files equal PyAV's.

PyAV writes the videos and says what is in them; the standard library and pyarrow write metadata.
"""

import csv
import json
import os
import time
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, equal, trajmill
from oracle import table as steps
from writers.video import FPS, arrays, decoded, encode, images

CAMERA = "observation.images.video"

# Containers and codecs: what times look like differs in each.
CLIPS = {
    "a.mp4": dict(count=20, options={"bf": "3"}),
    "av1.mp4": dict(count=25, codec="libsvtav1", options={"preset": "12", "g": "2"}),
    "b.mkv": dict(count=30, start=7),
    "c.webm": dict(count=11, codec="libvpx-vp9"),
    "d.MOV": dict(count=13, options={"bf": "2"}),
    "e.avi": dict(count=13, codec="mpeg4"),
    "f.flv": dict(count=13),
    # Alternative reference frames are packets that show nothing.
    "g.webm": dict(count=40, codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "h.ts": dict(count=13, options={"bf": "2"}),
    "clip_10.mp4": dict(count=1),
    "clip_9.mp4": dict(count=2, seed=5),
}
# Numbers in names count.
ORDER = [*sorted(CLIPS)[:4], "clip_9.mp4", "clip_10.mp4", *sorted(CLIPS)[6:]]


def clips(root, names=CLIPS):
    for name in names:
        encode(str(root / name), **CLIPS[name])
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clips(tmp_path_factory.mktemp("clips") / "clips")


def facts(dataset):
    """The table of trajectories, as a list of rows."""
    return steps(dataset, "trajectories").to_pylist()


def rows(dataset):
    """The steps of each trajectory, by its key."""
    keys = {row["trajectory_id"]: row["source_key"] for row in facts(dataset)}
    found = {key: [] for key in keys.values()}
    for row in steps(dataset).to_pylist():
        found[keys[row["trajectory_id"]]].append(row)
    return found


@pytest.mark.video
def test_every_frame_is_a_step_at_the_time_of_pyav(folder, tmp_path):
    trajmill("import", folder, tmp_path / "in")
    found = rows(tmp_path / "in")
    equal(
        list(found),
        ORDER,
        "the order of names",
    )
    for name, clip in found.items():
        times, _ = decoded(str(folder / name))
        check(len(clip) == len(times), name)
        # The dataset owns the file, under a name that follows from its bytes.
        [path] = {row[CAMERA]["path"] for row in clip}
        check((tmp_path / "in" / path).read_bytes() == (folder / name).read_bytes(), name)
        oracle.close([row[CAMERA]["timestamp"] for row in clip], times, name, atol=1e-9)
        oracle.close([row["timestamp"] for row in clip], times - times[0], name, atol=1e-9)
        check(not any(row["terminated"] or row["truncated"] for row in clip), name)
    for row in facts(tmp_path / "in"):
        with av.open(str(folder / row["source_key"])) as file:
            stream = file.streams.video[0]
            codec = {"libdav1d": "av1"}.get(stream.codec_context.name, stream.codec_context.name)
            size = [stream.height, stream.width]
        check([row["video_height"], row["video_width"]] == size, row)
        check(row["video_codec"] == codec, row)
        check(row["video_fps"] == FPS and row["video_frames"] == row["length"], row)


@pytest.mark.video
@pytest.mark.parametrize("kind", ["array", "png"])
def test_frames_are_those_of_pyav(folder, tmp_path, kind):
    trajmill("import", folder, tmp_path / "in", "--frames", kind)
    found = (arrays if kind == "array" else images)(steps(tmp_path / "in"), CAMERA)
    start = 0
    for row in facts(tmp_path / "in"):
        _, frames = decoded(str(folder / row["source_key"]))
        equal(found[start : start + len(frames)], frames, row["source_key"])
        start += len(frames)
    check(start == len(found), "every frame")


@pytest.mark.video
@pytest.mark.parametrize("fps", [5, 12.5, 24, 30, 60])
def test_resampling_shows_the_last_frame_at_or_before_a_time(folder, tmp_path, fps):
    """The rule of torchcodec's `get_frames_played_at`, with times not rounded as in files."""
    trajmill("import", folder, tmp_path / "in", "--fps", fps)
    for name, clip in rows(tmp_path / "in").items():
        times, _ = decoded(str(folder / name))
        count = len(times)
        length = Fraction(count, FPS)
        ideal = [Fraction(at, FPS) for at in range(count)]
        wanted, at = [], Fraction(0)
        while at < length:
            wanted.append(times[max(i for i, time in enumerate(ideal) if time <= at)])
            at += 1 / Fraction(fps)
        oracle.close([row[CAMERA]["timestamp"] for row in clip], wanted, f"{name} at {fps}")
        oracle.close([row["timestamp"] for row in clip], np.arange(len(wanted)) / fps, name)


def uneven(path, times):
    """Writes a video whose frames are shown at `times`, in milliseconds."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for at, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * at, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.mark.video
def test_a_rate_that_varies_is_refused_and_resampled(tmp_path):
    root, times = tmp_path / "clips", [0, 40, 200, 240, 280]
    uneven(root / "a.mp4", times)
    refused = trajmill("import", root, tmp_path / "in", code=1).stderr
    oracle.says(refused, ["a.mp4", "the frame rate varies", "0.0400", "0.1600", "--fps"], "refused")
    trajmill("import", root, tmp_path / "in", "--fps", 20)
    found = [row[CAMERA]["timestamp"] for row in rows(tmp_path / "in")["a.mp4"]]
    # At 0, 50, 100 … 300 ms; the last frame lasts as long as the one before it.
    wanted = [0, 40, 40, 40, 200, 240, 280]
    oracle.close(found, np.array(wanted) / 1000, "resampled")


@pytest.mark.video
def test_files_of_several_rates_are_refused_set_aside_or_resampled(tmp_path):
    root = clips(tmp_path / "clips", ["a.mp4"])
    uneven(root / "b.mp4", range(0, 1000, 100))
    refused = trajmill("import", root, tmp_path / "in", code=1).stderr
    oracle.says(refused, ["b.mp4", "10 frames per second", "a.mp4", "30", "--fps"], "refused")
    aside = ["--on-error", "quarantine", "--allowed", 1]
    trajmill("import", root, tmp_path / "aside", *aside)
    check(list(rows(tmp_path / "aside")) == ["a.mp4"], "set aside")
    trajmill("import", root, tmp_path / "in", "--fps", 10)
    check([len(clip) for clip in rows(tmp_path / "in").values()] == [7, 10], "resampled")


# --- out as LeRobot


@pytest.mark.video
def test_a_folder_of_videos_becomes_a_lerobot_dataset_with_the_same_pixels(tmp_path):
    """Files of MP4 are linked, and packets of WebM go into MP4."""
    root, size = tmp_path / "clips", (96, 128)
    encode(str(root / "task=open/a.mp4"), 20, size, options={"bf": "3"})
    encode(str(root / "b.mp4"), 25, size, "libsvtav1", options={"preset": "12", "g": "2"})
    encode(str(root / "c.webm"), 11, size, "libvpx-vp9")
    trajmill("import", root, tmp_path / "in")
    trajmill("export", tmp_path / "in", tmp_path / "out", "--to", "lerobot", "--videos-from", root)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    check((info["fps"], info["total_frames"]) == (FPS, 56), info)
    check(info["features"][CAMERA]["dtype"] == "video", info["features"])
    trajmill("validate", tmp_path / "out")
    trajmill("import", tmp_path / "out", tmp_path / "back", "--frames", "array")
    back = steps(tmp_path / "back")
    check(back["task"].to_pylist() == [None] * 36 + ["open"] * 20, "tasks")
    # The only camera of a LeRobot dataset without a state is its observation.
    found, start = arrays(back, "observation"), 0
    for name, exact in [("b.mp4", True), ("c.webm", True), ("task=open/a.mp4", True)]:
        _, frames = decoded(str(root / name))
        part = found[start : start + len(frames)]
        start += len(frames)
        if exact:
            equal(part, frames, name)
        error = np.mean((part.astype(float) - frames) ** 2)
        check(10 * np.log10(255**2 / max(error, 1e-9)) > 25, f"{name}: {error}")


# --- facts


def write_metadata(path, entries):
    if path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(entries[0]))
            writer.writeheader()
            writer.writerows(entries)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    else:
        pq.write_table(pa.Table.from_pylist(entries), path)


@pytest.mark.video
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata_and_folders_are_facts_about_trajectories(tmp_path, kind):
    root = tmp_path / "clips"
    encode(str(root / "a.mp4"), 3)
    encode(str(root / "task=stack%20cups/b.mp4"), 4)
    encode(str(root / "task=stack%20cups/left/arm/c.mp4"), 5)
    encode(str(root / "d.mp4"), 6)
    (root / "notes.txt").write_text("not a video")
    entries = [
        {"file_name": "task=stack%20cups/left/arm/c.mp4", "caption": "three, cups", "score": 3},
        {"file_name": "./a.mp4", "caption": "one cup", "score": 1},
        {"file_name": "task=stack%20cups/b.mp4", "caption": "two", "score": 2},
    ]
    write_metadata(root / f"metadata.{kind}", entries)
    done = trajmill("import", root, tmp_path / "in", "--from", "videofolder", "--json")
    found = {row["source_key"]: row for row in facts(tmp_path / "in")}
    wanted = {
        "a.mp4": ("one cup", 1, None, None),
        "d.mp4": (None, None, None, None),
        "task=stack%20cups/b.mp4": ("two", 2, "stack cups", None),
        "task=stack%20cups/left/arm/c.mp4": ("three, cups", 3, "stack cups", "left/arm"),
    }
    for key, values in wanted.items():
        row = found[key]
        equal([row[name] for name in ("caption", "score", "task", "folder")], values, key)
    check(
        steps(tmp_path / "in")["task"].to_pylist() == [None] * 3 + [None] * 6 + ["stack cups"] * 9,
        "the task of each step",
    )
    [account] = json.loads(done.stdout)["imports"]
    check(
        account["columns"]
        == {name: name for name in ("caption", "score", "task", "folder")} | {"video": CAMERA},
        account,
    )
    check([entry["name"] for entry in account["left_out"]] == ["notes.txt"], account)


@pytest.mark.video
def test_columns_are_named_by_map_and_the_task_comes_from_a_caption(tmp_path):
    root = clips(tmp_path / "clips", ["clip_9.mp4"])
    entry = {"file_name": "clip_9.mp4", "text": "open", "length": 7}
    write_metadata(root / "metadata.jsonl", [entry])
    map_ = ["--map", "observation.images.top=video,task=text"]
    trajmill("import", root, tmp_path / "in", *map_)
    [row] = facts(tmp_path / "in")
    check((row["task"], row["source_length"], row["length"]) == ("open", 7, 2), row)
    check(steps(tmp_path / "in")["task"].to_pylist() == ["open"] * 2, "steps have the task")
    check("observation.images.top" in steps(tmp_path / "in").schema.names, "named")
    wrong = trajmill("import", root, tmp_path / "no", "--map", "task=txet", code=1).stderr
    oracle.says(wrong, ["txet", "did you mean `text`"], "a typo")


@pytest.mark.video
def test_the_name_of_a_folder_is_no_task(tmp_path):
    encode(str(tmp_path / "clips/stack the cups/a.mp4"), 2)
    trajmill("import", tmp_path / "clips", tmp_path / "in")
    [row] = facts(tmp_path / "in")
    check(row["folder"] == "stack the cups" and "task" not in row, row)


@pytest.mark.video
@pytest.mark.parametrize(
    "entries, words",
    [
        ([{"file_name": "b.mp4"}], ["row 0", "`b.mp4`", "no such video"]),
        ([{"file_name": "../clips/clip_9.mp4"}], ["no such video"]),
        ([{"file_name": "clip_9.mp4"}] * 2, ["row 1", "has a row already"]),
        ([{"name": "clip_9.mp4"}], ["no column `file_name`"]),
        ([{"file_name": 3}], ["int64, not text"]),
    ],
    ids=["no-file", "outside", "twice", "no-names", "numbers"],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, entries, words):
    root = clips(tmp_path / "clips", ["clip_9.mp4"])
    write_metadata(root / "metadata.jsonl", entries)
    message = trajmill("import", root, tmp_path / "in", code=1).stderr
    oracle.says(message, ["metadata.jsonl", *words], "refused")


@pytest.mark.video
def test_only_folders_of_videos_alone_are_recognised(tmp_path):
    root = clips(tmp_path / "clips", ["clip_9.mp4"])
    trajmill("import", root, tmp_path / "in")
    write_metadata(root / "metadata.parquet", [{"file_name": "clip_9.mp4"}])
    trajmill("import", root, tmp_path / "with-metadata")
    os.remove(root / "metadata.parquet")
    (root / "other.json").write_text("{}")
    message = trajmill("import", root, tmp_path / "no", code=1).stderr
    oracle.says(message, ["cannot tell the format", "videofolder"], "not recognised")


# --- hostile and broken files


def cut(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def audio(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=48000)
        for at in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            frame.rate, frame.pts = 48000, 1024 * at
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def patch(path, box, offset, *numbers):
    """Overwrites numbers in a box of an MP4 file."""
    whole = bytearray(path.read_bytes())
    at = whole.index(box) + offset
    packed = b"".join(number.to_bytes(4, "big") for number in numbers)
    whole[at : at + len(packed)] = packed
    path.write_bytes(whole)


def claims(path, frames):
    """Says that a video has `frames` frames, all in one chunk."""
    patch(path, b"stsz", 8, 1, frames)
    patch(path, b"stsc", 8, 1, 1, frames, 1)
    patch(path, b"stts", 8, 1, frames, 512)


def large(path):
    """A video whose three frames have 16384 x 4096 pixels and few bytes."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 16384, 4096, "yuv420p"
        for at in range(3):
            frame = av.VideoFrame(16384, 4096, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts = at
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def text(*lines):
    return lambda path: path.write_text("\n".join(lines) + "\n")


def picture(path):
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
    frame.to_image().save(path.with_suffix(".png"))
    os.replace(path.with_suffix(".png"), path)


SDP = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "m=video 5004 RTP/AVP 96"]
HLS = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:10", "#EXTINF:10,", "other.mp4"]
NO_VIDEO = "is no video, whatever its name says"
HOSTILE = {
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "cut": (lambda path: cut(path, 0.6), "cannot"),
    "ten-bytes": (lambda path: path.write_bytes(path.read_bytes()[:10]), "cannot"),
    "noise": (lambda path: path.write_bytes(oracle.seeded("noise").bytes(50_000)), "cannot"),
    "picture": (picture, NO_VIDEO),
    "hls": (text(*HLS), NO_VIDEO),
    "concat": (text("ffconcat version 1.0", "file other.mp4"), NO_VIDEO),
    "sdp": (text(*SDP), NO_VIDEO),
    "audio": (audio, "no video stream"),
    "frames": (lambda path: claims(path, 2**31 - 1), "no frame can be decoded"),
    "more-frames": (lambda path: claims(path, 10**8), "no frame can be decoded"),
    "times": (lambda path: patch(path, b"stts", 8, 2**31 - 1), "cannot"),
    "large": (large, "more than 33554432 pixels"),
}


@pytest.mark.video
@pytest.mark.parametrize("damage, words", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_bad_trajectory(tmp_path, damage, words):
    root = clips(tmp_path / "clips", ["a.mp4"])
    encode(str(root / "bad.mp4"), 40, options={"movflags": "faststart"})
    # A playlist that was followed would find a video.
    encode(str(root / "other.mp4"), 5)
    damage(root / "bad.mp4")
    began = time.monotonic()
    refused = trajmill("import", root, tmp_path / "in", "--from", "videofolder", code=1).stderr
    check(time.monotonic() - began < 10, "time")
    oracle.says(refused, ["trajectory `bad.mp4`", str(root / "bad.mp4"), words], "refused")
    check(not (tmp_path / "in").exists(), "nothing is left")
    options = ["--from", "videofolder", "--on-error", "quarantine", "--allowed", 1]
    peak = oracle.peak_memory("import", root, tmp_path / "aside", *options)
    check(peak < 512, f"{peak} MiB")
    check([len(clip) for clip in rows(tmp_path / "aside").values()] == [20, 5], "the others")
    [entry] = oracle.quarantined(tmp_path / "aside")
    check("bad.mp4" in entry["reason"] and entry["index"] == 1, entry)


@pytest.mark.video
def test_a_file_of_matroska_that_is_cut_short_is_seen(tmp_path):
    root = clips(tmp_path / "clips", ["b.mkv"])
    encode(str(root / "b.mkv"), 60)
    cut(root / "b.mkv", 0.6)
    refused = trajmill("import", root, tmp_path / "in", code=1).stderr
    oracle.says(refused, ["b.mkv", "cut short", "declares 2.000 s"], "refused")


@pytest.mark.video
def test_damage_between_frames_names_camera_and_second(tmp_path):
    root = clips(tmp_path / "clips", ["a.mp4"])
    encode(str(root / "bad.mp4"), 90, options={"g": "15", "movflags": "faststart"})
    whole = bytearray((root / "bad.mp4").read_bytes())
    at = len(whole) // 2
    whole[at : at + 1500] = bytes(1500)
    (root / "bad.mp4").write_bytes(whole)
    refused = trajmill("import", root, tmp_path / "in", "--frames", "array", code=1).stderr
    oracle.says(refused, ["trajectory `bad.mp4`", f"column `{CAMERA}`", " s"], "refused")
