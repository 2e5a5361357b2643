"""Datasets come back from other formats with provenance, missing values, identity and metadata.

Those with labels, gaps, dicts of observations, discrete actions and long trajectories go through
every format that is both written and read, and are compared column by column, nulls included.
"""

import json
import os
import shutil

import blake3
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from lerobot_rules import policy_features
from oracle import MODELS, check, manifest, same, same_dataset, says, table, trajmill
from oracle import valid_rows as column
from writers import minari
from writers.ours import Made

# Where each goes, and what else the command needs.
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
# Columns that a format makes.
EXTRA = {
    "lerobot": ["timestamp", "frame_index", "episode_index", "index", "task"],
    "rlds": ["discount"],
}
# Formats of plain arrays, which hold no text: `action_model` becomes codes into a table.
TEXTLESS = ("d3rlpy", "d4rl", "ogbench", "robomimic")
CODES = "trajmill.action_model"
# Formats that hold steps without actions as they are.
GAPS = ("arrow", "rlds")
# Formats that can do without actions altogether.
ACTION_FREE = ("arrow", "lerobot", "rlds")
# Formats of one vector a step.
VECTORS = ("d4rl", "ogbench")

every_format = pytest.mark.parametrize("name", FORMATS)


def there_and_back(dataset, folder, name, *options):
    """The dataset as it comes back from a format, and what the export said."""
    out, more = FORMATS[name]
    done = trajmill("export", dataset, folder / out, "--to", name, *more, *options)
    trajmill("import", folder / out, folder / "back")
    by = manifest(folder / "back")["lineage"]["by"]
    check(by == f"import {name}", f"{name}: detected as {by}")
    return folder / "back", done.stderr


def refused(dataset, folder, name):
    """What is said where an export has to fail; it leaves nothing."""
    out, more = FORMATS[name]
    said = trajmill("export", dataset, folder / out, "--to", name, *more, code=1).stderr
    check(os.listdir(folder) == [], f"{name}: nothing is left: {os.listdir(folder)}")
    return said


def processed(folder, name, source, stages):
    """The dataset that a pipeline makes."""
    trajmill(
        "run",
        oracle.pipeline(
            folder / f"{name}.yaml", source, [*stages, {"materialise": {"path": name}}]
        ),
    )
    return folder / name


# ---- recorded, proxy and missing actions with their spread, and missing rewards


@pytest.fixture(scope="module")
def labelled(shared):
    Made(
        shared,
        "made",
        21,
        [9, 4, 30, 12, 6, 8],
        final=[True, False, True, True, False, True],
        gaps=True,
    )
    shutil.copy(MODELS / "gaussian.onnx", shared)
    hide = {"hide_actions": {"keep": 0.5, "from": {"lowest": 1.0, "by": "length"}, "seed": 3}}
    label = {
        "label": {"model": "gaussian.onnx", "window": {"past": 1, "future": 1, "edge": "skip"}}
    }
    made = processed(shared, "labelled", "made", [hide, label])
    steps = table(made)
    check(
        {"recorded", "proxy", None} == set(steps["action_source"].to_pylist()),
        "recorded, proxy and missing actions",
    )
    check(
        steps.filter(pa.compute.invert(steps["is_final"]))["reward"].null_count > 0,
        "missing rewards",
    )
    check(0 < steps["action_std"].null_count < len(steps), "some actions have a spread")
    return made


