"""Helpers for all tests here: counted checks, running trajmill, and reading what it writes."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "tests" / "models"
SEEDS = REPOSITORY / "tests" / "seeds"
# conftest.py sets the binary, and prints the number of checks in the end.
BINARY = None
checks = 0


def check(condition, what):
    """Fails with the message `what` unless the condition holds."""
    __tracebackhide__ = True
    global checks
    checks += 1
    assert condition, what


def close(found, wanted, what, atol=1e-6, rtol=1e-6):
    """Compares numbers; NaN stands for null on both sides."""
    __tracebackhide__ = True
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    check(found.shape == wanted.shape, f"{what}: shape {found.shape}, not {wanted.shape}")
    apart = ~(
        np.isclose(found, wanted, rtol=rtol, atol=atol) | (np.isnan(found) & np.isnan(wanted))
    )
    places = np.argwhere(apart)[:3].tolist()
    check(
        not apart.any(),
        f"{what}: {apart.sum()} of {apart.size} values differ, "
        f"first {found[apart][:3]} not {wanted[apart][:3]} at {places}",
    )


def equal(found, wanted, what):
    """Compares values of any type, one by one."""
    __tracebackhide__ = True
    found, wanted = np.asarray(found), np.asarray(wanted)
    check(
        found.shape == wanted.shape and (found == wanted).all(), f"{what}: {found} is not {wanted}"
    )


def says(text, wanted, what):
    """Checks that each of the `wanted` words is in the text."""
    __tracebackhide__ = True
    for word in wanted:
        check(word in text, f"{what}: `{word}` is not in: {text}")


def seeded(*names):
    """Random numbers of a test's own, the same whichever tests run before it."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, names)).encode()))


# ---- running


