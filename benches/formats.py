"""Compares import and export with the formats' own libraries. All programs run alternately.

    benches/formats                        # all formats: about ten minutes
    benches/formats minari --steps 100K    # one format, smaller

The time of a peer excludes the import of its libraries. trajmill's time is that of the whole
process, including checksums and statistics.
"""

import argparse
import dataclasses
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

NOTE = (
    "The time of a peer excludes the import of its libraries; trajmill's is that of the whole "
    "process. trajmill's import hashes the source (blake3) and computes statistics and a content "
    "hash of every trajectory; its export verifies the dataset's checksums. Both sync to disk and "
    "commit with one rename."
)

#: How many times as fast as a format's own library trajmill should be.
GOAL = 3.0


@dataclasses.dataclass
class Format:
    """A format and its peers."""

    tool: str
    peer: str
    tuned: str = None
    suffix: str = ""
    # LeRobot's recorder and TFDS's builder write step by step, so a part of the corpus is enough.
    share: float = 1.0
    # The place of the dataset in the peer's output.
    inside: str = ""
    options: tuple = ()


FORMATS = {
    "d4rl": Format("h5py, as D4RL's scripts", "format_d4rl", "format_d4rl_tuned", ".hdf5"),
    "minari": Format("minari", "format_minari", options=("--name", "ours-v0")),
    "robomimic": Format("h5py, as robomimic's scripts", "format_robomimic", suffix=".hdf5"),
    "lerobot": Format(
        "lerobot", "format_lerobot", share=0.1, options=("--task", "walk", "--fps", "30")
    ),
    "rlds": Format("tensorflow-datasets", "format_rlds", share=0.2, inside="bench/1.0.0"),
}


def say(line):
    """Prints a line of progress."""
    print(line, file=sys.stderr, flush=True)


def clear(path):
    """Removes a result, and the staging directory that its run may have left."""
    for path in (path, path.with_name(f".{path.name}.staging")):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)


def corpus(steps, tool):
    """A D4RL file of about `steps` steps, the dataset imported from it, and its number of steps."""
    file, dataset, facts = (DATA / f"formats-{steps}{suffix}" for suffix in (".hdf5", "", ".json"))
    if not facts.exists():
        say(f"making a corpus of {steps} steps")
        clear(dataset)
        found = subprocess.run(
            [PYTHON, BENCHES / "corpus_d4rl.py", str(steps), file],
            check=True,
            capture_output=True,
            text=True,
        )
        subprocess.run([tool, "import", file, dataset], check=True, capture_output=True)
        facts.write_text(found.stdout)
    return file, dataset, int(facts.read_text())


