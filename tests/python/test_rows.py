"""Tables in every order and shape of rows: text, streams, a row per episode, rows that need sorting,
and rollouts of vectorised environments. pyarrow, csv, json, h5py and numpy write them."""

import json
import os
import shutil

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import check, equal, peak_memory, says, seeded, table, trajmill
from writers import arrays as array_sets
from writers import tables

LENGTHS = [5, 1, 9, 4]
ENDS = np.cumsum(LENGTHS)
N = int(ENDS[-1])


def made(name, ids=(3, 0, 2, 1)):
    """A table of steps: trajectories end to end, of which every second one is truncated."""
    random = seeded(name)
    flags = np.zeros((2, N), bool)
    for index, end in enumerate(ENDS):
        flags[index % 2, end - 1] = True
    vectors = lambda width: pa.array(
        list(random.normal(size=(N, width)).astype(np.float32)), pa.list_(pa.float32())
    )
    return pa.table(
        {
            "episode": np.repeat(ids, LENGTHS),
            "step": np.concatenate([np.arange(length) for length in LENGTHS]),
            "observations": vectors(3),
            "actions": vectors(2),
            "rewards": random.normal(size=N).astype(np.float32),
            "terminals": flags[0],
            "timeouts": flags[1],
            "note": [f"0{row}" for row in range(N)],
        }
    )


NAMES = {
    "observations": "observation",
    "actions": "action",
    "rewards": "reward",
    "terminals": "terminated",
    "timeouts": "truncated",
    "note": "note",
}


def same(steps, wanted, finals=None):
    """The rows of a dataset are those of a table of steps, and final observations."""
    is_final = np.array(steps["is_final"].to_pylist())
    kept = steps.filter(pa.array(~is_final))
    for name, own in NAMES.items():
        if name in wanted.column_names:
            equal(kept[own].to_pylist(), wanted[name].to_pylist(), own)
    check(is_final.sum() == (0 if finals is None else len(finals)), "final observations")
    if finals is not None:
        found = steps.filter(pa.array(is_final))["observation"].to_pylist()
        equal(found, finals, "final observations")


def brought(tmp_path, source, *options, name="dataset"):
    trajmill("import", source, tmp_path / name, *options)
    return table(tmp_path / name), table(tmp_path / name, "trajectories")


def refused(tmp_path, source, wanted, *options, code=1):
    done = trajmill("import", source, tmp_path / "refused", *options, code=code)
    says(done.stderr, [*wanted, "help: "], f"{source}")
    check(not (tmp_path / "refused").exists(), "nothing is left behind")


# ---- text: csv and jsonl


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
def test_csv_is_read_with_a_map(tmp_path, ending):
    wide = made("csv")
    for name, width in (("observations", 12), ("actions", 2)):
        values = seeded("csv", name).normal(size=(N, width))
        wide = wide.drop_columns([name])
        for axis in reversed(range(width)):
            wide = wide.append_column(f"{name[:3]}_{axis}", pa.array(values[:, axis]))
        NARROW[name] = values
    wide = wide.rename_columns({"step": "t"})
    tables.csv(tmp_path / f"log.{ending}", wide)
    options = ["--map", "observation=obs_*,action=act_*", "--step", "t"]
    steps, trajectories = brought(tmp_path, tmp_path / f"log.{ending}", *options)
    equal(np.array(steps["observation"].to_pylist()), NARROW["observations"], "observations")
    equal(np.array(steps["action"].to_pylist()), NARROW["actions"], "actions")
    rewards = [float(value) for value in wide["rewards"].to_pylist()]
    equal(steps["reward"].to_pylist(), rewards, "rewards")
    equal(steps["note"].to_pylist(), wide["note"].to_pylist(), "text with zeros in front")
    equal(trajectories["source_key"].to_pylist(), ["3", "0", "2", "1"], "ids")
    equal(trajectories["length"].to_pylist(), LENGTHS, "lengths")


NARROW = {}


def test_csv_keeps_types_and_joins_whole_numbers_with_fractions(tmp_path):
    lines = [
        "episode,obs_0,obs_1,act,reward,done,code,empty,flag",
        'a,1,0.5,0,1,False,01001,,True',
        'a,2,-1e-3,1,,True,"say ""x"", y",,False',
        'b,3,nan,2,0.1,True,,,',
    ]
    (tmp_path / "log.csv").write_text("\r\n".join(lines) + "\r\n")
    keep = ["--non-finite", "keep"]
    steps, _ = brought(tmp_path, tmp_path / "log.csv", "--map", "observation=obs_*", *keep)
    equal(str(steps["observation"].to_pylist()), "[[1.0, 0.5], [2.0, -0.001], [3.0, nan]]", "obs")
    check(steps["reward"].to_pylist() == [1.0, None, 0.1], steps["reward"])
    check(steps["action"].to_pylist() == [0, 1, 2], steps["action"])
    check(steps["code"].to_pylist() == ["01001", 'say "x", y', None], steps["code"])
    check(steps["flag"].to_pylist() == [True, False, None], steps["flag"])
    # It reaches a writer, and comes back.
    trajmill("export", tmp_path / "dataset", tmp_path / "out", "--to", "arrow")
    trajmill("import", tmp_path / "out", tmp_path / "again", *keep)
    again = table(tmp_path / "again")
    check(again.schema == steps.schema, f"{again.schema} is not {steps.schema}")
    equal(str(again.to_pylist()), str(steps.to_pylist()), "comes back")


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("episode,obs,reward\n0,1,2\n0,1\n", ["log.csv: line 3 has 2 cells"]),
        ("episode,obs,reward\n0,1,2\n0,1,N/A\n", ["`reward`", "`N/A` at row 1", "empty"]),
        ("episode,obs,obs\n0,1,2\n", ["line 1: two columns are named `obs`"]),
        ("0,1,2\n0,1,2\n", ["line 1: it holds values"]),
        ("episode,obs,reward\n", ["holds no rows"]),
        ('episode,obs,note\n0,1,"x\n0,2,y\n', ["line 2 has a quote that is not closed"]),
        ("episode,obs_0\n0,9007199254740993\n", ["no column `observation`"]),
    ],
)
def test_bad_csv_is_refused_with_its_line(tmp_path, text, wanted):
    (tmp_path / "log.csv").write_text(text)
    refused(tmp_path, tmp_path / "log.csv", wanted)