@pytest.mark.model
@every_format
def test_recorded_proxy_and_missing_actions_are_told_apart_after_both_ways(
    labelled, tmp_path, name
):
    steps = table(labelled)
    missing = sum(
        source is None and not final
        for source, final in zip(steps["action_source"].to_pylist(), steps["is_final"].to_pylist())
    )
    fill = [] if name in GAPS else ["--unlabelled", "fill", "--fill", "0.5"]
    back, said = there_and_back(labelled, tmp_path, name, *fill)
    if name not in GAPS:
        check("missing rewards" in said, f"{name}: the summary names missing rewards: {said}")
    if name == "lerobot":
        features = json.loads((tmp_path / "out-lerobot/meta/info.json").read_text())["features"]
        check(set(policy_features(features)) == {"observation.state", "action"}, f"{features}")
        marks = {f"trajmill.action_{mark}" for mark in ("source", "std", "valid")}
        check(marks <= set(features), f"{marks} are in {list(features)}")
    if name in TEXTLESS:
        says(said, ["`action_model`", f"`{CODES}`"], f"{name}: the codes are named")
    # D4RL and LeRobot have no row for what stands beside a final observation.
    beside = ["infos/qpos", "note"] if name in ("d4rl", "lerobot") else []
    but = EXTRA.get(name, []) + beside
    same_dataset(labelled, back, f"{name} with labels", but)
    check(set(beside) <= set(table(back).column_names), f"{name}: {beside} are there")
    found, wanted = manifest(back)["statistics"], manifest(labelled)["statistics"]
    for key in ["recorded_actions", "proxy_actions", "steps"]:
        check(found[key] == wanted[key], f"{name}: {key} {found[key]}, not {wanted[key]}")
    check(
        found["steps"] - found["recorded_actions"] - found["proxy_actions"] == missing,
        f"{name}: missing actions",
    )


@pytest.mark.model
@every_format
def test_a_label_without_a_spread_comes_back_without_one(shared, tmp_path, name):
    """Of two models, one gives a standard deviation: that of the other's labels stays unknown."""
    made = shared / "spreads"
    if not made.exists():
        shutil.copy(MODELS / "gaussian.onnx", shared)
        label = {"model": "gaussian.onnx", "window": {"past": 1, "future": 1, "edge": "repeat"}}
        for seed, outputs in enumerate([{"action": "action"}, {"action": "action", "std": "std"}]):
            Made(shared, f"source-{seed}", 23 + seed, [5, 3, 6])
            stages = [{"hide_actions": {"keep": 0}}, {"label": {**label, "outputs": outputs}}]
            processed(shared, f"spread-{seed}", f"source-{seed}", stages)
        processed(shared, "spreads", ["spread-0", "spread-1"], [])
    wanted = table(made)["action_std"]
    check(0 < wanted.null_count < len(wanted), "some labels have a spread")
    back, _ = there_and_back(made, tmp_path, name)
    check(table(back)["action_std"].to_pylist() == wanted.to_pylist(), f"{name}: action_std")


def codes_of(path, name):
    """The codes of models in a file, trajectory after trajectory, and the table they point into."""
    if name == "ogbench":
        with np.load(path) as file:
            return file[CODES], json.loads(file["trajmill/envelope"].tobytes())["models"]
    with h5py.File(path) as file:
        prefix = {"d4rl": "metadata/trajmill"}.get(name, "trajmill")
        models = json.loads(file[f"{prefix}/envelope"][()].tobytes())["models"]
        if name == "d4rl":
            return file[f"infos/{CODES}"][()], models
        groups = {"d3rlpy": "trajmill/{}", "robomimic": "data/demo_{}"}[name]
        found, index = [], 0
        while groups.format(index) in file:
            found.append(file[groups.format(index)][CODES][()])
            index += 1
        return np.concatenate(found), models


@pytest.fixture(scope="module")
def two_models(shared):
    """Recorded actions, and labels of two models with other weights; and the hash of each."""
    import onnx

    hashes = []
    for seed in range(2):
        model = onnx.load(MODELS / "gaussian.onnx")
        model.producer_name = f"model {seed}"
        onnx.save(model, shared / f"model-{seed}.onnx")
        hashes.append(blake3.blake3((shared / f"model-{seed}.onnx").read_bytes()).hexdigest())
        label = {
            "model": f"model-{seed}.onnx",
            "window": {"past": 1, "future": 1, "edge": "repeat"},
        }
        Made(shared, f"unlabelled-{seed}", 31 + seed, [5, 3, 6])
        hide = {"hide_actions": {"keep": 0.4, "from": {"lowest": 1.0, "by": "length"}, "seed": 1}}
        processed(shared, f"by-{seed}", f"unlabelled-{seed}", [hide, {"label": label}])
    return processed(shared, "two-models", ["by-0", "by-1"], []), hashes


