"""Loaders of trainers read what trajmill writes, and trajmill reads what they write.

Where their own conversions go wrong, trajmill's do not. Minari is always installed; d3rlpy, D4RL,
OGBench, robomimic and datasets are in tests/requirements-all.txt and tests/requirements-alone.txt.
"""

import ast
import collections
import importlib.util
import os
import shutil

import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, same, table, trajmill
from oracle import valid_rows as column
from writers.minari import dataset
from writers.ours import Made

# --- Minari


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """The folder where Minari looks for datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "minari").mkdir()
    return tmp_path / "minari"


def test_a_merge_keeps_what_minari_loses(sets, tmp_path):
    """`combine_datasets` restores filtered episodes and forgets seeds; trajmill does neither."""
    first, one = dataset("one-v0", [3, 5], 1)
    second, two = dataset("two-v0", [4, 2], 2)
    few = minari.load_dataset("one-v0").filter_episodes(lambda episode: len(episode.rewards) > 3)
    check(few.total_episodes == 1, "Minari's filter")
    theirs = minari.combine_datasets([few, minari.load_dataset("two-v0")], "both-v0")
    check(
        theirs.total_episodes == 4,
        f"Minari combines what it had filtered out: {theirs.total_episodes}",
    )
    check(
        all(
            "seed" not in said or said["seed"] is None
            for said in theirs.storage.get_episode_metadata(range(4))
        ),
        "Minari forgets seeds",
    )
    stages = [
        {"filter": "source <> 'one-v0' or length > 3"},
        {
            "materialise": {
                "path": str(sets / "ours-v0"),
                "format": "minari",
                "with": {"name": "ours-v0"},
            }
        },
    ]
    trajmill(
        "run",
        oracle.pipeline(
            tmp_path / "both.yaml",
            [{"path": path, "format": "minari"} for path in (one, two)],
            stages,
        ),
    )
    ours = minari.load_dataset("ours-v0")
    wanted = [first[1], *second]
    check(
        ours.total_episodes == 3 and ours.total_steps == 11,
        f"three episodes are merged: {ours.total_episodes}",
    )
    check(
        [said["seed"] for said in ours.storage.get_episode_metadata(range(3))] == [101, 100, 101],
        "seeds survive",
    )
    for episode, buffer in zip(ours.iterate_episodes(), wanted, strict=True):
        check(
            np.array_equal(episode.observations, buffer.observations)
            and np.array_equal(episode.actions, buffer.actions),
            "values of a merge",
        )


@pytest.mark.parametrize("backend", ["parquet", "arrow"])
def test_long_episodes_that_minari_cuts_are_imported_whole(sets, tmp_path, backend):
    """Its Parquet and Arrow backends read 32 767 rows; the file holds all of them."""
    made, source = dataset("long-v0", [40_000, 3], 3, backend)
    theirs = next(minari.load_dataset("long-v0").iterate_episodes([0]))
    check(
        len(theirs.observations) < 40_000,
        f"Minari reads {len(theirs.observations)} rows of 40 001 from {backend}",
    )
    trajmill("import", source, tmp_path / "long")
    found = column(table(tmp_path / "long"), "observation")[1]
    check(
        same(found, np.concatenate([buffer.observations for buffer in made])),
        f"every row of {backend}",
    )


# --- D4RL


def d4rl_functions():
    """D4RL's functions for transitions and episodes, without the simulators that it imports."""
    source = importlib.util.find_spec("d4rl").origin
    wanted = {"qlearning_dataset", "sequence_dataset"}
    tree = ast.parse(open(source).read())
    tree.body = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted
    ]
    space = {"np": np, "collections": collections}
    exec(compile(tree, source, "exec"), space)
    return space


class Environment:
    """What those functions ask of an environment."""

    def __init__(self, path, steps=1000):
        self._max_episode_steps = steps
        with h5py.File(path) as file:
            self.data = {}
            file.visititems(
                lambda name, node: (
                    self.data.__setitem__(name, node[()])
                    if isinstance(node, h5py.Dataset)
                    else None
                )
            )

    def get_dataset(self):
        return self.data


