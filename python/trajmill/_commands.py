"""The commands as functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from trajmill._process import PathLike, call
from trajmill._report import Report
from trajmill._result import Result

Parameter = str | int | float | bool


def _parameters(params: Mapping[str, Parameter]) -> list[str]:
    def text(value: Parameter) -> str:
        return json.dumps(value) if isinstance(value, (bool, int, float)) else value

    return [part for name, value in params.items() for part in ("--set", f"{name}={text(value)}")]


def _json(stdout: IO[bytes]) -> Any:
    text = stdout.read()
    return json.loads(text) if text else None


def run(
    pipeline: PathLike,
    *,
    threads: int | None = None,
    memory: str | None = None,
    device: str = "auto",
    tf32: bool = False,
    fresh: bool = False,
    verify: bool = False,
    progress: bool | None = None,
    params: Mapping[str, Parameter] | None = None,
    **parameters: Parameter,
) -> Report:
    """Runs a pipeline file, or resumes it after an interruption.

    Keywords that are not options override the parameters of the pipeline, as do `params`, which may
    have the names of options. `progress` shows or hides the progress; by default it is shown in a
    terminal and in a notebook.

    >>> trajmill.run("pipelines/quickstart.yaml", kept=0.2, seed=3)  # doctest: +SKIP
    <trajmill.Report: out/hopper-relabelled, 0.41 s>

    Raises `PipelineError` if the file is wrong, `CheckError` if a check fails, and `Interrupted`
    after Ctrl-C; the same call then resumes the run.
    """
    arguments: list[PathLike] = ["run", "--json", "--device", device]
    arguments += ["--threads", str(threads)] if threads is not None else []
    arguments += ["--memory", memory] if memory is not None else []
    arguments += ["--tf32"] if tf32 else []
    arguments += ["--fresh"] if fresh else []
    arguments += ["--verify"] if verify else []
    arguments += _parameters({**(params or {}), **parameters})
    notes: list[str] = []
    facts = call([*arguments, "--", pipeline], _json, progress=progress, notes=notes.extend)
    return Report(facts, notes)


def check(pipeline: PathLike, **parameters: Parameter) -> None:
    """Raises `PipelineError` if a pipeline file has faults. Reads no steps."""
    call(["check", *_parameters(parameters), "--", pipeline], lambda stdout: stdout.read())


def plan(pipeline: PathLike, **parameters: Parameter) -> dict[str, Any]:
    """Returns what a run would read, keep and write: the facts of `trajmill plan --json`."""
    facts: dict[str, Any] = call(
        ["plan", "--json", *_parameters(parameters), "--", pipeline], _json
    )
    return facts


def sql(
    datasets: PathLike | Mapping[str, PathLike] | Sequence[PathLike],
    statement: str,
    *,
    threads: int | None = None,
    memory: str | None = None,
    verify: bool = True,
) -> Result:
    """Runs an SQL statement over a dataset, or over several by their names.

    >>> trajmill.sql("data/hopper", "select max(return) as best from trajectories").to_pylist()
    [{'best': 2274.706678032875}]
    """
    arguments: list[PathLike] = ["sql", "--format", "arrow", "--command", statement]
    arguments += ["--threads", str(threads)] if threads is not None else []
    arguments += ["--memory", memory] if memory is not None else []
    arguments += [] if verify else ["--no-verify"]
    if isinstance(datasets, Mapping):
        paths: list[PathLike] = [f"{name}={_text(path)}" for name, path in datasets.items()]
    elif isinstance(datasets, Sequence) and not isinstance(datasets, str):
        paths = list(datasets)
    else:
        paths = [datasets]
    return Result(call([*arguments, "--", *paths], _table))


def _text(path: PathLike) -> str:
    import os

    return os.fspath(path)


def _table(stdout: IO[bytes]) -> pa.Table:
    return pa.ipc.open_stream(stdout).read_all()


def command(*arguments: PathLike, progress: bool | None = None) -> str:
    """Runs any command line of trajmill and returns its standard output.

    >>> trajmill.command("info", "data/hopper").splitlines()[1][:17]
    'trajectories  200'
    """
    return call(arguments, lambda stdout: stdout.read().decode(), progress=progress)


def import_dataset(
    source: PathLike, path: PathLike, *options: str, progress: bool | None = None
) -> Any:
    """Imports a dataset of another format into `path`, and returns the account of its rows.

    `options` are those of `trajmill import`, such as `"--from", "d4rl"`.
    """
    return call(["import", "--json", *options, "--", source, path], _json, progress=progress)


def export(
    dataset: PathLike, path: PathLike, to: str, *options: str, progress: bool | None = None
) -> None:
    """Exports a dataset in the format `to`, such as `lerobot` or `d4rl`, to `path`.

    `options` are those of `trajmill export`.
    """
    call(
        ["export", "--to", to, *options, "--", dataset, path],
        lambda stdout: stdout.read(),
        progress=progress,
    )
