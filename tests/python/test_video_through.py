"""LeRobot videos go through pipelines: every row of a result has the frames of the row it comes from.

Sources, stages and the way out are drawn. Frames say what they show (writers/burned.py), and PyAV
reads them by the rules of LeRobot's loader. Where the frames of a trajectory are a run of frames of
a source, their pixels are the source's, byte for byte; where frames were encoded again, they differ
by little. With --all, LeRobot's own loader reads sources and results, in a DataLoader.
"""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, close, equal, seeded, trajmill
from writers import video
from writers.burned import TASKS, Burned, Read, aggregated, encode, image_statistics, shown
from writers.lerobot import array

TOP, WRIST = "observation.images.top", "observation.images.wrist"
# Of what was encoded again with the defaults of LeRobot's recorder, against what was decoded.
LEAST_PSNR = 30


class Stages:
    """Random stages, and what they leave: trajectories as lists of rows of the sources."""

    def __init__(self, random, sources):
        self.random, self.stages, self.sorted, self.every = random, [], False, 1
        self.left = [
            [(source.number, episode, step) for step in range(length)]
            for source in sources
            for episode, length in enumerate(source.lengths)
        ]

    def draw(self, count):
        kinds = [self.long, self.trim, self.holes, self.stride, self.sort, self.shuffle]
        for kind in self.random.choice(kinds, count, replace=False):
            kind()
        return self

    def long(self):
        least = int(np.quantile([len(rows) for rows in self.left], 0.3)) if self.left else 1
        self.stages.append({"filter": f"length >= {least}"})
        self.left = [rows for rows in self.left if len(rows) >= least]

    def trim(self):
        first, last = int(self.random.integers(0, 6)), int(self.random.integers(8, 40))
        self.stages.append({"filter": {"steps": f"step >= {first} and step < {last}"}})
        self.left = [rows[first:last] for rows in self.left if rows[first:last]]

    def holes(self):
        every, left_out = int(self.random.integers(4, 15)), 0
        self.stages.append({"filter": {"steps": f"step % {every} <> {left_out}"}})
        pieces = [
            rows[start + 1 : start + every]
            for rows in self.left
            for start in range(0, len(rows), every)
        ]
        self.left = [rows for rows in pieces if rows]

    def stride(self):
        every = int(self.random.integers(2, 4))
        self.stages.append({"subsample": {"stride": every}})
        self.left = [rows[::every] for rows in self.left]
        self.every = every

    def rate(self, fps):
        """Rows per second of what is left. One or two rows of a trajectory tell none."""
        return fps / self.every if any(len(rows) > 2 for rows in self.left) else fps

    def sort(self):
        self.stages.append({"sort": {"by": "length", "descending": True}})
        self.sorted = True

    def shuffle(self):
        self.stages.append({"shuffle": {"seed": int(self.random.integers(1000))}})
        self.sorted = True


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def psnr(one, other):
    error = ((np.asarray(one, float) - np.asarray(other, float)) ** 2).mean()
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


class Sources:
    """Sources with what each camera shows at each row, and the files that the frames are in."""

    def __init__(self, sources):
        self.sources = {source.number: source for source in sources}
        self.read = {source.number: Read(source.root) for source in sources}
        self.files = {
            sha(path) for source in sources for path in source.root.glob("videos/**/*.mp4")
        }

    def pixels(self, key, row):
        """The frame of a row, its file, and its index there."""
        number, episode, step = row
        read = self.read[number]
        path, indices = read.frames(key, episode)
        return read.video(path), indices[step]

    def numbers(self, row, name):
        source = self.sources[row[0]]
        return getattr(source, name)[source.rows(row[1]).start + row[2]]


def keeps_pixels(source, first, last, old):
    """Whether frames that are a run of a video stay as they are.

    They do in v3.0, which refers to them. v2.1 has a file for each episode: it can be cut without
    encoding where it begins with a key frame, and where no later frame is needed.
    """
    end = len(source.frames) - 1
    whole = first == 0 and last == end
    ends = last == end or source.keys[last + 1] or not source.reorders
    return whole or not old or (source.keys[first] and ends)


