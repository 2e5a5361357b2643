"""The Python module: what it returns is compared with pyarrow, and its errors with the command's."""

import doctest
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, equal

PYTHON = oracle.REPOSITORY / "python"
HOPPER = oracle.REPOSITORY / "data" / "hopper"
# An installed module, as in tests/wheel, is what is tested.
if importlib.util.find_spec("trajmill") is None:
    sys.path.insert(0, str(PYTHON))


@pytest.fixture(scope="module")
def trajmill():
    """The module, with the binary under test."""
    os.environ["TRAJMILL_BINARY"] = oracle.BINARY
    return importlib.import_module("trajmill")


# ---- queries


def test_sql_returns_what_parquet_holds(trajmill):
    lengths = oracle.table(HOPPER, "trajectories").column("length").to_numpy()
    result = trajmill.sql(HOPPER, "select length from trajectories order by trajectory_id")
    equal(pa.table(result).column("length").to_numpy(), lengths, "pyarrow")
    check(len(result) == 200 and result.columns == ["length"], "the shape")
    equal(result.to_pandas()["length"], lengths, "pandas")
    check("<table>" in result._repr_html_(), "a notebook shows a table")
    empty = trajmill.sql(HOPPER, "select length, source from trajectories where false")
    check(pa.table(empty).schema.names == ["length", "source"], "no rows have columns too")
    both = trajmill.sql({"a": HOPPER, "b": HOPPER}, "select count(*) n from a.steps, b.trajectories")
    check(both.to_pylist() == [{"n": 39191 * 200}], "two datasets")


def test_duckdb_takes_a_result(trajmill):
    import duckdb

    result = trajmill.sql(HOPPER, "select length from trajectories")
    total = duckdb.sql("select sum(length), count(*) from result").fetchall()[0]
    check(total == (38991, 200), f"{total}")


@pytest.mark.reference("polars")
def test_polars_takes_a_result(trajmill):
    import polars

    frame = polars.DataFrame(trajmill.sql(HOPPER, "select length, uid from trajectories"))
    check(frame["length"].sum() == 38991 and frame.shape == (200, 2), f"{frame.shape}")


def test_arrow_goes_to_files_and_pipes(tmp_path):
    select = "select observation, reward, source from steps, trajectories where step < 2 limit 9"
    to = ["sql", HOPPER, "-c", select]
    oracle.trajmill(*to, "-o", tmp_path / "x.arrows")
    oracle.trajmill(*to, "-o", tmp_path / "x.parquet")
    with pa.OSFile(str(tmp_path / "x.arrows")) as file:
        table = pa.ipc.open_stream(file).read_all()
    parquet = pq.read_table(tmp_path / "x.parquet")
    check(table.num_rows == 9, f"{table.num_rows}")
    check(table.to_pydict() == parquet.cast(table.schema).to_pydict(), "the same values")
    oracle.says(
        oracle.trajmill("sql", HOPPER, "-c", "set x = 1", "--format", "arrow", code=None).stderr,
        ["error"],
        "a statement without a result",
    )


# ---- datasets


def test_trajectories_are_the_rows_of_parquet(trajmill, data):
    for path in [HOPPER, data.path]:
        dataset = trajmill.open(path)
        steps = oracle.table(path)
        ids = steps.column("trajectory_id").to_numpy()
        order = list(dict.fromkeys(ids.tolist()))
        check(len(dataset) == len(order), "their number")
        for index, found in enumerate(dataset):
            own = steps.filter(pa.compute.equal(steps["trajectory_id"], order[index]))
            last = own["is_final"].to_pylist()[-1]
            for name, array in found.items():
                of_step = name in ("action", "reward", "terminated", "truncated", "action_source")
                wanted = own[name].to_pylist()[: -1 if last and of_step else None]
                check(len(array) == len(wanted), f"{name} of {order[index]}: {array.shape}")
                for value, want in zip(array, wanted, strict=True):
                    if want is None:
                        masked = value is None or np.ma.getmaskarray(value).all()
                        check(masked, f"{name}: null is {value!r}")
                    elif isinstance(want, (list, float)):
                        oracle.close(value, want, name, atol=0, rtol=0)
                    else:
                        check(value == want, f"{name}: {value!r} is not {want!r}")
            if index == 20:
                break


