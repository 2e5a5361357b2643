#!/usr/bin/env python3
"""Removes episodes by what `lerobot-edit-dataset` calls, and labels the rest by hand.

video_edit.py CORPUS OUT --delete 1,4 --model MODEL

LeRobot has no tool that relabels, so a model of two states is run over the tables that it wrote.
LeRobot encodes a video again if one of its episodes is removed.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset

parser = argparse.ArgumentParser()
parser.add_argument("corpus", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--delete", type=lambda text: [int(word) for word in text.split(",")])
parser.add_argument("--model", required=True)
args = parser.parse_args()
began = time.perf_counter()
delete_episodes(
    LeRobotDataset("bench/set", root=args.corpus),
    episode_indices=args.delete,
    output_dir=args.out,
    repo_id="bench/edited",
)
session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
for path in sorted(args.out.glob("data/**/*.parquet")):
    table = pq.read_table(path)
    episode = table["episode_index"].to_numpy()
    state = np.stack(table["observation.state"].to_numpy())
    last = np.append(episode[1:] != episode[:-1], True)
    later = np.where(last[:, None], state, np.roll(state, -1, axis=0))
    action = session.run(None, {"x": np.concatenate([state, later], 1)})[0]
    column = pa.array(action.tolist(), table.schema.field("action").type)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)
print(f"inside {time.perf_counter() - began:.4f}", file=sys.stderr)
