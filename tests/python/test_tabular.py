"""Every row and column of a table is accounted for: kept, or left out with the reason.

The oracle is pyarrow, which also writes the tables.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq

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
