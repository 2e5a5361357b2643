"""Sources with different columns in one pipeline, and results that replace others."""

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import MODELS, check, equal, same, says, table, trajmill
from oracle import valid_rows as column

LENGTHS = [4, 1, 3]


def rows(name, width=3, actions=True, **more):
    """A table of trajectories; `more` are columns besides observation, action and reward."""
    random, n = oracle.seeded(name), sum(LENGTHS)
    vector = lambda size: pa.array(
        list(random.normal(size=(n, size)).astype(np.float32)), pa.list_(pa.float32(), size)
    )
    columns = {
        "trajectory_id": np.repeat(np.arange(len(LENGTHS)), LENGTHS),
        "step": np.concatenate([np.arange(length) for length in LENGTHS]),
        "observation": vector(width),
        "reward": random.normal(size=n).astype(np.float32),
        "terminated": np.isin(np.arange(n), np.cumsum(LENGTHS) - 1),
    }
    if actions:
        columns["action"] = vector(1)
    return pa.table({**columns, **more})


@pytest.fixture
def folder(tmp_path):
    """A folder with three Parquet files: one has forces, one images, and one no actions."""
    n = sum(LENGTHS)
    made = {
        "force": rows("force", force=np.arange(n) / 7),
        "wrist": rows("wrist", wrist=pa.array([b"image %d" % t for t in range(n)])),
        "blind": rows("blind", actions=False),
    }
    for name, rows_of in made.items():
        pq.write_table(rows_of, tmp_path / f"{name}.parquet")
    return tmp_path, made


def merge(folder, sources, name="merged", stages=()):
    stages = [*stages, {"materialise": {"path": name}}]
    return oracle.pipeline(folder / f"{name}.yaml", sources, stages)


XS = {
    "text": pa.array(["a"] * sum(LENGTHS)),
    "whole": pa.array(range(sum(LENGTHS)), pa.int64()),
}


@pytest.mark.parametrize("own", [False, True], ids=["foreign", "mixed"])
@pytest.mark.parametrize("column", ["x", "observation"])
def test_the_remedies_for_columns_of_two_types_work(tmp_path, column, own):
    for name, width in [("text", 3), ("whole", 4)]:
        more = {"x": XS[name]} if column == "x" else {}
        width = 3 if column == "x" else width
        pq.write_table(rows(name, width, **more), tmp_path / f"{name}.parquet")
        trajmill("import", tmp_path / f"{name}.parquet", tmp_path / name)
    first = "text" if own else "text.parquet"
    path = merge(tmp_path, [first, "whole.parquet"])
    said = trajmill("check", path, code=3).stderr
    says(said, [f"map: {{{column}_2: {column}}}", "whole.parquet first"], "to keep both")
    merge(tmp_path, [first, {"path": "whole", "map": {f"{column}_2": column}}])
    trajmill("run", path)
    wanted = {column, f"{column}_2"}
    check(wanted <= set(table(tmp_path / "merged").column_names), "both columns")
    # An import without observations is refused, so leaving them out is no remedy.
    check(("`skip`" in said) == (column == "x"), said)
    if column == "x":
        sources = [first, {"path": "whole.parquet", "skip": ["x"]}]
        trajmill("run", merge(tmp_path, sources, name="less"))
        made = table(tmp_path / "less")["x"].to_pylist()
        check(made == XS["text"].to_pylist() + [None] * sum(LENGTHS), f"{made}")


