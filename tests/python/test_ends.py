"""The ends of trajectories: found where the source states them, and refused where it does not."""

import json
import shutil

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import SEEDS, check, manifest, says, table, trajmill

# Lengths of trajectories, whether each ended in a terminal state, and whether it was cut off.
LENGTHS = [4, 3, 5, 2]
TERMINATED = [True, False, True, False]


def ends(dataset):
    rows = table(dataset, "trajectories")
    return [rows[name].to_pylist() for name in ["length", "terminated", "truncated"]]


def imported(source, to, *options, code=0):
    shutil.rmtree(to, ignore_errors=True)
    return trajmill("import", source, to, *options, code=code)


def flags(of=None):
    """A flag for each step, set on the last step of the trajectories that `of` selects."""
    values = np.zeros(sum(LENGTHS), bool)
    last = np.cumsum(LENGTHS) - 1
    values[last if of is None else last[np.array(of)]] = True
    return values


def steps(**more):
    """Arrays of trajectories that follow from each other, and none from the one before."""
    rows = sum(LENGTHS)
    start = np.repeat(np.arange(len(LENGTHS)) * 100, LENGTHS)
    at = np.concatenate([np.arange(length) for length in LENGTHS])
    observation = (start + at).astype(np.float32)[:, None].repeat(3, 1)
    return {
        "observations": observation,
        "actions": np.ones((rows, 2), np.float32),
        "rewards": np.arange(rows, dtype=np.float32),
        **more,
    }


def hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def npz(path, arrays):
    np.savez(path, **arrays)
    return path


# ---- next observations


def following(arrays):
    return arrays["observations"] + 1


@pytest.mark.parametrize("form", ["hdf5", "npz", "parquet"])
def test_a_break_without_a_flag(form, tmp_path):
    arrays = steps()
    arrays["next_observations"] = following(arrays)
    # Of three ends between trajectories, only the first has a flag.
    marked = np.zeros(sum(LENGTHS), bool)
    marked[LENGTHS[0] - 1] = True
    arrays["terminals"], arrays["timeouts"] = marked, np.zeros_like(marked)
    if form == "parquet":
        columns = {
            name: pa.array(list(values) if values.ndim == 2 else values)
            for name, values in arrays.items()
        }
        path = tmp_path / "set.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=4)
    else:
        path = {"hdf5": hdf5, "npz": npz}[form](tmp_path / f"set.{form}", arrays)
    refused = imported(path, tmp_path / "out", code=1).stderr
    words = ["[103, 103, 103]", "[200, 200, 200]", "row 6", "row 7", "2 such places"]
    says(refused, [*words, "--split-on-gaps"], form)
    imported(path, tmp_path / "out", "--split-on-gaps")
    # Behind the last row nothing shows an end.
    check(
        ends(tmp_path / "out")
        == [LENGTHS, [True, False, False, False], [False, True, True, False]],
        f"{ends(tmp_path / 'out')}",
    )
    rows = table(tmp_path / "out")
    found = np.array(rows["observation"].to_pylist())[:, 0]
    wanted = np.concatenate([100 * i + np.arange(n + 1) for i, n in enumerate(LENGTHS)])
    check((found == wanted).all(), f"observations {found}")
    final = rows["is_final"].to_numpy()
    check(final.sum() == 4 and final[np.cumsum(np.array(LENGTHS) + 1) - 1].all(), f"{final}")
    check((rows["action"].is_null().to_numpy() == final).all(), "actions")
    # With all flags there is nothing to split.
    if form != "parquet":
        arrays["terminals"], arrays["timeouts"] = flags(TERMINATED), flags(~np.array(TERMINATED))
        imported({"hdf5": hdf5, "npz": npz}[form](path, arrays), tmp_path / "out")
        truncated = (~np.array(TERMINATED)).tolist()
        check(ends(tmp_path / "out") == [LENGTHS, TERMINATED, truncated], "with flags")


