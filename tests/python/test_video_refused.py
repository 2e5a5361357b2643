"""Videos that are missing, damaged, too short or of another size are named with their episode.

Memory does not grow with videos. A build without the Cargo feature `video` refuses to decode them.
"""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, trajmill
from oracle import table as steps
from writers.video import (
    FPS,
    TOP,
    WRIST,
    arrays,
    dataset,
    decoded,
    encode,
    file,
    two_cameras,
    video,
)


def refused(folder, source, *words, code=1, options=("--frames", "array")):
    """Checks that an import fails with these words and leaves nothing."""
    message = trajmill("import", source, folder / "refused", *options, code=code).stderr
    oracle.says(message, map(str, words), "refused")
    check(not (folder / "refused").exists(), f"{words}: something was left")


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
    pq.write_table(
        rows.set_column(rows.schema.get_field_index("timestamp"), "timestamp", pa.array(times)),
        path,
    )
    refused(
        tmp_path,
        damaged,
        "trajectory `1`",
        f"`{TOP}`",
        file(damaged, TOP),
        f"{0.5 + place + 0.0011:.4f} s",
        f"{0.5 + place:.4f} s",
    )
    aside = trajmill(
        "import",
        damaged,
        tmp_path / "aside",
        "--frames",
        "array",
        "--on-error",
        "quarantine",
        "--allowed",
        1,
    )
    oracle.says(aside.stderr, ["1 trajector", "set aside"], "a time")
    check(len(steps(tmp_path / "aside")) == 31, aside.stderr)


def rewrite(path, change):
    with open(path, "rb") as opened:
        whole = opened.read()
    with open(path, "wb") as opened:
        opened.write(change(whole))


TRAJECTORY = ["trajectory `2`", f"`{WRIST}`"]
av1 = dict(codec="libsvtav1", options={"preset": "12"})


