"""Rows on which a condition is null: an error, unless the pipeline says what to do with them."""

import json

import numpy as np
import pytest

from oracle import check, close, equal, pipeline, run, says, trajmill


def summary(folder, stages, source):
    """Runs a pipeline, and returns what its last stage dropped, by reason, and its counts."""
    path = pipeline(folder / "said.yaml", source, [*stages, {"materialise": {"path": "said"}}])
    said = json.loads(trajmill("run", path, "--json", "--fresh", cwd=folder).stdout)
    stage = said["outputs"][0]["stages"][-1]
    return stage["dropped_rows"], stage["counts"]


def rows(data):
    """Every step as (trajectory, step, reward), final observations left out."""
    return [(own["id"], t, own["reward"][t]) for own in data for t in range(own["n"])]


def test_a_null_on_a_step_is_an_error_that_names_the_step(data, tmp_path):
    done = run(tmp_path, [{"filter": {"steps": "reward > 0"}}], data.path, code=1, threads=1)
    unknown = [(id, t) for id, t, reward in rows(data) if np.isnan(reward)]
    id, t = unknown[0]
    says(
        done.stderr,
        [
            f"the condition `reward > 0` is null for at least {len(unknown)} steps",
            f"the first at trajectory {id}, step {t}, where `reward` is null",
            "nulls: drop",
            "nulls: keep",
        ],
        "a step filter with nulls",
    )
    check(not (tmp_path / "made").exists(), "nothing was published")


@pytest.mark.parametrize("nulls", ["drop", "keep"])
def test_nulls_on_steps_are_dropped_or_kept_and_counted(data, tmp_path, nulls):
    stages = [{"filter": {"steps": "reward > 0", "nulls": nulls}}]
    made = run(tmp_path, stages, data.path)
    known = [(id, t, reward) for id, t, reward in rows(data)]
    kept = [
        (id, t)
        for id, t, reward in known
        if reward > 0 or (np.isnan(reward) and nulls == "keep")
    ]
    found = [
        (int(own["of"]["parent_id"]), int(own["of"]["parent_step"]) + t)
        for own in made
        for t in range(own["n"])
    ]
    equal(sorted(found), sorted(kept), f"steps with nulls: {nulls}")
    unknown = sum(np.isnan(reward) for *_, reward in known)
    dropped, counts = summary(tmp_path, stages, data.path)
    if nulls == "drop":
        equal(dropped["the condition was null"], unknown, "dropped for null")
        check("steps kept though the condition was null" not in counts, "nothing is kept for null")
    else:
        equal(counts["steps kept though the condition was null"], unknown, "kept for null")
        check("the condition was null" not in dropped, "nothing is dropped for null")


@pytest.mark.parametrize("nulls", ["drop", "keep", "error"])
def test_nulls_on_trajectories(data, tmp_path, nulls):
    returns = {own["id"]: own["of"]["return"] for own in data}
    unknown = sorted(id for id, value in returns.items() if np.isnan(value))
    check(len(unknown) > 0, "a return is null")
    stages = [{"filter": {"trajectories": "return > 0", "nulls": nulls}}]
    if nulls == "error":
        done = run(tmp_path, stages, data.path, code=1)
        many = "1 trajectory" if len(unknown) == 1 else f"{len(unknown)} trajectories"
        place = f"the first at trajectory {unknown[0]}, where `return` is null"
        says(done.stderr, [f"is null for {many}", place], "a trajectory filter with nulls")
        short = run(tmp_path, [{"filter": "return > 0"}], data.path, code=1)
        says(short.stderr, [place, '{trajectories: "return > 0", nulls: drop}'], "the short form")
        return
    made = run(tmp_path, stages, data.path)
    kept = [
        id for id, value in returns.items() if value > 0 or (np.isnan(value) and nulls == "keep")
    ]
    equal(sorted(own["id"] for own in made), sorted(kept), f"trajectories with nulls: {nulls}")


