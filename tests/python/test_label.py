"""`label` against onnxruntime in Python, on windows that are built observation by observation.

Random datasets go in as plain Parquet, and every row that `trajmill run` writes is compared.
"""

import hashlib

import numpy as np
import pytest
from onnx import TensorProto, helper

import oracle
from labels import A, D, K, Made, by_step, compare, copies, flat, mean, mlp, run, spread, windows
from networks import FLOAT, save
from oracle import check, seeded, trajmill

pytestmark = pytest.mark.model

MADE = {
    "f32-some": dict(dtype=np.float32, final="some"),
    "f64-none": dict(dtype=np.float64, final="none"),
    "f32-all": dict(dtype=np.float32, final="all"),
    "int32": dict(dtype=np.float32, final="some", discrete=np.int32),
    "int64": dict(dtype=np.float64, final="none", discrete=np.int64),
}


@pytest.fixture(scope="module")
def made(shared):
    """Imports a dataset once, when a test asks for it."""
    found = {}
    return lambda name: (
        found[name] if name in found else found.setdefault(name, Made(shared, name, **MADE[name]))
    )


def refused(folder, source, path, message):
    """Checks that a run fails with `message` and publishes nothing; returns its stderr."""
    stages = [{"label": {"model": path}}, {"materialise": {"path": "out"}}]
    said = trajmill(
        "run",
        oracle.pipeline(folder / "label.yaml", source, stages),
        "--threads",
        1,
        code=1,
        cwd=folder,
    ).stderr
    check(message in said, said)
    check(not (folder / "out").exists(), "something was published")
    return said


# ---- models that copy coordinates of their windows: labels are those, bit for bit

WINDOWS = [
    (past, future, edge)
    for past, future in [(0, 0), (1, 1), (2, 0), (0, 2), (5, 3)]
    for edge in ("repeat", "zero", "skip")
]


@pytest.mark.parametrize("name", ["f32-some", "f64-none", "f32-all"])
@pytest.mark.parametrize("past, future, edge", WINDOWS + [(past, 1, "ssorl") for past in (0, 1, 3)])
def test_a_label_lands_on_the_step_of_its_window(made, tmp_path, name, past, future, edge):
    data, width = made(name), (past + 1 + future) * D
    path = copies(
        tmp_path / "copy.onnx", width, seeded(name, past, future, edge).integers(0, width, A)
    )
    expected = {
        key: parts[0] for key, parts in flat(data.trajectories, [path], past, future, edge).items()
    }
    compare(
        tmp_path,
        data,
        {"model": path, "window": {"past": past, "future": future, "edge": edge}, "batch": 8},
        expected,
    )


def test_window_and_clip_are_read_from_the_metadata_of_the_model(made, tmp_path):
    data = made("f32-some")
    metadata = {
        "trajmill.past": "1",
        "trajmill.future": "0",
        "trajmill.edge": "zero",
        "trajmill.clip": "-0.5,0.25",
    }
    path = copies(tmp_path / "metadata.onnx", 2 * D, [0, D, 2 * D - 1], metadata=metadata)
    labels = flat(data.trajectories, [path], 1, 0, "zero")
    compare(
        tmp_path,
        data,
        {"model": path},
        {
            key: np.clip(parts[0], np.float32(-0.5), np.float32(0.25))
            for key, parts in labels.items()
        },
    )


# ---- networks

SPEC = {"past": 1, "future": 1, "edge": "zero"}


@pytest.fixture
def networks(made, tmp_path):
    """A dataset, three networks, and what each predicts for it."""
    data, paths = (
        made("f32-some"),
        [mlp(tmp_path / f"mlp-{seed}.onnx", 3 * D, seed) for seed in range(3)],
    )
    return data, paths, flat(data.trajectories, paths, 1, 1, "zero")


def test_labels_of_a_network(networks, tmp_path):
    data, paths, labels = networks
    compare(
        tmp_path,
        data,
        {"model": paths[0], "window": SPEC},
        {key: parts[0] for key, parts in labels.items()},
        exact=False,
    )


def test_labels_are_clipped_by_dimension_into_a_column_of_their_own(networks, tmp_path):
    data, paths, labels = networks
    bounds = [[-0.2, -1, 0], [0.2, 0.5, 9]]
    clipped = {key: np.clip(parts[0], *bounds) for key, parts in labels.items()}
    compare(
        tmp_path,
        data,
        {"model": paths[0], "window": SPEC, "clip": bounds, "into": "guess"},
        clipped,
        exact=False,
    )


def test_an_ensemble_labels_by_its_mean_and_tells_its_spread(networks, tmp_path):
    data, paths, labels = networks
    stds = {key: spread(parts) for key, parts in labels.items()}
    compare(
        tmp_path,
        data,
        {"model": paths, "window": SPEC, "batch": 16},
        {key: mean(parts) for key, parts in labels.items()},
        exact=False,
        stds=stds,
    )


