"""Random datasets in trajmill's own format, and the arrays that they hold."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oracle import trajmill


class Made:
    """A random dataset at `path`; `episodes` holds the arrays of each trajectory.

    `final` says whether trajectories have a final observation: one value for all, or one for each.
    `gaps` leaves out every fifth reward.
    """

    def __init__(
        self,
        folder,
        name,
        seed,
        lengths,
        obs=3,
        act=2,
        dtype=np.float32,
        final=True,
        discrete=False,
        extras=True,
        gaps=False,
    ):
        random = np.random.default_rng(seed)
        self.path, self.lengths, self.final = os.path.join(folder, name), lengths, final
        self.episodes = []
        rows = {
            key: []
            for key in [
                "episode",
                "observation",
                "action",
                "reward",
                "terminated",
                "truncated",
                "is_final",
                "infos/qpos",
                "note",
            ]
        }
        for index, length in enumerate(lengths):
            known = final if isinstance(final, bool) else final[index]
            count = length + known
            episode = {
                "observation": random.normal(size=(count, obs)).astype(dtype),
                "action": random.integers(0, 5, size=length)
                if discrete
                else random.uniform(-1, 1, size=(length, act)).astype(dtype),
                "reward": random.normal(size=length).astype(dtype),
                "terminated": index % 3 == 0,
                "truncated": index % 3 == 1,
                "qpos": random.normal(size=(count, 2)),
                "known": known,
            }
            self.episodes.append(episode)
            pad = [None] * known
            rows["episode"] += [f"k{index * 7}"] * count
            rows["observation"] += list(episode["observation"])
            rows["action"] += list(episode["action"]) + pad
            # Where there are gaps, every fifth reward was not recorded.
            rows["reward"] += [
                None if gaps and row % 5 == 4 else value
                for row, value in enumerate(episode["reward"])
            ] + pad
            rows["terminated"] += [
                episode["terminated"] and row + 1 == length for row in range(length)
            ] + [False] * known
            rows["truncated"] += [
                episode["truncated"] and row + 1 == length for row in range(length)
            ] + [False] * known
            rows["is_final"] += [False] * length + [True] * known
            rows["infos/qpos"] += list(episode["qpos"])
            rows["note"] += [None if row % 3 == 2 else row for row in range(count)]
        number = pa.from_numpy_dtype(dtype)
        types = {
            "episode": pa.string(),
            "observation": pa.list_(number),
            "action": pa.int64() if discrete else pa.list_(number),
            "reward": number,
            "terminated": pa.bool_(),
            "truncated": pa.bool_(),
            "is_final": pa.bool_(),
            "infos/qpos": pa.list_(pa.float64()),
            "note": pa.int32(),
        }
        if not extras:
            del types["infos/qpos"], types["note"]
        source = os.path.join(folder, f"{name}.parquet")
        pq.write_table(
            pa.table({key: pa.array(rows[key], type=kind) for key, kind in types.items()}), source
        )
        trajmill("import", source, self.path, "--map", "trajectory_id=episode")
