"""Compares work on videos with PyAV, torchcodec, LeRobot and the loop of GR00T-Dreams.

    benches/video                       # all parts
    benches/video label --reps 1        # one part, one round
    benches/video tune                  # the peer's settings one by one, without trajmill
    benches/video --peers-only          # the peers' figures, without trajmill

All programs run alternately on the same cores. Corpora and models are made in $BENCH_DATA
(target/bench) if they do not exist.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import measure
from measure import BENCHES, DATA, PYTHON

PEERS = BENCHES / "peers"
NOTE = (
    "Wall time and CPU time are those of whole processes; a peer that prints it has its time without "
    "the import of its libraries in brackets, and ratios use that. Memory is the most that a process "
    "and its descendants had at a time. trajmill's runs import the LeRobot dataset first, hash its "
    "videos (blake3), verify what they read, sync to disk and commit with one rename."
)
SIZES = ("256x256", "640x480")
CODECS = ("h264", "av1")
# The batch and the threads at which a peer is fastest (`benches/video tune`).
TUNED = {
    "pyav": ["--decoder", "pyav", "--workers", "2", "--threads", "1"],
    "torchcodec": ["--decoder", "torchcodec", "--workers", "2", "--threads", "1"],
}
# One episode cannot be shared by workers, so a thread decodes while the model runs.
ALONE = ["--workers", "1", "--threads", "2", "--intra", "2", "--decode-ahead"]


def say(line):
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)


def clear(path):
    """Removes a result, and the staging directory that its run may have left."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_name(f".{path.name}.staging"), ignore_errors=True)


class Bench:
    """What all parts share: the binary, the options, and data that is made on demand."""

    def __init__(self, args):
        self.args, self.tool = args, Path(args.trajmill).resolve()
        self.out, self.models = DATA / "out", DATA / "video-models"
        if not (self.models / "state.onnx").exists():
            self.make("models", self.models)

    @staticmethod
    def make(what, out, *options):
        command = [PYTHON, BENCHES / "video_corpus.py", what, out, *options]
        environment = dict(os.environ, SVT_LOG="1")
        subprocess.run(
            [str(word) for word in command], check=True, stdout=sys.stderr, env=environment
        )

    def corpus(self, size, codec, episodes, length, version="v3.0"):
        more = "" if version == "v3.0" else f"-{version}"
        out = DATA / f"video-{size}-{codec}-{episodes}x{length}{more}"
        if not (out / "meta/info.json").exists():
            say(f"making {out.name}")
            self.make(
                "corpus",
                out,
                *("--size", size, "--codec", codec, "--version", version),
                *("--episodes", str(episodes), "--length", str(length)),
            )
        return out

    def ours(self, pipeline, corpus, model, name):
        """A run of a pipeline, which first removes an earlier output."""
        target = self.out / name
        sets = [
            word
            for key, value in {"source": corpus, "model": model, "out": target}.items()
            for word in ("--set", f"{key}={value}")
        ]
        command = [self.tool, "run", BENCHES / "pipelines" / f"{pipeline}.yaml", *sets]
        return lambda: clear(target), command, None

    def peer(self, script, corpus, name, *options):
        """A run of a peer, which first removes an earlier output."""
        target = self.out / name
        command = [PYTHON, PEERS / f"{script}.py", corpus, target, *options]
        return lambda: clear(target), command, None

    def compare(self, contestants):
        """Runs all contestants alternately; with `--peers-only`, those that are not ours."""
        if self.args.peers_only:
            contestants = {
                name: one for name, one in contestants.items() if not name.startswith("trajmill")
            }
        return measure.interleave(contestants, self.args.reps, say, processes=True)

    def labels(self, ours, theirs, kind="labels"):
        """Stops unless labels equal those of a peer; returns the largest difference."""
        import numpy as np
        import pyarrow.parquet as pq

        def column(path):
            files = sorted(path.glob("steps/*.parquet")) or sorted(path.glob("data/**/*.parquet"))
            files = files or [path / "labels.parquet"]
            tables = [pq.read_table(file)["action"].to_numpy() for file in files]
            return np.stack(np.concatenate(tables)).astype(np.float64)

        if self.args.peers_only:
            return "not compared"
        found, wanted = column(self.out / ours), column(self.out / theirs)
        if found.shape != wanted.shape:
            raise measure.Failed(f"{ours} has {found.shape} {kind}, {theirs} has {wanted.shape}")
        apart = float(np.abs(found - wanted).max())
        if apart > 1e-4:
            raise measure.Failed(f"{kind} of {ours} and {theirs} differ by {apart}")
        return f"{len(found):,} {kind} equal within {apart:.1e}"


