"""`--only` and `--skip`: what is left out is not opened, and everything else is as without them."""

import json
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import SEEDS, check, table, trajmill

# A seed of each format, the name of something in it, and the column that it becomes.
LEFT_OUT = {
    "arrow/set.arrow": ("note", "note"),
    "aloha/set": ("observations/qvel", "observation/qvel"),
    "csv/set.csv": ("note", "note"),
    "d3rlpy/replay.h5": ("rewards", "reward"),
    "d4rl/set.hdf5": ("infos/qpos", "infos/qpos"),
    "exorl/set": ("discount", "discount"),
    "jsonl/set.jsonl": ("note", "note"),
    "lerobot/v21": ("observation.images.top", "observation.images.top"),
    "lerobot/v30": ("observation.images.*", "observation.images.top"),
    "maniskill/set": ("env_states", "env_states/actors/cube"),
    "minari/set-arrow-v0": ("infos/deep", "infos/deep/qpos"),
    "minari/set-hdf5-v0": ("infos/deep", "infos/deep/qpos"),
    "minari/set-parquet-v0": ("infos/deep", "infos/deep/qpos"),
    "npz/stored.npz": ("re?ards", "reward"),
    "ogbench/set.npz": ("qpos", "qpos"),
    "parquet/set.parquet": ("note", "note"),
    "rlds/set": ("gri*", "grid"),
    "robomimic/set.hdf5": ("rewards", "reward"),
    "robosuite/demo.hdf5": ("actions", "action"),
    "tensordict/set": ("pixels", "pixels"),
    "tfagents/set.tfrecord": ("reward", "reward"),
    "zarr/set.zarr.zip": ("keypoint", "keypoint"),
}


def imported(source, to, *options, code=0):
    return trajmill("import", source, to, *options, code=code)


def left_out(dataset):
    manifest = json.loads((dataset / "dataset.json").read_text())
    return [f"{entry['name']}: {entry['reason']}" for imported in manifest["lineage"].get("imports", []) for entry in imported.get("left_out", [])]


def test_every_format_is_tried():
    read = {path.name for path in SEEDS.iterdir() if path.is_dir()}
    read -= {"videofolder"}  # needs a build with the feature `video`
    check({name.split("/")[0] for name in LEFT_OUT} == read, f"{read}")


@pytest.mark.parametrize("name", LEFT_OUT)
def test_nothing_else_changes(name, tmp_path):
    pattern, column = LEFT_OUT[name]
    form = ["--from", name.split("/")[0]]
    if name.startswith("lerobot"):
        form += ["--videos", "reference"]  # the seeds have no files of videos
    imported(SEEDS / name, tmp_path / "all", *form)
    imported(SEEDS / name, tmp_path / "some", *form, "--skip", pattern)
    all_, some = table(tmp_path / "all"), table(tmp_path / "some")
    gone = set(all_.column_names) - set(some.column_names)
    check(column in gone, f"{column} is still there: {some.column_names}")
    for kept in some.column_names:
        check(all_[kept].equals(some[kept]), f"{kept} has changed")
    noted = [entry for entry in left_out(tmp_path / "some") if "`skip` matches it" in entry]
    check(len(noted) >= len(gone), f"{gone}, but {noted}")
    refused = imported(SEEDS / name, tmp_path / "typo", *form, "--skip", "missing", code=1)
    check("`skip` matches nothing in the source: `missing`" in refused.stderr, refused.stderr)
    # What `only` does not name goes, apart from what marks the ends of trajectories.
    observation = {
        "aloha": "observations/qpos",
        "csv": "obs*",
        "exorl": "observation",
        "jsonl": "obs*",
        "lerobot": "observation.state",
        "maniskill": "obs",
        "npz": "obs*",
        "parquet": "obs*",
        "arrow": "obs*",
        "rlds": "observation/state",
        "robomimic": "obs",
        "robosuite": "states",
        "tensordict": "observation",
        "tfagents": "observation",
        "zarr": "state",
    }.get(name.split("/")[0], "observations")
    also = {"minari": ",actions", "maniskill": ",actions", "aloha": ",action"}
    also = also.get(name.split("/")[0], "")
    imported(SEEDS / name, tmp_path / "only", *form, "--only", observation + also)
    only = table(tmp_path / "only")
    check(column not in only.column_names or column == "discount", f"{only.column_names}")
    for kept in ["observation", "terminated", "truncated", "is_final"]:
        if not only[kept].equals(all_[kept]):
            check(kept == "observation" and name.startswith("minari"), f"{kept} has changed")


