"""Records the trajectories of an environment's policies in an HDF5 file with D4RL's layout."""

import json
from pathlib import Path

import gymnasium
import h5py
import mujoco
import numpy as np

from environments import NOISE, POLICIES, Environment
from policies import LinearPolicy

COLUMNS = ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]


def record_trajectory(
    env, policy: LinearPolicy | None, noise: float, random: np.random.Generator
) -> dict:
    """Records one trajectory. Without a policy, actions are uniform over the box.

    The action is rounded to float32 and clipped before it is executed, so the recorded action is
    the one that the simulator receives.
    """
    low, high = env.action_space.low, env.action_space.high
    observation, _ = env.reset(seed=int(random.integers(2**31)))
    rows = {name: [] for name in COLUMNS}
    terminated = truncated = False
    while not (terminated or truncated):
        if policy is None:
            action = random.uniform(low, high)
        else:
            action = policy(observation) + noise * random.standard_normal(low.shape)
        action = np.clip(action.astype(np.float32), low, high)
        following, reward, terminated, truncated, _ = env.step(action)
        for name, value in zip(
            COLUMNS, (observation, action, reward, terminated, truncated, following)
        ):
            rows[name].append(value)
        observation = following
    types = {"terminals": bool, "timeouts": bool}
    return {
        name: np.array(values, dtype=types.get(name, np.float32)) for name, values in rows.items()
    }


def record(environment: Environment, policies: dict[str, LinearPolicy]) -> list[dict]:
    """Records all trajectories. Those of different policies are shuffled together."""
    random = environment.random(2)
    env = environment.make()
    plan = [
        (name, 0.0 if name == "random" else NOISE[i % len(NOISE)])
        for name, count in environment.trajectories.items()
        for i in range(count)
    ]
    trajectories = []
    for index in random.permutation(len(plan)):
        name, noise = plan[index]
        trajectory = record_trajectory(env, policies.get(name), noise, random)
        length = len(trajectory["rewards"])
        trajectory["infos/policy"] = np.full(length, POLICIES.index(name), dtype=np.int32)
        trajectory["infos/action_noise"] = np.full(length, noise, dtype=np.float32)
        trajectories.append(trajectory)
    return trajectories


def write(environment: Environment, trajectories: list[dict], path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name in trajectories[0]:
            rows = np.concatenate([t[name] for t in trajectories])
            file.create_dataset(name, data=rows, compression="gzip", compression_opts=6)
        file.attrs["environment"] = environment.gym_id
        file.attrs["seed"] = environment.seed
        file.attrs["policies"] = json.dumps(POLICIES)
        file.attrs["gymnasium"] = gymnasium.__version__
        file.attrs["mujoco"] = mujoco.__version__


def read(path: Path) -> list[dict]:
    with h5py.File(path) as file:
        names = COLUMNS + ["infos/policy", "infos/action_noise"]
        columns = {name: file[name][:] for name in names}
    ends = np.flatnonzero(columns["terminals"] | columns["timeouts"]) + 1
    assert ends[-1] == len(columns["rewards"]), "the last trajectory does not end"
    parts = {name: np.split(rows, ends[:-1]) for name, rows in columns.items()}
    return [{name: parts[name][i] for name in names} for i in range(len(ends))]


def describe(environment: Environment, trajectories: list[dict]) -> None:
    """Prints the table for data/README.md."""
    print(f"\n{environment.gym_id}, seed {environment.seed}")
    print(
        "| policy | trajectories | steps | mean return | lowest | highest | terminated | truncated |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for index, name in enumerate(POLICIES + ["all"]):
        group = [t for t in trajectories if name == "all" or t["infos/policy"][0] == index]
        returns = [t["rewards"].sum(dtype=np.float64) for t in group]
        steps = sum(len(t["rewards"]) for t in group)
        terminated = sum(bool(t["terminals"][-1]) for t in group)
        truncated = sum(bool(t["timeouts"][-1]) for t in group)
        print(
            f"| {name} | {len(group)} | {steps:,} | {np.mean(returns):.0f} | {min(returns):.0f} "
            f"| {max(returns):.0f} | {terminated} | {truncated} |"
        )
