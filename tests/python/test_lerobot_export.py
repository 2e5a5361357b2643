"""LeRobot datasets that trajmill writes keep the rules of LeRobot's loader, and come back.

They are read with pyarrow, pandas and numpy. Where `lerobot` is installed, its LeRobotDataset reads
them too, in a DataLoader with delta_timestamps, and its own recorder makes a dataset to import.
"""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import oracle
from lerobot_rules import rules_v21, rules_v30
from oracle import check, says, table, trajmill
from writers.hdf5 import d4rl
from writers.lerobot import Made, array, put, same, v30

# --- from D4RL and back

LENGTHS = [5, 1, 4000, 17, 2500, 3]
COLUMNS = {
    "observation.state": "observations",
    "action": "actions",
    "next.reward": "rewards",
    "next.done": "terminals",
    "next.truncated": "timeouts",
    "infos.count": "infos/count",
}


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def source(request, shared):
    """Arrays with final observations, and the dataset that they were imported to."""
    path = shared / np.dtype(request.param).name
    arrays = d4rl(f"{path}.hdf5", LENGTHS, dtype=request.param)
    trajmill("import", f"{path}.hdf5", path, "--shard-rows", 3000)
    return arrays, path


@pytest.fixture(scope="module")
def exported(source):
    """The source in v3.0, and what the export said."""
    out = f"{source[1]}.lerobot"
    return out, trajmill(
        "export",
        source[1],
        out,
        "--to",
        "lerobot",
        "--fps",
        50,
        "--robot",
        "hopper",
        "--task",
        "hop",
    ).stderr


def test_v30_keeps_the_rules_of_the_loader_and_holds_every_value(source, exported):
    arrays, (out, said) = source[0], exported
    says(said, ["final observations", "meta/trajmill"], "what has no place is named")
    whole, info = rules_v30(out, LENGTHS, ["hop"])
    check(info["fps"] == 50 and info["robot_type"] == "hopper", "what the user said")
    for name, key in COLUMNS.items():
        same(array(whole[name]).astype(arrays[key].dtype), arrays[key], name)
    trajmill("validate", out)


def test_v30_comes_back_with_final_observations_and_identities(source, exported, tmp_path):
    trajmill("import", exported[0], tmp_path / "back")
    before, after = table(source[1]), table(tmp_path / "back")
    for name in [
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
        "is_final",
        "trajectory_id",
        "step",
    ]:
        check(
            before[name].combine_chunks().to_pylist() == after[name].combine_chunks().to_pylist(),
            f"{name} there and back",
        )
    uids = [
        table(dataset, "trajectories")["uid"].to_pylist()
        for dataset in (source[1], tmp_path / "back")
    ]
    check(uids[0] == uids[1], "uid there and back")


def test_v21_has_a_file_for_each_episode_and_comes_back(source, tmp_path):
    arrays, made = source
    trajmill("export", made, tmp_path / "v21", "--to", "lerobot-v2.1", "--fps", 50, "--task", "hop")
    rules_v21(tmp_path / "v21", LENGTHS, arrays)
    trajmill("import", tmp_path / "v21", tmp_path / "back")
    check(
        table(made)["observation"].to_pylist()
        == table(tmp_path / "back")["observation"].to_pylist(),
        "v2.1 there and back",
    )


def test_thousands_of_episodes_are_split_into_chunks(tmp_path):
    many = [int(length) for length in np.random.default_rng(5).integers(1, 4, size=2100)]
    d4rl(tmp_path / "many.hdf5", many)
    trajmill("import", tmp_path / "many.hdf5", tmp_path / "many")
    trajmill(
        "export",
        tmp_path / "many",
        tmp_path / "v30",
        "--to",
        "lerobot",
        "--fps",
        10,
        "--task",
        "hop",
    )
    rules_v30(tmp_path / "v30", many, ["hop"])
    trajmill("export", tmp_path / "many", tmp_path / "v21", "--to", "lerobot-v2.1", "--fps", 10)
    check(
        sorted(os.listdir(tmp_path / "v21" / "data")) == ["chunk-000", "chunk-001", "chunk-002"],
        "chunks of 1000 episodes",
    )


