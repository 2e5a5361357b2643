"""LeRobot datasets with videos that are written, read by LeRobot's rules with PyAV's pixels.

Where nothing has to be encoded, the very packets of the source come out. Everything else is
compared frame by frame. Noise makes every frame of the sources different.
"""

import json
import os

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from loaders import Loaded, aggregated, packets, psnr, same_statistics, statistics
from oracle import check, equal, says, trajmill
from writers.video import (
    FPS,
    LENGTHS,
    TOP,
    WRIST,
    dataset,
    encode,
    expected,
    file,
    video,
)

SIZES = {TOP: (96, 128), WRIST: (80, 112)}
FIRST = {TOP: 0.5, WRIST: 0.0}


def source(root):
    """Two cameras: H.264 with B-frames that starts late, AV1 in two files as LeRobot records it."""
    top = [(0, 0.5 + 35 / FPS), (0, 0.5), (0, 0.5 + 55 / FPS)]
    wrist = [(0, 0.0), (0, 20 / FPS), (1, 0.0)]
    cameras = {TOP: top, WRIST: wrist}
    more = {TOP: {"video.codec": "h264", "maker": "acme"}, WRIST: {"video.codec": "av1"}}
    entries = {
        key: (video([*SIZES[key], 3], **more[key]), places) for key, places in cameras.items()
    }
    dataset(root, LENGTHS, entries)
    encode(file(root, TOP), 66, SIZES[TOP], start=15, options={"bf": "3", "g": "12", "crf": "20"})
    av1 = {"crf": "30", "g": "2", "preset": "12"}
    encode(file(root, WRIST), 55, SIZES[WRIST], "libsvtav1", seed=1, options=av1)
    encode(file(root, WRIST, 1), 11, SIZES[WRIST], "libsvtav1", seed=2, options=av1)
    return {key: expected(root, key, LENGTHS, places) for key, places in cameras.items()}


class Source:
    """The source, what PyAV sees in it, and the dataset that it was imported to."""

    def __init__(self, folder):
        self.root, self.own = folder / "source", folder / "own"
        self.frames = source(self.root)
        trajmill("import", self.root, self.own)

    def run(self, folder, *stages, format="lerobot", code=0):
        """The result of stages over the imported dataset, exported."""
        return edited(folder, self.own, self.root, *stages, format=format, code=code)


def edited(folder, own, root, *stages, format="lerobot", code=0):
    """The LeRobot dataset that is exported from the result of stages over the dataset `own`, which
    was imported from `root`; or the process where that has to fail."""
    between, out = folder / f"between-{format}", folder / f"out-{format}"
    path = folder / f"{format}.yaml"
    oracle.pipeline(path, own, [*stages, {"materialise": {"path": str(between)}}])
    trajmill("run", path)
    done = trajmill("export", between, out, "--to", format, "--videos-from", root, code=code)
    return done if code else Loaded(out)


def pipeline(folder, source, *stages, code=0):
    """The LeRobot dataset that a pipeline writes, or the process where it has to fail."""
    out, path = folder / "out", folder / "pipeline.yaml"
    materialise = {"path": str(out), "format": "lerobot"}
    oracle.pipeline(path, source, [*stages, {"materialise": materialise}])
    done = trajmill("run", path, code=code)
    return done if code else Loaded(out)


@pytest.fixture(scope="module")
def made(shared):
    return Source(shared)


def ends():
    return np.cumsum(LENGTHS)


def episode(frames, at):
    return frames[ends()[at] - LENGTHS[at] : ends()[at]]


# --- files that are kept


@pytest.mark.video
def test_files_are_linked_and_every_frame_is_that_of_the_source(made, tmp_path):
    trajmill("export", made.own, tmp_path / "v3", "--to", "lerobot", "--videos-from", made.root)
    found = Loaded(tmp_path / "v3")
    check(found.cameras == [TOP, WRIST], f"cameras: {found.cameras}")
    for key, frames in made.frames.items():
        equal(found.frames(key), frames, f"frames of {key}")
        entry = found.features[key]
        declared = video([*SIZES[key], 3])
        check(
            [entry[part] for part in ["dtype", "shape", "names"]]
            == [declared[part] for part in ["dtype", "shape", "names"]],
            f"{key}: {entry}",
        )
    check(found.features[TOP]["info"]["maker"] == "acme", "what the source says about a camera")
    places = [(file(made.root, TOP), TOP), (file(made.root, WRIST), WRIST)]
    places.append((file(made.root, WRIST, 1), WRIST))
    for path, key in places:
        check(
            any(packets(path) == packets(one) for one in found.files(key)), f"the packets of {path}"
        )
    check(len(found.files()) == 3, f"files: {found.files()}")


