"""What a dataset holds by pyarrow, pandas and DuckDB, its layout, and its statistics by numpy."""

import blake3
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from oracle import check

D, A = 3, 2

# ---- what is in a dataset, by the three readers


def matrix(column, width, dtype):
    """A list column as a matrix, and which rows are null."""
    column = column.combine_chunks()
    valid = np.asarray(column.is_valid())
    values = np.zeros((len(column), width), dtype)
    values[valid] = np.asarray(column.flatten()).reshape(-1, width)
    return values, valid


def same_tables(dataset, steps):
    """pandas and DuckDB see what pyarrow sees."""
    frame = pd.read_parquet(dataset / "steps")
    check(
        len(frame) == len(steps) and list(frame.columns) == steps.column_names,
        f"pandas: {frame.columns}",
    )
    by_sql = duckdb.sql(f"select * from '{dataset}/steps/*.parquet'").to_arrow_table()
    check(
        by_sql.column_names == steps.column_names and len(by_sql) == len(steps),
        f"DuckDB: {by_sql.column_names}",
    )
    for name in steps.column_names:
        ours = steps[name]
        if pa.types.is_list(ours.type) or pa.types.is_fixed_size_list(ours.type):
            width = D if name == "observation" else A
            expected, valid = matrix(ours, width, np.float64)
            values, also_valid = matrix(by_sql[name], width, np.float64)
            check((valid == also_valid).all() and (expected == values).all(), f"DuckDB: {name}")
            present = frame[name].notna().to_numpy()
            check((present == valid).all(), f"pandas: nulls of {name}")
            check((np.stack(frame[name][present]) == expected[valid]).all(), f"pandas: {name}")
        else:
            check(
                by_sql[name].cast(ours.type).combine_chunks().equals(ours.combine_chunks()),
                f"DuckDB: {name}",
            )
            made = pa.array(frame[name], ours.type, from_pandas=True)
            # Text that pandas keeps in Arrow comes back in chunks.
            made = made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
            check(made.equals(ours.combine_chunks()), f"pandas: {name}")
    names = duckdb.sql(
        f"select trajectory_id, length, \"return\" from '{dataset}/trajectories/*.parquet'"
    ).fetchall()
    check(len(names) == len(pq.read_table(dataset / "trajectories")), "DuckDB: trajectories")


def layout(dataset, manifest):
    """Checks that no row group cuts a trajectory, and that the manifest describes the files.

    Returns the number of row groups.
    """
    seen, groups, listed = set(), 0, set()
    for index, shard in enumerate(manifest["shards"]):
        for kind in ("steps", "trajectories"):
            entry = shard[kind]
            path = dataset / entry["path"]
            listed.add(entry["path"])
            contents = path.read_bytes()
            check(
                len(contents) == entry["bytes"]
                and blake3.blake3(contents).hexdigest() == entry["blake3"],
                f"{path} is not what the manifest says",
            )
            check(pq.ParquetFile(path).metadata.num_rows == entry["rows"], f"rows of {path}")
        file = pq.ParquetFile(dataset / shard["steps"]["path"])
        sorting = file.metadata.row_group(0).sorting_columns
        order = [
            (file.schema.column(column.column_index).path, column.descending) for column in sorting
        ]
        check(order == [("trajectory_id", False), ("step", False)], f"sorting columns: {order}")
        in_file = []
        for group in range(file.num_row_groups):
            groups += 1
            rows = file.read_row_group(group, columns=["trajectory_id", "step"])
            ids, steps = rows["trajectory_id"].to_numpy(), rows["step"].to_numpy()
            check((np.diff(ids) >= 0).all(), "ids ascend")
            starts = np.flatnonzero(np.diff(ids, prepend=-1))
            check(
                (
                    steps
                    == np.arange(len(ids)) - np.repeat(starts, np.diff(np.append(starts, len(ids))))
                ).all(),
                "steps count from 0 in every row group",
            )
            in_file += ids[starts].tolist()
        check(
            len(set(in_file)) == len(in_file) and not seen & set(in_file),
            "a trajectory is cut by a file or a row group",
        )
        check(in_file == sorted(in_file), "a file is not sorted")
        seen |= set(in_file)
        metadata = pq.read_table(dataset / shard["trajectories"]["path"])
        check(metadata["trajectory_id"].to_pylist() == in_file, "trajectories beside their steps")
        check(set(metadata["shard"].to_pylist()) <= {index}, "shard")
        first = np.cumsum([0] + metadata["rows"].to_pylist())
        check(
            metadata["first_row"].to_pylist() == first[:-1].tolist()
            and first[-1] == shard["steps"]["rows"],
            "first_row and rows",
        )
    files = {str(path.relative_to(dataset)) for path in dataset.rglob("*") if path.is_file()}
    check(files == listed | {"dataset.json"}, f"files beside the manifest's: {files ^ listed}")
    return groups


