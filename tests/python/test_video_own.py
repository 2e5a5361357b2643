"""Datasets own the videos that their rows refer to: files, sizes, hashes, and the frames in them.

PyAV says what a reference shows, os.stat what is linked, and blake3 is compared through the name of
a file, which is its hash.
"""

import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, equal, manifest, trajmill
from oracle import table as steps
from writers.video import FPS, LENGTHS, TOP, WRIST, dataset, decoded, encode, file, two_cameras, video


@pytest.fixture(scope="module")
def source(shared):
    """A LeRobot dataset with two cameras in three files, and what its rows show."""
    root = shared / "owned" / "two"
    return root, two_cameras(root)


def inode(path):
    about = os.stat(path)
    return about.st_dev, about.st_ino


def shows(made, key, wanted, what, root=None):
    """Every reference of `key` leads to the frame that is wanted."""
    root, seen = pathlib.Path(root or made), {}
    for row, (reference, frame) in enumerate(zip(steps(made)[key].to_pylist(), wanted)):
        path = reference["path"]
        times, frames = seen.setdefault(path, decoded(str(root / path)))
        at = np.abs(times - reference["timestamp"]).argmin()
        check(abs(times[at] - reference["timestamp"]) < 1e-4, f"{what}: row {row} has a frame")
        equal(frames[at], frame, f"{what}: row {row} of {key}")


def owns(made, what):
    """The files in `videos/` are those in the manifest and those that rows refer to. Returns them."""
    listed = manifest(made).get("videos", [])
    found = sorted(f"videos/{path.name}" for path in (made / "videos").iterdir())
    equal([entry["path"] for entry in listed], found, f"{what}: the manifest lists the files")
    rows = steps(made)
    refer = {
        reference["path"]
        for name in rows.column_names
        if "path" in str(rows.schema.field(name).type)
        for reference in rows[name].to_pylist()
        if reference
    }
    equal(sorted(refer), found, f"{what}: rows refer to exactly these")
    for entry in listed:
        check(os.stat(made / entry["path"]).st_size == entry["bytes"], f"{what}: {entry}")
        check(pathlib.Path(entry["path"]).stem == entry["blake3"][:32], f"{what}: {entry}")
    trajmill("info", "--verify", made)
    trajmill("validate", made)
    return found


def test_an_import_links_videos(source, tmp_path):
    root, wanted = source
    files = [file(root, TOP), file(root, WRIST), file(root, WRIST, 1)]
    made = tmp_path / "linked"
    trajmill("import", root, made)
    found = owns(made, "linked")
    equal(
        sorted(inode(made / path) for path in found),
        sorted(map(inode, files)),
        "the very files of the source",
    )
    for key, frames in wanted.items():
        shows(made, key, frames, "linked")
    check("nothing to do" in trajmill("import", root, made).stderr, "the same import again")
    check("videos        3 files" in trajmill("info", made).stdout, "info counts them")
    moved = made.rename(tmp_path / "moved")
    shows(moved, TOP, wanted[TOP], "a dataset that was moved is whole")

    trajmill("import", root, tmp_path / "copied", "--videos", "copy")
    equal(owns(tmp_path / "copied", "copied"), found, "copies have the same names")
    check(
        not {inode(tmp_path / "copied" / path) for path in found} & set(map(inode, files)),
        "other files",
    )
    same = [manifest(at) for at in (moved, tmp_path / "copied")]
    equal(same[0], same[1], "link and copy make the same dataset")

    trajmill("import", root, tmp_path / "kept", "--videos", "reference")
    check(not (tmp_path / "kept" / "videos").exists(), "nothing is linked")
    check("videos" not in manifest(tmp_path / "kept"), "nothing is listed")
    shows(tmp_path / "kept", WRIST, wanted[WRIST], "references", root)


def test_another_file_system_gets_copies(source, tmp_path):
    root, wanted = source
    there = pathlib.Path("/dev/shm")
    if not there.is_dir() or os.stat(there).st_dev == os.stat(root).st_dev:
        pytest.skip("there is one file system")
    made = there / f"trajmill-test-{os.getpid()}"
    try:
        trajmill("import", root, made)
        owns(made, "another file system")
        shows(made, WRIST, wanted[WRIST], "another file system")
        path = oracle.pipeline(
            tmp_path / "back.json", made, [{"materialise": {"path": str(tmp_path / "back")}}]
        )
        trajmill("run", path)
        owns(tmp_path / "back", "back")
    finally:
        shutil.rmtree(made, ignore_errors=True)