@pytest.mark.video
def test_no_bytes_are_copied_unless_asked(made, tmp_path):
    for how in ["link", "copy"]:
        out, root = tmp_path / how, made.root
        trajmill("export", made.own, out, "--to", "lerobot", "--videos", how, "--videos-from", root)
        for one in Loaded(out).files():
            check((os.stat(one).st_nlink > 1) == (how == "link"), f"{how}: {one}")


@pytest.mark.video
def test_statistics_are_those_that_lerobot_computes(made, tmp_path):
    for version in ["lerobot", "lerobot-v2.1"]:
        out = tmp_path / version
        trajmill("export", made.own, out, "--to", version, "--videos-from", made.root)
        found = Loaded(out)
        for key, frames in made.frames.items():
            wanted = [statistics(episode(frames, at)) for at in range(3)]
            if version == "lerobot-v2.1":
                # Re-encoded frames are measured before they are encoded.
                for one in wanted:
                    for name in [name for name in one if name.startswith("q")]:
                        del one[name]
            for at in range(3):
                same_statistics(found.statistics[at][key], wanted[at], f"{version} {key} {at}")
            if version == "lerobot":
                with open(out / "meta/stats.json") as opened:
                    total = json.load(opened)[key]
                same_statistics(total, aggregated(wanted), f"{key}: all episodes")


@pytest.mark.video
def test_statistics_that_the_source_states_are_carried(made, tmp_path):
    """They are invented here, so that computed ones would differ."""
    trajmill("export", made.own, tmp_path / "v3", "--to", "lerobot", "--videos-from", made.root)
    table_of = tmp_path / "v3/meta/episodes/chunk-000/file-000.parquet"
    episodes = pq.read_table(table_of)
    name = f"stats/{TOP}/mean"
    at = episodes.column_names.index(name)
    mean = [[[[0.25]], [[0.5]], [[0.125]]]] * 3
    episodes = episodes.set_column(at, episodes.field(at), pa.array(mean, episodes.field(at).type))
    pq.write_table(episodes, table_of)
    trajmill("import", tmp_path / "v3", tmp_path / "own")
    trim = {"filter": {"steps": "step < 5 OR trajectory_id <> 1"}}
    for format in ["lerobot", "lerobot-v2.1"]:
        found = edited(tmp_path, tmp_path / "own", tmp_path / "v3", trim, format=format)
        for at in range(3):
            of = np.asarray(found.statistics[at][TOP]["mean"]).reshape(-1)
            if found.lengths[at] == 5:
                wanted = statistics(episode(made.frames[TOP], at)[:5])
                if format == "lerobot-v2.1":
                    wanted = {name: value for name, value in wanted.items() if name[0] != "q"}
                same_statistics(found.statistics[at][TOP], wanted, "a cut episode")
            else:
                equal(of, [0.25, 0.5, 0.125], f"{format}: the mean that the source states")


# --- filter, sort, trim, subsample


@pytest.mark.video
def test_dropped_sorted_and_trimmed_episodes_keep_their_pixels(made, tmp_path):
    found = made.run(
        tmp_path,
        {"filter": "length > 15"},
        {"sort": {"by": "length", "descending": True}},
        {"filter": {"steps": "step >= 4 AND step < 17"}},
    )
    check(found.lengths == [13, 13], f"lengths: {found.lengths}")
    for key, frames in made.frames.items():
        wanted = np.concatenate([episode(frames, 1)[4:17], episode(frames, 0)[4:17]])
        equal(found.frames(key), wanted, f"frames of {key}")
        for path in found.files(key):
            original = [file(made.root, key, 0)]
            check(any(packets(path) == packets(one) for one in original), f"{path} is the source's")


@pytest.mark.video
def test_frames_with_holes_are_encoded(made, tmp_path):
    found = made.run(tmp_path, {"subsample": {"stride": 2}})
    check(found.lengths == [10, 18, 6], f"lengths: {found.lengths}")
    for key, frames in made.frames.items():
        wanted = np.concatenate([episode(frames, at)[::2] for at in range(3)])
        compare(found.frames(key), wanted, key)
        with av.open(found.files(key)[0]) as opened:
            stream = opened.streams.video[0]
            context = stream.codec_context
            check(
                (context.codec.canonical_name, context.pix_fmt, stream.average_rate)
                == ("av1", "yuv420p", FPS / 2),
                "as LeRobot's recorder encodes",
            )
            keys = [packet.is_keyframe for packet in opened.demux(video=0) if packet.size]
            check(keys[:4] == [True, False, True, False], f"key frames: {keys[:6]}")
        check(found.features[key]["info"]["video.codec"] == "av1", "the codec in info.json")
        wanted = [statistics(episode(frames, at)[::2]) for at in range(3)]
        for at in range(3):
            same_statistics(found.statistics[at][key], wanted[at], f"{key} {at}")


