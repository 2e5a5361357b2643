"""LeRobot both ways: files as LeRobot's own tools write them come in, what goes out is held against its loader's rules.

    python tests/python/test_lerobot.py TRAJMILL

Datasets are written with pyarrow as the recorder of v3.0, its converter and the recorder of v2.1 write them. What is
written is read with pyarrow, pandas and numpy; where `lerobot` is installed (tests/requirements-all.txt), its
LeRobotDataset goes over it in a DataLoader with delta_timestamps as well, and its own recorder makes a dataset to import.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

TRAJMILL = os.path.abspath(sys.argv[1])
CHECKS = 0

def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what

def trajmill(*arguments, code=0):
    done = subprocess.run([TRAJMILL, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    check(done.returncode == code and "panicked" not in done.stderr, f"{arguments}: exit {done.returncode}: {done.stderr}")
    return done

def read(path):
    return pa.concat_tables([pq.read_table(os.path.join(path, name)) for name in sorted(os.listdir(path))])

def array(column):
    """A column as one numpy array; lists of one length become its axes."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_struct(column.type):
        return np.array(column.to_pylist(), object)
    shape = [len(column)]
    while pa.types.is_nested(column.type):
        inner = column.flatten()
        shape.append(len(inner) // max(1, len(column)))
        column = inner
    return column.to_numpy(zero_copy_only=False).reshape(shape)

def same(a, b, what):
    a, b = np.asarray(a), np.asarray(b)
    check(a.shape == b.shape and a.dtype == b.dtype, f"{what}: {a.shape} {a.dtype}, {b.shape} {b.dtype}")
    check(a.tobytes() == b.tobytes() if a.dtype != object else a.tolist() == b.tolist(), what)

# --- datasets as LeRobot's own tools write them

class Made:
    """Episodes with a state, an action, an image, a matrix, flags and texts."""

    def __init__(self, lengths, seed=0, fps=25):
        random = np.random.default_rng(seed)
        n = sum(lengths)
        self.lengths, self.fps, self.n = lengths, fps, n
        self.ends = np.cumsum(lengths)
        self.episode = np.repeat(np.arange(len(lengths)), lengths)
        self.frame = np.concatenate([np.arange(length) for length in lengths])
        self.task = self.episode % 2
        self.tasks = ["pick the cup", "open the door"]
        done = np.zeros(n, bool)
        done[self.ends - 1] = True
        self.columns = {
            "observation.state": random.normal(size=(n, 5)).astype(np.float32),
            "action": random.normal(size=(n, 2)).astype(np.float32),
            "next.reward": random.normal(size=n).astype(np.float32),
            "next.done": done,
            "next.truncated": np.zeros(n, bool),
            "observation.heights": random.normal(size=(n, 3, 4)),
            "gripper": random.integers(0, 3, size=n).astype(np.int8),
            "note": np.array([f"note {row % 3}" for row in range(n)], object),
        }
        # A PNG as far as its size goes: 6 wide, 4 high, RGB.
        head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 6, 4) + bytes([8, 2, 0, 0, 0])
        self.images = [head + bytes([row % 251] * (row % 7)) for row in range(n)]

    def features(self):
        kinds = {np.dtype(object): "string"}
        features = {name: {"dtype": kinds.get(values.dtype, str(values.dtype)), "shape": list(values.shape[1:]) or [1], "names": None} for name, values in self.columns.items()}
        features["observation.images.top"] = {"dtype": "image", "shape": [4, 6, 3], "names": ["height", "width", "channels"]}
        for name in ["timestamp", "frame_index", "episode_index", "index", "task_index"]:
            features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
        return features

    def table(self, fixed=True, rows=slice(None)):
        n = len(self.episode[rows])
        columns = {}
        for name, values in self.columns.items():
            values = values[rows]
            if values.ndim == 1:
                columns[name] = pa.array(values)
            elif values.ndim == 2 and fixed:
                columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
            else:
                columns[name] = pa.array(values.tolist(), pa.list_(pa.float32()) if values.ndim == 2 else pa.list_(pa.list_(pa.float64())))
        images = self.images[rows]
        columns["observation.images.top"] = pa.array([{"bytes": image, "path": "frame.png"} for image in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        columns["timestamp"] = pa.array((self.frame[rows] / self.fps).astype(np.float32))
        columns["frame_index"] = pa.array(self.frame[rows])
        columns["episode_index"] = pa.array(self.episode[rows])
        columns["index"] = pa.array(np.arange(self.n)[rows])
        columns["task_index"] = pa.array(self.task[rows])
        check(n == len(columns["index"]), "rows")
        return pa.table(columns)

    def info(self, version, **more):
        return {
            "codebase_version": version, "robot_type": "arm", "total_episodes": len(self.lengths), "total_frames": self.n, "total_tasks": 2,
            "chunks_size": 1000, "fps": self.fps, "splits": {"train": f"0:{len(self.lengths) - 1}", "test": f"{len(self.lengths) - 1}:{len(self.lengths)}"},
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4", "features": self.features(), **more,
        }

def put(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if isinstance(value, pa.Table):
        pq.write_table(value, path)
    else:
        with open(path, "w") as file:
            file.write(value if isinstance(value, str) else json.dumps(value, indent=4))

def v30(folder, made, fixed=True, files=None, named=True, video=False):
    """`files` lists the episodes of each file, in their order in it."""
    files = files or [list(range(len(made.lengths)))]
    info = made.info("v3.0", data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", data_files_size_in_mb=100)
    starts = [0, *made.ends[:-1]]
    entries = {}
    for at, episodes in enumerate(files):
        parts = [made.table(fixed, slice(starts[episode], made.ends[episode])) for episode in episodes]
        put(f"{folder}/data/chunk-000/file-{at:03d}.parquet", pa.concat_tables(parts))
        for episode in episodes:
            entries[episode] = {
                "episode_index": episode, "tasks": [made.tasks[episode % 2]], "length": made.lengths[episode], "data/chunk_index": 0, "data/file_index": at,
                "dataset_from_index": int(starts[episode]), "dataset_to_index": int(made.ends[episode]), "stats/action/min": [0.0, 0.0],
            }
            if video:
                entries[episode] |= {"videos/observation.images.side/chunk_index": 0, "videos/observation.images.side/file_index": at,
                                     "videos/observation.images.side/from_timestamp": 1.5 * episode, "videos/observation.images.side/to_timestamp": 9.0}
    if video:
        info["features"]["observation.images.side"] = {"dtype": "video", "shape": [4, 6, 3], "names": None}
    rows = [entries[episode] for episode in reversed(range(len(entries)))]
    if not named:
        rows = [{key: row[key] for key in ("episode_index", "length")} for row in rows]
    put(f"{folder}/meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    put(f"{folder}/meta/info.json", info)
    os.makedirs(f"{folder}/meta", exist_ok=True)
    pd.DataFrame({"task_index": range(2)}, index=pd.Index(made.tasks, name="task" if fixed else None)).to_parquet(f"{folder}/meta/tasks.parquet")

def v2(folder, made, version="v2.1", chunks=1000):
    info = made.info(version, data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", chunks_size=chunks)
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    starts = [0, *made.ends[:-1]]
    for episode in range(len(made.lengths)):
        put(f"{folder}/data/chunk-{episode // chunks:03d}/episode_{episode:06d}.parquet", made.table(True, slice(starts[episode], made.ends[episode])))
    put(f"{folder}/meta/info.json", info)
    put(f"{folder}/meta/tasks.jsonl", "".join(json.dumps({"task_index": index, "task": task}) + "\n" for index, task in enumerate(made.tasks)))
    put(f"{folder}/meta/episodes.jsonl", "".join(json.dumps({"episode_index": index, "tasks": [made.tasks[index % 2]], "length": length}) + "\n" for index, length in enumerate(made.lengths)))

# --- in

NAMES = {"observation.state": "observation", "next.reward": "reward", "next.done": "terminated", "next.truncated": "truncated"}

def compare(made, dataset, video=None):
    steps, trajectories = read(f"{dataset}/steps"), read(f"{dataset}/trajectories")
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
    check(trajectories["source_key"].to_pylist() == [str(index) for index in range(len(made.lengths))], "source keys")
    check(trajectories["split"].to_pylist() == ["train"] * (len(made.lengths) - 1) + ["test"], "splits")
    check(trajectories["task"].to_pylist() == [made.tasks[index % 2] for index in range(len(made.lengths))], "tasks")
    if video:
        found = steps["observation.images.side"].to_pylist()
        check([row["path"] for row in found] == [f"videos/observation.images.side/chunk-000/file-{video[episode]:03d}.mp4" for episode in made.episode], "videos")
        expected = 1.5 * made.episode + (made.frame / made.fps).astype(np.float32).astype(np.float64)
        check([row["timestamp"] for row in found] == expected.tolist(), "times in videos")

def imports(folder):
    made = Made([7, 1, 5000, 30, 2])
    cases = {
        "recorder": lambda path: v30(path, made),
        "converter": lambda path: v30(path, made, fixed=False),
        # What a merge leaves: files in another order than episodes, and episodes in another order than in the files.
        "merged": lambda path: v30(path, made, files=[[3, 2], [4], [1, 0]]),
        "minimal": lambda path: v30(path, made, files=[[0, 1], [2, 3, 4]], named=False),
        "video": lambda path: v30(path, made, files=[[0, 1], [2, 3, 4]], video=True),
        "v2.1": lambda path: v2(path, made),
        "v2.0": lambda path: v2(path, made, "v2.0", chunks=2),
    }
    for name, make in cases.items():
        source, dataset = f"{folder}/{name}", f"{folder}/{name}.out"
        make(source)
        trajmill("import", source, dataset, "--shard-rows", 4000)
        compare(made, dataset, {0: 0, 1: 0, 2: 1, 3: 1, 4: 1} if name == "video" else None)
    # Without vectors, what a camera saw is the observation.
    source = f"{folder}/camera"
    v30(source, made)
    trajmill("import", source, f"{folder}/camera.out", "--map", "observation=observation.images.top,reward=observation.heights", code=1)
    trajmill("import", source, f"{folder}/camera.out", "--map", "observation=observation.images.top")
    check(read(f"{folder}/camera.out/steps")["observation"].to_pylist() == made.images, "images for observations")

def refuses(folder):
    """Damage gives one error that says where and what, and leaves nothing."""
    made = Made([4, 6])
    def edit(path, change):
        with open(path) as file:
            info = json.load(file)
        change(info)
        put(path, info)
    def rewrite(path, change):
        put(path, change(pq.read_table(path)))
    def set_column(name, values):
        return lambda table: table.set_column(table.column_names.index(name), name, values)
    info, data, episodes = "meta/info.json", "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
    nan = lambda path: put(path, open(path).read().replace('"fps": 25', '"fps": Infinity'))
    cases = [
        (info, lambda path: edit(path, lambda info: info.update(codebase_version="v4.0")), ["v4.0", "v2.1 and v3.0 are read"]),
        (info, lambda path: edit(path, lambda info: info.update(total_frames=11)), ["10 frames", "11"]),
        (info, lambda path: edit(path, lambda info: info.update(total_episodes=3)), ["2 episodes", "3"]),
        (info, lambda path: edit(path, lambda info: info["features"]["action"].update(shape=[3])), ["episode 0", "`action`", "[3]"]),
        (info, lambda path: edit(path, lambda info: info["features"].update(depth={"dtype": "float32", "shape": [1]})), ["`depth`", "episode 0"]),
        (info, lambda path: edit(path, lambda info: info["features"].update(depth={"dtype": "complex64", "shape": [1]})), ["`complex64`"]),
        (info, lambda path: edit(path, lambda info: info.update(data_path="../../{file_index}.parquet")), ["path template"]),
        (info, nan, ["Infinity", "info.json"]),
        (info, lambda path: put(path, open(path).read()[:200]), ["not JSON", "info.json"]),
        (data, os.remove, ["file-000.parquet", "episode 0", "fetch it again"]),
        (data, lambda path: os.truncate(path, os.path.getsize(path) // 2), ["file-000.parquet", "not a readable Parquet file"]),
        (data, lambda path: rewrite(path, lambda table: table.slice(0, 9)), ["episode 1", "5 rows", "6"]),
        (data, lambda path: rewrite(path, set_column("index", pa.array(np.arange(10) + 1))), ["`index` is 1", "episode 0"]),
        (data, lambda path: rewrite(path, set_column("episode_index", pa.array([0, 0, 1, 1, 0, 0, 1, 1, 1, 1]))), ["not together"]),
        (data, lambda path: rewrite(path, set_column("task_index", pa.array([7] * 10))), ["task", "7"]),
        (data, lambda path: rewrite(path, lambda table: table.drop_columns(["action"])), ["`action`", "episode 0"]),
        (episodes, os.remove, ["0 episodes"]),
        (episodes, lambda path: rewrite(path, set_column("data/file_index", pa.array([4, 0]))), ["file-004.parquet", "episode 1"]),
        (episodes, lambda path: rewrite(path, set_column("length", pa.array([7, 3]))), ["episode 0", "4 rows"]),
        ("meta/tasks.parquet", os.remove, ["tasks.parquet"]),
    ]
    for number, (name, damage, wanted) in enumerate(cases):
        source = f"{folder}/bad{number}"
        v30(source, made)
        damage(f"{source}/{name}")
        done = trajmill("import", source, f"{folder}/none", "--from", "lerobot", code=1)
        check(sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1, done.stderr)
        for word in wanted:
            check(word in done.stderr, f"case {number}: `{word}` is not in: {done.stderr}")
        check(not os.path.exists(f"{folder}/none"), "nothing is left")
    for number, (name, damage, wanted) in enumerate([
        ("meta/episodes.jsonl", lambda path: put(path, open(path).read() + "{"), ["line 3", "not JSON"]),
        ("meta/tasks.jsonl", lambda path: put(path, '{"task_index": 0}\n'), ["`task`"]),
        ("data/chunk-000/episode_000001.parquet", lambda path: rewrite(path, set_column("episode_index", pa.array([5] * 6))), ["`episode_index` is 5", "episode 1"]),
        ("data/chunk-000/episode_000001.parquet", lambda path: os.truncate(path, 40), ["episode_000001.parquet"]),
    ]):
        source = f"{folder}/bad-v2-{number}"
        v2(source, made)
        damage(f"{source}/{name}")
        done = trajmill("import", source, f"{folder}/none", code=1)
        for word in wanted:
            check(word in done.stderr, f"v2 case {number}: `{word}` is not in: {done.stderr}")

# --- out

def d4rl(path, lengths, seed=3, dtype=np.float32):
    """A source with final observations, null-free, whose actions and infos a LeRobot dataset must hold."""
    import h5py
    random = np.random.default_rng(seed)
    n = sum(lengths)
    ends = np.cumsum(lengths)
    arrays = {
        "observations": random.normal(size=(n, 4)).astype(dtype), "next_observations": random.normal(size=(n, 4)).astype(dtype),
        "actions": random.normal(size=(n, 3)).astype(dtype), "rewards": random.normal(size=n).astype(dtype),
        "terminals": np.zeros(n, bool), "timeouts": np.zeros(n, bool), "infos/count": random.integers(-9, 9, size=n),
    }
    arrays["terminals"][ends[::2] - 1] = True
    arrays["timeouts"][ends[1::2] - 1] = True
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return arrays

def flatten(column):
    values = array(column)
    return values.astype(np.float64).reshape(len(values), -1)

def statistics(table, stats, rows, exact, what):
    """Statistics are those of numpy over the rows: minimum, maximum and quantiles to the last bit."""
    for name, entry in stats.items():
        values = flatten(table[name])[rows]
        of = lambda key: np.array(entry[key], np.float64).reshape(-1)
        check((of("min") == values.min(0)).all() and (of("max") == values.max(0)).all(), f"{what}: bounds of {name}")
        check(np.allclose(of("mean"), values.mean(0), rtol=1e-12, atol=1e-12), f"{what}: mean of {name}")
        check(np.allclose(of("std"), values.std(0), rtol=1e-9, atol=1e-9), f"{what}: std of {name}")
        check(list(entry["count"]) == [len(values)], f"{what}: count of {name}")
        for key, quantile in [("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)]:
            if exact:
                check((of(key) == np.quantile(values, quantile, axis=0)).all(), f"{what}: {key} of {name}: {of(key)} {np.quantile(values, quantile, axis=0)}")

def rules_v30(path, lengths, tasks):
    """FORMATS the loader relies on: places, indices, types, tasks, checksums."""
    with open(f"{path}/meta/info.json") as file:
        info = json.load(file)
    check(info["codebase_version"] == "v3.0" and info["total_episodes"] == len(lengths) and info["total_frames"] == sum(lengths), "totals")
    files = sorted(os.path.join(root, name) for root, _, names in os.walk(f"{path}/data") for name in names)
    for file in files + [f"{path}/meta/tasks.parquet"]:
        pq.ParquetFile(file, page_checksum_verification=True).read()
        check(b"huggingface" not in (pq.read_schema(file).metadata or {}), "no features in the footer")
    table = pa.concat_tables([pq.read_table(file) for file in files])
    check(set(table.column_names) == set(info["features"]), "declared columns")
    for name, feature in info["features"].items():
        kind, shape = table[name].type, feature["shape"]
        check(table[name].null_count == 0, f"nulls in {name}")
        if len(shape) == 1 and shape != [1]:
            check(pa.types.is_fixed_size_list(kind) and kind.list_size == shape[0], f"{name} is {kind}")
            kind = kind.value_type
        if len(shape) == 1 and feature["dtype"] != "image":
            check(str(kind) in {"float32": "float", "float64": "double", "float16": "halffloat"}.get(feature["dtype"], feature["dtype"]), f"{name}: {kind} and {feature['dtype']}")
    n = sum(lengths)
    same(array(table["index"]), np.arange(n), "index")
    same(array(table["episode_index"]), np.repeat(np.arange(len(lengths)), lengths), "episode_index")
    frame = np.concatenate([np.arange(length) for length in lengths])
    same(array(table["frame_index"]), frame, "frame_index")
    same(array(table["timestamp"]), (frame / info["fps"]).astype(np.float32), "timestamp")
    found = pd.read_parquet(f"{path}/meta/tasks.parquet")
    check(found.index.name == "task" and found.index.tolist() == tasks and found["task_index"].tolist() == list(range(len(tasks))), f"tasks: {found}")
    episodes = pq.read_table(f"{path}/meta/episodes/chunk-000").to_pylist()
    ends = np.cumsum(lengths)
    for at, row in enumerate(episodes):
        check((row["episode_index"], row["length"], row["dataset_from_index"], row["dataset_to_index"]) == (at, lengths[at], ends[at] - lengths[at], ends[at]), f"episode {at}")
        own = pq.read_table(f"{path}/data/chunk-{row['data/chunk_index']:03d}/file-{row['data/file_index']:03d}.parquet", columns=["episode_index"])
        check(at in own["episode_index"].to_pylist(), "the file of an episode")
        check(row["meta/episodes/chunk_index"] == 0 and row["meta/episodes/file_index"] == 0, "the file of its metadata")
    for at in {0, len(lengths) // 2, len(lengths) - 1}:
        row = episodes[at]
        names = {key.split("/")[1] for key in row if key.startswith("stats/")}
        own = {name: {key: row[f"stats/{name}/{key}"] for key in ["min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"]} for name in names}
        statistics(table, own, slice(ends[at] - lengths[at], ends[at]), True, f"episode {at}")
    with open(f"{path}/meta/stats.json") as file:
        stats = json.load(file)
    check({name for name, feature in info["features"].items() if feature["dtype"] not in ("string", "image")} == set(stats), f"statistics of {sorted(stats)}")
    statistics(table, stats, slice(None), True, "all")
    return table, info

def exports(folder):
    lengths = [5, 1, 4000, 17, 2500, 3]
    for dtype in (np.float32, np.float64):
        arrays = d4rl(f"{folder}/{np.dtype(dtype)}.hdf5", lengths, dtype=dtype)
        dataset, out = f"{folder}/{np.dtype(dtype)}", f"{folder}/{np.dtype(dtype)}.lerobot"
        trajmill("import", f"{dataset}.hdf5", dataset, "--shard-rows", 3000)
        done = trajmill("export", dataset, out, "--to", "lerobot", "--fps", 50, "--robot", "hopper", "--task", "hop")
        check("final observations" in done.stderr and "meta/trajmill" in done.stderr, f"what has no place is named: {done.stderr}")
        table, info = rules_v30(out, lengths, ["hop"])
        check(info["fps"] == 50 and info["robot_type"] == "hopper", "what the user said")
        for name, source in [("observation.state", "observations"), ("action", "actions"), ("next.reward", "rewards"), ("next.done", "terminals"), ("next.truncated", "timeouts"), ("infos.count", "infos/count")]:
            same(array(table[name]).astype(arrays[source].dtype), arrays[source], name)
        trajmill("validate", out)
        # Home again: the same bytes, final observations included, and the same identity.
        back = f"{folder}/{np.dtype(dtype)}.back"
        trajmill("import", out, back)
        first, second = read(f"{dataset}/steps"), read(f"{back}/steps")
        for name in ["observation", "action", "reward", "terminated", "truncated", "is_final", "trajectory_id", "step"]:
            check(first[name].combine_chunks().to_pylist() == second[name].combine_chunks().to_pylist(), f"{name} there and back")
        check(read(f"{dataset}/trajectories")["uid"].to_pylist() == read(f"{back}/trajectories")["uid"].to_pylist(), "uid there and back")
        # v2.1: a file an episode.
        old = f"{folder}/{np.dtype(dtype)}.v21"
        trajmill("export", dataset, old, "--to", "lerobot-v2.1", "--fps", 50, "--task", "hop")
        rules_v21(old, lengths, arrays)
        trajmill("import", old, f"{old}.back")
        check(first["observation"].combine_chunks().to_pylist() == read(f"{old}.back/steps")["observation"].combine_chunks().to_pylist(), "v2.1 there and back")
    many = [int(length) for length in np.random.default_rng(5).integers(1, 4, size=2100)]
    d4rl(f"{folder}/many.hdf5", many)
    trajmill("import", f"{folder}/many.hdf5", f"{folder}/many")
    trajmill("export", f"{folder}/many", f"{folder}/many.lerobot", "--to", "lerobot", "--fps", 10, "--task", "hop")
    rules_v30(f"{folder}/many.lerobot", many, ["hop"])
    trajmill("export", f"{folder}/many", f"{folder}/many.v21", "--to", "lerobot-v2.1", "--fps", 10)
    check(sorted(os.listdir(f"{folder}/many.v21/data")) == ["chunk-000", "chunk-001", "chunk-002"], "chunks of 1000 episodes")
    # LeRobot to LeRobot: every feature, images and matrices too.
    made = Made([7, 1, 300])
    v30(f"{folder}/full", made)
    trajmill("import", f"{folder}/full", f"{folder}/full.in")
    trajmill("export", f"{folder}/full.in", f"{folder}/full.out", "--to", "lerobot")
    table, info = rules_v30_images(f"{folder}/full.out", made)
    for name, values in made.columns.items():
        found = array(table[name])
        check(found.tolist() == values.tolist(), f"{name} there and back")
    check(table["observation.images.top"].combine_chunks().field("bytes").to_pylist() == made.images, "images there and back")
    check(info["fps"] == 25 and info["robot_type"] == "arm", "what the source said of itself")

def merges(folder):
    """Tasks are merged by their texts, statistics and indices made anew; LeRobot's own merge kept old maxima and mixed up files."""
    one, two = Made([7, 1, 300], 1), Made([5, 20], 2)
    two.tasks = ["open the door", "wipe the table"]
    v30(f"{folder}/one", one)
    v30(f"{folder}/two", two)
    def write(more=""):
        with open(f"{folder}/merge.yaml", "w") as file:
            file.write(f"trajmill: 1\nsource: [{{path: one, format: lerobot}}, {{path: two, format: lerobot}}]\nstages:\n  - filter: length > 1\n"
                       f"  - materialise: {{path: both, format: lerobot{more}}}\n")
    write()
    trajmill("run", f"{folder}/merge.yaml")
    table, info = rules_v30(f"{folder}/both", [7, 300, 5, 20], ["pick the cup", "open the door", "wipe the table"])
    check((info["fps"], info["robot_type"], info["total_tasks"]) == (25, "arm", 3), f"what both sources say: {info}")
    episodes = [[0] * 7, [0] * 300, [1] * 5, [2] * 20]
    check(array(table["task_index"]).tolist() == sum(episodes, []), "the tasks of a merge")
    rows = lambda made, keep: np.isin(made.episode, keep)
    for name in ["observation.state", "action", "observation.heights"]:
        same(array(table[name]), np.concatenate([one.columns[name][rows(one, [0, 2])], two.columns[name]]).astype(array(table[name]).dtype), f"{name} of a merge")
    check(table["observation.images.top"].combine_chunks().field("bytes").to_pylist() == [image for image, kept in zip(one.images, rows(one, [0, 2])) if kept] + two.images, "images of a merge")
    # A rate that is not the same everywhere is not made up.
    shutil.rmtree(f"{folder}/both")
    put(f"{folder}/two/meta/info.json", open(f"{folder}/two/meta/info.json").read().replace('"fps": 25', '"fps": 50'))
    done = trajmill("run", f"{folder}/merge.yaml", code=1)
    check("25, 50 steps per second" in done.stderr, f"two rates: {done.stderr}")
    write(", with: {fps: 10}")
    trajmill("run", f"{folder}/merge.yaml")

def rules_v30_images(path, made):
    with open(f"{path}/meta/info.json") as file:
        info = json.load(file)
    for name, feature in made.features().items():
        check(info["features"][name] == feature, f"{name}: {info['features'][name]}")
    return pq.read_table(f"{path}/data/chunk-000/file-000.parquet"), info

def rules_v21(path, lengths, arrays):
    with open(f"{path}/meta/info.json") as file:
        info = json.load(file)
    check(info["codebase_version"] == "v2.1" and info["total_chunks"] == 1 and info["total_videos"] == 0, "totals of v2.1")
    lines = lambda name: [json.loads(line) for line in open(f"{path}/meta/{name}.jsonl")]
    check(lines("tasks") == [{"task_index": 0, "task": "hop"}], "tasks of v2.1")
    check([(row["episode_index"], row["length"], row["tasks"]) for row in lines("episodes")] == [(at, length, ["hop"]) for at, length in enumerate(lengths)], "episodes of v2.1")
    tables = [pq.read_table(f"{path}/data/chunk-000/episode_{at:06d}.parquet") for at in range(len(lengths))]
    check([len(table) for table in tables] == lengths, "a file an episode")
    table = pa.concat_tables(tables)
    same(array(table["observation.state"]), arrays["observations"], "observations of v2.1")
    same(array(table["index"]), np.arange(sum(lengths)), "index of v2.1")
    first = 0
    for row, length in zip(lines("episodes_stats"), lengths):
        statistics(table, row["stats"], slice(first, first + length), False, "v2.1")
        first += length

def validates(folder):
    made = Made([4, 6])
    def rewrite(path, name, values):
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.column_names.index(name), name, values), path)
    data = "data/chunk-000/file-000.parquet"
    nan = made.columns["action"].copy()
    nan[5, 1] = np.nan
    lists = lambda values: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    cases = [
        ("index", lambda root: rewrite(f"{root}/{data}", "index", pa.array(np.arange(10) + 1000))),
        ("timestamp", lambda root: rewrite(f"{root}/{data}", "timestamp", pa.array(np.arange(10, dtype=np.float32)))),
        ("frame_index", lambda root: rewrite(f"{root}/{data}", "frame_index", pa.array(np.arange(10)))),
        ("nan-action", lambda root: rewrite(f"{root}/{data}", "action", lists(nan))),
        ("null-action", lambda root: rewrite(f"{root}/{data}", "action", pa.array([None] + made.columns["action"][1:].tolist(), pa.list_(pa.float32())))),
        ("undeclared-column", lambda root: pq.write_table(pq.read_table(f"{root}/{data}").append_column("more", pa.array(range(10))), f"{root}/{data}")),
        ("missing-column", lambda root: pq.write_table(pq.read_table(f"{root}/{data}").drop_columns(["action"]), f"{root}/{data}")),
        ("missing-file", lambda root: os.remove(f"{root}/{data}")),
        ("stray-file", lambda root: shutil.copy(f"{root}/{data}", f"{root}/data/chunk-000/other.parquet")),
        ("unreadable", lambda root: os.truncate(f"{root}/{data}", 3000)),
        ("row-range", lambda root: rewrite(f"{root}/meta/episodes/chunk-000/file-000.parquet", "dataset_from_index", pa.array([0, 0]))),
        ("total-frames", lambda root: put(f"{root}/meta/info.json", open(f"{root}/meta/info.json").read().replace('"total_frames": 10', '"total_frames": 12'))),
        ("total-episodes", lambda root: put(f"{root}/meta/info.json", open(f"{root}/meta/info.json").read().replace('"total_episodes": 2', '"total_episodes": 3'))),
        ("info", lambda root: put(f"{root}/meta/info.json", open(f"{root}/meta/info.json").read().replace("v3.0", "v9.0"))),
        ("task-text", lambda root: pq.write_table(pq.read_table(f"{root}/meta/tasks.parquet").replace_schema_metadata({}), f"{root}/meta/tasks.parquet")),
        ("task-order", lambda root: pd.read_parquet(f"{root}/meta/tasks.parquet").iloc[::-1].to_parquet(f"{root}/meta/tasks.parquet")),
        ("task_index", lambda root: rewrite(f"{root}/{data}", "task_index", pa.array([2] * 10))),
        ("episode_index", lambda root: rewrite(f"{root}/{data}", "episode_index", pa.array([0] * 10))),
        ("missing-video", None),
    ]
    v30(f"{folder}/good", made)
    trajmill("validate", f"{folder}/good")
    for rule, damage in cases:
        root = f"{folder}/fault-{rule}"
        v30(root, made, video=damage is None)
        if damage:
            damage(root)
        done = trajmill("validate", root, "--json", code=4)
        rules = {fault["rule"] for fault in json.loads(done.stdout)["faults"]}
        check(rule in rules, f"{rule} is not in {rules}")
    copied = Made([4, 6])
    copied.columns["action"] = copied.columns["observation.state"].copy()
    v30(f"{folder}/copied", copied)
    done = trajmill("validate", f"{folder}/copied", "--json")
    check("state-copied" in done.stdout, "state copied into action")
    # A flipped byte in what this tool wrote: its pages have checksums.
    d4rl(f"{folder}/flip.hdf5", [50, 60])
    trajmill("import", f"{folder}/flip.hdf5", f"{folder}/flip")
    trajmill("export", f"{folder}/flip", f"{folder}/flip.out", "--to", "lerobot", "--fps", 10)
    path = f"{folder}/flip.out/{data}"
    content = bytearray(open(path, "rb").read())
    content[200] ^= 4
    open(path, "wb").write(content)
    done = trajmill("validate", f"{folder}/flip.out", "--json", code=4)
    check("unreadable" in done.stdout, "a flipped byte is found")

def reference(folder):
    """LeRobot itself, where it is installed."""
    try:
        import torch
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
    except ImportError:
        check("--all" not in sys.argv, "lerobot is not installed")
        return print("lerobot is not installed: its loader was not run")
    arrays = d4rl(f"{folder}/ref.hdf5", [30, 20, 1])
    trajmill("import", f"{folder}/ref.hdf5", f"{folder}/ref")
    trajmill("export", f"{folder}/ref", f"{folder}/ref.lerobot", "--to", "lerobot", "--fps", 10, "--task", "hop")
    times = {"observation.state": [-0.1, 0.0, 0.1], "action": [0.0, 0.1, 0.2]}
    dataset = LeRobotDataset("some/name", root=f"{folder}/ref.lerobot", delta_timestamps=times)
    check(len(dataset) == 51 and dataset.num_episodes == 3, "the loader's counts")
    loader = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=False)
    rows = {name: torch.cat([batch[name] for batch in loader]) for name in ["observation.state", "action", "action_is_pad", "next.reward", "next.done", "infos.count", "index"]}
    episode = np.repeat([0, 1, 2], [30, 20, 1])
    starts, ends = np.array([0, 30, 50])[episode], np.array([30, 50, 51])[episode]
    for offset, at in [(-1, 0), (0, 1), (1, 2)]:
        index = np.clip(np.arange(51) + offset, starts, ends - 1)
        same(rows["observation.state"][:, at].numpy(), arrays["observations"][index], "windows of observations")
    for offset in range(3):
        index = np.clip(np.arange(51) + offset, starts, ends - 1)
        same(rows["action"][:, offset].numpy(), arrays["actions"][index], "windows of actions")
        same(rows["action_is_pad"][:, offset].numpy(), np.arange(51) + offset >= ends, "padding")
    same(rows["next.reward"].numpy().ravel(), arrays["rewards"], "rewards")
    same(rows["infos.count"].numpy().ravel(), arrays["infos/count"], "infos")
    check(dataset[0]["task"] == "hop", "the text of a task")
    check(np.allclose(np.asarray(dataset.meta.stats["action"]["q99"]).ravel(), np.quantile(arrays["actions"].astype(np.float64), 0.99, axis=0), rtol=1e-12), "quantiles in the loader")
    # Its recorder writes, we read.
    features = {"observation.state": {"dtype": "float32", "shape": (4,), "names": None}, "action": {"dtype": "float32", "shape": (3,), "names": None},
                "next.reward": {"dtype": "float32", "shape": (1,), "names": None}, "next.done": {"dtype": "bool", "shape": (1,), "names": None}}
    recorder = LeRobotDataset.create("some/name", fps=10, root=f"{folder}/recorded", features=features, use_videos=False)
    row = 0
    for number, length in enumerate([30, 20, 1]):
        for _ in range(length):
            recorder.add_frame({"observation.state": arrays["observations"][row], "action": arrays["actions"][row], "next.reward": arrays["rewards"][row:row + 1],
                                "next.done": arrays["terminals"][row:row + 1], "task": f"task {number}"})
            row += 1
        recorder.save_episode()
    if hasattr(recorder, "finalize"):
        recorder.finalize()
    # LeRobot puts quantiles of all together from those of episodes, which cannot be done; ours are those of numpy.
    theirs = float(np.asarray(recorder.meta.stats["index"]["q01"]).ravel()[0])
    ours = float(np.asarray(dataset.meta.stats["index"]["q01"]).ravel()[0])
    check(ours == np.quantile(np.arange(51.0), 0.01) and abs(theirs - ours) > 1, f"quantiles: {theirs}, {ours}")
    trajmill("import", f"{folder}/recorded", f"{folder}/recorded.in")
    trajmill("validate", f"{folder}/recorded")
    steps = read(f"{folder}/recorded.in/steps")
    same(array(steps["observation"]).astype(np.float32), arrays["observations"], "the recorder's observations")
    same(array(steps["action"]).astype(np.float32), arrays["actions"], "the recorder's actions")
    same(array(steps["reward"]), arrays["rewards"], "the recorder's rewards")
    same(array(steps["terminated"]), arrays["terminals"], "the recorder's ends")
    check(steps["task"].to_pylist() == [f"task {number}" for number in episode], "the recorder's tasks")

def main():
    for part in [imports, refuses, exports, merges, validates, reference]:
        with tempfile.TemporaryDirectory() as folder:
            part(folder)
            print(f"{part.__name__}: {CHECKS} checks so far")

if __name__ == "__main__":
    main()