def test_a_whole_number_that_its_vector_cannot_hold_is_refused(tmp_path):
    text = "episode,obs_0,obs_1\n0,9007199254740993,0.5\n"
    (tmp_path / "log.csv").write_text(text)
    refused(tmp_path, tmp_path / "log.csv", ["`obs_0`", "row 0"], "--map", "observation=obs_*")


def test_a_folder_of_csv_is_one_table(tmp_path):
    whole, folder = tables.scalars(made("folder")), tmp_path / "logs"
    folder.mkdir()
    for index in range(N):
        tables.csv(folder / f"log-{index}.csv", whole.slice(index, 1))
    steps, trajectories = brought(tmp_path, folder)
    equal([row[0] for row in steps["observation"].to_pylist()], whole["observation"].to_pylist(), "")
    equal(trajectories["length"].to_pylist(), LENGTHS, "lengths")
    (folder / "notes.txt").write_text("x")
    refused(tmp_path, folder, ["notes.txt", "move other files elsewhere"], "--from", "csv")


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "jsonl.gz"])
def test_jsonl_is_read_as_it_is(tmp_path, ending):
    whole = made("jsonl")
    tables.jsonl(tmp_path / f"log.{ending}", whole)
    steps, trajectories = brought(tmp_path, tmp_path / f"log.{ending}")
    same(steps, whole)
    equal(trajectories["length"].to_pylist(), LENGTHS, "lengths")


@pytest.mark.parametrize(
    "lines, wanted",
    [
        (['{"episode": 0, "obs": [1.0]}', '{"episode": 0, "obs": [1.0'], ["log.jsonl: line 2: "]),
        (['{"episode": 0, "obs": [1.0]}', '{"episode": "x", "obs": [2]}'], ["line 2: `episode`"]),
        (['{"episode": 0, "obs": [NaN]}'], ["line 1: expected value", "not NaN"]),
        (['{"episode": 0, "obs": [1], "obs": [2]}'], ["line 1: the key `obs` appears twice"]),
        (["[1, 2]"], ["line 1: ", "object"]),
        (['{"episode": 0, "obs": [1, 2]}', '{"episode": 0, "obs": [1]}'], ["1 value at row 1"]),
    ],
)
def test_bad_jsonl_is_refused_with_its_line(tmp_path, lines, wanted):
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    refused(tmp_path, tmp_path / "log.jsonl", wanted)


# ---- streams, and folders of the library datasets


def test_arrow_streams_and_saved_folders_are_read(tmp_path):
    whole = made("stream")
    tables.stream(tmp_path / "steps.arrows", whole, 3)
    same(brought(tmp_path, tmp_path / "steps.arrows", name="a")[0], whole)
    about = {"description": "made", "features": {}}
    tables.saved(tmp_path / "saved", whole, 4, about)
    same(brought(tmp_path, tmp_path / "saved", name="b")[0], whole)
    manifest = json.loads((tmp_path / "b" / "dataset.json").read_text())
    kept = manifest["lineage"]["source_metadata"]
    check(kept["dataset_info.json"] == about, "the metadata of the source")


def test_folders_that_are_not_all_of_a_dataset_are_refused(tmp_path):
    for split in ("train", "test"):
        tables.saved(tmp_path / "dict" / split, made(split), 1)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    refused(tmp_path, tmp_path / "dict", ["train, test", f"{tmp_path}/dict/train"])
    brought(tmp_path, tmp_path / "dict" / "train")
    (tmp_path / "dict" / "test" / "data-00000-of-00001.arrow").unlink()
    refused(tmp_path, tmp_path / "dict" / "test", ["data-00000-of-00001.arrow"])
    state = tmp_path / "dict" / "train" / "state.json"
    chosen = {**json.loads(state.read_text()), "_indices_data_files": [{"filename": "indices"}]}
    state.write_text(json.dumps(chosen))
    refused(tmp_path, tmp_path / "dict" / "train", ["selection", "flatten_indices"])


