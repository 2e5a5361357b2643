"""A file is claimed by a format for what is in it, never for its kind alone."""

import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import check, equal, says, table, trajmill
from oracle import valid_rows as column

STEPS = 8
ENDS = np.arange(STEPS) % 4 == 3


def written(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    return path


@pytest.mark.parametrize("ending", ["hdf5", "npz"])
def test_a_file_of_other_arrays_is_no_dataset(tmp_path, ending):
    arrays = {"weights": np.zeros((3, 2)), "bias": np.zeros(2, np.float32)}
    path = written(tmp_path / f"in.{ending}", arrays)
    for command in (["import", path, tmp_path / "made"], ["validate", path]):
        stderr = trajmill(*command, code=1).stderr
        says(stderr, ["cannot tell the format of", "`weights` (3, 2)", "`bias` (2)"], "the error")
        says(stderr, ["--map observation=ARRAY --map action=ARRAY", "--from"], "the ways on")
    check(not (tmp_path / "made").exists(), "nothing is written")


@pytest.mark.parametrize("ending", ["hdf5", "npz"])
def test_lengths_must_agree(tmp_path, ending):
    """Observations of 3 numbers and 8 actions are no steps."""
    arrays = {"observations": np.zeros(3), "actions": np.zeros((STEPS, 2)), "dones": ENDS}
    path = written(tmp_path / f"in.{ending}", arrays)
    stderr = trajmill("import", path, tmp_path / "made", code=1).stderr
    says(stderr, ["cannot tell the format of", "`observations` (3)"], "the error")
    format = {"hdf5": "d4rl", "npz": "npz"}[ending]
    stderr = trajmill("import", path, tmp_path / "made", "--from", format, code=1).stderr
    check("cannot tell" not in stderr and "8" in stderr, f"the reader says what is wrong: {stderr}")


@pytest.mark.parametrize("ending", ["hdf5", "npz"])
def test_the_ways_on_lead_on(tmp_path, ending):
    """What the error recommends works: the arrays are named, and no format is."""
    state = np.arange(STEPS * 3.0).reshape(STEPS, 3)
    arrays = {"state": state, "torque": state[:, :2] * 2, "terminals": ENDS}
    arrays["timeouts"] = np.zeros(STEPS, bool)
    path = written(tmp_path / f"in.{ending}", arrays)
    trajmill("import", path, tmp_path / "made", code=1)
    names = ["--map", "observation=state", "--map", "action=torque"]
    trajmill("import", path, tmp_path / "made", *names)
    equal(column(table(tmp_path / "made"), "observation")[1], state, "observations")
    equal(column(table(tmp_path / "made"), "action")[1], state[:, :2] * 2, "actions")


def test_an_empty_file_holds_no_arrays(tmp_path):
    path = written(tmp_path / "in.hdf5", {})
    says(trajmill("import", path, "made", code=1).stderr, ["the file holds no arrays"], "the error")


def test_an_npz_file_of_any_name_is_recognised(tmp_path):
    """A pipeline writes `format: ogbench` under the name that the user gives."""
    rows = {"episode": [0, 0, 1], "obs": [[0.5, 1.0]] * 3, "act": [[0.0]] * 3}
    rows["part"] = [{"x": 1}, None, {"x": 3}]
    pq.write_table(pa.table(rows), tmp_path / "log.parquet")
    trajmill("import", tmp_path / "log.parquet", tmp_path / "in")
    for name in ["plain", "plain.npz", "with.dots"]:
        trajmill("export", tmp_path / "in", tmp_path / name, "--to", "ogbench")
        trajmill("import", tmp_path / name, tmp_path / f"back_{name}")
        back = table(tmp_path / f"back_{name}")
        check(back["part"].to_pylist() == rows["part"], f"{name} is restored: {back.schema}")
        check("import ogbench" in trajmill("info", tmp_path / f"back_{name}").stdout, name)
    # A zip archive of other files is none.
    with zipfile.ZipFile(tmp_path / "archive", "w") as file:
        file.writestr("observations.npy", b"")
        file.writestr("readme.txt", b"")
    failed = trajmill("import", tmp_path / "archive", tmp_path / "no", code=1)
    check("cannot tell the format" in failed.stderr, failed.stderr)
