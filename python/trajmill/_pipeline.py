"""Pipelines that are made in Python."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trajmill import _commands
from trajmill._commands import Parameter
from trajmill._process import PathLike
from trajmill._report import Report


class Pipeline:
    """A pipeline: `str(pipeline)` is its YAML, `run()` runs it."""

    def __init__(
        self,
        stages: Sequence[Mapping[str, Any]],
        source: Any,
        params: Mapping[str, Parameter],
        folder: PathLike,
    ) -> None:
        self.content: dict[str, Any] = {
            "trajmill": 1,
            **({"params": dict(params)} if params else {}),
            "source": _plain(source),
            "stages": [_plain(stage) for stage in stages],
        }
        """The pipeline as plain values."""
        self.folder = pathlib.Path(folder)
        """The folder that relative paths start at."""

    def __str__(self) -> str:
        lines = ["trajmill: 1"]
        if "params" in self.content:
            lines.append(f"params: {_flow(self.content['params'])}")
        lines += [f"source: {_flow(self.content['source'])}", "stages:"]
        for stage in self.content["stages"]:
            for index, (name, options) in enumerate(stage.items()):
                lines.append(f"  {'-' if index == 0 else ' '} {name}: {_flow(options)}")
        return "\n".join(lines) + "\n"

    def __repr__(self) -> str:
        return f"<trajmill.Pipeline\n{self}>"

    def yaml(self) -> str:
        """Returns the pipeline file."""
        return str(self)

    def save(self, path: PathLike) -> None:
        """Writes the pipeline file. Relative paths in it start at its folder."""
        pathlib.Path(path).write_text(str(self))

    def run(self, **options: Any) -> Report:
        """Runs the pipeline, with the options and parameters of `trajmill.run`."""
        with self._file() as path:
            return _commands.run(path, **options)

    def check(self, **parameters: Parameter) -> None:
        """Raises `PipelineError` if the pipeline has faults."""
        with self._file() as path:
            _commands.check(path, **parameters)

    def plan(self, **parameters: Parameter) -> dict[str, Any]:
        """Returns what a run would read, keep and write."""
        with self._file() as path:
            return _commands.plan(path, **parameters)

    @contextlib.contextmanager
    def _file(self) -> Iterator[str]:
        # In the folder, because paths in a pipeline are relative to its file.
        descriptor, path = tempfile.mkstemp(".yaml", ".pipeline-", self.folder)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(str(self))
            yield os.path.relpath(path)
        finally:
            os.unlink(path)


def _plain(value: Any) -> Any:
    """The value with paths as texts and tuples as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(part) for part in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _flow(value: Any) -> str:
    # JSON is YAML.
    return json.dumps(value, ensure_ascii=False)


def pipeline(
    stages: Sequence[Mapping[str, Any]],
    *,
    source: Any,
    params: Mapping[str, Parameter] | None = None,
    folder: PathLike = ".",
) -> Pipeline:
    """Returns a pipeline of stages: plain dictionaries, or the functions of `trajmill.stages`.

    >>> import trajmill
    >>> from trajmill import stages
    >>> print(trajmill.pipeline(
    ...     [stages.filter("return > 200"), stages.materialise(path="out/good")],
    ...     source="data/hopper",
    ... ), end="")
    trajmill: 1
    source: "data/hopper"
    stages:
      - filter: "return > 200"
      - materialise: {"path": "out/good"}
    """
    return Pipeline(stages, source, params or {}, folder)