def size(path):
    """The size of a file or directory in MB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / 1e6, 1)


def measured(format, name, args):
    """Measures both directions of one format."""
    tool, out = Path(args.trajmill).resolve(), DATA / "formats-out" / name
    out.mkdir(parents=True, exist_ok=True)
    file, dataset, steps = corpus(int(args.steps * format.share), tool)
    scripts = {format.tool: format.peer} | ({"tuned by hand": format.tuned} if format.tuned else {})
    ours, theirs = out / f"ours-v0{format.suffix}", out / f"theirs-v0{format.suffix}"
    targets = {"trajmill": ours} | {
        contestant: theirs.with_name(
            f"{'theirs' if script == format.peer else 'tuned'}-v0{format.suffix}"
        )
        for contestant, script in scripts.items()
    }
    peer = lambda script, direction, source, target: (
        lambda: clear(target),
        [PYTHON, BENCHES / "peers" / f"{script}.py", direction, source, target],
        None,
    )

    say(f"{name}: export")
    contestants = {
        "trajmill": (
            lambda: clear(ours),
            [tool, "export", dataset, ours, "--to", name, *format.options],
            None,
        )
    }
    contestants |= {
        contestant: peer(script, "export", dataset, targets[contestant])
        for contestant, script in scripts.items()
    }
    exports = measure.interleave(contestants, args.reps, say)
    checked = [verify("export", format.peer, ours, theirs / format.inside)]
    sizes = {contestant: size(target) for contestant, target in targets.items()}
    yield "export", steps, exports, sizes, checked

    say(f"{name}: import")
    # The source is what the library wrote. D4RL's own datasets look like the corpus.
    source = file if name == "d4rl" else theirs / format.inside
    made, rows = (
        out / "made",
        {contestant: out / f"{script}.parquet" for contestant, script in scripts.items()},
    )
    contestants = {
        "trajmill": (lambda: clear(made), [tool, "import", source, made, "--from", name], None)
    }
    contestants |= {
        contestant: peer(script, "import", source, rows[contestant])
        for contestant, script in scripts.items()
    }
    imports = measure.interleave(contestants, args.reps, say)
    checked = [verify("import", format.peer, made, target) for target in rows.values()]
    sizes = {"trajmill": size(made)} | {
        contestant: size(target) for contestant, target in rows.items()
    }
    yield "import", steps, imports, sizes, checked
    shutil.rmtree(out)


def verify(*what):
    """Stops if two results differ."""
    found = subprocess.run(
        [PYTHON, BENCHES / "verify_formats.py", *what], text=True, capture_output=True
    )
    if found.returncode:
        raise measure.Failed(
            f"{' '.join(map(str, what))}: the results differ: {found.stdout}{found.stderr}"
        )
    say(f"  {found.stdout.strip()}")
    return found.stdout.strip()


def summary(runs, sizes):
    """The figures of each contestant."""
    return {
        contestant: {
            "n": len(own),
            "wall_s": round(measure.median(own, "wall_s"), 3),
            "spread_s": measure.spread(own),
            # Without the import of a peer's libraries.
            "work_s": round(
                measure.median(own, "inside_s" if "inside_s" in own[0] else "wall_s"), 3
            ),
            "cpu_s": round(measure.median(own, "cpu_s"), 3),
            "peak_mb": max(run["peak_mb"] for run in own),
            "others_max": max(run["others"] for run in own),
            "out_mb": sizes[contestant],
        }
        for contestant, own in runs.items()
    }


def markdown(parts):
    """A table with a row for each peer."""
    lines = [
        "| format | peer | steps | trajmill s | peer s (whole process) | times as fast "
        "| CPU s, trajmill and peer | peak MB, trajmill and peer "
        "| written MB, trajmill and peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        own = part["summary"]["trajmill"]
        for contestant, row in part["summary"].items():
            if contestant == "trajmill":
                continue
            # The goal applies to the formats' own libraries only.
            has_goal = contestant != "tuned by hand"
            times = row["work_s"] / own["work_s"]
            missed = has_goal and times < GOAL
            verdict = f"**{times:.1f}**" + (f" (goal {GOAL:g})" if missed else "")
            lines.append(
                f"| {part['format']}, {part['direction']} | {contestant} | {part['steps']:,} "
                f"| {own['work_s']:.2f} | {row['work_s']:.2f} ({row['wall_s']:.2f}) | {verdict} "
                f"| {own['cpu_s']:.2f}, {row['cpu_s']:.2f} "
                f"| {own['peak_mb']:.0f}, {row['peak_mb']:.0f} "
                f"| {own['out_mb']:.0f}, {row['out_mb']:.0f} |"
            )
    busy = max(row["others_max"] for part in parts for row in part["summary"].values())
    if busy > 0.1:
        lines += [
            "",
            f"Other processes took up to {busy:.0%} of the processors meanwhile, so wall times "
            "mean little. CPU seconds are reliable.",
        ]
    return "\n".join(lines) + "\n"


def steps(text):
    """Parses a number of steps, such as `200K`."""
    return int(float(text.rstrip("KM")) * {"K": 1e3, "M": 1e6}.get(text[-1], 1))


def versions(tool):
    """The versions of everything that ran."""
    text = lambda *command: subprocess.run(
        command, capture_output=True, text=True, cwd=BENCHES
    ).stdout.strip()
    peers = {
        name: importlib.metadata.version(name) for name in ("h5py", "minari", "numpy", "pyarrow")
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
    parser.add_argument(
        "formats", nargs="*", metavar="FORMAT", help=f"any of {', '.join(FORMATS)} [all]"
    )
    parser.add_argument(
        "--steps",
        type=steps,
        default="1M",
        help="steps of the corpus; LeRobot gets a tenth of it, TFDS a fifth [1M]",
    )
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
    unknown = [name for name in args.formats if name not in FORMATS]
    if unknown:
        parser.error(f"unknown format `{unknown[0]}`: choose from {', '.join(FORMATS)}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    parts = []
    for name in args.formats or FORMATS:
        for direction, count, runs, sizes, checked in measured(FORMATS[name], name, args):
            parts.append(
                {
                    "format": name,
                    "direction": direction,
                    "steps": count,
                    "summary": summary(runs, sizes),
                    "checked": checked,
                    "runs": runs,
                }
            )
    table = markdown(parts)
    record = {
        "what": "formats",
        "date": datetime.date.today().isoformat(),
        "machine": measure.machine(),
        "versions": versions(args.trajmill),
        "note": NOTE,
        "parts": parts,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    stem = f"{record['date']}-formats" + (f"-{'-'.join(args.formats)}" if args.formats else "")
    (args.results / f"{stem}.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    )
    (args.results / f"{stem}.md").write_text(table + f"\n{NOTE}\n")
    print(table, flush=True)


if __name__ == "__main__":
    try:
        main()
    except measure.Failed as failure:
        sys.exit(str(failure))
