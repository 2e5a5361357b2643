"""Compares trajmill with DuckDB and hand-written scripts. All programs run alternately.

    benches/compare                     # all parts at 10 M steps: about half an hour
    benches/compare label --steps 1M    # one part, smaller
    benches/compare memory              # peak memory at 10 M and 50 M steps

Corpora and models are made in $BENCH_DATA (target/bench) if they do not exist.
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
    "trajmill verifies the blake3 of every file it reads, hashes the files it writes, computes "
    "statistics of every trajectory, syncs to disk and commits atomically. The peers do none of "
    "this. Wall time covers the whole process, with a warm page cache."
)


def say(line):
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)


class Bench:
    """What all parts share: the binary, the options, and data that is made on demand."""

    def __init__(self, args):
        self.args = args
        self.tool = Path(args.trajmill).resolve()
        self.out = DATA / "out"
        self.models = DATA / "models"
        if not (self.models / "window.onnx").exists():
            subprocess.run([PYTHON, BENCHES / "models.py", self.models], check=True)

    def corpus(self, kind, steps=None, recorded=0.1):
        """A corpus, the dataset imported from it, and facts about it."""
        name = "-".join(
            [kind, *([steps] if steps else []), *(["recorded"] if recorded == 1 else [])]
        )
        corpus, dataset = DATA / name, DATA / f"{name}.trajmill"
        if not (corpus / "corpus.json").exists():
            say(f"making {name}")
            shutil.rmtree(corpus, ignore_errors=True)
            size = ["--steps", steps] if steps else []
            subprocess.run(
                [PYTHON, BENCHES / "corpus.py", kind, *size, "--recorded", str(recorded), corpus],
                check=True,
                stdout=sys.stderr,
            )
        if not dataset.exists():
            run = measure.once(
                [self.tool, "import", corpus / "steps", dataset, "--from", "parquet"]
            )
            say(f"imported {name}: {run['wall_s']:.2f} s, {run['peak_mb']:.0f} MB")
            (DATA / f"{name}.import.json").write_text(json.dumps(run))
        return corpus, dataset, json.loads((corpus / "corpus.json").read_text())

    def run(self, pipeline, out, **params):
        """A run of a pipeline, which first removes an earlier output."""
        target = self.out / out
        sets = [
            word
            for key, value in {"out": target, **params}.items()
            for word in ("--set", f"{key}={value}")
        ]
        return (
            lambda: clear(target),
            [self.tool, "run", BENCHES / "pipelines" / f"{pipeline}.yaml", *sets],
            None,
        )

    def peer(self, script, corpus, out, *options):
        """A run of a peer, which first removes an earlier output."""
        target = self.out / out
        return (
            lambda: clear(target),
            [PYTHON, PEERS / f"{script}.py", corpus, target, *options],
            None,
        )

    def verify(self, what, ours, theirs, *more):
        """Stops if two results differ."""
        found = subprocess.run(
            [
                PYTHON,
                BENCHES / "verify.py",
                what,
                self.out / ours,
                self.out / theirs,
                *map(str, more),
            ],
            text=True,
            capture_output=True,
        )
        if found.returncode:
            raise measure.Failed(f"{ours} and {theirs} differ: {found.stdout}{found.stderr}")
        say(f"  {found.stdout.strip()}")
        return found.stdout.strip()


def clear(path):
    """Removes a result, and the staging directory that its run may have left."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(path.with_name(f".{path.name}.staging"), ignore_errors=True)


def size(path):
    """The size of a result's Parquet files in MB."""
    return round(sum(file.stat().st_size for file in path.rglob("*.parquet")) / 1e6, 1)


def label(bench):
    """Label 90 % of the steps."""
    corpus, dataset, facts = bench.corpus("walker", bench.args.steps)
    model = bench.models / "idm-small.onnx"
    runs = measure.interleave(
        {
            "trajmill": bench.run("label", "label", source=dataset, model=model),
            "hand": bench.peer("hand_label", corpus, "hand-label", "--model", model),
            "hand, BYTE_STREAM_SPLIT out": bench.peer(
                "hand_label", corpus, "hand-label-split", "--model", model, "--split-bytes"
            ),
        },
        bench.args.reps,
        say,
    )
    same = bench.verify("labels", "label", "hand-label")
    sizes = {
        "trajmill": size(bench.out / "label"),
        "hand": size(bench.out / "hand-label"),
        "hand, BYTE_STREAM_SPLIT out": size(bench.out / "hand-label-split"),
    }
    return part(runs, facts, [("hand", 1.1)], sizes=sizes, same=same)