def test_arrays_are_views_where_nothing_is_null(trajmill):
    observation = trajmill.open(HOPPER)[3]["observation"]
    check(observation.dtype == np.float32 and not observation.flags.owndata, "a view")
    check(trajmill.open(HOPPER)[-1]["step"][0] == 0, "indices count from the end too")
    with pytest.raises(IndexError):
        trajmill.open(HOPPER)[200]


def test_selections_are_those_of_sql(trajmill):
    dataset = trajmill.open(HOPPER)
    good = dataset.select("return > 1000 and length < 900")
    table = oracle.table(HOPPER, "trajectories")
    wanted = [
        row["trajectory_id"]
        for row in table.select(["trajectory_id", "return", "length"]).to_pylist()
        if row["return"] > 1000 and row["length"] < 900
    ]
    equal(good.trajectories["trajectory_id"].to_numpy(), wanted, "ids")
    steps = good.steps()
    equal(np.unique(steps["trajectory_id"].to_numpy()), wanted, "steps")
    frame = good.to_pandas()
    check(len(frame) == steps.num_rows == sum(len(t["step"]) for t in good), "rows")
    check(len(good.select("length < 0")) == 0, "a selection of a selection")
    check(dataset.select("false").to_pandas().shape == (0, len(dataset.columns)), "nothing")
    check(dataset.provenance == json.loads(oracle.trajmill("lineage", HOPPER, "--json").stdout), "")


def test_what_is_no_dataset_is_refused(trajmill, tmp_path):
    with pytest.raises(trajmill.Error, match="not a trajmill dataset") as raised:
        trajmill.open(tmp_path)
    check("import_dataset" in str(raised.value), "the remedy")
    trajmill.import_dataset(oracle.SEEDS / "d4rl" / "set.hdf5", tmp_path / "set")
    check(len(trajmill.open(tmp_path / "set")) > 0, "the remedy works")


# ---- pipelines


@pytest.fixture
def select(trajmill, tmp_path):
    """A pipeline that keeps long trajectories."""
    stages = trajmill.stages
    return trajmill.pipeline(
        [stages.filter("length >= ${least}"), stages.materialise(path="out")],
        source=HOPPER,
        params={"least": 100},
        folder=tmp_path,
    )


def test_a_run_reports_what_the_command_reports(trajmill, select, tmp_path):
    report = select.run(threads=2)
    (output,) = report.outputs
    lengths = oracle.table(HOPPER, "trajectories")["length"].to_numpy()
    check(output["statistics"]["trajectories"] == (lengths >= 100).sum(), "the report")
    check("written" in report.summary and "written" in report._repr_html_(), "the summary")
    (made,) = report.datasets
    check(len(made) == (lengths >= 100).sum() and not report.reused, "the dataset")
    check(select.run().reused, "again")
    select.save(tmp_path / "saved.yaml")
    other = trajmill.run(tmp_path / "saved.yaml", fresh=True, params={"least": 100})
    check(not other.reused and set(other) >= {"outputs", "models", "seconds"}, "fresh")
    check(not list(tmp_path.glob(".pipeline-*")), "no file is left")
    with pytest.raises(trajmill.Error, match="already exists|different"):
        select.run(least=200)
    check("length >= " in str(select) and str(select) == select.yaml(), "yaml")


def test_faults_have_places(trajmill, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        f"trajmill: 1\nsource: {HOPPER}\nstages:\n  - filtr: length > 1\n"
        "  - subsample: { fracton: 0.5 }\n  - materialise: { path: out }\n"
    )
    for call in [trajmill.run, trajmill.check, trajmill.plan]:
        with pytest.raises(trajmill.PipelineError) as raised:
            call(wrong)
        places = [fault.place.rsplit(":", 2)[1:] for fault in raised.value.faults]
        check(["4", "5"] in places or ["4", "5"] == places[0], f"{places}")
        check(raised.value.exit_code == 3 and raised.value.place.startswith(str(wrong)), "place")
        # The text is what the command prints.
        printed = oracle.trajmill("check", wrong, code=3).stderr.strip()
        check(str(raised.value).strip() == printed, f"{raised.value}\n{printed}")


