"""Windows and pairs of segments, against numpy: slots, masks, draws, scores and preferences."""

import numpy as np
import pytest

import networks
from draws import chance
from draws import pairs as drawn_pairs
from networks import predict
from oracle import check, close, equal, run, table
from writers.odd import OBSERVATION

# ---- window


@pytest.mark.parametrize(
    "length, stride, pad, fill",
    [
        (3, 1, "none", "zero"),
        (4, 2, "left", "zero"),
        (4, 3, "right", "repeat"),
        (50, 1, "left", "repeat"),
        (1, 1, "none", "zero"),
    ],
)
def test_windows_hold_the_steps_at_their_slots(data, tmp_path, length, stride, pad, fill):
    options = {
        "length": length,
        "stride": stride,
        "pad": pad,
        "fill": fill,
        "columns": ["observation", "action", "reward", "x"],
    }
    made = run(tmp_path, [{"window": options}], data.path)
    windows, rows = made.by_id(), table(made.path)
    places = {key: place for place, key in enumerate(made.trajectories["trajectory_id"])}
    nulls = {
        name: rows[name].is_null().to_numpy() for name in ("observation", "action", "rewards", "x")
    }
    for own in data:
        n = own["n"]
        starts = [t - length + 1 if pad == "left" else t for t in range(0, n, stride)]
        starts = [start for start in starts if pad != "none" or start + length <= n]
        if not starts:
            check(own["id"] not in windows, f"trajectory {own['id']} has no window")
            continue
        after = windows[own["id"]]
        equal(after["step"], range(len(starts)), "numbers")
        equal(after["start"], starts, "starts")
        slots = np.array(starts)[:, None] + np.arange(length)
        real = (slots >= 0) & (slots < n)
        close(after["mask"], real.astype(float), "mask")
        for name, result in [
            ("observation", "observation"),
            ("action", "action"),
            ("reward", "rewards"),
            ("x", "x"),
        ]:
            values = (
                own[name][np.clip(slots, 0, n - 1)]
                .reshape(len(starts), length, -1)
                .astype(np.float64)
            )
            if fill == "zero":
                values[~real] = 0
            values = values.reshape(len(starts), -1)
            # In `x` NaN is a value, and only null is unknown.
            unknown = (
                ~data.known[own["id"]][:n]
                if name == "x"
                else np.isnan(own[name][:n].reshape(n, -1)).any(1)
            )
            empty = [
                unknown[np.clip(slots[w], 0, n - 1)][real[w]].any() for w in range(len(starts))
            ]
            values[empty] = np.nan
            close(after[result], values, f"{name} of trajectory {own['id']}")
            equal(
                nulls[result][made.spans[places[own["id"]]]],
                empty,
                f"nulls of {name} of trajectory {own['id']}",
            )
        equal(
            after["terminated"],
            [own["terminated"][:n][np.clip(s, 0, n - 1)][m].any() for s, m in zip(slots, real)],
            "terminated",
        )
        flow = next(
            entry for entry in made.manifest["lineage"]["stages"] if entry["stage"] == "window"
        )
        equal(
            flow["rows_out"],
            flow["rows_in"] - sum(flow["dropped_rows"].values()) + flow["added_rows"],
            "rows are accounted for",
        )
        check(
            not after["is_final"].any() and np.isnan(after["of"]["return"]),
            "windows are no final rows, and have no return",
        )


# ---- pairs

LENGTH, COUNT, SEED = 3, 60, 9


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def preferred(scores, equal=0.0):
    """How much a teacher who goes by the scores prefers the second."""
    return 0.5 if abs(scores[1] - scores[0]) <= equal else float(scores[1] > scores[0])


class Teacher:
    """What the teachers of `pairs` say of segments, each a trajectory and its first step."""

    def __init__(self, data):
        self.trajectories = list(data)
        for own in self.trajectories:
            own["r"] = np.nan_to_num(own["reward"])

    def rewards(self, segment):
        return self.trajectories[segment[0]]["r"][segment[1] : segment[1] + LENGTH]

    def partial(self, pair):
        return [self.rewards(segment).sum() for segment in pair]

    def felt(self, pair, gamma):
        """Returns of somebody who forgets: the last reward counts most."""
        return [
            sum(gamma ** (LENGTH - 1 - t) * r for t, r in enumerate(self.rewards(segment)))
            for segment in pair
        ]

    def noisy(self, number, pair):
        choice, mistake = (chance("pairs teacher", SEED, 2 * number + index) for index in range(2))
        scores = self.partial(pair)
        return float((choice < sigmoid(2 * (scores[1] - scores[0]))) != (mistake < 0.3))

    def regret(self, pair):
        """Scores by regret, or None where a value is unknown.

        The value of an observation is its first coordinate.
        """
        scores = []
        for i, start in pair:
            own, end = self.trajectories[i], start + LENGTH
            value = own["observation"][:, 0].astype(np.float64)
            if own["terminated"][end - 1]:
                after = 0.0
            elif end < len(value):
                after = value[end]
            else:
                return None
            scores.append(self.rewards((i, start)).sum() + after - value[start])
        return scores


@pytest.fixture
def teacher(data):
    return Teacher(data)


def draw(teacher, count):
    lengths = {index: own["n"] for index, own in enumerate(teacher.trajectories)}
    return list(drawn_pairs(lengths, LENGTH, count, SEED))


