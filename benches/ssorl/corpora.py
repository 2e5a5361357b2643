"""The corpora of the study: rollouts of the policies that random search passes on its way.

`medium-replay`: every policy that was evaluated up to the medium one, in equal shares, as a replay buffer holds them.
`medium-expert`: half of the trajectories by the medium policy, half by the best.
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

#: What the search of data/make found, every policy that it evaluated: ten minutes of work, and not the same on every processor.
POLICIES = Path(__file__).resolve().parent / "policies"
#: What each purpose adds to an environment's seed; data/make has the ones below.
PURPOSES = {"medium-replay": 10, "medium-expert": 11, "reference": 12}
#: Trajectories without noise that a reference return is the mean of.
REFERENCE = 20


def searched(name):
    """The policies of a random search in the order of training, up to the best, and which of them is the medium one."""
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
    # A search does not end at its best.
    best = int(values.argmax())
    medium = int(np.argmax(values >= environment.shares["medium"] * values[best]))
    return [
        policies.LinearPolicy(*parts) for parts in zip(weights[: best + 1], offsets[: best + 1])
    ], medium


def make(name, mixture, steps, folder, trajmill):
    """The dataset of a mixture, of at least so many steps, recorded and imported where it is missing."""
    dataset = folder / f"{name}-{mixture}"
    if dataset.exists():
        return dataset
    environment = ENVIRONMENTS[name]
    found, medium = searched(name)
    actors = found[: medium + 1] if mixture == "medium-replay" else [found[medium], found[-1]]
    random, env = environment.random(PURPOSES[mixture]), environment.make()
    trajectories, total = [], 0
    while total < steps:
        # A round of all actors with each noise, so that the mixture is the same wherever it ends.
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
    """Mean returns of uniformly random actions and of the best policy without noise: 0 and 1 of the normalised return."""
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
