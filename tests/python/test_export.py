"""Every format that is written holds what its loader expects, and comes back as it went out."""

import json
import os

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from minari import MinariDataset

from oracle import check, manifest, same, same_dataset, says, table, trajmill
from writers.ours import Made


def h5(group, name):
    return group[name][()]


def d4rl(made, out):
    """The file as h5py has it, and D4RL's own rules for transitions."""
    with h5py.File(out) as file:
        data = {}
        file.visititems(
            lambda name, node: (
                data.__setitem__(name, node[()]) if isinstance(node, h5py.Dataset) else None
            )
        )
    steps = sum(made.lengths)
    for name in [
        "observations",
        "actions",
        "rewards",
        "terminals",
        "timeouts",
        "next_observations",
    ]:
        check(len(data[name]) == steps, f"d4rl: {name} has {len(data[name])} rows")
    check(
        same(
            data["observations"],
            np.concatenate([e["observation"][:n] for e, n in zip(made.episodes, made.lengths)]),
        ),
        "d4rl: observations",
    )
    check(
        same(data["actions"], np.concatenate([e["action"] for e in made.episodes])), "d4rl: actions"
    )
    check(
        same(data["rewards"], np.concatenate([e["reward"] for e in made.episodes])), "d4rl: rewards"
    )
    check(
        data["terminals"].dtype == bool and data["timeouts"].dtype == bool,
        "d4rl: flags are booleans",
    )
    following = [
        np.concatenate([e["observation"][1 : n + 1], e["observation"][n - 1 : n]])[:n]
        for e, n in zip(made.episodes, made.lengths)
    ]
    check(same(data["next_observations"], np.concatenate(following)), "d4rl: next observations")
    ends = np.cumsum(made.lengths) - 1
    check(np.array_equal(np.flatnonzero(data["terminals"] | data["timeouts"]), ends), "d4rl: ends")
    check(
        np.array_equal(
            np.flatnonzero(data["terminals"]), ends[[e["terminated"] for e in made.episodes]]
        ),
        "d4rl: terminals",
    )
    check(
        same(
            data["infos/qpos"],
            np.concatenate([e["qpos"][:n] for e, n in zip(made.episodes, made.lengths)]),
        ),
        "d4rl: infos",
    )
    # qlearning_dataset: rows 0..N-2, those with a timeout left out.
    kept = [row for row in range(steps - 1) if not data["timeouts"][row]]
    cut_off = sum(not episode["terminated"] for episode in made.episodes[:-1])
    check(len(kept) == steps - 1 - cut_off, "d4rl: transitions")
    inside = [row for row in kept if not data["terminals"][row]]
    check(
        all(
            np.array_equal(data["observations"][row + 1], data["next_observations"][row])
            for row in inside
        ),
        "d4rl: next rows",
    )


def minari_episodes(made, out):
    dataset = MinariDataset(os.path.join(out, "data"))
    check(
        dataset.total_episodes == len(made.lengths) and dataset.total_steps == sum(made.lengths),
        "minari: totals",
    )
    check(dataset.spec.dataset_id == "test/made-v0", "minari: id")
    for episode, wanted, length in zip(
        dataset.iterate_episodes(), made.episodes, made.lengths, strict=True
    ):
        check(len(episode.observations) == length + 1, "minari: a row more of observations")
        check(
            same(episode.observations[: len(wanted["observation"])], wanted["observation"]),
            "minari: observations",
        )
        check(same(episode.actions, wanted["action"]), "minari: actions")
        check(same(episode.rewards, wanted["reward"]), "minari: rewards")
        check(
            episode.terminations.dtype == bool and episode.terminations[-1] == wanted["terminated"],
            "minari: terminations",
        )
        check(episode.truncations[-1] == (not wanted["terminated"]), "minari: truncations")
        check(same(episode.infos["qpos"][: len(wanted["qpos"])], wanted["qpos"]), "minari: infos")
        space = dataset.observation_space
        check(
            space.dtype == wanted["observation"].dtype
            and space.shape == wanted["observation"].shape[1:],
            "minari: space",
        )
    check(len(list(dataset.sample_episodes(1))) == 1, "minari: sampling")


