"""What tests of recipes share: the corpus they are run on, and their models, in numpy."""

import functools

import numpy as np
import pytest

import oracle
from networks import predict
from oracle import REPOSITORY

MODELS = REPOSITORY / "data" / "models" / "recipes"
RECIPES = set()


def recipe(name, model=False):
    """Hands what a recipe writes to a test; `model` says that it loads one."""
    RECIPES.add(name)
    hand = pytest.mark.parametrize("made", [name], indirect=True)
    return lambda test: pytest.mark.model(hand(test)) if model else hand(test)


@functools.cache
def hopper():
    """The trajectories of the corpus by id."""
    return oracle.corpus("hopper").by_id()


def model(name, **feeds):
    feeds = {
        key: np.asarray(value, np.float32).reshape(len(value), -1) for key, value in feeds.items()
    }
    return {
        key: value.astype(np.float64)
        for key, value in predict(MODELS / f"{name}.onnx", feeds).items()
    }


def steps(own):
    """Observations, actions, rewards and next observations of a trajectory's steps."""
    n = own["n"]
    return (
        own["observation"][:n],
        own["action"][:n],
        own["reward"][:n].astype(np.float64),
        own["observation"][1 : n + 1],
    )


def to_go(rewards, gamma):
    out, sum = np.zeros(len(rewards)), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        sum = rewards[t] + gamma * sum
        out[t] = sum
    return out


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def members(own):
    s, a, _, _ = steps(own)
    return np.concatenate(
        [model(f"reward_{member}", s=s, a=a)["reward"] for member in range(3)], axis=1
    )
