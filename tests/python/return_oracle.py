"""What goes out and comes back is what it was: provenance, missing values, identity, what the source said of itself.

    python tests/python/return_oracle.py TRAJMILL

Datasets with labels, gaps, dicts of observations, discrete actions and long trajectories go through every format that is both
written and read, and are compared column by column, nulls included.
"""

import json
import os
import pathlib
import shutil
import tempfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from export_oracle import Made, check, column, minari_files, run, same, same_dataset, table, trajmill

import export_oracle

MODELS = pathlib.Path(__file__).resolve().parents[1] / "models"

# Where each goes, and what else is said.
FORMATS = {
    "arrow": ("out-arrow", []),
    "d3rlpy": ("out-d3rlpy.h5", []),
    "d4rl": ("out-d4rl.hdf5", []),
    "lerobot": ("out-lerobot", ["--fps", "10", "--task", "walk"]),
    "minari": ("out-minari", []),
    "ogbench": ("out.npz", []),
    "rlds": ("out-rlds", []),
    "robomimic": ("out-robomimic.hdf5", []),
}

def manifest(dataset):
    return json.load(open(os.path.join(dataset, "dataset.json")))

def there_and_back(dataset, name, *options):
    """The dataset as it comes back from a format, and what the export said."""
    out, said = FORMATS[name]
    out, back = (os.path.join(os.path.dirname(dataset), own) for own in [out, "back"])
    done = trajmill("export", dataset, out, "--to", name, *said, *options)
    trajmill("import", out, back)
    check(manifest(back)["lineage"]["by"] == f"import {name}", f"{name}: detected as {manifest(back)['lineage']['by']}")
    shutil.rmtree(out) if os.path.isdir(out) else os.remove(out)
    return back, done.stderr

def pipeline(folder, name, text):
    path = os.path.join(folder, f"{name}.yaml")
    with open(path, "w") as file:
        file.write(f"trajmill: 1\n{text}  - materialise: {{path: {name}}}\n")
    trajmill("run", path)
    return os.path.join(folder, name)

def provenance(folder):
    """Recorded, proxy and missing actions with their spread, and missing rewards, are told apart after both ways."""
    made = Made(folder, "made", 21, [9, 4, 30, 12, 6, 8], final=[True, False, True, True, False, True], gaps=True)
    shutil.copy(MODELS / "gaussian.onnx", folder)
    labelled = pipeline(folder, "labelled", """source: made
stages:
  - hide_actions: {keep: 0.5, from: {lowest: 1.0, by: length}, seed: 3}
  - label: {model: gaussian.onnx, window: {past: 1, future: 1, edge: skip}}
""")
    steps = table(labelled, "steps")
    origins = steps["action_source"].to_pylist()
    check({"recorded", "proxy", None} == set(origins), "recorded, proxy and missing actions")
    check(steps.filter(pa.compute.invert(steps["is_final"]))["reward"].null_count > 0, "rewards are missing")
    check(steps["action_std"].null_count > 0 and steps["action_std"].null_count < len(steps), "some actions have a spread")
    missing = sum(origin is None for origin, final in zip(origins, steps["is_final"].to_pylist()) if not final)
    for name in FORMATS:
        fill = [] if name in ("arrow", "rlds") else ["--unlabelled", "fill", "--fill", "0.5"]
        back, said = there_and_back(labelled, name, *fill)
        if name != "arrow":
            check("missing rewards" in said or name == "rlds", f"{name}: the summary names missing rewards: {said}")
        # What stands beside a final observation has no place in D4RL; LeRobot and RLDS number and discount steps of their own.
        beside = ["infos/qpos", "note"] if name in ("d4rl", "lerobot") else []
        same_dataset(labelled, back, f"{name} with labels", EXTRA.get(name, []) + beside)
        check(set(beside) <= set(table(back, "steps").column_names), f"{name}: {beside} are there")
        found, wanted = manifest(back)["statistics"], manifest(labelled)["statistics"]
        for key in ["recorded_actions", "proxy_actions", "steps"]:
            check(found[key] == wanted[key], f"{name}: {key} {found[key]}, not {wanted[key]}")
        check(wanted["steps"] - wanted["recorded_actions"] - wanted["proxy_actions"] == missing, f"{name}: missing actions")
        shutil.rmtree(back)

# Columns that a format makes.
EXTRA = {"lerobot": ["timestamp", "frame_index", "episode_index", "index", "task_index", "task"], "rlds": ["discount"]}