def compare(out, sources, stages, cameras=None):
    """Checks a result against its sources; returns whether all files are those of sources.

    `cameras` maps cameras of the result to those of the sources.
    """
    cameras = cameras or {TOP: TOP, WRIST: WRIST}
    read, whole = Read(out), Sources(sources)
    equal(read.info["fps"], stages.rate(sources[0].fps), "steps per second")
    states = array(read.rows["observation.state"]).astype(int)
    found = [
        [tuple(row) for row in states[end - entry["length"] : end]]
        for end, entry in zip(read.ends, read.episodes)
    ]
    in_order = sorted if stages.sorted else list
    check(in_order(found) == in_order(stages.left), "rows of the trajectories")
    rows = [row for rows in found for row in rows]
    wanted = lambda name: np.stack([whole.numbers(row, name) for row in rows])
    check(array(read.rows["action"]).tobytes() == wanted("action").tobytes(), "actions")
    tasks = [read.tasks[index] for index in read.rows["task_index"].to_pylist()]
    equal(tasks, [TASKS[row[1] % 2] for row in rows], "tasks")
    equal(sorted(read.cameras), sorted(cameras), "cameras")
    copied = {key: True for key in cameras}
    for key, origin in cameras.items():
        code = list(sources[0].cameras).index(origin)
        shape = read.info["features"][key]["shape"]
        for episode, own in enumerate(found):
            path, indices = read.frames(key, episode)
            shots = read.video(path)
            places = [whole.pixels(origin, row) for row in own]
            at = np.array([index for _, index in places])
            one = all(source is places[0][0] for source, _ in places)
            run = one and (np.diff(at) == 1).all()
            exact = run and keeps_pixels(places[0][0], at[0], at[-1], read.old)
            copied[key] &= bool(run)
            worst = 99
            for row, index, (source, place) in zip(own, indices, places):
                frame, before = shots.frames[index], source.frames[place]
                said = shown(frame)
                equal(list(frame.shape), shape, f"shape of {key}")
                check(
                    said == (code, row[0] * 100 + row[1], row[2]),
                    f"{key}, episode {episode}: {said} is shown where {row} is",
                )
                if exact:
                    check(
                        frame.tobytes() == before.tobytes(),
                        f"{key}, episode {episode}, {row}: other pixels, PSNR {psnr(frame, before)}",
                    )
                else:
                    worst = min(worst, psnr(frame, before))
            check(worst >= LEAST_PSNR, f"{key}, episode {episode}: a PSNR of {worst}")
            check_statistics(read, (key, origin), episode, own, whole, run, exact)
            if read.old:
                equal(len(shots.frames), len(own), f"frames in {path}")
            else:
                entry = read.episodes[episode]
                span = (
                    entry[f"videos/{key}/to_timestamp"] - entry[f"videos/{key}/from_timestamp"]
                )
                check(abs(span - len(own) / read.info["fps"]) < 1e-6, f"{span} s for {len(own)}")
        before, *others = [source.info()["features"][origin] for source in sources]
        alike = all(other == before for other in others)
        after = read.info["features"][key]
        check(
            after == before or not alike or not copied[key] or read.old,
            f"{key} is {after}, where the source has {before}",
        )
    check_totals(read)
    copied = all(copied.values())
    if copied and not read.old:
        others = [path for path in out.glob("videos/**/*.mp4") if sha(path) not in whole.files]
        check(not others, f"nothing was encoded, but {others} are not files of a source")
    trajmill("validate", out)
    return copied


def check_statistics(read, names, episode, own, whole, run, exact):
    """A camera's statistics of an episode: the source's if it is whole, else LeRobot's rules."""
    key, origin = names
    stats = read.stats[episode].get(key)
    check(stats is not None, f"statistics of {key} in episode {episode}")
    source = whole.sources[own[0][0]]
    # v2.0 has no statistics of episodes.
    stated = source.version != "v2.0"
    if stated and run and len(own) == source.lengths[own[0][1]] and own[0][2] == 0:
        wanted = source.statistics[own[0][1]][origin]
        bound = 1e-6
    else:
        path, indices = read.frames(key, episode)
        wanted = image_statistics([read.video(path).frames[index] for index in indices])
        # Of frames that are encoded, LeRobot has the statistics of before.
        bound = 1e-6 if exact else 0.05
    for name in ("min", "max", "mean", "std", "count"):
        loose = 0.25 if name in ("min", "max") and bound > 1e-6 else bound
        close(
            np.asarray(stats[name], float).reshape(-1),
            np.asarray(wanted[name], float).reshape(-1),
            f"{name} of {key} in episode {episode} ({'whole' if bound == 1e-6 else 'encoded'})",
            atol=loose,
            rtol=0,
        )