def robomimic(made, out):
    with h5py.File(out) as file:
        data = file["data"]
        demos = sorted(data, key=lambda name: int(name[5:]))
        check(
            len(demos) == len(made.lengths) and data.attrs["total"] == sum(made.lengths),
            "robomimic: totals",
        )
        check(json.loads(data.attrs["env_args"])["env_name"] == "Made-v0", "robomimic: env_args")
        for demo, wanted, length in zip(demos, made.episodes, made.lengths):
            group = data[demo]
            check(group.attrs["num_samples"] == length, "robomimic: num_samples")
            check(
                same(h5(group, "obs/observation"), wanted["observation"][:length]), "robomimic: obs"
            )
            check(same(h5(group, "actions"), wanted["action"]), "robomimic: actions")
            check(same(h5(group, "rewards"), wanted["reward"]), "robomimic: rewards")
            check(h5(group, "dones")[-1] == wanted["terminated"], "robomimic: dones")
            check(np.abs(h5(group, "actions")).max() <= 1, "robomimic: actions in [-1, 1]")
            if wanted["known"]:
                check(
                    same(h5(group, "next_obs/observation"), wanted["observation"][1:]),
                    "robomimic: next_obs",
                )


def d3rlpy(made, out):
    """As d3rlpy's load reads a dump: names, shapes and types."""
    with h5py.File(out) as file:
        check(file["version"][()].decode() == "2.1", "d3rlpy: version")
        check(
            [name.decode() for name in file["columns"][()]]
            == ["observations", "actions", "rewards", "terminated"],
            "d3rlpy: columns",
        )
        check(int(file["num_episodes"][()]) == len(made.lengths), "d3rlpy: episodes")
        for index, (wanted, length) in enumerate(zip(made.episodes, made.lengths)):
            check(
                same(h5(file, f"observations_{index}"), wanted["observation"][:length]),
                "d3rlpy: observations",
            )
            check(
                same(h5(file, f"actions_{index}"), wanted["action"].reshape(length, -1)),
                "d3rlpy: actions",
            )
            check(
                same(h5(file, f"rewards_{index}"), wanted["reward"].reshape(length, 1)),
                "d3rlpy: rewards",
            )
            check(
                bool(file[f"terminated_{index}"][()]) == wanted["terminated"]
                and file[f"terminated_{index}"].dtype == bool,
                "d3rlpy: terminated",
            )


def ogbench(made, out):
    data = np.load(out)
    rows = sum(made.lengths) + len(made.lengths)
    check(
        all(
            len(data[name]) == rows for name in ["observations", "actions", "terminals", "rewards"]
        ),
        "ogbench: a row more each",
    )
    last = np.cumsum([length + 1 for length in made.lengths]) - 1
    check(
        np.array_equal(np.flatnonzero(data["terminals"]), last),
        "ogbench: terminals on last rows alone",
    )
    keep = np.ones(rows, bool)
    keep[last] = False
    check(
        same(data["actions"][keep], np.concatenate([e["action"] for e in made.episodes])),
        "ogbench: actions",
    )
    check(not data["actions"][last].any(), "ogbench: the last action is filler")
    check(
        same(
            data["observations"][keep],
            np.concatenate([e["observation"][:n] for e, n in zip(made.episodes, made.lengths)]),
        ),
        "ogbench: observations",
    )


def npy(made, out):
    load = lambda name: np.load(os.path.join(out, f"{name}.npy"), mmap_mode="r", allow_pickle=False)
    starts = load("starts")
    rows = [length + e["known"] for length, e in zip(made.lengths, made.episodes)]
    check(np.array_equal(np.diff(starts), rows) and starts[0] == 0, "npy: starts")
    check(
        same(
            np.array(load("observation")), np.concatenate([e["observation"] for e in made.episodes])
        ),
        "npy: observations",
    )
    steps = ~load("is_final")
    check(
        same(np.array(load("action"))[steps], np.concatenate([e["action"] for e in made.episodes])),
        "npy: actions",
    )
    if any(e["known"] for e in made.episodes):
        check(np.array_equal(load("action_valid"), steps), "npy: which actions are there")


