"""Runs commands alternately, and measures time and memory.

This module imports nothing large, because the kernel counts the parent's memory towards a child's
peak.
"""

import os
import platform
import statistics
import subprocess
import threading
import time
from pathlib import Path

BENCHES = Path(__file__).resolve().parent
DATA = Path(os.environ["BENCH_DATA"]).resolve()
PYTHON = str(Path(os.environ["BENCH_VENV"], "bin", "python"))


class Failed(Exception):
    """A measured command failed."""


def busy():
    """Seconds of work of all processors since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def family(root):
    """The bytes in memory of a process and of all its descendants."""
    parents, pages = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents[int(entry.name)], pages[int(entry.name)] = int(fields[1]), int(fields[21])
    members, found = {root}, 0
    while len(members) > found:
        found = len(members)
        members |= {child for child, parent in parents.items() if parent in members}
    return sum(pages.get(member, 0) for member in members) * os.sysconf("SC_PAGE_SIZE")


class Watch(threading.Thread):
    """Keeps the most memory that a process and its descendants had at a time."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root, self.peak, self.over = root, 0, threading.Event()

    def run(self):
        while not self.over.wait(0.1):
            self.peak = max(self.peak, family(self.root))

    def stop(self):
        self.over.set()
        self.join()
        return self.peak / 2**20


def once(command, output=None, processes=False):
    """Runs `command`, with its stdout in the file `output`, and returns its figures.

    These are seconds, CPU seconds, peak MB, and the share of the processors that others used. The
    peak is that of the largest process; with `processes`, it is that of all together, if it is more.
    """
    # This run must not wait for the disk writes of earlier ones.
    os.sync()
    environment = dict(
        os.environ,
        OPENBLAS_NUM_THREADS="1",
        OMP_NUM_THREADS="1",
        VIRTUAL_ENV=os.environ["BENCH_VENV"],
    )
    errors = DATA / "stderr.txt"
    with open(output or os.devnull, "wb") as stdout, errors.open("wb") as stderr:
        before, start = busy(), time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=stdout, stderr=stderr, env=environment
        )
        watch = Watch(process.pid) if processes else None
        if watch:
            watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall, total = time.perf_counter() - start, busy() - before
    process.returncode = os.waitstatus_to_exitcode(status)
    text = errors.read_text(errors="replace")
    if process.returncode:
        raise Failed(f"{' '.join(map(str, command))}\nexited with {process.returncode}:\n{text}")
    cpu = usage.ru_utime + usage.ru_stime
    run = {
        "wall_s": round(wall, 4),
        "cpu_s": round(cpu, 4),
        "peak_mb": round(max(usage.ru_maxrss / 1024, watch.stop() if watch else 0), 1),
        # The share of the processors that other processes used. Above 0.1, wall time means little.
        "others": round(max(0.0, total - cpu) / (wall * len(os.sched_getaffinity(0))), 3),
    }
    inside = [line.split()[1] for line in text.splitlines() if line.startswith("inside ")]
    return run | ({"inside_s": float(inside[0])} if inside else {})


def interleave(contestants, repeats, log, processes=False):
    """Runs every contestant once a round. `contestants`: name → (prepare, command, output)."""
    runs = {name: [] for name in contestants}
    for turn in range(repeats):
        for name, (prepare, command, output) in contestants.items():
            prepare()
            run = once(command, output, processes)
            runs[name].append(run)
            log(
                f"  {turn + 1}/{repeats} {name}: {run['wall_s']:.2f} s, CPU {run['cpu_s']:.2f} s, "
                f"{run['peak_mb']:.0f} MB, others {run['others']:.0%}"
            )
    return runs


def median(runs, key):
    """The median of a figure over all runs."""
    return statistics.median(run[key] for run in runs)


def spread(runs):
    """The smallest and the largest wall time."""
    return min(run["wall_s"] for run in runs), max(run["wall_s"] for run in runs)


def machine():
    """The processor, the number of cores in use, the memory and the operating system."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 2**20
    return {
        "processor": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory,
        "system": platform.system(),
    }