def check_totals(read):
    """meta/stats.json is what LeRobot makes of the episodes' statistics."""
    path = read.root / "meta/stats.json"
    if not path.exists():
        check(read.old, "meta/stats.json")
        return
    stats = json.loads(path.read_text())
    for key in read.cameras:
        wanted = aggregated([read.stats[episode][key] for episode in sorted(read.stats)])
        for name in ("min", "max", "mean", "std", "count"):
            close(
                np.asarray(stats[key][name], float),
                np.asarray(wanted[name], float),
                f"{name} of {key} in all",
                atol=1e-6,
            )


def burned(folder, random, name, number=0, version=None, cameras=None, fps=None):
    version = version or str(random.choice(["v3.0", "v3.0", "v2.1", "v2.0"]))
    lengths = random.integers(1, 40, random.integers(2, 6)).tolist()
    if random.random() < 0.2:
        # LeRobot has statistics of a hundred or more frames of an episode, not of all.
        lengths[0] = int(random.integers(150, 300))
    codec = str(random.choice(["h264", "h264", "open", "hevc"]))
    cameras = cameras or {TOP: codec, WRIST: "av1"}
    fps = fps or int(random.choice([10, 30]))
    return Burned(folder / name, random, lengths, cameras, version, number, fps)


def out_of(folder, random, sources, stages, to):
    """Runs the stages by a way that is drawn: one pipeline, or import, pipeline and export."""
    paths = [{"path": str(source.root), "format": "lerobot"} for source in sources]
    if random.random() < 0.5:
        for index, source in enumerate(sources):
            trajmill("import", source.root, folder / f"in-{index}")
        paths = [f"in-{index}" for index in range(len(sources))]
    source = paths[0] if len(paths) == 1 else paths
    if random.random() < 0.5:
        end = {"materialise": {"path": "out", "format": to}}
        trajmill("run", oracle.pipeline(folder / "through.json", source, [*stages.stages, end]))
    else:
        end = {"materialise": {"path": "own"}}
        trajmill("run", oracle.pipeline(folder / "through.json", source, [*stages.stages, end]))
        trajmill("validate", folder / "own")
        trajmill("export", folder / "own", folder / "out", "--to", to)
    return folder / "out"


@pytest.mark.video
@pytest.mark.parametrize("seed", range(12))
def test_rows_keep_their_frames(tmp_path, seed):
    """Through one source and random stages."""
    random = seeded("through", seed)
    source = burned(tmp_path, random, "source")
    stages = Stages(random, [source]).draw(int(random.integers(0, 4)))
    to = str(random.choice(["lerobot", "lerobot", "lerobot-v2.1"]))
    compare(out_of(tmp_path, random, [source], stages, to), [source], stages)


@pytest.mark.video
@pytest.mark.parametrize("seed", range(6))
def test_rows_keep_their_frames_when_sources_are_merged(tmp_path, seed):
    """Of versions that differ."""
    random = seeded("merged", seed)
    fps = int(random.choice([10, 30]))
    sources = [
        burned(tmp_path, random, f"source-{number}", number, fps=fps)
        for number in range(int(random.integers(2, 4)))
    ]
    stages = Stages(random, sources).draw(int(random.integers(0, 3)))
    to = str(random.choice(["lerobot", "lerobot-v2.1"]))
    compare(out_of(tmp_path, random, sources, stages, to), sources, stages)


@pytest.mark.video
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_encoded_where_frames_are_runs_of_a_file(tmp_path, seed):
    """Trims, filters, sorts and merges link the files of v3.0 sources."""
    random = seeded("linked", seed)
    sources = [
        burned(tmp_path, random, f"source-{number}", number, "v3.0", fps=30) for number in range(2)
    ]
    stages = Stages(random, sources)
    for kind in random.permutation([stages.long, stages.trim, stages.holes, stages.sort])[:3]:
        kind()
    out = out_of(tmp_path, random, sources, stages, "lerobot")
    check(compare(out, sources, stages), "nothing has to be encoded")
    # A hard link has the same inode, and costs no space.
    inodes = {path.stat().st_ino for source in sources for path in source.root.rglob("*.mp4")}
    check(
        all(path.stat().st_ino in inodes for path in out.rglob("*.mp4")),
        "files are links, not copies",
    )