def compare(folder, data, teacher, options, judge, candidates=None, before=()):
    """Compares pairs with those that `judge` keeps.

    It gives a drawn pair's two scores and the preference for the second, or None to drop the pair.
    """
    trajectories = teacher.trajectories
    made = run(
        folder,
        [
            *before,
            {
                "pairs": {
                    "length": LENGTH,
                    "count": COUNT,
                    "seed": SEED,
                    "reward": "coalesce(reward, 0)",
                    **options,
                }
            },
        ],
        data.path,
    )
    drawn = candidates or list(enumerate(draw(teacher, COUNT)))
    wanted = [
        (pair, judged) for number, pair in drawn if (judged := judge(number, pair)) is not None
    ]
    equal(len(made), 2 * len(wanted), "segments")
    check(len(wanted) > 5, "some pairs are left")
    found = list(made)
    for index, (pair, (scores, second)) in enumerate(wanted):
        for side in range(2):
            own, (i, start) = found[2 * index + side], pair[side]
            where = f"pair {index} side {side + 1}"
            equal((int(own["of"]["pair"]), int(own["of"]["side"])), (index, side + 1), where)
            equal(
                (int(own["of"]["parent_id"]), int(own["of"]["parent_step"])),
                (trajectories[i]["id"], start),
                where,
            )
            close(
                own["observation"],
                trajectories[i]["observation"][start : start + LENGTH],
                f"{where}: observations",
            )
            equal(own["step"], range(LENGTH), f"{where}: steps")
            close(own["of"]["score"], scores[side], f"{where}: score", atol=1e-5)
            close(own["of"]["preference"], second if side else 1 - second, f"{where}: preference")
            n = trajectories[i]["n"]
            equal(
                own["truncated"][-1],
                start + LENGTH < n and not own["terminated"][-1],
                f"{where}: truncated",
            )
    equal(len({own["id"] for own in found}), len(found), "ids are unique")
    for flow in made.manifest["lineage"]["stages"]:
        equal(
            flow["rows_out"],
            flow["rows_in"] - sum(flow["dropped_rows"].values()) + flow["added_rows"],
            "rows are accounted for",
        )


def test_pairs_are_scored_by_partial_return(data, tmp_path, teacher):
    compare(
        tmp_path,
        data,
        teacher,
        {},
        lambda _, pair: (teacher.partial(pair), preferred(teacher.partial(pair))),
    )


def test_a_teacher_calls_close_scores_equal(data, tmp_path, teacher):
    judge = lambda _, pair: (teacher.partial(pair), preferred(teacher.partial(pair), 0.7))
    compare(tmp_path, data, teacher, {"teacher": {"equal": 0.7}}, judge)


def test_a_teacher_skips_pairs_of_low_scores(data, tmp_path, teacher):
    judge = lambda _, pair: (
        None
        if max(teacher.partial(pair)) < 1
        else (teacher.partial(pair), preferred(teacher.partial(pair)))
    )
    compare(tmp_path, data, teacher, {"teacher": {"skip": 1.0}}, judge)


def test_a_myopic_teacher_discounts_what_is_long_ago(data, tmp_path, teacher):
    judge = lambda _, pair: (teacher.partial(pair), preferred(teacher.felt(pair, 0.5)))
    compare(tmp_path, data, teacher, {"teacher": {"gamma": 0.5}}, judge)


def test_a_noisy_teacher_makes_mistakes(data, tmp_path, teacher):
    judge = lambda number, pair: (teacher.partial(pair), teacher.noisy(number, pair))
    compare(tmp_path, data, teacher, {"teacher": {"beta": 2, "mistake": 0.3}}, judge)


def test_pairs_are_scored_by_regret(data, tmp_path, teacher):
    judge = lambda _, pair: (
        None
        if teacher.regret(pair) is None
        else (teacher.regret(pair), preferred(teacher.regret(pair)))
    )
    compare(tmp_path, data, teacher, {"by": "regret", "value": "observation[1]"}, judge)


@pytest.mark.model
def test_pairs_on_which_reward_models_disagree_most_are_kept(data, tmp_path, teacher):
    """Of five times as many pairs."""
    members = [
        networks.small(
            tmp_path / f"reward-{seed}.onnx", [("s", OBSERVATION)], [("reward", 1)], 100 + seed
        )
        for seed in range(3)
    ]
    each = {
        "score": {
            "model": members,
            "inputs": {"s": "observation"},
            "outputs": {"each": {"output": "reward", "reduce": "all"}},
        }
    }
    for own in teacher.trajectories:
        feeds = {"s": own["observation"].astype(np.float32)}
        own["each"] = np.concatenate(
            [predict(member, feeds)["reward"] for member in members], axis=1
        ).astype(np.float64)
    drawn = draw(teacher, 5 * COUNT)
    sums = lambda segment: teacher.trajectories[segment[0]]["each"][
        segment[1] : segment[1] + LENGTH
    ].sum(0)
    apart = np.array([sigmoid(sums(second) - sums(first)).std() for first, second in drawn])
    chosen = [
        (int(index), drawn[index]) for index in sorted(np.argsort(-apart, kind="stable")[:COUNT])
    ]
    judge = lambda _, pair: (teacher.partial(pair), preferred(teacher.partial(pair)))
    compare(
        tmp_path,
        data,
        teacher,
        {"disagreement": {"by": "each", "candidates": 5}},
        judge,
        chosen,
        [each],
    )
