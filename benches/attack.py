"""Disturbs one system call of a command after another, and holds what it does against what it ought to.

A command must end with the bytes of an undisturbed run or with an error; never with other bytes and never by a
panic or an abort. `strace` counts the calls that reach files of the workspace. It fails one of them, or lets a
read return 0 bytes, as if the file had ended early. For each command, `attack.c` also shortens and interrupts
all of its reads at random, which changes nothing for a correct reader.

    python benches/attack.py TRAJMILL [--seed N] [--tries N]
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

READS = ["read", "pread64", "readv", "preadv", "preadv2"]
CALLS = [*READS, "openat", "statx", "newfstatat", "fstat", "getdents64", "lseek", "readlink", "mmap", "flock", "close"]
DENIED = ["openat", "statx", "newfstatat", "readlink", "mmap"]
SEEDS = Path(__file__).resolve().parent.parent / "tests" / "seeds"
MODELS = SEEDS.parent / "models"
FORMATS = ["arrow", "d3rlpy", "d4rl", "lerobot", "lerobot-v2.1", "minari", "npy", "ogbench", "parquet", "rlds", "robomimic"]
ENDINGS = {"d3rlpy": ".h5", "d4rl": ".hdf5", "ogbench": ".npz", "robomimic": ".hdf5"}


def tree(root):
    files = {}
    for path in sorted(root.rglob("*")) if root.exists() else []:
        if path.is_file() and not any(part.startswith(".") and part.endswith(".staging") for part in path.parts):
            files[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return files


def published(out):
    """Whether there is a result. The report and the pictures of a model appear before the model."""
    return any(not name.startswith("idm.") or name == "idm.onnx" for name in tree(out))


class Attack:
    def __init__(self, binary, root):
        self.binary, self.root = binary, root
        self.out = root / "out"

    def run(self, arguments, strace=(), check=False, **more):
        command = [*strace, str(self.binary), *arguments]
        environment = {**os.environ, "TRAJMILL_RUNTIME": "rten", "NO_COLOR": "1", **more}
        try:
            done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return None
        if check and done.returncode != 0:
            sys.exit(f"{arguments}: {done.stderr}")
        return done

    def clear(self):
        shutil.rmtree(self.out, ignore_errors=True)

    def places(self, arguments):
        """For each call, the numbers (by thread) at which it reaches a file of the workspace."""
        log = self.root / "strace"
        self.run(arguments, ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", "trace=" + ",".join(CALLS)])
        counts, found = Counter(), []
        for line in log.read_text(errors="replace").splitlines():
            match = re.match(r"(\d+) +(\w+)\((.*)", line)
            if not match or match[2] not in CALLS:
                continue
            counts[match[1], match[2]] += 1
            named = ("openat", "statx", "newfstatat", "readlink")
            inside = str(self.root) in match[3] or (match[2] in named and '"/' not in match[3])
            if inside and "/.." not in match[3]:
                found.append((match[2], counts[match[1], match[2]]))
        log.unlink()
        return sorted(set(found))


    def disturbances(self, arguments, tries, choose):
        """Ways to disturb a command, each with its name and what `run` needs for it."""
        places = self.places(arguments)
        choose.shuffle(places)
        # As many of each call as there are: reads are rarer than questions about files.
        turn = Counter()
        order = {}
        for call, number in places:
            turn[call] += 1
            order[call, number] = turn[call]
        for call, number in sorted(places, key=order.get)[:tries]:
            faults = ["error=EIO"]
            if call in DENIED:
                faults.append("error=EACCES")
            if call in READS:
                faults.append("retval=0")
            fault = choose.choice(faults)
            inject = f"inject={call}:{fault}:when={number}"
            kind = f"{call}, early end" if fault == "retval=0" else call
            yield kind, f"{fault} at {call} {number}", {
                "strace": ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
            }
        for how in ["short", "interrupt"]:
            for _ in range(max(1, tries // 10)):
                seed = str(choose.randrange(1 << 32))
                shim = {"LD_PRELOAD": str(self.shim), "ATTACK_ROOT": str(self.root), "ATTACK_HOW": how, "ATTACK_SEED": seed}
                yield f"all reads, {how}", f"{how} reads, seed {seed}", shim


def setup(attack):
    shutil.copytree(SEEDS, attack.root / "seeds")
    shutil.copytree(MODELS, attack.root / "models")
    attack.shim = attack.root / "attack.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", attack.shim, source, "-ldl"], check=True)
    run = lambda *arguments: attack.run(arguments, check=True)
    run("import", "seeds/d4rl/set.hdf5", "corpus")
    run("import", "seeds/minari/set-hdf5-v0", "other")
    head = "trajmill: 1\nsource: corpus\nstages:\n"
    train = "  - train_idm: { out: made/idm.onnx, steps: 5, hidden: [4], members: 1 }\n"
    label = "  - hide_actions: { keep: 0.5, seed: 1 }\n  - label: { model: made/idm.onnx }\n  - materialise: { path: PATH }\n"
    (attack.root / "train.yaml").write_text(head + train)
    (attack.root / "trained.yaml").write_text(head + train.replace("made", "out"))
    (attack.root / "proxy.yaml").write_text(head + label.replace("PATH", "made/proxy"))
    (attack.root / "label.yaml").write_text(head + label.replace("PATH", "out/x"))
    run("run", "train.yaml", "--threads", "1")
    run("run", "proxy.yaml", "--threads", "1")
    commands = [
        ["run", "label.yaml", "--threads", "1"],
        ["run", "trained.yaml", "--threads", "1"],
        ["run", "proxy.yaml", "--threads", "1", "--verify"],
        ["plan", "label.yaml"],
        ["plan", "proxy.yaml", "--json"],
        ["check", "label.yaml", "proxy.yaml", "trained.yaml"],
        ["info", "corpus", "--json"],
        ["info", "corpus", "--verify"],
        ["sql", "corpus", "--threads", "1", "-c", "select count(*), sum(reward) from steps"],
        ["sql", "made/proxy", "--threads", "1", "-c", "select * from steps", "-o", "out/x.parquet"],
        ["diff", "corpus", "made/proxy"],
        ["diff", "made/proxy", "corpus", "--json"],
        ["validate", "corpus"],
    ]
    sources = [
        "arrow/set.arrow", "d3rlpy/replay.h5", "d4rl/set.hdf5", "exorl/set", "lerobot/v21", "lerobot/v30",
        "minari/set-arrow-v0", "minari/set-hdf5-v0", "minari/set-parquet-v0", "ogbench/set.npz",
        "parquet/set.parquet", "rlds/set", "robomimic/set.hdf5", "robosuite/demo.hdf5", "tensordict/set",
        "tfagents/set.tfrecord", "zarr/lz4-shuffle.zarr", "zarr/set.zarr.zip", "npz/packed.npz",
    ]
    for source in sources:
        commands.append(["import", f"seeds/{source}", "out/x"])
    for name in FORMATS:
        path = f"made/{name}{ENDINGS.get(name, '')}"
        run("export", "made/proxy", path, "--to", name)
        commands.append(["export", "made/proxy", f"out/x{ENDINGS.get(name, '')}", "--to", name])
        commands.append(["export", "made/proxy", path, "--to", name])
        if name != "npy":
            commands.append(["import", path, "out/x"])
    return commands


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tries", type=int, default=40, help="calls to disturb, for each command")
    parser.add_argument("--only", default="", help="commands that contain this text")
    given = parser.parse_args()
    choose, tally, faults = random.Random(given.seed), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        attack = Attack(given.binary.resolve(), Path(folder).resolve())
        for arguments in setup(attack):
            if given.only not in " ".join(arguments):
                continue
            attack.clear()
            attack.out.mkdir()
            expected = attack.run(arguments)
            if expected.returncode not in (0, 4) and "diff" not in arguments:
                print("skipped:", arguments, expected.stderr.strip().splitlines()[:1], flush=True)
                continue
            wanted = tree(attack.out)
            made = tree(attack.root / "made")
            attack.clear()
            attack.out.mkdir()
            for kind, what, how in list(attack.disturbances(arguments, given.tries, choose)):
                attack.clear()
                attack.out.mkdir()
                done = attack.run(arguments, **how)
                when = f"{' '.join(arguments)}: {what}"
                if done is None:
                    faults.append(f"{when}: does not end")
                    continue
                same = done.returncode == expected.returncode and tree(attack.out) == wanted and done.stdout == expected.stdout
                if "panicked" in done.stderr or "unexpectedly" in done.stderr or done.returncode < 0 or done.returncode > 130:
                    faults.append(f"{when}: {done.returncode}: {done.stderr.strip()[-300:]}")
                elif done.returncode in (0, expected.returncode) and not same:
                    faults.append(f"{when}: exit {done.returncode} with other bytes: {done.stderr.strip()[-200:]}")
                elif done.returncode == 0:
                    tally[kind, "right bytes"] += 1
                elif published(attack.out) and not re.search("is (published|written), but", done.stderr) and done.returncode == 1:
                    faults.append(f"{when}: an error, and a result: {done.stderr.strip()[-200:]}")
                elif not same and done.returncode == 1 and "rror" not in done.stderr:
                    faults.append(f"{when}: no message: {done.stderr.strip()[-200:]}")
                elif "not written by" in done.stderr or "is not a trajmill" in done.stderr:
                    faults.append(f"{when}: absent for unreadable: {done.stderr.strip()[-200:]}")
                else:
                    tally[kind, "an error"] += 1
                if tree(attack.root / "made") != made:
                    faults.append(f"{when}: an input changed")
            print(sum(tally.values()), "tries,", len(faults), "faults:", *arguments, flush=True)
    print(json.dumps({f"{kind}: {what}": count for (kind, what), count in sorted(tally.items())}, indent=1))
    print(*faults, sep="\n")
    sys.exit(1 if faults else 0)


main()
