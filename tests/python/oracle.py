"""What the oracles of stages and recipes share: running pipelines, and reading what they write as plain numpy."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import blake3
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

BINARY = os.path.abspath(sys.argv[1])
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="trajmill-oracle-"))
_checks = 0

def check(condition, what):
    global _checks
    _checks += 1
    assert condition, what

def close(found, wanted, what, atol=1e-6, rtol=1e-6):
    """NaN stands for null on both sides."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    check(found.shape == wanted.shape, f"{what}: shape {found.shape}, not {wanted.shape}")
    apart = ~(np.isclose(found, wanted, rtol=rtol, atol=atol) | (np.isnan(found) & np.isnan(wanted)))
    check(not apart.any(), f"{what}: {apart.sum()} of {apart.size} values differ, first {found[apart][:3]} not {wanted[apart][:3]} at {np.argwhere(apart)[:3].tolist()}")

def equal(found, wanted, what):
    found, wanted = np.asarray(found), np.asarray(wanted)
    check(found.shape == wanted.shape and (found == wanted).all(), f"{what}: {found} is not {wanted}")

def trajmill(*arguments, code=0, cwd=ROOT):
    done = subprocess.run([BINARY, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert code in (None, done.returncode), f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done

class Dataset:
    """A dataset in memory: columns of steps and of trajectories as numpy arrays; null is NaN, a null vector a vector of NaN."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.manifest = json.loads((self.path / "dataset.json").read_text())
        widths = {column["name"]: column.get("width") for column in self.manifest["columns"]}
        read = lambda part: pa.concat_tables(pq.read_table(file) for file in sorted((self.path / part).glob("*.parquet")))
        self.steps = {name: numpy(column, widths.get(name)) for name, column in columns(read("steps"))}
        self.trajectories = {name: numpy(column, None) for name, column in columns(read("trajectories"))}
        rows = self.trajectories["rows"].astype(int)
        ends = np.cumsum(rows)
        self.spans = [slice(end - count, end) for end, count in zip(ends, rows)]

    def __len__(self):
        return len(self.spans)

    def __iter__(self):
        """Each trajectory as a dict of its rows' columns, in file order, with `id`, and its row of trajectories as `of`."""
        for index, span in enumerate(self.spans):
            own = {name: column[span] for name, column in self.steps.items()}
            own["id"] = int(self.trajectories["trajectory_id"][index])
            own["of"] = {name: column[index] for name, column in self.trajectories.items()}
            own["n"] = int((~own["is_final"].astype(bool)).sum())
            yield own

    def by_id(self):
        return {trajectory["id"]: trajectory for trajectory in self}

    def facts(self, stage):
        return [entry["facts"] for entry in self.manifest["lineage"]["stages"] if entry["stage"] == stage and "facts" in entry]

def columns(table):
    return [(name, table.column(name).combine_chunks()) for name in table.column_names]

def numpy(column, width):
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
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
    if pa.types.is_boolean(kind):
        return column.to_numpy(zero_copy_only=False)
    return column.to_numpy(zero_copy_only=False) if column.null_count == 0 else column.cast(pa.float64()).to_numpy(zero_copy_only=False)

def run(name, stages, source, code=0, threads=2, shard_rows=None, extra=()):
    """Runs a pipeline over `source` and returns what it wrote."""
    out = ROOT / "out" / name
    shutil.rmtree(out, ignore_errors=True)
    options = {"path": str(out), **({"shard_rows": shard_rows} if shard_rows else {})}
    pipeline = {"trajmill": 1, "source": str(source), "stages": [*stages, {"materialise": options}]}
    path = ROOT / f"{name}.yaml"
    path.write_text(json.dumps(pipeline))
    done = trajmill("run", path, "--threads", threads, *extra, code=code)
    return Dataset(out) if code == 0 else done

def recipes(accounts):
    """Runs the recipes of `pipelines/` as they are committed, in a copy of that folder, and hands what each writes to its account."""
    shutil.copytree(REPOSITORY / "pipelines", ROOT / "pipelines")
    (ROOT / "data").symlink_to(REPOSITORY / "data")
    listed = set(re.findall(r"`trajmill run pipelines/(\w+)\.yaml`", (REPOSITORY / "README.md").read_text()))
    check(set(accounts) <= listed, f"README lists every recipe: {set(accounts) - listed} are not in it")
    for name, compare in accounts.items():
        path = f"pipelines/{name}.yaml"
        trajmill("check", path)
        trajmill("run", path)
        out = ROOT / re.search(r"path: \.\./(out/[\w/-]+)", (ROOT / path).read_text())[1]
        made = Dataset(out)
        check(len(made) > 0, f"{name}: something is left")
        compare(made)
        check("nothing to do" in trajmill("run", path).stderr, f"{name}: the second time there is nothing to do")
        shutil.rmtree(out)

def drawn(salt, seed, ids):
    """Ids in the order of a seeded draw without replacement."""
    def chance(number):
        hasher = blake3.blake3(salt.encode() + b"\0" + seed.to_bytes(8, "little") + int(number).to_bytes(8, "little", signed=True))
        return int.from_bytes(hasher.digest(8), "little")

    return sorted(ids, key=lambda number: (chance(number), number))

def predict(model, feeds):
    """What a model gives in Python's onnxruntime, by output."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds)))

def finish(name):
    shutil.rmtree(ROOT)
    print(f"{name}: {_checks} checks passed")