def test_every_feature_of_lerobot_survives_import_and_export(tmp_path):
    """Images and matrices too."""
    made = Made([7, 1, 300])
    v30(f"{tmp_path}/full", made)
    trajmill("import", tmp_path / "full", tmp_path / "in")
    trajmill("export", tmp_path / "in", tmp_path / "out", "--to", "lerobot")
    with open(tmp_path / "out" / "meta" / "info.json") as file:
        info = json.load(file)
    for name, feature in made.features().items():
        check(info["features"][name] == feature, f"{name}: {info['features'][name]}")
    rows = pq.read_table(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet")
    for name, values in made.columns.items():
        check(array(rows[name]).tolist() == values.tolist(), f"{name} there and back")
    check(
        rows["observation.images.top"].combine_chunks().field("bytes").to_pylist() == made.images,
        "images there and back",
    )
    check(info["fps"] == 25 and info["robot_type"] == "arm", "what the source said of itself")


# --- merges


@pytest.fixture
def merge(tmp_path):
    """Two sources, and a function that writes the pipeline that merges them."""
    one, two = Made([7, 1, 300], 1), Made([5, 20], 2)
    two.tasks = ["open the door", "wipe the table"]
    v30(f"{tmp_path}/one", one)
    v30(f"{tmp_path}/two", two)

    def write(**more):
        sources = [{"path": name, "format": "lerobot"} for name in ("one", "two")]
        return oracle.pipeline(
            tmp_path / "merge.yaml",
            sources,
            [
                {"filter": "length > 1"},
                {"materialise": {"path": "both", "format": "lerobot", **more}},
            ],
        )

    return one, two, write


def test_a_merge_joins_tasks_by_their_texts_and_makes_indices_anew(tmp_path, merge):
    """LeRobot's own merge kept old maxima and mixed up files."""
    one, two, write = merge
    trajmill("run", write())
    whole, info = rules_v30(
        tmp_path / "both", [7, 300, 5, 20], ["pick the cup", "open the door", "wipe the table"]
    )
    check(
        (info["fps"], info["robot_type"], info["total_tasks"]) == (25, "arm", 3),
        f"what both sources say: {info}",
    )
    check(
        array(whole["task_index"]).tolist() == [0] * 307 + [1] * 5 + [2] * 20,
        "the tasks of a merge",
    )
    kept = np.isin(one.episode, [0, 2])
    for name in ["observation.state", "action", "observation.heights"]:
        found = array(whole[name])
        same(
            found,
            np.concatenate([one.columns[name][kept], two.columns[name]]).astype(found.dtype),
            f"{name} of a merge",
        )
    images = [image for image, own in zip(one.images, kept) if own] + two.images
    check(
        whole["observation.images.top"].combine_chunks().field("bytes").to_pylist() == images,
        "images of a merge",
    )


def test_a_rate_that_sources_disagree_on_is_not_made_up(tmp_path, merge):
    shutil.rmtree(tmp_path / "two")
    v30(f"{tmp_path}/two", Made([4, 6], seed=1, fps=50))
    says(trajmill("run", merge[2](), code=1).stderr, ["25", "50", "second"], "two rates")
    trajmill("run", merge[2](**{"with": {"fps": 10}}))


# --- LeRobot itself

TIMES = {"observation.state": [-0.1, 0.0, 0.1], "action": [0.0, 0.1, 0.2]}
EPISODE = np.repeat([0, 1, 2], [30, 20, 1])


@pytest.fixture(scope="module")
def loaded(shared):
    """Arrays, and LeRobot's dataset of what was exported from them."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    arrays = d4rl(shared / "ref.hdf5", [30, 20, 1])
    trajmill("import", shared / "ref.hdf5", shared / "ref")
    trajmill(
        "export",
        shared / "ref",
        shared / "ref.lerobot",
        "--to",
        "lerobot",
        "--fps",
        10,
        "--task",
        "hop",
    )
    return arrays, LeRobotDataset("some/name", root=shared / "ref.lerobot", delta_timestamps=TIMES)


@pytest.mark.reference("lerobot", "torch")
def test_lerobot_loads_windows_of_what_is_exported(loaded):
    import torch

    arrays, dataset = loaded
    check(len(dataset) == 51 and dataset.num_episodes == 3, "the loader's counts")
    loader = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=False)
    rows = {
        name: torch.cat([batch[name] for batch in loader])
        for name in [
            "observation.state",
            "action",
            "action_is_pad",
            "next.reward",
            "next.done",
            "infos.count",
            "index",
        ]
    }
    starts, ends = np.array([0, 30, 50])[EPISODE], np.array([30, 50, 51])[EPISODE]
    for offset, at in [(-1, 0), (0, 1), (1, 2)]:
        index = np.clip(np.arange(51) + offset, starts, ends - 1)
        same(
            rows["observation.state"][:, at].numpy(),
            arrays["observations"][index],
            "windows of observations",
        )
    for offset in range(3):
        index = np.clip(np.arange(51) + offset, starts, ends - 1)
        same(rows["action"][:, offset].numpy(), arrays["actions"][index], "windows of actions")
        same(rows["action_is_pad"][:, offset].numpy(), np.arange(51) + offset >= ends, "padding")
    same(rows["next.reward"].numpy().ravel(), arrays["rewards"], "rewards")
    same(rows["infos.count"].numpy().ravel(), arrays["infos/count"], "infos")
    check(dataset[0]["task"] == "hop", "the text of a task")
    check(
        np.allclose(
            np.asarray(dataset.meta.stats["action"]["q99"]).ravel(),
            np.quantile(arrays["actions"].astype(np.float64), 0.99, axis=0),
            rtol=1e-12,
        ),
        "quantiles in the loader",
    )


@pytest.mark.reference("lerobot", "torch")
def test_what_lerobot_records_is_imported(loaded, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    arrays, dataset = loaded
    features = {
        "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
        "action": {"dtype": "float32", "shape": (3,), "names": None},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    }
    recorder = LeRobotDataset.create(
        "some/name", fps=10, root=tmp_path / "recorded", features=features, use_videos=False
    )
    row = 0
    for number, length in enumerate([30, 20, 1]):
        for _ in range(length):
            recorder.add_frame(
                {
                    "observation.state": arrays["observations"][row],
                    "action": arrays["actions"][row],
                    "next.reward": arrays["rewards"][row : row + 1],
                    "next.done": arrays["terminals"][row : row + 1],
                    "task": f"task {number}",
                }
            )
            row += 1
        recorder.save_episode()
    if hasattr(recorder, "finalize"):
        recorder.finalize()
    # LeRobot combines the quantiles of episodes, which cannot be right; ours are those of numpy.
    theirs = float(np.asarray(recorder.meta.stats["index"]["q01"]).ravel()[0])
    ours = float(np.asarray(dataset.meta.stats["index"]["q01"]).ravel()[0])
    check(
        ours == np.quantile(np.arange(51.0), 0.01) and abs(theirs - ours) > 1,
        f"quantiles: {theirs}, {ours}",
    )
    trajmill("import", tmp_path / "recorded", tmp_path / "in")
    trajmill("validate", tmp_path / "recorded")
    steps = table(tmp_path / "in")
    same(
        array(steps["observation"]).astype(np.float32),
        arrays["observations"],
        "the recorder's observations",
    )
    same(array(steps["action"]).astype(np.float32), arrays["actions"], "the recorder's actions")
    same(array(steps["reward"]), arrays["rewards"], "the recorder's rewards")
    same(array(steps["terminated"]), arrays["terminals"], "the recorder's ends")
    check(
        steps["task"].to_pylist() == [f"task {number}" for number in EPISODE],
        "the recorder's tasks",
    )


# --- steps per second


@pytest.mark.parametrize("to", ["lerobot", "lerobot-v2.1"])
def test_the_rate_is_that_of_the_rows_that_are_kept(tmp_path, to):
    """Of 25 steps per second, every second one: 12.5, in `fps` as in `timestamp`."""
    made = Made([9, 1, 14])
    v30(tmp_path / "source", made)
    trajmill("import", tmp_path / "source", tmp_path / "own")
    stride = {"subsample": {"stride": 2}}
    end = {"materialise": {"path": "out", "format": to}}
    said = trajmill("run", oracle.pipeline(tmp_path / "p.json", "own", [stride, end])).stderr
    says(said, ["25 steps per second", "`fps` is 12.5"], "the summary")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    files = sorted((tmp_path / "out/data").rglob("*.parquet"))
    times = [time for file in files for time in pq.read_table(file)["timestamp"].to_pylist()]
    wanted = np.concatenate([np.arange(0, length, 2) / 25 for length in made.lengths])
    check(info["fps"] == 12.5, f"`fps` is {info['fps']}")
    np.testing.assert_allclose(times, wanted, atol=1e-6)
    trajmill("validate", tmp_path / "out")
    trajmill("import", tmp_path / "out", tmp_path / "again")


def test_rows_of_two_rates_are_refused_unless_a_rate_is_given(tmp_path):
    for name in ("one", "other"):
        v30(tmp_path / name, Made([9, 14]))
        trajmill("import", tmp_path / name, tmp_path / f"own-{name}")
    stride = {"subsample": {"stride": 2}}
    end = {"materialise": {"path": "strided"}}
    trajmill("run", oracle.pipeline(tmp_path / "p.json", "own-one", [stride, end]))
    end = {"materialise": {"path": "merged"}}
    sources = ["own-other", "strided"]
    trajmill("run", oracle.pipeline(tmp_path / "merge.json", sources, [end]))
    export = ["export", tmp_path / "merged", tmp_path / "out", "--to", "lerobot"]
    says(trajmill(*export, code=1).stderr, ["25", "12.5", "set `fps`"], "the error")
    trajmill(*export, "--fps", 25)
