"""Stages against numpy: every value is computed again, trajectory by trajectory and step by step.

`score`, `label`, `train_idm`, selections, windows and pairs have files of their own.
"""

import hashlib
import json

import numpy as np
import pytest

import networks
from oracle import check, close, equal, run
from writers.odd import OBSERVATION

# ---- truncate


@pytest.mark.parametrize("keep", [False, True])
def test_truncate_ends_trajectories_at_the_first_hit(data, tmp_path, keep):
    options = {"where": "reward > 1", "keep": keep, "nulls": "keep"}
    made = run(tmp_path, [{"truncate": options}], data.path).by_id()
    for before in data:
        n, reward = before["n"], before["reward"]
        bad = [t for t in range(n) if reward[t] > 1]
        what = f"trajectory {before['id']}"
        if not bad:
            close(made[before["id"]]["observation"], before["observation"], what)
            continue
        m = bad[0] + keep
        if m == 0:
            check(before["id"] not in made, f"{what} has no step left")
            continue
        after = made[before["id"]]
        rows = min(m + 1, len(reward))
        close(after["observation"], before["observation"][:rows], f"{what}: observations")
        equal(
            after["is_final"],
            [t == m for t in range(rows)],
            f"{what}: the last observation is final",
        )
        close(
            after["reward"],
            np.where(np.arange(rows) < m, before["reward"][:rows], np.nan),
            f"{what}: rewards",
        )
        close(
            after["action"],
            np.where(np.arange(rows)[:, None] < m, before["action"][:rows], np.nan),
            f"{what}: actions",
        )
        equal(
            after["truncated"][:m],
            [t == m - 1 and not before["terminated"][m - 1] for t in range(m)],
            f"{what}: truncated",
        )
        close(
            after["of"]["return"],
            np.nan if np.isnan(before["reward"][:m]).all() else np.nansum(before["reward"][:m]),
            f"{what}: return",
        )
        equal(after["of"]["length"], m, f"{what}: length")


# ---- quantiles


def threshold(values, share):
    values = values[~np.isnan(values)]
    if np.ceil(share * len(values) - 1e-9) == 0:
        return -np.inf
    return np.quantile(values, share, method="inverted_cdf")


SHARES = [0.0, 0.25, 0.5, 0.9, 1.0]
BY_TASK = {"summarise": {"task": "max(task)"}}


@pytest.fixture
def returns(data):
    """Returns, tasks and ids of trajectories."""
    return (
        np.array(values)
        for values in zip(*((own["of"]["return"], own["task"][0], own["id"]) for own in data))
    )


@pytest.mark.parametrize("share", SHARES)
def test_filter_keeps_trajectories_above_a_quantile(data, tmp_path, returns, share):
    returns, _, ids = returns
    options = {"by": "return", "above": share, "unknown": "drop"}
    made = run(tmp_path, [{"filter": {"quantile": options}}], data.path)
    equal(
        [own["id"] for own in made],
        ids[returns > threshold(returns, share)],
        f"returns above {share}",
    )


@pytest.mark.parametrize("share", SHARES)
def test_filter_keeps_trajectories_below_a_quantile(data, tmp_path, returns, share):
    returns, _, ids = returns
    made = run(
        tmp_path,
        [{"filter": {"quantile": {"by": "return", "below": share, "unknown": "keep"}}}],
        data.path,
    )
    equal(
        [own["id"] for own in made],
        ids[~(returns > threshold(returns, share))],
        f"returns below {share}",
    )


@pytest.mark.parametrize("share", SHARES)
def test_filter_keeps_trajectories_above_a_quantile_of_their_group(data, tmp_path, returns, share):
    returns, tasks, ids = returns
    options = {"by": "return", "above": share, "group": "task", "unknown": "drop"}
    made = run(tmp_path, [BY_TASK, {"filter": {"quantile": options}}], data.path)
    kept = [returns[i] > threshold(returns[tasks == tasks[i]], share) for i in range(len(ids))]
    equal([own["id"] for own in made], ids[kept], f"returns above {share} of their task")


