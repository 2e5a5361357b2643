"""Next observations that are not those of the next step, in every format that can hold them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import check, says, table
from test_ends import ends, hdf5, imported, npz, tensordict
from writers import lerobot, rlds
from writers.arrays import CODECS, buffer

# Two trajectories of 6 and 4 steps. Behind step 2 of the first, the source has a break.
LENGTHS = [6, 4]
START = np.array([0, 1, 2, 50, 51, 52, 100, 101, 102, 103.0])
LAST = np.array([0, 0, 0, 0, 0, 1, 0, 0, 0, 1], bool)
BREAK = ["[3, 3]", "[50, 50]", "1 such place"]


def observations(own="float32", after="float32", broken=True):
    values = START if broken else np.concatenate([np.arange(6.0), START[6:]])
    # Three tenths have no exact value in either type; whole numbers have.
    pair = values[:, None].repeat(2, 1) + (0 if broken else 0.3)
    return pair.astype(own), (pair + 1).astype(after)


def arrays(own="float32", after="float32", broken=True, name="observations"):
    observation, following = observations(own, after, broken)
    return {
        name: observation,
        f"next_{name}": following,
        "actions": np.zeros((10, 1), np.float32),
        "rewards": np.zeros(10, np.float32),
        "terminals": LAST,
        "timeouts": np.zeros(10, bool),
    }


def tabular(values, path):
    pa_arrays = {
        name: pa.array(list(column)) if column.ndim == 2 else pa.array(column)
        for name, column in values.items()
    }
    rows = pa.table(pa_arrays)
    if path.suffix == ".parquet":
        pq.write_table(rows, path, row_group_size=4)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    else:
        columns = {}
        for name, column in values.items():
            for at in range(column.shape[1] if column.ndim == 2 else 0):
                columns[f"{name}_{at}"] = column[:, at]
            if column.ndim == 1:
                columns[name] = column.astype(int)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values()))]
        path.write_text("\n".join(lines) + "\n")
    return path


def zarr_buffer(values, path):
    names = {"observations": "state", "next_observations": "next_state", "actions": "action"}
    kept = {names[name]: column for name, column in values.items() if name in names}
    buffer(str(path), kept, [6, 10], CODECS["lz4-shuffle"], 400)
    return path


def memory_map(values, path):
    names = {"observations": "observation", "actions": "action", "rewards": "next/reward"}
    kept = {names[name]: column for name, column in values.items() if name in names}
    kept["next/observation"] = values["next_observations"]
    kept["next/done"], kept["next/terminated"] = LAST[:, None], LAST[:, None]
    tensordict(path, kept, (10,))
    return path


FORMS = {
    "set.hdf5": hdf5,
    "set.npz": npz,
    "set.zarr": zarr_buffer,
    "map": memory_map,
    "set.parquet": tabular,
    "set.jsonl": tabular,
    "set.csv": tabular,
}


def written(form, folder, values):
    make = FORMS[form]
    return make(folder / form, values) if make in (hdf5, npz) else make(values, folder / form)


def options(form):
    return ["--map", "observation=observations_*"] if form == "set.csv" else []


@pytest.mark.parametrize("form", FORMS)
def test_formats_that_can_be_cut(form, tmp_path):
    path = written(form, tmp_path, arrays())
    refused = imported(path, tmp_path / "out", *options(form), code=1).stderr
    says(refused, [*BREAK, "--split-on-gaps"], form)
    imported(path, tmp_path / "out", *options(form), "--split-on-gaps")
    check(ends(tmp_path / "out")[0] == [3, 3, 4], f"{form}: {ends(tmp_path / 'out')}")
    rows = table(tmp_path / "out")
    final = np.array(rows.filter(rows["is_final"])["observation"].to_pylist())
    check((final[:, 0] == [3, 53, 104]).all(), f"{form}: {final}")


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("map", "set.csv", "set.jsonl")])
@pytest.mark.parametrize("own, after", [("float32", "float64"), ("float64", "float32")])
def test_next_observations_of_another_type(form, own, after, tmp_path):
    """Values that differ by their digits are the same, and no digit of either is lost."""
    values = arrays(own, after, broken=False)
    path = written(form, tmp_path, values)
    imported(path, tmp_path / "out")
    rows = table(tmp_path / "out")
    kind = rows.schema.field("observation").type
    check(kind.value_type == pa.float64(), f"{form}: {kind}")
    found = np.array(rows["observation"].to_pylist())
    final = rows["is_final"].to_numpy()
    check((found[~final] == values["observations"]).all(), f"{form}: observations")
    check((found[final] == values["next_observations"][LAST]).all(), f"{form}: final ones")
    path = written(form, tmp_path, arrays(own, after)) if form != "set.zarr" else None
    if path is not None:
        refused = imported(path, tmp_path / "out", code=1).stderr
        says(refused, [*BREAK, "--split-on-gaps"], form)


def test_types_that_do_not_agree(tmp_path):
    path = npz(tmp_path / "set.npz", arrays("float64", "int64"))
    says(imported(path, tmp_path / "out", code=1).stderr, ["--skip next_observations"], "npz")
    imported(path, tmp_path / "out", "--skip", "next_observations")
    rows = table(tmp_path / "out")
    check(not rows["is_final"].to_numpy().any(), "no final observation")


def test_ogbench(tmp_path):
    """Its last row of a trajectory has the final observation."""
    values = arrays()
    values.pop("timeouts")
    values.pop("rewards")
    path = npz(tmp_path / "set.npz", values)
    refused = imported(path, tmp_path / "out", "--from", "ogbench", code=1).stderr
    says(refused, [*BREAK, "--skip 'next_observations'"], "ogbench")
    values["observations"], values["next_observations"] = observations(broken=False)
    npz(path, values)
    imported(path, tmp_path / "out", "--from", "ogbench")
    check(ends(tmp_path / "out")[0] == [5, 3], f"{ends(tmp_path / 'out')}")


def test_demonstrations(tmp_path):
    """Parts of another type, and next observations that lack a part or a row."""

    def demo(**after):
        at = np.arange(4, dtype=np.float32)[:, None]
        values = {f"data/demo_0/next_obs/{name}": part for name, part in after.items()}
        values |= {"data/demo_0/obs/x": at, "data/demo_0/obs/y": at.astype(np.float64)}
        values |= {"data/demo_0/actions": at, "data/demo_0/dones": np.arange(4) == 3}
        return hdf5(tmp_path / "in.hdf5", values)

    after = np.arange(1.0, 5.0)[:, None]
    imported(demo(x=after, y=after.astype(np.float32)), tmp_path / "out")
    last = table(tmp_path / "out")["observation"].to_pylist()[-1]
    check(last == {"x": [4.0], "y": [4.0]}, f"{last}")
    refused = {
        "`next_obs/x` is float64[1]": {"x": after + np.array([0, 0, 0, 0.1])[:, None], "y": after},
        "`next_obs` has no part `y`": {"x": after},
        "[9] at step 1": {"x": np.array([[1], [9], [3], [4.0]]), "y": after},
    }
    for words, parts in refused.items():
        stderr = imported(demo(**parts), tmp_path / "out", code=1).stderr
        says(stderr, [words, "--skip 'next_obs"], words)
    short = {"x": after[1:], "y": after[1:]}
    says(imported(demo(**short), tmp_path / "out", code=1).stderr, ["--skip next_obs"], "rows")
    imported(demo(**short), tmp_path / "out", "--skip", "next_obs")


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot(version, tmp_path):
    made = lerobot.Made(LENGTHS)
    state = np.arange(10, dtype=np.float32)[:, None].repeat(5, 1)
    made.columns |= {"observation.state": state, "next.observation.state": state + 1}

    def write(name):
        put = lerobot.v30 if version == "v3.0" else lerobot.v2
        put(str(tmp_path / name), made)
        return tmp_path / name

    imported(write("whole"), tmp_path / "out")
    kept = np.array(table(tmp_path / "out")["next.observation.state"].to_pylist())
    check((kept == state + 1).all(), "the column is kept")
    made.columns["next.observation.state"] = (state + 1).astype(np.float64)
    imported(write("wide"), tmp_path / "out")
    made.columns["observation.state"] = START.astype(np.float32)[:, None].repeat(5, 1)
    made.columns["next.observation.state"] = made.columns["observation.state"] + 1
    path = write("broken")
    refused = imported(path, tmp_path / "out", code=1).stderr
    words = ["trajectory `0`", "[3, 3, 3, 3, …]", "[50, 50, 50, 50, …]", "1 such place"]
    says(refused, [*words, "--skip 'next.observation.state'"], version)
    says(
        imported(path, tmp_path / "out", "--split-on-gaps", code=2).stderr,
        ["split_on_gaps"],
        "an option that the format does not take",
    )
    imported(path, tmp_path / "out", "--skip", "next.observation.state")
    imported(path, tmp_path / "some", "--on-error", "quarantine", "--allowed", "1")
    check(ends(tmp_path / "some")[0] == [4], f"{ends(tmp_path / 'some')}")


@pytest.mark.parametrize("name", ["next_observation", "next_observation/state", "next_obs"])
def test_rlds(name, tmp_path):
    class Made(rlds.Made):
        def features(self):
            features = super().features()
            steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]
            outer, _, inner = name.partition("/")
            own = rlds.tensor("float32", 3)
            steps["featuresDict"]["features"][outer] = rlds.tree({inner: own}) if inner else own
            return features

    made = Made(LENGTHS, final=False)
    for episode in made.episodes:
        state = episode["observation/state"]
        episode[name] = np.concatenate([state[1:], state[:1]])
    made.write(str(tmp_path / "whole"))
    imported(tmp_path / "whole", tmp_path / "out")
    check(name in table(tmp_path / "out").column_names, "the column is kept")
    made.episodes[1][name][1] += 1
    made.write(str(tmp_path / "broken"))
    refused = imported(tmp_path / "broken", tmp_path / "out", code=1).stderr
    says(refused, ["at step 1", "at step 2", "1 such place", f"--skip '{name}'"], name)
    imported(tmp_path / "broken", tmp_path / "out", "--skip", name)
