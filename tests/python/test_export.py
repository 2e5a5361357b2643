"""Exports datasets to every format that is written, reads them with the libraries that trainers use, and imports them back.

    python tests/python/test_export.py TRAJMILL
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from minari import MinariDataset

TRAJMILL = os.path.abspath(sys.argv[1])
CHECKS = 0

def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what

def run(*arguments):
    return subprocess.run([TRAJMILL, *map(str, arguments)], capture_output=True, text=True, timeout=600)

def trajmill(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stderr}"
    return done

def table(dataset, kind):
    folder = os.path.join(dataset, kind)
    return pa.concat_tables([pq.read_table(os.path.join(folder, name)) for name in sorted(os.listdir(folder))])

def bits(array):
    """A canonical form of an array in which NaN equals itself and -0.0 differs from 0.0."""
    return (array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())

def column(steps, name):
    """A column as an array of its valid rows, and where they are."""
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

def same(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if a.dtype == object:
        return list(a) == list(b)
    return bits(a) == bits(b)

def same_dataset(one, other, what, but=()):
    """Steps and identity of two datasets of ours, column by column."""
    a, b = table(one, "steps"), table(other, "steps")
    check(set(a.column_names) - set(but) == set(b.column_names) - set(but), f"{what}: columns {sorted(a.column_names)} and {sorted(b.column_names)}")
    for name in a.column_names:
        if name not in but:
            (valid, found), (other_valid, other_found) = column(a, name), column(b, name)
            check(np.array_equal(valid, other_valid), f"{what}: nulls of {name}")
            check(same(found, other_found), f"{what}: values of {name}")
    a, b = table(one, "trajectories"), table(other, "trajectories")
    for name in ["uid", "source", "source_key", "length", "return", "terminated", "truncated", "recorded_actions"]:
        check(a[name].to_pylist() == b[name].to_pylist(), f"{what}: {name} of trajectories")

class Made:
    """A random dataset of ours, and the arrays that it holds."""

    def __init__(self, folder, name, seed, lengths, obs=3, act=2, dtype=np.float32, final=True, discrete=False, extras=True, gaps=False):
        random = np.random.default_rng(seed)
        self.path, self.lengths, self.final = os.path.join(folder, name), lengths, final
        self.episodes = []
        rows = {key: [] for key in ["episode", "observation", "action", "reward", "terminated", "truncated", "is_final", "infos/qpos", "note"]}
        for index, length in enumerate(lengths):
            known = final if isinstance(final, bool) else final[index]
            count = length + known
            episode = {
                "observation": random.normal(size=(count, obs)).astype(dtype),
                "action": random.integers(0, 5, size=length) if discrete else random.uniform(-1, 1, size=(length, act)).astype(dtype),
                "reward": random.normal(size=length).astype(dtype),
                "terminated": index % 3 == 0,
                "truncated": index % 3 == 1,
                "qpos": random.normal(size=(count, 2)),
                "known": known,
            }
            self.episodes.append(episode)
            pad = [None] * known
            rows["episode"] += [f"k{index * 7}"] * count
            rows["observation"] += list(episode["observation"])
            rows["action"] += list(episode["action"]) + pad
            # Where there are gaps, every fifth reward was not recorded.
            rows["reward"] += [None if gaps and row % 5 == 4 else value for row, value in enumerate(episode["reward"])] + pad
            rows["terminated"] += [episode["terminated"] and row + 1 == length for row in range(length)] + [False] * known
            rows["truncated"] += [episode["truncated"] and row + 1 == length for row in range(length)] + [False] * known
            rows["is_final"] += [False] * length + [True] * known
            rows["infos/qpos"] += list(episode["qpos"])
            rows["note"] += [None if row % 3 == 2 else row for row in range(count)]
        number = pa.from_numpy_dtype(dtype)
        types = {
            "episode": pa.string(), "observation": pa.list_(number), "action": pa.int64() if discrete else pa.list_(number), "reward": number,
            "terminated": pa.bool_(), "truncated": pa.bool_(), "is_final": pa.bool_(), "infos/qpos": pa.list_(pa.float64()), "note": pa.int32(),
        }
        if not extras:
            del types["infos/qpos"], types["note"]
        source = os.path.join(folder, f"{name}.parquet")
        pq.write_table(pa.table({key: pa.array(rows[key], type=kind) for key, kind in types.items()}), source)
        trajmill("import", source, self.path, "--map", "trajectory_id=episode")

def h5(group, name):
    return group[name][()]

def d4rl(made, out):
    """The file as h5py has it, and D4RL's own rules for transitions."""
    with h5py.File(out) as file:
        data = {}
        file.visititems(lambda name, node: data.__setitem__(name, node[()]) if isinstance(node, h5py.Dataset) else None)
    steps = sum(made.lengths)
    for name in ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]:
        check(len(data[name]) == steps, f"d4rl: {name} has {len(data[name])} rows")
    check(same(data["observations"], np.concatenate([e["observation"][:n] for e, n in zip(made.episodes, made.lengths)])), "d4rl: observations")
    check(same(data["actions"], np.concatenate([e["action"] for e in made.episodes])), "d4rl: actions")
    check(same(data["rewards"], np.concatenate([e["reward"] for e in made.episodes])), "d4rl: rewards")
    check(data["terminals"].dtype == bool and data["timeouts"].dtype == bool, "d4rl: flags are booleans")
    following = [np.concatenate([e["observation"][1:n + 1], e["observation"][n - 1:n]])[:n] for e, n in zip(made.episodes, made.lengths)]
    check(same(data["next_observations"], np.concatenate(following)), "d4rl: next observations")
    ends = np.cumsum(made.lengths) - 1
    check(np.array_equal(np.flatnonzero(data["terminals"] | data["timeouts"]), ends), "d4rl: ends")
    check(np.array_equal(np.flatnonzero(data["terminals"]), ends[[e["terminated"] for e in made.episodes]]), "d4rl: terminals")
    check(same(data["infos/qpos"], np.concatenate([e["qpos"][:n] for e, n in zip(made.episodes, made.lengths)])), "d4rl: infos")
    # qlearning_dataset: rows 0..N-2, those with a timeout left out.
    kept = [row for row in range(steps - 1) if not data["timeouts"][row]]
    check(len(kept) == steps - 1 - int(data["timeouts"][:-1].sum()), "d4rl: transitions")
    inside = [row for row in kept if not data["terminals"][row]]
    check(all(np.array_equal(data["observations"][row + 1], data["next_observations"][row]) for row in inside), "d4rl: next rows")

