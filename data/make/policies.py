"""Policies of different quality, trained with augmented random search (ARS V2-t).

Mania, Guy and Recht, "Simple random search provides a competitive approach to reinforcement
learning", 2018. A linear policy on normalised observations moves along random directions, which
are weighted by the returns that they lead to.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from environments import Environment

EVALUATIONS = 5
UPDATES_PER_EVALUATION = 10


class RunningMoments:
    """The mean and standard deviation of all observations so far."""

    def __init__(self, dim: int):
        self.count = 0
        self.mean = np.zeros(dim)
        self.squares = np.zeros(dim)

    def add(self, rows: np.ndarray) -> None:
        count, mean = len(rows), rows.mean(axis=0)
        delta, total = mean - self.mean, self.count + count
        self.squares += ((rows - mean) ** 2).sum(axis=0) + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def std(self) -> np.ndarray:
        std = np.sqrt(self.squares / max(self.count - 1, 1))
        std[std < 1e-7] = np.inf
        return std


@dataclass
class LinearPolicy:
    """A policy whose actions are linear in the observation."""

    weights: np.ndarray
    offset: np.ndarray

    @classmethod
    def normalised(cls, theta: np.ndarray, mean: np.ndarray, std: np.ndarray) -> "LinearPolicy":
        """The policy theta @ ((s - mean) / std), as a single product."""
        weights = theta / std
        return cls(weights, -weights @ mean)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        return self.weights @ observation + self.offset


def rollout(env, policy: LinearPolicy, seed: int, alive_bonus: float):
    """The return without the alive bonus, and the observations, of one trajectory."""
    observation, _ = env.reset(seed=seed)
    low, high = env.action_space.low, env.action_space.high
    observations, total, done = [], 0.0, False
    while not done:
        observations.append(observation)
        action = np.minimum(np.maximum(policy(observation), low), high)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward - alive_bonus
        done = terminated or truncated
    return total, np.array(observations)


def evaluate(env, policy: LinearPolicy, random: np.random.Generator) -> float:
    """The mean return of a policy."""
    seeds = random.integers(2**31, size=EVALUATIONS)
    return float(np.mean([rollout(env, policy, int(s), 0.0)[0] for s in seeds]))


def train(environment: Environment) -> list[tuple[float, LinearPolicy]]:
    """Trains a policy, and returns every evaluated policy with its mean return, in order."""
    random, evaluation = environment.random(0), environment.random(1)
    env = environment.make()
    dim, actions = env.observation_space.shape[0], env.action_space.shape[0]
    theta, moments = np.zeros((actions, dim)), RunningMoments(dim)
    mean, std = np.zeros(dim), np.ones(dim)
    history, steps, update = [], 0, 0

    while True:
        if update % UPDATES_PER_EVALUATION == 0:
            policy = LinearPolicy.normalised(theta, mean, std)
            history.append((evaluate(env, policy, evaluation), policy))
            print(
                f"{environment.name}: update {update}, {steps} steps, return {history[-1][0]:.0f}",
                flush=True,
            )
            if steps >= environment.training_steps:
                return history

        directions = random.standard_normal((environment.directions, actions, dim))
        returns = np.empty((environment.directions, 2))
        for i, direction in enumerate(directions):
            for j, sign in enumerate((1, -1)):
                policy = LinearPolicy.normalised(
                    theta + sign * environment.perturbation * direction, mean, std
                )
                seed = int(random.integers(2**31))
                returns[i, j], visited = rollout(env, policy, seed, environment.alive_bonus)
                moments.add(visited)
                steps += len(visited)

        best = np.argsort(-returns.max(axis=1), kind="stable")[: environment.elite]
        spread = returns[best].std() + 1e-8
        gain = returns[best, 0] - returns[best, 1]
        theta += (
            environment.step_size
            / (environment.elite * spread)
            * np.tensordot(gain, directions[best], axes=1)
        )
        mean, std = moments.mean.copy(), moments.std()
        update += 1


def choose(
    environment: Environment, history: list[tuple[float, LinearPolicy]]
) -> dict[str, LinearPolicy]:
    """The last policy, and the first ones that reach given shares of its return."""
    chosen = {"good": len(history) - 1}
    for name, share in environment.shares.items():
        chosen[name] = next(
            i for i, (value, _) in enumerate(history) if value >= share * history[-1][0]
        )
    for name, index in chosen.items():
        print(
            f"{environment.name}: {name} is update {index * UPDATES_PER_EVALUATION}, "
            f"return {history[index][0]:.0f}"
        )
    return {name: history[index][1] for name, index in chosen.items()}


def save(policies: dict[str, LinearPolicy], path: Path) -> None:
    np.savez(path, **{f"{n}.{k}": v for n, p in policies.items() for k, v in vars(p).items()})


def load(path: Path) -> dict[str, LinearPolicy]:
    with np.load(path) as arrays:
        names = {key.split(".")[0] for key in arrays}
        return {n: LinearPolicy(arrays[f"{n}.weights"], arrays[f"{n}.offset"]) for n in names}