@pytest.mark.video
def test_what_comes_out_goes_in_again(tmp_path):
    """Twice through v3.0, once through v2.1: the pixels are still those of the source."""
    random = seeded("again")
    source = burned(tmp_path, random, "source", version="v3.0", fps=30)
    stages = Stages(random, [source])
    at = source.root
    for round, (to, kind) in enumerate(
        [("lerobot", stages.long), ("lerobot", stages.sort), ("lerobot-v2.1", stages.shuffle)]
    ):
        kind()
        end = {"materialise": {"path": f"out-{round}", "format": to}}
        path = oracle.pipeline(
            tmp_path / f"{round}.json",
            {"path": str(at), "format": "lerobot"},
            [stages.stages[-1], end],
        )
        trajmill("run", path)
        at = tmp_path / f"out-{round}"
        compare(at, [source], stages)


FRONT = "observation.images.front"


@pytest.mark.video
@pytest.mark.parametrize("way", ["own", "import", "source"])
@pytest.mark.parametrize("to", ["lerobot", "lerobot-v2.1"])
def test_cameras_are_renamed_and_left_out(tmp_path, to, way):
    """The files of a camera that is left out are not opened."""
    random = seeded("renamed", to)
    source = burned(tmp_path, random, "source", version="v3.0", fps=30)
    for path in (source.root / f"videos/{WRIST}").rglob("*.mp4"):
        path.write_bytes(b"not a video")
    stages = Stages(random, [source])
    stages.trim()
    rename = ["--map", f"{FRONT}={TOP}"] if way == "import" else []
    if way != "source":
        trajmill("import", source.root, tmp_path / "own", "--skip", WRIST, *rename)
    path = {
        "own": {"path": "own", "map": {FRONT: TOP}},
        "import": "own",
        "source": {
            "path": str(source.root),
            "format": "lerobot",
            "map": {FRONT: TOP},
            "skip": [WRIST],
        },
    }[way]
    end = {"materialise": {"path": "out", "format": to}}
    trajmill("run", oracle.pipeline(tmp_path / "renamed.json", path, [*stages.stages, end]))
    compare(tmp_path / "out", [source], stages, {FRONT: TOP})


@pytest.mark.video
@pytest.mark.parametrize("own", [False, True])
def test_cameras_of_sources_get_each_other_s_names(tmp_path, own):
    """What a source says of a camera goes with it, also if another camera had the name."""
    random = seeded("swapped", own)
    sources = [
        burned(tmp_path, random, f"source-{number}", number, "v3.0", fps=30) for number in range(2)
    ]
    stages = Stages(random, sources)
    stages.long()
    paths = [{"path": str(source.root), "format": "lerobot"} for source in sources]
    if own:
        for index, source in enumerate(sources):
            trajmill("import", source.root, tmp_path / f"own-{index}")
        paths = [{"path": "own-0"}, {"path": "own-1"}]
    names = {TOP: WRIST, WRIST: TOP}
    paths = [{**path, "map": names} for path in paths]
    end = {"materialise": {"path": "out", "format": "lerobot"}}
    trajmill("run", oracle.pipeline(tmp_path / "swapped.json", paths, [*stages.stages, end]))
    check(compare(tmp_path / "out", sources, stages, names), "files are those of the sources")


@pytest.mark.video
def test_features_get_other_names(tmp_path):
    """Of any kind; wrong names are errors."""
    random = seeded("names")
    source = burned(tmp_path, random, "source", version="v3.0", fps=30)
    place = lambda name, **names: {
        "path": str(source.root),
        "format": "lerobot",
        "map": {name: "observation.state", **names},
    }
    end = {"materialise": {"path": "out"}}
    run = lambda path, code: trajmill(
        "run", oracle.pipeline(tmp_path / "names.json", path, [end]), code=code
    )
    run(place("where"), 0)
    rows = oracle.table(tmp_path / "out")
    check(array(rows["where"]).tobytes() == source.state.tobytes(), "the state")
    for path, said in [
        (place("trajectory_id"), "fixed meaning"),
        (place("where", there="observation.state"), "another name already"),
        (place(WRIST), "two columns would be named"),
        (place("where", there="observation.stat"), "did you mean `observation.state`"),
        (place("where", what="task_index"), "indices of texts"),
    ]:
        done = run(path, None)
        check(done.returncode != 0, f"{path} is wrong")
        check(said in done.stderr, f"{path}: {done.stderr}")