def test_links_of_a_cache_are_followed(source, tmp_path):
    """Files in a cache of Hugging Face are links to blobs."""
    root, wanted = source
    cache = tmp_path / "cache"
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for folder, _, names in os.walk(root):
        to = cache / os.path.relpath(folder, root)
        to.mkdir()
        for name in names:
            blob = blobs / f"{len(list(blobs.iterdir()))}"
            shutil.copy(os.path.join(folder, name), blob)
            (to / name).symlink_to(os.path.relpath(blob, to))
    trajmill("import", cache, tmp_path / "made")
    found = owns(tmp_path / "made", "cache")
    check(not any((tmp_path / "made" / path).is_symlink() for path in found), "no links")
    check(
        {inode(tmp_path / "made" / path) for path in found} <= set(map(inode, blobs.iterdir())),
        "the blobs",
    )
    shows(tmp_path / "made", TOP, wanted[TOP], "cache")


def test_a_video_that_is_not_there_is_an_error(source, tmp_path):
    root, _ = source
    lost = tmp_path / "lost"
    shutil.copytree(root, lost)
    os.remove(file(lost, WRIST, 1))
    message = trajmill("import", lost, tmp_path / "made", code=1).stderr
    oracle.says(message, ["file-001.mp4", "--skip"], "a missing file")
    trajmill("import", lost, tmp_path / "made", "--skip", WRIST)
    equal(len(owns(tmp_path / "made", "skipped")), 1, "the other camera")
    os.mkfifo(file(lost, WRIST, 1))
    message = trajmill("import", lost, tmp_path / "other", code=1).stderr
    oracle.says(message, ["file-001.mp4", "FIFO"], "a FIFO")


STAGES = [{"filter": "length > 15"}, {"derive": {"speed": "action[1] * 2"}}]


def test_a_result_links_what_its_rows_refer_to(source, tmp_path):
    root, wanted = source
    trajmill("import", root, tmp_path / "own")
    rows = np.repeat([True, True, False], LENGTHS)
    for name, of in [("foreign", root), ("of_own", tmp_path / "own")]:
        path = oracle.pipeline(
            tmp_path / f"{name}.json", of, [*STAGES, {"materialise": {"path": name}}]
        )
        trajmill("run", path)
        found = owns(tmp_path / name, name)
        equal(len(found), 2, "the file of the episode that was dropped is not there")
        for key, frames in wanted.items():
            shows(tmp_path / name, key, frames[rows], name)
        check("nothing to do" in trajmill("run", path).stderr, "again")
        check(
            {inode(tmp_path / name / at) for at in found}
            <= {inode(tmp_path / "own" / at) for at in owns(tmp_path / "own", "own")},
            "linked, not copied",
        )


def test_a_pipeline_keeps_references_or_copies(source, tmp_path):
    root, wanted = source
    trajmill("import", root, tmp_path / "own")
    trajmill("import", root, tmp_path / "old", "--videos", "reference")

    def run(name, source, **options):
        path = oracle.pipeline(
            tmp_path / f"{name}.json",
            source,
            [{"sort": {"by": "length", "descending": True}}, {"materialise": {"path": name, **options}}],
        )
        return trajmill("run", path).stderr

    order = np.concatenate([np.flatnonzero(np.repeat([0, 1, 2], LENGTHS) == at) for at in (1, 0, 2)])
    run("copied", str(tmp_path / "own"), videos="copy")
    for path in owns(tmp_path / "copied", "copied"):
        check(inode(tmp_path / "copied" / path) != inode(tmp_path / "own" / path), "a copy")
    for name, of, at in [("of_own", tmp_path / "own", tmp_path / "own"), ("foreign", root, root)]:
        run(name, str(of), videos="reference")
        check("videos" not in manifest(tmp_path / name), "nothing is listed")
        shows(tmp_path / name, TOP, wanted[TOP][order], name, at)
    # An older dataset refers to its source. With that, the result owns them.
    old = {"path": str(tmp_path / "old"), "videos": str(root)}
    run("adopted", old)
    owns(tmp_path / "adopted", "adopted")
    shows(tmp_path / "adopted", WRIST, wanted[WRIST][order], "adopted")
    said = run("as_before", str(tmp_path / "old"))
    oracle.says(said, ["3 videos", "`videos`"], "nobody owns them")
    shows(tmp_path / "as_before", WRIST, wanted[WRIST][order], "as before", root)