def minari_hdf5(made, out):
    dataset = MinariDataset(os.path.join(out, "data"))
    check(dataset.total_episodes == len(made.lengths) and dataset.total_steps == sum(made.lengths), "minari: totals")
    check(dataset.spec.dataset_id == "test/made-v0", "minari: id")
    for episode, wanted, length in zip(dataset.iterate_episodes(), made.episodes, made.lengths):
        check(len(episode.observations) == length + 1, "minari: a row more of observations")
        check(same(episode.observations[:len(wanted["observation"])], wanted["observation"]), "minari: observations")
        check(same(episode.actions, wanted["action"]), "minari: actions")
        check(same(episode.rewards, wanted["reward"]), "minari: rewards")
        check(episode.terminations.dtype == bool and episode.terminations[-1] == wanted["terminated"], "minari: terminations")
        check(episode.truncations[-1] == (not wanted["terminated"]), "minari: truncations")
        check(same(episode.infos["qpos"][:len(wanted["qpos"])], wanted["qpos"]), "minari: infos")
        space = dataset.observation_space
        check(space.dtype == wanted["observation"].dtype and space.shape == wanted["observation"].shape[1:], "minari: space")
    check(len(list(dataset.sample_episodes(1))) == 1, "minari: sampling")

def robomimic(made, out):
    with h5py.File(out) as file:
        data = file["data"]
        demos = sorted(data, key=lambda name: int(name[5:]))
        check(len(demos) == len(made.lengths) and data.attrs["total"] == sum(made.lengths), "robomimic: totals")
        check(json.loads(data.attrs["env_args"])["env_name"] == "Made-v0", "robomimic: env_args")
        for demo, wanted, length in zip(demos, made.episodes, made.lengths):
            group = data[demo]
            check(group.attrs["num_samples"] == length, "robomimic: num_samples")
            check(same(h5(group, "obs/observation"), wanted["observation"][:length]), "robomimic: obs")
            check(same(h5(group, "actions"), wanted["action"]), "robomimic: actions")
            check(same(h5(group, "rewards"), wanted["reward"]), "robomimic: rewards")
            check(h5(group, "dones")[-1] == wanted["terminated"], "robomimic: dones")
            check(np.abs(h5(group, "actions")).max() <= 1, "robomimic: actions in [-1, 1]")
            if wanted["known"]:
                check(same(h5(group, "next_obs/observation"), wanted["observation"][1:]), "robomimic: next_obs")

def d3rlpy(made, out):
    """As d3rlpy's load reads a dump: names, shapes and types."""
    with h5py.File(out) as file:
        check(file["version"][()].decode() == "2.1", "d3rlpy: version")
        check([name.decode() for name in file["columns"][()]] == ["observations", "actions", "rewards", "terminated"], "d3rlpy: columns")
        check(int(file["num_episodes"][()]) == len(made.lengths), "d3rlpy: episodes")
        for index, (wanted, length) in enumerate(zip(made.episodes, made.lengths)):
            check(same(h5(file, f"observations_{index}"), wanted["observation"][:length]), "d3rlpy: observations")
            check(same(h5(file, f"actions_{index}"), wanted["action"].reshape(length, -1)), "d3rlpy: actions")
            check(same(h5(file, f"rewards_{index}"), wanted["reward"].reshape(length, 1)), "d3rlpy: rewards")
            check(bool(file[f"terminated_{index}"][()]) == wanted["terminated"] and file[f"terminated_{index}"].dtype == bool, "d3rlpy: terminated")

def ogbench(made, out):
    data = np.load(out)
    rows = sum(made.lengths) + len(made.lengths)
    check(all(len(data[name]) == rows for name in ["observations", "actions", "terminals", "rewards"]), "ogbench: a row more each")
    last = np.cumsum([length + 1 for length in made.lengths]) - 1
    check(np.array_equal(np.flatnonzero(data["terminals"]), last), "ogbench: terminals on last rows alone")
    keep = np.ones(rows, bool)
    keep[last] = False
    check(same(data["actions"][keep], np.concatenate([e["action"] for e in made.episodes])), "ogbench: actions")
    check(not data["actions"][last].any(), "ogbench: the last action is filler")
    check(same(data["observations"][keep], np.concatenate([e["observation"][:n] for e, n in zip(made.episodes, made.lengths)])), "ogbench: observations")

