"""Datasets that Minari, robomimic and ExORL write, by episode, are imported and exported again."""

import json
import os

import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from oracle import check, same, table, trajmill
from oracle import valid_rows as column

# --- Minari

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)
# Spaces of observations and of actions, and values in them.
SPACES = {
    "box": (
        BOX,
        spaces.Discrete(4),
        lambda random, n: random.normal(size=(n, 3)),
        lambda random, n: random.integers(0, 4, n),
    ),
    "dict": (
        spaces.Dict({"arm": BOX, "goal": spaces.Box(0, 1, (2, 2), np.float32)}),
        spaces.Box(-1, 1, (2,), np.float32),
        lambda random, n: {
            "arm": random.normal(size=(n, 3)),
            "goal": random.uniform(size=(n, 2, 2)).astype(np.float32),
        },
        lambda random, n: random.uniform(-1, 1, (n, 2)).astype(np.float32),
    ),
    "tuple": (
        spaces.Tuple((BOX, spaces.Discrete(3))),
        spaces.Box(-1, 1, (1,), np.float32),
        lambda random, n: (random.normal(size=(n, 3)), random.integers(0, 3, n)),
        lambda random, n: random.uniform(-1, 1, (n, 1)).astype(np.float32),
    ),
}


class Written:
    """A dataset by Minari's own writer, with infos, seeds and options, and the episodes in it."""

    def __init__(self, folder, kind, backend):
        random = np.random.default_rng(3)
        self.observation_space, self.action_space, observe, act = SPACES[kind]
        self.buffers = []
        for index, length in enumerate([4, 1, 300]):
            self.buffers.append(
                EpisodeBuffer(
                    id=index,
                    seed=index + 11 if index != 1 else None,
                    options={"level": index, "deep": {"x": 1.5}} if index == 0 else None,
                    observations=observe(random, length + 1),
                    actions=act(random, length),
                    rewards=list(random.normal(size=length)),
                    terminations=[row + 1 == length and index == 0 for row in range(length)],
                    truncations=[row + 1 == length and index > 0 for row in range(length)],
                    infos={
                        "x": random.normal(size=length + 1),
                        "inner": {"y": random.normal(size=(length + 1, 2))},
                    },
                )
            )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINARI_DATASETS_PATH", str(folder))
            minari.create_dataset_from_buffers(
                "test/set-v0",
                buffer=list(self.buffers),
                observation_space=self.observation_space,
                action_space=self.action_space,
                data_format=backend,
                algorithm_name="made",
                code_permalink="none",
                author="a",
                author_email="b@c.de",
                description="d",
            )
        self.path = folder / "test" / "set-v0"


@pytest.fixture(
    scope="module",
    params=[f"{kind}-{backend}" for kind in SPACES for backend in ("hdf5", "arrow", "parquet")],
)
def written(request, tmp_path_factory):
    """A dataset that Minari wrote, and what it was imported to."""
    folder = tmp_path_factory.mktemp("minari")
    written = Written(folder, *request.param.split("-"))
    trajmill("import", written.path, folder / "made")
    return written, folder / "made"


def test_minari_is_imported_value_by_value(written):
    written, made = written
    steps, trajectories = table(made), table(made, "trajectories")
    check(trajectories["seed"].to_pylist() == [11, None, 13], "seeds")
    check(
        json.loads(trajectories["options"].to_pylist()[0]) == {"level": 0, "deep": {"x": 1.5}},
        "options",
    )
    check(trajectories["terminated"].to_pylist() == [True, False, False], "terminated")
    start = 0
    for buffer in written.buffers:
        n = len(buffer.rewards)
        part = steps.slice(start, n + 1)
        start += n + 1
        check(part["is_final"].to_pylist() == [False] * n + [True], "final rows")
        check(np.array_equal(part["reward"].to_numpy()[:n], buffer.rewards), "rewards")
        valid, found = column(part, "action")
        check(
            valid.tolist() == [True] * n + [False]
            and np.array_equal(found.reshape(buffer.actions.shape), buffer.actions),
            "actions",
        )
        _, found = column(part, "observation")
        wanted = buffer.observations
        wanted = (
            [wanted[key] for key in sorted(wanted)]
            if isinstance(wanted, dict)
            else list(wanted)
            if isinstance(wanted, tuple)
            else wanted
        )
        if isinstance(wanted, list):
            check(
                all(same(f.reshape(w.shape), w) for f, w in zip(found, wanted, strict=True)),
                "observations",
            )
        else:
            check(same(found, wanted), "observations")
        check(same(column(part, "infos/x")[1], buffer.infos["x"]), "infos")
        check(same(column(part, "infos/inner/y")[1], buffer.infos["inner"]["y"]), "nested infos")


