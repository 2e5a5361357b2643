"""Actions and observations that a source holds in parts become one vector, with names."""

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import check, equal, says, seeded, table, trajmill
from oracle import valid_rows as column
from writers.rlds import encode, frame, tensor, tree

LENGTHS = [4, 1, 3]
# As in RT-1: the parts, with their types and widths.
PARTS = {
    "rotation_delta": (np.float32, 3),
    "terminate": (np.int32, 2),
    "world_vector": (np.float32, 3),
    "grip": (np.float32, 0),
}
ALL = ["grip", "rotation_delta", "terminate", "world_vector"]


def parts():
    """The parts of the actions of all steps."""
    random, rows = seeded("parts"), sum(LENGTHS)
    return {
        name: random.integers(-9, 9, (rows, width) if width else rows).astype(dtype)
        for name, (dtype, width) in PARTS.items()
    }


def joined(made, names):
    return np.concatenate([made[name].reshape(sum(LENGTHS), -1) for name in names], axis=1)


def dimensions(names):
    """The names of dimensions: of vectors with a number, of single numbers without."""
    return [
        f"{name}_{at}" if width else name
        for name in names
        for width in [PARTS[name][1]]
        for at in range(width or 1)
    ]


def rlds(folder, made):
    """Writes RT-1's layout, whose features are declared in the order of PARTS."""
    folder.mkdir()
    steps = {
        "observation": tree({"state": tensor("float32", 2)}),
        "action": tree(
            {
                name: tensor(np.dtype(dtype).name, *([width] if width else []))
                for name, (dtype, width) in PARTS.items()
            }
        ),
        **{name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")},
    }
    features = tree({"steps": {"pythonClassName": "x.Dataset", "sequence": {"feature": tree(steps)}}})
    (folder / "features.json").write_text(json.dumps(features))
    records, first = [], 0
    for length in LENGTHS:
        rows = slice(first, first + length)
        first += length
        record = {f"steps/action/{name}": values[rows] for name, values in made.items()}
        record["steps/observation/state"] = np.ones((length, 2), np.float32)
        for name in ("is_first", "is_last", "is_terminal"):
            record[f"steps/{name}"] = np.zeros(length, bool)
        record["steps/is_last"][-1] = True
        records.append(encode(record))
    (folder / "set-train.tfrecord-00000-of-00001").write_bytes(frame(records))
    info = {
        "name": "set",
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [{"name": "train", "shardLengths": [str(len(records))]}],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder, ["--final-action", "valid"], list(PARTS)


def robomimic(folder, made):
    folder.mkdir()
    first = 0
    with h5py.File(folder / "in.hdf5", "w") as file:
        for index, length in enumerate(LENGTHS):
            rows = slice(first, first + length)
            first += length
            file[f"data/demo_{index}/obs/state"] = np.ones((length, 2))
            for name, values in made.items():
                file[f"data/demo_{index}/action/{name}"] = values[rows]
    return folder / "in.hdf5", [], ALL


def d4rl(folder, made):
    folder.mkdir()
    ends = np.zeros(sum(LENGTHS), bool)
    ends[np.cumsum(LENGTHS) - 1] = True
    with h5py.File(folder / "in.hdf5", "w") as file:
        file["observations"] = np.ones((len(ends), 2))
        file["terminals"], file["timeouts"] = ends, np.zeros(len(ends), bool)
        for name, values in made.items():
            file[f"infos/action/{name}"] = values
    return folder / "in.hdf5", [], ALL


def npz(folder, made):
    folder.mkdir()
    ends = np.zeros(sum(LENGTHS), bool)
    ends[np.cumsum(LENGTHS) - 1] = True
    arrays = {f"action/{name}": values for name, values in made.items()}
    np.savez(folder / "in.npz", obs=np.ones((len(ends), 2)), dones=ends, **arrays)
    return folder / "in.npz", [], ALL


def parquet(folder, made):
    folder.mkdir()
    columns = {
        f"action/{name}": list(values) if values.ndim > 1 else values
        for name, values in made.items()
    }
    columns["observation"] = list(np.ones((sum(LENGTHS), 2)))
    columns["episode"] = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    pq.write_table(pa.table(columns), folder / "in.parquet")
    return folder / "in.parquet", [], ALL


FORMATS = {"rlds": rlds, "robomimic": robomimic, "d4rl": d4rl, "npz": npz, "parquet": parquet}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_pattern_joins_all_parts(kind, tmp_path):
    made = parts()
    source, options, order = FORMATS[kind](tmp_path / "in", made)
    group = "infos/action" if kind == "d4rl" else "action"
    trajmill("import", source, tmp_path / "made", *options, "--map", f"action={group}/*")
    steps = table(tmp_path / "made")
    found = column(steps, "action")[1]
    equal(found, joined(made, order), "actions")
    names = json.loads(steps.schema.field("action").metadata[b"names"])
    check(names == dimensions(order), f"{names}, not {dimensions(order)}")
    check(not [name for name in steps.column_names if name.startswith(f"{group}/")], "no leftovers")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_list_sets_the_order(kind, tmp_path):
    made = parts()
    source, options, _ = FORMATS[kind](tmp_path / "in", made)
    group = "infos/action" if kind == "d4rl" else "action"
    order = ["world_vector", "rotation_delta", "grip"]
    mapped = ",".join(f"{group}/{name}" for name in order)
    trajmill("import", source, tmp_path / "made", *options, "--map", f"action={mapped}")
    steps = table(tmp_path / "made")
    found = column(steps, "action")[1]
    equal(found, joined(made, order), "actions")
    check(found.dtype == np.float32, f"the smallest type for all is float32, not {found.dtype}")
    names = json.loads(steps.schema.field("action").metadata[b"names"])
    check(names == dimensions(order), str(names))
    left = column(steps, f"{group}/terminate")[1]
    equal(left.reshape(-1, 2), made["terminate"], "a part that is not mapped keeps its name")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_part_that_does_not_exist_is_named(kind, tmp_path):
    source, options, _ = FORMATS[kind](tmp_path / "in", parts())
    mapped = "action=action/world_vectr,action/grip"
    done = trajmill(
        "import", source, tmp_path / "made", *options, "--map", mapped, code=None
    )
    check(done.returncode in (1, 2), f"exit code {done.returncode}")
    says(done.stderr, ["`action/world_vectr`", "action/world_vector`"], "the error")


def test_names_survive_a_pipeline_and_an_export(tmp_path):
    made = parts()
    source, _, order = robomimic(tmp_path / "in", made)
    trajmill("import", source, tmp_path / "made", "--map", "action=action/*")
    trajmill("export", tmp_path / "made", tmp_path / "out", "--to", "arrow")
    trajmill("import", tmp_path / "out", tmp_path / "again")
    names = json.loads(table(tmp_path / "again").schema.field("action").metadata[b"names"])
    check(names == dimensions(order), str(names))


def test_observations_are_joined_with_the_last_next_ones(tmp_path):
    random = seeded("observations")
    with h5py.File(tmp_path / "in.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        arrays = {name: random.normal(size=(5, width)) for name, width in (("a", 2), ("b", 3))}
        for name, values in arrays.items():
            demo[f"obs/{name}"], demo[f"next_obs/{name}"] = values[:-1], values[1:]
        demo["obs/c"], demo["next_obs/c"] = np.ones((4, 1)), np.ones((4, 1))
        demo["actions"] = np.zeros((4, 2))
    mapped = "observation=obs/b,obs/a"
    trajmill("import", tmp_path / "in.hdf5", tmp_path / "made", "--map", mapped)
    found = column(table(tmp_path / "made"), "observation")[1]
    equal(found, np.concatenate([arrays["b"], arrays["a"]], axis=1), "observations")
    check("observation/c" in table(tmp_path / "made").column_names, "a part that is not mapped")


def test_a_picture_as_observation_keeps_its_shape(tmp_path):
    folder, _, _ = rlds(tmp_path / "in", parts())
    features = json.loads((folder / "features.json").read_text())
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    steps = steps["featuresDict"]["features"]
    steps["observation"] = tensor("uint8", 2, 2, 3)
    (folder / "features.json").write_text(json.dumps(features))
    pixels = seeded("pixels").integers(0, 256, (sum(LENGTHS), 2, 2, 3)).astype(np.uint8)
    records, first = [], 0
    for length in LENGTHS:
        rows = slice(first, first + length)
        first += length
        record = {f"steps/action/{name}": values[rows] for name, values in parts().items()}
        record["steps/observation"] = pixels[rows]
        for name in ("is_first", "is_last", "is_terminal"):
            record[f"steps/{name}"] = np.zeros(length, bool)
        records.append(encode(record))
    (folder / "set-train.tfrecord-00000-of-00001").write_bytes(frame(records))
    mapped = ["--map", "action=action/*", "--final-action", "valid"]
    trajmill("import", folder, tmp_path / "made", *mapped)
    check(
        table(tmp_path / "made").schema.field("observation").metadata[b"shape"] == b"2,2,3",
        "the shape",
    )
    trajmill("export", tmp_path / "made", tmp_path / "out", "--to", "npy")
    equal(np.load(tmp_path / "out" / "observation.npy"), pixels, "pixels with their shape")


def test_names_of_dimensions_are_those_of_the_feature_in_lerobot(tmp_path):
    source, _, order = robomimic(tmp_path / "in", parts())
    trajmill("import", source, tmp_path / "made", "--map", "action=action/*")
    trajmill("export", tmp_path / "made", tmp_path / "out", "--to", "lerobot", "--fps", 10)
    info = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())
    check(info["features"]["action"]["names"] == dimensions(order), str(info["features"]["action"]))