def one_camera(root, key, lengths, seed, entry=None):
    """A dataset with one camera whose file has the usual name."""
    places = [(0, start / FPS) for start in np.cumsum([0, *lengths[:-1]])]
    dataset(root, lengths, {key: (entry or video([48, 64, 3]), places)})
    encode(file(root, key), sum(lengths), seed=seed, options={"g": "2"})
    return decoded(file(root, key))[1]


def test_sources_with_the_same_names_and_other_cameras_are_merged(tmp_path):
    wanted = {
        "a": one_camera(tmp_path / "a", TOP, [9, 12], 1),
        "b": one_camera(tmp_path / "b", TOP, [8], 2),
        "c": one_camera(tmp_path / "c", WRIST, [10], 3),
    }
    trajmill("import", tmp_path / "b", tmp_path / "own_b")
    path = oracle.pipeline(
        tmp_path / "merge.json",
        [
            {"path": str(tmp_path / "a"), "format": "lerobot"},
            str(tmp_path / "own_b"),
            {"path": str(tmp_path / "c"), "format": "lerobot"},
            # The same content again: the file is there once.
            {"path": str(tmp_path / "a"), "format": "lerobot", "skip": ["index"]},
        ],
        [{"filter": "length < 100"}, {"materialise": {"path": "merged", "shard_rows": 10}}],
    )
    trajmill("run", path)
    made = tmp_path / "merged"
    equal(len(owns(made, "merged")), 3, "three files")
    rows = steps(made)
    top = np.asarray(rows[TOP].is_valid())
    equal(top, ~np.asarray(rows[WRIST].is_valid()), "every row has one of the cameras")
    seen = {}
    for key, frames in [(TOP, [*wanted["a"], *wanted["b"], *wanted["a"]]), (WRIST, wanted["c"])]:
        references = [reference for reference in rows[key].to_pylist() if reference]
        equal(len(references), len(frames), f"{key}: rows")
        for reference, frame in zip(references, frames):
            name = str(made / reference["path"])
            times, all_frames = seen.setdefault(name, decoded(name))
            at = np.abs(times - reference["timestamp"]).argmin()
            equal(all_frames[at], frame, f"{key}: {reference}")


def test_cameras_get_one_name_by_map(tmp_path):
    wanted = [
        one_camera(tmp_path / "a", TOP, [9, 12], 1),
        one_camera(tmp_path / "c", "observation.images.cam_high", [10], 3),
    ]
    trajmill("import", tmp_path / "c", tmp_path / "own_c")
    path = oracle.pipeline(
        tmp_path / "merge.json",
        [
            {"path": str(tmp_path / "a"), "format": "lerobot"},
            {"path": str(tmp_path / "own_c"), "map": {TOP: "observation.images.cam_high"}},
        ],
        [{"materialise": {"path": "merged"}}],
    )
    trajmill("run", path)
    equal(len(owns(tmp_path / "merged", "merged")), 2, "two files")
    shows(tmp_path / "merged", TOP, np.concatenate(wanted), "one name")