def unlabelled(folder):
    """Refused, dropped or filled in every format, as the user says."""
    made = Made(folder, "made", 22, [7, 5, 3], final=True)
    hidden = pipeline(folder, "hidden", "source: made\nstages:\n  - hide_actions: {keep: 0.34, from: {lowest: 1.0, by: length}, seed: 1}\n")
    steps = table(hidden, "steps")
    recorded = [action is not None for action in steps["action"].to_pylist()]
    for name, (out, said) in FORMATS.items():
        if name in ("arrow", "rlds"):
            continue
        out = os.path.join(folder, out)
        refused = run("export", hidden, out, "--to", name, *said)
        check(refused.returncode == 1 and "have no action" in refused.stderr and "unlabelled" in refused.stderr, f"{name}: refused: {refused.stderr}")
        check(sorted(os.listdir(folder)) == ["hidden", "hidden.yaml", "made", "made.parquet"], f"{name}: nothing is left: {os.listdir(folder)}")
        back, _ = there_and_back(hidden, name, "--unlabelled", "drop")
        kept = table(back, "steps")
        check(manifest(back)["statistics"]["steps"] == sum(recorded) and len(table(back, "trajectories")) == 1, f"{name}: dropped")
        check(same(column(kept, "action")[1], column(steps, "action")[1]), f"{name}: the actions that are left")
        shutil.rmtree(back)

def values(folder):
    """Dicts of observations, discrete actions, float64 and trajectories of 140 000 steps."""
    os.makedirs(os.path.join(folder, "minari"))
    def dicts(name):
        source = minari_files(os.path.join(folder, "minari"), name, [4, 1, 6])
        random = np.random.default_rng(23)
        with h5py.File(os.path.join(source, "data", "main_data.hdf5"), "r+") as file:
            for group in file.values():
                rows = len(group["observations"])
                del group["observations"]
                group["observations/arm"] = random.normal(size=(rows, 3))
                group["observations/goal"] = random.normal(size=(rows, 2)).astype(np.float32)
        metadata = os.path.join(source, "data", "metadata.json")
        said = json.load(open(metadata))
        box = lambda dtype, width: {"type": "Box", "dtype": dtype, "shape": [width], "low": [-1e9] * width, "high": [1e9] * width}
        said["observation_space"] = json.dumps({"type": "Dict", "subspaces": {"arm": box("float64", 3), "goal": box("float32", 2)}})
        json.dump(said, open(metadata, "w"))
        made = os.path.join(folder, name)
        trajmill("import", source, made)
        return made
    made = dicts("dict")
    for name in FORMATS:
        if name in ("d4rl", "ogbench"):
            refused = run("export", made, os.path.join(folder, FORMATS[name][0]), "--to", name)
            check(refused.returncode == 1 and "holds one vector" in refused.stderr, f"{name}: dicts are refused: {refused.stderr}")
            continue
        back, _ = there_and_back(made, name)
        but = EXTRA.get(name, [])
        if name == "d3rlpy":
            # What has names is a tuple there.
            (_, found), (_, wanted) = column(table(back, "steps"), "observation"), column(table(made, "steps"), "observation")
            check(same(found, wanted), "d3rlpy: parts of a tuple")
            but = ["observation"]
        same_dataset(made, back, f"{name} of dicts", but)
        shutil.rmtree(back)
    for made in [
        Made(folder, "discrete", 24, [5, 1, 7], discrete=True, extras=False),
        Made(folder, "double", 25, [3, 2], dtype=np.float64, extras=False),
        Made(folder, "open", 26, [4, 3, 6, 2], final=[True, False, True, False], extras=False),
        Made(folder, "long", 27, [140_000, 1], obs=2, act=1, extras=False),
    ]:
        for name in FORMATS:
            back, _ = there_and_back(made.path, name)
            same_dataset(made.path, back, f"{name} of {os.path.basename(made.path)}", EXTRA.get(name, []))
            shutil.rmtree(back)

