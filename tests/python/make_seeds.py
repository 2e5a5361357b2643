"""Makes tests/seeds: a small dataset in each format that is read, which `tests/it/fuzz.rs` damages.

    python tests/python/make_seeds.py

The reference libraries write them, or the modules of `writers`. Run this only to change the seeds.
"""

import json
import os
import shutil

SEEDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "seeds")

import gymnasium
import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from writers import arrays as array_sets
from writers import lerobot as lerobot_sets
from writers import rlds as rlds_sets
from writers import tables, video

LENGTHS = [4, 1, 6]
ENDS = np.cumsum(LENGTHS)
N = int(ENDS[-1])
RANDOM = np.random.default_rng(0)


def flat(names, final=False):
    """Arrays with trajectories end to end; `final` has a row more in each."""
    rows = N + final * len(LENGTHS)
    ends = np.cumsum([length + final for length in LENGTHS]) - 1
    last = np.zeros(rows, bool)
    last[ends] = True
    start = np.zeros(rows, bool)
    start[[0, *(ends[:-1] + 1)]] = True
    made = {
        "observations": RANDOM.normal(size=(rows, 3)).astype(np.float32),
        "next_observations": RANDOM.normal(size=(rows, 3)).astype(np.float32),
        "actions": RANDOM.normal(size=(rows, 2)).astype(np.float32),
        "rewards": RANDOM.normal(size=rows).astype(np.float32),
        "terminals": last & (np.arange(rows) < rows - 1) if not final else last,
        "timeouts": last & (np.arange(rows) == rows - 1),
        "episode_starts": start,
        "infos/qpos": RANDOM.normal(size=(rows, 2)),
        "infos/count": np.arange(rows),
    }
    made["next_observations"] = array_sets.following(
        made["observations"], made["next_observations"], ends + 1
    )
    return {name: made[name] for name in names}


def d4rl(folder):
    with h5py.File(f"{folder}/set.hdf5", "w") as file:
        for name, values in flat(
            [
                "observations",
                "next_observations",
                "actions",
                "rewards",
                "terminals",
                "timeouts",
                "infos/qpos",
                "infos/count",
            ]
        ).items():
            file.create_dataset(
                name,
                data=values,
                chunks=True,
                compression="gzip" if name == "observations" else None,
                shuffle=name == "observations",
            )
        file["metadata/algorithm"] = "SAC"


def robomimic(folder):
    with h5py.File(f"{folder}/set.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["total"], data.attrs["env_args"] = (
            N,
            '{"env_name": "Lift", "type": 1, "env_kwargs": {}}',
        )
        for index, length in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{index + 1}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = length, "<mujoco/>"
            for name, values in flat(
                ["observations", "next_observations", "actions", "rewards"]
            ).items():
                demo[
                    {"observations": "obs/state", "next_observations": "next_obs/state"}.get(
                        name, name
                    )
                ] = values[:length]
            demo["next_obs/state"][:-1] = demo["obs/state"][1:]
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
        file["mask/train"] = np.array([b"demo_1", b"demo_3"])
    isaac_lab(f"{folder}/isaac_lab.hdf5")
    os.makedirs(f"{folder}/libero")
    for width, task in enumerate(["open it", "close it"], 2):
        libero(f"{folder}/libero/{task[:4]}.hdf5", width, task)


def isaac_lab(path):
    random = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        for index, length in enumerate(LENGTHS):
            demo = file.create_group(f"data/demo_{index}")
            demo.attrs.update(num_samples=length, seed=index, success=index == 1)
            demo["actions"] = random.normal(size=(length, 2)).astype(np.float32)
            demo["obs/joint_pos"] = random.normal(size=(length, 3)).astype(np.float32)
            demo["obs/subtask/grasp"] = random.random(length) < 0.5
            demo["initial_state/robot/joint_position"] = random.normal(size=(1, 3))
            demo["inds"], demo["wind"] = np.arange(2), np.float32(index)


def libero(path, width, task):
    random = np.random.default_rng(width)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = f'{{"language_instruction": "{task}"}}'
        for index, length in enumerate(LENGTHS[:2]):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["init_state"] = random.normal(size=width)
            demo["actions"] = random.normal(size=(length, 2))
            demo["obs/ee_pos"] = random.normal(size=(length, 3))
            demo["states"] = random.normal(size=(length, width))


def robosuite(folder):
    with h5py.File(f"{folder}/demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env"], data.attrs["date"] = "SawyerLift", "1-1-2020"
        for index, length in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{index + 1}")
            demo["states"], demo["actions"] = (
                RANDOM.normal(size=(length, 5)),
                RANDOM.normal(size=(length, 2)),
            )