def arrow(made, out):
    with pa.memory_map(os.path.join(out, "steps.arrow")) as file:
        steps = pa.ipc.open_file(file).read_all()
        check(
            steps.num_rows
            == sum(length + e["known"] for length, e in zip(made.lengths, made.episodes)),
            "arrow: rows",
        )
        stacked = steps["observation"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        check(
            same(stacked, np.concatenate([e["observation"] for e in made.episodes]).reshape(-1)),
            "arrow: observations",
        )


def parquet(made, out):
    steps = pq.read_table(out)
    check(
        steps.num_rows
        == sum(length + e["known"] for length, e in zip(made.lengths, made.episodes)),
        "parquet: rows",
    )


# Where an export goes, who reads it, and what else the command needs.
FORMATS = {
    "d4rl": ("out.hdf5", d4rl, []),
    "minari": ("out-minari", minari_episodes, ["--name", "test/made-v0"]),
    "robomimic": ("out-robomimic.hdf5", robomimic, ["--env", "Made-v0"]),
    "d3rlpy": ("out-d3rlpy.h5", d3rlpy, []),
    "ogbench": ("out.npz", ogbench, []),
    "npy": ("out-npy", npy, []),
    "arrow": ("out-arrow", arrow, []),
    "parquet": ("out-parquet", parquet, []),
}
COMES_BACK = [name for name in FORMATS if name not in ("npy", "parquet")]
MADE = {
    "float32": dict(seed=1, lengths=[5, 1, 4, 7]),
    "float64": dict(seed=2, lengths=[3, 2], dtype=np.float64),
    "some-final": dict(seed=3, lengths=[4, 3, 6, 2], final=[True, False, True, False]),
}
# D4RL has no row for what stands beside a final observation.
LOST = {"d4rl": ["infos/qpos", "note"]}


@pytest.fixture(scope="module", params=MADE)
def made(request, shared):
    """A dataset and the arrays that it holds."""
    return Made(shared, request.param, **MADE[request.param])


def export(made, name, folder):
    """The path of what a dataset is exported to, and what the export said."""
    output, _, options = FORMATS[name]
    return folder / output, trajmill(
        "export", made.path, folder / output, "--to", name, *options
    ).stderr


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_holds_what_its_loader_expects(made, tmp_path, name):
    out, _ = export(made, name, tmp_path)
    FORMATS[name][1](made, out)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_export_again_does_nothing(made, tmp_path, name):
    out, _ = export(made, name, tmp_path)
    _, said = export(made, name, tmp_path)
    check("nothing to do" in said, f"{name}: the same export again")
    check(os.listdir(tmp_path) == [out.name], f"{name}: staging is left: {os.listdir(tmp_path)}")


@pytest.mark.parametrize("name", COMES_BACK)
def test_an_export_is_detected_and_comes_back(made, tmp_path, name):
    """Detected by what it holds, not by its name."""
    out, _ = export(made, name, tmp_path)
    trajmill("import", out, tmp_path / "back")
    by = manifest(tmp_path / "back")["lineage"]["by"]
    check(by == f"import {name}", f"{name}: detected as {by}")
    same_dataset(made.path, tmp_path / "back", name, LOST.get(name, ()))


# --- materialise

PIPE = """trajmill: 1
source: made
stages:
  - filter: length >= 3
  - materialise: {path: piped.hdf5, format: d4rl}
"""


@pytest.fixture
def piped(tmp_path):
    """A dataset, the pipeline that materialises it as D4RL, the file, and what the run said."""
    made = Made(tmp_path, "made", 1, [5, 1, 4, 7])
    pipeline = tmp_path / "pipe.yaml"
    pipeline.write_text(PIPE)
    return made, pipeline, tmp_path / "piped.hdf5", trajmill("run", pipeline).stderr


def test_materialise_writes_a_format_and_knows_it_again(piped):
    made, pipeline, out, said = piped
    check("identity of trajectories" in said, f"the summary says what went elsewhere: {said}")
    with h5py.File(out) as file:
        check(
            len(file["observations"]) == sum(length for length in made.lengths if length >= 3),
            "rows",
        )
    check(trajmill("run", pipeline).stderr.count("nothing to do") == 1, "nothing to do")
    before = out.read_bytes()
    trajmill("run", pipeline, "--fresh")
    check(out.read_bytes() == before, "the same bytes")


def test_materialise_does_not_replace_what_was_made_otherwise(piped):
    _, pipeline, _, _ = piped
    pipeline.write_text(PIPE.replace(">= 3", ">= 4"))
    says(
        trajmill("run", pipeline, code=1).stderr,
        ["piped.hdf5", "filter", "overwrite"],
        "a change is named",
    )


def test_identities_survive_filter_and_export(piped, tmp_path):
    made, _, out, _ = piped
    trajmill("import", out, tmp_path / "back")
    before, kept = table(made.path, "trajectories"), table(tmp_path / "back", "trajectories")
    uids = dict(zip(before["source_key"].to_pylist(), before["uid"].to_pylist()))
    check(len(kept) == sum(length >= 3 for length in made.lengths), "trajectories")
    check(
        all(
            uids[key] == uid
            for key, uid in zip(kept["source_key"].to_pylist(), kept["uid"].to_pylist())
        ),
        "uid survives filter and export",
    )


# --- steps without actions

MISSING = [2, 3, 7]


@pytest.fixture
def gaps(tmp_path):
    """Observations, actions, and a dataset where some actions are missing."""
    random = np.random.default_rng(5)
    obs = random.normal(size=(8, 2)).astype(np.float32)
    act = random.normal(size=(8, 1)).astype(np.float32)
    rows = {
        "episode": ["a"] * 6 + ["b"] * 2,
        "observation": list(obs),
        "action": [None if row in MISSING + [5] else value for row, value in enumerate(act)],
        "reward": [None if row == 5 else float(row) for row in range(8)],
        "is_final": [row == 5 for row in range(8)],
        "terminated": [row in [4, 7] for row in range(8)],
    }
    types = [
        pa.string(),
        pa.list_(pa.float32()),
        pa.list_(pa.float32()),
        pa.float32(),
        pa.bool_(),
        pa.bool_(),
    ]
    pq.write_table(
        pa.table({key: pa.array(rows[key], type=kind) for key, kind in zip(rows, types)}),
        tmp_path / "gaps.parquet",
    )
    trajmill(
        "import", tmp_path / "gaps.parquet", tmp_path / "gaps", "--map", "trajectory_id=episode"
    )
    return obs, act, tmp_path / "gaps", tmp_path / "gaps.hdf5"


def test_an_export_of_steps_without_actions_is_refused(gaps):
    _, _, made, out = gaps
    says(
        trajmill("export", made, out, "--to", "d4rl", code=1).stderr,
        ["3 of 7 steps", "action"],
        "refused",
    )
    check(not out.exists(), "nothing is written")


def test_missing_actions_are_filled_and_marked(gaps):
    _, act, made, out = gaps
    trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "fill", "--fill", "-2")
    with h5py.File(out) as file:
        valid = np.array([row not in MISSING for row in range(8) if row != 5])
        check(np.array_equal(h5(file, "infos/action_valid"), valid), "which are there")
        check(
            np.array_equal(
                h5(file, "actions")[:, 0], np.where(valid, np.delete(act[:, 0], 5), np.float32(-2))
            ),
            "actions",
        )