def npy(made, out):
    load = lambda name: np.load(os.path.join(out, f"{name}.npy"), mmap_mode="r", allow_pickle=False)
    starts = load("starts")
    rows = [length + e["known"] for length, e in zip(made.lengths, made.episodes)]
    check(np.array_equal(np.diff(starts), rows) and starts[0] == 0, "npy: starts")
    check(same(np.array(load("observation")), np.concatenate([e["observation"] for e in made.episodes])), "npy: observations")
    steps = ~load("is_final")
    check(same(np.array(load("action"))[steps], np.concatenate([e["action"] for e in made.episodes])), "npy: actions")
    if any(e["known"] for e in made.episodes):
        check(np.array_equal(load("action_valid"), steps), "npy: which actions are there")

def arrow(made, out):
    with pa.memory_map(os.path.join(out, "steps.arrow")) as file:
        steps = pa.ipc.open_file(file).read_all()
        check(steps.num_rows == sum(length + e["known"] for length, e in zip(made.lengths, made.episodes)), "arrow: rows")
        stacked = steps["observation"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        check(same(stacked, np.concatenate([e["observation"] for e in made.episodes]).reshape(-1)), "arrow: observations")

def parquet(made, out):
    steps = pq.read_table(out)
    check(steps.num_rows == sum(length + e["known"] for length, e in zip(made.lengths, made.episodes)), "parquet: rows")

FORMATS = {
    "d4rl": ("out.hdf5", d4rl, []),
    "minari": ("out-minari", minari_hdf5, ["--name", "test/made-v0"]),
    "robomimic": ("out-robomimic.hdf5", robomimic, ["--env", "Made-v0"]),
    "d3rlpy": ("out-d3rlpy.h5", d3rlpy, []),
    "ogbench": ("out.npz", ogbench, []),
    "npy": ("out-npy", npy, []),
    "arrow": ("out-arrow", arrow, []),
    "parquet": ("out-parquet", parquet, []),
}

# Columns whose values on final rows the format has no place for.
LOST = {"d4rl": ["infos/qpos", "note"]}

def round_trips(folder, made):
    for name, (output, reference, options) in FORMATS.items():
        out = os.path.join(folder, output)
        trajmill("export", made.path, out, "--to", name, *options)
        reference(made, out)
        again = trajmill("export", made.path, out, "--to", name, *options)
        check("nothing to do" in again.stderr, f"{name}: the same export again")
        if name not in ["npy", "parquet"]:
            back = os.path.join(folder, "back")
            # Found by what it holds, not by its name.
            trajmill("import", out, back)
            lineage = json.load(open(os.path.join(back, "dataset.json")))["lineage"]["by"]
            check(lineage == f"import {name}", f"{name}: detected as {lineage}")
            # D4RL has no row for what stands beside a final observation.
            same_dataset(made.path, back, name, LOST.get(name, ()))
            shutil.rmtree(back)
        shutil.rmtree(out) if os.path.isdir(out) else os.remove(out)
        check(not [left for left in os.listdir(folder) if left.endswith(".staging")], f"{name}: staging is left")

def unlabelled(folder):
    """Steps without actions: refused, dropped, filled and marked."""
    random = np.random.default_rng(5)
    obs = random.normal(size=(8, 2)).astype(np.float32)
    act = random.normal(size=(8, 1)).astype(np.float32)
    missing = [2, 3, 7]
    rows = {
        "episode": ["a"] * 6 + ["b"] * 2,
        "observation": list(obs),
        "action": [None if row in missing + [5] else value for row, value in enumerate(act)],
        "reward": [None if row == 5 else float(row) for row in range(8)],
        "is_final": [row == 5 for row in range(8)],
        "terminated": [row in [4, 7] for row in range(8)],
    }
    types = [pa.string(), pa.list_(pa.float32()), pa.list_(pa.float32()), pa.float32(), pa.bool_(), pa.bool_()]
    source, made, out = (os.path.join(folder, name) for name in ["gaps.parquet", "gaps", "gaps.hdf5"])
    pq.write_table(pa.table({key: pa.array(rows[key], type=kind) for key, kind in zip(rows, types)}), source)
    trajmill("import", source, made, "--map", "trajectory_id=episode")
    refused = run("export", made, out, "--to", "d4rl")
    check(refused.returncode == 1 and "3 of 7 steps have no action" in refused.stderr, f"refused: {refused.stderr}")
    check(not os.path.exists(out), "nothing is written")
    trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "fill", "--fill", "-2")
    with h5py.File(out) as file:
        valid = np.array([row not in missing for row in range(8) if row != 5])
        check(np.array_equal(h5(file, "infos/action_valid"), valid), "filled: which are there")
        check(np.array_equal(h5(file, "actions")[:, 0], np.where(valid, np.delete(act[:, 0], 5), np.float32(-2))), "filled: actions")
    os.remove(out)
    trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "drop")
    with h5py.File(out) as file:
        check(np.array_equal(h5(file, "observations"), obs[[0, 1, 4, 6]]), "dropped: observations")
        check(np.array_equal(h5(file, "next_observations"), obs[[1, 2, 5, 7]]), "dropped: next observations")
        check(h5(file, "terminals").tolist() == [False, False, True, False], "dropped: terminals")
        check(h5(file, "timeouts").tolist() == [False, True, False, True], "dropped: timeouts")
    changed = run("export", made, out, "--to", "d4rl", "--unlabelled", "fill")
    check(changed.returncode == 1 and "made otherwise" in changed.stderr, f"another output is not replaced: {changed.stderr}")
    trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "fill", "--overwrite")
    foreign = os.path.join(folder, "mine.hdf5")
    with h5py.File(foreign, "w") as file:
        file["x"] = [1]
    kept = run("export", made, foreign, "--to", "d4rl", "--unlabelled", "fill", "--overwrite")
    check(kept.returncode == 1 and "not an output of trajmill" in kept.stderr, f"a stranger's file stays: {kept.stderr}")

