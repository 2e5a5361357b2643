"""Trains policies with d3rlpy's TD3+BC (Fujimoto and Gu, 2021), and evaluates them by rollouts."""

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos import TD3PlusBCConfig
from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer, TransitionMiniBatch
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.preprocessing import StandardObservationScaler

BATCH = 256
#: Half the width of the paper's networks, and three times its learning rate. An update takes half
#: as long, and the few updates of this study are enough. On HalfCheetah's medium-expert with all
#: actions, the paper's values (256, 3e-4) gave a return of 164 after as many updates, and these
#: gave 1089 with the same seed.
HIDDEN = [128, 128]
LEARNING_RATE = 1e-3


def transitions(path):
    """All transitions of a dump. As in d3rlpy, a cut-off trajectory loses its last step."""
    with open(path, "rb") as file:
        buffer = ReplayBuffer.load(file, InfiniteBuffer())
    columns = [[] for _ in range(5)]
    for episode in buffer.episodes:
        observations, actions = (
            np.asarray(part, np.float32) for part in (episode.observations, episode.actions)
        )
        count = len(actions) if episode.terminated else len(actions) - 1
        terminal = np.zeros((count, 1), np.float32)
        following = observations[1 : count + 1]
        if episode.terminated:
            terminal[-1] = 1
            following = np.concatenate([following, np.zeros_like(observations[:1])])
        rewards = np.asarray(episode.rewards, np.float32).reshape(-1, 1)[:count]
        for column, part in zip(
            columns, (observations[:count], actions[:count], rewards, following, terminal)
        ):
            column.append(part)
    return [np.concatenate(column) for column in columns]


def train(path, seed, updates):
    """Trains a policy, and returns it with the number of transitions in its dataset.

    This function gathers the batches, because d3rlpy gathers them step by step in Python, which
    takes as long as the update.
    """
    torch.set_num_threads(1)
    d3rlpy.seed(seed)
    observations, actions, rewards, following, terminal = transitions(path)
    scaler = StandardObservationScaler(mean=observations.mean(axis=0), std=observations.std(axis=0))
    encoder = VectorEncoderFactory(hidden_units=HIDDEN)
    config = TD3PlusBCConfig(
        batch_size=BATCH, observation_scaler=scaler,
        actor_encoder_factory=encoder, critic_encoder_factory=encoder,
        actor_learning_rate=LEARNING_RATE, critic_learning_rate=LEARNING_RATE,
    )  # fmt: skip
    algorithm = config.create(device="cpu:0")
    algorithm.create_impl(observations.shape[1:], actions.shape[1])
    random = np.random.default_rng(seed)
    ones, no_actions = (
        np.ones((BATCH, 1), np.float32),
        np.zeros((BATCH, actions.shape[1]), np.float32),
    )
    for _ in range(updates):
        rows = random.integers(len(rewards), size=BATCH)
        algorithm.update(
            TransitionMiniBatch(
                observations=observations[rows],
                actions=actions[rows],
                rewards=rewards[rows],
                next_observations=following[rows],
                # TD3 uses the target policy's next action, not the recorded one.
                next_actions=no_actions,
                terminals=terminal[rows],
                intervals=ones,
                transitions=[],
            )
        )
    return algorithm, len(rewards)


def evaluate(algorithm, environment, seed, trajectories):
    """The returns of `trajectories` rollouts, which run in parallel so that steps form batches."""
    envs = [environment.make() for _ in range(trajectories)]
    seeds = np.random.default_rng([seed, environment.seed]).integers(2**31, size=trajectories)
    observations = [env.reset(seed=int(s))[0] for env, s in zip(envs, seeds)]
    returns, alive = np.zeros(trajectories), list(range(trajectories))
    while alive:
        actions = algorithm.predict(np.array([observations[i] for i in alive], np.float32))
        going = []
        for i, action in zip(alive, actions):
            observations[i], reward, terminated, truncated, _ = envs[i].step(np.clip(action, -1, 1))
            returns[i] += reward
            if not (terminated or truncated):
                going.append(i)
        alive = going
    return returns.tolist()
