"""What trajmill writes, read by pyarrow, pandas and DuckDB; its statistics against numpy.

Random trajectories go in as plain Parquet. Every value that is imported, and every value that a
pipeline lets through, is compared with the arrays it came from. Every count, sum and hash in a
manifest is compared with the files.
"""

import json

import blake3
import duckdb
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import MODELS, REPOSITORY, check, equal, seeded, trajmill
from readback import A, D, layout, matrix, same_tables, statistics

# ---- the data: a dict of arrays for each trajectory; an observation more than actions is final


def trajectory(random, index, length):
    with_final = index % 4 != 3
    rewards = random.normal(loc=index % 7, size=length)
    rewards[random.random(length) < 0.1] = np.nan  # not recorded
    if index % 11 == 5:
        rewards[:] = np.nan
    return {
        "observation": random.normal(size=(length + with_final, D)).astype(np.float32),
        "action": random.uniform(-1, 1, size=(length, A)).astype(np.float32),
        "reward": rewards,
        "terminated": index % 3 == 0,
        "note": f"trajectory {index}",
    }


def table_of(trajectories):
    rows = [len(t["observation"]) for t in trajectories]
    steps = np.concatenate([np.arange(n, dtype=np.int32) for n in rows])
    final = np.concatenate([np.arange(n) == len(t["action"]) for n, t in zip(rows, trajectories)])
    last = np.concatenate(
        [np.arange(n) == len(t["action"]) - 1 for n, t in zip(rows, trajectories)]
    )
    terminal = np.repeat([t["terminated"] for t in trajectories], rows)
    actions, rewards = np.zeros((len(steps), A), np.float32), np.full(len(steps), np.nan)
    actions[~final] = np.concatenate([t["action"] for t in trajectories])
    rewards[~final] = np.concatenate([t["reward"] for t in trajectories])
    vectors = lambda values, type_: pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel(), type_), values.shape[1]
    )
    offsets = np.concatenate([[0], np.cumsum(~final * A)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(actions[~final].ravel(), pa.float32()), mask=pa.array(final)
    )
    return pa.table(
        {
            "trajectory_id": pa.array(np.repeat(np.arange(len(rows)), rows), pa.int64()),
            "step": pa.array(steps),
            "observation": vectors(
                np.concatenate([t["observation"] for t in trajectories]), pa.float32()
            ),
            "action": lists,
            "reward": pa.array(rewards, mask=np.isnan(rewards)),
            "terminated": pa.array(last & terminal),
            "truncated": pa.array(last & ~terminal),
            "is_final": pa.array(final),
            "note": pa.array(np.repeat([t["note"] for t in trajectories], rows)),
        }
    )


def read(dataset):
    """Path, manifest and steps of a dataset."""
    return dataset, oracle.manifest(dataset), pq.read_table(dataset / "steps")


def equals(column, expected, width=None):
    if width is None:
        return column.combine_chunks().equals(expected.combine_chunks())
    ours, theirs = matrix(column, width, np.float32), matrix(expected, width, np.float32)
    return ours[0].tobytes() == theirs[0].tobytes() and (ours[1] == theirs[1]).all()


# ---- an import


@pytest.fixture(scope="module")
def trajectories():
    """Ragged trajectories, one longer than a row group, with rows for several groups and shards."""
    random = seeded("readback")
    lengths = [1, 2, 3, 1, *random.integers(1, 900, 240), 70_000, *random.integers(1, 900, 60), 1]
    return [trajectory(random, index, int(length)) for index, length in enumerate(lengths)]


@pytest.fixture(scope="module")
def source(trajectories):
    return table_of(trajectories)


@pytest.fixture(scope="module")
def corpus(shared, source):
    """The dataset that is imported from them: path, manifest and steps."""
    pq.write_table(source, shared / "rows.parquet", row_group_size=10_000)
    trajmill(
        "import",
        shared / "rows.parquet",
        shared / "corpus",
        "--from",
        "parquet",
        "--shard-rows",
        120_000,
    )
    return read(shared / "corpus")


def test_every_value_is_imported(corpus, source):
    for name in source.column_names:
        check(
            equals(corpus[2][name], source[name], {"observation": D, "action": A}.get(name)),
            f"{name} is not what was imported",
        )


def test_an_import_lies_as_its_manifest_says(corpus):
    dataset, manifest, _ = corpus
    check(len(manifest["shards"]) >= 2, "several shards")
    check(layout(dataset, manifest) >= 4, "several row groups")
    trajmill("info", dataset, "--verify")


def test_statistics_of_an_import_are_those_of_its_steps(corpus):
    statistics(*corpus)


def test_pandas_and_duckdb_read_an_import(corpus):
    same_tables(corpus[0], corpus[2])


# ---- a pipeline that selects, labels and derives

STAGES = [
    {
        "hide_actions": {
            "keep": 0.2,
            "from": {"lowest": 0.5, "by": "return"},
            "seed": 3,
            "as": "true_action",
        }
    },
    {"label": {"model": "mlp.onnx", "window": {"past": 1, "future": 1, "edge": "repeat"}}},
    {"filter": "length >= 2"},
    {"subsample": {"fraction": 0.6, "seed": 9}},
    {"derive": {"return_to_go": "returns_to_go(reward, 0.9)"}},
]
PIPELINE = {
    "trajmill": 1,
    "source": "corpus",
    "stages": [*STAGES, {"materialise": {"path": "out", "shard_rows": 60_000}}],
}


@pytest.fixture(scope="module")
def schema():
    found = json.loads(trajmill("schema").stdout)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_schema_lets_a_right_pipeline_through(schema):
    check(not list(schema.iter_errors(PIPELINE)), "a right pipeline against its schema")


@pytest.mark.parametrize(
    "change",
    [{"stages": [{"filtr": "x"}]}, {"sauce": 1}, {"stages": [{"subsample": {"fraction": "half"}}]}],
    ids=["stage", "key", "type"],
)
def test_the_schema_stops_a_wrong_pipeline(schema, change):
    check(list(schema.iter_errors({**PIPELINE, **change})), f"the schema lets {change} through")


class Output:
    """What the pipeline wrote and reported."""

    def __init__(self, folder):
        (folder / "mlp.onnx").write_bytes((MODELS / "mlp.onnx").read_bytes())
        path = oracle.pipeline(folder / "pipeline.yaml", PIPELINE["source"], PIPELINE["stages"])
        self.report = json.loads(trajmill("run", path, "--json").stdout)
        self.said = self.report["outputs"][0]
        self.dataset, self.manifest, self.steps = read(folder / "out")
        self.trajectories = pq.read_table(self.dataset / "trajectories").sort_by("trajectory_id")
        self.kept = self.trajectories["trajectory_id"].to_numpy()
        self.final = self.steps["is_final"].to_numpy(zero_copy_only=False)

    def before(self, source):
        """The rows of the source that are kept."""
        return source.filter(pa.array(np.isin(source["trajectory_id"].to_numpy(), self.kept)))


@pytest.fixture(scope="module")
def output(corpus):
    return Output(corpus[0].parent)


@pytest.mark.model
def test_an_output_lies_as_its_manifest_says(output):
    hashed = blake3.blake3((output.dataset / "dataset.json").read_bytes()).hexdigest()
    check(hashed == output.said["manifest"], "hash of the manifest")
    check(layout(output.dataset, output.manifest) >= 2, "several row groups")


@pytest.mark.model
def test_statistics_of_an_output_are_those_of_its_steps(output):
    statistics(output.dataset, output.manifest, output.steps)


@pytest.mark.model
def test_pandas_and_duckdb_read_an_output(output):
    same_tables(output.dataset, output.steps)


@pytest.mark.model
def test_rows_are_accounted_for_from_stage_to_stage(output, source):
    stages = output.said["stages"]
    check(
        output.said["statistics"]["rows"] == len(output.steps) == stages[-1]["rows_out"],
        "rows written",
    )
    check(stages[0]["rows_in"] == len(source) == output.report["rows_read"], "rows read")
    check(len(stages) >= len(STAGES), f"{[stage['stage'] for stage in stages]}")
    for before, after in zip(stages, stages[1:]):
        check(
            before["rows_out"] == after["rows_in"]
            and before["trajectories_out"] == after["trajectories_in"],
            f"{before} then {after}",
        )


@pytest.mark.model
def test_what_is_kept_is_what_was_read(output, source, trajectories):
    eligible = sum(len(own["action"]) >= 2 for own in trajectories)
    check(
        len(output.kept) == int(0.6 * eligible),
        f"{len(output.kept)} of {eligible} are not six tenths",
    )
    check(
        all(len(trajectories[id]["action"]) >= 2 for id in output.kept),
        "a trajectory that the filter drops",
    )
    expected = output.before(source)
    for name in (
        "trajectory_id",
        "step",
        "observation",
        "reward",
        "terminated",
        "truncated",
        "is_final",
        "note",
    ):
        check(
            equals(output.steps[name], expected[name], {"observation": D}.get(name)),
            f"{name} is not what was read",
        )


@pytest.mark.model
def test_recorded_actions_stay_bit_for_bit_and_every_other_step_has_a_label(output, source):
    steps, final = output.steps, output.final
    action, acted = matrix(steps["action"], A, np.float32)
    truth, _ = matrix(output.before(source)["action"], A, np.float32)
    labelled = {
        row["trajectory_id"]
        for row in output.trajectories.to_pylist()
        if row["split"] == "labelled"
    }
    mine = np.isin(steps["trajectory_id"].to_numpy(), list(labelled))
    check((acted == ~final).all(), "an action for every step and for no final row")
    check(action[mine].tobytes() == truth[mine].tobytes() and labelled, "recorded actions")
    check(
        (np.abs(action - truth)[~mine & ~final].max(axis=1) > 0).mean() > 0.99,
        "hidden actions came back",
    )
    says = np.where(final, None, np.where(mine, "recorded", "proxy"))
    check(steps["action_source"].to_pylist() == says.tolist(), "action_source")


@pytest.mark.model
def test_returns_to_go_are_those_of_numpy(output):
    """Discounted, backwards."""
    steps, final = output.steps, output.final
    reward = np.nan_to_num(steps["reward"].to_numpy(zero_copy_only=False).astype(float))
    ids = steps["trajectory_id"].to_numpy()
    togo, running = np.zeros(len(ids)), 0.0
    for row in range(len(ids) - 1, -1, -1):
        running = reward[row] + (
            0.9 * running if row + 1 < len(ids) and ids[row + 1] == ids[row] else 0.0
        )
        togo[row] = running
    ours = steps["return_to_go"]
    check(
        (np.asarray(ours.combine_chunks().is_null()) == final).all(),
        "return_to_go is null on final rows alone",
    )
    check(
        np.allclose(
            ours.to_numpy(zero_copy_only=False)[~final], togo[~final], rtol=1e-9, atol=1e-9
        ),
        "return_to_go",
    )


@pytest.mark.model
def test_plain_parquet_holds_the_same_rows_and_no_other_file_that_readers_see(output):
    folder = output.dataset.parent
    stages = [*STAGES, {"materialise": {"path": "flat", "format": "parquet", "shard_rows": 60_000}}]
    path = oracle.pipeline(folder / "flat.yaml", "corpus", stages)
    trajmill("run", path)
    files = {entry.name for entry in (folder / "flat").iterdir()}
    check(
        {name for name in files if not name.endswith(".parquet")} == {".trajmill.json"},
        f"files of plain Parquet: {files}",
    )
    check(pq.read_table(folder / "flat").equals(output.steps), "plain Parquet")
    check(
        json.loads(trajmill("run", path, "--json").stdout)["reused"] is True,
        "plain Parquet is found again",
    )
    left = {entry.name for entry in folder.iterdir()}
    check(not any("staging" in name for name in left), f"staging is left: {left}")


# ---- columns that a pipeline leaves alone: whole row groups of them are copied without decoding

HIDE = {"hide_actions": {"keep": 0.5, "seed": 3}}
MANY = {"subsample": {"count": 600, "replacement": True, "seed": 3}}
HOPPER = REPOSITORY / "data" / "hopper"


def untouched(folder, source, stages, hidden=None):
    """Runs stages that leave all columns but `hidden` as they were, and returns the dataset."""
    made = oracle.run(folder, stages, source, name="made").path
    trajmill("info", made, "--verify")
    before, after = pq.read_table(source / "steps"), pq.read_table(made / "steps")
    same = [name for name in before.column_names if name != hidden]
    for name in same:
        check(
            after[name].combine_chunks().equals(before[name].combine_chunks()),
            f"{name} is as it was",
        )
    check("observation" in same and len(before) == len(after), "all rows")
    return made


def test_columns_beside_a_changed_one_read_as_they_were(tmp_path):
    untouched(tmp_path, HOPPER, [HIDE], hidden="action")


def test_columns_of_several_row_groups_read_as_they_were(tmp_path):
    many = oracle.run(tmp_path, [HIDE, MANY], HOPPER, name="many").path
    trajmill("info", many, "--verify")
    groups = [
        pq.ParquetFile(path).metadata.num_row_groups for path in sorted((many / "steps").iterdir())
    ]
    check(max(groups) > 1, f"row groups: {groups}")
    made = untouched(tmp_path, many, [{"derive": {"twice": "reward * 2"}}])
    sums = "select sum(list_sum(observation)), sum(reward), count(action) from '{}/steps/*.parquet'"
    queried, wanted = (duckdb.sql(sums.format(dataset)).fetchall() for dataset in (made, many))
    check(queried == wanted, f"DuckDB: {queried}, {wanted}")


# ---- columns whose names mean something in a file of concatenated arrays

RESERVED = [
    "episode_index",
    "episode_ends",
    "lengths",
    "is_first",
    "next/done",
    "next_observations",
    "timeouts",
    "terminals",
    "dones",
    "size",
    "indices",
    "observations",
    "actions",
    "rewards",
    "metadata/x",
    "plain",
]


@pytest.mark.parametrize("form", ["d4rl", "ogbench"])
@pytest.mark.parametrize("nulls", [False, True])
def test_columns_of_reserved_names_come_back_from_an_export(tmp_path, form, nulls):
    lengths = [4, 3, 5]
    random = seeded(form, nulls)
    trajectories = [trajectory(random, index, length) for index, length in enumerate(lengths)]
    pq.write_table(table_of(trajectories), tmp_path / "log.parquet")
    value = "case when step = 1 then null else 3 end" if nulls else "trajectory_id / 2"
    made = oracle.run(
        tmp_path, [{"derive": {name: value for name in RESERVED}}], tmp_path / "log.parquet"
    )
    export = tmp_path / ("log.npz" if form == "ogbench" else "log.hdf5")
    trajmill("export", made.path, export, "--to", form)
    trajmill("validate", export)
    trajmill("import", export, tmp_path / "back")
    here, back = oracle.table(made.path), oracle.table(tmp_path / "back")
    for name in ["trajectory_id", "observation", "action", "terminated", *RESERVED]:
        check(name in back.column_names, f"{name} is in {back.column_names}")
        steps = [not final for final in here["is_final"].to_pylist()]
        of = lambda table: [v for v, step in zip(table[name].to_pylist(), steps) if step]
        check(of(back) == of(here), f"{name}: {of(back)} is not {of(here)}")


# ---- facts of trajectories, and structs that are null


@pytest.mark.parametrize("form", ["lerobot", "lerobot-v2.1", "rlds"])
def test_facts_of_trajectories_are_written_or_named(tmp_path, form):
    trajmill("import", oracle.SEEDS / "robomimic" / "isaac_lab.hdf5", tmp_path / "in")
    # A loader of TFDS takes the name of the folder for that of the dataset.
    export = tmp_path / "export"
    more = ["--name", "arm"] if form == "rlds" else ["--fps", 10]
    said = trajmill("export", tmp_path / "in", export, "--to", form, *more).stderr
    trajmill("import", export, tmp_path / "back")
    facts = lambda name: set(pq.read_schema(next((tmp_path / name / "trajectories").glob("*"))).names)
    missing = facts("in") - facts("back")
    check("inds" in facts("in"), "the seed has a list for each trajectory")
    for name in missing:
        check(f"trajectory column `{name}`" in said, f"{name} is named in {said}")


EXPORTS = {
    "d4rl": ("export.hdf5", []),
    "d3rlpy": ("export.h5", []),
    "lerobot": ("export", ["--fps", 10]),
    "lerobot-v2.1": ("export", ["--fps", 10]),
    "minari": ("export", ["--name", "arm/reach-v0"]),
    "ogbench": ("export.npz", []),
    "rlds": ("export", ["--name", "arm"]),
    "robomimic": ("export.hdf5", []),
}


@pytest.mark.parametrize("form", EXPORTS)
def test_structs_that_are_null_come_back_from_an_export(tmp_path, form):
    vectors = lambda: pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12.0)), 2)
    inner = pa.array([{"x": row / 2} for row in range(6)])
    structs = [pa.array([7, 0, 9, 0, 11, 12]), vectors()]
    if form != "rlds":  # RLDS has no place for structs within structs
        structs.append(inner)
    null = pa.array([False, True, False, True, False, False])
    names = ["a", "v", "in"][: len(structs)]
    table = pa.table(
        {
            "trajectory_id": [0, 0, 0, 1, 1, 1],
            "observation": vectors(),
            "action": vectors(),
            "reward": np.arange(6.0),
            "truncated": [False, False, True] * 2,
            "st": pa.StructArray.from_arrays(structs, names, mask=null),
            "whole": pa.array([{"n": row} for row in range(6)]),
        }
    )
    if form == "rlds":
        deep = pa.StructArray.from_arrays([pa.array(range(6)), inner], ["b", "in"], mask=null)
        table = table.append_column("deep", deep)
    pq.write_table(table, tmp_path / "log.parquet")
    trajmill("import", tmp_path / "log.parquet", tmp_path / "in")
    name, options = EXPORTS[form]
    trajmill("export", tmp_path / "in", tmp_path / name, "--to", form, *options)
    source = ["--from", "ogbench"] if form == "ogbench" else []
    trajmill("import", tmp_path / name, tmp_path / "back", *source)
    back = oracle.table(tmp_path / "back")
    for column in ["st", "whole"]:
        equal(back[column].to_pylist(), table[column].to_pylist(), column)
    own = [name for name in back.column_names if "valid" in name or name.startswith("st.")]
    own += [name for name in back.column_names if name.startswith("st/")]
    check(not own, f"no flag and no part is left: {own}")
    if form == "rlds":
        equal(back["deep/b"].to_pylist(), [0, None, 2, None, 4, 5], "the part that is there")
