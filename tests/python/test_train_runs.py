"""Runs of `train_idm`: threads, pipelines that train and label, interruption, memory, refusals."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import idm
import oracle
from networks import predict
from oracle import REPOSITORY, check, says, seeded, table, trajmill
from test_train import train

pytestmark = pytest.mark.model
HOPPER = REPOSITORY / "data" / "hopper"


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---- threads

RUNS = {
    "in-memory": {
        "head": "gaussian",
        "members": 2,
        "bootstrap": True,
        "hidden": [300, 130],
        "steps": 40,
        "batch": 500,
        "dropout": 0.2,
    },
    "streamed": {"hidden": [64], "steps": 200, "buffer": 1000},
}


@pytest.mark.parametrize("run", RUNS)
def test_threads_do_not_change_a_byte_of_a_model(tmp_path, run):
    trained = lambda name, **more: files(train(tmp_path, HOPPER, RUNS[run], name, **more)[0].parent)
    one = trained("one", threads=1)
    for threads, rayon in [(2, None), (1, "1"), (2, "3"), (5, "1")]:
        more = {} if rayon is None else {"RAYON_NUM_THREADS": rayon}
        check(
            trained(f"{threads}-{rayon}", threads=threads, **more) == one,
            f"other bytes at {threads} threads, {rayon}",
        )


@pytest.mark.parametrize("run", RUNS)
def test_another_seed_trains_another_model(tmp_path, run):
    one, other = (
        train(tmp_path, HOPPER, {**RUNS[run], "seed": seed}, str(seed))[0].read_bytes()
        for seed in (0, 1)
    )
    check(one != other, "the seed does nothing")


# ---- split, train, label with no further options, in one file

TRAINING = {
    "window": {"past": 2, "future": 1, "edge": "zero"},
    "head": "gaussian",
    "hidden": [64, 64],
    "steps": 600,
    "seed": 2,
}


class Inside:
    """A pipeline that trains a model and labels with it."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder, self.out, self.model = (
            folder,
            folder / "relabelled",
            folder / "inside" / "idm.onnx",
        )
        self.path = folder / "inside.yaml"
        self.write()

    def write(self, **more):
        stages = [
            {"hide_actions": {"keep": 0.3, "seed": 4, "as": "true_action"}},
            {"train_idm": {"out": str(self.model), **TRAINING, **more}},
            {"label": {"model": str(self.model)}},
            {"check": ["count(*) filter (where action is null and not is_final) = 0"]},
            {"materialise": {"path": str(self.out), "overwrite": True}},
        ]
        return oracle.pipeline(self.path, HOPPER, stages)

    def rows(self):
        return table(self.out).to_pylist()


@pytest.fixture(scope="module")
def ran(shared):
    """The pipeline after its first run, and what the run said; tests read it and change nothing."""
    inside = Inside(shared / "ran")
    return inside, json.loads(trajmill("run", inside.path, "--json").stdout)


@pytest.fixture
def inside(ran, tmp_path):
    """The same in a folder of the test's own, run again there."""
    inside = Inside(tmp_path / "inside")
    trajmill("run", inside.path)
    return inside


@pytest.mark.parametrize("command", ["check", "plan"])
def test_check_and_plan_train_nothing(tmp_path, command):
    inside = Inside(tmp_path / "inside")
    trajmill(command, inside.path)
    check(
        os.listdir(inside.folder) == ["inside.yaml"],
        f"{command} wrote something: {os.listdir(inside.folder)}",
    )


def test_a_run_trains_and_says_how_well(ran):
    inside, done = ran
    check(
        done["models"][0]["reused"] is False and "held-out" in done["models"][0]["summary"],
        done["models"],
    )
    check(
        not [entry for entry in inside.folder.iterdir() if entry.name.startswith(".")],
        "staging is left",
    )


def test_window_and_bounds_are_in_the_metadata_of_the_model(ran):
    metadata = {entry.key: entry.value for entry in onnx.load(ran[0].model).metadata_props}
    found = [metadata[f"trajmill.{key}"] for key in ("past", "future", "edge", "clip")]
    check(found == ["2", "1", "zero", "-1.0,1.0"], metadata)


