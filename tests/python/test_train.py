"""Models that `train_idm` writes, against onnx, onnxruntime and numpy.

Models are trained on data/hopper and on datasets made here. onnx.checker checks each file, and
onnxruntime and numpy give the trainer's own predictions. The errors and losses in the report are
computed again from windows that are built observation by observation.
"""

import functools
import json
import xml.etree.ElementTree

import blake3
import numpy as np
import onnx
import pytest

import idm
import networks
import oracle
from oracle import REPOSITORY, check, seeded, trajmill

pytestmark = pytest.mark.model
# How many standard deviations around the mean hold such a share of a Normal.
REACH = {0.1: 0.125661, 0.5: 0.67449, 0.9: 1.644854}


def train(folder, source, options, name="idm", threads=2, **environment):
    """The model that is trained, and its report."""
    out = folder / name / "idm.onnx"
    path = oracle.pipeline(
        folder / f"{name}.yaml", source, [{"train_idm": {"out": str(out), **options}}]
    )
    trajmill("run", path, "--threads", threads, **environment)
    return out, json.loads((out.parent / "idm.report.json").read_text())


def compare(folder, source, trajectories, options, floor):
    """Trains a model that has to reach an R² or accuracy of `floor`, and compares its report.

    Returns whether a member went on past its best checkpoint.
    """
    head = options.get("head", "categorical" if "classes" in options else "deterministic")
    members, window = (
        options.get("members", 1),
        {"past": 1, "future": 1, "edge": "repeat", **options.get("window", {})},
    )
    out, report = train(folder, source, options)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    check(
        report["model_blake3"] == blake3.blake3(out.read_bytes()).hexdigest(),
        "the report is of another model",
    )
    check([port.name for port in model.graph.input] == ["observation"], "inputs")
    names = [port.name for port in model.graph.output]
    check(
        names
        == (
            ["action", "std"]
            if head == "gaussian" or (members > 1 and head == "deterministic")
            else ["action"]
        ),
        f"{names}",
    )

    def run(inputs):
        return networks.predict(out, {"observation": inputs})

    # The trainer's own predictions.
    probe = report["held_out"]["probe"]
    given = run(np.array(probe["observation"], np.float32))
    check(len(probe["action"]) == 16, "probes")
    for output in names:
        gap = np.max(np.abs(given[output] - np.array(probe[output])))
        check(gap <= 1e-5, f"onnxruntime's {output} is {gap} off the trainer's")

    # The same by hand, on everything that is held out.
    validation, training = idm.held_out(
        trajectories, options.get("validation", 0.1), options.get("seed", 0)
    )
    inputs, targets = idm.windows(trajectories, validation, **window)
    training_inputs, training_targets = idm.windows(trajectories, training, **window)
    check(
        (len(inputs), len(training_inputs))
        == (report["held_out"]["steps"], report["data"]["training_steps"]),
        "steps",
    )
    mean, std, raw, values = idm.by_hand(model, inputs, head, members)
    given = run(inputs)
    check(np.max(np.abs(given["action"] - mean)) < 1e-4, "actions by hand")
    if std is not None:
        check(
            np.max(np.abs(given["std"] - std)) < 2e-3 * max(1, np.max(std)),
            f"stds by hand {np.max(np.abs(given['std'] - std))}",
        )

    # The inputs are scaled by what is trained on.
    width = inputs.shape[1] // (window["past"] + 1 + window["future"])
    now = training_inputs[:, window["past"] * width : (window["past"] + 1) * width].astype(
        np.float64
    )
    factor = np.where(
        now.std(axis=0) <= 1e-7 * np.abs(now.mean(axis=0)), 0, 1 / (now.std(axis=0) + 1e-6)
    )
    times = window["past"] + 1 + window["future"]
    check(
        np.allclose(values["input_mean"], np.tile(now.mean(axis=0), times), rtol=1e-5, atol=1e-6),
        "means",
    )
    check(np.allclose(values["input_factor"], np.tile(factor, times), rtol=1e-4), "factors")

    # The best checkpoint is in the file: its loss, computed here, is the lowest one seen.
    for member, curve in enumerate(report["curves"]):
        looks = [look["validation"] for look in curve["looks"]]
        check(curve["best"]["validation"] == min(looks), f"best of {looks}")
        loss = idm.loss_by_hand(head, raw[member], targets, values)
        check(
            abs(loss - min(looks)) < 1e-4 * max(1, abs(loss)),
            f"the loss of the file is {loss}, the best was {min(looks)}",
        )

    # The report's errors.
    if head == "categorical":
        classes = report["held_out"]["classes"]
        check(
            abs(classes["accuracy"] - np.mean(np.argmax(given["action"], axis=1) == targets))
            < 1e-9,
            "accuracy",
        )
        most = np.bincount(training_targets.astype(int)).argmax()
        check(
            abs(classes["accuracy_of_most_frequent"] - np.mean(targets == most)) < 1e-9,
            "most frequent",
        )
        check(classes["accuracy"] > floor, f"{classes['accuracy']}")
    else:
        for dimension, own in enumerate(report["held_out"]["dimensions"]):
            error = given["action"][:, dimension] - targets[:, dimension]
            of_mean = np.mean((targets[:, dimension] - training_targets[:, dimension].mean()) ** 2)
            found = [own["mse"], own["mae"], own["mse_of_mean"], own["r2"]]
            wanted = [
                np.mean(error**2),
                np.mean(np.abs(error)),
                of_mean,
                1 - np.mean(error**2) / of_mean,
            ]
            check(np.allclose(found, wanted, rtol=1e-4, atol=1e-7), f"{found} is not {wanted}")
            check(own["r2"] > floor, f"dimension {dimension} has R² {own['r2']}")
            for level in own.get("calibration", []):
                reach = REACH.get(level["expected"])
                if reach:
                    within = np.mean(np.abs(error) <= reach * given["std"][:, dimension])
                    check(
                        abs(level["observed"] - within) <= 2 / len(error),
                        f"calibration {level} is not {within}",
                    )
    pictures = {path.name for path in out.parent.glob("*.svg")}
    wanted = (
        {"idm.loss.svg"}
        | ({"idm.scatter.svg"} if head != "categorical" else set())
        | ({"idm.calibration.svg"} if "std" in names else set())
    )
    check(pictures == wanted, f"{pictures}")
    for picture in pictures:
        tree = xml.etree.ElementTree.fromstring((out.parent / picture).read_text())
        check(tree.tag.endswith("svg") and len(list(tree.iter())) > 30, f"{picture} shows nothing")
    # More than the last checkpoint would do.
    return any(
        curve["looks"][-1]["validation"] > curve["best"]["validation"] for curve in report["curves"]
    )