def compare(found, wanted, what, least=26):
    """Every frame is the wanted one, and no other, but for the loss of the codec."""
    check(found.shape == wanted.shape, f"{what}: {found.shape} {wanted.shape}")
    check(psnr(found, wanted) > least, f"{what}: PSNR {psnr(found, wanted):.1f}")
    for at in range(len(found) - 1):
        own = ((found[at].astype(float) - wanted[at]) ** 2).mean()
        other = ((found[at].astype(float) - wanted[at + 1]) ** 2).mean()
        check(own < other, f"{what}: frame {at} is another one")


@pytest.mark.video
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_all_frames_are_encoded_if_asked(made, tmp_path, codec):
    args = ["--to", "lerobot", "--codec", codec, "--crf", "18", "--gop", "5"]
    args += ["--videos", "reencode", "--videos-from", made.root]
    trajmill("export", made.own, tmp_path / "a", *args)
    trajmill("export", made.own, tmp_path / "b", *args)
    found, again = Loaded(tmp_path / "a"), Loaded(tmp_path / "b")
    for key, frames in made.frames.items():
        compare(found.frames(key), frames, f"{codec} {key}")
        check(found.features[key]["info"]["video.codec"] == codec, "the codec in info.json")
        for one, other in zip(found.files(key), again.files(key), strict=True):
            check(open(one, "rb").read() == open(other, "rb").read(), "the same bytes again")


# --- v2.1


@pytest.mark.video
def test_v21_links_cuts_and_encodes(made, tmp_path):
    root = ["--videos-from", made.root]
    trajmill("export", made.own, tmp_path / "v21", "--to", "lerobot-v2.1", *root)
    found = Loaded(tmp_path / "v21")
    check(found.info["total_videos"] == 6, "total_videos")
    # Of AV1 with a key frame every second frame, episodes begin at key frames.
    frames = made.frames[WRIST]
    wanted = [episode(frames, at) for at in range(3)]
    equal(found.frames(WRIST)[:20], wanted[0], "a video that was cut")
    equal(found.frames(WRIST)[-11:], wanted[2], "a video that was linked")
    whole = packets(file(made.root, WRIST))
    check(packets(found.place(WRIST, 0)[0]) == whole[:20], "packets of a cut")
    check(packets(found.place(WRIST, 1)[0]) == whole[20:], "packets of a cut")
    check(packets(found.place(WRIST, 2)[0]) == packets(file(made.root, WRIST, 1)), "linked packets")
    compare(found.frames(TOP), made.frames[TOP], "H.264 that is cut within a group of pictures")
    trajmill("import", tmp_path / "v21", tmp_path / "back")
    args = ["--to", "lerobot-v2.1", "--videos-from", tmp_path / "v21"]
    trajmill("export", tmp_path / "back", tmp_path / "again", *args)
    again = Loaded(tmp_path / "again")
    for key in made.frames:
        for at in range(3):
            check(
                packets(found.place(key, at)[0]) == packets(again.place(key, at)[0]),
                "whole videos are linked",
            )


# --- made of images and pixels


@pytest.mark.video
def test_images_and_pixels_become_videos(made, tmp_path):
    for kind in ["array", "png"]:
        trajmill("import", made.root, tmp_path / kind, "--frames", kind)
        out = tmp_path / f"out-{kind}"
        trajmill("export", tmp_path / kind, out, "--to", "lerobot", "--images", "video")
        found = Loaded(out)
        check(found.cameras == [TOP, WRIST], f"cameras: {found.cameras}")
        for key, frames in made.frames.items():
            compare(found.frames(key), frames, f"{kind} {key}")
            check(found.features[key]["shape"] == [*SIZES[key], 3], "shape")
            check(len(found.files(key)) == 1, "episodes share a file")
            for at in range(3):
                wanted = statistics(episode(frames, at))
                same_statistics(found.statistics[at][key], wanted, f"{key} {at}")
        out = tmp_path / f"v21-{kind}"
        trajmill("export", tmp_path / kind, out, "--to", "lerobot-v2.1", "--images", "video")
        found = Loaded(out)
        for key, frames in made.frames.items():
            compare(found.frames(key), frames, f"v2.1 {kind} {key}")


@pytest.mark.video
def test_images_of_robomimic_become_videos(tmp_path):
    random = np.random.default_rng(0)
    y, x = np.mgrid[:96, :128]
    frames = []
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for at, length in enumerate([12, 7]):
            demo = data.create_group(f"demo_{at}")
            demo.attrs["num_samples"] = length
            step = np.arange(length)[:, None, None]
            picture = np.stack([(x * 2 + step * 9) % 256, (y + step * 31) % 256, x + y + 0 * step], -1)
            picture = picture.astype(np.uint8)
            demo["actions"] = random.normal(size=(length, 2)).astype(np.float32)
            demo["rewards"], demo["dones"] = np.zeros(length), np.arange(length) == length - 1
            demo["obs/agentview_image"] = picture
            demo["obs/robot0_eef_pos"] = random.normal(size=(length, 3))
            frames.append(picture)
    trajmill("import", tmp_path / "demo.hdf5", tmp_path / "own")
    args = ["--to", "lerobot", "--fps", "20", "--images", "video", "--codec", "h264", "--crf", "10"]
    trajmill("export", tmp_path / "own", tmp_path / "out", *args)
    found = Loaded(tmp_path / "out")
    check(found.cameras == ["observation.agentview_image"], f"{found.cameras}")
    compare(found.frames(found.cameras[0]), np.concatenate(frames), "frames", least=24)
    check(found.fps == 20, "fps")