def test_labels_are_those_of_the_model_that_the_run_trained(ran):
    known, labels = {}, 0
    for row in ran[0].rows():
        known.setdefault(row["trajectory_id"], []).append(row)
    for rows in known.values():
        observation = np.array([row["observation"] for row in rows], np.float32)
        proxies = [row for row in rows if row["action_source"] == "proxy"]
        check(
            len(proxies) in (0, sum(not row["is_final"] for row in rows)),
            "a trajectory is labelled in part",
        )
        if not proxies:
            continue
        padded = np.concatenate(
            [np.zeros_like(observation[:2]), observation, np.zeros_like(observation[:2])]
        )
        inputs = np.stack([padded[row["step"] : row["step"] + 4].ravel() for row in proxies])
        predicted = predict(ran[0].model, {"observation": inputs})
        check(
            np.allclose(
                [row["action"] for row in proxies], np.clip(predicted["action"], -1, 1), atol=1e-5
            ),
            "labels are not the model's",
        )
        check(
            np.allclose([row["action_std"] for row in proxies], predicted["std"], atol=1e-5),
            "stds are not the model's",
        )
        labels += len(proxies)
    check(labels > 1000, labels)


def test_labels_of_hidden_actions_are_better_than_their_mean(ran):
    hidden = [row for row in ran[0].rows() if row["action_source"] == "proxy"]
    truth, found = (np.array([row[name] for row in hidden]) for name in ("true_action", "action"))
    check(
        np.mean((found - truth) ** 2) < 0.5 * np.mean((truth - truth.mean(axis=0)) ** 2),
        "labels are worse than a mean",
    )


def test_a_model_is_reused_until_it_is_wanted_fresh(inside):
    before = files(inside.model.parent)
    check(json.loads(trajmill("run", inside.path, "--json").stdout)["reused"] is True, "not reused")
    # With another result behind it the model is found again.
    shutil.rmtree(inside.out)
    again = trajmill("run", inside.path, "--json")
    check(
        json.loads(again.stdout)["models"][0]["reused"] is True and "nothing to " in again.stderr,
        again.stderr,
    )
    check(files(inside.model.parent) == before, "a model that was reused has changed")
    trajmill("run", inside.path, "--fresh")
    check(files(inside.model.parent) == before, "trained again, it is another")


def test_a_model_of_other_options_is_replaced_only_where_that_is_wanted(inside):
    before = files(inside.model.parent)
    changed = trajmill("run", inside.write(seed=9), code=1)
    says(changed.stderr, ["idm.onnx", "train_idm", "overwrite"], "changed")
    check(files(inside.model.parent) == before, "a refused run changed the model")
    check("in the way" in trajmill("plan", inside.path).stdout, "the plan says so")
    trajmill("run", inside.write(seed=9, overwrite=True))
    check(files(inside.model.parent)["idm.onnx"] != before["idm.onnx"], "not replaced")


def test_a_file_that_trajmill_did_not_train_is_never_replaced(inside):
    inside.model.write_bytes(b"something else")
    said = trajmill("run", inside.write(seed=8, overwrite=True), code=1).stderr
    check("idm.onnx" in said and "was not " in said, said)
    check(inside.model.read_bytes() == b"something else", "it was replaced")


@pytest.mark.parametrize(
    "end, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 130)], ids=["killed", "interrupted"]
)
def test_a_run_that_is_ended_while_it_trains_leaves_nothing(ran, tmp_path, end, code):
    """Run again, it is as if nothing had been."""
    inside = Inside(tmp_path / "inside")
    process = subprocess.Popen(
        [oracle.BINARY, "run", str(inside.path)], cwd=inside.folder, stderr=subprocess.DEVNULL
    )
    while not list((inside.folder / ".relabelled.staging").glob("*/dataset/dataset.json")):
        assert process.poll() is None, "the run ended before it trained"
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(end)
    check(process.wait() == code, f"{end}: exit {process.returncode}")
    check(
        not inside.model.parent.exists() and not inside.out.exists(),
        "a run that was ended left something",
    )
    trajmill("run", inside.path)
    check(
        files(inside.model.parent) == files(ran[0].model.parent), "afterwards it is another model"
    )