def test_a_stream_without_its_end_is_refused(tmp_path):
    path = tmp_path / "steps.arrow"
    tables.stream(path, made("end"), 5)
    os.truncate(path, path.stat().st_size - 8)
    refused(tmp_path, path, ["without an end marker"])


# ---- a row per episode


def write_as(kind, path, rows):
    path = path.with_suffix(f".{kind}")
    if kind == "parquet":
        pq.write_table(rows, path, row_group_size=2)
    elif kind == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows, 3)
    elif kind == "arrows":
        tables.stream(path, rows, 3)
    else:
        tables.jsonl(path, rows)
    return path


KINDS = ["parquet", "arrow", "arrows", "jsonl"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [False, True])
def test_a_row_per_episode_is_a_trajectory(tmp_path, kind, final):
    whole, finals = made("episodes"), None
    rows = tables.episodes(whole).drop_columns(["step"])
    if final:
        finals = seeded("finals").normal(size=(4, 3)).astype(np.float32).tolist()
        lists = [row + [last] for row, last in zip(rows["observations"].to_pylist(), finals)]
        lists = pa.array(lists, pa.list_(pa.list_(pa.float32())))
        rows = rows.set_column(rows.column_names.index("observations"), "observations", lists)
    facts = {
        "env": ["hopper", None, "walker", "hopper"],
        "level": [1, 2, 3, None],
        "goal": [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]],
        "return": [0.0, 1.0, 2.0, 3.0],
    }
    for name, values in facts.items():
        rows = rows.append_column(name, pa.array(values))
    steps, trajectories = brought(tmp_path, write_as(kind, tmp_path / "set", rows))
    same(steps, whole, finals)
    equal(trajectories["source_key"].to_pylist(), ["3", "0", "2", "1"], "ids")
    equal(trajectories["length"].to_pylist(), LENGTHS, "lengths")
    check(trajectories["env"].to_pylist() == facts["env"], "facts")
    check(trajectories["level"].to_pylist() == facts["level"], "facts")
    check(trajectories["source_return"].to_pylist() == facts["return"], "facts")
    goals = [json.loads(goal) for goal in trajectories["goal"].to_pylist()]
    check(goals == facts["goal"], "lists that are no steps")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [pa.list_, pa.large_list])
def test_a_list_of_structs_per_episode_is_a_trajectory(tmp_path, kind, of):
    whole = made("structs")
    fields = [name for name in whole.column_names if name not in ["episode", "step"]]
    parts = whole.select(fields).to_pylist()
    bounds = [0, *ENDS]
    lists = [parts[begin:end] for begin, end in zip(bounds, bounds[1:])]
    struct = pa.struct([whole.schema.field(name) for name in fields])
    rows = pa.table(
        {
            "episode": [3, 0, 2, 1],
            "steps": pa.array(lists, of(struct)),
            "env": ["hopper", None, "walker", "hopper"],
        }
    )
    steps, trajectories = brought(tmp_path, write_as(kind, tmp_path / "set", rows))
    same(steps, whole)
    equal(trajectories["source_key"].to_pylist(), ["3", "0", "2", "1"], "ids")
    check(trajectories["env"].to_pylist() == ["hopper", None, "walker", "hopper"], "facts")

    lists[1] = [None]
    rows = rows.set_column(1, "steps", pa.array(lists, of(struct)))
    path = write_as(kind, tmp_path / "null", rows)
    refused(tmp_path, path, ["trajectory `0`", "`terminals` is null at step 0 of row 1"])


def test_flags_of_episodes_and_next_observations(tmp_path):
    rows = {
        "obs": [[[0.0], [1.0]], [[2.0]]],
        "next_obs": [[[1.0], [5.0]], [[6.0]]],
        "acts": [[0, 1], [2]],
        "rews": [[1.0, 2.0], [3.0]],
        "terminal": [True, False],
    }
    pq.write_table(pa.table(rows), tmp_path / "set.parquet")
    steps, _ = brought(tmp_path, tmp_path / "set.parquet")
    check(steps["observation"].to_pylist() == [[0.0], [1.0], [5.0], [2.0], [6.0]], steps)
    check(steps["action"].to_pylist() == [0, 1, None, 2, None], steps)
    check(steps["terminated"].to_pylist() == [False, True, False, False, False], steps)
    check(not any(steps["truncated"].to_pylist()), steps)