@pytest.fixture
def gaussians(made, tmp_path):
    """A dataset, two networks with a std, and their actions and stds."""
    data, paths = (
        made("f32-some"),
        [mlp(tmp_path / f"gauss-{seed}.onnx", 3 * D, seed, std=True) for seed in range(2)],
    )
    return (
        data,
        paths,
        *(flat(data.trajectories, paths, 1, 1, "zero", head) for head in ("action", "std")),
    )


def test_a_gaussian_model_tells_its_std(gaussians, tmp_path):
    data, paths, labels, own = gaussians
    stds = {key: parts[0] for key, parts in own.items()}
    compare(
        tmp_path,
        data,
        {"model": paths[0], "window": SPEC},
        {key: parts[0] for key, parts in labels.items()},
        exact=False,
        stds=stds,
    )


def test_an_ensemble_of_gaussian_models_adds_both_spreads(gaussians, tmp_path):
    data, paths, labels, own = gaussians
    options = {"model": paths, "window": SPEC, "outputs": {"action": "action", "std": "std"}}
    stds = {key: spread(labels[key], own[key]) for key in labels}
    compare(
        tmp_path,
        data,
        options,
        {key: mean(parts) for key, parts in labels.items()},
        exact=False,
        stds=stds,
    )


@pytest.mark.parametrize("edge", ["repeat", "zero", "skip"])
def test_named_inputs_are_columns_and_the_next_rows_of_them(made, tmp_path, edge):
    data, path = made("f32-some"), mlp(tmp_path / "named.onnx", 2 * D, 9, inputs=("s", "s_next"))
    seen = windows(data.trajectories, 0, 1, edge)
    both = np.stack(list(seen.values()))
    labels = by_step(seen, [path], {"s": both[:, :D], "s_next": both[:, D:]})
    options = {
        "model": path,
        "inputs": {"s": "observation", "s_next": "next(observation)"},
        "window": {"edge": edge},
    }
    compare(tmp_path, data, options, {key: parts[0] for key, parts in labels.items()}, exact=False)


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("reduce", ["mean", "first", "last"])
@pytest.mark.parametrize("edge", ["repeat", "skip"])
def test_overlapping_chunks_of_actions_are_reduced(made, tmp_path, length, reduce, edge):
    data = made("f32-some")
    paths = [
        mlp(tmp_path / f"horizon-{seed}.onnx", 3 * D, seed, horizon=length)
        for seed in range(2 if length == 4 else 1)
    ]
    labels = flat(data.trajectories, paths, 1, 1, edge)
    expected, stds, votes = {}, {}, {}
    for i, trajectory in enumerate(data.trajectories):
        for t in range(len(trajectory[1])):
            used = [s for s in range(max(0, t - length + 1), t + 1) if (i, s) in labels]
            used = {"mean": used, "first": used[:1], "last": used[-1:]}[reduce]
            if used:
                parts = [labels[i, s][member][t - s] for member in range(len(paths)) for s in used]
                expected[i, t], stds[i, t], votes[i, t] = mean(parts), spread(parts), len(used)
    options = {
        "model": paths if len(paths) > 1 else paths[0],
        "window": {"past": 1, "future": 1, "edge": edge},
        "horizon": {"length": length, "reduce": reduce},
        "batch": 8,
    }
    compare(
        tmp_path,
        data,
        options,
        expected,
        exact=False,
        stds=stds if len(paths) > 1 else None,
        votes=votes,
    )


# ---- discrete actions

CLASSES = {"window": {"past": 0, "future": 1}, "batch": 8}
kinds = pytest.mark.parametrize("kind", ["int32", "int64"])


def logits(folder, seed):
    return copies(
        folder / f"logits-{seed}.onnx",
        2 * D,
        np.random.default_rng(seed).integers(0, 2 * D, K),
        output="logits",
    )


@kinds
@pytest.mark.parametrize("members", [1, 3])
def test_discrete_labels_are_the_class_of_the_highest_mean_logit(made, tmp_path, kind, members):
    data, paths = made(kind), [logits(tmp_path, seed) for seed in range(members)]
    labels = flat(data.trajectories, paths, 0, 1, "repeat", "logits")
    options = {"model": paths if members > 1 else paths[0], **CLASSES}
    compare(
        tmp_path, data, options, {key: int(np.argmax(mean(parts))) for key, parts in labels.items()}
    )


@kinds
def test_discrete_labels_are_the_class_that_a_model_names(made, tmp_path, kind):
    # The slope breaks ties: of two equal values rten's ArgMax names the last one, ONNX the first.
    slope = helper.make_tensor("slope", FLOAT, [2 * D], [-1e-3 * index for index in range(2 * D)])
    nodes = [
        helper.make_node("Constant", [], ["slope"], value=slope),
        helper.make_node("Add", ["x", "slope"], ["tilted"]),
        helper.make_node("ArgMax", ["tilted"], ["class"], axis=1, keepdims=0),
    ]
    data, path = (
        made(kind),
        save(
            tmp_path / "class.onnx",
            nodes,
            [("x", FLOAT, [2 * D])],
            [("class", TensorProto.INT64, [])],
        ),
    )
    labels = flat(data.trajectories, [path], 0, 1, "repeat", "class")
    compare(
        tmp_path,
        data,
        {"model": path, **CLASSES},
        {key: int(parts[0]) for key, parts in labels.items()},
    )