@functools.cache
def hopper():
    """The corpus as trajectories of observations, actions and masks."""
    return idm.read(REPOSITORY / "data" / "hopper")


HEADS = {
    "deterministic": ({"dropout": 0.1, "steps": 3000, "lr": 0.01, "patience": 6}, 0.3),
    "gaussian": (
        {"steps": 1500, "head": "gaussian", "members": 2, "bootstrap": True, "activation": "tanh"},
        0.3,
    ),
    "ensemble": ({"members": 3, "activation": "elu", "clip": [-1, 1], "epochs": 8}, 0.2),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_model_of_hopper_is_what_its_report_says(tmp_path, head):
    options, floor = HEADS[head]
    options = {"hidden": [64, 48], "batch": 128, "validation": 0.2, "seed": 3, **options}
    went_on = compare(tmp_path, REPOSITORY / "data" / "hopper", hopper(), options, floor)
    if head == "deterministic":
        check(
            went_on, "no member went on past its best checkpoint, so that it was kept shows nothing"
        )


SMALL = {"hidden": [48], "steps": 1500, "batch": 64, "seed": 11, "validation": 0.25, "lr": 3e-3}
LENGTHS = list(np.random.default_rng(5).integers(1, 40, 30))


@pytest.fixture(scope="module")
def wide(shared):
    """A dataset of float64 with actions of different ranges, every second trajectory labelled."""
    box = lambda steps: np.stack(
        [2 + 3 * np.tanh(steps[:, 0]), -50 * np.tanh(steps[:, 1] - steps[:, 2])], axis=1
    )
    return idm.made(
        shared,
        "wide",
        np.random.default_rng(5),
        LENGTHS,
        3,
        box,
        set(range(0, 30, 2)),
        dtype=np.float64,
    )


def test_a_gaussian_model_of_boxes_of_different_sizes(wide, tmp_path):
    options = {
        "head": "gaussian",
        "clip": [[-1, -50], [5, 50]],
        "window": {"past": 0, "future": 1, "edge": "skip"},
    }
    compare(tmp_path, *wide, {**SMALL, **options}, 0.5)


def test_a_model_of_windows_padded_with_zeros(wide, tmp_path):
    compare(tmp_path, *wide, {**SMALL, "window": {"past": 2, "future": 1, "edge": "zero"}}, 0.5)


def test_a_classifier_of_discrete_actions(shared, tmp_path):
    sort = lambda steps: np.digitize(steps[:, 0], [-0.2, 0.2])
    discrete = idm.made(
        shared, "discrete", seeded("discrete"), LENGTHS, 2, sort, set(range(25)), discrete=np.int64
    )
    compare(
        tmp_path,
        *discrete,
        {**SMALL, "classes": 3, "members": 2, "weight_decay": 1e-4, "decoupled": True},
        0.8,
    )