@pytest.mark.parametrize(
    "share, unknown, group",
    [
        (0.3, "drop", None),
        (0.8, "keep", None),
        (0.5, "drop", "task"),
        (0.5, "keep", "trajectory_id"),
    ],
)
def test_filter_keeps_runs_of_steps_above_a_quantile(data, tmp_path, share, unknown, group):
    options = {
        "by": "x",
        "of": "steps",
        "above": share,
        "unknown": unknown,
        **({"group": group} if group else {}),
    }
    made = run(tmp_path, [BY_TASK, {"filter": {"quantile": options}}], data.path)
    wanted = []
    for own in data:
        ranked = steps_of(data)
        if group == "task":
            ranked = np.concatenate(
                [other["x"][: other["n"]] for other in data if other["task"][0] == own["task"][0]]
            )
        elif group:
            ranked = own["x"][: own["n"]]
        x = own["x"][: own["n"]]
        kept = np.where(np.isnan(x), unknown == "keep", x > threshold(ranked, share))
        # Runs of kept steps; the final row goes with the last step.
        t = 0
        while t < own["n"]:
            if not kept[t]:
                t += 1
                continue
            end = t
            while end < own["n"] and kept[end]:
                end += 1
            rows = end if end < own["n"] else len(own["step"])
            wanted.append((own["id"], t, own["observation"][t:rows]))
            t = end
    found = sorted(
        (int(own["of"]["parent_id"]), int(own["of"]["parent_step"]), own["observation"])
        for own in made
    )
    equal(len(found), len(wanted), f"{options}: pieces")
    for (parent, step, observation), one in zip(wanted, found, strict=True):
        equal(one[:2], (parent, step), f"{options}")
        close(one[2], observation, f"{options}: observations")
    check(
        not any(name.startswith("__") for name in made.trajectories),
        f"no intermediate column is left: {list(made.trajectories)}",
    )
    for flow in made.manifest["lineage"]["stages"]:
        equal(
            flow["rows_out"],
            flow["rows_in"] - sum(flow["dropped_rows"].values()) + flow["added_rows"],
            "rows are accounted for",
        )


def test_the_threshold_of_a_quantile_is_kept_in_the_lineage(data, tmp_path):
    options = {"by": "x", "of": "steps", "above": 0.3, "unknown": "drop"}
    facts = run(tmp_path, [{"filter": {"quantile": options}}], data.path).facts("filter")
    close(facts[0]["quantiles"]["above"], threshold(steps_of(data), 0.3), "the threshold")


def steps_of(data):
    """The value `x` of all steps."""
    return np.concatenate([own["x"][: own["n"]] for own in data])


# ---- normalise


@pytest.fixture
def rows(data):
    """All observations, final ones included."""
    return np.concatenate([own["observation"] for own in data])


def test_normalise_goes_by_the_selection_as_it_stands_not_as_it_becomes(data, tmp_path, rows):
    mean, std = rows.mean(0), rows.std(0)
    made = run(
        tmp_path, [{"normalise": {"columns": ["observation"]}}, {"filter": "length > 3"}], data.path
    )
    kept = np.concatenate([own["observation"] for own in data if own["n"] > 3])
    close(made.steps["observation"], (kept - mean) / (std + 1e-6), "observations", atol=2e-5)
    facts = made.facts("normalise")[0]["statistics"]["observation"]
    close(facts["mean"], mean, "the mean is kept")
    close(facts["std"], std, "the std is kept")
    again = run(
        tmp_path,
        [{"normalise": {"columns": {"observation": "scaled"}, "by": str(made.path), "eps": 0.5}}],
        data.path,
        name="again",
    )
    close(
        again.steps["scaled"],
        (rows - mean) / (std + 0.5),
        "by what another dataset was normalised by",
        atol=2e-5,
    )
    close(again.steps["observation"], rows, "under another name the column stays")


def test_normalise_by_a_file_of_statistics(data, tmp_path):
    (tmp_path / "statistics.json").write_text(json.dumps({"reward": {"mean": [2], "std": [4]}}))
    reward = np.concatenate([own["reward"] for own in data])
    made = run(
        tmp_path,
        [{"normalise": {"columns": ["reward"], "by": str(tmp_path / "statistics.json"), "eps": 0}}],
        data.path,
    )
    close(made.steps["reward"], (reward - 2) / 4, "rewards")


def test_normalise_after_a_filter_goes_by_what_is_left(data, tmp_path):
    kept = np.concatenate([own["observation"] for own in data if own["n"] > 3])
    made = run(
        tmp_path, [{"filter": "length > 3"}, {"normalise": {"columns": ["observation"]}}], data.path
    )
    close(
        made.steps["observation"],
        (kept - kept.mean(0)) / (kept.std(0) + 1e-6),
        "observations",
        atol=2e-5,
    )


def test_normalise_by_what_was_recorded(data, tmp_path):
    """Half of the trajectories keep their actions."""
    options = {"columns": {"observation": "o", "action": "a", "reward": "r"}, "by": "recorded"}
    made = run(
        tmp_path, [{"hide_actions": {"keep": 0.5, "seed": 3}}, {"normalise": options}], data.path
    )
    recorded = ~np.isnan(made.steps["action"]).any(1)
    check(0 < recorded.sum() < len(recorded), "some actions are hidden")
    for name, result in [("observation", "o"), ("action", "a"), ("reward", "r")]:
        column = made.steps[name]
        own = column[recorded]
        close(
            made.steps[result],
            (column - np.nanmean(own, 0)) / (np.nanstd(own, 0) + 1e-6),
            name,
            atol=2e-5,
        )