def test_steps_without_actions_are_dropped(gaps):
    obs, _, made, out = gaps
    trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "drop")
    with h5py.File(out) as file:
        check(np.array_equal(h5(file, "observations"), obs[[0, 1, 4, 6]]), "observations")
        check(np.array_equal(h5(file, "next_observations"), obs[[1, 2, 5, 7]]), "next observations")
        check(h5(file, "terminals").tolist() == [False, False, True, False], "terminals")
        check(h5(file, "timeouts").tolist() == [False, True, False, True], "timeouts")


def test_overwrite_replaces_an_output_of_trajmill_alone(gaps, tmp_path):
    _, _, made, out = gaps
    trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "drop")
    changed = trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "fill", code=1)
    says(changed.stderr, ["gaps.hdf5", "overwrite"], "another output is not replaced")
    trajmill("export", made, out, "--to", "d4rl", "--unlabelled", "fill", "--overwrite")
    with h5py.File(tmp_path / "mine.hdf5", "w") as file:
        file["x"] = [1]
    before = (tmp_path / "mine.hdf5").read_bytes()
    kept = trajmill(
        "export",
        made,
        tmp_path / "mine.hdf5",
        "--to",
        "d4rl",
        "--unlabelled",
        "fill",
        "--overwrite",
        code=1,
    )
    says(kept.stderr, ["mine.hdf5", " not ", "trajmill"], "a stranger's file stays")
    check((tmp_path / "mine.hdf5").read_bytes() == before, "its bytes are what they were")


# --- many trajectories


def test_ten_thousand_trajectories_go_out_and_come_back(tmp_path):
    """Some of them of length 1."""
    lengths = np.random.default_rng(12).integers(1, 6, 10_000)
    made = Made(tmp_path, "many", 12, lengths.tolist(), obs=2, act=1, extras=False)
    out = tmp_path / "many-minari"
    trajmill("export", made.path, out, "--to", "minari")
    with h5py.File(out / "data" / "main_data.hdf5") as file:
        check(len(file) == 10_000, "groups")
        for index in [0, 1, 99, 4_999, 9_999]:
            check(
                same(
                    h5(file, f"episode_{index}/observations"), made.episodes[index]["observation"]
                ),
                "observations",
            )
    trajmill("import", out, tmp_path / "back")
    same_dataset(made.path, tmp_path / "back", "many")