# --- merges


@pytest.mark.video
def test_merged_sources_share_a_dataset(made, tmp_path):
    entries = {
        TOP: (video([*SIZES[TOP], 3], **{"video.codec": "h264", "maker": "other"}), [(0, 0.0)]),
        WRIST: (video([*SIZES[WRIST], 3]), [(0, 0.0)]),
    }
    other = dataset(tmp_path / "other", [9], entries)
    for key in entries:
        encode(file(other, key), 9, SIZES[key], seed=7)
    more = {key: expected(other, key, [9], [(0, 0.0)]) for key in entries}
    found = pipeline(tmp_path, [str(made.own), str(other)])
    check(found.lengths == [*LENGTHS, 9], f"lengths: {found.lengths}")
    for key, frames in made.frames.items():
        equal(found.frames(key), np.concatenate([frames, more[key]]), f"frames of {key}")
    info = found.features[TOP]["info"]
    check("maker" not in info and info["video.codec"] == "h264", f"what sources agree on: {info}")


@pytest.mark.video
def test_an_episode_without_a_camera_is_refused_by_name(made, tmp_path):
    other = dataset(tmp_path / "other", [9], {TOP: (video([*SIZES[TOP], 3]), [(0, 0.0)])})
    encode(file(other, TOP), 9, SIZES[TOP], seed=7)
    failed = pipeline(tmp_path, [str(made.own), str(other)], code=1).stderr
    says(failed, ["the episode has no frames", WRIST, "IS NOT NULL"], "the error")
    # The remedies that the error names.
    kept = {"filter": {"steps": f'"{WRIST}" IS NOT NULL'}}
    found = pipeline(tmp_path, [str(made.own), str(other)], kept)
    check(found.lengths == LENGTHS, f"lengths: {found.lengths}")


# --- depth


@pytest.mark.video
def test_depth_videos_are_linked_with_their_marker_and_never_encoded(tmp_path):
    entry = video([48, 64, 1], **{"video.is_depth_map": True})
    root = dataset(tmp_path / "depth", [8, 6], {TOP: (entry, [(0, 0.0), (0, 8 / FPS)])})
    encode(file(root, TOP), 14, pixels="gray10le", codec="libx265", options={"x265-params": "log-level=none"})
    own = tmp_path / "own"
    trajmill("import", root, own)
    found = edited(tmp_path, own, root)
    check(found.features[TOP]["info"]["video.is_depth_map"] is True, "the marker of depth")
    check(found.features[TOP]["shape"] == [48, 64, 1], "the shape")
    check(packets(found.files()[0]) == packets(file(root, TOP)), "the packets")
    (tmp_path / "holes").mkdir()
    holes = {"subsample": {"stride": 2}}
    failed = edited(tmp_path / "holes", own, root, holes, code=1).stderr
    says(failed, ["depth", TOP, "observation.images.top"], "the error")


@pytest.mark.video
def test_how_and_where_are_two_options(tmp_path):
    """`--videos` with a directory is an old spelling of `--videos-from`."""
    root = dataset(tmp_path / "set", [5], {TOP: (video([48, 64, 3]), [(0, 0.0)])})
    encode(file(root, TOP), 5)
    trajmill("import", root, tmp_path / "in", "--videos", "reference")
    export = lambda out, *options, code=0: trajmill(
        "export", tmp_path / "in", tmp_path / out, "--to", "lerobot", *options, code=code
    )
    export("old", "--videos", root, "--videos", "copy")
    export("new", "--videos-from", root, "--videos", "copy")
    files = lambda out: {
        path.relative_to(tmp_path / out): path.read_bytes()
        for path in (tmp_path / out).rglob("*")
        if path.is_file()
    }
    equal(files("old"), files("new"), "both spellings")
    for options, said in [
        (["--videos", "links"], "`--videos links` is none of `link`, `copy` and `reencode`"),
        (["--videos", root, "--videos-from", root], "`--videos` is given twice"),
        (["--videos", "link", "--videos", "copy"], "`--videos` is given twice"),
        ([], "--videos-from"),
    ]:
        message = export("no", *options, code=None).stderr
        check(said in message, f"{options}: {message}")
