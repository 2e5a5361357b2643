"""The two environments of the corpus and every number that shapes their data."""

from dataclasses import dataclass, field

import gymnasium
import numpy as np

#: The policies of a corpus. `infos/policy` holds an index into this list.
POLICIES = ["random", "early", "medium", "good"]

#: Standard deviations of the Gaussian noise on actions, for successive trajectories of a policy.
#: Both action boxes are [-1, 1].
NOISE = [0.05, 0.1, 0.2]


@dataclass(frozen=True)
class Environment:
    name: str
    gym_id: str
    seed: int
    #: The time limit of a trajectory, in training and in the data.
    max_steps: int
    #: The number of trajectories of each policy.
    trajectories: dict[str, int]
    #: The reward per step for being alive. Training ignores it.
    alive_bonus: float
    # Augmented random search: the directions per update and how many of the best are used, the step
    # size, the scale of perturbations, and the number of environment steps.
    directions: int
    elite: int
    step_size: float
    perturbation: float
    training_steps: int
    #: The shares of the good policy's return that the early and the medium policy must reach.
    shares: dict[str, float] = field(default_factory=lambda: {"early": 0.15, "medium": 0.5})

    def make(self) -> gymnasium.Env:
        return gymnasium.make(
            self.gym_id, max_episode_steps=self.max_steps, disable_env_checker=True
        )

    def random(self, purpose: int) -> np.random.Generator:
        """The random generator for one purpose. Purposes do not affect each other."""
        return np.random.default_rng([self.seed, purpose])


HOPPER = Environment(
    name="hopper",
    gym_id="Hopper-v5",
    seed=11,
    max_steps=1000,
    trajectories={"random": 60, "early": 50, "medium": 50, "good": 40},
    alive_bonus=1.0,
    directions=8,
    elite=4,
    step_size=0.01,
    perturbation=0.025,
    training_steps=1_000_000,
)

HALFCHEETAH = Environment(
    name="halfcheetah",
    gym_id="HalfCheetah-v5",
    seed=23,
    max_steps=300,
    trajectories={"random": 20, "early": 25, "medium": 25, "good": 30},
    alive_bonus=0.0,
    directions=16,
    elite=8,
    step_size=0.02,
    perturbation=0.03,
    training_steps=1_300_000,
)

ENVIRONMENTS = {e.name: e for e in (HOPPER, HALFCHEETAH)}
