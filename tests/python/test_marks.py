"""What is said of one thing is not said of another: marks of actions, and rates of sources."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, says, table, trajmill
from writers import lerobot

ACTION = np.arange(4, dtype=np.float32)[:, None]
PROXY = np.array([1, 1, 0, 1], bool)
LAST = np.arange(4) == 3


def marked(form, path):
    """Actions of which three were predicted, and others, `recorded`, of which none was."""
    if form == "parquet":
        words = np.where(PROXY, "proxy", "recorded")
        columns = {"trajectory_id": np.zeros(4, int), "observation": list(ACTION)}
        columns |= {"action": list(ACTION), "recorded": list(ACTION + 10)}
        columns |= {"action_source": words, "action_std": list(ACTION), "terminated": LAST}
        pq.write_table(pa.table(columns), path)
        return
    arrays = {"actions": ACTION, "recorded": ACTION + 10, "action_is_proxy": PROXY}
    if form == "npz":
        np.savez(path, observations=ACTION, terminals=LAST, timeouts=0 * LAST, **arrays)
        return
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, "dones": LAST, "obs/x": ACTION}.items():
            file[f"data/demo_0/{name}"] = values


@pytest.mark.parametrize("form", ["parquet", "npz", "hdf5"])
def test_marks_stay_with_their_actions(form, tmp_path):
    path = tmp_path / f"in.{form}"
    marked(form, path)
    trajmill("import", path, tmp_path / "own")
    rows = table(tmp_path / "own")
    check(rows["action_source"].to_pylist() == ["proxy", "proxy", "recorded", "proxy"], form)
    trajmill("import", path, tmp_path / "mapped", "--map", "action=recorded")
    rows = table(tmp_path / "mapped")
    check(np.array(rows["action"].to_pylist()).ravel().tolist() == [10, 11, 12, 13], form)
    check("action_source" not in rows.column_names, f"{form}: {rows.column_names}")
    kept = "other_action_source" if form == "parquet" else "other_action_is_proxy"
    found = [value in (True, "proxy") for value in rows[kept].to_pylist()]
    check(found == PROXY.tolist(), f"{form}: {found}")
    # Marks of actions that only have another name are theirs.
    if form == "parquet":
        renamed = pq.read_table(path).drop_columns(["recorded"])
        names = ["mine" if name == "action" else name for name in renamed.column_names]
        pq.write_table(renamed.rename_columns(names), path)
        trajmill("import", path, tmp_path / "renamed", "--map", "action=mine")
        words = table(tmp_path / "renamed")["action_source"].to_pylist()
        check(words == ["proxy", "proxy", "recorded", "proxy"], f"{words}")


def test_rates_of_merged_sources(tmp_path):
    """The rate of one source is not that of another that says nothing."""
    skip = ["--skip", "observation.images.top,observation.heights,gripper,note"]
    for name, fps in [("ten", 10), ("same", 10), ("other", 25)]:
        lerobot.v30(str(tmp_path / name), lerobot.Made([3, 2], fps=fps))
        trajmill("import", tmp_path / name, tmp_path / f"in-{name}", *skip)
    rows = table(tmp_path / "in-ten").select(["trajectory_id", "observation", "action", "task"])
    silent = {**{name: rows[name] for name in rows.column_names}, "terminated": [False] * 5}
    pq.write_table(pa.table(silent), tmp_path / "silent.parquet")

    def exported(name, *sources, code=0, **more):
        to = {"path": name, "format": "lerobot", **more}
        path = oracle.pipeline(tmp_path / f"{name}.yaml", list(sources), [{"materialise": to}])
        return trajmill("run", path, code=code).stderr

    exported("a", "in-ten", "in-same")
    says(exported("b", "in-ten", "in-other", code=1), ["10, 25", "set `fps`"], "two rates")
    stderr = exported("c", "in-ten", "silent.parquet", code=1)
    says(stderr, ["`silent`", "another source has 10", "set `fps`"], "a rate and none")
    exported("d", "in-ten", "silent.parquet", **{"with": {"fps": 12}})
    # The merged dataset says it too, whatever is made of it.
    merged = [{"materialise": {"path": "both"}}]
    trajmill("run", oracle.pipeline(tmp_path / "e.yaml", ["in-ten", "silent.parquet"], merged))
    says(exported("f", "both", code=1), ["`silent`", "another source has 10"], "later")


def test_what_a_file_of_no_known_format_holds(tmp_path):
    np.savez(tmp_path / "odd.npz", left=np.zeros((3, 2)), right=np.zeros(3))
    for command in [["info"], ["sql", "-c", "select 1"], ["diff"]]:
        paths = [tmp_path / "odd.npz"] * (1 + (command == ["diff"]))
        done = trajmill(command[0], *paths, *command[1:], code=None)
        check(done.returncode != 0, f"{command}")
        says(done.stderr, ["`left` (3, 2)", "`right` (3)"], command[0])