def from_minari(folder):
    """Minari's own writer, in three backends: dict and tuple spaces, infos, seeds, options, discrete actions."""
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    random = np.random.default_rng(3)
    os.environ["MINARI_DATASETS_PATH"] = os.path.join(folder, "minari")
    os.makedirs(os.environ["MINARI_DATASETS_PATH"])
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    tasks = {
        "box": (box, spaces.Discrete(4), lambda n: random.normal(size=(n, 3)), lambda n: random.integers(0, 4, n)),
        "dict": (
            spaces.Dict({"arm": box, "goal": spaces.Box(0, 1, (2, 2), np.float32)}), spaces.Box(-1, 1, (2,), np.float32),
            lambda n: {"arm": random.normal(size=(n, 3)), "goal": random.uniform(size=(n, 2, 2)).astype(np.float32)},
            lambda n: random.uniform(-1, 1, (n, 2)).astype(np.float32),
        ),
        "tuple": (
            spaces.Tuple((box, spaces.Discrete(3))), spaces.Box(-1, 1, (1,), np.float32),
            lambda n: (random.normal(size=(n, 3)), random.integers(0, 3, n)), lambda n: random.uniform(-1, 1, (n, 1)).astype(np.float32),
        ),
    }
    for kind, (observation_space, action_space, observe, act) in tasks.items():
        buffers = []
        for index, length in enumerate([4, 1, 300]):
            buffers.append(EpisodeBuffer(
                id=index, seed=index + 11 if index != 1 else None, options={"level": index, "deep": {"x": 1.5}} if index == 0 else None,
                observations=observe(length + 1), actions=act(length), rewards=list(random.normal(size=length)),
                terminations=[row + 1 == length and index == 0 for row in range(length)],
                truncations=[row + 1 == length and index > 0 for row in range(length)],
                infos={"x": random.normal(size=length + 1), "inner": {"y": random.normal(size=(length + 1, 2))}},
            ))
        for backend in ["hdf5", "arrow", "parquet"]:
            name = f"test/{kind}-{backend}-v0"
            minari.create_dataset_from_buffers(
                name, buffer=list(buffers), observation_space=observation_space, action_space=action_space, data_format=backend,
                algorithm_name="made", code_permalink="none", author="a", author_email="b@c.de", description="d",
            )
            source, made = os.path.join(os.environ["MINARI_DATASETS_PATH"], name), os.path.join(folder, f"{kind}-{backend}")
            trajmill("import", source, made)
            steps, trajectories = table(made, "steps"), table(made, "trajectories")
            check(trajectories["seed"].to_pylist() == [11, None, 13], f"{name}: seeds")
            check(json.loads(trajectories["options"].to_pylist()[0]) == {"level": 0, "deep": {"x": 1.5}}, f"{name}: options")
            check(trajectories["terminated"].to_pylist() == [True, False, False], f"{name}: terminated")
            start = 0
            for buffer in buffers:
                n = len(buffer.rewards)
                part = steps.slice(start, n + 1)
                start += n + 1
                check(part["is_final"].to_pylist() == [False] * n + [True], f"{name}: final rows")
                check(np.array_equal(part["reward"].to_numpy()[:n], buffer.rewards), f"{name}: rewards")
                valid, found = column(part, "action")
                check(valid.tolist() == [True] * n + [False] and np.array_equal(found.reshape(buffer.actions.shape), buffer.actions), f"{name}: actions")
                _, found = column(part, "observation")
                wanted = buffer.observations
                wanted = [wanted[key] for key in sorted(wanted)] if isinstance(wanted, dict) else list(wanted) if isinstance(wanted, tuple) else wanted
                if isinstance(wanted, list):
                    check(all(same(f.reshape(w.shape), w) for f, w in zip(found, wanted)), f"{name}: observations")
                else:
                    check(same(found, wanted), f"{name}: observations")
                check(same(column(part, "infos/x")[1], buffer.infos["x"]), f"{name}: infos")
                check(same(column(part, "infos/inner/y")[1], buffer.infos["inner"]["y"]), f"{name}: nested infos")
            # Out again, and what Minari reads then is what it read before.
            out = os.path.join(os.environ["MINARI_DATASETS_PATH"], f"back/{kind}-{backend}-v0")
            os.makedirs(os.path.dirname(out), exist_ok=True)
            trajmill("export", made, out, "--to", "minari", "--name", f"back/{kind}-{backend}-v0")
            back = minari.load_dataset(f"back/{kind}-{backend}-v0")
            check(back.action_space == action_space, f"{name}: the action space survives")
            for episode, buffer in zip(back.iterate_episodes(), buffers):
                check(tree_equal(episode.observations, buffer.observations), f"{name}: observations after both ways")
                check(np.array_equal(episode.actions, buffer.actions), f"{name}: actions after both ways")
                check(np.array_equal(episode.infos["inner"]["y"], buffer.infos["inner"]["y"]), f"{name}: infos after both ways")
            metadata = list(back.storage.get_episode_metadata([0, 1]))
            check(metadata[0]["seed"] == 11 and metadata[0]["options"] == {"level": 0, "deep": {"x": 1.5}}, f"{name}: seed and options after both ways")
            if kind == "box" and backend == "hdf5":
                os.remove(os.path.join(source, "data", "main_data.hdf5"))
                broken = run("import", source, os.path.join(folder, "broken"))
                check(broken.returncode == 1 and "main_data.hdf5" in broken.stderr, f"a missing file is named: {broken.stderr}")

