"""What the peers of benches/formats share: reading and writing episodes as plain Parquet.

An episode is a dict of numpy arrays, `observation` (T+1, ·), `action` (T, ·) and `reward` (T,), and
of the flags `terminated` and `truncated` of its last step.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 65_536


def command(reader, writer):
    """The command line of a peer: `import SOURCE OUT` or `export DATASET OUT`.

    The printed time, `inside`, excludes the import of libraries.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("direction", choices=["import", "export"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    began = time.perf_counter()
    if args.direction == "import":
        write(reader(args.source), args.out)
    else:
        writer(read(args.source), args.out)
    print(f"inside {time.perf_counter() - began:.4f}", file=sys.stderr)


def write(episodes, path):
    """Writes episodes, with a block of them in memory."""
    writer, block, rows, first = None, [], 0, 0
    for episode in episodes:
        block.append(episode)
        rows += len(episode["observation"])
        if rows >= BLOCK:
            writer = put(writer, table(block, first), path)
            block, rows, first = [], 0, first + len(block)
    if block:
        writer = put(writer, table(block, first), path)
    writer.close()


def put(writer, table, path):
    """Appends a row group, and creates the file first if `writer` is None.

    zstd(1), and floats split by byte without a dictionary, are fast and make small files.
    """
    if writer is None:
        floats = [
            field.name + (".list.element" if pa.types.is_nested(field.type) else "")
            for field in table.schema
        ][2:5]
        writer = pq.ParquetWriter(
            path,
            table.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=["trajectory_id"],
            use_byte_stream_split=floats,
        )
    writer.write_table(table, row_group_size=table.num_rows)
    return writer


def table(episodes, first):
    """A table of steps. The observation after the last action has a row without an action."""
    rows = np.array([len(episode["observation"]) for episode in episodes])
    ends, total = np.cumsum(rows), int(rows.sum())
    last = np.zeros(total, bool)
    last[ends - 1] = True
    observation = np.concatenate([episode["observation"] for episode in episodes])
    action = np.concatenate([episode["action"] for episode in episodes])
    reward = np.zeros(total, episodes[0]["reward"].dtype)
    reward[~last] = np.concatenate([episode["reward"] for episode in episodes])
    flag = lambda name: np.isin(
        np.arange(total), (ends - 2)[[bool(episode[name]) for episode in episodes]]
    )
    offsets = np.concatenate([[0], np.cumsum(np.where(last, 0, action.shape[1]))]).astype(np.int32)
    return pa.table(
        {
            "trajectory_id": np.repeat(np.arange(first, first + len(episodes)), rows),
            "step": (np.arange(total) - np.repeat(ends - rows, rows)).astype(np.int32),
            "observation": pa.ListArray.from_arrays(
                np.arange(
                    0, (total + 1) * observation.shape[1], observation.shape[1], dtype=np.int32
                ),
                observation.ravel(),
            ),
            "action": pa.ListArray.from_arrays(
                pa.array(offsets), action.ravel(), mask=pa.array(last)
            ),
            "reward": pa.array(reward, mask=last),
            "terminated": flag("terminated"),
            "truncated": flag("truncated"),
            "is_final": last,
        }
    )


def read(dataset):
    """Reads episodes from plain Parquet files of steps, with one file in memory."""
    for path in sorted((dataset / "steps").glob("*.parquet")):
        steps = pq.read_table(path)
        final = steps["is_final"].to_numpy()
        ends = np.flatnonzero(final) + 1
        columns = {
            name: steps[name].to_numpy(zero_copy_only=False)
            for name in ["terminated", "truncated", "reward"]
        }
        observation = whole(steps["observation"]).flatten().to_numpy().reshape(len(final), -1)
        values = whole(steps["action"]).flatten().to_numpy()
        action = values.reshape(int((~final).sum()), -1)
        start = 0
        for index, end in enumerate(ends):
            yield {
                "observation": observation[start:end],
                "action": action[start - index : end - index - 1],
                "reward": columns["reward"][start : end - 1],
                "terminated": columns["terminated"][end - 2],
                "truncated": columns["truncated"][end - 2],
            }
            start = end


def whole(column):
    """A column of a table as one array."""
    column = column.combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