@pytest.mark.reference("d4rl")
def test_d4rl_makes_transitions_and_episodes_of_an_export(tmp_path):
    functions = d4rl_functions()
    made = Made(tmp_path, "d4rl", 41, [5, 1, 4, 7, 6, 3])
    out = os.path.join(tmp_path, "set.hdf5")
    trajmill("export", made.path, out, "--to", "d4rl")
    found = functions["qlearning_dataset"](Environment(out))
    rows = [
        (episode, row)
        for episode, length in zip(made.episodes, made.lengths)
        for row in range(length)
    ]
    # D4RL leaves out the last row of all, and every row that is cut off.
    kept = [
        (episode, row)
        for episode, row in rows[:-1]
        if episode["terminated"] or row + 1 < len(episode["action"])
    ]
    check(
        len(found["rewards"]) == len(kept), f"transitions: {len(found['rewards'])}, not {len(kept)}"
    )
    check(
        same(
            found["observations"], np.array([episode["observation"][row] for episode, row in kept])
        ),
        "qlearning_dataset: observations",
    )
    check(
        same(found["actions"], np.array([episode["action"][row] for episode, row in kept])),
        "qlearning_dataset: actions",
    )
    check(
        same(found["rewards"], np.array([episode["reward"][row] for episode, row in kept])),
        "qlearning_dataset: rewards",
    )
    ends = np.array(
        [episode["terminated"] and row + 1 == len(episode["action"]) for episode, row in kept]
    )
    check(np.array_equal(found["terminals"], ends), "qlearning_dataset: terminals")
    inside = [at for at, (episode, row) in enumerate(kept) if not ends[at]]
    check(
        same(
            found["next_observations"][inside],
            np.array([kept[at][0]["observation"][kept[at][1] + 1] for at in inside]),
        ),
        "qlearning_dataset: next observations",
    )
    # What we keep under metadata/ is not cut up with the steps.
    episodes = list(functions["sequence_dataset"](Environment(out)))
    check(
        [len(episode["rewards"]) for episode in episodes] == made.lengths,
        "sequence_dataset: lengths",
    )
    check(
        all(
            same(episode["actions"], wanted["action"])
            for episode, wanted in zip(episodes, made.episodes)
        ),
        "sequence_dataset: actions",
    )


# --- d3rlpy


def load(path):
    from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer

    with open(path, "rb") as file:
        return ReplayBuffer.load(file, InfiniteBuffer())


@pytest.mark.reference("d3rlpy")
@pytest.mark.parametrize("discrete", [False, True])
def test_d3rlpy_loads_an_export_and_its_dump_is_imported(tmp_path, discrete):
    # A single step that ends nothing is no transition, and d3rlpy leaves it out.
    made = Made(tmp_path, "made", 42, [1, 5, 4, 7], discrete=discrete)
    out = os.path.join(tmp_path, "set.h5")
    trajmill("export", made.path, out, "--to", "d3rlpy")
    buffer = load(out)
    check(
        len(buffer.episodes) == 4 and buffer.dataset_info.observation_signature.shape[0] == (3,),
        f"d3rlpy: {buffer.dataset_info}",
    )
    check(
        buffer.dataset_info.action_space.name == ("DISCRETE" if discrete else "CONTINUOUS"),
        "d3rlpy: the kind of actions",
    )
    for episode, wanted, length in zip(buffer.episodes, made.episodes, made.lengths, strict=True):
        check(same(episode.observations, wanted["observation"][:length]), "d3rlpy: observations")
        check(same(episode.actions, wanted["action"].reshape(length, -1)), "d3rlpy: actions")
        check(same(episode.rewards, wanted["reward"].reshape(length, 1)), "d3rlpy: rewards")
        check(episode.terminated == wanted["terminated"], "d3rlpy: ends")
    check(
        buffer.transition_count
        == sum(
            length - (not episode["terminated"])
            for length, episode in zip(made.lengths, made.episodes)
        ),
        "d3rlpy: transitions",
    )
    check(buffer.sample_transition_batch(8).observations.shape == (8, 3), "d3rlpy: a batch")
    # Dumped by d3rlpy, read by us.
    dump = os.path.join(tmp_path, "dump.h5")
    with open(dump, "w+b") as file:
        buffer.dump(file)
    back = os.path.join(tmp_path, "dump")
    trajmill("import", dump, back)
    steps = table(back)
    check(
        same(
            column(steps, "observation")[1],
            np.concatenate(
                [
                    episode["observation"][:length]
                    for episode, length in zip(made.episodes, made.lengths)
                ]
            ),
        ),
        "a dump: observations",
    )
    check(
        same(
            column(steps, "action")[1],
            np.concatenate([episode["action"] for episode in made.episodes]),
        ),
        "a dump: actions",
    )
    check(
        table(back, "trajectories")["terminated"].to_pylist()
        == [episode["terminated"] for episode in made.episodes],
        "a dump: ends",
    )


