"""Windows for PyTorch, compared with windows that numpy cuts and with LeRobot's loader."""

import os
import pickle
import re

import numpy as np
import pytest

import oracle
from oracle import check, equal
from test_module import HOPPER, trajmill  # noqa: F401

pytestmark = pytest.mark.reference("torch")
DISTANCES = {"observation": [-1, 0, 1], "action": list(range(16)), "reward": [0]}


@pytest.fixture(scope="module")
def hopper(trajmill, shared):  # noqa: F811
    """The dataset, with a cache of the test's own."""
    os.environ["TRAJMILL_CACHE"] = str(shared / "cache")
    return trajmill.open(HOPPER)


def windows(trajectory, pad):
    """The windows of a trajectory, one at a time: what `DISTANCES` say, by numpy."""
    steps = len(trajectory["action"])
    for step in range(steps):
        item, whole = {}, True
        for name, distances in DISTANCES.items():
            column = np.asarray(trajectory[name])
            rows = [step + distance for distance in distances]
            inside = [0 <= row < len(column) for row in rows]
            held = [min(max(row, 0), len(column) - 1) for row in rows]
            values = column[held].copy()
            if pad == "zero":
                values[~np.array(inside)] = 0
            item[name], item[f"{name}_is_pad"] = values, ~np.array(inside)
            whole &= all(inside)
        if whole or pad != "drop":
            yield item


@pytest.mark.parametrize("pad", ["repeat", "zero", "drop"])
def test_windows_are_those_that_numpy_cuts(hopper, pad):
    some = hopper.select("trajectory_id % 7 = 3")
    found = some.torch(pad=pad, **DISTANCES)
    index = 0
    for trajectory in some:
        for wanted in windows(trajectory, pad):
            item = found[index]
            check(item.keys() == wanted.keys(), f"{item.keys()}")
            for name, values in wanted.items():
                equal(item[name].numpy(), values, f"{pad}, {index}, {name}")
            index += 1
    check(index == len(found) > 1000, f"{index} of {len(found)}")


def test_batches_are_the_items(hopper):
    import torch

    found = hopper.torch(observation=[-1, 0], action=range(4), reward=0)
    whole = [(b["action"], b["reward"]) for b in found.loader(300)]
    actions = torch.cat([action for action, _ in whole])
    rewards = torch.cat([reward for _, reward in whole])
    check(actions.shape == (38991, 4, 3) and rewards.shape == (38991,), f"{actions.shape}")
    for index in [0, 20, 21, 299, 300, 38990, -1]:
        equal(found[index]["action"], actions[index], f"{index}")
    ordinary = torch.utils.data.DataLoader(found, batch_size=300, num_workers=2)
    equal(torch.cat([batch["action"] for batch in ordinary]), actions, "workers")
    options = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "spawn"}
    loader = found.loader(5000, **options)
    for _ in range(2):
        equal(torch.cat([batch["action"] for batch in loader]), actions, "spawned workers")
    check(len(pickle.dumps(found)) < 1 << 20, "arrays are mapped, not copied")
    with pytest.raises(IndexError):
        found[38991]


def test_samplers_follow_splits_and_weights(hopper, trajmill, tmp_path):  # noqa: F811
    import torch

    made = oracle.run(
        tmp_path,
        [
            {"hide_actions": {"keep": 0.5, "seed": 1}},
            {"summarise": {"weight": "greatest(0, sum(reward) - 300)"}},
        ],
        HOPPER,
    )
    dataset = trajmill.open(made.path)
    with pytest.raises(ValueError, match="`action` is null in"):
        dataset.torch(action=0)
    found = dataset.torch(action=0, reward=0, missing="pad")
    table = oracle.table(made.path, "trajectories")
    labelled = set(table.filter(table["labelled"])["trajectory_id"].to_pylist())
    per_window = np.repeat(table["trajectory_id"].to_numpy(), table["length"].to_numpy())
    pads = found[list(range(len(found)))]["action_is_pad"].numpy()
    equal(~pads, np.isin(per_window, list(labelled)), "hidden actions are marked")
    name = table["split"][0].as_py()
    ids = table.filter(np.array([v == name for v in table["split"].to_pylist()]))["trajectory_id"]
    chosen = sorted(found.sampler(split=name))
    equal(per_window[chosen], per_window[np.isin(per_window, ids.to_numpy())], "a split")
    generator = torch.Generator().manual_seed(0)
    drawn = per_window[list(found.weighted_sampler("weight", 20000, generator=generator))]
    weights = dict(zip(table["trajectory_id"].to_pylist(), table["weight"].to_pylist(), strict=True))
    total = sum(weights[i] for i in per_window)
    for trajectory in np.unique(per_window):
        share = weights[trajectory] * (per_window == trajectory).sum() / total
        found_share = (drawn == trajectory).mean()
        check(abs(share - found_share) < 0.01, f"{trajectory}: {found_share}, not {share}")


def test_a_changed_dataset_gets_other_arrays(trajmill, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.delenv("TRAJMILL_CACHE", raising=False)
    for least in [100, 300]:
        made = oracle.run(tmp_path, [{"filter": f"length >= {least}"}], HOPPER)
        found = trajmill.open(made.path).torch(observation=0)
        equal(found[0]["observation"], trajmill.open(made.path)[0]["observation"][0], f"{least}")
        check(found.folder.parent == tmp_path / ".trajmill-cache", f"{found.folder}")
    check(len(list((tmp_path / ".trajmill-cache").glob("made-*"))) == 2, "one for each")


@pytest.mark.reference("lerobot")
def test_windows_are_those_of_lerobot(hopper, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    oracle.trajmill("export", HOPPER, tmp_path / "lerobot", "--to", "lerobot", "--fps", "10")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    fps = 10
    distances = {"observation": [-1, 0], "action": range(16)}
    features = {"observation": "observation.state", "action": "action"}
    deltas = {features[n]: [d / fps for d in given] for n, given in distances.items()}
    theirs = LeRobotDataset("ours/hopper", root=tmp_path / "lerobot", delta_timestamps=deltas)
    ours = hopper.torch(**distances)
    check(len(ours) == len(theirs), f"{len(ours)}, {len(theirs)}")
    for index in [*range(0, 60), *range(60, len(ours), 997), len(ours) - 1]:
        mine, other = ours[index], theirs[index]
        for name, feature in features.items():
            equal(mine[f"{name}_is_pad"], other[f"{feature}_is_pad"], f"{index}: {name} is pad")
            equal(mine[name], other[feature], f"{index}: {name}")




def test_the_example_of_the_readme(hopper):
    readme = (oracle.REPOSITORY / "README.md").read_text()
    example = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    names = {"hopper": hopper}
    exec(example, names)
    check(names["batch"]["action"].shape[1:] == (16, 3), f"{names['batch']}")
    check(sum(len(batch["action"]) for batch in names["windows"].loader(256)) == 38991, "all")
