"""Every row and column of a table is accounted for: kept, or left out with the reason.

The oracle is pyarrow, which also writes the tables.
"""

import json
import re
from datetime import date, datetime, time
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


# ---- types


def filled(values, data_type):
    return pa.array(values, data_type)


TIMES = [datetime(2020, 1, 1, 1, 2, 3), None, datetime(9999, 12, 31), datetime(1, 1, 1)]
# Columns of a table, and what they are in the dataset if that differs.
KEPT = {
    "bool": (filled([True, None, False, True], pa.bool_()), None),
    "uint8": (filled([1, None, 0, 255], pa.uint8()), None),
    "uint32": (filled([1, None, 0, 2**32 - 1], pa.uint32()), None),
    "uint64": (filled([1, None, 0, 2**64 - 1], pa.uint64()), None),
    "float16": (filled([0.5, None, -1.0, 65504.0], pa.float16()), None),
    "decimal32": (filled([Decimal("1.10"), None, Decimal("-2.35"), 0], pa.decimal32(5, 2)), float),
    "decimal64": (filled([Decimal("1.10"), None, Decimal("-2.35"), 0], pa.decimal64(9, 2)), float),
    "decimal128": (
        filled([Decimal("1.1"), None, Decimal("-0.3"), Decimal("2") ** 90], pa.decimal128(38, 8)),
        float,
    ),
    "decimal256": (filled([Decimal(1), None, Decimal(-2), Decimal(10) ** 40], pa.decimal256(60, 0)), float),
    "date32": (filled([date(2020, 1, 1), None, date(9999, 12, 31), date(1, 1, 1)], pa.date32()), None),
    "date64": (filled([date(2020, 1, 1), None, date(9999, 12, 31), date(1, 1, 1)], pa.date64()), None),
    "time32": (filled([time(1, 2, 3), None, time(0), time(23, 59, 59)], pa.time32("s")), None),
    "time64": (filled([time(1, 2, 3, 4), None, time(0), time(23, 59, 59)], pa.time64("us")), None),
    "timestamp_s": (filled(TIMES, pa.timestamp("s")), None),
    "timestamp_us": (filled(TIMES, pa.timestamp("us")), None),
    "timestamp_zone": (filled(TIMES[:2] * 2, pa.timestamp("ns", "UTC")), None),
    "duration": (filled([1, None, -5, 2**60], pa.duration("us")), None),
    "text": (filled(["a", None, "", "ü"], pa.large_string()), None),
    "bytes": (filled([b"ab", None, b"\0\0", b"\xff\xff"], pa.binary(2)), None),
    "dictionary": (filled(["a", None, "b", "a"], pa.dictionary(pa.int8(), pa.string())), None),
    "flags": (filled([[True], None, [], [False, None]], pa.list_(pa.bool_())), None),
    "bits": (filled([[True, False]] * 4, pa.list_(pa.bool_())), None),
    "vector": (filled([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.float32(), 2)), None),
    "list": (filled([[1, 2], None, [3, None], [5, 6]], pa.list_(pa.float32(), 2)), None),
    "vectors": (filled([[[1, 2]], None, [], [[3, 4], [5, 6]]], pa.list_(pa.list_(pa.int8(), 2))), None),
    "struct": (
        filled(
            [{"a": 1, "b": TIMES[2]}, None, {"a": None, "b": None}, {"a": 2, "b": TIMES[0]}],
            pa.struct([("a", pa.decimal128(4, 1)), ("b", pa.timestamp("s"))]),
        ),
        lambda row: {**row, "a": None if row["a"] is None else float(row["a"])},
    ),
    "map": (
        filled([[("k", 1)], None, [], [("a", 1), ("b", None)]], pa.map_(pa.string(), pa.int64())),
        lambda row: [{"key": key, "value": value} for key, value in row],
    ),
}
# Columns that a dataset cannot have.
LEFT_OUT = {
    "nothing": pa.nulls(4),
    "interval": pa.array([(1, 2, 3)] * 4, pa.month_day_nano_interval()),
}
WRITERS = [
    ("arrow", ""),
    ("parquet", ""),
    ("d3rlpy", ".h5"),
    ("d4rl", ".hdf5"),
    ("lerobot", ""),
    ("lerobot-v2.1", ""),
    ("minari", ""),
    ("npy", ""),
    ("ogbench", ".npz"),
    ("rlds", ""),
    ("robomimic", ".hdf5"),
]