@pytest.mark.video
def test_frames_of_an_owned_video_need_no_path(source, tmp_path):
    root, wanted = source
    trajmill("import", root, tmp_path / "own")
    shutil.copytree(tmp_path / "own", tmp_path / "moved")
    path = oracle.pipeline(
        tmp_path / "frames.json",
        {"path": str(tmp_path / "moved"), "frames": "array"},
        [{"materialise": {"path": "frames"}}],
    )
    trajmill("run", path)
    values = steps(tmp_path / "frames")[WRIST].combine_chunks().flatten().to_numpy()
    equal(values.reshape(wanted[WRIST].shape), wanted[WRIST], "frames")
    # A flipped bit is found before a frame is used.
    name = next(
        tmp_path / "moved" / entry["path"] for entry in manifest(tmp_path / "moved")["videos"]
    )
    bytes_ = bytearray(name.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    name.write_bytes(bytes_)
    shutil.rmtree(tmp_path / "frames")
    message = trajmill("run", path, code=None).stderr
    oracle.says(message, [name.name, "corrupt"], "a flipped bit")
    for command in (["info", "--verify"], ["validate"]):
        done = trajmill(*command, tmp_path / "moved", code=None)
        check(done.returncode != 0, f"{command}")
        oracle.says(done.stdout + done.stderr, [name.name], f"{command}")


def test_a_lost_video_stops_everything_before_a_row_is_read(source, tmp_path):
    root, _ = source
    trajmill("import", root, tmp_path / "own")
    path = oracle.pipeline(
        tmp_path / "run.json", tmp_path / "own", [*STAGES, {"materialise": {"path": "made"}}]
    )
    name = tmp_path / "own" / manifest(tmp_path / "own")["videos"][1]["path"]
    whole = name.read_bytes()
    for damage in [name.unlink, lambda: name.write_bytes(whole[:-1])]:
        damage()
        for command in (
            ["run", path],
            ["export", tmp_path / "own", tmp_path / "out", "--to", "npy"],
        ):
            message = trajmill(*command, code=1).stderr
            oracle.says(message, [name.name, "restore the file"], f"{command}")
        done = trajmill("validate", tmp_path / "own", code=4)
        oracle.says(done.stdout + done.stderr, [name.name], "validate")
        check(
            sorted(at.name for at in tmp_path.iterdir()) == ["own", "run.json"], "nothing is left"
        )


def test_a_dataset_that_lost_its_videos_does_not_validate(source, tmp_path):
    root, _ = source
    bad = tmp_path / "bad"
    shutil.copytree(root, bad)
    info = json.loads((bad / "meta/info.json").read_text())
    features = info["features"]
    info["video_path"] = None
    (bad / "meta/info.json").write_text(json.dumps(info))
    done = trajmill("validate", bad, code=4)
    oracle.says(done.stdout + done.stderr, ["`video_path` is null", TOP], "no path")
    for key in (TOP, WRIST):
        del features[key]
        features[f"{key}.path"] = {"dtype": "string", "shape": [1], "names": None}
        features[f"{key}.timestamp"] = {"dtype": "float64", "shape": [1], "names": None}
    (bad / "meta/info.json").write_text(json.dumps(info))
    done = trajmill("validate", bad, code=4)
    oracle.says(done.stdout + done.stderr, [f"`{WRIST}.path`", "videos"], "lost videos")


def v21(root, lengths, cameras):
    """A LeRobot v2.1 dataset: `cameras` maps a feature to the episodes that have a video of it."""
    features = {key: video([48, 64, 3]) for key in cameras}
    one = lambda dtype, width=1: {"dtype": dtype, "shape": [width], "names": None}
    features |= {"action": one("float32"), "observation.state": one("float32")}
    features |= {"timestamp": one("float32")}
    features |= {key: one("int64") for key in MARKS}
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    shown, first = {key: {} for key in cameras}, 0
    for episode, length in enumerate(lengths):
        frame = np.arange(length)
        table = pa.table(
            {
                "action": pa.array(frame.astype(np.float32)),
                "observation.state": pa.array(frame.astype(np.float32) + first),
                "timestamp": pa.array((frame / FPS).astype(np.float32)),
                "frame_index": frame,
                "episode_index": frame * 0 + episode,
                "index": frame + first,
                "task_index": frame * 0,
            }
        )
        pq.write_table(table, root / f"data/chunk-000/episode_{episode:06d}.parquet")
        first += length
        for seed, (key, has) in enumerate(cameras.items()):
            if episode in has:
                path = str(root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4")
                encode(path, length, seed=seed * 10 + episode, options={"g": "2"})
                shown[key][episode] = decoded(path)[1]
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "features": features,
        "splits": {"train": f"0:{len(lengths)}"},
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "stack"}))
    lines = [
        json.dumps({"episode_index": episode, "tasks": ["stack"], "length": length}) + "\n"
        for episode, length in enumerate(lengths)
    ]
    (root / "meta/episodes.jsonl").write_text("".join(lines))
    return shown


MARKS = ["frame_index", "episode_index", "index", "task_index"]
EGO = "observation.images.ego"


def test_cameras_without_files_are_left_out_by_name(tmp_path):
    """As in the public demo of GR00T-Dreams."""
    shown = v21(tmp_path / "demo", [9, 12], {TOP: [0, 1], EGO: []})
    said = trajmill("import", tmp_path / "demo", tmp_path / "made").stderr
    oracle.says(said, [EGO, "no episode has a video"], "left out")
    check(EGO not in steps(tmp_path / "made").column_names, "no column")
    shows(tmp_path / "made", TOP, np.concatenate([*shown[TOP].values()]), "the other camera")
    owns(tmp_path / "made", "made")