@pytest.mark.parametrize("own", [False, True], ids=["foreign", "trajmill"])
def test_a_column_that_a_source_lacks_is_null(folder, own):
    folder, made = folder
    paths = [f"{name}.parquet" for name in made]
    if own:
        for name in made:
            trajmill("import", folder / f"{name}.parquet", folder / name)
        paths = list(made)
    path = merge(folder, paths)
    planned = trajmill("plan", path).stdout
    says(planned, ["no `wrist`", "no `force`", "no `action`, `force`, `wrist`"], "the plan")
    said = trajmill("run", path).stderr
    says(said, ["wrist has no `force`", "blind has no `action`, `force`, `wrist`"], "the run")
    found = table(folder / "merged")
    n = sum(LENGTHS)
    check(found.num_rows == 3 * n, f"{found.num_rows} rows")
    for name in ["observation", "action", "reward", "force", "wrist"]:
        wanted = [
            value
            for part in made.values()
            for value in (part[name].to_pylist() if name in part.column_names else [None] * n)
        ]
        check(found[name].to_pylist() == wanted, f"column {name}")
    trajectories = table(folder / "merged", "trajectories")
    equal(trajectories["labelled"], [True] * 6 + [False] * 3, "labelled")


def test_the_size_of_a_foreign_source_is_unknown_until_it_is_imported(folder):
    folder, made = folder
    trajmill("import", folder / "blind.parquet", folder / "blind")
    path = merge(folder, ["force.parquet", "blind"])
    text = trajmill("plan", path).stdout
    says(text, ["size unknown until it is imported", "3 trajectories, 8 rows"], "the plan")
    plan = json.loads(trajmill("plan", path, "--json").stdout)
    check(plan["rows"] is None and plan["trajectories"] is None, f"the plan: {plan}")
    check(list(plan["absent"].values()) == [["action", "force"]], f"absent: {plan['absent']}")


@pytest.mark.model
def test_labelled_and_recorded_datasets_merge(folder):
    folder, made = folder
    label = {"model": str(MODELS / "copy_first.onnx"), "window": {"past": 0, "future": 0}}
    labelled = oracle.pipeline(
        folder / "label.yaml",
        ["blind.parquet", {"path": "force.parquet"}],
        [{"label": label}, {"materialise": {"path": "labelled"}}],
    )
    trajmill("run", labelled)
    trajmill("run", merge(folder, ["wrist.parquet", "labelled"]))
    found = table(folder / "merged")
    n = sum(LENGTHS)
    check(
        found["action_source"].to_pylist() == ["recorded"] * n + ["proxy"] * n + ["recorded"] * n,
        f"sources of actions: {found['action_source'].to_pylist()}",
    )
    actions = column(found, "action")[1]
    first = column(found, "observation")[1][n : 2 * n, :1]
    check(same(actions[n : 2 * n], first), "labels")
    statistics = json.loads((folder / "merged" / "dataset.json").read_text())["statistics"]
    check(
        (statistics["recorded_actions"], statistics["proxy_actions"]) == (2 * n, n),
        f"statistics: {statistics}",
    )


def test_columns_of_other_widths_are_kept_under_another_name(folder):
    """The remedy of each error makes the pipeline work."""
    folder, made = folder
    pq.write_table(rows("wide", width=4), folder / "wide.parquet")
    refused = trajmill("check", merge(folder, ["force.parquet", "wide.parquet"]), code=3).stderr
    says(
        refused,
        ["`observation` is float32[4] in wide and float32[3] in force", "import", "observation_2"],
        "the error",
    )
    for name in ["force", "wide"]:
        trajmill("import", folder / f"{name}.parquet", folder / name)
    refused = trajmill("check", merge(folder, ["force", "wide"]), code=3).stderr
    says(refused, ["`map: {observation_2: observation}` beside the path"], "the error")
    renamed = {"observation_2": "observation"}
    trajmill("run", merge(folder, ["force", {"path": "wide", "map": renamed}]))
    found = table(folder / "merged")
    n = sum(LENGTHS)
    check(found["observation"].null_count == n, "observations that the second source lacks")
    check(found["observation_2"].null_count == n, "observations that the first source lacks")