def test_minari_reads_after_both_ways_what_it_read_before(written, tmp_path, monkeypatch):
    written, made = written
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (tmp_path / "back").mkdir()
    trajmill(
        "export", made, tmp_path / "back" / "set-v0", "--to", "minari", "--name", "back/set-v0"
    )
    back = minari.load_dataset("back/set-v0")
    check(back.action_space == written.action_space, "the action space survives")
    check(back.total_episodes == len(written.buffers), "episodes after both ways")
    for episode, buffer in zip(back.iterate_episodes(), written.buffers, strict=True):
        check(tree_equal(episode.observations, buffer.observations), "observations after both ways")
        check(np.array_equal(episode.actions, buffer.actions), "actions after both ways")
        check(
            np.array_equal(episode.infos["inner"]["y"], buffer.infos["inner"]["y"]),
            "infos after both ways",
        )
    metadata = list(back.storage.get_episode_metadata([0, 1]))
    check(
        metadata[0]["seed"] == 11 and metadata[0]["options"] == {"level": 0, "deep": {"x": 1.5}},
        "seed and options after both ways",
    )


def test_a_missing_file_of_minari_is_named(tmp_path):
    written = Written(tmp_path, "box", "hdf5")
    os.remove(written.path / "data" / "main_data.hdf5")
    broken = trajmill("import", written.path, tmp_path / "broken", code=1)
    check("main_data.hdf5" in broken.stderr, broken.stderr)


def tree_equal(a, b):
    if isinstance(b, dict):
        return set(a) == set(b) and all(tree_equal(a[key], b[key]) for key in b)
    if isinstance(b, tuple):
        return len(a) == len(b) and all(tree_equal(x, y) for x, y in zip(a, b))
    return np.array_equal(a, b)


def test_a_long_episode_of_the_parquet_backend_is_imported_whole(tmp_path):
    """Minari itself cuts what is longer than 32 767 rows when it reads it."""
    source = os.path.join(tmp_path, "whole")
    metadata = {
        "total_episodes": 1,
        "total_steps": 40_000,
        "data_format": "parquet",
        "dataset_id": "a/b-v0",
        "minari_version": "0.5.0",
    }
    os.makedirs(os.path.join(source, "data", "0"))
    rewards = np.arange(40_001, dtype=np.float64)
    pq.write_table(
        pa.table(
            {
                "observations": pa.FixedSizeListArray.from_arrays(rewards, 1),
                "actions": pa.FixedSizeListArray.from_arrays(rewards, 1),
                "rewards": rewards,
                "terminations": np.zeros(40_001, bool),
                "truncations": np.zeros(40_001, bool),
            }
        ),
        os.path.join(source, "data", "0", "part-0.parquet"),
    )
    json.dump(metadata, open(os.path.join(source, "data", "metadata.json"), "w"))
    json.dump(
        {"id": 0, "total_steps": 40_000},
        open(os.path.join(source, "data", "0", "metadata.json"), "w"),
    )
    trajmill("import", source, os.path.join(tmp_path, "made"))
    check(table(tmp_path / "made").num_rows == 40_001, "rows")


# --- robomimic


