"""The recipes of SS-ORL, run on the corpora in `data/`, against the paper's method in numpy.

Returns and hashes tell which trajectories are labelled, and windows are built observation by
observation. `ssorl_compat` is compared with the reference implementation step by step: split,
normalisation, window edges, labels, clip.
"""

import functools
import json
import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import oracle
from draws import drawn
from networks import predict
from oracle import check, close, equal

pytestmark = pytest.mark.model


@functools.cache
def hopper():
    return oracle.corpus("hopper").by_id()


@functools.cache
def cheetah():
    return oracle.corpus("halfcheetah").by_id()


def ranking(corpus):
    """Ids by return, lowest first."""
    return sorted(
        corpus,
        key=lambda id: (corpus[id]["reward"][: corpus[id]["n"]].astype(np.float64).sum(), id),
    )


def repeated(observations, t, past, future):
    """The window at `t`, the nearest known observation standing for those that are not known."""
    return np.concatenate(
        [
            observations[min(max(s, 0), len(observations) - 1)]
            for s in range(t - past, t + future + 1)
        ]
    )


def compare_labels(what, made, corpus, labelled, label):
    """Compares actions with those that `label` gives at some steps; returns the squared errors."""
    errors = []
    for own in made:
        before, n = corpus[own["id"]], own["n"]
        close(own["observation"], before["observation"], f"{what}: observations", atol=0, rtol=0)
        if own["id"] in labelled:
            close(
                own["action"],
                before["action"],
                f"{what}: recorded actions stay bit for bit",
                atol=0,
                rtol=0,
            )
            check(
                (own["action_source"][:n] == "recorded").all(), f"{what}: recorded actions say so"
            )
            continue
        check((own["action_source"][:n] == "proxy").all(), f"{what}: labels say so")
        close(
            own["true_action"], before["action"], f"{what}: hidden actions are kept", atol=0, rtol=0
        )
        at = [t for t in range(n) if t < 4 or t >= n - 4 or t % 25 == 0]
        close(
            own["action"][at],
            label(before, at),
            f"{what}: labels of trajectory {own['id']}",
            atol=2e-5,
        )
        errors.append((own["action"][:n] - own["true_action"][:n]) ** 2)
    return np.concatenate(errors)


def by_the_model(path, clip, past=1, future=1):
    def label(before, at):
        windows = np.stack([repeated(before["observation"], t, past, future) for t in at]).astype(
            np.float32
        )
        return np.clip(predict(path, {"observation": windows})["action"], *clip)

    return label


def report(made, model):
    return json.loads((made.path.parent / f"{model}.report.json").read_text())


def counted(what, said, corpus, labelled, share):
    """Compares the report's numbers of steps with the labelled and the held-out trajectories."""
    held_out = drawn("train_idm", said["training"]["seed"], labelled)[
        : max(1, math.ceil(share * len(labelled) - 1e-9))
    ]
    steps = lambda ids: sum(corpus[id]["n"] for id in ids)
    equal(
        (said["data"]["training_steps"], said["data"]["held_out_steps"]),
        (steps(labelled) - steps(held_out), steps(held_out)),
        f"{what}: steps",
    )
    return held_out


# ---- the coupled setup


def test_coupled_labels_are_those_of_the_model_that_was_trained(tmp_path):
    made = oracle.recipe(tmp_path, "ssorl")
    labelled = set(drawn("hide_actions", 7, hopper())[:20])
    equal(
        {own["id"] for own in made if own["of"]["split"] == "labelled"},
        labelled,
        "ssorl: a tenth is labelled",
    )
    equal(len(made), 200, "ssorl: nothing is dropped")
    counted("ssorl", report(made, "hopper-idm"), hopper(), labelled, 0.2)
    label = by_the_model(made.path.parent / "hopper-idm.onnx", (-1, 1))
    errors = compare_labels("ssorl", made, hopper(), labelled, label)
    spread = (
        np.concatenate(
            [own["true_action"][: own["n"]] for own in made if own["id"] not in labelled]
        )
        .var(0)
        .sum()
    )
    check(
        errors.sum(1).mean() < 0.4 * spread,
        f"ssorl: the labels' error is {errors.sum(1).mean()}, their variance {spread}",
    )


# ---- the decoupled setup


