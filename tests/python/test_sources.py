"""Foreign datasets as sources of pipelines, several with other names and types in one run."""

import h5py
import numpy as np
import pytest

import oracle
from oracle import check, same, table, trajmill
from oracle import valid_rows as column
from writers.ours import Made


def arrays(random, length, dtype):
    ends = np.arange(length) % 4 == 3
    return (
        random.normal(size=(length, 2)).astype(dtype),
        random.normal(size=(length, 1)).astype(dtype),
        np.arange(length).astype(dtype),
        ends,
    )


@pytest.fixture
def sources(tmp_path):
    """Arrays of a D4RL and an npz file, and a function that writes a pipeline to merge them.

    The npz file has other names and types.
    """
    random = np.random.default_rng(11)
    one, two = arrays(random, 8, np.float32), arrays(random, 12, np.float64)
    with h5py.File(tmp_path / "first.hdf5", "w") as file:
        for name, values in zip(["observations", "actions", "rewards", "terminals"], one):
            file[name] = values
        file["timeouts"] = np.zeros(8, bool)
    np.savez(tmp_path / "second.npz", **dict(zip(["state", "act", "rew", "terminals"], two)))

    def write(widen=True):
        mapped = {
            "path": "second.npz",
            "map": {"observation": "state", "action": "act", "reward": "rew"},
            "widen": widen,
        }
        stages = [{"filter": "return >= 0"}, {"materialise": {"path": "merged"}}]
        return oracle.pipeline(
            tmp_path / "sources.yaml", [{"path": "first.hdf5", "format": "d4rl"}, mapped], stages
        )

    return one, two, write


def test_types_are_not_widened_unasked(sources):
    refused = trajmill("check", sources[2](widen=False), code=3)
    check("float64" in refused.stderr.lower(), refused.stderr)


def test_check_and_plan_import_nothing(sources, tmp_path):
    path = sources[2]()
    before = sorted(tmp_path.iterdir())
    trajmill("check", path)
    trajmill("plan", path)
    check(
        sorted(tmp_path.iterdir()) == before, f"something was written: {sorted(tmp_path.iterdir())}"
    )


def test_sources_of_other_names_and_types_are_merged(sources, tmp_path):
    one, two, write = sources
    path = write()
    trajmill("run", path)
    steps, trajectories = table(tmp_path / "merged"), table(tmp_path / "merged", "trajectories")
    check(
        same(column(steps, "observation")[1], np.concatenate([one[0].astype(np.float64), two[0]])),
        "observations, widened",
    )
    check(
        same(column(steps, "reward")[1], np.concatenate([one[2].astype(np.float64), two[2]])),
        "rewards, widened",
    )
    check(
        trajectories["source"].to_pylist() == ["first"] * 2 + ["second"] * 3,
        f"sources {trajectories['source'].to_pylist()}",
    )
    check(len(set(trajectories["uid"].to_pylist())) == 5, "identities")
    check("nothing to do" in trajmill("run", path).stderr, "nothing to do")
    check(
        not [entry for entry in tmp_path.iterdir() if "staging" in entry.name], "no staging is left"
    )


def test_a_source_that_changed_is_named(sources, tmp_path):
    path = sources[2]()
    trajmill("run", path)
    with h5py.File(tmp_path / "first.hdf5", "r+") as file:
        file["rewards"][0] = 7
    changed = trajmill("run", path, code=1)
    check("source 1" in changed.stderr, changed.stderr)


def test_columns_of_a_trajmill_dataset_are_renamed(tmp_path):
    made = Made(tmp_path, "made", 1, [5, 1, 4, 7])
    path = oracle.pipeline(
        tmp_path / "renamed.yaml",
        {"path": "made", "map": {"score": "note"}},
        [{"materialise": {"path": "renamed"}}],
    )
    trajmill("run", path)
    check(
        same(column(table(tmp_path / "renamed"), "score")[1], column(table(made.path), "note")[1]),
        "values",
    )
    check(
        table(tmp_path / "renamed", "trajectories")["uid"].equals(
            table(made.path, "trajectories")["uid"]
        ),
        "uid",
    )
