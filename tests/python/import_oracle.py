"""Imports foreign datasets that h5py, numpy and pyarrow wrote, and compares every value that comes out with theirs.

    python tests/python/import_oracle.py TRAJMILL
"""

import os
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TRAJMILL = os.path.abspath(sys.argv[1])
CHECKS = 0

def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what

def trajmill(*arguments):
    return subprocess.run([TRAJMILL, "import", *map(str, arguments)], capture_output=True, text=True, timeout=300)

def read(path):
    return pa.concat_tables([pq.read_table(os.path.join(path, name)) for name in sorted(os.listdir(path))])

def vectors(column):
    """Rows of a vector column as arrays; None where they are null."""
    return [None if row is None else np.array(row) for row in column.to_pylist()]

def element(column):
    return column.type.value_type if pa.types.is_nested(column.type) else column.type

class Made:
    """A random dataset: what the import must give back."""

    def __init__(self, seed, lengths, obs=3, act=2, dtype=np.float32, final=False):
        random = np.random.default_rng(seed)
        self.lengths, self.final, self.extras, n = lengths, final, {}, sum(lengths)
        self.obs = random.normal(size=(n, obs)).astype(dtype)
        self.next = random.normal(size=(n, obs)).astype(dtype)
        self.act = random.normal(size=(n, act)).astype(dtype)
        self.rew = random.normal(size=n).astype(dtype)
        self.term, self.trunc = np.zeros(n, bool), np.zeros(n, bool)
        self.ends = np.cumsum(lengths)
        for index, end in enumerate(self.ends[:-1]):
            (self.term if index % 2 == 0 else self.trunc)[end - 1] = True
        self.start = np.zeros(n, bool)
        self.start[[0, *self.ends[:-1]]] = True

def compare(made, dst, keys=None, flags=True):
    """Every value of steps, and what trajectories says of them."""
    steps, trajectories = read(os.path.join(dst, "steps")), read(os.path.join(dst, "trajectories"))
    rows = [length + made.final for length in made.lengths]
    ids = np.repeat(np.arange(len(rows)), rows)
    check(np.array_equal(steps["trajectory_id"].to_numpy(), ids), "trajectory ids")
    check(np.array_equal(steps["step"].to_numpy(), np.concatenate([np.arange(count) for count in rows])), "step numbers")
    last = np.zeros(len(ids), bool)
    if made.final:
        last[np.cumsum(rows) - 1] = True
    check(np.array_equal(steps["is_final"].to_numpy(zero_copy_only=False), last), "is_final")
    obs = np.stack(vectors(steps["observation"]))
    check(element(steps["observation"]) == pa.from_numpy_dtype(made.obs.dtype), "the type of observations")
    check(np.array_equal(obs[~last], made.obs.reshape(len(made.obs), -1)), "observations")
    if made.final:
        check(np.array_equal(obs[last], made.next[made.ends - 1]), "final observations")
    for name, values in [("action", made.act), ("reward", made.rew), *made.extras.items()]:
        check((values is not None) == (name in steps.column_names), f"column {name}")
        if values is None:
            continue
        column = steps[name]
        check(element(column) == pa.from_numpy_dtype(values.dtype), f"the type of {name}: {column.type}")
        found = vectors(column)
        check([value is None for value in found] == last.tolist(), f"nulls of {name}")
        found = np.array([value for value in found if value is not None])
        check(np.array_equal(found, values.reshape(found.shape)), f"values of {name}")
    for name, values in [("terminated", made.term), ("truncated", made.trunc)]:
        expected = values if flags else np.zeros(len(made.obs), bool)
        found = steps[name].to_numpy(zero_copy_only=False)
        check(np.array_equal(found[~last], expected) and not found[last].any(), name)

    keys = [str(index) for index in range(len(rows))] if keys is None else keys
    check(trajectories["source_key"].to_pylist() == keys, "source keys")
    check(len(set(trajectories["uid"].to_pylist())) == len(rows), "uids")
    check(trajectories["length"].to_pylist() == list(made.lengths), "lengths")
    pieces = [slice(end - length, end) for length, end in zip(made.lengths, made.ends)]
    if made.rew is not None:
        expected = [made.rew[piece].astype(np.float64).sum() for piece in pieces]
        check(np.allclose(trajectories["return"].to_numpy(), expected, rtol=1e-9, atol=1e-9), "returns")
    cuts = np.cumsum([0, *rows])
    sums = [obs[start:end].astype(np.float64).sum(0) for start, end in zip(cuts, cuts[1:])]
    check(np.allclose(np.stack(vectors(trajectories["observation_sum"])), sums, rtol=1e-9, atol=1e-9), "sums of observations")
    if made.act is not None and made.act.ndim == 2:
        sums = [made.act[piece].astype(np.float64).sum(0) for piece in pieces]
        check(np.allclose(np.stack(vectors(trajectories["action_sum"])), sums, rtol=1e-9, atol=1e-9), "sums of actions")

