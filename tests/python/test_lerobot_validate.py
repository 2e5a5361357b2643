"""`validate` finds what LeRobot's loader would trip over, and names the rule."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import check, trajmill
from writers.hdf5 import d4rl
from writers.lerobot import Made, put, v30

MADE = Made([4, 6])
DATA, EPISODES, INFO, TASKS = (
    "data/chunk-000/file-000.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
    "meta/info.json",
    "meta/tasks.parquet",
)


def rewrite(path, change):
    """Changes a table of Parquet."""
    return lambda root: pq.write_table(change(pq.read_table(f"{root}/{path}")), f"{root}/{path}")


def column(path, name, values):
    """Puts other values into a column."""
    return rewrite(path, lambda rows: rows.set_column(rows.column_names.index(name), name, values))


def said(before, after):
    """Changes the text of info.json."""

    def damage(root):
        with open(f"{root}/{INFO}") as file:
            text = file.read()
        put(f"{root}/{INFO}", text.replace(before, after))

    return damage


def nan_action():
    actions = MADE.columns["action"].copy()
    actions[5, 1] = np.nan
    return pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), actions.shape[1])


def reverse_tasks(root):
    pd.read_parquet(f"{root}/{TASKS}").iloc[::-1].to_parquet(f"{root}/{TASKS}")


FAULTS = {
    "index": column(DATA, "index", pa.array(np.arange(10) + 1000)),
    "timestamp": column(DATA, "timestamp", pa.array(np.arange(10, dtype=np.float32))),
    "frame_index": column(DATA, "frame_index", pa.array(np.arange(10))),
    "nan-action": column(DATA, "action", nan_action()),
    "null-action": column(
        DATA,
        "action",
        pa.array([None] + MADE.columns["action"][1:].tolist(), pa.list_(pa.float32())),
    ),
    "undeclared-column": rewrite(
        DATA, lambda rows: rows.append_column("more", pa.array(range(10)))
    ),
    "missing-column": rewrite(DATA, lambda rows: rows.drop_columns(["action"])),
    "missing-file": lambda root: os.remove(f"{root}/{DATA}"),
    "stray-file": lambda root: shutil.copy(
        f"{root}/{DATA}", f"{root}/data/chunk-000/other.parquet"
    ),
    "unreadable": lambda root: os.truncate(f"{root}/{DATA}", 3000),
    "row-range": column(EPISODES, "dataset_from_index", pa.array([0, 0])),
    "total-frames": said('"total_frames": 10', '"total_frames": 12'),
    "total-episodes": said('"total_episodes": 2', '"total_episodes": 3'),
    "info": said("v3.0", "v9.0"),
    "task-text": rewrite(TASKS, lambda rows: rows.replace_schema_metadata({})),
    "task-order": reverse_tasks,
    "task_index": column(DATA, "task_index", pa.array([2] * 10)),
    "episode_index": column(DATA, "episode_index", pa.array([0] * 10)),
}


def test_a_good_dataset_is_valid(tmp_path):
    v30(f"{tmp_path}/set", MADE)
    trajmill("validate", tmp_path / "set")


def rules(root):
    """The rules that a faulty dataset breaks."""
    return {
        fault["rule"]
        for fault in json.loads(trajmill("validate", root, "--json", code=4).stdout)["faults"]
    }


@pytest.mark.parametrize("rule", FAULTS)
def test_a_fault_is_named(tmp_path, rule):
    root = f"{tmp_path}/set"
    v30(root, MADE)
    FAULTS[rule](root)
    check(rule in rules(root), f"{rule} is not in {rules(root)}")


def test_a_missing_video_is_named(tmp_path):
    v30(f"{tmp_path}/set", MADE, video=True)
    check("missing-video" in rules(f"{tmp_path}/set"), "missing-video")


def test_states_copied_into_actions_are_named(tmp_path):
    copied = Made([4, 6])
    copied.columns["action"] = copied.columns["observation.state"].copy()
    v30(f"{tmp_path}/set", copied)
    check(
        "state-copied" in trajmill("validate", tmp_path / "set", "--json").stdout,
        "state copied into action",
    )


def test_a_flipped_byte_in_what_trajmill_wrote_is_found(tmp_path):
    """Its pages have checksums."""
    d4rl(tmp_path / "flip.hdf5", [50, 60])
    trajmill("import", tmp_path / "flip.hdf5", tmp_path / "flip")
    trajmill("export", tmp_path / "flip", tmp_path / "out", "--to", "lerobot", "--fps", 10)
    path = tmp_path / "out" / DATA
    content = bytearray(path.read_bytes())
    content[200] ^= 4
    path.write_bytes(content)
    check("unreadable" in rules(tmp_path / "out"), "a flipped byte is found")
