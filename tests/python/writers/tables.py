"""Tables of steps as text, streams and one row per episode, written by pyarrow, csv and json."""

import csv as csv_module
import gzip
import io
import json
import os

import pyarrow as pa


def episodes(table, id_column="episode"):
    """A row for each run of equal ids, with lists of the other columns."""
    rows = {name: [] for name in table.column_names}
    last = object()
    for row in table.to_pylist():
        begins, last = row[id_column] != last, row[id_column]
        for name, value in row.items():
            if name == id_column:
                rows[name].extend([value] if begins else [])
            elif begins:
                rows[name].append([value])
            else:
                rows[name][-1].append(value)
    types = {
        name: kind if name == id_column else pa.list_(kind)
        for name, kind in zip(table.column_names, table.schema.types)
    }
    return pa.table({name: pa.array(rows[name], types[name]) for name in rows})


def scalars(table):
    """The table without lists: a coordinate of the observation stands for all of it."""
    observation = [row[0] for row in table["observations"].to_pylist()]
    table = table.drop_columns(["observations", "actions"])
    return table.append_column("observation", pa.array(observation, pa.float32()))


def opened(path):
    """Opens a text file for writing; gzip without a time, so that its bytes stay the same."""
    if not str(path).endswith(".gz"):
        return open(path, "w", newline="")
    return io.TextIOWrapper(gzip.GzipFile(path, "wb", mtime=0), newline="")


def csv(path, table):
    with opened(path) as file:
        delimiter = "\t" if ".tsv" in str(path) else ","
        writer = csv_module.DictWriter(file, table.column_names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table.to_pylist())


def jsonl(path, table):
    with opened(path) as file:
        file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())


def stream(path, table, rows):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def saved(folder, table, files, about=None):
    """A folder as `save_to_disk` of the library `datasets` writes it."""
    os.makedirs(folder)
    names = [f"data-{index:05}-of-{files:05}.arrow" for index in range(files)]
    size = -(-len(table) // files)
    for index, name in enumerate(names):
        stream(os.path.join(folder, name), table.slice(index * size, size), 1000)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0000000000000000",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    with open(os.path.join(folder, "state.json"), "w") as file:
        json.dump(state, file)
    if about is not None:
        with open(os.path.join(folder, "dataset_info.json"), "w") as file:
            json.dump(about, file)
