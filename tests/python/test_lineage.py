"""The origin of a dataset through any number of steps, and commands on foreign datasets."""

import json

import h5py
import numpy as np
import onnx
import pytest

import oracle
from oracle import SEEDS, check, close, says, trajmill

D4RL = SEEDS / "d4rl" / "set.hdf5"


def lineage(path, *more):
    return json.loads(trajmill("lineage", path, "--json", *more).stdout)


def manifest_hash(path):
    shown = trajmill("info", path).stdout.splitlines()[-1]
    check(shown.startswith("manifest      blake3 "), shown)
    return shown.split()[-1]


def step(folder, source, name, *stages):
    path = oracle.pipeline(
        folder / f"{name}.yaml", source, [*stages, {"materialise": {"path": name}}]
    )
    trajmill("run", path)
    return folder / name


def test_every_manifest_on_the_way_is_listed(tmp_path):
    trajmill("import", D4RL, tmp_path / "one")
    two = step(tmp_path, "one", "two", {"filter": "length > 1"})
    other = step(tmp_path, str(D4RL), "other")
    three = step(tmp_path, ["two", "other"], "three", {"derive": {"twice": "reward * 2"}})
    found = lineage(three)
    hashes = {name: manifest_hash(tmp_path / name) for name in ["one", "two", "other", "three"]}
    check(found["manifest"] == hashes["three"], "the dataset's own hash")
    check(found["own"]["sources"] == [hashes["two"], hashes["other"]], "its sources")
    two, other = (found["manifests"][hashes[name]] for name in ["two", "other"])
    check(two["sources"] == [hashes["one"]] and two["by"] == "run", f"the second: {two}")
    check("filter" in json.dumps(two["inputs"]), "its stages")
    one = found["manifests"][hashes["one"]]
    check(one["by"] == "import d4rl" and one["sources"] == [], f"the first: {one}")
    # A run that imports its source by itself lists the import.
    (imported,) = other["sources"]
    check(
        found["manifests"][imported]["inputs"]["source"] == one["inputs"]["source"],
        "the same file is the source of both imports",
    )
    text = trajmill("lineage", three).stdout
    says(text, list(hashes.values()), "the text")
    check(text.count(f"made from manifest {hashes['one']}") == 1, f"once: {text}")


@pytest.mark.parametrize("form", ["d4rl", "lerobot", "rlds", "minari", "robomimic", "arrow"])
def test_lineage_survives_an_export_and_its_import(tmp_path, form):
    trajmill("import", D4RL, tmp_path / "one")
    ending = {"d4rl": ".hdf5", "robomimic": ".hdf5", "minari": "-v0"}.get(form, "")
    export = tmp_path / f"export{ending}"
    trajmill("export", tmp_path / "one", export, "--to", form)
    trajmill("import", export, tmp_path / "back", "--from", form)
    first = manifest_hash(tmp_path / "one")
    for path in [export, tmp_path / "back"]:
        found = lineage(path)
        check(found["own"]["sources"] == [first], f"{path}: {found['own']}")
        check(found["manifests"][first]["by"] == "import d4rl", f"{path}: {found['manifests']}")


@pytest.mark.model
def test_info_names_the_models_after_several_hops(tmp_path):
    trajmill("import", D4RL, tmp_path / "one")
    width = len(oracle.table(tmp_path / "one")["observation"][0])
    actions = len(oracle.table(tmp_path / "one")["action"][0])
    constant = onnx.numpy_helper.from_array(np.ones((width, actions), np.float32), "w")
    port = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["o", "w"], ["a"])],
        "graph",
        [port("o", onnx.TensorProto.FLOAT, ["n", width])],
        [port("a", onnx.TensorProto.FLOAT, ["n", actions])],
        [constant],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    hide = {"hide_actions": {"keep": 0.5, "seed": 1}}
    two = step(tmp_path, "one", "two", hide, {"label": {"model": "m.onnx"}})
    [model] = lineage(two)["models"]
    says(trajmill("info", two).stdout, [f"m.onnx, blake3 {model['hash']}", "this dataset"], "two")
    trajmill("export", two, tmp_path / "three.hdf5", "--to", "d4rl")
    four = step(tmp_path, ["three.hdf5", "one"], "four", {"filter": "length > 1"})
    wanted = [f"m.onnx, blake3 {model['hash']}", f"of manifest {manifest_hash(two)}"]
    says(trajmill("info", four).stdout, wanted, "four")
    says(trajmill("info", tmp_path / "three.hdf5").stdout, wanted, "three")


def test_what_tells_no_origin_is_refused(tmp_path):
    refused = trajmill("lineage", D4RL, code=1).stderr
    says(refused, ["does not tell its origin"], "a foreign dataset")
    refused = trajmill("lineage", tmp_path / "nothing", code=1).stderr
    says(refused, ["does not exist"], "no dataset")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary directory of trajmill's own, which has to be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    check(list(folder.iterdir()) == [], f"left: {list(folder.iterdir())}")


def test_sql_info_and_diff_read_foreign_datasets(tmp_path, temporary):
    with h5py.File(D4RL) as file:
        rewards = file["rewards"][:]
    shown = trajmill("sql", D4RL, "-c", "select reward from steps where not is_final",
                     "--format", "json").stdout
    found = [json.loads(line)["reward"] for line in shown.splitlines()]
    close(found, rewards[: len(found)], "rewards")
    check(len(found) >= len(rewards) - 1, f"{len(found)} of {len(rewards)} rewards")
    named = trajmill("sql", f"a={D4RL}", f"b={D4RL}", "-c",
                     "select count(*) as n from a.steps join b.steps using (trajectory_id, step)",
                     "--format", "csv").stdout
    check(int(named.splitlines()[1]) >= len(rewards), named)
    info = trajmill("info", D4RL).stdout
    says(info, ["set.hdf5", "import d4rl", "observation: float32["], "info")
    trajmill("import", D4RL, tmp_path / "own")
    same = json.loads(trajmill("diff", D4RL, tmp_path / "own", "--json").stdout)
    check(same["trajectories"]["changed"] == 0, f"diff: {same}")
    check(same["trajectories"]["same"] > 0, f"diff: {same}")


def test_a_foreign_dataset_that_needs_options_names_the_import(tmp_path, temporary):
    np.savez(tmp_path / "odd.npz", state=np.zeros((4, 2)), act=np.zeros((4, 1)))
    refused = trajmill("info", tmp_path / "odd.npz", code=1).stderr
    says(refused, ["cannot tell the format", "trajmill import", "--from"], "the error")
    refused = trajmill("info", D4RL, "--verify", code=2).stderr
    says(refused, ["`--verify` needs a trajmill dataset", "trajmill validate"], "verify")


def test_columns_of_merged_sources_have_types_as_users_write_them(tmp_path):
    trajmill("import", D4RL, tmp_path / "one")
    step(tmp_path, "one", "two", {"derive": {"twice": "reward * 2"}})
    text = trajmill("lineage", step(tmp_path, ["one", "two"], "three")).stdout
    says(text, ["columns: observation float", "twice float", "uid text"], "the text")
    check("FixedSizeList" not in text and "Utf8" not in text, f"Arrow's types: {text}")