def imported(folder, source, *arguments):
    dst = os.path.join(folder, "out", "set")
    shutil.rmtree(os.path.dirname(dst), ignore_errors=True)
    os.makedirs(os.path.dirname(dst))
    done = trajmill(source, dst, *arguments)
    assert done.returncode == 0, f"{source}: {done.stderr}"
    check(os.listdir(os.path.dirname(dst)) == ["set"], "nothing beside the dataset")
    return dst

def refused(folder, source, wanted, *arguments):
    """A bad source: exit code 1, one error that says what is wrong, and nothing written."""
    out = os.path.join(folder, "refused")
    os.makedirs(out, exist_ok=True)
    done = trajmill(source, os.path.join(out, "set"), *arguments)
    check(done.returncode == 1, f"{source}: exit code {done.returncode}: {done.stderr}")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    check(len(errors) == 1 and "panicked" not in done.stderr, f"{source}: one error: {done.stderr}")
    check(wanted in done.stderr, f"{source}: `{wanted}` is not in: {done.stderr}")
    check(os.listdir(out) == [], f"{source}: left {os.listdir(out)}")

def hdf5(path, made, timeouts=True, column=False, next_obs=False, **how):
    with h5py.File(path, "w") as file:
        arrays = {"observations": made.obs, "actions": made.act, "rewards": made.rew, "terminals": made.term, **made.extras}
        arrays |= {"timeouts": made.trunc} if timeouts else {}
        arrays |= {"next_observations": made.next} if next_obs else {}
        for name, values in arrays.items():
            if values is not None:
                single = column and name in ("rewards", "terminals")
                file.create_dataset(name, data=values[:, None] if single else values, **how)
        file["metadata/algorithm"] = "SAC"
        file["metadata/iteration"] = 7
        file.attrs["env"] = "Hopper-v4"

def d4rl(folder):
    path = os.path.join(folder, "set.hdf5")
    cases = [
        (np.float32, {}, {}),
        (np.float32, dict(next_obs=True, compression="gzip", shuffle=True), {}),
        (np.float64, dict(column=True, next_obs=True, chunks=True), {}),
        (np.float64, dict(compression="gzip", chunks=True), {"infos/qpos": (4, np.float64), "infos/count": (None, np.int64), "infos/seen": (None, bool)}),
    ]
    for seed, (dtype, how, extras) in enumerate(cases):
        made = Made(seed, [5, 1, 4000, 17, 3], dtype=dtype, final=how.get("next_obs", False))
        for name, (width, kind) in extras.items():
            values = np.random.default_rng(9).normal(size=len(made.obs) * (width or 1)) * 10
            made.extras[name] = values.astype(kind) if width is None else values.astype(kind).reshape(-1, width)
        hdf5(path, made, **how)
        for rows in (100_000, 20):
            compare(made, imported(folder, path, "--shard-rows", rows))
    made = Made(7, [4, 4, 4, 2])
    made.term[:], made.trunc[:] = False, [index % 4 == 3 for index in range(14)]
    hdf5(path, made, timeouts=False)
    compare(made, imported(folder, path, "--max-steps", 4))
    pipeline = os.path.join(folder, "pipeline.yaml")
    with open(pipeline, "w") as file:
        file.write("trajmill: 1\nsource: {path: set.hdf5, max_steps: 4}\nstages:\n  - materialise: {path: piped}\n")
    check(subprocess.run([TRAJMILL, "run", pipeline], capture_output=True).returncode == 0, "max_steps in a pipeline")
    compare(made, os.path.join(folder, "piped"))
    made = Made(8, [3, 9])
    made.act = made.rew = None
    hdf5(path, made)
    compare(made, imported(folder, path))

    hdf5(path, Made(9, [5, 6]), compression="gzip")
    whole = open(path, "rb").read()
    for share in (0.3, 0.6, 0.95):
        open(os.path.join(folder, "cut.hdf5"), "wb").write(whole[: int(len(whole) * share)])
        refused(folder, os.path.join(folder, "cut.hdf5"), "cut.hdf5")
    bad = os.path.join(folder, "bad.hdf5")
    nan, long = np.array([0, np.nan, 1]), np.zeros(4, bool)
    for name, values, wanted in [("terminals", nan, "`terminals`"), ("terminals", long, "has 4 rows"), ("rewards", nan, "no trajectory boundaries")]:
        with h5py.File(bad, "w") as file:
            file["observations"], file[name] = np.zeros((3, 2)), values
        refused(folder, bad, wanted)