# ---- a source of another format is imported first: the same model as from an imported dataset


def weights(model):
    return {
        one.name: numpy_helper.to_array(one).tobytes() for one in onnx.load(model).graph.initializer
    }


BEFORE = {
    "alone": [],
    "after-a-filter": [{"filter": "length > 1"}],
    "before-a-label": [{"filter": "length > 1"}],
}


@pytest.mark.parametrize("place", BEFORE)
def test_a_source_that_a_run_imports_trains_the_same_model(tmp_path, place):
    act = lambda steps: np.tanh(steps[:, :2])
    imported, _ = idm.made(tmp_path, "brought", seeded("brought"), [20] * 12, 3, act, set(range(6)))
    found = []
    for kind, source in {
        "imported": imported,
        "parquet": {"path": str(tmp_path / "brought.parquet"), "format": "parquet"},
    }.items():
        folder = tmp_path / "out" / kind
        model, result = folder / "idm.onnx", folder / "result"
        after = (
            [{"label": {"model": str(model)}}, {"materialise": {"path": str(result)}}]
            if place == "before-a-label"
            else []
        )
        options = {"out": str(model), "head": "gaussian", "hidden": [16], "steps": 120, "seed": 3}
        path = oracle.pipeline(
            tmp_path / f"{kind}.yaml", source, [*BEFORE[place], {"train_idm": options}, *after]
        )
        trajmill("check", path)
        done = json.loads(trajmill("run", path, "--json").stdout)
        check(done["models"][0]["reused"] is False, done)
        entries = sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".svg")
        check(
            entries == ["idm.onnx", "idm.report.json"] + ["result"] * bool(after),
            f"{kind}: {entries}",
        )
        # The id of a model depends on how its data were imported.
        rows = table(result).drop_columns("action_model").to_pylist() if after else []
        check(
            all(row["action"] is not None or row["is_final"] for row in rows),
            f"{kind}: not all is labelled",
        )
        check(
            json.loads(trajmill("run", path, "--json").stdout)["reused"] is True,
            f"{kind}: trained again",
        )
        found.append((weights(model), rows))
    check(found[0] == found[1], "another model from a source that the run imports")


# ---- memory


def test_four_times_as_much_to_train_on_takes_no_more_memory(tmp_path):
    """Training streams its data: all windows of the larger dataset would take 320 MB."""
    peaks = []
    for times in (16, 64):
        copies = {"subsample": {"fraction": times, "replacement": True, "seed": 1}}
        grown = oracle.run(
            tmp_path, [copies], HOPPER, name=f"grown-{times}", shard_rows=20_000
        ).path
        options = {
            "out": str(tmp_path / f"memory-{times}" / "idm.onnx"),
            "hidden": [16],
            "steps": 300,
            "buffer": 2000,
            "statistics": "selection",
        }
        path = oracle.pipeline(tmp_path / "streamed.yaml", grown, [{"train_idm": options}])
        peaks.append(oracle.peak_memory("run", path, "--threads", 1))
    check(peaks[1] < peaks[0] + 25, f"peaks of {peaks} MB")


# ---- self-training