def test_ids_and_gaps_across_batches(tmp_path):
    """Rows of one id that do not follow from each other, at every place of a row group."""
    ids = np.repeat([7, 8], [5, 4])
    observation = np.array([0, 1, 2, 50, 51, 200, 201, 202, 300.0])
    after = np.array([1, 2, 3, 51, 52, 201, 202, 203, 301.0])
    columns = {
        "trajectory_id": ids,
        "observation": pa.array([[value] for value in observation]),
        "next_observation": pa.array([[value] for value in after]),
        "terminated": [False, False, False, False, True, False, False, False, False],
    }
    for group in [1, 2, 3, 9]:
        path = tmp_path / f"{group}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=group)
        refused = imported(path, tmp_path / "out", code=1).stderr
        says(refused, ["trajectory `7`", "row 2", "row 3", "1 such place", "[3]", "[50]"], group)
        bad = ["--on-error", "quarantine", "--allowed", "2"]
        imported(path, tmp_path / "out", *bad)
        check(table(tmp_path / "out").num_rows == 0, "both ids have a break")
        imported(path, tmp_path / "out", "--split-on-gaps")
        check(
            ends(tmp_path / "out")
            == [[3, 2, 3, 1], [False, True, False, False], [True, False, True, False]],
            f"{ends(tmp_path / 'out')}",
        )
        keys = table(tmp_path / "out", "trajectories")["source_key"].to_pylist()
        check(keys == ["7", "7/1", "8", "8/1"], f"{keys}")


# In the observations of 6 steps, steps 3 and 5 do not follow from the steps before them.
JOINED = np.array([[0.0], [1.0], [2.0], [50.0], [51.0], [70.0]])
BREAKS = ["[3] at step 2", "[50] at step 3", "2 such places"]


def test_a_break_in_a_demonstration(tmp_path):
    path = tmp_path / "in.hdf5"
    names = ["obs/x", "next_obs/x"]
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"], demo["dones"] = np.zeros((6, 2)), np.arange(6) == 5
        demo[names[0]], demo[names[1]] = JOINED, JOINED + 1
    refused = imported(path, tmp_path / "out", code=1).stderr
    says(refused, ["data/demo_0", *BREAKS, "--skip 'next_obs'"], "the error")
    imported(path, tmp_path / "out", "--skip", "next_obs")
    check(table(tmp_path / "out").num_rows == 6, "without the final observation")
    with h5py.File(path, "a") as file:
        demo = file["data/demo_0"]
        demo[names[0]][...] = np.arange(6.0)[:, None]
        demo[names[1]][...] = np.arange(1.0, 7.0)[:, None]
    imported(path, tmp_path / "again")
    check(table(tmp_path / "again").num_rows == 7, "with the final observation")


def test_a_break_in_a_row_per_episode(tmp_path):
    def written(observation):
        columns = {
            "observations": pa.array([observation.tolist(), [[5.0]]]),
            "next_observations": pa.array([(JOINED + 1).tolist(), [[6.0]]]),
            "actions": pa.array([[[0.0]] * 6, [[0.0]]]),
            "rewards": pa.array([[0.0] * 6, [0.0]]),
            "terminals": pa.array([[False] * 5 + [True], [True]]),
        }
        pq.write_table(pa.table(columns), tmp_path / "in.parquet")
        return tmp_path / "in.parquet"

    path = written(JOINED)
    refused = imported(path, tmp_path / "out", code=1).stderr
    says(refused, [*BREAKS, "--skip 'next_observations'"], "the error")
    imported(path, tmp_path / "out", "--skip", "next_observations")
    imported(path, tmp_path / "some", "--on-error", "quarantine", "--allowed", "1")
    check(ends(tmp_path / "some")[0] == [1], f"{ends(tmp_path / 'some')}")


def test_what_is_no_gap(tmp_path):
    """NaN after NaN, and zeros of both signs."""
    observation = np.array([[0.0, np.nan], [1.0, -0.0], [2.0, np.nan]])
    after = np.array([[1.0, 0.0], [2.0, np.nan], [3.0, 3.0]])
    arrays = {
        "observations": observation,
        "next_observations": after,
        "terminals": np.array([0, 0, 1], bool),
        "timeouts": np.zeros(3, bool),
    }
    path = hdf5(tmp_path / "set.hdf5", arrays)
    imported(path, tmp_path / "out", "--non-finite", "keep")
    check(ends(tmp_path / "out")[0] == [3], f"{ends(tmp_path / 'out')}")