@pytest.mark.video
def test_a_camera_without_files_blocks_no_pipeline(tmp_path):
    shown = v21(tmp_path / "demo", [9, 12], {EGO: [], TOP: [0, 1]})
    path = oracle.pipeline(
        tmp_path / "frames.json",
        {"path": str(tmp_path / "demo"), "frames": "array"},
        [{"materialise": {"path": "frames"}}],
    )
    trajmill("run", path)
    values = steps(tmp_path / "frames")[TOP].combine_chunks().flatten().to_numpy()
    wanted = np.concatenate([*shown[TOP].values()])
    equal(values.reshape(wanted.shape), wanted, "frames of the camera that is there")


def test_an_episode_may_lack_a_camera_that_others_have(tmp_path):
    shown = v21(tmp_path / "v21", [9, 12, 7], {TOP: [0, 1, 2], WRIST: [0, 2]})
    said = trajmill("import", tmp_path / "v21", tmp_path / "made").stderr
    oracle.says(said, [f"{WRIST} of 1 of 3 episodes, such as episode 1"], "named")
    rows = steps(tmp_path / "made")
    equal(
        np.asarray(rows[WRIST].is_valid()),
        np.repeat([True, False, True], [9, 12, 7]),
        "null where there is no video",
    )
    shows(tmp_path / "made", TOP, np.concatenate([*shown[TOP].values()]), "top")
    equal(len(owns(tmp_path / "made", "made")), 5, "files")
    # v3.0 says it in the metadata.
    root = tmp_path / "v30"
    places = {TOP: [(0, 0.0), (0, 9 / FPS)], WRIST: [(0, 0.0), (0, 0.0)], EGO: [(0, 0.0)] * 2}
    dataset(root, [9, 12], {key: (video([48, 64, 3]), places[key]) for key in places})
    encode(file(root, TOP), 21, options={"g": "2"})
    encode(file(root, WRIST), 9, seed=4, options={"g": "2"})
    name = root / "meta/episodes/chunk-000/file-000.parquet"
    episodes = pq.read_table(name)
    for part in ("chunk_index", "file_index", "from_timestamp"):
        for key, values in [(WRIST, [True, False]), (EGO, [False, False])]:
            at = episodes.column_names.index(f"videos/{key}/{part}")
            column = episodes.column(at).combine_chunks()
            nulls = pa.compute.if_else(pa.array(values), column, pa.scalar(None, column.type))
            episodes = episodes.set_column(at, episodes.column_names[at], nulls)
    pq.write_table(episodes, name)
    said = trajmill("import", root, tmp_path / "three").stderr
    oracle.says(said, [f"{WRIST} of 1 of 2 episodes", EGO, "no episode has a video"], "v3.0")
    rows = steps(tmp_path / "three")
    equal(
        np.asarray(rows[WRIST].is_valid()), np.repeat([True, False], [9, 12]), "v3.0: null rows"
    )
    references = [row for row in rows[WRIST].to_pylist() if row]
    frames = decoded(str(tmp_path / "three" / references[0]["path"]))[1]
    equal(len(references), len(frames), "v3.0: the other rows")


@pytest.mark.video
@pytest.mark.parametrize("frames", ["lazy", "stored"])
@pytest.mark.parametrize("name", ["robomimic", "npy", "rlds", "lerobot"])
def test_an_export_says_how_many_episodes_lack_a_camera(tmp_path, name, frames):
    """Their frames are black, and null again after an import."""
    v21(tmp_path / "v21", [9, 12, 7], {TOP: [0, 1, 2], WRIST: [0, 2]})
    stored = ["--frames", "array"] if frames == "stored" else []
    trajmill("import", tmp_path / "v21", tmp_path / "own", *stored)
    out = tmp_path / ("out.hdf5" if name == "robomimic" else "out")
    lazy = [] if stored else ["--frames", "array"]
    said = trajmill("export", tmp_path / "own", out, "--to", name, *lazy).stderr
    oracle.says(said, [f"missing frames of `{WRIST}` in 1 of 3 trajectories", "black"], name)
    check(f"missing frames of `{TOP}`" not in said, "the other camera is whole")
    if name != "npy":
        trajmill("import", out, tmp_path / "back")
        rows = steps(tmp_path / "back")
        equal(
            np.asarray(rows[WRIST].is_valid()),
            np.repeat([True, False, True], [9, 12, 7]),
            "null where there is no video",
        )


