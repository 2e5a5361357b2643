"""`score` against onnxruntime in Python, on windows that are built row by row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

import networks
import oracle
from networks import FLOAT, predict, save
from oracle import check, close, equal, run, seeded, trajmill
from writers.odd import ACTION, OBSERVATION

# ---- score


def around(values, t, past, future, edge):
    """The rows around `t`, flattened; None where one is unknown, or missing and not padded."""
    slots = []
    for s in range(t - past, t + future + 1):
        if 0 <= s < len(values):
            slots.append(np.atleast_1d(values[s]))
        elif edge == "skip":
            return None
        else:
            slots.append(
                np.zeros_like(np.atleast_1d(values[0]))
                if edge == "zero"
                else np.atleast_1d(values[min(max(s, 0), len(values) - 1)])
            )
    slots = np.concatenate(slots).astype(np.float32)
    return None if np.isnan(slots).any() else slots


@pytest.mark.model
@pytest.mark.parametrize("edge", ["skip", "repeat", "zero"])
def test_score_reduces_the_outputs_of_an_ensemble(data, tmp_path, edge):
    ports = [("s", 3 * OBSERVATION), ("a", ACTION)], [("value", 1), ("vector", 3)]
    members = [networks.small(tmp_path / f"member-{seed}.onnx", *ports, seed) for seed in range(3)]
    options = {
        "model": members,
        "edge": edge,
        "batch": 8,
        "inputs": {"s": {"of": "observation", "past": 1, "future": 1}, "a": "action"},
        "outputs": {
            "mean": "value",
            "std": {"output": "value", "reduce": "std"},
            "low": {"output": "vector", "reduce": "min"},
            "high": {"output": "vector", "reduce": "max"},
            "each": {"output": "value", "reduce": "all"},
        },
    }
    made = run(tmp_path, [{"score": options}], data.path)
    counted = 0
    for before, after in zip(data, made, strict=True):
        for t in range(len(before["step"])):
            feeds = [
                around(before["observation"], t, 1, 1, edge),
                around(before["action"], t, 0, 0, edge),
            ]
            what = f"trajectory {before['id']} row {t}"
            if any(feed is None for feed in feeds):
                check(
                    np.isnan(after["mean"][t]) and np.isnan(after["low"][t]).all(),
                    f"{what}: there is no score",
                )
                counted += t < before["n"]
                continue
            each = [
                predict(member, {"s": feeds[0][None], "a": feeds[1][None]}) for member in members
            ]
            value = np.array([own["value"][0, 0] for own in each], np.float64)
            vector = np.array([own["vector"][0] for own in each], np.float64)
            for name, wanted in [
                ("mean", value.mean()),
                ("std", value.std()),
                ("each", value),
                ("low", vector.min(0)),
                ("high", vector.max(0)),
            ]:
                close(after[name][t], wanted, f"{what}: {name}", atol=2e-5)
    counts = [
        entry["counts"] for entry in made.manifest["lineage"]["stages"] if entry["stage"] == "score"
    ]
    equal(
        counts[0].get("left null, an input is not known", 0),
        counted,
        "what is left null is counted",
    )


@pytest.mark.model
def test_score_of_rewards_makes_a_new_return(data, tmp_path):
    """A value of observations is known at the last one too."""
    path = networks.small(tmp_path / "alone.onnx", [("x", OBSERVATION)], [("value", 1)], 7)
    made = run(
        tmp_path,
        [{"score": {"model": path, "outputs": {"reward": "value"}}}, {"filter": "return > -1e9"}],
        data.path,
    )
    for before, after in zip(data, made, strict=True):
        wanted = predict(path, {"x": before["observation"].astype(np.float32)})["value"][:, 0]
        close(after["reward"], wanted, "rewards", atol=2e-5)
        close(after["of"]["return"], wanted.astype(np.float64).sum(), "returns", atol=1e-3)


@pytest.fixture
def logarithm(data, tmp_path):
    """Options of a score that is not finite for some rows, and what it is for all."""
    path = save(
        tmp_path / "log.onnx",
        [helper.make_node("Log", ["x"], ["y"])],
        [("x", FLOAT, [1])],
        [("y", FLOAT, [1])],
    )
    first = np.concatenate([own["observation"][:, 0] for own in data])
    check((first < 0).sum() > 3, "some are not finite")
    with np.errstate(all="ignore"):
        return {"model": path, "inputs": {"x": "observation[1]"}}, np.log(first.astype(np.float32))


@pytest.mark.model
def test_a_score_that_is_not_finite_ends_a_run(data, tmp_path, logarithm):
    done = run(tmp_path, [{"score": logarithm[0]}], data.path, code=1)
    oracle.says(done.stderr, ["not finite", "trajectory"], "score")


@pytest.mark.model
def test_a_score_that_is_not_finite_becomes_null(data, tmp_path, logarithm):
    options, wanted = logarithm
    made = run(tmp_path, [{"score": {**options, "non_finite": None}}], data.path)
    close(
        made.steps["y"],
        np.where(np.isfinite(wanted), wanted, np.nan),
        "null where it is not finite",
        atol=1e-5,
    )


@pytest.mark.model
def test_bytes_reach_a_model_as_bytes(tmp_path):
    """A model of uint8, such as one of images, gets the values of the column, padding included."""
    lengths, width, random = [1, 6, 3], 12, seeded("bytes")
    pixels = random.integers(0, 256, (sum(lengths), width), dtype=np.uint8)
    rows = {
        "trajectory_id": np.repeat(np.arange(3), lengths),
        "step": np.concatenate([np.arange(n) for n in lengths]),
        "observation": random.normal(size=sum(lengths)),
    }
    pq.write_table(
        pa.table({**rows, "pixels": pa.array(list(pixels), pa.list_(pa.uint8()))}),
        tmp_path / "pixels.parquet",
    )
    trajmill(
        "import",
        tmp_path / "pixels.parquet",
        tmp_path / "pixels",
        "--from",
        "parquet",
        "--map",
        "observation=observation",
    )
    nodes = [
        helper.make_node("Identity", ["image"], ["same"]),
        helper.make_node("Cast", ["image"], ["float"], to=FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
    ]
    image = (TensorProto.UINT8, [2, width])
    path = save(
        tmp_path / "pixels.onnx",
        nodes,
        [("image", *image)],
        [("mean", FLOAT, []), ("same", *image)],
        version=13,
    )
    options = {
        "model": path,
        "edge": "repeat",
        "batch": 4,
        "inputs": {"image": {"of": "pixels", "past": 1}},
        "outputs": {"mean": "mean", "same": "same"},
    }
    made = run(tmp_path, [{"score": options}], tmp_path / "pixels")
    before = np.concatenate(
        [
            own[np.maximum(np.arange(len(own)) - 1, 0)]
            for own in np.split(pixels, np.cumsum(lengths)[:-1])
        ]
    )
    wanted = np.stack([before, pixels], 1)
    equal(made.steps["same"], wanted.reshape(len(pixels), -1), "bytes in, bytes out")
    close(
        made.steps["mean"], predict(path, {"image": wanted})["mean"], "a model of bytes", atol=1e-4
    )
    check(
        {column["name"]: column["type"] for column in made.manifest["columns"]}["same"].count(
            "UInt8"
        )
        == 1,
        "bytes stay bytes",
    )
    options["inputs"] = {"image": {"of": "observation", "past": 23}}
    done = run(tmp_path, [{"score": options}], tmp_path / "pixels", code=3)
    check("image: uint8" in done.stderr, f"floats are no bytes: {done.stderr}")
