"""What the hand-written scripts share: reading, writing, labelling, selection, return-to-go.

The code is tuned, as by a person who knows pyarrow, numpy and ONNX Runtime. A worker thread takes
whole files and has a session with one intra-op thread. Windows are a strided view of the
observations, so only batches are copied, and these fit in the processor's cache. The results are
correct only because no trajectory spans two files.
"""

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FUTURE, ACTIONS = 1, 6
SOURCES = pa.array(["recorded", "proxy"])


def arguments():
    """The command line: CORPUS, OUT and the options of all tasks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--past", type=int, default=0, help="past steps of the model's window")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--min-return", type=float)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--split-bytes", action="store_true", help="write floats as BYTE_STREAM_SPLIT"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    return args


def for_each_file(args, work):
    """Runs `work` on every file of steps, `args.threads` at a time, and writes the results."""

    def one(path):
        table = work(pq.ParquetFile(path).read(use_threads=False))
        if table.num_rows:
            write(table, args.out / path.name, args.split_bytes)

    with ThreadPoolExecutor(args.threads) as pool:
        for _ in pool.map(one, sorted((args.corpus / "steps").glob("*.parquet"))):
            pass


def write(table, path, split_bytes):
    """Writes a table with zstd(1).

    Only ids and strings have dictionaries. For floats, they cost time and make the file larger.
    """
    floats = [
        path
        for path in leaves(table.schema)
        if path.split(".")[0] in ("observation", "action", "reward", "return_to_go")
    ]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=1,
        row_group_size=131_072,
        use_dictionary=["trajectory_id", "action_source"],
        use_byte_stream_split=floats if split_bytes else False,
    )


def leaves(schema):
    """The paths of the columns of `schema` in Parquet."""
    return [
        field.name + (".list.element" if pa.types.is_nested(field.type) else "") for field in schema
    ]


class Sessions(threading.local):
    """A session for each thread."""

    def __init__(self, model):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )

    def run(self, windows):
        """The model's actions for a batch of windows."""
        return self.session.run(None, {"x": windows})[0]


def whole(column):
    """A column of a table as one array."""
    column = column.combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def starts(table):
    """The first rows of the table's trajectories, and their lengths."""
    ids = table["trajectory_id"].to_numpy()
    first = (
        np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        if len(ids)
        else np.zeros(0, np.int64)
    )
    return first, np.diff(np.concatenate([first, [len(ids)]]))


def label(table, sessions, past, batch):
    """Fills null actions whose window lies within the trajectory, and adds `action_source`."""
    rows, (first, lengths) = table.num_rows, starts(table)
    step = np.arange(rows) - np.repeat(first, lengths)
    fits = (step >= past) & (step + FUTURE < np.repeat(lengths, lengths))
    recorded_actions = whole(table["action"])
    recorded = recorded_actions.is_valid().to_numpy(zero_copy_only=False)
    proxy = ~recorded & fits
    observations = whole(table["observation"]).flatten().to_numpy()
    width = len(observations) // rows
    windows = np.lib.stride_tricks.as_strided(
        observations,
        (rows - past - FUTURE, width * (past + 1 + FUTURE)),
        (width * 4, 4),
        writeable=False,
    )
    starts_of_windows = np.flatnonzero(proxy) - past
    labels = [
        sessions.run(windows[starts_of_windows[start : start + batch]])
        for start in range(0, len(starts_of_windows), batch)
    ]
    present = recorded | proxy
    slot = np.cumsum(present) - 1
    actions = np.empty((int(present.sum()), ACTIONS), np.float32)
    actions[slot[recorded]] = recorded_actions.flatten().to_numpy().reshape(-1, ACTIONS)
    if labels:
        actions[slot[proxy]] = np.concatenate(labels)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.where(present, ACTIONS, 0), out=offsets[1:])
    filled = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(actions.ravel()), mask=pa.array(~present)
    )
    source = pa.DictionaryArray.from_arrays(pa.array(proxy.astype(np.int8), mask=~present), SOURCES)
    return table.set_column(table.schema.get_field_index("action"), "action", filled).append_column(
        "action_source", source
    )


def metadata(args):
    """The ids, returns and lengths of the corpus's trajectories."""
    table = pq.read_table(
        args.corpus / "trajectories.parquet", columns=["trajectory_id", "return", "length"]
    )
    return (table[name].to_numpy() for name in table.column_names)


def draw(ids, count, seed):
    """A seeded sample of `count` ids, in ascending order."""
    return np.sort(np.random.default_rng(seed).choice(ids, count, replace=False))


def belongs(table, ids):
    """Whether each row's trajectory is one of `ids`, which must be in ascending order."""
    rows = table["trajectory_id"].to_numpy()
    return ids[np.minimum(np.searchsorted(ids, rows), len(ids) - 1)] == rows


def keep(table, ids):
    """The rows of the trajectories in `ids`."""
    return table.filter(pa.array(belongs(table, ids)))


def hide(table, kept):
    """Sets the actions of every trajectory that is not in `kept` to null."""
    actions, shown = whole(table["action"]), belongs(table, kept)
    shown &= actions.is_valid().to_numpy(zero_copy_only=False)
    hidden = pc.if_else(pa.array(shown), actions, pa.scalar(None, actions.type))
    return table.set_column(table.schema.get_field_index("action"), "action", hidden)


def returns_to_go(table, gamma):
    """Adds the discounted sum of rewards from each step on, for all trajectories at once."""
    first, lengths = starts(table)
    rewards = table["reward"].to_numpy().astype(np.float64)
    order = np.argsort(-lengths, kind="stable")
    ends, lengths = (first + lengths - 1)[order], lengths[order]
    result, sums = np.empty(len(rewards), np.float32), np.zeros(len(lengths))
    for back in range(int(lengths.max(initial=0))):
        running = int(np.searchsorted(-lengths, -back, side="left"))
        at = ends[:running] - back
        sums = rewards[at] + gamma * sums[:running]
        result[at] = sums
    return table.append_column("return_to_go", pa.array(result))