def trajmill(*arguments, code=0, cwd=None, **environment):
    """Runs trajmill, and checks its exit code unless `code` is None."""
    done = subprocess.run(
        [BINARY, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    check(
        code in (None, done.returncode),
        f"{arguments}: exit code {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}",
    )
    check("panicked" not in done.stderr, f"{arguments}: {done.stderr}")
    return done


def import_trajectories(folder, name, trajectories, rewards, dtype, discrete=None):
    """Imports trajectories from a Parquet file, and returns the path of the dataset.

    A trajectory is its observations, its actions and a mask of recorded actions. If it has one
    observation more than actions, the last one is final. `rewards` maps a step to its reward.
    """
    rows = []
    for index, (observation, action, recorded) in enumerate(trajectories):
        n = len(action)
        for t in range(len(observation)):
            rows.append(
                {
                    "trajectory_id": index,
                    "step": t,
                    "observation": observation[t],
                    "action": action[t] if t < n and recorded[t] else None,
                    "reward": rewards(t) if t < n else None,
                    "terminated": t == n - 1,
                    "truncated": False,
                    "is_final": t == n,
                }
            )
    value = pa.from_numpy_dtype(dtype)
    types = {
        "trajectory_id": pa.int64(),
        "step": pa.int32(),
        "observation": pa.list_(value),
        "action": pa.from_numpy_dtype(discrete) if discrete else pa.list_(value),
        "reward": pa.float32(),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
        "is_final": pa.bool_(),
    }
    steps = pa.table(
        {key: pa.array([row[key] for row in rows], kind) for key, kind in types.items()}
    )
    pq.write_table(steps, folder / f"{name}.parquet")
    source = folder / f"{name}.parquet"
    trajmill("import", source, folder / name, "--from", "parquet", "--non-finite", "keep")
    return folder / name


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def peak_memory(*arguments):
    """Runs trajmill and returns the most memory that it takes, in MiB.

    A process inherits the peak of the process that starts it. pytest would hide what is measured,
    so a small process stands between.
    """
    command = [sys.executable, "-c", MEASURE, BINARY, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    check(done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stderr}")
    return int(done.stdout) / 1024


@functools.cache
def decodes_videos():
    """Whether the binary is built with the Cargo feature `video`."""
    return "libavcodec" in trajmill("doctor").stdout


def errors(done):
    """The lines that begin an error."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def pipeline(path, source, stages):
    """Writes a pipeline as JSON, which is YAML."""
    source = source if isinstance(source, (dict, list)) else str(source)
    path.write_text(json.dumps({"trajmill": 1, "source": source, "stages": stages}))
    return path


def run(folder, stages, source, name="made", code=0, threads=2, shard_rows=None):
    """Runs a pipeline in `folder`; returns the dataset, or the process where it has to fail."""
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    options = {"path": str(out), **({"shard_rows": shard_rows} if shard_rows else {})}
    path = pipeline(folder / f"{name}.yaml", source, [*stages, {"materialise": options}])
    done = trajmill("run", path, "--threads", threads, code=code, cwd=folder)
    return Dataset(out) if code == 0 else done


def recipe(folder, name):
    """Runs a recipe as it is committed, in a copy of `pipelines/`, and returns its dataset."""
    readme = (REPOSITORY / "README.md").read_text()
    path = f"pipelines/{name}.yaml"
    check(f"`trajmill run {path}`" in readme, f"{path} is not in README.md")
    shutil.copytree(REPOSITORY / "pipelines", folder / "pipelines")
    (folder / "data").symlink_to(REPOSITORY / "data")
    trajmill("check", path, cwd=folder)
    trajmill("run", path, cwd=folder)
    made = Dataset(folder / re.search(r"path: \.\./(out/[\w/-]+)", (folder / path).read_text())[1])
    check(len(made) > 0, f"{name}: something is left")
    check(
        "nothing to do" in trajmill("run", path, cwd=folder).stderr,
        f"{name}: the second time there is nothing to do",
    )
    return made


# ---- reading


def table(dataset, part="steps"):
    """The table of steps or of trajectories of a dataset, its files in order of their names."""
    return pa.concat_tables(
        [pq.read_table(file) for file in sorted((pathlib.Path(dataset) / part).iterdir())]
    )


def manifest(dataset):
    return json.loads((pathlib.Path(dataset) / "dataset.json").read_text())


def quarantined(dataset):
    """The entries of a dataset's list of trajectories that were set aside."""
    return [
        json.loads(line)
        for line in (pathlib.Path(dataset) / "quarantine.jsonl").read_text().splitlines()
    ]


class Dataset:
    """A dataset in memory, with columns as numpy arrays.

    Null is NaN, and a null vector is a vector of NaN.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.manifest = manifest(path)
        widths = {column["name"]: column.get("width") for column in self.manifest["columns"]}
        steps, trajectories = table(path), table(path, "trajectories")
        self.steps = {name: numpy(steps[name], widths.get(name)) for name in steps.column_names}
        self.trajectories = {
            name: numpy(trajectories[name], None) for name in trajectories.column_names
        }
        rows = self.trajectories["rows"].astype(int)
        ends = np.cumsum(rows)
        self.spans = [slice(end - count, end) for end, count in zip(ends, rows)]

    def __len__(self):
        return len(self.spans)

    def __iter__(self):
        """Yields each trajectory as a dict of its columns, in file order.

        `id` is its id, `n` its number of steps, and `of` its row in the table of trajectories.
        """
        for index, span in enumerate(self.spans):
            own = {name: column[span] for name, column in self.steps.items()}
            own["id"] = int(self.trajectories["trajectory_id"][index])
            own["of"] = {name: column[index] for name, column in self.trajectories.items()}
            own["n"] = int((~own["is_final"].astype(bool)).sum())
            yield own

    def by_id(self):
        return {trajectory["id"]: trajectory for trajectory in self}

    def facts(self, stage):
        return [
            entry["facts"]
            for entry in self.manifest["lineage"]["stages"]
            if entry["stage"] == stage and "facts" in entry
        ]


def numpy(column, width):
    column = column.combine_chunks()
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        if width is None:
            return np.array(column.to_pylist(), dtype=object)
        out = np.full((len(column), width), np.nan)
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        if valid.any():
            values = column.filter(pa.array(valid)).flatten()
            out[valid] = values.to_numpy(zero_copy_only=False).reshape(-1, width)
        return out
    if pa.types.is_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(kind) or column.null_count == 0:
        return column.to_numpy(zero_copy_only=False)
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


# ---- comparing bit by bit


def bits(array):
    """A canonical form of an array in which NaN equals itself and -0.0 differs from 0.0."""
    return (array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())


def same(found, wanted):
    """Whether arrays, or lists of them, hold the same bits."""
    if isinstance(found, list):
        return len(found) == len(wanted) and all(
            same(one, other) for one, other in zip(found, wanted)
        )
    if found.dtype == object:
        return list(found) == list(wanted)
    return bits(found) == bits(wanted)


def valid_rows(steps, name):
    """Where a column has a value, and an array of its values (a list where it has parts)."""
    chunk = steps[name].combine_chunks()
    valid = chunk.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_struct(chunk.type):
        parts = chunk.flatten() if isinstance(chunk, pa.StructArray) else []
        return valid, [values(part) for part in parts]
    return valid, values(chunk.drop_null())


def values(chunk):
    if pa.types.is_nested(chunk.type):
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(chunk), -1) if len(chunk) else flat
    return chunk.to_numpy(zero_copy_only=False)


def same_dataset(one, other, what, but=()):
    """Checks steps and identity of two datasets, column by column."""
    a, b = table(one), table(other)
    check(
        set(a.column_names) - set(but) == set(b.column_names) - set(but),
        f"{what}: columns {sorted(a.column_names)} and {sorted(b.column_names)}",
    )
    for name in a.column_names:
        if name not in but:
            (valid, found), (other_valid, other_found) = valid_rows(a, name), valid_rows(b, name)
            check(np.array_equal(valid, other_valid), f"{what}: nulls of {name}")
            check(same(found, other_found), f"{what}: values of {name}")
    a, b = table(one, "trajectories"), table(other, "trajectories")
    for name in [
        "uid",
        "source",
        "source_key",
        "length",
        "return",
        "terminated",
        "truncated",
        "recorded_actions",
    ]:
        check(a[name].to_pylist() == b[name].to_pylist(), f"{what}: {name} of trajectories")


@functools.cache
def corpus(name):
    """A corpus of `data/`, read once."""
    return Dataset(REPOSITORY / "data" / name)
