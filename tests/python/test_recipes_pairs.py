"""Recipes that make pairs of segments: what is drawn, how it is scored, and who prefers what."""

import numpy as np

from draws import chance
from draws import pairs as segment_pairs
from oracle import close, equal
from recipes import hopper, members, model, recipe, sigmoid

# ---- pairs


def drawn_pairs(length, count, seed):
    return segment_pairs({id: own["n"] for id, own in hopper().items()}, length, count, seed)


def compare_pairs(what, made, wanted, length):
    """`wanted`: segments, scores and how much the second is preferred, of every pair."""
    made = list(made)
    equal(len(made), 2 * len(wanted), f"{what}: segments")
    for index, (pair, scores, second) in enumerate(wanted):
        for side, (id, start) in enumerate(pair):
            own = made[2 * index + side]
            equal(
                [int(own["of"][name]) for name in ("pair", "side", "parent_id", "parent_step")],
                [index, side + 1, id, start],
                f"{what}: pair {index}",
            )
            close(
                own["observation"],
                hopper()[id]["observation"][start : start + length],
                f"{what}: observations",
            )
            close(own["of"]["score"], scores[side], f"{what}: scores", atol=1e-2, rtol=1e-4)
            close(
                own["of"]["margin"],
                scores[side] - scores[1 - side],
                f"{what}: margins",
                atol=2e-2,
                rtol=1e-4,
            )
            close(own["of"]["preference"], second if side else 1 - second, f"{what}: preferences")
            close(
                own["of"]["return"],
                hopper()[id]["reward"][start : start + length].astype(np.float64).sum(),
                f"{what}: returns",
                rtol=1e-5,
            )


def partial_return(segment, length, gamma=1.0):
    rewards = hopper()[segment[0]]["reward"][segment[1] : segment[1] + length].astype(np.float64)
    return float((rewards * gamma ** np.arange(length - 1, -1, -1)).sum())


@recipe("segment_pairs")
def test_segments_are_preferred_by_partial_return(made):
    wanted = []
    for number, pair in enumerate(drawn_pairs(20, 500, 11)):
        scores = [partial_return(segment, 20) for segment in pair]
        wanted.append(
            (
                pair,
                scores,
                float(chance("pairs teacher", 11, 2 * number) < sigmoid(scores[1] - scores[0])),
            )
        )
    compare_pairs("segment pairs", made, wanted, 20)


@recipe("segment_pairs_regret", model=True)
def test_segments_are_preferred_by_regret(made):
    value = {
        id: model("value", s=own["observation"])["value"][:, 0] for id, own in hopper().items()
    }

    def score(segment):
        id, start = segment
        after = 0 if hopper()[id]["terminated"][start + 19] else value[id][start + 20]
        return partial_return(segment, 20) + after - value[id][start]

    wanted = []
    for pair in drawn_pairs(20, 500, 11):
        scores = [score(segment) for segment in pair]
        wanted.append((pair, scores, float(scores[1] > scores[0])))
    compare_pairs("segment pairs by regret", made, wanted, 20)


@recipe("preference_teachers", model=True)
def test_preference_teachers_skip_forget_and_err(made):
    each = {id: members(own) for id, own in hopper().items()}
    drawn = list(drawn_pairs(10, 2000, 7))
    sums = lambda segment: each[segment[0]][segment[1] : segment[1] + 10].sum(0)
    apart = np.array([sigmoid(sums(second) - sums(first)).std() for first, second in drawn])
    wanted = []
    for number in sorted(np.argsort(-apart, kind="stable")[:200]):
        pair = drawn[number]
        scores = [partial_return(segment, 10) for segment in pair]
        felt = [partial_return(segment, 10, 0.9) for segment in pair]
        if max(scores) < 5:
            continue
        choice, mistake = (
            chance("pairs teacher", 7, 2 * int(number) + index) for index in range(2)
        )
        second = float((choice < sigmoid(felt[1] - felt[0])) != (mistake < 0.1))
        wanted.append((pair, scores, 0.5 if abs(scores[1] - scores[0]) <= 0.5 else second))
    compare_pairs("preference teachers", made, wanted, 10)


@recipe("preference_quality", model=True)
def test_preference_quality_keeps_pairs_that_are_strong_and_agreed_on(made):
    each = {id: members(own) for id, own in hopper().items()}
    sums = lambda segment: each[segment[0]][segment[1] : segment[1] + 20].sum(0)
    pairs = list(drawn_pairs(20, 500, 5))
    differences = np.array([sums(second) - sums(first) for first, second in pairs])
    strength, spread = differences.mean(1), differences.std(1)
    # Of twice as many segments as pairs; the two of a pair are alike in both.
    weak = np.quantile(np.repeat(np.abs(strength), 2), 0.1, method="inverted_cdf")
    strong = np.flatnonzero(np.abs(strength) > weak)
    apart = np.quantile(np.repeat(spread[strong], 2), 0.9, method="inverted_cdf")
    kept = [number for number in strong if spread[number] <= apart]
    found = list(made)
    equal(
        [int(own["of"]["pair"]) for own in found],
        np.repeat(kept, 2),
        "preference quality: pairs that are kept",
    )
    for index, number in enumerate(kept):
        for side in range(2):
            of = found[2 * index + side]["of"]
            close(
                of["strength"],
                strength[number] * (1 if side else -1),
                "preference quality: strength",
                atol=1e-2,
                rtol=1e-3,
            )
            close(of["spread"], spread[number], "preference quality: spread", atol=1e-2, rtol=1e-3)
