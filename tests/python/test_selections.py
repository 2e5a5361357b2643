"""Selections against their definitions: draws, quotas and orders, from the hash of trajectories."""

import numpy as np
import pytest

from draws import chance
from oracle import check, close, equal, run

# ---- subsample


def test_subsample_keeps_the_best_of_every_group(data, tmp_path):
    ids, returns, tasks = columns(data)
    made = run(
        tmp_path,
        [
            {"summarise": {"task": "max(task)"}},
            {"subsample": {"per_group": 2, "stratify": "task", "top": {"by": "return"}}},
        ],
        data.path,
    )
    best = []
    for task in np.unique(tasks):
        own = np.flatnonzero(tasks == task)
        best.extend(own[np.lexsort((ids[own], -np.nan_to_num(returns[own], nan=-np.inf)))][:2])
    equal([own["id"] for own in made], sorted(ids[best]), "the two best of every task")


def columns(data):
    """Ids, returns and tasks."""
    return (
        np.array(values)
        for values in zip(*((own["id"], own["of"]["return"], own["task"][0]) for own in data))
    )


def test_subsample_draws_by_weight_without_replacement(data, tmp_path):
    """By the keys of Efraimidis and Spirakis."""
    ids, lengths = (
        np.array([own["id"] for own in data]),
        np.array([own["n"] for own in data], float),
    )
    made = run(tmp_path, [{"subsample": {"count": 5, "weight": "length", "seed": 4}}], data.path)
    with np.errstate(divide="ignore"):
        keys = np.array([-np.log(chance("subsample", 4, i)) for i in ids]) / lengths
    equal(
        [own["id"] for own in made],
        sorted(ids[np.argsort(keys)[:5]]),
        "weighted, without replacement",
    )


def test_subsample_draws_by_weight_with_replacement(data, tmp_path):
    ids, lengths = (
        np.array([own["id"] for own in data]),
        np.array([own["n"] for own in data], float),
    )
    made = run(
        tmp_path,
        [{"subsample": {"count": 40, "weight": "length", "seed": 4, "replacement": True}}],
        data.path,
    )
    ends = np.cumsum(lengths)
    points = [
        ids[
            np.searchsorted(
                ends, chance("subsample with replacement", 4, number) * ends[-1], side="right"
            )
        ]
        for number in range(40)
    ]
    equal(
        sorted(int(own["id"]) % (ids.max() + 1) for own in made),
        sorted(points),
        "weighted, with replacement",
    )


@pytest.fixture
def line(data):
    """Row numbers of trajectories in the order of the draw with seed 4."""
    ids = [own["id"] for own in data]
    return sorted(range(len(ids)), key=lambda row: chance("subsample", 4, ids[row]))


def kept(folder, data, options, rows):
    """Checks that a draw keeps the trajectories of these rows."""
    made, ids = (
        run(folder, [{"subsample": {"seed": 4, **options}}], data.path),
        np.array([own["id"] for own in data]),
    )
    equal([own["id"] for own in made], sorted(ids[list(rows)]), f"subsample {options}")


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.4, 1.0])
def test_subsample_draws_a_fraction(data, tmp_path, line, fraction):
    kept(tmp_path, data, {"fraction": fraction}, line[: int(fraction * len(line) + 1e-9)])


@pytest.mark.parametrize("count", [0, 5, 99])
def test_subsample_draws_a_count(data, tmp_path, line, count):
    kept(tmp_path, data, {"count": count}, line[:count])


@pytest.mark.parametrize("most", [0, 20, 60, 999])
def test_subsample_draws_until_the_steps_are_used_up(data, tmp_path, line, most):
    lengths = np.array([own["n"] for own in data])
    kept(tmp_path, data, {"max_steps": most}, np.array(line)[np.cumsum(lengths[line]) <= most])


