"""Makes the corpora and the inverse dynamics models of this folder.

    python make_corpus.py [hopper|halfcheetah ...] [--steps policies,rollouts,idm,import]

Everything is seeded. The intermediate files (policies, HDF5) are in data/raw,
which git ignores; the last step has trajmill import them. It runs the binary
named by the environment variable TRAJMILL, or else `cargo run --release`.
"""

import os

# Before numpy and torch: one thread each, so that sums are added in one order
# and two environments share two cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from environments import ENVIRONMENTS

DATA = Path(__file__).resolve().parent.parent
RAW, MODELS = DATA / "raw", DATA / "models"
STEPS = ["policies", "rollouts", "idm", "import"]


def make_policies(name: str) -> None:
    import policies

    environment = ENVIRONMENTS[name]
    chosen = policies.choose(environment, policies.train(environment))
    policies.save(chosen, RAW / f"{name}-policies.npz")


def make_rollouts(name: str) -> None:
    import policies
    import rollouts

    environment = ENVIRONMENTS[name]
    trajectories = rollouts.record(environment, policies.load(RAW / f"{name}-policies.npz"))
    rollouts.write(environment, trajectories, RAW / f"{name}.hdf5")
    rollouts.describe(environment, trajectories)


def make_idm(name: str) -> None:
    import idm
    import rollouts

    environment = ENVIRONMENTS[name]
    trajectories = rollouts.read(RAW / f"{name}.hdf5")
    idm.make(environment, trajectories, MODELS / f"{name}_idm.onnx", gaussian=False)
    if name == "hopper":
        idm.make(environment, trajectories, MODELS / f"{name}_idm_gaussian.onnx", gaussian=True)


def import_dataset(name: str) -> None:
    """Converts the HDF5 file into the committed trajmill dataset."""
    binary = os.environ.get("TRAJMILL")
    if binary:
        command = [binary]
    elif shutil.which("cargo"):
        command = ["cargo", "run", "--release", "--"]
    else:
        sys.exit("import: set TRAJMILL to the trajmill binary, or put cargo on the PATH")
    source, target = Path("data/raw") / f"{name}.hdf5", Path("data") / name
    root = DATA.parent
    if (root / target).exists():
        sys.exit(f"import: {target} exists; remove it to import {source} again")
    command += ["import", str(source), str(target), "--from", "d4rl"]
    print("import:", shlex.join(command), flush=True)
    try:
        subprocess.run(command, cwd=root, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"import: {error}\nimport: {source} is kept; repeat with --steps import")


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the corpora and models of data/.")
    parser.add_argument(
        "environments", nargs="*", metavar="ENVIRONMENT", help=f"of {', '.join(ENVIRONMENTS)}; all"
    )
    parser.add_argument(
        "--steps", default=",".join(STEPS), help="comma-separated (default: %(default)s)"
    )
    arguments = parser.parse_args()
    names, steps = arguments.environments or list(ENVIRONMENTS), arguments.steps.split(",")
    for kind, given, known in (("environment", names, ENVIRONMENTS), ("step", steps, STEPS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown {kind} {', '.join(sorted(unknown))}; known: {', '.join(known)}")

    RAW.mkdir(exist_ok=True)
    MODELS.mkdir(exist_ok=True)
    if "policies" in steps:
        with ProcessPoolExecutor(max_workers=2) as pool:
            list(pool.map(make_policies, names))
    for step, make in (("rollouts", make_rollouts), ("idm", make_idm), ("import", import_dataset)):
        if step in steps:
            for name in names:
                make(name)


if __name__ == "__main__":
    main()