# ---- labels that are not numbers


@pytest.fixture
def roots(made, tmp_path):
    """A dataset, a model of square roots, its labels, and the steps where they are not finite."""
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"]),
        helper.make_node("Sub", ["limit", "y"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["action"]),
    ]
    path = save(
        tmp_path / "root.onnx",
        nodes,
        [("x", FLOAT, [D])],
        [("action", FLOAT, [A])],
        [*BOUNDS, ("limit", np.array([1.2], np.float32))],
    )
    data = made("f64-none")
    labels = {
        key: parts[0] for key, parts in flat(data.trajectories, [path], 0, 0, "repeat").items()
    }
    broken = [
        (i, t)
        for (i, t), label in labels.items()
        if not data.trajectories[i][2][t] and not np.isfinite(label).all()
    ]
    check(0 < len(broken) < len(labels), f"{len(broken)} of {len(labels)} labels are not finite")
    return data, path, labels, broken


BOUNDS = [
    ("start", np.array([0], np.int64)),
    ("end", np.array([A], np.int64)),
    ("axis", np.array([1], np.int64)),
]


def test_labels_that_are_not_finite_become_null(roots, tmp_path):
    data, path, labels, broken = roots
    compare(
        tmp_path,
        data,
        {"model": path, "non_finite": None},
        {key: label for key, label in labels.items() if key not in broken},
        exact=False,
    )


def test_trajectories_with_labels_that_are_not_finite_are_dropped(roots, tmp_path):
    data, path, _, broken = roots
    rows = run(tmp_path, {"model": path, "non_finite": "drop"}, data.path)
    kept = [i for i in range(len(data.trajectories)) if i not in {i for i, _ in broken}]
    found = sorted({row["trajectory_id"] for row in rows})
    check(found == kept, f"{found} are kept, not {kept}")
    check(len(rows) == sum(len(data.trajectories[i][0]) for i in kept), "rows")
    check(
        all(row["action"] is not None for row in rows if not row["is_final"]),
        "every step that is left has an action",
    )


def test_the_first_label_that_is_not_finite_ends_a_run(roots, tmp_path):
    data, path, _, broken = roots
    said = refused(tmp_path, data.path, path, "trajectory {}, step {}".format(*broken[0]))
    check("not finite" in said, said)


# ---- models whose outputs have other shapes


def test_two_rows_of_output_for_one_of_input_are_refused(made, tmp_path):
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["cut"]),
        helper.make_node("Concat", ["cut", "cut"], ["action"], axis=0),
    ]
    path = save(
        tmp_path / "double.onnx", nodes, [("x", FLOAT, [D])], [("action", FLOAT, [A])], BOUNDS
    )
    said = refused(tmp_path, made("f32-some").path, path, f"[1024, {A}]")
    oracle.says(said, ["`action`", "512 rows", "batch"], "double rows")


def test_rows_of_output_that_depend_on_the_data_are_refused(made, tmp_path):
    constants = [
        *BOUNDS,
        ("one", np.array([1], np.int64)),
        ("zero", np.array([0], np.float32)),
        ("first", np.array([0], np.int64)),
    ]
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["cut"]),
        helper.make_node("Slice", ["x", "start", "one", "axis"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], ["flat"]),
        helper.make_node("LessOrEqual", ["flat", "zero"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["number"], to=TensorProto.INT32),
        helper.make_node("NonZero", ["number"], ["places"]),
        helper.make_node("Squeeze", ["places", "first"], ["rows"]),
        helper.make_node("Gather", ["cut", "rows"], ["action"], axis=0),
    ]
    path = save(
        tmp_path / "ragged.onnx", nodes, [("x", FLOAT, [D])], [("action", FLOAT, [A])], constants
    )
    said = refused(tmp_path, made("f32-some").path, path, "depends on the data")
    message = said.split(" --> ")[0]
    check(message.count("ragged.onnx") == 1, f"the file is named once: {said}")


def test_threads_do_not_change_a_byte(shared, tmp_path):
    long = Made(
        shared,
        "long",
        np.float32,
        "some",
        lengths=[int(n) for n in seeded("lengths").integers(1, 900, 12)],
    )
    paths = [mlp(tmp_path / f"same-{seed}.onnx", 3 * D, seed, std=True) for seed in range(2)]
    options, seen = {"model": paths, "window": {"past": 1, "future": 1, "edge": "repeat"}}, []
    for threads in (1, 2, 7):
        folder = tmp_path / str(threads)
        folder.mkdir()
        run(folder, options, long.path, threads=threads)
        files = sorted(path for path in (folder / "out").rglob("*") if path.is_file())
        seen.append(
            {
                str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in files
            }
        )
    check(len(seen[0]) > 10, "several shards")
    check(seen[0] == seen[1] == seen[2], f"threads 1, 2, 7 differ: {seen}")