# ---- flags


@pytest.mark.parametrize("truncated", ["timeouts", "truncated", "truncations"])
@pytest.mark.parametrize("done", ["dones", "done"])
def test_done_where_not_truncated(done, truncated, tmp_path):
    more = {done: flags(), truncated: flags(~np.array(TERMINATED))}
    imported(npz(tmp_path / "set.npz", steps(**more)), tmp_path / "out")
    wanted = [LENGTHS, TERMINATED, (~np.array(TERMINATED)).tolist()]
    check(ends(tmp_path / "out") == wanted, f"{ends(tmp_path / 'out')}")


def test_both_flags_are_kept(tmp_path):
    """Gymnasium allows a state that is terminal in the step that a time limit cuts off."""
    more = {"terminals": flags(TERMINATED), "timeouts": flags()}
    imported(hdf5(tmp_path / "set.hdf5", steps(**more)), tmp_path / "out")
    check(ends(tmp_path / "out") == [LENGTHS, TERMINATED, [True] * 4], "both")


def test_a_flag_in_the_middle_of_an_id(tmp_path):
    columns = {
        "trajectory_id": [0, 0, 0, 1, 1],
        "observation": pa.array([[float(row)] for row in range(5)]),
        "terminated": [False, True, False, False, True],
    }
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    refused = imported(tmp_path / "set.parquet", tmp_path / "out", code=1).stderr
    says(refused, ["trajectory `0`", "`terminated`", "step 1 of 3"], "refused")
    imported(
        tmp_path / "set.parquet", tmp_path / "out", "--on-error", "quarantine", "--allowed", "1"
    )
    check(ends(tmp_path / "out") == [[2], [True], [False]], f"{ends(tmp_path / 'out')}")
    ids = {"terminals": flags(TERMINATED), "timeouts": flags(), "episode_id": np.zeros(14, int)}
    refused = imported(npz(tmp_path / "b.npz", steps(**ids)), tmp_path / "out", code=1).stderr
    says(refused, ["`episode_id` is still 0", "row 4"], "ids")
    early = {"terminals": flags(), "episode_lengths": np.array([7, 7])}
    refused = imported(npz(tmp_path / "c.npz", steps(**early)), tmp_path / "out", code=1).stderr
    says(refused, ["`terminals` is set at row 3", "`episode_lengths`"], "lengths")


# ---- boundaries


