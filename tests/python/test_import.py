"""Arrays that h5py, numpy and pyarrow write are imported; bad ones are refused with one error.

This file covers D4RL, npz, Parquet and Arrow; other formats have files of their own.
"""

import os

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, table, trajmill
from writers.arrays import following


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
        final = random.normal(size=(n, obs)).astype(dtype)
        self.next = following(self.obs, final, np.cumsum(lengths))
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
    steps, trajectories = table(dst), table(dst, "trajectories")
    rows = [length + made.final for length in made.lengths]
    ids = np.repeat(np.arange(len(rows)), rows)
    check(np.array_equal(steps["trajectory_id"].to_numpy(), ids), "trajectory ids")
    check(
        np.array_equal(
            steps["step"].to_numpy(), np.concatenate([np.arange(count) for count in rows])
        ),
        "step numbers",
    )
    last = np.zeros(len(ids), bool)
    if made.final:
        last[np.cumsum(rows) - 1] = True
    check(np.array_equal(steps["is_final"].to_numpy(zero_copy_only=False), last), "is_final")
    obs = np.stack(vectors(steps["observation"]))
    check(
        element(steps["observation"]) == pa.from_numpy_dtype(made.obs.dtype),
        "the type of observations",
    )
    check(np.array_equal(obs[~last], made.obs.reshape(len(made.obs), -1)), "observations")
    if made.final:
        check(np.array_equal(obs[last], made.next[made.ends - 1]), "final observations")
    for name, values in [("action", made.act), ("reward", made.rew), *made.extras.items()]:
        check((values is not None) == (name in steps.column_names), f"column {name}")
        if values is None:
            continue
        column = steps[name]
        check(
            element(column) == pa.from_numpy_dtype(values.dtype),
            f"the type of {name}: {column.type}",
        )
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
        check(
            np.allclose(trajectories["return"].to_numpy(), expected, rtol=1e-9, atol=1e-9),
            "returns",
        )
    cuts = np.cumsum([0, *rows])
    sums = [obs[start:end].astype(np.float64).sum(0) for start, end in zip(cuts, cuts[1:])]
    check(
        np.allclose(np.stack(vectors(trajectories["observation_sum"])), sums, rtol=1e-9, atol=1e-9),
        "sums of observations",
    )
    if made.act is not None and made.act.ndim == 2:
        sums = [made.act[piece].astype(np.float64).sum(0) for piece in pieces]
        check(
            np.allclose(np.stack(vectors(trajectories["action_sum"])), sums, rtol=1e-9, atol=1e-9),
            "sums of actions",
        )


def imported(folder, source, *arguments):
    """The dataset that a source becomes, in a folder of its own that holds nothing else."""
    folder = folder / f"out-{len(os.listdir(folder))}"
    folder.mkdir()
    trajmill("import", source, folder / "set", *arguments)
    check(os.listdir(folder) == ["set"], "nothing beside the dataset")
    return folder / "set"


def refused(folder, source, wanted, *arguments):
    """A bad source: exit code 1, one error that says what is wrong, and nothing written."""
    out = folder / "refused"
    out.mkdir()
    done = trajmill("import", source, out / "set", *arguments, code=1)
    check(len(oracle.errors(done)) == 1, f"{source}: one error: {done.stderr}")
    check(wanted in done.stderr, f"{source}: `{wanted}` is not in: {done.stderr}")
    check(os.listdir(out) == [], f"{source}: left {os.listdir(out)}")


def hdf5(path, made, timeouts=True, column=False, next_obs=False, **how):
    with h5py.File(path, "w") as file:
        arrays = {
            "observations": made.obs,
            "actions": made.act,
            "rewards": made.rew,
            "terminals": made.term,
            **made.extras,
        }
        arrays |= {"timeouts": made.trunc} if timeouts else {}
        arrays |= {"next_observations": made.next} if next_obs else {}
        for name, values in arrays.items():
            if values is not None:
                single = column and name in ("rewards", "terminals")
                file.create_dataset(name, data=values[:, None] if single else values, **how)
        file["metadata/algorithm"] = "SAC"
        file["metadata/iteration"] = 7
        file.attrs["env"] = "Hopper-v4"


# --- D4RL

