"""`patch_actions` against numpy: single actions change, and nothing else does."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import check, close, equal, manifest, pipeline, run, says, trajmill

ROWS = [(1, 3, [0.25, -4.0]), (3, 0, [1.0, 2.0]), (8, 29, [0.1, 0.3])]


def entries(rows):
    return [{"trajectory_id": id, "step": t, "action": action} for id, t, action in rows]


@pytest.mark.parametrize("given", ["rows", "file", "both"])
def test_single_actions_are_patched(data, tmp_path, given):
    in_file = {"rows": [], "file": ROWS, "both": ROWS[1:]}[given]
    kinds = [pa.int64(), pa.int32(), pa.list_(pa.float32())]
    names = ["trajectory_id", "step", "action"]
    columns = [pa.array([row[i] for row in in_file], kind) for i, kind in enumerate(kinds)]
    pq.write_table(pa.table(dict(zip(names, columns))), tmp_path / "fixes.parquet")
    options = {"as": "before"}
    if given != "file":
        options["rows"] = entries(ROWS if given == "rows" else ROWS[:1])
    if given != "rows":
        options["file"] = "fixes.parquet"
    made = run(tmp_path, [{"patch_actions": options}], data.path)
    before = {own["id"]: own for own in data}
    for own in made:
        old = before[own["id"]]["action"]
        wanted = old.copy()
        source = ["recorded" if t < own["n"] else None for t in range(len(own["step"]))]
        for id, t, action in ROWS:
            if id == own["id"]:
                wanted[t], source[t] = np.float32(action), "patched"
        what = f"trajectory {own['id']}"
        close(own["action"], wanted, what, atol=0, rtol=0)
        close(own["before"], old, f"{what}: before", atol=0, rtol=0)
        equal(own["action_source"], source, f"{what}: source")
        equal(bool(own["of"]["labelled"]), "patched" not in source, f"{what}: labelled")
        close(own["of"]["action_sum"], np.nansum(wanted, axis=0), f"{what}: sums", rtol=1e-6)
    equal(manifest(made.path)["statistics"]["patched_actions"], len(ROWS), "counted")
    trajmill("export", made.path, tmp_path / "out.hdf5", "--to", "robomimic")
    trajmill("import", tmp_path / "out.hdf5", tmp_path / "back")
    equal(manifest(tmp_path / "back")["statistics"]["patched_actions"], len(ROWS), "and back")


def test_a_changed_file_makes_another_result(data, tmp_path):
    stages = [{"patch_actions": {"file": "fixes.parquet"}}, {"materialise": {"path": "out"}}]
    path = pipeline(tmp_path / "patch.yaml", data.path, stages)
    columns = {"trajectory_id": [1], "step": pa.array([0], pa.int32())}
    hashes = []
    for value in (0.5, 0.25):
        table = pa.table({**columns, "action": pa.array([[value, 0.0]], pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / "fixes.parquet")
        said = json.loads(trajmill("plan", path, "--json", cwd=tmp_path).stdout)
        hashes.append(json.dumps(said))
    check(hashes[0] != hashes[1], "the plan does not see the file")


@pytest.mark.parametrize(
    "rows, code, words",
    [
        ([(1, 5, [0, 0])], 1, ["1 entry matches no step", "trajectory 1, step 5", "5 steps"]),
        ([(99, 0, [0, 0])], 1, ["trajectory 99, step 0", "no such trajectory"]),
        ([(1, -1, [0, 0])], 1, ["trajectory 1, step -1"]),
        ([(1, 0, [0, 0, 0])], 3, ["has 3 numbers, and `action` has 2"]),
        ([(1, 0, 3)], 3, ["must be float32[2]"]),
        ([(1, 0, [0, 0]), (1, 0, [1, 1])], 3, ["patched twice"]),
    ],
)
def test_entries_that_match_nothing_are_errors(data, tmp_path, rows, code, words):
    stages = [{"patch_actions": {"rows": entries(rows)}}]
    says(run(tmp_path, stages, data.path, code=code).stderr, words, f"{rows}")
