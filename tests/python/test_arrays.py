"""zarr replay buffers and TensorDict memory maps are imported; damaged ones are refused.

Memory maps are written here as the library writes them, and by the library where it is installed.
"""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest

from oracle import check, says, table, trajmill
from writers.arrays import CODECS, buffer, by_hand, made, transitions


def array(column, dtype):
    return np.array(column.to_pylist()).astype(dtype)


# --- zarr

ENDS = [3, 4, 1500, 1507]


def compare(arrays, ends, dataset):
    steps, trajectories = table(dataset), table(dataset, "trajectories")
    check(trajectories["length"].to_pylist() == np.diff([0, *ends]).tolist(), "lengths")
    for name, values in arrays.items():
        column = steps[{"state": "observation"}.get(name, name)]
        element = column.type.value_type if pa.types.is_nested(column.type) else column.type
        check(element == pa.from_numpy_dtype(values.dtype), f"the type of {name}")
        found = array(column, values.dtype)
        check(found.tobytes() == values.reshape(found.shape).tobytes(), f"values of {name}")
    check(not np.array(steps["is_final"].to_pylist()).any(), "no final observations")


@pytest.mark.parametrize("codec", CODECS)
def test_zarr_is_imported_with_every_codec(tmp_path, codec):
    arrays = made(ENDS[-1])
    buffer(f"{tmp_path}/set.zarr", arrays, ENDS, CODECS[codec], 400)
    trajmill("import", tmp_path / "set.zarr", tmp_path / "in")
    compare(arrays, ENDS, tmp_path / "in")


@pytest.fixture(scope="module")
def lz4(shared):
    """A buffer that damage is done to copies of."""
    buffer(f"{shared}/lz4.zarr", made(ENDS[-1]), ENDS, CODECS["lz4-shuffle"], 400)
    return shared / "lz4.zarr"


def test_zarr_in_a_zip_archive_is_imported(lz4, tmp_path):
    shutil.make_archive(f"{tmp_path}/zip", "zip", lz4)
    os.rename(tmp_path / "zip.zip", tmp_path / "set.zarr.zip")
    trajmill("import", tmp_path / "set.zarr.zip", tmp_path / "in")
    compare(made(ENDS[-1]), ENDS, tmp_path / "in")


def edit(path, change):
    with open(path) as file:
        value = change(json.load(file))
    with open(path, "w") as file:
        json.dump(value, file)


@pytest.mark.parametrize(
    "damage, wanted",
    [
        (lambda root: os.remove(f"{root}/meta/episode_ends/.zarray"), ["episode_ends"]),
        (lambda root: os.truncate(f"{root}/data/state/1.0", 50), ["data/state/1.0", "damaged"]),
        (
            lambda root: edit(
                f"{root}/data/state/.zarray", lambda value: value | {"shape": [1400, 5]}
            ),
            ["`data/state` has 1,400 rows", "1,507"],
        ),
        (
            lambda root: edit(
                f"{root}/data/action/.zarray", lambda value: value | {"zarr_format": 3}
            ),
            ["data/action/.zarray", "`zarr_format` is 3"],
        ),
        (
            lambda root: edit(
                f"{root}/data/action/.zarray", lambda value: value | {"filters": [{"id": "delta"}]}
            ),
            ["filters"],
        ),
        (
            lambda root: open(f"{root}/data/action/.zarray", "w").write('{"shape": [Infinity]}'),
            ["not JSON"],
        ),
        (
            lambda root: buffer(str(root), made(ENDS[-1]), [3, 2, 1507], None, 400),
            ["`meta/episode_ends` is 2 at 1"],
        ),
    ],
    ids=["no-ends", "cut-chunk", "fewer-rows", "version-3", "filters", "infinity", "ends-descend"],
)
def test_damaged_zarr_is_refused(lz4, tmp_path, damage, wanted):
    root = tmp_path / "bad"
    shutil.copytree(lz4, root)
    damage(root)
    refused(tmp_path, root, "zarr", wanted)