def npz(folder):
    path = os.path.join(folder, "set.npz")
    for seed, save in enumerate([np.savez, np.savez_compressed]):
        made = Made(20 + seed, [300, 1, 2, 5000], dtype=np.float64)
        made.act = np.random.default_rng(seed).integers(0, 5, len(made.obs))
        save(path, obs=made.obs, actions=made.act, rewards=made.rew, episode_starts=made.start, episode_returns=np.zeros(4))
        compare(made, imported(folder, path), flags=False)
        made = Made(30 + seed, [7, 3, 1], final=True)
        made.extras["qpos"] = made.obs.astype(np.float64)
        save(path, observations=made.obs.astype(">f4"), actions=made.act, rewards=made.rew, terminals=made.term, timeouts=made.trunc, next_observations=made.next.astype(">f4"), qpos=made.extras["qpos"])
        compare(made, imported(folder, path))
        made = Made(40 + seed, [6, 2, 9], final=True)
        pairs = zip(made.lengths, made.ends)
        obs = np.concatenate([np.vstack([made.obs[end - length : end], made.next[end - 1 : end]]) for length, end in pairs])
        made.trunc[:], made.term[:] = False, np.arange(17) == 7
        save(path, obs=obs, acts=made.act, rews=made.rew, indices=made.ends[:-1], terminal=np.array([False, True, False]))
        compare(made, imported(folder, path))
    made = Made(50, [4, 3])
    made.obs = np.random.default_rng(0).integers(0, 255, (7, 4, 5, 3)).astype(np.uint8)
    np.savez(path, obs=made.obs, terminals=made.term, timeouts=made.trunc, actions=made.act, rewards=made.rew)
    steps = read(os.path.join(imported(folder, path), "steps"))
    check(np.array_equal(np.stack(vectors(steps["observation"])), made.obs.reshape(7, -1)), "images")
    check(steps.schema.field("observation").metadata[b"shape"] == b"4,5,3", "the shape of images")

    good = dict(obs=np.zeros((4, 2)), terminals=np.array([0, 1, 0, 1]))
    for arrays, wanted in [
        (good | dict(infos=np.array([{}, {}, {}, {}])), "pickled Python objects"),
        (good | dict(terminals=np.array([0, np.nan, 0, 1])), "`terminals`"),
        (good | dict(rewards=np.zeros(5)), "`rewards` has 5 rows"),
        (dict(obs=np.zeros((4, 2))), "no trajectory boundaries"),
        (dict(terminals=np.zeros(4)), "`observations`"),
    ]:
        np.savez(path, **arrays)
        refused(folder, path, wanted)
    np.savez_compressed(path, **good)
    open(path, "r+b").truncate(os.path.getsize(path) - 30)
    refused(folder, path, "set.npz")