@pytest.mark.reference("d3rlpy")
def test_minari_reaches_d3rlpy_with_observations_by_their_actions(sets, tmp_path):
    """d3rlpy's own import of Minari shifts the observations of episode k by k rows."""
    import d3rlpy

    made, source = dataset("shift-v0", [4, 3, 5], 4, env="Pendulum-v1", width=3)
    theirs, _ = d3rlpy.datasets.get_minari("shift-v0")
    check(
        not np.allclose(theirs.episodes[1].observations, made[1].observations[:3]),
        "d3rlpy's import is right by now: say so in schemas/formats.md",
    )
    trajmill("import", source, os.path.join(tmp_path, "shift"))
    out = os.path.join(tmp_path, "shift.h5")
    trajmill("export", os.path.join(tmp_path, "shift"), out, "--to", "d3rlpy")
    for episode, buffer in zip(load(out).episodes, made, strict=True):
        check(
            np.array_equal(episode.observations, buffer.observations[:-1])
            and np.array_equal(episode.actions, buffer.actions),
            "observations by their actions",
        )


# --- OGBench


@pytest.mark.reference("ogbench")
def test_ogbench_loads_an_export(tmp_path):
    from ogbench.utils import load_dataset

    made = Made(tmp_path, "ogbench", 43, [5, 1, 4, 7], final=[True, True, False, True])
    out = os.path.join(tmp_path, "set.npz")
    trajmill("export", made.path, out, "--to", "ogbench")
    regular = load_dataset(out, ob_dtype=np.float32, action_dtype=np.float32)
    observations = [
        episode["observation"][:length] for episode, length in zip(made.episodes, made.lengths)
    ]
    following = [
        np.concatenate([episode["observation"][1:], episode["observation"][-1:]])[:length]
        for episode, length in zip(made.episodes, made.lengths)
    ]
    check(same(regular["observations"], np.concatenate(observations)), "ogbench: observations")
    check(
        same(regular["next_observations"], np.concatenate(following)), "ogbench: next observations"
    )
    check(
        same(regular["actions"], np.concatenate([episode["action"] for episode in made.episodes])),
        "ogbench: actions",
    )
    check(
        np.array_equal(np.flatnonzero(regular["terminals"]), np.cumsum(made.lengths) - 1),
        "ogbench: terminals",
    )
    compact = load_dataset(out, ob_dtype=np.float32, action_dtype=np.float32, compact_dataset=True)
    check(
        compact["valids"].sum() == sum(made.lengths)
        and len(compact["observations"]) == sum(made.lengths) + 4,
        "ogbench: compact",
    )


# --- robomimic


