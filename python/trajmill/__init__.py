"""Drive trajmill from Python: run pipelines, query datasets, load trajectories and windows.

The module starts the `trajmill` command, which comes with it, and reads its results as Arrow. It
does nothing itself that the command does.

>>> import trajmill
>>> report = trajmill.run("pipelines/quickstart.yaml", kept=0.2, seed=3)  # doctest: +SKIP
>>> hopper = trajmill.open("data/hopper")
>>> len(hopper)
200
>>> hopper[0]["observation"].shape
(21, 11)
>>> trajmill.sql("data/hopper", "select count(*) as n from steps").to_pylist()
[{'n': 39191}]
"""

from trajmill import stages
from trajmill._dataset import Dataset, open
from trajmill._errors import (
    CheckError,
    Error,
    Fault,
    Interrupted,
    PipelineError,
    UsageError,
)
from trajmill._commands import check, command, export, import_dataset, plan, run, sql
from trajmill._pipeline import Pipeline, pipeline
from trajmill._process import binary, version
from trajmill._report import Report
from trajmill._result import Result

__all__ = [
    "CheckError",
    "Dataset",
    "Error",
    "Fault",
    "Interrupted",
    "Pipeline",
    "PipelineError",
    "Report",
    "Result",
    "UsageError",
    "binary",
    "check",
    "command",
    "export",
    "import_dataset",
    "open",
    "pipeline",
    "plan",
    "run",
    "sql",
    "stages",
    "version",
]
