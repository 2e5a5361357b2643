"""`validate` names the rules that a dataset breaks (LeRobot's: test_lerobot_validate.py)."""

import json
import os

import h5py
import numpy as np
import pytest

from oracle import check, trajmill
from writers import minari
from writers.ours import Made


def faults(path, *arguments, errors=False):
    """The rules that a dataset breaks; with `errors`, only those that make the exit code 4."""
    done = trajmill("validate", path, "--json", *arguments, code=None)
    found = json.loads(done.stdout)
    wrong = {fault["rule"] for fault in found["faults"] if fault["error"]}
    check(
        done.returncode == (4 if wrong else 0) and (found["errors"] > 0) == bool(wrong),
        f"{path}: {done.returncode} {done.stdout}",
    )
    return wrong if errors else {fault["rule"] for fault in found["faults"]}


# --- trajmill's own


def test_a_good_dataset_is_valid(tmp_path):
    made = Made(tmp_path, "made", 1, [5, 1, 4, 7])
    found = json.loads(trajmill("validate", made.path, "--json").stdout)
    check(found["valid"] and found["trajectories"] == len(made.lengths), f"{found}")


def test_a_flipped_byte_breaks_the_checksum(tmp_path):
    made = Made(tmp_path, "made", 1, [5, 1, 4, 7])
    path = os.path.join(made.path, "steps", "00000.parquet")
    with open(path, "r+b") as file:
        data = bytearray(file.read())
        data[100] ^= 4
        file.seek(0)
        file.write(data)
    found = json.loads(trajmill("validate", made.path, "--json", code=4).stdout)
    check(found["faults"][0]["rule"] == "checksum", f"{found}")


# --- D4RL

OBSERVATIONS = np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)


def d4rl(path, **changes):
    arrays = {
        "observations": OBSERVATIONS,
        "actions": OBSERVATIONS[::-1].copy(),
        "rewards": np.zeros(6, np.float32),
        "terminals": np.arange(6) % 3 == 2,
        "timeouts": np.zeros(6, bool),
    }
    with h5py.File(path, "w") as file:
        for name, values in (arrays | changes).items():
            file[name] = values
    return path


def nan_actions():
    actions = OBSERVATIONS[::-1].copy()
    actions[1, 0] = np.nan
    return actions


@pytest.mark.parametrize(
    "rules, changes",
    [
        # Nothing but what D4RL lacks.
        ({"no-finals"}, {}),
        ({"no-finals", "nan-action"}, {"actions": nan_actions()}),
        ({"no-finals", "copied-state"}, {"actions": OBSERVATIONS}),
        (
            {"no-finals", "copied-state"},
            {"actions": np.concatenate([OBSERVATIONS[1:], OBSERVATIONS[:1]])},
        ),
    ],
    ids=["good", "nan-actions", "states-for-actions", "next-states-for-actions"],
)
def test_faults_of_d4rl_are_named(tmp_path, rules, changes):
    found = faults(d4rl(tmp_path / "set.hdf5", **changes))
    check(found == rules, f"{found}")


def test_d4rl_that_cannot_be_read_is_an_error(tmp_path):
    path = d4rl(tmp_path / "set.hdf5", rewards=np.zeros(5, np.float32))
    check("unreadable" in faults(path, errors=True), "wrong counts")
    os.truncate(path, 1500)
    # Its format cannot be told any more.
    check("unreadable" in faults(path, "--from", "d4rl", errors=True), "a file cut short")


# --- Minari


@pytest.fixture
def good(tmp_path):
    return minari.files(tmp_path, "set", [3, 4])


def test_good_minari_has_no_errors(good):
    check(faults(good, errors=True) == set(), "errors")


@pytest.mark.parametrize(
    "rule, change",
    [
        ("version", {"minari_version": "0.9.0"}),
        ("total-steps", {"total_steps": 70}),
        ("space", {"action_space": "Box"}),
        ("dataset-id", {"dataset_id": None}),
        ("unreadable", {"total_episodes": 3}),
        ("total-episodes", {"total_episodes": 1, "total_steps": 3}),
        ("space", {"observation_space": None}),
    ],
    ids=["version", "steps", "action-space", "id", "too-many", "too-few", "observation-space"],
)
def test_errors_of_minari_are_named(good, rule, change):
    path = os.path.join(good, "data", "metadata.json")
    with open(path) as file:
        said = json.load(file) | change
    with open(path, "w") as file:
        json.dump({key: value for key, value in said.items() if value is not None}, file)
    check(rule in faults(good, errors=True), rule)


def test_nan_actions_of_minari_are_named(good):
    with h5py.File(os.path.join(good, "data", "main_data.hdf5"), "r+") as file:
        file["episode_1/actions"][2] = np.nan
    check(faults(good, errors=True) == {"nan-action"}, "NaN actions")


# --- robomimic


def demos(path, **change):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        said = {"total": 5, "env_args": json.dumps({"env_name": "Lift", "type": 1})}
        data.attrs.update(said | {key: value for key, value in change.items() if key in said})
        for index, length in enumerate([2, 3]):
            demo = data.create_group(f"demo_{index}")
            if (samples := change.get("samples", length)) is not None:
                demo.attrs["num_samples"] = samples
            demo["obs/eef"], demo["next_obs/eef"] = np.ones((length, 2)), np.ones((length, 2))
            demo["actions"] = np.full((length, 1), change.get("action", 0.5))
            demo["rewards"], demo["dones"] = np.zeros(length), np.arange(length) == length - 1
    return path


def test_good_robomimic_has_no_errors(tmp_path):
    check(faults(demos(tmp_path / "set.hdf5"), errors=True) == set(), "errors")


@pytest.mark.parametrize(
    "rule, change",
    [
        ("total", {"total": 6}),
        ("env-args", {"env_args": "Lift"}),
        ("num-samples", {"samples": None}),
        ("unreadable", {"samples": 9}),
        ("action-range", {"action": 1.5}),
    ],
    ids=["total", "env-args", "no-num-samples", "num-samples", "action-range"],
)
def test_errors_of_robomimic_are_named(tmp_path, rule, change):
    found = faults(demos(tmp_path / "set.hdf5", **change), errors=True)
    check(found == {rule}, f"{found}")