@pytest.fixture(scope="module", params=EXTENSIONS)
def typed(request, tmp_path_factory):
    """A dataset with a column of every type, and what is in it."""
    folder, kind = tmp_path_factory.mktemp("typed"), request.param
    base = pa.table(
        {
            "episode": [0, 0, 1, 1],
            "observation": [[1.0, 2.0]] * 4,
            "action": [[0.5]] * 4,
            "reward": filled([Decimal("1.10"), None, Decimal("-2.35"), 0], pa.decimal128(10, 2)),
            "terminated": [False, True] * 2,
        }
    )
    wanted = {"reward": [1.1, None, -2.35, 0.0]}
    for name, (column, changed) in KEPT.items():
        base = base.append_column(name, column)
        values = column.to_pylist()
        wanted[name] = [
            changed(value) if changed and value is not None else value for value in values
        ]
    for name, column in LEFT_OUT.items():
        if kind == "arrow" or name != "interval":
            base = base.append_column(name, column)
    save(folder / f"log.{kind}", base)
    found, _, account = imported(folder / f"log.{kind}", folder / "in")
    return folder, base.column_names, found, account, wanted


def test_every_type_is_kept_or_named(typed):
    _, names, found, account, wanted = typed
    for name, values in wanted.items():
        check(found[name].to_pylist() == values, f"{name}: {found[name].to_pylist()} is {values}")
    left_out = {left["name"]: left["reason"] for left in account["left_out"]}
    check(set(left_out) == set(names) & set(LEFT_OUT), f"left out: {left_out}")
    check(set(account["columns"]) == set(names) - set(left_out), "all others are kept")


@pytest.mark.parametrize("to, extension", WRITERS, ids=[name for name, _ in WRITERS])
def test_every_writer_writes_every_type_or_names_it(typed, to, extension):
    folder, _, found, _, wanted = typed
    output = folder / f"{to}.out{extension}"
    options = ["--fps", 10] if "lerobot" in to else []
    source = folder / "in"
    if to in ["lerobot", "lerobot-v2.1", "rlds"]:
        # They write the parts of a struct that they can hold, and one of them has a null.
        done = trajmill("export", source, output, "--to", to, *options, code=1)
        says(done.stderr, ["`struct/a` is null in step 0"], to)
        (log,) = folder.glob("log.*")
        source, wanted = folder / "skipped", {**wanted}
        trajmill("import", log, source, "--skip", "struct")
        del wanted["struct"]
    done = trajmill("export", source, output, "--to", to, *options)
    if to == "npy":
        written = {path.stem for path in output.glob("*.npy")}
        back = None
    else:
        trajmill("import", output, folder / f"{to}.back")
        back = table(folder / f"{to}.back")
        written = set(back.column_names)
    for name, values in wanted.items():
        own = [column for column in written if column.removeprefix("infos/") == name]
        parts = [column for column in written if re.match(rf"(infos/)?{name}[./]", column)]
        if not own and not parts:
            says(done.stderr, [name], f"{to}: left out")
        elif own and back is not None:
            read = back[own[0]].to_pylist()
            same = read == values or str(read) == str(found[name].to_pylist())
            check(same, f"{to}: {name} is {read}, not {values}")


def test_old_timestamps_keep_their_dates(tmp_path):
    def old(path, values, unit="us"):
        rows = steps(int(path.stem), len(values), when=pa.array(values, pa.timestamp(unit)))
        path.parent.mkdir(exist_ok=True)
        pq.write_table(rows, path, use_deprecated_int96_timestamps=True)

    old(tmp_path / "far" / "0.parquet", [datetime(2020, 1, 1), None])
    old(tmp_path / "far" / "1.parquet", [datetime(9999, 12, 31), datetime(1, 1, 1)])
    found, _, _ = imported(tmp_path / "far", tmp_path / "far.out")
    wanted = [datetime(2020, 1, 1), None, datetime(9999, 12, 31), datetime(1, 1, 1)]
    check(found["when"].to_pylist() == wanted, f"{found['when']}")
    shown = trajmill("sql", tmp_path / "far.out", "-c", "select cast(max(\"when\") as text) as t from steps")
    says(shown.stdout, ["9999-12-31"], "SQL")

    # Spark does not say in which unit an application wants them.
    plain = tmp_path / "plain" / "0.parquet"
    plain.parent.mkdir()
    rows = steps(0, 2, when=pa.array([datetime(9999, 12, 31), None], pa.timestamp("us")))
    pq.write_table(rows, plain, use_deprecated_int96_timestamps=True, store_schema=False)
    found, _, _ = imported(tmp_path / "plain", tmp_path / "plain.out")
    check(found["when"].to_pylist() == [datetime(9999, 12, 31), None], f"{found['when']}")

    old(tmp_path / "near" / "0.parquet", [1, 10**18 + 1], "ns")
    found, _, _ = imported(tmp_path / "near", tmp_path / "near.out")
    check(found["when"].cast(pa.int64()).to_pylist() == [1, 10**18 + 1], "nanoseconds")

    old(tmp_path / "both" / "0.parquet", [5, 10**18 + 1], "ns")
    old(tmp_path / "both" / "1.parquet", [datetime(2020, 1, 1), datetime(9999, 12, 31)])
    done = trajmill("import", tmp_path / "both", tmp_path / "both.out", code=1)
    says(done.stderr, ["`when`", "9999-12-31", "row 1", "5 ns", "row 0"], "both")