def statistics(dataset, manifest, steps):
    """Everything that is said of trajectories, against numpy over the steps."""
    metadata = pq.read_table(dataset / "trajectories").sort_by("trajectory_id")
    ids = steps["trajectory_id"].to_numpy()
    observation, _ = matrix(steps["observation"], D, np.float64)
    action, acted = matrix(steps["action"], A, np.float64)
    reward = steps["reward"].to_numpy(zero_copy_only=False).astype(float)
    flags = {
        name: steps[name].to_numpy(zero_copy_only=False)
        for name in ("terminated", "truncated", "is_final")
    }
    proxy = np.zeros(len(ids), bool)
    if "action_source" in steps.column_names:
        proxy = pc.fill_null(pc.equal(steps["action_source"], "proxy"), False).to_numpy(
            zero_copy_only=False
        )
    order = np.argsort(ids, kind="stable")
    bounds = np.flatnonzero(np.diff(ids[order], prepend=-1, append=-1))
    totals = {
        name: 0
        for name in (
            "rows",
            "trajectories",
            "steps",
            "recorded_actions",
            "proxy_actions",
            "labelled",
            "terminated",
            "truncated",
        )
    }
    returns = []
    check(len(metadata) == len(bounds) - 1, "one row per trajectory")
    for row, (start, end) in zip(metadata.to_pylist(), zip(bounds, bounds[1:])):
        at = order[start:end]
        own = ~flags["is_final"][at]
        recorded = acted[at] & ~proxy[at]
        expected = {
            "trajectory_id": ids[at[0]],
            "length": own.sum(),
            "terminated": flags["terminated"][at].any(),
            "truncated": flags["truncated"][at].any(),
            "recorded_actions": recorded.sum(),
            "labelled": recorded.sum() == own.sum(),
        }
        for name, value in expected.items():
            check(
                row[name] == value,
                f"{name} of trajectory {row['trajectory_id']}: {row[name]}, not {value}",
            )
        received = reward[at][~np.isnan(reward[at])]
        if len(received):
            check(
                np.isclose(row["return"], received.sum(), rtol=1e-12, atol=1e-12),
                f"return of {row['trajectory_id']}",
            )
            returns.append(row["return"])
        else:
            check(
                row["return"] is None,
                f"return of {row['trajectory_id']}: {row['return']}, where nothing was received",
            )
        for name, values in (("observation", observation[at]), ("action", action[at][acted[at]])):
            check(
                np.allclose(row[f"{name}_sum"], values.sum(axis=0), rtol=1e-12, atol=1e-9),
                f"{name}_sum of {row['trajectory_id']}",
            )
            check(
                np.allclose(row[f"{name}_sum_sq"], (values**2).sum(axis=0), rtol=1e-12, atol=1e-9),
                f"{name}_sum_sq of {row['trajectory_id']}",
            )
        totals["rows"] += len(at)
        totals["trajectories"] += 1
        totals["steps"] += own.sum()
        totals["recorded_actions"] += recorded.sum()
        totals["proxy_actions"] += (acted[at] & proxy[at]).sum()
        for name in ("labelled", "terminated", "truncated"):
            totals[name] += bool(expected[name])
    said = manifest["statistics"]
    for name, value in totals.items():
        check(said[name] == value, f"{name}: {said[name]}, not {value}")
    spread = said["returns"]
    check(
        spread["count"] == len(returns)
        and spread["min"] == min(returns)
        and spread["max"] == max(returns),
        f"returns: {spread}",
    )
    check(np.isclose(spread["sum"], sum(returns), rtol=1e-12), "sum of returns")
    check(len(set(metadata["uid"].to_pylist())) == len(metadata), "uids are unique")
    return metadata