def tree_equal(a, b):
    if isinstance(b, dict):
        return set(a) == set(b) and all(tree_equal(a[key], b[key]) for key in b)
    if isinstance(b, tuple):
        return len(a) == len(b) and all(tree_equal(x, y) for x, y in zip(a, b))
    return np.array_equal(a, b)

def long_episode(folder):
    """Minari's Parquet backend cuts what is longer than 32 767 rows; ours does not."""
    made = Made(folder, "long", 9, [140_000, 1], obs=1, act=1)
    out = os.path.join(folder, "long-minari")
    trajmill("export", made.path, out, "--to", "minari")
    episodes = list(MinariDataset(os.path.join(out, "data")).iterate_episodes())
    check([len(episode.rewards) for episode in episodes] == [140_000, 1], "minari: long episodes")
    source = os.path.join(folder, "whole")
    metadata = {"total_episodes": 1, "total_steps": 40_000, "data_format": "parquet", "dataset_id": "a/b-v0", "minari_version": "0.5.0"}
    os.makedirs(os.path.join(source, "data", "0"))
    rewards = np.arange(40_001, dtype=np.float64)
    pq.write_table(pa.table({
        "observations": pa.FixedSizeListArray.from_arrays(rewards, 1), "actions": pa.FixedSizeListArray.from_arrays(rewards, 1), "rewards": rewards,
        "terminations": np.zeros(40_001, bool), "truncations": np.zeros(40_001, bool),
    }), os.path.join(source, "data", "0", "part-0.parquet"))
    json.dump(metadata, open(os.path.join(source, "data", "metadata.json"), "w"))
    json.dump({"id": 0, "total_steps": 40_000}, open(os.path.join(source, "data", "0", "metadata.json"), "w"))
    trajmill("import", source, os.path.join(folder, "whole-made"))
    check(table(os.path.join(folder, "whole-made"), "steps").num_rows == 40_001, "minari: a long episode of its Parquet backend")

def from_robomimic(folder):
    path = os.path.join(folder, "demo.hdf5")
    random = np.random.default_rng(4)
    demos = {"demo_1": 5, "demo_2": 1, "demo_10": 3}
    arrays = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update({"total": 9, "env_args": json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})})
        for name, length in demos.items():
            demo = data.create_group(name)
            demo.attrs.update({"num_samples": length, "model_file": "<mujoco>" + "x" * 70_000})
            obs = {key: random.normal(size=(length + 1, width)) for key, width in [("eef", 3), ("object", 4)]}
            arrays[name] = obs, random.uniform(-1, 1, (length, 2))
            for key, found in obs.items():
                demo[f"obs/{key}"], demo[f"next_obs/{key}"] = found[:-1], found[1:]
            demo["actions"], demo["rewards"] = arrays[name][1], np.zeros(length)
            demo["states"] = np.full((length, 2 + length), float(length))
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
        file["mask/train"] = np.array(["demo_1", "demo_10"], dtype="S")
    made, out = os.path.join(folder, "demos"), os.path.join(folder, "demos.hdf5")
    trajmill("import", path, made)
    trajectories = table(made, "trajectories")
    check(trajectories["source_key"].to_pylist() == list(demos), "robomimic: in the order of their numbers")
    check(trajectories["mask_train"].to_pylist() == [True, False, True], "robomimic: masks")
    check(trajectories["length"].to_pylist() == [5, 1, 3] and trajectories["terminated"].to_pylist() == [True] * 3, "robomimic: lengths and ends")
    steps = table(made, "steps")
    # Simulator states are as wide as the scene is.
    states = [row for row in steps["states"].to_pylist() if row is not None]
    check([len(row) for row in states] == [7] * 5 + [3] + [5] * 3 and states[5] == [1.0] * 3, "robomimic: states of several widths")
    valid, (eef, obj) = column(steps, "observation")
    check(same(eef, np.concatenate([obs["eef"] for obs, _ in arrays.values()])), "robomimic: observations with the final one")
    check(same(obj, np.concatenate([obs["object"] for obs, _ in arrays.values()])), "robomimic: observations with the final one")
    trajmill("export", made, out, "--to", "robomimic")
    with h5py.File(path) as one, h5py.File(out) as two:
        for index, name in enumerate(demos):
            for key in ["obs/eef", "obs/object", "next_obs/eef", "next_obs/object", "actions", "rewards"]:
                check(same(h5(one, f"data/{name}/{key}"), h5(two, f"data/demo_{index}/{key}")), f"robomimic: {key} after both ways")
            check(one[f"data/{name}"].attrs["model_file"] == two[f"data/demo_{index}"].attrs["model_file"], "robomimic: the model")
        check([name.decode() for name in two["mask/train"][()]] == ["demo_0", "demo_2"], "robomimic: masks after both ways")
        check(json.loads(two["data"].attrs["env_args"])["env_name"] == "Lift", "robomimic: env_args after both ways")