def select(bench):
    """Filter by return, subsample, write."""
    corpus, dataset, facts = bench.corpus("walker", bench.args.steps)
    least = facts["median_return"]
    runs = measure.interleave(
        {
            "trajmill": bench.run("select", "select", source=dataset, min_return=least),
            "duckdb": bench.peer(
                "duckdb_filter", corpus, "duckdb-select", "--min-return", str(least)
            ),
            "duckdb, rows in order": bench.peer(
                "duckdb_filter", corpus, "duckdb-ordered", "--min-return", str(least), "--ordered"
            ),
            "hand": bench.peer("hand_filter", corpus, "hand-select", "--min-return", str(least)),
        },
        bench.args.reps,
        say,
    )
    same = bench.verify("selection", "select", "duckdb-select", corpus, least)
    sizes = {
        "trajmill": size(bench.out / "select"),
        "duckdb": size(bench.out / "duckdb-select"),
        "hand": size(bench.out / "hand-select"),
    }
    return part(runs, facts, [("duckdb", 1.0)], sizes=sizes, same=same)


def pipeline(bench):
    """Split, label, filter, subsample, compute the return-to-go, write."""
    corpus, dataset, facts = bench.corpus("walker", bench.args.steps, recorded=1)
    least, model = facts["median_return"], bench.models / "idm-small.onnx"
    runs = measure.interleave(
        {
            "trajmill, nothing pushed by the user": bench.run(
                "whole", "whole", source=dataset, model=model, min_return=least
            ),
            "hand, filter pushed by the author": bench.peer(
                "hand_pipeline", corpus, "hand-whole", "--model", model, "--min-return", str(least)
            ),
        },
        bench.args.reps,
        say,
    )
    same = bench.verify("whole", "whole", "hand-whole", corpus, least)
    sizes = {
        "trajmill, nothing pushed by the user": size(bench.out / "whole"),
        "hand, filter pushed by the author": size(bench.out / "hand-whole"),
    }
    return part(runs, facts, [("hand, filter pushed by the author", 1.0)], sizes=sizes, same=same)


def metadata(bench):
    """Run two queries over 10⁶ trajectories."""
    corpus, dataset, facts = bench.corpus("short")
    (bench.out / "sql").mkdir(parents=True, exist_ok=True)
    runs, goals, same = {}, [], []
    for query in ("p90", "groups"):
        sql = BENCHES / "sql" / f"{query}.sql"
        ours, theirs = (
            bench.out / "sql" / f"{query}-{name}.csv" for name in ("trajmill", "duckdb")
        )
        contestants = {
            f"trajmill, {query}": (
                lambda: None,
                [bench.tool, "sql", dataset, "-f", sql, "--format", "csv"],
                ours,
            ),
            f"duckdb, {query}": (
                lambda: None,
                [PYTHON, PEERS / "duckdb_meta.py", corpus, sql],
                theirs,
            ),
        }
        runs |= measure.interleave(contestants, max(9, bench.args.reps), say)
        goals.append((f"duckdb, {query}", 1.0))
        same.append(bench.verify("tables", ours, theirs))
    return part(runs, facts, goals, same="; ".join(same))


def memory(bench):
    """Measure peak memory with a corpus and with one five times as large."""
    runs = {}
    for steps in ("10M", "50M"):
        _, dataset, facts = bench.corpus("walker", steps)
        model, least = bench.models / "idm-small.onnx", facts["median_return"]
        contestants = {
            f"label, {steps}": bench.run("label", "label", source=dataset, model=model),
            f"select, {steps}": bench.run("select", "select", source=dataset, min_return=least),
            f"whole, {steps}": bench.run(
                "whole", "whole", source=dataset, model=model, min_return=least
            ),
        }
        runs |= measure.interleave(contestants, 1, say)
        runs[f"import, {steps}"] = [json.loads((DATA / f"walker-{steps}.import.json").read_text())]
        for name in ("label", "select", "whole"):
            clear(bench.out / name)
    return part(runs, {}, [])