def test_errors_are_those_of_the_command(trajmill, tmp_path):
    with pytest.raises(trajmill.UsageError, match="no column `nope`") as raised:
        trajmill.sql(HOPPER, "select nope from trajectories")
    check(any("`length`" in line for line in raised.value.help), "the columns are named")
    with pytest.raises(trajmill.UsageError, match="unrecognized subcommand"):
        trajmill.command("runn")
    stages = trajmill.stages
    pipeline = trajmill.pipeline(
        [stages.check(["count(*) > 1000000"]), stages.materialise(path="out")],
        source=HOPPER,
        folder=tmp_path,
    )
    with pytest.raises(trajmill.CheckError):
        pipeline.run()
    check("out" not in os.listdir(tmp_path), "nothing was published")


def test_a_dead_command_is_an_error(trajmill, tmp_path, monkeypatch):
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\necho lost >&2\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setenv("TRAJMILL_BINARY", str(fake))
    with pytest.raises(trajmill.Error, match="exit code -9") as raised:
        trajmill.sql(HOPPER, "select 1")
    check(raised.value.details == ["lost"], "what it printed")


def test_every_stage_is_a_function(trajmill):
    schema = json.loads(oracle.trajmill("schema").stdout)
    names = [key for e in schema["properties"]["stages"]["items"]["oneOf"] for key in e["properties"]]
    check(sorted(names) == dir(trajmill.stages), "the names")
    for name in names:
        stage = getattr(trajmill.stages, name)
        check(stage.__name__ == name and len(stage.__doc__) > 40, f"{name} is documented")
    stages = trajmill.stages
    wanted = {"hide_actions": {"keep": 0.1, "as": "x"}}
    check(stages.hide_actions(keep=0.1, as_="x") == wanted, "keywords of Python")
    with pytest.raises(TypeError, match="no option `kep`"):
        stages.hide_actions(kep=0.1)
    with pytest.raises(AttributeError, match="no stage `filtre`"):
        stages.filtre("x")


INTERRUPTED = """
import sys
sys.path.insert(0, {python!r})
import trajmill
try:
    trajmill.run({pipeline!r}, threads=1, progress=False)
except trajmill.Interrupted as stopped:
    print("stopped:", stopped)
    sys.exit(7)
"""


def test_ctrl_c_stops_a_run_in_good_order(trajmill, tmp_path):
    # Many copies of a column take long enough to be interrupted.
    derive = {f"c{i}": f"returns_to_go(reward, 0.{i + 10})" for i in range(80)}
    stages = [{"derive": derive}, {"materialise": {"path": "out", "shard_rows": 500}}]
    pipeline = oracle.pipeline(tmp_path / "p.yaml", HOPPER, stages)
    code = INTERRUPTED.format(python=str(PYTHON), pipeline=str(pipeline))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    started = time.monotonic()
    while not list(tmp_path.glob(".out.staging/*/journal.jsonl")):
        check(time.monotonic() - started < 60, "the run began")
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    check(process.returncode == 7 and "interrupted" in out, f"{process.returncode}: {out}")
    check(not (tmp_path / "out").exists(), "nothing is visible")
    report = trajmill.run(pipeline)
    check(report.outputs[0]["tasks_resumed"] >= 0 and (tmp_path / "out").exists(), "it resumes")


# ---- the module itself


@pytest.mark.parametrize("name", ["", "._commands", "._dataset", "._pipeline", "._result", ".stages"])
def test_examples_of_the_documentation(trajmill, name, monkeypatch):
    monkeypatch.chdir(oracle.REPOSITORY)
    module = importlib.import_module(f"trajmill{name}")
    done = doctest.testmod(module, extraglobs={"trajmill": trajmill})
    check(done.attempted > 1 and done.failed == 0, f"{name}: {done}")