def label(bench):
    """Label by a model of two frames."""
    runs, goals, same = {}, [], []
    for size in SIZES:
        for codec in CODECS:
            for model, goal in (("small", 1.3), ("resnet", 1.05)):
                # An update of the large model costs a hundred times as much as a frame.
                episodes, length = (8, 300) if model == "small" else (2, 150)
                if model == "resnet" and size == "640x480":
                    length = 40
                corpus = bench.corpus(size, codec, episodes, length)
                file, batch = bench.models / f"{model}-{size}.onnx", "2"
                task = f"{size} {codec} {model}"
                more = ["--model", file, "--batch", batch]
                runs |= bench.compare(
                    {
                        f"trajmill, {task}": bench.ours("video_label", corpus, file, "label"),
                        f"PyAV, {task}": bench.peer(
                            "video_label", corpus, "label-pyav", *more, *TUNED["pyav"]
                        ),
                        f"torchcodec, {task}": bench.peer(
                            "video_label", corpus, "label-torchcodec", *more, *TUNED["torchcodec"]
                        ),
                    }
                )
                same.append(bench.labels("label", "label-pyav"))
                goals += [(f"{peer}, {task}", goal) for peer in ("PyAV", "torchcodec")]
    return part(runs, goals, same)


def decode(bench):
    """Decode every frame, with a model that returns its first pixel."""
    runs, goals = {}, []
    for size in SIZES:
        for codec in CODECS:
            corpus, task = bench.corpus(size, codec, 8, 300), f"{size} {codec}"
            first = bench.models / f"first-{size}.onnx"
            runs |= bench.compare(
                {
                    f"trajmill, {task}": bench.ours("video_label", corpus, first, "decode"),
                    f"PyAV, {task}": bench.peer(
                        "video_decode", corpus, "decode-pyav", *TUNED["pyav"]
                    ),
                    f"torchcodec, {task}": bench.peer(
                        "video_decode", corpus, "decode-torchcodec", *TUNED["torchcodec"]
                    ),
                }
            )
            goals.append((f"torchcodec, {task}", 1.0))
    return part(runs, goals, [])


def memory(bench):
    """Label episodes of 300 frames, and one of 30,000."""
    runs, goals, same = {}, [], []
    model = bench.models / "small-256x256.onnx"
    for episodes, length, tuned in ((100, 300, TUNED["pyav"]), (1, 30_000, ALONE)):
        corpus, task = bench.corpus("256x256", "h264", episodes, length), f"{episodes} × {length}"
        more = ["--model", model, "--batch", "8"]
        runs |= bench.compare(
            {
                f"trajmill, {task}": bench.ours("video_label", corpus, model, "memory"),
                f"PyAV, {task}": bench.peer("video_label", corpus, "memory-pyav", *more, *tuned),
            }
        )
        same.append(bench.labels("memory", "memory-pyav"))
        goals.append((f"PyAV, {task}", 1.3))
    return part(runs, goals, same)


def dream(bench):
    """Label by chunks of 16 actions, and write LeRobot v2.1, as GR00T-Dreams does."""
    corpus = bench.corpus("256x256", "h264", 8, 300, "v2.1")
    model = bench.models / "chunk-256x256.onnx"
    runs = bench.compare(
        {
            "trajmill": bench.ours("video_dream", corpus, model, "dream"),
            "the loop of GR00T-Dreams": bench.peer(
                "video_dream", corpus, "dream-peer", "--model", model
            ),
        }
    )
    same = bench.labels("dream", "dream-peer")
    return part(runs, [("the loop of GR00T-Dreams", 1.3)], [same])


def edit(bench):
    """Remove two episodes of eight, label the rest by its states, write LeRobot v3.0."""
    runs, goals, same = {}, [], []
    model = bench.models / "state.onnx"
    for size in SIZES:
        corpus, task = bench.corpus(size, "av1", 8, 300), f"{size} av1"
        runs |= bench.compare(
            {
                f"trajmill, {task}": bench.ours("video_edit", corpus, model, "edit"),
                f"lerobot, {task}": bench.peer(
                    "video_edit", corpus, "edit-peer", "--delete", "1,4", "--model", model
                ),
            }
        )
        same.append(bench.labels("edit", "edit-peer"))
        goals.append((f"lerobot, {task}", 20.0))
    return part(runs, goals, same)


def tune(bench):
    """Find the settings at which the loops of the peers are fastest."""
    runs = {}
    corpus = bench.corpus("256x256", "h264", 8, 300)
    model = bench.models / "small-256x256.onnx"
    for decoder in TUNED:
        for name, setting in {
            "2 workers": ["--workers", "2", "--threads", "1"],
            "2 workers of 2 threads": ["--workers", "2", "--threads", "2"],
            "decode ahead": ALONE,
        }.items():
            for batch in ("4", "8", "16", "32"):
                options = ["--decoder", decoder, "--model", model, "--batch", batch, *setting]
                runs |= bench.compare(
                    {
                        f"{decoder}, {name}, batch {batch}": bench.peer(
                            "video_label", corpus, "tune", *options
                        )
                    }
                )
    return part(runs, [], [])


PARTS = {
    "label": label,
    "decode": decode,
    "memory": memory,
    "dream": dream,
    "edit": edit,
    "tune": tune,
}


