"""Files that robots and their simulators write are imported, with what they say about episodes."""

import io
import json

import h5py
import numpy as np
import pytest
from PIL import Image

from oracle import check, equal, manifest, says, seeded, table, trajmill
from oracle import valid_rows as column

LENGTHS = [5, 3, 1]


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return np.frombuffer(file.getvalue(), np.uint8)


def rows(folder, name):
    """The values of a column that are not null, one row for each step."""
    return column(table(folder), name)[1]


def parts(folder, name="observation"):
    """The parts of a struct column, by name."""
    chunk = table(folder)[name].combine_chunks()
    names = [field.name for field in chunk.type]
    return dict(zip(names, column(table(folder), name)[1], strict=True))


def shape(folder, *names):
    """The shape in the metadata of a column, or of a part of it."""
    field = table(folder).schema.field(names[0])
    for name in names[1:]:
        field = field.type.field(name)
    return (field.metadata or {}).get(b"shape")


# --- Isaac Lab, mimicgen


def isaac_lab(path):
    """Writes demonstrations as Isaac Lab's recorder does. Returns their arrays."""
    random = seeded("isaac lab")
    made = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(LENGTHS)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 2})
        for index, length in enumerate(LENGTHS):
            demo = data.create_group(f"demo_{index}")
            demo.attrs.update(num_samples=length, seed=index + 7, success=bool(index % 2))
            arrays = {
                "actions": random.uniform(-1, 1, (length, 6)).astype(np.float32),
                "obs/actions": random.normal(size=(length, 8)).astype(np.float32),
                "obs/joint_pos": random.normal(size=(length, 6)).astype(np.float32),
                "obs/datagen/deep/grasp": random.random(length) < 0.5,
                "obs/table_cam": random.integers(0, 256, (length, 12, 10, 3)).astype(np.uint8),
                "states/rigid_object/cube/root_pose": random.normal(size=(length, 7)),
                "initial_state/articulation/robot/joint_position": random.normal(size=(1, 6)),
                "initial_state/rigid_object/cube/is_held": np.array([index == 1]),
                "src_demo_inds": np.arange(4) + index,
                "wind": np.float32(index),
                "nothing": np.zeros((length, 0)),
            }
            for name, values in arrays.items():
                demo[name] = values
            made.append(arrays)
    return made


def test_isaac_lab_is_imported(tmp_path):
    made = isaac_lab(tmp_path / "in.hdf5")
    folder = tmp_path / "made"
    trajmill("import", tmp_path / "in.hdf5", folder)
    joined = {name: [arrays[name] for arrays in made] for name in made[0]}
    stacked = {name: np.concatenate(joined[name]) for name in joined if name != "wind"}
    equal(rows(folder, "action"), stacked["actions"], "the action has six dimensions")
    found = parts(folder)
    for name in ("actions", "joint_pos", "datagen/deep/grasp"):
        equal(found[name], stacked[f"obs/{name}"], f"obs/{name}")
    cameras = stacked["obs/table_cam"].reshape(sum(LENGTHS), -1)
    equal(found["table_cam"], cameras, "the camera")
    check(shape(folder, "observation", "table_cam") == b"12,10,3", "the camera's shape")
    name = "states/rigid_object/cube/root_pose"
    equal(rows(folder, name), stacked[name], name)
    facts = table(folder, "trajectories")
    check(facts["seed"].to_pylist() == [7, 8, 9], "seeds")
    check(facts["success"].to_pylist() == [False, True, False], "success")
    check(facts["wind"].to_pylist() == [0.0, 1.0, 2.0], "a single value")
    for name in ("initial_state/articulation/robot/joint_position", "src_demo_inds"):
        wanted = [values.reshape(-1).tolist() for values in joined[name]]
        check(facts[name].to_pylist() == wanted, name)
    held = facts["initial_state/rigid_object/cube/is_held"].to_pylist()
    check(held == [False, True, False], "a flag in one row")
    check(not any(facts["terminated"].to_pylist()), "the file does not say that it terminated")
    check(not any(facts["truncated"].to_pylist()), "the file does not say that it was cut off")
    left_out = manifest(folder)["lineage"]["imports"][0]["left_out"]
    wanted = [{"name": "nothing", "reason": "its rows have no values"}]
    check(left_out == wanted, str(left_out))


