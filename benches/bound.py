"""Measures the upper bound of labelling speed, and the share of it that a run reaches.

Decode, inference and encode are measured one by one. Decode and encode are Criterion's `parts`:
trajmill's own reader and writer on the same corpus, with one thread and a file system in memory.
Inference is onnxruntime alone, on windows in memory, with a one-thread session for each core, at
its best batch size. When all cores are busy, no part can run behind another. So the bound is
cores / (decode + share * inference + encode), where `share` is the share of rows that need
inference.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import threading
import time
from pathlib import Path

import compare
import measure
from measure import BENCHES, DATA


def inference(model, width, cores):
    """Steps per second of all cores together, by batch size: the median of five trials.

    A trial takes about a second.
    """
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(cores)
    ]
    windows = numpy.random.default_rng(0).standard_normal((1 << 16, width), dtype=numpy.float32)

    def work(session, batch, steps):
        for start in range(0, steps, batch):
            at = start % len(windows)
            session.run(None, {"x": windows[at : at + batch]})

    def together(batch, steps):
        threads = [
            threading.Thread(target=work, args=(session, batch, steps)) for session in sessions
        ]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    rates = {}
    for batch in (128, 256, 512, 1024, 2048, 4096, 8192):
        trial = max(batch, 8192)
        steps = max(trial, int(trial / together(batch, trial)) // batch * batch)
        rates[batch] = statistics.median(cores * steps / together(batch, steps) for _ in range(5))
    return rates


def criterion(dataset, labelled):
    """Seconds per row of decode, encode and the assembly of windows."""
    home = DATA / "criterion"
    environment = dict(
        os.environ,
        CRITERION_HOME=str(home),
        TRAJMILL_BENCH_SOURCE=str(dataset),
        TRAJMILL_BENCH_RESULT=str(labelled),
    )
    environment["VIRTUAL_ENV"] = os.environ["BENCH_VENV"]
    if Path("/dev/shm").is_dir():
        environment["TMPDIR"] = "/dev/shm"
    subprocess.run(
        "cargo bench --features faults --bench parts -- decode|encode|window".split(),
        cwd=BENCHES.parent,
        env=environment,
        check=True,
    )
    found = {}
    for name in ("decode", "encode", "window"):
        folder = home / name / "shard" / "new"
        rows = json.loads((folder / "benchmark.json").read_text())["throughput"]["Elements"]
        found[name] = (
            json.loads((folder / "estimates.json").read_text())["median"]["point_estimate"]
            / 1e9
            / rows
        )
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", default="10M", help="steps of the corpus [10M]")
    parser.add_argument("--reps", type=int, default=3, help="labelling runs [3]")
    parser.add_argument("--cores", type=int, default=2, help="processors to use [2]")
    parser.add_argument("--trajmill", default=BENCHES.parent / "target" / "release" / "trajmill")
    parser.add_argument("--results", type=Path, default=BENCHES / "results")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    bench = compare.Bench(args)
    _, dataset, facts = bench.corpus("walker", args.steps)
    model = bench.models / "idm-small.onnx"
    runs = measure.interleave(
        {"trajmill": bench.run("label", "label", source=dataset, model=model)},
        args.reps,
        compare.say,
    )["trajmill"]
    parts = criterion(dataset, bench.out / "label")
    rates = {
        "idm-small": inference(str(model), 34, args.cores),
        "idm-paper": inference(str(bench.models / "idm-paper.onnx"), 68, args.cores),
    }
    batch, best = max(rates["idm-small"].items(), key=lambda rate: rate[1])
    share = facts["to_label"] / facts["steps"]
    per_row = parts["decode"] + share * args.cores / best + parts["encode"]
    bound, reached = args.cores / per_row, facts["steps"] / measure.median(runs, "wall_s")
    record = {
        "what": "bound",
        "date": datetime.date.today().isoformat(),
        "machine": measure.machine(),
        "versions": compare.versions(bench.tool),
        "corpus": facts,
        "microseconds_a_row": {name: round(seconds * 1e6, 4) for name, seconds in parts.items()}
        | {"inference": round(args.cores / best * 1e6, 4)},
        "inference_steps_a_second": {
            name: {str(size): round(rate) for size, rate in table.items()}
            for name, table in rates.items()
        },
        "best_batch": batch,
        "share_of_rows_inferred": round(share, 4),
        "bound_rows_a_second": round(bound),
        "trajmill_rows_a_second": round(reached),
        "share_of_bound": round(reached / bound, 3),
        "runs": runs,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    stem = f"{record['date']}-bound" + ("" if args.steps == "10M" else f"-{args.steps}")
    (args.results / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = ["| part, measured alone | µs per row | M rows/s per core |", "|---|---|---|"]
    for name, seconds in [
        ("decode", parts["decode"]),
        (f"inference, batch {batch}", args.cores / best),
        ("encode", parts["encode"]),
    ]:
        lines.append(f"| {name} | {seconds * 1e6:.3f} | {1e-6 / seconds:.2f} |")
    lines.append("")
    lines.append(
        f"{share:.1%} of the rows need inference, so {args.cores} cores allow "
        f"{bound / 1e6:.3f} M rows/s."
    )
    lines.append(
        f"A run, from process start to commit, reaches {reached / 1e6:.3f} M rows/s: "
        f"**{reached / bound:.2f}** of the bound."
    )
    text = "\n".join(lines) + "\n"
    (args.results / f"{stem}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
