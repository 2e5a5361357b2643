"""No command uses bytes that are not those that were hashed: bits flip, sources are replaced.

`TRAJMILL_TRIES` multiplies the number of tries.
"""

import collections
import ctypes
import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import time

import pytest

import oracle
from oracle import check, trajmill
from writers import odd

TRIES = int(os.environ.get("TRAJMILL_TRIES", "1"))
SEED = int(os.environ.get("TRAJMILL_SEED", "1"))
RENAME_EXCHANGE = 2
LIBC = ctypes.CDLL(None, use_errno=True)


def corpus(folder, name, lengths, shard_rows):
    """A dataset of several shards, which reads `lengths` trajectories."""
    odd.write(folder / f"{name}.parquet", lengths)
    trajmill("import", folder / f"{name}.parquet", folder / f"{name}-whole", "--from", "parquet")
    oracle.run(folder, [], folder / f"{name}-whole", name=name, shard_rows=shard_rows)
    return folder / name


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def digest(path):
    """The content of a file, or of all files of a folder."""
    own = hashlib.sha256()
    for file in [path] if path.is_file() else files(path):
        own.update(f"{file.relative_to(path)}\0".encode() + file.read_bytes())
    return own.hexdigest()


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def sql(table):
    return ["sql", "corpus", "--format", "csv", "-c", f"select * from {table}"]


# Each with the folder of the dataset whose files it reads.
COMMANDS = {
    "sql steps": ("steps", sql("steps")),
    "sql trajectories": ("trajectories", sql("trajectories")),
    "sql count": ("steps", ["sql", "corpus", "-c", "select count(*), max(reward) from steps"]),
    "diff": ("", ["diff", "corpus", "other"]),
    "diff back": ("", ["diff", "other", "corpus"]),
    "export": ("", ["export", "corpus", "out", "--to", "d4rl"]),
    "export twice": ("", ["export", "corpus", "out", "--to", "minari"]),
    "info --picture": ("trajectories", ["info", "corpus", "--picture", "out.svg"]),
    "info --verify": ("", ["info", "corpus", "--verify"]),
    "run": ("", ["run", "copy.yaml"]),
}

RESULTS = ["out", "out.svg"]


@pytest.fixture(scope="module")
def place(shared):
    corpus(shared, "corpus", odd.LENGTHS, 40)
    shutil.copytree(shared / "corpus", shared / "other")
    oracle.pipeline(shared / "copy.yaml", "corpus", [{"materialise": {"path": "out"}}])
    return shared


def test_a_flipped_bit_is_never_used(place):
    numbers = random.Random(SEED)
    found = collections.Counter()
    for turn in range(20 * TRIES):
        paths = files(place / "corpus")
        path = paths[turn % len(paths)]
        whole = path.read_bytes()
        at, bit = numbers.randrange(len(whole)), numbers.randrange(8)
        path.write_bytes(
            whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        )
        for name, (reads, arguments) in COMMANDS.items():
            if path.parent.name.startswith(reads) or path.name == "dataset.json":
                done = trajmill(*arguments, cwd=place, code=None)
                # A name in a footer may be damaged, which is a wrong query.
                codes = (1, 2) if name.startswith("sql") else (1, 3)
                check(
                    done.returncode in codes,
                    f"{name}: bit {bit} of byte {at} of {path}: {done.returncode}\n{done.stderr}",
                )
                for result in RESULTS:
                    check(not (place / result).exists(), f"{name}: there is a result")
                found[name] += 1
        path.write_bytes(whole)
    for arguments in [arguments for _, arguments in COMMANDS.values()]:
        trajmill(*arguments, cwd=place)
        for result in RESULTS:
            remove(place / result)
    print("flipped bits:", dict(found))


def exchange(one, other):
    """Replaces a dataset as `overwrite: true` does."""
    paths = [os.fsencode(path) for path in (one, other)]
    if LIBC.renameat2(-100, paths[0], -100, paths[1], RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def overwrite(place, numbers):
    """Writes the twin's bytes into the files themselves, in any order."""
    paths = files(place / "corpus")
    numbers.shuffle(paths)
    for path in paths:
        with open(path, "r+b") as file:
            file.write((place / "twin" / path.relative_to(place / "corpus")).read_bytes())
            file.truncate()


def rename_over(place, numbers):
    """Renames copies of the twin's files over the files, in any order."""
    paths = files(place / "corpus")
    numbers.shuffle(paths)
    for path in paths:
        copy = place / "copy-of-a-file"
        shutil.copyfile(place / "twin" / path.relative_to(place / "corpus"), copy)
        os.replace(copy, path)


HOW = {
    "exchange": lambda place, _: exchange(place / "corpus", place / "twin"),
    "overwrite": overwrite,
    "rename": rename_over,
}


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two datasets with as many shards, of which one replaces the other."""
    folder = tmp_path_factory.mktemp("twins")
    corpus(folder, "one", [25] * 400, 400)
    other = [{"derive": {"reward": "reward + 1"}}]
    oracle.run(folder, other, folder / "one", name="twin", shard_rows=400)
    oracle.pipeline(folder / "copy.yaml", "corpus", [{"materialise": {"path": "out"}}])
    return folder


REPLACED = {
    "sql": sql("steps"),
    "export": ["export", "corpus", "out", "--to", "d4rl"],
    "export twice": ["export", "corpus", "out", "--to", "minari"],
    "diff": ["diff", "corpus", "one", "--json"],
    "run": ["run", "copy.yaml"],
}


def outcome(place, done):
    """What a command wrote."""
    if (place / "out").exists():
        return digest(place / "out")
    return hashlib.sha256("\n".join(sorted(done.stdout.splitlines())).encode()).hexdigest()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("command", REPLACED)
def test_a_source_that_is_replaced_is_never_mixed(twins, tmp_path, command, how):
    place = pathlib.Path(tmp_path)
    for name in ["one", "twin"]:
        shutil.copytree(twins / name, place / name)
    shutil.copy(twins / "copy.yaml", place)
    arguments = REPLACED[command]
    right, seconds = [], []
    for name in ["twin", "one"]:
        remove(place / "corpus")
        shutil.copytree(place / name, place / "corpus")
        started = time.monotonic()
        right.append(outcome(place, trajmill(*arguments, cwd=place)))
        seconds.append(time.monotonic() - started)
        remove(place / "out")
    check(right[0] != right[1], "the twins are told apart")
    numbers = random.Random(f"{SEED} {command} {how}")
    found = collections.Counter()
    for turn in range(4 * TRIES):
        remove(place / "corpus")
        shutil.copytree(place / "one", place / "corpus")
        process = subprocess.Popen(
            [oracle.BINARY, *arguments],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(numbers.uniform(0, max(seconds)))
        was_running = process.poll() is None
        HOW[how](place, numbers)
        stdout, stderr = process.communicate()
        done = subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)
        if done.returncode == 0:
            check(outcome(place, done) in right, f"try {turn}: a mixture")
            found["right" if was_running else "too late"] += 1
        else:
            check("panicked" not in stderr and stderr != "", f"try {turn}: {done}")
            check(not (place / "out").exists(), f"try {turn}: there is a result")
            found["replaced" if "was replaced while it was read" in stderr else "error"] += 1
        remove(place / "out")
        if how == "exchange":
            exchange(place / "corpus", place / "twin")
    print(f"{command}, {how}:", dict(found))
