"""Verifies that two programs did the same work, by comparing their results.

    verify.py labels OURS THEIRS                         # all rows and labels are the same
    verify.py selection OURS THEIRS CORPUS MIN-RETURN    # both keep a quarter of the good
                                                         # trajectories, whole and unchanged
    verify.py whole OURS THEIRS CORPUS MIN-RETURN        # the same; shared trajectories have the
                                                         # same labels and return-to-go
    verify.py tables OURS.csv THEIRS.csv                 # both tables are the same

Prints one line, or exits with 1 if something differs. Labels may differ by 1e-4, because the sizes
of batches differ.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def load(folder, columns):
    """Columns of steps, ordered by trajectory and step. Null vectors become rows of NaN."""
    files = sorted(
        path for path in Path(folder).rglob("*.parquet") if path.parent.name != "trajectories"
    )
    tables = [
        pq.read_table(path, columns=["trajectory_id", "step", *columns], partitioning=None)
        for path in files
    ]
    table = pa.concat_tables(tables)
    ids, step = table["trajectory_id"].to_numpy(), table["step"].to_numpy().astype(np.int64)
    order = np.lexsort((step, ids)) if np.any(np.diff(ids) < 0) or len(files) == 1 else slice(None)
    found = {"trajectory_id": ids[order], "step": step[order]}
    for name in columns:
        column = table[name].combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_nested(column.type):
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            values = pc.drop_null(column).flatten().to_numpy()
            matrix = np.full(
                (len(valid), len(values) // max(1, int(valid.sum()))), np.nan, np.float32
            )
            matrix[valid] = values.reshape(int(valid.sum()), -1)
            found[name] = matrix[order]
        else:
            found[name] = column.to_numpy(zero_copy_only=False)[order]
    return found


def same(ours, theirs, name, tolerance):
    """Stops if a column differs."""
    a, b = ours[name], theirs[name]
    if a.shape != b.shape or not np.allclose(a, b, atol=tolerance, rtol=tolerance, equal_nan=True):
        sys.exit(f"`{name}` differs: shapes {a.shape} and {b.shape}")


def labels(ours, theirs):
    """Verifies that all rows and labels are the same."""
    a, b = load(ours, ["action", "reward"]), load(theirs, ["action", "reward"])
    for name, tolerance in [("trajectory_id", 0), ("step", 0), ("reward", 0), ("action", 1e-4)]:
        same(a, b, name, tolerance)
    filled = int((~np.isnan(a["action"][:, 0])).sum())
    print(f"{len(a['step'])} rows and {filled} actions are the same to 1e-4")


def chosen(found, corpus, least, shortest=0):
    """Stops if the result is not a quarter of the good trajectories, whole and unchanged."""
    table = pq.read_table(
        Path(corpus) / "trajectories.parquet", columns=["trajectory_id", "return", "length"]
    )
    ids, returns, lengths = (table[name].to_numpy() for name in table.column_names)
    good = ids[(returns >= least) & (lengths >= shortest)]
    kept, counts = np.unique(found["trajectory_id"], return_counts=True)
    if (
        len(kept) != len(good) // 4
        or not np.isin(kept, good).all()
        or not np.array_equal(counts, lengths[kept])
    ):
        sys.exit(f"{len(kept)} trajectories are not a quarter of the {len(good)} good ones, whole")
    sums = np.add.reduceat(
        found["reward"].astype(np.float64),
        np.flatnonzero(np.diff(found["trajectory_id"], prepend=-1)),
    )
    if not np.allclose(sums, returns[kept], rtol=1e-6, atol=1e-4):
        sys.exit("rewards differ from those of the corpus")
    return len(kept)


def selection(ours, theirs, corpus, least):
    """Verifies that both results are valid selections."""
    a, b = load(ours, ["reward"]), load(theirs, ["reward"])
    kept = [chosen(found, corpus, float(least)) for found in (a, b)]
    print(
        f"both keep {kept[0]} whole trajectories of the better half, "
        f"{len(a['step'])} and {len(b['step'])} rows"
    )


def whole(ours, theirs, corpus, least):
    """Verifies that both results are valid selections, with the same values where they overlap."""
    a, b = (load(folder, ["reward", "action", "return_to_go"]) for folder in (ours, theirs))
    kept = [chosen(found, corpus, float(least), 50) for found in (a, b)]
    common = np.intersect1d(a["trajectory_id"], b["trajectory_id"])
    a_common, b_common = (
        {name: column[np.isin(found["trajectory_id"], common)] for name, column in found.items()}
        for found in (a, b)
    )
    for name, tolerance in [("step", 0), ("return_to_go", 1e-4), ("action", 1e-4)]:
        same(a_common, b_common, name, tolerance)
    rows = f"{len(a['step'])} and {len(b['step'])} rows"
    print(
        f"both keep {kept[0]} whole trajectories of the better half, {rows}; "
        f"the {len(common)} that they share have the same labels and return-to-go"
    )


def tables(ours, theirs):
    """Verifies that two CSV files are the same."""

    def read(path):
        with open(path, newline="") as file:
            return list(csv.reader(file))

    a, b = read(ours), read(theirs)
    if len(a) != len(b) or a[0] != b[0]:
        sys.exit(f"{len(a)} and {len(b)} lines, with the columns {a[0]} and {b[0]}")
    for mine, other in zip(a[1:], b[1:]):
        for x, y in zip(mine, other):
            if x.lower() != y.lower() and not np.isclose(float(x), float(y), rtol=1e-9):
                sys.exit(f"{mine} differs from {other}")
    print(f"{Path(ours).stem.split('-')[0]}: {len(a) - 1} rows are the same")


if __name__ == "__main__":
    {"labels": labels, "selection": selection, "whole": whole, "tables": tables}[sys.argv[1]](
        *sys.argv[2:]
    )
