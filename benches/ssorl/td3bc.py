"""TD3+BC (Fujimoto and Gu, 2021) as d3rlpy has it, on a dataset that d3rlpy itself loads, and the policy's return in the simulator."""

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos import TD3PlusBCConfig
from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer, TransitionMiniBatch
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.preprocessing import StandardObservationScaler

BATCH = 256
#: Half the width of the paper's networks and three times its rate: an update takes half as long, and so few of them get somewhere.
#: With its own (256, 3e-4) a policy of halfcheetah's medium-expert mixture, all actions known, earned 164 after as many updates,
#: with these 1089, by the same seed.
HIDDEN = [128, 128]
LEARNING_RATE = 1e-3


def transitions(path):
    """All transitions of a dump, as d3rlpy's own picker makes them: without the last step of a trajectory that was cut off."""
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


def learn(path, seed, updates):
    """A policy, and on how many transitions it was learnt. The batches are gathered here, since d3rlpy draws them step by step
    in Python, which takes as long as the update."""
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
                # TD3 takes the target policy's action after the step, not the recorded one.
                next_actions=no_actions,
                terminals=terminal[rows],
                intervals=ones,
                transitions=[],
            )
        )
    return algorithm, len(rewards)


def evaluate(algorithm, environment, seed, trajectories):
    """Return of each of so many trajectories, stepped side by side so that the policy sees one batch a step."""
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
