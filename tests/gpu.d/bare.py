#!/usr/bin/env python3
"""The baseline of tests/gpu: onnxruntime with I/O binding, over windows that are already in memory.

    bare.py MODEL        # prints JSON: the steps per second of the best of one, two and four sessions, each in a thread
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import onnxruntime as ort

BATCH, BATCHES, SECONDS = 16_384, 128, 5


def session(model):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(model, options, providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])


def loop(model, data, first, stride, ready):
    runner = session(model)
    out = np.empty((BATCH, runner.get_outputs()[0].shape[1]), np.float32)
    binding = runner.io_binding()
    name = runner.get_outputs()[0].name
    binding.bind_output(name, "cpu", 0, np.float32, out.shape, out.ctypes.data)

    def run(index):
        binding.bind_cpu_input(runner.get_inputs()[0].name, data[index % BATCHES])
        runner.run_with_iobinding(binding)

    # The first batches initialise the device.
    for index in range(first, first + 8 * stride, stride):
        run(index)
    ready.wait()
    start, done = time.perf_counter(), 0
    while time.perf_counter() < start + SECONDS:
        run(first + done * stride)
        done += 1
    return done * BATCH / (time.perf_counter() - start)


def main():
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    model = sys.argv[1]
    width = session(model).get_inputs()[0].shape[1]
    rng = np.random.default_rng(0)
    data = [rng.standard_normal((BATCH, width), dtype=np.float32) for _ in range(BATCHES)]
    speeds = {}
    for sessions in (1, 2, 4):
        ready = Barrier(sessions)
        with ThreadPoolExecutor(sessions) as pool:
            speeds[sessions] = sum(pool.map(lambda first: loop(model, data, first, sessions, ready), range(sessions)))
    best = max(speeds, key=speeds.get)
    print(json.dumps({"steps_per_second": round(speeds[best]), "sessions": best, "batch": BATCH, "onnxruntime": ort.__version__}))


if __name__ == "__main__":
    main()