@pytest.mark.reference("robomimic")
def test_robomimic_loads_an_export_with_cameras(tmp_path):
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    made = Made(tmp_path, "robomimic", 44, [5, 2, 4, 7])
    # What a camera saw is a column of its own, which the loader finds among the observations.
    rows = pq.read_table(os.path.join(tmp_path, "robomimic.parquet"))
    saw = np.random.default_rng(7).integers(0, 256, (len(rows), 12), dtype=np.uint8)
    rows = rows.append_column("observation.images.top", pa.array(list(saw), pa.list_(pa.uint8())))
    # Whose array would have the same name.
    rows = rows.append_column("observation.images/top", pa.array(np.arange(len(rows))))
    pq.write_table(rows, os.path.join(tmp_path, "cameras.parquet"))
    ours, out = os.path.join(tmp_path, "cameras"), os.path.join(tmp_path, "set.hdf5")
    trajmill(
        "import", os.path.join(tmp_path, "cameras.parquet"), ours, "--map", "trajectory_id=episode"
    )
    trajmill("export", ours, out, "--to", "robomimic", "--env", "Made-v0")
    obs_utils.initialize_obs_utils_with_obs_specs(
        {"obs": {"low_dim": ["observation", "images.top"]}}
    )
    dataset = SequenceDataset(
        hdf5_path=out,
        obs_keys=("observation", "images.top"),
        dataset_keys=("actions", "rewards", "dones"),
        frame_stack=1,
        seq_length=1,
        pad_frame_stack=True,
        pad_seq_length=True,
        get_pad_mask=False,
        goal_mode=None,
        hdf5_cache_mode=None,
        hdf5_use_swmr=True,
        load_next_obs=True,
    )
    check(len(dataset) == sum(made.lengths), f"robomimic: {len(dataset)} steps")
    items = [dataset[index] for index in range(len(dataset))]
    both = lambda key, of: same(np.concatenate([key(item) for item in items]), np.concatenate(of))
    check(
        both(
            lambda item: item["obs"]["observation"],
            [episode["observation"][:-1] for episode in made.episodes],
        ),
        "robomimic: observations",
    )
    check(
        both(
            lambda item: item["next_obs"]["observation"],
            [episode["observation"][1:] for episode in made.episodes],
        ),
        "robomimic: next observations",
    )
    last = np.cumsum([length + 1 for length in made.lengths]) - 1
    check(
        both(lambda item: item["obs"]["images.top"], [np.delete(saw, last, 0)]),
        "robomimic: cameras",
    )
    check(
        both(
            lambda item: item["next_obs"]["images.top"],
            [np.delete(saw, np.append(0, last[:-1] + 1), 0)],
        ),
        "robomimic: cameras, next",
    )
    trajmill("import", out, os.path.join(tmp_path, "back"))
    back = table(os.path.join(tmp_path, "back"))
    check(back["observation.images.top"].to_pylist() == saw.tolist(), "robomimic: cameras and back")
    check(
        back["observation.images/top"].to_pylist() == list(range(len(rows))),
        "robomimic: a column of nearly the same name and back",
    )
    check(
        both(lambda item: item["actions"], [episode["action"] for episode in made.episodes]),
        "robomimic: actions",
    )
    check(
        both(lambda item: item["rewards"], [episode["reward"] for episode in made.episodes]),
        "robomimic: rewards",
    )


# --- datasets


@pytest.mark.reference("datasets")
def test_datasets_loads_plain_parquet_and_the_steps_of_a_dataset(tmp_path):
    import datasets

    made = Made(tmp_path, "datasets", 45, [5, 1, 400])
    out = os.path.join(tmp_path, "plain")
    trajmill("export", made.path, out, "--to", "parquet")
    for place in [out, os.path.join(made.path, "steps")]:
        files = sorted(
            os.path.join(place, name) for name in os.listdir(place) if name.endswith(".parquet")
        )
        found = datasets.load_dataset(
            "parquet", data_files=files, split="train", cache_dir=os.path.join(tmp_path, "cache")
        )
        check(len(found) == sum(made.lengths) + 3, "datasets: rows")
        observations = np.array(found["observation"], np.float32)
        check(
            same(
                observations, np.concatenate([episode["observation"] for episode in made.episodes])
            ),
            "datasets: observations",
        )
        actions = [action for action in found["action"] if action is not None]
        check(
            same(
                np.array(actions, np.float32),
                np.concatenate([episode["action"] for episode in made.episodes]),
            ),
            "datasets: actions",
        )

# --- What trajmill adds


@pytest.fixture(scope="module")
def labelled(shared):
    """Recorded actions, and labels of a model."""
    shutil.copy(oracle.MODELS / "gaussian.onnx", shared)
    Made(shared, "recorded", 45, [5, 4, 7, 6])
    hide = {"hide_actions": {"keep": 0.5, "from": {"lowest": 1.0, "by": "length"}, "seed": 2}}
    label = {
        "label": {"model": "gaussian.onnx", "window": {"past": 1, "future": 1, "edge": "repeat"}}
    }
    stages = [hide, label, {"materialise": {"path": "labelled"}}]
    trajmill("run", oracle.pipeline(shared / "labelled.yaml", "recorded", stages))
    check(table(shared / "labelled")["action_model"].null_count > 0, "recorded and predicted")
    return shared / "labelled"