BOUNDARIES = {
    "episode_terminals": flags(),
    "trajectory_ends": np.cumsum(LENGTHS),
    "episode_ends": np.cumsum(LENGTHS) - 1,
    "done_idxs": np.cumsum(LENGTHS),
    "episode_lengths": np.array(LENGTHS),
    "traj_lengths": np.array(LENGTHS)[:, None],
    "trajectory_starts": np.cumsum([0, *LENGTHS[:-1]]),
    "ends": flags().astype(np.uint8),
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_arrays_of_boundaries_are_used(name, tmp_path):
    more = {"terminals": flags(TERMINATED), name: BOUNDARIES[name]}
    for write, ending in [(npz, "npz"), (hdf5, "hdf5")]:
        imported(write(tmp_path / f"set.{ending}", steps(**more)), tmp_path / "out")
        wanted = [LENGTHS, TERMINATED, (~np.array(TERMINATED)).tolist()]
        check(ends(tmp_path / "out") == wanted, f"{ending}: {ends(tmp_path / 'out')}")
    # Without flags, nothing says how they ended.
    imported(npz(tmp_path / "set.npz", steps(**{name: BOUNDARIES[name]})), tmp_path / "out")
    check(ends(tmp_path / "out") == [LENGTHS, [False] * 4, [False] * 4], "without flags")


@pytest.mark.parametrize(
    "name, values",
    [
        ("episode_ends", [4, 7, 12]),
        ("episode_ends", [7, 4, 14]),
        ("episode_lengths", [4, 3, 5]),
        ("trajectory_starts", [1, 4]),
        ("done_idxs", [3.5, 14.0]),
        ("episode_terminals", [2] * 14),
    ],
)
def test_other_boundaries_are_refused_by_name(name, values, tmp_path):
    more = {"terminals": flags(), "timeouts": flags(), name: np.array(values)}
    path = npz(tmp_path / "set.npz", steps(**more))
    refused = imported(path, tmp_path / "out", code=1).stderr
    says(refused, [f"`{name}`"], "refused")
    imported(path, tmp_path / "out", "--skip", name)
    check(ends(tmp_path / "out")[0] == LENGTHS, "without it")


def test_boundaries_that_contradict_each_other(tmp_path):
    more = {"episode_ends": np.cumsum(LENGTHS), "episode_lengths": np.array([4, 4, 4, 2])}
    refused = imported(npz(tmp_path / "set.npz", steps(**more)), tmp_path / "out", code=1).stderr
    says(refused, ["`episode_ends`", "`episode_lengths`", "row 6"], "refused")


@pytest.mark.parametrize("discrete", [False, True])
def test_d3rlpy_1(discrete, tmp_path):
    arrays = steps(
        terminals=flags(TERMINATED).astype(np.float32),
        episode_terminals=flags().astype(np.float32),
        discrete_action=discrete,
        version="1.0",
    )
    if discrete:
        arrays["actions"] = np.arange(14, dtype=np.int32) % 3
    path = hdf5(tmp_path / "v1.h5", arrays)
    done = imported(path, tmp_path / "out")
    wanted = [LENGTHS, TERMINATED, (~np.array(TERMINATED)).tolist()]
    check(ends(tmp_path / "out") == wanted, f"{ends(tmp_path / 'out')}")
    manifest = json.loads((tmp_path / "out/dataset.json").read_text())
    check(manifest["lineage"]["by"] == "import d3rlpy", done.stderr)
    action = np.array(table(tmp_path / "out")["action"].to_pylist())
    check((action == arrays["actions"]).all(), f"{action}")


def test_d4rl_without_timeouts(tmp_path):
    path = hdf5(tmp_path / "set.hdf5", steps(terminals=flags(TERMINATED)))
    refused = imported(path, tmp_path / "out", code=1).stderr
    says(refused, ["`timeouts`", "--max-steps"], "refused")
    imported(path, tmp_path / "out", "--max-steps", "5")
    check(ends(tmp_path / "out")[0] == [4, 5, 3, 2], f"{ends(tmp_path / 'out')}")


# ---- options


OPTIONS = {
    "map": ["--map", "action=actions"],
    "trajectory": ["--trajectory", "x"],
    "step": ["--step", "x"],
    "max_steps": ["--max-steps", "5"],
    "split_on_gaps": ["--split-on-gaps"],
    "final_action": ["--final-action", "valid"],
    "alignment": ["--alignment", "rsa"],
    "frames": ["--frames", "array"],
}


def seeds():
    """The formats with seeds. Videos need a build with the feature `video`."""
    for name in sorted(path.name for path in SEEDS.iterdir() if path.is_dir()):
        yield pytest.param(name, marks=[pytest.mark.video] if name == "videofolder" else [])


@pytest.mark.parametrize("form", seeds())
def test_options_without_effect(form, tmp_path):
    """An option either changes the dataset, or is an error."""
    source = sorted((SEEDS / form).iterdir())[0]
    imported(source, tmp_path / "plain", "--from", form)
    plain = table(tmp_path / "plain"), table(tmp_path / "plain", "trajectories")
    for name, option in OPTIONS.items():
        done = imported(source, tmp_path / "out", "--from", form, *option, code=None)
        if done.returncode == 0:
            own = table(tmp_path / "out"), table(tmp_path / "out", "trajectories")
            changed = str(own) != str(plain) or not own[0].equals(plain[0])
            # These guard against what the seeds do not have, or state what they have.
            guards = {"map", "final_action", "alignment", "split_on_gaps"}
            check(changed or name in guards, f"`{name}` has no effect on {form}")
        else:
            check("help:" in done.stderr, done.stderr)


# ---- replay buffers


def test_declared_fill_lengths(tmp_path):
    """A buffer of 20 rows of which 7 are filled has 7 rows."""
    rows = {
        "observations": np.arange(60, dtype=np.float32).reshape(20, 3),
        "actions": np.zeros((20, 1), np.float32),
        "rewards": np.zeros(20, np.float32),
        "dones": np.arange(20) % 4 == 3,
    }
    for declared in [
        {"size": 7, "ptr": 7},
        {"size": 7, "max_size": 20},
        {"pos": 7, "full": False},
        {"size": np.array([7]), "capacity": np.array([[20]])},
    ]:
        for write, ending in [(npz, "npz"), (hdf5, "hdf5")]:
            path = write(tmp_path / f"set.{ending}", {**rows, **declared})
            done = imported(path, tmp_path / "out")
            check(ends(tmp_path / "out")[0] == [4, 3], f"{declared}: {ends(tmp_path / 'out')}")
            says(done.stderr, ["rows 7 to 19", "7 rows are filled"], declared)
    for declared, words in [
        ({"size": 21, "ptr": 1}, "`size` is 21"),
        ({"size": 7, "ptr": 9}, "`ptr` is 9"),
        ({"size": 20, "ptr": 9}, "its oldest row is not the first"),
        ({"full": True, "pos": 9}, "its oldest row is not the first"),
        ({"size": 7}, "nothing else says how many of them are filled"),
        ({"ptr": 3, "capacity": 20}, "nothing else says how many of them are filled"),
    ]:
        path = npz(tmp_path / "set.npz", {**rows, **declared})
        says(imported(path, tmp_path / "out", code=1).stderr, [words], declared)
    for declared, options in [
        ({"size": 20, "ptr": 0}, []),
        ({"full": True, "pos": 0}, []),
        ({"size": 20}, []),
        ({"size": 7}, ["--skip", "size"]),
    ]:
        path = npz(tmp_path / "set.npz", {**rows, **declared})
        imported(path, tmp_path / "out", *options)
        check(table(tmp_path / "out").num_rows == 20, f"{declared}")


def tensordict(folder, tensors, axes):
    """A TensorDict as `memmap` writes it; names with a slash are in a TensorDict inside."""
    folder.mkdir(parents=True)
    meta = {"shape": list(axes), "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
    inner = {}
    for name, values in tensors.items():
        outer, _, rest = name.partition("/")
        if rest:
            inner.setdefault(outer, {})[rest] = values
            continue
        dtype = {"f": "torch.float32", "b": "torch.bool", "i": "torch.int64"}[values.dtype.kind]
        meta[name] = {
            "device": "cpu",
            "shape": list(values.shape),
            "dtype": dtype,
            "is_nested": False,
        }
        (folder / f"{name}.memmap").write_bytes(values.tobytes())
    for name, values in inner.items():
        meta[name] = {"type": "TensorDict"}
        tensordict(folder / name, values, axes)
    (folder / "meta.json").write_text(json.dumps(meta))


def replay_buffer(folder, capacity, written, writer=True):
    """What TorchRL 0.14's `ReplayBuffer.dumps` writes, after `written` rows."""
    shutil.rmtree(folder, ignore_errors=True)
    at = np.zeros(capacity, np.int64)
    for row in range(written):
        at[row % capacity] = row
    filled = min(written, capacity)
    at[filled:] = 0
    values = at.astype(np.float32)
    rows = {
        "observation": values[:, None].repeat(3, 1),
        "action": values[:, None],
        "next/observation": values[:, None].repeat(3, 1) + 1,
        "next/reward": values[:, None],
        "next/done": at[:, None] % 4 == 3,
        "next/terminated": at[:, None] % 8 == 3,
        "next/truncated": at[:, None] % 8 == 7,
        "done": np.zeros((capacity, 1), bool),
        "index": np.arange(capacity),
    }
    tensordict(folder / "storage", rows, (capacity,))
    described = {"metadata": {}, "is_pytree": False, "len": filled}
    (folder / "storage/storage_metadata.json").write_text(json.dumps(described))
    (folder / "buffer_metadata.json").write_text(json.dumps({"batch_size": 2}))
    if writer:
        (folder / "writer").mkdir()
        state = {"cursor": written % capacity, "write_count": written}
        (folder / "writer/metadata.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize(
    "capacity, written, lengths", [(20, 7, [4, 3]), (6, 6, [4, 2]), (6, 10, [4, 2]), (6, 9, [1, 4, 1])]
)
def test_torchrl_replay_buffers(capacity, written, lengths, tmp_path):
    path = replay_buffer(tmp_path / "buffer", capacity, written)
    imported(path, tmp_path / "out")
    rows = table(tmp_path / "out")
    check(ends(tmp_path / "out")[0] == lengths, f"{ends(tmp_path / 'out')}")
    own = rows.filter(rows["action"].is_valid())
    found = np.array(own["action"].to_pylist())[:, 0]
    first = written - min(capacity, written)
    check((found == np.arange(first, written)).all(), f"in the order of time: {found}")
    check((own["reward"].to_numpy() == found).all(), "rewards")
    terminated = own["terminated"].to_numpy()
    check((terminated == (found % 8 == 3)).all(), "terminated")
    account = manifest(tmp_path / "out")["lineage"]["imports"][0]
    named = {*account["columns"], *(left["name"] for left in account["left_out"])}
    for name in ["next/done", "done", "next/observation", "index", "action"]:
        check(name in named, f"{name} is accounted for: {account}")
    # The folder of the storage itself.
    imported(path / "storage", tmp_path / "inner")
    check(table(tmp_path / "inner").equals(rows), "the storage itself")


def test_torchrl_replay_buffers_that_are_refused(tmp_path):
    path = replay_buffer(tmp_path / "full", 6, 10, writer=False)
    says(imported(path, tmp_path / "out", code=1).stderr, ["its oldest row is not known"], "order")
    path = replay_buffer(tmp_path / "long", 6, 3)
    described = path / "storage/storage_metadata.json"
    described.write_text(described.read_text().replace('"len": 3', '"len": 9'))
    says(imported(path, tmp_path / "out", code=1).stderr, ["`len` is 9"], "too long")
    described.write_text(described.read_text().replace('"len": 9', '"len": 2'))
    says(imported(path, tmp_path / "out", code=1).stderr, ["`cursor` is 3"], "cursor")
    state = path / "writer/metadata.json"
    state.write_text(json.dumps({"cursor": 2, "rank_key": "reward"}))
    says(imported(path, tmp_path / "out", code=1).stderr, ["order of time"], "ranked")


# ---- values


def test_values_that_are_not_finite(tmp_path):
    arrays = steps(terminals=flags(TERMINATED), timeouts=flags())
    arrays["rewards"][5] = np.nan
    path = hdf5(tmp_path / "set.hdf5", arrays)
    refused = imported(path, tmp_path / "out", code=1).stderr
    says(refused, ["trajectory `1`", "`reward`", "step 1", "--non-finite keep"], "refused")
    done = imported(path, tmp_path / "out", "--non-finite", "keep")
    says(done.stderr, ["warnings:", "nan-reward"], "kept")
    check(np.isnan(table(tmp_path / "out")["reward"].to_numpy()[5]), "as it is")
    imported(path, tmp_path / "out", "--on-error", "quarantine", "--allowed", "1")
    check(ends(tmp_path / "out")[0] == [4, 5, 2], f"{ends(tmp_path / 'out')}")


@pytest.mark.parametrize(
    "name, values, what",
    [
        ("episode_starts", [1, 0, 0, 1, 0, 0], "columns"),
        ("episode_terminals", [0, 0, 1, 0, 0, 1], "columns"),
        ("episode_ends", [3, 6], "columns"),
        ("lengths", [3, 3], "columns"),
        ("episode", [17, 17, 17, 42, 42, 42], "left_out"),
    ],
)
def test_an_array_of_boundaries_is_accounted_for(tmp_path, name, values, what):
    rows = {"observations": np.zeros((6, 2)), "actions": np.zeros((6, 1)), "rewards": np.zeros(6)}
    np.savez(tmp_path / "set.npz", **rows, **{name: np.array(values)})
    done = imported(tmp_path / "set.npz", tmp_path / "out")
    check(table(tmp_path / "out", "trajectories")["length"].to_pylist() == [3, 3], "lengths")
    account = manifest(tmp_path / "out")["lineage"]["imports"][0]
    if what == "columns":
        check(account["columns"].get(name) == "trajectory_id", account)
    else:
        check([left["name"] for left in account["left_out"]] == [name], account)
        says(done.stderr, [f"left out: {name}: it tells trajectories apart"], "the summary")