@pytest.mark.video
def test_a_dataset_that_is_moved_has_its_videos(tmp_path):
    """The source is gone."""
    random = seeded("moved")
    source = burned(tmp_path, random, "source", version="v3.0", fps=30)
    stages = Stages(random, [source])
    trajmill("import", source.root, tmp_path / "own")
    source.root = source.root.rename(tmp_path / "gone")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own").rename(tmp_path / "elsewhere" / "moved")
    trajmill("info", tmp_path / "elsewhere/moved", "--verify")
    stages.holes()
    end = {"materialise": {"path": "out", "format": "lerobot"}}
    pipeline = oracle.pipeline(tmp_path / "moved.json", "elsewhere/moved", [*stages.stages, end])
    trajmill("run", pipeline)
    check(compare(tmp_path / "out", [source], stages), "files are those of the source")


@pytest.mark.video
def test_a_dataset_that_lost_its_videos_is_invalid(tmp_path):
    random = seeded("lost")
    source = burned(tmp_path, random, "source", version="v3.0", fps=30)
    trajmill("import", source.root, tmp_path / "own")
    trajmill("export", tmp_path / "own", tmp_path / "out", "--to", "lerobot")
    trajmill("validate", tmp_path / "out")
    for path, commands in {
        "out": [["validate"]],
        "own": [["validate"], ["info", "--verify"], ["export", "--to", "lerobot", "again"]],
    }.items():
        lost = next((tmp_path / path).rglob("*.mp4"))
        lost.unlink()
        for command in commands:
            done = trajmill(command[0], path, *command[1:], code=None, cwd=tmp_path)
            check(done.returncode != 0, f"{command}: a video of {path} is missing")
            check(lost.name in done.stdout + done.stderr, f"{command} names it: {done.stderr}")
    check(not (tmp_path / "again").exists(), "nothing is written")
    end = {"materialise": {"path": "more"}}
    done = trajmill("run", oracle.pipeline(tmp_path / "more.json", "own", [end]), code=None)
    check(done.returncode != 0 and lost.name in done.stderr, f"a run: {done.stderr}")


@pytest.mark.video
def test_the_last_frames_of_an_open_group_are_found(tmp_path):
    """FFmpeg 5 loses frames at the end of a file if it begins at a key frame of an open group."""
    lengths, places = [20, 3], [(0, 0.0), (0, 20 / video.FPS)]
    root = video.dataset(tmp_path / "set", lengths, {TOP: (video.video([48, 64, 3]), places)})
    options = {"g": "10", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}
    video.encode(video.file(root, TOP), 23, options=options)
    stages = [{"filter": "trajectory_id = 1"}, {"materialise": {"path": "last"}}]
    source = {"path": "set", "format": "lerobot", "frames": "array"}
    trajmill("run", oracle.pipeline(tmp_path / "last.json", source, stages))
    wanted = video.expected(root, TOP, lengths, places)[20:]
    equal(video.arrays(oracle.table(tmp_path / "last"), TOP), wanted, "frames at the end")


# What the packets of a container and codec become, and whether frames keep their bytes.
CONTAINERS = {
    "a.mkv": (dict(options={"bf": "2", "g": "10"}), True),
    "b.mov": (dict(options={"bf": "2", "g": "10"}), True),
    "c.webm": (dict(codec="libvpx-vp9"), True),
    "d.webm": (dict(codec="libvpx"), False),
    "e.avi": (dict(codec="mpeg4"), False),
    "f.ts": (dict(options={"bf": "0"}), False),
    "g.mp4": (dict(start=7), True),
    "h.mkv": (dict(codec="libsvtav1", start=4), True),
    "i.mp4": (dict(), True),
}