@pytest.mark.parametrize("own", [False, True], ids=["foreign", "trajmill"])
def test_states_of_different_widths_become_lists(tmp_path, own):
    """Files of robosuite, such as LIBERO's: the width of `states` depends on the scene."""
    random = np.random.default_rng(5)
    wanted, tasks = [], []
    for index, width in enumerate([4, 7, 4]):
        with h5py.File(tmp_path / f"scene-{index}.hdf5", "w") as file:
            for demo, length in enumerate([3, 2]):
                group = file.create_group(f"data/demo_{demo}")
                states = random.normal(size=(length, width))
                group["states"] = states
                group["actions"] = random.uniform(-1, 1, (length, 2))
                group["obs/joints"] = random.normal(size=(length, 3))
                group.attrs["num_samples"] = length
                wanted += states.tolist()
                tasks += [f"scene {'b' if index == 1 else 'a'}"] * length
    paths = [f"scene-{index}.hdf5" for index in range(3)]
    if own:
        for path in paths:
            trajmill("import", tmp_path / path, tmp_path / path[:-5])
        paths = [path[:-5] for path in paths]
    tell = "case when source = 'scene-1' then 'scene b' else 'scene a' end"
    path = merge(tmp_path, paths, stages=[{"derive": {"task": tell}}])
    says(trajmill("plan", path).stdout, ["`states` becomes list[float64]"], "the plan")
    said = trajmill("run", path).stderr
    for name in ["scene-0", "scene-1", "scene-2"]:
        says(said, [f"{name}: `states` becomes list[float64]"], "the run")
    found = table(tmp_path / "merged")
    check(found["states"].to_pylist() == wanted, "every state")
    check(found["task"].to_pylist() == tasks, f"tasks: {found['task'].to_pylist()}")
    told = table(tmp_path / "merged", "trajectories")["task"].to_pylist()
    check(told == ["scene a"] * 2 + ["scene b"] * 2 + ["scene a"] * 2, f"tasks: {told}")
    out = tmp_path / "out"
    trajmill("export", tmp_path / "merged", out, "--to", "parquet")
    trajmill("import", out, tmp_path / "back")
    check(table(tmp_path / "back")["states"].to_pylist() == wanted, "every state after an export")


def empty(folder, materialise):
    stages = [{"filter": "return > 1000"}, {"materialise": {"path": "kept", **materialise}}]
    return oracle.pipeline(folder / "empty.yaml", "force.parquet", stages)


@pytest.mark.parametrize("form", ["trajmill", "npy"])
def test_an_empty_result_replaces_rows_only_if_that_is_allowed(folder, form):
    folder, made = folder
    kind = {"format": form, "overwrite": True}
    first = oracle.pipeline(
        folder / "first.yaml", "force.parquet", [{"materialise": {"path": "kept", **kind}}]
    )
    trajmill("run", first)
    before = {path: path.read_bytes() for path in (folder / "kept").rglob("*") if path.is_file()}
    refused = trajmill("run", empty(folder, kind), code=1).stderr
    says(refused, ["the result is empty", "kept has 8 rows", "allow_empty: true"], "the error")
    after = {path: path.read_bytes() for path in (folder / "kept").rglob("*") if path.is_file()}
    check(before == after, "the result is as it was")
    check(not list(folder.glob(".kept*")), "nothing is left beside it")
    if form == "npy":
        return  # The arrays of an empty dataset have no shape, so it cannot be written as npy.
    done = trajmill("run", empty(folder, {**kind, "allow_empty": True}), "--json")
    says(done.stderr, ["it replaced a result of 3 trajectories, 8 rows"], "the summary")
    replaced = json.loads(done.stdout)["outputs"][0]["replaced"]
    check((replaced["trajectories"], replaced["rows"]) == (3, 8), f"replaced: {replaced}")


def test_each_output_reports_its_own_time(folder):
    folder, made = folder
    stages = [{"materialise": {"path": "one"}}, {"materialise": {"path": "two"}}]
    path = oracle.pipeline(folder / "two.yaml", "force.parquet", stages)
    report = json.loads(trajmill("run", path, "--json").stdout)
    seconds = [output["seconds"] for output in report["outputs"]]
    check(all(part > 0 for part in seconds), f"seconds: {seconds}")
    check(sum(seconds) <= report["seconds"], f"{seconds} of {report['seconds']}")