@pytest.mark.model
@every_format
def test_every_label_tells_its_model_after_both_ways(two_models, tmp_path, name):
    made, hashes = two_models
    wanted = table(made)["action_model"].to_pylist()
    check(set(wanted) == {hash[:16] for hash in hashes} | {None}, f"two models: {set(wanted)}")
    back, _ = there_and_back(made, tmp_path, name)
    steps = table(back)
    check(steps["action_model"].to_pylist() == wanted, f"{name}: {steps['action_model']}")
    check(CODES not in steps.column_names, f"{name}: the codes are no column of their own")
    for place, model in [(wanted.index(hash[:16]), hash) for hash in hashes]:
        row = [str(steps[column][place].as_py()) for column in ("trajectory_id", "step")]
        told = json.loads(trajmill("lineage", back, "--row", *row, "--json").stdout)["row"]
        check({found["hash"] for found in told["models"]} == {model}, f"{name}: {told}")
    if name in TEXTLESS:
        codes, models = codes_of(tmp_path / FORMATS[name][0], name)
        check(codes.dtype == np.int32, f"{name}: {codes.dtype}")
        found = [models[code - 1] if code else None for code in codes]
        final = table(made)["is_final"].to_pylist()
        rows = wanted
        if name == "d4rl":
            rows = [model for model, is_final in zip(wanted, final) if not is_final]
        check(found == rows, f"{name}: {codes} into {models}")


# ---- steps without actions: refused or dropped, as the user says


@pytest.fixture(scope="module")
def hidden(shared):
    Made(shared, "whole", 22, [7, 5, 3], final=True)
    return processed(
        shared,
        "hidden",
        "whole",
        [{"hide_actions": {"keep": 0.34, "from": {"lowest": 1.0, "by": "length"}, "seed": 1}}],
    )


no_gaps = pytest.mark.parametrize("name", [name for name in FORMATS if name not in GAPS])


@no_gaps
def test_steps_without_actions_are_refused(hidden, tmp_path, name):
    says(refused(hidden, tmp_path, name), ["have no action", "unlabelled"], name)


@no_gaps
def test_steps_without_actions_are_dropped_where_the_user_says_so(hidden, tmp_path, name):
    steps = table(hidden)
    back, _ = there_and_back(hidden, tmp_path, name, "--unlabelled", "drop")
    kept = table(back)
    recorded = len(steps) - steps["action"].null_count
    check(
        manifest(back)["statistics"]["steps"] == recorded and len(table(back, "trajectories")) == 1,
        f"{name}: dropped",
    )
    check(
        same(column(kept, "action")[1], column(steps, "action")[1]),
        f"{name}: the actions that are left",
    )


# ---- dicts of observations, discrete actions, float64 and trajectories of 140 000 steps


@pytest.fixture(scope="module")
def dicts(shared):
    """A dataset whose observations have two parts with names."""
    (shared / "minari").mkdir()
    source = minari.files(shared / "minari", "dict", [4, 1, 6])
    random = np.random.default_rng(23)
    with h5py.File(os.path.join(source, "data", "main_data.hdf5"), "r+") as file:
        for group in file.values():
            rows = len(group["observations"])
            del group["observations"]
            group["observations/arm"] = random.normal(size=(rows, 3))
            group["observations/goal"] = random.normal(size=(rows, 2)).astype(np.float32)
    metadata = os.path.join(source, "data", "metadata.json")
    with open(metadata) as file:
        said = json.load(file)
    box = lambda dtype, width: {
        "type": "Box",
        "dtype": dtype,
        "shape": [width],
        "low": [-1e9] * width,
        "high": [1e9] * width,
    }
    said["observation_space"] = json.dumps(
        {"type": "Dict", "subspaces": {"arm": box("float64", 3), "goal": box("float32", 2)}}
    )
    with open(metadata, "w") as file:
        json.dump(said, file)
    trajmill("import", source, shared / "dict")
    return shared / "dict"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in VECTORS])
def test_observations_with_parts_come_back(dicts, tmp_path, name):
    back, _ = there_and_back(dicts, tmp_path, name)
    but = EXTRA.get(name, [])
    if name == "d3rlpy":
        # What has names is a tuple there.
        (_, found), (_, wanted) = (
            column(table(back), "observation"),
            column(table(dicts), "observation"),
        )
        check(same(found, wanted), "d3rlpy: parts of a tuple")
        but = ["observation"]
    same_dataset(dicts, back, f"{name} of dicts", but)


