#!/usr/bin/env python3
"""The yardstick of tests/gpu: onnxruntime alone, with I/O binding, over windows that are already built and in memory.

    bare.py MODEL        prints JSON: steps per second of the better of one session and two sessions in two threads
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort

BATCH, BATCHES, SECONDS = 16_384, 128, 6


def session(model):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(model, options, providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])


def loop(model, data, first, stride, until):
    runner = session(model)
    done, index = 0, first
    out = np.empty((BATCH, runner.get_outputs()[0].shape[1]), np.float32)
    binding = runner.io_binding()
    name = runner.get_outputs()[0].name
    binding.bind_output(name, "cpu", 0, np.float32, out.shape, out.ctypes.data)
    start = None
    while start is None or time.perf_counter() < start + until:
        batch = data[index % BATCHES]
        binding.bind_cpu_input(runner.get_inputs()[0].name, batch)
        runner.run_with_iobinding(binding)
        index += stride
        # The first batches set the device up.
        if start is None and index >= first + 8 * stride:
            start, done = time.perf_counter(), 0
        done += BATCH
    return done / (time.perf_counter() - start)


def main():
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    model = sys.argv[1]
    width = session(model).get_inputs()[0].shape[1]
    rng = np.random.default_rng(0)
    data = [rng.standard_normal((BATCH, width), dtype=np.float32) for _ in range(BATCHES)]
    speeds = {}
    for sessions in (1, 2):
        with ThreadPoolExecutor(sessions) as pool:
            speeds[sessions] = sum(pool.map(lambda first: loop(model, data, first, sessions, SECONDS), range(sessions)))
    best = max(speeds, key=speeds.get)
    print(json.dumps({"steps_per_second": round(speeds[best]), "sessions": best, "batch": BATCH, "onnxruntime": ort.__version__}))


if __name__ == "__main__":
    main()