def parquet(folder):
    path, made = os.path.join(folder, "set.parquet"), Made(60, [40, 1, 3000, 7], dtype=np.float64)
    ids = np.repeat(["d", "a", "c", "b"], made.lengths)
    lists = {"state": list(made.obs), "move": list(made.act), "gain": made.rew, "over": made.term, "cut": made.trunc}
    roles = "observation=state,action=move,reward=gain,terminated=over,truncated=cut"
    pq.write_table(pa.table(lists), path, row_group_size=100)
    compare(made, imported(folder, path, "--map", roles))
    pq.write_table(pa.table({**lists, "who": ids}), path, row_group_size=1000)
    compare(made, imported(folder, path, "--map", roles + ",trajectory_id=who"), keys=["d", "a", "c", "b"])

    wide = Made(61, [40, 30, 50], obs=12)
    wide.extras = {"note": np.arange(120)}
    table = pa.table({**{f"obs_{axis}": wide.obs[:, axis] for axis in reversed(range(12))}, "episode_id": np.repeat([4, 2, 9], wide.lengths), "actions": list(wide.act), "rewards": wide.rew, "terminals": wide.term, "timeouts": wide.trunc.astype(np.float32), "note": wide.extras["note"]})
    parts = os.path.join(folder, "parts")
    os.makedirs(parts)
    for index in range(12):
        pq.write_table(table.slice(index * 10, 10), os.path.join(parts, f"part-{index}.parquet"))
    compare(wide, imported(folder, parts, "--map", "observation=obs_*"), keys=["4", "2", "9"])

    for columns, wanted in [
        ({"obs": [[0.0]] * 4, "episode": [1, 2, 1, 1]}, "appears again"),
        ({"obs": [[0.0], [0.0, 1.0], [1.0], [2.0]], "episode": [1] * 4}, "`obs` holds 2 values"),
        ({"obs": [[0.0]] * 4, "terminals": [0.0, float("nan"), 0.0, 1.0]}, "`terminals`"),
        ({"obs": [[0.0]] * 4}, "no trajectory boundaries"),
        ({"obs": [[0.0]] * 4, "episode": [1] * 4, "step": [0, 1, 1, 2]}, "must increase"),
        ({"obs": ["a"] * 4, "episode": [1] * 4}, "`obs`"),
    ]:
        pq.write_table(pa.table(columns), path)
        refused(folder, path, wanted)
    pq.write_table(pa.table(lists), path)
    open(path, "r+b").truncate(os.path.getsize(path) // 2)
    refused(folder, path, "set.parquet")

def zero_width(folder):
    """A column whose rows hold nothing is left out, and stands in no other's way."""
    made, path = Made(70, [4, 1, 7]), lambda name: os.path.join(folder, name)
    n = len(made.rew)
    hdf5(path("set.hdf5"), made)
    with h5py.File(path("set.hdf5"), "a") as file:
        file.create_dataset("infos/nothing", shape=(n, 0), dtype=np.float32)
    flat = {"observations": made.obs, "actions": made.act, "rewards": made.rew, "terminals": made.term, "timeouts": made.trunc}
    np.savez(path("set.npz"), **flat, nothing=np.zeros((n, 0), np.float32))
    nothing = pa.FixedSizeListArray.from_buffers(pa.list_(pa.float32(), 0), n, [None], children=[pa.array([], pa.float32())])
    table = pa.table({name: list(values) if values.ndim > 1 else values for name, values in flat.items()} | {"nothing": nothing})
    pq.write_table(table, path("set.parquet"))
    with pa.OSFile(path("set.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("set.hdf5", "set.npz", "set.parquet", "set.arrow"):
        dst = imported(folder, path(name))
        compare(made, dst)
        check(not any("nothing" in column for column in read(os.path.join(dst, "steps")).column_names), name)

def feather(folder):
    """Arrow files as pandas and others write them: buffers compressed by LZ4 or zstd, the last batch a short one."""
    made = Made(80, [400, 1, 900, 37])
    table = pa.table({"observations": list(made.obs), "actions": list(made.act), "rewards": made.rew, "terminals": made.term, "timeouts": made.trunc})
    for codec in (None, "lz4", "zstd"):
        path = os.path.join(folder, f"{codec}.feather")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table, max_chunksize=500)
        compare(made, imported(folder, path))

for part in (d4rl, npz, parquet, zero_width, feather):
    with tempfile.TemporaryDirectory() as place:
        part(place)
print(f"{CHECKS} checks of import passed")
