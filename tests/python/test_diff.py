"""`diff` counts what changed between two datasets, by trajectory, row, column and provenance."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import MODELS, check, table, trajmill
from oracle import valid_rows as column
from writers.ours import Made

LENGTHS = [5, 1, 4, 7]


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path, "made", 1, LENGTHS)


def diff(one, other):
    return json.loads(trajmill("diff", one, other, "--json").stdout)


def changed(folder, name, stages):
    """The dataset that stages make of `made`."""
    trajmill(
        "run",
        oracle.pipeline(
            folder / f"{name}.yaml", "made", [*stages, {"materialise": {"path": name}}]
        ),
    )
    return folder / name


def test_diff_counts_trajectories_rows_and_columns(made, tmp_path):
    stages = [{"filter": "length > 1"}, {"derive": {"reward": "reward + 1", "extra": "reward * 2"}}]
    found = diff(made.path, changed(tmp_path, "other", stages))
    kept = [length for length in LENGTHS if length > 1]
    check(
        found["trajectories"]
        == {"only_first": 1, "only_second": 0, "same": 0, "changed": len(kept)},
        f"{found['trajectories']}",
    )
    check(found["added"] == ["extra"] and found["removed"] == [], "columns")
    check(found["changed_rows"] == {"reward": sum(kept)}, f"{found['changed_rows']}")
    check(found["provenance"] == {"recorded → recorded": sum(kept)}, "provenance")


def test_trajectories_from_other_bytes_are_other_trajectories(made, tmp_path):
    """Identity comes from the source's bytes: actions that moved before the import change it."""
    rows = pq.read_table(tmp_path / "made.parquet")
    action = [
        None if value is None else [value[0] + 0.25, value[1]]
        for value in rows["action"].to_pylist()
    ]
    index = rows.column_names.index("action")
    pq.write_table(
        rows.set_column(index, "action", pa.array(action, type=rows["action"].type)),
        tmp_path / "moved.parquet",
    )
    trajmill(
        "import", tmp_path / "moved.parquet", tmp_path / "moved", "--map", "trajectory_id=episode"
    )
    found = diff(made.path, tmp_path / "moved")
    check(found["trajectories"]["only_first"] == len(LENGTHS), f"{found['trajectories']}")


def test_diff_counts_hidden_actions(made, tmp_path):
    hidden = changed(
        tmp_path, "hidden", [{"hide_actions": {"keep": 0, "from": {"lowest": 1.0, "by": "return"}}}]
    )
    found = diff(made.path, hidden)
    check(found["provenance"] == {"recorded → missing": sum(LENGTHS)}, f"{found['provenance']}")


def test_a_dataset_does_not_differ_from_itself(made):
    text = trajmill("diff", made.path, made.path).stdout
    check("4 the same, 0 changed" in text, text)
    found = diff(made.path, made.path)
    check(
        found["trajectories"] == {"only_first": 0, "only_second": 0, "same": 4, "changed": 0},
        f"{found['trajectories']}",
    )


@pytest.mark.model
def test_diff_measures_how_far_a_second_model_moved_labels(tmp_path):
    Made(tmp_path, "made", 30, [40, 60, 25])
    runs = []
    for model in ["mlp", "mlp_b"]:
        shutil.copy(MODELS / f"{model}.onnx", tmp_path)
        hide = {"hide_actions": {"keep": 0.34, "from": {"lowest": 1.0, "by": "length"}, "seed": 3}}
        label = {
            "label": {
                "model": f"{model}.onnx",
                "window": {"past": 1, "future": 1, "edge": "repeat"},
            }
        }
        runs.append(changed(tmp_path, model, [hide, label]))
    found = diff(*runs)
    first, second = (table(path) for path in runs)
    proxy = np.array(first["action_source"].to_pylist()) == "proxy"
    (_, before), (_, after) = column(first, "action"), column(second, "action")
    delta = np.abs(before - after)[proxy[first["is_final"].to_numpy() == False]]
    check(
        found["provenance"]
        == {"proxy → proxy": len(delta), "recorded → recorded": 125 - len(delta)},
        f"provenance: {found['provenance']}",
    )
    check(found["changed_rows"]["action"] == int((delta > 0).any(axis=1).sum()), "changed rows")
    for dimension, own in enumerate(found["actions"]):
        values = delta[:, dimension][delta[:, dimension] > 0].astype(np.float64)
        check(
            own["steps"] == len(values)
            and abs(own["max"] / values.max() - 1) < 1e-6
            and abs(own["mean"] / values.mean() - 1) < 1e-6,
            f"|Δ|: {own}",
        )
        exact = np.quantile(values, [0.5, 0.9, 0.99], method="inverted_cdf")
        check(
            np.allclose(own["quantiles"], exact, rtol=0.011),
            f"quantiles of |Δ|: {own['quantiles']}, {exact}",
        )


def test_the_order_of_columns_does_not_matter(made, tmp_path):
    stages = [{"derive": {"force": "reward * 2", "speed": "reward + 1"}}]
    one = changed(tmp_path, "one", stages)
    stages = [{"derive": {"speed": "reward + 1"}}, {"derive": {"force": "reward * 2"}}]
    other = changed(tmp_path, "other", stages)
    check(table(one).column_names != table(other).column_names, "the orders differ")
    found = diff(one, other)
    same = {"only_first": 0, "only_second": 0, "same": len(LENGTHS), "changed": 0}
    check(found["trajectories"] == same, f"{found['trajectories']}")
    check(found["changed_rows"] == {}, f"{found['changed_rows']}")