def test_discrete_observations_are_steps_if_lengths_say_so(tmp_path):
    rows = {"obs": [[1, 2, 3], [4]], "acts": [[0, 1, 0], [1]], "rews": [[0.5, 0.0, 1.0], [2.0]]}
    pq.write_table(pa.table(rows), tmp_path / "set.parquet")
    steps, trajectories = brought(tmp_path, tmp_path / "set.parquet")
    check(steps["observation"].to_pylist() == [[1], [2], [3], [4]], steps)
    check(trajectories["length"].to_pylist() == [3, 1], trajectories)


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"rews": [[1.0], [1.0]]}, ["trajectory `0`", "column `rews` holds 1 value", "2 steps"]),
        ({"rews": [[1.0] * 3, [1.0]]}, ["trajectory `0`", "column `rews` holds 3 values"]),
        ({"obs": [[[0.0]] * 4, [[0.0]]]}, ["trajectory `0`", "column `obs` holds 4 values"]),
        ({"info": [["a", "b"], ["a", "b", "c"]]}, ["trajectory 1", "`info` holds 3 values"]),
        ({"done": [[True, False], [True]]}, ["trajectory `0`", "ends at step 0"]),
        ({"obs": [[[0.0], [1.0, 2.0]], [[0.0]]]}, ["`obs` holds 2 values at step 1 of row 0"]),
        ({"id": [7, 7]}, ["column `id` is `7`", "row 1"]),
    ],
)
def test_episodes_that_contradict_themselves_are_refused(tmp_path, change, wanted):
    rows = {"obs": [[[0.0], [1.0]], [[2.0]]], "acts": [[[0.0], [1.0]], [[2.0]]]}
    rows |= {"rews": [[1.0, 1.0], [1.0]], **change}
    pq.write_table(pa.table(rows), tmp_path / "set.parquet")
    options = ["--trajectory", "id"] if "id" in change else []
    refused(tmp_path, tmp_path / "set.parquet", wanted, *options)


def test_a_bad_episode_is_set_aside(tmp_path):
    rows = {"obs": [[[0.0]] * 2, [[1.0]] * 9, [[2.0]]], "rews": [[1.0] * 2, [1.0] * 3, [1.0]]}
    pq.write_table(pa.table(rows), tmp_path / "set.parquet")
    options = ["--on-error", "quarantine", "--allowed", 1]
    steps, _ = brought(tmp_path, tmp_path / "set.parquet", *options)
    check(steps["observation"].to_pylist() == [[0.0], [0.0], [2.0]], steps)


# ---- rows in any order


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv", "jsonl"])
def test_sort_puts_rows_in_order(tmp_path, kind):
    whole = made("sort", ids=(0, 1, 2, 10))
    shuffled = whole.take(seeded("order").permutation(N))
    if kind == "csv":
        whole = tables.scalars(whole)
        tables.csv(tmp_path / "set.csv", tables.scalars(shuffled))
        path = tmp_path / "set.csv"
    else:
        path = write_as(kind, tmp_path / "set", shuffled)
    refused(tmp_path, path, ["--sort", "rows"])
    steps, trajectories = brought(tmp_path, path, "--sort")
    equal(steps["note"].to_pylist(), whole["note"].to_pylist(), "rows")
    equal(trajectories["source_key"].to_pylist(), ["0", "1", "2", "10"], "ids")
    equal(trajectories["length"].to_pylist(), LENGTHS, "lengths")


@pytest.mark.parametrize("name", ["t", "timestep", "timestamp"])
def test_a_column_that_numbers_steps_by_its_name_is_compared_without_sort(tmp_path, name):
    """Rows in another order than their times, and rows that interleave two environments."""
    whole = made("order").rename_columns(
        [name if column == "step" else column for column in made("order").column_names]
    )
    if name == "timestamp":
        times = np.array(whole[name].to_pylist()) * 0.5
        whole = whole.set_column(whole.column_names.index(name), name, pa.array(times))
    pq.write_table(whole, tmp_path / "in_order.parquet")
    steps, _ = brought(tmp_path, tmp_path / "in_order.parquet")
    same(steps, whole)
    # The last trajectory has four rows.
    order = [*range(N - 4), N - 3, N - 4, N - 2, N - 1]
    pq.write_table(whole.take(order), tmp_path / "moved.parquet")
    refused(tmp_path, tmp_path / "moved.parquet", ["trajectory `1`", f"`{name}`", "--sort"])
    steps, _ = brought(tmp_path, tmp_path / "moved.parquet", "--sort", name="sorted")
    check(steps.num_rows == N, "rows")

    # Some values are missing, as those of final observations.
    gaps = [value if row % 3 else None for row, value in enumerate(whole[name].to_pylist())]
    gaps = whole.set_column(whole.column_names.index(name), name, pa.array(gaps))
    pq.write_table(gaps, tmp_path / "gaps.parquet")
    same(brought(tmp_path, tmp_path / "gaps.parquet", name="gaps")[0], whole)


def test_environments_in_turn_are_refused_without_an_option(tmp_path):
    rows = {
        "env_id": [0, 1] * 3,
        "obs": [[float(row)] for row in range(6)],
        "act": [[0.0]] * 6,
        "done": [False] * 4 + [True] * 2,
    }
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(rows), path)
    refused(tmp_path, path, ["column `env_id` changes from 0 to 1", "--environment env_id --sort"])
    rows["t"] = [0, 0, 1, 1, 2, 2]
    pq.write_table(pa.table(rows), path)
    options = ["--environment", "env_id", "--sort"]
    steps, trajectories = brought(tmp_path, path, *options)
    check(trajectories["length"].to_pylist() == [3, 3], trajectories)
    check(steps["observation"].to_pylist() == [[0.0], [2.0], [4.0], [1.0], [3.0], [5.0]], steps)
    # Time counts over trajectories, and the rows are in another order.
    pq.write_table(pa.table(rows).take([2, 1, 0, 3, 4, 5]), path)
    refused(tmp_path, path, ["column `t` is 0", "after 1", "--step t"], *options)
    steps, _ = brought(tmp_path, path, *options, "--step", "t", name="by_time")
    check(steps["observation"].to_pylist() == [[0.0], [2.0], [4.0], [1.0], [3.0], [5.0]], steps)
    pq.write_table(pa.table(rows), path)
    del rows["env_id"]
    pq.write_table(pa.table(rows), path)
    refused(tmp_path, path, ["column `t` is 0", "as in the row before", "--environment"])