@pytest.mark.parametrize("stage", ["subsample", "quantile", "quantile of steps", "truncate"])
def test_other_conditions_do_not_decide_nulls_either(data, tmp_path, stage):
    stages = {
        "subsample": {"subsample": {"count": 2, "where": "return > 0"}},
        "quantile": {"filter": {"quantile": {"by": "return", "above": 0.5}}},
        "quantile of steps": {"filter": {"quantile": {"by": "x", "above": 0.5, "of": "steps"}}},
        "truncate": {"truncate": {"where": "reward > 100"}},
    }
    done = run(tmp_path, [stages[stage]], data.path, code=1)
    says(done.stderr, [" null ", "the first at trajectory ", ": drop`"], stage)


def test_a_failed_check_says_what_it_found(data, tmp_path):
    steps = [own["observation"][: own["n"], 0] for own in data]
    low = min(values.min() for values in steps)
    checks = {
        "steps": [
            "min(observation[1]) filter (where not is_final) > 1000",
            "max(step) < 20 and count(*) > 0",
            "count(*) filter (where step > 25) = 0",
        ],
        "trajectories": ["bool_and(length < 20)"],
    }
    done = run(tmp_path, [{"check": checks}], data.path, code=4)
    lines = {line.strip().split(": ")[1]: line for line in done.stderr.splitlines() if ": " in line}
    found = float(lines[checks["steps"][0]].split(" is ")[-1])
    close(found, low, "the smallest observation")
    longest = max(len(own["step"]) for own in data) - 1
    over = [(own["id"], t) for own in data for t in own["step"] if t >= 20]
    says(
        lines[checks["steps"][1]],
        [
            f"`max(step)` is {longest}",
            f"{len(over)} rows violate it",
            f"first at trajectory {over[0][0]}, steps {over[0][1]}",
        ],
        "a maximum",
    )
    check("count" not in lines[checks["steps"][1]].split("0: ")[1], "what holds is not listed")
    late = sum(int((own["step"] > 25).sum()) for own in data)
    says(lines[checks["steps"][2]], [f"is {late}", f"{late} rows violate it"], "a count")
    ids = [own["id"] for own in data if own["n"] >= 20]
    says(
        lines["bool_and(length < 20)"],
        [f"{len(ids)} rows violate it, first at trajectory {ids[0]}"],
        "a condition on trajectories",
    )


def test_a_check_whose_condition_is_null_does_not_pass(data, tmp_path):
    predicate = "count(*) filter (where reward > 1000) = 0"
    unknown = [(id, t) for id, t, reward in rows(data) if np.isnan(reward)]
    done = run(tmp_path, [{"check": [predicate]}], data.path, code=4)
    id, t = unknown[0]
    says(
        done.stderr,
        [
            f"`reward > 1000` is null in {len(unknown)} rows, first at trajectory {id}, step",
            "ignore",
        ],
        "a check with nulls",
    )
    run(tmp_path, [{"check": {"steps": [predicate], "nulls": "ignore"}}], data.path)


@pytest.mark.parametrize(
    "predicate",
    [
        "count(*) filter (where case when reward > 1000 then true else false end) = 0",
        "sum(case when reward > 1000 then 1 else 0 end) = 0",
        "bool_and(case when is_final then true when reward > 1000 then false else true end)",
    ],
)
def test_a_case_hides_no_null_from_a_check(data, tmp_path, predicate):
    unknown = sum(np.isnan(reward) for _, _, reward in rows(data))
    done = run(tmp_path, [{"check": [predicate]}], data.path, code=4)
    says(done.stderr, [f"`reward > 1000` is null in {unknown} rows, first at "], predicate)
    run(tmp_path, [{"check": {"steps": [predicate], "nulls": "ignore"}}], data.path)


def test_a_case_that_asks_about_nulls_first_passes(data, tmp_path):
    predicate = "sum(case when reward is null then 0 when reward > 1000 then 1 else 0 end) = 0"
    run(tmp_path, [{"check": [predicate]}], data.path)