def from_exorl(folder):
    source = os.path.join(folder, "exorl")
    os.makedirs(source)
    random = np.random.default_rng(6)
    for index, length in enumerate([4, 2]):
        arrays = {
            "observation": random.normal(size=(length + 1, 3)).astype(np.float32), "action": random.normal(size=(length + 1, 2)).astype(np.float32),
            "reward": random.normal(size=(length + 1, 1)).astype(np.float32), "discount": np.ones((length + 1, 1), np.float32),
            "physics": random.normal(size=(length + 1, 5)),
        }
        arrays["action"][0] = 0
        if index == 1:
            arrays["discount"][-1] = 0
        np.savez(os.path.join(source, f"episode_{index:06d}_{length}.npz"), **arrays)
        last = arrays
    made = os.path.join(folder, "exorl-made")
    trajmill("import", source, made)
    trajectories, steps = table(made, "trajectories"), table(made, "steps").slice(5)
    check(trajectories["length"].to_pylist() == [4, 2] and trajectories["terminated"].to_pylist() == [False, True], "exorl: lengths and ends")
    check(same(column(steps, "action")[1], last["action"][1:]), "exorl: the action of row t+1 was taken in row t")
    check(same(column(steps, "reward")[1], last["reward"][1:, 0]), "exorl: rewards")
    check(same(column(steps, "physics")[1], last["physics"]), "exorl: physics")

def materialised(folder, made):
    """`materialise` writes the same formats, and knows its own work again."""
    out = os.path.join(folder, "piped.hdf5")
    pipeline = os.path.join(folder, "pipe.yaml")
    text = f"trajmill: 1\nsource: {os.path.basename(made.path)}\nstages:\n  - filter: length >= 3\n  - materialise: {{path: piped.hdf5, format: d4rl}}\n"
    open(pipeline, "w").write(text)
    first = trajmill("run", pipeline)
    check("identity of trajectories" in first.stderr, f"the summary says what went elsewhere: {first.stderr}")
    with h5py.File(out) as file:
        check(len(file["observations"]) == sum(length for length in made.lengths if length >= 3), "materialise: rows")
    check(trajmill("run", pipeline).stderr.count("nothing to do") == 1, "materialise: nothing to do")
    bytes_before = open(out, "rb").read()
    trajmill("run", pipeline, "--fresh")
    check(open(out, "rb").read() == bytes_before, "materialise: the same bytes")
    open(pipeline, "w").write(text.replace(">= 3", ">= 4"))
    changed = run("run", pipeline)
    check(changed.returncode == 1 and "was made otherwise" in changed.stderr, f"materialise: a change is named: {changed.stderr}")
    back = os.path.join(folder, "piped-back")
    trajmill("import", out, back)
    uids = dict(zip(table(made.path, "trajectories")["source_key"].to_pylist(), table(made.path, "trajectories")["uid"].to_pylist()))
    kept = table(back, "trajectories")
    check(all(uids[key] == uid for key, uid in zip(kept["source_key"].to_pylist(), kept["uid"].to_pylist())), "uid survives filter and export")

def minari_files(folder, name, lengths, broken=()):
    """A Minari dataset that h5py wrote; what is broken has a row of rewards too many."""
    random = np.random.default_rng(8)
    data = os.path.join(folder, name, "data")
    os.makedirs(data)
    space = lambda width: json.dumps({"type": "Box", "dtype": "float32", "shape": [width], "low": [-1.0] * width, "high": [1.0] * width})
    json.dump({
        "total_episodes": len(lengths), "total_steps": sum(lengths), "data_format": "hdf5", "dataset_id": "a/b-v0", "minari_version": "0.5.0",
        "observation_space": space(2), "action_space": space(1),
    }, open(os.path.join(data, "metadata.json"), "w"))
    with h5py.File(os.path.join(data, "main_data.hdf5"), "w") as file:
        for index, length in enumerate(lengths):
            group = file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "total_steps": length})
            group["observations"] = random.normal(size=(length + 1, 2)).astype(np.float32)
            group["actions"] = random.uniform(-1, 1, (length, 1)).astype(np.float32)
            group["rewards"] = np.arange(length + (index in broken), dtype=np.float64)
            group["terminations"] = np.arange(length) == length - 1
            group["truncations"] = np.zeros(length, bool)
    return os.path.join(folder, name)

def quarantined(folder):
    source = minari_files(folder, "half", [3, 4, 2, 5], broken=[1, 3])
    out = os.path.join(folder, "half-made")
    failed = run("import", source, out)
    check(failed.returncode == 1 and "episode_1" in failed.stderr and not os.path.exists(out), f"the first bad one ends it: {failed.stderr}")
    aside = run("import", source, out, "--on-error", "quarantine", "--allowed", "1")
    check(aside.returncode == 4 and "2 trajectories were set aside" in aside.stderr, f"more than allowed: {aside.returncode} {aside.stderr}")
    check(table(out, "trajectories")["source_key"].to_pylist() == ["0", "2"], "the others are there")
    lines = [json.loads(line) for line in open(os.path.join(out, "quarantine.jsonl"))]
    check([line["index"] for line in lines] == [1, 3] and all("rewards" in line["reason"] or "steps" in line["reason"] for line in lines), f"reasons: {lines}")
    shutil.rmtree(out)
    check(run("import", source, out, "--on-error", "quarantine", "--allowed", "2").returncode == 0, "as many as allowed")