D4RL = {
    "plain": (np.float32, {}, {}),
    "final-gzip": (np.float32, dict(next_obs=True, compression="gzip", shuffle=True), {}),
    "columns-chunks": (np.float64, dict(column=True, next_obs=True, chunks=True), {}),
    "infos": (
        np.float64,
        dict(compression="gzip", chunks=True),
        {
            "infos/qpos": (4, np.float64),
            "infos/count": (None, np.int64),
            "infos/seen": (None, bool),
        },
    ),
}


@pytest.mark.parametrize("shard_rows", [100_000, 20])
@pytest.mark.parametrize("case", D4RL)
def test_d4rl_is_imported_value_by_value(tmp_path, case, shard_rows):
    dtype, how, extras = D4RL[case]
    made = Made(
        list(D4RL).index(case), [5, 1, 4000, 17, 3], dtype=dtype, final=how.get("next_obs", False)
    )
    for name, (width, kind) in extras.items():
        values = np.random.default_rng(9).normal(size=len(made.obs) * (width or 1)) * 10
        made.extras[name] = (
            values.astype(kind) if width is None else values.astype(kind).reshape(-1, width)
        )
    hdf5(tmp_path / "set.hdf5", made, **how)
    compare(made, imported(tmp_path, tmp_path / "set.hdf5", "--shard-rows", shard_rows))


def test_d4rl_without_timeouts_is_cut_at_max_steps(tmp_path):
    made = Made(7, [4, 4, 4, 2])
    made.term[:], made.trunc[:] = False, [index % 4 == 3 for index in range(14)]
    hdf5(tmp_path / "set.hdf5", made, timeouts=False)
    compare(made, imported(tmp_path, tmp_path / "set.hdf5", "--max-steps", 4))
    (tmp_path / "pipeline.yaml").write_text(
        "trajmill: 1\nsource: {path: set.hdf5, max_steps: 4}\n"
        "stages:\n  - materialise: {path: piped}\n"
    )
    trajmill("run", tmp_path / "pipeline.yaml")
    compare(made, tmp_path / "piped")


def test_d4rl_without_actions_and_rewards_is_imported(tmp_path):
    made = Made(8, [3, 9])
    made.act = made.rew = None
    hdf5(tmp_path / "set.hdf5", made)
    compare(made, imported(tmp_path, tmp_path / "set.hdf5"))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_d4rl_that_is_cut_short_is_refused(tmp_path, share):
    path = tmp_path / "cut.hdf5"
    hdf5(path, Made(9, [5, 6]), compression="gzip")
    os.truncate(path, int(path.stat().st_size * share))
    refused(tmp_path, path, "cut.hdf5")


@pytest.mark.parametrize(
    "name, values, wanted",
    [
        ("terminals", np.array([0, np.nan, 1]), "`terminals`"),
        ("terminals", np.zeros(4, bool), "has 4 rows"),
        ("rewards", np.array([0, np.nan, 1]), "no trajectory boundaries"),
    ],
    ids=["nan-flag", "row-too-many", "no-boundaries"],
)
def test_bad_d4rl_is_refused(tmp_path, name, values, wanted):
    with h5py.File(tmp_path / "bad.hdf5", "w") as file:
        if name == "terminals":
            file["timeouts"] = np.zeros(3, bool)
        file["observations"], file[name] = np.zeros((3, 2)), values
    refused(tmp_path, tmp_path / "bad.hdf5", wanted)


# --- npz


@pytest.fixture
def npz(tmp_path):
    """The path of a file of arrays."""
    return tmp_path / "set.npz"


SAVE = {"stored": np.savez, "compressed": np.savez_compressed}
packings = pytest.mark.parametrize("packing", SAVE)


@packings
def test_npz_with_episode_starts_is_imported(tmp_path, npz, packing):
    seed = list(SAVE).index(packing)
    made = Made(20 + seed, [300, 1, 2, 5000], dtype=np.float64)
    made.act = np.random.default_rng(seed).integers(0, 5, len(made.obs))
    SAVE[packing](
        npz,
        obs=made.obs,
        actions=made.act,
        rewards=made.rew,
        episode_starts=made.start,
        episode_returns=np.zeros(4),
    )
    compare(made, imported(tmp_path, npz), flags=False)