def test_isaac_lab_goes_back(tmp_path):
    made = isaac_lab(tmp_path / "in.hdf5")
    trajmill("import", tmp_path / "in.hdf5", tmp_path / "made")
    trajmill("export", tmp_path / "made", tmp_path / "out.hdf5", "--to", "robomimic")
    with h5py.File(tmp_path / "out.hdf5") as file:
        for index, arrays in enumerate(made):
            demo = file[f"data/demo_{index}"]
            for name in [name for name in arrays if name.startswith(("obs/", "states/"))]:
                equal(demo[name][()], arrays[name], f"{name} after both ways")
            equal(demo["actions"][()], arrays["actions"], "actions after both ways")
    trajmill("import", tmp_path / "out.hdf5", tmp_path / "again")
    first, again = (table(tmp_path / name, "trajectories") for name in ("made", "again"))
    for name in ("seed", "success", "src_demo_inds", "uid"):
        check(first[name].to_pylist() == again[name].to_pylist(), f"{name} after both ways")


def test_parts_of_an_observation_of_different_lengths_are_named(tmp_path):
    with h5py.File(tmp_path / "in.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 2))
        file["data/demo_0/obs/a"], file["data/demo_0/obs/b"] = np.zeros((4, 2)), np.zeros((3, 2))
    done = trajmill("import", tmp_path / "in.hdf5", tmp_path / "made", code=1)
    says(done.stderr, ["data/demo_0", "`obs/b` has 3 rows", "`obs/a` has 4"], "the error")


# --- LIBERO, and folders of robomimic's files


def libero(folder, tasks, widths, **attributes):
    """Writes a file for each task, as LIBERO does. Returns the arrays of all demonstrations."""
    random = seeded("libero")
    folder.mkdir()
    made = []
    for at, (task, width) in enumerate(zip(tasks, widths, strict=True)):
        with h5py.File(folder / f"task_{at}_demo.hdf5", "w") as file:
            data = file.create_group("data")
            data.attrs["total"], data.attrs["num_demos"] = 5, 2
            data.attrs["env_args"] = json.dumps({"env_name": "Made", "type": 1, "env_kwargs": {}})
            data.attrs["problem_info"] = json.dumps({"language_instruction": task})
            for name, values in attributes.items():
                data.attrs[name] = values[at]
            for index, length in enumerate([3, 2]):
                demo = data.create_group(f"demo_{index}")
                demo.attrs["num_samples"] = length
                demo.attrs["init_state"] = random.normal(size=width)
                arrays = {
                    "actions": random.uniform(-1, 1, (length, 7)),
                    "obs/ee_pos": random.normal(size=(length, 3)),
                    "states": random.normal(size=(length, width)),
                }
                for name, values in arrays.items():
                    demo[name] = values
                demo["dones"] = (np.arange(length) == length - 1).astype(np.uint8)
                made.append((task, demo.attrs["init_state"].tolist(), arrays))
    return made


TASKS = ["open the drawer", "close it", "put the bowl on the stove"]


@pytest.mark.parametrize("widths", [[4, 9, 6], [4, 4, 4]])
def test_a_folder_of_libero_files_is_one_dataset(tmp_path, widths):
    made = libero(tmp_path / "in", TASKS, widths)
    folder = tmp_path / "made"
    trajmill("import", tmp_path / "in", folder)
    facts = table(folder, "trajectories")
    check(facts["task"].to_pylist() == [task for task, _, _ in made], "tasks")
    check(facts["trajectory_id"].to_pylist() == list(range(6)), "ids")
    check(len(set(facts["uid"].to_pylist())) == 6, "identities")
    check(facts["source_key"].to_pylist()[2:4] == ["task_1_demo/demo_0", "task_1_demo/demo_1"], "")
    check(facts["init_state"].to_pylist() == [state for _, state, _ in made], "states at the start")
    check(facts["terminated"].to_pylist() == [True] * 6, "ends")
    actions = np.concatenate([arrays["actions"] for _, _, arrays in made])
    equal(rows(folder, "action"), actions, "actions")
    states = [row.tolist() for _, _, arrays in made for row in arrays["states"]]
    check(table(folder)["states"].to_pylist() == states, "states")
    check(manifest(folder)["lineage"]["source_metadata"]["total"] == 15, "steps of all files")


def test_attributes_that_differ_between_files_are_facts(tmp_path):
    libero(tmp_path / "in", TASKS, [4, 4, 4], tag=["a", "a", "b"], scale=[1, 2, 0.5])
    folder = tmp_path / "made"
    (tmp_path / "in" / "readme.txt").write_text("made")
    trajmill("import", tmp_path / "in", folder)
    facts = table(folder, "trajectories")
    check(facts["tag"].to_pylist() == ["a"] * 4 + ["b"] * 2, "texts")
    check(facts["scale"].to_pylist() == [1.0, 1.0, 2.0, 2.0, 0.5, 0.5], "numbers")
    metadata = manifest(folder)["lineage"]["source_metadata"]
    check("env_args" in metadata and "tag" not in metadata, "attributes that all files share")
    left_out = manifest(folder)["lineage"]["imports"][0]["left_out"]
    wanted = [{"name": "readme.txt", "reason": "another kind of file"}]
    check(left_out == wanted, str(left_out))


def test_a_file_of_another_layout_in_the_folder_is_named(tmp_path):
    libero(tmp_path / "in", TASKS, [4, 4, 4])
    with h5py.File(tmp_path / "in" / "z.hdf5", "w") as file:
        file["x"] = np.zeros(3)
    done = trajmill("import", tmp_path / "in", tmp_path / "made", code=1)
    says(done.stderr, ["z.hdf5", "no group `data`"], "the error")


def test_instructions_are_where_robomimic_looks_for_them(tmp_path):
    libero(tmp_path / "in", TASKS, [4, 4, 4])
    trajmill("import", tmp_path / "in", tmp_path / "made")
    trajmill("export", tmp_path / "made", tmp_path / "out.hdf5", "--to", "robomimic")
    with h5py.File(tmp_path / "out.hdf5", "a") as file:
        found = [
            json.loads(file[f"data/demo_{index}"].attrs["ep_meta"])["lang"] for index in range(6)
        ]
        # As another program would write it.
        del file["trajmill"]
        for index in range(6):
            meta = {"lang": f"say {index}", "layout": index}
            file[f"data/demo_{index}"].attrs["ep_meta"] = json.dumps(meta)
            del file[f"data/demo_{index}"].attrs["trajmill"]
    check(found == [task for task in TASKS for _ in range(2)], str(found))
    trajmill("import", tmp_path / "out.hdf5", tmp_path / "again")
    tasks = table(tmp_path / "again", "trajectories")["task"].to_pylist()
    check(tasks == [f"say {index}" for index in range(6)], str(tasks))
    trajmill("export", tmp_path / "again", tmp_path / "two.hdf5", "--to", "robomimic")
    with h5py.File(tmp_path / "two.hdf5") as file:
        meta = json.loads(file["data/demo_3"].attrs["ep_meta"])
    check(meta == {"lang": "say 3", "layout": 3}, "the rest of ep_meta survives")


# --- ALOHA


def aloha(folder, lengths, images, **attributes):
    """Writes episodes as the recorders of ALOHA and ACT do. Returns their arrays."""
    random = seeded("aloha", images)
    folder.mkdir()
    made = []
    for index, length in lengths.items():
        arrays = {
            "observations/qpos": random.normal(size=(length, 14)),
            "observations/qvel": random.normal(size=(length, 14)).astype(np.float32),
            "action": random.normal(size=(length, 14)).astype(np.float32),
            "base_action": random.normal(size=(length, 2)),
        }
        # In the recorder's order, which is not the alphabet's.
        cameras = {
            f"observations/images/{name}": random.integers(0, 256, (length, 8, 12, 3)).astype(
                np.uint8
            )
            for name in ("cam_low", "cam_high", "cam_wrist")
        }
        with h5py.File(folder / f"episode_{index}.hdf5", "w") as file:
            file.attrs["sim"] = index % 2 == 0
            file.attrs.update(attributes)
            for name, values in arrays.items():
                file[name] = values
            if images == "raw":
                for name, values in cameras.items():
                    file[name] = values
            else:
                pictures = {
                    name: [jpeg(frame) for frame in frames] for name, frames in cameras.items()
                }
                longest = max(len(one) for frames in pictures.values() for one in frames) + 3
                for name, frames in pictures.items():
                    padded = np.zeros((length, longest), np.uint8)
                    for row, picture in enumerate(frames):
                        padded[row, : len(picture)] = picture
                    file[name] = (
                        padded.view(f"S{longest}").reshape(length)
                        if images == "strings"
                        else padded
                    )
                if images == "lengths":
                    file["compress_len"] = np.array(
                        [[len(one) for one in frames] for frames in pictures.values()], np.float32
                    )
                cameras = {name: [one.tobytes() for one in f] for name, f in pictures.items()}
        made.append((index, arrays, cameras))
    return made


@pytest.mark.parametrize("images", ["raw", "lengths", "padded", "strings"])
def test_aloha_is_imported(tmp_path, images):
    made = aloha(tmp_path / "in", {0: 4, 2: 3, 10: 5}, images)
    folder = tmp_path / "made"
    trajmill("import", tmp_path / "in", folder)
    facts = table(folder, "trajectories")
    keys = ["episode_0", "episode_2", "episode_10"]
    check(facts["source_key"].to_pylist() == keys, "in the order of their numbers")
    check(facts["length"].to_pylist() == [4, 3, 5], "lengths")
    check(facts["sim"].to_pylist() == [True] * 3, "facts")
    check(not any(facts["terminated"].to_pylist() + facts["truncated"].to_pylist()), "ends")
    joined = {name: np.concatenate([arrays[name] for _, arrays, _ in made]) for name in made[0][1]}
    equal(rows(folder, "observation"), joined["observations/qpos"], "the observation")
    equal(rows(folder, "observation/qvel"), joined["observations/qvel"], "velocities")
    equal(rows(folder, "action"), joined["action"], "actions")
    equal(rows(folder, "base_action"), joined["base_action"], "other arrays")
    for name in made[0][2]:
        own = name.replace("observations", "observation")
        frames = [frame for _, _, cameras in made for frame in cameras[name]]
        if images == "raw":
            check(shape(folder, own) == b"8,12,3", "the shape of pixels")
            equal(rows(folder, own), np.array(frames).reshape(len(frames), -1), name)
        else:
            check(table(folder)[own].to_pylist() == frames, f"the pictures of {name}")
    check("compress_len" not in table(folder).column_names, "lengths are no data")


def test_one_episode_of_aloha_with_an_instruction(tmp_path):
    aloha(tmp_path / "in", {3: 4}, "raw")
    path = tmp_path / "in" / "episode_3.hdf5"
    with h5py.File(path, "a") as file:
        file["language_raw"] = [b"fold the shirt"]
    trajmill("import", path, tmp_path / "made")
    facts = table(tmp_path / "made", "trajectories")
    check(facts["task"].to_pylist() == ["fold the shirt"], "the instruction")
    trajmill("export", tmp_path / "made", tmp_path / "out.hdf5", "--to", "robomimic")
    with h5py.File(tmp_path / "out.hdf5") as file, h5py.File(path) as wanted:
        name = "obs/images.cam_high"
        equal(
            file[f"data/demo_0/{name}"][()],
            wanted["observations/images/cam_high"][()],
            "pixels in robomimic's format",
        )


def test_lengths_that_do_not_fit_the_pictures_are_named(tmp_path):
    aloha(tmp_path / "in", {0: 4}, "lengths")
    with h5py.File(tmp_path / "in" / "episode_0.hdf5", "a") as file:
        file["compress_len"][:, 1] = 3
    done = trajmill("import", tmp_path / "in", tmp_path / "made", code=1)
    says(done.stderr, ["episode_0.hdf5", "cam_high", "`compress_len`"], "the error")


def test_a_bad_episode_of_aloha_is_set_aside(tmp_path):
    aloha(tmp_path / "in", {0: 4, 1: 3, 2: 2}, "raw")
    broken = tmp_path / "in" / "episode_1.hdf5"
    broken.write_bytes(broken.read_bytes()[:3000])
    done = trajmill("import", tmp_path / "in", tmp_path / "made", code=1)
    says(done.stderr, ["episode_1.hdf5"], "the error")
    aside = ["--on-error", "quarantine", "--allowed", 1]
    trajmill("import", tmp_path / "in", tmp_path / "made", *aside)
    keys = table(tmp_path / "made", "trajectories")["source_key"].to_pylist()
    check(keys == ["episode_0", "episode_2"], str(keys))


# --- ManiSkill


def maniskill(folder, obs):
    """Writes demonstrations as ManiSkill's RecordEpisode does. Returns their arrays."""
    random = seeded("maniskill", obs)
    folder.mkdir()
    made, episodes = [], []
    with h5py.File(folder / "trajectory.h5", "w") as file:
        for index, length in zip([0, 2, 10], LENGTHS, strict=True):
            arrays = {
                "actions": random.normal(size=(length, 8)).astype(np.float32),
                "terminated": np.arange(length) >= length - 2,
                "truncated": np.zeros(length, bool),
                "success": np.arange(length) >= length - 1,
                "env_states/actors/cube": random.normal(size=(length + 1, 13)).astype(np.float32),
                "env_states/articulations/panda": random.normal(size=(length + 1, 31)),
            }
            if obs == "state":
                arrays["obs"] = random.normal(size=(length + 1, 42)).astype(np.float32)
                arrays["rewards"] = random.normal(size=length).astype(np.float32)
            if obs == "rgb":
                arrays["obs/agent/qpos"] = random.normal(size=(length + 1, 9))
                arrays["obs/sensor_data/base_camera/rgb"] = random.integers(
                    0, 256, (length + 1, 6, 4, 3)
                ).astype(np.uint8)
            for name, values in arrays.items():
                file[f"traj_{index}/{name}"] = values
            episodes.append(
                {
                    "episode_id": index,
                    "episode_seed": 100 + index,
                    "control_mode": "pd_joint_pos",
                    "elapsed_steps": length,
                    "success": index != 2,
                    "reset_kwargs": {"seed": [100 + index], "options": {"hard": True}},
                }
            )
            made.append(arrays)
    described = {"env_info": {"env_id": "PickCube-v1"}, "source_type": "rl", "episodes": episodes}
    (folder / "trajectory.json").write_text(json.dumps(described))
    return made


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("obs", ["none", "state", "rgb"])
def test_maniskill_is_imported(tmp_path, obs, alone):
    made = maniskill(tmp_path / "in", obs)
    folder = tmp_path / "made"
    trajmill("import", tmp_path / "in" / ("trajectory.h5" if alone else ""), folder)
    joined = {name: np.concatenate([arrays[name] for arrays in made]) for name in made[0]}
    facts = table(folder, "trajectories")
    check(facts["source_key"].to_pylist() == ["traj_0", "traj_2", "traj_10"], "order")
    check(facts["episode_seed"].to_pylist() == [100, 102, 110], "seeds")
    check(facts["control_mode"].to_pylist() == ["pd_joint_pos"] * 3, "control modes")
    check(facts["success"].to_pylist() == [True, False, True], "success")
    check(facts["reset_kwargs/options/hard"].to_pylist() == [True] * 3, "nested facts")
    check(facts["reset_kwargs/seed"].to_pylist() == [[100], [102], [110]], "lists")
    check(facts["terminated"].to_pylist() == [True] * 3, "terminated")
    check(facts["truncated"].to_pylist() == [False] * 3, "not truncated")
    check(facts["length"].to_pylist() == LENGTHS, "lengths")
    equal(rows(folder, "action"), joined["actions"], "actions")
    steps = table(folder)
    check(sum(steps["is_final"].to_pylist()) == 3, "final observations are known")
    ends = [value for value in steps["source_terminated"].to_pylist() if value is not None]
    check(ends == joined["terminated"].tolist(), "the flags of all steps")
    success = [value for value in steps["success"].to_pylist() if value is not None]
    check(success == joined["success"].tolist(), "success of steps")
    if obs == "state":
        equal(rows(folder, "observation"), joined["obs"], "observations")
        equal(rows(folder, "reward"), joined["rewards"], "rewards")
    elif obs == "rgb":
        found = parts(folder)
        equal(found["agent/qpos"], joined["obs/agent/qpos"], "the state")
        name = "sensor_data/base_camera/rgb"
        check(shape(folder, "observation", name) == b"6,4,3", "the shape of pixels")
        equal(found[name], joined[f"obs/{name}"].reshape(-1, 72), "pixels")
    else:
        found = parts(folder)
        equal(found["actors/cube"], joined["env_states/actors/cube"], "states of the environment")
    if obs != "none":
        name = "env_states/articulations/panda"
        equal(rows(folder, name), joined[name], name)
    metadata = manifest(folder)["lineage"]["source_metadata"]
    check(metadata["env_info"] == {"env_id": "PickCube-v1"}, "metadata")


def test_described_episodes_without_a_group_are_named(tmp_path):
    maniskill(tmp_path / "in", "state")
    with h5py.File(tmp_path / "in" / "trajectory.h5", "a") as file:
        del file["traj_10"], file["traj_2"]
    done = trajmill("import", tmp_path / "in", tmp_path / "made")
    says(done.stderr, ["2 episodes of the JSON file", "`traj_2`", "no such group"], "the summary")


def test_a_change_of_the_description_is_noticed(tmp_path):
    maniskill(tmp_path / "in", "state")
    place, source = tmp_path / "in" / "trajectory.json", tmp_path / "in" / "trajectory.h5"
    made = tmp_path / "made"
    trajmill("import", source, made)
    check("nothing to do" in trajmill("import", source, made).stderr, "the same again")
    place.write_text(place.read_text().replace("pd_joint_pos", "pd_ee_pose"))
    trajmill("import", source, made, code=1)
    place.write_text("{")
    done = trajmill("import", source, tmp_path / "bad", code=1)
    says(done.stderr, ["trajectory.json", "JSON"], "the error")
