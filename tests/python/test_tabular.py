"""Every row and column of a table is accounted for: kept, or left out with the reason.

The oracle is pyarrow, which also writes the tables.
"""

import json
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from oracle import check, says, table, trajmill


def imported(source, to, *options):
    """Imports `source`, and returns the steps, the printed account and the one in the report."""
    done = trajmill("import", source, to, "--json", *options)
    report = json.loads(done.stdout)
    check(len(report["imports"]) == 1, f"one account, not {report['imports']}")
    return table(to), done.stderr, report["imports"][0]


# ---- the account


def test_the_account_names_every_column_and_counts_every_row(tmp_path):
    columns = {
        "obs_0": [1.0, 2.0, 3.0, 4.0, 5.0, None],
        "obs_1": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "next_0": [2.0, 7.0, 4.0, 8.0, 9.0, 9.0],
        "next_1": [2.0, 7.0, 4.0, 8.0, 9.0, 9.0],
        "act": [[0.5]] * 6,
        "episode": ["a", "a", "b", "b", "c", "c"],
        "step": [0, 1, 3, 5, 0, 1],
        "note": ["x", None, "y", "z", "u", "v"],
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    maps = ["--map", "observation=obs_*,next_observation=next_*", "--on-error", "quarantine"]
    steps, printed, account = imported(
        tmp_path / "log.parquet", tmp_path / "out", *maps, "--allowed", 1
    )
    check(steps.num_rows == 6, f"two final observations, not {steps.num_rows} rows")
    check(
        account["rows"] == {"read": 6, "added": 2, "left_out": 0, "set_aside": 2},
        f"the rows add up: {account['rows']}",
    )
    names = {left["name"] for left in account["left_out"]} | set(account["columns"])
    check(names == set(columns), f"{names} are all columns")
    check(account["columns"]["act"] == "action" and account["columns"]["note"] == "note", "names")
    says(
        printed,
        [
            "rows: 6 read, 2 added as final observations, 2 set aside",
            "action from act; observation from obs_0, obs_1; source_key from episode",
            "left out: next_0: ",
            "left out: step: ",
        ],
        "summary",
    )
    manifest = json.loads(trajmill("info", tmp_path / "out", "--json").stdout)
    check(manifest["lineage"]["imports"] == [account], "the manifest has the same account")
    again = trajmill(
        "import", tmp_path / "log.parquet", tmp_path / "out", "--json", *maps, "--allowed", 1
    )
    check(json.loads(again.stdout)["imports"] == [account], "also where nothing is to be done")

    (tmp_path / "p.yaml").write_text(
        f"trajmill: 1\nsource: {tmp_path / 'out'}\nstages:\n"
        "  - filter: length > 1\n  - materialise: {path: kept}\n"
    )
    trajmill("run", tmp_path / "p.yaml")
    manifest = json.loads(trajmill("info", tmp_path / "kept", "--json").stdout)
    check(manifest["lineage"]["imports"] == [account], "and so has what is made from it")


def test_a_run_names_what_its_sources_leave_out(tmp_path):
    columns = {"obs": [[1.0]] * 4, "episode": [0, 0, 1, 1], "step": [0, 2, 0, 2]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    (tmp_path / "p.yaml").write_text(
        "trajmill: 1\nsource: log.parquet\nstages:\n"
        "  - filter: length > 1\n  - materialise: {path: kept}\n"
    )
    done = trajmill("run", tmp_path / "p.yaml", "--json")
    says(done.stderr, ["left out: step: "], "summary")
    account = json.loads(done.stdout)["imports"][0]
    check([left["name"] for left in account["left_out"]] == ["step"], f"{account}")


# ---- folders and shards


def steps(episode, n, **columns):
    """Rows of an episode of `n` steps."""
    rows = {
        "episode": [episode] * n,
        "observation": [[float(episode), float(t)] for t in range(n)],
        "reward": [float(t) for t in range(n)],
    }
    return pa.table({**rows, **columns})


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(rows, path)
    else:
        feather.write_feather(rows, path, compression="uncompressed")


EXTENSIONS = ["parquet", "arrow"]


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_keys_in_folders_are_columns(tmp_path, kind):
    source = tmp_path / "in"
    folders = {
        "code=2A001/task=a=b/lr=2.0/part-1": ("2A001", "a=b", 2.0),
        "code=2A001/task=a=b/lr=2.0/part-10": ("2A001", "a=b", 2.0),
        "code=01001/task=make%20tea/lr=0.5/part-0": ("01001", "make tea", 0.5),
        "code=01002/task=__HIVE_DEFAULT_PARTITION__/lr=1/part-0": ("01002", None, 1.0),
    }
    for index, folder in enumerate(folders):
        save(source / f"{folder}.{kind}", steps(index, 3))
    (source / "_SUCCESS").touch()
    (source / "README.md").write_text("words")
    (source / "code=01001" / "notes.txt").write_text("words")
    found, printed, account = imported(source, tmp_path / "out", *(["--from", kind]))
    for at, name in enumerate(["code", "task", "lr"]):
        wanted = [key[at] for key in folders.values() for _ in range(3)]
        check(found[name].to_pylist() == wanted, f"{name}: {found[name].to_pylist()}")
    partitions = ds.partitioning(flavor="hive")
    oracle = ds.dataset(
        [str(source / f"{folder}.{kind}") for folder in folders],
        format="ipc" if kind == "arrow" else kind,
        partitioning=partitions,
        partition_base_dir=str(source),
    )
    check(
        found["task"].to_pylist() == oracle.to_table()["task"].to_pylist(), "as pyarrow.dataset"
    )
    left_out = [left["name"] for left in account["left_out"]]
    check(left_out == ["README.md", "code=01001/notes.txt"], f"other files: {left_out}")
    says(printed, ["left out: README.md: "], "summary")


def test_keys_can_be_ids_and_must_agree_with_columns(tmp_path):
    for code, episode in [("b", 10), ("b", 9), ("a", 3)]:
        rows = steps(episode, 2).drop_columns(["episode"])
        save(tmp_path / "in" / f"code={code}" / f"episode={episode}" / "part.parquet", rows)
    trajmill("import", tmp_path / "in", tmp_path / "out")
    keys = table(tmp_path / "out", "trajectories")["source_key"].to_pylist()
    check(keys == ["3", "9", "10"], f"{keys}: found by its name, in natural order")
    found, _, _ = imported(
        tmp_path / "in", tmp_path / "mapped", "--map", "trajectory_id=code,reward=episode"
    )
    check(found["reward"].to_pylist() == [3, 3, 9, 9, 10, 10], "mapped")

    save(tmp_path / "same" / "episode=1" / "part.parquet", steps(1, 2))
    trajmill("import", tmp_path / "same", tmp_path / "same.out")
    save(tmp_path / "differ" / "episode=2" / "part.parquet", steps(1, 2))
    done = trajmill("import", tmp_path / "differ", tmp_path / "none", code=1)
    says(done.stderr, ["column `episode`", "folder", "row 0", "part.parquet"], "other value")
    save(tmp_path / "twice" / "a=1" / "a=2" / "part.parquet", steps(1, 2))
    done = trajmill("import", tmp_path / "twice", tmp_path / "none", code=1)
    says(done.stderr, ["`a`", "two values", "part.parquet"], "two values")


# The types of a column in two files, the values in each, and the type and values of the dataset.
WIDENED = {
    "integers": (pa.int32(), [1, 2], pa.int64(), [2**40, -1], pa.int64(), None),
    "small": (pa.int8(), [1, -2], pa.uint8(), [255, 0], pa.int16(), None),
    "unsigned": (pa.uint64(), [1, 2], pa.int16(), [-3, 4], pa.int64(), None),
    "floats": (pa.float32(), [0.1, 0.5], pa.float64(), [0.1, 0.2], pa.float64(), None),
    "integer and float": (pa.int64(), [2**53, 3], pa.float32(), [0.1, 4], pa.float64(), None),
    "half": (pa.float16(), [0.5, 1], pa.float64(), [0.1, 1], pa.float64(), None),
    "null": (pa.null(), [None, None], pa.int16(), [3, 4], pa.int16(), None),
    "null text": (pa.string(), ["a", "b"], pa.null(), [None, None], pa.string(), None),
    "text": (pa.string(), ["a", None], pa.large_string(), ["b", "c"], pa.string(), None),
    "views": (pa.string_view(), ["a", None], pa.string(), ["b", "c"], pa.string(), None),
    "dictionary": (
        pa.dictionary(pa.int32(), pa.string()),
        ["a", "b"],
        pa.large_string(),
        ["b", None],
        pa.string(),
        None,
    ),
    "bytes": (pa.binary(2), [b"ab", b"cd"], pa.large_binary(), [b"x", b""], pa.binary(), None),
    "lists": (
        pa.list_(pa.int32()),
        [[1], [2, 3]],
        pa.large_list(pa.int64()),
        [[], [4]],
        pa.list_(pa.int64()),
        None,
    ),
    "fixed lists": (
        pa.list_(pa.float32(), 2),
        [[1, 2], [3, 4]],
        pa.list_(pa.float64()),
        [[5, 6], [7, 8]],
        pa.list_(pa.float64()),
        None,
    ),
    "lists of lists": (
        pa.list_(pa.large_list(pa.float32())),
        [[[1], [2]], []],
        pa.list_(pa.list_(pa.float64())),
        [[[0.1]], None],
        pa.list_(pa.list_(pa.float64())),
        None,
    ),
    "structs": (
        pa.struct([("x", pa.int32()), ("y", pa.string())]),
        [{"x": 1, "y": "a"}, {"x": 2, "y": None}],
        pa.struct([("z", pa.bool_()), ("x", pa.float64())]),
        [{"z": True, "x": 0.5}, None],
        pa.struct([("x", pa.float64()), ("y", pa.string()), ("z", pa.bool_())]),
        [
            {"x": 1.0, "y": "a", "z": None},
            {"x": 2.0, "y": None, "z": None},
            {"x": 0.5, "y": None, "z": True},
            None,
        ],
    ),
    "times": (
        pa.timestamp("ms"),
        [datetime(2020, 1, 1), None],
        pa.timestamp("us"),
        [datetime(9999, 12, 31), datetime(1, 1, 1)],
        pa.timestamp("us"),
        None,
    ),
    "decimals": (
        pa.decimal128(5, 2),
        [Decimal("1.10"), Decimal("-2.35")],
        pa.decimal128(30, 4),
        [Decimal("0.0001"), Decimal("12345678901234567890.0001")],
        pa.float64(),
        [1.1, -2.35, 0.0001, 12345678901234567890.0001],
    ),
}


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("name", WIDENED)
@pytest.mark.parametrize("swapped", [False, True])
def test_types_that_lose_nothing_are_widened(tmp_path, name, kind, swapped):
    one, first, two, second, wanted, values = WIDENED[name]
    files = [(one, first), (two, second)]
    if swapped:
        files.reverse()
    for index, (data_type, column) in enumerate(files):
        rows = steps(index, 2, extra=pa.array(column, data_type))
        if index == 1:  # The order of columns does not matter.
            rows = rows.select(["extra", "reward", "observation", "episode"])
        save(tmp_path / "in" / f"{index}.{kind}", rows)
    found, _, account = imported(tmp_path / "in", tmp_path / "out")
    values = values or [*first, *second]
    values = [*values[2:], *values[:2]] if swapped else values
    if pa.types.is_floating(wanted) and values:
        widened = pa.concat_arrays(
            [pa.array(column, data_type).cast(wanted) for data_type, column in files]
        )
        values = widened.to_pylist() if "decimals" != name else values
    check(found["extra"].to_pylist() == values, f"{found['extra'].to_pylist()} is {values}")
    same = found["extra"].type.equals(wanted) or pa.types.is_nested(wanted)
    check(same, f"{found['extra'].type} is {wanted}")
    check(account["columns"]["extra"] == "extra", f"{account}")


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_columns_of_some_files_are_null_in_others(tmp_path, kind):
    save(tmp_path / "in" / f"a.{kind}", steps(0, 2, early=[1, 2]))
    save(tmp_path / "in" / f"b.{kind}", steps(1, 3, late=["x", None, "z"]))
    save(tmp_path / "in" / f"c.{kind}", steps(2, 1, late=["w"], early=[3]))
    found, _, account = imported(tmp_path / "in", tmp_path / "out")
    check(found["early"].to_pylist() == [1, 2, None, None, None, 3], "early")
    check(found["late"].to_pylist() == [None, None, "x", None, "z", "w"], "late")
    check(account["rows"]["read"] == 6, "rows")


REFUSED = {
    "number and text": (pa.int64(), [1, 2], pa.string(), ["a", "b"], ["int64", "text"]),
    "flag and number": (pa.bool_(), [True, False], pa.int8(), [1, 0], ["bool", "int8"]),
    "text and bytes": (pa.string(), ["a", "b"], pa.binary(), [b"a", b"b"], ["text", "bytes"]),
    "list and number": (
        pa.list_(pa.int64()),
        [[1], [2]],
        pa.int64(),
        [1, 2],
        ["list[int64]", "int64"],
    ),
    "within a struct": (
        pa.struct([("x", pa.int64())]),
        [{"x": 1}, {"x": 2}],
        pa.struct([("x", pa.string())]),
        [{"x": "a"}, {"x": "b"}],
        ["struct[x: int64]", "struct[x: text]"],
    ),
    "value": (
        pa.int64(),
        [1, 2**53 + 1],
        pa.float64(),
        [0.5, 1.5],
        ["int64", "float64", "9007199254740993", "row 1 of"],
    ),
    "nested value": (
        pa.list_(pa.int64()),
        [[1], [2, 2**53 + 1]],
        pa.list_(pa.float64()),
        [[0.5], []],
        ["list[int64]", "list[float64]", "9007199254740993", "row 1 of"],
    ),
    "large": (
        pa.uint64(),
        [2**63, 1],
        pa.int64(),
        [-1, 1],
        ["uint64", "int64", "9223372036854775808", "row 0 of"],
    ),
    "date": (
        pa.timestamp("us"),
        [datetime(9999, 12, 31), None],
        pa.timestamp("ns"),
        [datetime(2020, 1, 1), None],
        ["9999-12-31", "row 0 of"],
    ),
}


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("name", REFUSED)
def test_other_types_are_refused_with_both_files(tmp_path, name, kind):
    one, first, two, second, words = REFUSED[name]
    save(tmp_path / "in" / f"a.{kind}", steps(0, 2, extra=pa.array(first, one)))
    save(tmp_path / "in" / f"b.{kind}", steps(1, 2, extra=pa.array(second, two)))
    done = trajmill("import", tmp_path / "in", tmp_path / "out", code=1)
    says(done.stderr, [f"a.{kind}", f"b.{kind}", "`extra`", *words], "message")
    check(not (tmp_path / "out").exists(), "nothing is written")


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_two_columns_of_one_name_are_refused(tmp_path, kind):
    rows = steps(0, 2, extra=[1, 2])
    save(tmp_path / "in" / f"a.{kind}", rows)
    twice = pa.table(
        [*rows.columns, pa.array([5, 6])], names=[*rows.column_names, "reward"]
    )
    save(tmp_path / "in" / f"b.{kind}", twice)
    done = trajmill("import", tmp_path / "in", tmp_path / "out", code=1)
    says(done.stderr, [f"b.{kind}", "two columns", "`reward`"], "message")
    inner = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["x", "x"])
    save(tmp_path / f"c.{kind}", steps(0, 2, extra=inner))
    done = trajmill("import", tmp_path / f"c.{kind}", tmp_path / "out", code=1)
    says(done.stderr, [f"c.{kind}", "two columns", "`x`"], "message")
    clash = steps(0, 2, step=[0, 1], action_source=["a", "b"], source_action_source=["c", "d"])
    save(tmp_path / f"d.{kind}", clash)
    done = trajmill("import", tmp_path / f"d.{kind}", tmp_path / "out", code=1)
    says(done.stderr, [f"d.{kind}", "`source_action_source`"], "message")
