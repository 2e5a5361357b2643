"""LeRobot datasets, as its own tools write them, are imported; damaged ones are refused."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, says, table, trajmill
from writers.lerobot import Made, array, put, same, v2, v30

NAMES = {
    "observation.state": "observation",
    "next.reward": "reward",
    "next.done": "terminated",
    "next.truncated": "truncated",
}


def compare(made, dataset, video=None):
    steps, trajectories = table(dataset), table(dataset, "trajectories")
    same(array(steps["trajectory_id"]), made.episode, "trajectory ids")
    for name, values in made.columns.items():
        found = array(steps[NAMES.get(name, name)])
        if values.dtype == object:
            check(found.tolist() == values.tolist(), name)
        else:
            element = steps[NAMES.get(name, name)].type
            element = element.value_type if pa.types.is_nested(element) else element
            check(element == pa.from_numpy_dtype(values.dtype), f"the type of {name}: {element}")
            same(found.astype(values.dtype), values.reshape(found.shape), name)
    check(steps["observation.images.top"].to_pylist() == made.images, "images")
    check(steps["task"].to_pylist() == [made.tasks[index] for index in made.task], "texts of tasks")
    same(array(steps["timestamp"]), (made.frame / made.fps).astype(np.float32), "timestamps")
    check(not array(steps["is_final"]).any(), "no final observations")
    check(trajectories["length"].to_pylist() == list(made.lengths), "lengths")
    check(
        trajectories["source_key"].to_pylist()
        == [str(index) for index in range(len(made.lengths))],
        "source keys",
    )
    check(
        trajectories["split"].to_pylist() == ["train"] * (len(made.lengths) - 1) + ["test"],
        "splits",
    )
    check(
        trajectories["task"].to_pylist()
        == [made.tasks[index % 2] for index in range(len(made.lengths))],
        "tasks",
    )
    if video:
        found = steps["observation.images.side"].to_pylist()
        check(
            [row["path"] for row in found]
            == [
                f"videos/observation.images.side/chunk-000/file-{video[episode]:03d}.mp4"
                for episode in made.episode
            ],
            "videos",
        )
        expected = 1.5 * made.episode + (made.frame / made.fps).astype(np.float32).astype(
            np.float64
        )
        check([row["timestamp"] for row in found] == expected.tolist(), "times in videos")


VIDEO = {0: 0, 1: 0, 2: 1, 3: 1, 4: 1}
SOURCES = {
    "recorder": lambda path, made: v30(path, made),
    "converter": lambda path, made: v30(path, made, fixed=False),
    # What a merge leaves: neither files nor the episodes in them are in order.
    "merged": lambda path, made: v30(path, made, files=[[3, 2], [4], [1, 0]]),
    "minimal": lambda path, made: v30(path, made, files=[[0, 1], [2, 3, 4]], named=False),
    "video": lambda path, made: v30(path, made, files=[[0, 1], [2, 3, 4]], video=True),
    "v2.1": lambda path, made: v2(path, made),
    "v2.0": lambda path, made: v2(path, made, "v2.0", chunks=2),
}


@pytest.mark.parametrize("source", SOURCES)
def test_lerobot_is_imported_value_by_value(tmp_path, source):
    made = Made([7, 1, 5000, 30, 2])
    SOURCES[source](f"{tmp_path}/set", made)
    # The files of the videos are not there.
    references = ["--videos", "reference"] if source == "video" else []
    trajmill("import", tmp_path / "set", tmp_path / "in", "--shard-rows", 4000, *references)
    compare(made, tmp_path / "in", VIDEO if source == "video" else None)


def test_images_are_the_observation_where_they_are_mapped_to_it(tmp_path):
    made = Made([7, 1, 5000, 30, 2])
    v30(f"{tmp_path}/camera", made)
    trajmill(
        "import",
        tmp_path / "camera",
        tmp_path / "in",
        "--map",
        "observation=observation.images.top,reward=observation.heights",
        code=1,
    )
    trajmill(
        "import",
        tmp_path / "camera",
        tmp_path / "in",
        "--map",
        "observation=observation.images.top",
    )
    check(
        table(tmp_path / "in")["observation"].to_pylist() == made.images, "images for observations"
    )


# --- damage

MADE = Made([4, 6])
INFO, DATA, EPISODES, TASKS = (
    "meta/info.json",
    "data/chunk-000/file-000.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
    "meta/tasks.parquet",
)


def edit(change):
    """Changes what a file of JSON says."""

    def damage(path):
        with open(path) as file:
            value = json.load(file)
        change(value)
        put(path, value)

    return damage


def text(change):
    def damage(path):
        with open(path) as file:
            value = file.read()
        put(path, change(value))

    return damage


def rewrite(change):
    return lambda path: put(path, change(pq.read_table(path)))


def column(name, values):
    """Puts other values into a column."""
    return rewrite(
        lambda rows: rows.set_column(rows.column_names.index(name), name, pa.array(values))
    )


@pytest.mark.parametrize(
    "name, damage, wanted",
    [
        (INFO, edit(lambda info: info.update(codebase_version="v4.0")), ["v4.0", "v2.1", "v3.0"]),
        (INFO, edit(lambda info: info.update(total_frames=11)), ["10", "11"]),
        (INFO, edit(lambda info: info.update(total_episodes=3)), ["2", "3"]),
        (
            INFO,
            edit(lambda info: info["features"]["action"].update(shape=[3])),
            ["episode 0", "`action`", "[3]"],
        ),
        (
            INFO,
            edit(lambda info: info["features"].update(depth={"dtype": "float32", "shape": [1]})),
            ["`depth`", "episode 0"],
        ),
        (
            INFO,
            edit(lambda info: info["features"].update(depth={"dtype": "complex64", "shape": [1]})),
            ["`complex64`"],
        ),
        (
            INFO,
            edit(lambda info: info.update(data_path="../../{file_index}.parquet")),
            ["path template"],
        ),
        (
            INFO,
            text(lambda value: value.replace('"fps": 25', '"fps": Infinity')),
            ["Infinity", "info.json"],
        ),
        (INFO, text(lambda value: value[:200]), ["not JSON", "info.json"]),
        (DATA, os.remove, ["file-000.parquet", "episode 0", "again"]),
        (
            DATA,
            lambda path: os.truncate(path, os.path.getsize(path) // 2),
            ["file-000.parquet", "Parquet"],
        ),
        (DATA, rewrite(lambda rows: rows.slice(0, 9)), ["episode 1", "5", "6"]),
        (DATA, column("index", np.arange(10) + 1), ["`index` is 1", "episode 0"]),
        (DATA, column("episode_index", [0, 0, 1, 1, 0, 0, 1, 1, 1, 1]), ["not together"]),
        (DATA, column("task_index", [7] * 10), ["task", "7"]),
        (DATA, rewrite(lambda rows: rows.drop_columns(["action"])), ["`action`", "episode 0"]),
        (EPISODES, os.remove, ["0 episodes"]),
        (EPISODES, column("data/file_index", [4, 0]), ["file-004.parquet", "episode 1"]),
        (EPISODES, column("length", [7, 3]), ["episode 0", "4 rows"]),
        (TASKS, os.remove, ["tasks.parquet"]),
    ],
    ids=[
        "version",
        "frames",
        "episodes",
        "shape",
        "undeclared-values",
        "unknown-dtype",
        "path-template",
        "infinity",
        "cut-info",
        "no-data",
        "cut-data",
        "rows-missing",
        "index",
        "episodes-mixed",
        "no-such-task",
        "no-action",
        "no-episodes",
        "no-such-file",
        "lengths",
        "no-tasks",
    ],
)
def test_damaged_v30_is_refused(tmp_path, name, damage, wanted):
    v30(f"{tmp_path}/bad", MADE)
    damage(f"{tmp_path}/bad/{name}")
    done = trajmill("import", tmp_path / "bad", tmp_path / "none", "--from", "lerobot", code=1)
    check(len(oracle.errors(done)) == 1, done.stderr)
    says(done.stderr, wanted, name)
    check(not os.path.exists(tmp_path / "none"), "nothing is left")


EPISODE = "data/chunk-000/episode_000001.parquet"


@pytest.mark.parametrize(
    "name, damage, wanted",
    [
        ("meta/episodes.jsonl", text(lambda value: value + "{"), ["line 3", "not JSON"]),
        ("meta/tasks.jsonl", lambda path: put(path, '{"task_index": 0}\n'), ["`task`"]),
        (EPISODE, column("episode_index", [5] * 6), ["`episode_index` is 5", "episode 1"]),
        (EPISODE, lambda path: os.truncate(path, 40), ["episode_000001.parquet"]),
    ],
    ids=["not-json", "no-text", "episode-index", "cut-data"],
)
def test_damaged_v21_is_refused(tmp_path, name, damage, wanted):
    v2(f"{tmp_path}/bad", MADE)
    damage(f"{tmp_path}/bad/{name}")
    done = trajmill("import", tmp_path / "bad", tmp_path / "none", code=1)
    says(done.stderr, wanted, name)


# ---- times that state another rate than `fps`


def states(folder, fps):
    info = json.loads((folder / "meta/info.json").read_text())
    put(folder / "meta/info.json", {**info, "fps": fps})


@pytest.mark.parametrize("write", [v2, v30])
@pytest.mark.parametrize(
    "rate, fps", [(10, 30), (30, 10), (25, 30), (29.97, 30), (2, 2.5)]
)
def test_times_of_another_rate_than_fps_are_refused(tmp_path, write, rate, fps):
    write(tmp_path / "in", Made([700, 3], fps=rate))
    trajmill("import", tmp_path / "in", tmp_path / "right")
    states(tmp_path / "in", fps)
    trajmill("validate", tmp_path / "in", code=4)
    failed = trajmill("import", tmp_path / "in", tmp_path / "out", code=1)
    first = next(at for at in range(700) if abs(at / rate - at / fps) > 1e-4)
    said = [
        "episode 0",
        f"those of {rate} frames per second",
        f"`fps` in meta/info.json is {fps}",
        f"frame {first} is at {first / rate:.4f} s, and should be at {first / fps:.4f} s",
        "--skip timestamp",
    ]
    says(failed.stderr, said, "both rates and the first place")
    check(not (tmp_path / "out").exists(), "nothing is written")
    trajmill("import", tmp_path / "in", tmp_path / "out", "--skip", "timestamp")
    check("timestamp" not in table(tmp_path / "out").column_names, "without times")
    states(tmp_path / "in", rate)
    trajmill("import", tmp_path / "in", tmp_path / "corrected")


@pytest.mark.parametrize("fps", [30, 29.97, 0.4])
def test_times_with_jitter_and_pauses_are_kept(tmp_path, fps):
    made = Made([400, 3, 1, 2], fps=fps)
    v30(tmp_path / "in", made)
    path = next((tmp_path / "in/data").rglob("*.parquet"))
    rows = pq.read_table(path)
    random = np.random.default_rng(1)
    times = made.frame / fps + random.uniform(-0.2, 0.2, len(made.frame)) / fps
    times[200:400] += 3 / fps
    times = pa.array(times.astype(np.float32))
    rows = rows.set_column(rows.column_names.index("timestamp"), "timestamp", times)
    pq.write_table(rows, path)
    trajmill("import", tmp_path / "in", tmp_path / "out")
    check(table(tmp_path / "out")["timestamp"].to_pylist() == times.to_pylist(), "times")