def test_videos_that_were_never_fetched_are_an_error(tmp_path):
    v21(tmp_path / "v21", [9, 12], {TOP: [], WRIST: []})
    message = trajmill("import", tmp_path / "v21", tmp_path / "made", code=1).stderr
    oracle.says(message, ["no video of any camera", "--skip", "--videos reference"], "none")
    trajmill("import", tmp_path / "v21", tmp_path / "made", "--skip", "observation.images.*")
    trajmill("import", tmp_path / "v21", tmp_path / "kept", "--videos", "reference")
    check(steps(tmp_path / "kept")[TOP].null_count == 0, "references to files that may come")


def test_references_to_several_sources_are_ambiguous(tmp_path):
    for name, seed in [("a", 1), ("b", 2)]:
        one_camera(tmp_path / name, TOP, [9], seed)
    path = oracle.pipeline(
        tmp_path / "merge.json",
        [{"path": str(tmp_path / name), "format": "lerobot"} for name in "ab"],
        [{"materialise": {"path": "merged", "videos": "reference"}}],
    )
    message = trajmill("check", path, code=3).stderr
    oracle.says(message, ["`videos: reference`", "`videos: link`"], "several sources")


def test_references_to_folders_that_nobody_names_are_not_merged(tmp_path):
    """Both sources have a video at the same path. The remedies that the error names work."""
    for name, seed in [("a", 1), ("b", 2)]:
        one_camera(tmp_path / name, TOP, [9], seed)
        trajmill("import", tmp_path / name, tmp_path / f"own-{name}", "--videos", "reference")

    def merge(name, sources, code=0):
        end = {"materialise": {"path": name}}
        return trajmill("run", oracle.pipeline(tmp_path / f"{name}.json", sources, [end]), code=code)

    message = merge("lost", ["own-a", "own-b"], code=3).stderr
    oracle.says(message, ["own-a and own-b", "set `videos`", "`--videos link`"], "lost folders")
    check(not (tmp_path / "lost").exists(), "nothing was written")
    merge("told", [{"path": f"own-{name}", "videos": name} for name in "ab"])
    for name in "ab":
        trajmill("import", tmp_path / name, tmp_path / f"linked-{name}", "--videos", "link")
    merge("linked", ["linked-a", "linked-b"])
    merge("one", ["own-a", "linked-b"])
    for name in ("told", "linked"):
        trajmill("info", "--verify", tmp_path / name)
        check(len(list((tmp_path / name / "videos").iterdir())) == 2, f"{name} owns two videos")


@pytest.mark.parametrize("command", ["run", "import"])
def test_a_kill_at_any_operation_leaves_work_that_is_finished(source, tmp_path, command):
    """Links, copies and their durability are operations like all others."""
    root, _ = source
    made, staging = tmp_path / "made", tmp_path / ".made.staging"
    trajmill("import", root, tmp_path / "own")
    path = oracle.pipeline(
        tmp_path / "run.json", tmp_path / "own", [*STAGES, {"materialise": {"path": "made"}}]
    )
    command = ["run", path, "--threads", 1] if command == "run" else ["import", root, made]
    trajmill(*command, TRAJMILL_FAULT=f"count:{tmp_path / 'count'}")
    if not (tmp_path / "count").exists():
        pytest.skip("this trajmill is built without the Cargo feature `faults`")
    wanted = (made / "dataset.json").read_bytes()
    operations = (tmp_path / "count").read_text().splitlines()
    check(any(" link " in line for line in operations), "links are counted")
    first = next(at for at, line in enumerate(operations, 1) if "/videos" in line)
    for at in [*range(first, first + 8), len(operations) - 3]:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
        done = trajmill(*command, code=None, TRAJMILL_FAULT=f"kill:{at}")
        check(done.returncode == -signal.SIGKILL, f"killed at {at}: {operations[at - 1]}")
        trajmill(*command)
        equal((made / "dataset.json").read_bytes(), wanted, f"killed at {at}")
        owns(made, f"killed at {at}")
        check(not staging.exists(), "nothing is left")