@packings
def test_npz_of_big_endian_numbers_is_imported(tmp_path, npz, packing):
    made = Made(30 + list(SAVE).index(packing), [7, 3, 1], final=True)
    made.extras["qpos"] = made.obs.astype(np.float64)
    big = {
        "observations": made.obs.astype(">f4"),
        "next_observations": made.next.astype(">f4"),
        "qpos": made.extras["qpos"],
    }
    SAVE[packing](
        npz, actions=made.act, rewards=made.rew, terminals=made.term, timeouts=made.trunc, **big
    )
    compare(made, imported(tmp_path, npz))


@packings
def test_npz_with_indices_of_ends_is_imported(tmp_path, npz, packing):
    made = Made(40 + list(SAVE).index(packing), [6, 2, 9], final=True)
    pairs = zip(made.lengths, made.ends)
    obs = np.concatenate(
        [
            np.vstack([made.obs[end - length : end], made.next[end - 1 : end]])
            for length, end in pairs
        ]
    )
    made.trunc[:], made.term[:] = False, np.arange(17) == 7
    SAVE[packing](
        npz,
        obs=obs,
        acts=made.act,
        rews=made.rew,
        indices=made.ends[:-1],
        terminal=np.array([False, True, False]),
    )
    compare(made, imported(tmp_path, npz))


def test_npz_of_images_keeps_their_shape(tmp_path, npz):
    made = Made(50, [4, 3])
    made.obs = np.random.default_rng(0).integers(0, 255, (7, 4, 5, 3)).astype(np.uint8)
    np.savez(
        npz,
        obs=made.obs,
        terminals=made.term,
        timeouts=made.trunc,
        actions=made.act,
        rewards=made.rew,
    )
    steps = table(imported(tmp_path, npz))
    check(
        np.array_equal(np.stack(vectors(steps["observation"])), made.obs.reshape(7, -1)), "images"
    )
    check(steps.schema.field("observation").metadata[b"shape"] == b"4,5,3", "the shape of images")


GOOD = dict(obs=np.zeros((4, 2)), terminals=np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    "arrays, wanted",
    [
        (GOOD | dict(infos=np.array([{}, {}, {}, {}])), "pickled Python objects"),
        (GOOD | dict(terminals=np.array([0, np.nan, 0, 1])), "`terminals`"),
        (GOOD | dict(rewards=np.zeros(5)), "`rewards` has 5 rows"),
        (dict(obs=np.zeros((4, 2))), "no trajectory boundaries"),
        (dict(terminals=np.zeros(4)), "`observations`"),
    ],
    ids=["pickled", "nan-flag", "row-too-many", "no-boundaries", "no-observations"],
)
def test_bad_npz_is_refused(tmp_path, npz, arrays, wanted):
    np.savez(npz, **arrays)
    refused(tmp_path, npz, wanted, "--from", "npz")


def test_npz_that_is_cut_short_is_refused(tmp_path, npz):
    np.savez_compressed(npz, **GOOD)
    os.truncate(npz, npz.stat().st_size - 30)
    refused(tmp_path, npz, "set.npz")


# --- Parquet

ROLES = "observation=state,action=move,reward=gain,terminated=over,truncated=cut"


def renamed(made):
    """Columns under names that only `--map` explains."""
    return {
        "state": list(made.obs),
        "move": list(made.act),
        "gain": made.rew,
        "over": made.term,
        "cut": made.trunc,
    }


def test_parquet_is_imported_by_its_flags(tmp_path):
    made = Made(60, [40, 1, 3000, 7], dtype=np.float64)
    pq.write_table(pa.table(renamed(made)), tmp_path / "set.parquet", row_group_size=100)
    compare(made, imported(tmp_path, tmp_path / "set.parquet", "--map", ROLES))


def test_parquet_is_imported_by_trajectory_ids(tmp_path):
    made, keys = Made(60, [40, 1, 3000, 7], dtype=np.float64), ["d", "a", "c", "b"]
    pq.write_table(
        pa.table({**renamed(made), "who": np.repeat(keys, made.lengths)}),
        tmp_path / "set.parquet",
        row_group_size=1000,
    )
    compare(
        made,
        imported(tmp_path, tmp_path / "set.parquet", "--map", ROLES + ",trajectory_id=who"),
        keys=keys,
    )