def aloha(folder):
    os.makedirs(f"{folder}/set")
    for index, length in enumerate(LENGTHS):
        with h5py.File(f"{folder}/set/episode_{index}.hdf5", "w") as file:
            file.attrs["sim"] = False
            for name, shape in {
                "observations/qpos": (length, 3),
                "observations/qvel": (length, 3),
                "action": (length, 2),
            }.items():
                file[name] = RANDOM.normal(size=shape).astype(np.float32)
            lengths = RANDOM.integers(4, 9, (2, length))
            for camera, own in zip(("low", "high"), lengths, strict=True):
                rows = RANDOM.integers(1, 256, (length, 10)).astype(np.uint8)
                rows[np.arange(10) >= own[:, None]] = 0
                file[f"observations/images/{camera}"] = rows
            file["compress_len"] = lengths.astype(np.float32)


def maniskill(folder):
    os.makedirs(f"{folder}/set")
    episodes = []
    with h5py.File(f"{folder}/set/trajectory.h5", "w") as file:
        for index, length in enumerate(LENGTHS):
            group = file.create_group(f"traj_{index}")
            group["obs"] = RANDOM.normal(size=(length + 1, 3)).astype(np.float32)
            group["actions"] = RANDOM.normal(size=(length, 2)).astype(np.float32)
            group["env_states/actors/cube"] = RANDOM.normal(size=(length + 1, 2))
            for name in ("terminated", "truncated", "success"):
                group[name] = (np.arange(length) == length - 1) & (name != "truncated")
            episodes.append(
                {"episode_id": index, "episode_seed": index, "reset_kwargs": {"seed": [index]}}
            )
    with open(f"{folder}/set/trajectory.json", "w") as file:
        json.dump({"env_info": {"env_id": "Made-v1"}, "episodes": episodes}, file)


def d3rlpy(folder):
    with h5py.File(f"{folder}/replay.h5", "w") as file:
        file["columns"], file["num_episodes"], file["version"] = (
            ["observations", "actions", "rewards", "terminated"],
            len(LENGTHS),
            "2.1",
        )
        for index, length in enumerate(LENGTHS):
            file[f"observations_{index}"], file[f"actions_{index}"] = (
                RANDOM.normal(size=(length, 3)).astype(np.float32),
                RANDOM.normal(size=(length, 2)).astype(np.float32),
            )
            file[f"rewards_{index}"], file[f"terminated_{index}"] = (
                RANDOM.normal(size=(length, 1)).astype(np.float32),
                index % 2 == 0,
            )


def minaris(folder):
    os.environ["MINARI_DATASETS_PATH"] = folder
    box = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    space = gymnasium.spaces.Dict(
        {"state": box, "pair": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(4), box))}
    )
    buffers = []
    for index, length in enumerate(LENGTHS):
        floats = lambda rows: RANDOM.normal(size=(rows, 3)).astype(np.float32)
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=index,
                seed=index,
                options={"nested": {"x": 1}},
                observations={
                    "state": list(floats(length + 1)),
                    "pair": (list(np.arange(length + 1) % 4), list(floats(length + 1))),
                },
                actions=list(np.arange(length) % 2),
                rewards=list(RANDOM.normal(size=length)),
                terminations=[False] * (length - 1) + [True],
                truncations=[False] * length,
                infos={
                    "speed": list(RANDOM.normal(size=length + 1)),
                    "deep": {"qpos": list(floats(length + 1))},
                },
            )
        )
    for kind in ("hdf5", "parquet", "arrow"):
        minari.create_dataset_from_buffers(
            f"set-{kind}-v0",
            buffers,
            observation_space=space,
            action_space=gymnasium.spaces.Discrete(2),
            data_format=kind,
            eval_env=None,
        )


def npz(folder):
    np.savez(
        f"{folder}/stored.npz", **flat(["observations", "actions", "rewards", "episode_starts"])
    )
    np.savez_compressed(
        f"{folder}/packed.npz",
        **flat(
            ["observations", "next_observations", "actions", "rewards", "terminals", "timeouts"]
        ),
    )


def ogbench(folder):
    np.savez(
        f"{folder}/set.npz",
        **flat(["observations", "actions", "terminals"], final=True),
        qpos=np.zeros((N + len(LENGTHS), 2)),
    )