def action_free(folder):
    """A source without actions leaves in formats that can do without, and is refused by those that cannot."""
    rows = pq.read_table(Made(folder, "made", 28, [4, 3], extras=False).path + ".parquet").drop_columns(["action"])
    pq.write_table(rows, os.path.join(folder, "free.parquet"))
    free = os.path.join(folder, "free")
    trajmill("import", free + ".parquet", free, "--map", "trajectory_id=episode")
    for name, (out, said) in FORMATS.items():
        if name in ("arrow", "lerobot", "rlds"):
            back, _ = there_and_back(free, name)
            check("action" not in table(back, "steps").column_names, f"{name}: no actions come back")
            same_dataset(free, back, f"{name} without actions", EXTRA.get(name, []))
            shutil.rmtree(back)
        else:
            refused = run("export", free, os.path.join(folder, out), "--to", name, *said)
            check(refused.returncode == 1 and "no column `action`" in refused.stderr, f"{name}: refused: {refused.stderr}")

def identity(folder):
    """Who a trajectory is, and what its source said, survive import, filter, merge, export and import."""
    with h5py.File(os.path.join(folder, "one.hdf5"), "w") as file:
        random = np.random.default_rng(29)
        file["observations"], file["actions"] = random.normal(size=(20, 2)).astype(np.float32), random.uniform(-1, 1, (20, 1)).astype(np.float32)
        file["rewards"], file["terminals"] = np.arange(20, dtype=np.float64), np.arange(20) % 5 == 4
        file["metadata/algorithm"] = "SAC"
    minari_files(folder, "two", [3, 4, 5])
    merged = pipeline(folder, "merged", """source:
  - {path: one.hdf5, format: d4rl}
  - {path: two, format: minari}
stages:
  - filter: length > 3
""")
    trajectories = table(merged, "trajectories")
    check(trajectories["source"].to_pylist() == ["one"] * 4 + ["two"] * 2, "both sources")
    trajmill("import", os.path.join(folder, "one.hdf5"), os.path.join(folder, "alone"))
    alone = table(os.path.join(folder, "alone"), "trajectories")
    check(alone["uid"].to_pylist() == trajectories["uid"].to_pylist()[:4], "the same trajectory has the same uid in a merge")
    said = manifest(merged)["lineage"]["source_metadata"]
    check(said["one"]["metadata/algorithm"] == "SAC" and said["two"]["dataset_id"] == "a/b-v0", f"what both sources said: {said}")
    for name in FORMATS:
        back, _ = there_and_back(merged, name)
        # Numbers are given anew.
        same_dataset(merged, back, f"{name} of a merge", EXTRA.get(name, []) + ["trajectory_id"])
        found = manifest(back)["lineage"]["source_metadata"]
        check({key: found.get(key) for key in said} == said, f"{name}: what the sources said: {found}")
        shutil.rmtree(back)

def moved(folder):
    """`diff` says by how much a second model moved the labels of a first."""
    Made(folder, "made", 30, [40, 60, 25])
    hide = "source: made\nstages:\n  - hide_actions: {keep: 0.34, from: {lowest: 1.0, by: length}, seed: 3}\n"
    runs = []
    for model in ["mlp", "mlp_b"]:
        shutil.copy(MODELS / f"{model}.onnx", folder)
        runs.append(pipeline(folder, model, hide + f"  - label: {{model: {model}.onnx, window: {{past: 1, future: 1, edge: repeat}}}}\n"))
    found = json.loads(trajmill("diff", *runs, "--json").stdout)
    first, second = (table(path, "steps") for path in runs)
    proxy = np.array(first["action_source"].to_pylist()) == "proxy"
    (_, before), (_, after) = column(first, "action"), column(second, "action")
    delta = np.abs(before - after)[proxy[first["is_final"].to_numpy() == False]]
    check(found["provenance"] == {"proxy → proxy": len(delta), "recorded → recorded": 125 - len(delta)}, f"provenance: {found['provenance']}")
    check(found["changed_rows"]["action"] == int((delta > 0).any(axis=1).sum()), "changed rows")
    for dimension, own in enumerate(found["actions"]):
        values = delta[:, dimension][delta[:, dimension] > 0].astype(np.float64)
        check(own["steps"] == len(values) and abs(own["max"] / values.max() - 1) < 1e-6 and abs(own["mean"] / values.mean() - 1) < 1e-6, f"|Δ|: {own}")
        exact = np.quantile(values, [0.5, 0.9, 0.99], method="inverted_cdf")
        check(np.allclose(own["quantiles"], exact, rtol=0.011), f"quantiles of |Δ|: {own['quantiles']}, {exact}")

def main():
    for part in [provenance, unlabelled, values, action_free, identity, moved]:
        with tempfile.TemporaryDirectory() as folder:
            part(folder)
            print(f"{part.__name__}: {export_oracle.CHECKS} checks so far")

if __name__ == "__main__":
    main()