def test_parquet_files_with_a_column_for_each_coordinate_are_imported(tmp_path):
    wide = Made(61, [40, 30, 50], obs=12)
    wide.extras = {"note": np.arange(120)}
    coordinates = {f"obs_{axis}": wide.obs[:, axis] for axis in reversed(range(12))}
    rest = {
        "episode_id": np.repeat([4, 2, 9], wide.lengths),
        "actions": list(wide.act),
        "rewards": wide.rew,
        "terminals": wide.term,
        "timeouts": wide.trunc.astype(np.float32),
        "note": wide.extras["note"],
    }
    rows, parts = pa.table({**coordinates, **rest}), tmp_path / "parts"
    parts.mkdir()
    for index in range(12):
        pq.write_table(rows.slice(index * 10, 10), parts / f"part-{index}.parquet")
    compare(wide, imported(tmp_path, parts, "--map", "observation=obs_*"), keys=["4", "2", "9"])


@pytest.mark.parametrize(
    "columns, wanted",
    [
        ({"obs": [[0.0]] * 4, "episode": [1, 2, 1, 1]}, "--sort"),
        ({"obs": [[0.0], [0.0, 1.0], [1.0], [2.0]], "episode": [1] * 4}, "`obs` holds 2 values"),
        ({"obs": [[0.0]] * 4, "terminals": [0.0, float("nan"), 0.0, 1.0]}, "`terminals`"),
        ({"obs": [[0.0]] * 4}, "no trajectory boundaries"),
        ({"obs": [[0.0]] * 4, "episode": [1] * 4, "step": [0, 1, 1, 2]}, "as in the row before"),
        ({"obs": ["a"] * 4, "episode": [1] * 4}, "`obs`"),
    ],
    ids=["id-comes-back", "ragged", "nan-flag", "no-boundaries", "steps-repeat", "text"],
)
def test_bad_parquet_is_refused(tmp_path, columns, wanted):
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    refused(tmp_path, tmp_path / "set.parquet", wanted)


def test_parquet_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table(renamed(Made(60, [40, 1, 3000, 7], dtype=np.float64))), path)
    os.truncate(path, path.stat().st_size // 2)
    refused(tmp_path, path, "set.parquet")


# --- all of them, and Arrow


@pytest.mark.parametrize("name", ["set.hdf5", "set.npz", "set.parquet", "set.arrow"])
def test_a_column_of_no_width_is_left_out(tmp_path, name):
    made, path = Made(70, [4, 1, 7]), tmp_path / name
    n = len(made.rew)
    flat = {
        "observations": made.obs,
        "actions": made.act,
        "rewards": made.rew,
        "terminals": made.term,
        "timeouts": made.trunc,
    }
    nothing = pa.FixedSizeListArray.from_buffers(
        pa.list_(pa.float32(), 0), n, [None], children=[pa.array([], pa.float32())]
    )
    rows = pa.table(
        {key: list(values) if values.ndim > 1 else values for key, values in flat.items()}
        | {"nothing": nothing}
    )
    if path.suffix == ".hdf5":
        hdf5(path, made)
        with h5py.File(path, "a") as file:
            file.create_dataset("infos/nothing", shape=(n, 0), dtype=np.float32)
    elif path.suffix == ".npz":
        np.savez(path, **flat, nothing=np.zeros((n, 0), np.float32))
    elif path.suffix == ".parquet":
        pq.write_table(rows, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
    dst = imported(tmp_path, path)
    compare(made, dst)
    check(not any("nothing" in column for column in table(dst).column_names), name)


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_arrow_files_with_compressed_buffers_are_imported(tmp_path, codec):
    """Arrow files as pandas and others write them, the last batch a short one."""
    made, path = Made(80, [400, 1, 900, 37]), tmp_path / "set.feather"
    rows = pa.table(
        {
            "observations": list(made.obs),
            "actions": list(made.act),
            "rewards": made.rew,
            "terminals": made.term,
            "timeouts": made.trunc,
        }
    )
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, rows.schema, options=options) as writer,
    ):
        writer.write_table(rows, max_chunksize=500)
    compare(made, imported(tmp_path, path))
