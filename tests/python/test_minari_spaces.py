"""Minari's spaces survive an import and an export, and follow from the values where they must."""

import json

import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from oracle import check, pipeline, run, says, table, trajmill

LENGTHS = [4, 1, 6]
# Observation and action spaces, alone and in one another.
SPACES = {
    "text": (spaces.Text(12, min_length=1, charset="abc dé"), spaces.Discrete(3, start=-1)),
    "multi-discrete": (spaces.MultiDiscrete([5, 2, 9]), spaces.MultiDiscrete([3, 4])),
    "started": (spaces.MultiDiscrete([5, 2], start=[-2, 7]), spaces.MultiDiscrete([3], start=[1])),
    "grid": (spaces.MultiDiscrete([[2, 3], [4, 5]]), spaces.MultiBinary([2, 2])),
    "multi-binary": (spaces.MultiBinary(3), spaces.MultiBinary(2)),
    "stack": (spaces.Box(0, 255, (4, 12, 10), np.uint8), spaces.Box(-1, 1, (2, 2), np.float32)),
    "said": (spaces.Box(-1, 1, (2,), np.float32), spaces.Text(5, charset="xyz")),
    "nested": (
        spaces.Dict(
            {
                "image": spaces.Box(0, 255, (12, 10, 3), np.uint8),
                "inner": spaces.Dict(
                    {
                        "pair": spaces.Tuple((spaces.Discrete(4, start=2), spaces.MultiBinary(2))),
                        "say": spaces.Text(9, charset="go lft"),
                    }
                ),
                "speed": spaces.Box(0, 1, (), np.float64),
            }
        ),
        spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([2, 2]))),
    ),
    "numbered": (
        spaces.Dict({"0": spaces.Discrete(2), "1": spaces.MultiBinary(2)}),
        spaces.Dict({"a": spaces.Discrete(5), "b": spaces.Text(3, charset="uv")}),
    ),
}


def stacked(space, values):
    """The values of one episode, as Minari's buffers hold them."""
    if isinstance(space, spaces.Dict):
        return {
            key: stacked(part, [value[key] for value in values])
            for key, part in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(
            stacked(part, [value[at] for value in values]) for at, part in enumerate(space.spaces)
        )
    return list(values) if isinstance(space, spaces.Text) else np.stack(values)


def made(folder, kind, backend):
    """Writes a dataset with Minari, and returns its path and its episodes."""
    observation, action = SPACES[kind]
    observation.seed(3)
    action.seed(4)
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=stacked(observation, [observation.sample() for _ in range(length + 1)]),
            actions=stacked(action, [action.sample() for _ in range(length)]),
            rewards=[0.5] * length,
            terminations=[row + 1 == length for row in range(length)],
            truncations=[False] * length,
            infos={},
        )
        for index, length in enumerate(LENGTHS)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        minari.create_dataset_from_buffers(
            "test/set-v0",
            buffer=buffers,
            observation_space=observation,
            action_space=action,
            data_format=backend,
            algorithm_name="made",
            code_permalink="none",
            author="a",
            author_email="b@c.de",
            description="d",
        )
    return folder / "test" / "set-v0", buffers


def exported(folder, dataset, monkeypatch):
    """Exports a dataset to Minari's format, and loads it with Minari."""
    (folder / "back").mkdir(exist_ok=True)
    out = folder / "back" / "set-v0"
    done = trajmill("export", dataset, out, "--to", "minari", "--name", "back/set-v0")
    check("left out" not in done.stderr, done.stderr)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return minari.load_dataset("back/set-v0")