# ---- derive


def test_derive_folds_along_trajectories(data, tmp_path):
    expressions = {
        "to_go": "returns_to_go(reward, [1, 0.9, 0])",
        "second": "returns_to_go(reward, [1, 0.9, 0])[2]",
        "decayed": "prefix_sum(reward, 0.9)",
        "product": "prefix_product(reward)",
        "low": "prefix_min(reward)",
        "high": "suffix_max(reward)",
        "later": "suffix_product(reward)",
        "least": "suffix_min(reward)",
        "most": "prefix_max(reward)",
        "stock": "stock(reward, 0.9, 2)",
        "atoms": "categorical(returns_to_go(reward, 0.9), -3, 3, 51)",
    }
    made = run(tmp_path, [{"derive": expressions}], data.path)
    for own, after in zip(data, made, strict=True):
        n, what = own["n"], f"trajectory {own['id']}"
        r, known = np.nan_to_num(own["reward"][:n]), own["reward"][:n]
        pad = lambda values: np.concatenate(
            [
                np.asarray(values, np.float64),
                np.full((len(own["step"]) - n, *np.shape(values)[1:]), np.nan),
            ]
        )
        to_go = np.array(
            [[sum(g ** (u - t) * r[u] for u in range(t, n)) for g in (1, 0.9, 0)] for t in range(n)]
        ).reshape(n, 3)
        close(after["to_go"], pad(to_go), f"{what}: returns to go")
        close(after["second"], pad(to_go[:, 1]), f"{what}: one of them")
        close(
            after["decayed"],
            pad([sum(0.9 ** (t - u) * r[u] for u in range(t + 1)) for t in range(n)]),
            f"{what}: prefix sum",
        )
        fold = lambda of, values: (
            np.nan if np.isnan(values).all() else of(values[~np.isnan(values)])
        )
        for name, of, prefix in [
            ("product", np.prod, True),
            ("low", np.min, True),
            ("most", np.max, True),
            ("later", np.prod, False),
            ("high", np.max, False),
            ("least", np.min, False),
        ]:
            close(
                after[name],
                pad([fold(of, known[: t + 1] if prefix else known[t:]) for t in range(n)]),
                f"{what}: {name}",
            )
        stock = [2.0]
        for t in range(len(own["step"]) - 1):
            stock.append((stock[-1] + r[t]) / 0.9)
        close(after["stock"], stock, f"{what}: stock")
        # C51's projection: the share of a value that an atom gets falls with its distance.
        atoms = np.linspace(-3, 3, 51)
        wanted = np.clip(
            1 - np.abs(np.clip(to_go[:, 1:2], -3, 3) - atoms) / (atoms[1] - atoms[0]), 0, 1
        )
        close(after["atoms"], pad(wanted), f"{what}: categorical")


# ---- runs of steps, every k-th step, summaries


def test_filter_by_steps_keeps_runs_of_steps(data, tmp_path):
    made = iter(run(tmp_path, [{"filter": {"steps": "reward > -0.5", "nulls": "drop"}}], data.path))
    stride = max(own["id"] for own in data) + 1
    for before in data:
        n, holds = before["n"], np.nan_to_num(before["reward"], nan=-np.inf) > -0.5
        starts = [t for t in range(n) if holds[t] and (t == 0 or not holds[t - 1])]
        for copy, start in enumerate(starts):
            end = next((t for t in range(start, n) if not holds[t]), n)
            rows = slice(start, len(holds) if end == n else end)
            after, what = next(made), f"run {copy} of trajectory {before['id']}"
            equal(
                [after["id"], after["of"]["parent_id"], after["of"]["parent_step"]],
                [before["id"] + copy * stride, before["id"], start],
                what,
            )
            equal(after["step"], np.arange(rows.stop - start), f"{what}: steps")
            for name in ("observation", "action", "reward"):
                close(after[name], before[name][rows], f"{what}: {name}")
            last = np.arange(start, rows.stop) == end - 1
            equal(
                after["truncated"],
                last & (end < n) & ~before["terminated"][rows],
                f"{what}: truncated",
            )
            equal(after["terminated"], before["terminated"][rows], f"{what}: terminated")
    check(next(made, None) is None, "there are more runs")


