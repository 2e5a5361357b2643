"""Expressions over vectors, and actions that they replace, computed again in numpy."""

import numpy as np
import pytest

from oracle import REPOSITORY, Dataset, check, close, equal, manifest, run, says, trajmill

EXPRESSIONS = {
    "action * 0.1 - 1": lambda o, a: a * np.float32(0.1) - np.float32(1),
    "observation[2:3] - action": lambda o, a: o[:, 1:3] - a,
    "array_concat(observation[1:2], action)": lambda o, a: np.hstack([o[:, :2], a]),
    "action || observation[4]": lambda o, a: np.hstack([a, o[:, 3:]]),
    "observation[-3:-1]": lambda o, a: o[:, -3:],
    "observation[1:4:2]": lambda o, a: o[:, ::2],
    "-abs(observation) / [1, 2, 4, 8]": lambda o, a: -np.abs(o) / np.float32([1, 2, 4, 8]),
    "least(greatest(action, -0.5), 0.5)": lambda o, a: np.clip(a, np.float32(-0.5), 0.5),
    "observation - first(observation)": lambda o, a: o - o[0],
    "next(observation)[1:2] - observation[1:2]": lambda o, a: np.vstack(
        [o[1:, :2] - o[:-1, :2], np.full((1, 2), np.nan)]
    ),
    "(observation - 1)[2] + 1": lambda o, a: (o - np.float32(1))[:, 1] + np.float64(1),
}


def single(own, name):
    return own[name].astype(np.float32)


@pytest.mark.parametrize("sql", EXPRESSIONS)
def test_vectors_are_computed_in_float32(data, tmp_path, sql):
    made = run(tmp_path, [{"derive": {"v": sql}}], data.path)
    found = made.by_id()
    for own in data:
        wanted = EXPRESSIONS[sql](single(own, "observation"), single(own, "action"))
        if "action" in sql:
            # A null in one part makes the whole vector null.
            wanted[np.isnan(own["action"]).any(axis=1)] = np.nan
        close(found[own["id"]]["v"], wanted, f"{sql}: trajectory {own['id']}", atol=0, rtol=0)
    said = {column["name"]: column for column in made.manifest["columns"]}["v"]
    if wanted.ndim == 2:
        check("Float32" in said["type"], f"{sql} has the type {said['type']}")
        equal(said["width"], wanted.shape[1], f"{sql}: width")


def test_replaced_actions_are_what_exports_write(data, tmp_path):
    expression = "array_concat(action[1:1] - observation[1:1], action[2:2])"
    stages = [{"derive": {"action": expression, "replace_actions": "recorded_action"}}]
    made = run(tmp_path, stages, data.path)
    before = {own["id"]: own for own in data}
    for own in made:
        old = before[own["id"]]
        wanted = single(old, "action")
        wanted[:, 0] -= single(old, "observation")[:, 0]
        what = f"trajectory {own['id']}"
        close(own["action"], wanted, what, atol=0, rtol=0)
        close(own["recorded_action"], old["action"], what, atol=0, rtol=0)
        equal(own["action_source"][: own["n"]], ["derived"] * own["n"], f"{what}: their source")
        equal(bool(own["of"]["labelled"]), False, f"{what}: nothing is recorded any more")
        equal(bool(own["of"]["has_actions"]), True, f"{what}: every step has an action")
    equal(made.manifest["statistics"]["derived_actions"], sum(own["n"] for own in made), "counted")
    for name in ("lerobot", "d4rl", "minari", "robomimic", "arrow", "d3rlpy"):
        out = tmp_path / f"{name}.hdf5" if name in ("d4rl", "robomimic") else tmp_path / name
        trajmill("export", tmp_path / "made", out, "--to", name)
        back = tmp_path / f"{name}-back"
        trajmill("import", out, back)
        total = manifest(back)["statistics"]
        check(total["recorded_actions"] == 0, f"{name}: derived actions came back as recorded")
        check(total["derived_actions"] > 0, f"{name}: derived actions came back")


def test_an_action_changes_only_where_the_pipeline_says_so(data, tmp_path):
    done = run(tmp_path, [{"derive": {"action": "action * 2"}}], data.path, code=3)
    says(done.stderr, ["`action` cannot be derived", "replace_actions: true"], "a silent change")


def test_recipes_of_relative_actions(tmp_path):
    for name in ("relative_actions", "relative_chunks"):
        text = (REPOSITORY / "pipelines" / f"{name}.yaml").read_text()
        (tmp_path / "pipelines").mkdir(exist_ok=True)
        (tmp_path / "pipelines" / f"{name}.yaml").write_text(text)
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    for name in ("relative_actions", "relative_chunks"):
        trajmill("check", f"pipelines/{name}.yaml", cwd=tmp_path)
        trajmill("run", f"pipelines/{name}.yaml", cwd=tmp_path)
    source = Dataset(REPOSITORY / "data" / "halfcheetah").by_id()
    relative = Dataset(tmp_path / "out/relative-actions/relative").by_id()
    absolute = Dataset(tmp_path / "out/relative-actions/absolute").by_id()
    chunks = Dataset(tmp_path / "out/relative-chunks").by_id()
    check(len(relative) == len(source) > 0, "every trajectory is there")
    for id, own in source.items():
        n, action, joints = own["n"], single(own, "action"), single(own, "observation")[:, 2:7]
        wanted = action.copy()
        wanted[:, :5] -= joints
        what = f"trajectory {id}"
        close(relative[id]["action"], wanted, f"{what}: relative", atol=0, rtol=0)
        wanted[:, :5] += joints
        close(absolute[id]["action"], wanted, f"{what}: absolute", atol=0, rtol=0)
        close(absolute[id]["action"][:n], action[:n], f"{what}: there and back", atol=1e-5, rtol=0)
        windows = np.stack([action[t : t + 4] for t in range(0, n - 3, 4)])
        windows[:, :, :5] -= np.stack([joints[t] for t in range(0, n - 3, 4)])[:, None]
        wanted = windows.reshape(len(windows), -1)
        close(chunks[id]["action"], wanted, f"{what}: chunks", atol=0, rtol=0)