def test_subsample_keeps_the_longest_half(data, tmp_path):
    ids, lengths = np.array([own["id"] for own in data]), np.array([own["n"] for own in data])
    kept(
        tmp_path,
        data,
        {"fraction": 0.5, "top": {"by": "length"}},
        np.lexsort((ids, -lengths))[: len(ids) // 2],
    )


@pytest.mark.parametrize("options", [{"fraction": 0.4}, {"count": 7}], ids=["fraction", "count"])
def test_subsample_draws_from_strata_in_proportion(data, tmp_path, line, options):
    keys = np.array([own["n"] for own in data]) % 3
    groups = [[row for row in line if keys[row] == key] for key in np.unique(keys)]
    counts = quotas(options.get("count", int(0.4 * len(line))), [len(group) for group in groups])
    rows = [row for group, count in zip(groups, counts) for row in group[:count]]
    kept(tmp_path, data, {**options, "stratify": "length % 3"}, rows)


def quotas(total, sizes):
    """Shares of `total` in proportion to sizes; the largest remainders are rounded up."""
    exact = np.array(sizes) * total / sum(sizes)
    floors = np.floor(exact + 1e-9).astype(int)
    for group in sorted(
        range(len(sizes)), key=lambda group: (-round(exact[group] - floors[group], 9), group)
    )[: total - floors.sum()]:
        floors[group] += 1
    return floors


# ---- hide_actions

KEYS = {"return": lambda own: own["of"]["return"], "length % 4": lambda own: own["n"] % 4}


@pytest.mark.parametrize("by", KEYS)
@pytest.mark.parametrize(
    "end, share, keep",
    [
        ("lowest", 0.5, 0.2),
        ("highest", 0.35, 0.3),
        ("lowest", 1.0, 1.0),
        ("highest", 0.2, 0.9),
        ("lowest", 0.6, 0.0),
    ],
)
def test_hide_actions_keeps_a_share_drawn_from_one_end_of_the_ranking(
    data, tmp_path, by, end, share, keep
):
    """The split of SS-ORL: the share is one of all trajectories."""
    ids, n = np.array([own["id"] for own in data]), len(data)
    ranking = ids[
        np.lexsort(
            (ids, np.nan_to_num(np.array([KEYS[by](own) for own in data], float), nan=np.inf))
        )
    ]
    size = int(share * n + 1e-9)
    pool = ranking[:size] if end == "lowest" else ranking[n - size :]
    drawn = sorted(pool, key=lambda i: chance("hide_actions", 5, i))[: int(keep * n + 1e-9)]
    options = {"keep": keep, "from": {end: share, "by": by}, "seed": 5, "as": "truth"}
    for before, after in zip(
        data, run(tmp_path, [{"hide_actions": options}], data.path), strict=True
    ):
        what = f"trajectory {before['id']}"
        side = (
            "labelled"
            if before["id"] in drawn
            else "in_dist"
            if before["id"] in pool
            else "out_dist"
        )
        check(after["of"]["split"] == side, f"{what} is {after['of']['split']}, not {side}")
        close(after["truth"], before["action"], f"{what}: hidden actions")
        close(
            after["action"],
            np.where(side == "labelled", before["action"], np.nan),
            f"{what}: actions",
        )
        equal(
            after["of"]["recorded_actions"],
            before["n"] if side == "labelled" else 0,
            f"{what}: recorded actions",
        )


# ---- orders

ORDERS = {
    "sort-descending": (
        {"sort": {"by": "return", "descending": True}},
        lambda ids, lengths, returns: ids[np.lexsort((ids, -np.nan_to_num(returns, nan=-np.inf)))],
    ),
    "sort-ties-by-id": (
        {"sort": "length % 5"},
        lambda ids, lengths, returns: ids[np.lexsort((ids, lengths % 5))],
    ),
    "shuffle": (
        {"shuffle": {"seed": 6}},
        lambda ids, lengths, returns: sorted(ids, key=lambda i: chance("shuffle", 6, i)),
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_trajectories_are_put_in_order(data, tmp_path, order):
    stage, wanted = ORDERS[order]
    columns = (
        np.array(values)
        for values in zip(*((own["id"], own["n"], own["of"]["return"]) for own in data))
    )
    equal(
        [own["id"] for own in run(tmp_path, [stage], data.path, shard_rows=30)],
        wanted(*columns),
        order,
    )