def test_minari_gets_episodes_longer_than_32_767_steps_whole(tmp_path):
    made = Made(tmp_path, "long", 9, [140_000, 1], obs=1, act=1)
    trajmill("export", made.path, tmp_path / "out", "--to", "minari")
    episodes = list(MinariDataset(os.path.join(tmp_path, "out", "data")).iterate_episodes())
    check([len(episode.rewards) for episode in episodes] == [140_000, 1], "long episodes")


WITHOUT_NULL_PARTS = ["d3rlpy", "d4rl", "lerobot", "minari", "npy", "ogbench", "rlds", "robomimic"]


@pytest.mark.parametrize("form", WITHOUT_NULL_PARTS)
def test_a_null_part_of_a_struct_is_refused_and_its_column_is_marked(tmp_path, form):
    """A field that is null where its struct is not must not become zero; as a column it may."""
    parts = [{"a": 1, "b": 2.5}, {"a": None, "b": 3.0}, None, {"a": 4, "b": 5.0}]
    rows = {
        "trajectory_id": [0, 0, 1, 1],
        "observation": [[0.5, 1.0]] * 4,
        "action": [[0.25]] * 4,
        "reward": [1.0] * 4,
        "terminated": [False, True] * 2,
        "truncated": [False] * 4,
        "x": pa.array(parts, pa.struct([("a", pa.int32()), ("b", pa.float32())])),
    }
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    trajmill("import", tmp_path / "rows.parquet", tmp_path / "set")
    out = tmp_path / "out"
    done = trajmill("export", tmp_path / "set", out, "--to", form, code=1)
    says(done.stderr, ["trajectory 0: `x/a` is null in step 1", "x['a']"], form)
    check(not out.exists(), "nothing is written")
    # The remedy of the message.
    (tmp_path / "run.yaml").write_text(
        f"trajmill: 1\nsource: set\nstages:\n  - derive: {{ x_a: \"x['a']\" }}\n"
        f"  - materialise: {{ path: out, format: {form}, columns: [x_a] }}\n"
    )
    trajmill("run", tmp_path / "run.yaml")
    if form != "npy":
        trajmill("import", out, tmp_path / "back", "--from", form)
        rows = table(tmp_path / "back")
        back = next(name for name in rows.column_names if name.endswith("x_a"))
        values = rows.filter(rows["action"].is_valid())[back].to_pylist()
        check(values == [1, None, None, 4], f"{form}: {values}")


# --- what arrays cannot hold


@pytest.mark.parametrize("to", ["d3rlpy", "d4rl", "npy", "ogbench", "robomimic"])
def test_columns_that_arrays_cannot_hold_are_named_with_their_types(tmp_path, to):
    n = 6
    source = pa.table(
        {
            "episode_id": pa.array([0, 0, 0, 1, 1, 1]),
            "observation": pa.array([[row, 1.0] for row in range(n)], pa.list_(pa.float32())),
            "action": pa.array([[0.5]] * n, pa.list_(pa.float32())),
            "reward": pa.array(range(n), pa.float32()),
            "terminated": pa.array([False, False, True] * 2),
            "points": pa.array([[1.0] * row for row in range(n)], pa.list_(pa.float32())),
            "contact": [{"force": 1.0, "link": "arm"}] * n,
            "at": pa.array(range(n), pa.timestamp("us")),
            "task": ["lift"] * 3 + ["drop"] * 3,
        }
    )
    pq.write_table(source, tmp_path / "in.parquet")
    trajmill("import", tmp_path / "in.parquet", tmp_path / "made")
    path = tmp_path / {"npy": "out", "ogbench": "out.npz"}.get(to, "out.hdf5")
    said = trajmill("export", tmp_path / "made", path, "--to", to).stderr
    for words in (
        "column `points`: left out: `points` is list[float32]",
        "column `contact`: left out: `contact['link']` is text",
        "column `at`: left out: `at` is timestamp",
    ):
        check(words in said, f"{to}: {said}")
    check("column `task`: left out" not in said, f"{to} keeps the task: {said}")
    where = "`lang` in the attribute `ep_meta`" if to == "robomimic" else "one for each trajectory"
    says(said, ["column `task`: ", where], to)
    if to != "npy":
        trajmill("import", path, tmp_path / "back")
        tasks = table(tmp_path / "back", "trajectories")["task"].to_pylist()
        check(tasks == ["lift", "drop"], f"{to}: {tasks}")