def part(runs, goals, same):
    """The figures of one part. A goal is a peer, and how many times as fast trajmill should be."""
    summary = {}
    for name, own in runs.items():
        low, high = measure.spread(own)
        summary[name] = {
            "n": len(own),
            "wall_s": round(measure.median(own, "wall_s"), 3),
            "wall_min_s": low,
            "wall_max_s": high,
            "cpu_s": round(measure.median(own, "cpu_s"), 3),
            "peak_mb": max(run["peak_mb"] for run in own),
            "others_max": max(run["others"] for run in own),
        }
        if "inside_s" in own[0]:
            summary[name]["inside_s"] = round(measure.median(own, "inside_s"), 3)
    ratios = []
    for peer, goal in goals:
        task = peer.split(", ", 1)[1:]
        ours = ", ".join(["trajmill", *task])
        if ours in summary:
            theirs = summary[peer].get("inside_s", summary[peer]["wall_s"])
            ratio = theirs / summary[ours]["wall_s"]
            cpu = summary[peer]["cpu_s"] / summary[ours]["cpu_s"]
            ratios.append(
                {
                    "of": ours,
                    "against": peer,
                    "times_as_fast": round(ratio, 3),
                    "times_less_cpu": round(cpu, 3),
                    "wanted": goal,
                    "met": ratio >= goal,
                }
            )
    return {"summary": summary, "ratios": ratios, "checked": same, "runs": runs}


def markdown(name, result):
    """The part's table."""
    lines = [
        f"### {name}: {PARTS[name].__doc__.rstrip('.')}",
        "",
        "| | n | wall s, median (min–max) | CPU s | peak MB | others, at most |",
        "|---|---|---|---|---|---|",
    ]
    for contestant, row in result["summary"].items():
        wall = f"{row['wall_s']:.2f} ({row['wall_min_s']:.2f}–{row['wall_max_s']:.2f})"
        if "inside_s" in row:
            wall += f" [{row['inside_s']:.2f}]"
        lines.append(
            f"| {contestant} | {row['n']} | {wall} | {row['cpu_s']:.2f} | {row['peak_mb']:.0f} "
            f"| {row['others_max']:.0%} |"
        )
    lines.append("")
    for ratio in result["ratios"]:
        lines.append(
            f"- {ratio['of']} is **{ratio['times_as_fast']:.2f}×** as fast as {ratio['against']}, "
            f"with {ratio['times_less_cpu']:.2f} times less CPU time. The goal of "
            f"{ratio['wanted']:g}× is {'met' if ratio['met'] else 'missed'}."
        )
    lines += [f"- Verified: {one}." for one in result["checked"]]
    return "\n".join(lines) + "\n"


def versions(tool):
    """The versions of everything that ran."""

    def text(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, cwd=BENCHES).stdout.strip()
        except OSError:
            return ""

    names = ("av", "lerobot", "numpy", "onnxruntime", "torch", "torchcodec")
    return {
        "trajmill": text(tool, "--version"),
        "commit": text("git", "rev-parse", "--short", "HEAD"),
        "python": sys.version.split()[0],
    } | {name: importlib.metadata.version(name) for name in names}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    parser.add_argument("--reps", type=int, default=3, help="rounds [3]")
    parser.add_argument("--cores", type=int, default=2, help="processors to use [2]")
    parser.add_argument("--peers-only", action="store_true", help="run the peers alone")
    parser.add_argument(
        "--trajmill",
        default=BENCHES.parent / "target" / "release" / "trajmill",
        help="trajmill's binary, with the feature `video` [target/release/trajmill]",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=BENCHES / "results",
        help="directory for the results [benches/results]",
    )
    args = parser.parse_args()
    unknown = [name for name in args.parts if name not in PARTS]
    if unknown:
        parser.error(f"unknown part `{unknown[0]}`: choose from {', '.join(PARTS)}")
    if not args.peers_only and args.parts != ["tune"] and not Path(args.trajmill).exists():
        parser.error(f"{args.trajmill} does not exist: run `cargo build --release --features video`")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    load = os.getloadavg()[0]
    if load > 0.5 * args.cores:
        say(f"warning: the load average is {load:.1f}, so wall times will mean little")
    bench = Bench(args)
    args.results.mkdir(parents=True, exist_ok=True)
    for name in args.parts or [name for name in PARTS if name != "tune"]:
        say(f"{name}: {PARTS[name].__doc__}")
        result = PARTS[name](bench)
        record = {
            "what": f"video {name}",
            "date": datetime.date.today().isoformat(),
            "machine": measure.machine(),
            "versions": versions(bench.tool),
            "note": NOTE,
        } | result
        stem = f"{record['date']}-video-{name}" + ("-peers" if args.peers_only else "")
        (args.results / f"{stem}.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        )
        table = markdown(name, result)
        (args.results / f"{stem}.md").write_text(table + f"\n{NOTE}\n")
        print(table, flush=True)


if __name__ == "__main__":
    try:
        main()
    except measure.Failed as failure:
        sys.exit(str(failure))
