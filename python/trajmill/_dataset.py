"""Datasets: trajectories as numpy arrays, tables as Arrow."""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trajmill._arrays import Array, to_numpy
from trajmill._commands import sql
from trajmill._errors import Error
from trajmill._process import PathLike, call

if TYPE_CHECKING:
    from trajmill.torch import Deltas, Windows

# What a row that holds only a final observation does not have.
_OF_STEPS = frozenset(
    ["action", "reward", "terminated", "truncated", "action_source", "action_std", "action_model"]
)
# Row groups that stay in memory for the trajectories that are read next.
_KEPT = 4


class Dataset:
    """A trajmill dataset, or the trajectories of one that `select` chose.

    >>> import trajmill
    >>> hopper = trajmill.open("data/hopper")
    >>> good = hopper.select("return > 1000")
    >>> len(good)
    42
    >>> first = good[0]
    >>> first["observation"].dtype, first["action"].shape[1]
    (dtype('float32'), 3)
    """

    def __init__(self, path: PathLike, trajectories: pa.Table, manifest: dict[str, Any]) -> None:
        self.path = pathlib.Path(path)
        """The directory."""
        self.manifest = manifest
        """The content of `dataset.json`."""
        self._table = trajectories
        self._groups = functools.lru_cache(maxsize=_KEPT)(self._read_group)
        self._files: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "trajectories": self._table, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Dataset.__init__(self, **state)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        return f"<trajmill.Dataset {self.path}: {len(self):,} trajectories>"

    def _repr_html_(self) -> str:
        from trajmill._report import html_table

        columns = [(c["name"], c["type"]) for c in self.manifest["columns"]]
        return f"<p><b>{self.path}</b>: {len(self):,} trajectories</p>" + html_table(
            ["column", "type"], columns
        )

    @property
    def trajectories(self) -> pa.Table:
        """The table of trajectories, one row each, in order."""
        return self._table

    @property
    def columns(self) -> list[str]:
        """The names of the columns of steps."""
        return [column["name"] for column in self.manifest["columns"]]

    @functools.cached_property
    def provenance(self) -> Any:
        """What the dataset was made from: the facts of `trajmill lineage --json`."""
        return call(
            ["lineage", "--json", "--", self.path], lambda stdout: json.loads(stdout.read())
        )

    def __getitem__(self, index: int) -> dict[str, Array]:
        """Returns the trajectory at `index` in this dataset: an array for each column.

        Actions, rewards and flags have a row for each step. All other columns have one row more if
        the observation after the last action is known. Nulls are masked (`numpy.ma`).
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"no trajectory {index}: the dataset has {len(self)}")
        rows = self._rows(index % len(self))
        final = bool(len(rows)) and bool(rows.column("is_final")[-1].as_py())
        arrays: dict[str, Array] = {}
        for name in rows.column_names:
            if name in ("trajectory_id", "is_final"):
                continue
            column = rows.column(name)
            if final and name in _OF_STEPS:
                column = column.slice(0, len(rows) - 1)
            arrays[name] = to_numpy(column)
        return arrays

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self[index] for index in range(len(self)))

    def select(self, condition: str) -> Dataset:
        """Returns the trajectories for which an SQL condition on their columns holds."""
        ids = sql(self.path, f"select trajectory_id from trajectories where {condition}")
        wanted = ids.to_arrow().column(0).combine_chunks()
        mask = pa.compute.is_in(self._table.column("trajectory_id"), value_set=wanted)
        return Dataset(self.path, self._table.filter(mask), self.manifest)

    def steps(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the steps of all trajectories of this dataset, in order."""
        names = list(columns) if columns is not None else None
        parts = [self._rows(index, names) for index in range(len(self))]
        if not parts:
            empty = self._file(0).schema_arrow.empty_table()
            return empty.select(names) if names is not None else empty
        return pa.concat_tables(parts)

    def to_arrow(self) -> pa.Table:
        """Returns the steps as a pyarrow table."""
        return self.steps()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.steps().__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> Any:
        """Returns the steps as a pandas data frame."""
        return self.steps().to_pandas()

    def to_hf(self) -> Any:
        """Returns the steps as a `datasets.Dataset` of Hugging Face."""
        import datasets

        return datasets.Dataset(datasets.table.InMemoryTable(self.steps()))

    def torch(
        self,
        columns: Deltas | None = None,
        /,
        *,
        pad: str = "repeat",
        missing: str = "error",
        device: Any = None,
        cache: PathLike | None = None,
        **named: int | Sequence[int],
    ) -> Windows:
        """Returns a map-style `torch.utils.data.Dataset` of windows, one for each step.

        A column is given with the distances from the step that its window has, in the manner of
        LeRobot's `delta_timestamps`; columns that are no Python names go into a dictionary:

            ds.torch(observation=[-1, 0], action=range(16))
            ds.torch({"infos/qpos": 0}, action=0)

        `trajmill.torch.Windows` describes the other options.
        """
        from trajmill.torch import Windows

        return Windows(
            self,
            {**(columns or {}), **named},
            pad=pad,
            missing=missing,
            device=device,
            cache=cache,
        )

    def _file(self, shard: int) -> Any:
        if shard not in self._files:
            steps = self.manifest["shards"][shard]["steps"]["path"]
            self._files[shard] = pq.ParquetFile(self.path / steps, memory_map=True)
        return self._files[shard]

    def _read_group(self, shard: int, group: int) -> tuple[pa.Table, int]:
        """A row group and its first row in the shard."""
        file = self._file(shard)
        first = sum(file.metadata.row_group(before).num_rows for before in range(group))
        return file.read_row_group(group, use_threads=False), first

    def _rows(self, index: int, columns: list[str] | None = None) -> pa.Table:
        def value(name: str) -> int:
            return int(self._table.column(name)[index].as_py())

        shard, first, rows = value("shard"), value("first_row"), value("rows")
        starts = self._starts(shard)
        # A row group never cuts a trajectory.
        group = int(np.searchsorted(starts, first, side="right")) - 1
        table, offset = self._groups(shard, group)
        if columns is not None:
            table = table.select(columns)
        return table.slice(first - offset, rows)

    def _starts(self, shard: int) -> Array:
        metadata = self._file(shard).metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return np.cumsum([0, *sizes[:-1]])


def open(path: PathLike) -> Dataset:
    """Opens a trajmill dataset. `import_dataset` makes one of a dataset in another format."""
    folder = pathlib.Path(path)
    try:
        manifest = json.loads((folder / "dataset.json").read_text())
    except OSError:
        raise Error(
            f"{os.fspath(path)} is not a trajmill dataset: it has no readable dataset.json",
            help=["`trajmill.import_dataset(source, path)` imports a dataset of another format"],
        ) from None
    tables = [
        pq.read_table(folder / shard["trajectories"]["path"]) for shard in manifest["shards"]
    ]
    return Dataset(folder, pa.concat_tables(tables), manifest)