@pytest.mark.video
@pytest.mark.parametrize(
    "damage, words",
    [
        (os.remove, ["episode 2", "there is no video", "--skip"]),
        (lambda path: rewrite(path, lambda whole: whole[: len(whole) // 2]), [*TRAJECTORY, "again"]),
        (lambda path: encode(path, 5, (36, 52), **av1), [*TRAJECTORY, "0.1667 s", "0.1333 s"]),
        (lambda path: encode(path, 11, (40, 52), **av1), [*TRAJECTORY, "40 × 52", "36 × 52"]),
    ],
    ids=["missing", "cut", "too-short", "other-size"],
)
def test_a_bad_video_is_named_with_its_episode(damaged, tmp_path, damage, words):
    damage(file(damaged, WRIST, 1))
    refused(tmp_path, damaged, file(damaged, WRIST, 1), *words)


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
    refused(tmp_path, damaged, "trajectory", f"`{key}`", path)


@pytest.mark.video
def test_frames_of_a_dataset_without_videos_are_refused(tmp_path):
    refused(tmp_path, dataset(tmp_path / "plain", [4], {}), "no", "video", code=2)


@pytest.mark.video
def test_frames_of_a_format_without_videos_are_refused(tmp_path):
    refused(tmp_path, oracle.SEEDS / "robomimic" / "set.hdf5", "`frames`", "`robomimic`", code=2)


@pytest.mark.video
def test_videos_of_distances_stay_references(tmp_path):
    places = [(0, 0.0)]
    root = dataset(
        tmp_path / "set",
        [9],
        {
            TOP: (video([48, 64, 3]), places),
            "depth": (video([48, 64, 1], is_depth_map=True), places),
        },
    )
    encode(file(root, TOP), 9)
    encode(file(root, "depth"), 9)
    trajmill("import", root, tmp_path / "in", "--frames", "array")
    check(
        pa.types.is_struct(steps(tmp_path / "in").schema.field("depth").type),
        "distances stay references",
    )


# --- memory


@pytest.mark.video
def test_memory_holds_a_row_group(tmp_path):
    peaks = []
    # 55 and 165 MiB of frames; a row group has 32 MiB.
    for count in [20, 60]:
        lengths, places = [50] * count, [(0, 50 * index / FPS) for index in range(count)]
        root = dataset(
            tmp_path / f"long{count}", lengths, {TOP: (video([120, 160, 3]), places)}, state=False
        )
        encode(file(root, TOP), 50 * count, (120, 160), options={"preset": "ultrafast"})
        out = tmp_path / f"{count}.in"
        peaks.append(oracle.peak_memory("import", root, out, "--frames", "array"))
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
    path = oracle.pipeline(
        tmp_path / "absent.json",
        {"path": str(absent), "format": "lerobot", "frames": "array"},
        [{"materialise": {"path": "out"}}],
    )
    message = trajmill("check", path, code=3).stderr
    check(FEATURE in message, message)


def test_a_build_without_the_feature_keeps_references(absent, tmp_path):
    trajmill("import", absent, tmp_path / "in", "--videos", "reference")
    check(
        pa.types.is_struct(steps(tmp_path / "in").schema.field(TOP).type), "references need nothing"
    )
    message = trajmill(
        "export",
        tmp_path / "in",
        tmp_path / "out",
        "--to",
        "npy",
        "--frames",
        "array",
        "--videos",
        absent,
        code=2,
    ).stderr
    check(FEATURE in message, message)


# --- timestamps as they are in the field


@pytest.fixture
def shifted(tmp_path):
    """Timestamps that begin at one frame, where the video begins at 0: GR00T-Dreams' demo."""
    lengths = [6, 5]
    times = np.concatenate([(np.arange(length) + 1) / FPS for length in lengths])
    root = tmp_path / "shifted"
    dataset(root, lengths, {TOP: (video([48, 64, 3]), [(0, 0.0), (1, 0.0)])}, times=times)
    encode(file(root, TOP, 0), 6)
    encode(file(root, TOP, 1), 5, seed=1)
    return root


@pytest.mark.video
def test_a_constant_offset_is_recognised(shifted, tmp_path):
    refused(tmp_path, shifted, "episode 0", "0.2000 s", "0.0333 s later", "--frames-at index")
    # References, which no import decodes, are refused too.
    said = trajmill("import", shifted, tmp_path / "references", code=1).stderr
    oracle.says(said, ["0.2000 s", "0.0333 s later", "--frames-at index"], "import")
    check(not (tmp_path / "references").exists(), "nothing is imported")
    found = trajmill("validate", shifted, code=4).stdout
    oracle.says(
        found,
        ["frame-time", "episode 1", "frame 4", "shifted by 0.0333 s, about 1 frames", "--frames-at"],
        "validate",
    )


def late(root, lengths, places, extra=()):
    """A dataset whose timestamps begin at one frame, with files of which some end late."""
    times = np.concatenate([(np.arange(length) + 1) / FPS for length in lengths])
    dataset(root, lengths, {TOP: (video([48, 64, 3]), places)}, times=times)
    for index in sorted({index for index, _ in places}):
        of = [length for length, place in zip(lengths, places) if place[0] == index]
        encode(file(root, TOP, index), sum(of) + (index in extra), seed=index)
    return root


SHARED = [(0, 0.0), (0, 6 / FPS), (0, 11 / FPS)]


@pytest.mark.parametrize(
    "places, extra",
    [(SHARED, []), ([(0, 0.0), (1, 0.0), (2, 0.0)], [0, 1])],
    ids=["shared", "extra frames"],
)
@pytest.mark.parametrize(
    "frames", ["reference", pytest.param("array", marks=pytest.mark.video)]
)
def test_a_shift_is_that_of_every_episode(tmp_path, places, extra, frames):
    """All episodes but the last show a frame at every time: that of the next episode, say."""
    root = late(tmp_path / "late", [6, 5, 4], places, extra)
    options = ["--on-error", "quarantine", "--allowed", 3, "--frames", frames]
    words = ["shifted by 0.0333 s", file(root, TOP, places[0 if not extra else 2][0])]
    refused(tmp_path, root, *words, "--frames-at index", options=options)
    found = trajmill("validate", root, code=4).stdout
    count = 3 if not extra else 1
    check(f"{found}{found}".count("frame-time") >= min(count, 2), found)
    oracle.says(found, ["shifted by 0.0333 s, about 1 frames"], "validate")
    trajmill("import", root, tmp_path / "numbered", "--frames-at", "index")
    found = trajmill("validate", tmp_path / "numbered").stdout
    check("frame-time" not in found, found)


def test_the_end_of_an_episode_is_believed(tmp_path):
    """The file goes on after the only episode in it, with frames that are not its own."""
    root = late(tmp_path / "late", [6], [(0, 0.0)], extra=[0])
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = pq.read_table(path)
    stated = [("videos/observation.images.top/to_timestamp", pa.array([6 / FPS]))]
    for name, values in stated:
        pq.write_table(rows.append_column(name, values), path)
    refused(tmp_path, root, "shifted by 0.0333 s", "no frame of the episode at 0.2000 s", options=())
    # Without it, timestamps are what LeRobot's loader goes by.
    pq.write_table(rows, path)
    trajmill("import", root, tmp_path / "in")


@pytest.fixture
def stale(tmp_path):
    """A dataset of trajmill with shifted references, as one of another version may be."""
    root = late(tmp_path / "late", [6, 5], [(0, 0.0), (1, 0.0)])
    paths = [file(root, TOP, index) for index in range(2)]
    for path in paths:
        os.rename(path, f"{path}.away")
    said = trajmill("import", root, tmp_path / "references", "--videos", "reference").stderr
    oracle.says(said, ["comparison of timestamps", "frames may be those of other steps"], "import")
    for path in paths:
        os.rename(f"{path}.away", path)
    source = {"path": str(tmp_path / "references"), "videos": str(root)}
    stages = [{"materialise": {"path": str(tmp_path / "stale")}}]
    trajmill("run", oracle.pipeline(tmp_path / "own.json", source, stages))
    return tmp_path / "stale"


def test_shifted_references_of_a_dataset_are_found(stale, tmp_path):
    found = trajmill("validate", stale, code=4).stdout
    oracle.says(found, ["frame-time", "trajectory 0", "step 5", "0.2000 s", "--frames-at"], "validate")
    said = trajmill("export", stale, tmp_path / "out", "--to", "lerobot", code=1).stderr
    oracle.says(said, ["trajectory 0", "no frame at 0.2000 s", "--frames-at index"], "export")
    check(not (tmp_path / "out").exists(), "something was exported")


@pytest.mark.video
@pytest.mark.parametrize("later", [False, True], ids=["import", "later"])
def test_frames_are_read_by_their_number(shifted, tmp_path, later):
    wanted = np.concatenate([decoded(file(shifted, TOP, index))[1] for index in range(2)])
    if later:
        trajmill("import", shifted, tmp_path / "in", "--frames-at", "index")
        path = oracle.pipeline(
            tmp_path / "later.json",
            {"path": str(tmp_path / "in"), "frames": "array", "videos": str(shifted)},
            [{"materialise": {"path": str(tmp_path / "out")}}],
        )
    else:
        source = {"path": str(shifted), "frames": {"as": "array", "at": "index"}}
        path = oracle.pipeline(
            tmp_path / "now.json", source, [{"materialise": {"path": str(tmp_path / "out")}}]
        )
    trajmill("run", path)
    oracle.equal(arrays(steps(tmp_path / "out"), TOP), wanted, "by number")


@pytest.mark.video
@pytest.mark.parametrize("later", [False, True], ids=["import", "later"])
def test_the_nearest_frame_within_a_tolerance_counts(tmp_path, later):
    """LeRobot's loader takes the frame with the least distance, which is below `tolerance_s`."""
    random = oracle.seeded("tolerance")
    times = np.arange(20) / FPS + random.uniform(-0.4, 0.4, 20) / FPS
    times[0] = 0
    root = tmp_path / "set"
    dataset(root, [20], {TOP: (video([48, 64, 3]), [(0, 0.0)])}, times=times)
    encode(file(root, TOP), 20, options={"bf": "2"})
    refused(tmp_path, root, "trajectory `0`", "no frame")
    tolerance = ["--tolerance", 0.45 / FPS]
    if later:
        trajmill("import", root, tmp_path / "in", *tolerance)
        trajmill(
            *("export", tmp_path / "in", tmp_path / "out", "--to", "parquet"),
            *("--frames", "array", "--videos", root),
        )
        found = pq.read_table(tmp_path / "out")
    else:
        trajmill("import", root, tmp_path / "in", "--frames", "array", *tolerance)
        found = steps(tmp_path / "in")
    shown, frames = decoded(file(root, TOP))
    nearest = [np.abs(shown - np.float32(time)).argmin() for time in times]
    found = found[TOP].combine_chunks()
    found = found.flatten().to_numpy(zero_copy_only=False).reshape(20, 48, 64, 3)
    oracle.equal(found, frames[nearest], "the nearest frames")
    close = ["--tolerance", 0.05 / FPS, "--frames", "array"]
    refused(tmp_path, root, "no frame", "tolerance", options=close)