def refused(folder, source, kind, wanted):
    done = trajmill("import", source, folder / "none", "--from", kind, code=1)
    says(done.stderr, wanted, kind)
    check(not os.path.exists(folder / "none"), "nothing is left")


# --- TensorDict

LENGTHS = [4, 1, 500]


def compare_transitions(lengths, root, following, dataset):
    steps, trajectories = table(dataset), table(dataset, "trajectories")
    ends = np.cumsum(lengths)
    check(trajectories["length"].to_pylist() == lengths, "lengths")
    check(
        trajectories["terminated"].to_pylist()
        == [number % 2 == 0 for number in range(len(lengths))],
        "terminated",
    )
    check(
        trajectories["truncated"].to_pylist()
        == [number % 2 == 1 for number in range(len(lengths))],
        "truncated",
    )
    final = np.array(steps["is_final"].to_pylist())
    found = array(steps["observation"], np.float32)
    check(found[~final].tobytes() == root["observation"].tobytes(), "observations")
    check(
        found[final].tobytes() == following["observation"][ends - 1].tobytes(), "final observations"
    )
    kept = steps.filter(pa.array(~final))
    check(array(kept["action"], np.float64).tobytes() == root["action"].tobytes(), "actions")
    check(array(kept["reward"], np.float32).tobytes() == following["reward"].tobytes(), "rewards")
    check(array(kept["pixels"], np.uint8).tobytes() == root["pixels"].tobytes(), "pixels")


@pytest.fixture(scope="module")
def maps(shared):
    """Memory maps that are written by hand."""
    by_hand(f"{shared}/maps", *transitions(LENGTHS))
    return shared / "maps"


def test_memory_maps_are_imported(maps, tmp_path):
    trajmill("import", maps, tmp_path / "in")
    compare_transitions(LENGTHS, *transitions(LENGTHS), tmp_path / "in")


@pytest.mark.reference("torch", "tensordict")
def test_memory_maps_by_tensordict_are_imported(tmp_path):
    import torch
    from tensordict import TensorDict

    root, following = transitions(LENGTHS)
    tensors = lambda level: {name: torch.from_numpy(values) for name, values in level.items()}
    count = sum(LENGTHS)
    TensorDict({**tensors(root), "next": TensorDict(tensors(following), [count])}, [count]).memmap(
        f"{tmp_path}/library"
    )
    trajmill("import", tmp_path / "library", tmp_path / "in")
    compare_transitions(LENGTHS, root, following, tmp_path / "in")


def test_memory_maps_without_flags_are_cut_where_the_id_changes(tmp_path):
    root, following = transitions(LENGTHS)
    plain = {
        "observation": root["observation"],
        "action": root["action"],
        "pixels": root["pixels"],
        "episode": np.repeat([5, 7, 6], LENGTHS),
    }
    by_hand(f"{tmp_path}/ids", plain, {"reward": following["reward"]})
    trajmill("import", tmp_path / "ids", tmp_path / "in")
    check(
        table(tmp_path / "in", "trajectories")["length"].to_pylist() == LENGTHS,
        "trajectories by id",
    )


@pytest.mark.parametrize(
    "damage, wanted",
    [
        (lambda path: os.truncate(f"{path}/action.memmap", 100), ["action.memmap", "100 bytes"]),
        (lambda path: os.remove(f"{path}/next/reward.memmap"), ["reward.memmap", "missing"]),
        (lambda path: os.remove(f"{path}/next/meta.json"), ["next/meta.json"]),
        (lambda path: open(f"{path}/meta.json", "a").write("x"), ["meta.json", "not JSON"]),
    ],
    ids=["cut", "no-reward", "no-meta", "not-json"],
)
def test_damaged_memory_maps_are_refused(maps, tmp_path, damage, wanted):
    root = tmp_path / "bad"
    shutil.copytree(maps, root)
    damage(root)
    refused(tmp_path, root, "tensordict", wanted)