def test_what_is_left_out_is_not_opened(tmp_path):
    """An array of Python objects, and columns whose bytes are damaged."""
    arrays = {
        "observations": np.zeros((4, 2), np.float32),
        "actions": np.zeros((4, 1), np.float32),
        "terminals": np.array([0, 1, 0, 1], bool),
        "timeouts": np.zeros(4, bool),
    }
    path = tmp_path / "objects.npz"
    np.savez(path, **arrays, infos=np.array([{}, {}, {}, {}], object))
    check("pickled" in imported(path, tmp_path / "a", code=1).stderr, "objects are refused")
    imported(path, tmp_path / "a", "--skip", "infos")
    check(table(tmp_path / "a").num_rows == 4, "rows")
    noise = np.random.default_rng(3).normal(size=4000)
    rows = pa.table(
        {
            "observation": pa.array([[float(row)] for row in range(4000)]),
            "terminated": [row % 10 == 9 for row in range(4000)],
            "noise": noise,
        }
    )
    path = tmp_path / "damaged.parquet"
    pq.write_table(rows, path, use_dictionary=False, compression="none")
    data = bytearray(path.read_bytes())
    at = data.index(noise[2000:2010].tobytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(2).data_page_offset
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    check(at > start, "the damage is in the column")
    imported(path, tmp_path / "b", code=1)
    imported(path, tmp_path / "b", "--skip", "noise")
    check(table(tmp_path / "b").num_rows == 4000, "rows")
    # The member of the archive is not even a numpy array.
    path = tmp_path / "member.npz"
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("odd.npy", b"nothing")
    imported(path, tmp_path / "c", code=1)
    imported(path, tmp_path / "c", "--skip", "odd")


def test_odd_arrays_of_demonstrations(tmp_path):
    """One-row arrays, and states whose widths differ, as Isaac Lab and LIBERO have them."""
    random = np.random.default_rng(4)
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        for index, (length, width) in enumerate([(4, 5), (3, 7)]):
            demo = file.create_group(f"data/demo_{index}")
            demo.attrs["num_samples"] = length
            demo["actions"] = random.normal(size=(length, 2))
            demo["obs/arm"] = random.normal(size=(length, 3))
            demo["obs/actions"] = random.normal(size=(length, 4))
            for part, values in list(demo["obs"].items()):
                last = random.normal(size=(1, values.shape[1]))
                demo[f"next_obs/{part}"] = np.concatenate([values[1:], last])
            demo["states"] = random.normal(size=(length, width))
            demo["initial_state/robot/joints"] = random.normal(size=(1, 6))
        demo["late/compressed"] = random.normal(size=(1, 2))
    skips = "initial_state,states,late/*,obs/actions"
    imported(tmp_path / "demos.hdf5", tmp_path / "set", "--skip", skips)
    steps = table(tmp_path / "set")
    check(steps.num_rows == 9, f"{steps.num_rows} rows")
    names = [field.name for field in steps.schema.field("observation").type]
    check(names == ["arm"], f"observation {names}")
    check(
        left_out(tmp_path / "set")
        == [
            f"{name}: `skip` matches it"
            for name in [
                "initial_state/robot/joints",
                "late/compressed",
                "next_obs/actions",
                "obs/actions",
                "states",
            ]
        ],
        f"{left_out(tmp_path / 'set')}",
    )


def test_a_camera_without_files(tmp_path):
    """A declared video whose files are missing does not prevent reading everything else."""
    import shutil

    shutil.copytree(SEEDS / "lerobot" / "v30", tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    video = {"dtype": "video", "shape": [8, 8, 3], "names": ["height", "width", "channels"]}
    info["features"]["observation.images.absent"] = video
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    references = ["--videos", "reference"]  # the seeds have no files of videos
    imported(tmp_path / "set", tmp_path / "nulls", *references)
    nulls = table(tmp_path / "nulls")["observation.images.absent"]
    check(nulls.null_count == len(nulls), "no row refers to the missing camera")
    imported(tmp_path / "set", tmp_path / "a", *references, "--skip", "*.absent")
    imported(SEEDS / "lerobot" / "v30", tmp_path / "b", *references)
    check(table(tmp_path / "a").equals(table(tmp_path / "b")), "the others are as they were")


def test_predicted_actions_stay_marked(tmp_path):
    """A choice of columns never turns a predicted action into a recorded one."""
    proxy = np.array([0, 1, 1, 0], bool)
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file["observations"] = np.zeros((4, 2), np.float32)
        file["actions"] = np.zeros((4, 1), np.float32)
        file["rewards"] = np.zeros(4, np.float32)
        file["terminals"] = np.array([0, 1, 0, 1], bool)
        file["timeouts"] = np.zeros(4, bool)
        file["infos/action_is_proxy"] = proxy
        file["infos/speed"] = np.zeros(4)
    for name, choice in [("a", ["--only", "observations,actions"]), ("b", ["--skip", "infos"])]:
        imported(tmp_path / "set.hdf5", tmp_path / name, *choice)
        steps = table(tmp_path / name)
        check("infos/speed" not in steps.column_names, f"{steps.column_names}")
        words = steps["action_source"].to_pylist()
        check(words == ["recorded", "proxy", "proxy", "recorded"], f"{choice}: {words}")


def test_a_pipeline_chooses(tmp_path):
    source = {
        "path": str(SEEDS / "d4rl" / "set.hdf5"),
        "format": "d4rl",
        "skip": ["infos"],
    }
    stages = [{"materialise": {"path": "out"}}]
    path = oracle.pipeline(tmp_path / "choice.yaml", source, stages)
    trajmill("run", path)
    names = table(tmp_path / "out").column_names
    check(not [name for name in names if name.startswith("infos")], f"{names}")
    source["skip"] = ["missing"]
    path = oracle.pipeline(tmp_path / "typo.yaml", source, stages)
    refused = trajmill("check", path, code=None)
    check(refused.returncode != 0 and "`missing`" in refused.stderr, refused.stderr)
