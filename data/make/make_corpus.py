"""Makes the datasets and the inverse dynamics models in data/.

    python make_corpus.py [hopper|halfcheetah ...] [--steps policies,rollouts,idm,import]

Everything is seeded. Intermediate files (policies, HDF5) are in data/raw, which git ignores. The
last step imports the HDF5 files with the binary that the environment variable TRAJMILL names, or
with `cargo run --release`.
"""

import os

# With one thread, sums are added in one order, and two environments share two cores. This must be
# set before numpy and torch load.
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
    """Imports the HDF5 file as the dataset that is in git."""
    binary = os.environ.get("TRAJMILL")
    if binary:
        command = [binary]
    elif shutil.which("cargo"):
        command = ["cargo", "run", "--release", "--"]
    else:
        sys.exit("import: set TRAJMILL to trajmill's binary, or add cargo to the PATH")
    source, target = Path("data/raw") / f"{name}.hdf5", Path("data") / name
    root = DATA.parent
    if (root / target).exists():
        sys.exit(f"import: {target} exists: remove it to import {source} again")
    command += ["import", str(source), str(target), "--from", "d4rl"]
    print("import:", shlex.join(command), flush=True)
    try:
        subprocess.run(command, cwd=root, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"import: {error}\nimport: {source} is kept: try again with --steps import")


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the datasets and models in data/.")
    parser.add_argument(
        "environments",
        nargs="*",
        metavar="ENVIRONMENT",
        help=f"any of {', '.join(ENVIRONMENTS)} [all]",
    )
    parser.add_argument(
        "--steps", default=",".join(STEPS), help="steps, separated by commas [%(default)s]"
    )
    arguments = parser.parse_args()
    names, steps = arguments.environments or list(ENVIRONMENTS), arguments.steps.split(",")
    for kind, given, known in (("environment", names, ENVIRONMENTS), ("step", steps, STEPS)):
        if unknown := set(given) - set(known):
            listed = ", ".join(sorted(unknown))
            parser.error(f"unknown {kind} {listed}: choose from {', '.join(known)}")

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