def piped(folder, made):
    """Foreign sources in a pipeline: imported first, once; several with other names and types."""
    first, second = os.path.join(folder, "first.hdf5"), os.path.join(folder, "second.npz")
    random = np.random.default_rng(11)
    def arrays(length, dtype):
        ends = np.arange(length) % 4 == 3
        return random.normal(size=(length, 2)).astype(dtype), random.normal(size=(length, 1)).astype(dtype), np.arange(length).astype(dtype), ends
    one, two = arrays(8, np.float32), arrays(12, np.float64)
    with h5py.File(first, "w") as file:
        for name, values in zip(["observations", "actions", "rewards", "terminals"], one):
            file[name] = values
    np.savez(second, **dict(zip(["state", "act", "rew", "terminals"], two)))
    pipeline = os.path.join(folder, "sources.yaml")
    def write(widen, least=0):
        open(pipeline, "w").write(f"""trajmill: 1
source:
  - {{path: first.hdf5, format: d4rl}}
  - {{path: second.npz, map: {{observation: state, action: act, reward: rew}}, widen: {widen}}}
stages:
  - filter: return >= {least}
  - materialise: {{path: merged}}
""")
    write("false")
    refused = run("check", pipeline)
    check(refused.returncode == 3 and "Float64" in refused.stderr, f"types are not widened unasked: {refused.stderr}")
    write("true")
    check(run("check", pipeline).returncode == 0, "checked without an import")
    check(run("plan", pipeline).returncode == 0 and not os.path.exists(os.path.join(folder, ".merged.staging")), "planned without an import")
    trajmill("run", pipeline)
    steps, trajectories = table(os.path.join(folder, "merged"), "steps"), table(os.path.join(folder, "merged"), "trajectories")
    check(same(column(steps, "observation")[1], np.concatenate([one[0].astype(np.float64), two[0]])), "merged: observations, widened")
    check(same(column(steps, "reward")[1], np.concatenate([one[2].astype(np.float64), two[2]])), "merged: rewards, widened")
    check(trajectories["source"].to_pylist() == ["first"] * 2 + ["second"] * 3, f"merged: sources {trajectories['source'].to_pylist()}")
    check(len(set(trajectories["uid"].to_pylist())) == 5, "merged: identities")
    check("nothing to do" in trajmill("run", pipeline).stderr, "merged: nothing to do")
    check(not [left for left in os.listdir(folder) if "staging" in left], "merged: no staging is left")
    with h5py.File(first, "r+") as file:
        file["rewards"][0] = 7
    changed = run("run", pipeline)
    check(changed.returncode == 1 and "source 1" in changed.stderr, f"merged: a changed source is named: {changed.stderr}")
    # A dataset of ours under other names.
    renamed = os.path.join(folder, "renamed.yaml")
    open(renamed, "w").write("trajmill: 1\nsource: {path: made, map: {score: note}}\nstages:\n  - materialise: {path: renamed}\n")
    trajmill("run", renamed)
    check(same(column(table(os.path.join(folder, "renamed"), "steps"), "score")[1], column(table(made.path, "steps"), "note")[1]), "renamed: values")
    check(table(os.path.join(folder, "renamed"), "trajectories")["uid"].to_pylist() == table(made.path, "trajectories")["uid"].to_pylist(), "renamed: uid")

def validated(folder, made):
    fine = run("validate", made.path, "--json")
    found = json.loads(fine.stdout)
    check(fine.returncode == 0 and found["valid"] and found["trajectories"] == len(made.lengths), f"a good dataset: {fine.stdout}")
    shard = os.path.join(folder, "flipped")
    shutil.copytree(made.path, shard)
    path = os.path.join(shard, "steps", "00000.parquet")
    data = bytearray(open(path, "rb").read())
    data[100] ^= 4
    open(path, "wb").write(data)
    flipped = run("validate", shard, "--json")
    check(flipped.returncode == 4 and json.loads(flipped.stdout)["faults"][0]["rule"] == "checksum", f"a flipped byte: {flipped.stdout}")
    path = os.path.join(folder, "faulty.hdf5")
    obs = np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)
    def faults(**changes):
        arrays = {"observations": obs, "actions": obs[::-1].copy(), "rewards": np.zeros(6, np.float32), "terminals": np.arange(6) % 3 == 2} | changes
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
        done = run("validate", path, "--json")
        found = json.loads(done.stdout)
        check((done.returncode == 4) == (found["errors"] > 0), "the exit code says whether there are errors")
        return {fault["rule"] for fault in found["faults"]}
    check(faults() == {"no-finals"}, f"nothing but what D4RL lacks: {faults()}")
    bad = obs[::-1].copy()
    bad[1, 0] = np.nan
    check(faults(actions=bad) == {"no-finals", "nan-action"}, "NaN actions")
    check(faults(actions=obs) == {"no-finals", "copied-state"}, "states copied into actions")
    check(faults(actions=np.concatenate([obs[1:], obs[:1]])) == {"no-finals", "copied-state"}, "next states copied into actions")
    check("unreadable" in faults(rewards=np.zeros(5, np.float32)), "wrong counts")
    open(path, "r+b").truncate(1500)
    check(run("validate", path).returncode == 4, "a file cut short")