@pytest.mark.model
def test_the_example_of_the_readme(trajmill, tmp_path, monkeypatch):
    readme = (oracle.REPOSITORY / "README.md").read_text()
    example = next(part for part in re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    for folder in ["pipelines", "data"]:
        shutil.copytree(oracle.REPOSITORY / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    check(len(names["best"]) == 10 and len(names["hopper"]) == 42, "what it finds")
    check(names["report"].datasets[0].path.name == "hopper-relabelled", "what it makes")


def test_importing_it_loads_neither_pandas_nor_torch():
    code = "import sys, trajmill; print([m for m in ('torch', 'pandas', 'datasets') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PYTHON)},
        capture_output=True,
        text=True,
    )
    check(done.stdout.strip() == "[]", f"{done.stdout}{done.stderr}")


@pytest.mark.reference("mypy")
def test_types_are_strict(tmp_path):
    config = oracle.REPOSITORY / "pyproject.toml"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", config, "-p", "trajmill"]
    done = subprocess.run(
        [*map(str, command), "--cache-dir", str(tmp_path)],
        cwd=oracle.REPOSITORY,
        capture_output=True,
        text=True,
    )
    check(done.returncode == 0, done.stdout + done.stderr)


# ---- commands for newcomers


SEEDS = [
    pytest.param(seed, marks=pytest.mark.video if seed.startswith("videofolder/") else ())
    for seed in sorted(
        path.relative_to(oracle.SEEDS).as_posix()
        for path in oracle.SEEDS.glob("*/*")
        if path.name != "README.md"
    )
]


@pytest.mark.parametrize("seed", SEEDS)
def test_init_writes_a_pipeline_that_passes_check(seed, tmp_path):
    pipeline = tmp_path / "first.yaml"
    done = oracle.trajmill("init", oracle.SEEDS / seed, cwd=tmp_path)
    pipeline.write_text(done.stdout)
    if seed == "lerobot/v30":
        # The seed has no videos. The error names the file and how to go on.
        missing = oracle.trajmill("check", pipeline, cwd=tmp_path, code=3).stderr
        oracle.says(missing, ["there is no video", "videos reference"], seed)
        return
    oracle.trajmill("check", pipeline, cwd=tmp_path)


@pytest.mark.model
def test_init_labels_where_actions_are_missing(tmp_path):
    half = oracle.run(tmp_path, [{"hide_actions": {"keep": 0.3, "seed": 1}}], HOPPER, name="half")
    text = oracle.trajmill("init", "half", cwd=tmp_path).stdout
    oracle.says(text, ["- train_idm:", "- label:", "float32[11]", "returns_to_go"], "init")
    (tmp_path / "first.yaml").write_text(text)
    oracle.trajmill("check", "first.yaml", cwd=tmp_path)
    short = text.replace("window: {", "steps: 20, window: {", 1)
    (tmp_path / "first.yaml").write_text(short)
    oracle.trajmill("run", "first.yaml", cwd=tmp_path)
    made = oracle.manifest(tmp_path / "out" / "half-prepared")["statistics"]
    hidden = oracle.manifest(half.path)["statistics"]
    check(made["proxy_actions"] == hidden["steps"] - hidden["recorded_actions"] > 0, f"{made}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_name_every_command(shell, tmp_path):
    script = oracle.trajmill("completions", shell).stdout
    for word in ["lineage", "--threads", "completions"]:
        check(word.removeprefix("--") in script, f"{shell}: {word}")
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        subprocess.run([shell, "-n", path], check=True)


def test_bash_completes_a_command(tmp_path):
    (tmp_path / "script").write_text(oracle.trajmill("completions", "bash").stdout)
    ask = 'source ./script; COMP_WORDS=(trajmill lin); COMP_CWORD=1; _trajmill trajmill lin ""; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    check(done.stdout.strip() == "lineage", f"{done.stdout}{done.stderr}")