def test_self_training_keeps_the_round_of_the_lowest_error(tmp_path):
    options = {
        "head": "gaussian",
        "hidden": [48],
        "steps": 400,
        "self_training": {"rounds": 2, "keep": 0.3},
        "seed": 6,
    }
    out = tmp_path / "own" / "idm.onnx"
    stages = [
        {"hide_actions": {"keep": 0.15, "seed": 1}},
        {"train_idm": {"out": str(out), **options}},
    ]
    trajmill("run", oracle.pipeline(tmp_path / "own.yaml", HOPPER, stages))
    report = json.loads((out.parent / "idm.report.json").read_text())
    rounds = report["rounds"]
    check(
        len(rounds) == 3 and rounds[0]["steps"] < rounds[1]["steps"] == rounds[2]["steps"], rounds
    )
    check(
        report["chosen_round"] == int(np.argmin([one["validation"] for one in rounds])),
        "not the best round",
    )
    check(all(one["error"] > 0 for one in rounds) and rounds[1]["uncertainty_limit"] > 0, rounds)


# ---- what is refused

EVERYONE = set(range(12))


def constant(index, observation, action):
    observation[:] = 4.25


def nan(index, observation, action):
    if index == 5:
        observation[7, 1] = np.nan


def outside(index, observation, action):
    if index == 5:
        action[3, 1] = 1.5


# Who is labelled, what is spoiled, options, and what is said.
REFUSED = {
    "none": (EVERYONE, None, {}, ["no recorded action"]),
    "few": ({3}, None, {}, ["1 trajectory", "recorded actions", "0.1"]),
    "constant": (EVERYONE, constant, {}, ["observation", "constant"]),
    "nan": (
        EVERYONE,
        nan,
        {},
        ["trajectory 5, step 7", "`observation[2]` is not finite"],
    ),
    "outside": (
        EVERYONE,
        outside,
        {"head": "gaussian"},
        ["trajectory 5, step 3", "`action[2]` is 1.5", "from -1 to 1", "clip"],
    ),
    "diverges": (EVERYONE, None, {"head": "gaussian", "lr": 1e5}, ["diverged", "`lr`"]),
    "window": (
        EVERYONE,
        None,
        {"window": {"past": 9, "future": 9, "edge": "skip"}},
        ["whole window"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_nothing_can_be_trained_on_are_refused(tmp_path, name):
    labelled, spoil, options, wanted = REFUSED[name]
    source, _ = idm.made(
        tmp_path,
        "bad",
        seeded("bad"),
        [12] * 12,
        3,
        lambda steps: np.tanh(steps[:, :2]),
        labelled,
        spoil=spoil,
    )
    out, result = tmp_path / "failed" / "idm.onnx", tmp_path / "result"
    before = [{"hide_actions": {"keep": 0}}] if name == "none" else []
    training = {"train_idm": {"out": str(out), "steps": 50, "hidden": [8], **options}}
    stages = [
        *before,
        training,
        {"label": {"model": str(out)}},
        {"materialise": {"path": str(result)}},
    ]
    done = trajmill("run", oracle.pipeline(tmp_path / "bad.yaml", source, stages), code=1)
    says(done.stderr, wanted, name)
    check(
        len(oracle.errors(done)) == 1 and not out.parent.exists() and not result.exists(),
        f"wrote something, or said more than one thing\n{done.stderr}",
    )


def test_more_classes_than_the_options_name_are_refused(tmp_path):
    classes = lambda steps: np.digitize(steps[:, 0], [-0.2, 0.2])
    source, _ = idm.made(
        tmp_path, "bad", seeded("bad"), [12] * 12, 2, classes, EVERYONE, discrete=np.int32
    )
    path = oracle.pipeline(
        tmp_path / "bad.yaml", source, [{"train_idm": {"out": "models/idm.onnx", "classes": 2}}]
    )
    stderr = trajmill("run", path, code=1).stderr
    check("2 classes" in stderr, stderr)
    check(not list((tmp_path / "models").rglob("*")), "a model that was not trained left something")


def test_a_device_that_cannot_train_is_refused_before_anything_is_read(tmp_path):
    path = oracle.pipeline(
        tmp_path / "bad.yaml", HOPPER, [{"train_idm": {"out": "models/idm.onnx"}}]
    )
    stderr = trajmill("run", path, "--device", "cuda", code=1).stderr
    says(stderr, ["cuda:0", "--features cuda"], "a device")
    check(not list((tmp_path / "models").rglob("*")), stderr)