def exported(dataset, folder, form, ending):
    out = os.path.join(folder, f"set.{ending}")
    said = trajmill("export", dataset, out, "--to", form).stderr
    check("trajmill.action_model" in said, f"{form}: the codes are named: {said}")
    return out, actions_of(dataset)


def actions_of(dataset):
    """The actions of each trajectory."""
    steps = table(dataset)
    steps = steps.filter(pa.compute.invert(steps["is_final"]))
    ids = steps["trajectory_id"].to_numpy()
    actions = column(steps, "action")[1]
    return [actions[ids == id] for id in dict.fromkeys(ids)]


@pytest.mark.model
@pytest.mark.reference("d4rl")
def test_d4rl_takes_no_code_of_a_model_for_data(labelled, tmp_path):
    functions = d4rl_functions()
    out, actions = exported(labelled, tmp_path, "d4rl", "hdf5")
    found = functions["qlearning_dataset"](Environment(out))
    known = {"observations", "actions", "next_observations", "rewards", "terminals"}
    check(set(found) == known and found["actions"].shape[1] == 2, f"{set(found)}")
    episodes = list(functions["sequence_dataset"](Environment(out)))
    ours = {name for name in episodes[0] if name.endswith("action_model")}
    check(ours == {"infos/trajmill.action_model"}, f"only among the infos: {ours}")
    for episode, wanted in zip(episodes, actions, strict=True):
        check(same(episode["actions"], wanted), "sequence_dataset: actions")


@pytest.mark.model
@pytest.mark.reference("d3rlpy")
def test_d3rlpy_takes_no_code_of_a_model_for_data(labelled, tmp_path):
    out, actions = exported(labelled, tmp_path, "d3rlpy", "h5")
    buffer = load(out)
    info = buffer.dataset_info
    check(info.action_size == 2 and info.observation_signature.shape[0] == (3,), f"{info}")
    for episode, wanted in zip(buffer.episodes, actions, strict=True):
        check(same(episode.actions, wanted), "d3rlpy: actions")


@pytest.mark.model
@pytest.mark.reference("ogbench")
def test_ogbench_takes_no_code_of_a_model_for_data(labelled, tmp_path):
    from ogbench.utils import load_dataset

    out, actions = exported(labelled, tmp_path, "ogbench", "npz")
    found = load_dataset(out, ob_dtype=np.float32, action_dtype=np.float32)
    known = {"observations", "actions", "next_observations", "terminals"}
    check(set(found) == known, f"ogbench: {set(found)}")
    check(same(found["actions"], np.concatenate(actions)), "ogbench: actions")


@pytest.mark.model
@pytest.mark.reference("robomimic")
def test_robomimic_takes_no_code_of_a_model_for_data(labelled, tmp_path):
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    out, actions = exported(labelled, tmp_path, "robomimic", "hdf5")
    with h5py.File(out) as file:
        demos = [file[f"data/demo_{index}"] for index in range(len(file["data"]))]
        check(all(list(demo["obs"]) == ["observation"] for demo in demos), "robomimic: obs")
        check(
            all(len(demo["trajmill.action_model"]) >= len(demo["actions"]) for demo in demos),
            "the codes stand beside them",
        )
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["observation"]}})
    dataset = SequenceDataset(
        hdf5_path=out,
        obs_keys=("observation",),
        dataset_keys=("actions", "rewards", "dones"),
        frame_stack=1,
        seq_length=1,
        pad_frame_stack=True,
        pad_seq_length=True,
        get_pad_mask=False,
        goal_mode=None,
        hdf5_cache_mode=None,
        hdf5_use_swmr=True,
    )
    items = [dataset[index] for index in range(len(dataset))]
    found = np.concatenate([item["actions"] for item in items])
    scale = np.maximum(np.abs(np.concatenate(actions)).max(axis=0), 1)
    check(np.allclose(found * scale, np.concatenate(actions)), "robomimic: actions")
    known = {"obs", "next_obs", "actions", "rewards", "dones"}
    check(set(items[0]) <= known, f"robomimic: {set(items[0])}")
