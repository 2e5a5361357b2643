"""D4RL files by h5py."""

import h5py
import numpy as np

from writers.arrays import following


def d4rl(path, lengths, seed=3, dtype=np.float32, unsigned=False):
    """Writes a file with final observations and an array under `infos`; returns its arrays."""
    random = np.random.default_rng(seed)
    n = sum(lengths)
    ends = np.cumsum(lengths)
    arrays = {
        "observations": random.normal(size=(n, 4)).astype(dtype),
        "next_observations": random.normal(size=(n, 4)).astype(dtype),
        "actions": random.normal(size=(n, 3)).astype(dtype),
        "rewards": random.normal(size=n).astype(dtype),
        "terminals": np.zeros(n, bool),
        "timeouts": np.zeros(n, bool),
        "infos/count": random.integers(0, 200, size=n).astype(np.uint64)
        if unsigned
        else random.integers(-9, 9, size=n),
    }
    arrays["next_observations"] = following(
        arrays["observations"], arrays["next_observations"], ends
    )
    arrays["terminals"][ends[::2] - 1] = True
    arrays["timeouts"][ends[1::2] - 1] = True
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return arrays