def validated_groups(folder):
    """Minari and robomimic, by the rules of their loaders that reading alone does not show."""
    def faults(path, code=4):
        done = run("validate", path, "--json")
        found = {fault["rule"] for fault in json.loads(done.stdout)["faults"] if fault["error"]}
        check(done.returncode == code and bool(found) == (code == 4), f"{path}: {done.returncode} {done.stdout}")
        return found
    good = minari_files(folder, "valid", [3, 4])
    faults(good, code=0)
    metadata = os.path.join(good, "data", "metadata.json")
    said = json.load(open(metadata))
    for rule, change in [
        ("version", {"minari_version": "0.9.0"}), ("total-steps", {"total_steps": 70}), ("space", {"action_space": "Box"}), ("dataset-id", {"dataset_id": None}),
        ("unreadable", {"total_episodes": 3}), ("total-episodes", {"total_episodes": 1, "total_steps": 3}), ("space", {"observation_space": None}),
    ]:
        json.dump({key: value for key, value in (said | change).items() if value is not None}, open(metadata, "w"))
        check(rule in faults(good), f"minari: {rule}")
    json.dump(said, open(metadata, "w"))
    with h5py.File(os.path.join(good, "data", "main_data.hdf5"), "r+") as file:
        file["episode_1/actions"][2] = np.nan
    check(faults(good) == {"nan-action"}, "minari: NaN actions")
    path = os.path.join(folder, "valid.hdf5")
    def demos(**change):
        with h5py.File(path, "w") as file:
            data = file.create_group("data")
            data.attrs.update({"total": 5, "env_args": json.dumps({"env_name": "Lift", "type": 1})} | {key: value for key, value in change.items() if key in ("total", "env_args")})
            for index, length in enumerate([2, 3]):
                demo = data.create_group(f"demo_{index}")
                if (samples := change.get("samples", length)) is not None:
                    demo.attrs["num_samples"] = samples
                demo["obs/eef"], demo["next_obs/eef"] = np.ones((length, 2)), np.ones((length, 2))
                demo["actions"] = np.full((length, 1), change.get("action", 0.5))
                demo["rewards"], demo["dones"] = np.zeros(length), np.arange(length) == length - 1
        return path
    faults(demos(), code=0)
    for rule, change in [("total", {"total": 6}), ("env-args", {"env_args": "Lift"}), ("num-samples", {"samples": None}), ("unreadable", {"samples": 9}), ("action-range", {"action": 1.5})]:
        check(faults(demos(**change)) == {rule}, f"robomimic: {rule}")

def differences(folder, made):
    other = os.path.join(folder, "other.yaml")
    open(other, "w").write("""trajmill: 1
source: made
stages:
  - filter: length > 1
  - derive: { reward: "reward + 1", extra: "reward * 2" }
  - materialise: { path: other }
""")
    trajmill("run", other)
    found = json.loads(trajmill("diff", made.path, os.path.join(folder, "other"), "--json").stdout)
    kept = [length for length in made.lengths if length > 1]
    check(found["trajectories"] == {"only_first": 1, "only_second": 0, "same": 0, "changed": len(kept)}, f"diff: {found['trajectories']}")
    check(found["added"] == ["extra"] and found["removed"] == [], "diff: columns")
    check(found["changed_rows"] == {"reward": sum(kept)}, f"diff: {found['changed_rows']}")
    check(found["provenance"] == {"recorded → recorded": sum(kept)}, "diff: provenance")
    # Actions moved by known amounts.
    moved, source = os.path.join(folder, "moved"), os.path.join(folder, "made.parquet")
    rows = pq.read_table(source)
    action = [None if value is None else [value[0] + 0.25, value[1]] for value in rows["action"].to_pylist()]
    index = rows.column_names.index("action")
    pq.write_table(rows.set_column(index, "action", pa.array(action, type=rows["action"].type)), os.path.join(folder, "moved.parquet"))
    trajmill("import", os.path.join(folder, "moved.parquet"), moved, "--map", "trajectory_id=episode")
    # Other bytes, so other identities: nothing is compared.
    found = json.loads(trajmill("diff", made.path, moved, "--json").stdout)
    check(found["trajectories"]["only_first"] == len(made.lengths), "diff: identity is that of the source's bytes")
    same_ids = os.path.join(folder, "same.yaml")
    open(same_ids, "w").write("trajmill: 1\nsource: made\nstages:\n  - hide_actions: { keep: 0, from: { lowest: 1.0, by: return } }\n  - materialise: { path: hidden }\n")
    trajmill("run", same_ids)
    found = json.loads(trajmill("diff", made.path, os.path.join(folder, "hidden"), "--json").stdout)
    check(found["provenance"] == {"recorded → missing": sum(made.lengths)}, f"diff: hidden actions: {found['provenance']}")
    text = trajmill("diff", made.path, made.path).stdout
    check("4 the same, 0 changed" in text, f"diff: nothing: {text}")

def many(folder):
    """Ten thousand trajectories, some of length 1, ids not dense."""
    lengths = np.random.default_rng(12).integers(1, 6, 10_000)
    made = Made(folder, "many", 12, lengths.tolist(), obs=2, act=1, extras=False)
    out = os.path.join(folder, "many-minari")
    trajmill("export", made.path, out, "--to", "minari")
    with h5py.File(os.path.join(out, "data", "main_data.hdf5")) as file:
        check(len(file) == 10_000, "many: groups")
        for index in [0, 1, 99, 4_999, 9_999]:
            check(same(h5(file, f"episode_{index}/observations"), made.episodes[index]["observation"]), "many: observations")
    back = os.path.join(folder, "many-back")
    trajmill("import", out, back)
    same_dataset(made.path, back, "many")

def main():
    with tempfile.TemporaryDirectory() as folder:
        made = Made(folder, "made", 1, [5, 1, 4, 7])
        round_trips(folder, made)
        materialised(folder, made)
        round_trips(folder, Made(folder, "double", 2, [3, 2], dtype=np.float64))
        round_trips(folder, Made(folder, "open", 3, [4, 3, 6, 2], final=[True, False, True, False]))
        unlabelled(folder)
        from_minari(folder)
        from_robomimic(folder)
        from_exorl(folder)
        long_episode(folder)
        quarantined(folder)
        piped(folder, made)
        validated(folder, made)
        validated_groups(folder)
        differences(folder, made)
        many(folder)
    print(f"{CHECKS} checks of export passed")

if __name__ == "__main__":
    main()