@pytest.mark.parametrize("name", VECTORS)
def test_observations_with_parts_are_refused_by_formats_of_one_vector(dicts, tmp_path, name):
    says(refused(dicts, tmp_path, name), ["observation", "vector"], name)


MADE = {
    "discrete": dict(seed=24, lengths=[5, 1, 7], discrete=True),
    "double": dict(seed=25, lengths=[3, 2], dtype=np.float64),
    "open": dict(seed=26, lengths=[4, 3, 6, 2], final=[True, False, True, False]),
    "long": dict(seed=27, lengths=[140_000, 1], obs=2, act=1),
}


@pytest.fixture(scope="module", params=MADE)
def made(request, shared):
    return Made(shared, request.param, extras=False, **MADE[request.param])


@every_format
def test_every_value_comes_back(made, tmp_path, name):
    back, _ = there_and_back(made.path, tmp_path, name)
    same_dataset(made.path, back, f"{name} of {os.path.basename(made.path)}", EXTRA.get(name, []))


# ---- no actions at all


@pytest.fixture(scope="module")
def free(shared):
    rows = pq.read_table(
        Made(shared, "acting", 28, [4, 3], extras=False).path + ".parquet"
    ).drop_columns(["action"])
    pq.write_table(rows, shared / "free.parquet")
    trajmill("import", shared / "free.parquet", shared / "free", "--map", "trajectory_id=episode")
    return shared / "free"


@pytest.mark.parametrize("name", ACTION_FREE)
def test_a_dataset_without_actions_comes_back(free, tmp_path, name):
    back, _ = there_and_back(free, tmp_path, name)
    check("action" not in table(back).column_names, f"{name}: no actions come back")
    same_dataset(free, back, f"{name} without actions", EXTRA.get(name, []))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ACTION_FREE])
def test_a_dataset_without_actions_is_refused_by_formats_that_need_them(free, tmp_path, name):
    says(refused(free, tmp_path, name), ["`action`"], name)


# ---- who a trajectory is, and what its source said


@pytest.fixture(scope="module")
def merged(shared):
    """What a filter leaves of a D4RL file and a Minari dataset."""
    random = np.random.default_rng(29)
    with h5py.File(shared / "one.hdf5", "w") as file:
        file["observations"], file["actions"] = (
            random.normal(size=(20, 2)).astype(np.float32),
            random.uniform(-1, 1, (20, 1)).astype(np.float32),
        )
        file["rewards"], file["terminals"] = np.arange(20, dtype=np.float64), np.arange(20) % 5 == 4
        file["timeouts"] = np.zeros(20, bool)
        file["metadata/algorithm"] = "SAC"
    minari.files(shared, "two", [3, 4, 5])
    sources = [{"path": "one.hdf5", "format": "d4rl"}, {"path": "two", "format": "minari"}]
    return processed(shared, "merged", sources, [{"filter": "length > 3"}])


def test_a_merge_keeps_identities_and_what_its_sources_said(merged, tmp_path):
    trajectories = table(merged, "trajectories")
    check(trajectories["source"].to_pylist() == ["one"] * 4 + ["two"] * 2, "both sources")
    trajmill("import", merged.parent / "one.hdf5", tmp_path / "alone")
    alone = table(tmp_path / "alone", "trajectories")
    check(
        alone["uid"].to_pylist() == trajectories["uid"].to_pylist()[:4],
        "the same trajectory has the same uid in a merge",
    )
    said = manifest(merged)["lineage"]["source_metadata"]
    check(
        said["one"]["metadata/algorithm"] == "SAC" and said["two"]["dataset_id"] == "a/b-v0",
        f"what both sources said: {said}",
    )


@every_format
def test_a_merge_comes_back_with_identities_and_what_its_sources_said(merged, tmp_path, name):
    back, _ = there_and_back(merged, tmp_path, name)
    # Numbers are given anew.
    same_dataset(merged, back, f"{name} of a merge", EXTRA.get(name, []) + ["trajectory_id"])
    said, found = (manifest(dataset)["lineage"]["source_metadata"] for dataset in (merged, back))
    check({key: found.get(key) for key in said} == said, f"{name}: what the sources said: {found}")
