"""The rules of LeRobot's loader: places, indices, types, tasks, checksums, statistics."""

import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from oracle import check
from writers.lerobot import array, same


def flatten(column):
    values = array(column)
    return values.astype(np.float64).reshape(len(values), -1)


def statistics(whole, stats, part, exact, what):
    """Compares statistics with numpy; minimum, maximum and quantiles agree to the last bit."""
    for name, entry in stats.items():
        values = flatten(whole[name])[part]
        of = lambda key: np.array(entry[key], np.float64).reshape(-1)
        check(
            (of("min") == values.min(0)).all() and (of("max") == values.max(0)).all(),
            f"{what}: bounds of {name}",
        )
        check(
            np.allclose(of("mean"), values.mean(0), rtol=1e-12, atol=1e-12),
            f"{what}: mean of {name}",
        )
        check(np.allclose(of("std"), values.std(0), rtol=1e-9, atol=1e-9), f"{what}: std of {name}")
        check(list(entry["count"]) == [len(values)], f"{what}: count of {name}")
        for key, quantile in [
            ("q01", 0.01),
            ("q10", 0.1),
            ("q50", 0.5),
            ("q90", 0.9),
            ("q99", 0.99),
        ]:
            if exact:
                check(
                    (of(key) == np.quantile(values, quantile, axis=0)).all(),
                    f"{what}: {key} of {name}: {of(key)} {np.quantile(values, quantile, axis=0)}",
                )


def rules_v30(path, lengths, tasks):
    """Checks a dataset of v3.0 against the rules; returns its rows and its info.json."""
    with open(f"{path}/meta/info.json") as file:
        info = json.load(file)
    check(
        info["codebase_version"] == "v3.0"
        and info["total_episodes"] == len(lengths)
        and info["total_frames"] == sum(lengths),
        "totals",
    )
    files = sorted(
        os.path.join(root, name) for root, _, names in os.walk(f"{path}/data") for name in names
    )
    for file in files + [f"{path}/meta/tasks.parquet"]:
        pq.ParquetFile(file, page_checksum_verification=True).read()
        check(
            b"huggingface" not in (pq.read_schema(file).metadata or {}), "no features in the footer"
        )
    whole = pa.concat_tables([pq.read_table(file) for file in files])
    check(set(whole.column_names) == set(info["features"]), "declared columns")
    for name, feature in info["features"].items():
        kind, shape = whole[name].type, feature["shape"]
        check(whole[name].null_count == 0, f"nulls in {name}")
        if len(shape) == 1 and shape != [1]:
            check(
                pa.types.is_fixed_size_list(kind) and kind.list_size == shape[0],
                f"{name} is {kind}",
            )
            kind = kind.value_type
        if len(shape) == 1 and feature["dtype"] != "image":
            check(
                str(kind)
                in {"float32": "float", "float64": "double", "float16": "halffloat"}.get(
                    feature["dtype"], feature["dtype"]
                ),
                f"{name}: {kind} and {feature['dtype']}",
            )
    n = sum(lengths)
    same(array(whole["index"]), np.arange(n), "index")
    same(
        array(whole["episode_index"]), np.repeat(np.arange(len(lengths)), lengths), "episode_index"
    )
    frame = np.concatenate([np.arange(length) for length in lengths])
    same(array(whole["frame_index"]), frame, "frame_index")
    same(array(whole["timestamp"]), (frame / info["fps"]).astype(np.float32), "timestamp")
    found = pd.read_parquet(f"{path}/meta/tasks.parquet")
    check(
        found.index.name == "task"
        and found.index.tolist() == tasks
        and found["task_index"].tolist() == list(range(len(tasks))),
        f"tasks: {found}",
    )
    episodes = pq.read_table(f"{path}/meta/episodes/chunk-000").to_pylist()
    ends = np.cumsum(lengths)
    for at, row in enumerate(episodes):
        check(
            (
                row["episode_index"],
                row["length"],
                row["dataset_from_index"],
                row["dataset_to_index"],
            )
            == (at, lengths[at], ends[at] - lengths[at], ends[at]),
            f"episode {at}",
        )
        own = pq.read_table(
            f"{path}/data/chunk-{row['data/chunk_index']:03d}"
            f"/file-{row['data/file_index']:03d}.parquet",
            columns=["episode_index"],
        )
        check(at in own["episode_index"].to_pylist(), "the file of an episode")
        check(
            row["meta/episodes/chunk_index"] == 0 and row["meta/episodes/file_index"] == 0,
            "the file of its metadata",
        )
    for at in {0, len(lengths) // 2, len(lengths) - 1}:
        row = episodes[at]
        names = {key.split("/")[1] for key in row if key.startswith("stats/")}
        own = {
            name: {
                key: row[f"stats/{name}/{key}"]
                for key in ["min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"]
            }
            for name in names
        }
        statistics(whole, own, slice(ends[at] - lengths[at], ends[at]), True, f"episode {at}")
    with open(f"{path}/meta/stats.json") as file:
        stats = json.load(file)
    check(
        {
            name
            for name, feature in info["features"].items()
            if feature["dtype"] not in ("string", "image")
        }
        == set(stats),
        f"statistics of {sorted(stats)}",
    )
    statistics(whole, stats, slice(None), True, "all")
    return whole, info


def rules_v21(path, lengths, arrays):
    with open(f"{path}/meta/info.json") as file:
        info = json.load(file)
    check(
        info["codebase_version"] == "v2.1"
        and info["total_chunks"] == 1
        and info["total_videos"] == 0,
        "totals of v2.1",
    )
    lines = lambda name: [json.loads(line) for line in open(f"{path}/meta/{name}.jsonl")]
    check(lines("tasks") == [{"task_index": 0, "task": "hop"}], "tasks of v2.1")
    check(
        [(row["episode_index"], row["length"], row["tasks"]) for row in lines("episodes")]
        == [(at, length, ["hop"]) for at, length in enumerate(lengths)],
        "episodes of v2.1",
    )
    tables = [
        pq.read_table(f"{path}/data/chunk-000/episode_{at:06d}.parquet")
        for at in range(len(lengths))
    ]
    check([len(one) for one in tables] == lengths, "a file an episode")
    whole = pa.concat_tables(tables)
    same(array(whole["observation.state"]), arrays["observations"], "observations of v2.1")
    same(array(whole["index"]), np.arange(sum(lengths)), "index of v2.1")
    first = 0
    for row, length in zip(lines("episodes_stats"), lengths):
        statistics(whole, row["stats"], slice(first, first + length), False, "v2.1")
        first += length


def policy_features(features):
    """The features that LeRobot gives to a policy, by the rule of `dataset_to_policy_features`."""
    data = {}
    for name, feature in features.items():
        if feature["dtype"] in ("image", "video"):
            check(len(feature["shape"]) == 3, f"shape of {name}")
            data[name] = "VISUAL"
        elif name == "observation.environment_state":
            data[name] = "ENV"
        elif name.startswith("observation"):
            data[name] = "STATE"
        elif name.startswith("action"):
            data[name] = "ACTION"
    return data