def test_robomimic_is_imported_and_goes_back(tmp_path):
    path = os.path.join(tmp_path, "demo.hdf5")
    random = np.random.default_rng(4)
    demos = {"demo_1": 5, "demo_2": 1, "demo_10": 3}
    arrays = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update(
            {"total": 9, "env_args": json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})}
        )
        for name, length in demos.items():
            demo = data.create_group(name)
            demo.attrs.update({"num_samples": length, "model_file": "<mujoco>" + "x" * 70_000})
            obs = {
                key: random.normal(size=(length + 1, width))
                for key, width in [("eef", 3), ("object", 4)]
            }
            arrays[name] = obs, random.uniform(-1, 1, (length, 2))
            for key, found in obs.items():
                demo[f"obs/{key}"], demo[f"next_obs/{key}"] = found[:-1], found[1:]
            demo["actions"], demo["rewards"] = arrays[name][1], np.zeros(length)
            demo["states"] = np.full((length, 2 + length), float(length))
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
        file["mask/train"] = np.array(["demo_1", "demo_10"], dtype="S")
    made, out = os.path.join(tmp_path, "demos"), os.path.join(tmp_path, "demos.hdf5")
    trajmill("import", path, made)
    trajectories = table(made, "trajectories")
    check(trajectories["source_key"].to_pylist() == list(demos), "in the order of their numbers")
    check(trajectories["mask_train"].to_pylist() == [True, False, True], "masks")
    check(
        trajectories["length"].to_pylist() == [5, 1, 3]
        and trajectories["terminated"].to_pylist() == [True] * 3,
        "lengths and ends",
    )
    steps = table(made)
    # Simulator states are as wide as the scene is.
    states = [row for row in steps["states"].to_pylist() if row is not None]
    check(
        [len(row) for row in states] == [7] * 5 + [3] + [5] * 3 and states[5] == [1.0] * 3,
        "states of several widths",
    )
    valid, (eef, obj) = column(steps, "observation")
    check(
        same(eef, np.concatenate([obs["eef"] for obs, _ in arrays.values()])),
        "observations with the final one",
    )
    check(
        same(obj, np.concatenate([obs["object"] for obs, _ in arrays.values()])),
        "observations with the final one",
    )
    trajmill("export", made, out, "--to", "robomimic")
    with h5py.File(path) as one, h5py.File(out) as two:
        for index, name in enumerate(demos):
            for key in [
                "obs/eef",
                "obs/object",
                "next_obs/eef",
                "next_obs/object",
                "actions",
                "rewards",
            ]:
                check(
                    same(one[f"data/{name}/{key}"][()], two[f"data/demo_{index}/{key}"][()]),
                    f"{key} after both ways",
                )
            check(
                one[f"data/{name}"].attrs["model_file"]
                == two[f"data/demo_{index}"].attrs["model_file"],
                "the model",
            )
        check(
            [name.decode() for name in two["mask/train"][()]] == ["demo_0", "demo_2"],
            "masks after both ways",
        )
        check(
            json.loads(two["data"].attrs["env_args"])["env_name"] == "Lift",
            "env_args after both ways",
        )


# --- ExORL


def test_exorl_is_imported_with_actions_where_they_were_taken(tmp_path):
    source = os.path.join(tmp_path, "exorl")
    os.makedirs(source)
    random = np.random.default_rng(6)
    for index, length in enumerate([4, 2]):
        arrays = {
            "observation": random.normal(size=(length + 1, 3)).astype(np.float32),
            "action": random.normal(size=(length + 1, 2)).astype(np.float32),
            "reward": random.normal(size=(length + 1, 1)).astype(np.float32),
            "discount": np.ones((length + 1, 1), np.float32),
            "physics": random.normal(size=(length + 1, 5)),
        }
        arrays["action"][0] = 0
        if index == 1:
            arrays["discount"][-1] = 0
        np.savez(os.path.join(source, f"episode_{index:06d}_{length}.npz"), **arrays)
        last = arrays
    made = os.path.join(tmp_path, "exorl-made")
    trajmill("import", source, made)
    trajectories, steps = table(made, "trajectories"), table(made).slice(5)
    check(
        trajectories["length"].to_pylist() == [4, 2]
        and trajectories["terminated"].to_pylist() == [False, True],
        "lengths and ends",
    )
    check(
        same(column(steps, "action")[1], last["action"][1:]),
        "the action of row t+1 was taken in row t",
    )
    check(same(column(steps, "reward")[1], last["reward"][1:, 0]), "rewards")
    check(same(column(steps, "physics")[1], last["physics"]), "physics")
