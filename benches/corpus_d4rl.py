"""Makes the corpus of benches/formats, and prints its number of steps.

    corpus_d4rl.py STEPS OUT

The corpus is a D4RL file in the shape of walker2d, with observations of 17 and actions of 6
float32. Trajectories have 300 steps on average. Three quarters of them are terminated, the others
cut off. The observation after the last action is known.
"""

import sys

import h5py
import numpy as np

steps, out = int(sys.argv[1]), sys.argv[2]
random = np.random.default_rng(7)
lengths = random.integers(100, 501, max(1, steps // 300))
total, ends = int(lengths.sum()), np.cumsum(lengths)
# Random walks compress about as well as a simulator's observations. Noise would not compress.
walk = np.cumsum(random.normal(scale=0.05, size=(total + len(lengths), 17)), axis=0).astype(
    np.float32
)
row = np.arange(total) + np.repeat(np.arange(len(lengths)), lengths)
terminated = random.random(len(lengths)) < 0.75
flags = lambda which: np.isin(np.arange(total), ends[which] - 1)
with h5py.File(out, "w") as file:
    file["observations"], file["next_observations"] = walk[row], walk[row + 1]
    file["actions"] = random.uniform(-1, 1, (total, 6)).astype(np.float32)
    file["rewards"] = random.normal(1, 0.5, total).astype(np.float32)
    file["terminals"], file["timeouts"] = flags(terminated), flags(~terminated)
print(total)