def part(runs, facts, goals, sizes=None, same=None):
    """The figures of one part. A goal is a peer, and how many times as fast trajmill should be."""
    summary = {}
    for name, list_of_runs in runs.items():
        low, high = measure.spread(list_of_runs)
        inside = (
            {"inside_s": round(measure.median(list_of_runs, "inside_s"), 4)}
            if "inside_s" in list_of_runs[0]
            else {}
        )
        summary[name] = (
            inside
            | {
                "n": len(list_of_runs),
                "wall_s": round(measure.median(list_of_runs, "wall_s"), 4),
                "wall_min_s": low,
                "wall_max_s": high,
                "cpu_s": round(measure.median(list_of_runs, "cpu_s"), 4),
                "peak_mb": max(run["peak_mb"] for run in list_of_runs),
                "others_max": max(run["others"] for run in list_of_runs),
            }
            | ({"out_mb": sizes[name]} if sizes and name in sizes else {})
        )
    ratios = []
    for peer, goal in goals:
        # If the part has several tasks, trajmill's run of a task has the same suffix as the peer's.
        task = peer.split(", ")[-1]
        ours = next((name for name in runs if name == f"trajmill, {task}"), None) or next(
            name for name in runs if name.startswith("trajmill")
        )
        ratio = summary[peer]["wall_s"] / summary[ours]["wall_s"]
        ratios.append(
            {
                "of": ours,
                "against": peer,
                "times_as_fast": round(ratio, 3),
                "wanted": goal,
                "met": ratio >= goal,
            }
        )
    return {"corpus": facts, "summary": summary, "ratios": ratios, "checked": same, "runs": runs}


PARTS = {
    "label": label,
    "select": select,
    "pipeline": pipeline,
    "metadata": metadata,
    "memory": memory,
}


def markdown(name, result):
    """The part's table."""
    lines = [
        f"### {name}: {PARTS[name].__doc__.rstrip('.')}",
        "",
        "| | n | wall s, median (min–max) | M steps/s | CPU s | peak MB | written MB |",
        "|---|---|---|---|---|---|---|",
    ]
    steps = result["corpus"].get("steps")
    for contestant, row in result["summary"].items():
        wall = f"{row['wall_s']:.2f} ({row['wall_min_s']:.2f}–{row['wall_max_s']:.2f})"
        if row["wall_s"] < 2:
            wall = f"{row['wall_s']:.3f} ({row['wall_min_s']:.3f}–{row['wall_max_s']:.3f})"
        if "inside_s" in row:
            wall += f", DuckDB alone {row['inside_s']:.3f}"
        rate = f"{steps / row['wall_s'] / 1e6:.2f}" if steps and name != "metadata" else "–"
        lines.append(
            f"| {contestant} | {row['n']} | {wall} | {rate} | {row['cpu_s']:.2f} "
            f"| {row['peak_mb']:.0f} | {row.get('out_mb', '–')} |"
        )
    lines.append("")
    for ratio in result["ratios"]:
        verdict = "met" if ratio["met"] else "missed"
        lines.append(
            f"- {ratio['of']} is **{ratio['times_as_fast']:.2f}×** as fast as {ratio['against']}. "
            f"The goal of {ratio['wanted']:g}× is {verdict}."
        )
    if result["checked"]:
        lines.append(f"- Verified: {result['checked']}.")
    return "\n".join(lines) + "\n"


def versions(tool):
    """The versions of everything that ran."""

    def text(*command):
        try:
            return subprocess.run(
                command, capture_output=True, text=True, cwd=BENCHES
            ).stdout.strip()
        except OSError:
            return ""

    peers = {
        name: importlib.metadata.version(name)
        for name in ("duckdb", "numpy", "onnxruntime", "pyarrow")
    }
    return {
        "trajmill": text(tool, "--version"),
        "commit": text("git", "rev-parse", "--short", "HEAD"),
        "python": sys.version.split()[0],
    } | peers


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} [all]")
    parser.add_argument("--steps", default="10M", help="steps of the corpus [10M]")
    parser.add_argument("--reps", type=int, default=3, help="rounds [3]")
    parser.add_argument("--cores", type=int, default=2, help="processors to use [2]")
    parser.add_argument(
        "--trajmill",
        default=BENCHES.parent / "target" / "release" / "trajmill",
        help="trajmill's binary [target/release/trajmill]",
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
    if not Path(args.trajmill).exists():
        parser.error(f"{args.trajmill} does not exist: run `cargo build --release`")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    load = os.getloadavg()[0]
    if load > 0.5 * args.cores:
        say(f"warning: the load average is {load:.1f}, so wall times will mean little")
    bench = Bench(args)
    args.results.mkdir(parents=True, exist_ok=True)
    for name in args.parts or PARTS:
        say(f"{name}: {PARTS[name].__doc__}")
        result = PARTS[name](bench)
        record = {
            "what": name,
            "date": datetime.date.today().isoformat(),
            "machine": measure.machine(),
            "versions": versions(bench.tool),
            "note": NOTE,
        } | result
        stem = f"{record['date']}-{name}" + (
            "" if args.steps == "10M" or name in ("metadata", "memory") else f"-{args.steps}"
        )
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