def test_sort_by_time_across_files_and_in_a_pipeline(tmp_path):
    whole = made("time", ids=(0, 1, 2, 3))
    # Nanoseconds that float64 cannot tell apart.
    times = pa.array(np.arange(N) + 1_700_000_000_000_000_000, pa.timestamp("ns"))
    whole = whole.set_column(1, "timestamp", times)
    (tmp_path / "set").mkdir()
    order = seeded("files").permutation(N)
    for part in range(5):
        pq.write_table(whole.take(order[part::5]), tmp_path / "set" / f"{part}.parquet")
    steps, _ = brought(tmp_path, tmp_path / "set", "--sort")
    equal(steps["note"].to_pylist(), whole["note"].to_pylist(), "rows")
    equal(steps["timestamp"].cast(pa.int64()).to_pylist(), times.cast(pa.int64()).to_pylist(), "")
    (tmp_path / "sort.yaml").write_text(
        "trajmill: 1\n"
        "source: {path: set, format: parquet, sort: true}\n"
        "stages:\n  - materialise: {path: sorted}\n"
    )
    trajmill("run", "sort.yaml", cwd=tmp_path)
    equal(table(tmp_path / "sorted")["note"].to_pylist(), whole["note"].to_pylist(), "pipeline")


def test_two_rows_of_one_step_are_refused_with_their_place(tmp_path):
    whole = made("ties")
    whole = pa.concat_tables([whole, whole.slice(7, 1)])
    pq.write_table(whole, tmp_path / "set.parquet")
    wanted = ["trajectory `2`", f"row {N} of ", "as in the row before"]
    refused(tmp_path, tmp_path / "set.parquet", wanted, "--sort")


@pytest.mark.parametrize(
    "columns, options, wanted",
    [
        ({"obs": [0.0], "done": [True]}, [], ["`--sort` needs a column of trajectory ids"]),
        ({"obs": [0.0], "episode": [1]}, [], ["`--sort` needs a column that numbers the steps"]),
        ({"obs": [0.0], "episode": [1], "at": ["x"]}, ["--step", "at"], ["`at` is text"]),
        ({"obs": [[[0.0]]], "rews": [[1.0]]}, [], ["`--sort` has no effect"]),
    ],
)
def test_sort_without_an_order_is_refused(tmp_path, columns, options, wanted):
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    refused(tmp_path, tmp_path / "set.parquet", wanted, "--sort", *options, code=None)