@pytest.mark.video
@pytest.mark.parametrize("to", ["lerobot", "lerobot-v2.1"])
def test_files_of_lerobot_are_mp4(tmp_path, to):
    """Packets of other containers go into MP4, with times that the container rounds made exact."""
    for index, (name, (how, _)) in enumerate(CONTAINERS.items()):
        video.encode(str(tmp_path / "clips" / name), 24, (64, 96), seed=index, **how)
    # Another name changes nothing.
    (tmp_path / "clips/a.mkv").rename(tmp_path / "clips/i.mp4")
    video.encode(str(tmp_path / "clips/a.mkv"), 24, (64, 96), **CONTAINERS["a.mkv"][0])
    trajmill("import", tmp_path / "clips", tmp_path / "own")
    trajmill("export", tmp_path / "own", tmp_path / "out", "--to", to)
    trajmill("validate", tmp_path / "out")
    stages = [{"filter": {"steps": "step >= 10 and step < 20"}}]
    end = {"materialise": {"path": "cut", "format": to}}
    trajmill("run", oracle.pipeline(tmp_path / "cut.json", "own", [*stages, end]))
    trajmill("validate", tmp_path / "cut")
    key = "observation.images.video"
    for out, rows in [("out", range(24)), ("cut", range(10, 20))]:
        read = Read(tmp_path / out)
        for episode, (name, (_, exact)) in enumerate(CONTAINERS.items()):
            path, indices = read.frames(key, episode)
            head = path.read_bytes()[:12]
            check(head[4:8] == b"ftyp" and head[8:] != b"qt  ", f"{name} is {head}")
            shots, (_, before) = read.video(path), video.decoded(str(tmp_path / "clips" / name))
            equal(len(indices), len(rows), f"rows of {name}")
            # A cut of v2.1 keeps pixels if it begins at a key frame and needs no frame outside.
            whole = out == "out" or to == "lerobot"
            for index, row in zip(indices, rows):
                if exact and whole:
                    same = shots.frames[index].tobytes() == before[row].tobytes()
                    check(same, f"{name}, {out}, row {row}")
                else:
                    quality = psnr(shots.frames[index], before[row])
                    check(quality >= 24, f"{name}, {out}, row {row}: a PSNR of {quality}")


FAST, SLOW = "observation.images.fast", "observation.images.slow"