def test_decoupled_data_are_chosen_apart(tmp_path):
    made = oracle.recipe(tmp_path, "ssorl_decoupled")
    order = ranking(cheetah())
    labelled = set(drawn("hide_actions", 7, order[:33])[:10])
    rest = [id for id in order if id not in labelled]
    # Above the 0.6667-quantile are those that come after the ⌈0.6667·n⌉ lowest.
    good = rest[math.ceil(0.6667 * len(rest)) :]
    chosen = set(drawn("subsample", 7, good)[: len(good) // 2])
    equal(
        sorted(own["id"] for own in made), sorted(labelled | chosen), "ssorl decoupled: who is left"
    )
    equal(
        {own["id"] for own in made if own["of"]["split"] == "labelled"},
        labelled,
        "ssorl decoupled: who is labelled",
    )
    counted("ssorl decoupled", report(made, "idm"), cheetah(), labelled, 0.1)
    compare_labels(
        "ssorl decoupled",
        made,
        cheetah(),
        labelled,
        by_the_model(made.path.parent / "idm.onnx", (-1, 1)),
    )


# ---- self-training


def test_self_training_keeps_the_best_round(tmp_path):
    made = oracle.recipe(tmp_path, "ssorl_self_training")
    labelled = set(drawn("hide_actions", 7, hopper())[:20])
    said = report(made, "idm")
    counted("ssorl self-training", said, hopper(), labelled, 0.2)
    rounds = said["rounds"]
    unlabelled = sum(own["n"] for own in hopper().values()) - sum(
        hopper()[id]["n"] for id in labelled
    )
    equal(
        [one["steps"] - rounds[0]["steps"] for one in rounds],
        [0, *[math.ceil(0.5 * unlabelled)] * 2],
        "ssorl self-training: half of the labels are learnt from",
    )
    equal(
        said["chosen_round"],
        np.argmin([one["validation"] for one in rounds]),
        "ssorl self-training: the best round is kept",
    )
    close(
        rounds[said["chosen_round"]]["error"],
        np.mean([one["mse"] for one in said["held_out"]["dimensions"]]),
        "ssorl self-training: its error",
    )
    compare_labels(
        "ssorl self-training",
        made,
        hopper(),
        labelled,
        by_the_model(made.path.parent / "idm.onnx", (-1, 1)),
    )


# ---- the reference implementation, step by step


def reference_window(observations, t, past):
    """The slice around `t` of observations without the final one, padded on the left with zeros."""
    known = observations[max(t - past, 0) : t + 2]
    return np.concatenate(
        [np.zeros((past + 2 - len(known)) * observations.shape[1]), known.reshape(-1)]
    )


def test_compat_follows_the_reference_implementation(tmp_path):
    made = oracle.recipe(tmp_path, "ssorl_compat")
    past, kept, lowest = 1, 0.1, 0.5
    # Split: the lowest is lost; shares are of the others.
    order = ranking(hopper())
    lost, others = order[0], order[1:]
    pool = others[: int(len(others) * lowest)]
    labelled = set(drawn("hide_actions", 10, pool)[: min(len(pool), int(len(others) * kept))])
    split = {
        id: "labelled" if id in labelled else "in_dist" if id in pool else "out_dist"
        for id in others
    }
    equal(
        sorted((own["id"], own["of"]["split"]) for own in made),
        sorted(split.items()),
        "ssorl compat: the split",
    )
    equal((len(others), len(pool), len(labelled)), (199, 99, 19), "ssorl compat: its sizes")
    check(lost not in {own["id"] for own in made}, "ssorl compat: the lowest is lost")

    # Normalisation: by all steps of all trajectories, final observations not known.
    every = np.concatenate([own["observation"][: own["n"]] for own in hopper().values()]).astype(
        np.float64
    )
    mean, std = every.mean(0), every.std(0) + 1e-6
    path = made.path.parent / "idm.onnx"
    model = onnx.load(path)
    values = {
        one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer
    }
    close(
        values["input_mean"],
        np.tile(mean, past + 2),
        "ssorl compat: means of the observations",
        rtol=1e-5,
    )
    close(
        1 / values["input_factor"],
        np.tile(std, past + 2),
        "ssorl compat: their deviations",
        rtol=1e-5,
    )

    # Network: two apart, of two hidden layers of 1024.
    shapes = {name: value.shape for name, value in values.items() if name.startswith("m")}
    wanted = {
        f"m0_{head}_w{layer}": shape
        for head in ("mean", "log_std")
        for layer, shape in enumerate([(33, 1024), (1024, 1024), (1024, 3)])
    }
    equal(
        {name: shape for name, shape in shapes.items() if "_w" in name} == wanted,
        True,
        f"ssorl compat: layers {shapes}",
    )
    said = report(made, "idm")
    counted("ssorl compat", said, hopper(), labelled, 0.1)
    equal(said["curves"][0]["looks"][-1]["update"], 100, "ssorl compat: no early stop")

    # Labels: padded windows are normalised, the network's mean goes through tanh and is clipped.
    def label(before, at):
        windows = np.stack(
            [
                reference_window(before["observation"][: before["n"]].astype(np.float64), t, past)
                for t in at
            ]
        )
        x = (windows - np.tile(mean, past + 2)) / np.tile(std, past + 2)
        for layer in range(3):
            x = (x if layer == 0 else np.maximum(x, 0)) @ values[f"m0_mean_w{layer}"] + values[
                f"m0_mean_b{layer}"
            ]
        return np.clip(np.tanh(x), -1 + 1e-6, 1 - 1e-6)

    compare_labels("ssorl compat", made, hopper(), labelled, label)
    check(
        np.nanmax(
            np.abs([own["action"][: own["n"]].max() for own in made if own["id"] not in labelled])
        )
        <= 1 - 1e-6 + 1e-7,
        "ssorl compat: the clip",
    )