def test_sorting_more_than_memory_holds(tmp_path):
    rows, episodes = 400_000, 200
    random = seeded("large")
    order = random.permutation(rows)
    with pq.ParquetWriter(tmp_path / "set.parquet", LARGE) as writer:
        for part in np.array_split(order, 20):
            values = np.repeat(part.astype(np.float32), 256)
            obs = pa.FixedSizeListArray.from_arrays(pa.array(values), 256)
            columns = [part // (rows // episodes), part % (rows // episodes), obs]
            writer.write_table(pa.table(columns, schema=LARGE))
    peak = peak_memory("import", tmp_path / "set.parquet", tmp_path / "dataset", "--sort")
    steps = table(tmp_path / "dataset")
    found = np.asarray(steps["observation"].combine_chunks().flatten()).reshape(rows, 256)
    check((found[:, 0] == np.arange(rows)).all() and (found[:, 255] == found[:, 0]).all(), "rows")
    check(peak < 380, f"{peak} MiB for {rows * 256 * 4 >> 20} MiB of rows")
    check(not list(tmp_path.glob(".*")), "no scratch files are left")


LARGE = pa.schema(
    [("episode", pa.int64()), ("step", pa.int64()), ("observation", pa.list_(pa.float32(), 256))]
)


# ---- vectorised environments

T, E = 50, 7


def rollout(name):
    """Arrays of time, environments: flags at random, and what is after each step."""
    random = seeded(name)
    done = random.random((T, E)) < 0.1
    terminals, timeouts = done & (random.random((2, T, E)) < 0.5)
    observations, final = random.normal(size=(2, T, E, 3)).astype(np.float32)
    # Where no flag marks an end, the next observation is that of the next step.
    follows = ~(terminals | timeouts)[:-1, :, None]
    after = np.concatenate([np.where(follows, observations[1:], final[:-1]), final[-1:]])
    return {
        "observations": observations,
        "next_observations": after,
        "actions": random.integers(5, size=(T, E)),
        "rewards": random.normal(size=(T, E)),
        "terminals": terminals,
        "timeouts": timeouts,
        "images": random.integers(255, size=(T, E, 2, 2, 3)).astype(np.uint8),
    }


def cut(arrays):
    """The steps of each environment, one after the other, and the lengths of trajectories."""
    steps = {name: np.concatenate([values[:, e] for e in range(E)]) for name, values in arrays.items()}
    ends = steps["terminals"] | steps["timeouts"]
    ends[T - 1 :: T] = True
    places = np.flatnonzero(ends)
    return steps, places, np.diff(places, prepend=-1)


def compare(tmp_path, steps, trajectories, arrays):
    wanted, places, lengths = cut(arrays)
    equal(trajectories["length"].to_pylist(), lengths, "lengths")
    equal(trajectories["environment"].to_pylist(), places // T, "environments")
    is_final = np.array(steps["is_final"].to_pylist())
    rows = lambda name: np.array(steps.filter(pa.array(~is_final))[name].to_pylist())
    for name, own in {**NAMES, "images": "images"}.items():
        if name in wanted:
            equal(rows(own), wanted[name].reshape(rows(own).shape), own)
    finals = np.array(steps.filter(pa.array(is_final))["observation"].to_pylist())
    equal(finals.astype(np.float32), wanted["next_observations"][places], "final observations")


@pytest.mark.parametrize("layout", ["time,env", "env,time"])
@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_rollouts_are_cut_at_the_flags_of_each_environment(tmp_path, kind, layout):
    arrays = rollout("rollout")
    swap = (lambda values: values) if layout == "time,env" else (lambda values: values.swapaxes(0, 1))
    path = tmp_path / f"set.{kind}"
    if kind == "npz":
        np.savez(path, **{name: np.ascontiguousarray(swap(values)) for name, values in arrays.items()})
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=swap(values), chunks=True, compression="gzip")
    refused(tmp_path, path, ["--layout time,env"])
    compare(tmp_path, *brought(tmp_path, path, "--layout", layout), arrays)


def test_a_rollout_in_zarr(tmp_path):
    arrays = {name: values for name, values in rollout("zarr").items() if name != "images"}
    array_sets.buffer(tmp_path / "set.zarr", arrays, [T], None, 16)
    shutil.rmtree(tmp_path / "set.zarr" / "meta")
    options = ["--from", "zarr", "--layout", "time,env"]
    compare(tmp_path, *brought(tmp_path, tmp_path / "set.zarr", *options), arrays)


def test_arrays_without_an_axis_of_environments_are_refused(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, observations=np.zeros(4), terminals=np.ones(4))
    refused(tmp_path, path, ["no axis of environments"], "--layout", "time,env")
    np.savez(path, observations=np.zeros((4, 2, 3)), terminals=np.ones(4))
    refused(tmp_path, path, ["`terminals` has 4 rows"], "--layout", "time,env")


def test_the_log_of_a_vectorised_environment_is_cut_at_the_flags_of_each(tmp_path):
    arrays = rollout("log")
    del arrays["images"]
    flat = {name: values.reshape(T * E, *values.shape[2:]) for name, values in arrays.items()}
    rows = {name: list(values) if values.ndim > 1 else values for name, values in flat.items()}
    rows |= {"env_id": np.tile(np.arange(E), T), "step": np.repeat(np.arange(T), E)}
    pq.write_table(pa.table(rows), tmp_path / "set.parquet", row_group_size=32)
    refused(tmp_path, tmp_path / "set.parquet", ["--sort"], "--environment", "env_id")
    options = ["--environment", "env_id", "--sort"]
    steps, trajectories = brought(tmp_path, tmp_path / "set.parquet", *options)
    _, places, _ = cut(arrays)
    trajectories = trajectories.append_column("environment", pa.array(places // T))
    compare(tmp_path, steps, trajectories, arrays)
    env = steps.filter(pa.array(~np.array(steps["is_final"].to_pylist())))["env_id"].to_pylist()
    equal(env, np.repeat(np.arange(E), T), "the column of environments is kept")
    numbers = [f"{e}/{np.sum((places // T == e)[:i])}" for i, e in enumerate(places // T)]
    equal(trajectories["source_key"].to_pylist(), numbers, "keys")


@pytest.mark.parametrize("numbers", [None, "step", "t"])
def test_a_log_of_environments_stays_in_its_order_without_step(tmp_path, numbers):
    """The steps have no number, or one that starts again in every trajectory."""
    arrays = rollout("file order")
    (tmp_path / "log").mkdir()
    done = arrays["terminals"] | arrays["timeouts"]
    number, count = np.zeros((T, E), int), np.zeros(E, int)
    for time in range(T):
        number[time] = count
        count = np.where(done[time], 0, count + 1)
    columns = {
        "worker": np.tile(np.arange(E), T),
        "observation": list(arrays["observations"].reshape(T * E, 3)),
        "action": arrays["actions"].ravel(),
        "reward": arrays["rewards"].ravel(),
        "terminated": arrays["terminals"].ravel(),
        "truncated": arrays["timeouts"].ravel(),
        **({numbers: number.ravel()} if numbers else {}),
    }
    # Several files, of which `part-10` is the last.
    for part, places in enumerate(np.array_split(np.arange(T * E), 11)):
        whole = pa.table(columns).take(places)
        pq.write_table(whole, tmp_path / "log" / f"part-{part}.parquet", row_group_size=16)
    options = ["--environment", "worker", "--sort"]
    steps, trajectories = brought(tmp_path, tmp_path / "log", *options)
    wanted, _, lengths = cut(arrays)
    equal(trajectories["length"].to_pylist(), lengths, "lengths")
    equal(np.array(steps["observation"].to_pylist(), np.float32), wanted["observations"], "rows")
    for name, own in [("actions", "action"), ("terminals", "terminated"), ("timeouts", "truncated")]:
        equal(steps[own].to_pylist(), wanted[name], own)


def test_objects_without_keys_hold_nothing(tmp_path):
    more = {"a": {}, "b": 1, "c": [], "d": None}
    lines = [{"episode": 0, "obs": [1.5, 2], "info": {}, "more": more, "tags": [], "l": [{}]}] * 2
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = trajmill("import", tmp_path / "log.jsonl", tmp_path / "summary")
    wanted = [
        "left out: info: its vectors or objects have no values",
        "left out: l: its vectors or objects have no values",
        "left out: more/a: its vectors or objects have no values",
        "left out: more/c: its lists hold no values",
        "left out: more/d: all its values are null",
        "left out: tags: its lists hold no values",
    ]
    says(done.stderr, wanted, "all that is left out is named")
    steps, _ = brought(tmp_path, tmp_path / "log.jsonl", "--skip", "more/a")
    check("info" not in steps.column_names, steps.column_names)
    check(steps["more"].to_pylist() == [{"b": 1}] * 2, steps["more"])
    check(steps["observation"].to_pylist() == [[1.5, 2.0]] * 2, steps["observation"])


def test_fields_of_structs_without_values_are_left_out_and_named(tmp_path):
    """pyarrow writes them as the type null."""
    part = {"angle": [1.5, 2.0], "extra": None}
    rows = {"episode": [0, 0], "obs": [part] * 2, "info": [{"n": 1, "why": None, "tags": []}] * 2}
    pq.write_table(pa.table(rows), tmp_path / "log.parquet")
    done = trajmill("import", tmp_path / "log.parquet", tmp_path / "out")
    left = {"obs/extra": "values are null", "info/why": "values are null", "info/tags": "no values"}
    for name, why in left.items():
        check(any(f"{name}: " in line and why in line for line in done.stderr.splitlines()), name)
    check(table(tmp_path / "out")["info"].to_pylist() == [{"n": 1}] * 2, "the rest of the struct")
    check(table(tmp_path / "out")["observation"].to_pylist() == [{"angle": [1.5, 2.0]}] * 2, "obs")


def test_types_of_time_and_options_are_named_so_that_they_differ(tmp_path):
    (tmp_path / "log").mkdir()
    kinds = [pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.duration("us")]
    texts = ["timestamp[us]", "timestamp[us, UTC]", "duration[us]"]
    base = {"episode": [0], "obs": [[1.0]]}
    for one, two in [(0, 1), (1, 0), (0, 2)]:
        for name, kind in [("a", one), ("b", two)]:
            rows = pa.table({**base, "when": pa.array([1], kinds[kind])})
            pq.write_table(rows, tmp_path / "log" / f"{name}.parquet")
        said = [f"b.parquet: column `when` is {texts[two]}, but", f"it is {texts[one]}\n"]
        refused(tmp_path, tmp_path / "log", said)
    path = tmp_path / "log/a.parquet"
    refused(tmp_path, path, ["the option `tolerance`"], "--tolerance", "0.02", code=2)
    refused(tmp_path, path, ["the option `frames-at`"], "--frames-at", "index", code=2)
    refused(tmp_path, path, ["the option `frames`"], "--frames", "png", code=2)


def test_an_episode_without_steps_is_bad_and_the_others_are_read(tmp_path):
    rows = {"observations": [[], [[1.0], [2.0]]], "rewards": [[], [1.0, 2.0]]}
    pq.write_table(pa.table({**rows, "dones": [[], [False, True]]}), tmp_path / "log.parquet")
    wanted = ["trajectory `0`", "no steps", "remove it from the source"]
    refused(tmp_path, tmp_path / "log.parquet", wanted)
    options = ["--on-error", "quarantine", "--allowed", "1"]
    _, trajectories = brought(tmp_path, tmp_path / "log.parquet", *options)
    check(trajectories["length"].to_pylist() == [2], trajectories)


def test_the_index_of_pandas_gets_a_name(tmp_path):
    (tmp_path / "log.csv").write_text(",episode,obs\n0,0,1\n1,0,2\n")
    steps, _ = brought(tmp_path, tmp_path / "log.csv")
    check(steps["unnamed_0"].to_pylist() == [0, 1], steps.column_names)


# ---- tasks

DO = ["open the door", "wipe the table", "open the door", "stack cups"]
TOLD = np.repeat(DO, LENGTHS).tolist()


def written(folder, kind, rows):
    path = folder / f"log.{kind}"
    if kind == "csv":
        for name, width in (("observations", 3), ("actions", 2)):
            values = np.array(rows[name].to_pylist())
            rows = rows.drop_columns([name])
            for axis in range(width):
                rows = rows.append_column(f"{name[:3]}_{axis}", pa.array(values[:, axis]))
        tables.csv(path, rows)
        return path, ["--map", "observation=obs_*,action=act_*"]
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows.to_pylist()))
    elif kind == "parquet":
        pq.write_table(rows, path)
    else:
        with pa.ipc.new_file(path, rows.schema) as file:
            file.write(rows)
    return path, []


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "arrow"])
@pytest.mark.parametrize("name", ["language_instruction", "instruction", "task", "caption"])
def test_a_column_of_instructions_is_the_task(tmp_path, kind, name):
    rows = made(f"{kind} {name}").append_column(name, pa.array(TOLD))
    if kind == "arrow":
        rows = rows.set_column(rows.num_columns - 1, name, pa.array(TOLD).dictionary_encode())
    path, options = written(tmp_path, kind, rows)
    if name == "caption":
        steps, _ = brought(tmp_path, path, *options, name="unmapped")
        check("task" not in steps.column_names and steps["caption"].to_pylist() == TOLD, "a column")
        options += ["--map", f"task={name}"]
    steps, trajectories = brought(tmp_path, path, *options)
    check(steps["task"].to_pylist() == TOLD and str(steps["task"].type) == "string", "steps")
    check(name == "task" or name not in steps.column_names, "one column")
    equal(trajectories["task"].to_pylist(), DO, "trajectories")
    for form, more in [("lerobot", ["--fps", 5]), ("rlds", ["--name", "arm"])]:
        trajmill("export", tmp_path / "dataset", tmp_path / form, "--to", form, *more)
    tasks = pq.read_table(tmp_path / "lerobot/meta/tasks.parquet").to_pandas()
    check(set(tasks.index) == set(DO), tasks)
    features = (tmp_path / "rlds/features.json").read_text()
    check('"language_instruction"' in features and '"caption"' not in features, features)


def test_a_task_that_changes_within_a_trajectory_and_other_columns_of_that_name(tmp_path):
    told = [f"{text}, part {row % 2}" for row, text in enumerate(TOLD)]
    rows = made("tasks").append_column("task", pa.array(np.arange(N)))
    rows = rows.append_column("language_instruction", pa.array(told))
    pq.write_table(rows, tmp_path / "log.parquet")
    steps, trajectories = brought(tmp_path, tmp_path / "log.parquet")
    equal(steps["task"].to_pylist(), told, "steps")
    equal(steps["source_task"].to_pylist(), np.arange(N), "the column that is no text")
    equal(trajectories["task"].to_pylist(), [told[end - n] for end, n in zip(ENDS, LENGTHS)], "first")
    wrong = ["`task` is int64, but a task is text"]
    refused(tmp_path, tmp_path / "log.parquet", wrong, "--map", "task=task")
    steps, _ = brought(tmp_path, tmp_path / "log.parquet", "--map", "task=note", name="mapped")
    equal(steps["task"].to_pylist(), rows["note"].to_pylist(), "the mapped column")
    equal(steps["language_instruction"].to_pylist(), told, "the other one keeps its name")


@pytest.mark.parametrize("key", ["task", "instruction", "kind"])
def test_a_key_of_folders_can_be_the_task(tmp_path, key):
    whole = made("keys").drop_columns(["episode"])
    starts = [end - length for end, length in zip(ENDS, LENGTHS)]
    for index, (text, start, length) in enumerate(zip(DO, starts, LENGTHS)):
        folder = tmp_path / "log" / f"{key}={text.replace(' ', '%20')}" / f"episode={index}"
        folder.mkdir(parents=True)
        pq.write_table(whole.slice(start, length), folder / "part-0.parquet")
    options = ["--map", "task=kind"] if key == "kind" else []
    _, trajectories = brought(tmp_path, tmp_path / "log", *options)
    found = zip(trajectories["source_key"].to_pylist(), trajectories["task"].to_pylist())
    check(dict(found) == {str(index): text for index, text in enumerate(DO)}, trajectories)


@pytest.mark.parametrize("listed", [False, True])
def test_the_task_of_a_row_per_episode(tmp_path, listed):
    whole = made("rows")
    starts = [end - length for end, length in zip(ENDS, LENGTHS)]
    parts = [whole.slice(start, length) for start, length in zip(starts, LENGTHS)]
    rows = {
        name: [part[name].to_pylist() for part in parts]
        for name in ["observations", "actions", "rewards", "terminals"]
    }
    told = [[f"{text} {step}" for step in range(n)] for text, n in zip(DO, LENGTHS)]
    rows["say"] = told if listed else DO
    rows["task"] = [7, 8, 9, 10]
    pq.write_table(pa.table(rows), tmp_path / "log.parquet")
    steps, trajectories = brought(tmp_path, tmp_path / "log.parquet", "--map", "task=say")
    wanted = [texts[0] for texts in told] if listed else DO
    equal(trajectories["task"].to_pylist(), wanted, "trajectories")
    equal(trajectories["source_task"].to_pylist(), rows["task"], "the column that is no text")
    if listed:
        equal(steps["task"].to_pylist(), sum(told, []), "steps")
    wrong = ["`task` is int64, but a task is text"]
    refused(tmp_path, tmp_path / "log.parquet", wrong, "--map", "task=task")