def exorl(folder):
    os.makedirs(f"{folder}/set")
    for index, length in enumerate(LENGTHS):
        rows = length + 1
        np.savez(
            f"{folder}/set/episode_{index}_{length}.npz",
            observation=np.zeros((rows, 3), np.float32),
            action=np.zeros((rows, 2), np.float32),
            reward=np.zeros((rows, 1), np.float32),
            discount=np.ones((rows, 1), np.float32),
        )


def steps():
    arrays = flat(["observations", "actions", "rewards", "terminals", "timeouts"])
    arrays = {name: list(values) if values.ndim == 2 else values for name, values in arrays.items()}
    return pa.table(
        {
            "episode": np.repeat([7, 2, 9], LENGTHS),
            "step": np.concatenate([np.arange(length) for length in LENGTHS]),
            "note": ["x"] * N,
            **arrays,
        }
    )


def parquet(folder):
    table = steps()
    pq.write_table(table, f"{folder}/set.parquet", row_group_size=5)
    pq.write_table(tables.episodes(table), f"{folder}/episodes.parquet")


def arrow(folder):
    with (
        pa.OSFile(f"{folder}/set.arrow", "wb") as file,
        pa.ipc.new_file(file, steps().schema) as writer,
    ):
        table = steps()
        writer.write_table(table, max_chunksize=5)
    tables.stream(f"{folder}/stream.arrow", table, 5)
    tables.saved(f"{folder}/saved", tables.episodes(table), 2)


def csv(folder):
    tables.csv(f"{folder}/set.csv", tables.scalars(steps()))
    tables.csv(f"{folder}/set.csv.gz", tables.scalars(steps()))


def jsonl(folder):
    tables.jsonl(f"{folder}/set.jsonl", steps())
    tables.jsonl(f"{folder}/episodes.jsonl.gz", tables.episodes(steps()))


def zarr(folder):
    arrays = {name: values[:N] for name, values in array_sets.made(N).items() if name != "img"}
    for codec in ("lz4-shuffle", "zstd-bits"):
        array_sets.buffer(f"{folder}/{codec}.zarr", arrays, ENDS, array_sets.CODECS[codec], 6)
    shutil.make_archive(f"{folder}/set.zarr", "zip", f"{folder}/lz4-shuffle.zarr")


def tensordict(folder):
    root, following = array_sets.transitions(LENGTHS)
    array_sets.by_hand(f"{folder}/set", root, following)


def rlds(folder):
    rlds_sets.Made(LENGTHS, True).write(f"{folder}/set")


def tfagents(folder):
    records = []
    for length in LENGTHS:
        for row in range(length + 1):
            step = lambda row: np.int32(0 if row == 0 else 2 if row == length else 1).tobytes()
            records.append(
                rlds_sets.encode(
                    {
                        "step_type": [step(row)],
                        "next_step_type": [step((row + 1) % (length + 1))],
                        "observation": [RANDOM.normal(size=3).astype(np.float32).tobytes()],
                        "action": RANDOM.normal(size=2).astype(np.float32),
                        "reward": [np.float32(0 if row == length else row).tobytes()],
                        "discount": [np.float32(1).tobytes()],
                    }
                )
            )
    with open(f"{folder}/set.tfrecord", "wb") as file:
        file.write(rlds_sets.frame(records))


def lerobot(folder):
    made = lerobot_sets.Made(LENGTHS)
    lerobot_sets.v30(f"{folder}/v30", made, files=[[1, 0], [2]], video=True)
    lerobot_sets.v2(f"{folder}/v21", made)


def videofolder(folder):
    root = f"{folder}/set"
    video.encode(f"{root}/a.mp4", 5, (24, 32), options={"bf": "2"})
    video.encode(f"{root}/task=stack%20cups/b.webm", 4, (24, 32), "libvpx-vp9")
    video.encode(f"{root}/task=stack%20cups/c.avi", 3, (24, 32), "mpeg4")
    with open(f"{root}/metadata.jsonl", "w") as file:
        for name in ["a.mp4", "task=stack%20cups/b.webm", "task=stack%20cups/c.avi"]:
            file.write(json.dumps({"file_name": name, "caption": f"clip {name}"}) + "\n")


for make in (
    d4rl,
    robomimic,
    robosuite,
    d3rlpy,
    minaris,
    npz,
    ogbench,
    exorl,
    parquet,
    arrow,
    zarr,
    tensordict,
    rlds,
    tfagents,
    lerobot,
    csv,
    jsonl,
    aloha,
    maniskill,
    videofolder,
):
    place = os.path.join(SEEDS, {minaris: "minari"}.get(make, make.__name__))
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    make(place)