@pytest.mark.parametrize("k, fold", [(1, "sum"), (3, "sum"), (4, "last"), (50, "sum")])
def test_subsample_keeps_every_kth_step(data, tmp_path, k, fold):
    made = run(tmp_path, [{"subsample": {"stride": k, "reward": fold}}], data.path)
    for before, after in zip(data, made, strict=True):
        n, what = before["n"], f"trajectory {before['id']}"
        firsts = list(range(0, n, k))
        groups = [slice(t, min(t + k, n)) for t in firsts]
        final = list(range(n, len(before["reward"])))
        close(after["observation"], before["observation"][firsts + final], f"{what}: observations")
        close(after["action"], before["action"][firsts + final], f"{what}: actions")
        total = lambda rewards: np.nan if np.isnan(rewards).all() else np.nansum(rewards)
        folded = [
            total(before["reward"][group]) if fold == "sum" else before["reward"][group][-1]
            for group in groups
        ]
        close(after["reward"], folded + [np.nan] * len(final), f"{what}: rewards")
        equal(
            after["terminated"],
            [before["terminated"][group].any() for group in groups] + [False] * len(final),
            f"{what}: terminated",
        )
        equal(after["step"], np.arange(len(firsts) + len(final)), f"{what}: steps")


def test_summarise_makes_columns_that_filters_read(data, tmp_path):
    made = run(
        tmp_path,
        [
            {
                "summarise": {
                    "mean": "avg(reward)",
                    "n": "count(*)",
                    "high": "max(observation[2])",
                    "known": "count(x)",
                }
            },
            {"filter": "n > 2"},
        ],
        data.path,
    )
    longer = [own for own in data if own["n"] > 2]
    equal(
        [own["id"] for own in made],
        [own["id"] for own in longer],
        "what the filter behind it keeps",
    )
    for before, after in zip(longer, made, strict=True):
        n, of = before["n"], after["of"]
        mean = np.nan if np.isnan(before["reward"][:n]).all() else np.nanmean(before["reward"][:n])
        wanted = [mean, n, before["observation"][:n, 1].max(), data.known[before["id"]][:n].sum()]
        close([of["mean"], of["n"], of["high"], of["known"]], wanted, f"trajectory {before['id']}")


# ---- win rates


@pytest.mark.parametrize("beta", [None, 0.7])
def test_win_rates_compare_returns_within_a_group(data, tmp_path, beta):
    returns = np.array([own["of"]["return"] for own in data])
    made = run(
        tmp_path,
        [
            {
                "win_rate": {
                    "by": "return",
                    "group": "trajectory_id % 2",
                    "as": "wins",
                    **({"beta": beta} if beta else {}),
                }
            }
        ],
        data.path,
    )
    for index, own in enumerate(made):
        others = [
            returns[other]
            for other in range(index % 2, len(returns), 2)
            if other != index and not np.isnan(returns[other])
        ]
        wins = [
            1 / (1 + np.exp(-beta * (returns[index] - other)))
            if beta
            else 0.5 * (np.sign(returns[index] - other) + 1)
            for other in others
        ]
        close(own["of"]["wins"], np.mean(wins), f"win rate of trajectory {index}")


# ---- the same whatever the threads and the shards


@pytest.mark.model
def test_threads_and_shards_do_not_change_what_stages_make(data, tmp_path):
    path = networks.small(tmp_path / "same.onnx", [("x", OBSERVATION)], [("value", 1)], 3)
    stages = [
        {"score": {"model": path, "outputs": {"value": "value"}}},
        {"normalise": {"columns": {"reward": "scaled"}}},
        {"filter": {"quantile": {"by": "value", "of": "steps", "below": 0.8, "unknown": "drop"}}},
        {"truncate": {"where": "scaled > 1.5", "nulls": "keep"}},
        {"pairs": {"length": 2, "count": 50, "seed": 1, "by": "nothing"}},
        {"window": {"length": 2, "columns": ["observation", "value"]}},
    ]
    trees = []
    for threads in (1, 3):
        made = run(tmp_path, stages, data.path, threads=threads, shard_rows=20)
        trees.append(
            {
                str(file.relative_to(made.path)): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in sorted(made.path.rglob("*"))
                if file.is_file()
            }
        )
    equal(
        trees[0] == trees[1] and len(trees[0]) > 4,
        True,
        "same bytes with one thread and with three",
    )
    whole = run(tmp_path, stages, data.whole, name="whole")
    for name in ("observation", "value", "start"):
        close(
            whole.steps[name],
            made.steps[name],
            f"the same {name} whatever the shards of the source",
        )
    equal(
        whole.trajectories["pair"],
        made.trajectories["pair"],
        "the same pairs whatever the shards of the source",
    )