def alike(a, b):
    if isinstance(b, dict):
        return set(a) == set(b) and all(alike(a[key], b[key]) for key in b)
    if isinstance(b, tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b))
    if isinstance(b, list):
        return list(a) == b
    return a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("backend", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("kind", SPACES)
def test_spaces_and_values_come_back(kind, backend, tmp_path, monkeypatch):
    source, buffers = made(tmp_path / "in", kind, backend)
    trajmill("import", source, tmp_path / "made")
    back = exported(tmp_path, tmp_path / "made", monkeypatch)
    observation, action = SPACES[kind]
    check(back.observation_space == observation, f"{back.observation_space}, not {observation}")
    check(back.action_space == action, f"{back.action_space}, not {action}")
    for episode, buffer in zip(back.iterate_episodes(), buffers, strict=True):
        check(alike(episode.observations, buffer.observations), "observations")
        check(alike(episode.actions, buffer.actions), "actions")


def test_a_space_that_no_longer_holds_the_values_is_replaced(tmp_path, monkeypatch):
    source, _ = made(tmp_path / "in", "said", "hdf5")
    trajmill("import", source, tmp_path / "made")
    path = pipeline(
        tmp_path / "p.yaml",
        tmp_path / "made",
        [
            {"derive": {"word": "upper(action)"}},
            {"materialise": {"path": str(tmp_path / "upper")}},
        ],
    )
    trajmill("run", path)
    # Text columns among the infos go the same way.
    back = exported(tmp_path, tmp_path / "upper", monkeypatch)
    words = table(tmp_path / "upper")["word"].to_pylist()
    found = [
        None if word == b"" and not valid else word.decode()
        for episode in back.iterate_episodes()
        for word, valid in zip(episode.infos["word"], episode.infos["word_valid"], strict=True)
    ]
    check(found == words, f"{found}, not {words}")
    trajmill("import", tmp_path / "back" / "set-v0", tmp_path / "again")
    check(table(tmp_path / "again")["word"].to_pylist() == words, "words come back")


def test_spaces_follow_from_the_values_of_other_sources(tmp_path, monkeypatch):
    rows = {
        "trajectory_id": [0, 0, 1],
        "step": [0, 1, 0],
        "observation": ["go ü", "o", "go"],
        "action": [7, 5, 6],
        "reward": [0.0, 0.0, 0.0],
        "terminated": [False, True, True],
    }
    source = pa.table(rows)
    struct = pa.StructArray.from_arrays([source["observation"].combine_chunks()], ["say"])
    source = source.set_column(2, "observation", struct)
    pq.write_table(source, tmp_path / "rows.parquet")
    trajmill("import", tmp_path / "rows.parquet", tmp_path / "made")
    back = exported(tmp_path, tmp_path / "made", monkeypatch)
    say = spaces.Text(4, min_length=1, charset=" goü")
    check(back.observation_space == spaces.Dict({"say": say}), str(back.observation_space))
    check(back.action_space == spaces.Discrete(8), str(back.action_space))


def test_a_space_that_cannot_be_read_is_named(tmp_path):
    source, _ = made(tmp_path / "in", "text", "hdf5")
    place = source / "data" / "metadata.json"
    metadata = json.loads(place.read_text())
    metadata["observation_space"] = json.dumps(
        {"type": "Dict", "subspaces": {"all": {"type": "Sequence", "feature_space": {}}}}
    )
    place.write_text(json.dumps(metadata))
    done = trajmill("import", source, tmp_path / "made", code=1)
    says(done.stderr, ["`observation_space`", "`Sequence`", "Discrete"], "the error")


def test_merged_datasets_keep_the_spaces_that_they_share(tmp_path, monkeypatch):
    sources = []
    for name in "ab":
        source, _ = made(tmp_path / name, "said", "hdf5")
        trajmill("import", source, tmp_path / f"own_{name}")
        sources.append({"path": f"own_{name}"})
    run(tmp_path, [], sources, name="both")
    back = exported(tmp_path, tmp_path / "both", monkeypatch)
    check((back.observation_space, back.action_space) == SPACES["said"], "spaces")


def test_infos_that_are_no_rows_are_named(tmp_path):
    source, _ = made(tmp_path / "in", "said", "hdf5")
    with h5py.File(source / "data" / "main_data.hdf5", "a") as file:
        for index, length in enumerate(LENGTHS):
            file[f"episode_{index}/infos/level"] = 3
            file[f"episode_{index}/infos/empty"] = np.zeros((length + 1, 0))
    done = trajmill("import", source, tmp_path / "made")
    says(done.stderr, ["infos/level", "single value", "infos/empty", "no values"], "the summary")
