#!/usr/bin/env python3
"""Labels the frames of a LeRobot dataset by a model of two frames, in hand-written Python.

video_label.py CORPUS OUT --model MODEL [--decoder pyav|torchcodec] [--workers N] [--threads N]
               [--batch N] [--intra N]

Every worker takes whole episodes and has an ONNX Runtime session of `--intra` threads of its own.
With `--decode-ahead`, a thread decodes the next batch while the model runs: the loop for one long
episode.
"""

import queue
import threading

import numpy as np
import onnxruntime
import videos

args = videos.arguments(
    ("--model", {"required": True}),
    ("--intra", {"type": int, "default": 1}),
    ("--decode-ahead", {"action": "store_true"}),
)
local = threading.local()


def session():
    if not hasattr(local, "session"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.intra
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        local.session = onnxruntime.InferenceSession(
            args.model, options, providers=["CPUExecutionProvider"]
        )
    return local.session


def ahead(source):
    """Decodes in a thread; a batch waits while another is used."""
    waiting = queue.Queue(1)

    def fill():
        for ring, count in source:
            waiting.put((ring.copy(), count))
        waiting.put(None)

    threading.Thread(target=fill, daemon=True).start()
    while (item := waiting.get()) is not None:
        yield item


def label(index, path, first, count, fps):
    source = videos.batches(videos.frames(args, path, first, count, fps), args.batch)
    found = []
    for ring, rows in ahead(source) if args.decode_ahead else source:
        # The batch always has one size, so that the last rows have the values of the others.
        feed = {"img": ring[: args.batch], "img_next": ring[1 : args.batch + 1]}
        found.append(session().run(None, feed)[0][:rows])
    return np.concatenate(found)


videos.write(args, videos.each(args, label))
