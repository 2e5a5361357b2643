#!/usr/bin/env python3
"""The loop by which GR00T-Dreams labels generated videos, written anew: video_dream.py CORPUS OUT --model MODEL

It reads a LeRobot v2.1 dataset and writes a copy of it with other actions:

1. All frames of an episode are decoded into memory.
2. A pool of threads makes the pair of frames of each step: the step's, and the one 16 steps later or
   the last. All pairs are made before the model sees the first.
3. The model predicts 16 actions for each pair, 32 pairs at a time; a batch never spans two episodes.
4. The up to 16 predictions for a step are averaged.
5. The table of the episode is written with them, and videos and metadata are copied.

What the original does besides, and is not done here: it gathers the pairs in the order in which
threads complete and then takes that for the order of steps, so labels can belong to other steps
(here `map` keeps the order); it prints and swallows the errors of an episode, and then says that all
went well; it copies the statistics of the old actions (as here); it draws noise without a seed. It
works with one process for each GPU; here ONNX Runtime has both cores.
"""

import argparse
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA, HORIZON, BATCH, THREADS = "observation.images.top", 16, 32, 16
parser = argparse.ArgumentParser()
parser.add_argument("corpus", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--model", required=True)
args = parser.parse_args()
began = time.perf_counter()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
info = json.loads((args.corpus / "meta/info.json").read_text())
for folder in ("meta", "videos"):
    shutil.copytree(args.corpus / folder, args.out / folder)
for episode in range(info["total_episodes"]):
    name = f"data/chunk-000/episode_{episode:06d}.parquet"
    table = pq.read_table(args.corpus / name)
    with av.open(str(args.corpus / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4")) as file:
        file.streams.video[0].thread_type = "AUTO"
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    pair = lambda step: (frames[step], frames[min(step + HORIZON, len(frames) - 1)])
    with ThreadPoolExecutor(THREADS) as pool:
        pairs = list(pool.map(pair, range(len(table))))
    chunks = []
    for start in range(0, len(pairs), BATCH):
        now, later = (np.stack(side) for side in zip(*pairs[start : start + BATCH]))
        chunks.append(session.run(None, {"img": now, "img_next": later})[0])
    chunks = np.concatenate(chunks)
    actions = []
    for step in range(len(table)):
        votes = [chunks[start, step - start] for start in range(max(0, step - HORIZON + 1), step + 1)]
        actions.append(np.mean(votes, axis=0))
    actions = np.stack(actions).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), actions.shape[1])
    place = table.column_names.index("action")
    (args.out / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.set_column(place, "action", column), args.out / name)
print(f"inside {time.perf_counter() - began:.4f}", file=sys.stderr)