@pytest.mark.video
@pytest.mark.parametrize("stage", ["whole", "trimmed", "strided"])
@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize("to", ["lerobot", "lerobot-v2.1"])
def test_cameras_have_rates_of_their_own(tmp_path, version, to, stage):
    """The time of a row says which frame it has: 60 and 10 frames per second beside 30 rows."""
    random = seeded("rates", version, to, stage)
    source = Burned(tmp_path / "source", random, [28, 16], {FAST: "h264", SLOW: "h264"}, version)
    info = json.loads((source.root / "meta/info.json").read_text())
    table = next((source.root / "meta/episodes").rglob("*.parquet")) if version == "v3.0" else None
    places = pq.read_table(table).to_pylist() if table else None
    for code, (key, rate) in enumerate([(FAST, 60), (SLOW, 10)]):
        info["features"][key]["info"]["video.fps"] = rate
        frames, name = [], source.video(key, 0)
        for path in name.parent.glob("*.mp4"):
            path.unlink()
        for episode, length in enumerate(source.lengths):
            if version == "v3.0":
                places[episode][f"videos/{key}/file_index"] = 0
                places[episode][f"videos/{key}/from_timestamp"] = len(frames) / rate
                places[episode][f"videos/{key}/to_timestamp"] = (len(frames) + 2 * length) / rate
            else:
                frames, name = [], source.video(key, episode)
            shots = -(-length * rate // 30)
            frames += [source.picture(code, episode, shot) for shot in range(shots)]
            if version != "v3.0" or episode == 1:
                encode(name, frames, rate, "h264")
    (source.root / "meta/info.json").write_text(json.dumps(info))
    if table:
        pq.write_table(pa.Table.from_pylist(places), table)
    stages = Stages(random, [source])
    {"whole": stages.long, "trimmed": stages.trim, "strided": stages.stride}[stage]()
    trajmill("import", source.root, tmp_path / "own", "--tolerance", 0.04)
    end = {"materialise": {"path": "out", "format": to}}
    trajmill("run", oracle.pipeline(tmp_path / "rates.json", "own", [*stages.stages, end]))
    read, files = Read(tmp_path / "out"), {sha(path) for path in source.root.rglob("*.mp4")}
    kept = stage != "strided" and to == "lerobot" or stage == "whole" and version == "v2.1"
    if not kept:
        trajmill("validate", tmp_path / "out")
    for code, (key, rate) in enumerate([(FAST, 60), (SLOW, 10)]):
        stated = read.info["features"][key]["info"]["video.fps"]
        mixed = not kept and to == "lerobot-v2.1" and any(
            sha(path) in files for path in (tmp_path / "out").rglob("*.mp4")
        )
        fps = stages.rate(30)
        equal(read.info["fps"], fps, "steps per second")
        check(mixed or stated == (rate if kept else fps), f"{key} has a rate of {stated}")
        for episode, rows in enumerate(stages.left):
            path, first = read.place(key, episode)
            check(not kept or sha(path) in files, f"{key}, {episode}: the file of a source")
            shots = read.video(path)
            for time, row in zip(read.own(episode)["timestamp"].to_pylist(), rows):
                shot = shown(shots.frames[shots.at(first + time, 0.04)])
                nearest = row[2] * rate / 30
                off = abs(shot[2] - nearest)
                check(shot[:2] == (code, row[1]) and off <= 0.5, f"{key}: {shot} for {row}")


@pytest.mark.video
def test_a_folder_of_videos_states_its_rate(tmp_path):
    """Where files are linked, `video.fps` is theirs, not that of the rows."""
    frames = [np.full((64, 96, 3), 5 * step, np.uint8) for step in range(40)]
    encode(tmp_path / "clips/a.mp4", frames, 60, "h264")
    trajmill("import", tmp_path / "clips", tmp_path / "own", "--fps", 30)
    trajmill("export", tmp_path / "own", tmp_path / "out", "--to", "lerobot")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    stated = info["features"]["observation.images.video"]["info"]["video.fps"]
    equal((info["fps"], stated), (30, 60), "rates")
    check(sha(next((tmp_path / "out").rglob("*.mp4"))) == sha(tmp_path / "clips/a.mp4"), "linked")


# --- LeRobot's own loader


def loaded(root, fps, cameras, workers=0):
    """Every item of a dataset by LeRobot's loader, with frames before and after."""
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset(
        "trajmill/test",
        root=root,
        video_backend="pyav",
        delta_timestamps={
            **{key: [-1 / fps, 0.0, 2 / fps] for key in cameras},
            "action": [0.0, 1 / fps],
        },
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=7, num_workers=workers)
    for batch in loader:
        for index in range(len(batch["index"])):
            yield {key: value[index] for key, value in batch.items()}


@pytest.mark.video
@pytest.mark.reference("lerobot", "torch")
@pytest.mark.parametrize("kind", ["whole", "trimmed", "strided"])
@pytest.mark.parametrize("to", ["lerobot", "lerobot-v2.1"])
def test_the_loader_of_lerobot_gives_the_same_frames(tmp_path, to, kind):
    """For every step of the result, what the source's loader gives for its step.

    A version of LeRobot reads one version of its format: 0.3 reads v2.1, later ones v3.0.
    """
    from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION

    if (CODEBASE_VERSION == "v3.0") != (to == "lerobot"):
        pytest.skip(f"this lerobot reads {CODEBASE_VERSION}")
    random = seeded("loader", to, kind)
    # LeRobot's loader does not find all frames of open groups of pictures.
    cameras = {TOP: "h264", WRIST: "av1"}
    source = burned(
        tmp_path, random, "source", version=CODEBASE_VERSION, cameras=cameras, fps=30
    )
    stages = Stages(random, [source])
    for stage in {"whole": ["long"], "trimmed": ["trim"], "strided": ["stride"]}[kind]:
        getattr(stages, stage)()
    stages.sort()
    out = out_of(tmp_path, random, [source], stages, to)
    name = lambda item: tuple(item["observation.state"].int().tolist())
    before = {name(item): item for item in loaded(source.root, 30, source.cameras)}
    # A file of v2.1 that begins between two key frames is encoded.
    exact = kind == "whole" or (kind == "trimmed" and to == "lerobot")
    seen = 0
    for item in loaded(out, stages.rate(30), source.cameras, workers=2):
        other = before[name(item)]
        for key in [*source.cameras, "action", "observation.state"]:
            found, wanted = item[key].numpy(), other[key].numpy()
            if kind != "whole" and key != "observation.state":
                # The steps around a step are others, or missing.
                at = 0 if key == "action" else 1
                found, wanted = found[at], wanted[at]
            if key in source.cameras and not exact:
                quality = psnr(found * 255, wanted * 255)
                check(quality >= LEAST_PSNR, f"{key}: {name(item)} has a PSNR of {quality}")
            else:
                check(found.tobytes() == wanted.tobytes(), f"{key}: {name(item)}")
        if kind == "whole":
            for key in source.cameras:
                equal(item[f"{key}_is_pad"], other[f"{key}_is_pad"], f"padding of {key}")
        equal(item["task"], other["task"], "task")
        seen += 1
    equal(seen, sum(map(len, stages.left)), "items")