def test_ids_are_exact(tmp_path):
    ids = [Decimal("12345678901234567890"), Decimal("12345678901234567891")]
    rows = steps(0, 4, id=pa.array([ids[0], ids[0], ids[1], ids[1]], pa.decimal128(20, 0)))
    save(tmp_path / "log.parquet", rows.drop_columns(["episode"]))
    trajmill("import", tmp_path / "log.parquet", tmp_path / "out", "--trajectory", "id")
    keys = table(tmp_path / "out", "trajectories")["source_key"].to_pylist()
    check(keys == [str(one) for one in ids], f"{keys}")


def test_names_may_differ_in_case_only(tmp_path):
    save(tmp_path / "log.parquet", steps(0, 2, Reward=[7, 8], REWARD=["a", "b"]))
    found, _, _ = imported(tmp_path / "log.parquet", tmp_path / "out")
    check(found["reward"].to_pylist() == [0.0, 1.0], "reward")
    check(found["Reward"].to_pylist() == [7, 8], "Reward")
    query = 'select reward, "Reward", "REWARD" from steps order by step'
    shown = trajmill("sql", tmp_path / "out", "--format", "json", "-c", query)
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    check(rows[1] == {"reward": 1.0, "Reward": 8, "REWARD": "b"}, f"{rows}")
    for to, _ in WRITERS[:2]:
        trajmill("export", tmp_path / "out", tmp_path / to, "--to", to)
        trajmill("import", tmp_path / to, tmp_path / f"{to}.back")
        back = table(tmp_path / f"{to}.back")
        for name in ["reward", "Reward", "REWARD"]:
            check(back[name].to_pylist() == found[name].to_pylist(), f"{to}: {name}")


# ---- what is no table of trajectories


def test_rows_without_ends_are_refused(tmp_path):
    rows = steps(0, 4).drop_columns(["episode"])
    save(tmp_path / "none" / "a.parquet", rows)
    done = trajmill("import", tmp_path / "none", tmp_path / "out", code=1)
    says(done.stderr, ["no trajectory boundaries", "--map trajectory_id=COLUMN"], "no column")
    save(tmp_path / "flags" / "a.parquet", rows.append_column("done", pa.array([False] * 4)))
    done = trajmill("import", tmp_path / "flags", tmp_path / "out", code=1)
    says(done.stderr, ["`done`", "all 4 rows", "--map trajectory_id=COLUMN"], "no flag is set")
    lists = rows.append_column("trajectory", pa.array([[1]] * 4))
    save(tmp_path / "lists.parquet", lists)
    done = trajmill("import", tmp_path / "lists.parquet", tmp_path / "out", code=1)
    says(done.stderr, ["`trajectory`", "list[int64]", "`trajectory_id`"], "a list is no id")
    check(not (tmp_path / "out").exists(), "nothing is written")


@pytest.mark.parametrize(
    "log, kind",
    [
        ("_delta_log/0.json", "a Delta Lake table"),
        (".hoodie/hoodie.properties", "a Hudi table"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
    ],
)
def test_a_table_with_a_log_is_refused(tmp_path, log, kind):
    save(tmp_path / "in" / "part-0.parquet", steps(0, 2))
    (tmp_path / "in" / log).parent.mkdir()
    (tmp_path / "in" / log).write_text("{}")
    done = trajmill("import", tmp_path / "in", tmp_path / "out", code=1)
    says(done.stderr, [kind, "plain Parquet"], "message")


# ---- paths


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf", "http", "https", "file", "abfs+x"])
def test_urls_are_no_paths(tmp_path, scheme):
    url = f"{scheme}://bucket/data"
    save(tmp_path / "log.parquet", steps(0, 2))
    trajmill("import", "log.parquet", "in", cwd=tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    for command in [
        ["import", url, "out"],
        ["import", "log.parquet", url],
        ["export", "in", url, "--to", "npy"],
        ["export", url, "out", "--to", "npy"],
        ["info", url],
        ["info", "in", "--picture", url],
        ["validate", url],
        ["diff", "in", url],
        ["sql", url, "-c", "select 1"],
        ["sql", f"x={url}", "-c", "select 1"],
        ["sql", "in", "-c", "select 1", "--output", url],
        ["run", url],
        ["check", url],
        ["plan", url],
    ]:
        done = trajmill(*command, code=2, cwd=tmp_path)
        says(done.stderr, [f"`{url}` is a URL", "local"], " ".join(command))
    text = f"trajmill: 1\nsource: in\nstages:\n  - materialise: {{path: '{url}'}}\n"
    (tmp_path / "p.yaml").write_text(text)
    done = trajmill("run", "p.yaml", code=3, cwd=tmp_path)
    says(done.stderr, ["p.yaml:4:25", f"`{url}` is a URL"], "pipeline")
    after = sorted(path.name for path in tmp_path.iterdir())
    check(after == sorted([*before, "p.yaml"]), f"{after}")
