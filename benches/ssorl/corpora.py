"""The corpora of the study: rollouts of the policies that a random search evaluated.

`medium-replay` has equal shares of every policy up to the medium one, like a replay buffer. In
`medium-expert`, half of the trajectories are from the medium policy and half from the best one.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data" / "make"))

import policies
import rollouts
from environments import ENVIRONMENTS, NOISE

#: Every policy that the search of data/make evaluated. The search takes ten minutes, and its result
#: depends on the processor.
POLICIES = Path(__file__).resolve().parent / "policies"
#: The second seed of each purpose's random numbers. data/make uses those below 10.
PURPOSES = {"medium-replay": 10, "medium-expert": 11, "reference": 12}
#: The number of trajectories without noise that a reference return is the mean of.
REFERENCE = 20


def searched(name):
    """The policies of a random search, up to the best one, and the index of the medium one."""
    kept = POLICIES / f"{name}.npz"
    environment = ENVIRONMENTS[name]
    if not kept.exists():
        history = policies.train(environment)
        values = np.array([value for value, _ in history])
        weights, offsets = (
            np.stack([getattr(policy, part) for _, policy in history])
            for part in ("weights", "offset")
        )
        np.savez(kept, values=values, weights=weights, offsets=offsets)
    with np.load(kept) as arrays:
        values, weights, offsets = (arrays[part] for part in ("values", "weights", "offsets"))
    # The search does not end with its best policy.
    best = int(values.argmax())
    medium = int(np.argmax(values >= environment.shares["medium"] * values[best]))
    return [
        policies.LinearPolicy(*parts) for parts in zip(weights[: best + 1], offsets[: best + 1])
    ], medium


def make(name, mixture, steps, folder, trajmill):
    """The dataset of a mixture, with at least `steps` steps, made if it does not exist."""
    dataset = folder / f"{name}-{mixture}"
    if dataset.exists():
        return dataset
    environment = ENVIRONMENTS[name]
    found, medium = searched(name)
    actors = found[: medium + 1] if mixture == "medium-replay" else [found[medium], found[-1]]
    random, env = environment.random(PURPOSES[mixture]), environment.make()
    trajectories, total = [], 0
    while total < steps:
        # Each round has every policy with every noise, so the shares do not depend on the size.
        for noise in NOISE:
            for index, actor in enumerate(actors):
                trajectory = rollouts.record_trajectory(env, actor, noise, random)
                length = len(trajectory["rewards"])
                trajectory["infos/policy"] = np.full(length, index, np.int32)
                trajectory["infos/action_noise"] = np.full(length, noise, np.float32)
                trajectories.append(trajectory)
                total += length
    recorded = dataset.with_suffix(".hdf5")
    rollouts.write(
        environment, [trajectories[i] for i in random.permutation(len(trajectories))], recorded
    )
    subprocess.run(
        [trajmill, "import", recorded, dataset, "--from", "d4rl"], check=True, capture_output=True
    )
    recorded.unlink()
    return dataset


def references(name, folder):
    """The returns that normalise to 0 and 1: of random actions, and of the best policy."""
    kept = folder / f"{name}-references.json"
    if not kept.exists():
        environment = ENVIRONMENTS[name]
        random, env = environment.random(PURPOSES["reference"]), environment.make()
        best = searched(name)[0][-1]
        means = [
            float(
                np.mean(
                    [
                        rollouts.record_trajectory(env, actor, 0.0, random)["rewards"].sum(
                            dtype=np.float64
                        )
                        for _ in range(REFERENCE)
                    ]
                )
            )
            for actor in (None, best)
        ]
        kept.write_text(json.dumps(means))
    return json.loads(kept.read_text())
