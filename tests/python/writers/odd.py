"""Odd trajectories: nulls, NaN, infinities, ties, missing rewards and missing final rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTHS = [1, 5, 2, 23, 1, 9, 17, 4, 30, 3, 8, 12]
OBSERVATION, ACTION = 4, 2


def write(path, lengths=LENGTHS):
    """Every third trajectory lacks its final row; `x` holds nulls, NaN, infinities and ties."""
    random = np.random.default_rng(17)
    rows = {
        key: []
        for key in (
            "trajectory_id",
            "step",
            "observation",
            "action",
            "reward",
            "x",
            "task",
            "terminated",
            "truncated",
            "is_final",
        )
    }
    for index, n in enumerate(lengths):
        final = index % 3 != 2
        for t in range(n + final):
            last = t == n
            odd = random.random()
            x = (
                None
                if odd < 0.1
                else np.nan
                if odd < 0.15
                else np.inf
                if odd < 0.18
                else float(random.integers(-3, 4))
            )
            values = {
                "trajectory_id": index,
                "step": t,
                "observation": random.normal(loc=5 * (index - 3), size=OBSERVATION).astype(
                    np.float32
                ),
                "is_final": last,
                "action": None if last else random.uniform(-1, 1, ACTION).astype(np.float32),
                "reward": None if last or random.random() < 0.1 else float(random.normal()),
                "x": None if last else x,
                "task": ["a", "b", "c"][index % 7 % 3],
                "terminated": t == n - 1 and index % 2 == 0,
                "truncated": False,
            }
            for key, value in values.items():
                rows[key].append(value)
    types = {
        "trajectory_id": pa.int64(),
        "step": pa.int32(),
        "observation": pa.list_(pa.float32()),
        "action": pa.list_(pa.float32()),
        "reward": pa.float64(),
        "x": pa.float64(),
        "task": pa.string(),
    }
    # `from_pandas` would make NaN null.
    arrays = {
        key: pa.array(column, types.get(key, pa.bool_()), from_pandas=False)
        for key, column in rows.items()
    }
    pq.write_table(pa.table(arrays), path)
