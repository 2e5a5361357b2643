"""`has_actions` and `labelled`, also of datasets of versions that did not write `has_actions`."""

import json

import blake3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracle import Dataset, check, equal, manifest, run, says, table, trajmill

SOURCES = [
    ["recorded", "recorded", "recorded"],
    ["recorded", "proxy", "derived"],
    ["recorded", None, "proxy"],
    ["patched"],
    [None, None],
]


@pytest.fixture
def mixed(tmp_path):
    """A dataset whose actions come from every source, or are missing."""
    rows = [
        (id, t, source, t == len(sources) - 1)
        for id, sources in enumerate(SOURCES)
        for t, source in enumerate(sources)
    ]
    ids, steps, sources, ends = zip(*rows)
    actions = [None if source is None else [0.5] for source in sources]
    columns = {
        "trajectory_id": pa.array(ids, pa.int64()),
        "step": pa.array(steps, pa.int32()),
        "observation": pa.array([[1.0, 2.0]] * len(rows), pa.list_(pa.float32())),
        "action": pa.array(actions, pa.list_(pa.float32())),
        "reward": pa.array([1.0] * len(rows), pa.float32()),
        "terminated": pa.array(ends, pa.bool_()),
        "truncated": pa.array([False] * len(rows), pa.bool_()),
        "action_source": pa.array(sources, pa.string()),
    }
    pq.write_table(pa.table(columns), tmp_path / "mixed.parquet")
    trajmill("import", tmp_path / "mixed.parquet", tmp_path / "mixed", "--from", "parquet")
    return tmp_path / "mixed"


def aged(path):
    """Makes of a dataset what a version that did not know `has_actions` wrote."""
    text = json.loads((path / "dataset.json").read_text())
    del text["checksum"]
    for shard in text["shards"]:
        file = path / shard["trajectories"]["path"]
        pq.write_table(pq.read_table(file).drop_columns(["has_actions"]), file)
        shard["trajectories"]["bytes"] = file.stat().st_size
        shard["trajectories"]["blake3"] = blake3.blake3(file.read_bytes()).hexdigest()
        del shard["statistics"]["has_actions"]
    del text["statistics"]["has_actions"]
    (path / "dataset.json").write_text(json.dumps(text))


def test_actions_are_counted_by_their_source(mixed):
    of = table(mixed, "trajectories")
    equal(of["labelled"].to_pylist(), [True, False, False, False, False], "labelled")
    equal(of["has_actions"].to_pylist(), [True, True, False, True, False], "has_actions")
    total = manifest(mixed)["statistics"]
    for source in ("recorded", "proxy", "derived", "patched"):
        wanted = sum(sources.count(source) for sources in SOURCES)
        equal(total[f"{source}_actions"], wanted, f"{source} actions")
    equal((total["labelled"], total["has_actions"]), (1, 3), "trajectories")
    said = trajmill("info", mixed).stdout
    says(said, ["1 with recorded actions only", "3 with an action at every step"], "info")
    says(said, ["5 recorded, 2 proxy, 1 derived, 1 patched"], "info")
    trajmill("info", mixed, "--verify")


@pytest.mark.parametrize("old", [False, True])
def test_trajectories_are_filtered_by_has_actions(mixed, tmp_path, old):
    if old:
        aged(mixed)
    made = run(tmp_path, [{"filter": "has_actions"}], mixed)
    equal([own["id"] for own in made], [0, 1, 3], "complete trajectories")
    made = run(tmp_path, [{"filter": "not has_actions and not labelled"}], mixed)
    equal([own["id"] for own in made], [2, 4], "incomplete trajectories")
    whole = run(tmp_path, [], mixed)
    check("has_actions" in Dataset(whole.path).trajectories, "a new dataset has the column")


def rows(source, sql):
    return [json.loads(line) for line in trajmill("sql", source, "--format", "json", "-c", sql).stdout.splitlines()]


@pytest.mark.parametrize("shards", [None, 3])
def test_sql_computes_has_actions_of_an_old_dataset(mixed, tmp_path, shards):
    source = run(tmp_path, [], mixed, shard_rows=shards).path
    queries = [
        "select trajectory_id, has_actions from trajectories order by trajectory_id",
        "select count(*) as n, labelled from trajectories where has_actions group by labelled order by 2",
        "select count(*) as n from trajectories",
        "select s.step from trajectories t join steps s using (trajectory_id) where not t.has_actions order by 1",
        "select length, action_sum from trajectories order by trajectory_id limit 2",
        "select * from trajectories order by trajectory_id",
    ]
    wanted = [rows(source, sql) for sql in queries]
    check(wanted[0][1] == {"trajectory_id": 1, "has_actions": True}, f"{wanted[0]}")
    aged(source)
    for sql, want in zip(queries, wanted):
        found = rows(source, sql)
        check(found == want, f"{sql}: {found} is not {want}")
    equal([row["trajectory_id"] for row in rows(source, "select * from trajectories limit 3")], [0, 1, 2], "order")
    # The bytes that are used are the bytes that were hashed.
    file = next((source / "trajectories").glob("*.parquet"))
    file.write_bytes(file.read_bytes().replace(b"PAR1", b"PAR2", 1))
    said = trajmill("sql", source, "-c", "select has_actions from trajectories", code=1).stderr
    says(said, [file.name], "a damaged file")
