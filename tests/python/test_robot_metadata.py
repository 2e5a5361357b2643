"""What robot datasets say beside their numbers survives: tasks, subtasks, annotations, frame rates,
modalities and pictures. No feature of an export is taken for data that it is not.
"""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import oracle
from lerobot_rules import policy_features
from oracle import check, close, equal, says, table, trajmill
from writers.lerobot import Made, array, put, v2, v30
from writers.rlds import Made as Rlds

LENGTHS = [4, 5, 6]


def run(folder, source, *stages, **output):
    """Runs a pipeline in `folder`; the last stage writes `out`."""
    text = {"trajmill": 1, "source": source, "stages": [*stages, {"materialise": output}]}
    (folder / "p.yaml").write_text(json.dumps(text))
    return trajmill("run", "p.yaml", cwd=folder)


def info(root):
    return json.loads((root / "meta" / "info.json").read_text())


def rows(root):
    """All rows of a LeRobot dataset."""
    files = sorted((root / "data").glob("*/*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def texts(root, name):
    """The texts of a table under meta/, in the order of their indices."""
    path = root / "meta" / f"{name}s.parquet"
    if path.exists():
        frame = pd.read_parquet(path).sort_values(f"{name}_index")
        equal(frame[f"{name}_index"], range(len(frame)), f"indices of {name}")
        return list(frame.index)
    lines = (root / "meta" / f"{name}s.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in lines]
    equal([line[f"{name}_index"] for line in lines], range(len(lines)), f"indices of {name}")
    return [line[name] for line in lines]


def resolved(root, feature, name="task"):
    """The text of each row of a feature that holds indices."""
    known = texts(root, name)
    return [known[index] for index in rows(root)[feature].to_pylist()]


def rewrite(root, change):
    """Replaces the rows of each data file by what `change` returns."""
    for file in sorted((root / "data").glob("*/*.parquet")):
        pq.write_table(change(pq.read_table(file)), file)


def declare(root, **features):
    text = info(root)
    for name, dtype in features.items():
        text["features"][name.replace("__", ".")] = {"dtype": dtype, "shape": [1], "names": None}
    put(f"{root}/meta/info.json", text)


# --- the rate of frames


@pytest.mark.parametrize("fps", [29.97, 2.5, 0.4, 30])
def test_a_frame_rate_survives_with_its_times(tmp_path, fps):
    v30(f"{tmp_path}/in", Made([900, 30], fps=fps))
    run(tmp_path, {"path": "in"}, path="out", format="lerobot")
    check(info(tmp_path / "out")["fps"] == fps, f"fps: {info(tmp_path / 'out')['fps']}")
    found = rows(tmp_path / "out")["timestamp"].to_numpy()
    equal(found, rows(tmp_path / "in")["timestamp"].to_numpy(), "times")
    trajmill("validate", tmp_path / "out")


def test_a_frame_rate_can_be_set(tmp_path):
    v30(f"{tmp_path}/in", Made(LENGTHS))
    trajmill("import", tmp_path / "in", tmp_path / "own")
    trajmill("export", tmp_path / "own", tmp_path / "out", "--to", "lerobot", "--fps", "59.94")
    check(info(tmp_path / "out")["fps"] == 59.94, "fps")
    bad = trajmill(
        "export", tmp_path / "own", tmp_path / "no", "--to", "lerobot", "--fps", "0", code=2
    )
    says(bad.stderr, ["`fps` is 0"], "a rate of zero")


def test_a_rate_that_was_set_survives_another_import(tmp_path):
    v30(f"{tmp_path}/in", Made(LENGTHS))
    steps = [("in", "own"), ("set", "again")]
    for (source, dataset), options in zip(steps, [["--fps", "59.94", "--robot", "other"], []]):
        trajmill("import", tmp_path / source, tmp_path / dataset)
        out = tmp_path / ("set" if options else "out")
        trajmill("export", tmp_path / dataset, out, "--to", "lerobot", *options)
    found = info(tmp_path / "out")
    check([found["fps"], found["robot_type"]] == [59.94, "other"], f"found: {found}")


def test_nested_lists_of_one_shape_become_images_and_matrices(tmp_path):
    random = np.random.default_rng(5)
    pixels = random.integers(0, 256, (9, 6, 5, 3), np.uint8)
    matrix = random.normal(size=(9, 2, 4))
    image = pa.list_(pa.list_(pa.list_(pa.uint8())))
    fixed = pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 5), 6)
    holes = [None if row == 4 else rows for row, rows in enumerate(matrix.tolist())]
    ragged = [[[1.0] * (1 + row % 2)] for row in range(9)]
    made = {
        "episode": pa.array([0] * 4 + [1] * 5),
        "observation": pa.array(list(random.normal(size=(9, 2)))),
        "action": pa.array(list(random.normal(size=(9, 2)))),
        "camera": pa.array(pixels.tolist(), image),
        "fixed": pa.array(pixels.tolist(), fixed),
        "matrix": pa.array(matrix.tolist(), pa.list_(pa.list_(pa.float64()))),
        "holes": pa.array(holes, pa.list_(pa.list_(pa.float64()))),
        "ragged": pa.array(ragged, pa.list_(pa.list_(pa.float64()))),
    }
    pq.write_table(pa.table(made), tmp_path / "in.parquet")
    trajmill("import", tmp_path / "in.parquet", tmp_path / "own", "--map", "trajectory_id=episode")
    done = trajmill("export", tmp_path / "own", tmp_path / "out", "--to", "lerobot", "--fps", "5")
    says(done.stderr, ["`ragged`", "left out"], "lists of several shapes")
    features = info(tmp_path / "out")["features"]
    check("ragged" not in features, "left out")
    for name in ["camera", "fixed"]:
        check([features[name][key] for key in ("dtype", "shape")] == ["image", [6, 5, 3]], name)
        images = [value["bytes"] for value in rows(tmp_path / "out")[name].to_pylist()]
        equal([np.asarray(Image.open(io.BytesIO(one))) for one in images], pixels, name)
    check(features["matrix"]["shape"] == [2, 4], "the shape of matrices")
    equal(rows(tmp_path / "out")["matrix"].to_pylist(), matrix, "matrices")
    matrix[4] = 0
    equal(rows(tmp_path / "out")["holes"].to_pylist(), matrix, "nulls are zeros")
    valid = rows(tmp_path / "out")["holes_valid"].to_pylist()
    check(valid == [row != 4 for row in range(9)], "and said to be")
    trajmill("validate", tmp_path / "out")


# --- what merged datasets say about themselves


def merged(folder, *names):
    """Imports LeRobot datasets and merges them, two at a time."""
    last = None
    for name in names:
        trajmill("import", folder / name, folder / f"own_{name}")
        sources = [{"path": path} for path in (last, f"own_{name}") if path]
        last = f"upto_{name}"
        run(folder, sources, path=last)
    return folder / last


def lerobot(folder, name, seed, names=None, **entries):
    v30(f"{folder}/{name}", Made(LENGTHS, seed=seed))
    text = {**info(folder / name), **entries}
    state = text["features"]["observation.state"]
    state["names"] = names or [f"joint_{at}" for at in range(state["shape"][0])]
    put(f"{folder}/{name}/meta/info.json", text)
    return state["names"]


def test_a_merge_of_a_merge_keeps_what_all_sources_say(tmp_path):
    for seed, name in enumerate("abc"):
        names = lerobot(tmp_path, name, seed, robot_type="arm")
    dataset = merged(tmp_path, *"abc")
    done = trajmill("export", dataset, tmp_path / "out", "--to", "lerobot")
    found = info(tmp_path / "out")
    check(found["fps"] == info(tmp_path / "a")["fps"] and found["robot_type"] == "arm", "fps, robot")
    check(found["features"]["observation.state"]["names"] == names, "names")
    check("differ" not in done.stderr, done.stderr)


def test_a_merge_of_a_merge_has_no_rate_if_two_rates_differ(tmp_path):
    for seed, name in enumerate("abc"):
        lerobot(tmp_path, name, seed)
    put(f"{tmp_path}/c/meta/info.json", {**info(tmp_path / "c"), "fps": 4})
    rewrite(
        tmp_path / "c",
        lambda part: part.set_column(
            part.column_names.index("timestamp"),
            "timestamp",
            pa.array(part["frame_index"].to_numpy() / 4, pa.float32()),
        ),
    )
    dataset = merged(tmp_path, *"abc")
    failed = trajmill("export", dataset, tmp_path / "out", "--to", "lerobot", code=1)
    says(failed.stderr, ["steps per second", "4"], "the rates")
    trajmill("export", dataset, tmp_path / "out", "--to", "lerobot", "--fps", "4")


def test_names_and_robots_that_differ_are_named(tmp_path):
    lerobot(tmp_path, "a", 1, robot_type="arm")
    width = info(tmp_path / "a")["features"]["observation.state"]["shape"][0]
    lerobot(tmp_path, "b", 2, names=[f"other_{at}" for at in range(width)], robot_type="leg")
    dataset = merged(tmp_path, *"ab")
    done = trajmill("export", dataset, tmp_path / "out", "--to", "lerobot")
    says(done.stderr, ["names of the values of `observation.state`", "robots"], "the summary")
    found = info(tmp_path / "out")
    check(found["robot_type"] is None, "robot")
    check(found["features"]["observation.state"]["names"] is None, "names")


def test_a_camera_of_one_source_costs_no_names(tmp_path):
    names = lerobot(tmp_path, "a", 1)
    lerobot(tmp_path, "b", 2)
    rewrite(tmp_path / "b", lambda part: part.append_column("extra", part["index"]))
    declare(tmp_path / "b", extra="int64")
    dataset = merged(tmp_path, *"ab")
    trajmill("export", dataset, tmp_path / "out", "--to", "lerobot")
    check(info(tmp_path / "out")["features"]["observation.state"]["names"] == names, "names")


# --- columns that point into tables

NAMES = ["annotation.human.action.task_description", "annotation.human.validity"]
SAYS = ["valid", "lift the mug", "wipe the table", "close the drawer"]
MODALITY = {
    "state": {"arm": {"start": 0, "end": 3}, "hand": {"start": 3, "end": 5}},
    "action": {"arm": {"start": 0, "end": 2}},
    "video": {"front": {"original_key": "observation.images.front"}},
    "annotation": {
        "human.action.task_description": {},
        "human.validity": {},
        "goal": {"original_key": "goal"},
    },
}


def groot(root):
    """A v2.1 dataset with GR00T's annotations; `goal` is one by its modality only."""
    made = Made(LENGTHS)
    v2(f"{root}", made)
    lines = [{"task_index": at, "task": text} for at, text in enumerate(SAYS)]
    put(f"{root}/meta/tasks.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    put(f"{root}/meta/modality.json", MODALITY)
    columns = {"task_index": 3 - made.episode, NAMES[0]: 3 - made.episode, NAMES[1]: made.n * [0]}
    columns["goal"] = made.frame % 4

    def annotate(part):
        # `index` is the number of a row in the dataset.
        at = part["index"].to_numpy()
        for name, values in columns.items():
            if name in part.column_names:
                part = part.drop_columns([name])
            part = part.append_column(name, pa.array(np.asarray(values, np.int64)[at]))
        return part

    rewrite(root, annotate)
    declare(root, **{name.replace(".", "__"): "int64" for name in columns})
    put(f"{root}/meta/info.json", {**info(root), "total_tasks": 4})
    return made, {name: [SAYS[index] for index in values] for name, values in columns.items()}


@pytest.mark.parametrize("version", ["lerobot", "lerobot-v2.1"])
def test_annotations_keep_their_texts(tmp_path, version):
    made, said = groot(tmp_path / "in")
    run(tmp_path, {"path": "in"}, {"filter": "length > 4"}, path="out", format=version)
    kept = made.episode > 0
    for name in ["task_index", *NAMES, "goal"]:
        wanted = [text for text, keep in zip(said[name], kept) if keep]
        check(resolved(tmp_path / "out", name) == wanted, f"texts of {name}")
        check(info(tmp_path / "out")["features"][name]["dtype"] == "int64", f"type of {name}")
    check("close the drawer" not in resolved(tmp_path / "out", "task_index"), "no unused task")
    modality = json.loads((tmp_path / "out/meta/modality.json").read_text())
    check(modality == {**MODALITY, "video": {}}, f"modality: {modality}")
    trajmill("validate", tmp_path / "out")
    trajmill("import", tmp_path / "out", tmp_path / "back")
    column = table(tmp_path / "back")[NAMES[1]]
    check(column.to_pylist() == ["valid"] * 11, "annotations are text in a dataset of trajmill")


def test_parts_follow_a_state_whose_width_changes(tmp_path):
    groot(tmp_path / "in")
    other = {"derive": {"observation": "categorical(reward, -1, 1, 2)"}}
    done = run(tmp_path, {"path": "in"}, other, path="out", format="lerobot")
    modality = json.loads((tmp_path / "out/meta/modality.json").read_text())
    width = info(tmp_path / "out")["features"]["observation.state"]["shape"]
    check(width == [2], f"width {width}")
    check(modality["state"] == {"state": {"start": 0, "end": 2}}, f"modality: {modality}")
    check(modality["action"] == MODALITY["action"], "the parts of actions")
    says(done.stderr, ["modality.json", "observation.state"], "the change is named")


def test_an_index_without_a_text_is_an_error_with_its_place(tmp_path):
    groot(tmp_path / "in")

    def wrong(part):
        at = part.column_names.index(NAMES[1])
        return part.set_column(at, NAMES[1], pa.array([7] * len(part)))

    rewrite(tmp_path / "in", wrong)
    failed = trajmill("import", tmp_path / "in", tmp_path / "own", code=1)
    says(failed.stderr, [NAMES[1], "7", "tasks.jsonl", "episode 0", "frame 0"], "the place")
    found = trajmill("validate", tmp_path / "in", "--json", code=4).stdout
    check("text-index" in found, "validate finds it too")


def subtasks(root, names, seed):
    made = Made(LENGTHS, seed=seed)
    made.tasks = [f"{name} it" for name in names]
    v30(f"{root}", made)
    index = made.frame % 2
    rewrite(root, lambda part: part.append_column("subtask_index", pa.array(index)))
    declare(root, subtask_index="int64")
    frame = pd.DataFrame({"subtask_index": range(2)}, index=pd.Index(names, name="subtask"))
    frame.to_parquet(f"{root}/meta/subtasks.parquet")
    return [names[at] for at in index], [made.tasks[at] for at in made.task]


def test_merged_datasets_merge_their_tables_by_text(tmp_path):
    first = subtasks(tmp_path / "a", ["reach", "grasp"], 1)
    second = subtasks(tmp_path / "b", ["place", "reach"], 2)
    run(tmp_path, [{"path": "a"}, {"path": "b"}], path="out", format="lerobot")
    check(resolved(tmp_path / "out", "subtask_index", "subtask") == first[0] + second[0], "subtask")
    check(resolved(tmp_path / "out", "task_index") == first[1] + second[1], "tasks")
    check(texts(tmp_path / "out", "subtask") == ["reach", "grasp", "place"], "one table")
    trajmill("validate", tmp_path / "out")


def test_subtasks_without_their_table_are_refused(tmp_path):
    subtasks(tmp_path / "a", ["reach", "grasp"], 1)
    (tmp_path / "a/meta/subtasks.parquet").unlink()
    failed = trajmill("import", tmp_path / "a", tmp_path / "own", code=1)
    says(failed.stderr, ["subtask_index", "subtasks.parquet"], "the missing table")


def test_any_table_beside_an_index_is_read(tmp_path):
    """A dataset may have tables that LeRobot does not know."""
    v30(f"{tmp_path}/in", Made(LENGTHS))
    rewrite(tmp_path / "in", lambda part: part.append_column("skill_index", part["task_index"]))
    declare(tmp_path / "in", skill_index="int64")
    lines = [json.dumps({"skill_index": at, "skill": text}) for at, text in enumerate("ab")]
    put(f"{tmp_path}/in/meta/skills.jsonl", "\n".join(lines))
    run(tmp_path, {"path": "in"}, {"filter": "task like 'open%'"}, path="out", format="lerobot")
    check(resolved(tmp_path / "out", "skill_index", "skill") == ["b"] * 5, "skills")


# --- language


def test_language_columns_are_left_out_by_name(tmp_path):
    v30(f"{tmp_path}/in", Made(LENGTHS))
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    said = [[{"role": "user", "content": "no"}] * (row % 3) for row in range(sum(LENGTHS))]
    change = lambda part: part.append_column("language_events", pa.array(said, kind))
    rewrite(tmp_path / "in", change)
    declare(tmp_path / "in", language_events="language")
    put(f"{tmp_path}/in/meta/calibration.yaml", "a: 1\n")
    trajmill("validate", tmp_path / "in")
    done = trajmill("import", tmp_path / "in", tmp_path / "own")
    says(done.stderr, ["left out", "language_events", "meta/calibration.yaml"], "what is left out")
    check("language_events" not in table(tmp_path / "own").column_names, "no column")
    ran = run(tmp_path, {"path": "in"}, path="out", format="lerobot")
    says(ran.stderr, ["language_events"], "a pipeline names it too")


def test_a_new_task_is_the_task_of_the_trajectory(tmp_path):
    v30(f"{tmp_path}/in", Made(LENGTHS))
    relabel = {"derive": {"task": "'Put it down.'"}}
    picked = {"filter": "task = 'Put it down.'"}
    run(tmp_path, {"path": "in"}, relabel, picked, path="own")
    check(len(table(tmp_path / "own", "trajectories")) == 3, "all trajectories have the new task")
    run(tmp_path, {"path": "in"}, relabel, path="out", format="lerobot")
    check(texts(tmp_path / "out", "task") == ["Put it down."], "one task")
    trajmill("import", tmp_path / "out", tmp_path / "back")
    for part in ("steps", "trajectories"):
        found = set(table(tmp_path / "back", part)["task"].to_pylist())
        check(found == {"Put it down."}, f"no stale text in {part}: {found}")


def test_rlds_and_lerobot_call_the_instruction_differently(tmp_path):
    made = Rlds([4, 3, 5], 0)
    made.write(f"{tmp_path}/kitchen/1.0.0")
    said = [text.decode() for episode in made.episodes for text in episode["language_instruction"]]
    source = {"path": "kitchen/1.0.0"}
    run(tmp_path, source, path="lr", format="lerobot", **{"with": {"fps": 5}})
    check(resolved(tmp_path / "lr", "task_index") == said, "the instructions are the tasks")
    run(tmp_path, {"path": "lr"}, path="back", format="rlds")
    trajmill("import", tmp_path / "back", tmp_path / "own")
    check(table(tmp_path / "own")["task"].to_pylist() == said, "and back")
    features = json.loads((tmp_path / "back/features.json").read_text())
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    check("language_instruction" in steps["featuresDict"]["features"], "the name that loaders know")


def test_a_folder_is_no_task(tmp_path):
    made = Made(LENGTHS)
    steps = {"episode": made.episode, "action": list(made.columns["action"])}
    steps["observation"] = list(made.columns["observation.state"])
    (tmp_path / "my_kitchen").mkdir()
    pq.write_table(pa.table(steps), tmp_path / "my_kitchen/1.0.0.parquet")
    source = {"path": "my_kitchen/1.0.0.parquet", "map": {}, "trajectory": "episode"}
    done = run(tmp_path, source, path="none", format="lerobot")
    check(texts(tmp_path / "none", "task") == [""], "no task")
    says(done.stderr, ["--task"], "the remedy")
    run(tmp_path, {**source, "task": "stir"}, path="given", format="lerobot")
    check(texts(tmp_path / "given", "task") == ["stir"], "the task of the source")


def test_a_task_that_is_set_replaces_another(tmp_path):
    v30(f"{tmp_path}/in", Made(LENGTHS))
    done = trajmill("import", tmp_path / "in", tmp_path / "own", "--task", "open the door")
    says(done.stderr, ["replaced that of 2 trajectories"], "how many had another")
    for part in ("steps", "trajectories"):
        found = set(table(tmp_path / "own", part)["task"].to_pylist())
        check(found == {"open the door"}, f"the task in {part}")
    run(tmp_path, {"path": "own", "task": "close it"}, path="again")
    found = set(table(tmp_path / "again", "trajectories")["task"].to_pylist())
    check(found == {"close it"}, "also of a dataset of trajmill")


# --- cuts


def test_frames_and_times_of_a_cut_begin_at_zero(tmp_path):
    v30(f"{tmp_path}/in", Made([10, 8]))
    keep = {"filter": {"steps": "step >= 2 and step < 7"}}
    stages = [{"derive": {"source_step": "step"}}, keep]
    run(tmp_path, {"path": "in"}, *stages, path="out", format="lerobot")
    found = rows(tmp_path / "out")
    equal(found["frame_index"], list(range(5)) * 2, "frames")
    close(found["timestamp"], [at / 25 for at in range(5)] * 2, "times")
    equal(found["source_step"], list(range(2, 7)) * 2, "steps of the source")
    trajmill("validate", tmp_path / "out")


def test_chosen_columns_come_beside_those_of_every_dataset(tmp_path):
    v30(f"{tmp_path}/in", Made(LENGTHS))
    source_step = {"derive": {"source_step": "step"}}
    run(tmp_path, {"path": "in"}, source_step, path="out", columns=["source_step"])
    names = ["trajectory_id", "step", "observation", "action", "reward"]
    names += ["terminated", "truncated", "is_final", "source_step"]
    check(table(tmp_path / "out").column_names == names, table(tmp_path / "out").column_names)


# --- pictures


def png_pixels(content):
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(content)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize("version", ["lerobot", "lerobot-v2.1"])
def test_arrays_of_pixels_become_images(tmp_path, version):
    import h5py

    random = oracle.seeded("pixels")
    lengths = [4, 3]
    pixels = random.integers(0, 256, (7, 12, 10, 3), np.uint8)
    with h5py.File(tmp_path / "in.hdf5", "w") as file:
        for at, (first, length) in enumerate([(0, 4), (4, 3)]):
            demo = file.create_group(f"data/demo_{at}")
            demo.attrs["num_samples"] = length
            demo["actions"] = random.uniform(-1, 1, (length, 2))
            demo["obs/joints"] = random.normal(size=(length, 3))
            demo["obs/agentview_image"] = pixels[first : first + length]
        file["data"].attrs["total"] = 7
    trajmill("import", tmp_path / "in.hdf5", tmp_path / "own", "--from", "robomimic")
    trajmill("export", tmp_path / "own", tmp_path / "out", "--to", version, "--task", "look")
    features = info(tmp_path / "out")["features"]
    name = "observation.agentview_image"
    check(features[name]["dtype"] == "image", f"{features}")
    check(features[name]["shape"] == [12, 10, 3], "shape")
    check(features[name]["names"] == ["height", "width", "channel"], "names of the axes")
    stored = rows(tmp_path / "out")[name].to_pylist()
    for row, image in enumerate(stored):
        check((png_pixels(image["bytes"]) == pixels[row]).all(), f"picture {row}")
    if version == "lerobot":
        stats = json.loads((tmp_path / "out/meta/stats.json").read_text())[name]
        scaled = np.moveaxis(pixels / 255.0, 3, 1)
    else:
        lines = (tmp_path / "out/meta/episodes_stats.jsonl").read_text().splitlines()
        stats = json.loads(lines[0])["stats"][name]
        scaled = np.moveaxis(pixels[: lengths[0]] / 255.0, 3, 1)
    axes = (0, 2, 3)
    for key, wanted in {
        "min": scaled.min(axes),
        "max": scaled.max(axes),
        "mean": scaled.mean(axes),
        "std": scaled.std(axes),
        "q01": np.quantile(scaled, 0.01, axes),
        "q90": np.quantile(scaled, 0.9, axes),
    }.items():
        if key in stats:
            close(stats[key], wanted.reshape(3, 1, 1), key)
    equal(stats["count"], [len(scaled)], "count")
    trajmill("import", tmp_path / "out", tmp_path / "back")
    before, after = (table(tmp_path / one)["observation"].to_pylist() for one in ("own", "back"))
    check(before == after, "pixels there and back")


# --- features that are no data


@pytest.fixture(scope="module")
def labelled(shared):
    """An export with gaps, labels, and columns with misleading names."""
    v30(f"{shared}/in", Made(LENGTHS))
    hide = {"hide_actions": {"keep": 1, "seed": 1}}
    derive = {
        "action_norm": "abs(action[1])",
        "observations_seen": "step",
        "action_note": "'text'",
        "speed": "case when step > 1 then 1.0 end",
    }
    run(shared, {"path": "in"}, {"derive": derive}, hide, path="own")
    trajmill(
        "export", shared / "own", shared / "out", "--to", "lerobot", "--unlabelled", "fill"
    )
    return shared / "out"


def test_no_feature_pretends_to_be_data(labelled):
    features = info(labelled)["features"]
    wanted = {
        "observation.state": "STATE",
        "observation.heights": "STATE",
        "observation.images.top": "VISUAL",
        "action": "ACTION",
    }
    check(policy_features(features) == wanted, f"{policy_features(features)}")
    for name in ["action_valid", "action_norm", "observations_seen", "action_note"]:
        check(f"trajmill.{name}" in features, f"{name} is in {list(features)}")
    trajmill("validate", labelled)


def test_features_come_back_under_their_names(labelled, tmp_path):
    shutil.copytree(labelled, tmp_path / "copy")
    (tmp_path / "copy/.trajmill.json").unlink()
    # Earlier versions wrote the names without the prefix.
    shutil.copytree(tmp_path / "copy", tmp_path / "old")
    old = lambda name: name.removeprefix("trajmill.")
    rewrite(
        tmp_path / "old", lambda part: part.rename_columns([old(name) for name in part.column_names])
    )
    text = info(tmp_path / "old")
    text["features"] = {old(name): feature for name, feature in text["features"].items()}
    put(f"{tmp_path}/old/meta/info.json", text)
    for source in (labelled, tmp_path / "copy", tmp_path / "old"):
        back = tmp_path / f"back-{source.name}"
        trajmill("import", source, back)
        own, steps = table(labelled.parent / "own"), table(back)
        for name in ["action", "action_norm", "observations_seen", "action_note"]:
            check(steps[name].to_pylist() == own[name].to_pylist(), f"{name} of {source.name}")


@pytest.mark.reference("lerobot", "torch")
def test_lerobot_gives_a_policy_nothing_else(labelled):
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.datasets.utils import dataset_to_policy_features

    features = LeRobotDatasetMetadata("some/name", root=labelled).features
    found = {name: one.type.value for name, one in dataset_to_policy_features(features).items()}
    check(found == policy_features(features), f"{found}")


# --- validate


def test_segments_of_a_trajectory_are_no_copies(tmp_path):
    v30(f"{tmp_path}/in", Made([12, 9]))
    pieces = {"filter": {"steps": "step % 4 <> 3"}}
    for name, format in [("lr", "lerobot"), ("v21", "lerobot-v2.1"), ("rl", "rlds")]:
        run(tmp_path, {"path": "in"}, pieces, path=name, format=format)
        found = json.loads(trajmill("validate", tmp_path / name, "--json").stdout)["faults"]
        rules = {fault["rule"] for fault in found}
        # RLDS has a place for final observations, and there are none.
        check(rules <= ({"no-finals", "open-ends"} if name == "rl" else set()), f"{name}: {found}")


def test_findings_alike_are_folded(tmp_path):
    made = Made([3] * 100)
    made.columns["action"][:] = np.nan
    v30(f"{tmp_path}/in", made, files=[[episode] for episode in range(100)])
    done = trajmill("validate", tmp_path / "in", code=4)
    lines = [line for line in done.stdout.splitlines() if "[nan-action]" in line]
    check(len(lines) == 3, f"{len(lines)} lines")
    says(done.stdout, ["… and 98 more like it [nan-action]"], "the rest")


@pytest.mark.parametrize("version", ["lerobot", "lerobot-v2.1"])
def test_numbers_of_the_user_with_names_of_lerobots_are_kept(tmp_path, version):
    n = 12
    columns = {
        "trajectory_id": [0] * 6 + [1] * 6,
        "episode_index": [70] * 6 + [40] * 6,
        "index": [None, *range(1, n)],
        "timestamp": [row * 0.5 for row in range(n)],
        "frame_index": [*range(6)] * 2,
        "observation": pa.array([[row, 1.0] for row in range(n)], pa.list_(pa.float32())),
        "action": pa.array([[0.5]] * n, pa.list_(pa.float32())),
        "terminated": ([False] * 5 + [True]) * 2,
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    trajmill("import", tmp_path / "in.parquet", tmp_path / "made")
    done = trajmill("export", tmp_path / "made", tmp_path / "out", "--to", version, "--fps", 10)
    for name in ("episode_index", "index", "timestamp"):
        says(done.stderr, [f"column `{name}`", f"`source_{name}`"], name)
    check("`frame_index`" not in done.stderr, f"the same numbers: {done.stderr}")
    found = pa.concat_tables(
        pq.read_table(file) for file in sorted((tmp_path / "out/data").glob("*/*.parquet"))
    )
    for name in ("episode_index", "timestamp"):
        check(found[f"source_{name}"].to_pylist() == columns[name], f"{name} of the user")
    check(found["source_index_valid"].to_pylist() == [False] + [True] * 11, "a null")
    check(found["episode_index"].to_pylist() == [0] * 6 + [1] * 6, "LeRobot's own numbers")
    trajmill("import", tmp_path / "out", tmp_path / "back")
    check(table(tmp_path / "back")["source_index"].to_pylist() == columns["index"], "back")
    # Those of a LeRobot dataset are computed anew, and the summary says so.
    lines = {"filter": {"trajectories": "source_key = '1'"}}
    made = oracle.run(tmp_path, [lines], str(tmp_path / "back"), name="one")
    done = trajmill("export", made.path, tmp_path / "again", "--to", version)
    says(done.stderr, ["the values of `episode_index`: computed anew"], "LeRobot's own numbers")


def splits(root, ranges):
    """Replaces the splits that a LeRobot dataset states."""
    (root / "meta/info.json").write_text(json.dumps(info(root) | {"splits": ranges}))


@pytest.mark.parametrize("version", ["lerobot", "lerobot-v2.1"])
def test_an_export_adds_no_task_and_no_split(tmp_path, version):
    columns = {
        "trajectory_id": [0] * 3 + [1] * 3,
        "observation": pa.array([[row, 1.0] for row in range(6)], pa.list_(pa.float32())),
        "action": pa.array([[0.5]] * 6, pa.list_(pa.float32())),
        "subtask": ["reach", None, "", "reach", "lift", "lift"],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    trajmill("import", tmp_path / "in.parquet", tmp_path / "made")
    trajmill("export", tmp_path / "made", tmp_path / "out", "--to", version, "--fps", 10)
    check(info(tmp_path / "out")["splits"] == {"train": "0:2"}, "the split that LeRobot needs")
    trajmill("import", tmp_path / "out", tmp_path / "back")
    back = table(tmp_path / "back")
    check(back["task"].null_count == 6, f"tasks: {back['task'].to_pylist()}")
    found = back["subtask"].to_pylist()
    check(found == ["reach", None, None, "reach", "lift", "lift"], f"subtasks: {found}")
    trajectories = table(tmp_path / "back", "trajectories")
    check(trajectories["task"].null_count == 2, "the tasks of trajectories")
    check("split" not in trajectories.column_names, "no split")
    # What a file says that another program wrote, or changed, counts.
    splits(tmp_path / "out", {"train": "0:1", "test": "1:2"})
    trajmill("import", tmp_path / "out", tmp_path / "changed")
    found = table(tmp_path / "changed", "trajectories")["split"].to_pylist()
    check(found == ["train", "test"], f"changed splits: {found}")
    v30(f"{tmp_path}/foreign", Made(LENGTHS))
    splits(tmp_path / "foreign", {"train": "0:3"})
    trajmill("import", tmp_path / "foreign", tmp_path / "theirs")
    trajmill("export", tmp_path / "theirs", tmp_path / "again", "--to", version)
    trajmill("import", tmp_path / "again", tmp_path / "same")
    for name in ("theirs", "same"):
        found = table(tmp_path / name, "trajectories")["split"].to_pylist()
        check(found == ["train"] * 3, f"splits, {name}: {found}")


@pytest.mark.parametrize("version", ["lerobot", "lerobot-v2.1"])
def test_an_empty_task_is_no_task(tmp_path, version):
    columns = {
        "trajectory_id": [0, 0, 1, 1, 2, 2],
        "observation": pa.array([[row, 1.0] for row in range(6)], pa.list_(pa.float32())),
        "action": pa.array([[0.5]] * 6, pa.list_(pa.float32())),
        "task": ["go", "go", "", "", None, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    trajmill("import", tmp_path / "in.parquet", tmp_path / "made")
    for name, options, rest in (("none", [], None), ("set", ["--task", "walk"], "walk")):
        out = tmp_path / f"{name}-out"
        options = ["--to", version, "--fps", 10, *options]
        done = trajmill("export", tmp_path / "made", out, *options)
        check(("set it with --task" in done.stderr) == (rest is None), f"{name}: {done.stderr}")
        trajmill("import", out, tmp_path / name)
        found = table(tmp_path / name)["task"].to_pylist()
        check(found == ["go", "go", *[rest] * 4], f"{name}, steps: {found}")
        found = table(tmp_path / name, "trajectories")["task"].to_pylist()
        check(found == ["go", rest, rest], f"{name}, trajectories: {found}")


@pytest.mark.parametrize("version", ["lerobot", "lerobot-v2.1"])
def test_times_within_the_tolerance_that_change_are_named(tmp_path, version):
    times = np.concatenate([np.arange(4) / 10, np.arange(900) / 10])
    for name, jitter, expected in (("even", 0.0, None), ("uneven", 5e-5, "up to 5e-5 s")):
        columns = {
            "trajectory_id": [0] * 4 + [1] * 900,
            "timestamp": times + jitter * (np.arange(904) % 2),
            "observation": pa.array([[row, 1.0] for row in range(904)], pa.list_(pa.float32())),
            "action": pa.array([[0.5]] * 904, pa.list_(pa.float32())),
        }
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        trajmill("import", tmp_path / f"{name}.parquet", tmp_path / name)
        out = tmp_path / f"{name}-out"
        done = trajmill("export", tmp_path / name, out, "--to", version, "--fps", 10)
        if expected:
            says(done.stderr, ["the exact values of `timestamp`", expected], name)
        else:
            check("timestamp" not in done.stderr, f"{name}: {done.stderr}")
        equal(rows(out)["timestamp"].to_numpy(), times.astype(np.float32), f"times of {name}")
